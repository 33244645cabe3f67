//! What the kernel is told to forget of attributes and names, before the lease that they rest on goes.
//!
//! # Invariants
//! - What the kernel was told of an inode does not count after the lease has gone, also where that came in an answer whose
//!   caller has not run since. The kernel takes an answer in when its caller runs, and refuses attributes that are older
//!   than a notice only of inodes that it knew then. So who tells of an inode that the kernel does not know, but has a
//!   reference to, tells it again; and answers of whose age the kernel takes no note (`LINK`, `SETATTR` before Linux 6.18,
//!   `CREATE` of a file that is there) carry attributes for the moment only.
//! - Names need no such care: who looks one up holds its directory's lock until the answer is taken in, and a notice waits
//!   for that lock.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tracing::debug;
use wire::namespace::{Inode, Name};

use super::{Forget, Known, OP_DEADLINE, Shared};

/// How long the kernel may take to forget names and attributes before a lease is let go without that: it waits for operations
/// in the directory, and for programs to run that have asked; neither waits for us.
const KERNEL_DEADLINE: Duration = Duration::from_secs(3);

/// The first pause before the kernel is told again of an inode that it does not know yet; doubles up to
/// [`UNKNOWN_PAUSE_MAX`].
const UNKNOWN_PAUSE: Duration = Duration::from_millis(1);

/// The longest such pause.
const UNKNOWN_PAUSE_MAX: Duration = Duration::from_millis(50);

impl Shared {
    /// Makes the kernel forget attributes of inodes.
    pub(super) async fn tell_kernel_of_attributes(self: &Arc<Self>, inodes: Vec<Inode>) {
        let (done, told) = oneshot::channel();
        let shared = Arc::clone(self);
        self.spawn(async move {
            shared.tell_until_known(inodes).await;
            // Whoever has waited too long has gone on.
            let _heard = done.send(()).is_ok();
        });
        let _in_time = timeout(KERNEL_DEADLINE, told).await.is_ok();
    }

    /// Tells the kernel to forget attributes until there is no answer left that it could take in afterwards.
    async fn tell_until_known(&self, mut inodes: Vec<Inode>) {
        let (until, mut pause) = (Instant::now() + OP_DEADLINE, UNKNOWN_PAUSE);
        loop {
            inodes = self.tell_of_attributes(inodes).await;
            if inodes.is_empty() {
                return;
            }
            if Instant::now() >= until {
                debug!(count = inodes.len(), "the kernel has not taken in what it was told of inodes");
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(UNKNOWN_PAUSE_MAX);
        }
    }

    /// Tells the kernel once; which inodes it may come to know by an answer on its way.
    async fn tell_of_attributes(&self, inodes: Vec<Inode>) -> Vec<Inode> {
        let mut told = Vec::with_capacity(inodes.len());
        for inode in inodes {
            let (done, known) = oneshot::channel();
            if self.forgets.send(Forget::Attributes(inode, done)).await.is_err() {
                // Nobody listens any more: the mount is gone.
                return Vec::new();
            }
            told.push((inode, known));
        }
        let mut unknown = Vec::new();
        for (inode, known) in told {
            if known.await == Ok(Known::No) {
                unknown.push(inode);
            }
        }
        let table = self.table.lock();
        unknown.retain(|inode| table.get(*inode).is_some_and(|node| node.lookups > 0));
        unknown
    }

    /// Hands notices of names to the thread that sends them.
    pub(super) async fn tell_kernel_of_names(&self, dir: Inode, names: Vec<Name>) {
        for name in names {
            // Nobody listens any more when the mount is gone.
            let _told = self.forgets.send(Forget::Entry(dir, name)).await.is_ok();
        }
    }

    /// Waits until the kernel has forgotten all names that it was told to forget.
    pub(super) async fn kernel_has_forgotten(&self) {
        let (done, forgotten) = oneshot::channel();
        if self.forgets.send(Forget::Done(done)).await.is_ok() {
            let _in_time = timeout(KERNEL_DEADLINE, forgotten).await.is_ok();
        }
    }
}
