//! A leader that hears nothing of a majority falls silent, so that the others can choose another.
//!
//! Its heartbeats may still arrive where the answers do not: those who hear them stay true to it, while it decides nothing any
//! more. The others find a leader within a second or so of its silence; should they not, it speaks again: as soon as it hears
//! of them, or after a while.
//!
//! Any word of a node counts, above all its heartbeat, which needs no disk: one that is slow to sync is heard all the same.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use ring::NodeId;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::candidacy;
use super::raft_types::Raft;

/// Without a word of a majority for as long, a leader falls silent: three heartbeats of nodes, and three times what an
/// election waits at most.
const DEAF_AFTER: Duration = Duration::from_millis(1500);

/// How long it stays so, if it hears nothing: twice what the others need to choose another.
const SILENT_FOR: Duration = Duration::from_secs(2);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// After a longer pause between two looks it was this node that stood still.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// Whom this node hears, and whether it says nothing to those who follow it.
#[derive(Debug, Default)]
pub(super) struct Ears {
    silent: AtomicBool,
    /// When each node was heard last. Guards itself alone.
    heard: Mutex<BTreeMap<NodeId, Instant>>,
}

impl Ears {
    /// A word of `node` has come.
    pub(super) fn note(&self, node: NodeId) {
        self.heard.lock().insert(node, Instant::now());
    }

    /// Whether nothing may be said that keeps others true to this node.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Since when a majority of the voters has been heard, this node among them; forgets who votes no longer.
    fn majority_heard(&self, own: NodeId, voters: &[NodeId]) -> Option<Instant> {
        let mut heard = self.heard.lock();
        heard.retain(|node, _| voters.contains(node));
        let mut last: Vec<Instant> =
            voters.iter().filter(|node| **node != own).filter_map(|node| heard.get(node)).copied().collect();
        last.sort_unstable_by(|one, other| other.cmp(one));
        // With this node, one less than a majority.
        last.get((voters.len() / 2).checked_sub(1)?).copied()
    }
}

/// What is known of a leadership.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Leading {
    term: u64,
    /// When a majority had been heard last.
    heard: Option<Instant>,
}

/// Whether a leader speaks. Pure.
#[derive(Debug, Default)]
struct Deafness {
    /// Of which term, and since when it speaks or is silent.
    since: Option<(u64, Instant)>,
    silent: bool,
    looked: Option<Instant>,
}

impl Deafness {
    /// Whether to be silent from now on. `leading`: none if this node does not lead others.
    fn poll(&mut self, now: Instant, leading: Option<Leading>) -> bool {
        let stood_still = self.looked.replace(now).is_some_and(|looked| now > looked + STOOD_STILL);
        let Some(Leading { term, heard }) = leading else {
            (self.since, self.silent) = (None, false);
            return false;
        };
        let since = match self.since {
            Some((of, since)) if of == term && !stood_still => since,
            _ => {
                (self.since, self.silent) = (Some((term, now)), false);
                now
            }
        };
        let turns = match self.silent {
            true => heard.is_some_and(|heard| heard > since) || now >= since + SILENT_FOR,
            false => now >= heard.map_or(since, |heard| heard.max(since)) + DEAF_AFTER,
        };
        if turns {
            (self.since, self.silent) = (Some((term, now)), !self.silent);
        }
        self.silent
    }
}

/// Looks until it is cancelled; also whether this node may stand for election.
pub(super) async fn watch(own: NodeId, raft: Raft, ears: Arc<Ears>, cancel: CancellationToken) {
    let mut deafness = Deafness::default();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            _ = ticks.tick() => {}
        }
        candidacy::look(&raft);
        let leading = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: Vec<NodeId> = metrics.membership_config.membership().voter_ids().map(|id| id.0).collect();
            (metrics.state.is_leader() && voters.len() > 1)
                .then(|| Leading { term: metrics.current_term, heard: ears.majority_heard(own, &voters) })
        };
        let silent = deafness.poll(Instant::now(), leading);
        match (ears.silent.swap(silent, Ordering::Relaxed), silent) {
            (false, true) => {
                tracing::warn!("this leader hears nothing of a majority: it leaves the choice to the others")
            }
            (true, false) => tracing::info!(still_leads = leading.is_some(), "this node speaks again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ring::NodeId;
    use tokio::time::Instant;

    use super::{DEAF_AFTER, Deafness, Ears, LOOK_EVERY, Leading, SILENT_FOR, STOOD_STILL};

    const TERM: u64 = 3;

    /// Looks every 100 ms from `from` to `to`, and says what the last one came to.
    fn look(deafness: &mut Deafness, from: Instant, to: Instant, heard: Option<Instant>) -> bool {
        let mut at = from;
        let mut silent = false;
        while at <= to {
            silent = deafness.poll(at, Some(Leading { term: TERM, heard }));
            at += LOOK_EVERY;
        }
        silent
    }

    #[test]
    fn a_leader_that_hears_nothing_is_silent_after_a_while_and_tries_again() {
        let (start, mut deafness) = (Instant::now(), Deafness::default());
        let heard = Some(start + DEAF_AFTER / 3);
        assert!(!look(&mut deafness, start, start + DEAF_AFTER, heard), "there was a word meanwhile");
        let silent = start + DEAF_AFTER / 3 + DEAF_AFTER;
        assert!(look(&mut deafness, start + DEAF_AFTER + LOOK_EVERY, silent, heard));
        assert!(look(&mut deafness, silent + LOOK_EVERY, silent + SILENT_FOR - LOOK_EVERY, heard));
        let speaks = silent + SILENT_FOR;
        assert!(!look(&mut deafness, speaks, speaks + DEAF_AFTER - LOOK_EVERY, heard), "maybe it was they");
        let again = speaks + DEAF_AFTER;
        assert!(look(&mut deafness, again, again + LOOK_EVERY, heard));
        let word = again + LOOK_EVERY * 2;
        assert!(!look(&mut deafness, word, word + DEAF_AFTER - LOOK_EVERY, Some(word)), "a word ends the silence");
    }

    #[test]
    fn whoever_does_not_lead_or_leads_anew_or_stood_still_speaks() {
        let (start, mut deafness) = (Instant::now(), Deafness::default());
        assert!(look(&mut deafness, start, start + DEAF_AFTER, None));
        assert!(!deafness.poll(start + DEAF_AFTER, None));
        let start = start + DEAF_AFTER;
        assert!(look(&mut deafness, start, start + DEAF_AFTER, None));
        assert!(!deafness.poll(start + DEAF_AFTER, Some(Leading { term: TERM + 1, heard: None })));
        let start = start + DEAF_AFTER + STOOD_STILL * 4;
        assert!(!look(&mut deafness, start, start + DEAF_AFTER - LOOK_EVERY, None), "it was this node that slept");
    }

    #[test]
    fn a_majority_is_heard_since_its_last_member_was() {
        let node = |number: u8| NodeId::from_bytes([number; 16]);
        let (start, ears) = (Instant::now(), Ears::default());
        let hear = |number: u8, seconds: u64| {
            ears.heard.lock().insert(node(number), start + Duration::from_secs(seconds));
        };
        let since = |voters: &[u8]| {
            let voters: Vec<NodeId> = voters.iter().copied().map(node).collect();
            ears.majority_heard(node(1), &voters).map(|at| at.duration_since(start).as_secs())
        };
        assert_eq!(since(&[1, 2, 3]), None);
        hear(2, 5);
        assert_eq!(since(&[1, 2, 3]), Some(5));
        hear(3, 9);
        assert_eq!(since(&[1, 2, 3]), Some(9), "one of two others is enough");
        assert_eq!(since(&[1, 2]), Some(5), "who votes no longer is not heard");
        assert_eq!(since(&[1, 2, 3, 4]), None, "of four, two others are needed");
        hear(3, 9);
        hear(4, 7);
        assert_eq!(since(&[1, 2, 3, 4, 5]), Some(7));
    }
}
