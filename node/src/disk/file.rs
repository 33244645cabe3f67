//! The real disk: files of the operating system, and the threads for the calls that block.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FlockOperation};
use tokio::sync::{mpsc, oneshot};
use wire::buffer::{self, Caching};

use super::direct::{Bounce, DirectFile, write_buffered};
use super::recent::Recent;
use super::{DirLock, Disk, DiskFile, DiskFuture, Durability, LockError, OpenMode, Space};

/// Zeros are written from one static block, this many bytes at a time.
const ZEROS_LEN: usize = 64 << 10;
static ZEROS: [u8; ZEROS_LEN] = [0; ZEROS_LEN];

/// Shorter reads stay in the page cache: the next one may want what is beside.
const LONG_READ_MIN: usize = 256 << 10;

/// Threads and queues of a [`FileDisk`].
#[derive(Clone, Debug)]
pub struct FileDiskConfig {
    /// Names the threads, so that `top -H` shows which tenant is busy; at most 9 bytes are seen there.
    pub name: &'static str,
    /// Threads that read: two keep a disk's queue busy without crowding two cores.
    pub read_threads: usize,
    /// Operations that may wait per queue, each with at most one write of the log's; callers beyond wait for room.
    pub queue_len: usize,
}

/// Files of the operating system. One per tenant, so that nobody's append waits for another's sync: one thread writes,
/// one syncs, a few read. They end when the disk and its open files are dropped.
#[derive(Clone)]
pub struct FileDisk {
    queues: Queues,
    bounce: Bounce,
    recent: Arc<Recent>,
}

impl Default for FileDiskConfig {
    fn default() -> Self {
        Self { name: "disk", read_threads: 2, queue_len: 64 }
    }
}

impl FileDisk {
    /// Starts the threads.
    pub fn start(config: &FileDiskConfig) -> io::Result<Self> {
        assert!(config.read_threads > 0 && config.queue_len > 0, "a disk without threads or queue never answers");
        let write = start_threads(&format!("{}-write", config.name), 1, config.queue_len)?;
        let sync = start_threads(&format!("{}-sync", config.name), 1, config.queue_len)?;
        let read = start_threads(&format!("{}-read", config.name), config.read_threads, config.queue_len)?;
        Ok(Self { queues: Queues { write, sync, read }, bounce: Bounce::default(), recent: Arc::default() })
    }
}

impl fmt::Debug for FileDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDisk").finish_non_exhaustive()
    }
}

impl Disk for FileDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> DiskFuture<Arc<dyn DiskFile>> {
        let path = path.to_owned();
        let (queues, bounce, recent) = (self.queues.clone(), self.bounce.clone(), Arc::clone(&self.recent));
        submit(&self.queues.write, move || {
            let create = mode == OpenMode::CreateNew;
            let file = OpenOptions::new().read(true).write(true).create_new(create).open(&path)?;
            let file = Arc::new(file);
            let direct = Arc::new(DirectFile::new(Arc::clone(&file), &path, bounce));
            let file: Arc<dyn DiskFile> = Arc::new(RealFile { file, direct, path, queues, recent });
            Ok(file)
        })
    }

    fn list(&self, dir: &Path) -> DiskFuture<Vec<String>> {
        let dir = dir.to_owned();
        submit(&self.queues.write, move || {
            let mut names = Vec::new();
            for entry in fs::read_dir(&dir)? {
                names.extend(entry?.file_name().into_string());
            }
            names.sort();
            Ok(names)
        })
    }

    fn create_dir(&self, dir: &Path) -> DiskFuture<()> {
        let dir = dir.to_owned();
        submit(&self.queues.write, move || create_dir_synced(&dir))
    }

    fn rename(&self, from: &Path, to: &Path) -> DiskFuture<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        submit(&self.queues.write, move || fs::rename(from, to))
    }

    fn remove(&self, path: &Path) -> DiskFuture<()> {
        let path = path.to_owned();
        submit(&self.queues.write, move || fs::remove_file(path))
    }

    fn sync_dir(&self, dir: &Path) -> DiskFuture<()> {
        let dir = dir.to_owned();
        submit(&self.queues.sync, move || File::open(dir)?.sync_all())
    }

    fn space(&self, dir: &Path) -> DiskFuture<Space> {
        let dir = dir.to_owned();
        submit(&self.queues.read, move || {
            let stat = rustix::fs::statvfs(&dir)?;
            Ok(Space { total: stat.f_blocks * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
        })
    }

    fn lock_dir(&self, dir: &Path) -> BoxFuture<'static, Result<DirLock, LockError>> {
        let dir = dir.to_owned();
        let locked = submit(&self.queues.write, {
            let path = dir.join("LOCK");
            move || {
                let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                Ok(file)
            }
        });
        Box::pin(async move {
            match locked.await {
                Ok(file) => Ok(DirLock { _holder: Box::new(file) }),
                Err(source) if source.kind() == io::ErrorKind::WouldBlock => Err(LockError::InUse { dir }),
                Err(source) => Err(LockError::Disk { dir, source }),
            }
        })
    }
}

struct RealFile {
    file: Arc<File>,
    direct: Arc<DirectFile>,
    path: PathBuf,
    queues: Queues,
    recent: Arc<Recent>,
}

impl RealFile {
    fn submit<T: Send + 'static>(
        &self,
        queue: &Queue,
        job: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
    ) -> DiskFuture<T> {
        let file = Arc::clone(&self.file);
        submit(queue, move || job(&file))
    }
}

impl fmt::Debug for RealFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RealFile").field(&self.path).finish()
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, len: usize) -> DiskFuture<Bytes> {
        if len >= LONG_READ_MIN && !self.recent.again(&self.path, offset) {
            let direct = Arc::clone(&self.direct);
            return submit(&self.queues.read, move || direct.read_at(offset, len));
        }
        self.submit(&self.queues.read, move |file| buffer::read_at(file, offset, len, Caching::Keep))
    }

    fn read_medium_at(&self, offset: u64, len: usize) -> DiskFuture<Bytes> {
        let direct = Arc::clone(&self.direct);
        submit(&self.queues.read, move || direct.read_at(offset, len))
    }

    fn write_at(&self, offset: u64, parts: Vec<Bytes>, durability: Durability) -> DiskFuture<()> {
        let (file, direct, queue) = (Arc::clone(&self.file), Arc::clone(&self.direct), self.queues.write.clone());
        Box::pin(async move {
            let is_synced = durability == Durability::Synced;
            let written = enqueue(&queue, move || {
                direct.write_at(offset, &parts)?;
                if is_synced { file.sync_data() } else { Ok(()) }
            });
            let written = written.await?;
            if is_synced {
                // The thread that does it was woken on this processor as a rule, and somebody waits. Whoever asked has
                // other work at hand, which would keep it from beginning, while the disk has nothing to do.
                thread::yield_now();
            }
            written.await.map_err(|_| ended())?
        })
    }

    fn sync_data(&self) -> DiskFuture<()> {
        self.submit(&self.queues.sync, File::sync_data)
    }

    fn truncate(&self, len: u64) -> DiskFuture<()> {
        self.submit(&self.queues.write, move |file| file.set_len(len))
    }

    fn allocate(&self, len: u64) -> DiskFuture<()> {
        self.submit(&self.queues.write, move |file| {
            match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, len) {
                Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
                done => Ok(done?),
            }
        })
    }

    fn zero_fill(&self, offset: u64, len: u64) -> DiskFuture<()> {
        self.submit(&self.queues.write, move |file| write_zeros(file, offset, len))
    }

    fn length(&self) -> DiskFuture<u64> {
        self.submit(&self.queues.read, |file| Ok(file.metadata()?.len()))
    }
}

type Job = Box<dyn FnOnce() + Send>;
type Queue = mpsc::Sender<Job>;

#[derive(Clone)]
struct Queues {
    write: Queue,
    sync: Queue,
    read: Queue,
}

fn start_threads(name: &str, count: usize, queue_len: usize) -> io::Result<Queue> {
    let (queue, jobs) = mpsc::channel::<Job>(queue_len);
    // Guards the receiving end only; held while waiting, so that one idle thread waits for work and the others for it.
    let jobs = Arc::new(Mutex::new(jobs));
    for _ in 0..count {
        let jobs = Arc::clone(&jobs);
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            loop {
                let job = jobs.lock().blocking_recv();
                match job {
                    Some(job) => job(),
                    None => return,
                }
            }
        })?;
    }
    Ok(queue)
}

fn submit<T: Send + 'static>(queue: &Queue, job: impl FnOnce() -> io::Result<T> + Send + 'static) -> DiskFuture<T> {
    let queue = queue.clone();
    Box::pin(async move { enqueue(&queue, job).await?.await.map_err(|_| ended())? })
}

/// Hands over a job, and gives what its outcome comes by. Who asked may go: the work is done all the same.
async fn enqueue<T: Send + 'static>(
    queue: &Queue,
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<oneshot::Receiver<io::Result<T>>> {
    let (answer, answered) = oneshot::channel();
    let job: Job = Box::new(move || drop(answer.send(job())));
    queue.send(job).await.map_err(|_| ended())?;
    Ok(answered)
}

fn ended() -> io::Error {
    io::Error::other("a thread of the disk has ended")
}

fn write_zeros(file: &File, mut offset: u64, len: u64) -> io::Result<()> {
    let end = offset + len;
    let zeros = Bytes::from_static(&ZEROS);
    while offset < end {
        let chunk = (end - offset).min(16 * ZEROS_LEN as u64);
        let whole = usize::try_from(chunk).expect("at most 1 MiB");
        let mut parts = vec![zeros.clone(); whole / ZEROS_LEN];
        parts.push(zeros.slice(..whole % ZEROS_LEN));
        write_buffered(file, offset, &parts)?;
        offset += chunk;
    }
    Ok(())
}

/// A directory whose parent was not synced may be gone after a power cut, with all that was synced in it.
fn create_dir_synced(dir: &Path) -> io::Result<()> {
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    match fs::create_dir(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dir_synced(parent)?;
            fs::create_dir(dir)?;
        }
        Err(error) => return Err(error),
    }
    File::open(parent)?.sync_all()
}
