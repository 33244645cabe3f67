//! The replicated state machine: names, attributes, extents, sessions, the cluster map. Pure: no clock, no randomness,
//! no I/O of its own.
//!
//! [`apply`]`(rows, command) → (changes, answer)`; [`query()`]`(rows, question) → answer`. Rows are described in [`table`].
//!
//! # Invariants
//! - The same commands on the same rows make the same rows, on every platform.
//! - A command changes at most [`ROWS_MAX`] rows; what takes more is left as [`pending_work`] for commands that follow.
//! - A failed operation changes nothing.
//!
//! # Not here
//! Who may do what: clients with write access are trusted for uid and gid, as with NFS `sys`. Leases (`lease`). When to
//! propose what (`serve`, `consensus`).

mod batch;
mod clone;
mod cluster;
pub mod command;
mod dead;
mod directory;
mod edit;
mod extents;
mod file;
mod garbage;
mod inode;
mod journal;
mod list;
mod locks;
mod merge;
mod moves;
mod punch;
mod query;
mod reach;
mod recovery;
mod row;
mod session;
mod stand_ins;
pub mod table;
mod xattrs;

#[cfg(test)]
pub(crate) mod tests;

pub use batch::cost;
pub use cluster::{authority, cluster_epoch, cluster_id, cluster_map, identify, is_token};
pub use command::{ClusterCommand, ClusterOutcome, Command, CommandBody, CommandOutcome, Made};
pub use dead::{DeadLimits, DeadRows, DeadTally, FORGET_MAX, dead_rows, dead_tally, standing};
pub use edit::ROWS_MAX;
pub use garbage::{gc_current, gc_safe, orphans, orphans_index, pending_work};
pub use journal::{
    CHECKPOINT_MAX, Checkpointed, JOURNALED_MAX, JournalTally, Journaled, journal_page, journal_tally, journaled,
};
pub use merge::{
    ExtentCursor, ExtentsPage, MERGED_MAX, References, RunDigest, extents_page, journaled_bytes, references,
};
pub use moves::SETTLED_MAX;
pub use reach::led_to;
pub use recovery::ENDED_MAX;
pub use row::SealedAuthority;
pub use session::{SessionSummary, any_executed, is_mount, mount_sessions, next_session, session_list, session_owner};
pub use xattrs::{XATTRS_LEN_MAX, XATTRS_MAX};

use edit::{Edit, Fault};
use query::QueryFault;
use wire::{
    Refusal,
    namespace::{OpError, Query, QueryAnswer},
};

use crate::kv::{KvError, KvRead, WriteBatch};

/// Position of a command in the Raft log: what indices in rows (orphans, sessions) are made from.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LogIndex(pub u64);

/// What `command` at `index` makes of the state in `rows`: the changes to commit with it, and what to answer.
/// An error is a failing disk, never a refusal.
pub fn apply(rows: &dyn KvRead, index: LogIndex, command: &Command) -> Result<(WriteBatch, CommandOutcome), KvError> {
    let mut edit = Edit::new(rows, index, command.stamp);
    let outcome = match &command.body {
        CommandBody::OpenSession { client, nonce } => edit.open_session(*client, *nonce),
        CommandBody::CloseSession { session } => edit.close_session(*session),
        CommandBody::ReserveInodes { session } => edit.reserve_inodes(*session),
        CommandBody::Batch { client, batch } => edit.batch(client, batch, &[]),
        CommandBody::ContinueCut { inode } => edit.continue_cut(*inode),
        CommandBody::ReclaimOrphans { inodes } => edit.reclaim_orphans(inodes),
        CommandBody::Cluster(command) => edit.cluster(command),
        CommandBody::OpenMount { client, nonce } => edit.open_mount(*client, *nonce),
        CommandBody::Nothing => Ok(CommandOutcome::Done),
        CommandBody::BatchMade { client, batch, made } => edit.batch(client, batch, made),
        CommandBody::RaiseGc { from } => edit.raise_gc(*from),
        CommandBody::AdvanceGc { safe } => edit.advance_gc(*safe),
        CommandBody::ForgetDead { chunks } => edit.forget_dead(chunks),
        CommandBody::Checkpoint { chunks } => edit.checkpoint(chunks),
        CommandBody::Merge { inode, merged, replaced } => edit.merge(*inode, merged, replaced),
    };
    match outcome {
        // A command that is refused whole changes nothing.
        Ok(CommandOutcome::Refused(refusal)) => Ok((WriteBatch::default(), CommandOutcome::Refused(refusal))),
        Ok(outcome) => Ok((edit.finish(), outcome)),
        // Each command keeps within its bound by itself; should one not, it changes nothing, the same everywhere.
        Err(Fault::Overflow | Fault::Refused(_)) => {
            Ok((WriteBatch::default(), CommandOutcome::Refused(Refusal::Internal)))
        }
        Err(Fault::Kv(error)) => Err(error),
    }
}

/// What `query` finds in the state in `rows`.
pub fn query(rows: &dyn KvRead, query: &Query) -> Result<Result<QueryAnswer, OpError>, KvError> {
    match query::answer(rows, query) {
        Ok(answer) => Ok(Ok(answer)),
        Err(QueryFault::Refused(error)) => Ok(Err(error)),
        Err(QueryFault::Kv(error)) => Err(error),
    }
}
