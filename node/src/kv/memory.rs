//! The store as a `BTreeMap`: what simulations and tests run on. Forgets on a crash what was not persisted.

use std::{collections::BTreeMap, fmt, mem, ops::Bound, sync::Arc};

use futures::{
    FutureExt,
    future::{self, BoxFuture},
};
use parking_lot::Mutex;

use super::{KvError, KvRead, KvStore, KvVisit, WriteBatch};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A [`KvStore`] in memory. Clones share the same pairs, as two handles of one store do.
#[derive(Clone, Default)]
pub struct MemoryKv {
    /// Guards everything; held only for the length of one call.
    state: Arc<Mutex<State>>,
}

/// What the keys of one batch held before it, in the order of its changes.
type Undo = Vec<(Vec<u8>, Option<Vec<u8>>)>;

#[derive(Default)]
struct State {
    /// Shared with snapshots; copied when it changes under one.
    pairs: Arc<Pairs>,
    /// For each batch since the last persist, what its keys held before it, in the order of its changes.
    undo: Vec<Undo>,
}

impl MemoryKv {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The store as a crash leaves it: all that was persisted, and the first `survivors` of the batches since, which
    /// the disk happened to keep. This store is not changed.
    pub fn after_crash(&self, survivors: usize) -> Self {
        let state = self.state.lock();
        let mut pairs = Pairs::clone(&state.pairs);
        for batch in state.undo.iter().skip(survivors).rev() {
            for (key, before) in batch.iter().rev() {
                match before {
                    Some(value) => pairs.insert(key.clone(), value.clone()),
                    None => pairs.remove(key),
                };
            }
        }
        Self { state: Arc::new(Mutex::new(State { pairs: Arc::new(pairs), undo: Vec::new() })) }
    }

    /// Batches committed since the last persist: what a crash may take, from the end.
    pub fn unpersisted(&self) -> usize {
        self.state.lock().undo.len()
    }

    /// Every pair, in order of key: to compare two stores.
    pub fn pairs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let pairs = Arc::clone(&self.state.lock().pairs);
        pairs.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl fmt::Debug for MemoryKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        write!(f, "MemoryKv({} pairs, {} batches not persisted)", state.pairs.len(), state.undo.len())
    }
}

impl KvRead for MemoryKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.state.lock().pairs.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut KvVisit<'_>) -> Result<(), KvError> {
        // The lock is not held while `visit` runs: it may read the store.
        let pairs = Arc::clone(&self.state.lock().pairs);
        scan(&pairs, from, to, visit);
        Ok(())
    }
}

impl KvStore for MemoryKv {
    fn snapshot(&self) -> Box<dyn KvRead> {
        Box::new(Snapshot(Arc::clone(&self.state.lock().pairs)))
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), KvError> {
        let mut state = self.state.lock();
        let pairs = Arc::make_mut(&mut state.pairs);
        let undo = batch
            .changes
            .into_iter()
            .map(|(key, value)| {
                let before = match value {
                    Some(value) => pairs.insert(key.clone(), value),
                    None => pairs.remove(&key),
                };
                (key, before)
            })
            .collect();
        state.undo.push(undo);
        Ok(())
    }

    fn persist(&self) -> BoxFuture<'static, Result<(), KvError>> {
        drop(mem::take(&mut self.state.lock().undo));
        future::ready(Ok(())).boxed()
    }
}

/// The pairs as they were.
struct Snapshot(Arc<Pairs>);

impl KvRead for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut KvVisit<'_>) -> Result<(), KvError> {
        scan(&self.0, from, to, visit);
        Ok(())
    }
}

fn scan(pairs: &Pairs, from: &[u8], to: &[u8], visit: &mut KvVisit<'_>) {
    if from >= to {
        return;
    }
    for (key, value) in pairs.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
        if visit(key, value).is_break() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use futures::FutureExt;

    use super::{KvRead, KvStore, MemoryKv, WriteBatch};

    fn batch(changes: &[(&str, Option<&str>)]) -> WriteBatch {
        let bytes = |text: &str| text.as_bytes().to_vec();
        WriteBatch { changes: changes.iter().map(|(key, value)| (bytes(key), value.map(bytes))).collect() }
    }

    fn keys(rows: &dyn KvRead, from: &str, to: &str) -> Vec<String> {
        let mut keys = Vec::new();
        rows.scan(from.as_bytes(), to.as_bytes(), &mut |key, _| {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
        keys
    }

    #[test]
    fn the_last_word_on_a_key_counts_and_scans_end_before_their_end() {
        let kv = MemoryKv::new();
        kv.commit(batch(&[("a", Some("1")), ("b", Some("2")), ("a", None), ("c", Some("3")), ("c", Some("4"))]))
            .unwrap();
        assert_eq!(kv.get(b"a").unwrap(), None);
        assert_eq!(kv.get(b"c").unwrap(), Some(b"4".to_vec()));
        assert_eq!(keys(&kv, "a", "c"), ["b"]);
        assert_eq!(keys(&kv, "c", "a"), Vec::<String>::new());
    }

    #[test]
    fn a_snapshot_is_unmoved_by_later_commits() {
        let kv = MemoryKv::new();
        kv.commit(batch(&[("a", Some("1"))])).unwrap();
        let snapshot = kv.snapshot();
        kv.commit(batch(&[("a", None), ("b", Some("2"))])).unwrap();
        assert_eq!(keys(snapshot.as_ref(), "a", "z"), ["a"]);
        assert_eq!(keys(&kv, "a", "z"), ["b"]);
    }

    #[test]
    fn a_crash_keeps_what_was_persisted_and_a_prefix_of_the_rest() {
        let kv = MemoryKv::new();
        kv.commit(batch(&[("a", Some("1"))])).unwrap();
        kv.persist().now_or_never().unwrap().unwrap();
        kv.commit(batch(&[("a", Some("2")), ("a", Some("3"))])).unwrap();
        kv.commit(batch(&[("a", None), ("b", Some("1"))])).unwrap();
        assert_eq!(kv.unpersisted(), 2);
        let after = |survivors| kv.after_crash(survivors).pairs();
        let pair = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
        assert_eq!(after(0), [pair("a", "1")]);
        assert_eq!(after(1), [pair("a", "3")]);
        assert_eq!(after(2), [pair("b", "1")]);
        assert_eq!(after(2), kv.pairs());
    }
}
