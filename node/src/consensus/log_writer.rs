//! The one task that makes the Raft log durable: syncs, votes and purges, in the order in which they were asked for.
//!
//! # Invariants
//! - Syncs that wait side by side share one sync of the disk.
//! - After a failure everything that follows fails: the library stops the node.

use std::io;
use std::sync::Arc;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::log_store::Shared;
use super::raft_types::Types;
use super::words::{LogIdWords, VoteWords};
use crate::append_log::Appended;
use crate::append_log::slots::Slots;

/// What is asked of the writer.
pub(super) enum Work {
    /// Entries up to `end` were appended: call back when they are durable.
    Sync { last: Option<Appended>, end: u64, callback: IOFlushed<Types> },
    /// Make the vote durable.
    Vote { vote: VoteWords, done: oneshot::Sender<io::Result<()>> },
    /// Make the purge point durable and forget the entries.
    Purge { id: LogIdWords, done: oneshot::Sender<io::Result<()>> },
}

/// Appends that one sync covers at most: a bound for the list below, never reached at the queue's length.
const GROUP_LEN_MAX: usize = 1024;

pub(super) struct LogWriter {
    shared: Arc<Shared>,
    vote: Slots,
    purged: Slots,
    failed: bool,
}

impl LogWriter {
    pub(super) fn new(shared: Arc<Shared>, vote: Slots, purged: Slots) -> Self {
        Self { shared, vote, purged, failed: false }
    }

    /// Works until all handles on the log are gone.
    pub(super) async fn run(mut self, mut work: mpsc::Receiver<Work>) {
        let mut group = Vec::new();
        while work.recv_many(&mut group, GROUP_LEN_MAX).await > 0 {
            let mut syncs = Vec::new();
            for item in group.drain(..) {
                match item {
                    Work::Sync { last, end, callback } => syncs.push((last, end, callback)),
                    Work::Vote { vote, done } => {
                        self.sync(std::mem::take(&mut syncs)).await;
                        // The library has gone: nobody wants to know.
                        done.send(self.save_vote(vote).await).ok();
                    }
                    Work::Purge { id, done } => {
                        self.sync(std::mem::take(&mut syncs)).await;
                        done.send(self.purge(id).await).ok();
                    }
                }
            }
            self.sync(syncs).await;
        }
    }

    async fn sync(&mut self, group: Vec<(Option<Appended>, u64, IOFlushed<Types>)>) {
        let Some(last) = group.iter().rev().find_map(|(last, ..)| *last) else {
            group.into_iter().for_each(|(_, _, callback)| callback.io_completed(Ok(())));
            return;
        };
        let result = match self.failed {
            true => Err(failed()),
            false => self.shared.log.sync_to(&last).await.map(drop).map_err(io::Error::other),
        };
        self.failed |= result.is_err();
        if let Err(error) = &result {
            tracing::error!(%error, "the Raft log cannot be made durable");
        }
        for (_, end, callback) in group {
            match &result {
                Ok(()) => {
                    self.shared.table.lock().durable(end);
                    callback.io_completed(Ok(()));
                }
                Err(error) => callback.io_completed(Err(io::Error::other(error.to_string()))),
            }
        }
    }

    async fn save_vote(&mut self, vote: VoteWords) -> io::Result<()> {
        self.write(Slot::Vote, postcard::to_stdvec(&vote).expect("a vote always encodes")).await?;
        *self.shared.vote.lock() = Some(vote);
        Ok(())
    }

    async fn purge(&mut self, id: LogIdWords) -> io::Result<()> {
        // A cut before it must be durable first: behind the new purge point, entries of another history would come back
        // as a gap, or as entries.
        if self.failed {
            return Err(failed());
        }
        let synced = self.shared.log.sync().await.map(drop).map_err(io::Error::other);
        self.failed |= synced.is_err();
        synced?;
        self.write(Slot::Purged, postcard::to_stdvec(&id).expect("an id always encodes")).await?;
        self.shared.table.lock().purge(id);
        Ok(())
    }

    async fn write(&mut self, slot: Slot, value: Vec<u8>) -> io::Result<()> {
        if self.failed {
            return Err(failed());
        }
        let slots = match slot {
            Slot::Vote => &mut self.vote,
            Slot::Purged => &mut self.purged,
        };
        let result = slots.write(value.into()).await.map_err(io::Error::other);
        self.failed |= result.is_err();
        result
    }
}

enum Slot {
    Vote,
    Purged,
}

fn failed() -> io::Error {
    io::Error::other("the Raft log has failed; the node must be started again")
}
