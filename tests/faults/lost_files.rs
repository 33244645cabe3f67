//! Files of a node that are gone or spoilt while it does not run.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{Cluster, NodeProcess, wait::until};

use crate::store::{assert_all_there, flip, leave_chunks_only_on, put_some};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn a_lost_index_is_built_again_from_the_segments() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "file", 800);
    // A node that starts looks what it lacks: after that it has all.
    cluster.nodes[2].kill();
    cluster.nodes[2].start();
    cluster.wait_healthy();
    cluster.wait_replicated(2);
    let fetches = cluster.nodes[2].log_text().matches("fetched what was missed").count();
    cluster.nodes[2].kill();
    fs::remove_dir_all(cluster.nodes[2].data.join("index")).unwrap();
    cluster.nodes[2].start();
    cluster.wait_healthy();
    cluster.wait_replicated(2);
    assert_eq!(cluster.nodes[2].log_text().matches("fetched what was missed").count(), fetches);
    leave_chunks_only_on(&mut cluster, 2);
    assert_all_there(&cluster, &files);
}

/// Whatever is done to the index: the node starts or says in one line what to do, and nothing is lost.
#[test]
fn a_garbled_or_truncated_index_costs_no_chunk() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "file", 900);
    for how in ["truncated", "garbled", "emptied"] {
        let node = &mut cluster.nodes[1];
        node.kill();
        for path in files_below(&node.data.join("index")) {
            let bytes = fs::read(&path).unwrap();
            let spoilt = match how {
                "truncated" => bytes[..bytes.len() / 2].to_vec(),
                "garbled" => bytes.iter().map(|byte| byte ^ 0x5a).collect(),
                _ => Vec::new(),
            };
            fs::write(&path, spoilt).unwrap();
        }
        node.spawn();
        if !node.serves_or_ends() {
            eprintln!("{how}: {}", node.last_words());
            assert!(node.last_words().contains("index"), "it says what is wrong: {}", node.last_words());
            node.kill();
            fs::remove_dir_all(node.data.join("index")).unwrap();
            node.start();
        }
        cluster.wait_healthy();
        cluster.wait_replicated(1);
        assert_all_there(&cluster, &files);
    }
    leave_chunks_only_on(&mut cluster, 1);
    assert_all_there(&cluster, &files);
}

/// "what is in the key-value store (state machine …) is derived": from the log, or from a snapshot of a peer.
#[test]
fn a_lost_state_is_built_again() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "file", 1000);
    let victim = (cluster.leader() + 1) % 3;
    cluster.nodes[victim].kill();
    fs::remove_dir_all(cluster.nodes[victim].data.join("state")).unwrap();
    cluster.nodes[victim].start();
    cluster.wait_healthy();
    let other = (0..3).find(|index| *index != victim && *index != cluster.leader()).unwrap();
    cluster.nodes[other].kill();
    // Of the three voters two are left, one of them the one that lost its state: it must vote and serve.
    until("the cluster serves", Duration::from_secs(10), || cluster.dfs(["ls", "/"]).status == 0);
    assert_all_there(&cluster, &files);
}

/// Starts a node that must not come up, and returns its last line.
fn refusal(node: &mut NodeProcess) -> String {
    node.spawn();
    let served = node.serves_or_ends();
    let words = node.last_words();
    node.kill();
    assert!(!served, "{words}");
    words.lines().last().unwrap_or_default().to_owned()
}

/// The first node was made with what founds a cluster: it must not found a second one of the same name.
#[test]
fn a_first_node_that_lost_log_and_state_founds_no_second_cluster() {
    let mut cluster = Cluster::start();
    let founding = cluster.nodes[0].data.join("founding.der");
    until("what it was founded with is gone", Duration::from_secs(10), || !founding.exists());
    let files = put_some(&cluster, "file", 1200);
    let node = &mut cluster.nodes[0];
    node.kill();
    for name in ["log", "state"] {
        fs::remove_dir_all(node.data.join(name)).unwrap();
    }
    let line = refusal(node);
    assert!(line.starts_with("dfs-node: ") && line.contains("Raft log") && line.contains("join"), "{line}");
    assert_all_there(&cluster, &files);
}

#[test]
fn a_node_without_its_vote_does_not_vote_again() {
    let mut cluster = Cluster::start();
    let victim = (cluster.leader() + 1) % 3;
    let node = &mut cluster.nodes[victim];
    node.kill();
    fs::remove_file(node.data.join("log/vote")).unwrap();
    let line = refusal(node);
    assert!(line.starts_with("dfs-node: ") && line.contains("lost") && line.contains("join"), "{line}");
    cluster.dfs(["mkdir", "/still-serving"]).ok();
}

/// "Damage in the Raft log stops the node, which may come back only as a new node".
#[test]
fn damage_in_the_raft_log_stops_the_node_with_a_clear_line_and_the_others_go_on() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "file", 1100);
    let victim = (cluster.leader() + 1) % 3;
    cluster.nodes[victim].kill();
    let log = cluster.nodes[victim].data.join("log");
    let newest = files_below(&log).into_iter().rfind(|path| path.extension().is_some_and(|ext| ext == "log")).unwrap();
    let bytes = fs::read(&newest).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // Half a kilobyte well below the last record, and so below the highest mark that says "synced".
    for offset in 0..512 {
        flip(&newest, (end / 2 + offset) as u64);
    }
    let node = &mut cluster.nodes[victim];
    node.spawn();
    let served = node.serves_or_ends();
    assert!(!served, "a node with a damaged log must not vote");
    let words = node.last_words();
    eprintln!("{words}");
    let line = words.lines().last().unwrap_or_default();
    assert!(line.starts_with("dfs-node: ") && line.contains("log") && line.contains("damage"), "{words}");
    node.kill();
    assert_all_there(&cluster, &files);
    cluster.dfs(["mkdir", "/still-serving"]).ok();
}
