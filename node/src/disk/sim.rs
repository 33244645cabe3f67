//! A disk in memory that loses what a power cut would lose, and fails as real ones fail.
//!
//! No threads, no real waiting: an operation takes effect when its future is first polled, or after some virtual time
//! if [`SimOptions::latency_max`] is not zero. All choices come from the seed.
//!
//! # Invariants
//! - [`SimDisk::power_cycle`] keeps what was synced and any subset, sector by sector, of what was not.
//! - A failed sync keeps any subset of what it should have written and forgets that the rest was ever dirty: reads go on
//!   showing it, a later sync succeeds, and the next power cut takes it (as Linux does).
//! - A name that was not synced with its directory may be lost; names of one directory are lost from the newest on.
//! - Handles from before a power cut answer only with errors.

mod content;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::sleep;

use self::content::Change;
use self::state::{InodeId, Op, State};
use super::{DirLock, Disk, DiskFile, DiskFuture, Durability, LockError, OpenMode, Space};

/// How a [`SimDisk`] behaves.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Seed of all its choices.
    pub seed: u64,
    /// Bytes that fit, reserved ones included.
    pub capacity: u64,
    /// Writes, reads and syncs take up to this long, in the runtime's (virtual) time. Zero: they take effect at once.
    pub latency_max: Duration,
}

/// Something to go wrong once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SimFault {
    /// The next sync of a file fails, and loses some or all of what it should have written.
    NextSync,
    /// The next write fails, perhaps half done.
    NextWrite,
    /// The next read fails.
    NextRead,
}

/// A disk in memory; clones share it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    /// Of the process that uses this clone; `None` for one that outlives them.
    boot: Option<u64>,
    /// Guards everything; never held across an await.
    state: Arc<Mutex<State>>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self { seed: 0, capacity: 64 << 30, latency_max: Duration::ZERO }
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new(options: SimOptions) -> Self {
        Self { boot: None, state: Arc::new(Mutex::new(State::new(options))) }
    }

    /// The disk as one process sees it: dead after the next [`SimDisk::kill`] or [`SimDisk::power_cycle`], so that
    /// tasks of a node that was "killed" cannot go on writing.
    pub fn process(&self) -> Arc<dyn Disk> {
        let boot = Some(self.state.lock().boot);
        Arc::new(Self { boot, state: Arc::clone(&self.state) })
    }

    /// Kills every process that uses the disk: handles are dead and locks are free, but the page cache stays.
    pub fn kill(&self) {
        self.state.lock().kill();
    }

    /// Cuts the power and restores it: what was not synced may be lost or torn, locks are free, old handles are dead.
    pub fn power_cycle(&self) {
        self.state.lock().power_cycle();
    }

    /// Lets `ops` more writes, syncs and changes of names happen, then cuts the power: everything fails until
    /// [`SimDisk::power_cycle`]. A sync or a write that the cut meets may be half done.
    pub fn cut_power_after(&self, ops: u64) {
        self.state.lock().ops_left = Some(ops);
    }

    /// Whether the power is out, see [`SimDisk::cut_power_after`].
    pub fn is_powered(&self) -> bool {
        self.state.lock().is_powered()
    }

    /// Makes one operation fail.
    pub fn inject(&self, fault: SimFault) {
        self.state.lock().faults.push(fault);
    }

    /// Makes one in `one_in` reads, writes and syncs fail at random; 0 stops it.
    pub fn fail_one_in(&self, one_in: u32) {
        self.state.lock().fail_one_in = one_in;
    }

    /// Changes how many bytes fit.
    pub fn set_capacity(&self, capacity: u64) {
        self.state.lock().options.capacity = capacity;
    }

    /// Flips one bit of a file, on the medium and in every cache. Panics if the file has no such byte.
    pub fn rot(&self, path: &Path, offset: u64) {
        self.state.lock().rot(path, offset);
    }

    /// Makes the sector around a byte of a file unreadable until it is written again. Panics if there is no such file.
    pub fn break_sector(&self, path: &Path, offset: u64) {
        self.state.lock().break_sector(path, offset);
    }

    /// Paths and lengths of all files.
    pub fn paths(&self) -> Vec<(PathBuf, u64)> {
        self.state.lock().paths()
    }

    /// How many syncs (of files) have been asked for.
    pub fn sync_count(&self) -> u64 {
        self.state.lock().sync_count
    }

    fn run<T: Send + 'static>(&self, job: impl FnOnce(&mut State) -> io::Result<T> + Send + 'static) -> DiskFuture<T> {
        let (state, boot) = (Arc::clone(&self.state), self.boot);
        Box::pin(async move {
            let mut state = state.lock();
            boot.map_or(Ok(()), |boot| state.check_handle(boot))?;
            job(&mut state)
        })
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> DiskFuture<Arc<dyn DiskFile>> {
        let path = path.to_owned();
        let disk = self.clone();
        self.run(move |state| {
            let inode = state.open(&path, mode)?;
            let file: Arc<dyn DiskFile> = Arc::new(SimFile { disk, inode, boot: state.boot });
            Ok(file)
        })
    }

    fn list(&self, dir: &Path) -> DiskFuture<Vec<String>> {
        let dir = dir.to_owned();
        self.run(move |state| state.list(&dir))
    }

    fn create_dir(&self, dir: &Path) -> DiskFuture<()> {
        let dir = dir.to_owned();
        self.run(move |state| state.create_dir(&dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> DiskFuture<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.run(move |state| state.rename(&from, &to))
    }

    fn remove(&self, path: &Path) -> DiskFuture<()> {
        let path = path.to_owned();
        self.run(move |state| state.remove(&path))
    }

    fn sync_dir(&self, dir: &Path) -> DiskFuture<()> {
        let dir = dir.to_owned();
        self.run(move |state| state.sync_dir(&dir))
    }

    fn space(&self, _dir: &Path) -> DiskFuture<Space> {
        self.run(move |state| state.space())
    }

    fn lock_dir(&self, dir: &Path) -> BoxFuture<'static, Result<DirLock, LockError>> {
        let dir = dir.to_owned();
        let disk = self.clone();
        Box::pin(async move {
            let boot = {
                let mut state = disk.state.lock();
                let usable = state.check_handle(disk.boot.unwrap_or(state.boot));
                usable.map_err(|source| LockError::Disk { dir: dir.clone(), source })?;
                if !state.locks.insert(dir.clone()) {
                    return Err(LockError::InUse { dir });
                }
                state.boot
            };
            Ok(DirLock { _holder: Box::new(SimLock { disk, dir, boot }) })
        })
    }
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    dir: PathBuf,
    boot: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.boot == self.boot {
            state.locks.remove(&self.dir);
        }
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: InodeId,
    boot: u64,
}

impl SimFile {
    /// Waits as long as the operation takes, then lets it happen.
    fn run<T: Send + 'static>(
        &self,
        op: Op,
        job: impl FnOnce(&mut State, InodeId) -> io::Result<T> + Send + 'static,
    ) -> DiskFuture<T> {
        let (state, inode, boot) = (Arc::clone(&self.disk.state), self.inode, self.boot);
        Box::pin(async move {
            let latency = state.lock().latency(op);
            if !latency.is_zero() {
                sleep(latency).await;
            }
            let mut state = state.lock();
            state.check_handle(boot)?;
            job(&mut state, inode)
        })
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<Bytes> {
        self.run(Op::Read, move |state, inode| state.read(inode, offset, len))
    }

    fn write_at(&self, offset: u64, parts: Vec<Bytes>, durability: Durability) -> DiskFuture<()> {
        self.run(Op::Write, move |state, inode| {
            state.change(inode, Change::Write { offset, bytes: parts.concat().into() })?;
            match durability {
                Durability::Buffered => Ok(()),
                Durability::Synced => state.sync(inode, state.change_count),
            }
        })
    }

    fn sync_data(&self) -> DiskFuture<()> {
        let (state, inode, boot) = (Arc::clone(&self.disk.state), self.inode, self.boot);
        Box::pin(async move {
            // Writes that arrive while the sync is under way are not covered.
            let (latency, upto) = {
                let mut state = state.lock();
                (state.latency(Op::Sync), state.change_count)
            };
            if !latency.is_zero() {
                sleep(latency).await;
            }
            let mut state = state.lock();
            state.check_handle(boot)?;
            state.sync(inode, upto)
        })
    }

    fn truncate(&self, len: u64) -> DiskFuture<()> {
        self.run(Op::Write, move |state, inode| state.change(inode, Change::Truncate { len }))
    }

    fn allocate(&self, len: u64) -> DiskFuture<()> {
        self.run(Op::Write, move |state, inode| state.allocate(inode, len))
    }

    fn zero_fill(&self, offset: u64, len: u64) -> DiskFuture<()> {
        self.run(Op::Write, move |state, inode| state.change(inode, Change::Zero { offset, len }))
    }

    fn length(&self) -> DiskFuture<u64> {
        self.run(Op::Read, move |state, inode| Ok(state.len(inode)))
    }
}
