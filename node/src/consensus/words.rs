//! Our own words for what the Raft library says, so that neither disk nor wire depends on its formats. Pure.

use std::collections::BTreeSet;

use openraft::EntryPayload;
use openraft::impls::EmptyNode;
use ring::NodeId;
use serde::{Deserialize, Serialize};

use super::raft_types::{
    Entry, LeaderId, LogId, Membership, Payload, Proposal, RaftId, SnapshotMeta, StoredMembership, Vote,
};
use bytes::Bytes;

/// Who leads or asks to lead, in which term.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct VoteWords {
    pub(super) term: u64,
    pub(super) node: NodeId,
    /// A quorum has granted it.
    pub(super) committed: bool,
}

impl From<&Vote> for VoteWords {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id.0, committed: vote.committed }
    }
}

impl From<VoteWords> for Vote {
    fn from(words: VoteWords) -> Self {
        Self { leader_id: LeaderId { term: words.term, node_id: RaftId(words.node) }, committed: words.committed }
    }
}

/// Place of an entry and the leader that put it there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct LogIdWords {
    pub(super) term: u64,
    pub(super) node: NodeId,
    pub(super) index: u64,
}

impl From<&LogId> for LogIdWords {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id.0, index: id.index }
    }
}

impl From<LogIdWords> for LogId {
    fn from(words: LogIdWords) -> Self {
        Self { leader_id: LeaderId { term: words.term, node_id: RaftId(words.node) }, index: words.index }
    }
}

/// Who votes (two sets while they change) and who takes part at all.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct MembershipWords {
    pub(super) voters: Vec<BTreeSet<NodeId>>,
    pub(super) members: BTreeSet<NodeId>,
}

impl From<&Membership> for MembershipWords {
    fn from(membership: &Membership) -> Self {
        let voters = membership.get_joint_config().iter().map(|set| set.iter().map(|id| id.0).collect()).collect();
        Self { voters, members: membership.nodes().map(|(id, _)| id.0).collect() }
    }
}

impl MembershipWords {
    /// None if the words name a voter that is no member, or an empty set of voters.
    pub(super) fn into_membership(self) -> Option<Membership> {
        let voters: Vec<BTreeSet<RaftId>> =
            self.voters.into_iter().map(|set| set.into_iter().map(RaftId).collect()).collect();
        if voters.is_empty() {
            return self.members.is_empty().then(Membership::default);
        }
        let members: std::collections::BTreeMap<_, _> =
            self.members.into_iter().map(|id| (RaftId(id), EmptyNode::new())).collect();
        Membership::new(voters, members).ok()
    }
}

/// How far a state machine has come: what a snapshot says of itself, and what the store says of its rows.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct StateWords {
    pub(super) applied: Option<LogIdWords>,
    pub(super) membership_at: Option<LogIdWords>,
    pub(super) membership: MembershipWords,
}

impl From<&SnapshotMeta> for StateWords {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            applied: meta.last_log_id.as_ref().map(Into::into),
            membership_at: meta.last_membership.log_id().as_ref().map(Into::into),
            membership: meta.last_membership.membership().into(),
        }
    }
}

impl StateWords {
    pub(super) fn into_meta(self) -> Option<SnapshotMeta> {
        Some(SnapshotMeta {
            last_log_id: self.applied.map(Into::into),
            last_membership: StoredMembership::new(
                self.membership_at.map(Into::into),
                self.membership.into_membership()?,
            ),
        })
    }
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum EntryKind {
    /// A leader's first word.
    Blank,
    /// A command of ours.
    Command,
    /// A change of the group.
    Membership,
}

/// An entry without its payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct EntryHead {
    pub(super) id: LogIdWords,
    pub(super) kind: EntryKind,
    pub(super) len: u32,
}

/// Splits an entry into head and payload.
pub(super) fn encode_entry(entry: &Entry) -> (EntryHead, Bytes) {
    let (kind, payload) = match &entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(proposal) => (EntryKind::Command, proposal.0.clone()),
        EntryPayload::Membership(membership) => {
            let words = MembershipWords::from(membership);
            let bytes = postcard::to_stdvec(&words).expect("sets of ids always encode");
            (EntryKind::Membership, bytes.into())
        }
    };
    let len = u32::try_from(payload.len()).expect("admission keeps proposals below the limit of a record");
    (EntryHead { id: (&entry.log_id).into(), kind, len }, payload)
}

/// Puts an entry together; none if the payload does not make sense.
pub(super) fn decode_entry(head: EntryHead, payload: Bytes) -> Option<Entry> {
    if payload.len() != head.len as usize {
        return None;
    }
    let payload: Payload = match head.kind {
        EntryKind::Blank => EntryPayload::Blank,
        EntryKind::Command => EntryPayload::Normal(Proposal(payload)),
        EntryKind::Membership => {
            let words: MembershipWords = postcard::from_bytes(&payload).ok()?;
            EntryPayload::Membership(words.into_membership()?)
        }
    };
    Some(Entry { log_id: head.id.into(), payload })
}
