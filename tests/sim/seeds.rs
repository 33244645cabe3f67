//! Whatever the seed says: all kinds of faults, on clusters of all kinds.
//!
//! `DFS_SIM_SEED=7 cargo test -p tests --test sim seeds::chosen` runs seed 7 alone, and `7..30` those from 7 to 29, which is
//! what `scripts/simulate` does.

use harness::sim::Scenario;

use crate::report;

/// Nothing acknowledged is lost, whatever goes wrong.
fn run(seeds: impl Iterator<Item = u64>) {
    seeds.for_each(|seed| report(&Scenario::any(seed)));
}

#[test]
fn chosen() {
    let Ok(chosen) = std::env::var("DFS_SIM_SEED") else { return };
    let seed = |text: &str| text.parse::<u64>().unwrap();
    match chosen.split_once("..") {
        Some((first, end)) => run(seed(first)..seed(end)),
        None => run(std::iter::once(seed(&chosen))),
    }
}
