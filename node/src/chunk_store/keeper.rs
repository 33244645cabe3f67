//! The task that owns the order of a store: every record is appended here, so that what is decided about a key (held?
//! stamped? deleted?) is still true when its record gets its place in the log.
//!
//! # Invariants
//! - Records of one key lie in the log in the order of the decisions about it.
//! - The index takes only records that are stable.
//! - After a failure nothing is appended until the log has been reopened and the rows of lost records are forgotten.
//!
//! # Not here
//! Reading, and waiting for syncs: the handles do that themselves.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use ring::{ChunkKey, GcEpoch};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};
use wire::chunk::Durability;
use wire::tree::VerifiedChunk;

use super::config::ChunkStoreConfig;
use super::error::{PutError, SyncError};
use super::index::{Fold, Phase, Tally};
use super::row::{Row, merge};
use super::segment::{Body, Entry, Origin, SegmentRecord};
use super::shared::Shared;
use super::watched::note_failure;
use crate::append_log::{AppendLog, Appended, FileId, FileInfo, Incarnation, NewRecord, Position, ReopenError};
use crate::kv::KvError;

mod moving;

pub(super) use moving::{Moved, Segment};

/// Commands that may wait: more would only make the first of them wait for the last. Each holds at most one chunk.
pub(super) const COMMANDS_MAX: usize = 8;

/// How often keys are stamped or deleted again because the log failed meanwhile.
const TRIES_MAX: usize = 3;

/// Records that go into the index in one batch.
const SETTLE_BATCH: usize = 1024;

/// What a put, a stamp or a deletion came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) incarnation: Incarnation,
    /// What must be synced before it is stable; nothing if it is.
    pub(super) unstable: Option<Appended>,
}

/// What a put does with a chunk that is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PutMode {
    /// Stamps it.
    KeepHeld,
    /// Writes it once more: the copy held is good for nothing.
    Replace,
}

pub(super) type Reply<T> = oneshot::Sender<T>;

/// What the handles ask for.
pub(super) enum Command {
    Put {
        chunk: VerifiedChunk,
        gc: GcEpoch,
        mode: PutMode,
        /// What the asker is going to wait for.
        durability: Durability,
        reply: Reply<Result<Accepted, PutError>>,
    },
    /// Stamps the chunks that are held; says which are.
    Stamp { keys: Vec<ChunkKey>, gc: GcEpoch, reply: Reply<Result<(Vec<bool>, Accepted), PutError>> },
    /// Deletes the copies that are stamped no higher than `upto`; says how many.
    Forget { keys: Vec<ChunkKey>, upto: GcEpoch, reply: Reply<Result<(usize, Accepted), PutError>> },
    /// Deletes a copy that was found bad, if it is still the one.
    Drop { key: ChunkKey, at: Position, reply: Reply<Result<Accepted, PutError>> },
    /// Moves a record of a segment that is to go, if it is still needed.
    Move { record: SegmentRecord, chunk: Option<VerifiedChunk>, reply: Reply<Result<Moved, PutError>> },
    /// Brings the index up to what is stable.
    Settle { reply: Reply<Result<(), KvError>> },
    /// Removes the rows of deletions that only the segment itself still needs.
    Unlist { keys: Vec<ChunkKey>, file: FileId, reply: Reply<Result<(), KvError>> },
    /// The segment is gone.
    Gone { file: FileId, reply: Reply<Result<(), KvError>> },
    /// Drops shadows that are gone from these rows.
    Prune { keys: Vec<ChunkKey>, reply: Reply<Result<(), KvError>> },
    /// The segments, with the bytes of each that must stay.
    Segments { reply: Reply<Vec<Segment>> },
    /// Ends the keeper.
    Close,
}

pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) tally: Tally,
    config: ChunkStoreConfig,
    commands: mpsc::Receiver<Command>,
    /// The log was reopened; what lies behind this position is still to be forgotten.
    cut: Option<Position>,
    next_look: Instant,
    /// The file of the last persist: one each time the log begins another bounds what an open must read again.
    persisted: FileId,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        tally: Tally,
        config: ChunkStoreConfig,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        shared.note_chunks(tally.chunks);
        let (next_look, persisted) = (Instant::now() + config.linger, tally.reached.file);
        Self { shared, tally, config, commands, cut: None, next_look, persisted }
    }

    /// Runs until the last handle is gone.
    pub(super) async fn run(mut self) {
        loop {
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                () = sleep_until(self.next_look) => self.look().await,
                () = shared.wake.notified() => self.settle_and_log().await,
                command = self.commands.recv() => match command {
                    Some(Command::Close) | None => break,
                    Some(command) => self.handle(command).await,
                },
            }
        }
        self.settle_and_log().await;
    }

    async fn handle(&mut self, command: Command) {
        match command {
            Command::Put { chunk, gc, mode, durability, reply } => {
                drop(reply.send(self.put(&chunk, gc, (mode, durability)).await));
            }
            Command::Stamp { keys, gc, reply } => drop(reply.send(self.stamp(&keys, gc).await)),
            Command::Forget { keys, upto, reply } => drop(reply.send(self.forget(&keys, upto).await)),
            Command::Drop { key, at, reply } => drop(reply.send(self.drop_copy(key, at).await)),
            Command::Move { record, chunk, reply } => drop(reply.send(self.move_record(&record, chunk).await)),
            Command::Settle { reply } => drop(reply.send(self.settle().await)),
            Command::Unlist { keys, file, reply } => drop(reply.send(self.unlist(&keys, file))),
            Command::Gone { file, reply } => drop(reply.send(self.forget_file(file))),
            Command::Prune { keys, reply } => drop(reply.send(self.prune(&keys))),
            Command::Segments { reply } => drop(reply.send(self.segments())),
            Command::Close => {}
        }
    }

    async fn put(
        &mut self,
        chunk: &VerifiedChunk,
        gc: GcEpoch,
        (mode, durability): (PutMode, Durability),
    ) -> Result<Accepted, PutError> {
        self.make_ready().await?;
        let row = self.row(&chunk.key())?;
        let held_stamp = row.as_ref().and_then(|row| row.held()).map(|held| held.stamp);
        if held_stamp.is_some() && mode == PutMode::KeepHeld && !self.shared.is_bad(&chunk.key()) {
            self.raise_stamp(chunk.key(), row, gc).await?;
            return Ok(self.accepted(&[chunk.key()]));
        }
        let stamp = held_stamp.map_or(gc, |stamp| stamp.max(gc));
        let (entry, record) = Entry::chunk(chunk, stamp, Origin::Here);
        let appended = self.append_for(entry, record, row, durability).await;
        self.shared.note_full(matches!(appended, Err(PutError::Full { .. })));
        appended?;
        self.shared.note_mended(&chunk.key());
        Ok(self.accepted(&[chunk.key()]))
    }

    /// For all keys in one incarnation: what a log that failed in the middle has cut is done again.
    async fn stamp(&mut self, keys: &[ChunkKey], gc: GcEpoch) -> Result<(Vec<bool>, Accepted), PutError> {
        for _ in 0..TRIES_MAX {
            self.make_ready().await?;
            let began = self.shared.incarnation();
            let held = self.stamp_once(keys, gc).await?;
            if self.shared.incarnation() == began {
                return Ok((held, self.accepted(keys)));
            }
        }
        Err(fails_again())
    }

    async fn stamp_once(&mut self, keys: &[ChunkKey], gc: GcEpoch) -> Result<Vec<bool>, PutError> {
        let mut held = Vec::with_capacity(keys.len());
        for key in keys {
            self.make_ready().await?;
            let row = self.row(key)?;
            let held_stamp = row.as_ref().and_then(|row| row.held()).map(|held| held.stamp);
            // Out of use is not held: it takes a put to bring it back.
            let is_held = held_stamp.is_some_and(|stamp| self.shared.is_in_use(key, stamp));
            held.push(is_held);
            if is_held {
                self.raise_stamp(*key, row, gc).await?;
            }
        }
        Ok(held)
    }

    async fn raise_stamp(&mut self, key: ChunkKey, row: Option<Row>, gc: GcEpoch) -> Result<(), PutError> {
        if row.as_ref().and_then(|row| row.held()).is_some_and(|held| held.stamp < gc) {
            let entry = Entry { key, stamp: gc, origin: Origin::Here, body: Body::Stamp };
            self.append(entry, entry.small(), row).await?;
        }
        Ok(())
    }

    async fn forget(&mut self, keys: &[ChunkKey], upto: GcEpoch) -> Result<(usize, Accepted), PutError> {
        let mut deleted = BTreeSet::new();
        for _ in 0..TRIES_MAX {
            self.make_ready().await?;
            let began = self.shared.incarnation();
            for key in keys {
                self.make_ready().await?;
                let row = self.row(key)?;
                if row.as_ref().and_then(|row| row.held()).is_some_and(|held| held.stamp <= upto) {
                    self.delete(*key, row).await?;
                    deleted.insert(*key);
                }
            }
            if self.shared.incarnation() == began {
                return Ok((deleted.len(), self.accepted(keys)));
            }
        }
        Err(fails_again())
    }

    /// A bad copy that cannot be remembered as such is deleted like any other, so that the chunk can be put again.
    async fn drop_copy(&mut self, key: ChunkKey, at: Position) -> Result<Accepted, PutError> {
        self.make_ready().await?;
        let row = self.row(&key)?;
        if row.as_ref().and_then(|row| row.held()).is_some_and(|held| held.at == at) {
            warn!(%key, %at, "a damaged copy was given up");
            self.delete(key, row).await?;
            self.shared.note_damaged(key);
        }
        Ok(self.accepted(&[key]))
    }

    async fn delete(&mut self, key: ChunkKey, row: Option<Row>) -> Result<Appended, PutError> {
        let entry = Entry { key, stamp: GcEpoch(0), origin: Origin::Here, body: Body::Delete };
        self.append(entry, entry.small(), row).await
    }

    /// Appends a record of a key whose row is `row`.
    async fn append(&mut self, entry: Entry, record: NewRecord, row: Option<Row>) -> Result<Appended, PutError> {
        self.append_for(entry, record, row, Durability::Buffered).await
    }

    async fn append_for(
        &mut self,
        entry: Entry,
        record: NewRecord,
        row: Option<Row>,
        durability: Durability,
    ) -> Result<Appended, PutError> {
        let appended = match durability {
            Durability::Buffered => self.shared.log.append(record).await,
            Durability::Synced => self.shared.log.append_one_urgent(record).await,
        };
        let appended = appended.map_err(|error| self.noted(error.into()))?;
        let record = entry.placed(appended.position);
        self.shared.pending.write().push(record, appended, merge(row, &record));
        Ok(appended)
    }

    fn noted(&self, error: PutError) -> PutError {
        if matches!(error, PutError::Failed { .. }) {
            self.shared.note_failed();
        }
        error
    }

    /// What must be synced before all of these are stable: the newest of their records, as syncs go in order.
    fn accepted(&self, keys: &[ChunkKey]) -> Accepted {
        let until = self.shared.stable_until();
        let pending = self.shared.pending.read();
        let last = keys.iter().filter_map(|key| pending.row(key)).map(|row| row.last).max_by_key(|last| last.position);
        Accepted { incarnation: self.shared.incarnation(), unstable: last.filter(|last| last.position >= until) }
    }

    /// The row of a key as all accepted records make it.
    fn row(&self, key: &ChunkKey) -> Result<Option<Row>, KvError> {
        let pending = self.shared.pending.read().row(key).map(|pending| pending.row.clone());
        pending.map_or_else(|| self.shared.index.row(key), Ok)
    }

    /// A log that works, and room among the pending records for one more.
    async fn make_ready(&mut self) -> Result<(), PutError> {
        if self.shared.has_failed() {
            self.reopen().await?;
        }
        if self.pending_len() >= self.config.pending_max {
            self.sync().await?;
            self.settle().await?;
        }
        Ok(())
    }

    fn pending_len(&self) -> usize {
        self.shared.pending.read().len()
    }

    async fn sync(&mut self) -> Result<(), PutError> {
        let synced = self.shared.log.sync().await.map_err(|error| self.noted(SyncError::from(error).into()))?;
        self.shared.note_synced(&synced);
        Ok(())
    }

    /// What has lain around since the last look becomes stable; a log that failed is reopened.
    async fn look(&mut self) {
        let failed = self.shared.has_failed();
        self.next_look = Instant::now() + if failed { self.config.reopen_pause } else { self.config.linger };
        let unstable = self.pending_len() > 0;
        let result = if failed {
            self.reopen().await
        } else if unstable {
            self.sync().await
        } else {
            Ok(())
        };
        if let Err(error) = result {
            warn!(%error, "the chunk store cannot sync");
        }
        if self.shared.is_full() {
            let usage = self.shared.log.usage().await;
            self.shared.note_full(usage.is_ok_and(|usage| usage.free < self.config.segment_len));
        }
        self.settle_and_log().await;
    }

    async fn reopen(&mut self) -> Result<(), PutError> {
        let disk_failed = |error| match error {
            ReopenError::Disk { source } => PutError::Failed { source: Arc::new(source) },
            ReopenError::Closed => PutError::Closed,
        };
        let reopened = self.shared.log.reopen().await.map_err(disk_failed)?;
        if reopened.incarnation != self.shared.incarnation() {
            // Nothing cut: nothing was being written, so all that was appended lies in files that were synced whole.
            let cut = reopened.cut.unwrap_or_else(|| end_of(&self.shared.log));
            self.shared.note_reopened(reopened.incarnation, cut);
            self.cut = Some(cut);
            info!(%cut, "the segments were reopened; what was not stable is gone");
        }
        if let Some(cut) = self.cut {
            self.settle_before(cut).await?;
            self.shared.pending.write().clear();
            self.cut = None;
        }
        self.shared.note_working();
        Ok(())
    }

    async fn settle_and_log(&mut self) {
        if let Err(error) = self.settle().await {
            error!(%error, "the index of the chunk store failed");
            // Also what the store under it did not say: a row that cannot be read.
            note_failure(&self.shared.index_failure, &error);
        }
    }

    /// Brings the index up to what is stable.
    async fn settle(&mut self) -> Result<(), KvError> {
        self.settle_before(self.shared.stable_until()).await
    }

    async fn settle_before(&mut self, until: Position) -> Result<(), KvError> {
        loop {
            let records = self.shared.pending.read().before(until, SETTLE_BATCH);
            let Some(last) = records.last().map(|record| record.at) else { return Ok(()) };
            let mut fold = Fold::new(&self.shared.index, Phase::Built, &self.tally);
            for record in &records {
                fold.apply(record)?;
            }
            commit(fold, &self.shared, &mut self.tally)?;
            self.shared.note_chunks(self.tally.chunks);
            // The rows are in the index before they leave here: a reader finds them in one of the two.
            self.shared.pending.write().forget_first(records.len());
            if last.file > self.persisted {
                self.shared.index.kv.persist().await?;
                self.persisted = last.file;
            }
        }
    }
}

fn fails_again() -> PutError {
    PutError::Failed { source: Arc::new(io::Error::other("the log fails again and again")) }
}

/// Where the log ends: every record that was written lies before this position.
pub(super) fn end_of(log: &AppendLog) -> Position {
    let end = |last: &FileInfo| Position { file: last.id, offset: last.len };
    log.files().last().map(end).unwrap_or_default()
}

/// Commits against the files that the log has now.
fn commit(fold: Fold<'_>, shared: &Shared, tally: &mut Tally) -> Result<(), KvError> {
    let files = OnceCell::new();
    let list = || shared.log.files().iter().map(|info| info.id).collect::<BTreeSet<FileId>>();
    fold.commit(tally, |file| files.get_or_init(list).contains(&file))
}
