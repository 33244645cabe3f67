//! The same command again: what is there and equal is skipped, what changed is replaced.

use std::{fs, path::Path};

use harness::{Cluster, tree};
use serde_json::Value;

use crate::round_trip::set_times;

fn make(dir: &Path) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    for (seed, (name, len)) in (0..).zip([("small", 10), ("sub/inline", 4096), ("chunked", 5000), ("big", 5 << 20)]) {
        fs::write(dir.join(name), tree::bytes(seed, len)).unwrap();
        set_times(&dir.join(name), 1_700_000_000, 5);
    }
    std::os::unix::fs::symlink("small", dir.join("link")).unwrap();
}

fn summary(cluster: &Cluster, arguments: &[&str]) -> Value {
    serde_json::from_str(&cluster.dfs([arguments, &["--json"]].concat()).ok()).unwrap()
}

#[test]
fn a_second_upload_skips_what_is_equal_and_says_so() {
    let cluster = Cluster::start();
    let dir = cluster.path("tree");
    make(&dir);
    let upload = ["upload", "-rT", dir.to_str().unwrap(), "/tree"];
    let first = summary(&cluster, &upload);
    assert_eq!((&first["files"], &first["skipped"]), (&5.into(), &0.into()));
    let second = summary(&cluster, &upload);
    assert_eq!((&second["files"], &second["skipped"], &second["bytes"]), (&0.into(), &5.into(), &0.into()));
    let said = cluster.dfs(upload).ok();
    assert!(said.contains("5 files skipped, there and equal"), "{said}");

    fs::write(dir.join("chunked"), tree::bytes(9, 5000)).unwrap();
    fs::write(dir.join("small"), b"longer than it was").unwrap();
    fs::remove_file(dir.join("link")).unwrap();
    std::os::unix::fs::symlink("big", dir.join("link")).unwrap();
    fs::write(dir.join("new"), b"new").unwrap();
    let third = summary(&cluster, &upload);
    assert_eq!((&third["files"], &third["skipped"]), (&4.into(), &2.into()));
    cluster.dfs(["download", "-r", "/tree", cluster.path("copy").to_str().unwrap()]).ok();
    tree::assert_same(&dir, &cluster.path("copy"));
}

#[test]
fn a_second_download_skips_what_is_equal_and_mends_what_is_not() {
    let cluster = Cluster::start();
    let dir = cluster.path("tree");
    make(&dir);
    cluster.dfs(["upload", "-r", dir.to_str().unwrap(), "/"]).ok();
    let copy = cluster.path("copy");
    let download = ["download", "-rT", "/tree", copy.to_str().unwrap()];
    assert_eq!(summary(&cluster, &download)["files"], 5);
    let second = summary(&cluster, &download);
    assert_eq!((&second["files"], &second["skipped"], &second["bytes"]), (&0.into(), &5.into(), &0.into()));
    let said = cluster.dfs(download).ok();
    assert!(said.contains("5 files skipped, there and equal"), "{said}");

    fs::write(copy.join("big"), b"cut short").unwrap();
    fs::remove_file(copy.join("sub/inline")).unwrap();
    assert_eq!(summary(&cluster, &download)["files"], 2);
    tree::assert_same(&dir, &copy);
}

#[test]
fn with_checksum_equal_times_do_not_hide_other_bytes() {
    let cluster = Cluster::start();
    let dir = cluster.path("tree");
    make(&dir);
    let upload = ["upload", "-rT", dir.to_str().unwrap(), "/tree"];
    cluster.dfs(upload).ok();
    for name in ["small", "big"] {
        let mut bytes = fs::read(dir.join(name)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(dir.join(name), bytes).unwrap();
        set_times(&dir.join(name), 1_700_000_000, 5);
    }
    assert_eq!(summary(&cluster, &upload)["files"], 0, "size and time are what a plain upload looks at");
    let checked = summary(&cluster, &[&upload[..], &["--checksum"]].concat());
    assert_eq!((&checked["files"], &checked["skipped"]), (&2.into(), &3.into()));

    let copy = cluster.path("copy");
    cluster.dfs(["download", "-rT", "/tree", copy.to_str().unwrap()]).ok();
    for name in ["small", "big"] {
        let mut bytes = fs::read(copy.join(name)).unwrap();
        *bytes.first_mut().unwrap() ^= 1;
        fs::write(copy.join(name), bytes).unwrap();
        set_times(&copy.join(name), 1_700_000_000, 5);
    }
    let checked = summary(&cluster, &["download", "-rT", "--checksum", "/tree", copy.to_str().unwrap()]);
    assert_eq!((&checked["files"], &checked["skipped"]), (&2.into(), &3.into()));
    tree::assert_same(&dir, &copy);
}
