//! The clock on the wall: for times that people see, never for decisions.

use std::time::{SystemTime, UNIX_EPOCH};

use wire::namespace::Timestamp;

/// The time of day: what a file that was written here shows as its mtime.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp::new(seconds, since.subsec_nanos()).expect("nanoseconds of a second are fewer than a billion")
}
