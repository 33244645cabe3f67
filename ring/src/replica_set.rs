//! The nodes that hold one partition.

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Nodes that hold a chunk, in order of preference: never empty, never the same node twice.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<NodeId>", into = "Vec<NodeId>")]
pub struct ReplicaSet(Vec<NodeId>);

/// The list is no replica set.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplicaSetError {
    /// A chunk with no home.
    #[error("a replica set names at least one node")]
    Empty,
    /// Two copies on one machine are one copy.
    #[error("{node} stands twice in a replica set")]
    Twice {
        /// The node that was named twice.
        node: NodeId,
    },
}

impl ReplicaSet {
    /// A set from nodes in order of preference.
    pub fn new(nodes: Vec<NodeId>) -> Result<Self, ReplicaSetError> {
        if nodes.is_empty() {
            return Err(ReplicaSetError::Empty);
        }
        let twice =
            nodes.iter().enumerate().find(|(index, node)| nodes.iter().take(*index).any(|other| other == *node));
        match twice {
            Some((_, &node)) => Err(ReplicaSetError::Twice { node }),
            None => Ok(Self(nodes)),
        }
    }

    /// The nodes, in order of preference.
    pub fn nodes(&self) -> &[NodeId] {
        &self.0
    }

    /// Whether `node` is one of them.
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }
}

impl TryFrom<Vec<NodeId>> for ReplicaSet {
    type Error = ReplicaSetError;

    fn try_from(nodes: Vec<NodeId>) -> Result<Self, ReplicaSetError> {
        Self::new(nodes)
    }
}

impl From<ReplicaSet> for Vec<NodeId> {
    fn from(set: ReplicaSet) -> Self {
        set.0
    }
}
