//! Files of checksummed records: what both the chunk store and the Raft log are made of.
//!
//! An [`AppendLog`] is a directory of numbered files, of which the last one grows. A task of its own (`writer`) assigns
//! positions, writes what is queued in one vectored write, and syncs once for everybody who waits. Formats and the
//! durability contract are in `node/DISK.md`.
//!
//! # Invariants
//! - What a [`Synced`] covers is found again by every later open, or reported as [`Damage`]; never silently missing.
//! - What an open finds in the last file is a prefix of what was appended, but for reported damage.
//! - A file is synced whole before the first record of the next one is written.
//! - Nothing unsynced survives a failed write or sync as acknowledged: the incarnation changes, see [`Incarnation`].
//! - What an open hands out is durable: the tail above the synced mark is written again and synced first.
//!
//! # Not here
//! What records mean, which are alive, and when a file may go (the tenants); one vote or one purge point ([`slots`]).

mod active;
mod config;
mod directory;
mod error;
mod file_header;
mod files;
mod footer;
mod position;
mod record;
mod recovery;
mod scan;
pub mod slots;
#[cfg(test)]
mod tests;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::RngCore;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

pub use config::{FileStyle, Fill, Footer, LogConfig};
pub use error::{AppendError, OpenError, ReadError, ReopenError, SyncError};
pub use files::Source;
pub use position::{FileId, Incarnation, Position};
pub use record::{Align, HEADER_LEN, NewRecord, PAYLOAD_LEN_MAX, RecordInfo, RecordKind, Room, TAG_LEN, Tag};

use self::active::{Prepared, payload_len_max};
use self::files::Files;
use self::writer::{Demand, Fate, Request, Writer};
use crate::disk::Disk;

/// Source of generations and incarnations: seeded in tests, from the operating system in production.
pub type LogRng = Box<dyn RngCore + Send>;

/// Requests that may wait for the writer: it takes them as fast as it can count, so few are enough.
const REQUESTS_MAX: usize = 64;

/// A handle on the log; clones share it. The writer task ends when the last handle drops, having written and synced
/// what was appended; [`AppendLog::close`] waits for that.
///
/// A future that is dropped half way may leave its request in force.
#[derive(Clone, Debug)]
pub struct AppendLog {
    requests: mpsc::Sender<Request>,
    files: Arc<Files>,
    incarnation: watch::Receiver<Incarnation>,
    /// One permit a byte that waits to be written.
    queue: Arc<Semaphore>,
    queue_bytes: u32,
    payload_len_max: u64,
}

impl AppendLog {
    /// Opens (or creates) the log in `dir`, which must be locked by the caller. Cuts a torn tail, makes durable what is
    /// left of it, and says what it found. Sealed files are not read here, see [`AppendLog::list`].
    pub async fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: LogConfig,
        mut rng: LogRng,
    ) -> Result<(Self, Recovered), OpenError> {
        let (queue_bytes, file_len) = (config.queue_bytes, config.file_len);
        assert!(queue_bytes > 0 && payload_len_max(file_len) > 0, "a log needs room for a record");
        let opened = recovery::open(disk, dir, config).await?;
        let incarnation = Incarnation(rng.next_u64());
        let files = Arc::new(Files::new(opened.files));
        let last = files.last();
        let next_id = last.as_ref().map_or(FileId(1), |(id, _)| id.next());
        let previous_end = last.map(|(file, open)| Position { file, offset: open.written });
        let recovered = Recovered { files: files.infos(), damage: opened.damage, cut: opened.cut, incarnation };
        let (incarnation, incarnation_now) = watch::channel(incarnation);
        let (requests, requested) = mpsc::channel(REQUESTS_MAX);
        let shared = Arc::clone(&files);
        let writer =
            Writer::new(opened.directory, shared, rng, requested, incarnation, opened.active, previous_end, next_id);
        tokio::spawn(writer.run());
        let log = Self {
            requests,
            files,
            incarnation: incarnation_now,
            queue: Arc::new(Semaphore::new(queue_bytes as usize)),
            queue_bytes,
            payload_len_max: payload_len_max(file_len).min(u64::from(PAYLOAD_LEN_MAX)),
        };
        Ok((log, recovered))
    }

    /// Queues one record and returns its position. Durable only after a sync. Waits while the queue is full.
    pub async fn append(&self, record: NewRecord) -> Result<Appended, AppendError> {
        let appended = self.append_batch(vec![record]).await?;
        Ok(*appended.first().expect("one record has one position"))
    }

    /// Queues records one after the other, with no record of others between them. On an error the ones before the
    /// refused record may have been appended: only the tenant's reading of them makes a batch whole.
    pub async fn append_batch(&self, records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        self.send_append(records, Demand::None).await
    }

    /// As [`AppendLog::append_batch`], for records whose sync is asked for next: short ones are written and synced by one
    /// thread in one go.
    pub async fn append_urgent(&self, records: Vec<NewRecord>) -> Result<Vec<Appended>, AppendError> {
        self.send_append(records, Demand::Sync).await
    }

    /// As [`AppendLog::append_urgent`], for one record.
    pub async fn append_one_urgent(&self, record: NewRecord) -> Result<Appended, AppendError> {
        let appended = self.append_urgent(vec![record]).await?;
        Ok(*appended.first().expect("one record has one position"))
    }

    async fn send_append(&self, records: Vec<NewRecord>, demand: Demand) -> Result<Vec<Appended>, AppendError> {
        let mut queued: u64 = 0;
        let mut prepared = Vec::with_capacity(records.len());
        for record in records {
            assert!(!record.kind.is_reserved(), "kinds from 0xf0 up belong to the log");
            let len: u64 = record.parts.iter().map(|part| part.len() as u64).sum();
            let fits = u32::try_from(len).ok().filter(|_| len <= self.payload_len_max);
            let payload_len = fits.ok_or(AppendError::TooLarge { len, max: self.payload_len_max })?;
            queued += HEADER_LEN + len;
            prepared.push(Prepared::new(record, payload_len));
        }
        // One that is larger than the queue waits until it has the queue for itself.
        let bytes = u32::try_from(queued).unwrap_or(u32::MAX).min(self.queue_bytes);
        let permit = Arc::clone(&self.queue).acquire_many_owned(bytes).await.map_err(|_| AppendError::Closed)?;
        self.ask(|reply| Request::Append { records: prepared, permit, reply, demand }, AppendError::Closed).await
    }

    /// Makes everything appended before this call durable; all who wait share one `fdatasync`.
    pub async fn sync(&self) -> Result<Synced, SyncError> {
        self.ask(|reply| Request::Sync { of: None, reply }, SyncError::Closed).await
    }

    /// Makes one record, and all before it, durable. `Lost` if the log failed since and the record was cut.
    pub async fn sync_to(&self, appended: &Appended) -> Result<Synced, SyncError> {
        self.ask(|reply| Request::Sync { of: Some(*appended), reply }, SyncError::Closed).await
    }

    /// Reads a range of a record's payload after checking the record's header. The bytes themselves are not checked
    /// against the payload's checksum: see [`AppendLog::read_record`]. Waits until the record has been written.
    pub async fn read(&self, at: Position, range: Range<u32>) -> Result<Bytes, ReadError> {
        self.files.read(at, range).await
    }

    /// Reads a whole record and checks header and payload.
    pub async fn read_record(&self, at: Position, from: Source) -> Result<(RecordInfo, Bytes), ReadError> {
        self.files.read_record(at, from).await
    }

    /// Lists the records of one file in order: from its footer if it has a good one, else from the headers.
    pub async fn list(&self, file: FileId) -> Result<Listing, ReadError> {
        self.files.list(file).await
    }

    /// The files, in order; the last one may still grow.
    pub fn files(&self) -> Vec<FileInfo> {
        self.files.infos()
    }

    /// Ends the current file, so that it can be compacted, recycled or removed; the next append begins another. Returns
    /// the file that was sealed, if one was open.
    pub async fn seal(&self) -> Result<Option<FileId>, AppendError> {
        self.ask(|reply| Request::Seal { reply }, AppendError::Closed).await
    }

    /// Removes a sealed file. The tenant has moved what lived in it and synced that. Durable when it returns.
    pub async fn remove_file(&self, file: FileId) -> Result<(), ReadError> {
        self.ask(|reply| Request::Drop { file, fate: Fate::Remove, reply }, ReadError::Closed).await
    }

    /// Takes a sealed file out of the log and keeps its room for a later one. Its records are gone when this returns.
    pub async fn recycle(&self, file: FileId) -> Result<(), ReadError> {
        self.ask(|reply| Request::Drop { file, fate: Fate::Recycle, reply }, ReadError::Closed).await
    }

    /// After a failure: cuts what was never synced, syncs the cut, and takes a new incarnation. Does nothing if the log
    /// has not failed.
    pub async fn reopen(&self) -> Result<Reopened, ReopenError> {
        self.ask(|reply| Request::Reopen { reply }, ReopenError::Closed).await
    }

    /// The incarnation that appends get now.
    pub fn incarnation(&self) -> Incarnation {
        *self.incarnation.borrow()
    }

    /// Room on the medium and what of it is used.
    pub async fn usage(&self) -> Result<Usage, ReadError> {
        self.ask(|reply| Request::Usage { reply }, ReadError::Closed).await
    }

    /// Writes and syncs what was appended and ends the writer; every other handle is closed with it.
    pub async fn close(self) -> Result<(), SyncError> {
        self.ask(|reply| Request::Close { reply }, SyncError::Closed).await
    }

    async fn ask<T, E>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Request,
        closed: E,
    ) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(request(reply)).await.is_err() {
            return Err(closed);
        }
        answer.await.unwrap_or(Err(closed))
    }
}

/// What an open found.
#[derive(Debug)]
pub struct Recovered {
    /// The files, in order. List each to see its records.
    pub files: Vec<FileInfo>,
    /// Files or parts of files that were synced once and are bad now, as far as the open had to look: the last file,
    /// and the headers of the others. [`AppendLog::list`] reports the rest.
    pub damage: Vec<Damage>,
    /// What was cut from the end as a torn tail: never acknowledged.
    pub cut: Option<Cut>,
    /// The incarnation that appends get from here.
    pub incarnation: Incarnation,
}

/// A torn tail that was cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cut {
    /// Where the log ends now.
    pub at: Position,
    /// How many bytes of further records, at least begun, were seen behind it.
    pub len: u64,
}

/// Bytes that were synced and are no longer valid records.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Damage {
    /// Where it begins.
    pub at: Position,
    /// Up to the next valid header, or the end of what was synced.
    pub len: u64,
}

/// A record that is in the queue or the page cache, and ordered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// Where it is.
    pub position: Position,
    /// Where its payload begins in the file: a multiple of 4 KiB with [`Align::Page`].
    pub payload_offset: u64,
    /// A sync of another incarnation says nothing about this record.
    pub incarnation: Incarnation,
}

/// Everything before `until` appended in `incarnation` is on stable storage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Synced {
    /// End of what is durable.
    pub until: Position,
    /// Appends of another incarnation are not covered.
    pub incarnation: Incarnation,
}

/// What [`AppendLog::reopen`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reopened {
    /// The incarnation that appends get from here.
    pub incarnation: Incarnation,
    /// Records at or behind this position, of earlier incarnations, are gone. `None` if nothing was cut.
    pub cut: Option<Position>,
}

/// One file of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileInfo {
    /// Its number; later files have higher ones.
    pub id: FileId,
    /// Bytes up to the end of its last record.
    pub len: u64,
    /// Whether it can still grow.
    pub state: FileState,
}

/// Whether a file can still grow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileState {
    /// The last file: appends go here.
    Active,
    /// Synced whole; only removed or recycled from here on.
    Sealed,
}

/// The records of one file.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In the order in which they were appended.
    pub records: Vec<RecordInfo>,
    /// What should be there and is not.
    pub damage: Vec<Damage>,
}

/// Room of a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// Capacity: the configured one, or the file system's.
    pub total: u64,
    /// Bytes in files of this log.
    pub used: u64,
    /// What ordinary appends may still fill.
    pub free: u64,
}
