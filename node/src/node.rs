//! The parts of a running node, and what they share.
//!
//! # Invariants
//! - The map in use only moves forward.
//! - `leader` state is soft: it begins anew with each term that this node leads.
//!
//! # Not here
//! Files and arguments (`main`, `disk::data_dir`): a simulation makes [`Parts`] of its own.

mod addresses;
mod seal;
mod site;
mod transport;

use std::{collections::BTreeSet, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use ring::{Epoch, NodeId, ReplicaCount};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use wire::{
    Answer, Refusal, Request,
    cluster::{ClusterAnswer, ClusterId, ClusterMap, ClusterRequest, RaftRole, SealKey, StoreReport},
    quic::{Credentials, Endpoint, EndpointConfig, Lane, Peers, PeersConfig, Socket},
};

use self::addresses::note_addresses;
pub use self::addresses::{Addresses, KeepAddresses};
pub use self::site::{Site, WeightSource};
use self::transport::{PeerTransport, no_answer};

use crate::{
    chunk_store::{ChunkStore, ChunkStoreConfig},
    config::Config,
    consensus::{Consensus, ConsensusConfig, WallClock},
    disk::Disk,
    garbage,
    kv::KvStore,
    lease::Leases,
    membership::{Detector, Founding, Moves, Reports, Sessions, StandIns},
    namespace,
    repair::RepairState,
};

/// Heartbeats missed in a row without a closer look: writers wait that long for the last replica of a chunk.
const HEARTBEATS_MISSED_MAX: u32 = 3;

/// What a node is made of.
pub struct Parts {
    /// Who it is.
    pub id: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Replicas that the cluster keeps.
    pub replicas: ReplicaCount,
    /// Where it stands.
    pub site: Site,
    /// Members to start from.
    pub seeds: Vec<SocketAddr>,
    /// Where the nodes were reached when it last ran: a node without its rows has no other way to the others.
    pub addresses: Addresses,
    /// Puts on stable storage where the nodes are reached.
    pub keep_addresses: KeepAddresses,
    /// What it shows to others.
    pub credentials: Arc<Credentials>,
    /// What it stands on.
    pub socket: Socket,
    /// The medium of the Raft log: its own, so that a log append never waits for a chunk sync.
    pub log_disk: Arc<dyn Disk>,
    /// Directory of the Raft log.
    pub log_dir: PathBuf,
    /// The medium of the segments.
    pub chunk_disk: Arc<dyn Disk>,
    /// Directory of the segments.
    pub chunk_dir: PathBuf,
    /// Rows of the state machine.
    pub state: Arc<dyn KvStore>,
    /// Rows of the chunk index.
    pub index: Arc<dyn KvStore>,
    /// The wall clock, for stamps.
    pub clock: Arc<dyn WallClock>,
    /// Seed of all randomness.
    pub seed: u64,
    /// Limits of the chunk store.
    pub chunk_store: ChunkStoreConfig,
    /// The key that unseals the authority's, if this node has it.
    pub seal: Option<SealKey>,
    /// Puts the seal on stable storage.
    pub keep_seal: KeepSeal,
    /// On the node that founds the cluster: what the cluster begins with.
    pub founding: Option<Founding>,
}

/// Puts the seal on stable storage.
pub type KeepSeal = Box<dyn Fn(&SealKey) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The chunk store does not open.
    #[error("the chunk store does not open")]
    Chunks(#[source] crate::chunk_store::OpenError),
    /// The Raft log or state does not open.
    #[error("the namespace does not open")]
    Consensus(#[source] crate::consensus::OpenError),
    /// The network does not answer.
    #[error("the network endpoint does not open")]
    Network(#[from] wire::quic::BindError),
}

/// A running node: what its tasks share.
pub struct Node {
    /// Who it is.
    pub id: NodeId,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Where it stands.
    pub site: Site,
    /// Limits.
    pub config: Config,
    /// Its chunks.
    pub chunks: ChunkStore,
    /// Its part in the namespace.
    pub consensus: Consensus,
    /// Connections to others.
    pub peers: Peers,
    /// The wall clock.
    pub clock: Arc<dyn WallClock>,
    /// What the leader knows and does not replicate. Guards itself alone; never held across an await.
    pub leader: Mutex<Option<LeaderState>>,
    /// Rung when something that requests wait for at the leases may have happened.
    pub lease_bells: LeaseBells,
    /// What is lacking here and being fetched.
    pub repair: RepairState,
    /// Stops everything.
    pub stop: CancellationToken,
    /// Everything that must end before the node has stopped.
    pub tasks: TaskTracker,
    /// Bodies in memory, in bytes.
    pub bodies: Arc<Semaphore>,
    /// Requests under way.
    pub requests: Arc<Semaphore>,
    /// Requests that wait for leases.
    pub lease_waits: Semaphore,
    /// Requests that listen for recalls.
    pub recall_listeners: Arc<Semaphore>,
    /// Requests of nodes about Raft and the cluster under way.
    pub peer_requests: Arc<Semaphore>,
    /// Bodies of Raft messages in memory, in bytes.
    pub raft_bodies: Arc<Semaphore>,
    /// Redemptions under way.
    pub redemptions: Semaphore,
    seeds: Vec<SocketAddr>,
    map: Arc<watch::Sender<Option<Arc<ClusterMap>>>>,
    transport: PeerTransport,
    /// The leader as others told it: for nodes without a part in Raft. Guards itself alone.
    told_leader: Mutex<Option<NodeId>>,
    /// Guards itself alone.
    seal: Mutex<Option<SealKey>>,
    keep_seal: KeepSeal,
    /// Guards itself alone.
    rng: Mutex<StdRng>,
    /// Which leader heard this node last, and when. Guards itself alone.
    heard: Mutex<Option<(NodeId, Instant)>>,
}

/// Soft state of a term.
#[derive(Debug)]
pub struct LeaderState {
    /// Which term.
    pub term: u64,
    /// Who is silent.
    pub detector: Detector,
    /// What sessions said.
    pub sessions: Sessions,
    /// What sessions may cache.
    pub leases: Leases,
    /// How far nodes are with deleting.
    pub garbage: garbage::Lead,
    /// What nodes have taken over.
    pub moves: Moves,
    /// Who is away, and what its owners have made whole.
    pub stand_ins: StandIns,
    /// What nodes say of themselves.
    pub reports: Reports,
}

/// For requests that wait at the leases: the table itself is pure.
#[derive(Debug, Default)]
pub struct LeaseBells {
    /// An inode, a lease, or the grace.
    pub freed: tokio::sync::Notify,
    /// Recalls.
    pub recalled: tokio::sync::Notify,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Node {
    /// Opens the stores and starts to serve. Stops when [`Node::shut_down`] is called.
    pub async fn start(parts: Parts, config: Config) -> Result<Arc<Self>, StartError> {
        let mut rng = StdRng::seed_from_u64(parts.seed);
        let endpoint = Endpoint::new(EndpointConfig {
            socket: parts.socket,
            credentials: Some(parts.credentials),
            cluster: Some(parts.cluster),
            serve: true,
            rng_seed: Some(rng.random()),
        })?;
        let peers = Peers::new(endpoint.clone(), PeersConfig::default());
        let store_rng = Box::new(StdRng::from_rng(&mut rng));
        let (chunks, opened) =
            ChunkStore::open(parts.chunk_disk, &parts.chunk_dir, parts.index, parts.chunk_store, store_rng)
                .await
                .map_err(StartError::Chunks)?;
        info!(?opened, "chunk store open");
        let map = Arc::new(watch::Sender::new(None));
        let transport = PeerTransport::new(peers.clone(), map.clone(), &parts.seeds, &parts.addresses);
        let raft = ConsensusConfig::new(parts.id, rng.random());
        let consensus = Consensus::open(
            raft,
            parts.log_disk,
            &parts.log_dir,
            parts.state,
            Arc::new(transport.clone()),
            parts.clock.clone(),
        )
        .await
        .map_err(StartError::Consensus)?;
        let permits = |bytes: u32| Arc::new(Semaphore::new(usize::try_from(bytes).expect("a u32 fits a usize")));
        let node = Arc::new(Self {
            id: parts.id,
            cluster: parts.cluster,
            site: parts.site,
            chunks,
            consensus,
            peers,
            clock: parts.clock,
            leader: Mutex::new(None),
            lease_bells: LeaseBells::default(),
            repair: RepairState::new(&config.repair),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            bodies: permits(config.serve.body_bytes),
            requests: Arc::new(Semaphore::new(config.serve.requests)),
            lease_waits: Semaphore::new(config.serve.lease_waits),
            recall_listeners: Arc::new(Semaphore::new(config.serve.recall_listeners)),
            peer_requests: Arc::new(Semaphore::new(config.serve.peer_requests)),
            raft_bodies: permits(config.serve.raft_body_bytes),
            redemptions: Semaphore::new(config.serve.redemptions),
            seeds: parts.seeds,
            map,
            transport,
            told_leader: Mutex::new(None),
            seal: Mutex::new(parts.seal),
            keep_seal: parts.keep_seal,
            rng: Mutex::new(rng),
            heard: Mutex::default(),
            config,
        });
        node.refresh_local_map();
        node.tasks.spawn(crate::serve::accept(node.clone(), endpoint));
        node.tasks.spawn(crate::membership::run(node.clone(), parts.founding));
        node.tend_copies();
        node.tasks.spawn(note_addresses(node.clone(), parts.addresses, parts.keep_addresses));
        Ok(node)
    }

    /// Sees to it that the right copies are here, and no others.
    fn tend_copies(self: &Arc<Self>) {
        self.tasks.spawn(crate::repair::run(self.clone()));
        self.tasks.spawn(crate::repair::take_over(self.clone()));
        self.tasks.spawn(crate::repair::clean(self.clone()));
        self.tasks.spawn(crate::repair::drop_leftovers(self.clone()));
        self.tasks.spawn(crate::repair::scrub(self.clone()));
        self.tasks.spawn(garbage::run(self.clone()));
        self.tasks.spawn(garbage::keep_compact(self.clone()));
        self.tasks.spawn(crate::checkpoint::run(self.clone()));
        self.tasks.spawn(crate::merge::run(self.clone()));
    }

    /// Stops serving, tells the peers, and waits for everything to end.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        self.peers.endpoint().close().await;
        self.tasks.close();
        self.tasks.wait().await;
        self.consensus.stop().await;
        if let Err(error) = self.chunks.clone().close().await {
            warn!(%error, "the chunk store was not closed as it should be; its next start looks again");
        }
    }

    /// The map in use, if this node has one.
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.map.borrow().clone()
    }

    /// Tells of every new map.
    pub fn watch_map(&self) -> watch::Receiver<Option<Arc<ClusterMap>>> {
        self.map.subscribe()
    }

    /// Takes `map` into use if it is newer.
    pub fn offer_map(&self, map: ClusterMap) {
        offer(&self.map, map);
    }

    /// `node` says that it is reached at `address`.
    pub fn note_moved(&self, node: NodeId, address: SocketAddr) {
        self.transport.note_moved(node, address);
    }

    /// Takes the map of the local state machine into use, if this node has one and it is newer.
    pub fn refresh_local_map(&self) {
        let read = || self.consensus.local_rows()?.map_or(Ok(None), |rows| namespace::cluster_map(&*rows));
        match read() {
            Ok(Some(map)) => self.offer_map(map),
            Ok(None) => {}
            Err(error) => warn!(%error, "the cluster map cannot be read"),
        }
    }

    /// Makes sure that the map in use is at least at `epoch`: false if that did not work in time.
    pub async fn catch_up_to(&self, epoch: Epoch, deadline: Duration) -> bool {
        let behind = || self.map().is_none_or(|map| map.epoch < epoch);
        if behind() {
            self.refresh_local_map();
        }
        if behind() {
            self.fetch_map(deadline).await;
        }
        !behind()
    }

    /// Asks the leader, or any seed, for a newer map, and learns who leads.
    pub async fn fetch_map(&self, deadline: Duration) {
        let known = self.map().map(|map| map.epoch);
        let request = Request::Cluster(ClusterRequest::Map { known });
        let answer = match self.leader_id() {
            Some(leader) if leader != self.id => self.ask(leader, &request, deadline).await,
            _ => Err(Refusal::NotLeader { leader: None }),
        };
        let answer = match answer {
            Ok(answer) => Ok(answer),
            Err(_) => self.ask_anybody(&request, deadline).await,
        };
        if let Ok(Answer::Cluster(ClusterAnswer::Map { map, leader })) = answer {
            if let Some(map) = map {
                self.offer_map(*map);
            }
            if leader.is_some() {
                *self.told_leader.lock() = leader;
            }
        }
    }

    /// The first of the members and seeds that has anything to say.
    async fn ask_anybody(&self, request: &Request, deadline: Duration) -> Result<Answer, Refusal> {
        let members = self.map().map(|map| map.nodes.iter().map(|row| row.address).collect::<Vec<_>>());
        let addresses = members.unwrap_or_default().into_iter().chain(self.seeds.iter().copied());
        let mut asked = BTreeSet::from([self.site.advertise]);
        for address in addresses {
            if !asked.insert(address) {
                continue;
            }
            let Ok((_, connection)) = self.peers.connect_seed(address).await else { continue };
            let nothing =
                |answer: &Answer| matches!(answer, Answer::Cluster(ClusterAnswer::Map { map: None, leader: None }));
            if let Ok((Ok(answer), _)) = connection.call(request, &[], deadline).await
                && !nothing(&answer)
            {
                return Ok(answer);
            }
        }
        Err(Refusal::NotLeader { leader: None })
    }

    /// Who leads, as far as this node knows.
    pub fn leader_id(&self) -> Option<NodeId> {
        let (role, _, leader) = self.consensus.standing();
        match role {
            RaftRole::Leader | RaftRole::Voter | RaftRole::Learner => leader,
            RaftRole::None => *self.told_leader.lock(),
        }
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.consensus.standing().0 == RaftRole::Leader
    }

    /// Runs `f` on the soft state of the term that this node leads; none if it does not lead.
    pub fn with_leader_state<T>(&self, f: impl FnOnce(&mut LeaderState) -> T) -> Option<T> {
        let (role, term, _) = self.consensus.standing();
        let mut state = self.leader.lock();
        if role != RaftRole::Leader {
            *state = None;
            return None;
        }
        if state.as_ref().is_none_or(|state| state.term != term) {
            let now = Instant::now();
            let membership = &self.config.membership;
            *state = Some(LeaderState {
                term,
                detector: Detector::new(membership.down_after, now),
                sessions: Sessions::new(membership.session_lifetime, now),
                leases: Leases::new(term, now),
                garbage: garbage::Lead::default(),
                moves: Moves::new(membership.out_after),
                stand_ins: StandIns::new(membership.down_after),
                reports: Reports::default(),
            });
        }
        state.as_mut().map(f)
    }

    /// Runs `f` on the leases of the term that this node leads, and wakes who waits for what it did.
    pub fn with_leases<T>(&self, f: impl FnOnce(&mut Leases) -> T) -> Option<T> {
        let (done, wakes) = self.with_leader_state(|leader| (f(&mut leader.leases), leader.leases.take_wakes()))?;
        if wakes.freed {
            self.lease_bells.freed.notify_waiters();
        }
        if wakes.recalled {
            self.lease_bells.recalled.notify_waiters();
        }
        Some(done)
    }

    /// Asks another node over its control connection.
    pub async fn ask(&self, to: NodeId, request: &Request, deadline: Duration) -> Result<Answer, Refusal> {
        let address = self.map().and_then(|map| map.node(to).map(|row| row.address)).ok_or(Refusal::UnknownPeer)?;
        let call = self.peers.call(to, address, Lane::Control, request, &[], deadline).await;
        call.map_err(|error| no_answer(&error)).and_then(|(reply, _)| reply)
    }

    /// Asks the leader, which is another node.
    pub async fn ask_leader(&self, request: &Request, deadline: Duration) -> Result<Answer, Refusal> {
        if self.leader_id().is_none() {
            self.fetch_map(deadline).await;
        }
        match self.leader_id() {
            Some(leader) if leader != self.id => self.ask(leader, request, deadline).await,
            leader => Err(Refusal::NotLeader { leader }),
        }
    }

    /// What this node says of its store.
    pub async fn store_report(&self) -> StoreReport {
        let report = self.chunks.report().await;
        StoreReport { lacking: self.repair.lacking(), starved: self.config.starved.get(), ..report }
    }

    /// Random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.rng.lock().fill(&mut bytes[..]);
        bytes
    }

    /// Notes that `leader` hears this node; returns whether puts may have passed it by since it was last heard: after a
    /// silence, and after it took itself for the leader while others may have gone on under another.
    pub fn note_heard(&self, leader: NodeId, now: Instant) -> bool {
        let gap_max = self.config.membership.heartbeat * HEARTBEATS_MISSED_MAX;
        match self.heard.lock().replace((leader, now)) {
            None => true,
            Some((before, at)) => now.duration_since(at) > gap_max || (before == self.id && leader != self.id),
        }
    }

    /// Notes that no leader hears this node; returns whether one did before.
    pub fn note_unheard(&self) -> bool {
        self.heard.lock().take().is_some()
    }
}

/// Takes `map` into use if it is newer.
fn offer(current: &watch::Sender<Option<Arc<ClusterMap>>>, map: ClusterMap) {
    current.send_if_modified(|current| {
        let newer = current.as_ref().is_none_or(|current| current.epoch < map.epoch);
        if newer {
            info!(epoch = %map.epoch, nodes = map.nodes.len(), ring = map.ring.is_some(), "cluster map");
            *current = Some(Arc::new(map));
        }
        newer
    });
}
