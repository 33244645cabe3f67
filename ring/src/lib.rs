//! Who holds a chunk.
//!
//! A chunk's key names a [`Partition`] (its top bits), and the [`Ring`] names for every partition the nodes that hold
//! its replicas, at one [`Epoch`]. The assignment is explicit, and solved by a pure function of the previous
//! assignment and the members: the third partitioning strategy of the Dynamo paper (DeCandia et al., SOSP 2007,
//! section 6.2), not random virtual nodes.
//!
//! # Invariants
//! - The same input gives the same assignment on every platform and release.
//! - The replicas of a partition are distinct nodes.
//! - No clock, randomness, file or socket: `PLACEMENT.md` says what is promised, `.clippy.toml` holds the line.
//!
//! # Not here
//! Who is alive (`node::membership`), how bytes travel (`wire`).

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on fails"))]

mod assignment;
mod epoch;
mod key;
mod member;
mod partition;
pub mod plan;
mod quorum;
mod replica_set;
pub mod solver;
mod stand_in;
mod transition;

pub use assignment::{Ring, RingError};
pub use epoch::{Epoch, GcEpoch};
pub use key::ChunkKey;
pub use member::{Member, NodeId, NodeIdError, Weight, Zone, ZoneError};
pub use partition::{Partition, PartitionBits, PartitionBitsError};
pub use quorum::{ReplicaCount, ReplicaCountError};
pub use replica_set::{ReplicaSet, ReplicaSetError};
pub use stand_in::stand_in;
pub use transition::{Placement, Transition, TransitionError};
