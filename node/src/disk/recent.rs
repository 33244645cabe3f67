//! Which long reads are worth the page cache: those that come again.
//!
//! A chunk that is read once would only throw out what is read often, and giving it pages costs more than copying it.
//! So the first read of a range passes the page cache by, the second fills it, the third finds it there. (The idea is
//! that of 2Q: Johnson and Shasha, VLDB 1994.)

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads that are remembered, about: 64 KiB for the last 32 GiB of whole chunks.
const SLOTS: usize = 8192;

/// The last long reads. Forgets some by chance: a read that is forgotten is taken for a first one.
pub(super) struct Recent {
    hasher: RandomState,
    seen: Vec<AtomicU64>,
}

impl Default for Recent {
    fn default() -> Self {
        Self { hasher: RandomState::new(), seen: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Recent {
    /// Notes a read; whether it was noted lately.
    pub(super) fn again(&self, file: impl Hash, offset: u64) -> bool {
        let hash = self.hasher.hash_one((file, offset)) | 1;
        let slot = usize::try_from(hash >> 1).unwrap_or(usize::MAX) % SLOTS;
        self.seen.get(slot).is_some_and(|seen| seen.swap(hash, Ordering::Relaxed) == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::Recent;

    #[test]
    fn the_second_read_of_a_range_is_known_and_the_first_is_not() {
        let recent = Recent::default();
        assert!(!recent.again("a", 0));
        assert!(recent.again("a", 0));
        assert!(!recent.again("a", 4096) && !recent.again("b", 0));
    }
}
