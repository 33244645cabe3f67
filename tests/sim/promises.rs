//! P1 to P5 under faults of each kind, and of all kinds, on three nodes and on more, some of which come and go.
//!
//! Each test is a few dozen seeds, so that they run beside each other; `scripts/simulate` runs thousands.

use harness::sim::{Fault, Scenario};

use crate::report;

#[test]
fn a_node_cut_off_or_half_cut_off_stops_nothing() {
    for seed in 100..104 {
        report(&Scenario::of_three(seed, &[Fault::Cut, Fault::Deaf, Fault::Mute], 3));
    }
}

#[test]
fn a_node_killed_or_without_power_stops_nothing_and_loses_nothing() {
    for seed in 200..204 {
        report(&Scenario::of_three(seed, &[Fault::Kill, Fault::PowerLoss], 3));
    }
}

#[test]
fn a_power_cut_of_all_nodes_loses_nothing_that_was_acknowledged() {
    for seed in 300..304 {
        report(&Scenario::of_three(seed, &[Fault::PowerLossOfAll], 6));
    }
}

#[test]
fn slow_links_lost_datagrams_and_a_failed_sync_corrupt_nothing() {
    for seed in 400..404 {
        report(&Scenario::of_three(seed, &[Fault::Loss, Fault::Slow, Fault::FailedSync], 3));
    }
}
