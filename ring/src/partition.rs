//! Equal arcs of the key space.

use serde::{Deserialize, Serialize};

use crate::ChunkKey;

/// How many partitions there are, as a power of two: 2^bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PartitionBits(u8);

/// More partitions than [`PartitionBits::MAX`] allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a ring has at most 2^{max} partitions, not 2^{bits}", max = PartitionBits::MAX)]
pub struct PartitionBitsError {
    /// The number that was refused.
    pub bits: u8,
}

impl PartitionBits {
    /// 2^20 partitions with three replicas are 6 MiB: what a map may weigh at most.
    pub const MAX: u8 = 20;

    /// 2^`bits` partitions.
    pub const fn new(bits: u8) -> Result<Self, PartitionBitsError> {
        if bits <= Self::MAX { Ok(Self(bits)) } else { Err(PartitionBitsError { bits }) }
    }

    /// The exponent.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Number of partitions.
    pub const fn count(self) -> usize {
        1 << self.0
    }

    /// The partition of a key: its top bits.
    #[inline]
    pub fn partition_of(self, key: &ChunkKey) -> Partition {
        // A shift by all 64 bits, for the ring of one partition, is no shift in Rust.
        Partition((key.position() >> 1 >> (63 - u32::from(self.0))) as u32)
    }

    /// Every partition, in order.
    pub fn partitions(self) -> impl ExactSizeIterator<Item = Partition> + Clone {
        (0..1u32 << self.0).map(Partition)
    }
}

impl TryFrom<u8> for PartitionBits {
    type Error = PartitionBitsError;

    fn try_from(bits: u8) -> Result<Self, PartitionBitsError> {
        Self::new(bits)
    }
}

impl From<PartitionBits> for u8 {
    fn from(bits: PartitionBits) -> Self {
        bits.0
    }
}

/// One of 2^k equal arcs of the key space: the top k bits of a [`ChunkKey`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Partition(pub u32);
