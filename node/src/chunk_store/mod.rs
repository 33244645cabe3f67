//! The chunk store: keeps chunks in segments and finds them again.
//!
//! A put goes: keeper (is it held? append) → append log (position, write) → sync (shared by all who wait) → index. The
//! segments are the truth; the index in the key-value store is derived and can be built from them again. Formats and
//! what is promised are in `node/DISK.md`.
//!
//! # Invariants
//! - A chunk whose put was synced in the incarnation that accepted it survives every crash, until it is forgotten; bytes
//!   that the medium has changed are reported, never handed out as good by [`ChunkStore::check`].
//! - A chunk that was forgotten does not come back, whatever becomes of the index or of segments.
//! - A stamp never goes down while its chunk is held.
//! - Memory does not grow with the number of chunks: only records that are not yet in the index are held.
//!
//! # Not here
//! Which chunks belong here and at which epoch (`serve`); when garbage may go, and where a damaged chunk comes from
//! again (`repair`); records, syncs and torn tails (`append_log`).

mod compaction;
mod config;
mod digest;
mod error;
mod index;
mod keeper;
mod pending;
mod recovery;
mod row;
mod segment;
mod shared;
#[cfg(test)]
mod tests;
mod verification;
mod watched;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use ring::{ChunkKey, GcEpoch, Partition, PartitionBits};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;
use wire::chunk::{Durability, Incarnation, PartitionDigest};
use wire::cluster::StoreReport;
use wire::tree::VerifiedChunk;

pub use compaction::Compacted;
pub use config::ChunkStoreConfig;
pub use error::{CheckError, CompactError, ListError, OpenError, PutError, ReadError, SyncError};
pub use recovery::{IndexOrigin, Rebuilt};
pub use segment::UnknownRecord;
pub use verification::{Checked, ChunkRange};

use self::compaction::StuckSegments;
use self::keeper::{Accepted, COMMANDS_MAX, Command, Keeper, PutMode, Reply, end_of};
use self::shared::Shared;
use self::watched::{Failure, WatchedKv};
use crate::append_log::{self, AppendLog, Cut, LogRng, Synced};
use crate::disk::Disk;
use crate::kv::KvStore;

/// Lookups between two looks at whether somebody else wants to run.
const LOOKUPS_PER_TURN: usize = 256;

/// A chunk store; clones share it.
#[derive(Clone, Debug)]
pub struct ChunkStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    config: ChunkStoreConfig,
    /// One step at a time. Held for the whole step; nothing else is taken under it but what the step calls.
    compaction: tokio::sync::Mutex<StuckSegments>,
    /// Who joins the keeper takes it from here.
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// What an open found.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Chunks held.
    pub chunks: u64,
    /// How it came by its index.
    pub index: IndexOrigin,
    /// Damaged places in the segments that were seen; the chunks in them that are known wait in
    /// [`ChunkStore::take_damaged`].
    pub damaged_places: usize,
    /// A torn tail that was cut: nothing in it had been acknowledged as stable.
    pub cut: Option<Cut>,
}

/// One page of a listing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    /// Keys and the stamps of their copies, in order of key.
    pub keys: Vec<(ChunkKey, GcEpoch)>,
    /// Whether there are more.
    pub end: PageEnd,
}

/// Whether a page is the last one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PageEnd {
    /// Ask again after its last key.
    More,
    /// The partition ends with it.
    Last,
}

impl ChunkStore {
    /// Opens (or creates) the store with its segments in `dir`, which must be locked by the caller.
    pub async fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        index: Arc<dyn KvStore>,
        config: ChunkStoreConfig,
        rng: LogRng,
    ) -> Result<(Self, Opened), OpenError> {
        let failure = Failure::default();
        let index = Arc::new(WatchedKv::new(index, Arc::clone(&failure)));
        let (log, found) = AppendLog::open(disk, dir, config.log(), rng).await?;
        let damaged_places = found.damage.len();
        let recovered = recovery::recover(&log, index, found.damage, config.damaged_max).await?;
        let (stable_until, chunks) = (end_of(&log), recovered.tally.chunks);
        let shared = Arc::new(Shared::new(log, recovered.index, failure, config.damaged_max, stable_until));
        for key in recovered.lost {
            shared.note_damaged(key);
        }
        let (commands, commanded) = mpsc::channel(COMMANDS_MAX);
        let keeper = Keeper::new(Arc::clone(&shared), recovered.tally, config.clone(), commanded);
        let keeper = Mutex::new(Some(tokio::spawn(keeper.run())));
        let compaction = tokio::sync::Mutex::default();
        let store = Self { inner: Arc::new(Inner { shared, commands, config, compaction, keeper }) };
        for key in recovered.suspects {
            if let Err(error) = store.check(&key).await {
                warn!(%key, %error, "a chunk in a damaged place cannot be given up");
            }
        }
        let opened = Opened { chunks, index: recovered.origin, damaged_places, cut: found.cut };
        Ok((store, opened))
    }

    /// Keeps a chunk. One that is held already is only stamped, as durably as asked. Buffered puts become stable by a
    /// [`ChunkStore::sync`] that answers with the same incarnation.
    pub async fn put(
        &self,
        chunk: VerifiedChunk,
        gc: GcEpoch,
        durability: Durability,
    ) -> Result<Incarnation, PutError> {
        self.put_as(chunk, gc, durability, PutMode::KeepHeld).await
    }

    /// Keeps a chunk in place of a copy that may be bad. The stamp stays, if it is higher.
    pub async fn replace(
        &self,
        chunk: VerifiedChunk,
        gc: GcEpoch,
        durability: Durability,
    ) -> Result<Incarnation, PutError> {
        self.put_as(chunk, gc, durability, PutMode::Replace).await
    }

    /// Makes everything accepted before stable, if it was accepted in the incarnation that is answered.
    pub async fn sync(&self) -> Result<Incarnation, SyncError> {
        let synced = self.shared().log.sync().await;
        self.noted(synced)
    }

    /// The bytes of a stable chunk that cover `len` bytes from `offset`, with what proves them.
    pub async fn read(&self, key: &ChunkKey, offset: u32, len: u32) -> Result<ChunkRange, ReadError> {
        self.read_range(key, offset, len).await
    }

    /// Which chunks are held. They are stable and stamped with `gc` when this returns.
    pub async fn has(&self, keys: &[ChunkKey], gc: GcEpoch) -> Result<(Vec<bool>, Incarnation), PutError> {
        let mut held = vec![false; keys.len()];
        let mut to_stamp = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let is_pending = self.shared().pending.read().row(key).is_some();
            let row = if is_pending { None } else { self.shared().index.row(key)? };
            let in_use = |copy: &&row::Held| self.shared().is_in_use(key, copy.stamp);
            match row.as_ref().and_then(|row| row.held()).filter(in_use) {
                Some(copy) if copy.stamp >= gc => held[index] = true,
                Some(_) => to_stamp.push(index),
                None if is_pending => to_stamp.push(index),
                None => {}
            }
            if index % LOOKUPS_PER_TURN == LOOKUPS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        if to_stamp.is_empty() {
            return Ok((held, Incarnation(self.shared().incarnation().0)));
        }
        let keys = to_stamp.iter().map(|index| keys[*index]).collect();
        let stamped = self.ask(|reply| Command::Stamp { keys, gc, reply }).await.ok_or(PutError::Closed)?;
        let (stamped, accepted) = stamped?;
        let incarnation = self.stabilise(accepted).await?;
        for (index, stamped) in to_stamp.into_iter().zip(stamped) {
            held[index] = stamped;
        }
        Ok((held, incarnation))
    }

    /// Whether a copy of `key` is held and in use, stable or about to be. Stamps nothing.
    pub fn holds(&self, key: &ChunkKey) -> Result<bool, PutError> {
        let pending = self.shared().pending.read().row(key).map(|of| of.row.clone());
        let row = pending.map_or_else(|| self.shared().index.row(key), Ok)?;
        Ok(row.and_then(|row| row.held().copied()).is_some_and(|copy| self.shared().is_in_use(key, copy.stamp)))
    }

    /// A page of at most `limit` stable keys of a partition, after `after`.
    pub async fn list(
        &self,
        bits: PartitionBits,
        partition: Partition,
        after: Option<ChunkKey>,
        limit: usize,
    ) -> Result<Page, ListError> {
        self.ask(|reply| Command::Settle { reply }).await.ok_or(ListError::Closed)??;
        let mut page = Page { keys: Vec::new(), end: PageEnd::Last };
        let Some(first) = first_key(bits, partition) else { return Ok(page) };
        let end = first_key(bits, Partition(partition.0 + 1));
        let from = after.map_or(first, |after| after.max(first));
        self.shared().index.scan(&from, end.as_ref(), |key, row| {
            let shown = |held: &&row::Held| Some(key) != after && self.shared().counts_as_held(&key, held);
            let Some(held) = row.held().filter(shown) else { return ControlFlow::Continue(()) };
            if page.keys.len() == limit {
                page.end = PageEnd::More;
                return ControlFlow::Break(());
            }
            page.keys.push((key, held.stamp));
            ControlFlow::Continue(())
        })?;
        Ok(page)
    }

    /// Digests of the partitions `first..=last` as they could be listed: of the first at least, and of as many more as it
    /// takes a short walk to make.
    pub async fn digests(
        &self,
        bits: PartitionBits,
        first: Partition,
        last: Partition,
    ) -> Result<Vec<PartitionDigest>, ListError> {
        self.digest_span(bits, first, last, digest::ROWS_MAX).await
    }

    /// Takes the copies of these chunks out of use that are stamped no higher than this: they count as not held, though
    /// they are read still, until a put stamps them higher, or they are deleted or released. Not kept on disk.
    pub fn quarantine(&self, copies: &[(ChunkKey, GcEpoch)]) {
        self.shared().quarantine(copies);
    }

    /// Ends the quarantine of what is held of these.
    pub fn release(&self, copies: &[(ChunkKey, GcEpoch)]) {
        self.shared().release(copies);
    }

    /// Deletes the copies of these chunks that are stamped no higher than `upto`, and says how many those were. Durable
    /// when it returns; their room comes back by compaction.
    pub async fn forget(&self, keys: &[ChunkKey], upto: GcEpoch) -> Result<usize, PutError> {
        let keys = keys.to_vec();
        let forgotten = self.ask(|reply| Command::Forget { keys, upto, reply }).await.ok_or(PutError::Closed)?;
        let (count, accepted) = forgotten?;
        self.stabilise(accepted).await?;
        Ok(count)
    }

    /// Reads a whole copy and compares it with its key. A bad one, or one that cannot be read, counts as not held any longer,
    /// though what can be read of it is: until another is put in its place, for which its key waits in
    /// [`ChunkStore::take_damaged`]. Not kept on disk: after a restart it is found again.
    pub async fn check(&self, key: &ChunkKey) -> Result<Checked, CheckError> {
        self.check_copy(key).await
    }

    /// Length of the stable copy of `key`, in bytes, if one is held.
    pub fn len_of(&self, key: &ChunkKey) -> Result<Option<u32>, CheckError> {
        Ok(self.shared().stable_copy(key)?.map(|held| held.len))
    }

    /// One step of compaction: empties and removes the segment with most dead bytes, if that is worth it. It is worth more
    /// while room is short.
    pub async fn compact(&self) -> Result<Compacted, CompactError> {
        let mut stuck = self.inner.compaction.lock().await;
        compaction::step(self, &mut stuck).await
    }

    /// Whether puts are about to be refused for want of room: compaction then has no time to lose.
    pub async fn is_short(&self) -> bool {
        compaction::is_short(self).await
    }

    /// Up to `count_max` keys of chunks that were found damaged or lost, for repair; each is told once.
    pub fn take_damaged(&self, count_max: usize) -> Vec<ChunkKey> {
        self.shared().take_damaged(count_max)
    }

    /// A damaged copy was of a chunk that nobody needs: it is no trouble any more.
    pub fn forget_damage(&self, key: &ChunkKey) {
        self.shared().note_mended(key);
    }

    /// What the store knows of itself; what is lacking, and whether the node is starved, is for others to fill in.
    pub async fn report(&self) -> StoreReport {
        let shared = self.shared();
        let usage = shared.log.usage().await.ok();
        StoreReport {
            capacity: usage.map_or(0, |usage| usage.total),
            used: usage.map_or(0, |usage| usage.used),
            free: usage.map_or(0, |usage| usage.free),
            chunks: shared.chunks(),
            incarnation: Incarnation(shared.incarnation().0),
            full: shared.is_full(),
            failed: shared.has_failed() || usage.is_none() || shared.index_failure.borrow().is_some(),
            damaged: shared.damaged_count(),
            repaired: shared.mended_count(),
            lacking: 0,
            starved: false,
        }
    }

    /// How many chunks are held.
    pub fn count(&self) -> u64 {
        self.shared().chunks()
    }

    /// Tells why the index failed, once it has: what is put is durable still, but not found any more until the store is
    /// opened again.
    pub fn watch_index(&self) -> watch::Receiver<Option<String>> {
        self.shared().index_failure.subscribe()
    }

    /// Makes everything stable, brings the index up to it, and ends the store's tasks. Other handles then answer
    /// `Closed`.
    pub async fn close(self) -> Result<(), SyncError> {
        let synced = self.sync().await.map(|_| ());
        // Whatever these say, the segments are good, and the next open brings the index up to them.
        drop(self.ask(|reply| Command::Settle { reply }).await);
        drop(self.shared().index.kv.persist().await);
        drop(self.inner.commands.send(Command::Close).await);
        let keeper = self.inner.keeper.lock().take();
        if let Some(keeper) = keeper {
            drop(keeper.await);
        }
        self.shared().log.clone().close().await?;
        synced
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    fn config(&self) -> &ChunkStoreConfig {
        &self.inner.config
    }

    async fn put_as(
        &self,
        chunk: VerifiedChunk,
        gc: GcEpoch,
        durability: Durability,
        mode: PutMode,
    ) -> Result<Incarnation, PutError> {
        let accepted =
            self.ask(|reply| Command::Put { chunk, gc, mode, durability, reply }).await.ok_or(PutError::Closed)??;
        match durability {
            Durability::Buffered => Ok(Incarnation(accepted.incarnation.0)),
            Durability::Synced => self.stabilise(accepted).await,
        }
    }

    /// Asks the keeper; nothing if it has ended.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.inner.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    async fn stabilise(&self, accepted: Accepted) -> Result<Incarnation, PutError> {
        match &accepted.unstable {
            None => Ok(Incarnation(accepted.incarnation.0)),
            Some(appended) => {
                let synced = self.shared().log.sync_to(appended).await;
                Ok(self.noted(synced)?)
            }
        }
    }

    fn noted(&self, synced: Result<Synced, append_log::SyncError>) -> Result<Incarnation, SyncError> {
        match synced {
            Ok(synced) => {
                self.shared().note_synced(&synced);
                Ok(Incarnation(synced.incarnation.0))
            }
            Err(error) => {
                if matches!(error, append_log::SyncError::Failed { .. }) {
                    self.shared().note_failed();
                }
                Err(error.into())
            }
        }
    }
}

/// The lowest key of a partition; none behind the last one.
fn first_key(bits: PartitionBits, partition: Partition) -> Option<ChunkKey> {
    if partition.0 as usize >= bits.count() {
        return None;
    }
    // A shift by all 64 bits, for the ring of one partition, is no shift in Rust.
    let position = u64::from(partition.0) << (63 - u32::from(bits.bits())) << 1;
    let mut key = [0; 32];
    key[..8].copy_from_slice(&position.to_be_bytes());
    Some(ChunkKey::from_bytes(key))
}
