//! The errors that travel.

use ring::{Epoch, GcEpoch, NodeId};
use serde::{Deserialize, Serialize};

/// Why a request was not served. Each variant is a different thing for the asker to do.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The asker's map is old: fetch the map, ask again.
    #[error("the request was made at an older epoch of the cluster map; this node is at {ours}")]
    StaleEpoch {
        /// Epoch of the node that refuses.
        ours: Epoch,
    },
    /// The asker's garbage-collection stamp is old: take the new one, put again.
    #[error("the put carries a stamp below {safe}, which has been collected")]
    StaleGc {
        /// Lowest stamp that is still accepted.
        safe: GcEpoch,
    },
    /// Only the leader answers this: ask `leader`, or any other node if it is not known.
    #[error("this node is not the leader")]
    NotLeader {
        /// The leader as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The chunk is not placed on this node at its epoch: fetch the map, route elsewhere.
    #[error("the chunk is not placed on this node")]
    NotReplica,
    /// The ring is not solved yet.
    #[error("{missing} more node(s) must join before the cluster can store files")]
    TooFewNodes {
        /// How many nodes are missing.
        missing: u32,
    },
    /// Too much at once: wait a little, ask again.
    #[error("the node is busy")]
    Busy,
    /// The bytes held under this key are not what the key says; it is reported and will be replaced: ask another node.
    #[error("this node's copy of the chunk is damaged")]
    Corrupt,
    /// The node does not hold the chunk: ask another node.
    #[error("this node does not hold the chunk")]
    UnknownChunk,
    /// The bytes sent are not what the key says: they were damaged on the way or before.
    #[error("the bytes do not match the key")]
    KeyMismatch,
    /// The disk of the node is full: the put failed; reads go on.
    #[error("the node's disk is full: remove files, or give it more room")]
    DiskFull,
    /// The disk of the node failed: count against the node.
    #[error("the node's disk failed")]
    DiskFailed,
    /// No majority of the voters answered in time: try again later.
    #[error("no majority of the voting nodes can be reached")]
    NoQuorum,
    /// The node is starting or stopping: ask another, or wait a little.
    #[error("the node is not serving yet, or no longer")]
    NotServing,
    /// The certificate allows reading only.
    #[error("this client may only read")]
    ReadOnly,
    /// The peer may not ask this (a client asking what only nodes may, say).
    #[error("this peer may not ask that")]
    NotAllowed,
    /// The peer's identity is no row of the cluster map or the client table: it was removed, or is another cluster's.
    #[error("this identity is not known to the cluster; it was removed, or belongs to another cluster")]
    UnknownPeer,
    /// The peer belongs to another cluster.
    #[error("this node belongs to another cluster")]
    OtherCluster,
    /// No version of the protocol is spoken by both.
    #[error("this node speaks protocol versions {min} to {max}")]
    Version {
        /// Lowest version spoken.
        min: u16,
        /// Highest version spoken.
        max: u16,
    },
    /// The token is not one of this cluster's.
    #[error("the token is not known to this cluster")]
    TokenUnknown,
    /// The token's time is over: make a new one.
    #[error("the token has expired")]
    TokenExpired,
    /// The token was used by another key: make a new one.
    #[error("the token has been used")]
    TokenUsed,
    /// A node token at `login`, or a client token at `join`.
    #[error("the token is for something else")]
    TokenPurpose,
    /// The session is over (60 s of silence) or never was: open a new one.
    #[error("the session is not known; it ended, or never was")]
    UnknownSession,
    /// The number was answered and forgotten, or lies too far ahead: a defect of the asker.
    #[error("the operation number is outside the session's window")]
    OutsideWindow,
    /// The frame or message cannot be read, or breaks a limit: a defect of the asker.
    #[error("the message is malformed")]
    Malformed,
    /// The server met a defect or a failing disk of its own; its log has the details.
    #[error("the node failed to serve the request; its log says why")]
    Internal,
    /// The address or identity is already taken by another node.
    #[error("another node of the cluster has this address or identity")]
    Taken,
    /// The node needs another file for chunks and may open none: the put failed; reads go on.
    #[error("the node may open no more files: raise its limit (LimitNOFILE, ulimit -n) and start it again")]
    TooManyFiles,
}
