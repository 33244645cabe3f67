//! Deleted files: the room of their chunks comes back, and never a chunk too many.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use harness::{Cluster, NodeProcess, node::free_address, tree, wait::until};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use crate::store::{Files, assert_all_there, put, put_some};

/// How long a deletion may take until the last node has done it, on a busy machine: sessions, stamps, the time out of
/// use, compaction of one segment each 5 s.
const COLLECTED_WITHIN: Duration = Duration::from_secs(120);

/// As long as a silent session lives, and what a deletion takes.
const KILLED_COLLECTED_WITHIN: Duration = Duration::from_secs(200);

/// Three nodes with segments of 8 MiB.
fn small_cluster() -> Cluster {
    let mut cluster = Cluster::empty(3);
    for number in 1..=3 {
        let node = NodeProcess::new(cluster.path(&format!("node-{number}")), free_address(), None);
        cluster.add_node_with(node, &["--capacity", "256M"]);
    }
    cluster.wait_healthy();
    cluster
}

/// A number of every node's store.
fn each(cluster: &Cluster, what: &str) -> Vec<u64> {
    let status = cluster.status();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    nodes.iter().filter_map(|node| node["store"][what].as_u64()).collect()
}

fn gc_status(cluster: &Cluster) -> Value {
    let ran = cluster.dfs(["gc", "status", "--json"]);
    if ran.status == 0 { serde_json::from_str(&ran.stdout).unwrap() } else { Value::Null }
}

fn wait_collected(cluster: &Cluster, within: Duration) {
    until("no node holds a chunk", within, || each(cluster, "chunks") == [0, 0, 0]);
    until("nothing is listed as dead", within, || gc_status(cluster)["dead_chunks"] == 0);
}

#[test]
fn the_room_of_deleted_files_comes_back_on_every_node_without_any_mount() {
    let cluster = small_cluster();
    for number in 0..5 {
        put(&cluster, &format!("/file-{number}"), &tree::bytes(number, 7 << 20));
    }
    until("every node holds every chunk", COLLECTED_WITHIN, || each(&cluster, "chunks") == [10, 10, 10]);
    let full = each(&cluster, "used");
    cluster.dfs(["rm", "/file-0", "/file-1", "/file-2", "/file-3", "/file-4"]).ok();
    assert!(cluster.dfs(["gc", "status"]).ok().contains("Puts are stamped"));
    wait_collected(&cluster, COLLECTED_WITHIN);
    until("the disks are as good as empty", COLLECTED_WITHIN, || {
        let used = each(&cluster, "used");
        used.len() == 3 && used.iter().zip(&full).all(|(used, full)| *used < full / 2)
    });
}

#[test]
fn the_chunks_of_a_killed_upload_go_too() {
    let cluster = Cluster::start();
    let source = cluster.path("source");
    std::fs::write(&source, tree::bytes(1, 192 << 20)).unwrap();
    let mut command = cluster.command();
    command.arg("upload").arg(&source).arg("/never").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut upload = command.spawn().unwrap();
    until("some of it is stored", Duration::from_secs(60), || each(&cluster, "chunks").iter().any(|count| *count > 0));
    upload.kill().unwrap();
    assert!(!upload.wait().unwrap().success(), "it was killed half way");
    assert_eq!(cluster.dfs(["ls", "/"]).ok(), "", "nothing stands under the name");
    wait_collected(&cluster, KILLED_COLLECTED_WITHIN);
}

#[test]
fn a_chunk_that_is_put_again_while_it_is_collected_is_there_for_good() {
    let cluster = Cluster::start();
    let files: Files =
        [(0, 5 << 20), (1, 60_000), (2, 9_000)].map(|(seed, len)| (format!("/{seed}"), tree::bytes(seed, len))).into();
    let seed = 7;
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let start = Instant::now();
    let mut rounds = 0;
    // Over a few collections, and in every stage of them.
    while start.elapsed() < Duration::from_secs(75) {
        for (path, bytes) in &files {
            put(&cluster, path, bytes);
        }
        assert_all_there(&cluster, &files);
        if start.elapsed() < Duration::from_secs(60) {
            let paths: Vec<&str> = files.keys().map(String::as_str).collect();
            cluster.dfs([&["rm"], &paths[..]].concat()).ok();
            // Not a wait for something: the moment itself is what the seed chooses.
            std::thread::park_timeout(Duration::from_millis(random.random_range(0..18_000)));
        }
        rounds += 1;
    }
    eprintln!("{rounds} rounds, {}", gc_status(&cluster));
    assert!(gc_status(&cluster)["safe"].as_u64().unwrap() >= 2, "something was collected meanwhile");
    until("every node holds every chunk, and nothing else", COLLECTED_WITHIN, || {
        each(&cluster, "chunks") == [4, 4, 4] && gc_status(&cluster)["dead_chunks"] == 0
    });
    assert_all_there(&cluster, &files);
}

#[test]
fn a_node_that_was_down_during_a_collection_deletes_when_it_returns() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "gone", 900);
    let kept = tree::bytes(950, 100_000);
    put(&cluster, "/kept", &kept);
    cluster.wait_healthy();
    let victim = (cluster.leader() + 1) % 3;
    until("every node holds every chunk", COLLECTED_WITHIN, || {
        let chunks = each(&cluster, "chunks");
        chunks.len() == 3 && chunks.iter().all(|count| *count == chunks[0] && *count > 1)
    });
    cluster.nodes[victim].kill();
    let paths: Vec<&str> = files.keys().map(String::as_str).collect();
    cluster.dfs([&["rm"], &paths[..]].concat()).ok();
    until("the others have deleted", COLLECTED_WITHIN, || {
        each(&cluster, "chunks").iter().filter(|count| **count == 1).count() == 2
    });
    until("it is the only one that is waited for", COLLECTED_WITHIN, || {
        gc_status(&cluster)["nodes"].as_array().is_some_and(|nodes| nodes.len() == 1)
    });
    let status = gc_status(&cluster);
    assert_eq!(status["dead_chunks"], 7, "rows stay until every holder has deleted: {status}");
    assert!(cluster.dfs(["gc", "status"]).ok().contains("Waiting for node"));
    cluster.nodes[victim].start();
    until("it deletes as well, and nobody fetches from it what was deleted", COLLECTED_WITHIN, || {
        each(&cluster, "chunks") == [1, 1, 1] && gc_status(&cluster)["dead_chunks"] == 0
    });
    assert_all_there(&cluster, &[("/kept".to_owned(), kept)].into());
}
