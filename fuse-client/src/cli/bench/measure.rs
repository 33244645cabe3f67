//! The story of a measurement: a large file, small files, one change after another.

use std::{future::Future, sync::Arc, time::Duration};

use fuse_client::{
    FilePath, Namespace, NamespaceError,
    download::{self, ReadError},
    transfer::{Outcome, Progress},
    upload::{self, UploadOptions},
};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use wire::namespace::{
    Content, InlineData, Inode, ListWant, Mode, Name, NewContent, NewGroup, NewInode, NewKind, Op, Replace,
};

use super::{
    BenchArguments, SMALL_LEN,
    noise::{Noise, NoiseFile},
    report::{Latency, Rate, Report},
};
use crate::cli::{
    failure::{Failure, Line},
    invocation::{Invocation, cannot},
    progress::{Meter, Show},
    text::quote::quoted,
};

/// Small files on their way at once: as many as an upload of a tree keeps.
const FILES_IN_FLIGHT: usize = 2048;

/// Changes whose latency is taken: the slowest of a hundred is one of them.
const CHANGES: u32 = 100;

/// Measures in `dir`, which is there and empty.
pub(super) async fn measure(
    invocation: &Invocation,
    files: &Namespace,
    dir: &FilePath,
    arguments: &BenchArguments,
) -> Result<Report, Failure> {
    let (size, count) = (arguments.size.as_u64(), arguments.files);
    let (large, small, changed) = (under(dir, "large"), under(dir, "small"), under(dir, "changed"));
    let meter = |verb, files, bytes| {
        let meter = Meter::new(verb, Show::Progress, invocation.screen);
        meter.found(files, bytes);
        meter
    };
    let small_bytes = count * SMALL_LEN as u64;
    let made = async |path| {
        let made = files.create_dir(path, Mode::new(0o700)).await;
        made.map(|attr| attr.inode).map_err(|error| cannot("mkdir", path, &error).failed())
    };

    let written = meter("written", 1, size);
    let write = timed(&written, write_large(files, &large, size, &written)).await?;
    let came = meter("read", 1, size);
    let read = timed(&came, read_large(files, &large, size, &came)).await?;

    let dir_of_small = made(&small).await?;
    let written = meter("written", count, small_bytes);
    let write_small = timed(&written, create_files(files, &small, dir_of_small, count, &written)).await?;
    let came = meter("read", count, small_bytes);
    let read_small = timed(&came, read_files(files, &small, count, &came)).await?;
    let listed = Meter::new("listed", Show::Nothing, invocation.screen);
    let list = timed(&listed, list_files(files, &small, count)).await?;

    let dir_of_changed = made(&changed).await?;
    let change = one_after_another(files, &changed, dir_of_changed).await?;
    Ok(Report {
        write: Rate { count: size, time: write },
        read: Rate { count: size, time: read },
        write_small: Rate { count, time: write_small },
        read_small: Rate { count, time: read_small },
        list: Rate { count, time: list },
        change,
    })
}

fn under(dir: &FilePath, name: impl Into<Vec<u8>>) -> FilePath {
    dir.join(Name::new(name).expect("short names without a slash"))
}

/// How long it took.
async fn timed(meter: &Meter, work: impl Future<Output = Result<(), Failure>>) -> Result<Duration, Failure> {
    let start = Instant::now();
    meter.during(work).await?;
    Ok(start.elapsed())
}

async fn write_large(files: &Namespace, path: &FilePath, size: u64, meter: &Arc<Meter>) -> Result<(), Failure> {
    let source = NoiseFile::new(Noise::new(rand::random()), size, Arc::clone(meter));
    let stored = upload::upload(files, path, source, &UploadOptions::default()).await;
    stored.map_err(|error| Line::new(format!("cannot write {}", quoted(&path.to_bytes()))).because(&error).failed())?;
    Ok(())
}

async fn read_large(files: &Namespace, path: &FilePath, size: u64, meter: &Meter) -> Result<(), Failure> {
    let failed = |error: NamespaceError| cannot("read", path, &error).failed();
    let mut reader = download::open(files, path).await.map_err(failed)?;
    let mut len = 0;
    while let Some(bytes) = reader.next().await.map_err(failed)? {
        len += bytes.len() as u64;
        meter.advanced(bytes.len() as u64);
    }
    is_whole(path, len, size)
}

/// In batches, as an upload of a tree does.
async fn create_files(
    files: &Namespace,
    path: &FilePath,
    dir: Inode,
    count: u64,
    meter: &Meter,
) -> Result<(), Failure> {
    let seed: u64 = rand::random();
    let one = |number: u64| async move {
        let mut bytes = vec![0; SMALL_LEN];
        Noise::new(seed ^ number.rotate_left(32)).fill(&mut bytes);
        create(files, (path, dir), format!("{number}"), NewContent::Inline(InlineData::new(bytes))).await?;
        meter.advanced(SMALL_LEN as u64);
        meter.finished("", Outcome::Transferred);
        Ok::<(), NamespaceError>(())
    };
    let all = stream::iter(0..count).map(one).buffer_unordered(FILES_IN_FLIGHT).try_collect::<()>();
    all.await.map_err(|error| cannot("write into", path, &error).failed())
}

/// A new file in a directory that is there.
async fn create(
    files: &Namespace,
    (path, dir): (&FilePath, Inode),
    name: String,
    content: NewContent,
) -> Result<(), NamespaceError> {
    let failed = |error| NamespaceError::change(path, error);
    let session = files.session().await?;
    let caller = files.caller();
    let new = NewInode {
        inode: session.new_inode().await.map_err(failed)?,
        kind: NewKind::File(content),
        mode: Mode::new(0o600),
        uid: caller.uid,
        gid: NewGroup::Caller(caller.gid),
        times: None,
        xattrs: Vec::new(),
    };
    let name = Name::new(name).expect("a number");
    session.change(Op::Create { dir, name, new, replace: Replace::No }).await.map(drop).map_err(failed)
}

/// Page by page with what is in them, as a download of a tree does.
async fn read_files(files: &Namespace, path: &FilePath, count: u64, meter: &Meter) -> Result<(), Failure> {
    let failed = |error: NamespaceError| cannot("read", path, &error).failed();
    let mut listing = files.list(path, ListWant::Contents).await.map_err(failed)?;
    let mut read = 0;
    while let Some(page) = listing.next_page().await.map_err(failed)? {
        for entry in page {
            let sound = matches!(&entry.content, Some(Content::Inline(data)) if data.is_sound());
            if !sound {
                return Err(failed(NamespaceError::Read { path: path.join(entry.name), source: ReadError::Unsound }));
            }
            read += 1;
            meter.advanced(SMALL_LEN as u64);
            meter.finished("", Outcome::Transferred);
        }
    }
    is_whole(path, read, count)
}

/// With attributes, as `dfs ls -l` does.
async fn list_files(files: &Namespace, path: &FilePath, count: u64) -> Result<(), Failure> {
    let failed = |error: NamespaceError| cannot("list", path, &error).failed();
    let mut listing = files.list(path, ListWant::Attrs).await.map_err(failed)?;
    let mut listed = 0;
    while let Some(page) = listing.next_page().await.map_err(failed)? {
        listed += page.len() as u64;
    }
    is_whole(path, listed, count)
}

/// How long each of a hundred changes takes that waits for the one before.
async fn one_after_another(files: &Namespace, path: &FilePath, dir: Inode) -> Result<Latency, Failure> {
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let start = Instant::now();
        let created = create(files, (path, dir), format!("{number}"), NewContent::Empty).await;
        created.map_err(|error| cannot("write into", path, &error).failed())?;
        times.push(start.elapsed());
    }
    Ok(Latency::of(times))
}

/// A rate is told of what was there in full only.
fn is_whole(path: &FilePath, found: u64, wanted: u64) -> Result<(), Failure> {
    if found == wanted {
        return Ok(());
    }
    let what = format!("cannot measure with {}", quoted(&path.to_bytes()));
    Err(Line::new(what).why(format!("somebody changed it: {found} of {wanted} came back")).failed())
}
