//! The answer to "who holds this chunk", at one epoch.

use serde::{Deserialize, Serialize};

use crate::{ChunkKey, Epoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, ReplicaSet};

/// For every partition its replica nodes, at one epoch.
///
/// The table is flat: `replicas` indices into `members` for each partition, so a lookup is a shift and an array
/// access.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RingParts", into = "RingParts")]
pub struct Ring {
    epoch: Epoch,
    bits: PartitionBits,
    replicas: ReplicaCount,
    members: Vec<Member>,
    table: Vec<u16>,
}

/// A ring as it travels, not yet checked.
#[derive(Clone, Serialize, Deserialize)]
struct RingParts {
    epoch: Epoch,
    bits: PartitionBits,
    replicas: ReplicaCount,
    members: Vec<Member>,
    table: Vec<u16>,
}

/// The parts do not make a ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RingError {
    /// The table has not `partitions × replicas` places.
    #[error("a ring table of {found} places, {expected} expected")]
    TableLen {
        /// Places found.
        found: usize,
        /// Places needed.
        expected: usize,
    },
    /// More members than an index can name.
    #[error("a ring names at most 65,535 members, not {count}")]
    TooManyMembers {
        /// Members found.
        count: usize,
    },
    /// A node stands twice among the members.
    #[error("{id} is twice a member of the ring")]
    MemberTwice {
        /// Who.
        id: NodeId,
    },
    /// A partition names a member that does not exist, or one member twice.
    #[error("partition {partition:?} names no distinct, existing members")]
    BadPartition {
        /// Which.
        partition: Partition,
    },
}

impl Ring {
    /// A ring from its parts; `table` holds `replicas` member indices for each partition, in order of preference.
    pub fn new(
        epoch: Epoch,
        bits: PartitionBits,
        replicas: ReplicaCount,
        members: Vec<Member>,
        table: Vec<u16>,
    ) -> Result<Self, RingError> {
        let expected = bits.count() * replicas.count();
        if table.len() != expected {
            return Err(RingError::TableLen { found: table.len(), expected });
        }
        if members.len() > usize::from(u16::MAX) {
            return Err(RingError::TooManyMembers { count: members.len() });
        }
        let mut ids: Vec<NodeId> = members.iter().map(|member| member.id).collect();
        ids.sort_unstable();
        if let Some(&[id, _]) = ids.windows(2).find(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(RingError::MemberTwice { id });
        }
        for (partition, row) in bits.partitions().zip(table.chunks_exact(replicas.count())) {
            let known = row.iter().all(|&index| usize::from(index) < members.len());
            let distinct = row.iter().enumerate().all(|(at, index)| row.iter().take(at).all(|other| other != index));
            if !known || !distinct {
                return Err(RingError::BadPartition { partition });
            }
        }
        Ok(Self { epoch, bits, replicas, members, table })
    }

    /// Version of this ring.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// How many partitions, as a power of two.
    pub fn bits(&self) -> PartitionBits {
        self.bits
    }

    /// Replicas of each partition.
    pub fn replicas(&self) -> ReplicaCount {
        self.replicas
    }

    /// The nodes that the ring was solved for, in the order of [`Ring::row`]'s indices.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Indices into [`Ring::members`] of the replicas of `partition`, in order of preference. No allocation.
    #[inline]
    pub fn row(&self, partition: Partition) -> &[u16] {
        let width = self.replicas.count();
        let start = partition.0 as usize * width;
        self.table.get(start..start + width).expect("a Partition of this ring's PartitionBits has a row")
    }

    /// The nodes that hold `partition`, in order of preference.
    pub fn replica_set(&self, partition: Partition) -> ReplicaSet {
        ReplicaSet::new(self.owners(partition).collect()).expect("rows were checked to be distinct and not empty")
    }

    /// The nodes that hold the chunk `key`, in order of preference.
    pub fn place(&self, key: &ChunkKey) -> ReplicaSet {
        self.replica_set(self.bits.partition_of(key))
    }

    /// The nodes that hold `partition`, in order of preference. No allocation.
    pub fn owners(&self, partition: Partition) -> impl Iterator<Item = NodeId> + use<'_> {
        self.row(partition).iter().filter_map(|&index| self.members.get(usize::from(index))).map(|member| member.id)
    }
}

impl TryFrom<RingParts> for Ring {
    type Error = RingError;

    fn try_from(parts: RingParts) -> Result<Self, RingError> {
        Self::new(parts.epoch, parts.bits, parts.replicas, parts.members, parts.table)
    }
}

impl From<Ring> for RingParts {
    fn from(ring: Ring) -> Self {
        let Ring { epoch, bits, replicas, members, table } = ring;
        Self { epoch, bits, replicas, members, table }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ring, RingError};
    use crate::{ChunkKey, Epoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, Weight};

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn ring(numbers: &[u8], table: Vec<u16>) -> Result<Ring, RingError> {
        let weight = Weight(1.try_into().unwrap());
        let members = numbers.iter().map(|&number| Member { id: id(number), zone: None, weight }).collect();
        Ring::new(Epoch(7), PartitionBits::new(1).unwrap(), ReplicaCount::new(2).unwrap(), members, table)
    }

    #[test]
    fn a_key_is_placed_by_its_top_bits() {
        let ring = ring(&[1, 2, 3], vec![0, 1, 2, 0]).unwrap();
        let place = |first_byte| ring.place(&ChunkKey::from_bytes([first_byte; 32]));
        assert_eq!(place(0x7f).nodes(), [id(1), id(2)]);
        assert_eq!(place(0x80).nodes(), [id(3), id(1)]);
        assert!(place(0x80).contains(id(3)) && !place(0x80).contains(id(2)));
    }

    #[test]
    fn a_table_that_makes_no_ring_is_refused() {
        let refused = |numbers: &[u8], table: &[u16]| ring(numbers, table.to_vec()).unwrap_err();
        assert_eq!(refused(&[1, 2], &[0, 1, 0]), RingError::TableLen { found: 3, expected: 4 });
        assert_eq!(refused(&[1, 2, 1], &[0, 1, 0, 1]), RingError::MemberTwice { id: id(1) });
        assert_eq!(refused(&[1, 2], &[0, 1, 0, 2]), RingError::BadPartition { partition: Partition(1) });
        assert_eq!(refused(&[1, 2], &[1, 1, 0, 1]), RingError::BadPartition { partition: Partition(0) });
    }

    /// The format of PLACEMENT.md, byte by byte.
    #[test]
    fn a_ring_travels_as_documented_and_comes_back_equal() {
        let ring = ring(&[1, 2], vec![0, 1, 1, 0]).unwrap();
        let mut bytes = vec![7, 1, 2, 2];
        for number in [1u8, 2] {
            bytes.extend([number; 16]);
            bytes.extend([0, 1]);
        }
        bytes.extend([4, 0, 1, 1, 0]);
        assert_eq!(postcard::to_allocvec(&ring).unwrap(), bytes);
        assert_eq!(postcard::from_bytes::<Ring>(&bytes).unwrap(), ring);
    }

    #[test]
    fn no_hostile_bytes_make_a_ring_that_breaks_its_promises() {
        let good = postcard::to_allocvec(&ring(&[1, 2, 3], vec![0, 1, 2, 0]).unwrap()).unwrap();
        for at in 0..good.len() {
            assert!(postcard::from_bytes::<Ring>(&good[..at]).is_err(), "cut at {at}");
            for value in 0..=u8::MAX {
                let mut bytes = good.clone();
                bytes[at] = value;
                // Whatever decodes is a ring that `Ring::new` made: every lookup on it ends well.
                if let Ok(ring) = postcard::from_bytes::<Ring>(&bytes) {
                    for partition in ring.bits().partitions() {
                        assert_eq!(ring.replica_set(partition).nodes().len(), ring.replicas().count());
                    }
                }
            }
        }
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            postcard::from_bytes::<Ring>(&bytes)
        };
        assert!(with(1, 21).is_err(), "more partitions than any ring has");
        assert!(with(1, 2).is_err(), "more partitions than the table has rows");
        assert!(with(2, 0).is_err(), "no replicas");
        assert!(with(2, 8).is_err(), "more replicas than any cluster keeps");
        assert!(with(21, 0).is_err(), "a member without weight");
        assert!(with(good.len() - 1, 3).is_err(), "a member that does not exist");
        assert!(with(good.len() - 1, 2).is_err(), "a member twice in a row");
        // A table, and a list of members, that claim to have 2^28 entries more than there are bytes.
        for at in [3, good.len() - 5] {
            let lying = [&good[..at], &[0xff, 0xff, 0xff, 0x7f], &good[at + 1..]].concat();
            assert!(postcard::from_bytes::<Ring>(&lying).is_err());
        }
    }
}
