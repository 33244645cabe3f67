//! Downloads onto what is there already, and those that cannot go well.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use fuse_client::{
    Caller, ClusterConfig, Namespace,
    transfer::{
        self, DownloadItem, Equality, Existing, LocalDurability, Outcome, Progress, Summary, TransferOptions,
        UploadItem,
    },
};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use tokio::time::{Instant, timeout};

use crate::{
    fake::FakeCluster,
    files::{bytes, path},
    trees::{Watch, down, look, options, up},
};

const MIB: usize = 1 << 20;

fn pipe(at: &Path) {
    rustix::fs::mknodat(CWD, at, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// A cluster that has the tree `/tree`, made by `plant`.
async fn cluster_with(place: &Path, plant: impl FnOnce(&Path)) -> (FakeCluster, Namespace, PathBuf) {
    let cluster = FakeCluster::start().await;
    let namespace = cluster.namespace().await;
    let source = place.join("source");
    fs::create_dir(&source).unwrap();
    plant(&source);
    let (summary, watch) = up(&namespace, &source, "/tree", &options()).await;
    assert_eq!(summary.failed, 0, "{:?}", watch.failures.lock());
    (cluster, namespace, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_or_pipe_or_a_link_to_one_is_not_replaced_by_a_file() {
    let place = tempfile::tempdir().unwrap();
    let (_cluster, namespace, _) =
        cluster_with(place.path(), |tree| fs::write(tree.join("file"), b"bytes").unwrap()).await;
    let (to_pipe, to_device) = (place.path().join("pipe"), place.path().join("null"));
    pipe(&to_pipe);
    symlink("/dev/null", &to_device).unwrap();
    for (target, word) in [(&to_pipe, "a pipe is in the way"), (&to_device, "a device is in the way")] {
        let (summary, watch) = down(&namespace, "/tree/file", target, &options()).await;
        assert_eq!((summary.files, summary.failed), (0, 1));
        let failures = watch.failures.lock().clone();
        assert!(failures.len() == 1 && failures[0].contains(word), "{failures:?}");
    }
    let copy = place.path().join("copy");
    fs::create_dir(&copy).unwrap();
    pipe(&copy.join("file"));
    let (summary, watch) = down(&namespace, "/tree", &copy, &options()).await;
    assert_eq!((summary.files, summary.skipped, summary.failed), (0, 0, 1));
    assert!(watch.failures.lock()[0].contains("a pipe is in the way"), "{:?}", watch.failures.lock());
    for pipe in [to_pipe, copy.join("file")] {
        assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo(), "{}", pipe.display());
    }
    assert_eq!(fs::read_link(&to_device).unwrap(), Path::new("/dev/null"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_the_way_of_a_hard_link_is_a_failure() {
    let place = tempfile::tempdir().unwrap();
    let (_cluster, namespace, _) = cluster_with(place.path(), |tree| {
        fs::write(tree.join("a"), b"bytes").unwrap();
        fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    })
    .await;
    // Which of them is linked to the other is not said: each is tried.
    for name in ["a", "b"] {
        let copy = place.path().join(format!("copy-{name}"));
        fs::create_dir_all(copy.join(name)).unwrap();
        let (summary, watch) = down(&namespace, "/tree", &copy, &options()).await;
        let failures = watch.failures.lock().clone();
        assert!(summary.failed > 0 && summary.skipped == 0, "{summary:?}");
        assert!(failures.iter().any(|line| line.contains("a directory is in the way")), "{failures:?}");
    }
}

fn set_xattr(at: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(at, OsStr::new(name), value, XattrFlags::empty()).unwrap();
}

fn xattr(at: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 100];
    let len = rustix::fs::getxattr(at, OsStr::new(name), value.as_mut_slice()).unwrap();
    value.truncate(len);
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_of_users_survive_on_files_and_directories() {
    let place = tempfile::tempdir().unwrap();
    let names = [".", "file", "large", "dir", "dir/deeper"];
    let (_cluster, namespace, source) = cluster_with(place.path(), |tree| {
        fs::create_dir_all(tree.join("dir/deeper")).unwrap();
        fs::write(tree.join("file"), b"bytes").unwrap();
        fs::write(tree.join("large"), bytes(50_000, 1)).unwrap();
        for name in names {
            set_xattr(&tree.join(name), "user.of", name.as_bytes());
            set_xattr(&tree.join(name), "user.none", b"");
        }
        fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(tree.join("dir/deeper"), fs::Permissions::from_mode(0o500)).unwrap();
    })
    .await;
    let copy = place.path().join("copy");
    let synced = TransferOptions { durability: LocalDurability::Synced, ..options() };
    let (summary, watch) = down(&namespace, "/tree", &copy, &synced).await;
    assert_eq!(summary.failed, 0, "{:?}", watch.failures.lock());
    // And onto directories that are there, as when an interrupted download goes on.
    rustix::fs::removexattr(copy.join("dir"), OsStr::new("user.of")).unwrap();
    let (summary, watch) = down(&namespace, "/tree", &copy, &synced).await;
    assert_eq!((summary.files, summary.failed), (0, 0), "{:?}", watch.failures.lock());
    assert_eq!(look(&copy), look(&source));
    for name in names {
        assert_eq!(xattr(&copy.join(name), "user.of"), name.as_bytes());
        assert_eq!(xattr(&copy.join(name), "user.none"), b"");
    }
    // What has changed since goes along, though the bytes are there.
    for name in names {
        set_xattr(&source.join(name), "user.of", b"changed");
        set_xattr(&source.join(name), "user.new", b"new");
        rustix::fs::removexattr(source.join(name), OsStr::new("user.none")).unwrap();
    }
    let (summary, watch) = up(&namespace, &source, "/tree", &options()).await;
    assert_eq!((summary.files, summary.failed), (0, 0), "{:?}", watch.failures.lock());
    for copy in [copy, place.path().join("second")] {
        let (summary, watch) = down(&namespace, "/tree", &copy, &options()).await;
        assert_eq!(summary.failed, 0, "{:?}", watch.failures.lock());
        for name in names {
            assert_eq!(xattr(&copy.join(name), "user.of"), b"changed", "{name} in {copy:?}");
            assert_eq!(xattr(&copy.join(name), "user.new"), b"new", "{name} in {copy:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_somebody_else_takes_files_in_and_keeps_its_attributes() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, _, _) = cluster_with(place.path(), |tree| fs::write(tree.join("file"), b"bytes").unwrap()).await;
    let nobody = Caller { uid: 65534, gid: 65534, groups: Vec::new() };
    let namespace = Namespace::new(cluster.connect().await, nobody);
    let copy = place.path().join("copy");
    fs::create_dir(&copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o1777)).unwrap();
    let (summary, watch) = down(&namespace, "/tree", &copy, &options()).await;
    assert_eq!((summary.files, summary.failed), (1, 0), "{:?}", watch.failures.lock());
    assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o7777, 0o1777);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_of_a_small_file_looks_at_sizes_first_and_trusts_no_damaged_bytes() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, namespace, source) = cluster_with(place.path(), |tree| {
        fs::write(tree.join("same"), b"same").unwrap();
        fs::write(tree.join("other"), b"other").unwrap();
    })
    .await;
    let copy = place.path().join("copy");
    let checksum = TransferOptions { equality: Equality::Checksum, ..options() };
    down(&namespace, "/tree", &copy, &options()).await;
    // More than any memory holds.
    fs::File::options().write(true).open(copy.join("other")).unwrap().set_len(1 << 43).unwrap();
    let (summary, watch) = down(&namespace, "/tree", &copy, &checksum).await;
    assert_eq!((summary.files, summary.skipped, summary.failed), (1, 1, 0), "{:?}", watch.failures.lock());
    assert_eq!(look(&copy), look(&source));

    let inode = cluster.state.lock().names.at("/tree/same").unwrap().attr.inode;
    let damage = |bytes: &mut Vec<u8>| bytes[0] ^= 1;
    damage(&mut cluster.state.lock().names.files.get_mut(&inode).unwrap().inline.as_mut().unwrap().bytes);
    fs::write(copy.join("same"), b"rame").unwrap();
    let (summary, watch) = down(&namespace, "/tree", &copy, &checksum).await;
    assert_eq!(summary.failed, 1);
    assert!(watch.failures.lock()[0].contains("damaged"), "{:?}", watch.failures.lock());
}

/// Breaks down when a file called `bad` is done.
struct Clumsy;

impl Progress for Clumsy {
    fn finished(&self, path: &str, _outcome: Outcome) {
        assert!(!path.ends_with("/bad"), "broken down, as the test wants it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_breaks_down_is_a_failure_and_keeps_nobody_waiting() {
    let place = tempfile::tempdir().unwrap();
    let (_cluster, namespace, source) = cluster_with(place.path(), |tree| {
        fs::create_dir_all(tree.join("dir/deeper")).unwrap();
        for name in ["bad", "good", "dir/deeper/good"] {
            fs::write(tree.join(name), name).unwrap();
        }
    })
    .await;
    let options = options();
    let items =
        vec![DownloadItem { source: path("/tree"), target: place.path().join("copy"), existing: Existing::Dressed }];
    let run = transfer::download(&namespace, items, &options, Arc::new(Clumsy));
    let summary = timeout(Duration::from_secs(20), run).await.unwrap();
    assert!(summary.failed > 0, "{summary:?}");
    let items = vec![UploadItem { source, target: path("/again"), existing: Existing::Dressed }];
    let run = transfer::upload(&namespace, items, &options, Arc::new(Clumsy));
    let summary = timeout(Duration::from_secs(20), run).await.unwrap();
    assert!(summary.failed > 0, "{summary:?}");
}

/// Ends within 40 seconds with at most `lines` lines of failure.
async fn assert_ends(run: impl Future<Output = (Summary, Arc<Watch>)>, lines: usize) {
    let begun = Instant::now();
    let (summary, watch) = timeout(Duration::from_secs(40), run).await.unwrap();
    let failures = watch.failures.lock().clone();
    assert!((1..=lines).contains(&failures.len()), "{failures:?} after {:?}", begun.elapsed());
    assert_eq!(summary.failed, failures.len() as u64);
}

fn plant_large(tree: &Path) {
    for number in 0..40 {
        fs::write(tree.join(number.to_string()), bytes(MIB, number)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_to_stores_that_all_refuse_ends_after_two_files() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, namespace, source) = cluster_with(place.path(), plant_large).await;
    for store in &mut cluster.state.lock().stores {
        store.refuses = true;
    }
    let few = TransferOptions { jobs: 4, ..options() };
    assert_ends(up(&namespace, &source, "/other", &few), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_from_a_cluster_that_is_lost_on_the_way_ends_within_a_deadline() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, _, _) = cluster_with(place.path(), plant_large).await;
    let config = ClusterConfig { deadline: Duration::from_secs(2), ..ClusterConfig::default() };
    let namespace = Namespace::new(cluster.connect_with(config).await, Caller::ROOT);
    let copy = place.path().join("copy");
    let few = TransferOptions { jobs: 4, ..options() };
    let lost = async {
        while cluster.state.lock().stores.iter().all(|store| store.gets == 0) {
            tokio::task::yield_now().await;
        }
        for store in &mut cluster.state.lock().stores {
            store.silent = true;
        }
    };
    let run = async { tokio::join!(down(&namespace, "/tree", &copy, &few), lost).0 };
    assert_ends(run, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_never_runs_ahead_of_the_bytes() {
    let place = tempfile::tempdir().unwrap();
    let (cluster, namespace, source) = cluster_with(place.path(), |tree| {
        let file = fs::File::create(tree.join("file")).unwrap();
        file.write_all_at(&bytes(9 * MIB, 1), 0).unwrap();
        file.set_len(20 << 20).unwrap();
    })
    .await;
    cluster.state.lock().stuck = true;
    let copy = place.path().join("copy");
    let watch = async {
        while cluster.state.lock().stuck_requests == 0 {
            tokio::task::yield_now().await;
        }
        // It has no name yet, here where the file system knows such files.
        loop {
            let mut open = fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| entry.path());
            let ours = |fd: &std::path::PathBuf| {
                fs::read_link(fd).is_ok_and(|file| file.starts_with(&copy))
                    && fs::metadata(fd).is_ok_and(|file| file.is_file())
            };
            match open.find(ours).map(fs::metadata) {
                Some(Ok(file)) => break file.len(),
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let options = options();
    let len = tokio::select! {
        len = watch => len,
        _ = down(&namespace, "/tree", &copy, &options) => panic!("nobody gave the bytes"),
    };
    assert_eq!(len, 0);
    cluster.state.lock().stuck = false;
    let namespace = cluster.namespace().await;
    down(&namespace, "/tree", &copy, &options).await;
    assert_eq!(look(&copy), look(&source), "the hole at the end is there");
}
