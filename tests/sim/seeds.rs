//! Whatever the seed says: all kinds of faults, on clusters of all kinds. P6, "No wall clock and no luck in safety": the clocks
//! of the nodes are wrong by days.
//!
//! `scripts/simulate --seeds 0..1000` runs as many as that, each with its seed in `DFS_SIM_SEED`.

use harness::sim::Scenario;

use crate::report;

#[test]
fn nothing_acknowledged_is_lost_whatever_the_seed_says() {
    let chosen = std::env::var("DFS_SIM_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in chosen.map_or(0..4, |seed| seed..seed + 1) {
        report(&Scenario::any(seed));
    }
}
