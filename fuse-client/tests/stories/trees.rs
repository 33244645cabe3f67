//! Trees: up, down, again.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use fuse_client::{
    FilePath, Namespace,
    namespace::TreeNews,
    transfer::{
        self, DownloadItem, Equality, Existing, Progress, Recurse, Summary, TransferError, TransferOptions, UploadItem,
    },
};
use parking_lot::Mutex;

use crate::{
    fake::FakeCluster,
    files::{bytes, path},
};

/// Collects the failures.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) failures: Mutex<Vec<String>>,
    advanced: Mutex<u64>,
    found: Mutex<u64>,
}

impl Progress for Watch {
    fn failed(&self, error: &TransferError) {
        self.failures.lock().push(error.to_string());
    }
    fn advanced(&self, bytes: u64) {
        *self.advanced.lock() += bytes;
    }
    fn found(&self, _files: u64, bytes: u64) {
        *self.found.lock() += bytes;
    }
}

pub(crate) fn options() -> TransferOptions {
    TransferOptions { recurse: Recurse::Yes, ..TransferOptions::default() }
}

pub(crate) async fn up(
    namespace: &Namespace,
    source: &Path,
    target: &str,
    options: &TransferOptions,
) -> (Summary, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    let items = vec![UploadItem { source: source.into(), target: path(target), existing: Existing::Dressed }];
    let summary = transfer::upload(namespace, items, options, Arc::clone(&watch) as Arc<dyn Progress>).await;
    if summary.failed == 0 {
        assert_eq!(*watch.found.lock(), *watch.advanced.lock(), "progress ends where it said it would");
    }
    (summary, watch)
}

pub(crate) async fn down(
    namespace: &Namespace,
    source: &str,
    target: &Path,
    options: &TransferOptions,
) -> (Summary, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    let items = vec![DownloadItem { source: path(source), target: target.into(), existing: Existing::Dressed }];
    let summary = transfer::download(namespace, items, options, Arc::clone(&watch) as Arc<dyn Progress>).await;
    (summary, watch)
}

/// Everything about a tree that should survive, by path.
pub(crate) fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(here) = pending.pop() {
        let meta = fs::symlink_metadata(&here).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_file() {
            blake3::hash(&fs::read(&here).unwrap()).to_string()
        } else if kind.is_symlink() {
            fs::read_link(&here).unwrap().display().to_string()
        } else {
            format!("{kind:?}")
        };
        let links = if kind.is_file() { meta.nlink() } else { 0 };
        let line = format!(
            "{:o} {} {} {}.{:09} {links} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
        );
        if kind.is_dir() {
            pending.extend(fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(here.strip_prefix(root).unwrap().to_owned(), line);
    }
    found
}

fn plant(root: &Path) {
    let write = |name: &str, content: &[u8]| {
        let at = root.join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    };
    for number in 0..300 {
        write(&format!("many/file{number}"), &bytes(number * 13, number as u64 + 1));
    }
    write("deep/a/b/c/d/e/leaf", b"leaf");
    write("large", &bytes(9 << 20, 77));
    write("middle", &bytes(50_000, 78));
    write("empty", b"");
    write("mode/secret", b"s");
    fs::set_permissions(root.join("mode/secret"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::create_dir(root.join("nothing")).unwrap();
    symlink("../elsewhere", root.join("dangling")).unwrap();
    fs::hard_link(root.join("middle"), root.join("many/hard")).unwrap();
    let odd: PathBuf = [root.as_os_str(), std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe odd")].iter().collect();
    fs::write(odd, b"odd").unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"end", 64 << 20).unwrap();
    sparse.set_len(100 << 20).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_survives_the_round_trip_and_is_skipped_the_second_time() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let place = tempfile::tempdir().unwrap();
    let (source, copy) = (place.path().join("source"), place.path().join("copy"));
    plant(&source);
    let (first, watch) = up(&namespace, &source, "/tree", &options()).await;
    assert_eq!((first.failed, first.skipped), (0, 0), "{:?}", watch.failures.lock());
    cluster.assert_durable();
    let (came, watch) = down(&namespace, "/tree", &copy, &options()).await;
    assert_eq!((came.failed, came.files), (0, first.files), "{:?}", watch.failures.lock());
    assert_eq!(look(&copy), look(&source));
    assert!(fs::metadata(copy.join("sparse")).unwrap().blocks() < 2048, "holes stay holes");
    let ops = cluster.state.lock().ops;
    let (again, _) = up(&namespace, &source, "/tree", &options()).await;
    assert_eq!((again.files, again.failed, again.skipped), (0, 0, first.files));
    assert!(cluster.state.lock().ops - ops <= again.directories, "only directories' times are set");
    let (again, _) = down(&namespace, "/tree", &copy, &options()).await;
    assert_eq!((again.files, again.failed, again.skipped), (0, 0, first.files));
    assert_eq!(look(&copy), look(&source));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_is_transferred_again_and_checksums_see_what_times_do_not() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let place = tempfile::tempdir().unwrap();
    let (source, copy) = (place.path().join("source"), place.path().join("copy"));
    plant(&source);
    up(&namespace, &source, "/tree", &options()).await;
    fs::write(source.join("empty"), b"not any more").unwrap();
    let middle = fs::File::options().write(true).open(source.join("large")).unwrap();
    let times = fs::metadata(source.join("large")).unwrap().modified().unwrap();
    middle.write_all_at(b"changed in place", 5 << 20).unwrap();
    middle.set_modified(times).unwrap();
    let (plain, _) = up(&namespace, &source, "/tree", &options()).await;
    assert_eq!((plain.files, plain.failed), (1, 0));
    let checksum = TransferOptions { equality: Equality::Checksum, ..options() };
    let (checked, _) = up(&namespace, &source, "/tree", &checksum).await;
    assert_eq!((checked.files, checked.failed), (1, 0));
    let (_, watch) = down(&namespace, "/tree", &copy, &options()).await;
    assert_eq!(*watch.failures.lock(), [""; 0]);
    assert_eq!(look(&copy), look(&source));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_file_is_told_in_one_line_and_the_others_arrive() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir(&source).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(source.join(name), name).unwrap();
    }
    namespace.create_dir(&path("/tree"), wire::namespace::Mode::new(0o755)).await.unwrap();
    namespace.create_dir(&path("/tree/b"), wire::namespace::Mode::new(0o755)).await.unwrap();
    let (summary, watch) = up(&namespace, &source, "/tree", &options()).await;
    assert_eq!((summary.files, summary.failed), (2, 1));
    let failures = watch.failures.lock().clone();
    assert!(failures[0].contains("/tree/b") && failures[0].lines().count() == 1, "{failures:?}");
    let items =
        vec![UploadItem { source: place.path().join("gone"), target: path("/gone"), existing: Existing::Dressed }];
    let watch = Arc::new(Watch::default());
    let summary = transfer::upload(&namespace, items, &options(), Arc::clone(&watch) as Arc<dyn Progress>).await;
    assert_eq!(summary.failed, 1);
    assert!(watch.failures.lock()[0].contains("gone: reading it: No such file"), "{:?}", watch.failures.lock());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_download_leaves_nothing_half_written() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let place = tempfile::tempdir().unwrap();
    let (source, copy) = (place.path().join("source"), place.path().join("copy"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), bytes(30 << 20, 5)).unwrap();
    up(&namespace, &source, "/tree", &options()).await;
    for store in &mut cluster.state.lock().stores {
        store.silent = true;
    }
    let stopped = tokio::time::timeout(std::time::Duration::from_millis(300), async {
        down(&namespace, "/tree", &copy, &options()).await
    });
    assert!(stopped.await.is_err());
    for store in &mut cluster.state.lock().stores {
        store.silent = false;
    }
    // Blocking tasks that were under way end soon; the file goes with the last of them.
    let namespace = cluster.namespace().await;
    let (summary, watch) = down(&namespace, "/tree", &copy, &options()).await;
    assert_eq!(summary.failed, 0, "{:?}", watch.failures.lock());
    let names: Vec<_> = fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["large"], "no temporary file is left");
    assert_eq!(look(&copy), look(&source));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_copied_and_removed_within_the_store() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let place = tempfile::tempdir().unwrap();
    let (source, copy) = (place.path().join("source"), place.path().join("copy"));
    plant(&source);
    fs::remove_file(source.join("many/hard")).unwrap();
    up(&namespace, &source, "/tree", &options()).await;
    let (mut copied, mut removed) = (0, 0);
    let count = |done: &mut u32, news| match news {
        TreeNews::Done => *done += 1,
        TreeNews::Failed { path, error } => panic!("{path}: {error}"),
    };
    namespace.copy_tree(&path("/tree"), &path("/twin"), |news| count(&mut copied, news)).await.unwrap();
    namespace.remove_tree(&path("/tree"), |news| count(&mut removed, news)).await.unwrap();
    assert_eq!(removed, copied);
    assert!(
        namespace
            .lookup(&FilePath::parse(b"/tree").unwrap(), fuse_client::namespace::Follow::No)
            .await
            .unwrap()
            .is_none()
    );
    down(&namespace, "/twin", &copy, &options()).await;
    assert_eq!(look(&copy), look(&source));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_files_travel_in_few_batches() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let place = tempfile::tempdir().unwrap();
    let (source, copy) = (place.path().join("source"), place.path().join("copy"));
    for dir in 0..10 {
        fs::create_dir_all(source.join(format!("d{dir}"))).unwrap();
        for file in 0..200 {
            fs::write(source.join(format!("d{dir}/f{file}")), bytes(4096, dir * 1000 + file)).unwrap();
        }
    }
    let (summary, _) = up(&namespace, &source, "/tree", &options()).await;
    assert_eq!((summary.files, summary.failed), (2000, 0));
    let batches = cluster.state.lock().batches;
    assert!(batches <= 40, "{batches} batches for 2,000 files");
    let (summary, _) = down(&namespace, "/tree", &copy, &options()).await;
    assert_eq!((summary.files, summary.failed), (2000, 0));
    assert_eq!(look(&copy), look(&source));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_more_extents_than_one_commit_holds_gets_its_name_last() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let place = tempfile::tempdir().unwrap();
    let (source, copy) = (place.path().join("islands"), place.path().join("copy"));
    let file = fs::File::create(&source).unwrap();
    for island in 0..1100u64 {
        file.write_all_at(&island.to_le_bytes(), island * (64 << 10)).unwrap();
    }
    // Stale once in the middle: what was put is put again.
    cluster.state.lock().names.stale_commits = 1;
    let (summary, watch) = up(&namespace, &source, "/islands", &options()).await;
    assert_eq!((summary.files, summary.failed), (1, 0), "{:?}", watch.failures.lock());
    assert_eq!(cluster.state.lock().names.at("/islands").unwrap().extents.len(), 1100);
    let (summary, watch) = down(&namespace, "/islands", &copy, &options()).await;
    assert_eq!((summary.files, summary.failed), (1, 0), "{:?}", watch.failures.lock());
    assert_eq!(look(&copy), look(&source));
}

/// Writes to the source as soon as its first bytes were read.
struct Meddler {
    source: PathBuf,
    failures: Mutex<Vec<String>>,
}

impl Progress for Meddler {
    fn advanced(&self, _bytes: u64) {
        let source = fs::File::options().write(true).open(&self.source).unwrap();
        source.write_all_at(b"more", 30 << 20).unwrap();
    }
    fn failed(&self, error: &TransferError) {
        self.failures.lock().push(error.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_during_its_upload_is_not_stored() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("log");
    fs::write(&source, bytes(9 << 20, 1)).unwrap();
    let meddler = Arc::new(Meddler { source: source.clone(), failures: Mutex::default() });
    let items = vec![UploadItem { source, target: path("/log"), existing: Existing::Dressed }];
    let watch = Arc::clone(&meddler) as Arc<dyn Progress>;
    let summary = transfer::upload(&namespace, items, &options(), watch).await;
    assert_eq!((summary.files, summary.failed), (0, 1));
    assert!(meddler.failures.lock()[0].contains("changed while it was uploaded"), "{:?}", meddler.failures.lock());
    assert!(cluster.state.lock().names.at("/log").is_none());
}

/// As `cp -r` does: what a user may not read is told, and everything beside it is copied.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_copied_is_told_and_costs_nothing_beside_it() {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir_all(source.join("b-closed")).unwrap();
    fs::create_dir_all(source.join("c/d")).unwrap();
    for name in ["a", "b-closed/x", "c/secret", "c/d/open", "z"] {
        fs::write(source.join(name), b"bytes").unwrap();
    }
    for (name, mode) in [("b-closed", 0o700), ("c/secret", 0o600)] {
        fs::set_permissions(source.join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    up(&namespace, &source, "/tree", &options()).await;
    namespace.create_dir(&path("/theirs"), wire::namespace::Mode::new(0o777)).await.unwrap();
    let caller = fuse_client::Caller { uid: 65534, gid: 65534, groups: Vec::new() };
    let nobody = fuse_client::Namespace::new(namespace.cluster().clone(), caller);
    let (mut copied, mut failed) = (0, Vec::new());
    let told = |news| match news {
        TreeNews::Done => copied += 1,
        TreeNews::Failed { path, .. } => failed.push(path.to_string()),
    };
    nobody.copy_tree(&path("/tree"), &path("/theirs/copy"), told).await.unwrap();
    failed.sort();
    assert_eq!((copied, failed), (6, vec!["/tree/b-closed".to_owned(), "/tree/c/secret".to_owned()]));
    for name in ["a", "c/d/open", "z"] {
        let there = path(&format!("/theirs/copy/{name}"));
        assert!(nobody.lookup(&there, fuse_client::namespace::Follow::No).await.unwrap().is_some(), "{name}");
    }
}
