//! The types that the Raft library is instantiated with. Pure.

use std::fmt;

use bytes::Bytes;
use openraft::impls::{BoxedErrorSource, EmptyNode, InlineBatch, leader_id_adv};
use openraft::raft::responder::Responder;
use openraft::{OptionalSend, RaftTypeConfig};
use ring::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::runtime::Runtime;
use crate::namespace::CommandOutcome;

/// The library's types, chosen.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Types;

impl RaftTypeConfig for Types {
    type D = Proposal;
    type R = Applied;
    type NodeId = RaftId;
    type Node = EmptyNode;
    type Term = u64;
    // The advanced kind: two candidates of one term are ordered by their ids, so that a split vote needs no new round.
    type LeaderId = leader_id_adv::LeaderId<u64, RaftId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Proposal, RaftId, EmptyNode>;
    type Entry = openraft::Entry<leader_id_adv::LeaderId<u64, RaftId>, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(super) type LogId = openraft::type_config::alias::LogIdOf<Types>;
pub(super) type LeaderId = openraft::type_config::alias::LeaderIdOf<Types>;
pub(super) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(super) type Entry = <Types as RaftTypeConfig>::Entry;
pub(super) type Payload = <Types as RaftTypeConfig>::Payload;
pub(super) type Membership = openraft::Membership<RaftId, EmptyNode>;
pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
pub(super) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;
pub(super) type Raft = openraft::Raft<Types, super::state_machine::StateMachine>;

/// A [`NodeId`], with the default and the conversions that the library asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(super) struct RaftId(pub(super) NodeId);

impl Default for RaftId {
    fn default() -> Self {
        Self(NodeId::from_bytes([0; 16]))
    }
}

/// The library's test suite numbers its nodes.
#[cfg(test)]
impl From<u64> for RaftId {
    fn from(number: u64) -> Self {
        Self(NodeId::from_bytes(u128::from(number).to_be_bytes()))
    }
}

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A command as it stands in the log: encoded once by the leader, decoded where it is applied.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<u8>", into = "Vec<u8>")]
pub(super) struct Proposal(pub(super) Bytes);

impl From<Vec<u8>> for Proposal {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Proposal> for Vec<u8> {
    fn from(proposal: Proposal) -> Self {
        proposal.0.into()
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry came to: none for entries that are the library's own. It never leaves the process; the
/// library only wants the words of a type that could.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Applied {
    #[serde(skip)]
    pub(super) outcome: Option<CommandOutcome>,
}

/// Where the library sends the outcome of a proposal. It holds the proposal's share of the limits until the library has
/// let go of it, however long ago the asker left.
pub(super) struct Reply<T> {
    pub(super) sender: oneshot::Sender<T>,
    pub(super) permits: Vec<OwnedSemaphorePermit>,
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Reply<T> {
    fn on_complete(self, result: T) {
        drop(self.permits);
        // Nobody waits any more: the asker's deadline has passed.
        self.sender.send(result).ok();
    }
}
