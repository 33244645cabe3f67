//! Sessions, numbers and batches: how a change is executed exactly once.

use serde::{Deserialize, Serialize};

use super::{Op, OpAnswer, OpError};

/// Operations that a session may have unanswered: the distance between its lowest unanswered and its highest number.
pub const WINDOW_LEN: u64 = 1024;

/// Operations in one batch: as many as the window holds.
pub const BATCH_OPS_MAX: usize = WINDOW_LEN as usize;

/// One client (mount or command) known to the namespace; never reused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// Random bytes by which a client finds the session that an earlier, unanswered attempt opened.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct SessionNonce(pub [u8; 16]);

/// Number of an operation in its session, from 1 upwards.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct OpNumber(pub u64);

/// An operation with its number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NumberedOp {
    /// Its number.
    pub number: OpNumber,
    /// The operation that must have been executed before this one, if any.
    pub after: Option<OpNumber>,
    /// What to do.
    pub op: Op,
}

/// What a batch wants to know beside the outcomes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Want {
    /// Nothing: bulk work.
    Outcome,
    /// Attributes of each inode afterwards.
    Attr,
}

/// Operations of one session, applied in order as one Raft entry. A failed one changes nothing and does not undo
/// the earlier ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Whose.
    pub session: SessionId,
    /// Everything below has been answered: its outcomes may be forgotten.
    pub lowest_unanswered: OpNumber,
    /// At most [`BATCH_OPS_MAX`], and 1 MiB as encoded.
    pub ops: Vec<NumberedOp>,
    /// What to answer.
    pub want: Want,
}

/// What became of an operation.
pub type OpOutcome = Result<OpAnswer, OpError>;
