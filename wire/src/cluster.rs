//! The cluster map, heartbeats, tokens and administration.

use std::{fmt, net::SocketAddr};

use ring::{Epoch, GcEpoch, Member, NodeId, Partition, Placement, ReplicaCount, Ring, Transition, Weight, Zone};
use serde::{Deserialize, Serialize};

use crate::{
    chunk::Incarnation,
    garbage::{GarbageAnswer, GarbageRequest},
    health::{HealthAnswer, HealthRequest},
    moves::{Leave, Leaving, MovesAnswer, MovesRequest},
    stand_in::Away,
};

/// Identity of a cluster: random, born at `init`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

/// Identity of a client: random, born at `login`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct ClientId(pub [u8; 16]);

/// BLAKE3 of a public key as SubjectPublicKeyInfo (DER): what the map and the client table know a peer's key by.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct KeyFingerprint(pub [u8; 32]);

macro_rules! display_hex {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    )*};
}
display_hex!(ClusterId, ClientId, KeyFingerprint);

/// What a client's certificate allows; nodes enforce it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Access {
    /// Everything but what only nodes may do. Trusted for uid and gid, as NFS `sys`.
    ReadWrite,
    /// Queries and gets.
    ReadOnly,
}

/// A node in the cluster map.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Who.
    pub id: NodeId,
    /// Where it listens, as others reach it.
    pub address: SocketAddr,
    /// Failure domain.
    pub zone: Option<Zone>,
    /// Share of the chunks.
    pub weight: Weight,
    /// Its key.
    pub key: KeyFingerprint,
}

impl NodeRow {
    /// The node as the solver sees it.
    pub fn member(&self) -> Member {
        Member { id: self.id, zone: self.zone.clone(), weight: self.weight }
    }
}

/// A node beside the owners that may hold acknowledged chunks of partitions: since they were last confirmed clean it stood in
/// for an owner, or owned them itself while another did. Readers try them all before they give up.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct MayHold {
    /// Who. It may have been removed since.
    pub node: NodeId,
    /// Which partitions, in order.
    pub partitions: Vec<Partition>,
}

/// Nodes that hold a partition, or are to, and how many of them must have a chunk on stable storage before it counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PutRow {
    /// Which, in order of preference. Those that were removed are not among them.
    pub nodes: Vec<NodeId>,
    /// The failure domain of each of them: equal numbers are one zone. A node without a zone is one of its own.
    pub zones: Vec<usize>,
    /// How many.
    pub quorum: usize,
}

impl PutRow {
    /// Zones of those of its nodes that are `of_these`.
    pub fn zones(&self, of_these: impl Fn(NodeId) -> bool) -> usize {
        let zones = || self.nodes.iter().zip(&self.zones).filter(|(node, _)| of_these(**node)).map(|(_, zone)| *zone);
        zones().enumerate().filter(|(place, zone)| !zones().take(*place).any(|other| other == *zone)).count()
    }

    /// Zones that a write quorum is to lie in: as many as it has nodes, if the row has so many.
    pub fn spread(&self) -> usize {
        self.quorum.min(self.zones(|_| true))
    }
}

/// Members and ring at one epoch. Replicated; the same epoch is the same map everywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Version of the map.
    pub epoch: Epoch,
    /// Replicas that the cluster was made for.
    pub replicas: ReplicaCount,
    /// Members in the order in which they joined.
    pub nodes: Vec<NodeRow>,
    /// Who holds what; none until `replicas` nodes have joined. Its own epoch is that of the map that brought it.
    pub ring: Option<Ring>,
    /// Who beside the owners may hold what, in order of ids; partitions that are not named are clean.
    pub may_hold: Vec<MayHold>,
    /// The change from `ring` to another that is under way.
    pub transition: Option<Transition>,
    /// Members that are to hold nothing.
    pub leaving: Vec<Leave>,
    /// Members whose writes others take, in order of ids.
    pub away: Vec<Away>,
    /// Epoch of the map at which the last one went away or came back, or got another stand-in.
    pub acting: Epoch,
}

impl ClusterMap {
    /// The node `id`, if it is a member.
    pub fn node(&self, id: NodeId) -> Option<&NodeRow> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Who holds what; none until the ring is solved.
    pub fn placement(&self) -> Option<Placement<'_>> {
        self.ring.as_ref().map(|ring| Placement::new(ring, self.transition.as_ref()))
    }

    /// What a put to `partition` must reach: a write quorum of its owners, and while others are to own it one of theirs
    /// too. In the place of those that are away count their stand-ins. Nodes that were removed are not waited for: of
    /// what is left of a row all, or a write quorum, count. None if nobody is left.
    pub fn put_rows(&self, partition: Partition) -> Vec<PutRow> {
        let Some(placement) = self.placement() else { return Vec::new() };
        let quorum = placement.replicas().write_quorum();
        let acting = |row: Vec<NodeId>| -> Option<PutRow> {
            let nodes = self.acting(partition, &row);
            (!nodes.is_empty()).then(|| PutRow { quorum: quorum.min(nodes.len()), zones: self.zones_of(&nodes), nodes })
        };
        let owners = acting(placement.owners(partition).collect());
        let next = placement.next_owners(partition).and_then(|next| acting(next.collect()));
        owners.into_iter().chain(next).collect()
    }

    /// The zone of each of `nodes`, by the place of the first of them that is in it.
    fn zones_of(&self, nodes: &[NodeId]) -> Vec<usize> {
        let zone = |node: &NodeId| self.node(*node).and_then(|row| row.zone.as_ref());
        let first = |place: usize, node: &NodeId| {
            let own = zone(node)?;
            nodes.iter().take(place).position(|other| zone(other) == Some(own))
        };
        nodes.iter().enumerate().map(|(place, node)| first(place, node).unwrap_or(place)).collect()
    }

    /// Nodes beside the owners of `partition` that may hold chunks of it: those that are to own it, and those of
    /// [`ClusterMap::may_hold`].
    pub fn others(&self, partition: Partition) -> impl Iterator<Item = NodeId> + '_ {
        let placement = self.placement();
        let is_owner = move |node: NodeId| placement.is_some_and(|placement| placement.is_owner(partition, node));
        let is_coming = move |node: NodeId| placement.is_some_and(|placement| placement.keeps(partition, node));
        let coming = placement.into_iter().flat_map(move |placement| placement.coming(partition));
        let beside = self.may_hold(partition).filter(move |node| !is_coming(*node));
        coming.chain(beside).filter(move |node| !is_owner(*node) && self.node(*node).is_some())
    }

    /// Why `node` is to hold nothing, if it is so.
    pub fn leaving(&self, node: NodeId) -> Option<Leaving> {
        self.leaving.iter().find(|leave| leave.node == node).map(|leave| leave.why)
    }

    /// Whether `node` is a member from which chunks can be expected: neither out nor removed.
    pub fn is_in(&self, node: NodeId) -> bool {
        self.node(node).is_some() && self.leaving(node) != Some(Leaving::Out)
    }

    /// Nodes that must still join before the ring is solved.
    pub fn missing(&self) -> u32 {
        let missing = if self.ring.is_some() { 0 } else { self.replicas.count().saturating_sub(self.nodes.len()) };
        u32::try_from(missing).expect("a replica count is at most 7")
    }
}

/// What a node says of its disk and store.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Bytes that the store may use.
    pub capacity: u64,
    /// Bytes that segments take.
    pub used: u64,
    /// Bytes free for chunks.
    pub free: u64,
    /// Chunks held.
    pub chunks: u64,
    /// Of the store at the moment.
    pub incarnation: Incarnation,
    /// Refuses puts for want of room.
    pub full: bool,
    /// Refuses puts because its disk failed.
    pub failed: bool,
    /// Damaged records found since the start, repaired or not.
    pub damaged: u64,
    /// Of those, replaced from another replica.
    pub repaired: u64,
    /// Chunks of its partitions that it knows it still lacks.
    pub lacking: u64,
    /// Next to nothing is left on its file system, for anything.
    pub starved: bool,
}

/// How a node is, as the leader sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum NodeState {
    /// Heard of within the last 3 s.
    Up,
    /// Up, and fetching what it missed.
    CatchingUp,
    /// Silent.
    Down,
    /// Up, and giving what it holds to others.
    Draining,
    /// Silent for so long that its replicas are made elsewhere.
    Out,
}

/// A node's part in the Raft group.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum RaftRole {
    /// Leads.
    Leader,
    /// Votes.
    Voter,
    /// Receives the log, does not vote.
    Learner,
    /// Has no part.
    None,
}

/// A node in an answer to [`ClusterRequest::Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its row of the map.
    pub row: NodeRow,
    /// How it is.
    pub state: NodeState,
    /// Its part in the Raft group.
    pub role: RaftRole,
    /// Its last word on its store; none if it has not been heard since the leader became leader.
    pub store: Option<StoreReport>,
    /// Replicas of partitions that the ring gives it; 0 for a member without partitions.
    pub partitions: u32,
}

/// State of the cluster as the leader sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Version of the map.
    pub epoch: Epoch,
    /// Replicas that the cluster keeps.
    pub replicas: ReplicaCount,
    /// Nodes that must still join before the ring is solved.
    pub missing: u32,
    /// Every member, in the order in which they joined.
    pub nodes: Vec<NodeStatus>,
    /// What is stored.
    pub usage: crate::namespace::Usage,
    /// Term of the leader.
    pub term: u64,
    /// Index of the last entry applied.
    pub applied: u64,
    /// Stamp for puts.
    pub gc_current: GcEpoch,
}

/// What a token admits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum TokenPurpose {
    /// One node, by `dfs-node join`.
    Node,
    /// One client, by `dfs login`.
    Client(Access),
}

/// What is asked about the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClusterRequest {
    /// Any node: the map, if it is newer than `known`, and who leads.
    Map {
        /// Epoch that the asker has.
        known: Option<Epoch>,
    },
    /// Leader, from nodes only, every 500 ms: "I am here".
    Heartbeat {
        /// The sender's store.
        store: StoreReport,
        /// The sender's map.
        epoch: Epoch,
    },
    /// Leader: state of everything.
    Status,
    /// Leader, read-write clients and nodes: a new single-use token.
    CreateToken {
        /// What it admits.
        purpose: TokenPurpose,
        /// Seconds until it expires, at most 30 days.
        lifetime_s: u32,
    },
    /// Voter, from nodes only: is this peer a current row of the map or the client table?
    Identify {
        /// Who it says it is.
        peer: Peer,
        /// Its key.
        key: KeyFingerprint,
    },
    /// Leader, from nodes only: a redemption that a newcomer sent to the sender.
    ForwardRedeem(Redeem),
    /// Node, from the leader only, before its promotion to voter: the key that unseals the authority's key.
    TakeSeal {
        /// 32 bytes.
        seal: SealKey,
    },
    /// Leader, from nodes only: the sender is reached elsewhere than the map says.
    Moved {
        /// Where.
        address: SocketAddr,
    },
    /// Leader: about garbage.
    Garbage(GarbageRequest),
    /// Leader: about nodes that come and go.
    Moves(MovesRequest),
    /// Leader: about how nodes are.
    Health(HealthRequest),
    /// Leader, from nodes only: the sender stands elsewhere, or has another share, than the map says.
    Placed {
        /// Its failure domain.
        zone: Option<Zone>,
        /// Its share of the chunks.
        weight: Weight,
    },
}

/// Key under which the authority's private key is sealed in the replicated state. Never printed.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
pub struct SealKey(pub [u8; 32]);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(…)")
    }
}

/// Who is at the other end, as its certificate says.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub enum Peer {
    /// A storage node.
    Node(NodeId),
    /// A client.
    Client(ClientId),
}

impl Peer {
    /// Which node it is, if it is one.
    pub fn node(self) -> Option<NodeId> {
        match self {
            Self::Node(node) => Some(node),
            Self::Client(_) => None,
        }
    }
}

/// What is answered about the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClusterAnswer {
    /// To a question for the map.
    Map {
        /// The map, if newer than the asker's.
        map: Option<Box<ClusterMap>>,
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// To a heartbeat.
    Heard {
        /// Epoch of the leader's map: fetch it if it is newer.
        epoch: Epoch,
    },
    /// To a question for the state.
    Status(Box<ClusterStatus>),
    /// To a wish for a token: the text to hand over.
    Token(String),
    /// To a question about a peer.
    Identified {
        /// What it may do; none if it is unknown or its key is another.
        access: Option<PeerAccess>,
    },
    /// To a forwarded redemption.
    Redeemed(Box<Redeemed>),
    /// To the seal: it is on stable storage.
    SealTaken,
    /// To a new address or place: it is in the map.
    MoveNoted,
    /// About garbage.
    Garbage(GarbageAnswer),
    /// About nodes that come and go.
    Moves(MovesAnswer),
    /// About how nodes are.
    Health(HealthAnswer),
}

/// What a known peer may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum PeerAccess {
    /// It is a node.
    Node,
    /// It is a client.
    Client(Access),
}

/// A newcomer redeems its token, over the join ALPN: the one request it may make without a certificate.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Redeem {
    /// The token's secret.
    pub secret: [u8; 32],
    /// Certificate signing request (PKCS#10, DER), signed by the newcomer's key.
    #[serde(with = "crate::blob")]
    pub request: Vec<u8>,
    /// Who it wants to be.
    pub newcomer: Newcomer,
}

/// Without the secret.
impl fmt::Debug for Redeem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redeem").field("newcomer", &self.newcomer).finish_non_exhaustive()
    }
}

/// Who redeems.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Newcomer {
    /// A node with its identity and place.
    Node {
        /// Born with its data directory.
        id: NodeId,
        /// Where it will listen.
        address: SocketAddr,
        /// Failure domain.
        zone: Option<Zone>,
        /// Share of the chunks.
        weight: Weight,
    },
    /// A client.
    Client {
        /// Random, made by it.
        id: ClientId,
    },
}

/// What a newcomer gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Redeemed {
    /// Which cluster it belongs to now.
    pub cluster: ClusterId,
    /// Its certificate (DER).
    #[serde(with = "crate::blob")]
    pub certificate: Vec<u8>,
    /// The authority's certificate (DER); its fingerprint stood in the token.
    #[serde(with = "crate::blob")]
    pub authority: Vec<u8>,
    /// Addresses of the members, to start from.
    pub seeds: Vec<SocketAddr>,
    /// What it may do.
    pub access: PeerAccess,
    /// Replicas that the cluster keeps.
    pub replicas: ReplicaCount,
}
