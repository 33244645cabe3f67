//! The Rust API in one page: connects with a profile, stores bytes, reads them back, lists, reads a range, removes.
//!
//! ```sh
//! cargo run -p fuse-client --example roundtrip -- PROFILE_FOLDER [DIRECTORY]
//! ```

use std::{error::Error, path::PathBuf};

use fuse_client::{Caller, Cluster, ClusterConfig, FilePath, Namespace, Profile, download, namespace::Follow, upload};
use wire::namespace::{ListWant, Mode};

/// Larger than a chunk, so that the file has several.
const LEN: usize = 9 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let profile = arguments.next().map(PathBuf::from).ok_or("usage: roundtrip PROFILE_FOLDER [DIRECTORY]")?;
    let directory = arguments.next().unwrap_or_else(|| "/roundtrip".into());
    let directory = FilePath::parse(directory.as_encoded_bytes())?;

    let cluster = Cluster::connect(&Profile::load(&profile)?, ClusterConfig::default()).await?;
    let namespace = Namespace::new(cluster, Caller::ROOT);
    let outcome = roundtrip(&namespace, &directory).await;
    // Also after a failure: the session should not be waited for.
    namespace.finish().await;
    outcome
}

async fn roundtrip(namespace: &Namespace, directory: &FilePath) -> Result<(), Box<dyn Error>> {
    namespace.create_dir_all(directory, Mode::new(0o755), Mode::new(0o755)).await?;
    let path = directory.join("bytes".to_owned().into_bytes().try_into()?);

    // Anything that can be read asynchronously can be uploaded. When this returns, the bytes are on stable storage on
    // the write quorum of their replicas, and the file is there, whole.
    let bytes: Vec<u8> = (0..LEN).map(|index| ((index * index) >> 7) as u8).collect();
    let attr = upload::upload(namespace, &path, bytes.as_slice(), &upload::UploadOptions::default()).await?;
    say(format_args!("stored {} bytes as inode {}", attr.size, attr.inode));

    // Reading is verified: what comes out is what went in, or an error.
    let mut file = download::open(namespace, &path).await?;
    let mut read = Vec::with_capacity(LEN);
    while let Some(part) = file.next().await? {
        read.extend_from_slice(&part);
    }
    if read != bytes {
        return Err("the bytes differ".into());
    }
    let range = namespace.read_range(attr.inode, 5 << 20, 100).await?;
    if bytes.get(5 << 20..(5 << 20) + 100) != Some(&range[..]) {
        return Err("the range differs".into());
    }
    say(format_args!("read them back, all and a part"));

    let mut listing = namespace.list(directory, ListWant::Attrs).await?;
    while let Some(entries) = listing.next_page().await? {
        for entry in entries {
            say(format_args!("{directory}/{}: inode {}", entry.name, entry.inode));
        }
    }
    namespace.remove_tree(directory, |news| say(format_args!("{news:?}"))).await?;
    match namespace.lookup(directory, Follow::No).await? {
        Some(_) => Err("it is still there".into()),
        None => Ok(()),
    }
}

#[expect(clippy::print_stdout, reason = "an example talks to the person who runs it")]
fn say(line: std::fmt::Arguments<'_>) {
    println!("{line}");
}
