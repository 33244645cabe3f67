//! What the Raft log holds.

use ring::{ChunkKey, Epoch, GcEpoch, NodeId, Partition, ReplicaCount};
use serde::{Deserialize, Serialize};
use wire::{
    Refusal,
    cluster::{Access, ClientId, ClusterId, KeyFingerprint, Newcomer, NodeRow, Peer, TokenPurpose},
    moves::{Leaving, Loss},
    namespace::{Attr, Batch, Inode, InodeRange, NewExtent, OpOutcome, SessionId, SessionNonce, Timestamp},
};

use super::{Checkpointed, RunDigest};

/// An entry of the Raft log: a change, stamped by the leader that proposed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// The leader's clock when it proposed the command. Times in rows come from it; `apply` never lets ctime go back.
    pub stamp: Timestamp,
    /// What to do.
    pub body: CommandBody,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CommandBody {
    /// Open a session, or find the one that this client opened with this nonce.
    OpenSession {
        /// Whose.
        client: Peer,
        /// Chosen by the client.
        nonce: SessionNonce,
    },
    /// End a session: at its client's wish, or after 60 s of silence. Its unnamed inodes become orphans.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// A range of inode numbers.
    ReserveInodes {
        /// For which session.
        session: SessionId,
    },
    /// Operations of a session. `client` is who sent them: a session serves only its own client.
    Batch {
        /// Who sent it.
        client: Peer,
        /// The operations.
        batch: Batch,
    },
    /// Go on with a large truncation or removal.
    ContinueCut {
        /// Of which inode.
        inode: Inode,
    },
    /// Give back what orphans hold; no session has them open.
    ReclaimOrphans {
        /// Which.
        inodes: Vec<Inode>,
    },
    /// About the cluster.
    Cluster(ClusterCommand),
    /// Open a session that may hold leases; otherwise as [`CommandBody::OpenSession`].
    OpenMount {
        /// Whose.
        client: Peer,
        /// Chosen by the client.
        nonce: SessionNonce,
    },
    /// Changes nothing. Once it is applied, what the same leader proposed before has been decided.
    Nothing,
    /// As [`CommandBody::Batch`], for operations that their session has executed before, under leases.
    BatchMade {
        /// Who sent it.
        client: Peer,
        /// The operations.
        batch: Batch,
        /// How each stands.
        made: Vec<Made>,
    },
    /// Garbage: the stamp for puts becomes the one after `from`, if it is that still.
    RaiseGc {
        /// The stamp that the proposer knew.
        from: GcEpoch,
    },
    /// Garbage: no commit with a lower stamp is accepted any more.
    AdvanceGc {
        /// The lowest that is.
        safe: GcEpoch,
    },
    /// Garbage: every copy of these is deleted; at most [`super::FORGET_MAX`].
    ForgetDead {
        /// Each with the death that was collected.
        chunks: Vec<(ChunkKey, GcEpoch)>,
    },
    /// The bytes of these chunks need not be kept here any more; at most [`super::CHECKPOINT_MAX`].
    Checkpoint {
        /// Each with why.
        chunks: Vec<(ChunkKey, Checkpointed)>,
    },
    /// One extent in the place of many that hold the same bytes; changes nothing if they are not there any more.
    Merge {
        /// Of which file.
        inode: Inode,
        /// What is put in their place: a whole chunk.
        merged: NewExtent,
        /// What it was made of.
        replaced: RunDigest,
    },
}

/// How an operation stands that its session has executed before it is told of.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Made {
    /// The session still holds the leases.
    Held {
        /// When it was made, by the session's clock.
        time: Timestamp,
    },
    /// The leases have ended: it is refused, unless nothing has changed meanwhile, or it was answered before.
    Unchanged {
        /// When it was made, by the session's clock.
        time: Timestamp,
        /// The inodes that it changes, each with its count of changes before.
        before: Vec<(Inode, u64)>,
    },
    /// The leases have ended, and what it rests on is not known: it is refused, unless it was answered before.
    Lost,
}

/// A change of members, tokens, clients, ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClusterCommand {
    /// The first command of a cluster's life.
    Found {
        /// Its identity.
        cluster: ClusterId,
        /// Replicas of each chunk.
        replicas: ReplicaCount,
        /// The first node.
        node: NodeRow,
        /// The authority's certificate (DER).
        authority: Vec<u8>,
        /// The authority's private key, sealed.
        sealed_key: Vec<u8>,
        /// User and group that the root directory belongs to.
        owner: (u32, u32),
    },
    /// A token was made.
    CreateToken {
        /// BLAKE3 of its secret.
        hash: [u8; 32],
        /// What it admits.
        purpose: TokenPurpose,
        /// Until when, by the leader's clock.
        expires: Timestamp,
    },
    /// A newcomer shows a token: marks it used by this key and adds id and key. The same key asking again before the
    /// token expires gets the same answer.
    RedeemToken {
        /// BLAKE3 of the secret.
        hash: [u8; 32],
        /// Key of the newcomer.
        key: KeyFingerprint,
        /// Who it is.
        newcomer: Newcomer,
    },
    /// Solve the ring if it is not solved and enough nodes have joined.
    SolveRing,
    /// A node listens elsewhere now.
    MoveNode {
        /// Which.
        node: NodeId,
        /// Its new address.
        address: std::net::SocketAddr,
    },
    /// Begin the change to the ring of these members: those of them that are not leaving. Changes nothing if that is
    /// the ring there is, or the one that a change under way leads to.
    Rebalance {
        /// Who is to hold partitions.
        members: Vec<NodeId>,
    },
    /// Every node that is to own these partitions has confirmed them: they are its now.
    Settle {
        /// By which transition.
        epoch: Epoch,
        /// At most [`super::SETTLED_MAX`]; more are left for the next command.
        partitions: Vec<Partition>,
    },
    /// A member is to hold nothing, or its share again.
    SetLeaving {
        /// Who.
        node: NodeId,
        /// Why; none to take it back in.
        why: Option<Leaving>,
    },
    /// A node is no member any more: unless loss is accepted, only if nothing needs it.
    RemoveNode {
        /// Who.
        node: NodeId,
        /// Whether that may cost replicas.
        loss: Loss,
    },
    /// The cluster goes on from what one survivor has: counters jump, and the first [`super::ENDED_MAX`] sessions that
    /// are open end. Proposed as often as there are sessions.
    Recover {
        /// The generation that begins.
        generation: u64,
    },
    /// Others take the writes of nodes, where somebody can. Changes nothing if nobody can anywhere. Nodes that fall silent
    /// together go away together: none is taken for a stand-in of the other.
    Away {
        /// Whose.
        nodes: Vec<NodeId>,
    },
    /// A node takes its writes itself.
    Back {
        /// Which.
        node: NodeId,
    },
    /// Every owner of these partitions holds what anybody holds of them: what others hold does not count any more.
    Clean {
        /// Epoch of the map that changed stand-ins last: they have confirmed it since.
        acting: Epoch,
        /// At most [`super::SETTLED_MAX`]; more are left for the next command.
        partitions: Vec<Partition>,
    },
    /// A node stands in another zone, or has another share, than the map says.
    PlaceNode {
        /// Which.
        node: NodeId,
        /// Its failure domain.
        zone: Option<ring::Zone>,
        /// Its share of the chunks.
        weight: ring::Weight,
    },
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandOutcome {
    /// To an open.
    SessionOpened {
        /// The session.
        session: SessionId,
        /// Its first range.
        inodes: InodeRange,
        /// Stamp for puts.
        gc_current: GcEpoch,
    },
    /// To a close, a cut, a reclaim, to nothing.
    Done,
    /// To a reservation.
    InodesReserved(InodeRange),
    /// To a batch.
    Batch {
        /// One for each operation, in order.
        outcomes: Vec<OpOutcome>,
        /// Attributes, after the batch, of every inode that its operations changed and that can still be seen. Left
        /// empty while there is no mount: nobody holds a lease then, and bulk uploads need not pay for it.
        touched: Vec<Attr>,
    },
    /// To a change of the cluster.
    Cluster(ClusterOutcome),
    /// The command was refused whole.
    Refused(Refusal),
}

/// What a change of the cluster came to.
#[derive(Clone, Debug, PartialEq)]
pub enum ClusterOutcome {
    /// It is done; the map is at this epoch.
    Done {
        /// Epoch of the map.
        epoch: Epoch,
    },
    /// The token admits this.
    Admitted {
        /// As what: node or client with access.
        purpose: TokenPurpose,
    },
}

/// A client in the client table.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ClientRow {
    /// Who.
    pub id: ClientId,
    /// Its key.
    pub key: KeyFingerprint,
    /// What it may do.
    pub access: Access,
}
