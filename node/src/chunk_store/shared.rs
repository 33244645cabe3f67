//! What the handles and the keeper of a store both see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use ring::{ChunkKey, GcEpoch};
use tokio::sync::Notify;

use super::index::Index;
use super::pending::Pending;
use super::row::Held;
use super::watched::Failure;
use crate::append_log::{AppendLog, Incarnation, Position, Synced};
use crate::kv::KvError;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) log: AppendLog,
    pub(super) index: Index,
    pub(super) index_failure: Failure,
    /// Guards the records that are not in the index yet. Written by the keeper alone. Never taken with another lock.
    pub(super) pending: RwLock<Pending>,
    /// Guards how far the log is stable. Never taken with another lock.
    stable: Mutex<Stable>,
    /// Guards the copies that are out of use: those stamped no higher than this count as not held. Never taken with
    /// another lock.
    quarantine: RwLock<BTreeMap<ChunkKey, GcEpoch>>,
    /// Guards what is known of damaged copies. Never taken with another lock.
    damaged: Mutex<Damaged>,
    damaged_max: usize,
    /// How many keys [`Damaged::bad`] has, to be looked at without the lock.
    bad_len: AtomicUsize,
    damaged_count: AtomicU64,
    mended_count: AtomicU64,
    chunks: AtomicU64,
    full: AtomicBool,
    failed: AtomicBool,
    /// The keeper has something to do: more is stable, or the log failed.
    pub(super) wake: Notify,
}

/// Keys of chunks of which the copy was found damaged or lost.
#[derive(Debug, Default)]
struct Damaged {
    /// Those that wait for repair.
    waiting: BTreeSet<ChunkKey>,
    /// Those of which there is no good copy here yet, whether or not repair knows. A copy that is here counts as not held.
    bad: BTreeSet<ChunkKey>,
}

#[derive(Clone, Copy, Debug)]
struct Stable {
    incarnation: Incarnation,
    until: Position,
}

impl Shared {
    pub(super) fn new(
        log: AppendLog,
        index: Index,
        index_failure: Failure,
        damaged_max: usize,
        stable_until: Position,
    ) -> Self {
        let incarnation = log.incarnation();
        Self {
            log,
            index,
            index_failure,
            pending: RwLock::default(),
            stable: Mutex::new(Stable { incarnation, until: stable_until }),
            quarantine: RwLock::default(),
            damaged: Mutex::default(),
            damaged_max,
            bad_len: AtomicUsize::new(0),
            damaged_count: AtomicU64::new(0),
            mended_count: AtomicU64::new(0),
            chunks: AtomicU64::new(0),
            full: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// A sync has succeeded. One of an earlier incarnation says nothing new: reopening has settled what it covered.
    pub(super) fn note_synced(&self, synced: &Synced) {
        let mut stable = self.stable.lock();
        if synced.incarnation == stable.incarnation {
            stable.until = stable.until.max(synced.until);
        }
        drop(stable);
        self.wake.notify_one();
    }

    /// The log was reopened: of earlier incarnations, what lies before `until` is stable and the rest is gone.
    pub(super) fn note_reopened(&self, incarnation: Incarnation, until: Position) {
        *self.stable.lock() = Stable { incarnation, until };
    }

    pub(super) fn note_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn note_working(&self) {
        self.failed.store(false, Ordering::Relaxed);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn note_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    pub(super) fn note_chunks(&self, chunks: u64) {
        self.chunks.store(chunks, Ordering::Relaxed);
    }

    pub(super) fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    pub(super) fn stable_until(&self) -> Position {
        self.stable.lock().until
    }

    /// The incarnation whose puts are accepted now, as the keeper last knew it.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.stable.lock().incarnation
    }

    pub(super) fn quarantine(&self, copies: &[(ChunkKey, GcEpoch)]) {
        self.quarantine.write().extend(copies.iter().copied());
    }

    pub(super) fn release(&self, copies: &[(ChunkKey, GcEpoch)]) {
        let mut quarantine = self.quarantine.write();
        for (key, _) in copies {
            quarantine.remove(key);
        }
    }

    /// Whether a copy with this stamp is in use: it is not known to be bad, and not in quarantine, out of which a higher
    /// stamp takes it.
    pub(super) fn is_in_use(&self, key: &ChunkKey, stamp: GcEpoch) -> bool {
        !self.is_bad(key) && self.quarantine.read().get(key).is_none_or(|up_to| stamp > *up_to)
    }

    /// Whether the copy of this chunk was found damaged or unreadable, and has not been replaced since.
    pub(super) fn is_bad(&self, key: &ChunkKey) -> bool {
        self.bad_len.load(Ordering::Acquire) > 0 && self.damaged.lock().bad.contains(key)
    }

    /// Whether there is room to remember that the copy is bad.
    pub(super) fn note_damaged(&self, key: ChunkKey) -> bool {
        let mut damaged = self.damaged.lock();
        let is_new = !damaged.bad.contains(&key);
        if damaged.bad.len() < self.damaged_max {
            damaged.bad.insert(key);
        }
        self.bad_len.store(damaged.bad.len(), Ordering::Release);
        if damaged.waiting.len() < self.damaged_max {
            damaged.waiting.insert(key);
        }
        self.damaged_count.fetch_add(u64::from(is_new), Ordering::Relaxed);
        damaged.bad.contains(&key)
    }

    /// There is a good copy again, or none is needed: nobody needs to fetch one.
    pub(super) fn note_mended(&self, key: &ChunkKey) {
        let mut damaged = self.damaged.lock();
        damaged.waiting.remove(key);
        let was_bad = damaged.bad.remove(key);
        self.bad_len.store(damaged.bad.len(), Ordering::Release);
        self.mended_count.fetch_add(u64::from(was_bad), Ordering::Relaxed);
    }

    pub(super) fn mended_count(&self) -> u64 {
        self.mended_count.load(Ordering::Relaxed)
    }

    pub(super) fn damaged_count(&self) -> u64 {
        self.damaged_count.load(Ordering::Relaxed)
    }

    pub(super) fn take_damaged(&self, count_max: usize) -> Vec<ChunkKey> {
        let mut damaged = self.damaged.lock();
        let keys: Vec<_> = damaged.waiting.iter().take(count_max).copied().collect();
        for key in &keys {
            damaged.waiting.remove(key);
        }
        keys
    }

    /// Whether a copy that is in the index counts as held: it is in use, and nobody has asked for its deletion.
    pub(super) fn counts_as_held(&self, key: &ChunkKey, held: &Held) -> bool {
        let goes = |row: &Option<super::row::Row>| row.as_ref().is_none_or(|row| row.held().is_none());
        let is_going = self.pending.read().row(key).is_some_and(|pending| goes(&pending.row));
        !is_going && self.is_in_use(key, held.stamp)
    }

    /// The stable copy of a chunk.
    pub(super) fn stable_copy(&self, key: &ChunkKey) -> Result<Option<Held>, KvError> {
        let until = self.stable_until();
        let pending = self.pending.read().row(key).map(|pending| pending.row.clone());
        match pending {
            // A deletion counts from when it was asked for.
            Some(row) if row.as_ref().is_none_or(|row| row.held().is_none()) => return Ok(None),
            Some(row) => {
                if let Some(held) = row.as_ref().and_then(|row| row.held()).filter(|held| held.at < until) {
                    return Ok(Some(*held));
                }
            }
            None => {}
        }
        Ok(self.index.row(key)?.and_then(|row| row.held().copied()))
    }
}
