//! Ranges of a chunk, verified against its key. Pure.
//!
//! BLAKE3 is a binary tree over 1 KiB leaves. A store keeps for each chunk the chaining values of its *groups* of
//! 16 KiB; a range of groups with the chaining values of the subtrees beside it leads to the root, which is the
//! chunk's key. Follows the BLAKE3 paper (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020), section 2.1; the chaining
//! values come from `blake3::hazmat`.
//!
//! # Invariants
//! - A [`VerifiedChunk`] or [`VerifiedRange`] exists only for bytes that were hashed here and led to the key.
//! - A group is a power of two of leaves, so every subtree of groups is a subtree of BLAKE3.
//!
//! # Not here
//! Where trees are kept (`node::chunk_store`); which range to ask for (`fuse-client`).

use std::ops::Range;

use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root},
};
use bytes::Bytes;
use ring::ChunkKey;

use crate::CHUNK_LEN_MAX;

/// Bytes of a group: 256 groups in the largest chunk, 8 KiB of chaining values, 0.2 % of it.
pub const GROUP_LEN: u32 = 16 << 10;

/// Bytes of a chaining value.
pub const CHAINING_VALUE_LEN: usize = 32;

/// Longest proof in bytes: two subtrees beside the range at each of the eight levels of the largest tree.
pub const PROOF_LEN_MAX: usize = 2 * (CHUNK_LEN_MAX / GROUP_LEN).ilog2() as usize * CHAINING_VALUE_LEN;

const _: () = assert!(GROUP_LEN.is_power_of_two() && GROUP_LEN as usize > blake3::CHUNK_LEN);

/// The bytes are not what the key names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the bytes are not those that {key} names")]
pub struct Corrupt {
    /// What was expected.
    pub key: ChunkKey,
}

/// A stored tree has not the length that its chunk asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a tree of {found} bytes for a chunk of {chunk_len}")]
pub struct TreeLenError {
    /// Length of the chunk.
    pub chunk_len: u32,
    /// Length of the tree as found.
    pub found: usize,
}

/// Bytes that came from somewhere and are said to be a chunk.
#[derive(Clone, Debug)]
pub struct ReceivedChunk {
    bytes: Bytes,
}

/// A chunk whose bytes were hashed on this machine: what a store accepts, and what a put may be made of.
#[derive(Clone, Debug)]
pub struct VerifiedChunk {
    key: ChunkKey,
    bytes: Bytes,
    tree: ChunkTree,
}

/// Whole groups of a chunk whose bytes were hashed on this machine and led to its key.
#[derive(Clone, Debug)]
pub struct VerifiedRange {
    offset: u32,
    bytes: Bytes,
}

/// Chaining values of the groups of a chunk: what is stored beside it so that a range of it can be proved. A chunk of
/// one group needs none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChunkTree {
    chunk_len: u32,
    /// One for each group; empty if there is but one.
    groups: Vec<ChainingValue>,
}

impl ReceivedChunk {
    /// Bytes as they arrived.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// Hashes the bytes, once, and compares with `key`.
    pub fn verify(self, key: ChunkKey) -> Result<VerifiedChunk, Corrupt> {
        if self.bytes.len() > CHUNK_LEN_MAX as usize {
            return Err(Corrupt { key });
        }
        let (found, tree) = ChunkTree::build(&self.bytes);
        if found == key { Ok(VerifiedChunk { key, bytes: self.bytes, tree }) } else { Err(Corrupt { key }) }
    }
}

impl VerifiedChunk {
    /// A chunk made of bytes at hand: they give the key. Who needs no tree (a client that puts) takes
    /// [`ChunkKey::of`], which hashes wider and a quarter faster.
    ///
    /// # Panics
    /// If there are more than [`CHUNK_LEN_MAX`] of them: who cuts files into chunks must not.
    pub fn seal(bytes: Bytes) -> Self {
        let (key, tree) = ChunkTree::build(&bytes);
        Self { key, bytes, tree }
    }

    /// Its name.
    pub fn key(&self) -> ChunkKey {
        self.key
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Length in bytes.
    pub fn chunk_len(&self) -> u32 {
        self.tree.chunk_len
    }

    /// Its tree.
    pub fn tree(&self) -> &ChunkTree {
        &self.tree
    }

    /// The bytes alone.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

impl VerifiedRange {
    /// Position in the chunk of the first byte.
    pub fn offset(&self) -> u32 {
        self.offset
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// `len` bytes from `offset` of the chunk, if the range holds them all.
    pub fn slice(&self, offset: u32, len: u32) -> Option<Bytes> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let end = start.checked_add(len as usize)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }
}

/// The whole groups that hold `len` bytes from `offset` of a chunk, as a range of its bytes; what lies beyond the end
/// of the chunk is left out. None if nothing remains.
pub fn widen(chunk_len: u32, offset: u32, len: u32) -> Option<Range<u32>> {
    let end = offset.saturating_add(len).min(chunk_len);
    // `chunk_len` is rounded up within u32: no chunk comes near its limit, and a lie must not overflow.
    let widened_end = end.checked_next_multiple_of(GROUP_LEN).unwrap_or(u32::MAX).min(chunk_len);
    (offset < end).then_some(offset - offset % GROUP_LEN..widened_end)
}

/// Checks `bytes`, said to be the groups from `offset` of the chunk `key`, with the proof that came along. The length
/// of the chunk gives the tree its shape: take it from the namespace, not from whoever sent the bytes.
pub fn verify(
    key: ChunkKey,
    chunk_len: u32,
    offset: u32,
    bytes: Bytes,
    proof: &[u8],
) -> Result<VerifiedRange, Corrupt> {
    let corrupt = Corrupt { key };
    let len = u32::try_from(bytes.len()).map_err(|_| corrupt)?;
    let range = offset..offset.checked_add(len).ok_or(corrupt)?;
    let whole = range == (0..chunk_len);
    if chunk_len > CHUNK_LEN_MAX || !(whole || widen(chunk_len, offset, len).is_some_and(|widened| widened == range)) {
        return Err(corrupt);
    }
    let found = if whole {
        proof.is_empty().then(|| ChunkKey::of(&bytes))
    } else {
        Verifier { bytes: &bytes, range, proof }.root(chunk_len)
    };
    if found == Some(key) { Ok(VerifiedRange { offset, bytes }) } else { Err(corrupt) }
}

impl ChunkTree {
    /// The key and the tree of a chunk, in one pass over its bytes.
    ///
    /// # Panics
    /// If there are more than [`CHUNK_LEN_MAX`] of them.
    pub fn build(bytes: &[u8]) -> (ChunkKey, Self) {
        assert!(bytes.len() <= CHUNK_LEN_MAX as usize, "a chunk has at most CHUNK_LEN_MAX bytes");
        let chunk_len = bytes.len() as u32;
        if chunk_len <= GROUP_LEN {
            return (ChunkKey::of(bytes), Self { chunk_len, groups: Vec::new() });
        }
        let groups = bytes
            .chunks(GROUP_LEN as usize)
            .enumerate()
            .map(|(index, group)| subtree_of(index as u64 * u64::from(GROUP_LEN), group))
            .collect();
        let tree = Self { chunk_len, groups };
        let key = tree.root().expect("a chunk of several groups has a root of its tree");
        (key, tree)
    }

    /// Bytes that the tree of a chunk of this length takes when stored.
    pub fn stored_len(chunk_len: u32) -> usize {
        if chunk_len <= GROUP_LEN { 0 } else { chunk_len.div_ceil(GROUP_LEN) as usize * CHAINING_VALUE_LEN }
    }

    /// The tree as it is stored: 32 bytes a group, in order; nothing for a chunk of one group.
    pub fn to_stored(&self) -> Vec<u8> {
        self.groups.concat()
    }

    /// A tree as it was stored. Whether it is this chunk's is for [`ChunkTree::leads_to`] to say.
    pub fn from_stored(chunk_len: u32, stored: &[u8]) -> Result<Self, TreeLenError> {
        if chunk_len > CHUNK_LEN_MAX || stored.len() != Self::stored_len(chunk_len) {
            return Err(TreeLenError { chunk_len, found: stored.len() });
        }
        let (groups, _) = stored.as_chunks::<CHAINING_VALUE_LEN>();
        Ok(Self { chunk_len, groups: groups.to_vec() })
    }

    /// Length of the chunk in bytes.
    pub fn chunk_len(&self) -> u32 {
        self.chunk_len
    }

    /// Whether the tree is that of the chunk `key`. Of a chunk of one group nothing is stored that could be wrong.
    pub fn leads_to(&self, key: &ChunkKey) -> bool {
        self.root().is_none_or(|root| root == *key)
    }

    /// What proves the bytes of `range`, which must be one that [`widen`] gave: chaining values of the largest
    /// subtrees outside the range, from the top down, left before right. Empty for a whole chunk.
    ///
    /// # Panics
    /// If the range is none that [`widen`] gives for this chunk.
    pub fn proof(&self, range: &Range<u32>) -> Vec<u8> {
        let widened = widen(self.chunk_len, range.start, range.end.saturating_sub(range.start));
        assert!(widened.as_ref() == Some(range), "{range:?} is no range of whole groups");
        let mut proof = Vec::with_capacity(PROOF_LEN_MAX);
        self.prove(0..self.chunk_len, range, &mut proof);
        proof
    }

    fn prove(&self, subtree: Range<u32>, range: &Range<u32>, proof: &mut Vec<u8>) {
        if range.start <= subtree.start && subtree.end <= range.end {
            return;
        }
        if subtree.end <= range.start || range.end <= subtree.start {
            proof.extend_from_slice(&self.chaining_value(subtree));
            return;
        }
        let middle = middle_of(&subtree);
        self.prove(subtree.start..middle, range, proof);
        self.prove(middle..subtree.end, range, proof);
    }

    fn root(&self) -> Option<ChunkKey> {
        if self.groups.is_empty() {
            return None;
        }
        let middle = middle_of(&(0..self.chunk_len));
        let left = self.chaining_value(0..middle);
        let right = self.chaining_value(middle..self.chunk_len);
        Some(ChunkKey::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()))
    }

    fn chaining_value(&self, subtree: Range<u32>) -> ChainingValue {
        if subtree.end - subtree.start <= GROUP_LEN {
            let index = (subtree.start / GROUP_LEN) as usize;
            return *self.groups.get(index).expect("a subtree of the chunk lies in its groups");
        }
        let middle = middle_of(&subtree);
        let left = self.chaining_value(subtree.start..middle);
        let right = self.chaining_value(middle..subtree.end);
        merge_subtrees_non_root(&left, &right, Mode::Hash)
    }
}

/// Walks the tree as [`ChunkTree::prove`] did, hashing what lies in the range and taking the rest from the proof.
struct Verifier<'a> {
    bytes: &'a [u8],
    range: Range<u32>,
    proof: &'a [u8],
}

impl Verifier<'_> {
    /// The key that bytes and proof lead to, if the proof is neither too short nor too long. The range is not the
    /// whole chunk, so the chunk has at least two groups.
    fn root(mut self, chunk_len: u32) -> Option<ChunkKey> {
        let middle = middle_of(&(0..chunk_len));
        let left = self.chaining_value(0..middle)?;
        let right = self.chaining_value(middle..chunk_len)?;
        let root = merge_subtrees_root(&left, &right, Mode::Hash);
        self.proof.is_empty().then_some(ChunkKey::from_bytes(*root.as_bytes()))
    }

    fn chaining_value(&mut self, subtree: Range<u32>) -> Option<ChainingValue> {
        if self.range.start <= subtree.start && subtree.end <= self.range.end {
            let start = (subtree.start - self.range.start) as usize;
            let bytes = self.bytes.get(start..start + subtree.len())?;
            return Some(subtree_of(u64::from(subtree.start), bytes));
        }
        if subtree.end <= self.range.start || self.range.end <= subtree.start {
            let (value, rest) = self.proof.split_first_chunk::<CHAINING_VALUE_LEN>()?;
            self.proof = rest;
            return Some(*value);
        }
        let middle = middle_of(&subtree);
        let left = self.chaining_value(subtree.start..middle)?;
        let right = self.chaining_value(middle..subtree.end)?;
        Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}

/// Chaining value of the subtree that starts at `offset` of the chunk.
fn subtree_of(offset: u64, bytes: &[u8]) -> ChainingValue {
    Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
}

/// Where the left child of a subtree ends: at the largest power of two below its length, so on a group's border for
/// every subtree of more than one group.
fn middle_of(subtree: &Range<u32>) -> u32 {
    let left = left_subtree_len(u64::from(subtree.end - subtree.start));
    subtree.start + u32::try_from(left).expect("a part of a u32 range")
}

#[cfg(test)]
mod tests;
