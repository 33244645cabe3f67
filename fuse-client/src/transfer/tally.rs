//! What a transfer has come to so far.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{Outcome, Progress, Summary, TransferError};

/// Counts, and tells who watches. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tally {
    counts: Arc<Counts>,
    progress: Arc<dyn Progress>,
}

#[derive(Debug, Default)]
struct Counts {
    files: AtomicU64,
    directories: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    pub(super) fn new(progress: Arc<dyn Progress>) -> Self {
        Self { counts: Arc::default(), progress }
    }

    pub(super) fn progress(&self) -> &dyn Progress {
        &*self.progress
    }

    /// Bytes arrived, of a file that is not done yet.
    pub(super) fn advanced(&self, bytes: u64) {
        self.progress.advanced(bytes);
    }

    /// A file of `bytes` was transferred; all of them were told before.
    pub(super) fn transferred(&self, path: &str, bytes: u64) {
        self.counts.files.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.finished(path, Outcome::Transferred);
    }

    /// A file of `bytes` was there.
    pub(super) fn skipped(&self, path: &str, bytes: u64) {
        self.counts.skipped.fetch_add(1, Ordering::Relaxed);
        self.progress.advanced(bytes);
        self.progress.finished(path, Outcome::Skipped);
    }

    /// A directory is there.
    pub(super) fn directory(&self, path: &str, outcome: Outcome) {
        self.counts.directories.fetch_add(1, Ordering::Relaxed);
        // Found and done at once: whoever counts must not see more done than found.
        self.progress.found(1, 0);
        self.progress.finished(path, outcome);
    }

    /// A file failed; the others go on.
    pub(super) fn failed(&self, error: &TransferError) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        self.progress.failed(error);
    }

    pub(super) fn summary(&self) -> Summary {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Summary {
            files: count(&self.counts.files),
            directories: count(&self.counts.directories),
            skipped: count(&self.counts.skipped),
            failed: count(&self.counts.failed),
            bytes: count(&self.counts.bytes),
        }
    }
}
