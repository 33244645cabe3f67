//! The threads that tell the kernel what to forget. They hold nothing: the kernel may make them wait for pages that are
//! being read and for directories in which something is done, and those are answered by others. Attributes, for which it
//! makes nobody wait, have a thread of their own.

use std::{
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    sync::{Arc, mpsc as std_mpsc},
};

use fuser::{INodeNo, Session};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use wire::namespace::Inode;

use super::{convert::Numbers, kernel::Kernel};
use crate::fs::{Forget, Known, OldName, OldNames};

/// Files or directories that wait for the kernel.
const WAITING_MAX: usize = 4096;

/// Threads that see to pages: one file whose pages are locked for long does not keep those of others.
const PAGE_THREADS: usize = 4;

/// Threads that see to names: one directory that is locked for long does not keep others.
const NAME_THREADS: usize = 4;

/// Codes of notices, in `linux/fuse.h`: attributes or pages of an inode are old (`FUSE_NOTIFY_INVAL_INODE`).
const INVAL_INODE: i32 = 2;
/// A name is (`FUSE_NOTIFY_INVAL_ENTRY`).
const INVAL_ENTRY: i32 = 3;
/// All names are (`FUSE_NOTIFY_INC_EPOCH`, from Linux 6.16).
const INC_EPOCH: i32 = 8;

/// A name is taken for expired, and not for gone (`FUSE_EXPIRE_ONLY`). Before Linux 6.2 that makes no difference.
const EXPIRE_ONLY: u32 = 1;

type Pages = (Inode, oneshot::Sender<()>);
type Names = (OldNames, oneshot::Sender<()>);

/// Starts the threads; they end when nobody makes notices any more.
pub(super) fn start(
    forgets: mpsc::Receiver<Forget>,
    session: &Session<Kernel>,
    (path, numbers): (&Path, Numbers),
) -> io::Result<()> {
    let device = Arc::new(File::from(session.as_fd().try_clone_to_owned()?));
    let of_pages = Arc::clone(&device);
    let pages = pool("dfs-pages", PAGE_THREADS, move |(inode, done): Pages| {
        note(&send_inode(&of_pages, numbers.number(inode), 0));
        tell(done, ());
    })?;
    let of_names = Arc::clone(&device);
    let names = pool("dfs-names", NAME_THREADS, move |(old, done): Names| {
        let OldNames { dir, names } = old;
        names.iter().for_each(|name| note(&send_name(&of_names, numbers.number(dir), name)));
        tell(done, ());
    })?;
    let thread = std::thread::Builder::new().name("dfs-notices".into());
    let path = path.to_owned();
    thread.spawn(move || send(forgets, (&pages, &names), &device, (&path, numbers)))?;
    Ok(())
}

/// Threads that do what they are sent, one after the other.
fn pool<T: Send + 'static>(
    name: &str,
    threads: usize,
    work: impl Fn(T) + Clone + Send + 'static,
) -> io::Result<std_mpsc::SyncSender<T>> {
    let (sender, waiting) = std_mpsc::sync_channel(WAITING_MAX);
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..threads {
        let (waiting, work) = (Arc::clone(&waiting), work.clone());
        // One waits for the next, the others for the lock.
        let run = move || {
            while let Ok(next) = { waiting.lock().recv() } {
                work(next);
            }
        };
        std::thread::Builder::new().name(name.into()).spawn(run)?;
    }
    Ok(sender)
}

fn send(
    mut forgets: mpsc::Receiver<Forget>,
    (pages, names): (&std_mpsc::SyncSender<Pages>, &std_mpsc::SyncSender<Names>),
    device: &File,
    (path, numbers): (&Path, Numbers),
) {
    while let Some(forget) = forgets.blocking_recv() {
        match forget {
            Forget::Attributes(inode, done) => {
                let sent = send_inode(device, numbers.number(inode), -1);
                note(&sent);
                let is_unknown = sent.is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                tell(done, if is_unknown { Known::No } else { Known::Yes });
            }
            Forget::AllNames(done) => {
                let told = !has_mounts_below(path) && send_notice(device, INC_EPOCH, &[]).is_ok();
                tell(done, told);
            }
            // Whoever waits for it, and finds that it is dropped, does without.
            Forget::Pages(inode, done) => drop(pages.try_send((inode, done))),
            Forget::Names(old, done) => drop(names.try_send((old, done))),
        }
    }
}

/// Whether something is mounted on a directory of this mount: it would be unmounted with the name that leads to it.
fn has_mounts_below(path: &Path) -> bool {
    // What cannot be read is taken for the worse.
    let Ok(mounts) = std::fs::read("/proc/self/mountinfo") else { return true };
    // As that file has it: blanks, tabs, line feeds and backslashes in octal.
    let path: Vec<u8> = path.as_os_str().as_bytes().iter().flat_map(|byte| escaped(*byte)).collect();
    let is_below = |line: &[u8]| {
        let point = line.split(|byte| *byte == b' ').nth(4).unwrap_or_default();
        point.strip_prefix(path.as_slice()).is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    mounts.split(|byte| *byte == b'\n').any(is_below)
}

fn escaped(byte: u8) -> Vec<u8> {
    match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        other => vec![other],
    }
}

/// Attributes of an inode are old, and its pages from `offset` on: a negative one means none. Unlike fuser's own it says so if
/// the kernel does not know the inode.
fn send_inode(device: &File, inode: INodeNo, offset: i64) -> io::Result<()> {
    // `fuse_notify_inval_inode_out`: the inode, an offset, a length, which is none.
    send_notice(device, INVAL_INODE, &[&inode.0.to_ne_bytes(), &offset.to_ne_bytes(), &0_i64.to_ne_bytes()])
}

fn send_name(device: &File, dir: INodeNo, OldName { name, is_directory }: &OldName) -> io::Result<()> {
    let flags = if *is_directory { EXPIRE_ONLY } else { 0 };
    // `fuse_notify_inval_entry_out`: the directory, the length of the name, flags; the name, and the zero that ends it.
    let len = (name.as_bytes().len() as u32).to_ne_bytes();
    send_notice(device, INVAL_ENTRY, &[&dir.0.to_ne_bytes(), &len, &flags.to_ne_bytes(), name.as_bytes(), &[0]])
}

fn send_notice(mut device: &File, code: i32, fields: &[&[u8]]) -> io::Result<()> {
    // `fuse_out_header`: the length of all, the code, no question that it answers.
    let mut notice = [[0; 4], code.to_ne_bytes(), [0; 4], [0; 4]].concat();
    fields.iter().for_each(|field| notice.extend_from_slice(field));
    let len = (notice.len() as u32).to_ne_bytes();
    notice[..len.len()].copy_from_slice(&len);
    // The kernel takes a notice wholly or refuses it.
    device.write_all(&notice)
}

fn tell<T>(done: oneshot::Sender<T>, what: T) {
    // Whoever has stopped waiting does not want to know.
    let _nobody = done.send(what).is_err();
}

fn note(sent: &io::Result<()>) {
    if let Err(error) = sent
        && !is_gone(error)
    {
        warn!(%error, "the kernel cannot be told to forget what it has cached");
    }
}

/// The kernel knows nothing of it, or the mount is gone.
fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotConnected | io::ErrorKind::BrokenPipe)
        || matches!(
            Errno::from_io_error(error),
            Some(Errno::NODEV | Errno::NOTDIR | Errno::NOTEMPTY | Errno::PERM | Errno::STALE)
        )
}
