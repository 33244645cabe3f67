//! What nodes tell the leader of themselves beside their heartbeats, and what the leader tells whoever asks how they are.

use ring::NodeId;
use serde::{Deserialize, Serialize};

use crate::namespace::Timestamp;

/// Bytes of a version, at most: more is no version.
pub const VERSION_LEN_MAX: usize = 64;

/// What is said and asked about how nodes are; only the leader answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HealthRequest {
    /// From nodes only, every 2 s: how the sender is.
    Report(NodeReport),
    /// How every node is, and what the leader is about to do.
    Status,
}

/// What is answered about how nodes are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HealthAnswer {
    /// To a report.
    Noted,
    /// How every node is.
    Status(Box<HealthStatus>),
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Version of its program, at most [`VERSION_LEN_MAX`] bytes.
    pub version: String,
    /// Its wall clock as it says this.
    pub clock: Timestamp,
    /// How far it is with reading again what it holds.
    pub scrub: ScrubReport,
}

/// How far a node is with reading again what it holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Copies read in this pass; in the last one, while the node rests.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Passes that came to their end since the start.
    pub passes: u64,
    /// Seconds since the last of them ended; none before the first has.
    pub ended_s: Option<u64>,
    /// Seconds until the next one begins; none while one is under way.
    pub next_s: Option<u64>,
    /// Damaged copies that it found since the start.
    pub damaged: u64,
}

/// How every node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// Milliseconds of silence after which the leader has the replicas of a node made elsewhere.
    pub out_after_ms: u64,
    /// Every member, in the order in which they joined.
    pub nodes: Vec<NodeHealth>,
    /// How the moves go, while the ring changes.
    pub moving: Option<Moving>,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeHealth {
    /// Which.
    pub node: NodeId,
    /// Milliseconds since its last heartbeat; since this leader leads, at most.
    pub silent_ms: u64,
    /// Its last report; none if this leader has not heard one.
    pub heard: Option<HeardReport>,
}

/// A report, as the leader heard it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeardReport {
    /// What the node said.
    pub report: NodeReport,
    /// Milliseconds by which its clock was ahead of the leader's, the way of the report counted as nothing.
    pub clock_ahead_ms: i64,
}

/// How fast replicas have come to their new nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Moving {
    /// Milliseconds for which this leader has seen the transition that is under way.
    pub seen_ms: u64,
    /// Replicas of partitions that have come in this time.
    pub replicas_done: u32,
}
