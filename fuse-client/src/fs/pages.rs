//! The kernel's pages of files: they go before the lease that they rest on does.
//!
//! # Invariants
//! - A page that is read stays locked until the read is answered, and holds no bytes until then. To forget it the kernel
//!   waits; so whoever waits here for the kernel sees to it that reads are answered.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::debug;
use wire::namespace::Inode;

use super::{Forget, OP_DEADLINE, Shared, table::Draining};

/// How long the kernel may take to forget pages before reads are answered that it may be waiting for.
const UNDISTURBED: Duration = Duration::from_millis(20);

/// How long the kernel may take in all: whoever waits for the lease waits ten seconds, and bytes are to be committed.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);

/// How often pages are forgotten that were read again meanwhile.
const PASSES_MAX: u32 = 8;

/// How long the kernel may take while a write waits for a lease that may have to be given back first: longer than
/// that, it waits for a page which that write has locked.
const WRITE_PATIENCE: Duration = Duration::from_millis(100);

/// Between two looks whether a write waits, and before another try when there are too many notices.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

impl Shared {
    /// Makes the kernel forget the pages of a file; false if it has not done so in time.
    pub(super) async fn forget_pages(&self, inode: Inode, patience: Duration) -> bool {
        let (done, forgotten) = oneshot::channel();
        let told = self.forgets.send(Forget::Pages(inode, done)).await.is_ok();
        !told || matches!(timeout(patience, forgotten).await, Ok(Ok(())))
    }

    /// Makes the kernel forget the pages of a file whose lease is being given back; false if it could not.
    pub(super) async fn drain_pages(&self, inode: Inode) -> bool {
        let until = Instant::now() + DRAIN_DEADLINE;
        for _ in 0..PASSES_MAX {
            let mut pass = std::pin::pin!(self.forget_pages(inode, DRAIN_DEADLINE));
            if let Ok(gone) = timeout(UNDISTURBED, &mut pass).await {
                return gone;
            }
            self.table.lock().entry(inode).draining = Some(Draining::Unread);
            self.settle();
            let gone = tokio::select! {
                biased;
                gone = timeout_at(until, &mut pass) => gone == Ok(true),
                () = self.stuck_behind_write(inode) => false,
            };
            let drained = {
                // Answers under way are given first.
                let _closed = self.gate.write();
                self.table.lock().entry(inode).draining.take()
            };
            if !gone || drained != Some(Draining::Read) {
                return gone;
            }
        }
        false
    }

    /// Ends when a write has waited for a while.
    async fn stuck_behind_write(&self, inode: Inode) {
        let mut since = None;
        loop {
            let waits = self.table.lock().get(inode).is_some_and(|node| node.writes_waiting > 0);
            match since.filter(|_| waits) {
                Some(since) if Instant::now() >= since + WRITE_PATIENCE => return,
                Some(_) => {}
                None => since = waits.then(Instant::now),
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// A lease is gone, and the kernel may have pages that rested on it: they go as soon as that is possible. A mapping
    /// does not ask us before it shows them.
    pub(super) fn note_stale_pages(self: &Arc<Self>, inode: Inode) {
        let losses = {
            let mut table = self.table.lock();
            let node = table.entry(inode);
            node.pages_stale = true;
            node.losses
        };
        debug!(%inode, "a lease went before the kernel had forgotten the pages that rested on it");
        let shared = Arc::clone(self);
        self.spawn(async move {
            let until = Instant::now() + OP_DEADLINE;
            while Instant::now() < until {
                if shared.forget_pages(inode, OP_DEADLINE).await {
                    let mut table = shared.table.lock();
                    // Lost again since, it has somebody else who looks after it.
                    if let Some(node) = table.get_mut(inode).filter(|node| node.losses == losses) {
                        node.pages_stale = false;
                    }
                    return;
                }
                sleep(LOOK_INTERVAL).await;
            }
        });
    }

    /// As [`Shared::drop_pages`], by somebody who cannot wait.
    pub(super) fn drop_pages_soon(&self, inode: Inode) {
        let forgets = self.forgets.clone();
        self.spawn(async move {
            let (done, _not_waited_for) = oneshot::channel();
            // Nobody listens any more when the mount is gone.
            let _told = forgets.send(Forget::Pages(inode, done)).await.is_ok();
        });
    }

    /// The kernel's pages of a file hold other bytes than the file.
    pub(super) async fn drop_pages(self: &Arc<Self>, inode: Inode) {
        if !self.forget_pages(inode, DRAIN_DEADLINE).await {
            self.note_stale_pages(inode);
        }
    }
}
