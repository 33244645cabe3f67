//! The task that owns the growing end of a log: positions, writes, syncs, marks, new files, failures.
//!
//! At most one write and one sync are under way; while they are, appends gather. A sync covers what had been written
//! when it began, and answers everybody who waited for no more than that.
//!
//! # Invariants
//! - After a failed write or sync nothing is written until `reopen` has cut the file at what was synced. Operations
//!   still under way are awaited first, or they could land behind the cut.
//! - A file is settled (all written, all synced) before its footer is written, and before the next file is made.

mod reopen;
mod request;
mod spare;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::error;

pub(super) use self::request::{Demand, Fate, Request};
use super::active::{Active, Batch, Prepared};
use super::directory::{CreateError, Directory, is_full};
use super::file_header::FILE_HEADER_LEN;
use super::files::{Files, OpenFile};
use super::footer;
use super::record::HEADER_LEN;
use super::{
    AppendError, Appended, FileId, FileState, FileStyle, Footer, Incarnation, LogRng, Position, ReadError, Room,
    SyncError, Synced, Usage,
};
use crate::disk::Durability;

/// A write up to this long that somebody waits for is synced by the thread that wrote it; a longer one goes on its own,
/// so that the next can be written while it is synced.
const SYNCED_WRITE_LEN_MAX: u64 = 256 << 10;

/// Somebody who waits until the active file is synced up to here.
struct Waiter {
    upto: u64,
    /// `None`: the log itself.
    reply: Option<oneshot::Sender<Result<Synced, SyncError>>>,
}

struct WriteDone {
    end: u64,
    durability: Durability,
    result: io::Result<()>,
    /// Dropped with this: the queue has room again.
    _permits: Vec<Arc<OwnedSemaphorePermit>>,
}

struct SyncDone {
    upto: u64,
    result: io::Result<()>,
}

pub(super) struct Writer {
    pub(super) directory: Directory,
    pub(super) files: Arc<Files>,
    pub(super) rng: LogRng,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) incarnation: watch::Sender<Incarnation>,
    pub(super) active: Option<Active>,
    /// Where the last sealed file ended.
    pub(super) previous_end: Option<Position>,
    pub(super) next_id: FileId,
    state: Pending,
}

/// What is under way.
#[derive(Default)]
pub(super) struct Pending {
    failure: Option<Arc<io::Error>>,
    write: Option<BoxFuture<'static, WriteDone>>,
    /// Whether the write under way syncs as well.
    write_syncs: bool,
    sync: Option<BoxFuture<'static, SyncDone>>,
    waiters: Vec<Waiter>,
    mark_due: Option<Instant>,
    /// A file being filled for later.
    spare: Option<BoxFuture<'static, io::Result<PathBuf>>>,
    /// The next file when one was last filled: once for each is enough.
    spare_for: Option<FileId>,
}

impl Writer {
    #[expect(clippy::too_many_arguments, reason = "each is a part of the log that the open has made")]
    pub(super) fn new(
        directory: Directory,
        files: Arc<Files>,
        rng: LogRng,
        requests: mpsc::Receiver<Request>,
        incarnation: watch::Sender<Incarnation>,
        active: Option<Active>,
        previous_end: Option<Position>,
        next_id: FileId,
    ) -> Self {
        let state = Pending::default();
        Self { directory, files, rng, requests, incarnation, active, previous_end, next_id, state }
    }

    pub(super) async fn run(mut self) {
        self.plan_mark();
        loop {
            self.start_io();
            self.plan_spare();
            tokio::select! {
                biased;
                done = finished(&mut self.state.write) => self.handle_written(done),
                done = finished(&mut self.state.sync) => self.handle_synced(done),
                request = self.requests.recv() => match request {
                    Some(Request::Close { reply }) => {
                        drop(reply.send(self.finish().await));
                        return;
                    }
                    Some(request) => self.handle(request).await,
                    None => {
                        // Nobody waits for an answer, and a failure was told to those who did.
                        drop(self.finish().await);
                        return;
                    }
                },
                () = due(self.state.mark_due) => self.handle_mark_due(),
                filled = finished(&mut self.state.spare) => self.handle_spare(filled),
            }
        }
    }

    async fn handle(&mut self, request: Request) {
        match request {
            Request::Append { records, permit, reply, demand } => {
                let appended = self.append(records, permit).await;
                if demand == Demand::Sync
                    && appended.is_ok()
                    && let Some(active) = &self.active
                {
                    self.state.waiters.push(Waiter { upto: active.next, reply: None });
                }
                drop(reply.send(appended));
            }
            Request::Sync { of, reply } => self.wait(of, reply),
            Request::Seal { reply } => drop(reply.send(self.seal().await)),
            Request::Drop { file, fate, reply } => drop(reply.send(self.drop_file(file, fate).await)),
            Request::Reopen { reply } => drop(reply.send(self.reopen().await)),
            Request::Usage { reply } => drop(reply.send(self.usage().await)),
            Request::Close { reply } => drop(reply.send(Err(SyncError::Closed))),
        }
    }

    async fn append(
        &mut self,
        records: Vec<Prepared>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Vec<Appended>, AppendError> {
        let permit = Arc::new(permit);
        let incarnation = *self.incarnation.borrow();
        let mut appended = Vec::with_capacity(records.len());
        for record in records {
            self.make_room_for(&record).await?;
            let active = self.active.as_mut().expect("there is room in an active file");
            let position = active.push(record, Some(Arc::clone(&permit)));
            let next = active.next;
            self.files.update(active.id, |file| file.assigned = next);
            appended.push(Appended { position, payload_offset: position.offset + HEADER_LEN, incarnation });
        }
        Ok(appended)
    }

    async fn make_room_for(&mut self, prepared: &Prepared) -> Result<(), AppendError> {
        self.check_failure()?;
        let (file_len, room) = (self.directory.config.file_len, prepared.record.room);
        if let Some(active) = self.active.as_ref().filter(|active| active.fits(prepared, file_len)) {
            return if room < active.room { self.open_to(room).await } else { Ok(()) };
        }
        if self.active.is_some() {
            // Before the current file is ended: a refused record must not cost the room of smaller ones.
            let checked = self.directory.check_room(room, self.files.used()).await;
            self.accept_creation(checked)?;
            self.seal().await?;
        }
        self.begin_file(room).await
    }

    /// A file that was begun with the reserve takes other records only when there is room for them again: they would fill
    /// it, and with one after the other all of the reserve.
    async fn open_to(&mut self, room: Room) -> Result<(), AppendError> {
        let checked = self.directory.check_room_beside(room, self.files.used()).await;
        self.accept_creation(checked)?;
        self.active.as_mut().expect("the caller has seen it").room = room;
        Ok(())
    }

    async fn begin_file(&mut self, room: Room) -> Result<(), AppendError> {
        self.await_spare().await;
        let (id, used) = (self.next_id, self.files.used());
        let created = self.directory.create(id, self.previous_end, room, used, &mut self.rng).await;
        let (header, file) = self.accept_creation(created)?;
        self.next_id = id.next();
        let mut active = Active::new(id, Arc::clone(&file), header.generation, 1, FILE_HEADER_LEN);
        active.footer = self.directory.config.footer;
        active.room = room;
        self.active = Some(active);
        let open = OpenFile {
            file,
            generation: Some(header.generation),
            state: FileState::Active,
            assigned: FILE_HEADER_LEN,
            written: FILE_HEADER_LEN,
            room: self.directory.config.file_len,
            trailer: None,
        };
        self.files.insert(id, open);
        Ok(())
    }

    /// A full disk is an answer; a broken one is a failure.
    fn accept_creation<T>(&mut self, created: Result<T, CreateError>) -> Result<T, AppendError> {
        match created {
            Ok(done) => Ok(done),
            Err(CreateError::NoRoom { free, needed }) => Err(AppendError::NoRoom { free, needed }),
            Err(CreateError::TooManyFiles) => Err(AppendError::TooManyFiles),
            Err(CreateError::Disk(error)) => Err(AppendError::Failed { source: self.fail(error) }),
        }
    }

    async fn seal(&mut self) -> Result<Option<FileId>, AppendError> {
        self.settle().await.map_err(|source| AppendError::Failed { source })?;
        let Some(active) = &self.active else { return Ok(None) };
        let (id, end) = (active.id, active.next);
        match self.write_footer().await {
            Ok(room) => self.files.update(id, |file| {
                (file.state, file.written, file.assigned, file.room) = (FileState::Sealed, end, end, room);
            }),
            Err(error) => return Err(AppendError::Failed { source: self.fail(error) }),
        }
        self.active = None;
        self.state.mark_due = None;
        self.previous_end = Some(Position { file: id, offset: end });
        Ok(Some(id))
    }

    /// Ends the settled active file; returns the bytes it takes from here on.
    async fn write_footer(&mut self) -> io::Result<u64> {
        let active = self.active.as_ref().expect("only an active file is sealed");
        let mut end = active.next;
        if active.footer == Footer::Index {
            let footer = footer::encode(active.id, active.generation, end, &active.entries);
            let footer_len = footer.len() as u64;
            match active.file.write_at(end, vec![Bytes::from(footer)], Durability::Buffered).await {
                Ok(()) => end += footer_len,
                // An index is worth nothing that a full disk should fail for: the headers can be read instead.
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match self.directory.config.style {
            FileStyle::ZeroFilled => return Ok(self.directory.config.file_len),
            // Gives back the room that was reserved and not used.
            FileStyle::Allocated => active.file.truncate(end).await?,
        }
        active.file.sync_data().await?;
        Ok(end)
    }

    async fn drop_file(&mut self, id: FileId, fate: Fate) -> Result<(), ReadError> {
        let open = self.files.find_sealed(id)?;
        let disk_error = |source| ReadError::Disk { file: id, source };
        if id.next() == self.next_id && self.active.is_none() {
            // Numbers are never used again, and the highest file is where the next number is known from.
            self.check_failure().map_err(|error| disk_error(io::Error::other(error)))?;
            let begun = self.begin_file(Room::All).await;
            begun.map_err(|error| disk_error(io::Error::other(error)))?;
        }
        match fate {
            Fate::Remove => self.directory.remove(id).await.map_err(disk_error)?,
            Fate::Recycle => self.directory.recycle(id, &*open.file).await.map_err(disk_error)?,
        }
        self.files.remove(id);
        Ok(())
    }

    async fn usage(&mut self) -> Result<Usage, ReadError> {
        let used = self.files.used();
        let free = self.directory.free(used).await;
        let free = free.map_err(|source| ReadError::Disk { file: FileId(0), source })?;
        let total = self.directory.config.capacity.unwrap_or(used + free).min(used + free);
        Ok(Usage { total, used, free: free.saturating_sub(self.directory.config.reserve) })
    }

    fn wait(&mut self, of: Option<Appended>, reply: oneshot::Sender<Result<Synced, SyncError>>) {
        let incarnation = *self.incarnation.borrow();
        if let Some(of) = of.filter(|of| of.incarnation != incarnation) {
            return drop(reply.send(Err(SyncError::Lost { position: of.position })));
        }
        if let Some(source) = &self.state.failure {
            return drop(reply.send(Err(SyncError::Failed { source: Arc::clone(source) })));
        }
        // What is in an earlier file has been synced with it. A record is synced when any byte of it is.
        let upto = match (&self.active, of) {
            (None, _) => 0,
            (Some(active), Some(of)) if of.position.file == active.id => of.position.offset + 1,
            (Some(_), Some(_)) => 0,
            (Some(active), None) => active.next,
        };
        self.state.waiters.push(Waiter { upto, reply: Some(reply) });
        self.answer_waiters();
    }

    fn answer_waiters(&mut self) {
        let incarnation = *self.incarnation.borrow();
        let (until, synced) = match &self.active {
            Some(active) => (Position { file: active.id, offset: active.synced }, active.synced),
            None => (self.previous_end.unwrap_or_default(), u64::MAX),
        };
        let waiters = std::mem::take(&mut self.state.waiters);
        for waiter in waiters {
            if waiter.upto > synced {
                self.state.waiters.push(waiter);
            } else if let Some(reply) = waiter.reply {
                drop(reply.send(Ok(Synced { until, incarnation })));
            }
        }
    }

    fn start_io(&mut self) {
        let state = &mut self.state;
        let Some(active) = self.active.as_mut().filter(|_| state.failure.is_none()) else { return };
        if state.write.is_none()
            && let Some(batch) = active.take_batch()
        {
            let awaited = state.waiters.iter().any(|waiter| waiter.upto <= batch.end);
            let short = batch.end - batch.offset <= SYNCED_WRITE_LEN_MAX;
            state.write_syncs = awaited && short && state.sync.is_none();
            state.write = Some(write(active, batch, state.write_syncs));
        }
        let (synced, written) = (active.synced, active.written);
        let wanted = state.waiters.iter().any(|waiter| waiter.upto > synced && waiter.upto <= written);
        if wanted && state.sync.is_none() && !state.write_syncs {
            let done = active.file.sync_data();
            state.sync = Some(Box::pin(async move { SyncDone { upto: written, result: done.await } }));
        }
    }

    fn handle_written(&mut self, done: WriteDone) {
        self.state.write_syncs = false;
        if self.state.failure.is_some() {
            return;
        }
        if let Err(error) = done.result {
            self.fail(error);
            return;
        }
        let active = self.active.as_mut().expect("a write belongs to the active file");
        active.written = done.end;
        self.files.update(active.id, |file| file.written = done.end);
        if done.durability == Durability::Synced {
            self.advance_synced(done.end);
        }
    }

    fn handle_synced(&mut self, done: SyncDone) {
        if self.state.failure.is_some() {
            return;
        }
        match done.result {
            Ok(()) => self.advance_synced(done.upto),
            Err(error) => drop(self.fail(error)),
        }
    }

    fn advance_synced(&mut self, upto: u64) {
        let active = self.active.as_mut().expect("a sync belongs to the active file");
        active.synced = active.synced.max(upto);
        self.answer_waiters();
        self.plan_mark();
    }

    fn plan_mark(&mut self) {
        let needed = self.active.as_ref().is_some_and(Active::needs_mark);
        if needed && self.state.mark_due.is_none() {
            self.state.mark_due = Some(Instant::now() + self.directory.config.mark_delay);
        }
    }

    fn handle_mark_due(&mut self) {
        self.state.mark_due = None;
        let Some(active) = self.active.as_mut().filter(|_| self.state.failure.is_none()) else { return };
        // While more is on its way, its records carry the mark; their sync plans the next look.
        let full = active.next + HEADER_LEN > self.directory.config.file_len;
        if active.needs_mark() && active.is_settled() && !full {
            active.push_mark();
            let next = active.next;
            self.files.update(active.id, |file| file.assigned = next);
            self.state.waiters.push(Waiter { upto: next, reply: None });
        }
    }

    /// Waits until everything is written and synced.
    async fn settle(&mut self) -> Result<(), Arc<io::Error>> {
        loop {
            if let Some(source) = &self.state.failure {
                return Err(Arc::clone(source));
            }
            let idle = self.state.write.is_none() && self.state.sync.is_none();
            let Some(active) = self.active.as_ref().filter(|active| !(idle && active.is_settled())) else {
                return Ok(());
            };
            let upto = active.next;
            if !active.is_settled() && !self.state.waiters.iter().any(|waiter| waiter.upto == upto) {
                self.state.waiters.push(Waiter { upto, reply: None });
            }
            self.start_io();
            self.await_io().await;
        }
    }

    /// Waits for one of the operations under way.
    async fn await_io(&mut self) {
        tokio::select! {
            biased;
            done = finished(&mut self.state.write) => self.handle_written(done),
            done = finished(&mut self.state.sync) => self.handle_synced(done),
        }
    }

    /// Leaves a file whose end is marked, so that the next open has nothing to verify.
    async fn finish(&mut self) -> Result<(), SyncError> {
        for _ in 0..2 {
            self.settle().await.map_err(|source| SyncError::Failed { source })?;
            self.handle_mark_due();
        }
        self.settle().await.map_err(|source| SyncError::Failed { source })
    }

    fn check_failure(&self) -> Result<(), AppendError> {
        match &self.state.failure {
            Some(source) => Err(AppendError::Failed { source: Arc::clone(source) }),
            None => Ok(()),
        }
    }

    /// From here on nothing is believed but what was synced before.
    fn fail(&mut self, error: io::Error) -> Arc<io::Error> {
        error!(dir = %self.directory.path.display(), %error, "a log failed and must be reopened");
        let source = Arc::new(error);
        self.state.failure = Some(Arc::clone(&source));
        self.state.mark_due = None;
        for waiter in std::mem::take(&mut self.state.waiters) {
            if let Some(reply) = waiter.reply {
                drop(reply.send(Err(SyncError::Failed { source: Arc::clone(&source) })));
            }
        }
        if let Some(active) = &mut self.active {
            active.clear_queue();
            let synced = active.synced;
            self.files.update(active.id, |file| (file.assigned, file.written) = (synced, synced));
        }
        source
    }
}

fn write(active: &Active, batch: Batch, syncs: bool) -> BoxFuture<'static, WriteDone> {
    let Batch { offset, end, parts, permits } = batch;
    let durability = if syncs { Durability::Synced } else { Durability::Buffered };
    let done = active.file.write_at(offset, parts, durability);
    Box::pin(async move { WriteDone { end, durability, result: done.await, _permits: permits } })
}

/// The outcome of what is under way, taken out; pending for ever if nothing is.
async fn finished<T>(under_way: &mut Option<BoxFuture<'static, T>>) -> T {
    match under_way {
        None => std::future::pending().await,
        Some(future) => {
            let done = future.await;
            *under_way = None;
            done
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
