//! What can go wrong, one enum per operation.

use std::io;
use std::path::PathBuf;

use ring::NodeId;
use wire::Refusal;

use crate::append_log::slots::SlotError;
use crate::append_log::{self, Position, ReadError};
use crate::kv::KvError;

/// Why the node cannot take part in the group. Nothing was changed on disk but for cutting a torn tail.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The medium refused.
    #[error("cannot use {}", path.display())]
    Disk {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error("cannot open the Raft log")]
    Log(#[from] append_log::OpenError),
    /// A file of the log cannot be read.
    #[error("cannot read the Raft log")]
    Read(#[from] ReadError),
    /// Vote, purge point or the note on a snapshot cannot be read.
    #[error("cannot read a slot of the Raft log")]
    Slot(#[from] SlotError),
    /// Acknowledged entries are lost: this directory must not vote again. Make a new node of it.
    #[error("the Raft log is damaged at {position}; this node has to join again as a new one")]
    Damaged {
        /// Where.
        position: Position,
    },
    /// As `Damaged`: entries are missing.
    #[error(
        "the Raft log has entry {found} at {position} where {expected} should be; this node has to join again as a new one"
    )]
    Gap {
        /// The index that should follow.
        expected: u64,
        /// The index that was found.
        found: u64,
        /// Where.
        position: Position,
    },
    /// As `Damaged`: the vote is gone, and with it what this node promised.
    #[error("the vote of the Raft log is lost; this node has to join again as a new one")]
    VoteLost,
    /// A checksummed word does not make sense: written by another version.
    #[error("{what} of the Raft log was written by another version of the program; run that one")]
    Unreadable {
        /// Which.
        what: &'static str,
    },
    /// A sound record of a kind that came later.
    #[error(
        "the Raft log has a record of kind {kind} at {position}, which this program does not know; run the version that wrote it"
    )]
    UnknownRecord {
        /// Where.
        position: Position,
        /// Its kind.
        kind: u8,
    },
    /// The rows belong to another version.
    #[error(
        "the replicated state has format version {version}, this program reads {known}; run the version that wrote it"
    )]
    StateVersion {
        /// Its version.
        version: u8,
        /// The one that is known.
        known: u8,
    },
    /// The key-value store failed.
    #[error("cannot read the replicated state")]
    Kv(#[from] KvError),
    /// The state is older than the log reaches back, and nobody gave a newer one.
    #[error(
        "the replicated state was lost, the log begins behind entry {purged}, and no member gave its state: {reason}"
    )]
    Behind {
        /// Last entry that the log no longer holds.
        purged: u64,
        /// What was tried.
        reason: String,
    },
    /// The Raft library refused what it found.
    #[error("the Raft library refuses to start: {reason}")]
    Raft {
        /// What it said.
        reason: String,
    },
}

/// Why a cluster was not founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// The node is a member of a group of several nodes.
    #[error("this node already belongs to a cluster")]
    AlreadyMember,
    /// The first command failed.
    #[error("the first command failed")]
    Propose(#[from] ProposeError),
    /// The state machine refused it.
    #[error("the cluster cannot be founded: {0}")]
    Refused(Refusal),
}

/// Why a command has no known outcome, or a read no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// Another node leads: ask it, with the same numbers. A proposal that was under way when the leader changed may or
    /// may not be applied.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<NodeId>,
    },
    /// No majority answered in time. The proposal may or may not be applied.
    #[error("no majority of the voters answered in time")]
    NoQuorum,
    /// Too much is under way: wait a little, ask again.
    #[error("too many proposals are under way")]
    Busy,
    /// The command is longer than an entry may be: a mistake of the asker.
    #[error("a command of {len} bytes is longer than an entry may be")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The node is stopping, or its disk failed.
    #[error("consensus has stopped on this node")]
    Stopped,
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::NotLeader { leader },
            ProposeError::NoQuorum => Self::NoQuorum,
            ProposeError::Busy => Self::Busy,
            ProposeError::TooLarge { .. } => Self::Malformed,
            ProposeError::Stopped => Self::NotServing,
        }
    }
}

/// Why the group was not changed, or not yet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MembershipError {
    /// Another node leads: ask it.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<NodeId>,
    },
    /// Another change is under way: wait for it.
    #[error("another change of the group is under way")]
    InProgress,
    /// A voter must have been added as a learner before.
    #[error("{node} is not a learner yet")]
    NotLearner {
        /// Which.
        node: NodeId,
    },
    /// No majority answered, or the learner did not catch up, in time.
    #[error("the change was not done in time")]
    TimedOut,
    /// The change makes no sense: no voters, say.
    #[error("the change is impossible: {reason}")]
    Impossible {
        /// Why.
        reason: String,
    },
    /// The node is stopping, or its disk failed.
    #[error("consensus has stopped on this node")]
    Stopped,
}

/// Why a message did not get its answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransportError {
    /// The node cannot be reached, or is not known.
    #[error("the node cannot be reached")]
    Unreachable,
    /// No answer in time; the message may have arrived.
    #[error("no answer in time")]
    TimedOut,
    /// The node refuses.
    #[error("the node refuses: {0}")]
    Refused(Refusal),
}
