//! Nodes that come and go while chunks are put: the state machine, the leader's decider and nodes that hold chunks, under
//! random schedules in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{prelude::*, test_runner::Config};
use ring::{ChunkKey, Epoch, GcEpoch, NodeId, Partition, PartitionBits, ReplicaCount, solver};
use tokio::time::Instant;
use wire::{
    Refusal,
    chunk::Incarnation,
    cluster::{ClusterMap, KeyFingerprint, Newcomer, NodeRow, StoreReport, TokenPurpose},
    moves::{Leaving, Loss},
    namespace::Timestamp,
};

use super::harness::{Machine, found, node_row};
use crate::{
    kv::{KvStore, WriteBatch},
    membership::{Detector, Hearing, Moves, StandIns},
    namespace::{
        ClusterCommand, ClusterOutcome, CommandBody, CommandOutcome, LogIndex, cluster_map,
        edit::Edit,
        row::{self, MetaRow},
        table,
    },
    repair::plan::{Coverage, windows},
};

const BITS: PartitionBits = match PartitionBits::new(4) {
    Ok(bits) => bits,
    Err(_) => panic!("few partitions"),
};
const REPLICAS: ReplicaCount = match ReplicaCount::new(3) {
    Ok(replicas) => replicas,
    Err(_) => panic!("three replicas"),
};
const OUT_AFTER: Duration = Duration::from_secs(600);
const DOWN_AFTER: Duration = Duration::from_secs(3);

/// Between two words of a node that is up: less often than in production, where three more may be lost.
const HEARTBEAT: Duration = Duration::from_millis(1500);

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// A cluster of the nodes 1 to `count`, with a ring of few partitions.
pub(super) fn cluster(count: u8) -> Machine {
    let mut machine = Machine::empty();
    let ClusterCommand::Found { cluster, node, authority, sealed_key, owner, .. } = found() else {
        panic!("no founding")
    };
    let command = ClusterCommand::Found { cluster, replicas: REPLICAS, node, authority, sealed_key, owner };
    machine.propose(CommandBody::Cluster(command));
    (2..=count).for_each(|number| join(&mut machine, number));
    let members: Vec<_> = map(&machine).nodes.iter().map(NodeRow::member).collect();
    let meta_key = table::single(table::META);
    let meta: MetaRow = row::read(&machine.rows, &meta_key).unwrap().unwrap();
    let epoch = meta.epoch.next();
    let ring = solver::solve(None, &members, REPLICAS, BITS, epoch).unwrap();
    let mut batch = WriteBatch::default();
    batch.put(meta_key, row::encode(&MetaRow { epoch, bits: Some(BITS), ..meta }));
    batch.put(table::single(table::RING), row::encode(&ring));
    machine.rows.commit(batch).unwrap();
    machine
}

fn join(machine: &mut Machine, number: u8) {
    let expires = Timestamp::new(machine.clock + 100, 0).unwrap();
    let (hash, key, row) = ([number; 32], KeyFingerprint([number; 32]), node_row(number));
    propose(machine, ClusterCommand::CreateToken { hash, purpose: TokenPurpose::Node, expires }).unwrap();
    let newcomer = Newcomer::Node { id: row.id, address: row.address, zone: row.zone, weight: row.weight };
    propose(machine, ClusterCommand::RedeemToken { hash, key, newcomer }).unwrap();
}

fn propose(machine: &mut Machine, command: ClusterCommand) -> Result<(), Refusal> {
    match machine.propose(CommandBody::Cluster(command)) {
        CommandOutcome::Cluster(ClusterOutcome::Done { .. } | ClusterOutcome::Admitted { .. }) => Ok(()),
        CommandOutcome::Refused(refusal) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

fn map(machine: &Machine) -> ClusterMap {
    cluster_map(&machine.rows).unwrap().unwrap()
}

fn partition_of(chunk: u64) -> Partition {
    BITS.partition_of(&key_of(chunk))
}

fn key_of(chunk: u64) -> ChunkKey {
    ChunkKey::of(&chunk.to_le_bytes())
}

/// What a node says of its store: nothing that matters here.
fn store_report() -> StoreReport {
    StoreReport {
        capacity: 1,
        used: 0,
        free: 1,
        chunks: 0,
        incarnation: Incarnation(1),
        full: false,
        failed: false,
        damaged: 0,
        repaired: 0,
        lacking: 0,
        starved: false,
    }
}

/// A node with its disk.
struct Host {
    up: bool,
    map: ClusterMap,
    chunks: BTreeSet<u64>,
    /// What it knows to hold whole, of which transition.
    confirmed: (Epoch, BTreeSet<Partition>),
    /// What it knows to hold whole, since stand-ins changed.
    clean: (Epoch, BTreeSet<Partition>),
}

/// A chunk that is stable on its quorums and not yet part of a file.
struct Put {
    chunk: u64,
    epoch: Epoch,
}

struct World {
    machine: Machine,
    now: Instant,
    /// Whom the leader has heard since it leads.
    detector: Detector,
    moves: Moves,
    stand_ins: StandIns,
    hosts: BTreeMap<NodeId, Host>,
    next_node: u8,
    next_chunk: u64,
    puts: Vec<Put>,
    committed: BTreeSet<u64>,
    /// Maps that clients may still have.
    maps: Vec<ClusterMap>,
    epoch: Epoch,
}

impl World {
    fn new(count: u8) -> Self {
        let machine = cluster(count);
        let map = map(&machine);
        let host = |row: &NodeRow| (row.id, Host::new(map.clone()));
        let now = Instant::now();
        Self {
            now,
            detector: Detector::new(DOWN_AFTER, now),
            moves: Moves::new(OUT_AFTER),
            stand_ins: StandIns::new(DOWN_AFTER),
            hosts: map.nodes.iter().map(host).collect(),
            next_node: count + 1,
            next_chunk: 0,
            puts: Vec::new(),
            committed: BTreeSet::new(),
            maps: vec![map.clone()],
            epoch: map.epoch,
            machine,
        }
    }

    fn propose(&mut self, command: ClusterCommand) -> Result<(), Refusal> {
        let outcome = propose(&mut self.machine, command);
        let map = map(&self.machine);
        assert!(map.epoch >= self.epoch, "epochs only rise");
        if map.epoch > self.epoch {
            self.epoch = map.epoch;
            self.maps.push(map);
        }
        outcome
    }

    fn map(&self) -> ClusterMap {
        self.maps.last().unwrap().clone()
    }

    /// Heartbeats, and time.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + HEARTBEAT);
            for (node, _) in self.hosts.iter().filter(|(_, host)| host.up) {
                self.detector.handle_heartbeat(*node, store_report(), self.now);
            }
        }
    }

    fn lead(&mut self) -> bool {
        let map = self.map();
        let (now, detector) = (self.now, &self.detector);
        let hearing = |node: NodeId| Hearing {
            heard: detector.is_heard(node, now),
            silent: detector.silence(node, now),
            steady: detector.steady(node, now),
        };
        let absence = self.stand_ins.poll(&map, hearing, now);
        let Some(command) = absence.or_else(|| self.moves.poll(&map, hearing, now)) else { return false };
        self.propose(command).unwrap();
        true
    }

    fn change_leader(&mut self) {
        self.moves = Moves::new(OUT_AFTER);
        self.stand_ins = StandIns::new(DOWN_AFTER);
        self.detector = Detector::new(DOWN_AFTER, self.now);
    }

    fn join(&mut self) {
        let number = self.next_node;
        self.next_node += 1;
        join(&mut self.machine, number);
        let map = map(&self.machine);
        self.epoch = map.epoch;
        self.maps.push(map.clone());
        self.hosts.insert(id(number), Host::new(map));
    }

    /// Nodes that are down and that anything depends on.
    fn missed(&self) -> Vec<NodeId> {
        let map = self.map();
        let placement = map.placement().unwrap();
        let needed = |node: &NodeId| {
            BITS.partitions().any(|partition| map.counts(partition, *node)) || placement.kept_by(*node).next().is_some()
        };
        self.hosts.iter().filter(|(node, host)| !host.up && needed(node)).map(|(node, _)| *node).collect()
    }

    fn stop(&mut self, node: NodeId) {
        if self.missed().len() < 2 {
            self.hosts.get_mut(&node).unwrap().up = false;
        }
    }

    fn start(&mut self, node: NodeId) {
        let host = self.hosts.get_mut(&node).unwrap();
        host.up = true;
        host.confirmed = (Epoch::default(), BTreeSet::new());
        host.clean = (Epoch::default(), BTreeSet::new());
    }

    /// Puts a chunk by the map `age` versions ago, to quorums that `choice` decides.
    fn put(&mut self, age: usize, choice: u64) {
        let map = self.maps[self.maps.len().saturating_sub(1 + age)].clone();
        let chunk = self.next_chunk;
        self.next_chunk += 1;
        let rows = map.put_rows(partition_of(chunk));
        let mut stable: BTreeSet<NodeId> = BTreeSet::new();
        for row in &rows {
            let mut takers: Vec<NodeId> =
                row.nodes.iter().copied().filter(|node| self.takes(*node, &map, chunk)).collect();
            if takers.len() < row.quorum {
                return;
            }
            let turn = choice as usize % takers.len();
            takers.rotate_left(turn);
            stable.extend(takers.into_iter().take(row.quorum));
        }
        for node in stable {
            self.hosts.get_mut(&node).unwrap().chunks.insert(chunk);
        }
        self.puts.push(Put { chunk, epoch: map.epoch });
    }

    /// Clients that have the map of `age` versions ago, and go on writing: to every partition.
    fn put_everywhere(&mut self, age: usize, choice: u64) {
        let mut open: BTreeSet<Partition> = BITS.partitions().collect();
        while !open.is_empty() {
            // A chunk that is never put is no harm: its number is all that is lost.
            if open.remove(&partition_of(self.next_chunk)) {
                self.put(age, choice);
            } else {
                self.next_chunk += 1;
            }
        }
    }

    /// Whether `node` takes a put made by `map`: it catches up to it, though maybe no further, and refuses one that is too
    /// old.
    fn takes(&mut self, node: NodeId, map: &ClusterMap, chunk: u64) -> bool {
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up) else { return false };
        host.catch_up(map.epoch, map);
        let placement = host.map.placement().unwrap();
        map.epoch >= placement.epoch() && host.map.takes(partition_of(chunk), node)
    }

    /// A put becomes part of a file, if the state machine lets it.
    fn commit(&mut self, which: usize) {
        if self.puts.is_empty() {
            return;
        }
        let put = self.puts.swap_remove(which % self.puts.len());
        let edit = Edit::new(&self.machine.rows, LogIndex(1), Timestamp::new(1, 0).unwrap());
        if edit.check_put(std::iter::once((key_of(put.chunk), put.epoch, GcEpoch(1)))).is_ok() {
            self.committed.insert(put.chunk);
        }
    }

    /// A node takes over what it can from the owners that `choice` does not hide, and tells the leader.
    fn take_over(&mut self, node: NodeId, choice: u64) {
        let newest = self.map();
        if newest.placement().unwrap().coming_to(node).next().is_none() {
            // Whom a change does not concern may learn of it late.
            return;
        }
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up) else { return };
        host.catch_up(newest.epoch, &newest);
        let map = host.map.clone();
        let placement = map.placement().unwrap();
        if host.confirmed.0 != placement.epoch() {
            host.confirmed = (placement.epoch(), BTreeSet::new());
        }
        for partition in placement.coming_to(node).collect::<Vec<_>>() {
            if self.gather(node, &map, partition, choice) {
                self.hosts.get_mut(&node).unwrap().confirmed.1.insert(partition);
            }
        }
        let (epoch, confirmed) = &self.hosts[&node].confirmed;
        self.moves.handle_confirm(node, *epoch, &confirmed.iter().copied().collect::<Vec<_>>());
    }

    /// Takes what the holders have that `choice` does not hide; whether they are enough.
    fn gather(&mut self, node: NodeId, map: &ClusterMap, partition: Partition, choice: u64) -> bool {
        let mut coverage = Coverage::new(std::iter::once(partition), node);
        let windows = windows(map, std::iter::once(partition), node);
        for (at, (holder, windows)) in windows.into_iter().enumerate() {
            let hidden = choice >> ((partition.0 as usize + at) % 64) & 1 == 1;
            let Some(host) = self.hosts.get(&holder).filter(|host| host.up && !hidden) else { continue };
            // Whoever knows better does not tell what counts no more.
            let placement = host.map.placement().unwrap();
            let counts =
                placement.is_owner(partition, holder) || host.map.may_hold(partition).any(|node| node == holder);
            if host.map.epoch > map.epoch && !counts {
                continue;
            }
            let found = host.of(partition);
            self.hosts.get_mut(&node).unwrap().chunks.extend(found);
            windows.iter().for_each(|window| coverage.handle_compared(map, holder, window));
        }
        coverage.is_covered(map, partition)
    }

    /// A node takes what others took for those who were away, and tells the leader. It has the map of `age` versions ago at
    /// least.
    fn make_whole(&mut self, node: NodeId, age: usize, choice: u64) {
        let known = self.maps[self.maps.len().saturating_sub(1 + age)].clone();
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up) else { return };
        host.catch_up(known.epoch, &known);
        let map = host.map.clone();
        if host.clean.0 != map.acting {
            host.clean = (map.acting, BTreeSet::new());
        }
        let placement = map.placement().unwrap();
        let due = |partition: &Partition| placement.is_owner(*partition, node) && map.can_be_clean(*partition);
        let due: Vec<Partition> = map.unclean().into_iter().filter(due).collect();
        host.clean.1.retain(|partition| due.contains(partition));
        for partition in due {
            if self.gather(node, &map, partition, choice) {
                self.hosts.get_mut(&node).unwrap().clean.1.insert(partition);
            }
        }
        let (acting, clean) = &self.hosts[&node].clean;
        self.stand_ins.handle_confirm(node, *acting, &clean.iter().copied().collect::<Vec<_>>());
    }

    /// A node drops what is placed elsewhere, by the map that it has.
    fn drop_leftovers(&mut self, node: NodeId) {
        let Some(host) = self.hosts.get_mut(&node).filter(|host| host.up) else { return };
        if host.map.leaving(node) != Some(Leaving::Out) {
            let map = host.map.clone();
            host.chunks.retain(|chunk| map.counts(partition_of(*chunk), node));
        }
    }

    /// `node` falls silent for a while, and its partitions become clean again. `slow` and the clients hear of it late: what
    /// these write then by a map of before, to that one among others, must be part of no file if no owner lists it.
    fn absence(&mut self, node: NodeId, slow: NodeId, choice: u64) {
        self.stop(node);
        self.pass(2 * DOWN_AFTER);
        while self.lead() {}
        self.start(node);
        self.pass(DOWN_AFTER);
        while self.lead() {}
        let others: Vec<NodeId> = self.hosts.keys().copied().filter(|other| *other != slow).collect();
        others.into_iter().for_each(|other| self.make_whole(other, 0, 0));
        self.lead();
        self.put_everywhere(choice as usize % 4, choice >> 2);
        (0..self.puts.len()).for_each(|_| self.commit(0));
    }

    fn drain(&mut self, node: NodeId) {
        let drained = self.propose(ClusterCommand::SetLeaving { node, why: Some(Leaving::Draining) });
        assert!(matches!(drained, Ok(()) | Err(Refusal::TooFewNodes { .. })), "{drained:?}");
    }

    fn remove(&mut self, node: NodeId) {
        match self.propose(ClusterCommand::RemoveNode { node, loss: Loss::Refused }) {
            Ok(()) => drop(self.hosts.remove(&node)),
            Err(Refusal::NotAllowed) => {}
            Err(other) => panic!("{other}"),
        }
    }

    /// Every chunk of a file lies with a write quorum of those that own its partition or may hold something of it, and where
    /// it is clean of its owners, whatever else has happened.
    fn check(&self) {
        let map = self.map();
        let placement = map.placement().unwrap();
        let mut committed: BTreeMap<Partition, Vec<u64>> = BTreeMap::new();
        self.committed.iter().for_each(|chunk| committed.entry(partition_of(*chunk)).or_default().push(*chunk));
        for (partition, chunks) in committed {
            let owners: BTreeSet<NodeId> = placement.owners(partition).collect();
            assert_eq!(owners.len(), REPLICAS.count(), "owners are distinct");
            let all: BTreeSet<NodeId> = owners.iter().copied().chain(map.may_hold(partition)).collect();
            let hosts: Vec<&Host> = all.iter().filter_map(|node| self.hosts.get(node)).collect();
            for chunk in chunks {
                let held = hosts.iter().filter(|host| host.chunks.contains(&chunk)).count();
                assert!(held >= REPLICAS.write_quorum(), "chunk {chunk} lies with {held} of {all:?} at {}", map.epoch);
            }
        }
        for partition in placement.bits().partitions() {
            for row in map.put_rows(partition) {
                assert_eq!(row.nodes.iter().collect::<BTreeSet<_>>().len(), REPLICAS.count(), "distinct");
                let counts = |node: &NodeId| map.takes(partition, *node);
                assert!(row.nodes.iter().all(counts), "{row:?} of {partition:?} take puts");
                let stand_ins = row.nodes.iter().filter(|node| map.stands_in(**node, partition));
                let is_listed = |node: &NodeId| map.may_hold(partition).any(|holder| holder == *node);
                assert!(stand_ins.copied().all(|node| is_listed(&node)), "who stands in may hold something");
            }
        }
    }

    /// Members that are to hold partitions.
    fn holding(&self) -> BTreeSet<NodeId> {
        let map = self.map();
        map.nodes.iter().map(|row| row.id).filter(|node| map.leaving(*node).is_none()).collect()
    }

    /// Without new events, all moves come to their end, and everything lies where the ring of the members that are there
    /// says. A node that cannot be given up, because too few others are left, is waited for.
    fn settle(&mut self) {
        // With two lost for good, what only those two have is lost: that is not promised to end.
        while let [first, _, ..] = self.missed().as_slice() {
            self.start(*first);
        }
        self.pass(DOWN_AFTER);
        self.pass(OUT_AFTER);
        self.work();
        for node in self.holding().into_iter().filter(|node| !self.hosts[node].up).collect::<Vec<_>>() {
            assert_eq!(self.holding().len(), REPLICAS.count(), "{node:?} is silent, and not given up");
            self.start(node);
        }
        self.work();
        let (map, holding) = (self.map(), self.holding());
        assert_eq!(map.transition, None, "moves end");
        assert_eq!((map.away.as_slice(), map.may_hold.as_slice()), ([].as_slice(), [].as_slice()), "absences end");
        let members: BTreeSet<NodeId> = map.ring.as_ref().unwrap().members().iter().map(|member| member.id).collect();
        if holding.len() >= REPLICAS.count() {
            assert_eq!(members, holding, "the ring is that of the members that are to hold something");
        }
        for node in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.drop_leftovers(node);
        }
        self.check();
    }

    /// The leader and the nodes do what they can.
    fn work(&mut self) {
        for _round in 0..32 {
            self.pass(Duration::from_secs(1));
            while self.lead() {}
            for node in self.hosts.keys().copied().collect::<Vec<_>>() {
                self.take_over(node, 0);
                self.make_whole(node, 0, 0);
            }
            self.check();
        }
    }

    fn step(&mut self, event: u8, who: u8, choice: u64) {
        let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
        let node = nodes[usize::from(who) % nodes.len()];
        match event % 28 {
            0 if nodes.len() < 7 => self.join(),
            1 => self.stop(node),
            2 => self.start(node),
            3 => self.pass(Duration::from_millis(500)),
            4 => self.pass(OUT_AFTER),
            5 => self.change_leader(),
            6 => self.drain(node),
            7 => {
                self.propose(ClusterCommand::SetLeaving { node, why: None }).unwrap();
            }
            8 => self.remove(node),
            9 => self.drop_leftovers(node),
            10 => self.put(usize::from(who) % 4, choice),
            // A client that has not heard of the change, and is quick.
            11 => {
                self.put(1 + usize::from(who) % 3, choice);
                self.commit(self.puts.len().saturating_sub(1));
            }
            12 => self.put(0, choice),
            13 | 14 => self.commit(choice as usize),
            15 | 16 => drop(self.lead()),
            17 => {
                self.pass(Duration::from_secs(1));
                while self.lead() {}
            }
            // Silent for so long that others take its writes.
            18 => self.pass(DOWN_AFTER),
            19 | 20 => self.make_whole(node, usize::from(who) % 3, choice),
            21 => {
                self.pass(Duration::from_secs(1));
                while self.lead() {}
                nodes.iter().for_each(|node| self.make_whole(*node, 0, choice));
                self.lead();
            }
            // One node is slow to hear of what all others know and act upon.
            22 => {
                self.pass(Duration::from_secs(1));
                nodes.iter().filter(|other| **other != node).for_each(|other| self.make_whole(*other, 0, choice));
                self.lead();
            }
            25 => self.absence(node, nodes[choice as usize % nodes.len()], choice >> 8),
            // Clients that are slow to hear of it write as before, and commit at once or later.
            23 => self.put_everywhere(usize::from(who) % 4, choice),
            24 => (0..self.puts.len()).for_each(|_| self.commit(0)),
            _ => self.take_over(node, choice),
        }
        self.check();
    }
}

impl Host {
    fn new(map: ClusterMap) -> Self {
        let nothing = (Epoch::default(), BTreeSet::new());
        Self { up: true, map, chunks: BTreeSet::new(), confirmed: nothing.clone(), clean: nothing }
    }

    fn catch_up(&mut self, to: Epoch, newest: &ClusterMap) {
        if self.map.epoch < to {
            self.map = newest.clone();
        }
    }

    fn of(&self, partition: Partition) -> Vec<u64> {
        self.chunks.iter().copied().filter(|chunk| partition_of(*chunk) == partition).collect()
    }
}

proptest! {
    #![proptest_config(Config { cases: 256, failure_persistence: None, ..Config::default() })]

    #[test]
    fn whatever_comes_and_goes_every_chunk_of_a_file_lies_with_a_quorum_of_its_owners_and_moves_end(
        count in 3u8..6,
        events in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u64>()), 0..300),
    ) {
        let mut world = World::new(count);
        for (event, who, choice) in events {
            world.step(event, who, choice);
        }
        world.settle();
    }
}

#[test]
fn a_change_of_the_ring_begins_with_a_fence_and_each_partition_is_settled_by_itself() {
    let mut machine = cluster(3);
    let before = map(&machine);
    join(&mut machine, 4);
    let all: Vec<NodeId> = (1..=4).map(id).collect();
    propose(&mut machine, ClusterCommand::Rebalance { members: all.clone() }).unwrap();
    let begun = map(&machine);
    let transition = begun.transition.clone().unwrap();
    assert_eq!((begun.ring.as_ref(), transition.epoch()), (before.ring.as_ref(), begun.epoch));
    let moving: Vec<Partition> = transition.unsettled().collect();
    assert_eq!(moving.len(), 12, "a quarter of 16 partitions of three replicas");
    // Begun again, nothing changes.
    propose(&mut machine, ClusterCommand::Rebalance { members: all.clone() }).unwrap();
    assert_eq!(map(&machine), begun);
    let check = |machine: &Machine, partition: Partition, epoch: Epoch| {
        let chunk = (0..).find(|chunk| partition_of(*chunk) == partition).unwrap();
        let edit = Edit::new(&machine.rows, LogIndex(1), Timestamp::new(1, 0).unwrap());
        edit.check_put(std::iter::once((key_of(chunk), epoch, GcEpoch(1)))).is_ok()
    };
    let staying = BITS.partitions().find(|partition| transition.is_settled(*partition)).unwrap();
    assert!(check(&machine, staying, before.epoch) && !check(&machine, moving[0], before.epoch));
    assert!(check(&machine, moving[0], begun.epoch));
    // Meant for another transition, nothing is settled.
    let settle = |epoch, partitions: &[Partition]| ClusterCommand::Settle { epoch, partitions: partitions.to_vec() };
    propose(&mut machine, settle(before.epoch, &moving)).unwrap();
    assert_eq!(map(&machine), begun);
    propose(&mut machine, settle(begun.epoch, &moving[..3])).unwrap();
    let settled = map(&machine);
    assert_eq!((settled.epoch, settled.transition.as_ref().unwrap().unsettled().count()), (begun.epoch.next(), 9));
    assert!(!check(&machine, moving[0], before.epoch) && check(&machine, moving[0], begun.epoch));
    propose(&mut machine, settle(begun.epoch, &moving)).unwrap();
    let done = map(&machine);
    assert_eq!((done.transition, done.ring.as_ref()), (None, Some(transition.next())));
    assert!(!check(&machine, moving[5], before.epoch), "the fence stays");
}

/// Nodes that have not heard of a change take puts of clients that have not either, after a new owner has listed them.
#[test]
fn what_is_put_by_an_old_map_behind_the_back_of_a_listing_becomes_no_part_of_a_file() {
    let mut world = World::new(3);
    world.join();
    world.pass(Duration::from_secs(1));
    assert!(world.lead(), "the newcomer is to have its share");
    let moving: BTreeSet<Partition> = world.map().transition.unwrap().unsettled().collect();
    world.take_over(id(4), 0);
    let mut refused = 0;
    for choice in 0..200 {
        world.put(1, choice);
        let chunk = world.puts.last().unwrap().chunk;
        world.commit(world.puts.len() - 1);
        let is_moving = moving.contains(&partition_of(chunk));
        assert_eq!(world.committed.contains(&chunk), !is_moving);
        refused += usize::from(is_moving);
    }
    assert!((50..200).contains(&refused), "{refused} of 200 in three quarters of the partitions");
    while world.lead() {}
    assert_eq!(world.map().transition, None);
    world.check();
}

#[test]
fn a_second_change_begins_where_the_first_was_given_up() {
    let mut machine = cluster(3);
    join(&mut machine, 4);
    propose(&mut machine, ClusterCommand::Rebalance { members: (1..=4).map(id).collect() }).unwrap();
    let first = map(&machine);
    let moving: Vec<Partition> = first.transition.as_ref().unwrap().unsettled().collect();
    propose(&mut machine, ClusterCommand::Settle { epoch: first.epoch, partitions: moving[..2].to_vec() }).unwrap();
    let settled = map(&machine);
    join(&mut machine, 5);
    propose(&mut machine, ClusterCommand::Rebalance { members: (1..=5).map(id).collect() }).unwrap();
    let second = map(&machine);
    let (before, after) = (settled.placement().unwrap(), second.placement().unwrap());
    for partition in BITS.partitions() {
        let owners: BTreeSet<_> = before.owners(partition).collect();
        if after.next_owners(partition).is_some() {
            assert_eq!(after.owners(partition).collect::<BTreeSet<_>>(), owners, "{partition:?} has not gone over");
        } else {
            assert_eq!(after.owners(partition).collect::<BTreeSet<_>>(), owners, "{partition:?} stays");
        }
    }
    assert!(after.epoch() > settled.epoch && second.epoch == after.epoch());
}

#[test]
fn a_node_leaves_only_while_enough_others_hold_partitions_and_goes_only_when_nothing_needs_it() {
    let mut machine = cluster(4);
    let leave = |node, why| ClusterCommand::SetLeaving { node: id(node), why };
    let remove = |node, loss| ClusterCommand::RemoveNode { node: id(node), loss };
    propose(&mut machine, leave(1, Some(Leaving::Draining))).unwrap();
    let refused = propose(&mut machine, leave(2, Some(Leaving::Out)));
    assert_eq!(refused, Err(Refusal::TooFewNodes { missing: 1 }));
    assert_eq!(propose(&mut machine, leave(9, Some(Leaving::Out))), Err(Refusal::UnknownPeer));
    assert_eq!(propose(&mut machine, remove(1, Loss::Refused)), Err(Refusal::NotAllowed));
    // A leaving node is no part of the next ring, whoever asks for it.
    propose(&mut machine, ClusterCommand::Rebalance { members: (1..=4).map(id).collect() }).unwrap();
    let begun = map(&machine);
    assert!(begun.placement().unwrap().target().members().iter().all(|member| member.id != id(1)));
    let partitions = begun.transition.as_ref().unwrap().unsettled().collect();
    propose(&mut machine, ClusterCommand::Settle { epoch: begun.epoch, partitions }).unwrap();
    propose(&mut machine, remove(1, Loss::Refused)).unwrap();
    let gone = map(&machine);
    assert_eq!((gone.node(id(1)), gone.leaving.len(), gone.nodes.len()), (None, 0, 3));
    // Below the replicas that are wished only by force.
    assert_eq!(propose(&mut machine, remove(2, Loss::Refused)), Err(Refusal::NotAllowed));
    propose(&mut machine, remove(2, Loss::Accepted)).unwrap();
    let forced = map(&machine);
    let rows = forced.put_rows(Partition(0));
    assert_eq!(rows.iter().map(|row| (row.nodes.len(), row.quorum)).collect::<Vec<_>>(), [(2, 2)]);
}

#[test]
fn what_a_node_that_was_removed_by_force_has_acknowledged_is_put_again_and_it_never_comes_back() {
    let mut machine = cluster(4);
    let before = map(&machine).epoch;
    let check = |machine: &Machine, epoch| {
        let edit = Edit::new(&machine.rows, LogIndex(1), Timestamp::new(1, 0).unwrap());
        (0..64).all(|chunk| edit.check_put([(key_of(chunk), epoch, GcEpoch(1))].into_iter()).is_ok())
    };
    assert!(check(&machine, before));
    propose(&mut machine, ClusterCommand::RemoveNode { node: id(2), loss: Loss::Accepted }).unwrap();
    let after = map(&machine).epoch;
    assert!(after > before && !check(&machine, before) && check(&machine, after));
    // With its old directory it would count for what it has missed.
    let expires = Timestamp::new(machine.clock + 100, 0).unwrap();
    let (hash, key, row) = ([77; 32], KeyFingerprint([2; 32]), node_row(2));
    propose(&mut machine, ClusterCommand::CreateToken { hash, purpose: TokenPurpose::Node, expires }).unwrap();
    let newcomer = Newcomer::Node { id: row.id, address: row.address, zone: row.zone, weight: row.weight };
    let redeem = ClusterCommand::RedeemToken { hash, key, newcomer };
    assert_eq!(propose(&mut machine, redeem), Err(Refusal::UnknownPeer));
    assert_eq!(map(&machine).node(id(2)), None);
}

/// Who still stands in by an old map takes puts that no owner ever lists.
#[test]
fn what_was_put_during_an_absence_and_not_committed_before_its_end_is_put_again() {
    let mut machine = cluster(5);
    let check = |machine: &Machine, epoch| {
        let edit = Edit::new(&machine.rows, LogIndex(1), Timestamp::new(1, 0).unwrap());
        (0..64).all(|chunk| edit.check_put([(key_of(chunk), epoch, GcEpoch(1))].into_iter()).is_ok())
    };
    let before = map(&machine);
    propose(&mut machine, ClusterCommand::Away { nodes: vec![id(1), id(2)] }).unwrap();
    let away = map(&machine);
    assert!(check(&machine, before.epoch) && check(&machine, away.epoch), "an absence that begins makes nothing void");
    propose(&mut machine, ClusterCommand::Back { node: id(1) }).unwrap();
    let back = map(&machine);
    assert!(!check(&machine, before.epoch) && !check(&machine, away.epoch) && check(&machine, back.epoch));
    assert_eq!(back.may_hold, away.may_hold, "what others took counts still");
}

#[test]
fn partitions_become_clean_only_when_no_owner_is_away_and_by_words_since_stand_ins_changed() {
    let mut machine = cluster(5);
    propose(&mut machine, ClusterCommand::Away { nodes: vec![id(1), id(2)] }).unwrap();
    propose(&mut machine, ClusterCommand::Back { node: id(1) }).unwrap();
    let back = map(&machine);
    let all: Vec<Partition> = back.unclean().into_iter().collect();
    let of_two: BTreeSet<Partition> = back.placement().unwrap().kept_by(id(2)).collect();
    propose(&mut machine, ClusterCommand::Clean { acting: before_of(back.acting), partitions: all.clone() }).unwrap();
    assert_eq!(map(&machine), back, "meant for stand-ins of before");
    propose(&mut machine, ClusterCommand::Clean { acting: back.acting, partitions: all }).unwrap();
    assert_eq!(map(&machine).unclean(), back.unclean().intersection(&of_two).copied().collect());
    propose(&mut machine, ClusterCommand::Back { node: id(2) }).unwrap();
    let last = map(&machine);
    let rest: Vec<Partition> = last.unclean().into_iter().collect();
    propose(&mut machine, ClusterCommand::Clean { acting: last.acting, partitions: rest }).unwrap();
    assert_eq!(map(&machine).may_hold, []);
}

fn before_of(epoch: Epoch) -> Epoch {
    Epoch(epoch.0 - 1)
}
