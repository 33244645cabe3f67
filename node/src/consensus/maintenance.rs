//! The loop that keeps the state durable and the log short.
//!
//! # Invariants
//! - The log is purged only up to an entry that a synced persist of the store has made durable.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::log_store::LogStore;
use super::lost_store::Lender;
use super::raft_types::Raft;
use super::state_machine::StateMachine;
use crate::kv::{KvError, KvStore};

/// How often the store is made durable: what a restart has to apply again stays below a second's work.
const PERSIST_INTERVAL: Duration = Duration::from_millis(200);

/// What of the log is kept for followers that lag; those further behind get a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Entries: half an hour of a quiet cluster, some seconds of a busy one.
    pub entries: u64,
    /// Bytes of them: as much as two files of the log.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { entries: 5_000, bytes: 64 << 20 }
    }
}

/// What the loop works on.
pub(super) struct Maintenance {
    pub(super) raft: Raft,
    pub(super) store: LogStore,
    pub(super) machine: StateMachine,
    pub(super) kv: Arc<dyn KvStore>,
    pub(super) lender: Arc<Lender>,
    pub(super) retention: Retention,
}

impl Maintenance {
    /// Runs until it is cancelled or the store fails.
    pub(super) async fn run(self, cancel: CancellationToken) -> Result<(), KvError> {
        let mut ticks = tokio::time::interval(PERSIST_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut persisted = self.machine.applied();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let applied = self.machine.applied();
            if applied != persisted {
                self.kv.persist().await?;
                persisted = applied;
            }
            self.lender.handle_time(Instant::now());
            self.shorten_log().await;
        }
    }

    async fn shorten_log(&self) {
        let (entries, bytes) = self.store.size();
        let keep = self.retention;
        // An eighth of slack, so that not every entry moves the purge point.
        if entries <= keep.entries + keep.entries / 8 && bytes <= keep.bytes + keep.bytes / 8 {
            return self.store.recycle().await;
        }
        let Some(excess) = self.store.excess(keep.entries, keep.bytes) else { return };
        let metrics = self.raft.metrics();
        let built = metrics.borrow_watched().snapshot.map_or(0, |id| id.index);
        // Both are wishes: the library grants what its own state allows, and the next round asks again. An error means
        // that it has stopped, which others notice.
        if built < excess {
            self.raft.trigger().snapshot().await.ok();
        } else {
            self.raft.trigger().purge_log(excess).await.ok();
        }
        self.store.recycle().await;
    }
}
