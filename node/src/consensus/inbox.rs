//! A snapshot as it comes in: pages in order, into the spool, then to the Raft library.

use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::Snapshot;
use ring::NodeId;
use tokio::sync::Mutex;
use tokio_util::task::TaskTracker;

use super::message::Answer;
use super::raft_types::Raft;
use super::snapshot::{Incoming, PAGE_LEN_MAX, Spool, SpooledSnapshot};
use super::state_machine::SnapshotData;
use super::words::{StateWords, VoteWords};

/// Receives one snapshot at a time; a newer one takes the place of one that is not whole yet.
#[derive(Debug)]
pub(super) struct Inbox {
    spool: Arc<Spool>,
    receiving: Mutex<Receiving>,
}

/// A sender and its number for the snapshot.
type Transfer = (NodeId, u64);

#[derive(Debug)]
enum Receiving {
    Nothing,
    Pages { transfer: Transfer, next: u64, incoming: Incoming },
    Installing { transfer: Transfer },
    Installed { transfer: Transfer, vote: VoteWords },
}

/// How a snapshot ends.
pub(super) struct PagesEnd {
    pub(super) pages: u64,
    pub(super) digest: [u8; 32],
    pub(super) vote: VoteWords,
    pub(super) state: StateWords,
}

impl Inbox {
    pub(super) fn new(spool: Arc<Spool>) -> Self {
        Self { spool, receiving: Mutex::new(Receiving::Nothing) }
    }

    /// Takes a page.
    pub(super) async fn page(&self, transfer: Transfer, number: u64, page: Bytes) -> Answer {
        let mut receiving = self.receiving.lock().await;
        if page.len() > PAGE_LEN_MAX || matches!(*receiving, Receiving::Installing { .. }) {
            return Answer::PagesLost;
        }
        if number == 0 {
            match self.spool.begin().await {
                Ok(incoming) => *receiving = Receiving::Pages { transfer, next: 0, incoming },
                Err(error) => return refuse(&mut receiving, &error),
            }
        }
        match &mut *receiving {
            Receiving::Pages { transfer: current, next, incoming } if *current == transfer && *next == number => {
                *next += 1;
                match incoming.push(page).await {
                    Ok(()) => Answer::PageTaken,
                    Err(error) => refuse(&mut receiving, &error),
                }
            }
            _ => Answer::PagesLost,
        }
    }

    /// The sender says that the snapshot is whole.
    pub(super) async fn end(
        self: Arc<Self>,
        transfer: Transfer,
        end: PagesEnd,
        raft: &Raft,
        tasks: &TaskTracker,
    ) -> Answer {
        let mut receiving = self.receiving.lock().await;
        let incoming = match std::mem::replace(&mut *receiving, Receiving::Nothing) {
            Receiving::Pages { transfer: current, next, incoming } if current == transfer && next == end.pages => {
                incoming
            }
            // A snapshot without rows has no page that could have begun it.
            Receiving::Nothing | Receiving::Installed { .. } if end.pages == 0 => match self.spool.begin().await {
                Ok(incoming) => incoming,
                Err(error) => return refuse(&mut receiving, &error),
            },
            other => {
                *receiving = other;
                return Answer::PagesLost;
            }
        };
        let spooled = match self.spool.finish(incoming, end.state, end.digest).await {
            Ok(Some(spooled)) => spooled,
            Ok(None) => return Answer::PagesLost,
            Err(error) => return refuse(&mut receiving, &error),
        };
        *receiving = Receiving::Installing { transfer };
        drop(receiving);
        let inbox = Arc::clone(&self);
        let raft = raft.clone();
        tasks.spawn(async move { inbox.install(transfer, end.vote, spooled, raft).await });
        Answer::Installing
    }

    /// How far the installation is.
    pub(super) async fn status(&self, transfer: Transfer) -> Answer {
        match &*self.receiving.lock().await {
            Receiving::Installing { transfer: current } if *current == transfer => Answer::Installing,
            Receiving::Installed { transfer: current, vote } if *current == transfer => {
                Answer::Installed { vote: *vote }
            }
            _ => Answer::PagesLost,
        }
    }

    async fn install(&self, transfer: Transfer, vote: VoteWords, spooled: SpooledSnapshot, raft: Raft) {
        let result = match spooled.meta() {
            Some(meta) => {
                let snapshot = Snapshot { meta, snapshot: SnapshotData::Spooled(spooled) };
                raft.install_full_snapshot(vote.into(), snapshot).await.ok()
            }
            None => None,
        };
        // If it was not needed after all, it is still in the spool.
        if let Err(error) = self.spool.clear().await {
            tracing::warn!(%error, "the spool of snapshots cannot be cleared");
        }
        *self.receiving.lock().await = match result {
            Some(response) => Receiving::Installed { transfer, vote: (&response.vote).into() },
            None => Receiving::Nothing,
        };
    }
}

fn refuse(receiving: &mut Receiving, error: &std::io::Error) -> Answer {
    tracing::error!(%error, "a snapshot cannot be received");
    *receiving = Receiving::Nothing;
    Answer::PagesLost
}
