//! The wall clock of the system: what the leader stamps commands with.

use std::time::{SystemTime, UNIX_EPOCH};

use wire::namespace::Timestamp;

use super::WallClock;

/// The clock of the operating system. Set before 1970 it says 1970: no time in rows may be without meaning.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        Timestamp::new(seconds, since.subsec_nanos()).expect("a Duration has fewer nanoseconds than a second")
    }
}
