//! The key-value store of the index, with an eye on its failures: after the first there is nothing to do but to stop
//! and say so, whoever was told of it.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::kv::{KvError, KvRead, KvStore, KvVisit, WriteBatch};

/// Why the index failed; nothing as long as it works.
pub(super) type Failure = Arc<watch::Sender<Option<String>>>;

/// Keeps the first failure.
pub(super) fn note_failure(failure: &Failure, error: &KvError) {
    failure.send_if_modified(|reason| {
        let is_first = reason.is_none();
        reason.get_or_insert_with(|| error.reason.clone());
        is_first
    });
}

pub(super) struct WatchedKv {
    kv: Arc<dyn KvStore>,
    failure: Failure,
}

impl fmt::Debug for WatchedKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kv.fmt(f)
    }
}

impl WatchedKv {
    pub(super) fn new(kv: Arc<dyn KvStore>, failure: Failure) -> Self {
        Self { kv, failure }
    }

    fn noted<T>(&self, result: Result<T, KvError>) -> Result<T, KvError> {
        result.inspect_err(|error| note_failure(&self.failure, error))
    }
}

impl KvRead for WatchedKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.noted(self.kv.get(key))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut KvVisit<'_>) -> Result<(), KvError> {
        self.noted(self.kv.scan(from, to, visit))
    }
}

impl KvStore for WatchedKv {
    fn snapshot(&self) -> Box<dyn KvRead> {
        self.kv.snapshot()
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), KvError> {
        self.noted(self.kv.commit(batch))
    }

    fn persist(&self) -> BoxFuture<'static, Result<(), KvError>> {
        let (persisted, failure) = (self.kv.persist(), Arc::clone(&self.failure));
        Box::pin(async move { persisted.await.inspect_err(|error| note_failure(&failure, error)) })
    }
}
