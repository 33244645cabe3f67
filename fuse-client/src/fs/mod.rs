//! The file system in our own types: what a kernel, or anybody, asks of a mounted cluster.
//!
//! Every inode that is cached here stands under a lease. What is cached is answered at once; the rest asks the leader,
//! who grants the lease with the answer. Bytes written stay here, under an exclusive lease, until somebody wants them
//! (`fsync`, another mount, memory) or a moment has passed.
//!
//! # Invariants
//! - What an answer rests on is looked at, and the answer given, within one passage of the [`Gate`]: a recall closes the
//!   gate, and so waits for the answers under way, before it lets go.
//! - Bytes are committed only on the data version that they were written on.
//! - Every call but a blocked lock ends within [`OP_DEADLINE`].
//!
//! # Not here
//! The kernel's protocol (`mount`); permissions, which the kernel checks by the attributes it gets.

mod attrs;
mod chunk_cache;
mod deferred;
mod dirty;
pub mod error;
mod extent_map;
mod file;
mod flush;
mod held_locks;
mod keeper;
mod leases;
mod lock_waits;
mod locks;
mod names;
mod notices;
mod open_files;
mod pages;
mod ranges;
mod read;
mod recall;
mod silence;
mod table;
mod wall_clock;
mod write;
mod write_out;
mod xattrs;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use wire::namespace::{Inode, Name, Timestamp};

pub use attrs::Space;
pub use error::FsError;
pub use locks::Unlocking;
pub use names::{Lookup, Making, Told};
pub use open_files::{HandleId, Opened};
pub use ranges::CopyRange;
pub use read::{Seek, Stand};
use table::Table;
pub use write::{Write, WriteKind, WriteMode};
pub(crate) use xattrs::IDENTITY;

use crate::{
    cluster::{Cluster, ClusterError, now},
    session::{Session, Submitted},
};

/// What a mount that has ended says if something was lost.
pub const LOST: &str = "not all that programs had written could be stored";

/// How long any operation but a blocked lock may take: a change of leader and a lost client's lease, several times.
pub const OP_DEADLINE: Duration = Duration::from_secs(20);

/// How long an `fsync` may take: what is dirty, over a slow line.
pub const SYNC_DEADLINE: Duration = Duration::from_secs(120);

/// How often an answer is looked for again because the lease was lost in between.
const LOOKS_MAX: u32 = 16;

/// How a mount behaves.
#[derive(Clone, Debug)]
pub struct FsConfig {
    /// Bytes written and not committed; 48 MiB: one batch of chunks on its way, one being filled.
    pub dirty_bytes: u64,
    /// Verified bytes kept in memory; 64 MiB.
    pub clean_bytes: u64,
    /// Bytes written lie here at most that long; 1 s.
    pub flush_after: Duration,
    /// Open files; 65,536, as many as one session can tell of.
    pub open_files: usize,
    /// The clock on the wall: for times that people see, never for decisions.
    pub wall_clock: fn() -> Timestamp,
}

impl Default for FsConfig {
    fn default() -> Self {
        Self {
            dirty_bytes: 48 << 20,
            clean_bytes: 64 << 20,
            flush_after: Duration::from_secs(1),
            open_files: 65_536,
            wall_clock: wall_clock::now,
        }
    }
}

/// What the kernel must forget.
#[derive(Debug)]
pub enum Forget {
    /// Attributes of an inode; tells whether the kernel knew it.
    Attributes(Inode, tokio::sync::oneshot::Sender<Known>),
    /// Pages of a file, and its attributes; tells when that is done. The kernel may wait for reads and writes that are
    /// under way.
    Pages(Inode, tokio::sync::oneshot::Sender<()>),
    /// Names of a directory; tells when that is done. The kernel may wait for operations in the directory.
    Names(OldNames, tokio::sync::oneshot::Sender<()>),
    /// All names; tells whether the kernel can do that.
    AllNames(tokio::sync::oneshot::Sender<bool>),
}

/// Names of a directory that the kernel must look up anew.
#[derive(Clone, Debug)]
pub struct OldNames {
    /// The directory.
    pub dir: Inode,
    /// Names in it.
    pub names: Vec<OldName>,
}

/// A name that the kernel must look up anew.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OldName {
    /// Which.
    pub name: Name,
    /// Whether it led to a directory: programs may be at work in it, and the kernel goes on to know where it is.
    pub is_directory: bool,
}

/// Whether the kernel knows an inode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Known {
    /// It does.
    Yes,
    /// It has forgotten it, or the answer that tells of it was not taken in yet.
    No,
}

/// Notices to the kernel that wait to be sent.
const FORGETS_MAX: usize = 65_536;

/// A mounted cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FileSystem {
    shared: Arc<Shared>,
}

/// An answer is being given; see [`FileSystem::gate`].
pub type Gate<'a> = RwLockReadGuard<'a, ()>;

#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    config: FsConfig,
    /// Read by whoever gives an answer that rests on a lease, written by a recall. Taken before all others.
    gate: RwLock<()>,
    /// Guards the table alone. Taken after the gate, before the state of a file.
    table: Mutex<Table>,
    /// Guards the term alone.
    term: Mutex<Term>,
    /// Guards itself alone.
    silence: Mutex<silence::Silence>,
    session: watch::Sender<Session>,
    /// A lease has been given back, or a generation begun: who waits for an inode looks again.
    settled: watch::Sender<u64>,
    /// The keeper should look at once.
    keeper: Notify,
    /// Somebody needs memory: write out now.
    pressure: Notify,
    dirty_pool: Arc<Semaphore>,
    /// The journal was full: until then bytes go to their replicas first. Guards itself alone.
    no_journal_until: Mutex<Option<Instant>>,
    /// Bytes found no room in the cluster: until when memory is not waited for, and what its caller is told. Guards itself
    /// alone.
    no_room: Mutex<Option<(Instant, FsError)>>,
    chunks: Arc<chunk_cache::ChunkCache>,
    handles: Mutex<open_files::Handles>,
    /// Guards itself alone.
    held_locks: Mutex<held_locks::HeldLocks>,
    /// Guards itself alone.
    lock_waits: Mutex<lock_waits::LockWaits>,
    forgets: mpsc::Sender<Forget>,
    usage: Mutex<Option<(Instant, attrs::Space)>>,
    /// Under which the leases were held that are to be reclaimed.
    last_generation: Mutex<wire::lease::LeaseGeneration>,
    closing: AtomicBool,
    stop: CancellationToken,
    /// Where tasks run: threads of the kernel's questions are not of the runtime.
    runtime: tokio::runtime::Handle,
    tasks: TaskTracker,
}

/// Until when the leases count.
#[derive(Clone, Copy, Debug)]
struct Term {
    until: Instant,
}

impl FileSystem {
    /// Opens a session with the cluster and begins to keep its leases. What the kernel must forget comes out of the
    /// receiver, which has to be emptied by somebody who holds nothing.
    pub async fn open(cluster: Cluster, config: FsConfig) -> Result<(Self, mpsc::Receiver<Forget>), ClusterError> {
        let (forgets, receiver) = mpsc::channel(FORGETS_MAX);
        let shared = keeper::begin(cluster, config, forgets).await?;
        Ok((Self { shared }, receiver))
    }

    /// While it is held, no lease is let go. Taken for the moment in which an answer is looked up and given; never
    /// across an await.
    pub fn gate(&self) -> Gate<'_> {
        self.shared.gate.read()
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.shared.cluster
    }

    /// How long an operation that begins now may take: [`OP_DEADLINE`], less while the cluster is silent.
    pub fn patience(&self) -> Duration {
        self.shared.silence.lock().patience(now())
    }

    /// Runs `work` as far as it comes without waiting, here, and the rest in the background; [`FileSystem::close`] waits
    /// for it. Much needs nothing but what is at hand, and to hand it to another thread would cost more than doing it.
    pub fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut work = Box::pin(self.shared.tasks.track_future(work));
        let _timers = self.shared.runtime.enter();
        // The background asks again at once, so nobody has to be woken from here.
        if work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.shared.runtime.spawn(work);
        }
    }

    /// Writes everything out and ends the session (bounded). Whether everything is stored.
    pub async fn close(&self) -> bool {
        self.shared.closing.store(true, Ordering::Release);
        let mut is_stored = self.flush_everything().await == 0;
        if let Err(error) = self.shared.commit_deferred().await {
            tracing::warn!(%error, "the last changes could not be committed and are lost");
            is_stored = false;
        }
        self.shared.stop.cancel();
        self.shared.tasks.close();
        let ended = tokio::time::timeout(OP_DEADLINE, self.shared.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!("operations of the mount did not end in time");
        }
        self.shared.cluster.drain().await;
        let session = self.shared.session.borrow().clone();
        session.close().await;
        self.shared.cluster.close().await;
        is_stored
    }
}

impl Shared {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(work, &self.runtime);
    }

    fn session(&self) -> Session {
        self.session.borrow().clone()
    }

    /// How long the kernel may believe what it is told now; none if the leases do not count.
    fn ttl(&self) -> Option<Duration> {
        if self.session.borrow().is_over() {
            return None;
        }
        let left = self.term.lock().until.saturating_duration_since(now());
        (!left.is_zero()).then_some(left)
    }

    /// Hands in a change and waits for what becomes of it.
    async fn change(&self, op: wire::namespace::Op) -> Result<wire::namespace::OpAnswer, FsError> {
        Ok(self.submit(op).await?.outcome().await?)
    }

    /// As [`Shared::change`], for bytes that lie here under an exclusive lease: others who want that lease wait for them.
    async fn commit_op(&self, op: wire::namespace::Op) -> Result<wire::namespace::OpAnswer, FsError> {
        Ok(self.session().submit_made(op, (self.config.wall_clock)()).await?.outcome().await?)
    }

    async fn submit(&self, op: wire::namespace::Op) -> Result<Submitted, FsError> {
        Ok(self.session().submit(op, None).await?)
    }

    /// Somebody who waits for an inode should look again.
    fn settle(&self) {
        self.settled.send_modify(|count| *count += 1);
    }
}
