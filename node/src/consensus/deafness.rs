//! A leader that is not answered falls silent, so that the others can choose another.
//!
//! Its heartbeats may still arrive where the answers do not: those who hear them stay true to it, while it decides nothing any
//! more. The others find a leader within a second or so of its silence; should they not, because it was they who could not
//! answer, it speaks again after a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::raft_types::Raft;

/// Without answers of a majority for as long, a leader falls silent: three times what an election waits at most, for a
/// machine that is short of time is slow in both directions.
const DEAF_AFTER: Duration = Duration::from_millis(1500);

/// How long it stays so: twice what the others need to choose another.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether this node says nothing to those who follow it.
pub(super) type Silence = Arc<AtomicBool>;

/// What is known of a leadership.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Leading {
    term: u64,
    /// When it said last what a majority has answered.
    answered: Option<Instant>,
}

/// Whether a leader speaks. Pure.
#[derive(Debug, Default)]
struct Deafness {
    /// Of which term, and since when it speaks or is silent.
    since: Option<(u64, Instant)>,
    silent: bool,
}

impl Deafness {
    /// Whether to be silent from now on. `leading`: none if this node does not lead others.
    fn poll(&mut self, now: Instant, leading: Option<Leading>) -> bool {
        let Some(Leading { term, answered }) = leading else {
            *self = Self::default();
            return false;
        };
        let since = match self.since {
            Some((of, since)) if of == term => since,
            _ => {
                *self = Self { since: Some((term, now)), silent: false };
                now
            }
        };
        let turns = match self.silent {
            true => now >= since + SILENT_FOR,
            false => now >= answered.map_or(since, |answered| answered.max(since)) + DEAF_AFTER,
        };
        if turns {
            *self = Self { since: Some((term, now)), silent: !self.silent };
        }
        self.silent
    }
}

/// Looks until it is cancelled.
pub(super) async fn watch(raft: Raft, silence: Silence, cancel: CancellationToken) {
    let mut deafness = Deafness::default();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        let leading = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let is_alone = metrics.membership_config.membership().voter_ids().count() <= 1;
            (metrics.state.is_leader() && !is_alone).then(|| Leading {
                term: metrics.current_term,
                answered: metrics.last_quorum_acked.and_then(|acked| now.checked_sub(acked.elapsed())),
            })
        };
        let silent = deafness.poll(now, leading);
        if silence.swap(silent, Ordering::Relaxed) != silent {
            let term = leading.map(|leading| leading.term);
            tracing::warn!(silent, ?term, "a majority does not answer this leader");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::{DEAF_AFTER, Deafness, LOOK_EVERY, Leading, SILENT_FOR};

    #[test]
    fn a_leader_is_silent_after_a_while_without_answers_and_tries_again() {
        let start = Instant::now();
        let mut deafness = Deafness::default();
        let unheard = |answered| Some(Leading { term: 3, answered });
        assert!(!deafness.poll(start, unheard(None)));
        let answered = start + DEAF_AFTER / 2;
        assert!(!deafness.poll(start + DEAF_AFTER, unheard(Some(answered))), "somebody answered meanwhile");
        assert!(deafness.poll(answered + DEAF_AFTER, unheard(Some(answered))));
        let silent = answered + DEAF_AFTER;
        assert!(deafness.poll(silent + SILENT_FOR - LOOK_EVERY, unheard(Some(answered))));
        assert!(!deafness.poll(silent + SILENT_FOR, unheard(Some(answered))), "maybe it was they");
        assert!(!deafness.poll(silent + SILENT_FOR + DEAF_AFTER - LOOK_EVERY, unheard(Some(answered))));
        assert!(deafness.poll(silent + SILENT_FOR + DEAF_AFTER, unheard(Some(answered))));
    }

    #[test]
    fn whoever_does_not_lead_others_and_whoever_leads_anew_speaks() {
        let start = Instant::now();
        let mut deafness = Deafness::default();
        assert!(!deafness.poll(start, Some(Leading { term: 3, answered: None })));
        assert!(deafness.poll(start + DEAF_AFTER, Some(Leading { term: 3, answered: None })));
        assert!(!deafness.poll(start + DEAF_AFTER, None));
        assert!(!deafness.poll(start + DEAF_AFTER, Some(Leading { term: 4, answered: None })));
        assert!(deafness.poll(start + 2 * DEAF_AFTER, Some(Leading { term: 4, answered: Some(start) })));
        assert!(!deafness.poll(start + 2 * DEAF_AFTER, Some(Leading { term: 5, answered: None })));
    }
}
