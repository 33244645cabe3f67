//! When a transfer ends before its time: nothing that is left could go well.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio_util::sync::CancellationToken;

use super::TransferError;
use crate::upload::{PutError, UploadError};

/// Files in a row whose chunks find no quorum before the others are not tried any more: each costs 15 seconds. The
/// first may be about its own partition.
const QUORUMS_LOST_MAX: u32 = 2;

/// Whether a transfer goes on.
#[derive(Debug, Default)]
pub(super) struct Stop {
    stopped: AtomicBool,
    token: CancellationToken,
    quorums_lost: AtomicU32,
}

/// Whether a failure is news.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum News {
    /// It is to be told.
    Yes,
    /// It follows from the one that stopped the transfer, which was told.
    No,
}

impl Stop {
    /// A file failed. If none of the others can fare better, the transfer stops.
    pub(super) fn handle_failure(&self, error: &TransferError) -> News {
        let lost = matches!(error, TransferError::Upload(UploadError::Put { source: PutError::QuorumLost { .. }, .. }));
        let fatal = if lost {
            self.quorums_lost.fetch_add(1, Ordering::AcqRel) + 1 >= QUORUMS_LOST_MAX
        } else {
            error.is_fatal()
        };
        if !fatal {
            return if lost && self.is_stopped() { News::No } else { News::Yes };
        }
        if self.stopped.swap(true, Ordering::AcqRel) {
            return News::No;
        }
        self.token.cancel();
        News::Yes
    }

    /// A file in chunks was stored.
    pub(super) fn handle_stored(&self) {
        self.quorums_lost.store(0, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Ends when the transfer is stopped.
    pub(super) async fn stopped(&self) {
        self.token.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::{News, Stop};
    use crate::{
        NamespaceError,
        path::FilePath,
        transfer::TransferError,
        upload::{PutError, UploadError},
    };

    fn quorum_lost() -> TransferError {
        let source = PutError::QuorumLost { stable: 1, quorum: 2, tried: String::new() };
        TransferError::Upload(UploadError::Put { path: FilePath::root(), source })
    }

    #[test]
    fn one_fatal_failure_stops_the_transfer_and_those_that_follow_from_it_are_no_news() {
        let stop = Stop::default();
        let denied = TransferError::from(NamespaceError::Denied { path: FilePath::root() });
        let ended = TransferError::from(NamespaceError::SessionEnded { path: FilePath::root() });
        assert_eq!((stop.handle_failure(&denied), stop.is_stopped()), (News::Yes, false));
        assert_eq!((stop.handle_failure(&ended), stop.is_stopped()), (News::Yes, true));
        assert_eq!((stop.handle_failure(&ended), stop.handle_failure(&quorum_lost())), (News::No, News::No));
    }

    #[test]
    fn quorums_lost_in_a_row_stop_it_and_a_file_that_was_stored_begins_a_new_row() {
        let stop = Stop::default();
        stop.handle_failure(&quorum_lost());
        stop.handle_stored();
        stop.handle_failure(&quorum_lost());
        assert!(!stop.is_stopped());
        stop.handle_failure(&quorum_lost());
        assert!(stop.is_stopped());
    }
}
