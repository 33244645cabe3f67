//! The threads that tell the kernel what to forget. They hold nothing: the kernel may make them wait for pages that are
//! being read, and those reads are answered by others. Pages have threads of their own, so that names and attributes,
//! which nobody makes wait for long, do not wait for them.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    sync::{Arc, mpsc as std_mpsc},
};

use fuser::{INodeNo, Notifier, Session};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use wire::namespace::Inode;

use super::{convert::Numbers, kernel::Kernel};
use crate::fs::{Forget, Known};

/// Pages to be forgotten that wait for the kernel.
const PAGES_MAX: usize = 4096;

/// Threads that see to pages: one file whose pages are locked for long does not keep those of others.
const PAGE_THREADS: usize = 4;

type Pages = (Inode, oneshot::Sender<()>);

/// Code of a notice that attributes or pages of an inode are old: `FUSE_NOTIFY_INVAL_INODE` of `linux/fuse.h`.
const INVAL_INODE: i32 = 2;

/// Starts the threads; they end when nobody makes notices any more.
pub(super) fn start(forgets: mpsc::Receiver<Forget>, session: &Session<Kernel>, numbers: Numbers) -> io::Result<()> {
    let (notifier, device) = (session.notifier(), File::from(session.as_fd().try_clone_to_owned()?));
    let (pages, waiting) = std_mpsc::sync_channel(PAGES_MAX);
    let waiting = Arc::new(Mutex::new(waiting));
    for _ in 0..PAGE_THREADS {
        let (waiting, notifier) = (Arc::clone(&waiting), notifier.clone());
        let thread = std::thread::Builder::new().name("dfs-pages".into());
        thread.spawn(move || send_pages(&waiting, &notifier, numbers))?;
    }
    let thread = std::thread::Builder::new().name("dfs-notices".into());
    thread.spawn(move || send(forgets, &pages, (&notifier, &device), numbers))?;
    Ok(())
}

fn send(
    mut forgets: mpsc::Receiver<Forget>,
    pages: &std_mpsc::SyncSender<Pages>,
    (notifier, device): (&Notifier, &File),
    numbers: Numbers,
) {
    while let Some(forget) = forgets.blocking_recv() {
        match forget {
            Forget::Attributes(inode, done) => {
                let sent = send_attributes(device, numbers.number(inode));
                let is_unknown = sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
                note(sent);
                tell(done, if is_unknown { Known::No } else { Known::Yes });
            }
            Forget::Entry(dir, name) => {
                note(notifier.inval_entry(numbers.number(dir), OsStr::from_bytes(name.as_bytes())));
            }
            // Whoever waits for it, and finds that it is dropped, does without.
            Forget::Pages(inode, done) => drop(pages.try_send((inode, done))),
            Forget::Done(done) => tell(done, ()),
        }
    }
}

/// Attributes alone are old. Unlike [`Notifier::inval_inode`] it says so if the kernel does not know the inode.
fn send_attributes(mut device: &File, inode: INodeNo) -> io::Result<()> {
    // `fuse_out_header`: length, code, no question; `fuse_notify_inval_inode_out`: inode, a negative offset for none, length.
    let mut notice = [0; 40];
    let fields: [&[u8]; 6] = [
        &(notice.len() as u32).to_ne_bytes(),
        &INVAL_INODE.to_ne_bytes(),
        &0_u64.to_ne_bytes(),
        &inode.0.to_ne_bytes(),
        &(-1_i64).to_ne_bytes(),
        &0_i64.to_ne_bytes(),
    ];
    notice.copy_from_slice(&fields.concat());
    // The kernel takes a notice wholly or refuses it.
    device.write_all(&notice)
}

fn send_pages(waiting: &Mutex<std_mpsc::Receiver<Pages>>, notifier: &Notifier, numbers: Numbers) {
    // One waits for the next, the others for the lock.
    while let Ok((inode, done)) = { waiting.lock().recv() } {
        note(notifier.inval_inode(numbers.number(inode), 0, 0));
        tell(done, ());
    }
}

fn tell<T>(done: oneshot::Sender<T>, what: T) {
    // Whoever has stopped waiting does not want to know.
    let _nobody = done.send(what).is_err();
}

fn note(sent: io::Result<()>) {
    if let Err(error) = sent
        && !is_gone(&error)
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
