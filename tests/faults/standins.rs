//! Nodes that are down: others take their writes, and give them back.

use std::time::Duration;

use harness::{Cluster, tree, wait::until};
use serde_json::Value;

use crate::store::{Files, assert_all_there, put, try_put};

/// How long a few files may take to be where they belong, on a machine with much else to do.
const WHOLE_MAX: Duration = Duration::from_secs(180);

fn nodes_of(status: &Value) -> Vec<Value> {
    status["nodes"].as_array().cloned().unwrap_or_default()
}

fn chunks_of(status: &Value) -> u64 {
    nodes_of(status).iter().filter_map(|node| node["store"]["chunks"].as_u64()).sum()
}

/// Uploads files of one chunk each; the first try of each must succeed.
fn put_chunks(cluster: &Cluster, name: &str, count: u64, seed: u64) -> Files {
    let file = |index| (format!("/{name}-{index}"), tree::bytes(seed + index, 300_000 + index as usize));
    let files: Files = (0..count).map(file).collect();
    for (path, bytes) in &files {
        put(cluster, path, bytes);
    }
    files
}

/// Waits until every node takes its writes itself and has what it should, and nobody else has anything.
fn wait_whole(cluster: &Cluster, files: &Files) {
    let copies = 3 * files.len() as u64;
    until("every node has what it should, and nobody else", WHOLE_MAX, || {
        let status = cluster.status();
        let is_clean = status["moves"]["away"].as_array().is_some_and(Vec::is_empty) && status["moves"]["unclean"] == 0;
        is_clean && chunks_of(&status) == copies && nodes_of(&status).iter().all(|node| node["state"] == "up")
    });
}

#[test]
fn with_two_of_five_nodes_dead_every_write_goes_on_and_what_others_took_comes_home() {
    let mut cluster = Cluster::with(5, 3);
    until("the ring has five nodes", WHOLE_MAX, || {
        let status = cluster.status();
        status["moves"]["transition"].is_null() && nodes_of(&status).iter().all(|node| node["partitions"] != 0)
    });
    let mut files = put_chunks(&cluster, "before", 10, 1000);
    wait_whole(&cluster, &files);
    let votes = |index: usize| matches!(cluster.node_status(index)["role"].as_str(), Some("leader" | "voter"));
    let (voters, others): (Vec<usize>, Vec<usize>) = (0..5).partition(|index| votes(*index));
    assert_eq!((voters.len(), others.len()), (3, 2));
    for victim in &others {
        cluster.nodes[*victim].kill();
    }
    let mut meanwhile = put_chunks(&cluster, "meanwhile", 40, 2000);
    files.extend(meanwhile.clone());
    assert_all_there(&cluster, &files);
    let status = cluster.status();
    assert_eq!(status["moves"]["away"].as_array().map(Vec::len), Some(2), "{status}");
    assert!(status["moves"]["unclean"].as_u64() > Some(0) && status["health"] == "degraded", "{status}");
    let table = cluster.dfs(["nodes"]).ok();
    assert_eq!(table.matches("go to stand-ins").count(), 2, "{table}");
    // A third: the namespace has its majority, each row its quorum.
    let third = *voters.iter().find(|voter| **voter != cluster.leader()).unwrap();
    cluster.nodes[third].kill();
    meanwhile.extend(put_chunks(&cluster, "with-two", 5, 3000));
    // What was there before may lie with just the three that are gone: only what was written meanwhile need not.
    assert_all_there(&cluster, &meanwhile);
    files.extend(meanwhile);
    for index in others.iter().chain([&third]) {
        cluster.nodes[*index].start();
    }
    wait_whole(&cluster, &files);
    // What stood in is needed no more, whoever it was.
    for index in voters {
        cluster.nodes[index].kill();
        assert_all_there(&cluster, &files);
        cluster.nodes[index].start();
        cluster.wait_healthy();
    }
}

#[test]
fn of_three_nodes_that_keep_three_replicas_nobody_stands_in_for_another() {
    let mut cluster = Cluster::start();
    let epoch = |cluster: &Cluster| cluster.status()["epoch"].as_u64();
    let before = epoch(&cluster);
    let victim = (cluster.leader() + 1) % 3;
    cluster.nodes[victim].kill();
    until("it is down", WHOLE_MAX, || cluster.node_status(victim)["state"] == "down");
    try_put(&cluster, "/file", &tree::bytes(1, 300_000)).ok();
    assert_eq!(epoch(&cluster), before, "nobody could take its writes");
    cluster.nodes[victim].start();
    cluster.wait_replicated(victim);
    assert_eq!(epoch(&cluster), before);
}
