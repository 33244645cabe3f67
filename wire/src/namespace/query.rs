//! Questions to the namespace. All are linearizable and need no Raft write.

use ring::ChunkKey;
use serde::{Deserialize, Serialize};

use super::{Attr, Content, FileLock, FileType, InlineData, Inode, JournaledChunk, Name, SessionId, Xattr};

/// Steps of one walk: `PATH_MAX` allows no more names of one byte than twice this.
pub const WALK_LEN_MAX: usize = 1024;

/// Position of an entry in its directory: from a counter of the directory, never reused. 0 is before the first.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Cookie(pub u64);

/// How much to tell of each entry of a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ListWant {
    /// Name, number and type.
    Names,
    /// Attributes as well.
    Attrs,
    /// Content as well: inline data, targets, the first extents. Downloads of trees.
    Contents,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Query {
    /// Follows names from a directory; stops at the first that is missing, is a link, or is no directory.
    Walk {
        /// Where to start.
        from: Inode,
        /// Names, at most [`WALK_LEN_MAX`].
        path: Vec<Name>,
    },
    /// Attributes of an inode.
    Attr {
        /// Which.
        inode: Inode,
    },
    /// Attributes and content of an inode, from `offset` for `len` bytes.
    Content {
        /// Which.
        inode: Inode,
        /// First byte.
        offset: u64,
        /// Bytes; `u64::MAX` for all.
        len: u64,
    },
    /// A page of a directory, in order of cookie.
    List {
        /// Which directory.
        dir: Inode,
        /// The last cookie of the page before.
        after: Cookie,
        /// Entries wanted; the page ends at 1 MiB whatever this says.
        limit: u32,
        /// How much of each.
        want: ListWant,
    },
    /// All extended attributes of an inode.
    Xattrs {
        /// Which.
        inode: Inode,
    },
    /// How much is stored.
    Usage,
    /// A lock that is in the way of this one, as `fcntl(F_GETLK)`.
    Lock {
        /// Which inode.
        inode: Inode,
        /// Whose the lock would be.
        session: SessionId,
        /// The lock.
        lock: FileLock,
    },
    /// A chunk of which no replica knows: the namespace keeps the bytes of those that came with their commit until the
    /// replicas do.
    Journaled {
        /// Which.
        key: ChunkKey,
    },
}

impl Query {
    /// The inode that it is about, or begins at.
    pub fn about(&self) -> Option<Inode> {
        match self {
            Self::Walk { from: inode, .. }
            | Self::Attr { inode }
            | Self::Content { inode, .. }
            | Self::List { dir: inode, .. }
            | Self::Xattrs { inode }
            | Self::Lock { inode, .. } => Some(*inode),
            Self::Usage | Self::Journaled { .. } => None,
        }
    }
}

/// How a walk ended.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum WalkEnd {
    /// At the last name.
    Reached,
    /// The name after the last step does not exist.
    Missing,
    /// The last step is a symbolic link, and names remain or not: the caller decides whether to follow.
    Symlink(InlineData),
    /// The last step is no directory, and names remain.
    NotDirectory,
}

/// Answer to a walk.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Walked {
    /// Attributes of the start and of each name that was found, in order.
    pub steps: Vec<Attr>,
    /// How it ended.
    pub end: WalkEnd,
}

/// An entry of a directory.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its position.
    pub cookie: Cookie,
    /// Its name.
    pub name: Name,
    /// Its inode.
    pub inode: Inode,
    /// What it is.
    pub file_type: FileType,
    /// With [`ListWant::Attrs`] and [`ListWant::Contents`].
    pub attr: Option<Attr>,
    /// With [`ListWant::Contents`].
    pub content: Option<Content>,
    /// With [`ListWant::Contents`].
    pub xattrs: Vec<Xattr>,
}

/// A page of a directory.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// In order of cookie.
    pub entries: Vec<Entry>,
    /// Whether the directory ends here.
    pub end: bool,
    /// Data version of the directory when it was read.
    pub version: u64,
    /// What comes into the directory from now on has this cookie or a later one.
    pub next: Cookie,
}

/// How much is stored, before replication.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Inodes that exist.
    pub inodes: u64,
    /// Bytes of files as `allocated` counts them.
    pub bytes: u64,
}

/// Answer to a question, in its order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum QueryAnswer {
    /// To a walk.
    Walked(Walked),
    /// To a question for attributes.
    Attr(Attr),
    /// To a question for content.
    Content {
        /// Attributes at the same moment.
        attr: Attr,
        /// What is there.
        content: Content,
    },
    /// To a list.
    Page(Page),
    /// To a question for extended attributes.
    Xattrs(Vec<Xattr>),
    /// To a question for usage.
    Usage(Usage),
    /// To a question for a lock: the first that is in the way.
    Lock(Option<FileLock>),
    /// To a question for a journaled chunk: none if its replicas have it, or no file.
    Journaled(Option<JournaledChunk>),
}
