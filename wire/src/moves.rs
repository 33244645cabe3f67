//! Nodes that come and go, and the partitions that move because of it.

use ring::{Epoch, NodeId, Partition};
use serde::{Deserialize, Serialize};

/// Partitions in one [`MovesRequest::Confirm`]: a ring of the usual size at once.
pub const CONFIRMED_MAX: usize = 4096;

/// Why a member is to hold nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Leaving {
    /// It was silent for so long that its replicas are made elsewhere; taken back in when it is heard again.
    Out,
    /// Somebody asked it to be emptied.
    Draining,
}

/// A member that is to hold nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Leave {
    /// Who.
    pub node: NodeId,
    /// Why.
    pub why: Leaving,
}

/// Whether a node may be removed that partitions still need.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Loss {
    /// No.
    Refused,
    /// Yes: what it alone holds is given up.
    Accepted,
}

/// What is asked about nodes that come and go; only the leader answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MovesRequest {
    /// From nodes only: the sender holds all that the owners of these partitions hold. It is among those that are to
    /// own them by the transition of this epoch. Said again until they are settled; at most [`CONFIRMED_MAX`].
    Confirm {
        /// Which transition.
        epoch: Epoch,
        /// Which partitions.
        partitions: Vec<Partition>,
    },
    /// Give everything that `node` holds to others.
    Drain {
        /// Whom.
        node: NodeId,
    },
    /// `node` is to hold its share again.
    Undrain {
        /// Who.
        node: NodeId,
    },
    /// `node` is no member any more.
    Remove {
        /// Who.
        node: NodeId,
        /// Whether that may cost replicas.
        loss: Loss,
    },
    /// How far the moves are.
    Status,
    /// From nodes only: the sender owns these partitions, and holds all that their owners hold and those that may hold
    /// something of them, whose map of this epoch is the last that changed stand-ins. Said again until they are clean;
    /// at most [`CONFIRMED_MAX`].
    ConfirmClean {
        /// [`crate::cluster::ClusterMap::acting`].
        acting: Epoch,
        /// Which partitions.
        partitions: Vec<Partition>,
    },
}

/// What is answered about nodes that come and go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MovesAnswer {
    /// To a confirmation.
    Noted,
    /// To a wish: it is in the map, of this epoch.
    Done {
        /// Epoch of the map.
        epoch: Epoch,
    },
    /// To a wish: it would cost replicas, and is refused.
    Kept(Kept),
    /// How far the moves are.
    Status(Box<MovesStatus>),
}

/// Why a node cannot go.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Partitions of which it owns a replica, or is to.
    pub partitions: u32,
    /// Of those, partitions of which no other owner is up and lacks nothing.
    pub last: u32,
    /// Members that would be left to hold partitions.
    pub left: u32,
}

/// How far the moves are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MovesStatus {
    /// Epoch of the newest map: there was no newer one when this was asked.
    pub epoch: Epoch,
    /// The transition under way.
    pub transition: Option<TransitionStatus>,
    /// Partitions of which some owner is out, or was removed: they have fewer replicas than they should.
    pub endangered: u32,
    /// Members whose writes others take.
    pub away: Vec<AwayStatus>,
    /// Partitions of which others than the owners may hold chunks that not every owner has yet.
    pub unclean: u32,
}

/// A member whose writes others take.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct AwayStatus {
    /// Who.
    pub node: NodeId,
    /// Partitions of which they do.
    pub partitions: u32,
}

/// A transition under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransitionStatus {
    /// Its epoch.
    pub epoch: Epoch,
    /// Partitions that are not settled yet.
    pub unsettled: u32,
    /// Replicas that are still to come, and not confirmed.
    pub replicas_left: u32,
    /// What comes to each node, in order of ids.
    pub coming: Vec<Coming>,
}

/// What comes to a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Coming {
    /// To whom.
    pub node: NodeId,
    /// Partitions it is to own, not settled yet.
    pub partitions: u32,
    /// Of those, confirmed.
    pub confirmed: u32,
}
