//! The thread that tells the kernel what to forget. It holds nothing: the kernel may make us wait for pages that are
//! being read, and those reads are answered by others.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt};

use fuser::Notifier;
use tokio::sync::mpsc;
use tracing::warn;

use super::convert::Numbers;
use crate::fs::Forget;

/// Sends notices until nobody makes any more.
pub(super) fn send(mut forgets: mpsc::Receiver<Forget>, notifier: &Notifier, numbers: Numbers) {
    while let Some(forget) = forgets.blocking_recv() {
        let sent = match forget {
            Forget::Inode(inode) => notifier.inval_inode(numbers.number(inode), 0, 0),
            Forget::Entry(dir, name) => notifier.inval_entry(numbers.number(dir), OsStr::from_bytes(name.as_bytes())),
            Forget::Done(done) => {
                // Whoever has stopped waiting does not want to know.
                let _nobody = done.send(()).is_err();
                Ok(())
            }
        };
        if let Err(error) = sent
            && !is_gone(&error)
        {
            warn!(%error, "the kernel cannot be told to forget what it has cached");
        }
    }
}

/// The kernel knows nothing of it, or the mount is gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe)
        || matches!(error.raw_os_error(), Some(libc_errno::ENODEV | libc_errno::ENOTDIR | libc_errno::ENOTEMPTY))
}

/// Numbers of the kernel that the standard library has no name for.
mod libc_errno {
    pub(super) const ENODEV: i32 = 19;
    pub(super) const ENOTDIR: i32 = 20;
    pub(super) const ENOTEMPTY: i32 = 39;
}
