//! A member whose key-value store was lost: the log no longer reaches back to the beginning, so the rows come from
//! another member before the Raft library starts. Log and vote stay: what this node promised, it keeps.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use ring::NodeId;
use tokio::time::{Instant, sleep};

use super::error::{OpenError, TransportError};
use super::message::{Answer, Message};
use super::network::RaftTransport;
use super::raft_types::LogId;
use super::snapshot::{Pages, Spool, SpooledSnapshot};
use super::state_machine::read_state;
use super::words::StateWords;
use crate::kv::KvStore;

/// For one page, and how long a round of askings rests.
const PAGE_DEADLINE: Duration = Duration::from_secs(10);
const ROUND_REST: Duration = Duration::from_millis(500);

/// A view that nobody has read on for so long is given up: as long as it is there, the store keeps every row that it shows.
const LENT_MAX: Duration = Duration::from_secs(60);

/// After this without a member that gives its rows, the start fails and says so; whoever starts nodes tries again.
const SEARCH_DEADLINE: Duration = Duration::from_secs(60);

/// Gives the rows of this node's store to one member at a time.
#[derive(Default)]
pub(super) struct Lender {
    /// Guards the view that is being read; held for the reading of one page.
    lent: Mutex<Option<Lent>>,
}

struct Lent {
    to: NodeId,
    state: StateWords,
    pages: Pages,
    next: u64,
    /// When the last page was asked for.
    asked: Instant,
}

impl Lender {
    /// Page `number` for `to`.
    pub(super) fn page(&self, to: NodeId, number: u64, kv: &dyn KvStore, now: Instant) -> Answer {
        let mut lent = self.lent.lock();
        if number == 0 {
            let rows = kv.snapshot();
            // From the view itself, so that it is exactly what the pages hold.
            let Ok(state) = read_state(&*rows) else { return Answer::PagesLost };
            if state.last_log_id.is_none() {
                return Answer::PagesLost;
            }
            *lent = Some(Lent { to, state: (&state).into(), pages: Pages::new(rows), next: 0, asked: now });
        }
        let Some(current) = lent.as_mut().filter(|lent| lent.to == to && lent.next == number) else {
            return Answer::PagesLost;
        };
        (current.next, current.asked) = (current.next + 1, now);
        let state = current.state.clone();
        match current.pages.next_page() {
            Ok(Some(page)) => Answer::Page { state, page: page.into() },
            Ok(None) => {
                *lent = None;
                Answer::Page { state, page: Vec::new() }
            }
            Err(error) => {
                tracing::error!(%error, "the rows cannot be read for another member");
                Answer::PagesLost
            }
        }
    }

    /// Takes back what whoever wanted it has left.
    pub(super) fn handle_time(&self, now: Instant) {
        let mut lent = self.lent.lock();
        if lent.as_ref().is_some_and(|lent| now.saturating_duration_since(lent.asked) >= LENT_MAX) {
            *lent = None;
        }
    }
}

/// Fetches rows that reach at least to `purged` from one of `members` into the spool.
pub(super) async fn fetch(
    transport: &Arc<dyn RaftTransport>,
    members: &[NodeId],
    purged: LogId,
    spool: &Spool,
) -> Result<SpooledSnapshot, OpenError> {
    let begun = Instant::now();
    let mut reason = String::from("no other member is known");
    while !members.is_empty() && begun.elapsed() < SEARCH_DEADLINE {
        for &member in members {
            match fetch_from(transport, member, purged, spool).await {
                Ok(spooled) => return Ok(spooled),
                Err(error) => reason = error.to_string(),
            }
        }
        sleep(ROUND_REST).await;
    }
    Err(OpenError::Behind { purged: purged.index, reason })
}

/// Why one member did not help: ask the next.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the member has no rows to give, or they are too old")]
    Useless,
    #[error("the rows cannot be kept: {0}")]
    Disk(#[from] std::io::Error),
}

async fn fetch_from(
    transport: &Arc<dyn RaftTransport>,
    member: NodeId,
    purged: LogId,
    spool: &Spool,
) -> Result<SpooledSnapshot, FetchError> {
    let mut incoming = spool.begin().await?;
    for number in 0.. {
        let message = postcard::to_stdvec(&Message::Want { number }).expect("our own messages always encode");
        let answer = transport.send(member, message, Bytes::new(), PAGE_DEADLINE).await?;
        let Ok(Answer::Page { state, page }) = postcard::from_bytes(&answer) else { return Err(FetchError::Useless) };
        if state.applied.is_none_or(|applied| applied.index < purged.index) {
            return Err(FetchError::Useless);
        }
        if page.is_empty() {
            return Ok(spool.finish_own(incoming, state).await?);
        }
        incoming.push(page.into()).await?;
    }
    unreachable!("the loop counts to more pages than there can be")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        consensus::{
            raft_types::SnapshotMeta,
            state_machine::{STATE_KEY, encode_state},
            words::LogIdWords,
        },
        kv::{MemoryKv, WriteBatch},
    };

    #[test]
    fn a_view_that_nobody_reads_on_is_taken_back_after_a_while() {
        let kv = MemoryKv::new();
        let last_log_id = Some(LogIdWords { term: 1, node: NodeId::from_bytes([1; 16]), index: 7 }.into());
        let mut batch = WriteBatch::default();
        batch.put(STATE_KEY, encode_state(&SnapshotMeta { last_log_id, ..SnapshotMeta::default() }));
        batch.put(*b"a row", *b"its value");
        kv.commit(batch).unwrap();
        let (lender, to, now) = (Lender::default(), NodeId::from_bytes([2; 16]), Instant::now());
        let is_page = |answer: Answer| matches!(answer, Answer::Page { .. });
        assert!(is_page(lender.page(to, 0, &kv, now)));
        lender.handle_time(now + LENT_MAX / 2);
        assert!(is_page(lender.page(to, 1, &kv, now + LENT_MAX / 2)), "it is read on");
        assert!(is_page(lender.page(to, 0, &kv, now)));
        lender.handle_time(now + LENT_MAX);
        assert!(lender.lent.lock().is_none());
        assert!(!is_page(lender.page(to, 1, &kv, now + LENT_MAX)), "it begins again");
    }
}
