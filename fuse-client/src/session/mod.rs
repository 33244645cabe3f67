//! A session: changes, numbered, batched, and executed exactly once.
//!
//! Changes of many tasks are packed into batches; several batches travel at once. A batch whose answer was lost is sent
//! again with the same numbers, to the same leader or the next, and the namespace executes none twice.
//!
//! # Invariants
//! - A number is used for one operation, ever.
//! - An operation that has its outcome is never sent again; one that has none is sent until it has one, or its deadline
//!   has passed and the caller was told that its fate is not known.
//!
//! # Not here
//! Who leads (`cluster`); what the operations mean (`namespace`).

mod driver;
mod leasing;
mod ops;
mod stamps;
mod window;

use std::{
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ring::GcEpoch;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use wire::{
    lease::MadeAt,
    namespace::{
        INODE_RANGE_LEN, Inode, InodeRange, NamespaceAnswer, NamespaceRequest, Op, OpAnswer, OpError, OpNumber,
        SessionId, SessionNonce, Timestamp,
    },
};

use crate::cluster::{Cluster, ClusterError};
pub(crate) use leasing::{Changed, Leasing, NOT_CURRENT_PAUSE, OnChanged, Told};
pub(crate) use stamps::GcStamp;
use stamps::Stamps;
use window::{Way, Window};

/// Changes handed in and not answered: two windows, so that the next batches can be packed while these are under way.
const SUBMITTED_MAX: usize = 2 * wire::namespace::WINDOW_LEN as usize;

/// How long a session may take to say good-bye; the cluster ends it anyway after 60 s of silence.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Why a change has no outcome, or failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// It was executed and refused.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The cluster could not be asked; whether the change was executed is not known.
    #[error(transparent)]
    Cluster(#[from] Arc<ClusterError>),
    /// The session ended (60 s of silence): what was not answered may or may not have been executed.
    #[error("the session with the cluster ended; run the command again")]
    SessionEnded,
}

/// One client known to the namespace. Cheap to clone; ends with its last clone or [`Session::close`].
#[derive(Clone, Debug)]
pub struct Session {
    handle: Arc<Handle>,
}

/// What all clones share; its end ends the driver.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// Guards the handle of the driver's task alone.
    driver: Mutex<Option<JoinHandle<()>>>,
}

/// What the handles share with the driver.
struct Shared {
    cluster: Cluster,
    id: SessionId,
    /// Guards numbers, queue and waiters; never held across an await.
    window: Mutex<Window<Waiter>>,
    /// Something was handed in, or the session is over.
    wake: Notify,
    /// All deferred operations below this number have their outcomes; all there are, once the session is over.
    deferred_until: watch::Sender<u64>,
    room: Arc<Semaphore>,
    stamps: Stamps,
    /// Of a mount.
    leasing: Option<Leasing>,
    /// Asked for with each keep-alive of a mount: the inodes that it has open.
    open_inodes: Mutex<Option<OpenInodes>>,
    orphans_seen: AtomicU64,
    ended: AtomicBool,
    closing: AtomicBool,
    /// Numbers for new inodes; held while more are reserved.
    inodes: tokio::sync::Mutex<RangeInclusive<u64>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Tells which inodes are open.
type OpenInodes = Box<dyn Fn() -> Vec<Inode> + Send + Sync>;

/// Who waits for an outcome, unless nobody does; frees the room when it has it.
#[derive(Debug)]
struct Waiter {
    outcome: Option<oneshot::Sender<Result<OpAnswer, ChangeError>>>,
    _room: tokio::sync::OwnedSemaphorePermit,
}

/// A change on its way.
#[derive(Debug)]
pub struct Submitted {
    /// Its number, for a later change to follow.
    pub number: OpNumber,
    outcome: oneshot::Receiver<Result<OpAnswer, ChangeError>>,
}

impl Session {
    /// Opens a session.
    pub async fn open(cluster: &Cluster) -> Result<Self, ClusterError> {
        // The nonce is chosen once: a second attempt after a lost answer finds the same session.
        let nonce = SessionNonce(cluster.random_bytes());
        Self::begin(cluster, NamespaceRequest::OpenSession { nonce }, None).await
    }

    /// Opens the session of a mount, whose changes go out under leases.
    pub(crate) async fn open_mount(cluster: &Cluster, on_changed: OnChanged) -> Result<Self, ClusterError> {
        let nonce = SessionNonce(cluster.random_bytes());
        Self::begin(cluster, NamespaceRequest::OpenMount { nonce }, Some(Leasing::new(on_changed))).await
    }

    async fn begin(
        cluster: &Cluster,
        request: NamespaceRequest,
        leasing: Option<Leasing>,
    ) -> Result<Self, ClusterError> {
        let answer = cluster.namespace(request).await?;
        let NamespaceAnswer::SessionOpened { session, inodes, gc_current } = answer else {
            return Err(ClusterError::Confused);
        };
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            id: session,
            window: Mutex::new(Window::default()),
            wake: Notify::new(),
            deferred_until: watch::Sender::new(0),
            room: Arc::new(Semaphore::new(SUBMITTED_MAX)),
            stamps: Stamps::new(gc_current),
            leasing,
            open_inodes: Mutex::new(None),
            orphans_seen: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            inodes: tokio::sync::Mutex::new(numbers(inodes)),
        });
        let driver = tokio::spawn(driver::drive(Arc::clone(&shared)));
        Ok(Self { handle: Arc::new(Handle { shared, driver: Mutex::new(Some(driver)) }) })
    }

    /// Its number.
    pub(crate) fn id(&self) -> SessionId {
        self.handle.shared.id
    }

    /// Of a mount: what it shares with whoever keeps its leases.
    pub(crate) fn leasing(&self) -> Option<&Leasing> {
        self.handle.shared.leasing.as_ref()
    }

    /// Whether the cluster has ended it.
    pub(crate) fn is_over(&self) -> bool {
        self.handle.shared.ended.load(Ordering::Acquire)
    }

    /// The cluster does not know it any more.
    pub(crate) fn handle_unknown(&self) {
        self.handle.shared.end();
    }

    /// Tells with each keep-alive which inodes are open.
    pub(crate) fn tell_open_inodes(&self, open: OpenInodes) {
        *self.handle.shared.open_inodes.lock() = Some(open);
    }

    /// Hands in a change; it travels with others in a batch. `after`: a change that must have been executed before.
    /// Waits while too many are unanswered.
    pub async fn submit(&self, op: Op, after: Option<OpNumber>) -> Result<Submitted, ChangeError> {
        self.submit_by(op, Way::Asked { after }).await
    }

    /// As [`Session::submit`], for a change made at `time` under leases that the session holds: it waits for no other.
    pub(crate) async fn submit_made(&self, op: Op, time: Timestamp) -> Result<Submitted, ChangeError> {
        self.submit_by(op, Way::Made(MadeAt { time, before: Vec::new() })).await
    }

    /// Hands in a change, made under leases that the session holds, which its caller takes for done: it is
    /// sent until the session ends. What becomes of it is told to the mount only. None if there is no room now.
    pub(crate) fn try_defer(&self, op: Op, made: MadeAt) -> Option<OpNumber> {
        let shared = &self.handle.shared;
        let room = Arc::clone(&shared.room).try_acquire_owned().ok()?;
        let waiter = Waiter { outcome: None, _room: room };
        let (number, calls_for_poll) = {
            let mut window = shared.window.lock();
            let number = window.may_defer().then(|| window.submit(op, Way::Deferred(made), waiter).ok())??;
            (number, window.calls_for_poll())
        };
        if calls_for_poll {
            shared.wake.notify_one();
        }
        Some(number)
    }

    /// Waits until every change deferred so far has its outcome; an error if the session has ended before.
    pub(crate) async fn deferred(&self) -> Result<(), ChangeError> {
        let shared = &self.handle.shared;
        let (last, some_left) = {
            let mut window = shared.window.lock();
            window.hurry();
            (window.next(), window.deferred_until() < window.next())
        };
        if some_left {
            // What was gathered goes now.
            shared.wake.notify_one();
        }
        let mut until = shared.deferred_until.subscribe();
        loop {
            {
                let window = shared.window.lock();
                if window.has_lost_deferred() {
                    return Err(ChangeError::SessionEnded);
                }
                if window.deferred_until() >= last {
                    return Ok(());
                }
            }
            until.changed().await.map_err(|_| ChangeError::SessionEnded)?;
        }
    }

    async fn submit_by(&self, op: Op, way: Way) -> Result<Submitted, ChangeError> {
        let shared = &self.handle.shared;
        let room = Arc::clone(&shared.room).acquire_owned().await.map_err(|_| ChangeError::SessionEnded)?;
        if shared.ended.load(Ordering::Acquire) {
            return Err(ChangeError::SessionEnded);
        }
        let (sender, outcome) = oneshot::channel();
        let submitted = shared.window.lock().submit(op, way, Waiter { outcome: Some(sender), _room: room });
        let Ok(number) = submitted else { return Err(ChangeError::SessionEnded) };
        shared.wake.notify_one();
        Ok(Submitted { number, outcome })
    }

    /// Hands in a change and waits for its outcome.
    pub async fn change(&self, op: Op) -> Result<OpAnswer, ChangeError> {
        self.submit(op, None).await?.outcome().await
    }

    /// A number for a new inode, if there is one at hand.
    pub(crate) fn try_new_inode(&self) -> Option<Inode> {
        self.handle.shared.inodes.try_lock().ok()?.next().map(Inode)
    }

    /// A number for a new inode.
    pub async fn new_inode(&self) -> Result<Inode, ChangeError> {
        let shared = &self.handle.shared;
        let mut inodes = shared.inodes.lock().await;
        if inodes.is_empty() {
            *inodes = shared.reserve_inodes().await?;
        }
        Ok(Inode(inodes.next().expect("a reserved range is not empty")))
    }

    /// The stamp for a put, held until the guard is dropped: after the commit of what was put.
    pub(crate) fn stamp(&self) -> GcStamp {
        self.handle.shared.stamps.hold()
    }

    /// Asks for the current stamp, after one was refused.
    pub(crate) async fn refresh_stamp(&self) -> Result<(), ChangeError> {
        self.handle.shared.keep_alive().await
    }

    /// Ends the session (bounded): what it held is released.
    pub async fn close(&self) {
        let driver = self.handle.driver.lock().take();
        self.handle.shared.closing.store(true, Ordering::Release);
        self.handle.shared.wake.notify_one();
        if let Some(driver) = driver {
            // A session that could not say good-bye is ended by the cluster.
            let _ended = tokio::time::timeout(CLOSE_DEADLINE * 2, driver).await.is_ok();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake.notify_one();
    }
}

impl Submitted {
    /// What became of it.
    pub async fn outcome(self) -> Result<OpAnswer, ChangeError> {
        self.outcome.await.unwrap_or(Err(ChangeError::SessionEnded))
    }
}

impl Shared {
    async fn reserve_inodes(&self) -> Result<RangeInclusive<u64>, ChangeError> {
        match self.cluster.namespace(NamespaceRequest::ReserveInodes { session: self.id }).await {
            Ok(NamespaceAnswer::InodesReserved(range)) => Ok(numbers(range)),
            Ok(_) => Err(Arc::new(ClusterError::Confused).into()),
            Err(error) => Err(self.judge(error)),
        }
    }

    /// Says that the session lives, and learns the current stamp. Where that moves the lowest stamp it uses, it says so
    /// at once: garbage waits for it.
    async fn keep_alive(&self) -> Result<(), ChangeError> {
        let said = self.say_alive().await?;
        if self.stamps.lowest() > said { self.say_alive().await.map(drop) } else { Ok(()) }
    }

    /// Says that the session lives; the lowest stamp that it said.
    async fn say_alive(&self) -> Result<GcEpoch, ChangeError> {
        // In this order: what is opened after the orphans were seen is looked at by whoever opens it.
        let orphans_seen = self.orphans_seen.load(Ordering::Acquire);
        let holds = self.open_inodes.lock().as_ref().map_or_else(Vec::new, |open| open());
        let lowest_gc = self.stamps.lowest();
        let request = NamespaceRequest::KeepAlive { session: self.id, lowest_gc, orphans_seen, holds };
        match self.cluster.namespace(request).await {
            Ok(NamespaceAnswer::Alive { gc_current, orphans_index }) => {
                self.stamps.handle_current(gc_current);
                self.orphans_seen.fetch_max(orphans_index, Ordering::AcqRel);
                Ok(lowest_gc)
            }
            Ok(_) => Err(Arc::new(ClusterError::Confused).into()),
            Err(error) => Err(self.judge(error)),
        }
    }

    /// An unknown session is the end of this one.
    fn judge(&self, error: ClusterError) -> ChangeError {
        match error {
            ClusterError::Refused(wire::Refusal::UnknownSession) => {
                self.end();
                ChangeError::SessionEnded
            }
            other => ChangeError::Cluster(Arc::new(other)),
        }
    }

    /// Everything unanswered fails, and nothing more is taken.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.room.close();
        let waiters = self.window.lock().drain();
        for waiter in waiters {
            waiter.answer(Err(ChangeError::SessionEnded));
        }
        self.deferred_until.send_replace(u64::MAX);
        self.wake.notify_one();
    }

    /// Tells those who wait for deferred changes how far these have come.
    fn note_deferred(&self) {
        let until = self.window.lock().deferred_until();
        self.deferred_until.send_if_modified(|told| {
            let news = *told < until;
            *told = until.max(*told);
            news
        });
    }
}

impl Waiter {
    fn answer(self, outcome: Result<OpAnswer, ChangeError>) {
        // Whoever has stopped waiting does not want to know.
        let _nobody = self.outcome.is_none_or(|waiting| waiting.send(outcome).is_err());
    }
}

fn numbers(range: InodeRange) -> RangeInclusive<u64> {
    range.first.0..=range.first.0.saturating_add(u64::from(INODE_RANGE_LEN) - 1)
}
