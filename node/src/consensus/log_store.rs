//! The Raft log on the append log: entries and cuts as records, vote and purge point in slots.
//!
//! | record | kind | tag | payload |
//! |---|---|---|---|
//! | entry | 1 | postcard [`EntryHead`] | command, membership, or nothing |
//! | cut | 2 | postcard `u64`: the first index that is gone | none |
//!
//! # Invariants
//! - Appends, votes and purges reach the disk one after the other, in the order in which the library asked; callbacks
//!   complete in that order (`log_writer`).
//! - An entry is readable from the moment in which [`RaftLogStorage::append`] returns.
//! - A log with damage is not opened.
//! - Entries of a later generation than the vote are not there: a recovery appends them first, and makes them count by its
//!   vote, in one write ([`super::survivor`]).

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::error::OpenError;
use super::log_table::{LogTable, Place};
use super::log_writer::{LogWriter, Work};
use super::raft_types::{Entry, LogId, Types, Vote};
use super::words::{EntryHead, LogIdWords, VoteWords, decode_entry, encode_entry};
use crate::append_log::slots::Slots;
use crate::append_log::{
    Align, AppendLog, FileId, FileState, LogConfig, LogRng, NewRecord, Position, ReadError, RecordInfo, RecordKind,
    Room, Source, TAG_LEN, Tag,
};
use crate::disk::Disk;
use crate::generation::Generation;

const ENTRY: RecordKind = RecordKind(1);
const CUT: RecordKind = RecordKind(2);

/// Most bytes of entries read for one message to a follower, or in one step for the state machine; one entry may be
/// longer.
pub(super) const READ_BYTES_MAX: u64 = 1 << 20;

/// Appends whose sync is outstanding; beyond, the library waits.
const WRITER_QUEUE_LEN: usize = 1024;

/// The log; clones share it.
#[derive(Clone, Debug)]
pub(super) struct LogStore {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Work>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) log: AppendLog,
    /// Guards the index alone; never held across an await.
    pub(super) table: Mutex<LogTable>,
    /// Guards the last durable vote alone.
    pub(super) vote: Mutex<Option<VoteWords>>,
}

impl Shared {
    /// How many entries are held, and bytes in them.
    pub(super) fn size(&self) -> (u64, u64) {
        self.table.lock().size()
    }
}

impl LogStore {
    /// Opens (or creates) the log in `dir`, and starts its writer.
    pub(super) async fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: LogConfig,
        rng: LogRng,
    ) -> Result<(Self, JoinHandle<()>), OpenError> {
        disk.create_dir(dir).await.map_err(|source| OpenError::Disk { path: dir.to_owned(), source })?;
        let (vote_slots, vote) = Slots::open(Arc::clone(&disk), &dir.join("vote")).await?;
        let (purge_slots, purged) = Slots::open(Arc::clone(&disk), &dir.join("purged")).await?;
        let vote = vote.map(|bytes| decode(&bytes, "the vote")).transpose()?;
        let purged = purged.map(|bytes| decode(&bytes, "the purge point")).transpose()?;
        let log_dir = dir.join("log");
        disk.create_dir(&log_dir).await.map_err(|source| OpenError::Disk { path: log_dir.clone(), source })?;
        let (log, recovered) = AppendLog::open(disk, &log_dir, config, rng).await?;
        if let Some(damage) = recovered.damage.first() {
            return Err(OpenError::Damaged { position: damage.at });
        }
        let mut table = LogTable::new(purged);
        for file in &recovered.files {
            replay_file(&log, file.id, &mut table).await?;
        }
        if let (Err(gap), Some(place)) = (table.check_beginning(), table.at(table.first())) {
            return Err(OpenError::Gap { expected: gap.expected, found: gap.found, position: place.position });
        }
        drop_unfinished(&log, &mut table, vote).await?;
        check_payloads(&log, &table).await?;
        let shared = Arc::new(Shared { log, table: Mutex::new(table), vote: Mutex::new(vote) });
        let (writer, work) = mpsc::channel(WRITER_QUEUE_LEN);
        let task = tokio::spawn(LogWriter::new(Arc::clone(&shared), vote_slots, purge_slots).run(work));
        Ok((Self { shared, writer }, task))
    }

    /// The purge point: entries up to it are gone.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.shared.table.lock().purged().map(Into::into)
    }

    /// Whether there is no vote though there must have been one: founding appends entry 0 before the first vote,
    /// everything else comes after one.
    pub(super) fn lacks_vote(&self, has_applied: bool) -> bool {
        let table = self.shared.table.lock();
        self.shared.vote.lock().is_none() && (has_applied || table.end() > 1 || table.purged().is_some())
    }

    /// The id of the entry at `index`, if it is held.
    pub(super) fn id_at(&self, index: u64) -> Option<LogId> {
        self.shared.table.lock().at(index).map(|place| place.head.id.into())
    }

    /// How many entries are held, and bytes in them.
    pub(super) fn size(&self) -> (u64, u64) {
        self.shared.size()
    }

    /// What can be asked without keeping the writer alive.
    #[cfg(test)]
    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The highest entry that may go so that at most `count` entries and `bytes` bytes stay.
    pub(super) fn excess(&self, count: u64, bytes: u64) -> Option<u64> {
        self.shared.table.lock().excess(count, bytes)
    }

    /// Gives files back of which every record lies below the purge point.
    pub(super) async fn recycle(&self) {
        let files = self.shared.log.files();
        let Some(active) = files.iter().find(|file| file.state == FileState::Active).or(files.last()) else { return };
        let spent = self.shared.table.lock().spent_files(active.id);
        for file in spent {
            match self.shared.log.recycle(file).await {
                Ok(()) => self.shared.table.lock().forget_file(file),
                // The file stays and is tried again at the next round; nothing depends on its going.
                Err(error) => {
                    tracing::warn!(%file, %error, "a file of the Raft log cannot be recycled");
                    return;
                }
            }
        }
    }

    async fn read_span(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        let places = {
            let table = self.shared.table.lock();
            let (start, end) = (start.max(table.first()), end.min(table.end()));
            let mut places = Vec::new();
            let mut bytes = 0;
            for index in start..end {
                let place = table.at(index).expect("between first and end").clone();
                bytes += u64::from(place.head.len);
                if bytes > bytes_max && !places.is_empty() {
                    break;
                }
                places.push(place);
            }
            places
        };
        let mut entries = Vec::with_capacity(places.len());
        for place in places {
            entries.push(self.read_place(place).await?);
        }
        Ok(entries)
    }

    async fn read_place(&self, place: Place) -> io::Result<Entry> {
        let payload = match place.payload {
            Some(payload) => payload,
            None if place.head.len == 0 => Bytes::new(),
            None => self.shared.log.read_record(place.position, Source::Anywhere).await.map_err(io::Error::other)?.1,
        };
        decode_entry(place.head, payload).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("entry {} is damaged", place.head.id.index))
        })
    }

    async fn ask<T>(&self, work: impl FnOnce(oneshot::Sender<T>) -> Work) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        let closed = || io::Error::other("the writer of the Raft log has stopped");
        self.writer.send(work(done)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        self.read_span(start, end, u64::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.vote.lock().map(Into::into))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read_span(start, end, READ_BYTES_MAX).await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        use futures::TryStreamExt as _;
        let (start, end) = bounds(&range);
        // Step by step: after a restart the state machine may have the whole log before it.
        let steps = stream::try_unfold((self.clone(), start), move |(store, at)| async move {
            let entries = store.read_span(at, end, READ_BYTES_MAX).await?;
            let next = entries.last().map(|entry| entry.log_id.index + 1);
            Ok::<_, io::Error>(next.map(|next| (stream::iter(entries.into_iter().map(Ok)), (store, next))))
        });
        Box::pin(steps.try_flatten())
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let table = self.shared.table.lock();
        Ok(LogState { last_purged_log_id: table.purged().map(Into::into), last_log_id: table.last().map(Into::into) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = VoteWords::from(vote);
        self.ask(|done| Work::Vote { vote, done }).await?
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<_> = entries.into_iter().map(|entry| encode_entry(&entry)).collect();
        let records = entries.iter().map(|(head, payload)| record(ENTRY, head, payload.clone())).collect();
        let appended = self.shared.log.append_urgent(records).await.map_err(io::Error::other)?;
        let mut end = 0;
        {
            let mut table = self.shared.table.lock();
            for ((head, payload), appended) in entries.into_iter().zip(&appended) {
                end = head.id.index + 1;
                table
                    .push(Place { head, position: appended.position, payload: Some(payload) })
                    .map_err(|gap| io::Error::new(io::ErrorKind::InvalidInput, gap))?;
            }
        }
        let work = Work::Sync { last: appended.last().copied(), end, callback };
        self.writer.send(work).await.map_err(|_| io::Error::other("the writer of the Raft log has stopped"))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |id| id.index + 1);
        self.shared.log.append(record(CUT, &from, Bytes::new())).await.map_err(io::Error::other)?;
        self.shared.table.lock().cut_from(from);
        Ok(())
    }

    async fn purge(&mut self, id: LogId) -> io::Result<()> {
        let id = LogIdWords::from(&id);
        self.ask(|done| Work::Purge { id, done }).await?
    }
}

/// Makes durable at once; for what happens before the library starts.
impl LogStore {
    /// Drops every entry and sets the purge point: the log is older than the state machine, or another history's.
    pub(super) async fn restart_at(&mut self, id: LogId) -> io::Result<()> {
        self.truncate_after(self.purged()).await?;
        self.purge(id).await
    }
}

/// Listing has checked the headers. A damaged payload must stop the node now, not when a follower asks for it: the log is
/// short enough to read it all.
async fn check_payloads(log: &AppendLog, table: &LogTable) -> Result<(), OpenError> {
    for index in table.first()..table.end() {
        let position = table.at(index).expect("between first and end").position;
        match log.read_record(position, Source::Anywhere).await {
            Ok(_) => {}
            Err(ReadError::Damaged { position }) => return Err(OpenError::Damaged { position }),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Cuts what a recovery appended that came to no vote.
async fn drop_unfinished(log: &AppendLog, table: &mut LogTable, vote: Option<VoteWords>) -> Result<(), OpenError> {
    let of = |term| Generation::of_term(term);
    let generation = of(vote.map_or(0, |vote| vote.term));
    let is_unfinished = |index: &u64| table.at(*index).is_some_and(|place| of(place.head.id.term) > generation);
    let Some(from) = (table.first()..table.end()).find(is_unfinished) else { return Ok(()) };
    tracing::warn!(from, "a recovery was cut short: the log is as it was before");
    let failed = |source| OpenError::Disk { path: "the Raft log".into(), source };
    log.append(record(CUT, &from, Bytes::new())).await.map_err(|error| failed(io::Error::other(error)))?;
    log.sync().await.map_err(|error| failed(io::Error::other(error)))?;
    table.cut_from(from);
    Ok(())
}

async fn replay_file(log: &AppendLog, file: FileId, table: &mut LogTable) -> Result<(), OpenError> {
    let listing = log.list(file).await?;
    if let Some(damage) = listing.damage.first() {
        return Err(OpenError::Damaged { position: damage.at });
    }
    for info in listing.records {
        replay_record(&info, table)?;
    }
    Ok(())
}

fn replay_record(info: &RecordInfo, table: &mut LogTable) -> Result<(), OpenError> {
    let position = info.position;
    match info.kind {
        ENTRY => {
            let head: EntryHead = decode_tag(&info.tag, position)?;
            if head.len != info.payload_len {
                return Err(OpenError::Damaged { position });
            }
            let place = Place { head, position, payload: None };
            table.replay(place).map_err(|gap| OpenError::Gap { expected: gap.expected, found: gap.found, position })
        }
        CUT => {
            table.cut_from(decode_tag(&info.tag, position)?);
            Ok(())
        }
        // Marks and fillers are the log's own.
        RecordKind(RecordKind::RESERVED..) => Ok(()),
        RecordKind(kind) => Err(OpenError::UnknownRecord { position, kind }),
    }
}

fn record<T: serde::Serialize>(kind: RecordKind, words: &T, payload: Bytes) -> NewRecord {
    let mut tag = [0; TAG_LEN];
    postcard::to_slice(words, &mut tag).expect("heads are shorter than a tag");
    let parts = if payload.is_empty() { Vec::new() } else { vec![payload] };
    // The log is what makes room for everything else: it may use the reserve.
    NewRecord { kind, tag, parts, align: Align::Packed, room: Room::All }
}

fn decode_tag<T: serde::de::DeserializeOwned>(tag: &Tag, position: Position) -> Result<T, OpenError> {
    postcard::take_from_bytes(tag).map(|(words, _)| words).map_err(|_| OpenError::Damaged { position })
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, OpenError> {
    postcard::from_bytes(bytes).map_err(|_| OpenError::Unreadable { what })
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(&start) => start,
        Bound::Excluded(&start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => end + 1,
        Bound::Excluded(&end) => end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}
