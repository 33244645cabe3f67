//! Leases: the namespace's word that a session may cache an inode (shared) or change it locally (exclusive).
//!
//! Leases are soft state of the leader. A session holds its leases for one [`TERM`], counted from when it *sent* its
//! last renewal; the leader counts it, with [`GRACE`], from when it *answered*. A conflict is recalled, and ends before
//! the change or the answer that conflicts; a session that does not let go loses all its leases when its term is over.
//!
//! # Invariants
//! - Grants, recalls and releases of one session are ordered by [`LeaseNumber`]: an answer that crosses a recall, or a
//!   release that crosses a grant, is told apart by it, never guessed.
//! - What is held under another [`LeaseGeneration`] than the leader's current one for the session is not held.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::namespace::{Attr, Batch, Inode, OpError, OpOutcome, Query, QueryAnswer, SessionId, Timestamp};

/// How long a holder may rely on its leases after it sent a renewal.
pub const TERM: Duration = Duration::from_secs(3);

/// What the leader waits beyond the term: clocks of two machines run within 1 % of each other.
pub const GRACE: Duration = Duration::from_millis(300);

/// Leases that one session may hold: bounds the leader's memory, and what a new leader is told at once.
pub const LEASES_MAX: usize = 131_072;

/// Leases in one message of reclaim, and inodes in one release.
pub const LEASES_PER_MESSAGE_MAX: usize = 16_384;

/// Inodes asked for exclusively in one request.
pub const EXCLUSIVE_MAX: usize = 256;

/// How much a lease allows. The higher includes the lower.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum LeaseMode {
    /// Attributes, entries and clean data may be cached.
    Shared,
    /// The inode may be changed here first and the change told later. Nobody else holds anything.
    Exclusive,
}

/// One life of a session's leases under one leader.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct LeaseGeneration {
    /// Term of the leader that granted them; 0 before the first.
    pub term: u64,
    /// Rises each time the leader has taken a session's leases away.
    pub life: u64,
}

/// Position in the order of grants and recalls of one generation. 0 is before the first.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct LeaseNumber(pub u64);

/// The leader wants a lease back.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Its place in the order.
    pub number: LeaseNumber,
    /// Which inode.
    pub inode: Inode,
    /// What may be kept; nothing if none.
    pub keep: Option<LeaseMode>,
}

/// A session lets go of a lease, or of part of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The highest number of a grant or recall of this inode that the session knows.
    pub number: LeaseNumber,
    /// Which inode.
    pub inode: Inode,
    /// What it keeps; nothing if none.
    pub keep: Option<LeaseMode>,
}

/// What a session that holds leases asks of the leader.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LeaseRequest {
    /// Questions, answered as [`crate::namespace::NamespaceRequest::Query`] is; every inode that the answers tell of is
    /// leased to the session, shared, those of `exclusive` exclusively.
    Ask {
        /// Whose leases.
        session: SessionId,
        /// Under which generation.
        generation: LeaseGeneration,
        /// At most [`EXCLUSIVE_MAX`]; others' leases on them end first.
        exclusive: Vec<Inode>,
        /// At most 256.
        queries: Vec<Query>,
    },
    /// Changes, as [`crate::namespace::NamespaceRequest::Batch`]; the inodes that they made are leased exclusively, the others
    /// that they touched shared.
    Change {
        /// Under which generation.
        generation: LeaseGeneration,
        /// The changes.
        batch: Batch,
    },
    /// "I am here"; at least every second.
    Renew {
        /// Whose leases.
        session: SessionId,
        /// Under which generation.
        generation: LeaseGeneration,
    },
    /// To begin, and after [`LeaseAnswer::NotCurrent`]: what the session still held under an older generation. More
    /// than one message holds are sent in several, all but the last with `more`.
    Reclaim {
        /// Whose leases.
        session: SessionId,
        /// Under which they were held.
        generation: LeaseGeneration,
        /// At most [`LEASES_PER_MESSAGE_MAX`].
        leases: Vec<(Inode, LeaseMode)>,
        /// Whether there are more.
        more: bool,
    },
    /// Waits (some seconds) for recalls beyond `known`; nothing if there are none in that time.
    Recalls {
        /// Whose leases.
        session: SessionId,
        /// Under which generation.
        generation: LeaseGeneration,
        /// The highest number of a recall that the session has received.
        known: LeaseNumber,
    },
    /// Lets go.
    Release {
        /// Whose leases.
        session: SessionId,
        /// Under which generation.
        generation: LeaseGeneration,
        /// At most [`LEASES_PER_MESSAGE_MAX`].
        releases: Vec<Release>,
    },
    /// As [`LeaseRequest::Change`], for changes that the session has executed already, under exclusive leases on all
    /// that they touch: they count as made when they were, not when they are told.
    ChangeMade {
        /// Under which generation.
        generation: LeaseGeneration,
        /// The changes.
        batch: Batch,
        /// How each was made.
        made: Vec<MadeAt>,
    },
}

/// How an operation was executed by its session, before the leader heard of it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct MadeAt {
    /// When, by the session's clock. A time more than a minute from the leader's clock does not count: the leader's
    /// takes its place.
    pub time: Timestamp,
    /// On what: the inodes that it changes, each with its count of changes ([`Attr::change`](crate::namespace::Attr))
    /// before. Should the leases have ended meanwhile, it is executed all the same if those are still as they were.
    pub before: Vec<(Inode, u64)>,
}

/// What the leader answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum LeaseAnswer {
    /// To questions.
    Asked {
        /// In their order.
        answers: Vec<Result<QueryAnswer, OpError>>,
        /// Of what the answers tell, and of what was asked for exclusively: not leased, or less than wished.
        unleased: Vec<Inode>,
        /// Place of the grants in the order.
        number: LeaseNumber,
    },
    /// To changes.
    Changed {
        /// In their order.
        outcomes: Vec<OpOutcome>,
        /// Attributes, after the changes, of every inode that they touched and that still exists.
        touched: Vec<Attr>,
        /// Of those, what is not leased.
        unleased: Vec<Inode>,
        /// Place of the grants in the order.
        number: LeaseNumber,
        /// Most nodes have next to no room: nothing that takes some is to be taken for done before the cluster has done it.
        no_room: bool,
    },
    /// To a renewal: the term runs from when it was sent.
    Renewed,
    /// To a reclaim.
    Reclaimed {
        /// Of the session's leases from now on.
        generation: LeaseGeneration,
        /// Leases that are gone; what others may have changed meanwhile.
        refused: Vec<Inode>,
    },
    /// To a wait for recalls; also those that were told before and are not answered, beyond `known`.
    Recalls(Vec<Recall>),
    /// To a release.
    Released,
    /// The generation is over, or another leader's: reclaim.
    NotCurrent,
}
