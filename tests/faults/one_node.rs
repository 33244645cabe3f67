//! One node killed, and back.

use std::{
    thread,
    time::{Duration, Instant},
};

use harness::{Cluster, tree, wait::until};
use rustix::process::Signal;

use crate::store::{assert_all_there, leave_chunks_only_on, put, put_some};

/// P5: "chunk reads … go on at once; namespace reads, writes and operations within 5 seconds."
const OPERATION_MAX: Duration = Duration::from_secs(5);

#[test]
fn a_killed_node_is_seen_down_within_5_seconds_while_downloads_and_uploads_go_on() {
    let mut cluster = Cluster::start();
    let before = put_some(&cluster, "before", 100);
    let leader = cluster.leader();
    let victim = (leader + 1) % 3;
    cluster.nodes[victim].kill();
    let killed = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            for file in &before {
                let start = Instant::now();
                assert_all_there(&cluster, &[file].into_iter().map(|(p, b)| (p.clone(), b.clone())).collect());
                assert!(start.elapsed() < OPERATION_MAX, "{} took {:?}", file.0, start.elapsed());
            }
            eprintln!("downloads took {:?}", killed.elapsed());
        });
        scope.spawn(|| {
            let start = Instant::now();
            cluster.dfs(["mkdir", "/made-at-once"]).ok();
            assert!(start.elapsed() < OPERATION_MAX, "mkdir took {:?}", start.elapsed());
        });
        until("the node is seen down", Duration::from_secs(5), || cluster.node_status(victim)["state"] == "down");
        eprintln!("seen down after {:?}", killed.elapsed());
    });
    let status = cluster.status();
    assert_eq!(status["health"], "degraded");
    assert_eq!(status["warnings"][0]["kind"], "node-down");
    let meanwhile = put_some(&cluster, "meanwhile", 200);
    assert_all_there(&cluster, &meanwhile);
}

#[test]
fn a_node_that_returns_fetches_all_that_was_written_meanwhile() {
    let mut cluster = Cluster::start();
    let before = put_some(&cluster, "before", 300);
    let victim = (cluster.leader() + 2) % 3;
    cluster.nodes[victim].kill();
    let meanwhile = put_some(&cluster, "meanwhile", 400);
    cluster.nodes[victim].start();
    cluster.wait_healthy();
    cluster.wait_replicated(victim);
    leave_chunks_only_on(&mut cluster, victim);
    assert_all_there(&cluster, &meanwhile);
    assert_all_there(&cluster, &before);
}

#[test]
fn a_node_that_lost_all_its_chunks_fetches_them_again() {
    let mut cluster = Cluster::start();
    let files = put_some(&cluster, "file", 500);
    crate::store::lose_chunks(&mut cluster, 1);
    cluster.wait_healthy();
    cluster.wait_replicated(1);
    leave_chunks_only_on(&mut cluster, 1);
    assert_all_there(&cluster, &files);
}

/// "Fetches what this node lacks: after it returns".
#[test]
fn a_node_that_has_just_fetched_much_fetches_at_once_again_when_it_was_away_again() {
    let mut cluster = Cluster::start();
    let away = (cluster.leader() + 1) % 3;
    let state = |cluster: &Cluster| cluster.node_status(away)["state"].clone();
    cluster.nodes[away].kill();
    put(&cluster, "/much", &tree::bytes(70, 160 << 20));
    cluster.nodes[away].start();
    cluster.wait_replicated(away);
    cluster.nodes[away].signal(Signal::STOP);
    until("it counts as down", Duration::from_secs(20), || state(&cluster) == "down");
    put(&cluster, "/more", &tree::bytes(71, 70_000));
    cluster.nodes[away].signal(Signal::CONT);
    until("it is back", Duration::from_secs(20), || state(&cluster) == "up");
    cluster.wait_replicated(away);
}
