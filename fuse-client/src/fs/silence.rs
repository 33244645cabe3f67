//! How long the cluster has been silent, and so how long an operation may wait for it. Pure: told of attempts and of time.
//!
//! A program's call may wait in the kernel for another's, for the lock of its directory, before we hear of it. That its
//! wait is over in time although all of them wait for a cluster that is gone, those that come later wait less.

use std::time::{Duration, Instant};

use super::OP_DEADLINE;

/// What one attempt to reach the cluster counts at most: when this process was stopped meanwhile, nobody was silent.
const ATTEMPT_MAX: Duration = Duration::from_secs(4);

/// How long an operation waits at least: the cluster may be back.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// Silence for longer than a leader is chosen in.
const LONG: Duration = Duration::from_secs(10);

/// What is kept for operations that come after those that wait already: a second for each of five.
const LATER_ONES: Duration = Duration::from_secs(5);

/// How long nothing was heard of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    before: Duration,
    trying_since: Option<Instant>,
}

impl Silence {
    /// The cluster is being asked.
    pub(crate) fn handle_attempt(&mut self, now: Instant) {
        self.trying_since.get_or_insert(now);
    }

    /// It has answered, whatever it said.
    pub(crate) fn handle_answer(&mut self) {
        *self = Self::default();
    }

    /// It did not answer, and is asked again.
    pub(crate) fn handle_failure(&mut self, now: Instant) {
        self.before = self.len(now);
        self.trying_since = Some(now);
    }

    fn len(&self, now: Instant) -> Duration {
        let trying = self.trying_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.before.saturating_add(trying.min(ATTEMPT_MAX))
    }

    /// Whether it lasts so long that nobody should wait for its end.
    pub(crate) fn is_long(&self, now: Instant) -> bool {
        self.len(now) >= LONG
    }

    /// How long an operation that begins now may take.
    pub(crate) fn patience(&self, now: Instant) -> Duration {
        let silent = self.len(now);
        if silent < PATIENCE_MIN {
            return OP_DEADLINE;
        }
        OP_DEADLINE.saturating_sub(LATER_ONES + silent).max(PATIENCE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{OP_DEADLINE, Silence};

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn who_comes_after_a_long_silence_waits_no_longer_than_those_before() {
        let start = Instant::now();
        let mut silence = Silence::default();
        assert_eq!(silence.patience(start), OP_DEADLINE);
        silence.handle_attempt(start);
        for attempt in 1..=4 {
            silence.handle_failure(start + seconds(4 * attempt));
            let patience = silence.patience(start + seconds(4 * attempt));
            assert!(seconds(4 * attempt) + patience <= OP_DEADLINE, "after {} s: {patience:?}", 4 * attempt);
        }
        silence.handle_failure(start + seconds(60));
        assert_eq!(silence.patience(start + seconds(60)), seconds(1), "it may be back: one try");
        silence.handle_answer();
        assert_eq!(silence.patience(start + seconds(61)), OP_DEADLINE);
    }

    #[test]
    fn a_process_that_was_stopped_does_not_take_its_own_sleep_for_silence() {
        let start = Instant::now();
        let mut silence = Silence::default();
        silence.handle_attempt(start);
        assert!(silence.patience(start + seconds(3600)) >= seconds(10));
        silence.handle_failure(start + seconds(3600));
        assert!(silence.patience(start + seconds(3600)) >= seconds(10));
    }
}
