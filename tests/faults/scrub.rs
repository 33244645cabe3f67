//! Bytes that change on a disk and that nobody reads: the scrub finds them.

use std::time::Duration;

use harness::{Cluster, NodeProcess, node::free_address, tree, wait::until};

use crate::{
    rot::spoil,
    store::{Files, assert_all_there, find_in_segments, is_sound, leave_chunks_only_on, put},
};

/// How long a few MiB may take to be read again, on a machine with much else to do.
const SCRUBBED_MAX: Duration = Duration::from_secs(60);

/// Three nodes that begin a pass each second.
fn cluster() -> Cluster {
    let mut cluster = Cluster::empty(3);
    for number in 1..=3 {
        let mut node = NodeProcess::new(cluster.path(&format!("node-{number}")), free_address(), None);
        node.arguments = ["--scrub-every", "1s", "--scrub-rate", "64MiB"].map(str::to_owned).into();
        cluster.add_node_with(node, &[]);
    }
    cluster.wait_healthy();
    cluster
}

/// Ten files of one small chunk, and one of two large ones.
fn files(name: &str, seed: u64) -> Files {
    let lens = std::iter::repeat_n(70_000, 10).chain([(4 << 20) + 200_000]);
    lens.enumerate().map(|(index, len)| (format!("/{name}-{index}"), tree::bytes(seed + index as u64, len))).collect()
}

fn spoil_all(cluster: &Cluster, index: usize, files: &Files) -> u64 {
    files.values().map(|bytes| spoil(cluster, index, bytes) as u64).sum()
}

/// A number that the status tells of a node.
fn told(cluster: &Cluster, index: usize, part: &str, what: &str) -> Option<u64> {
    cluster.node_status(index)[part][what].as_u64()
}

fn wait_mended(cluster: &Cluster, index: usize, spoilt: u64) {
    until("the scrub has found every damaged copy, and each was replaced", SCRUBBED_MAX, || {
        told(cluster, index, "scrub", "damaged") == Some(spoilt)
            && told(cluster, index, "store", "repaired") == Some(spoilt)
    });
}

/// "Every node reads all it holds again …, and has what the disk has changed replaced from another replica."
#[test]
fn damage_that_nobody_has_read_is_found_and_mended_while_there_is_another_replica() {
    let mut cluster = cluster();
    let (first, second, sound) = (files("first", 100), files("second", 200), files("sound", 300));
    let all: Files = [&first, &second, &sound].into_iter().flat_map(Clone::clone).collect();
    for (path, bytes) in &all {
        put(&cluster, path, bytes);
    }
    (0..3).for_each(|index| cluster.wait_replicated(index));
    // One node while it runs, another while it does not, each of other chunks.
    let spoilt = spoil_all(&cluster, 1, &first);
    assert_eq!(spoilt, 12, "every chunk was found in the segments");
    wait_mended(&cluster, 1, spoilt);
    cluster.nodes[2].kill();
    assert_eq!(spoil_all(&cluster, 2, &second), 12, "every chunk was found in the segments");
    cluster.nodes[2].start();
    wait_mended(&cluster, 2, 12);
    let is_mended = |bytes: &[u8]| {
        let mut chunks = bytes.chunks(4 << 20);
        chunks.all(|chunk| {
            let copies = find_in_segments(&cluster.nodes[2].data, chunk);
            copies.iter().any(|(path, offset)| is_sound(path, *offset, chunk))
        })
    };
    assert!(second.values().all(|bytes| is_mended(bytes)), "sound copies stand in the segments again");
    assert_eq!(cluster.status()["health"], "ok", "what was replaced is no trouble any more");
    leave_chunks_only_on(&mut cluster, 1);
    assert_all_there(&cluster, &all);
}

#[test]
fn the_status_tells_how_far_each_node_is() {
    let cluster = cluster();
    for (path, bytes) in files("file", 400) {
        put(&cluster, &path, &bytes);
    }
    (0..3).for_each(|index| cluster.wait_replicated(index));
    until("every node has read all it holds, and rests", SCRUBBED_MAX, || {
        (0..3).all(|index| {
            let scrub = cluster.node_status(index)["scrub"].clone();
            scrub["chunks"] == 12
                && scrub["bytes"] == 10 * 70_000 + (4 << 20) + 200_000
                && scrub["passes"].as_u64() >= Some(1)
                && scrub["ended_s"].is_u64()
                && scrub["next_s"].is_u64()
                && scrub["damaged"] == 0
        })
    });
}

/// Of a chunk that was deleted while the node was down there is no other replica, and nobody misses one.
#[test]
fn a_damaged_copy_of_what_was_deleted_meanwhile_is_no_trouble_that_stays() {
    let mut cluster = cluster();
    let gone = files("gone", 500);
    for (path, bytes) in &gone {
        put(&cluster, path, bytes);
    }
    (0..3).for_each(|index| cluster.wait_replicated(index));
    let away = (cluster.leader() + 1) % 3;
    cluster.nodes[away].kill();
    let paths: Vec<&str> = gone.keys().map(String::as_str).collect();
    cluster.dfs([&["rm"], &paths[..]].concat()).ok();
    until("the others have deleted", Duration::from_secs(120), || {
        let others = (0..3).filter(|index| *index != away);
        others.into_iter().all(|index| told(&cluster, index, "store", "chunks") == Some(0))
    });
    assert_eq!(spoil_all(&cluster, away, &gone), 12, "every chunk was found in the segments");
    cluster.nodes[away].start();
    until("the damage is found", SCRUBBED_MAX, || told(&cluster, away, "store", "damaged") >= Some(1));
    until("nothing is to be replaced any more", SCRUBBED_MAX, || cluster.status()["health"] == "ok");
}
