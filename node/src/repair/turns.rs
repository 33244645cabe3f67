//! Turns at what a node gives to repair: who waits for one, and what counts as work for clients.
//!
//! # Invariants
//! - Turns are had in the order in which they were asked for.
//! - Nobody waits for a turn beyond a deadline, or holds memory for chunks of clients meanwhile.
//!
//! # Not here
//! When a turn may begin ([`super::pace`]).

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout};
use wire::Refusal;

use super::pace::{self, Pace};

/// Turns of one node; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Guards itself alone; never held across an await.
    pace: Mutex<Pace>,
    /// Held by the first of those that wait.
    queue: tokio::sync::Mutex<()>,
}

impl Turns {
    /// With a bound in bytes a second, if there is one.
    pub(super) fn new(bytes_per_s: Option<u64>) -> Self {
        let pace = Mutex::new(Pace::new(bytes_per_s, Instant::now()));
        Self { inner: Arc::new(Inner { pace, queue: tokio::sync::Mutex::default() }) }
    }

    /// A client is served as long as this is held.
    pub(crate) fn serve_client(&self) -> ClientServed {
        self.inner.pace.lock().handle_request(Instant::now());
        ClientServed(self.clone())
    }

    /// Waits until repair may work here; refused as busy when that is not to be by the deadline.
    pub(crate) async fn begin(&self, deadline: Duration) -> Result<Turn, Refusal> {
        timeout(deadline, self.next()).await.map_err(|_| Refusal::Busy)
    }

    async fn next(&self) -> Turn {
        let _first = self.inner.queue.lock().await;
        loop {
            let now = Instant::now();
            let turn = self.inner.pace.lock().poll_turn(now);
            match turn {
                pace::Turn::Begun => return Turn { of: self.clone(), began: now, bytes: 0 },
                pace::Turn::Wait { until } => sleep_until(until).await,
            }
        }
    }
}

/// A request of a client that is being served.
#[derive(Debug)]
pub(crate) struct ClientServed(Turns);

impl Drop for ClientServed {
    fn drop(&mut self) {
        self.0.inner.pace.lock().handle_request_end(Instant::now());
    }
}

/// Repair works as long as this is held.
#[derive(Debug)]
pub(crate) struct Turn {
    of: Turns,
    began: Instant,
    bytes: u64,
}

impl Turn {
    /// So many bytes move in it.
    pub(crate) fn note_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.of.inner.pace.lock().handle_turn_end(self.began, self.bytes, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;
    use wire::Refusal;

    use super::Turns;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn whoever_would_wait_too_long_for_a_turn_is_told_to_try_elsewhere_and_costs_others_nothing() {
        let turns = Turns::new(Some(1000));
        let mut first = turns.begin(SECOND).await.unwrap();
        first.note_bytes(3000);
        drop(first);
        let began = Instant::now();
        let (refused, had) = tokio::join!(turns.begin(SECOND), turns.begin(10 * SECOND));
        assert!(matches!(refused, Err(Refusal::Busy)), "{refused:?}");
        assert!(had.is_ok());
        assert_eq!(began.elapsed(), 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn beside_a_client_that_is_served_the_second_turn_waits_for_the_first() {
        let turns = Turns::new(None);
        let client = turns.serve_client();
        let first = turns.begin(SECOND).await.unwrap();
        assert!(turns.begin(SECOND / 10).await.is_err());
        drop((first, client));
        tokio::time::advance(10 * SECOND).await;
        let both = tokio::join!(turns.begin(SECOND), turns.begin(SECOND));
        assert!(both.0.is_ok() && both.1.is_ok());
    }
}
