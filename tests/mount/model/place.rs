//! Where operations are carried out, and what is seen of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, XattrFlags, copy_file_range, fallocate, futimens,
    getxattr, listxattr, removexattr, renameat_with, setxattr, utimensat,
};

use super::operation::{Allocation, HANDLES, Operation, Renaming, Setting};

/// Times before it were set, later ones are of the clock.
const CLOCK_FROM: i64 = 1_000_000_000;

/// Which of the two a place is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// On the mount.
    Ours,
    /// On the local disk, which says what is right.
    Model,
}

/// A directory, and files open in it.
pub(crate) struct Place {
    side: Side,
    pub(crate) root: PathBuf,
    handles: [Option<File>; HANDLES],
    next: usize,
}

/// What a program sees of an operation.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Seen {
    Errno(i32),
    /// No file is open there.
    NotOpen,
    Done,
    Bytes(Vec<u8>),
    Names(Vec<Vec<u8>>),
    Stat(Stat),
}

/// Attributes that do not depend on where a file lies.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Stat {
    mode: u32,
    owner: (u32, u32),
    /// Of everything but directories.
    size: Option<u64>,
    links: u64,
    /// If it was set.
    modified: Option<(i64, i64)>,
}

impl Stat {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            size: (!meta.is_dir()).then_some(meta.len()),
            links: meta.nlink(),
            modified: (meta.mtime() < CLOCK_FROM).then_some((meta.mtime(), meta.mtime_nsec())),
        }
    }
}

impl Seen {
    pub(crate) fn brief(&self) -> String {
        match self {
            Self::Bytes(bytes) => format!("{} bytes, {}", bytes.len(), &blake3::hash(bytes).to_hex()[..8]),
            other => format!("{other:?}"),
        }
    }

    /// As [`Seen::brief`], with the place where both differ.
    pub(crate) fn brief_against(&self, other: &Self) -> String {
        let mut text = self.brief();
        if let (Self::Bytes(ours), Self::Bytes(theirs)) = (self, other) {
            let first = ours.iter().zip(theirs).position(|(one, other)| one != other);
            let at = first.unwrap_or(ours.len().min(theirs.len()));
            let differing = ours.iter().zip(theirs).filter(|(one, other)| one != other).count();
            let shown = ours.get(at..(at + 16).min(ours.len())).unwrap_or_default();
            write!(text, "; from {at} on: {shown:?} ({differing} bytes differ)").unwrap();
        }
        text
    }
}

impl From<io::Error> for Seen {
    fn from(error: io::Error) -> Self {
        error.raw_os_error().map_or_else(|| panic!("{error}"), Self::Errno)
    }
}

fn seen<T>(result: io::Result<T>, value: impl FnOnce(T) -> Seen) -> Seen {
    result.map_or_else(Seen::from, value)
}

fn done<T, E: Into<io::Error>>(result: Result<T, E>) -> Seen {
    result.map_or_else(|error| error.into().into(), |_| Seen::Done)
}

fn bytes(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add((at % 251) as u8)).collect()
}

impl Place {
    pub(crate) fn new(side: Side, root: PathBuf) -> Self {
        fs::create_dir(&root).unwrap();
        Self { side, root, handles: Default::default(), next: 0 }
    }

    pub(crate) fn close_all(&mut self) {
        self.handles = Default::default();
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn keep(&mut self, opened: io::Result<File>) -> Seen {
        seen(opened, |file| {
            self.next = (self.next + 1) % HANDLES;
            self.handles[self.next] = Some(file);
            Seen::Done
        })
    }

    pub(crate) fn apply(&mut self, operation: &Operation) -> Seen {
        match operation {
            Operation::Create { path, exclusive, truncate, append, mode } => {
                let mut options = OpenOptions::new();
                options.read(true).write(!append || *truncate).append(*append && !truncate).mode(*mode);
                options.create(true).create_new(*exclusive).truncate(*truncate && !exclusive);
                let opened = options.open(self.at(path));
                self.keep(opened)
            }
            Operation::OpenToRead { path } => {
                let opened = File::open(self.at(path));
                self.keep(opened)
            }
            Operation::Close { handle } => self.handles[*handle].take().map_or(Seen::NotOpen, |_| Seen::Done),
            Operation::CopyRange { from, from_offset, to, to_offset, len } => {
                match (&self.handles[*from], &self.handles[*to]) {
                    (Some(from), Some(to)) => copy((from, *from_offset), (to, *to_offset), *len),
                    _ => Seen::NotOpen,
                }
            }
            Operation::Write { handle, .. }
            | Operation::WriteOn { handle, .. }
            | Operation::Read { handle, .. }
            | Operation::TruncateHandle { handle, .. }
            | Operation::Allocate { handle, .. }
            | Operation::Sync { handle }
            | Operation::StatHandle { handle } => match &self.handles[*handle] {
                Some(file) if self.side == Side::Model => keeping_time(file, operation),
                Some(file) => apply_to_file(file, operation),
                None => Seen::NotOpen,
            },
            _ => self.apply_to_names(operation),
        }
    }

    fn apply_to_names(&self, operation: &Operation) -> Seen {
        match operation {
            Operation::Truncate { path, len } => {
                seen(OpenOptions::new().write(true).open(self.at(path)), |file| done(file.set_len(*len)))
            }
            Operation::Stat { path } => seen(fs::symlink_metadata(self.at(path)), |meta| Seen::Stat(Stat::of(&meta))),
            Operation::ReadWhole { path } => seen(fs::read(self.at(path)), Seen::Bytes),
            Operation::Rename { from, to, kind } => {
                let flags = match kind {
                    Renaming::Replace => RenameFlags::empty(),
                    Renaming::NoReplace => RenameFlags::NOREPLACE,
                    Renaming::Exchange => RenameFlags::EXCHANGE,
                };
                done(renameat_with(CWD, self.at(from), CWD, self.at(to), flags))
            }
            Operation::Link { from, to } => done(fs::hard_link(self.at(from), self.at(to))),
            Operation::Unlink { path } => done(fs::remove_file(self.at(path))),
            Operation::MakeDirectory { path, mode } => done(fs::DirBuilder::new().mode(*mode).create(self.at(path))),
            Operation::RemoveDirectory { path } => done(fs::remove_dir(self.at(path))),
            Operation::MakeSymlink { path, target } => done(std::os::unix::fs::symlink(target, self.at(path))),
            Operation::ReadLink { path } => {
                seen(fs::read_link(self.at(path)), |target| Seen::Bytes(target.as_os_str().as_bytes().to_vec()))
            }
            Operation::List { path } => seen(list(&self.at(path)), Seen::Names),
            _ => self.apply_to_attributes(operation),
        }
    }

    fn apply_to_attributes(&self, operation: &Operation) -> Seen {
        match operation {
            Operation::SetMode { path, mode } => {
                done(fs::set_permissions(self.at(path), fs::Permissions::from_mode(*mode)))
            }
            Operation::SetTimes { path, seconds, nanoseconds } => {
                let time = Timespec { tv_sec: *seconds, tv_nsec: *nanoseconds };
                let times = Timestamps { last_access: time, last_modification: time };
                done(utimensat(CWD, self.at(path), &times, AtFlags::SYMLINK_NOFOLLOW))
            }
            Operation::SetXattr { path, name, len, kind } => {
                let flags = match kind {
                    Setting::Any => XattrFlags::empty(),
                    Setting::Create => XattrFlags::CREATE,
                    Setting::Replace => XattrFlags::REPLACE,
                };
                done(setxattr(self.at(path), format!("user.{name}"), &bytes(*name, *len), flags))
            }
            Operation::Xattr { path, name } => {
                let mut value = vec![0; 1000];
                match getxattr(self.at(path), format!("user.{name}"), &mut value) {
                    Ok(len) => Seen::Bytes(value[..len].to_vec()),
                    Err(error) => io::Error::from(error).into(),
                }
            }
            Operation::RemoveXattr { path, name } => done(removexattr(self.at(path), format!("user.{name}"))),
            Operation::ListXattrs { path } => seen(xattrs(&self.at(path)), Seen::Names),
            other => unreachable!("{other:?} is carried out elsewhere"),
        }
    }
}

/// What SEMANTICS.md says of times and ext4 does not: room made where no byte and no length changes is no change of the
/// file.
fn keeping_time(file: &File, operation: &Operation) -> Seen {
    use Allocation::{Extend, KeepSize};
    let before = file.metadata().unwrap();
    let seen = apply_to_file(file, operation);
    let makes_room = matches!(operation, Operation::Allocate { kind: Extend | KeepSize, .. });
    if makes_room && seen == Seen::Done && file.metadata().unwrap().len() == before.len() {
        let accessed = Timespec { tv_sec: before.atime(), tv_nsec: before.atime_nsec() };
        let modified = Timespec { tv_sec: before.mtime(), tv_nsec: before.mtime_nsec() };
        futimens(file, &Timestamps { last_access: accessed, last_modification: modified }).unwrap();
    }
    seen
}

fn apply_to_file(file: &File, operation: &Operation) -> Seen {
    match operation {
        Operation::Write { offset, len, seed, .. } => done(file.write_all_at(&bytes(*seed, *len), *offset)),
        Operation::WriteOn { len, seed, .. } => {
            let mut file = file;
            done(file.write_all(&bytes(*seed, *len)))
        }
        Operation::Read { offset, len, .. } => {
            let mut buffer = vec![0; *len];
            let mut count = 0;
            while count < *len {
                match file.read_at(&mut buffer[count..], offset + count as u64) {
                    Ok(0) => break,
                    Ok(more) => count += more,
                    Err(error) => return error.into(),
                }
            }
            buffer.truncate(count);
            Seen::Bytes(buffer)
        }
        Operation::TruncateHandle { len, .. } => done(file.set_len(*len)),
        Operation::Allocate { offset, len, kind, .. } => {
            let flags = match kind {
                Allocation::Extend => FallocateFlags::empty(),
                Allocation::KeepSize => FallocateFlags::KEEP_SIZE,
                Allocation::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                Allocation::Zero => FallocateFlags::ZERO_RANGE,
                Allocation::ZeroKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
            };
            done(fallocate(file, flags, *offset, *len))
        }
        Operation::Sync { .. } => done(file.sync_all()),
        Operation::StatHandle { .. } => seen(file.metadata(), |meta| Seen::Stat(Stat::of(&meta))),
        other => unreachable!("{other:?} is carried out elsewhere"),
    }
}

/// All of a range, in as many calls as it takes.
fn copy((from, from_offset): (&File, u64), (to, to_offset): (&File, u64), len: u64) -> Seen {
    let (mut from_at, mut to_at) = (from_offset, to_offset);
    while from_at - from_offset < len {
        let rest = usize::try_from(len - (from_at - from_offset)).unwrap();
        match copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), rest) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return io::Error::from(error).into(),
        }
    }
    Seen::Done
}

fn list(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().as_bytes().to_vec()));
    let mut names = entries.collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

/// Names of the attributes that programs set.
fn xattrs(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; 4096];
    let len = listxattr(path, &mut buffer)?;
    let names = buffer[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let mut names: Vec<_> = names.map(<[u8]>::to_vec).collect();
    names.sort_unstable();
    Ok(names)
}

/// Everything below `root`: attributes and bytes.
pub(crate) fn survey(root: &Path) -> BTreeMap<PathBuf, (Stat, String)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                Seen::Bytes(fs::read(&path).unwrap()).brief()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                dirs.push(path.clone());
                String::new()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (Stat::of(&meta), content));
        }
    }
    found
}
