//! The store on disk: one fjall database with one keyspace.
//!
//! # Invariants
//! - One keyspace a database: its tables and its journal then hold the batches up to one point of their order, whatever
//!   a crash takes. (Two keyspaces of one database are flushed apart, and may come back from different points.)
//! - After an error of the medium every later call fails; the store has to be opened again.
//!
//! # Not here
//! Anything that cannot be made again: a journal that is damaged in the middle is cut there without a word.

mod journal;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fjall::compaction::Leveled;
use fjall::{
    Database, JournalRecoveryError as Damage, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
    Readable as _,
};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{KvError, KvRead, KvStore, KvVisit, WriteBatch};

/// How much memory and disk a store may take beside its rows.
#[derive(Clone, Copy, Debug)]
pub struct FjallConfig {
    /// Blocks of tables kept in memory, in bytes.
    pub cache_bytes: u64,
    /// Bytes of rows gathered in memory before they become a table; up to five such sets exist while tables are written.
    pub memtable_bytes: u64,
    /// Bytes of journals: what an open after a crash has to read at most.
    pub journal_bytes: u64,
}

impl Default for FjallConfig {
    /// Two stores a node (state machine, chunk index) with these stay below 100 MiB while they are loaded in bulk.
    fn default() -> Self {
        Self { cache_bytes: 16 << 20, memtable_bytes: 8 << 20, journal_bytes: 64 << 20 }
    }
}

/// Open files of tables; more are opened again when needed.
const CACHED_FILES_MAX: usize = 128;

/// One writes and merges tables. With two, the library lets the first hand every wish to merge back to the queue for as
/// long as the second merges: it spins, and cost more CPU than all else that a node does for 10,000 small files.
const WORKERS: usize = 1;

/// Sets of rows waiting to become tables at which the library makes writers sleep, less one.
const STALL_MEMTABLES: usize = 3;

/// A [`KvStore`] on disk. Clones share it.
#[derive(Clone)]
pub struct FjallKv {
    database: Database,
    rows: Keyspace,
    path: PathBuf,
    /// Calls of `persist` under way.
    syncing: Arc<AtomicUsize>,
}

impl fmt::Debug for FjallKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FjallKv({})", self.path.display())
    }
}

impl FjallKv {
    /// Opens (or creates) the store in `path`. Reads the journals: blocks for as long as a crash left work.
    pub fn open(path: &Path, config: FjallConfig) -> Result<Self, KvError> {
        match Self::try_open(path, config) {
            Err(
                error @ fjall::Error::JournalRecovery(
                    Damage::ChecksumMismatch | Damage::InsufficientLength | Damage::TooManyItems,
                ),
            ) => {
                let cut = journal::cut(path).map_err(|error| KvError { reason: error.to_string() })?;
                if cut { Self::try_open(path, config).map_err(failed) } else { Err(failed(error)) }
            }
            opened => opened.map_err(failed),
        }
    }

    fn try_open(path: &Path, config: FjallConfig) -> Result<Self, fjall::Error> {
        let database = Database::builder(path)
            .cache_size(config.cache_bytes)
            .max_cached_files(Some(CACHED_FILES_MAX))
            .max_journaling_size(config.journal_bytes)
            .worker_threads(WORKERS)
            // Rows are derived: what `persist` has not synced may go, so batches need no call of the system each.
            .manual_journal_persist(true)
            .open()?;
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(config.memtable_bytes)
                // Contents of small files are written once beside the tables, not again with every merge.
                .with_kv_separation(Some(KvSeparationOptions::default()))
                // Merges move what was merged before as well: half as many, of twice as many tables.
                .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(8)))
        };
        let rows = database.keyspace("rows", options)?;
        Ok(Self { database, rows, path: path.to_owned(), syncing: Arc::default() })
    }

    /// Whether the library would make a writer sleep now, or wait for the disk: it holds its journal while it syncs it.
    fn is_stalling(&self) -> bool {
        self.syncing.load(Ordering::Acquire) > 0 || self.rows.sealed_memtable_count() >= STALL_MEMTABLES
    }

    fn write(&self, batch: WriteBatch) -> Result<(), KvError> {
        let mut rows = self.database.batch();
        // All changes of a batch get one number, so of two for a key it is chance which one counts: keep the last.
        let keep = last_words(&batch);
        for ((key, value), keep) in batch.changes.into_iter().zip(keep) {
            match value {
                _ if !keep => {}
                Some(value) => rows.insert(&self.rows, key, value),
                None => rows.remove(&self.rows, key),
            }
        }
        rows.commit().map_err(failed)
    }
}

/// For each change whether it is the last one for its key.
fn last_words(batch: &WriteBatch) -> Vec<bool> {
    let mut seen = HashSet::with_capacity(batch.changes.len());
    let mut keep: Vec<bool> = batch.changes.iter().rev().map(|(key, _)| seen.insert(key.as_slice())).collect();
    keep.reverse();
    keep
}

impl KvRead for FjallKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.rows.get(key).map_err(failed)?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut KvVisit<'_>) -> Result<(), KvError> {
        if from >= to {
            return Ok(());
        }
        show(self.rows.range(from..to), visit)
    }
}

impl KvStore for FjallKv {
    fn snapshot(&self) -> Box<dyn KvRead> {
        Box::new(Snapshot { view: self.database.snapshot(), rows: self.rows.clone() })
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), KvError> {
        let threads = Handle::try_current().map(|runtime| runtime.runtime_flavor());
        if self.is_stalling() && matches!(threads, Ok(RuntimeFlavor::MultiThread)) {
            // Until tables are written, or the journal is. Other tasks of this thread must not wait for that.
            return tokio::task::block_in_place(|| self.write(batch));
        }
        self.write(batch)
    }

    fn persist(&self) -> BoxFuture<'static, Result<(), KvError>> {
        let (database, syncing) = (self.database.clone(), Arc::clone(&self.syncing));
        async move {
            let persist = move || {
                syncing.fetch_add(1, Ordering::AcqRel);
                let synced = database.persist(PersistMode::SyncAll);
                syncing.fetch_sub(1, Ordering::AcqRel);
                synced
            };
            let synced = tokio::task::spawn_blocking(persist).await;
            synced.map_err(|error| KvError { reason: error.to_string() })?.map_err(failed)
        }
        .boxed()
    }
}

/// The rows as they were.
struct Snapshot {
    view: fjall::Snapshot,
    rows: Keyspace,
}

impl KvRead for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.view.get(&self.rows, key).map_err(failed)?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut KvVisit<'_>) -> Result<(), KvError> {
        if from >= to {
            return Ok(());
        }
        show(self.view.range(&self.rows, from..to), visit)
    }
}

fn show(rows: fjall::Iter, visit: &mut KvVisit<'_>) -> Result<(), KvError> {
    for row in rows {
        let (key, value) = row.into_inner().map_err(failed)?;
        if visit(&key, &value).is_break() {
            break;
        }
    }
    Ok(())
}

fn failed(error: fjall::Error) -> KvError {
    KvError { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;

    use tempfile::TempDir;

    use super::{FjallConfig, FjallKv};
    use crate::kv::{KvRead, KvStore, MemoryKv, WriteBatch};

    fn open(path: &Path) -> FjallKv {
        FjallKv::open(path, FjallConfig::default()).unwrap()
    }

    fn pairs(rows: &dyn KvRead, from: &[u8], to: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs = Vec::new();
        rows.scan(from, to, &mut |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        pairs
    }

    fn numbered(number: u32) -> WriteBatch {
        let mut batch = WriteBatch::default();
        batch.put(number.to_be_bytes(), [1; 100]);
        batch.put(b"last".to_vec(), number.to_be_bytes());
        batch
    }

    #[test]
    fn the_last_word_on_a_key_counts() {
        let dir = TempDir::new().unwrap();
        let kv = open(dir.path());
        let mut batch = WriteBatch::default();
        batch.put(b"a", b"1");
        batch.remove(b"a");
        batch.put(b"b", b"1");
        batch.put(b"b", b"2");
        batch.remove(b"c");
        batch.put(b"c", b"3");
        kv.commit(batch).unwrap();
        let expected = [(b"b".to_vec(), b"2".to_vec()), (b"c".to_vec(), b"3".to_vec())];
        assert_eq!(pairs(&kv, b"a", b"z"), expected);
        assert_eq!(kv.get(b"a").unwrap(), None);
        assert_eq!(pairs(&kv, b"z", b"a"), []);
        assert_eq!(pairs(&kv, b"b", b"c"), expected[..1]);
    }

    #[test]
    fn a_snapshot_is_unmoved_by_later_commits() {
        let dir = TempDir::new().unwrap();
        let kv = open(dir.path());
        kv.commit(numbered(1)).unwrap();
        let snapshot = kv.snapshot();
        kv.commit(numbered(2)).unwrap();
        assert_eq!(snapshot.get(b"last").unwrap(), Some(1_u32.to_be_bytes().to_vec()));
        assert_eq!(pairs(&*snapshot, &[], &[0xff]).len(), 2);
        assert_eq!(pairs(&kv, &[], &[0xff]).len(), 3);
    }

    #[tokio::test]
    async fn it_answers_as_a_map_does_whatever_the_history_and_across_reopening() {
        use rand::{Rng as _, SeedableRng as _};
        let dir = TempDir::new().unwrap();
        let seed = 42;
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut kv =
            FjallKv::open(dir.path(), FjallConfig { memtable_bytes: 64 << 10, ..FjallConfig::default() }).unwrap();
        let model = MemoryKv::new();
        for round in 0..300 {
            let mut batch = WriteBatch::default();
            for _ in 0..rng.random_range(1..50) {
                let key = [rng.random_range(0..8_u8), rng.random_range(0..64)];
                if rng.random_ratio(1, 3) {
                    batch.remove(key);
                } else {
                    batch.put(key, vec![rng.random(); rng.random_range(0..200)]);
                }
            }
            kv.commit(batch.clone()).unwrap();
            model.commit(batch).unwrap();
            if round % 100 == 50 {
                kv.persist().await.unwrap();
                drop(kv);
                kv = open(dir.path());
            }
            let (from, to) = ([rng.random_range(0..8_u8)], [rng.random_range(0..9_u8)]);
            assert_eq!(pairs(&kv, &from, &to), pairs(&model, &from, &to), "seed {seed}, round {round}");
        }
        assert_eq!(pairs(&kv, &[], &[0xff]), model.pairs());
    }

    /// As after `kill -9`: what the process still held in memory is not there, and nobody closed anything.
    #[tokio::test]
    async fn what_was_persisted_survives_without_a_close_and_the_rest_is_a_prefix() {
        let (dir, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        // Below one memtable: only the journal changes while it is copied, as one file, so the copy is what a crash leaves.
        let kv = open(dir.path());
        for number in 0..3_000 {
            kv.commit(numbered(number)).unwrap();
        }
        kv.persist().await.unwrap();
        for number in 3_000..6_000 {
            kv.commit(numbered(number)).unwrap();
        }
        copy_tree(dir.path(), copy.path());
        let after = open(copy.path());
        let last = u32::from_be_bytes(after.get(b"last").unwrap().unwrap().try_into().unwrap());
        assert!((2_999..6_000).contains(&last), "{last}");
        let numbers = pairs(&after, &[0], &[1]);
        assert_eq!(numbers.len() as u32, last + 1);
    }

    /// As after a power loss: of what was not synced, the disk has any of the pages, and the file ends anywhere.
    #[tokio::test]
    async fn whatever_pages_a_power_loss_takes_what_was_persisted_is_there_and_the_rest_is_a_prefix() {
        use rand::{Rng as _, SeedableRng as _};
        const PAGE: usize = 4096;
        let seed = rand::random();
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut cut = 0;
        for round in 0..30 {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join("0.jnl");
            let kv = open(dir.path());
            let batches: Vec<WriteBatch> = (0..rng.random_range(2..40_u32))
                .map(|number| {
                    let mut batch = WriteBatch::default();
                    batch.put(b"last".to_vec(), number.to_be_bytes());
                    let mut value = vec![0; rng.random_range(0..6 * PAGE)];
                    rng.fill(&mut value[..]);
                    batch.put(number.to_be_bytes(), value);
                    batch
                })
                .collect();
            let persisted = rng.random_range(1..batches.len());
            let mut synced = 0;
            for (number, batch) in (0..).zip(&batches) {
                kv.commit(batch.clone()).unwrap();
                if number == persisted {
                    kv.persist().await.unwrap();
                    synced = written(&std::fs::read(&path).unwrap());
                }
            }
            // Into the file, but to no disk.
            drop(kv);
            let mut bytes = std::fs::read(&path).unwrap();
            let end = written(&bytes);
            bytes.truncate(end + 10 * PAGE);
            for page in (synced / PAGE..end.div_ceil(PAGE)).filter(|_| rng.random_ratio(1, 8)) {
                bytes[(page * PAGE).max(synced)..((page + 1) * PAGE).max(synced)].fill(0);
            }
            if rng.random_bool(0.5) {
                bytes.truncate(rng.random_range(synced..=end));
            }
            std::fs::write(&path, bytes).unwrap();
            cut += usize::from(FjallKv::try_open(dir.path(), FjallConfig::default()).is_err());
            let after = open(dir.path());
            let last = after.get(b"last").unwrap().unwrap();
            let last = u32::from_be_bytes(last.try_into().unwrap()) as usize;
            assert!(last >= persisted, "seed {seed}, round {round}: {last} of {persisted} persisted");
            let model = MemoryKv::new();
            batches[..=last].iter().for_each(|batch| model.commit(batch.clone()).unwrap());
            assert_eq!(pairs(&after, &[], &[0xff]), model.pairs(), "seed {seed}, round {round}");
            // And it goes on from there.
            after.commit(numbered(1)).unwrap();
            drop(after);
            assert_eq!(open(dir.path()).get(b"last").unwrap(), Some(1_u32.to_be_bytes().to_vec()));
        }
        assert!(cut > 0, "seed {seed}: the library has refused none of them, and needs no help any more");
    }

    /// Length of a journal up to the zeros that it was made with.
    fn written(journal: &[u8]) -> usize {
        let pages = journal.chunks(4096).rposition(|page| page != &[0; 4096][..page.len()]).map_or(0, |last| last + 1);
        let journal = &journal[..journal.len().min(pages * 4096)];
        journal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    }

    fn copy_tree(from: &Path, to: &Path) {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                std::fs::create_dir_all(&target).unwrap();
                copy_tree(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), &target).unwrap();
            }
        }
    }

    #[test]
    fn a_store_in_use_is_not_opened_again() {
        let dir = TempDir::new().unwrap();
        let kv = open(dir.path());
        assert!(FjallKv::open(dir.path(), FjallConfig::default()).is_err());
        drop(kv);
        open(dir.path());
    }
}
