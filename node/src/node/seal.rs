//! The key that unseals the authority's, as this node holds it.

use tracing::warn;
use wire::{Refusal, cluster::SealKey};

use super::Node;

impl Node {
    /// The key that unseals the authority's, if this node has it.
    pub fn seal(&self) -> Option<SealKey> {
        self.seal.lock().clone()
    }

    /// Keeps the seal, on stable storage first.
    pub fn take_seal(&self, seal: SealKey) -> Result<(), Refusal> {
        (self.keep_seal)(&seal).map_err(|error| {
            warn!(%error, "the seal cannot be kept");
            Refusal::Internal
        })?;
        *self.seal.lock() = Some(seal);
        Ok(())
    }
}
