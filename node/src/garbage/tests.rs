//! The race between a dedup hit and a deletion, in every order that chance finds.
//!
//! The namespace is the real one, and so are the decisions of nodes and leader. Sessions, copies and messages are
//! models: what is asked is answered from one state and acted upon at any later time, put again, lost or late. The
//! leader sometimes forgets what sessions said and advances `gc_safe` over their heads: what keeps the bytes then is
//! that `apply` looks at the stamp.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use ring::{ChunkKey, Epoch, GcEpoch};
use wire::{
    garbage::{Claim, DeadPage, Standing},
    namespace::{Inode, NewContent, NewExtent, NewKind, Op, OpError, Replace, SetId},
};

use super::{judge, lead::next_safe};
use crate::{
    kv::{KvRead, KvStore},
    namespace::{
        self, CommandBody, DeadLimits,
        tests::harness::{Client, Machine, chunk, name, new_inode, slice},
    },
};

/// Nodes that hold every chunk, and how many of them a commit needs.
const NODES: usize = 3;
const QUORUM: usize = 2;

/// Chunks and names: few, so that they meet again.
const CHUNKS: u64 = 4;
const NAMES: u64 = 3;

const STEPS: usize = 400;
const SEEDS: u64 = 250;

/// A node's copies with their stamps, and what it means to delete.
#[derive(Default)]
struct Copies {
    held: BTreeMap<ChunkKey, GcEpoch>,
    quarantine: BTreeMap<ChunkKey, GcEpoch>,
    /// Judged and told, not yet acted upon.
    told: Vec<Vec<(ChunkKey, GcEpoch)>>,
    claim: Claim,
}

impl Copies {
    fn put(&mut self, key: ChunkKey, gc: GcEpoch) {
        let stamp = self.held.entry(key).or_insert(gc);
        *stamp = gc.max(*stamp);
    }

    /// A dedup hit.
    fn has(&mut self, key: ChunkKey, gc: GcEpoch) -> bool {
        let in_use = self.is_in_use(&key);
        if in_use {
            self.put(key, gc);
        }
        in_use
    }

    fn is_in_use(&self, key: &ChunkKey) -> bool {
        let stamp = self.held.get(key);
        stamp.is_some_and(|stamp| self.quarantine.get(key).is_none_or(|up_to| stamp > up_to))
    }

    fn delete(&mut self, condemned: &[(ChunkKey, GcEpoch)]) {
        for (key, up_to) in condemned {
            if self.held.get(key).is_some_and(|stamp| stamp <= up_to) {
                self.held.remove(key);
            }
            self.quarantine.remove(key);
        }
    }
}

/// A chunk on its way to a commit.
struct Upload {
    number: u64,
    gc: GcEpoch,
    stable: BTreeSet<usize>,
}

struct Session {
    client: Client,
    current: GcEpoch,
    uploads: Vec<Upload>,
    /// A keep-alive that the leader has not heard yet.
    said: Option<GcEpoch>,
    /// What the leader heard last.
    heard: Option<GcEpoch>,
}

struct World {
    rng: StdRng,
    machine: Machine,
    sessions: Vec<Session>,
    nodes: [Copies; NODES],
    opened: u8,
    commits: usize,
    refused: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let (rng, machine) = (StdRng::seed_from_u64(seed), Machine::new());
        let nodes = std::array::from_fn(|_| Copies::default());
        Self { rng, machine, sessions: Vec::new(), nodes, opened: 0, commits: 0, refused: 0 }
    }

    fn counters(&self) -> (GcEpoch, GcEpoch) {
        let rows = &self.machine.rows;
        (namespace::gc_current(rows).unwrap(), namespace::gc_safe(rows).unwrap())
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..4 => self.open(),
            4..7 => self.close(),
            7..22 => self.begin_upload(),
            22..42 => self.reach_node(),
            42..55 => self.commit(),
            55..63 => self.remove(),
            63..66 => self.copy(),
            66..72 => self.keep_alive(),
            72..80 => self.lead(),
            80..86 => self.ask_for_dead(),
            86..89 => self.sweep(),
            89..94 => self.act(),
            94..98 => self.repair(),
            _ => self.restart(),
        }
        self.check();
    }

    fn open(&mut self) {
        if self.sessions.len() >= 4 || self.opened == u8::MAX {
            return;
        }
        self.opened += 1;
        let client = Client::open(&mut self.machine, self.opened);
        let (current, _) = self.counters();
        self.sessions.push(Session { client, current, uploads: Vec::new(), said: None, heard: Some(current) });
    }

    /// At its wish, or because it fell silent: what it put and did not commit stays behind.
    fn close(&mut self) {
        if let Some(at) = (0..self.sessions.len()).choose(&mut self.rng) {
            let session = self.sessions.remove(at);
            self.machine.propose(CommandBody::CloseSession { session: session.client.session });
        }
    }

    fn begin_upload(&mut self) {
        let number = self.rng.random_range(0..CHUNKS);
        if let Some(session) = self.sessions.iter_mut().choose(&mut self.rng) {
            session.uploads.push(Upload { number, gc: session.current, stable: BTreeSet::new() });
        }
    }

    /// A put, or a question that a put follows where the answer is no.
    fn reach_node(&mut self) {
        let (node, asks) = (self.rng.random_range(0..NODES), self.rng.random());
        let Some(session) = self.sessions.iter_mut().choose(&mut self.rng) else { return };
        let Some(upload) = session.uploads.iter_mut().choose(&mut self.rng) else { return };
        let (copies, key) = (&mut self.nodes[node], chunk(upload.number));
        if asks && !copies.has(key, upload.gc) {
            return;
        }
        copies.put(key, upload.gc);
        upload.stable.insert(node);
    }

    fn commit(&mut self) {
        let file = name(&self.rng.random_range(0..NAMES).to_string());
        let Some(session) = self.sessions.iter_mut().choose(&mut self.rng) else { return };
        let stable = |upload: &Upload| upload.stable.len() >= QUORUM;
        let Some(at) = session.uploads.iter().position(stable) else { return };
        let Upload { number, gc, .. } = session.uploads.remove(at);
        let extents = vec![NewExtent { offset: 0, slice: slice(number, 10), epoch: Epoch(1), gc }];
        let inode = session.client.inode(&mut self.machine);
        let new = new_inode(inode, NewKind::File(NewContent::Extents { extents, size: 10 }));
        let op = Op::Create { dir: Inode::ROOT, name: file, new, replace: Replace::File };
        match session.client.run(&mut self.machine, op) {
            Ok(_) => self.commits += 1,
            Err(OpError::StaleGc) => {
                // Put again, with the stamp that it asks for.
                self.refused += 1;
                session.current = namespace::gc_current(&self.machine.rows).unwrap();
                session.uploads.push(Upload { number, gc: session.current, stable: BTreeSet::new() });
            }
            Err(error) => panic!("{error}"),
        }
        self.reclaim();
    }

    fn remove(&mut self) {
        let entries = self.machine.list(Inode::ROOT);
        let Some(entry) = entries.iter().choose(&mut self.rng) else { return };
        let Some(session) = self.sessions.iter_mut().choose(&mut self.rng) else { return };
        session.client.ok(&mut self.machine, Op::Unlink { dir: Inode::ROOT, name: entry.name.clone() });
        self.reclaim();
    }

    /// A reference that comes without a put.
    fn copy(&mut self) {
        let entries = self.machine.list(Inode::ROOT);
        let Some(from) = entries.iter().choose(&mut self.rng).map(|entry| entry.inode) else { return };
        let to = name(&self.rng.random_range(0..NAMES).to_string());
        let Some(session) = self.sessions.iter_mut().choose(&mut self.rng) else { return };
        let inode = session.client.inode(&mut self.machine);
        let new = new_inode(inode, NewKind::File(NewContent::Empty));
        session.client.ok(&mut self.machine, Op::CreateUnnamed { new });
        let op =
            Op::Clone { from, from_offset: 0, to: inode, to_offset: 0, len: 10, if_version: None, set_id: SetId::Keep };
        session.client.ok(&mut self.machine, op);
        let link = Op::Link { inode, dir: Inode::ROOT, name: to, replace: Replace::File };
        session.client.ok(&mut self.machine, link);
        self.reclaim();
    }

    fn reclaim(&mut self) {
        let orphans = namespace::orphans(&self.machine.rows, namespace::LogIndex(u64::MAX), 64).unwrap();
        self.machine.propose(CommandBody::ReclaimOrphans { inodes: orphans });
        self.machine.finish_work();
    }

    /// One half of a keep-alive: it is said, or it is heard and answered.
    fn keep_alive(&mut self) {
        let (current, _) = self.counters();
        let Some(session) = self.sessions.iter_mut().choose(&mut self.rng) else { return };
        match session.said.take() {
            Some(said) => {
                session.heard = session.heard.max(Some(said));
                session.current = session.current.max(current);
            }
            None => session.said = session.uploads.iter().map(|upload| upload.gc).min().or(Some(session.current)),
        }
    }

    /// The leader raises, advances (now and then, having lost its memory, over the heads of sessions), removes rows.
    fn lead(&mut self) {
        let (current, safe) = self.counters();
        match self.rng.random_range(0..4) {
            0 => drop(self.machine.propose(CommandBody::RaiseGc { from: current })),
            1 => {
                let mut heard = self.sessions.iter().map(|session| session.heard);
                let lowest = heard.try_fold(GcEpoch(u64::MAX), |lowest, heard| Some(lowest.min(heard?)));
                self.advance(next_safe(current, safe, lowest));
            }
            2 => {
                let anything = GcEpoch(self.rng.random_range(0..=current.0));
                self.advance(Some(anything));
            }
            _ => self.forget_deleted(),
        }
    }

    fn advance(&mut self, safe: Option<GcEpoch>) {
        if let Some(safe) = safe {
            self.machine.propose(CommandBody::AdvanceGc { safe });
        }
    }

    fn forget_deleted(&mut self) {
        let below = self.nodes.iter().map(|node| node.claim.below).min().unwrap();
        let limits = DeadLimits { seen: 100, found: 100 };
        let page = namespace::dead_rows(&self.machine.rows, None, limits, |_, at| at < below).unwrap();
        self.machine.propose(CommandBody::ForgetDead { chunks: page.rows });
    }

    /// A node walks the dead rows of one state; what it finds it deletes at some later time.
    fn ask_for_dead(&mut self) {
        let node = self.rng.random_range(0..NODES);
        let (_, safe) = self.counters();
        let limits = DeadLimits { seen: self.rng.random_range(1..9), found: 3 };
        let mut pass = judge::Pass::new(self.nodes[node].claim);
        let mut condemned = Vec::new();
        while let Some(after) = pass.poll_page() {
            let done = self.nodes[node].claim.below;
            let due = |_: &ChunkKey, at| (done..safe).contains(&at);
            let page = namespace::dead_rows(&self.machine.rows, after, limits, due).unwrap();
            let page = DeadPage { ring: Epoch(1), safe, rows: page.rows, next: page.next };
            condemned.extend(pass.handle_page(&page).unwrap());
        }
        let copies = &mut self.nodes[node];
        copies.quarantine.extend(condemned.iter().copied());
        if self.rng.random() {
            copies.told.push(condemned);
        } else {
            copies.delete(&condemned);
            copies.claim = pass.claim();
        }
    }

    /// A node has every copy judged.
    fn sweep(&mut self) {
        let node = self.rng.random_range(0..NODES);
        let (_, safe) = self.counters();
        let rows = self.machine.rows.snapshot();
        let copies = &mut self.nodes[node];
        let up_to = |key: &ChunkKey| judge::condemned_up_to(namespace::standing(&*rows, key).unwrap(), safe);
        let condemned = copies.held.keys().filter_map(|key| Some((*key, up_to(key)?))).collect();
        copies.told.push(condemned);
    }

    /// A node does what it was told at some earlier time.
    fn act(&mut self) {
        let node = self.rng.random_range(0..NODES);
        let copies = &mut self.nodes[node];
        if let Some(at) = (0..copies.told.len()).choose(&mut self.rng) {
            let condemned = copies.told.remove(at);
            copies.delete(&condemned);
        }
    }

    /// A node fetches what another has, with its stamp; now and then without asking what is garbage.
    fn repair(&mut self) {
        let (to, from) = (self.rng.random_range(0..NODES), self.rng.random_range(0..NODES));
        let (_, safe) = self.counters();
        let asks = self.rng.random_range(0..4) > 0;
        let held = self.nodes[from].held.clone();
        for (key, stamp) in held {
            let standing = namespace::standing(&self.machine.rows, &key).unwrap();
            let worth = !asks || judge::is_worth_fetching(standing, safe, stamp);
            if worth && !self.nodes[to].is_in_use(&key) {
                self.nodes[to].put(key, stamp);
            }
        }
    }

    /// What is on disk stays.
    fn restart(&mut self) {
        let node = self.rng.random_range(0..NODES);
        let copies = &mut self.nodes[node];
        (copies.quarantine, copies.told, copies.claim) = Default::default();
    }

    /// What files refer to is on a write quorum.
    fn check(&self) {
        for number in 0..CHUNKS {
            let key = chunk(number);
            if namespace::standing(&self.machine.rows, &key).unwrap() == Standing::Named {
                let holders = self.nodes.iter().filter(|node| node.held.contains_key(&key)).count();
                assert!(holders >= QUORUM, "chunk {number} is on {holders} nodes");
            }
        }
    }

    /// Everybody does what is due, nobody else does anything: what no file refers to goes, and its rows with it.
    fn settle(&mut self) {
        while !self.sessions.is_empty() {
            self.close();
        }
        for _ in 0..3 {
            let (current, _) = self.counters();
            self.machine.propose(CommandBody::RaiseGc { from: current });
            self.advance(next_safe(GcEpoch(u64::MAX), GcEpoch(0), Some(GcEpoch(u64::MAX))));
            for _ in 0..40 {
                self.ask_for_dead();
                self.sweep();
                self.act();
                self.forget_deleted();
                self.check();
            }
        }
        for node in &mut self.nodes {
            for condemned in std::mem::take(&mut node.told) {
                node.delete(&condemned);
            }
        }
        let rows: &dyn KvRead = &self.machine.rows;
        assert_eq!(namespace::dead_tally(rows).unwrap().chunks, 0, "dead rows are left");
        for (key, _) in self.nodes.iter().flat_map(|node| &node.held) {
            assert_eq!(namespace::standing(rows, key).unwrap(), Standing::Named, "garbage is left");
        }
        self.check();
    }
}

#[test]
fn a_dedup_hit_never_meets_a_deletion_and_all_garbage_goes_in_the_end() {
    let (mut commits, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let told = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.settle();
            (world.commits, world.refused)
        });
        let (of_seed, refused_of_seed) = told.unwrap_or_else(|panic| {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic)
        });
        commits += of_seed;
        refused += refused_of_seed;
    }
    assert!(commits > SEEDS as usize && refused > SEEDS as usize / 4, "{commits} commits, {refused} refused");
}
