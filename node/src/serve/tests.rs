//! Nodes in one process, over loopback, on simulated disks.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, sync::Arc, time::Duration};

use ring::{NodeId, ReplicaCount, Weight};
use tokio::time::{Instant, sleep, timeout};
use wire::{
    Refusal,
    cluster::{Access, ClientId, ClusterId, Newcomer, NodeRow, Peer, SealKey, TokenPurpose},
    namespace::{SessionNonce, Timestamp},
    quic::{AuthorityKey, Credentials, KeyPair, UdpSocketConfig, bind_udp},
};

use crate::{
    authority::seal,
    chunk_store::ChunkStoreConfig,
    config::{Config, MembershipConfig, RepairConfig, ServeConfig},
    consensus::SystemClock,
    disk::{SimDisk, SimOptions},
    kv::MemoryKv,
    membership::Founding,
    namespace::{ClusterCommand, CommandBody, CommandOutcome},
    node::{Node, Parts},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a cluster of the tests is made with.
struct Rig {
    cluster: ClusterId,
    authority: AuthorityKey,
    seal: SealKey,
}

impl Rig {
    fn new() -> Self {
        let cluster = ClusterId([1; 16]);
        Self { cluster, authority: AuthorityKey::generate(cluster), seal: SealKey([2; 32]) }
    }

    /// Starts node `number`; the first founds the cluster, the others must have been admitted.
    async fn start(&self, number: u8, key: &KeyPair, address: SocketAddr, seeds: Vec<SocketAddr>) -> Arc<Node> {
        let id = NodeId::from_bytes([number; 16]);
        let certificate = self.authority.sign(&key.request(), Peer::Node(id), Access::ReadWrite).unwrap();
        let own = KeyPair::from_pkcs8(&key.to_pkcs8()).unwrap();
        let credentials = Credentials::new(own, certificate, self.authority.authority().clone()).unwrap();
        let founding = (number == 1).then(|| Founding {
            replicas: ReplicaCount::new(3).unwrap(),
            node: row(number, key, address),
            authority: self.authority.authority().certificate.clone(),
            sealed_key: seal(&self.authority, &self.seal, [7; 12]),
            client: None,
            owner: (0, 0),
        });
        let disk = || SimDisk::new(SimOptions { seed: number.into(), ..SimOptions::default() }).process();
        let parts = Parts {
            id,
            cluster: self.cluster,
            replicas: ReplicaCount::new(3).unwrap(),
            advertise: address,
            seeds,
            credentials: Arc::new(credentials),
            socket: bind_udp(address, UdpSocketConfig::default()).unwrap(),
            log_disk: disk(),
            log_dir: PathBuf::from("/log"),
            chunk_disk: disk(),
            chunk_dir: PathBuf::from("/chunks"),
            state: Arc::new(MemoryKv::new()),
            index: Arc::new(MemoryKv::new()),
            clock: Arc::new(SystemClock),
            seed: number.into(),
            chunk_store: ChunkStoreConfig::default(),
            seal: (number == 1).then(|| self.seal.clone()),
            keep_seal: Box::new(|_| Ok(())),
            founding,
        };
        let config = Config {
            data: PathBuf::from("/"),
            listen: address,
            serve: ServeConfig::default(),
            membership: MembershipConfig::default(),
            repair: RepairConfig::default(),
        };
        Node::start(parts, config).await.unwrap()
    }

    /// Starts the first node and waits until it has founded the cluster.
    async fn found(&self) -> Arc<Node> {
        let (key, address) = (KeyPair::generate(), free_address());
        let node = self.start(1, &key, address, Vec::new()).await;
        until("the cluster is founded", || node.map().is_some()).await;
        node
    }

    /// Lets node `number` in at `leader` and starts it.
    async fn join(&self, leader: &Node, number: u8) -> Arc<Node> {
        let (key, address) = (KeyPair::generate(), free_address());
        let hash = [number; 32];
        let expires = Timestamp::new(i64::from(u32::MAX), 0).unwrap();
        let create = ClusterCommand::CreateToken { hash, purpose: TokenPurpose::Node, expires };
        propose(leader, create).await;
        let NodeRow { id, address, zone, weight, .. } = row(number, &key, address);
        let newcomer = Newcomer::Node { id, address, zone, weight };
        propose(leader, ClusterCommand::RedeemToken { hash, key: key.fingerprint(), newcomer }).await;
        self.start(number, &key, address, vec![leader.advertise]).await
    }
}

fn row(number: u8, key: &KeyPair, address: SocketAddr) -> NodeRow {
    let weight = Weight(NonZeroU32::MIN);
    NodeRow { id: NodeId::from_bytes([number; 16]), address, zone: None, weight, key: key.fingerprint() }
}

fn free_address() -> SocketAddr {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn propose(node: &Node, command: ClusterCommand) {
    super::propose(node, CommandBody::Cluster(command), PATIENCE).await.unwrap();
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Proposes something of no consequence.
async fn open_session(node: &Node, nonce: u8) -> Result<CommandOutcome, Refusal> {
    let command =
        CommandBody::OpenSession { client: Peer::Client(ClientId([3; 16])), nonce: SessionNonce([nonce; 16]) };
    super::propose(node, command, PATIENCE).await
}

#[tokio::test]
async fn clients_that_fill_a_follower_do_not_hold_up_the_raft_log() {
    let rig = Rig::new();
    let leader = rig.found().await;
    let follower = rig.join(&leader, 2).await;
    until("both vote", || leader.consensus.watch().borrow().voters.len() == 2).await;
    until("the follower votes", || follower.consensus.watch().borrow().voters.len() == 2).await;
    // As if clients held every place and every byte.
    let places = follower.requests.acquire_many(follower.config.serve.requests.try_into().unwrap()).await.unwrap();
    let bytes = follower.bodies.acquire_many(follower.config.serve.body_bytes).await.unwrap();
    let opened = timeout(Duration::from_secs(2), open_session(&leader, 1)).await;
    assert!(matches!(opened, Ok(Ok(CommandOutcome::SessionOpened { .. }))), "{opened:?}");
    drop((places, bytes));
    leader.shut_down().await;
    follower.shut_down().await;
}
