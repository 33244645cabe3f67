//! Local files being made: whole, then named.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{AtFlags, CWD, FileType as NodeType, OFlags, Timespec, Timestamps},
    io::Errno,
};
use wire::namespace::{Attr, FileType, Mode, Name, Times, Timestamp, Xattr};

use super::{UNCACHED_MIN, failed, meta::decode_device, xattrs};
use crate::{
    namespace::Caller,
    transfer::{LocalDurability, TransferError},
};

/// What memory, offset and length of a direct write are multiples of: a page is enough for every block device.
const PAGE: usize = 4096;

/// Makes names that nobody uses. One for each transfer.
#[derive(Debug)]
pub(crate) struct TempNames {
    next: AtomicU64,
}

impl TempNames {
    pub(crate) fn new(random: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = random;
        Self { next: AtomicU64::new(u64::from_le_bytes([a, b, c, d, e, f, g, h])) }
    }

    /// A hidden name beside `path` that says whose it is.
    fn beside(&self, path: &Path) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let suffix = format!(".dfs-{number:016x}");
        let name = path.file_name().unwrap_or(OsStr::new("download")).as_bytes();
        let kept = name.len().min(Name::LEN_MAX - suffix.len() - 1);
        let mut hidden = OsString::from(".");
        hidden.push(OsStr::from_bytes(name.get(..kept).unwrap_or_default()));
        hidden.push(suffix);
        path.with_file_name(hidden)
    }
}

/// What a local file should be like.
#[derive(Clone, Debug)]
pub(crate) struct Restore {
    pub(crate) mode: Mode,
    /// Owner and group; only root gives files away.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) times: Times,
}

impl Restore {
    /// As `attr`, as far as `caller` may: without the right to give files away, the set-id bits stay behind with the
    /// owner.
    pub(crate) fn new(attr: &Attr, caller: &Caller) -> Self {
        Self {
            mode: if caller.owns(attr) { attr.mode } else { Mode::new(attr.mode.bits() & 0o1777) },
            owner: caller.is_root().then_some((attr.uid, attr.gid)),
            times: Times { accessed: attr.accessed, modified: attr.modified },
        }
    }
}

/// Where a file goes and what it is like.
#[derive(Clone, Debug)]
pub(crate) struct NewLocal {
    pub(crate) path: PathBuf,
    pub(crate) restore: Restore,
    pub(crate) xattrs: Vec<Xattr>,
}

/// A file without its final name; gone when dropped. Where the file system can (`O_TMPFILE`) it has no name at all until it
/// is whole, so that nothing is left of it either by a program that is killed.
#[derive(Debug)]
pub(crate) struct TempFile {
    file: File,
    /// The same file past the page cache: of a large one, where the file system can.
    direct: Option<File>,
    named: Named,
    path: PathBuf,
}

/// What name a file has that is being made.
#[derive(Debug)]
enum Named {
    /// None. It is to get this one for the moment before the final one, which may be another file's.
    Not {
        temporary: PathBuf,
    },
    Temporarily(NotNamed),
}

/// A temporary name that goes away unless it is renamed.
#[derive(Debug)]
struct NotNamed {
    temporary: PathBuf,
    renamed: bool,
}

impl Drop for NotNamed {
    fn drop(&mut self) {
        if !self.renamed {
            // Nobody is left to tell.
            let _removed = fs::remove_file(&self.temporary).is_ok();
        }
    }
}

impl NotNamed {
    fn rename(mut self, path: &Path) -> Result<(), TransferError> {
        match fs::rename(&self.temporary, path) {
            Ok(()) => {
                self.renamed = true;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                Err(TransferError::InTheWay { path: path.display().to_string(), reason: "a directory is in the way" })
            }
            Err(error) => Err(failed(path, "giving it its name", error)),
        }
    }
}

impl TempFile {
    /// An empty file beside `path`, for about `size` bytes.
    pub(crate) fn create(names: &TempNames, path: &Path, size: u64) -> Result<Self, TransferError> {
        let temporary = names.beside(path);
        let (file, reached, named) = match open_unnamed(path) {
            Some((file, reached)) => (file, reached, Named::Not { temporary }),
            None => {
                let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
                let file = opened.map_err(|error| failed(path, "creating it", error))?;
                (file, temporary.clone(), Named::Temporarily(NotNamed { temporary, renamed: false }))
            }
        };
        let direct = (size >= UNCACHED_MIN).then(|| open_direct(&reached)).flatten();
        Ok(Self { file, direct, named, path: path.to_owned() })
    }

    /// Its length, once everything is written: what comes after the last byte is a hole.
    pub(crate) fn set_len(&self, len: u64) -> Result<(), TransferError> {
        self.file.set_len(len).map_err(|error| failed(&self.path, "writing it", error))
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), TransferError> {
        let written = self.write_direct(bytes, offset).and_then(|done| {
            let rest = bytes.get(done..).unwrap_or_default();
            self.file.write_all_at(rest, offset + done as u64)
        });
        written.map_err(|error| failed(&self.path, "writing it", error))
    }

    /// Writes as many of the bytes as go past the page cache, from the first: whole pages that lie on page borders in
    /// memory and in the file. Returns how many.
    fn write_direct(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let Some(file) = &self.direct else { return Ok(0) };
        let aligned = offset.is_multiple_of(PAGE as u64) && bytes.as_ptr().align_offset(PAGE) == 0;
        let whole = if aligned { bytes.len() - bytes.len() % PAGE } else { 0 };
        let mut done = 0;
        while done < whole {
            let rest = bytes.get(done..whole).unwrap_or_default();
            match rustix::io::pwrite(file, rest, offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                // What stops early stops on the border of a block, which may be smaller than a page.
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                // This file system opens for direct writes and then refuses them.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// Gives it attributes and its name, in place of a file that has the name.
    ///
    /// Unless the caller wants it synced, nothing is: after a power cut the name, the size and the time may be there
    /// without all of the bytes, as after `cp`, and the next download would skip the file. No order of writes helps (a
    /// file system may write the last block first; ext4 flushes at a rename only if it replaces a file), and to sync
    /// each large file would make a download as slow as the disk. So the help says it: `--sync` for those who must
    /// know, `--checksum` for those who want to look.
    pub(crate) fn finish(self, new: &NewLocal, durability: LocalDurability) -> Result<(), TransferError> {
        let Self { file, direct: _, named, path } = self;
        let dressed = (|| {
            // A mode without the right to write forbids even the owner to add these later.
            xattrs::write(&file, &new.xattrs)?;
            let Restore { mode, owner, times } = &new.restore;
            if let Some((uid, gid)) = owner {
                rustix::fs::fchown(
                    &file,
                    Some(rustix::fs::Uid::from_raw(*uid)),
                    Some(rustix::fs::Gid::from_raw(*gid)),
                )?;
            }
            rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(u32::from(mode.bits())))?;
            // The times come last: by them the next download knows that all of it was written.
            rustix::fs::futimens(&file, &timestamps(times))?;
            Ok(())
        })();
        dressed.map_err(|error| failed(&path, "setting its attributes", error))?;
        if durability == LocalDurability::Synced {
            file.sync_all().map_err(|error| failed(&path, "syncing it", error))?;
        }
        let named = match named {
            Named::Temporarily(named) => named,
            Named::Not { temporary } => {
                let linked = rustix::fs::linkat(CWD, unnamed(&file), CWD, &temporary, AtFlags::SYMLINK_FOLLOW);
                linked.map_err(|error| failed(&path, "giving it a name", error.into()))?;
                NotNamed { temporary, renamed: false }
            }
        };
        named.rename(&path)
    }
}

/// A file without a name in the directory of `path`, and by which path it is reached; none if that cannot be had here.
fn open_unnamed(path: &Path) -> Option<(File, PathBuf)> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = i32::try_from(OFlags::TMPFILE.bits()).expect("open flags fit in an int");
    let file = OpenOptions::new().write(true).custom_flags(flags).mode(0o600).open(dir).ok()?;
    let reached = unnamed(&file);
    // Without /proc it could get no name.
    reached.exists().then_some((file, reached))
}

/// The path by which an open file is reached, whatever name it has.
fn unnamed(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The file once more, for writes past the page cache.
fn open_direct(path: &Path) -> Option<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).expect("open flags fit in an int");
    OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
}

/// A symbolic link, in place of a file that has the name.
pub(crate) fn make_symlink(names: &TempNames, target: &[u8], new: &NewLocal) -> Result<(), TransferError> {
    let temporary = names.beside(&new.path);
    let made = std::os::unix::fs::symlink(OsStr::from_bytes(target), &temporary);
    made.map_err(|error| failed(&new.path, "creating it", error))?;
    name_node(temporary, new, FileType::Symlink)
}

/// A pipe, socket or device, in place of a file that has the name.
pub(crate) fn make_node(names: &TempNames, attr: &Attr, new: &NewLocal) -> Result<(), TransferError> {
    let node = match attr.file_type {
        FileType::Fifo => NodeType::Fifo,
        FileType::Socket => NodeType::Socket,
        FileType::CharDevice => NodeType::CharacterDevice,
        FileType::BlockDevice => NodeType::BlockDevice,
        FileType::File | FileType::Directory | FileType::Symlink => {
            unreachable!("files, directories and links are made otherwise")
        }
    };
    let temporary = names.beside(&new.path);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let made = rustix::fs::mknodat(CWD, &temporary, node, mode, decode_device(attr.device));
    made.map_err(|error| failed(&new.path, "creating it", error.into()))?;
    name_node(temporary, new, attr.file_type)
}

fn name_node(temporary: PathBuf, new: &NewLocal, file_type: FileType) -> Result<(), TransferError> {
    let named = NotNamed { temporary, renamed: false };
    dress(&named.temporary, &new.restore, file_type)
        .map_err(|error| failed(&new.path, "setting its attributes", error))?;
    named.rename(&new.path)
}

/// Another name for a local file, in place of a file that has it.
pub(crate) fn hard_link(names: &TempNames, from: &Path, path: &Path) -> Result<(), TransferError> {
    let temporary = names.beside(path);
    fs::hard_link(from, &temporary).map_err(|error| failed(path, "linking it", error))?;
    let leftover = NotNamed { temporary: temporary.clone(), renamed: false };
    NotNamed { temporary, renamed: false }.rename(path)?;
    // rename(2) leaves both names if they are names of the same file already.
    drop(leftover);
    Ok(())
}

/// How a directory came to be there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MadeDir {
    /// It was made.
    Fresh,
    /// It was there, and is this user's.
    Found { owner: u32 },
}

/// A directory for its owner alone, until it is restored; or the one that is there already.
pub(crate) fn create_dir(path: &Path) -> Result<MadeDir, TransferError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(MadeDir::Fresh),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match fs::symlink_metadata(path) {
            Ok(there) if there.is_dir() => Ok(MadeDir::Found { owner: there.uid() }),
            Ok(_) => Err(TransferError::InTheWay {
                path: path.display().to_string(),
                reason: "a file is in the way of a directory",
            }),
            Err(error) => Err(failed(path, "looking at it", error)),
        },
        Err(error) => Err(failed(path, "creating it", error)),
    }
}

/// Gives a file that is there attributes of users that it lacks; whether it lacked any.
pub(crate) fn add_xattrs(path: &Path, xattrs: &[Xattr]) -> Result<bool, TransferError> {
    xattrs::add(path, xattrs).map_err(|error| failed(path, "setting its attributes", error))
}

/// Gives a file that is there its attributes.
pub(crate) fn restore(path: &Path, restore: &Restore, file_type: FileType) -> Result<(), TransferError> {
    dress(path, restore, file_type).map_err(|error| failed(path, "setting its attributes", error))
}

/// Makes a file that is there stable.
pub(crate) fn sync_file(path: &Path) -> Result<(), TransferError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| failed(path, "syncing it", error))
}

/// Gives a directory its attributes, if it is ours, and makes it stable with the names in it, if that is wanted.
pub(crate) fn finish_dir(
    path: &Path,
    dressed: Option<&(Restore, Vec<Xattr>)>,
    durability: LocalDurability,
) -> Result<(), TransferError> {
    // Opened first: its final mode may forbid its owner to read it.
    let opened = (durability == LocalDurability::Synced).then(|| File::open(path));
    if let Some((restore, xattrs)) = dressed {
        xattrs::add(path, xattrs)
            .and_then(|_| dress(path, restore, FileType::Directory))
            .map_err(|error| failed(path, "setting its attributes", error))?;
    }
    let synced = opened.map_or(Ok(()), |opened| opened.and_then(|dir| dir.sync_all()));
    synced.map_err(|error| failed(path, "syncing it", error))
}

fn dress(path: &Path, restore: &Restore, file_type: FileType) -> io::Result<()> {
    if let Some((uid, gid)) = restore.owner {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
    }
    if file_type != FileType::Symlink {
        let mode = rustix::fs::Mode::from_raw_mode(u32::from(restore.mode.bits()));
        rustix::fs::chmodat(CWD, path, mode, AtFlags::empty())?;
    }
    rustix::fs::utimensat(CWD, path, &timestamps(&restore.times), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn timestamps(times: &Times) -> Timestamps {
    let spec = |time: Timestamp| Timespec { tv_sec: time.seconds(), tv_nsec: time.nanoseconds().into() };
    Timestamps { last_access: spec(times.accessed), last_modification: spec(times.modified) }
}

#[cfg(test)]
mod tests {
    use wire::{
        CHUNK_LEN_MAX,
        buffer::Buffer,
        namespace::{Mode, Times, Timestamp},
    };

    use super::{NewLocal, Restore, TempFile, TempNames, UNCACHED_MIN};
    use crate::transfer::LocalDurability;

    fn piece(index: u64, len: usize) -> bytes::Bytes {
        let mut buffer = Buffer::with_len(len);
        buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = ((at as u64 % 251) ^ index) as u8);
        buffer.freeze(len)
    }

    #[test]
    fn a_large_file_is_what_was_written_of_pieces_of_any_shape_in_any_order() {
        let dir = tempfile::tempdir().unwrap();
        let (path, chunk) = (dir.path().join("large"), u64::from(CHUNK_LEN_MAX));
        let file = TempFile::create(&TempNames::new([1; 16]), &path, UNCACHED_MIN).unwrap();
        // Whole chunks, one that does not lie on a page in memory, one that does not in the file, and a short end.
        let pieces: Vec<_> = [(3, 0), (0, 0), (2, 7), (1, 0)]
            .into_iter()
            .map(|(index, skip)| (index * chunk + skip, piece(index, CHUNK_LEN_MAX as usize).slice(skip as usize..)))
            .chain([(2 * chunk, piece(2, 7)), (4 * chunk, piece(4, 300_001))])
            .collect();
        pieces.iter().for_each(|(offset, bytes)| file.write_at(bytes, *offset).unwrap());
        let times = Times { accessed: Timestamp::new(0, 0).unwrap(), modified: Timestamp::new(0, 0).unwrap() };
        let restore = Restore { mode: Mode::new(0o600), owner: None, times };
        let new = NewLocal { path: path.clone(), restore, xattrs: Vec::new() };
        file.finish(&new, LocalDurability::Unsynced).unwrap();
        let found = std::fs::read(&path).unwrap();
        assert_eq!(found.len() as u64, 4 * chunk + 300_001);
        for (offset, bytes) in &pieces {
            assert!(found[*offset as usize..].starts_with(bytes), "at {offset}");
        }
    }
}
