//! Ten thousand nodes that join, leave, change their weights and lose whole zones:
//! `cargo bench -p ring --bench history -- [SEED [CHANGES [NODES [ZONES [BITS]]]]]`.
//!
//! A plain program: it prints what each change costs, and stops where a promise is broken.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark prints its table, and stops at what is wrong"
)]
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

#[path = "../tests/history/cluster.rs"]
mod cluster;

use std::time::Instant;

use cluster::Cluster;

fn main() {
    let given: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let given = |at: usize, otherwise: u64| given.get(at).copied().unwrap_or(otherwise);
    let (seed, changes) = (given(0, 1), given(1, 40));
    let (nodes, zones, bits) = (given(2, 10_000) as usize, given(3, 40) as usize, given(4, 19) as u8);
    println!("seed {seed}: {nodes} nodes in {zones} zones, 2^{bits} partitions of three replicas");
    let begin = Instant::now();
    let mut cluster = Cluster::new(seed, nodes, zones, bits);
    println!("the first ring: {:.2} s", begin.elapsed().as_secs_f64());
    println!("{:<16} {:>7} {:>8} {:>8} {:>8} {:>8}", "", "nodes", "solve s", "moves", "bound", "max/fair");
    let (mut moves, mut moves_min, mut slowest) = (0, 0, 0.0);
    for _ in 0..changes {
        let event = cluster.any_event();
        cluster.apply(event);
        let begin = Instant::now();
        let solved = cluster.solve();
        let took = begin.elapsed().as_secs_f64();
        let change = cluster.check(solved);
        println!(
            "{:<16} {:>7} {took:>8.3} {:>8} {:>8} {:>8.4}",
            format!("{event:?}"),
            change.nodes,
            change.moves,
            change.moves_min,
            change.max_to_fair
        );
        (moves, moves_min, slowest) = (moves + change.moves, moves_min + change.moves_min, f64::max(slowest, took));
        cluster.carry_out(change);
    }
    println!("{changes} changes: {moves} moves of at least {moves_min}, the slowest solved in {slowest:.2} s");
    assert!(moves * 100 <= moves_min * 102, "more moves than promised");
}
