//! Runs that failed once, and one of the reader's choice: `DFS_SIM_SEED=7 cargo test -p tests --test sim replay`.

use harness::sim::{Fault, Scenario};

use crate::report;

/// Seeds of all kinds of faults that once broke a promise.
const FAILED_BEFORE: [u64; 2] = [2000, 2002];

#[test]
fn replay_of_seeds_that_failed_before() {
    let chosen = std::env::var("DFS_SIM_SEED").ok().map(|seed| seed.parse().unwrap());
    for seed in FAILED_BEFORE.into_iter().chain(chosen) {
        report(&Scenario { seed, kinds: Fault::ALL.to_vec(), faults: 4 });
    }
}
