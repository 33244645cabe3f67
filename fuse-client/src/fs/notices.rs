//! What the kernel is told to forget of attributes and names, before the lease that they rest on goes.
//!
//! # Invariants
//! - What the kernel was told of an inode does not count after the lease has gone, also where that came in an answer whose
//!   caller has not run since. The kernel takes an answer in when its caller runs, and refuses attributes that are older
//!   than a notice only of inodes that it knew then. So who tells of an inode that the kernel does not know, but has a
//!   reference to, tells it again; and answers of whose age the kernel takes no note (`LINK`, `SETATTR` before Linux 6.18,
//!   `CREATE` of a file that is there) carry attributes for the moment only.
//! - A name that is forgotten is looked up anew; whoever looks a new one up holds its directory's lock until the answer is
//!   taken in, and a notice waits for that lock.
//! - Names of directories are only taken for expired, so that who works in one still finds out where that is. A late answer
//!   to somebody who asked whether such a name still stands can undo that, which is why they are told more than once. Where
//!   the directory's lock is not to be had, all names are gone, unless something is mounted on one of them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tracing::debug;
use wire::namespace::Inode;

use super::{Forget, Known, OP_DEADLINE, OldName, OldNames, Shared};

/// How long the kernel may take to forget names and attributes before a lease is let go without that: it waits for programs to
/// run that have asked, and for operations in the directory, which may themselves wait for somebody who waits for us.
const KERNEL_DEADLINE: Duration = Duration::from_secs(3);

/// How long names of one directory may take before the kernel is told to forget all names there are, which needs no lock.
const UNDISTURBED: Duration = Duration::from_millis(20);

/// The first pause before the kernel is told again of an inode that it does not know yet; doubles up to
/// [`UNKNOWN_PAUSE_MAX`].
const UNKNOWN_PAUSE: Duration = Duration::from_millis(1);

/// The longest such pause.
const UNKNOWN_PAUSE_MAX: Duration = Duration::from_millis(50);

/// After these, names of directories are told again.
const EXPIRE_AGAIN: [Duration; 3] = [Duration::from_millis(30), Duration::from_millis(300), Duration::from_secs(2)];

impl Shared {
    /// Makes the kernel forget attributes of an inode.
    pub(super) async fn tell_kernel_of_attributes(self: &Arc<Self>, inode: Inode) {
        let (done, told) = oneshot::channel();
        let shared = Arc::clone(self);
        self.spawn(async move {
            shared.tell_until_known(inode).await;
            // Whoever has waited too long has gone on.
            let _heard = done.send(()).is_ok();
        });
        let _in_time = timeout(KERNEL_DEADLINE, told).await.is_ok();
    }

    /// Tells the kernel to forget attributes until there is no answer left that it could take in afterwards.
    async fn tell_until_known(&self, inode: Inode) {
        let (until, mut pause) = (Instant::now() + OP_DEADLINE, UNKNOWN_PAUSE);
        while Instant::now() < until {
            let (done, known) = oneshot::channel();
            // If nobody listens any more, the mount is gone.
            let told = self.forgets.send(Forget::Attributes(inode, done)).await.is_ok();
            let is_unknown = told && known.await == Ok(Known::No);
            if !is_unknown || self.table.lock().get(inode).is_none_or(|node| node.lookups == 0) {
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(UNKNOWN_PAUSE_MAX);
        }
        debug!(%inode, "the kernel has not taken in what it was told of an inode");
    }

    /// Makes the kernel forget names of a directory.
    pub(super) async fn tell_kernel_of_names(self: &Arc<Self>, dir: Inode, names: Vec<OldName>) {
        if names.is_empty() {
            return;
        }
        let directories: Vec<OldName> = names.iter().filter(|name| name.is_directory).cloned().collect();
        let mut told = std::pin::pin!(self.tell_of_names(OldNames { dir, names }));
        match timeout(UNDISTURBED, &mut told).await {
            Ok(true) => {}
            // There are too many.
            Ok(false) => drop(self.forget_all_names().await),
            Err(_) if self.forget_all_names().await => {}
            Err(_) => drop(timeout(KERNEL_DEADLINE, told).await),
        }
        if !directories.is_empty() {
            let shared = Arc::clone(self);
            self.spawn(async move {
                for pause in EXPIRE_AGAIN {
                    if timeout(pause, shared.stop.cancelled()).await.is_ok() {
                        return;
                    }
                    let again = shared.tell_of_names(OldNames { dir, names: directories.clone() });
                    let _in_time = timeout(KERNEL_DEADLINE, again).await.is_ok();
                }
            });
        }
    }

    /// Tells the kernel once, which may wait for others; false if there are too many to tell, or the mount is gone.
    async fn tell_of_names(&self, names: OldNames) -> bool {
        let (done, told) = oneshot::channel();
        self.forgets.send(Forget::Names(names, done)).await.is_ok() && told.await.is_ok()
    }

    /// Makes the kernel look up all names anew; false if it cannot do that (before Linux 6.16).
    async fn forget_all_names(&self) -> bool {
        let (done, told) = oneshot::channel();
        self.forgets.send(Forget::AllNames(done)).await.is_ok() && told.await == Ok(true)
    }
}
