//! What is said between the parts of `dfs`, and over what.
//!
//! Every request travels on a bidirectional QUIC stream of its own: one [`frame`] with a postcard [`Request`], raw
//! bytes of a chunk behind it where there are any, and one frame with a [`Reply`] back. Four families of messages:
//!
//! | family | asked by | answered by |
//! |---|---|---|
//! | [`chunk`] | clients, nodes that repair | every node |
//! | [`namespace`] | clients | the leader; others redirect |
//! | [`cluster`] | nodes, clients, newcomers with a token | every node or the leader, as each message says |
//! | [`Request::Raft`] | voters and learners | voters and learners |
//!
//! # Invariants
//! - Enums only grow at the end; the golden bytes in `tests/golden.rs` hold this. A change that cannot be made so
//!   gets a new ALPN (see [`handshake`]).
//! - Every length is checked before anything is allocated for it.
//!
//! # Not here
//! What the words do: `node` and `fuse-client`. `PROTOCOL.md` beside this crate has the frame table.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed"))]

mod blob;
pub mod buffer;
pub mod chunk;
pub mod cluster;
pub mod frame;
pub mod garbage;
pub mod handshake;
pub mod health;
pub mod lease;
pub mod moves;
pub mod namespace;
pub mod quic;
mod refusal;
pub mod stand_in;
pub mod token;
pub mod tree;

use serde::{Deserialize, Serialize};

pub use refusal::Refusal;

/// Largest chunk: 4 MiB amortises one fsync; larger chunks make the repair of a lost replica lumpy.
pub const CHUNK_LEN_MAX: u32 = 4 << 20;

/// What may be asked on a stream of an authenticated connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// About chunks: any node.
    Chunk(chunk::ChunkRequest),
    /// About names, attributes and extents: the leader.
    Namespace(namespace::NamespaceRequest),
    /// About the cluster itself.
    Cluster(cluster::ClusterRequest),
    /// A message of the Raft library, opaque here; may carry a body (a piece of a snapshot).
    Raft(#[serde(with = "blob")] Vec<u8>),
}

/// What comes back when a request was served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To a [`Request::Chunk`].
    Chunk(chunk::ChunkAnswer),
    /// To a [`Request::Namespace`].
    Namespace(namespace::NamespaceAnswer),
    /// To a [`Request::Cluster`].
    Cluster(cluster::ClusterAnswer),
    /// To a [`Request::Raft`].
    Raft(#[serde(with = "blob")] Vec<u8>),
}

/// The outcome of a request.
pub type Reply = Result<Answer, Refusal>;
