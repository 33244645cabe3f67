//! Runs that failed once.

use harness::sim::Scenario;

use crate::report;

/// Seeds that once broke a promise.
const FAILED_BEFORE: [u64; 2] = [2000, 2002];

#[test]
fn replay_of_seeds_that_failed_before() {
    FAILED_BEFORE.into_iter().for_each(|seed| report(&Scenario::any(seed)));
}
