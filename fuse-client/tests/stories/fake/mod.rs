//! A cluster of three nodes in this process: chunks in maps, names in a small state machine, over real QUIC on
//! loopback. Faults are switched on by the tests.

mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fuse_client::{Caller, Cluster, ClusterConfig, Namespace, Profile, config::ProfileKey};
use parking_lot::Mutex;
use ring::{ChunkKey, Epoch, GcEpoch, Member, NodeId, PartitionBits, ReplicaCount, Ring, Weight};
use wire::{
    Answer, Refusal, Reply, Request,
    chunk::{ChunkAnswer, ChunkRequest, Durability, Incarnation},
    cluster::{
        Access, ClientId, ClusterAnswer, ClusterId, ClusterMap, ClusterRequest, KeyFingerprint, Newcomer, NodeRow,
        Peer, PeerAccess, Redeem, Redeemed, TokenPurpose,
    },
    namespace::{Batch, ExtentBody, InodeRange, NamespaceAnswer, NamespaceRequest, SessionId},
    quic::{Accepted, AuthorityKey, Connection, Credentials, Endpoint, EndpointConfig, Exchange, KeyPair, bind_udp},
    token::Token,
    tree,
};

pub(crate) use names::Names;

const CLUSTER: ClusterId = ClusterId([7; 16]);
const SECRET: [u8; 32] = [3; 32];

/// One chunk store.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) incarnation: u64,
    pub(crate) buffered: BTreeMap<ChunkKey, Bytes>,
    pub(crate) stable: BTreeMap<ChunkKey, Bytes>,
    /// Answers nothing at all.
    pub(crate) silent: bool,
    /// The next so many puts are accepted and then lost: the store dies and comes back before it syncs.
    pub(crate) crashes: u32,
    /// Its copies are handed out with a bit flipped.
    pub(crate) rotten: bool,
    pub(crate) full: bool,
    pub(crate) suspected: BTreeSet<ChunkKey>,
    pub(crate) gets: u64,
    pub(crate) puts: u64,
    /// Serves nothing, and says so.
    pub(crate) refuses: bool,
}

/// Everything, as the tests see it.
pub(crate) struct State {
    pub(crate) stores: Vec<Store>,
    pub(crate) names: Names,
    pub(crate) map: ClusterMap,
    pub(crate) leader: usize,
    /// The next so many batches are executed, and their answers lost with the connection.
    pub(crate) lost_answers: u32,
    /// After each so many batches, another node leads.
    pub(crate) leader_changes_after: Option<u32>,
    pub(crate) batches: u32,
    pub(crate) ops: u64,
    pub(crate) no_quorum: bool,
    /// Chunks are not answered for, though the nodes are there otherwise.
    pub(crate) stuck: bool,
    /// Requests that were not answered because of that.
    pub(crate) stuck_requests: u64,
    /// The next so many puts are refused as stale, and the map moves on.
    pub(crate) stale_epochs: u32,
    pub(crate) gc_current: u64,
    pub(crate) next_session: u64,
    pub(crate) next_inode: u64,
    redeemed_by: Option<KeyFingerprint>,
}

/// The cluster.
pub(crate) struct FakeCluster {
    pub(crate) state: Arc<Mutex<State>>,
    authority: Arc<AuthorityKey>,
    endpoints: Vec<Endpoint>,
    pub(crate) profile: Profile,
}

pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId::from_bytes([index as u8 + 1; 16])
}

fn socket() -> wire::quic::Socket {
    bind_udp("127.0.0.1:0".parse().unwrap(), Default::default()).unwrap()
}

fn credentials(authority: &AuthorityKey, peer: Peer) -> Credentials {
    let key = KeyPair::generate();
    let certificate = authority.sign(&key.request(), peer, Access::ReadWrite).unwrap();
    Credentials::new(key, certificate, authority.authority().clone()).unwrap()
}

impl FakeCluster {
    pub(crate) async fn start() -> Self {
        let authority = Arc::new(AuthorityKey::generate(CLUSTER));
        let endpoints: Vec<Endpoint> = (0..3)
            .map(|index| {
                Endpoint::new(EndpointConfig {
                    socket: socket(),
                    credentials: Some(Arc::new(credentials(&authority, Peer::Node(node_id(index))))),
                    cluster: Some(CLUSTER),
                    serve: true,
                    rng_seed: None,
                })
                .unwrap()
            })
            .collect();
        let addresses: Vec<SocketAddr> = endpoints.iter().map(|endpoint| endpoint.local_addr().unwrap()).collect();
        let key = KeyPair::generate();
        let certificate = authority.sign(&key.request(), Peer::Client(ClientId([9; 16])), Access::ReadWrite).unwrap();
        let profile = Profile {
            cluster: CLUSTER,
            seeds: addresses.clone(),
            access: Access::ReadWrite,
            authority: authority.authority().certificate.clone(),
            certificate,
            key: ProfileKey(key.to_pkcs8()),
        };
        let state = State {
            stores: (0..3).map(|_| Store::default()).collect(),
            names: Names::new(),
            map: map(&addresses),
            leader: 0,
            lost_answers: 0,
            leader_changes_after: None,
            batches: 0,
            ops: 0,
            no_quorum: false,
            stuck: false,
            stuck_requests: 0,
            stale_epochs: 0,
            gc_current: 1,
            next_session: 1,
            next_inode: 1000,
            redeemed_by: None,
        };
        let state = Arc::new(Mutex::new(state));
        for (index, endpoint) in endpoints.iter().enumerate() {
            tokio::spawn(serve(index, endpoint.clone(), Arc::clone(&state), Arc::clone(&authority)));
        }
        Self { state, authority, endpoints, profile }
    }

    pub(crate) async fn connect(&self) -> Cluster {
        self.connect_with(ClusterConfig::default()).await
    }

    pub(crate) async fn connect_with(&self, config: ClusterConfig) -> Cluster {
        Cluster::connect(&self.profile, config).await.unwrap()
    }

    pub(crate) async fn namespace(&self) -> Namespace {
        Namespace::new(self.connect().await, Caller::ROOT)
    }

    /// A token that admits one client, again and again if its key is the same.
    pub(crate) fn token(&self) -> Token {
        Token {
            purpose: TokenPurpose::Client(Access::ReadWrite),
            authority: self.authority.authority().fingerprint(),
            secret: SECRET,
            seeds: self.profile.seeds.clone(),
        }
    }

    /// The process of a node ends: its connections close.
    pub(crate) async fn stop(&self, index: usize) {
        self.state.lock().stores[index].silent = true;
        self.endpoints[index].close().await;
    }

    /// Every chunk that a file names is stable on its write quorum, under its key.
    pub(crate) fn assert_durable(&self) {
        let state = self.state.lock();
        for extent in state.names.files.values().flat_map(|file| file.extents.values()) {
            let ExtentBody::Chunk(slice) = extent.body else { continue };
            let holders = state
                .stores
                .iter()
                .filter(|store| store.stable.get(&slice.key).is_some_and(|bytes| ChunkKey::of(bytes) == slice.key));
            assert!(holders.count() >= 2, "{} is not stable on its quorum", slice.key);
        }
    }
}

fn map(addresses: &[SocketAddr]) -> ClusterMap {
    let weight = Weight(NonZeroU32::new(1).unwrap());
    let replicas = ReplicaCount::new(3).unwrap();
    let bits = PartitionBits::new(4).unwrap();
    let members: Vec<Member> = (0..3).map(|index| Member { id: node_id(index), zone: None, weight }).collect();
    let table = (0..16u16).flat_map(|row| [row % 3, (row + 1) % 3, (row + 2) % 3]).collect();
    let node = |(index, address): (usize, &SocketAddr)| NodeRow {
        id: node_id(index),
        address: *address,
        zone: None,
        weight,
        key: KeyFingerprint([0; 32]),
    };
    ClusterMap {
        cluster: CLUSTER,
        epoch: Epoch(5),
        replicas,
        nodes: addresses.iter().enumerate().map(node).collect(),
        ring: Some(Ring::new(Epoch(5), bits, replicas, members, table).unwrap()),
        may_hold: Vec::new(),
        transition: None,
        leaving: Vec::new(),
        away: Vec::new(),
        acting: Epoch(0),
    }
}

async fn serve(index: usize, endpoint: Endpoint, state: Arc<Mutex<State>>, authority: Arc<AuthorityKey>) {
    while let Some(accepted) = endpoint.accept().await {
        match accepted {
            Accepted::Member(connection) => {
                tokio::spawn(serve_connection(index, connection, Arc::clone(&state)));
            }
            Accepted::Newcomer(exchange) => {
                let redeemed = redeem(&exchange.redeem, &mut state.lock(), &authority);
                let _gone = exchange.reply(&redeemed).await.is_err();
            }
        }
    }
}

/// The key that comes first uses the token up.
fn redeem(redeem: &Redeem, state: &mut State, authority: &AuthorityKey) -> Result<Redeemed, Refusal> {
    let Newcomer::Client { id } = redeem.newcomer else { return Err(Refusal::TokenPurpose) };
    let key = AuthorityKey::request_fingerprint(&redeem.request).unwrap();
    if redeem.secret != SECRET {
        return Err(Refusal::TokenUnknown);
    }
    if state.redeemed_by.is_some_and(|by| by != key) {
        return Err(Refusal::TokenUsed);
    }
    state.redeemed_by = Some(key);
    Ok(Redeemed {
        cluster: CLUSTER,
        certificate: authority.sign(&redeem.request, Peer::Client(id), Access::ReadWrite).unwrap(),
        authority: authority.authority().certificate.clone(),
        seeds: state.map.nodes.iter().map(|node| node.address).collect(),
        access: PeerAccess::Client(Access::ReadWrite),
        replicas: state.map.replicas,
    })
}

async fn serve_connection(index: usize, connection: Connection, state: Arc<Mutex<State>>) {
    while let Some(exchange) = connection.accept().await {
        tokio::spawn(answer(index, connection.clone(), exchange, Arc::clone(&state)));
    }
}

/// What to do with an answer.
enum Say {
    Reply(Reply, Vec<Bytes>),
    /// The asker never hears of it.
    Lose,
}

async fn answer(index: usize, connection: Connection, mut exchange: Exchange, state: Arc<Mutex<State>>) {
    let body = exchange.read_body().await.unwrap_or_default();
    let stuck = state.lock().stuck && matches!(exchange.request, Request::Chunk(_));
    state.lock().stuck_requests += u64::from(stuck);
    if stuck || state.lock().stores[index].silent {
        tokio::time::sleep(Duration::from_secs(60)).await;
        return;
    }
    let request = exchange.request.clone();
    let say = match request {
        Request::Chunk(request) => chunk(index, request, body, &mut state.lock()),
        Request::Namespace(request) => namespace(index, request, &mut state.lock()),
        Request::Cluster(request) => Say::Reply(cluster(request, &state.lock()), Vec::new()),
        Request::Raft(_) => Say::Reply(Err(Refusal::NotAllowed), Vec::new()),
    };
    match say {
        Say::Reply(reply, body) => {
            let _gone = exchange.reply(&reply, &body).await.is_err();
        }
        Say::Lose => connection.close(),
    }
}

fn cluster(request: ClusterRequest, state: &State) -> Reply {
    match request {
        ClusterRequest::Map { known } => Ok(Answer::Cluster(ClusterAnswer::Map {
            map: (known < Some(state.map.epoch)).then(|| Box::new(state.map.clone())),
            leader: Some(node_id(state.leader)),
        })),
        _ => Err(Refusal::NotAllowed),
    }
}

fn chunk(index: usize, request: ChunkRequest, body: Bytes, state: &mut State) -> Say {
    let ours = state.map.epoch;
    if let (ChunkRequest::Put { .. }, true) = (&request, state.stale_epochs > 0) {
        state.stale_epochs -= 1;
        state.map.epoch = ours.next();
        return Say::Reply(Err(Refusal::StaleEpoch { ours: state.map.epoch }), Vec::new());
    }
    let store = &mut state.stores[index];
    if store.refuses {
        return Say::Reply(Err(Refusal::NotServing), Vec::new());
    }
    let incarnation = Incarnation(store.incarnation);
    let answer = match request {
        ChunkRequest::Put { epoch, .. } | ChunkRequest::Sync { epoch } if epoch < ours => {
            Err(Refusal::StaleEpoch { ours })
        }
        ChunkRequest::Put { .. } if store.full => Err(Refusal::DiskFull),
        ChunkRequest::Put { key, .. } if ChunkKey::of(&body) != key => Err(Refusal::KeyMismatch),
        ChunkRequest::Put { key, durability, .. } => {
            store.puts += 1;
            store.buffered.insert(key, body);
            let crashes = store.crashes > 0;
            if crashes {
                store.crashes -= 1;
                store.buffered.clear();
                store.incarnation += 1;
            }
            match durability {
                Durability::Synced if crashes => Err(Refusal::Busy),
                Durability::Synced => {
                    store.stable.extend(std::mem::take(&mut store.buffered));
                    Ok(ChunkAnswer::Put { incarnation })
                }
                Durability::Buffered => Ok(ChunkAnswer::Put { incarnation }),
            }
        }
        ChunkRequest::Sync { .. } => {
            let buffered = std::mem::take(&mut store.buffered);
            store.stable.extend(buffered);
            Ok(ChunkAnswer::Synced { incarnation })
        }
        ChunkRequest::Suspect { key } => {
            store.suspected.insert(key);
            Ok(ChunkAnswer::Noted)
        }
        ChunkRequest::Get { key, offset, len } => return get(store, key, offset, len),
        ChunkRequest::Has { .. }
        | ChunkRequest::List { .. }
        | ChunkRequest::Digest { .. }
        | ChunkRequest::Keep { .. } => Err(Refusal::Internal),
    };
    Say::Reply(answer.map(Answer::Chunk), Vec::new())
}

fn get(store: &mut Store, key: ChunkKey, offset: u32, len: u32) -> Say {
    store.gets += 1;
    let Some(bytes) = store.stable.get(&key).cloned() else {
        return Say::Reply(Err(Refusal::UnknownChunk), Vec::new());
    };
    let chunk_len = bytes.len() as u32;
    let range = tree::widen(chunk_len, offset, len).unwrap();
    let (_, tree) = tree::ChunkTree::build(&bytes);
    let proof = tree.proof(&range);
    let mut data = bytes[range.start as usize..range.end as usize].to_vec();
    if store.rotten {
        let middle = data.len() / 2;
        data[middle] ^= 1;
    }
    let got =
        ChunkAnswer::Got { chunk_len, offset: range.start, proof_len: proof.len() as u32, gc: Default::default() };
    Say::Reply(Ok(Answer::Chunk(got)), vec![proof.into(), data.into()])
}

fn namespace(index: usize, request: NamespaceRequest, state: &mut State) -> Say {
    if state.no_quorum {
        return Say::Reply(Err(Refusal::NoQuorum), Vec::new());
    }
    if state.leader != index {
        return Say::Reply(Err(Refusal::NotLeader { leader: Some(node_id(state.leader)) }), Vec::new());
    }
    let gc_current = GcEpoch(state.gc_current);
    let answer = match request {
        NamespaceRequest::OpenSession { nonce } => {
            let session = match state.names.nonces.get(&nonce) {
                Some(session) => *session,
                None => {
                    let session = SessionId(state.next_session);
                    state.next_session += 1;
                    state.names.open(session, nonce);
                    session
                }
            };
            Ok(NamespaceAnswer::SessionOpened { session, inodes: reserve(state), gc_current })
        }
        NamespaceRequest::ReserveInodes { .. } => Ok(NamespaceAnswer::InodesReserved(reserve(state))),
        NamespaceRequest::KeepAlive { session, .. } if !state.names.knows(session) => Err(Refusal::UnknownSession),
        NamespaceRequest::KeepAlive { .. } => Ok(NamespaceAnswer::Alive { gc_current, orphans_index: 0 }),
        NamespaceRequest::CloseSession { session } => {
            state.names.close(session);
            Ok(NamespaceAnswer::SessionClosed)
        }
        NamespaceRequest::OpenMount { .. } | NamespaceRequest::Lease(_) => Err(Refusal::NotAllowed),
        NamespaceRequest::Batch(batch) => return execute(batch, state),
        NamespaceRequest::Query(queries) => {
            Ok(NamespaceAnswer::Query(queries.iter().map(|query| state.names.query(query)).collect()))
        }
    };
    Say::Reply(answer.map(Answer::Namespace), Vec::new())
}

fn reserve(state: &mut State) -> InodeRange {
    let first = wire::namespace::Inode(state.next_inode);
    state.next_inode += 4096;
    InodeRange { first }
}

fn execute(batch: Batch, state: &mut State) -> Say {
    state.batches += 1;
    state.ops += batch.ops.len() as u64;
    if !state.names.knows(batch.session) {
        return Say::Reply(Err(Refusal::UnknownSession), Vec::new());
    }
    let outcomes = state.names.execute(batch);
    if state.leader_changes_after.is_some_and(|after| state.batches.is_multiple_of(after)) {
        state.leader = (state.leader + 1) % 3;
    }
    if state.lost_answers > 0 {
        state.lost_answers -= 1;
        return Say::Lose;
    }
    Say::Reply(Ok(Answer::Namespace(NamespaceAnswer::Batch(outcomes))), Vec::new())
}
