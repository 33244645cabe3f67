//! Bytes written: they lie here, under an exclusive lease, until they are committed.

use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use wire::namespace::{FILE_LEN_MAX, Inode, OpError, SetId};

use super::{
    FileSystem, FsError, Gate, OP_DEADLINE, Shared,
    file::{Base, FileState},
    open_files::{HandleId, OpenFile},
};
use crate::cluster::{now, pool_units};

/// For how long memory is not waited for after bytes found no room in the cluster: they are tried again sooner.
const NO_ROOM_FOR: Duration = Duration::from_secs(5);

/// Where a write comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WriteKind {
    /// From `write`.
    Plain,
    /// From the kernel's pages, which somebody changed through a mapping.
    Mapped,
}

/// How a write from a program is to be made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct WriteMode {
    /// It goes to the end, wherever that is.
    pub append: bool,
    /// It is durable when it returns.
    pub synced: bool,
}

/// A write.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Through which handle.
    pub handle: HandleId,
    /// Where, unless it appends.
    pub offset: u64,
    /// What.
    pub data: &'a [u8],
    /// From where.
    pub kind: WriteKind,
    /// How. Programs change that while a file is open (`fcntl`), and for single writes (`pwritev2`).
    pub mode: WriteMode,
    /// Set-id bits.
    pub set_id: SetId,
}

impl FileSystem {
    /// Takes in a write if nothing has to be asked or waited for first; how many bytes.
    pub fn write_cached(&self, gate: &Gate<'_>, write: Write<'_>) -> Option<Result<u32, FsError>> {
        let open = match self.shared.file_of(write.handle) {
            Ok(open) => open,
            Err(error) => return Some(Err(error)),
        };
        if write.mode.synced {
            return None;
        }
        let room = self.shared.room_now(write.data.len())?;
        self.take_in(gate, &open, write, room)
    }

    /// Takes in a write.
    pub async fn write(&self, write: Write<'_>) -> Result<u32, FsError> {
        let open = self.shared.file_of(write.handle)?;
        let waiting = (write.kind == WriteKind::Plain).then(|| Waiting::begin(&self.shared, open.file.inode));
        let mut written = None;
        let until = tokio::time::Instant::now() + OP_DEADLINE;
        while tokio::time::Instant::now() < until {
            if write.kind == WriteKind::Plain {
                self.shared.wait_settled(open.file.inode).await;
                self.shared.make_exclusive(open.file.inode).await?;
            }
            let room = self.shared.room(write.data.len()).await?;
            written = {
                let gate = self.gate();
                self.take_in(&gate, &open, write, room)
            };
            if written.is_some() {
                break;
            }
        }
        drop(waiting);
        let count = written.ok_or(FsError::Deadline)??;
        if write.mode.synced {
            self.shared.flush(&open.file).await?;
            // What was written may have been handed in for a name already.
            self.shared.commit_deferred().await?;
            report(&open)?;
        }
        Ok(count)
    }

    /// None if the lease does not allow it at this moment.
    fn take_in(
        &self,
        _gate: &Gate<'_>,
        open: &OpenFile,
        write: Write<'_>,
        room: OwnedSemaphorePermit,
    ) -> Option<Result<u32, FsError>> {
        if let Err(error) = open.check() {
            return Some(Err(error));
        }
        let lasting = self.shared.ttl().is_some();
        let exclusive = |node: &super::table::Node| {
            let held = node.lease == Some(wire::lease::LeaseMode::Exclusive);
            held && lasting && !node.is_closed()
        };
        let ((attr, base), mut state) = self.shared.look(&open.file, |node| {
            let attr = node.attr.filter(|_| exclusive(node));
            match write.kind {
                WriteKind::Plain => Some((Some(attr?), node.base())),
                // A page that is given back must not wait for the lease that it is given back for.
                WriteKind::Mapped => Some((attr, node.base_of_page())),
            }
        })?;
        if state.has_news() && !may_join(&state, write.kind, base) {
            // What is here was overtaken; what comes now is not.
            state.drop_news();
            state.fail(FsError::Overtaken);
            self.shared.drop_pages_soon(open.file.inode);
        } else if write.kind == WriteKind::Mapped && state.has_news() && is_overtaken_page(&state, base) {
            state.fail(FsError::Overtaken);
            self.shared.drop_pages_soon(open.file.inode);
            return Some(Ok(u32::try_from(write.data.len()).expect("a write is at most some megabytes")));
        }
        // Its writer would go on as if all were stored.
        if write.kind == WriteKind::Plain
            && let Some(error) = state.without_room()
        {
            return Some(Err(error));
        }
        let offset = match (write.mode.append && write.kind == WriteKind::Plain, &attr) {
            (true, Some(attr)) => state.size(attr),
            _ => write.offset,
        };
        let end = offset.checked_add(write.data.len() as u64).filter(|end| *end <= FILE_LEN_MAX);
        if end.is_none() {
            return Some(Err(OpError::FileTooLarge.into()));
        }
        if state.dirty.is_empty() && state.flushing.is_empty() {
            state.base = base;
        }
        let is_due = state.write(offset, write.data, now(), (self.shared.config.wall_clock)(), write.set_id);
        match &mut state.room {
            Some(held) => held.merge(room),
            None => state.room = Some(room),
        }
        drop(state);
        if offset != write.offset {
            // The kernel has put the bytes into the page of its own offset.
            self.shared.drop_pages_soon(open.file.inode);
        }
        if is_due {
            self.write_out_full(&open.file);
        }
        Some(Ok(u32::try_from(write.data.len()).expect("a write is at most some megabytes")))
    }

    /// Makes everything written to a file durable; reports what went wrong since the last time.
    pub async fn sync(&self, handle: HandleId) -> Result<(), FsError> {
        let open = self.shared.file_of(handle)?;
        let flushed = self.shared.flush(&open.file).await;
        let committed = self.shared.commit_deferred().await;
        let named = self.shared.take_failure(open.file.inode).map_or(Ok(()), Err);
        report(&open).and(flushed).and(committed).and(named)
    }

    /// Whether bytes lie here that came through a mapping, without the lease that keeps others from reading old ones: such
    /// a page must not wait for a lease, so whoever closes the file does.
    pub fn has_unleased_bytes(&self, handle: HandleId) -> bool {
        let is_leased = |inode| {
            // Not for how long: what is written under a lease that has run out is stored when the cluster is back.
            let table = self.shared.table.lock();
            table.get(inode).is_some_and(|node| node.lease == Some(wire::lease::LeaseMode::Exclusive))
        };
        let open = self.shared.file_of(handle);
        open.is_ok_and(|open| open.file.is_dirty() && !is_leased(open.file.inode))
    }

    /// Commits what is written to a file.
    pub async fn store(&self, handle: HandleId) -> Result<(), FsError> {
        let open = self.shared.file_of(handle)?;
        self.shared.flush(&open.file).await
    }

    /// A descriptor of a handle is being closed: what went wrong with deferred writes since it was opened and was not
    /// reported. It stays to be reported: other descriptors, and other processes, may still ask for it by `fsync`.
    pub fn deferred_error(&self, handle: HandleId) -> Result<(), FsError> {
        let open = self.shared.file_of(handle)?;
        let reported = open.reported.load(std::sync::atomic::Ordering::Acquire);
        let state = open.file.state.lock();
        let failed = state.error.clone().filter(|_| state.failures > reported.max(open.since));
        failed.or_else(|| state.without_room()).map_or(Ok(()), Err)
    }
}

/// Whether a write of a program may lie beside what is written already: not beside what somebody else has written over
/// since, which goes with all that lies beside it.
fn may_join(state: &FileState, kind: WriteKind, base: Option<Base>) -> bool {
    let (Some(now), Some(before)) = (base, state.base) else { return true };
    kind == WriteKind::Mapped
        || !state.flushing.is_empty()
        || before.losses == now.losses
        || before.version == now.version
}

/// Whether a page is of before the lease was lost, and what lies here rests on what somebody else has written since.
fn is_overtaken_page(state: &FileState, page: Option<Base>) -> bool {
    let is_older = |(page, here): (Base, Base)| page.losses == u64::MAX && page.version < here.version;
    page.zip(state.base).is_some_and(is_older)
}

impl Shared {
    /// Bytes of a file could not be stored for want of room in the cluster.
    pub(super) fn note_no_room(&self, error: &FsError) {
        *self.no_room.lock() = Some((now() + NO_ROOM_FOR, error.clone()));
    }

    /// Bytes of a file have been stored: there is room again, or for others.
    pub(super) fn note_room(&self) {
        *self.no_room.lock() = None;
    }

    /// Whether bytes found no room a moment ago: then memory that they fill is not waited for.
    fn no_room_lately(&self) -> Option<FsError> {
        self.no_room.lock().as_ref().filter(|(until, _)| now() < *until).map(|(_, error)| error.clone())
    }

    fn room_now(&self, len: usize) -> Option<OwnedSemaphorePermit> {
        let pool = std::sync::Arc::clone(&self.dirty_pool);
        pool.try_acquire_many_owned(pool_units(len as u64)).ok()
    }

    /// Waits for memory; what is dirty is written out meanwhile.
    async fn room(&self, len: usize) -> Result<OwnedSemaphorePermit, FsError> {
        if let Some(room) = self.room_now(len) {
            return Ok(room);
        }
        let pool = std::sync::Arc::clone(&self.dirty_pool);
        let waiting = pool.acquire_many_owned(pool_units(len as u64));
        tokio::pin!(waiting);
        let until = tokio::time::Instant::now() + OP_DEADLINE;
        loop {
            self.pressure.notify_one();
            if let Some(error) = self.no_room_lately() {
                return Err(error);
            }
            match tokio::time::timeout(Duration::from_millis(100), &mut waiting).await {
                Ok(room) => return room.map_err(|_| FsError::Deadline),
                Err(_) if tokio::time::Instant::now() >= until => return Err(FsError::Deadline),
                Err(_) => {}
            }
        }
    }
}

/// A write waits until this is dropped.
struct Waiting<'a> {
    shared: &'a Shared,
    inode: Inode,
}

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared, inode: Inode) -> Self {
        shared.table.lock().entry(inode).writes_waiting += 1;
        Self { shared, inode }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut table = self.shared.table.lock();
        if let Some(node) = table.get_mut(self.inode) {
            node.writes_waiting = node.writes_waiting.saturating_sub(1);
        }
    }
}

/// What went wrong with deferred writes and was not reported by this handle.
fn report(open: &OpenFile) -> Result<(), FsError> {
    let mut state = open.file.state.lock();
    state.reported = state.failures;
    let reported = open.reported.swap(state.failures, std::sync::atomic::Ordering::AcqRel);
    match &state.error {
        Some(error) if reported < state.failures => Err(error.clone()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use wire::namespace::{SetId, Timestamp};

    use super::{Base, FileState, WriteKind, is_overtaken_page, may_join};

    /// Bytes that were written on a version, under a lease that had been lost so often before.
    fn written(version: u64, losses: u64) -> FileState {
        let mut state = FileState::default();
        state.write(0, b"bytes", std::time::Instant::now(), Timestamp::new(0, 0).unwrap(), SetId::Keep);
        state.base = Some(Base { version, losses });
        state
    }

    #[test]
    fn what_somebody_else_has_written_over_takes_no_later_write_with_it() {
        let base = |version, losses| Some(Base { version, losses });
        let state = written(3, 0);
        assert!(may_join(&state, WriteKind::Plain, base(5, 0)), "our own newer version");
        assert!(may_join(&state, WriteKind::Plain, base(3, 1)), "the lease was lost, and nobody wrote");
        assert!(!may_join(&state, WriteKind::Plain, base(4, 1)), "somebody wrote");
        assert!(may_join(&state, WriteKind::Mapped, base(4, 1)), "a page rests on what it rests on");
        assert!(may_join(&state, WriteKind::Plain, None));
    }

    #[test]
    fn a_page_of_before_the_lease_was_lost_lies_beside_nothing_that_rests_on_what_came_after() {
        let page = |version| Some(Base { version, losses: u64::MAX });
        assert!(is_overtaken_page(&written(4, 1), page(3)));
        assert!(!is_overtaken_page(&written(4, 1), page(4)), "nobody has written since");
        assert!(!is_overtaken_page(&written(3, 0), page(4)), "our own newer version");
        assert!(!is_overtaken_page(&written(4, 1), Some(Base { version: 3, losses: 1 })));
    }
}
