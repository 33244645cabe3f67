//! Members over a simulated network, disk and store.
//!
//! The stand-in for the namespace is a table of counters: `CreateToken` adds 1 to the counter named by the first byte of
//! its hash and answers with the new value; `Found` with a sealed key stores a row of any length.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use ring::{Epoch, NodeId};
use tokio::time::{sleep, sleep_until, timeout};
use wire::cluster::{RaftRole, TokenPurpose};
use wire::namespace::Timestamp;

use crate::append_log::LogConfig;
use crate::consensus::{
    AfterVoting, Consensus, ConsensusConfig, OpenError, ProposeError, RaftTransport, Retention, TransportError, View,
    WallClock,
};
use crate::disk::{SimDisk, SimOptions};
use crate::kv::{KvError, KvRead, KvStore, MemoryKv, WriteBatch};
use crate::namespace::{ClusterCommand, ClusterOutcome, Command, CommandBody, CommandOutcome, LogIndex};

/// The counters' stand-in for the namespace.
pub(super) fn apply(
    rows: &dyn KvRead,
    _index: LogIndex,
    command: &Command,
) -> Result<(WriteBatch, CommandOutcome), KvError> {
    let mut batch = WriteBatch::default();
    let epoch = match &command.body {
        CommandBody::Cluster(ClusterCommand::CreateToken { hash, .. }) => {
            let key = counter_key(hash[0]);
            let value = read_counter(rows, hash[0])? + 1;
            batch.put(key, value.to_be_bytes());
            Epoch(value)
        }
        CommandBody::Cluster(ClusterCommand::Found { authority, sealed_key, .. }) => {
            let key = [&[0x20], authority.as_slice()].concat();
            batch.put(key, sealed_key.clone());
            Epoch(0)
        }
        other => panic!("the tests propose no {other:?}"),
    };
    Ok((batch, CommandOutcome::Cluster(ClusterOutcome::Done { epoch })))
}

fn counter_key(counter: u8) -> Vec<u8> {
    vec![0x10, counter]
}

pub(super) fn read_counter(rows: &dyn KvRead, counter: u8) -> Result<u64, KvError> {
    let value = rows.get(&counter_key(counter))?;
    Ok(value.map_or(0, |value| u64::from_be_bytes(value.try_into().expect("8 bytes"))))
}

pub(super) fn add_one(counter: u8) -> CommandBody {
    let mut hash = [0; 32];
    hash[0] = counter;
    let (purpose, expires) = (TokenPurpose::Node, Timestamp::default());
    CommandBody::Cluster(ClusterCommand::CreateToken { hash, purpose, expires })
}

pub(super) fn founding() -> ClusterCommand {
    blob(b"founded", 10)
}

pub(super) fn blob(key: &[u8], len: usize) -> ClusterCommand {
    ClusterCommand::Found {
        cluster: wire::cluster::ClusterId([7; 16]),
        replicas: ring::ReplicaCount::new(3).unwrap(),
        node: wire::cluster::NodeRow {
            id: id(1),
            address: "127.0.0.1:1".parse().unwrap(),
            zone: None,
            weight: ring::Weight(std::num::NonZeroU32::MIN),
            key: wire::cluster::KeyFingerprint([1; 32]),
        },
        authority: key.to_vec(),
        sealed_key: vec![0xab; len],
        owner: (0, 0),
    }
}

pub(super) fn value_of(outcome: &CommandOutcome) -> u64 {
    match outcome {
        CommandOutcome::Cluster(ClusterOutcome::Done { epoch }) => epoch.0,
        other => panic!("not a counter's answer: {other:?}"),
    }
}

pub(super) fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// A clock that stands still.
#[derive(Debug)]
pub(super) struct ZeroClock;

impl WallClock for ZeroClock {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }
}

/// The network. Clones share it.
#[derive(Clone)]
pub(super) struct Net {
    state: Arc<Mutex<NetState>>,
}

struct NetState {
    rng: StdRng,
    members: BTreeMap<NodeId, Consensus>,
    cut: BTreeSet<(NodeId, NodeId)>,
    drop_one_in: u32,
    /// Every message and when it was sent: two runs of a seed must agree on it.
    trace: Vec<(Duration, NodeId, NodeId, blake3::Hash)>,
    begun: tokio::time::Instant,
    body_bytes: u64,
}

impl Net {
    pub(super) fn new(seed: u64) -> Self {
        let state = NetState {
            rng: StdRng::seed_from_u64(seed),
            members: BTreeMap::new(),
            cut: BTreeSet::new(),
            drop_one_in: 0,
            trace: Vec::new(),
            begun: tokio::time::Instant::now(),
            body_bytes: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn drop_one_in(&self, one_in: u32) {
        self.state.lock().drop_one_in = one_in;
    }

    /// Cuts `node` off from all others, both ways.
    pub(super) fn isolate(&self, node: NodeId) {
        let mut state = self.state.lock();
        for other in 0..=255 {
            state.cut.insert((node, id(other)));
            state.cut.insert((id(other), node));
        }
    }

    pub(super) fn heal(&self) {
        self.state.lock().cut.clear();
    }

    pub(super) fn add(&self, node: NodeId, member: Consensus) {
        self.state.lock().members.insert(node, member);
    }

    pub(super) fn take(&self, node: NodeId) -> Option<Consensus> {
        self.state.lock().members.remove(&node)
    }

    pub(super) fn member(&self, node: NodeId) -> Option<Consensus> {
        self.state.lock().members.get(&node).cloned()
    }

    pub(super) fn trace(&self) -> Vec<(Duration, NodeId, NodeId, blake3::Hash)> {
        self.state.lock().trace.clone()
    }

    pub(super) fn body_bytes(&self) -> u64 {
        self.state.lock().body_bytes
    }

    pub(super) fn transport(&self, from: NodeId) -> Arc<dyn RaftTransport> {
        Arc::new(Link { net: self.clone(), from })
    }

    /// Whether a message gets through now, and after how long.
    fn passage(&self, from: NodeId, to: NodeId) -> Option<Duration> {
        let mut state = self.state.lock();
        let lost = state.drop_one_in > 0 && {
            let one_in = state.drop_one_in;
            state.rng.random_ratio(1, one_in)
        };
        let delay = Duration::from_micros(state.rng.random_range(100..3_000));
        (!lost && !state.cut.contains(&(from, to))).then_some(delay)
    }
}

struct Link {
    net: Net,
    from: NodeId,
}

impl RaftTransport for Link {
    fn send(
        &self,
        to: NodeId,
        message: Vec<u8>,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>> {
        let (net, from) = (self.net.clone(), self.from);
        assert_ne!(from, to, "nobody sends to itself");
        async move {
            let gives_up = tokio::time::Instant::now() + deadline;
            {
                let mut state = net.state.lock();
                let at = state.begun.elapsed();
                state.trace.push((at, from, to, blake3::hash(&message)));
                state.body_bytes += body.len() as u64;
            }
            let reply = timeout(deadline, async {
                sleep(net.passage(from, to)?).await;
                let member = net.state.lock().members.get(&to).cloned()?;
                let reply = member.handle(from, &message, body).await;
                drop(member);
                sleep(net.passage(to, from)?).await;
                Some(reply)
            })
            .await;
            match reply {
                Ok(Some(Ok(answer))) => Ok(answer),
                Ok(Some(Err(refusal))) => Err(TransportError::Refused(refusal)),
                Ok(None) => {
                    sleep_until(gives_up).await;
                    Err(TransportError::TimedOut)
                }
                Err(_) => Err(TransportError::TimedOut),
            }
        }
        .boxed()
    }
}

/// A machine: what stays when its process dies.
pub(super) struct Machine {
    pub(super) disk: SimDisk,
    pub(super) kv: MemoryKv,
    starts: u64,
}

/// A group of machines.
pub(super) struct Group {
    pub(super) net: Net,
    pub(super) machines: BTreeMap<NodeId, Machine>,
    pub(super) retention: Retention,
    rng: StdRng,
    seed: u64,
}

pub(super) const SECOND: Duration = Duration::from_secs(1);

impl Group {
    /// No machines yet.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            net: Net::new(seed),
            machines: BTreeMap::new(),
            retention: Retention::default(),
            rng: StdRng::seed_from_u64(seed ^ 0xdead),
            seed,
        }
    }

    /// `count` voters, founded by the first.
    pub(super) async fn founded(seed: u64, count: u8) -> Self {
        Self::founded_with(seed, count, Retention::default()).await
    }

    pub(super) async fn founded_with(seed: u64, count: u8, retention: Retention) -> Self {
        let mut group = Self::new(seed);
        group.retention = retention;
        let first = group.start(id(1)).await.unwrap();
        first.found(founding()).await.unwrap();
        for number in 2..=count {
            group.start(id(number)).await.unwrap();
            first.add_learner(id(number), 10 * SECOND).await.unwrap();
        }
        first.set_voters((1..=count).map(id).collect(), AfterVoting::Leaves, 10 * SECOND).await.unwrap();
        group
    }

    /// Starts the machine, or the process on it.
    pub(super) async fn start(&mut self, node: NodeId) -> Result<Consensus, OpenError> {
        let seed = self.seed;
        let machine = self.machines.entry(node).or_insert_with(|| {
            let seed = seed ^ u64::from(node.as_bytes()[0]) << 8;
            let disk =
                SimDisk::new(SimOptions { seed, latency_max: Duration::from_micros(500), ..SimOptions::default() });
            Machine { disk, kv: MemoryKv::new(), starts: 0 }
        });
        machine.starts += 1;
        let config = ConsensusConfig {
            log: LogConfig { file_len: 64 << 10, ..LogConfig::raft_log() },
            retention: self.retention,
            ..ConsensusConfig::new(node, seed ^ machine.starts << 32 ^ u64::from(node.as_bytes()[0]))
        };
        let consensus = Consensus::open_with(
            config,
            machine.disk.process(),
            Path::new("/data/raft"),
            Arc::new(machine.kv.clone()),
            self.net.transport(node),
            Arc::new(ZeroClock),
            apply,
        )
        .await?;
        self.net.add(node, consensus.clone());
        Ok(consensus)
    }

    /// Cuts the power of a machine: what was not synced may be gone.
    pub(super) async fn crash(&mut self, node: NodeId) {
        let member = self.net.take(node);
        let machine = self.machines.get_mut(&node).unwrap();
        machine.disk.power_cycle();
        let survivors = self.rng.random_range(0..=machine.kv.unpersisted());
        let after = machine.kv.after_crash(survivors);
        let before = std::mem::replace(&mut machine.kv, after);
        if let Some(member) = member {
            member.kill().await;
        }
        drop(before);
    }

    pub(super) fn member(&self, node: NodeId) -> Consensus {
        self.net.member(node).unwrap()
    }

    pub(super) fn running(&self) -> Vec<NodeId> {
        self.net.state.lock().members.keys().copied().collect()
    }

    pub(super) fn view(&self, node: NodeId) -> View {
        self.member(node).watch().borrow().clone()
    }

    /// Waits until exactly one running member leads and the others follow it.
    pub(super) async fn leader(&self) -> NodeId {
        timeout(10 * SECOND, async {
            loop {
                let views: Vec<_> = self.running().into_iter().map(|node| (node, self.view(node))).collect();
                let leaders: Vec<_> = views.iter().filter(|(_, view)| view.role == RaftRole::Leader).collect();
                if let [(leader, _)] = leaders.as_slice()
                    && views.iter().all(|(_, view)| view.leader == Some(*leader))
                {
                    return *leader;
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("a leader is found")
    }

    /// Adds 1 through any member, following redirects, until it is answered. An attempt that has no known outcome may
    /// count, too: returns the value and how many attempts were made.
    pub(super) async fn add(&self, counter: u8) -> u64 {
        let mut ask = self.running()[0];
        for _ in 0..200 {
            let result = match self.net.member(ask) {
                Some(member) => member.propose(add_one(counter), SECOND).await,
                None => Err(ProposeError::Stopped),
            };
            match result {
                Ok(outcome) => return value_of(&outcome),
                Err(ProposeError::NotLeader { leader: Some(leader) }) => ask = leader,
                Err(_) => {
                    let running = self.running();
                    let at = running.iter().position(|&node| node == ask).map_or(0, |at| at + 1);
                    ask = running[at % running.len()];
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
        panic!("nobody adds")
    }

    /// Waits until `node` has applied what `leader` has.
    pub(super) async fn caught_up(&self, node: NodeId, leader: NodeId) {
        let target = self.view(leader).last_log;
        let caught_up = async {
            while self.view(node).applied < target {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(30 * SECOND, caught_up).await.expect("in time");
    }

    pub(super) fn counter_at(&self, node: NodeId, counter: u8) -> u64 {
        read_counter(&*self.member(node).local(), counter).unwrap()
    }

    pub(super) async fn stop_all(&self) {
        let members: Vec<_> = std::mem::take(&mut self.net.state.lock().members).into_values().collect();
        for member in members {
            member.kill().await;
        }
    }
}

pub(super) fn rows(kv: &dyn KvStore) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    kv.scan(&[0x10], &[0xff], &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        std::ops::ControlFlow::Continue(())
    })
    .unwrap();
    rows
}
