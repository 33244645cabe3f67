//! How many proposals may be under way.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Proposals under way: at 10,000 a second and a slow disk, 400 ms of them.
const PROPOSALS_MAX: usize = 4096;

/// KiB of proposals under way: 64 batches of the largest kind.
const KIB_MAX: usize = 64 << 10;

/// Counts proposals until the Raft library has let go of them.
#[derive(Debug)]
pub(super) struct Admission {
    proposals: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

impl Admission {
    pub(super) fn new() -> Self {
        Self { proposals: Arc::new(Semaphore::new(PROPOSALS_MAX)), kib: Arc::new(Semaphore::new(KIB_MAX)) }
    }

    /// Room for a proposal of `len` bytes, or none.
    pub(super) fn admit(&self, len: usize) -> Option<Vec<OwnedSemaphorePermit>> {
        let kib = u32::try_from(len.div_ceil(1024)).ok()?;
        let proposal = Arc::clone(&self.proposals).try_acquire_owned().ok()?;
        let bytes = Arc::clone(&self.kib).try_acquire_many_owned(kib).ok()?;
        Some(vec![proposal, bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, KIB_MAX, PROPOSALS_MAX};

    #[test]
    fn proposals_beyond_the_count_are_refused_until_one_is_done() {
        let admission = Admission::new();
        let mut held: Vec<_> = (0..PROPOSALS_MAX).map(|_| admission.admit(10).unwrap()).collect();
        assert!(admission.admit(10).is_none());
        held.pop();
        assert!(admission.admit(10).is_some());
    }

    #[test]
    fn proposals_beyond_the_bytes_are_refused_until_some_are_done() {
        let admission = Admission::new();
        let most = KIB_MAX << 10;
        let held = admission.admit(most).unwrap();
        assert!(admission.admit(1).is_none());
        drop(held);
        assert!(admission.admit(1).is_some());
    }
}
