//! How the handle behaves, and why it may fail.

use std::time::Duration;

use wire::{Refusal, quic::BindError};

use crate::config::ProfileError;

/// How the client behaves.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// How long a question or change may take before it is an error; 10 s: twice what a change of leader takes.
    pub deadline: Duration,
    /// Bytes of chunks in memory for uploads; 64 MiB: sixteen full chunks keep three nodes' disks busy. Half as much
    /// again is held for replicas that lag behind their quorum.
    pub upload_pool_bytes: u64,
    /// Bytes of chunks in memory for downloads; 64 MiB.
    pub download_pool_bytes: u64,
    /// Seed of all randomness; the system's if none.
    pub rng_seed: Option<[u8; 32]>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            upload_pool_bytes: 64 << 20,
            download_pool_bytes: 64 << 20,
            rng_seed: None,
        }
    }
}

/// Why the cluster did not serve a request. Each is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The profile cannot be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The socket cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No node answered within the deadline.
    #[error("no node of the cluster answers (tried {tried}); is it running, and reachable from here?")]
    Unreachable {
        /// Who was asked and what came of it.
        tried: String,
    },
    /// A node answers, and does not know this identity, or is not known to it.
    #[error(
        "the identity of this profile is refused ({tried}): it was removed, or is of another cluster; log in again with \
         a new token (dfs login TOKEN), or choose another profile with --profile"
    )]
    Untrusted {
        /// Who was asked and what came of it.
        tried: String,
    },
    /// Nodes answer, but none can lead.
    #[error("the cluster has no quorum ({tried}); try again when a majority of its voting nodes runs")]
    NoQuorum {
        /// Who was asked and what came of it.
        tried: String,
    },
    /// The cluster refuses: asking again changes nothing.
    #[error("{0}")]
    Refused(Refusal),
    /// The answer is to another question: a defect of the node.
    #[error("a node gave an answer to another question; do client and nodes have the same version?")]
    Confused,
}

impl ClusterError {
    /// Whether the leader looked at a change and will not have it.
    pub(crate) fn is_final(&self) -> bool {
        use Refusal::{DiskFull, Malformed, NotAllowed, OtherCluster, ReadOnly, UnknownPeer, Version};
        let Self::Refused(refusal) = self else { return false };
        matches!(refusal, DiskFull | Malformed | NotAllowed | ReadOnly | UnknownPeer | OtherCluster | Version { .. })
    }
}
