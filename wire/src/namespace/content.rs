//! Where the bytes of a file are.

use ring::{ChunkKey, Epoch, GcEpoch};
use serde::{Deserialize, Serialize};

/// Longest content kept in the namespace itself: one page, which would cost a chunk a header as large.
pub const INLINE_LEN_MAX: usize = 4096;

/// Longest file: what `off_t` can say.
pub const FILE_LEN_MAX: u64 = i64::MAX as u64;

/// Extents in one operation or one answer: bounds the rows that one command touches.
pub const EXTENTS_MAX: usize = 1000;

/// Content of a small file or target of a link, with its hash: hashed by the client, checked by `apply` and the reader.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct InlineData {
    /// At most [`INLINE_LEN_MAX`] bytes.
    #[serde(with = "crate::blob")]
    pub bytes: Vec<u8>,
    /// BLAKE3 of the bytes.
    pub hash: ChunkKey,
}

impl InlineData {
    /// Content with its hash.
    pub fn new(bytes: Vec<u8>) -> Self {
        let hash = ChunkKey::of(&bytes);
        Self { bytes, hash }
    }

    /// Whether the bytes are what the hash says and no more than allowed.
    pub fn is_sound(&self) -> bool {
        self.bytes.len() <= INLINE_LEN_MAX && ChunkKey::of(&self.bytes) == self.hash
    }
}

/// A range of a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ChunkSlice {
    /// Which chunk.
    pub key: ChunkKey,
    /// Length of the whole chunk, at most [`crate::CHUNK_LEN_MAX`]: a range is verified against a tree whose shape
    /// follows from it, so it must not be the word of whoever sends the bytes.
    pub chunk_len: u32,
    /// First byte of the slice in the chunk.
    pub offset: u32,
    /// Bytes of the slice, at least 1; `offset + len <= chunk_len`.
    pub len: u32,
}

impl ChunkSlice {
    /// Whether the slice lies in its chunk and the chunk within the limit.
    pub fn is_sound(&self) -> bool {
        let end = self.offset.checked_add(self.len);
        self.len > 0 && self.chunk_len <= crate::CHUNK_LEN_MAX && end.is_some_and(|end| end <= self.chunk_len)
    }
}

/// A slice that a client brings into a file, with the proof of when it became stable.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct NewExtent {
    /// First byte in the file.
    pub offset: u64,
    /// The bytes.
    pub slice: ChunkSlice,
    /// Epoch at which the write quorum accepted the put, or was found to hold the chunk.
    pub epoch: Epoch,
    /// Stamp of the put.
    pub gc: GcEpoch,
}

/// Servers merge extents that are shorter than this many bytes: longer ones are read well enough as they are. Clients take
/// what they know of shorter ones for less lasting.
pub const MERGED_LEN_MAX: u32 = 64 << 10;

/// Servers merge no fewer extents than this: fewer are not worth writing them again.
pub const MERGED_MIN: usize = 16;

/// Longest chunk whose bytes travel with their commit: what databases write at a time. A longer one is worth two round trips
/// rather than its bytes twice on each disk.
pub const JOURNALED_LEN_MAX: usize = 32 << 10;

/// Bytes of a chunk on their way through the Raft log.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct JournaledChunk {
    /// 1 to [`JOURNALED_LEN_MAX`] bytes.
    #[serde(with = "crate::blob")]
    pub bytes: Vec<u8>,
    /// BLAKE3 of the bytes.
    pub key: ChunkKey,
}

impl JournaledChunk {
    /// Whether the bytes are what the key says and as many as allowed.
    pub fn is_sound(&self) -> bool {
        (1..=JOURNALED_LEN_MAX).contains(&self.bytes.len()) && ChunkKey::of(&self.bytes) == self.key
    }
}

/// A range of a file and what is there. What no extent covers is a hole.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// What is there.
    pub body: ExtentBody,
}

/// What an extent maps to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ExtentBody {
    /// Bytes of a chunk.
    Chunk(ChunkSlice),
    /// Allocated, never written: reads as zeros.
    Unwritten {
        /// Bytes, at least 1.
        len: u64,
    },
}

impl Extent {
    /// Bytes of the file that the extent covers.
    pub fn len(&self) -> u64 {
        match self.body {
            ExtentBody::Chunk(slice) => u64::from(slice.len),
            ExtentBody::Unwritten { len } => len,
        }
    }

    /// Never: an extent covers at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// First byte after the extent.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len())
    }
}

/// Content of an inode, or of a range of it, as the namespace knows it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// All the bytes of a small file; of an empty one, none.
    Inline(InlineData),
    /// Extents in order of offset, at most [`EXTENTS_MAX`], those that touch the range asked.
    Extents {
        /// The extents.
        extents: Vec<Extent>,
        /// Where to ask on, if the range holds more.
        next: Option<u64>,
    },
    /// Target of a symbolic link.
    Symlink(InlineData),
    /// Nothing: directories, pipes, sockets, devices.
    None,
}
