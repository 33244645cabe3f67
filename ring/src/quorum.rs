//! How many copies make bytes safe.

use serde::{Deserialize, Serialize};

/// Number of replicas that a cluster keeps of every chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct ReplicaCount(u8);

/// Not a number of replicas that a cluster can keep.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a cluster keeps 1 to {max} replicas, not {count}", max = ReplicaCount::MAX)]
pub struct ReplicaCountError {
    /// The number that was refused.
    pub count: u8,
}

impl ReplicaCount {
    /// More copies than this buy nothing that other failures do not take away.
    pub const MAX: u8 = 7;

    /// A count of replicas, 1 to [`ReplicaCount::MAX`].
    pub const fn new(count: u8) -> Result<Self, ReplicaCountError> {
        if count >= 1 && count <= Self::MAX { Ok(Self(count)) } else { Err(ReplicaCountError { count }) }
    }

    /// The number of replicas.
    pub const fn count(self) -> usize {
        self.0 as usize
    }

    /// Replicas that must hold a chunk on stable storage before it counts as written: ⌊N/2⌋ + 1.
    ///
    /// Any two write quorums share a node, so of any `replicas − write_quorum + 1` nodes of a set at least one has
    /// seen each acknowledged write.
    pub const fn write_quorum(self) -> usize {
        let quorum = self.count() / 2 + 1;
        assert!(2 * quorum > self.count(), "two write quorums overlap");
        quorum
    }

    /// How many nodes of a set must be listed so that no acknowledged write is missed: `replicas − write_quorum + 1`.
    pub const fn read_quorum(self) -> usize {
        let quorum = self.count() - self.write_quorum() + 1;
        assert!(quorum + self.write_quorum() > self.count(), "a listing meets every write quorum");
        quorum
    }
}

impl TryFrom<u8> for ReplicaCount {
    type Error = ReplicaCountError;

    fn try_from(count: u8) -> Result<Self, ReplicaCountError> {
        Self::new(count)
    }
}

impl From<ReplicaCount> for u8 {
    fn from(count: ReplicaCount) -> Self {
        count.0
    }
}

#[cfg(test)]
mod tests {
    use super::ReplicaCount;

    #[test]
    fn a_write_quorum_is_a_majority_and_every_read_quorum_meets_it() {
        for (count, write, read) in [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 3, 2), (5, 3, 3), (7, 4, 4)] {
            let replicas = ReplicaCount::new(count).unwrap();
            assert_eq!((replicas.write_quorum(), replicas.read_quorum()), (write, read), "{count} replicas");
        }
        assert!(ReplicaCount::new(0).is_err());
        assert!(ReplicaCount::new(8).is_err());
    }
}
