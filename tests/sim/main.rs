//! The production code under one seed: nodes and their clients in simulated time, network and disks.
//!
//! A run that fails names its scenario, seed included; put the seed into [`replays::FAILED_BEFORE`], where it stays.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what cannot go on should stop there, and say so")]

mod determinism;
mod promises;
mod replays;
mod seeds;

use harness::sim::{Scenario, run};

/// Runs a scenario and says how it was.
fn report(scenario: &Scenario) {
    let begin = std::time::Instant::now();
    let outcome = run(scenario);
    eprintln!(
        "seed {}: {} operations in {:.1} s of virtual and {:.1} s of real time, the slowest {:?}",
        scenario.seed,
        outcome.operations,
        outcome.elapsed.as_secs_f64(),
        begin.elapsed().as_secs_f64(),
        outcome.slowest,
    );
}
