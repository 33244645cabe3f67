//! Putting and getting chunks: the bulk of the traffic. Bytes of chunks follow the header raw, never through serde.

use ring::{ChunkKey, Epoch, GcEpoch, Partition};
use serde::{Deserialize, Serialize};

/// Keys in one [`ChunkRequest::Has`] or one page of [`ChunkAnswer::Listed`]: 4,096 × 40 bytes are a small frame.
pub const KEYS_MAX: usize = 4096;

/// Partitions of which one [`ChunkRequest::Digest`] may ask: 256 × 32 bytes are a small frame, and a walk through as many
/// is a short one.
pub const DIGESTS_MAX: u32 = 256;

/// Chunks that one [`ChunkRequest::Keep`] may name: what one checkpoint takes out.
pub const KEEP_MAX: usize = 256;

/// What a store holds of one partition: BLAKE3 of the keys of its copies, in order, each followed by the copy's stamp (8
/// bytes, little-endian). What [`ChunkAnswer::Listed`] would not show is not in it. Equal digests are equal copies with
/// equal stamps, as surely as equal keys are equal bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PartitionDigest(pub [u8; 32]);

impl PartitionDigest {
    /// Stands for a partition of which the node's word does not count: no copies have this digest.
    pub const NONE: Self = Self([0; 32]);
}

/// Whether a put is answered before or after it is on stable storage.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Durability {
    /// Answered when accepted; stable only by a later [`ChunkRequest::Sync`] answered with the same [`Incarnation`].
    Buffered,
    /// Answered when stable.
    Synced,
}

/// Changes whenever a chunk store may have lost what it had accepted and not synced: at each open, and after each
/// failed sync. Puts become stable only by a `Sync` answered by the same incarnation.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// What is asked of a chunk store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ChunkRequest {
    /// Keep the chunk whose bytes follow as the body.
    Put {
        /// BLAKE3 of the body.
        key: ChunkKey,
        /// The sender's epoch: the node must be a replica at it.
        epoch: Epoch,
        /// The sender's `gc_current`.
        gc: GcEpoch,
        /// When to answer.
        durability: Durability,
    },
    /// Make everything accepted before stable. One covers all puts of all senders.
    Sync {
        /// The sender's epoch.
        epoch: Epoch,
    },
    /// Which of these are held and stable? Those that are, are stamped with `gc` as durably as a put (a dedup hit).
    Has {
        /// At most [`KEYS_MAX`].
        keys: Vec<ChunkKey>,
        /// The sender's epoch.
        epoch: Epoch,
        /// The sender's `gc_current`.
        gc: GcEpoch,
    },
    /// A range of a chunk with its proof. Answered at any epoch from whatever is held.
    Get {
        /// Which chunk.
        key: ChunkKey,
        /// First byte wanted.
        offset: u32,
        /// Bytes wanted; the answer is widened to whole groups of the tree, see [`crate::tree`].
        len: u32,
    },
    /// The keys held of consecutive partitions, in order of key, after `after`. Nodes only.
    List {
        /// The lowest partition.
        first: Partition,
        /// The highest, itself included.
        last: Partition,
        /// The last key of the page before; none to begin.
        after: Option<ChunkKey>,
        /// The sender's epoch.
        epoch: Epoch,
    },
    /// Which nodes' copies are known bad: the sender read `key` here and it did not verify. The node checks its copy
    /// and fetches another if it is damaged.
    Suspect {
        /// Which chunk.
        key: ChunkKey,
    },
    /// The digests of consecutive partitions: what is equal on both sides need not be listed. Nodes only.
    Digest {
        /// The lowest partition.
        first: Partition,
        /// The highest, itself included; at most [`DIGESTS_MAX`] of them.
        last: Partition,
        /// The sender's epoch.
        epoch: Epoch,
    },
    /// Keep these chunks, whose bytes lie in the namespace as it is on the asked node: a put without bytes. Nodes only.
    Keep {
        /// At most [`KEEP_MAX`].
        keys: Vec<ChunkKey>,
        /// The sender's epoch: the node must be a replica at it.
        epoch: Epoch,
        /// The sender's `gc_current`.
        gc: GcEpoch,
    },
}

/// What a chunk store answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ChunkAnswer {
    /// To a put: accepted (or held before), and stable if asked so.
    Put {
        /// Of the store that accepted it.
        incarnation: Incarnation,
    },
    /// To a sync: everything accepted before in this incarnation is stable.
    Synced {
        /// Of the store that synced.
        incarnation: Incarnation,
    },
    /// To a has: one answer for each key asked, in order.
    Has {
        /// Held, stable and stamped.
        held: Vec<bool>,
        /// Of the store.
        incarnation: Incarnation,
    },
    /// To a get: the body is `proof_len` bytes of proof, then the bytes of the widened range.
    Got {
        /// Length of the whole chunk.
        chunk_len: u32,
        /// First byte of the widened range.
        offset: u32,
        /// Length of the proof at the start of the body.
        proof_len: u32,
        /// Stamp of the copy: a hand-over or repair carries it on.
        gc: GcEpoch,
    },
    /// To a list.
    Listed {
        /// Keys with the stamp of each copy, in order of key; at most [`KEYS_MAX`].
        keys: Vec<(ChunkKey, GcEpoch)>,
        /// Whether the last partition ends with this page.
        end: bool,
    },
    /// To a suspect: the copy was checked, or will be.
    Noted,
    /// To a digest.
    Digests {
        /// Of the lowest partitions asked for, in order: of one at least, and not of all where much is held.
        digests: Vec<PartitionDigest>,
    },
    /// To a keep, when what is kept is stable.
    Kept {
        /// Of each chunk, in order, whether it is; not if the node's namespace does not have its bytes.
        kept: Vec<bool>,
    },
}
