//! Waiting for something to become true.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` is true; fails the test, saying what was waited for, after `deadline`.
pub fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < deadline, "{what}: not within {deadline:?}");
        thread::sleep(POLL);
    }
}
