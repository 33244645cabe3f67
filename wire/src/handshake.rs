//! Versions and first words.
//!
//! Two ALPNs: [`ALPN`] wants certificates on both sides; [`ALPN_JOIN`] serves one request, the redemption of a token.
//! The first stream of a connection carries a [`Hello`] and its answer.

use serde::{Deserialize, Serialize};

use crate::{Refusal, cluster::ClusterId};

/// Peers with certificates of the cluster.
pub const ALPN: &[u8] = b"dfs/1";

/// Newcomers with a token.
pub const ALPN_JOIN: &[u8] = b"dfs-join/1";

/// Lowest version of the messages spoken.
pub const VERSION_MIN: u16 = 1;

/// Highest version of the messages spoken.
pub const VERSION_MAX: u16 = 1;

/// First words of whoever connects.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest version spoken.
    pub version_min: u16,
    /// Highest version spoken.
    pub version_max: u16,
    /// The cluster that is expected.
    pub cluster: ClusterId,
    /// Features offered, a bit set; none are defined.
    pub features: u64,
}

/// First words of whoever was connected to.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version to speak: the highest that both know.
    pub version: u16,
    /// Features both offer.
    pub features: u64,
}

/// The outcome of a handshake.
pub type HelloReply = Result<Welcome, Refusal>;
