//! How a member comes up: log, state, what a crash left half done, then the Raft library.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use ring::NodeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::deafness::{self, Ears};
use super::error::OpenError;
use super::inbox::Inbox;
use super::log_store::LogStore;
use super::lost_store::{self, Lender};
use super::maintenance::{Maintenance, Retention};
use super::network::{Network, RaftTransport};
use super::raft_types::{Raft, RaftId};
use super::runtime::Runtime;
use super::snapshot::{Spool, SpooledSnapshot};
use super::state_machine::{ApplyFn, StateMachine, read_state};
use super::view::{Health, View, follow};
use super::{Consensus, Inner, WallClock};
use crate::append_log::LogConfig;
use crate::append_log::slots::Slots;
use crate::disk::Disk;
use crate::kv::KvStore;
use crate::namespace;

/// Configuration of a member.
#[derive(Clone, Debug)]
pub struct ConsensusConfig {
    /// This node.
    pub node: NodeId,
    /// When to speak and when to worry.
    pub timing: Timing,
    /// Source of election timeouts and of the log's generations: random in production.
    pub seed: u64,
    /// The log's files.
    pub log: LogConfig,
    /// What of the log is kept for followers that lag.
    pub retention: Retention,
}

impl ConsensusConfig {
    /// What production uses.
    pub fn new(node: NodeId, seed: u64) -> Self {
        Self { node, timing: Timing::default(), seed, log: LogConfig::raft_log(), retention: Retention::default() }
    }
}

/// When to speak and when to worry.
///
/// A follower that has heard nothing for an election timeout asks the others whether they would vote for it; they say
/// yes when they have heard nothing for `election_max` themselves. So a new leader is found within about
/// `2 × election_max`.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The leader speaks this often: three chances within the shortest election timeout.
    pub heartbeat: Duration,
    /// Shortest election timeout: longer than a stall of the key-value store, as far as elections within 1 s allow.
    pub election_min: Duration,
    /// Longest election timeout, and how long a follower stays true to a silent leader.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(500),
        }
    }
}

impl Timing {
    fn config(self) -> Result<Config, OpenError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: String::from("dfs"),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            enable_pre_vote: Some(true),
            // When `candidacy` says so.
            enable_elect: false,
            // The state may be older than what this node answered as a leader; it learns of commits by an election.
            enable_leader_restore: Some(false),
            // When to persist and what to purge is for `maintenance` to say.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            // A peer that comes back is noticed within half a second.
            backoff: String::from("50ms 100ms 200ms ...500ms"),
            ..Config::default()
        };
        config.validate().map_err(|error| OpenError::Raft { reason: error.to_string() })
    }
}

impl Consensus {
    /// Takes up this node's part in the group where it left it, in `dir` (locked by the caller) and `kv`. A new
    /// directory gives a node without a group: [`Consensus::found`] makes one, or another's leader takes it in.
    pub async fn open(
        config: ConsensusConfig,
        disk: Arc<dyn Disk>,
        dir: &Path,
        kv: Arc<dyn KvStore>,
        transport: Arc<dyn RaftTransport>,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, OpenError> {
        Self::open_with(config, disk, dir, kv, transport, clock, namespace::apply).await
    }

    pub(super) async fn open_with(
        config: ConsensusConfig,
        disk: Arc<dyn Disk>,
        dir: &Path,
        kv: Arc<dyn KvStore>,
        transport: Arc<dyn RaftTransport>,
        clock: Arc<dyn WallClock>,
        apply: ApplyFn,
    ) -> Result<Self, OpenError> {
        let tasks = TaskTracker::new();
        let cancel = CancellationToken::new();
        let raft_config = Arc::new(config.timing.config()?);
        let rng = Box::new(StdRng::seed_from_u64(config.seed));
        let (mut store, writer) = LogStore::open(Arc::clone(&disk), dir, config.log.clone(), rng).await?;
        tasks.spawn(async move { writer.await.expect("the writer of the Raft log does not panic") });
        let (spool, waiting) = Spool::open(Arc::clone(&disk), dir).await?;
        let spool = Arc::new(spool);
        if let Some(waiting) = waiting {
            finish_installation(&spool, &waiting, &*kv).await?;
        }
        let (members, note) = Slots::open(disk, &dir.join("members")).await?;
        let has_applied = note.is_some() || read_state(&*kv)?.last_log_id.is_some();
        if store.lacks_vote(has_applied) {
            return Err(OpenError::VoteLost);
        }
        restore_lost_state(&config, &store, note.as_deref(), &spool, &*kv, &transport).await?;
        #[cfg(test)]
        let log = store.shared();
        let machine = StateMachine::open(Arc::clone(&kv), apply, Arc::clone(&spool), members).await?;
        reconcile(&mut store, &machine).await?;
        let ears = Arc::new(Ears::default());
        let transfers = Arc::new(AtomicU64::new(0));
        let network = Network { node: config.node, transport, transfers, ears: Arc::clone(&ears) };
        let started = Raft::new(RaftId(config.node), raft_config, network, store.clone(), machine.clone());
        let raft = Runtime::scope(config.seed, started)
            .await
            .map_err(|error| OpenError::Raft { reason: error.to_string() })?;
        let (view_sender, view) = watch::channel(View::of(&raft));
        tasks.spawn(follow(raft.clone(), view_sender.clone()));
        tasks.spawn(deafness::watch(config.node, raft.clone(), Arc::clone(&ears), cancel.clone()));
        let lender = Arc::new(Lender::default());
        let maintenance = Maintenance {
            raft: raft.clone(),
            store,
            machine,
            kv: Arc::clone(&kv),
            lender: Arc::clone(&lender),
            retention: config.retention,
        };
        tasks.spawn(maintain(maintenance, cancel.clone(), view_sender));
        let inbox = Arc::new(Inbox::new(spool));
        Ok(Self {
            inner: Arc::new(Inner {
                node: config.node,
                raft,
                #[cfg(test)]
                log,
                kv,
                clock,
                inbox,
                ears,
                lender,
                admission: Admission::new(),
                view,
                tasks,
                cancel,
            }),
        })
    }
}

/// Runs the maintenance; a store that fails ends the node's part in the group.
async fn maintain(maintenance: Maintenance, cancel: CancellationToken, view: watch::Sender<View>) {
    let raft = maintenance.raft.clone();
    let Err(error) = maintenance.run(cancel).await else { return };
    tracing::error!(%error, "the replicated state cannot be made durable; consensus stops on this node");
    view.send_modify(|view| view.health = Health::Failed { reason: error.to_string() });
    // It may have stopped for the same reason.
    raft.shutdown().await.ok();
}

/// A whole snapshot waits in the spool: install it, unless the rows are as new already.
pub(super) async fn finish_installation(
    spool: &Spool,
    waiting: &SpooledSnapshot,
    kv: &dyn KvStore,
) -> Result<(), OpenError> {
    let failed = |source| OpenError::Disk { path: "the received snapshot".into(), source };
    let state = read_state(kv)?;
    let waits_for = waiting.meta().ok_or(OpenError::Unreadable { what: "the note on a snapshot" })?;
    if waits_for.last_log_id > state.last_log_id {
        tracing::info!(to = ?waits_for.last_log_id, "installing a snapshot that was received before the restart");
        return spool.install(waiting, kv).await.map_err(failed);
    }
    spool.clear().await.map_err(failed)
}

/// The rows do not reach to where the log begins: fetches them from another member, before the library starts.
async fn restore_lost_state(
    config: &ConsensusConfig,
    store: &LogStore,
    note: Option<&[u8]>,
    spool: &Spool,
    kv: &dyn KvStore,
    transport: &Arc<dyn RaftTransport>,
) -> Result<(), OpenError> {
    let Some(purged) = store.purged() else { return Ok(()) };
    if read_state(kv)?.last_log_id.is_some_and(|applied| applied.index >= purged.index) {
        return Ok(());
    }
    let members: Vec<NodeId> = match note {
        Some(note) => {
            postcard::from_bytes(note).map_err(|_| OpenError::Unreadable { what: "the note on the members" })?
        }
        None => Vec::new(),
    };
    let others: Vec<NodeId> = members.into_iter().filter(|&member| member != config.node).collect();
    tracing::warn!(purged = purged.index, "the replicated state was lost; fetching it from another member");
    let spooled = lost_store::fetch(transport, &others, purged, spool).await?;
    let failed = |source| OpenError::Disk { path: "the received snapshot".into(), source };
    spool.install(&spooled, kv).await.map_err(failed)
}

/// Log and state were written apart: makes them fit each other.
pub(super) async fn reconcile(store: &mut LogStore, machine: &StateMachine) -> Result<(), OpenError> {
    let applied = machine.applied();
    // A snapshot came in over entries of another history, and the crash came before they were dropped.
    if let Some(applied) = applied
        && store.id_at(applied.index).is_some_and(|held| held != applied)
    {
        let failed = |source| OpenError::Disk { path: "the Raft log".into(), source };
        store.restart_at(applied).await.map_err(failed)?;
    }
    Ok(())
}
