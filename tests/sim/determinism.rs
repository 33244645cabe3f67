//! A seed is a run.

use harness::sim::{Fault, Scenario, first_difference, run};

fn scenario(seed: u64) -> Scenario {
    Scenario::of_three(seed, &[Fault::Cut, Fault::PowerLoss, Fault::Loss, Fault::FailedSync], 3)
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let first = run(&scenario(1)).trace;
    let second = run(&scenario(1)).trace;
    if let Some(difference) = first_difference(&first, &second) {
        panic!("the same seed gives two traces:\n{difference}");
    }
    assert!(first.lines().count() > 200, "the trace says too little:\n{first}");
    let other = run(&scenario(2)).trace;
    assert!(first_difference(&first, &other).is_some(), "another seed gives the same trace");
}
