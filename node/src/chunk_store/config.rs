//! What can be set about a chunk store.

use std::time::Duration;

use crate::append_log::LogConfig;

/// Configuration of a chunk store.
#[derive(Clone, Debug)]
pub struct ChunkStoreConfig {
    /// Length of a segment in bytes. Default 256 MiB: it amortises the sync at its end, and one compaction step moves at
    /// most half of it.
    pub segment_len: u64,
    /// Most bytes that the segments may take. Default: none, as much as the file system has.
    pub capacity: Option<u64>,
    /// Bytes that puts leave free, so that deletions, stamps and compaction go on when the store is full. Default two
    /// segments: one to copy into, one for the records of deletions.
    pub reserve: u64,
    /// A segment is worth compaction when more than this part of it is dead, in percent. Default 50: each byte copied
    /// then frees at least one, and at most half of the disk is garbage.
    pub dead_percent: u8,
    /// Records that may be in the log and not yet in the index; a put beyond syncs first. Default 16,384: about 4 MiB of
    /// memory.
    pub pending_max: usize,
    /// How long accepted chunks may lie around before the store syncs them of its own accord. Default 1 s: what nobody
    /// asks to be synced is not urgent, but should not be lost much later.
    pub linger: Duration,
    /// How long to wait after a failed attempt to reopen the log. Default 1 s.
    pub reopen_pause: Duration,
    /// Keys of damaged chunks that wait to be taken for repair. Default 65,536 (2 MiB); what does not fit is found by
    /// the next comparison with the other replicas.
    pub damaged_max: usize,
}

impl Default for ChunkStoreConfig {
    fn default() -> Self {
        let log = LogConfig::segments();
        Self {
            segment_len: log.file_len,
            capacity: None,
            reserve: log.reserve,
            dead_percent: 50,
            pending_max: 16 << 10,
            linger: Duration::from_secs(1),
            reopen_pause: Duration::from_secs(1),
            damaged_max: 64 << 10,
        }
    }
}

/// Two of the largest chunks: a segment shorter than that would end after each of them.
const SEGMENT_LEN_MIN: u64 = 8 << 20;

impl ChunkStoreConfig {
    /// What suits a disk of `total` bytes of which chunks may take `capacity`.
    pub fn for_disk(total: u64, capacity: Option<u64>) -> Self {
        Self { capacity, ..Self::with_capacity(capacity.unwrap_or(total).min(total)) }
    }

    /// The default, with segments that are small enough for a store of `capacity` bytes: puts may fill all but an
    /// eighth of it, or all but two of the smallest segments.
    pub fn with_capacity(capacity: u64) -> Self {
        let default = Self::default();
        let segment_len = (capacity / 16).clamp(SEGMENT_LEN_MIN, default.segment_len);
        Self { segment_len, capacity: Some(capacity), reserve: 2 * segment_len, ..default }
    }

    pub(super) fn log(&self) -> LogConfig {
        LogConfig {
            file_len: self.segment_len,
            capacity: self.capacity,
            reserve: self.reserve,
            ..LogConfig::segments()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ChunkStoreConfig;

    #[test]
    fn a_small_disk_has_short_segments_and_a_small_reserve() {
        let of = |total, capacity| {
            let config = ChunkStoreConfig::for_disk(total, capacity);
            (config.segment_len >> 20, config.reserve >> 20, config.capacity)
        };
        assert_eq!(of(1 << 40, None), (256, 512, None));
        assert_eq!(of(1 << 40, Some(1 << 30)), (64, 128, Some(1 << 30)));
        assert_eq!(of(1 << 29, Some(1 << 40)), (32, 64, Some(1 << 40)));
        assert_eq!(of(100 << 20, None), (8, 16, None));
    }
}
