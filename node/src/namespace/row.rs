//! Values of the rows: postcard behind a byte of version.

use ring::{Epoch, GcEpoch, Partition, PartitionBits, ReplicaCount};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use wire::{
    cluster::{ClusterId, KeyFingerprint, NodeRow, Peer, TokenPurpose},
    namespace::{
        Attr, ChunkSlice, Cookie, Extent, ExtentBody, FileType, Inode, Mode, Name, OpDone, OpError, SessionId,
        SessionNonce, Timestamp,
    },
    stand_in::StandIn,
};

use crate::kv::{KvError, KvRead};

/// First byte of every value. A change of a row's meaning gets another number.
const ROW_VERSION: u8 = 1;

/// A row as bytes.
pub(super) fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(ROW_VERSION);
    postcard::to_extend(row, bytes).expect("a row in memory has bytes")
}

/// A row from its bytes. Rows were written by this code: what cannot be read is a damaged store.
pub(super) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, KvError> {
    let body = match bytes {
        [ROW_VERSION, body @ ..] => body,
        [version, ..] => {
            let known = format!("this program reads {ROW_VERSION}; run the version that wrote it");
            return Err(KvError { reason: format!("the row {key:02x?} has format version {version}, {known}") });
        }
        [] => return Err(KvError { reason: format!("the row {key:02x?} is empty") }),
    };
    postcard::from_bytes(body)
        .map_err(|error| KvError { reason: format!("the row {key:02x?} cannot be read: {error}") })
}

/// The row at `key`.
pub(super) fn read<T: DeserializeOwned>(rows: &dyn KvRead, key: &[u8]) -> Result<Option<T>, KvError> {
    rows.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

/// An inode: attributes and what hangs on them, no content.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct InodeRow {
    pub(super) body: Body,
    pub(super) standing: Standing,
    pub(super) mode: Mode,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) size: u64,
    pub(super) allocated: u64,
    pub(super) accessed: Timestamp,
    pub(super) modified: Timestamp,
    pub(super) changed: Timestamp,
    pub(super) born: Timestamp,
    pub(super) change: u64,
    pub(super) data_version: u64,
}

/// What an inode is, with what only that has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum Body {
    /// Regular file.
    File {
        storage: Storage,
        /// Extents at or beyond it are being released. No byte at or beyond it is visible while this stands.
        cut_from: Option<u64>,
    },
    /// Directory; the root is its own parent.
    Directory { parent: Inode, next_cookie: Cookie },
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix-domain socket.
    Socket,
    /// Character device.
    CharDevice { device: u32 },
    /// Block device.
    BlockDevice { device: u32 },
}

/// Where the bytes of a file are.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum Storage {
    /// There are none: size 0.
    Empty,
    /// All in the inline row, as many as the size says.
    Inline,
    /// In extents; the rest is a hole.
    Extents,
}

/// What keeps an inode alive.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum Standing {
    /// Its names.
    Named,
    /// The session that made it, until it is linked.
    Unnamed(SessionId),
    /// Whoever still has it open; since this index of the log.
    Orphan(u64),
    /// Nothing: it is being released, and invisible.
    Reclaiming,
}

impl InodeRow {
    /// The type.
    pub(super) fn file_type(&self) -> FileType {
        match self.body {
            Body::File { .. } => FileType::File,
            Body::Directory { .. } => FileType::Directory,
            Body::Symlink => FileType::Symlink,
            Body::Fifo => FileType::Fifo,
            Body::Socket => FileType::Socket,
            Body::CharDevice { .. } => FileType::CharDevice,
            Body::BlockDevice { .. } => FileType::BlockDevice,
        }
    }

    /// Whether it is a directory.
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory { .. })
    }

    /// The attributes as they are told.
    pub(super) fn attr(&self, inode: Inode) -> Attr {
        Attr {
            inode,
            file_type: self.file_type(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            links: self.links,
            size: self.size,
            allocated: self.allocated,
            device: match self.body {
                Body::CharDevice { device } | Body::BlockDevice { device } => device,
                Body::File { .. } | Body::Directory { .. } | Body::Symlink | Body::Fifo | Body::Socket => 0,
            },
            accessed: self.accessed,
            modified: self.modified,
            changed: self.changed,
            born: self.born,
            change: self.change,
            data_version: self.data_version,
        }
    }
}

/// What a name in a directory leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Dentry {
    pub(super) inode: Inode,
    pub(super) file_type: FileType,
    pub(super) cookie: Cookie,
}

/// What stands at a position of a directory.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct DirEntry {
    pub(super) name: Name,
    pub(super) inode: Inode,
    pub(super) file_type: FileType,
}

/// An extent: its last byte is in the key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum ExtentRow {
    /// Bytes of a chunk, with what its put was stamped.
    Chunk { slice: ChunkSlice, epoch: Epoch, gc: GcEpoch },
    /// Reads as zeros.
    Unwritten { len: u64 },
}

impl ExtentRow {
    /// Bytes covered.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Chunk { slice, .. } => u64::from(slice.len),
            Self::Unwritten { len } => *len,
        }
    }

    /// The range of a chunk, if it is one.
    pub(super) fn chunk(&self) -> Option<ChunkSlice> {
        match self {
            Self::Chunk { slice, .. } => Some(*slice),
            Self::Unwritten { .. } => None,
        }
    }

    /// `len` of its bytes, from `skip` on.
    pub(super) fn part(&self, skip: u64, len: u64) -> Self {
        assert!(len > 0 && skip + len <= self.len(), "a part of an extent lies in it");
        match *self {
            Self::Chunk { slice, epoch, gc } => {
                let narrow = |number: u64| u32::try_from(number).expect("a part is no longer than its chunk");
                let slice = ChunkSlice { offset: slice.offset + narrow(skip), len: narrow(len), ..slice };
                Self::Chunk { slice, epoch, gc }
            }
            Self::Unwritten { .. } => Self::Unwritten { len },
        }
    }

    /// As it is told, beginning at `offset` of its file.
    pub(super) fn extent(&self, offset: u64) -> Extent {
        let body = match *self {
            Self::Chunk { slice, .. } => ExtentBody::Chunk(slice),
            Self::Unwritten { len } => ExtentBody::Unwritten { len },
        };
        Extent { offset, body }
    }
}

/// A session.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct SessionRow {
    pub(super) client: Peer,
    pub(super) nonce: SessionNonce,
    /// Index of the log at which it was opened.
    pub(super) opened: u64,
    /// First of its ranges.
    pub(super) first_range: Inode,
    /// Ranges that are not used up.
    pub(super) ranges: u32,
    /// Numbers below were answered.
    pub(super) lowest: u64,
    /// Outcomes below have no row any more.
    pub(super) trimmed: u64,
    /// Whether it is being closed.
    pub(super) state: SessionState,
}

/// Whether a session lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum SessionState {
    Open,
    /// Closed, and what it held not all released.
    Ending,
}

/// What became of an operation, as the window keeps it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Done(OpDone),
    Failed(OpError),
}

/// Counters of the state machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Counters {
    /// First number of the next range.
    pub(super) next_inode: u64,
    pub(super) next_session: u64,
    pub(super) gc_current: GcEpoch,
    pub(super) gc_safe: GcEpoch,
    /// Highest index of the log that made an orphan.
    pub(super) orphans_index: u64,
}

/// The cluster map without its tables.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct MetaRow {
    pub(super) cluster: ClusterId,
    pub(super) epoch: Epoch,
    pub(super) replicas: ReplicaCount,
    /// Nodes that ever joined: place of the next in the order of joining.
    pub(super) joined: u32,
    /// Of the ring, once it is solved.
    pub(super) bits: Option<PartitionBits>,
    /// No fence is higher: what was put at or above it needs no look at its partition's.
    pub(super) highest_fence: Epoch,
    /// What was put below it becomes part of no file, wherever it lies: a node whose word counted then was removed with
    /// what it held, or others stood in for one.
    pub(super) floor: Epoch,
    /// Epoch of the map at which the last node went away or came back, or got another stand-in.
    pub(super) acting: Epoch,
}

/// A member, with its place in the order of joining.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct MemberRow {
    pub(super) place: u32,
    pub(super) node: NodeRow,
}

/// A token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct TokenRow {
    pub(super) purpose: TokenPurpose,
    pub(super) expires: Timestamp,
    pub(super) used: Option<TokenUse>,
}

/// Who used a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct TokenUse {
    pub(super) key: KeyFingerprint,
    pub(super) peer: Peer,
}

/// The cluster's authority, as the replicated state keeps it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SealedAuthority {
    /// Its certificate (DER).
    pub certificate: Vec<u8>,
    /// Its private key, sealed under a key that each voter has.
    pub sealed_key: Vec<u8>,
}

/// Partitions of which a node beside the owners may hold chunks, in order.
pub(super) type MayHoldRow = Vec<Partition>;

/// Who takes the writes of a node that is away, in order of ids.
pub(super) type AwayRow = Vec<StandIn>;
