//! Nodes in one process, over loopback, on simulated disks.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use ring::{ChunkKey, NodeId, ReplicaCount, Weight};
use tokio::time::{Instant, sleep, timeout};
use wire::{
    Answer, Refusal, Request,
    chunk::{ChunkAnswer, ChunkRequest},
    cluster::{Access, ClientId, ClusterId, Newcomer, NodeRow, Peer, Redeem, SealKey, TokenPurpose},
    namespace::{
        Batch, Inode, JournaledChunk, JournaledPart, Mode, Name, NewContent, NewGroup, NewInode, NewKind, NumberedOp,
        Op, OpNumber, Query, QueryAnswer, Replace, SessionNonce, SetId, SetTime, Timestamp, Want,
    },
    quic::{AuthorityKey, Credentials, KeyPair, Socket, UdpSocketConfig, bind_udp},
};

use crate::{
    authority::seal,
    chunk_store::ChunkStoreConfig,
    config::{Config, GarbageConfig, MembershipConfig, MergeConfig, RepairConfig, ServeConfig},
    consensus::SystemClock,
    disk::{SimDisk, SimOptions, ballast::Starved},
    kv::MemoryKv,
    membership::Founding,
    namespace::{self, ClusterCommand, CommandBody, CommandOutcome},
    node::{Addresses, Node, Parts, Site},
};

const CLIENT: Peer = Peer::Client(ClientId([3; 16]));

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node's identity and media, and what it starts from.
pub(crate) struct Machine {
    number: u8,
    key: KeyPair,
    address: SocketAddr,
    log: SimDisk,
    chunks: SimDisk,
    state: MemoryKv,
    index: MemoryKv,
    seal: Option<SealKey>,
    seeds: Vec<SocketAddr>,
    addresses: Addresses,
}

impl Machine {
    pub(crate) fn new(number: u8) -> Self {
        let disk = || SimDisk::new(SimOptions { seed: number.into(), ..SimOptions::default() });
        Self {
            number,
            key: KeyPair::generate(),
            address: std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap(),
            log: disk(),
            chunks: disk(),
            state: MemoryKv::new(),
            index: MemoryKv::new(),
            seal: None,
            seeds: Vec::new(),
            addresses: Addresses::new(),
        }
    }

    fn row(&self) -> NodeRow {
        NodeRow {
            id: NodeId::from_bytes([self.number; 16]),
            address: self.address,
            zone: None,
            weight: Weight(NonZeroU32::MIN),
            key: self.key.fingerprint(),
        }
    }
}

/// What a cluster of the tests is made with.
pub(crate) struct Rig {
    cluster: ClusterId,
    authority: AuthorityKey,
    seal: SealKey,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let cluster = ClusterId([1; 16]);
        Self { cluster, authority: AuthorityKey::generate(cluster), seal: SealKey([2; 32]) }
    }

    /// Starts a node; the first founds the cluster, the others must have been admitted.
    async fn start(&self, machine: &Machine) -> Arc<Node> {
        let row = machine.row();
        let (id, address) = (row.id, row.address);
        let certificate = self.authority.sign(&machine.key.request(), Peer::Node(id), Access::ReadWrite).unwrap();
        let own = KeyPair::from_pkcs8(&machine.key.to_pkcs8()).unwrap();
        let credentials = Credentials::new(own, certificate, self.authority.authority().clone()).unwrap();
        let founding = (machine.number == 1).then(|| Founding {
            replicas: ReplicaCount::new(3).unwrap(),
            node: row,
            authority: self.authority.authority().certificate.clone(),
            sealed_key: seal(&self.authority, &self.seal, [7; 12]),
            client: None,
            owner: (0, 0),
        });
        let parts = Parts {
            id,
            cluster: self.cluster,
            replicas: ReplicaCount::new(3).unwrap(),
            site: Site::of(&machine.row()),
            seeds: machine.seeds.clone(),
            addresses: machine.addresses.clone(),
            keep_addresses: Box::new(|_| Ok(())),
            credentials: Arc::new(credentials),
            socket: bind(address).await,
            log_disk: machine.log.process(),
            log_dir: PathBuf::from("/log"),
            chunk_disk: machine.chunks.process(),
            chunk_dir: PathBuf::from("/chunks"),
            state: Arc::new(machine.state.clone()),
            index: Arc::new(machine.index.clone()),
            clock: Arc::new(SystemClock),
            seed: machine.number.into(),
            chunk_store: ChunkStoreConfig::default(),
            seal: machine.seal.clone(),
            keep_seal: Box::new(|_| Ok(())),
            founding,
        };
        let config = Config {
            data: PathBuf::from("/"),
            listen: address,
            serve: ServeConfig::default(),
            membership: MembershipConfig::default(),
            repair: RepairConfig::default(),
            // Chunks of which these tests put copies are in no file.
            garbage: GarbageConfig { sweep: PATIENCE * 100, ..GarbageConfig::default() },
            merge: MergeConfig::default(),
            starved: Starved::default(),
        };
        Node::start(parts, config).await.unwrap()
    }

    /// Starts the first node and waits until it has founded the cluster.
    pub(crate) async fn found(&self) -> Arc<Node> {
        let machine = Machine { seal: Some(self.seal.clone()), ..Machine::new(1) };
        let node = self.start(&machine).await;
        until("the cluster is founded", || node.map().is_some()).await;
        node
    }

    /// Lets a node in at `leader`, starts it, and waits until it votes: the second machine as second, the third as third.
    pub(crate) async fn join(&self, leader: &Node, machine: &mut Machine) -> Arc<Node> {
        let hash = [machine.number; 32];
        let expires = Timestamp::new(i64::from(u32::MAX), 0).unwrap();
        propose(leader, ClusterCommand::CreateToken { hash, purpose: TokenPurpose::Node, expires }).await;
        let NodeRow { id, address, zone, weight, key } = machine.row();
        let newcomer = Newcomer::Node { id, address, zone, weight };
        propose(leader, ClusterCommand::RedeemToken { hash, key, newcomer }).await;
        machine.seeds = vec![leader.site.advertise];
        let node = self.start(machine).await;
        for node in [leader, &*node] {
            let votes = || node.consensus.watch().borrow().voters.len() == usize::from(machine.number);
            until("all vote", votes).await;
        }
        node
    }
}

async fn propose(node: &Node, command: ClusterCommand) {
    super::propose(node, CommandBody::Cluster(command), PATIENCE).await.unwrap();
}

/// The port of a node that has just stopped is free in a moment.
async fn bind(address: SocketAddr) -> Socket {
    let mut socket = None;
    until("the port is free", || {
        socket = bind_udp(address, UdpSocketConfig::default()).ok();
        socket.is_some()
    })
    .await;
    socket.unwrap()
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Proposes something of no consequence.
async fn open_session(node: &Node, nonce: u64) -> Result<CommandOutcome, Refusal> {
    let nonce = SessionNonce(u128::from(nonce).to_le_bytes());
    let command = CommandBody::OpenSession { client: CLIENT, nonce };
    super::propose(node, command, PATIENCE).await
}

#[tokio::test]
async fn clients_that_fill_a_follower_do_not_hold_up_the_raft_log() {
    let rig = Rig::new();
    let leader = rig.found().await;
    let follower = rig.join(&leader, &mut Machine::new(2)).await;
    // As if clients held every place and every byte.
    let places = follower.requests.acquire_many(follower.config.serve.requests.try_into().unwrap()).await.unwrap();
    let bytes = follower.bodies.acquire_many(follower.config.serve.body_bytes).await.unwrap();
    let opened = timeout(Duration::from_secs(2), open_session(&leader, 1)).await;
    assert!(matches!(opened, Ok(Ok(CommandOutcome::SessionOpened { .. }))), "{opened:?}");
    drop((places, bytes));
    leader.shut_down().await;
    follower.shut_down().await;
}

#[tokio::test]
async fn a_node_that_lost_its_rows_behind_a_purged_log_finds_the_others_by_seeds_and_by_what_it_kept() {
    let rig = Rig::new();
    let leader = rig.found().await;
    let mut machine = Machine::new(2);
    let mut follower = rig.join(&leader, &mut machine).await;
    futures::future::join_all((0..6000).map(|nonce| open_session(&leader, nonce))).await;
    until("the log is purged", || follower.consensus.log_size().0 <= 5625).await;
    let others = Addresses::from([(leader.id, leader.site.advertise)]);
    for (seeds, addresses) in [(vec![leader.site.advertise], Addresses::new()), (Vec::new(), others)] {
        follower.shut_down().await;
        drop(follower);
        (machine.state, machine.seeds, machine.addresses) = (MemoryKv::new(), seeds, addresses);
        follower = rig.start(&machine).await;
        until("it takes part", || follower.map().is_some() && follower.leader_id().is_some()).await;
    }
    leader.shut_down().await;
    follower.shut_down().await;
}

/// Creates `count` files in the root and takes their names away again.
async fn make_orphans(node: &Node, count: u64) {
    let Ok(CommandOutcome::SessionOpened { session, inodes, .. }) = open_session(node, 1).await else {
        panic!("no session");
    };
    let name = |at: u64| Name::new(format!("file-{at}").as_bytes()).unwrap();
    let create = |at: u64| {
        let (inode, kind) = (Inode(inodes.first.0 + at), NewKind::File(NewContent::Empty));
        let (mode, gid) = (Mode::new(0o644), NewGroup::Caller(0));
        let new = NewInode { inode, kind, mode, uid: 0, gid, times: None, xattrs: Vec::new() };
        Op::Create { dir: Inode::ROOT, name: name(at), new, replace: Replace::No }
    };
    let unlink = |at: u64| Op::Unlink { dir: Inode::ROOT, name: name(at) };
    let ops: Vec<Op> = (0..count).map(create).chain((0..count).map(unlink)).collect();
    let numbered: Vec<_> =
        (1..).zip(ops).map(|(number, op)| NumberedOp { number: OpNumber(number), after: None, op }).collect();
    for ops in numbered.chunks(100) {
        let batch = Batch { session, lowest_unanswered: ops[0].number, ops: ops.to_vec(), want: Want::Outcome };
        let command = CommandBody::Batch { client: CLIENT, batch };
        let Ok(CommandOutcome::Batch { outcomes, .. }) = super::propose(node, command, PATIENCE).await else {
            panic!("no outcomes");
        };
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    }
    super::propose(node, CommandBody::CloseSession { session }, PATIENCE).await.unwrap();
}

#[tokio::test]
async fn the_leader_gives_back_thousands_of_orphans_within_seconds() {
    let rig = Rig::new();
    let leader = rig.found().await;
    make_orphans(&leader, 4000).await;
    let began = Instant::now();
    let left = || match namespace::query(&*leader.consensus.local(), &Query::Usage) {
        Ok(Ok(QueryAnswer::Usage(usage))) => usage.inodes,
        other => panic!("{other:?}"),
    };
    until("they are given back", || left() == 1).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    leader.shut_down().await;
}

#[tokio::test]
async fn a_guessed_token_is_refused_without_an_entry_of_the_log() {
    let rig = Rig::new();
    let leader = rig.found().await;
    let before = leader.consensus.log_size();
    for guess in 0..10 {
        let newcomer = Newcomer::Client { id: ClientId([9; 16]) };
        let redeem = Redeem { secret: [guess; 32], request: KeyPair::generate().request(), newcomer };
        let redeemed = super::redeem::redeem_here(&leader, &redeem, PATIENCE).await;
        assert_eq!(redeemed.map(|_| ()), Err(Refusal::TokenUnknown));
    }
    assert_eq!(leader.consensus.log_size(), before);
    leader.shut_down().await;
}

#[tokio::test]
async fn a_node_that_listens_elsewhere_after_a_restart_is_reached_there() {
    let rig = Rig::new();
    let leader = rig.found().await;
    let mut machine = Machine::new(2);
    let follower = rig.join(&leader, &mut machine).await;
    follower.shut_down().await;
    machine.address = Machine::new(2).address;
    let follower = rig.start(&machine).await;
    for node in [&leader, &follower] {
        let address = || node.map().and_then(|map| map.node(follower.id).map(|row| row.address));
        until("it is known where it is", || address() == Some(machine.address)).await;
    }
    leader.shut_down().await;
    follower.shut_down().await;
}

/// A session of [`CLIENT`] that has made a file, whose bytes are journaled; the chunk's key.
async fn write_journaled(leader: &Node) -> ChunkKey {
    let Ok(CommandOutcome::SessionOpened { session, inodes, .. }) = open_session(leader, 1).await else {
        panic!("no session");
    };
    let (inode, bytes) = (inodes.first, b"a page of a database".to_vec());
    let (mode, gid) = (Mode::new(0o644), NewGroup::Caller(0));
    let kind = NewKind::File(NewContent::Empty);
    let new = NewInode { inode, kind, mode, uid: 0, gid, times: None, xattrs: Vec::new() };
    let name = Name::new(b"database").unwrap();
    let parts = vec![JournaledPart { offset: 0, chunk_offset: 0, len: bytes.len() as u32 }];
    let chunk = JournaledChunk { key: ChunkKey::of(&bytes), bytes };
    let (key, modified, set_id) = (chunk.key, SetTime::Now, SetId::Keep);
    let ops = [
        Op::Create { dir: Inode::ROOT, name, new, replace: Replace::No },
        Op::WriteJournaled { inode, chunk, parts, if_version: None, modified, set_id },
    ];
    let numbered = |(number, op)| NumberedOp { number: OpNumber(number), after: None, op };
    let ops = (1..).zip(ops).map(numbered).collect();
    let batch = Batch { session, lowest_unanswered: OpNumber(1), ops, want: Want::Outcome };
    let written = super::propose(leader, CommandBody::Batch { client: CLIENT, batch }, PATIENCE).await;
    let Ok(CommandOutcome::Batch { outcomes, .. }) = written else { panic!("no outcomes") };
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    key
}

#[tokio::test]
async fn a_node_keeps_a_chunk_that_is_named_to_it_from_its_own_rows_and_only_what_is_there() {
    let rig = Rig::new();
    let leader = rig.found().await;
    let second = rig.join(&leader, &mut Machine::new(2)).await;
    let third = rig.join(&leader, &mut Machine::new(3)).await;
    let nodes = [&leader, &second, &third];
    for node in nodes {
        until("the ring is solved", || node.map().is_some_and(|map| map.ring.is_some())).await;
    }
    let key = write_journaled(&leader).await;
    let rows = second.consensus.local();
    until("it has the bytes", || namespace::journaled(&*rows, key).unwrap().is_some()).await;
    assert!(!second.chunks.holds(&key).unwrap(), "nobody has put it yet");
    let (epoch, gc) = (leader.map().unwrap().epoch, namespace::gc_current(&*leader.consensus.local()).unwrap());
    let keys = vec![key, ChunkKey::of(b"what nobody has written")];
    let request = Request::Chunk(ChunkRequest::Keep { keys, epoch, gc });
    let answer = leader.ask(second.id, &request, PATIENCE).await;
    assert_eq!(answer, Ok(Answer::Chunk(ChunkAnswer::Kept { kept: vec![true, false] })));
    assert!(second.chunks.holds(&key).unwrap());
    until("all have it", || nodes.iter().all(|node| node.chunks.holds(&key).unwrap())).await;
    until("it is in no row", || {
        nodes.iter().all(|node| namespace::journaled(&*node.consensus.local(), key).unwrap().is_none())
    })
    .await;
    for node in nodes {
        node.shut_down().await;
    }
}
