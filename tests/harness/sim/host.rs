//! Hosts of the simulation: nodes whose disks outlive them, and a client.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use fuse_client::{Caller, Cluster, ClusterConfig, Namespace};
use node::{
    authority::seal,
    chunk_store::ChunkStoreConfig,
    config::{Config, GarbageConfig, MembershipConfig, MergeConfig, RepairConfig, ServeConfig},
    consensus::{Health, View, WallClock},
    disk::{SimDisk, SimOptions, ballast::Starved},
    kv::MemoryKv,
    membership::Founding,
    namespace,
    node::{Node, Parts, Site},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use ring::{NodeId, ReplicaCount, Weight};
use tokio::sync::watch;
use wire::{
    cluster::{Access, ClientId, ClusterId, Newcomer, NodeRow, Peer, Redeem, SealKey, TokenPurpose},
    namespace::Timestamp,
    quic::{AuthorityKey, Credentials, Endpoint, EndpointConfig, KeyPair},
    token::Token,
};

use super::{Trace, socket};

/// Port of every node.
const PORT: u16 = 7400;

/// Port from which the first newcomer shows its token; the others have the next.
const NEWCOMER_PORT: u16 = 7300;

/// Host of the client that makes the changes.
pub const CLIENT: &str = "client";

/// What outlives the processes: identities and media.
#[derive(Debug)]
pub struct World {
    /// Seed of everything.
    pub seed: u64,
    /// The nodes.
    pub nodes: Vec<Arc<SimNode>>,
    /// What happened.
    pub trace: Trace,
    cluster: ClusterId,
    authority: AuthorityKey,
    client: (ClientId, Vec<u8>, Vec<u8>),
    /// Whether the first node has let the client in: a client that comes before that is a stranger.
    first_client_known: watch::Sender<bool>,
}

/// A node's identity and media.
#[derive(Debug)]
pub struct SimNode {
    /// Name of its host.
    pub host: String,
    /// Who it is.
    pub id: NodeId,
    /// Its segments.
    pub chunk_disk: SimDisk,
    /// Its Raft log.
    pub log_disk: SimDisk,
    key: Vec<u8>,
    certificate: Vec<u8>,
    /// Rows of the state machine and of the chunk index, as they are, or as a crash left them.
    stores: Mutex<(MemoryKv, MemoryKv)>,
    seal: Arc<Mutex<Option<SealKey>>>,
    starts: Mutex<u64>,
    /// Whether it may start: it has joined.
    admitted: watch::Sender<bool>,
}

/// The wall clock of a node. P6, "No wall clock and no luck in safety": each goes wrong by up to days, in another way at
/// each start, and every promise that a story checks holds all the same.
#[derive(Debug)]
struct SimClock {
    wrong_by_s: i64,
}

impl SimClock {
    fn new(seed: u64) -> Self {
        Self { wrong_by_s: StdRng::seed_from_u64(seed).random_range(-300_000..300_000) }
    }
}

impl WallClock for SimClock {
    fn now(&self) -> Timestamp {
        let now = wall_clock();
        Timestamp::new(now.seconds() + self.wrong_by_s, now.nanoseconds()).unwrap()
    }
}

/// The time of day.
pub(super) fn wall_clock() -> Timestamp {
    let since = turmoil::since_epoch().unwrap_or_default();
    Timestamp::new(i64::try_from(since.as_secs()).unwrap(), since.subsec_nanos()).unwrap()
}

impl World {
    /// `count` nodes that have never run.
    pub fn new(seed: u64, count: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let cluster = ClusterId(rng.random());
        let authority = AuthorityKey::generate(cluster);
        let client_key = KeyPair::generate();
        let client_id = ClientId(rng.random());
        let client_certificate =
            authority.sign(&client_key.request(), Peer::Client(client_id), Access::ReadWrite).unwrap();
        let nodes = (1..=count).map(|number| Arc::new(SimNode::new(number, &authority, &mut rng))).collect();
        let client = (client_id, client_key.to_pkcs8(), client_certificate);
        let first_client_known = watch::Sender::new(false);
        Self { seed, nodes, trace: Trace::default(), cluster, authority, client, first_client_known }
    }

    /// What node `index` (from 0) is started from, on its host.
    async fn parts(&self, index: usize) -> Parts {
        let node = self.nodes.get(index).unwrap();
        let start = {
            let mut starts = node.starts.lock().unwrap();
            *starts += 1;
            *starts
        };
        let seed = self.seed ^ ((index as u64 + 1) << 32) ^ start;
        let authority = self.authority.authority().clone();
        let key = KeyPair::from_pkcs8(&node.key).unwrap();
        let credentials = Credentials::new(key, node.certificate.clone(), authority).unwrap();
        let (state, index_rows) = node.stores.lock().unwrap().clone();
        let (seal, seal_slot) = (node.seal.lock().unwrap().clone(), node.seal.clone());
        let founding = (index == 0).then(|| self.founding());
        Parts {
            id: node.id,
            cluster: self.cluster,
            replicas: ReplicaCount::new(3).unwrap(),
            site: Site::of(&node.row()),
            seeds: self.nodes.iter().map(|node| address(&node.host)).collect(),
            addresses: BTreeMap::new(),
            keep_addresses: Box::new(|_| Ok(())),
            credentials: Arc::new(credentials),
            socket: socket::bind(&node.host, PORT, &self.trace).await.unwrap(),
            log_disk: node.log_disk.process(),
            log_dir: PathBuf::from("/log"),
            chunk_disk: node.chunk_disk.process(),
            chunk_dir: PathBuf::from("/chunks"),
            state: Arc::new(state),
            index: Arc::new(index_rows),
            clock: Arc::new(SimClock::new(seed)),
            seed,
            chunk_store: ChunkStoreConfig::default(),
            seal,
            keep_seal: Box::new(move |seal| {
                *seal_slot.lock().unwrap() = Some(seal.clone());
                Ok(())
            }),
            founding,
        }
    }

    fn founding(&self) -> Founding {
        let node = self.nodes.first().unwrap();
        let seal_key = node.seal.lock().unwrap().clone().unwrap();
        let client_key = KeyPair::from_pkcs8(&self.client.1).unwrap();
        Founding {
            replicas: ReplicaCount::new(3).unwrap(),
            node: node.row(),
            authority: self.authority.authority().certificate.clone(),
            sealed_key: seal(&self.authority, &seal_key, [7; 12]),
            client: Some((self.client.0, client_key.fingerprint())),
            owner: (0, 0),
        }
    }

    /// Runs node `index` until its host crashes.
    pub async fn run_node(self: Arc<Self>, index: usize) -> turmoil::Result {
        let node = self.nodes.get(index).unwrap().clone();
        node.admitted.subscribe().wait_for(|admitted| *admitted).await?;
        self.trace.note(format_args!("{} starts", node.host));
        let parts = self.parts(index).await;
        let config = Config {
            data: PathBuf::from("/"),
            listen: address(&node.host),
            serve: ServeConfig::default(),
            membership: MembershipConfig::default(),
            repair: RepairConfig::default(),
            // Often, so that a short story sees deletions in every stage.
            garbage: GarbageConfig {
                poll: Duration::from_secs(1),
                grace: Duration::from_millis(500),
                sweep: Duration::from_secs(3),
                raise_every: Duration::from_millis(500),
            },
            merge: MergeConfig { rest: Duration::from_secs(1) },
            starved: Starved::default(),
        };
        let running = Node::start(parts, config).await?;
        self.tell_when_founded(&running).await;
        let mut view = running.consensus.watch();
        let failed = |view: &View| matches!(view.health, Health::Failed { .. });
        view.wait_for(failed).await.ok();
        // What the program does: it ends.
        self.trace.note(format_args!("{} fails", node.host));
        running.shut_down().await;
        Ok(())
    }

    /// Waits until the cluster knows its first client.
    async fn tell_when_founded(&self, node: &Node) {
        let (id, key, _) = &self.client;
        let key = KeyPair::from_pkcs8(key).unwrap().fingerprint();
        while !*self.first_client_known.borrow() {
            let rows = node.consensus.local();
            let known = namespace::identify(&*rows, &Peer::Client(*id), &key).unwrap().is_some();
            self.first_client_known.send_if_modified(|told| known && !std::mem::replace(told, known));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A client, on the clients' host, at a port of its own.
    pub async fn client(&self, port: u16) -> Namespace {
        let authority = self.authority.authority().clone();
        let key = KeyPair::from_pkcs8(&self.client.1).unwrap();
        let credentials = Credentials::new(key, self.client.2.clone(), authority).unwrap();
        let mut rng = StdRng::seed_from_u64(self.seed ^ u64::from(port));
        let endpoint = Endpoint::new(EndpointConfig {
            socket: socket::bind(CLIENT, port, &self.trace).await.unwrap(),
            credentials: Some(Arc::new(credentials)),
            cluster: Some(self.cluster),
            serve: false,
            rng_seed: Some(rng.random()),
        });
        let seeds = self.nodes.iter().map(|node| address(&node.host)).collect();
        let config = ClusterConfig {
            rng_seed: Some(rng.random()),
            deadline: Duration::from_secs(30),
            ..ClusterConfig::default()
        };
        let endpoint = endpoint.unwrap();
        self.first_client_known.subscribe().wait_for(|known| *known).await.unwrap();
        let cluster = Cluster::over(endpoint, seeds, config).await.unwrap();
        Namespace::new(cluster, Caller::ROOT)
    }

    /// Lets node `index` into the cluster, as `dfs-node join` would on its host: by a token that `client` makes.
    pub async fn admit(&self, client: &Namespace, index: usize) {
        let node = self.nodes.get(index).unwrap();
        let row = node.row();
        let newcomer = Newcomer::Node { id: row.id, address: row.address, zone: row.zone, weight: row.weight };
        let request = KeyPair::from_pkcs8(&node.key).unwrap().request();
        let endpoint = Endpoint::new(EndpointConfig {
            socket: socket::bind(CLIENT, NEWCOMER_PORT + u16::try_from(index).unwrap(), &self.trace).await.unwrap(),
            credentials: None,
            cluster: None,
            serve: false,
            rng_seed: Some([u8::try_from(index).unwrap(); 32]),
        });
        let endpoint = endpoint.unwrap();
        'redeemed: loop {
            // With another token each time: who makes one may be gone before it is known.
            let text = client.cluster().create_token(TokenPurpose::Node, Duration::from_secs(60)).await;
            let token: Option<Token> = text.ok().map(|text| text.parse().unwrap());
            let Some(Token { secret, authority, seeds, .. }) = token else { continue };
            let redeem = Redeem { secret, request: request.clone(), newcomer: newcomer.clone() };
            for seed in seeds {
                if let Ok(redeemed) = endpoint.redeem(seed, authority, &redeem, Duration::from_secs(5)).await {
                    assert_eq!(redeemed.cluster, self.cluster);
                    break 'redeemed;
                }
            }
        }
        endpoint.close().await;
        self.trace.note(format_args!("{} admitted", node.host));
        node.admitted.send_replace(true);
    }
}

impl SimNode {
    fn new(number: usize, authority: &AuthorityKey, rng: &mut StdRng) -> Self {
        let id = NodeId::from_bytes(rng.random());
        let key = KeyPair::generate();
        let certificate = authority.sign(&key.request(), Peer::Node(id), Access::ReadWrite).unwrap();
        let disk = |seed| SimDisk::new(SimOptions { seed, ..SimOptions::default() });
        Self {
            host: format!("node-{number}"),
            id,
            chunk_disk: disk(rng.random()),
            log_disk: disk(rng.random()),
            key: key.to_pkcs8(),
            certificate,
            stores: Mutex::new((MemoryKv::new(), MemoryKv::new())),
            seal: Arc::new(Mutex::new((number == 1).then(|| SealKey(rng.random())))),
            starts: Mutex::new(0),
            admitted: watch::Sender::new(number == 1),
        }
    }

    /// Its row of the cluster map.
    pub fn row(&self) -> NodeRow {
        NodeRow {
            id: self.id,
            address: address(&self.host),
            zone: None,
            weight: Weight(std::num::NonZeroU32::MIN),
            key: KeyPair::from_pkcs8(&self.key).unwrap().fingerprint(),
        }
    }

    /// The process is killed: what it had written stays. Call when the host has crashed.
    pub fn kill(&self) {
        self.chunk_disk.kill();
        self.log_disk.kill();
    }

    /// The power goes: what was not synced is lost, as its medium and `chance` please. Call when the host has crashed.
    pub fn lose_power(&self, chance: &mut StdRng) {
        self.chunk_disk.power_cycle();
        self.log_disk.power_cycle();
        // Mostly all that was not made durable goes, on all nodes that lose power together.
        let mut after_crash = |kv: &MemoryKv| match chance.random_range(0..3) {
            0 => kv.after_crash(chance.random_range(0..=kv.unpersisted())),
            _ => kv.after_crash(0),
        };
        let mut stores = self.stores.lock().unwrap();
        *stores = (after_crash(&stores.0), after_crash(&stores.1));
    }
}

/// Where a host's node listens.
fn address(host: &str) -> SocketAddr {
    let ip: IpAddr = turmoil::lookup(host);
    SocketAddr::new(ip, PORT)
}
