//! Nodes that may open no more files.

use harness::{Cluster, NodeProcess, node::free_address, tree};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::store::{Files, assert_all_there, put, put_some, try_put};

/// Files of 8 MiB, each a segment; the nodes may have spares of a few.
const FILES_MAX: u64 = 12;

/// Lets each node have `more` files open than it has, or as many as it had at first.
fn limit(cluster: &Cluster, more: Option<u64>) {
    for node in &cluster.nodes {
        let pid = node.pid().unwrap();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
        let pid = Pid::from_raw(pid.try_into().unwrap());
        let limits = rustix::process::getrlimit(Resource::Nofile);
        let current = more.map_or(limits.maximum, |more| Some(open + more));
        prlimit(pid, Resource::Nofile, Rlimit { current, maximum: limits.maximum }).unwrap();
    }
}

/// "Disk full, memory full and too many files open are clear errors and lose nothing" (P8).
#[test]
fn a_node_that_may_open_no_more_files_says_so_and_loses_nothing() {
    let mut cluster = Cluster::empty(3);
    for number in 1..=3 {
        let node = NodeProcess::new(cluster.path(&format!("node-{number}")), free_address(), None);
        cluster.add_node_with(node, &["--capacity", "256M"]);
    }
    cluster.wait_healthy();
    let mut files: Files = put_some(&cluster, "before", 1);
    limit(&cluster, Some(2));
    let refused = (0..FILES_MAX).find_map(|number| {
        let (path, bytes) = (format!("/file-{number}"), tree::bytes(100 + number, 8 << 20));
        let ran = try_put(&cluster, &path, &bytes);
        if ran.status == 0 {
            files.insert(path, bytes);
            return None;
        }
        Some(ran)
    });
    let refused = refused.expect("twelve segments need more than two files");
    assert_eq!(refused.status, 1);
    let error = refused.stderr.lines().last().unwrap_or_default();
    let words = ["/file-", "the node may open no more files", "LimitNOFILE"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    assert_all_there(&cluster, &files);
    let nodes = cluster.status()["nodes"].as_array().cloned().unwrap_or_default();
    assert!(
        nodes.len() == 3 && nodes.iter().all(|node| node["store"]["failed"] == false),
        "no disk has failed: {nodes:?}"
    );

    limit(&cluster, None);
    files.insert("/after".into(), tree::bytes(7, 8 << 20));
    put(&cluster, "/after", &files["/after"]);
    // What one of them could not take it fetches.
    cluster.wait_healthy();
    assert_all_there(&cluster, &files);
}
