//! What the handles of a log ask of its writer.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::active::Prepared;
use super::super::{AppendError, Appended, FileId, ReadError, ReopenError, Reopened, SyncError, Synced, Usage};

/// One request; each is answered, or dropped with the writer.
#[derive(Debug)]
pub(in super::super) enum Request {
    Append {
        records: Vec<Prepared>,
        permit: OwnedSemaphorePermit,
        reply: oneshot::Sender<Result<Vec<Appended>, AppendError>>,
        demand: Demand,
    },
    Sync {
        of: Option<Appended>,
        reply: oneshot::Sender<Result<Synced, SyncError>>,
    },
    Seal {
        reply: oneshot::Sender<Result<Option<FileId>, AppendError>>,
    },
    Drop {
        file: FileId,
        fate: Fate,
        reply: oneshot::Sender<Result<(), ReadError>>,
    },
    Reopen {
        reply: oneshot::Sender<Result<Reopened, ReopenError>>,
    },
    Usage {
        reply: oneshot::Sender<Result<Usage, ReadError>>,
    },
    Close {
        reply: oneshot::Sender<Result<(), SyncError>>,
    },
}

/// Whether somebody is going to wait for the sync of what is appended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Demand {
    None,
    Sync,
}

/// What becomes of a sealed file that nobody needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum Fate {
    Remove,
    Recycle,
}
