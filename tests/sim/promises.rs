//! P1, P2, P3, P4 and P5 under faults of each kind, and of all kinds.

use harness::sim::{Fault, Scenario};

use crate::report;

#[test]
fn a_node_cut_off_or_half_cut_off_stops_nothing() {
    for seed in 100..103 {
        report(&Scenario { seed, kinds: vec![Fault::Cut, Fault::Deaf, Fault::Mute], faults: 3 });
    }
}

#[test]
fn a_node_killed_or_without_power_stops_nothing_and_loses_nothing() {
    for seed in 200..203 {
        report(&Scenario { seed, kinds: vec![Fault::Kill, Fault::PowerLoss], faults: 3 });
    }
}

#[test]
fn a_power_cut_of_all_nodes_loses_nothing_that_was_acknowledged() {
    for seed in 300..303 {
        report(&Scenario { seed, kinds: vec![Fault::PowerLossOfAll], faults: 6 });
    }
}

#[test]
fn slow_links_lost_datagrams_and_a_failed_sync_corrupt_nothing() {
    for seed in 400..403 {
        report(&Scenario { seed, kinds: vec![Fault::Loss, Fault::Slow, Fault::FailedSync], faults: 3 });
    }
}

#[test]
fn nothing_acknowledged_is_lost_whatever_goes_wrong() {
    for seed in 500..506 {
        report(&Scenario { seed, kinds: Fault::ALL.to_vec(), faults: 4 });
    }
}
