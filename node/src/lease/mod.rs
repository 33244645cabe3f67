//! Leases: what the leader remembers of who may cache what. Soft state of one term. Pure: time is an argument.
//!
//! [`Leases`] is told what sessions ask and what time it is, and says what is granted, what has to be recalled, and
//! until when to wait. It never waits itself.
//!
//! # Invariants
//! - Where one session holds an inode exclusively, no other holds anything of it.
//! - A lease ends by its holder's release, or with all the holder's leases when its term is over, never otherwise.
//! - No lease is granted on an inode while a change of another session is under way there, and a change is proposed
//!   only when no other session holds anything of what it reaches.
//! - Nothing is granted, and no question answered, before every mount of the term before has said what it holds, or
//!   its term is over.
//!
//! # Not here
//! Waiting, and the order of read index, snapshot and grant (`serve::lease`); which inodes an operation reaches
//! (`namespace`).

mod asking;
mod changes;
mod end_log;
mod holder;
mod marking;
mod table;
mod told;

#[cfg(test)]
mod tests;

pub use asking::Standing;
pub use changes::{ChangeId, Clearing, Ending, Marking, Passing};
pub use end_log::Moment;
pub use table::{Leases, Readiness, Wakes};
pub use told::told;
