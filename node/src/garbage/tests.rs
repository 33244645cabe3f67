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
    namespace::{
        ChunkSlice, Extent, ExtentBody, Inode, JournaledChunk, JournaledPart, NewContent, NewExtent, NewKind, Op,
        OpError, Replace, SetId, SetTime,
    },
};

use super::{judge, lead::next_safe};
use crate::{
    kv::{KvRead, KvStore},
    namespace::{
        self, Checkpointed, ClusterCommand, CommandBody, DeadLimits, Journaled, RunDigest,
        tests::harness::{Client, Machine, name, new_inode},
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

/// Every index of the log.
const ALL: namespace::LogIndex = namespace::LogIndex(u64::MAX);

/// Ten bytes.
fn page(number: u64) -> JournaledChunk {
    let bytes = vec![number as u8; 10];
    JournaledChunk { key: ChunkKey::of(&bytes), bytes }
}

fn key_of(number: u64) -> ChunkKey {
    page(number).key
}

fn slice_of(number: u64) -> ChunkSlice {
    ChunkSlice { key: key_of(number), chunk_len: 10, offset: 0, len: 10 }
}

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

/// A journaled chunk that a leader, maybe one that was deposed, puts on its replicas.
struct Checkpointing {
    key: ChunkKey,
    gc: GcEpoch,
    is_named: bool,
    stable: BTreeSet<usize>,
}

/// A chunk that a leader puts in the place of a file's extent. Here it is another chunk, which the model takes for the same
/// bytes: what is judged is whether it is there.
struct Merging {
    inode: Inode,
    merged: NewExtent,
    replaced: RunDigest,
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
    checkpoints: Vec<Checkpointing>,
    merges: Vec<Merging>,
    /// A file that nobody writes or removes.
    kept: Inode,
    merged: usize,
    opened: u8,
    commits: usize,
    refused: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let (rng, mut machine) = (StdRng::seed_from_u64(seed), Machine::new());
        machine.propose(CommandBody::Cluster(ClusterCommand::SolveRing));
        let mut nodes: [Copies; NODES] = std::array::from_fn(|_| Copies::default());
        let gc = namespace::gc_current(&machine.rows).unwrap();
        nodes.iter_mut().for_each(|copies| copies.put(key_of(0), gc));
        let extents = vec![NewExtent { offset: 0, slice: slice_of(0), epoch: Epoch(1), gc }];
        let kind = NewKind::File(NewContent::Extents { extents, size: 10 });
        let kept = Client::open(&mut machine, 0).create(&mut machine, Inode::ROOT, "kept", kind);
        let (sessions, checkpoints, merges) = Default::default();
        let (merged, opened, commits, refused) = Default::default();
        Self { rng, machine, sessions, nodes, checkpoints, merges, kept, merged, opened, commits, refused }
    }

    fn counters(&self) -> (GcEpoch, GcEpoch) {
        let rows = &self.machine.rows;
        (namespace::gc_current(rows).unwrap(), namespace::gc_safe(rows).unwrap())
    }

    fn step(&mut self) {
        match self.rng.random_range(0..160) {
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
            98..106 => self.write_journaled(),
            106..110 => self.begin_checkpoint(),
            110..120 => self.reach_for_checkpoint(),
            120..126 => self.end_checkpoint(),
            126..136 => self.begin_merge(),
            136..146 => self.reach_for_merge(),
            146..158 => self.end_merge(),
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
        let (copies, key) = (&mut self.nodes[node], key_of(upload.number));
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
        let extents = vec![NewExtent { offset: 0, slice: slice_of(number), epoch: Epoch(1), gc }];
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

    /// A file whose bytes come with the commit.
    fn write_journaled(&mut self) {
        let (file, number) = (self.rng.random_range(0..NAMES).to_string(), self.rng.random_range(0..CHUNKS));
        let Some(session) = self.sessions.iter_mut().choose(&mut self.rng) else { return };
        let inode = session.client.inode(&mut self.machine);
        let new = new_inode(inode, NewKind::File(NewContent::Empty));
        session.client.ok(&mut self.machine, Op::CreateUnnamed { new });
        let parts = vec![JournaledPart { offset: 0, chunk_offset: 0, len: 10 }];
        let (modified, set_id) = (SetTime::Now, SetId::Keep);
        let write = Op::WriteJournaled { inode, chunk: page(number), parts, if_version: None, modified, set_id };
        session.client.ok(&mut self.machine, write);
        let link = Op::Link { inode, dir: Inode::ROOT, name: name(&file), replace: Replace::File };
        session.client.ok(&mut self.machine, link);
        self.reclaim();
    }

    fn begin_checkpoint(&mut self) {
        let journal = namespace::journal_page(&self.machine.rows, None, (ALL, ALL), 100).unwrap();
        let (gc, _) = self.counters();
        if let Some(Journaled { chunk, is_named }) = journal.into_iter().choose(&mut self.rng) {
            self.checkpoints.push(Checkpointing { key: chunk.key, gc, is_named, stable: BTreeSet::new() });
        }
    }

    fn reach_for_checkpoint(&mut self) {
        let node = self.rng.random_range(0..NODES);
        let named = self.checkpoints.iter_mut().filter(|checkpoint| checkpoint.is_named);
        let Some(checkpoint) = named.choose(&mut self.rng) else { return };
        self.nodes[node].put(checkpoint.key, checkpoint.gc);
        checkpoint.stable.insert(node);
    }

    /// Any time later: the chunk may have died and come again.
    fn end_checkpoint(&mut self) {
        let is_due = |checkpoint: &Checkpointing| !checkpoint.is_named || checkpoint.stable.len() >= QUORUM;
        let due = (0..self.checkpoints.len()).filter(|at| is_due(&self.checkpoints[*at])).choose(&mut self.rng);
        let Some(at) = due else { return };
        let Checkpointing { key, gc, is_named, .. } = self.checkpoints.remove(at);
        let why = if is_named { Checkpointed::Stable { epoch: Epoch(1), gc } } else { Checkpointed::Unnamed };
        self.machine.propose(CommandBody::Checkpoint { chunks: vec![(key, why)] });
    }

    fn begin_merge(&mut self) {
        let (gc, _) = self.counters();
        let others = self.machine.list(Inode::ROOT).into_iter().map(|entry| entry.inode);
        let other = others.choose(&mut self.rng).filter(|_| self.rng.random());
        let inode = other.unwrap_or(self.kept);
        let extents = self.machine.extents(inode);
        let [Extent { offset, body: ExtentBody::Chunk(slice) }] = extents.as_slice() else { return };
        let replaced = RunDigest::of(&[(*offset, *slice)]);
        let slice = slice_of(self.rng.random_range(0..CHUNKS));
        let merged = NewExtent { offset: *offset, slice, epoch: Epoch(1), gc };
        if self.merges.len() >= 3 {
            // Nobody comes back to it: what was put stays behind.
            self.merges.remove(0);
        }
        self.merges.push(Merging { inode, merged, replaced, stable: BTreeSet::new() });
    }

    fn reach_for_merge(&mut self) {
        let node = self.rng.random_range(0..NODES);
        let Some(merge) = self.merges.iter_mut().choose(&mut self.rng) else { return };
        self.nodes[node].put(merge.merged.slice.key, merge.merged.gc);
        merge.stable.insert(node);
    }

    /// Any time later: the file may have changed, or gone.
    fn end_merge(&mut self) {
        let due = (0..self.merges.len()).filter(|at| self.merges[*at].stable.len() >= QUORUM).choose(&mut self.rng);
        let Some(at) = due else { return };
        let Merging { inode, merged, replaced, .. } = self.merges.remove(at);
        let before = self.machine.rows.pairs();
        self.machine.propose(CommandBody::Merge { inode, merged, replaced });
        self.merged += usize::from(self.machine.rows.pairs() != before);
    }

    fn remove(&mut self) {
        let entries = self.machine.list(Inode::ROOT);
        let others = entries.iter().filter(|entry| entry.inode != self.kept);
        let Some(entry) = others.choose(&mut self.rng) else { return };
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

    /// What files refer to is on a write quorum, or in the journal.
    fn check(&self) {
        let journal = namespace::journal_page(&self.machine.rows, None, (ALL, ALL), 100).unwrap();
        for number in 0..CHUNKS {
            let key = key_of(number);
            if namespace::standing(&self.machine.rows, &key).unwrap() == Standing::Named {
                let holders = self.nodes.iter().filter(|node| node.held.contains_key(&key)).count();
                let is_journaled = journal.iter().any(|journaled| journaled.chunk.key == key);
                assert!(holders >= QUORUM || is_journaled, "chunk {number} is on {holders} nodes");
            }
        }
    }

    /// Everybody does what is due, nobody else does anything: what no file refers to goes, and its rows with it.
    fn settle(&mut self) {
        while !self.sessions.is_empty() {
            self.close();
        }
        self.checkpoints.clear();
        while namespace::journal_tally(&self.machine.rows).unwrap().chunks > 0 {
            self.begin_checkpoint();
            for _ in 0..4 * NODES {
                self.reach_for_checkpoint();
            }
            self.end_checkpoint();
            self.check();
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
    let (mut commits, mut refused, mut merged) = (0, 0, 0);
    for seed in 0..SEEDS {
        let told = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.settle();
            (world.commits, world.refused, world.merged)
        });
        let (of_seed, refused_of_seed, merged_of_seed) = told.unwrap_or_else(|panic| {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic)
        });
        commits += of_seed;
        refused += refused_of_seed;
        merged += merged_of_seed;
    }
    assert!(commits > SEEDS as usize && refused > SEEDS as usize / 4, "{commits} commits, {refused} refused");
    assert!(merged > SEEDS as usize / 4, "{merged} merges");
}
