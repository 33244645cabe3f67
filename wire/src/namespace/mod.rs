//! Names, attributes, extents: what the namespace is asked, told, and answers.
//!
//! A change is an [`Op`] in a [`Batch`] of a session; a question is a [`Query`]. Names and link targets are bytes.

mod attr;
mod content;
mod inode;
mod lock;
mod name;
mod named;
mod op;
mod query;
mod session;

pub use attr::{Attr, FileType, Mode, SetAttr, SetId, SetTime, Times, Timestamp, TimestampError};
pub use content::{
    ChunkSlice, Content, EXTENTS_MAX, Extent, ExtentBody, FILE_LEN_MAX, INLINE_LEN_MAX, InlineData, JOURNALED_LEN_MAX,
    JournaledChunk, MERGED_LEN_MAX, MERGED_MIN, NewExtent,
};
pub use inode::{INODE_RANGE_LEN, Inode, InodeRange};
pub use lock::{FileLock, HeldLock, LOCKS_MAX, LockKind, LockOwner, LockSet};
pub use name::{CAPABILITY_XATTR, Name, NameError, SYMLINK_LEN_MAX, XATTR_VALUE_LEN_MAX, XattrName};
pub use op::{
    AppendData, JournaledPart, NewContent, NewGroup, NewInode, NewKind, Op, OpAnswer, OpDone, OpError, PunchMode,
    RenameMode, Replace, Xattr, XattrMode,
};
pub use query::{Cookie, Entry, ListWant, Page, Query, QueryAnswer, Usage, WALK_LEN_MAX, WalkEnd, Walked};
pub use session::{BATCH_OPS_MAX, Batch, NumberedOp, OpNumber, OpOutcome, SessionId, SessionNonce, WINDOW_LEN, Want};

use ring::GcEpoch;
use serde::{Deserialize, Serialize};

use crate::lease::{LeaseAnswer, LeaseRequest};

/// What is asked of the namespace; only the leader answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NamespaceRequest {
    /// Open a session for the client of this connection. Asking again with the same nonce gives the same session.
    OpenSession {
        /// Random, chosen by the client.
        nonce: SessionNonce,
    },
    /// "I am here"; at least every 20 s.
    KeepAlive {
        /// Which session.
        session: SessionId,
        /// Lowest stamp among puts neither committed nor dropped; the current one if there are none.
        lowest_gc: GcEpoch,
        /// The session has learned of all orphans up to this index of the log …
        orphans_seen: u64,
        /// … and holds these of them open; at most 65,536.
        holds: Vec<Inode>,
    },
    /// The session is over; what it held is released.
    CloseSession {
        /// Which session.
        session: SessionId,
    },
    /// A fresh range of inode numbers for creates of this session.
    ReserveInodes {
        /// Which session.
        session: SessionId,
    },
    /// Changes, applied in order as one Raft entry, answered one by one.
    Batch(Batch),
    /// Questions, answered linearizably from one state, in order; at most 256.
    Query(Vec<Query>),
    /// Open a session that may hold leases: a mount. Otherwise as [`NamespaceRequest::OpenSession`].
    OpenMount {
        /// Random, chosen by the client.
        nonce: SessionNonce,
    },
    /// About leases of such a session.
    Lease(LeaseRequest),
}

/// What the namespace answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NamespaceAnswer {
    /// To an open.
    SessionOpened {
        /// The new session, or the one that this nonce opened before.
        session: SessionId,
        /// Numbers for its creates.
        inodes: InodeRange,
        /// Stamp for puts.
        gc_current: GcEpoch,
    },
    /// To a keep-alive.
    Alive {
        /// Stamp for puts from now on.
        gc_current: GcEpoch,
        /// Orphans exist up to this index of the log.
        orphans_index: u64,
    },
    /// To a close.
    SessionClosed,
    /// To a reservation.
    InodesReserved(InodeRange),
    /// To a batch: one outcome for each operation, in order.
    Batch(Vec<OpOutcome>),
    /// To queries: one answer each, in order.
    Query(Vec<Result<QueryAnswer, OpError>>),
    /// About leases.
    Lease(LeaseAnswer),
}
