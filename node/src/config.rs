//! What a running node may be told, each with unit, default and why.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::disk::ballast::Starved;

/// Configuration of a serving node. Identity and place come from the data directory.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the data directory is.
    pub data: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Limits of the server.
    pub serve: ServeConfig,
    /// Heartbeats and what follows from silence.
    pub membership: MembershipConfig,
    /// Fetching what this node lacks.
    pub repair: RepairConfig,
    /// Deleting what no file refers to.
    pub garbage: GarbageConfig,
    /// Merging what was written in small pieces.
    pub merge: MergeConfig,
    /// Whether next to nothing is left on its file system.
    pub starved: Starved,
}

/// Limits of the server.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Bytes of chunk bodies in memory at once, received or being sent: 64 MiB keep two disks busy and a small machine
    /// alive. Puts beyond it wait, and are refused as busy at their deadline.
    pub body_bytes: u32,
    /// Requests under way at once, over all connections.
    pub requests: usize,
    /// Requests that wait for leases of others at once: half of those above. The other half is for those by which leases
    /// are given back, and what they rest on stored. Who finds no place tries again.
    pub lease_waits: usize,
    /// Mounts that listen for recalls at once, each with one request; apart from those above, which they would fill.
    pub recall_listeners: usize,
    /// Requests of nodes about Raft and the cluster under way at once. Apart from those above, which clients can use
    /// up: eight from each of thirty peers.
    pub peer_requests: usize,
    /// Bytes of Raft bodies in memory at once: sixteen appends or pages of 1 MiB, whatever clients send.
    pub raft_body_bytes: u32,
    /// Redemptions under way at once: strangers ask for them, each costs a signature.
    pub redemptions: usize,
    /// How long a put may wait for its body to arrive.
    pub body_deadline: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            requests: 4096,
            lease_waits: 2048,
            recall_listeners: 4096,
            peer_requests: 256,
            raft_body_bytes: 16 << 20,
            redemptions: 32,
            body_deadline: Duration::from_secs(30),
        }
    }
}

/// Heartbeats and what follows from silence.
#[derive(Clone, Debug)]
pub struct MembershipConfig {
    /// Between heartbeats to the leader: six may be lost before a node counts as down.
    pub heartbeat: Duration,
    /// Silence after which a node is down. With the heartbeat and one status it stays below the 5 s that we promise.
    pub down_after: Duration,
    /// Silence after which the replicas of a node are made elsewhere: longer than a machine takes to start again, as most
    /// that fall silent do, and short beside the time until another is likely to fail.
    pub out_after: Duration,
    /// Between the rounds of the leader's housekeeping: voters, sessions, orphans, cuts.
    pub housekeeping: Duration,
    /// Silence after which a session ends.
    pub session_lifetime: Duration,
}

impl Default for MembershipConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            down_after: Duration::from_secs(3),
            out_after: Duration::from_secs(600),
            housekeeping: Duration::from_millis(500),
            session_lifetime: Duration::from_secs(60),
        }
    }
}

/// Fetching what this node lacks.
#[derive(Clone, Debug)]
pub struct RepairConfig {
    /// Chunks fetched at once: four of 4 MiB hide the latency of a disk and leave room for others.
    pub fetches: usize,
    /// Bytes that this node fetches, and reads for others that fetch, in a second, at most. None: as fast as it can while
    /// no client asks for anything; beside clients repair takes its share of the time either way.
    pub bytes_per_s: Option<u64>,
    /// Between two full comparisons with the other holders when nothing else gives a reason, at least: a put that
    /// reached only its quorum is made whole then. Long comparisons are further apart.
    pub interval: Duration,
    /// How long one request to another holder may take.
    pub deadline: Duration,
    /// Reading again what this node holds.
    pub scrub: ScrubConfig,
}

impl Default for RepairConfig {
    fn default() -> Self {
        Self {
            fetches: 4,
            bytes_per_s: None,
            interval: Duration::from_secs(20),
            deadline: Duration::from_secs(10),
            scrub: ScrubConfig::default(),
        }
    }
}

/// Reading again what this node holds, to find what the medium has changed while another replica is still good.
#[derive(Clone, Debug)]
pub struct ScrubConfig {
    /// Bytes read in a second, at most: 20 MiB are a tenth of what a slow disk can do, and 12 TiB in a week.
    pub bytes_per_s: u64,
    /// From the beginning of one pass to that of the next, at least: two weeks, because disks lose sectors in months, and
    /// reading wears on them too. What takes longer takes longer; the next pass then begins at once.
    pub every: Duration,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        Self { bytes_per_s: 20 << 20, every: Duration::from_secs(14 * 86_400) }
    }
}

/// Deleting what no file refers to.
#[derive(Clone, Debug)]
pub struct GarbageConfig {
    /// Between two questions of a node for dead chunks: what is deleted is not urgent.
    pub poll: Duration,
    /// How long copies are out of use before they are deleted: whoever read where they are just before their file went
    /// can still read them, and a put in this time takes a record instead of all the bytes.
    pub grace: Duration,
    /// Between two sweeps of a node over all its copies for those that no row names, at least: uploads that were killed
    /// are rare. Long sweeps are further apart.
    pub sweep: Duration,
    /// Between two raises of the stamp for puts, at least.
    pub raise_every: Duration,
}

impl Default for GarbageConfig {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(5),
            grace: Duration::from_secs(10),
            sweep: Duration::from_secs(30),
            raise_every: Duration::from_secs(5),
        }
    }
}

/// How the leader merges short extents.
#[derive(Clone, Debug)]
pub struct MergeConfig {
    /// Between two walks over all extents, at least. What two walks have found alike is merged: 30 s are longer than most
    /// programs pause between two writes to one place.
    pub rest: Duration,
}

impl Default for MergeConfig {
    fn default() -> Self {
        Self { rest: Duration::from_secs(30) }
    }
}
