//! Version numbers that only move forward.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of the cluster map (members and ring). The higher epoch wins; equal epochs are equal maps.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// Version of garbage collection: puts and dedup hits are stamped with it, see the namespace's `gc_current` and
/// `gc_safe`. The higher stamp wins.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct GcEpoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for GcEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
