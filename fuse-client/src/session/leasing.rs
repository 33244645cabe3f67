//! What a session that holds leases shares with whoever keeps them.

use std::{fmt, time::Duration};

use tokio::{sync::watch, time::timeout};
use wire::{
    lease::{LeaseGeneration, LeaseNumber},
    namespace::{Attr, Inode, NumberedOp, OpOutcome},
};

/// How long a new generation is waited for, when a leader says that the one at hand is not current, before it is asked
/// again: one that was replaced while it hung may say so of a generation that its successor has begun.
pub(crate) const NOT_CURRENT_PAUSE: Duration = Duration::from_millis(200);

/// What changes made of the inodes that they touched.
#[derive(Debug)]
pub(crate) struct Changed {
    /// Under which generation the grants were made.
    pub(crate) generation: LeaseGeneration,
    /// Place of the grants in the order.
    pub(crate) number: LeaseNumber,
    /// Inodes that were made: leased exclusively.
    pub(crate) made: Vec<Inode>,
    /// Attributes afterwards.
    pub(crate) touched: Vec<Attr>,
    /// Of those, what is not leased.
    pub(crate) unleased: Vec<Inode>,
}

/// What became of a batch of changes.
#[derive(Debug)]
pub(crate) enum Told<'a> {
    /// They were answered.
    Changed(&'a Changed, &'a [OpOutcome]),
    /// Whether they were executed is not known.
    FateUnknown,
}

/// Takes in what became of changes, before those who wait for them hear of it.
pub(crate) type OnChanged = Box<dyn Fn(&[NumberedOp], Told<'_>) + Send + Sync>;

/// The generation under which changes go out, and where their effects go.
pub(crate) struct Leasing {
    generation: watch::Sender<LeaseGeneration>,
    on_changed: OnChanged,
}

impl fmt::Debug for Leasing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leasing").field("generation", &*self.generation.borrow()).finish_non_exhaustive()
    }
}

impl Leasing {
    pub(crate) fn new(on_changed: OnChanged) -> Self {
        Self { generation: watch::Sender::new(LeaseGeneration::default()), on_changed }
    }

    /// The generation to ask under.
    pub(crate) fn generation(&self) -> LeaseGeneration {
        *self.generation.borrow()
    }

    /// A new generation has begun.
    pub(crate) fn begin(&self, generation: LeaseGeneration) {
        self.generation.send_replace(generation);
    }

    /// Waits until another generation than `old` has begun; false if that took too long.
    pub(crate) async fn renewed_since(&self, old: LeaseGeneration, deadline: Duration) -> bool {
        let mut generations = self.generation.subscribe();
        let renewed = generations.wait_for(|generation| *generation != old);
        matches!(timeout(deadline, renewed).await, Ok(Ok(_)))
    }

    pub(super) fn tell(&self, ops: &[NumberedOp], told: Told<'_>) {
        (self.on_changed)(ops, told);
    }
}
