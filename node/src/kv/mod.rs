//! The embedded key-value store: what is derived and may lag (state machine, chunk index), never what is authoritative.
//!
//! Two implementers: fjall on disk, and a `BTreeMap` in simulation.
//!
//! # Invariants
//! - A [`WriteBatch`] is applied whole or not at all, also across a crash.
//! - After a crash the store holds the batches up to some point of their order, at least those before the last
//!   [`KvStore::persist`] that returned.

mod fjall;
mod memory;

pub use self::fjall::{FjallConfig, FjallKv};
pub use memory::MemoryKv;

use std::{fmt, ops::ControlFlow};

use futures::future::BoxFuture;

/// Why the store could not do what was asked. There is one thing to do: stop using it and say so.
#[derive(Debug, thiserror::Error)]
#[error("the key-value store failed: {reason}")]
pub struct KvError {
    /// What the library says.
    pub reason: String,
}

/// A consistent view.
pub trait KvRead: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Shows the pairs with `from <= key < to` in order of key, until `visit` breaks.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut KvVisit<'_>) -> Result<(), KvError>;
}

/// Told of one pair after the other.
pub type KvVisit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// A store of pairs in order of key. Reads through the store itself see the newest state.
pub trait KvStore: KvRead + fmt::Debug + 'static {
    /// The state as of now, unmoved by later commits.
    fn snapshot(&self) -> Box<dyn KvRead>;

    /// Applies a batch; visible to reads at once, durable only after [`KvStore::persist`].
    fn commit(&self, batch: WriteBatch) -> Result<(), KvError>;

    /// Makes all batches committed before this call durable.
    fn persist(&self) -> BoxFuture<'static, Result<(), KvError>>;
}

/// Changes to be applied together, in order: the last word on a key counts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WriteBatch {
    /// Key and new value; none removes it.
    pub changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl WriteBatch {
    /// Sets a value.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Removes a pair.
    pub fn remove(&mut self, key: impl Into<Vec<u8>>) {
        self.changes.push((key.into(), None));
    }
}
