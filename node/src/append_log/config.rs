//! What differs between the tenants of the append log. Pure.

use std::time::Duration;

/// Configuration of one log.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A new file begins where a record would pass this, in bytes.
    pub file_len: u64,
    /// How new files get their room.
    pub style: FileStyle,
    /// Whether a sealed file ends with an index of its records.
    pub footer: Footer,
    /// Most bytes this log may take, in files and what they keep reserved; `None` leaves it to the file system.
    pub capacity: Option<u64>,
    /// Bytes that ordinary appends leave free for those of [`super::Room::Upkeep`] and [`super::Room::All`]: at least two
    /// files, so that compaction can always fill one while the deletes that make it worth while go to another.
    pub reserve: u64,
    /// Bytes of payload that may wait in the queue: enough to keep a disk busy during one sync.
    pub queue_bytes: u32,
    /// How long after the last sync the mark is written. Below 50 ms with the sync that follows.
    pub mark_delay: Duration,
    /// How many files given to `recycle` are kept; others are removed.
    pub spares_max: usize,
    /// When a zero-filled file is made that no recycled one stands in for.
    pub fill: Fill,
}

/// How files get their room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileStyle {
    /// Written full of zeros before use, and recycled: a sync then changes no metadata, which halves its time.
    ZeroFilled,
    /// Only reserved (`fallocate`): for files that are too large to write twice.
    Allocated,
}

/// When a zero-filled file is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fill {
    /// When a record needs it, which waits for it.
    WhenNeeded,
    /// In the background: at the open, and when the active file is half full.
    Ahead,
}

/// Whether a sealed file ends with an index of its records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Footer {
    /// One read lists the file. For files that are opened with millions of records beside them.
    Index,
    /// The headers are read. For few files that are read whole anyway.
    None,
}

impl LogConfig {
    /// Segments of the chunk store: 256 MiB amortise the sync at their end, and compaction still moves little.
    pub const fn segments() -> Self {
        const FILE_LEN: u64 = 256 << 20;
        Self {
            file_len: FILE_LEN,
            style: FileStyle::Allocated,
            footer: Footer::Index,
            capacity: None,
            reserve: 2 * FILE_LEN,
            // Sixteen of the largest records: one write in flight, one gathering, and as much for the sync's time.
            queue_bytes: 64 << 20,
            mark_delay: Duration::from_millis(20),
            spares_max: 0,
            fill: Fill::WhenNeeded,
        }
    }

    /// The Raft log: files small enough that purging frees them soon.
    pub const fn raft_log() -> Self {
        const FILE_LEN: u64 = 32 << 20;
        Self {
            file_len: FILE_LEN,
            style: FileStyle::ZeroFilled,
            footer: Footer::None,
            capacity: None,
            reserve: 2 * FILE_LEN,
            queue_bytes: 16 << 20,
            mark_delay: Duration::from_millis(20),
            spares_max: 2,
            fill: Fill::Ahead,
        }
    }
}
