//! Random histories of clusters: what is promised of a ring and of a transition holds after every change.
//!
//! `cargo bench -p ring --bench history` does the same with 10,000 nodes, and says how long each change takes.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what cannot go on should stop there, and say so")]

#[path = "history/cluster.rs"]
mod cluster;

use cluster::{Chance, Cluster};

/// DESIGN: "max/fair load ≤ 1.01 at ≥ 100 partitions a node; moves ≤ 1.02 × the lower bound on join, leave and reweight".
#[test]
fn joins_leaves_and_lost_zones_in_any_order_keep_balance_and_distance_and_move_little_more_than_the_bound() {
    for seed in 1..=12 {
        let mut chance = Chance::new(seed);
        let (nodes, zones) = (40 + chance.below(60), [3, 4, 5, 12][chance.below(4)]);
        eprintln!("seed {seed}: {nodes} nodes in {zones} zones");
        let mut cluster = Cluster::new(seed, nodes, zones, 12);
        let (mut moves, mut moves_min) = (0, 0);
        for _ in 0..12 {
            let event = cluster.any_event();
            cluster.apply(event);
            let change = cluster.check(cluster.solve());
            eprintln!(
                "  {event:?}: {} nodes, {} moves of {}, {:.4}",
                change.nodes, change.moves, change.moves_min, change.max_to_fair
            );
            (moves, moves_min) = (moves + change.moves, moves_min + change.moves_min);
            cluster.carry_out(change);
        }
        assert!(moves * 100 <= moves_min * 102, "{moves} moves in all, {moves_min} would do");
    }
}
