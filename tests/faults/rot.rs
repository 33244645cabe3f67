//! Bytes that change on a disk.

use std::{thread, time::Duration};

use harness::{Cluster, tree, wait::until};

use crate::store::{
    Files, assert_all_there, find_in_segments, flip, is_sound, last_word, leave_chunks_only_on, put, try_get,
};

/// Length of the file that is damaged: one whole chunk and a part of another.
const LEN: usize = (4 << 20) + 200_000;

/// Spoils one byte in each chunk of `bytes` on one node; says how many copies were spoilt.
pub(crate) fn spoil(cluster: &Cluster, index: usize, bytes: &[u8]) -> usize {
    let mut spoilt = 0;
    for chunk in bytes.chunks(4 << 20) {
        for (path, offset) in find_in_segments(&cluster.nodes[index].data, chunk) {
            flip(&path, offset + chunk.len() as u64 / 2);
            spoilt += 1;
        }
    }
    spoilt
}

/// P1: "A bad or missing replica means another replica"; and the bad one is reported and replaced.
#[test]
fn a_corrupted_replica_is_never_shown_is_reported_and_is_replaced_from_another() {
    let mut cluster = Cluster::start();
    let files: Files = (0..12).map(|number| (format!("/file-{number}"), tree::bytes(number, 70_000))).collect();
    for (path, bytes) in &files {
        put(&cluster, path, bytes);
    }
    let victim = 1;
    let spoilt: usize = files.values().map(|bytes| spoil(&cluster, victim, bytes)).sum();
    assert!(spoilt >= 8, "of {} chunks {spoilt} were found in the segments", files.len());
    // Readers ask every node, each for the chunks of which it is the first replica.
    until("damaged copies are found by readers and replaced", Duration::from_secs(60), || {
        assert_all_there(&cluster, &files);
        let store = &cluster.node_status(victim)["store"];
        store["damaged"].as_u64() >= Some(1) && store["damaged"] == store["repaired"]
    });
    assert_eq!(cluster.status()["health"], "ok", "what was replaced is no trouble any more");
    let is_replaced = |bytes: &[u8]| {
        let copies = find_in_segments(&cluster.nodes[victim].data, bytes);
        copies.iter().any(|(path, offset)| is_sound(path, *offset, bytes))
    };
    let (replaced, spoilt): (Files, Files) = files.into_iter().partition(|(_, bytes)| is_replaced(bytes));
    eprintln!("{} were read there and replaced, {} were not read there", replaced.len(), spoilt.len());
    assert!(!replaced.is_empty());
    leave_chunks_only_on(&mut cluster, victim);
    assert_all_there(&cluster, &replaced);
    // Each waits as long as a reader waits for the node that does not run.
    thread::scope(|scope| {
        for path in spoilt.keys() {
            let cluster = &cluster;
            scope.spawn(move || assert!(try_get(cluster, path).is_err(), "{path} is damaged and was shown"));
        }
    });
}

/// P1: "with none left, `EIO`. Never zeros, never old bytes."
#[test]
fn with_every_replica_corrupted_a_reader_gets_an_error_that_names_the_chunk() {
    let cluster = Cluster::start();
    let bytes = tree::bytes(43, 300_000);
    put(&cluster, "/file", &bytes);
    put(&cluster, "/other", b"still there");
    let spoilt: usize = (0..3).map(|index| spoil(&cluster, index, &bytes)).sum();
    assert!(spoilt >= 2, "a write quorum was found in the segments");
    let key = blake3::hash(&bytes).to_hex().to_string();
    let ran = try_get(&cluster, "/file").unwrap_err();
    eprintln!("{}", ran.stderr.trim());
    last_word(ran).fails(1, &["/file", &key]);
    let cat = cluster.dfs(["cat", "/file"]);
    assert!(cat.stdout.is_empty(), "nothing of a chunk that cannot be verified is shown");
    last_word(cat).fails(1, &["/file", &key]);
    assert_eq!(try_get(&cluster, "/other").unwrap(), b"still there");
    until("the damage is seen in the status", Duration::from_secs(20), || {
        cluster.status()["warnings"].as_array().is_some_and(|all| all.iter().any(|one| one["kind"] == "damaged"))
    });
}

/// "damage in a segment is skipped at the next aligned header, reported, and repaired from another replica".
#[test]
fn damage_that_a_node_finds_when_it_starts_without_an_index_is_repaired() {
    let mut cluster = Cluster::start();
    let bytes = tree::bytes(44, LEN);
    put(&cluster, "/file", &bytes);
    put(&cluster, "/after", &tree::bytes(45, 100_000));
    let victim = 2;
    cluster.nodes[victim].kill();
    // The header of a record stands in the 128 bytes before its payload.
    for (path, offset) in find_in_segments(&cluster.nodes[victim].data, &bytes) {
        flip(&path, offset - 100);
    }
    std::fs::remove_dir_all(cluster.nodes[victim].data.join("index")).unwrap();
    cluster.nodes[victim].start();
    cluster.wait_healthy();
    cluster.wait_replicated(victim);
    leave_chunks_only_on(&mut cluster, victim);
    assert_all_there(
        &cluster,
        &Files::from([("/file".to_owned(), bytes), ("/after".to_owned(), tree::bytes(45, 100_000))]),
    );
}
