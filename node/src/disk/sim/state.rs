//! The simulated medium, its page cache, and the dice. Pure: time passes outside.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::{OpenMode, Space};
use super::content::{Change, Content, PAGE_LEN, SECTOR_LEN, Survival};
use super::{SimFault, SimOptions};

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct InodeId(u64);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Op {
    Read,
    Write,
    Sync,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) options: SimOptions,
    pub(super) rng: StdRng,
    /// Rises with each power cut; handles of an earlier one are dead.
    pub(super) boot: u64,
    /// Changes so far: gives each its number.
    pub(super) change_count: u64,
    pub(super) sync_count: u64,
    pub(super) faults: Vec<SimFault>,
    pub(super) fail_one_in: u32,
    pub(super) ops_left: Option<u64>,
    pub(super) locks: BTreeSet<PathBuf>,
    inode_count: u64,
    inodes: BTreeMap<InodeId, Inode>,
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, InodeId>,
    names_durable: BTreeMap<PathBuf, InodeId>,
    /// By directory, in order.
    names_pending: BTreeMap<PathBuf, Vec<NameChange>>,
}

#[derive(Debug, Default)]
struct Inode {
    /// What reads show.
    cached: Content,
    /// What a power cut leaves.
    durable: Content,
    /// Between the two, numbered, in order.
    pending: Vec<(u64, Change)>,
    reserved: u64,
    /// Numbers of sectors that cannot be read.
    broken: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link { path: PathBuf, inode: InodeId },
    Unlink { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
}

impl Inode {
    fn used(&self) -> u64 {
        self.reserved.max(self.cached.page_count() * PAGE_LEN)
    }
}

impl State {
    pub(super) fn new(options: SimOptions) -> Self {
        Self {
            rng: StdRng::seed_from_u64(options.seed),
            options,
            boot: 0,
            change_count: 0,
            sync_count: 0,
            faults: Vec::new(),
            fail_one_in: 0,
            ops_left: None,
            locks: BTreeSet::new(),
            inode_count: 0,
            inodes: BTreeMap::new(),
            dirs: BTreeSet::new(),
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            names_pending: BTreeMap::new(),
        }
    }

    pub(super) fn kill(&mut self) {
        self.boot += 1;
        self.faults.clear();
        self.locks.clear();
    }

    pub(super) fn power_cycle(&mut self) {
        self.kill();
        self.ops_left = None;
        for changes in std::mem::take(&mut self.names_pending).into_values() {
            let kept = self.rng.random_range(0..=changes.len());
            for change in &changes[..kept] {
                change.apply(&mut self.names_durable);
            }
        }
        self.names = self.names_durable.clone();
        let named: BTreeSet<InodeId> = self.names.values().copied().collect();
        self.inodes.retain(|id, _| named.contains(id));
        for inode in self.inodes.values_mut() {
            let survival = Survival::choose(&mut self.rng);
            for (_, change) in std::mem::take(&mut inode.pending) {
                inode.durable.apply_some(&change, survival, &mut self.rng);
            }
            inode.cached = inode.durable.clone();
        }
    }

    pub(super) fn is_powered(&self) -> bool {
        self.ops_left != Some(0)
    }

    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.is_powered() { Ok(()) } else { Err(io::Error::other("the power is out")) }
    }

    pub(super) fn check_handle(&self, boot: u64) -> io::Result<()> {
        self.check_power()?;
        if self.boot == boot { Ok(()) } else { Err(io::Error::other("a handle from before the power cut")) }
    }

    /// Counts a change; says whether the power goes while it happens.
    fn step(&mut self) -> io::Result<Step> {
        self.check_power()?;
        match &mut self.ops_left {
            None => Ok(Step::Whole),
            Some(left) => {
                *left -= 1;
                Ok(if *left == 0 { Step::Cut } else { Step::Whole })
            }
        }
    }

    fn fails(&mut self, fault: SimFault) -> bool {
        if let Some(at) = self.faults.iter().position(|planned| *planned == fault) {
            self.faults.remove(at);
            return true;
        }
        self.fail_one_in > 0 && self.rng.random_range(0..self.fail_one_in) == 0
    }

    pub(super) fn latency(&mut self, op: Op) -> Duration {
        let most = match op {
            Op::Read | Op::Write => self.options.latency_max / 4,
            Op::Sync => self.options.latency_max,
        };
        if most.is_zero() { most } else { self.rng.random_range(Duration::ZERO..=most) }
    }

    pub(super) fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<InodeId> {
        self.check_power()?;
        match (mode, self.names.get(path).copied()) {
            (OpenMode::Existing, Some(inode)) => Ok(inode),
            (OpenMode::Existing, None) => Err(io::ErrorKind::NotFound.into()),
            (OpenMode::CreateNew, Some(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::CreateNew, None) => {
                let inode = InodeId(self.inode_count);
                self.change_name(path, NameChange::Link { path: path.to_owned(), inode })?;
                self.inode_count += 1;
                self.inodes.insert(inode, Inode::default());
                Ok(inode)
            }
        }
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.check_power()?;
        self.check_dir(dir)?;
        let files = self.names.keys().map(PathBuf::as_path);
        let dirs = self.dirs.iter().map(PathBuf::as_path);
        let mut names: Vec<String> = files
            .chain(dirs)
            .filter(|path| path.parent() == Some(dir))
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    pub(super) fn create_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.step()?;
        self.dirs.extend(dir.ancestors().map(Path::to_owned));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        assert_eq!(from.parent(), to.parent(), "the simulated disk renames within a directory only");
        self.check_power()?;
        if !self.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change_name(from, NameChange::Rename { from: from.to_owned(), to: to.to_owned() })
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.check_power()?;
        if !self.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change_name(path, NameChange::Unlink { path: path.to_owned() })
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        self.check_dir(dir)?;
        let step = self.step()?;
        let mut changes = self.names_pending.remove(dir).unwrap_or_default();
        if step == Step::Cut {
            changes.truncate(self.rng.random_range(0..=changes.len()));
        }
        for change in &changes {
            change.apply(&mut self.names_durable);
        }
        step.finish()
    }

    fn check_dir(&self, dir: &Path) -> io::Result<()> {
        if self.dirs.contains(dir) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn change_name(&mut self, path: &Path, change: NameChange) -> io::Result<()> {
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        self.check_dir(&dir)?;
        let step = self.step()?;
        change.apply(&mut self.names);
        self.names_pending.entry(dir).or_default().push(change);
        step.finish()
    }

    pub(super) fn space(&self) -> io::Result<Space> {
        self.check_power()?;
        let total = self.options.capacity;
        Ok(Space { total, free: total.saturating_sub(self.used()) })
    }

    /// Files that were removed count while a handle may be open: as long as their names could come back.
    fn used(&self) -> u64 {
        let named: BTreeSet<InodeId> = self.names.values().copied().collect();
        self.inodes.iter().filter(|(id, _)| named.contains(id)).map(|(_, inode)| inode.used()).sum()
    }

    fn inode(&mut self, id: InodeId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("a live handle has an inode")
    }

    pub(super) fn read(&mut self, id: InodeId, offset: u64, len: usize) -> io::Result<Bytes> {
        if self.fails(SimFault::NextRead) {
            return Err(medium_error());
        }
        let inode = self.inode(id);
        let sectors = offset / SECTOR_LEN..(offset + len as u64).div_ceil(SECTOR_LEN);
        if inode.broken.range(sectors).next().is_some() {
            return Err(medium_error());
        }
        Ok(inode.cached.read(offset, len).into())
    }

    pub(super) fn len(&mut self, id: InodeId) -> u64 {
        self.inode(id).cached.len
    }

    pub(super) fn allocate(&mut self, id: InodeId, len: u64) -> io::Result<()> {
        let step = self.step()?;
        let grows = len.saturating_sub(self.inode(id).used());
        if self.used() + grows > self.options.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = self.inode(id);
        inode.reserved = inode.reserved.max(len);
        step.finish()
    }

    pub(super) fn change(&mut self, id: InodeId, change: Change) -> io::Result<()> {
        if self.fails(SimFault::NextWrite) {
            self.change_partly(id, &change);
            return Err(medium_error());
        }
        let step = self.step()?;
        if step == Step::Cut {
            self.change_partly(id, &change);
            return step.finish();
        }
        let (reserved, new_pages) = match &change {
            Change::Zero { offset, len } => (offset + len, 0),
            Change::Write { offset, bytes } => (0, self.inode(id).cached.pages_missing(*offset, bytes.len() as u64)),
            Change::Truncate { .. } => (0, 0),
        };
        let inode = self.inode(id);
        let before = inode.used();
        let after = inode.reserved.max(reserved).max((inode.cached.page_count() + new_pages) * PAGE_LEN);
        if after > before && self.used() + (after - before) > self.options.capacity {
            self.change_partly(id, &change);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.change_count += 1;
        let number = self.change_count;
        let inode = self.inode(id);
        inode.cached.apply(&change);
        if let Change::Write { offset, bytes } = &change {
            let end = (offset + bytes.len() as u64).div_ceil(SECTOR_LEN);
            inode.broken.retain(|sector| !(offset / SECTOR_LEN..end).contains(sector));
        }
        inode.reserved = inode.reserved.max(reserved);
        if let Change::Truncate { len } = change {
            inode.reserved = inode.reserved.min(len);
        }
        inode.pending.push((number, change));
        Ok(())
    }

    /// What a write that failed half way leaves: its beginning, if the page cache had room for it.
    fn change_partly(&mut self, id: InodeId, change: &Change) {
        if let Change::Write { offset, bytes } = change {
            let kept = self.rng.random_range(0..=bytes.len());
            let part = Change::Write { offset: *offset, bytes: bytes.slice(..kept) };
            self.change_count += 1;
            let number = self.change_count;
            let inode = self.inode(id);
            inode.cached.apply(&part);
            inode.pending.push((number, part));
        }
    }

    /// Makes the changes up to number `upto` durable.
    pub(super) fn sync(&mut self, id: InodeId, upto: u64) -> io::Result<()> {
        self.sync_count += 1;
        let step = self.step()?;
        let failed = step == Step::Cut || self.fails(SimFault::NextSync);
        let inode = self.inodes.get_mut(&id).expect("a live handle has an inode");
        let (covered, later) = std::mem::take(&mut inode.pending).into_iter().partition(|(number, _)| *number <= upto);
        inode.pending = later;
        let covered: Vec<(u64, Change)> = covered;
        if !failed {
            for (_, change) in &covered {
                inode.durable.apply(change);
            }
            return Ok(());
        }
        let survival = Survival::choose(&mut self.rng);
        for (_, change) in &covered {
            inode.durable.apply_some(change, survival, &mut self.rng);
        }
        Err(medium_error())
    }

    pub(super) fn rot(&mut self, path: &Path, offset: u64) {
        let id = *self.names.get(path).expect("only a file can rot");
        let bit = 1 << self.rng.random_range(0..8);
        let inode = self.inode(id);
        for content in [&mut inode.cached, &mut inode.durable] {
            if let Some(byte) = content.read(offset, 1).first() {
                content.write(offset, &[byte ^ bit]);
            }
        }
    }

    pub(super) fn break_sector(&mut self, path: &Path, offset: u64) {
        let id = *self.names.get(path).expect("only a file has sectors");
        self.inode(id).broken.insert(offset / SECTOR_LEN);
    }

    pub(super) fn paths(&self) -> Vec<(PathBuf, u64)> {
        self.names.iter().map(|(path, id)| (path.clone(), self.inodes[id].cached.len)).collect()
    }
}

/// Whether the power goes while an operation happens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Whole,
    Cut,
}

impl Step {
    fn finish(self) -> io::Result<()> {
        match self {
            Self::Whole => Ok(()),
            Self::Cut => Err(io::Error::other("the power went out")),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, InodeId>) {
        match self {
            Self::Link { path, inode } => drop(names.insert(path.clone(), *inode)),
            Self::Unlink { path } => drop(names.remove(path)),
            Self::Rename { from, to } => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

fn medium_error() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}
