//! The handle to a cluster: its map, its leader, connections to its nodes.
//!
//! # Invariants
//! - The map only moves forward.
//! - A request for the leader ends within its deadline, with an answer or with who was tried.
//! - A change of leader is not seen by the caller; what it sends twice must be safe to be executed twice (questions,
//!   numbered batches, session nonces are).
//!
//! # Not here
//! Numbers and batches (`session`); chunks (`upload`, `download`).

mod attempts;
mod config;
mod connect;
mod flusher;
mod health;
mod leader;
mod leader_call;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use ring::{Epoch, NodeId};
use tokio::sync::Semaphore;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use wire::{
    Answer, Refusal, Reply, Request,
    chunk::{ChunkAnswer, ChunkRequest},
    cluster::{ClusterAnswer, ClusterMap, ClusterRequest, ClusterStatus, TokenPurpose},
    garbage::{GarbageAnswer, GarbageRequest, GarbageStatus},
    health::{HealthAnswer, HealthRequest, HealthStatus},
    moves::{MovesAnswer, MovesRequest},
    namespace::{NamespaceAnswer, NamespaceRequest, OpError, Query, QueryAnswer},
    quic::{CallError, Lane, Peers},
};

pub use config::{ClusterConfig, ClusterError};
pub(crate) use flusher::{FlushError, Flusher};
pub(crate) use health::Admission;
use health::PeerHealth;
use leader::LeaderTracker;

/// Questions in one request: what [`NamespaceRequest::Query`] takes.
pub(crate) const QUERIES_MAX: usize = 256;

/// Unit in which pools of chunk bytes are counted: a semaphore has 32 bits of permits, and small chunks cost a page.
const POOL_UNIT: u64 = 4096;

/// A cluster, as its client sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    peers: Peers,
    seeds: Vec<SocketAddr>,
    config: ClusterConfig,
    /// Guards the pointer alone.
    map: Mutex<Arc<ClusterMap>>,
    /// Guards the tracker alone.
    leader: Mutex<LeaderTracker>,
    /// Guards the memory alone.
    health: Mutex<PeerHealth>,
    /// Guards the table alone.
    flushers: Mutex<BTreeMap<NodeId, Arc<Flusher>>>,
    /// Guards the generator alone.
    rng: Mutex<StdRng>,
    /// Who refreshes the map holds it; the others wait for its result.
    refreshing: tokio::sync::Mutex<()>,
    /// Refreshes that ended, well or not.
    refreshes: AtomicU64,
    upload_pool: Arc<Semaphore>,
    straggler_pool: Arc<Semaphore>,
    download_pool: Arc<Semaphore>,
    /// Puts that go on after their quorum.
    stragglers: TaskTracker,
}

impl Cluster {
    fn new(peers: Peers, seeds: Vec<SocketAddr>, map: ClusterMap, config: ClusterConfig) -> Self {
        let pool =
            |bytes: u64| Arc::new(Semaphore::new(pool_units(bytes.max(u64::from(wire::CHUNK_LEN_MAX))) as usize));
        let shared = Shared {
            peers,
            seeds,
            map: Mutex::new(Arc::new(map)),
            leader: Mutex::default(),
            health: Mutex::default(),
            flushers: Mutex::default(),
            rng: Mutex::new(config.rng_seed.map_or_else(StdRng::from_os_rng, StdRng::from_seed)),
            refreshing: tokio::sync::Mutex::new(()),
            refreshes: AtomicU64::new(0),
            upload_pool: pool(config.upload_pool_bytes),
            straggler_pool: pool(config.upload_pool_bytes / 2),
            download_pool: pool(config.download_pool_bytes),
            stragglers: TaskTracker::new(),
            config,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The newest map known here. Does not ask.
    pub fn map(&self) -> Arc<ClusterMap> {
        Arc::clone(&self.shared.map.lock())
    }

    /// How it was configured.
    pub fn config(&self) -> &ClusterConfig {
        &self.shared.config
    }

    /// Asks for a newer map.
    pub async fn refresh(&self) -> Result<Arc<ClusterMap>, ClusterError> {
        self.refresh_unless(|_| false).await
    }

    /// Asks for a newer map, unless the one at hand is newer than `old` already. Those who ask while somebody else is
    /// asking take what that one is told, be it nothing: a hundred chunks that fail at once cost one question.
    pub(crate) async fn refresh_beyond(&self, old: Epoch) -> Result<Arc<ClusterMap>, ClusterError> {
        let map = self.map();
        if map.epoch > old {
            return Ok(map);
        }
        let before = self.shared.refreshes.load(Ordering::Acquire);
        let is_told = move |cluster: &Self| {
            cluster.map().epoch > old || cluster.shared.refreshes.load(Ordering::Acquire) > before
        };
        self.refresh_unless(is_told).await
    }

    /// Asks, once it is its turn, unless that is not needed any more. In a task: whoever waits may do so in a future that nobody
    /// polls for a while, and would keep the turn from all others.
    async fn refresh_unless(
        &self,
        is_told: impl FnOnce(&Self) -> bool + Send + 'static,
    ) -> Result<Arc<ClusterMap>, ClusterError> {
        let cluster = self.clone();
        let asked = tokio::spawn(async move {
            let _turn = cluster.shared.refreshing.lock().await;
            if !is_told(&cluster) {
                let fetched = cluster.fetch_map(&cluster.map()).await;
                cluster.shared.refreshes.fetch_add(1, Ordering::AcqRel);
                fetched?;
            }
            Ok(cluster.map())
        });
        AbortOnDropHandle::new(asked).await.expect("asking neither panics nor is aborted while it is awaited")
    }

    /// Takes in a map if it is newer.
    fn learn(&self, map: Option<Box<ClusterMap>>) {
        let mut current = self.shared.map.lock();
        if let Some(map) = map.filter(|map| map.epoch > current.epoch && map.cluster == current.cluster) {
            *current = Arc::from(map);
        }
    }

    /// Asks the namespace; any number of questions, answered in order. Those of one request (256) see one state.
    pub async fn query(&self, queries: Vec<Query>) -> Result<Vec<Result<QueryAnswer, OpError>>, ClusterError> {
        let mut answers = Vec::with_capacity(queries.len());
        let mut rest = queries;
        while !rest.is_empty() {
            let later = rest.split_off(rest.len().min(QUERIES_MAX));
            let asked = rest.len();
            match self.namespace(NamespaceRequest::Query(rest)).await? {
                NamespaceAnswer::Query(found) if found.len() == asked => answers.extend(found),
                _ => return Err(ClusterError::Confused),
            }
            rest = later;
        }
        Ok(answers)
    }

    /// Asks the leader's namespace, within the configured deadline.
    pub(crate) async fn namespace(&self, request: NamespaceRequest) -> Result<NamespaceAnswer, ClusterError> {
        let request = Request::Namespace(request);
        match self.call_leader(&request, self.config().deadline).await? {
            Answer::Namespace(answer) => Ok(answer),
            Answer::Chunk(_) | Answer::Cluster(_) | Answer::Raft(_) => Err(ClusterError::Confused),
        }
    }

    /// The state of the cluster, as its leader sees it.
    pub async fn status(&self) -> Result<ClusterStatus, ClusterError> {
        let request = Request::Cluster(ClusterRequest::Status);
        match self.call_leader(&request, self.config().deadline).await? {
            Answer::Cluster(ClusterAnswer::Status(status)) => Ok(*status),
            _ => Err(ClusterError::Confused),
        }
    }

    /// How far the collection of garbage is, as the leader sees it.
    pub async fn garbage(&self) -> Result<GarbageStatus, ClusterError> {
        let request = Request::Cluster(ClusterRequest::Garbage(GarbageRequest::Status));
        match self.call_leader(&request, self.config().deadline).await? {
            Answer::Cluster(ClusterAnswer::Garbage(GarbageAnswer::Status(status))) => Ok(*status),
            _ => Err(ClusterError::Confused),
        }
    }

    /// How nodes are beyond what their heartbeats say, as the leader sees it; none if it is of a release that does not
    /// tell.
    pub async fn health(&self) -> Result<Option<HealthStatus>, ClusterError> {
        let request = Request::Cluster(ClusterRequest::Health(HealthRequest::Status));
        match self.call_leader(&request, self.config().deadline).await {
            Ok(Answer::Cluster(ClusterAnswer::Health(HealthAnswer::Status(status)))) => Ok(Some(*status)),
            Ok(_) => Err(ClusterError::Confused),
            Err(ClusterError::Refused(Refusal::Malformed)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks about nodes that come and go, or for one to.
    pub async fn moves(&self, request: MovesRequest) -> Result<MovesAnswer, ClusterError> {
        let request = Request::Cluster(ClusterRequest::Moves(request));
        match self.call_leader(&request, self.config().deadline).await? {
            Answer::Cluster(ClusterAnswer::Moves(answer)) => Ok(answer),
            _ => Err(ClusterError::Confused),
        }
    }

    /// The text of a new token.
    pub async fn create_token(&self, purpose: TokenPurpose, lifetime: Duration) -> Result<String, ClusterError> {
        let lifetime_s = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let request = Request::Cluster(ClusterRequest::CreateToken { purpose, lifetime_s });
        match self.call_leader(&request, self.config().deadline).await? {
            Answer::Cluster(ClusterAnswer::Token(text)) => Ok(text),
            _ => Err(ClusterError::Confused),
        }
    }

    /// Asks the chunk store of `node`, and remembers how it went.
    pub(crate) async fn chunk(
        &self,
        node: NodeId,
        request: ChunkRequest,
        body: &[Bytes],
        deadline: Duration,
    ) -> Result<(ChunkAnswer, Bytes), ChunkCallError> {
        let address = self.map().node(node).ok_or(ChunkCallError::NotAMember)?.address;
        let _load = Load::new(self, node);
        let lane = match &request {
            ChunkRequest::Put { .. } | ChunkRequest::Get { .. } | ChunkRequest::List { .. } => Lane::Bulk,
            // These must not wait behind megabytes.
            ChunkRequest::Sync { .. } | ChunkRequest::Has { .. } | ChunkRequest::Suspect { .. } => Lane::Control,
            ChunkRequest::Digest { .. } | ChunkRequest::Keep { .. } => Lane::Control,
        };
        let request = Request::Chunk(request);
        let called = self.shared.peers.call(node, address, lane, &request, body, deadline).await;
        match called {
            Ok((reply, body)) => {
                self.note_reply(node, &reply);
                match reply? {
                    Answer::Chunk(answer) => Ok((answer, body)),
                    Answer::Namespace(_) | Answer::Cluster(_) | Answer::Raft(_) => Err(ChunkCallError::Confused),
                }
            }
            Err(error) => {
                self.shared.health.lock().handle_failure(node, now());
                Err(ChunkCallError::Call(error))
            }
        }
    }

    /// A node that cannot serve is as good as silent; any other word is a sign of life.
    fn note_reply(&self, node: NodeId, reply: &Reply) {
        let mut health = self.shared.health.lock();
        match reply {
            Err(Refusal::NotServing | Refusal::DiskFailed | Refusal::UnknownPeer) => health.handle_failure(node, now()),
            _ => health.handle_success(node, now()),
        }
    }

    /// Nodes' conduct lately, for those who choose among replicas.
    pub(crate) fn with_health<T>(&self, look: impl FnOnce(&mut PeerHealth) -> T) -> T {
        look(&mut self.shared.health.lock())
    }

    /// What makes puts on `node` stable.
    pub(crate) fn flusher(&self, node: NodeId) -> Arc<Flusher> {
        Arc::clone(self.shared.flushers.lock().entry(node).or_default())
    }

    /// 16 random bytes.
    pub(crate) fn random_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.shared.rng.lock().fill_bytes(&mut bytes);
        bytes
    }

    pub(crate) fn upload_pool(&self) -> &Arc<Semaphore> {
        &self.shared.upload_pool
    }

    pub(crate) fn straggler_pool(&self) -> &Arc<Semaphore> {
        &self.shared.straggler_pool
    }

    pub(crate) fn download_pool(&self) -> &Arc<Semaphore> {
        &self.shared.download_pool
    }

    /// Where puts go on after their quorum; [`Cluster::drain`] waits for them.
    pub(crate) fn stragglers(&self) -> &TaskTracker {
        &self.shared.stragglers
    }

    /// Waits (bounded) for replicas that lag behind their quorum.
    pub async fn drain(&self) {
        let stragglers = &self.shared.stragglers;
        stragglers.close();
        // Those that do not make it in time are the repair's: the bytes are safe on their quorum.
        let _lagging = tokio::time::timeout(DRAIN_DEADLINE, stragglers.wait()).await.is_err();
        stragglers.reopen();
    }

    /// Says good-bye to the nodes (bounded).
    pub async fn close(&self) {
        self.shared.peers.endpoint().hang_up().await;
    }
}

/// How long a command waits at its end for a third replica; the second has the bytes.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// Why a chunk store gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChunkCallError {
    /// The map does not know the node (any more).
    #[error("no member of the cluster")]
    NotAMember,
    /// It refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// It did not answer.
    #[error(transparent)]
    Call(CallError),
    /// The answer is to another question.
    #[error("an answer to another question")]
    Confused,
}

/// Counts a request under way, also when its future is dropped.
struct Load<'a> {
    cluster: &'a Cluster,
    node: NodeId,
}

impl<'a> Load<'a> {
    fn new(cluster: &'a Cluster, node: NodeId) -> Self {
        cluster.with_health(|health| health.handle_start(node));
        Self { cluster, node }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.cluster.with_health(|health| health.handle_end(self.node));
    }
}

/// Permits that `bytes` take of a pool.
pub(crate) fn pool_units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(POOL_UNIT).max(1)).expect("a pool is smaller than 16 TiB")
}

/// The clock, for pure deciders. Virtual in a simulation.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
