//! Every node killed at the same moment.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use harness::{Cluster, tree, wait::until};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::Signal;

use crate::store::{Client, Files, assert_all_there, try_get};

const ROUNDS: u32 = 4;

/// Uploads that return in one round before the kill, at most.
const UPLOADS_MAX: u32 = 24;

const WRITERS: u64 = 3;

/// What writers know: files whose upload has returned, and files whose upload failed.
#[derive(Debug, Default)]
struct Written {
    acknowledged: Files,
    uncertain: Files,
}

/// Writes files one after the other until told to stop.
fn write_until(client: &Client, stop: &AtomicBool, stored: &AtomicU32, name: &str, seed: u64) -> Written {
    let mut written = Written::default();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let len = [900, 60_000, (4 << 20) + 77, 5000][number % 4];
        let path = format!("/{name}-{number}");
        let bytes = tree::bytes(seed * 1000 + number as u64, len);
        if client.try_put(&path, &bytes).status == 0 {
            stored.fetch_add(1, Ordering::Relaxed);
            written.acknowledged.insert(path, bytes);
        } else {
            written.uncertain.insert(path, bytes);
        }
        number += 1;
    }
    written
}

/// P2: "`kill -9` or a power cut of every machine, disks intact, loses nothing"; what was not acknowledged is there as
/// a whole or not at all.
#[test]
fn all_nodes_killed_at_once_lose_nothing_that_was_acknowledged_and_leave_nothing_half() {
    let seed = 20_261;
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start();
    let mut all = Files::new();
    for round in 0..ROUNDS {
        let (stop, stored) = (AtomicBool::new(false), AtomicU32::new(0));
        let enough = rng.random_range(1..UPLOADS_MAX);
        let client = Client::of(&cluster);
        let written: Vec<Written> = thread::scope(|scope| {
            let (client, stop, stored) = (&client, &stop, &stored);
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let name = format!("round-{round}-writer-{writer}");
                    let seed = u64::from(round) * WRITERS + writer;
                    scope.spawn(move || write_until(client, stop, stored, &name, seed))
                })
                .collect();
            until("enough is stored", Duration::from_secs(60), || stored.load(Ordering::Relaxed) >= enough);
            for node in &cluster.nodes {
                node.signal(Signal::KILL);
            }
            stop.store(true, Ordering::Relaxed);
            for node in &mut cluster.nodes {
                node.kill();
            }
            for node in &mut cluster.nodes {
                node.start();
            }
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        until("the cluster serves again", Duration::from_secs(20), || cluster.dfs(["ls", "/"]).status == 0);
        let (mut there, mut absent) = (0, 0);
        for Written { acknowledged, uncertain } in written {
            all.extend(acknowledged);
            for (path, bytes) in uncertain {
                match try_get(&cluster, &path) {
                    Ok(found) => {
                        assert!(found == bytes, "{path} was not acknowledged and is there in part");
                        there += 1;
                        all.insert(path, bytes);
                    }
                    Err(ran) => {
                        ran.fails(1, &[&path, "no such file"]);
                        absent += 1;
                    }
                }
            }
        }
        eprintln!(
            "round {round}: killed after {enough} uploads; {} stored, {there} unsure there, {absent} not",
            all.len()
        );
    }
    assert!(!all.is_empty());
    assert_all_there(&cluster, &all);
    let listed = cluster.dfs(["ls", "-A", "/"]).ok();
    let known: Vec<&str> = all.keys().map(|path| path.trim_start_matches('/')).collect();
    let strays: Vec<&str> = listed.lines().filter(|name| !known.contains(name)).collect();
    assert!(strays.is_empty(), "left over: {strays:?}");
    cluster.wait_healthy();
}
