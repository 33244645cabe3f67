//! What the tests of this folder do with a cluster: files in, files out, damage.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use harness::{Cluster, Ran, cluster::run, node::program, tree};
use tempfile::TempDir;

/// Files by their path in the store.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What a command needs that runs while nodes come and go.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    dir: PathBuf,
    profile: PathBuf,
}

impl Client {
    /// The first client of `cluster`.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self { dir: cluster.dir().to_owned(), profile: cluster.profile() }
    }

    /// Uploads `bytes` as `path`.
    pub(crate) fn try_put(&self, path: &str, bytes: &[u8]) -> Ran {
        let local = local_name(&self.dir, path);
        fs::write(&local, bytes).unwrap();
        let mut command = Command::new(program("dfs"));
        command.env("XDG_CONFIG_HOME", self.dir.join("config")).arg("--profile").arg(&self.profile);
        let ran = run(command.arg("upload").arg(&local).arg(path));
        fs::remove_file(local).unwrap();
        ran
    }
}

/// Uploads `bytes` as `path`.
pub(crate) fn try_put(cluster: &Cluster, path: &str, bytes: &[u8]) -> Ran {
    Client::of(cluster).try_put(path, bytes)
}

/// Uploads `bytes` as `path`; fails the test unless that works.
pub(crate) fn put(cluster: &Cluster, path: &str, bytes: &[u8]) {
    try_put(cluster, path, bytes).ok();
}

/// Uploads files whose bytes `seed` decides: one of each interesting length, below `/name-…`.
pub(crate) fn put_some(cluster: &Cluster, name: &str, seed: u64) -> Files {
    let lens = [0, 1, 4096, 4097, 70_000, (4 << 20) + 5, 9 << 20];
    let mut files = Files::new();
    for (index, len) in lens.into_iter().enumerate() {
        files.insert(format!("/{name}-{index}"), tree::bytes(seed + index as u64, len));
    }
    for (path, bytes) in &files {
        put(cluster, path, bytes);
    }
    files
}

/// The bytes of `path`, downloaded.
pub(crate) fn try_get(cluster: &Cluster, path: &str) -> Result<Vec<u8>, Ran> {
    let local = local_name(cluster.dir(), path).with_extension("back");
    let ran = run(cluster.command().arg("download").arg(path).arg(&local));
    if ran.status != 0 {
        assert!(!local.exists(), "a download that failed leaves nothing under the final name");
        return Err(ran);
    }
    let bytes = fs::read(&local).unwrap();
    fs::remove_file(local).unwrap();
    Ok(bytes)
}

/// Fails the test unless every file, all of the root directory, comes back byte for byte.
pub(crate) fn assert_all_there(cluster: &Cluster, files: &Files) {
    let place = TempDir::new_in(cluster.dir()).unwrap();
    run(cluster.command().arg("download").args(files.keys()).arg(place.path())).ok();
    for (path, bytes) in files {
        let found = fs::read(place.path().join(path.trim_start_matches('/'))).unwrap();
        assert!(found == *bytes, "{path} has other bytes than were stored");
    }
}

/// A name of its own for each path of the store and each thread that asks.
fn local_name(dir: &Path, path: &str) -> PathBuf {
    dir.join(format!("local{}", path.replace('/', "_")))
}

/// Takes away all chunks of a node, as if its disk of chunks were new.
pub(crate) fn lose_chunks(cluster: &mut Cluster, index: usize) {
    let node = cluster.nodes.get_mut(index).unwrap();
    node.kill();
    fs::remove_dir_all(node.data.join("chunks")).unwrap();
    fs::remove_dir_all(node.data.join("index")).unwrap();
    node.start();
}

/// Makes `index` the only node that can have any chunk: of the others one is killed, one loses all its chunks.
pub(crate) fn leave_chunks_only_on(cluster: &mut Cluster, index: usize) {
    let others: Vec<_> = (0..cluster.nodes.len()).filter(|other| *other != index).collect();
    let [killed, emptied] = others.as_slice() else { panic!("three nodes are wanted") };
    cluster.nodes.get_mut(*killed).unwrap().kill();
    lose_chunks(cluster, *emptied);
}

/// What a command said in the end; what a transfer says on the way, here where there is no terminal, left out.
pub(crate) fn last_word(ran: Ran) -> Ran {
    let told = |line: &&str| !line.starts_with("dfs: downloaded ") && !line.starts_with("dfs: uploaded ");
    let stderr = ran.stderr.lines().filter(told).collect::<Vec<_>>().join("\n");
    Ran { stderr, ..ran }
}

/// Places in the segments of a node where `chunk` begins, as files and offsets.
pub(crate) fn find_in_segments(data: &Path, chunk: &[u8]) -> Vec<(PathBuf, u64)> {
    let beginning = &chunk[..PAYLOAD_ALIGN.min(chunk.len())];
    let mut found = Vec::new();
    for entry in fs::read_dir(data.join("chunks")).unwrap() {
        let path = entry.unwrap().path();
        // Segments have their whole length from the first day: what the tests store stands near their beginning.
        let mut content = Vec::new();
        fs::File::open(&path).unwrap().take(SEARCHED_MAX).read_to_end(&mut content).unwrap();
        let starts = (0..content.len()).step_by(PAYLOAD_ALIGN).filter(|at| content[*at..].starts_with(beginning));
        found.extend(starts.map(|at| (path.clone(), at as u64)));
    }
    found
}

/// Payloads of records begin at multiples of this.
const PAYLOAD_ALIGN: usize = 64;

/// More of a segment is not searched.
const SEARCHED_MAX: u64 = 64 << 20;

/// Whether the bytes at a place are those of `chunk`.
pub(crate) fn is_sound(path: &Path, offset: u64, chunk: &[u8]) -> bool {
    let mut found = vec![0; chunk.len()];
    fs::File::open(path).unwrap().read_exact_at(&mut found, offset).unwrap();
    found == chunk
}

/// Turns over all bits of the byte at `offset`.
pub(crate) fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[!byte[0]], offset).unwrap();
}
