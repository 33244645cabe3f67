//! Collecting garbage: what nodes ask the leader before they delete, and what it tells whoever wants to know.

use ring::{ChunkKey, Epoch, GcEpoch, NodeId};
use serde::{Deserialize, Serialize};

use crate::{cluster::Peer, namespace::SessionId};

/// Sessions and nodes named in a [`GarbageStatus`]: enough to know where to look.
pub const HOLDERS_MAX: usize = 64;

/// What is asked about garbage; only the leader answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum GarbageRequest {
    /// From nodes only: dead chunks of the sender's partitions whose copies may go, in order of key, after `after`.
    Dead {
        /// The last key of the page before; none to begin.
        after: Option<ChunkKey>,
        /// What the sender has done: it is not told of that again.
        claim: Claim,
    },
    /// From nodes only: what does the namespace say of these copies, each with its stamp? At most
    /// [`crate::chunk::KEYS_MAX`].
    Judge {
        /// Copies that the sender holds, or would fetch.
        copies: Vec<(ChunkKey, GcEpoch)>,
    },
    /// How far the collection is, and what holds it back.
    Status,
}

/// "Of my partitions in this ring, I hold no copy any more of a chunk that died below this."
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Epoch of the ring that gave the partitions.
    pub ring: Epoch,
    /// Everything that died before is deleted.
    pub below: GcEpoch,
}

/// What the namespace says of a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Standing {
    /// A file refers to it.
    Named,
    /// It has lost its last reference.
    Dead {
        /// When.
        at: GcEpoch,
    },
    /// No row names it: put and never committed, or dead and long collected.
    Unnamed,
}

/// What is answered about garbage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum GarbageAnswer {
    /// To a question for the dead.
    Dead(DeadPage),
    /// To a question for judgement: one standing for each copy, in order, all from one state.
    Judged {
        /// No commit with a lower stamp is accepted any more.
        safe: GcEpoch,
        /// What the namespace says of each.
        standings: Vec<Standing>,
    },
    /// To a question for the state.
    Status(Box<GarbageStatus>),
}

/// Dead chunks whose copies may go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeadPage {
    /// Epoch of the ring by which the partitions are the asker's.
    pub ring: Epoch,
    /// No commit with a lower stamp is accepted any more: everything here died before.
    pub safe: GcEpoch,
    /// Keys in order, each with when it died; at most [`crate::chunk::KEYS_MAX`].
    pub rows: Vec<(ChunkKey, GcEpoch)>,
    /// Where to go on; none if there is nothing more.
    pub next: Option<ChunkKey>,
}

/// How far the collection of garbage is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GarbageStatus {
    /// Stamp for puts.
    pub current: GcEpoch,
    /// No commit with a lower stamp is accepted any more.
    pub safe: GcEpoch,
    /// Chunks that no file refers to and that some node may still hold.
    pub dead_chunks: u64,
    /// Their bytes, counted once, not for each replica.
    pub dead_bytes: u64,
    /// Sessions for which `safe` waits, at most [`HOLDERS_MAX`].
    pub sessions: Vec<SessionHold>,
    /// Nodes that have not deleted everything that died below `safe`, at most [`HOLDERS_MAX`].
    pub nodes: Vec<NodeHold>,
}

/// A session for which the collection waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SessionHold {
    /// Which.
    pub session: SessionId,
    /// Whose.
    pub client: Peer,
    /// The lowest stamp it uses; none if this leader has not heard from it yet.
    pub lowest: Option<GcEpoch>,
}

/// A node for which dead chunks wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct NodeHold {
    /// Which.
    pub node: NodeId,
    /// It has deleted what died below; none if this leader has not heard from it yet.
    pub below: Option<GcEpoch>,
}
