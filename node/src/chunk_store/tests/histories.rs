//! Random histories with crashes, failing disks, full disks and lost indexes, against a map.

use futures::future::join_all;
use rand::Rng;
use rand::seq::IndexedRandom;
use ring::{ChunkKey, GcEpoch};
use wire::chunk::Durability;
use wire::tree::VerifiedChunk;

use super::super::{ChunkStore, ReadError};
use super::model::{Known, Model};
use super::rig::{IndexFate, Rig, list, read};
use crate::disk::SimFault;
use crate::kv::MemoryKv;

const SEGMENT: u64 = 128 << 10;

/// What the world does to a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum World {
    Kind,
    /// Power cuts, at any operation of the disk, with the index behind, older than it should be, or lost.
    Crashing,
    /// Writes and syncs fail.
    Failing,
    /// Hardly any room.
    Full,
    All,
}

struct History {
    rig: Rig,
    model: Model,
    chunks: Vec<VerifiedChunk>,
    world: World,
    stamp: u64,
    /// An index from earlier on, as a restored backup would be.
    old_index: Option<MemoryKv>,
    step: usize,
}

#[tokio::test(start_paused = true)]
async fn every_acknowledged_chunk_survives_and_every_deleted_one_stays_deleted() {
    for seed in 0..24 {
        for world in [World::Kind, World::Crashing, World::Failing, World::Full, World::All] {
            println!("seed {seed}, {world:?}");
            History::new(seed, world).run(120).await;
        }
    }
}

impl History {
    fn new(seed: u64, world: World) -> Self {
        let mut rig = Rig::new(seed, SEGMENT);
        rig.config.pending_max = 40;
        if matches!(world, World::Full | World::All) {
            rig.config.capacity = Some(8 * SEGMENT);
        }
        let lens: Vec<usize> = (0..48).map(|n| if n == 0 { 0 } else { rig.rng.random_range(1..40_000) }).collect();
        let chunks = lens.into_iter().map(|len| rig.chunk(len)).collect();
        Self { rig, model: Model::default(), chunks, world, stamp: 1, old_index: None, step: 0 }
    }

    fn context(&self) -> String {
        format!("{:?}, step {}", self.world, self.step)
    }

    async fn run(mut self, steps: usize) {
        let (mut store, _) = self.rig.open().await;
        for step in 0..steps {
            self.step = step;
            self.act(&store).await;
            let crashes = matches!(self.world, World::Crashing | World::All);
            if crashes && (!self.rig.disk.is_powered() || self.rig.rng.random_ratio(1, 25)) {
                store = self.crash(store).await;
            }
        }
        self.rig.disk.fail_one_in(0);
        let store = if self.rig.disk.is_powered() { store } else { self.crash(store).await };
        // No cut that was planned may come between.
        self.rig.disk.cut_power_after(u64::MAX);
        // Let a failed store heal, then look at everything.
        tokio::time::sleep(self.rig.config.reopen_pause * 3).await;
        self.check_all(&store).await;
        let store = self.crash(store).await;
        self.check_all(&store).await;
    }

    async fn act(&mut self, store: &ChunkStore) {
        self.stamp += u64::from(self.rig.rng.random_ratio(1, 8));
        match self.rig.rng.random_range(0..100) {
            0..30 => self.put_some(store).await,
            30..40 => self.sync(store).await,
            40..55 => self.forget(store).await,
            55..65 => self.has(store).await,
            65..85 => self.read_one(store).await,
            // Whether it works shows in what the store answers.
            85..95 => drop(store.compact().await),
            95..97 => self.old_index = Some(self.rig.kv.after_crash(self.rig.kv.unpersisted())),
            _ => self.hurt(),
        }
    }

    fn hurt(&mut self) {
        let rng = &mut self.rig.rng;
        if matches!(self.world, World::Failing | World::All) {
            match rng.random_range(0..4) {
                0 => self.rig.disk.inject(SimFault::NextSync),
                1 => self.rig.disk.inject(SimFault::NextWrite),
                2 => self.rig.disk.fail_one_in(20),
                _ => self.rig.disk.fail_one_in(0),
            }
        }
        if matches!(self.world, World::Crashing | World::All) {
            self.rig.disk.cut_power_after(rng.random_range(0..30));
        }
    }

    async fn crash(&mut self, store: ChunkStore) -> ChunkStore {
        let fate = if self.rig.rng.random_ratio(1, 4) { IndexFate::Lost } else { IndexFate::Kept };
        self.rig.disk.fail_one_in(0);
        self.rig.crash(store, fate);
        if let Some(old) = self.old_index.take().filter(|_| fate == IndexFate::Kept && self.rig.rng.random_ratio(1, 3))
        {
            self.rig.kv = old;
        }
        self.model.crashed();
        loop {
            // A cut that was planned, or a fault that waits, may meet the open itself.
            match self.rig.try_open().await {
                Ok((store, _)) => {
                    // An index from before a deletion may miss what it knew; nothing that is held may be among that.
                    self.check_damaged(&store);
                    return store;
                }
                Err(_) => self.rig.disk.power_cycle(),
            }
        }
    }

    fn some_chunk(&mut self) -> VerifiedChunk {
        self.chunks.choose(&mut self.rig.rng).unwrap().clone()
    }

    async fn put_some(&mut self, store: &ChunkStore) {
        let durability = if self.rig.rng.random_bool(0.5) { Durability::Buffered } else { Durability::Synced };
        let count = self.rig.rng.random_range(1..6);
        // A lagging session stamps lower.
        let stamp = GcEpoch(self.stamp - self.rig.rng.random_range(0..=self.stamp.min(2)));
        let chunks: Vec<_> = (0..count).map(|_| self.some_chunk()).collect();
        let puts = join_all(chunks.iter().map(|chunk| store.put(chunk.clone(), stamp, durability))).await;
        for (chunk, put) in chunks.iter().zip(puts) {
            self.model.tried_stamp(chunk.key(), stamp);
            match (put, durability) {
                (Ok(_), Durability::Synced) => self.model.is_held(chunk.key(), stamp),
                (Ok(incarnation), Durability::Buffered) => self.model.is_buffered(chunk.key(), stamp, incarnation),
                (Err(error), _) => {
                    assert_ne!(self.world, World::Kind, "{error:?}");
                    self.model.put_failed(chunk.key());
                }
            }
        }
    }

    async fn sync(&mut self, store: &ChunkStore) {
        if let Ok(incarnation) = store.sync().await {
            self.model.synced(incarnation);
        }
    }

    async fn forget(&mut self, store: &ChunkStore) {
        let keys: Vec<_> = (0..self.rig.rng.random_range(1..8)).map(|_| self.some_chunk().key()).collect();
        let forgotten = store.forget(&keys, GcEpoch(u64::MAX)).await;
        for key in keys {
            match &forgotten {
                Ok(_) => self.model.forgotten(key),
                Err(_) => self.model.forget_failed(key),
            }
        }
    }

    async fn has(&mut self, store: &ChunkStore) {
        let keys: Vec<_> = (0..self.rig.rng.random_range(1..8)).map(|_| self.some_chunk().key()).collect();
        let stamp = GcEpoch(self.stamp);
        keys.iter().for_each(|key| self.model.tried_stamp(*key, stamp));
        let Ok((held, _)) = store.has(&keys, stamp).await else { return };
        for (key, held) in keys.into_iter().zip(held) {
            match (held, self.model.known(&key)) {
                (true, Known::Absent) => panic!("{}: {key} is absent, and said to be held", self.context()),
                (false, Known::Held { .. }) => panic!("{}: {key} is held, and denied", self.context()),
                (true, Known::Held { .. } | Known::Either) => self.model.is_held(key, stamp),
                (false, Known::Absent | Known::Either) => {}
            }
        }
    }

    async fn read_one(&mut self, store: &ChunkStore) {
        let chunk = self.some_chunk();
        let offset = self.rig.rng.random_range(0..=chunk.chunk_len().saturating_sub(1));
        let len = self.rig.rng.random_range(1..30_000);
        let faults = !matches!(self.world, World::Kind | World::Full);
        self.check_read(store, &chunk, offset, len, faults).await;
    }

    async fn check_read(&self, store: &ChunkStore, chunk: &VerifiedChunk, offset: u32, len: u32, faults: bool) {
        let end = (offset + len).min(chunk.chunk_len());
        match (read(store, chunk.key(), offset, len).await, self.model.known(&chunk.key())) {
            (Ok(bytes), Known::Held { .. } | Known::Either) => {
                assert_eq!(bytes, chunk.bytes().slice(offset as usize..end as usize), "{}", self.context());
            }
            (Err(ReadError::UnknownChunk { .. }), Known::Absent | Known::Either) => {}
            (Err(ReadError::Disk { .. }), _) if faults => {}
            (found, known) => panic!("{}: {:?} is {known:?}, and reads {found:?}", self.context(), chunk.key()),
        }
    }

    async fn check_all(&mut self, store: &ChunkStore) {
        let listed = list(store).await;
        for (key, stamp) in &listed {
            let stamps = match self.model.known(key) {
                Known::Held { stamp_min } => stamp_min..=self.model.stamp_max(key),
                Known::Either => GcEpoch(0)..=self.model.stamp_max(key),
                Known::Absent => panic!("{}: {key:?} is listed, and absent", self.context()),
            };
            assert!(stamps.contains(stamp), "{}: {key:?} is stamped {stamp:?}, not {stamps:?}", self.context());
        }
        let is_listed = |key: &ChunkKey| listed.iter().any(|(listed, _)| listed == key);
        for (key, known) in self.model.keys() {
            let held = matches!(known, Known::Held { .. });
            assert!(!held || is_listed(key), "{}: {key:?} is held, and not listed", self.context());
        }
        for chunk in &self.chunks {
            self.check_read(store, chunk, 0, chunk.chunk_len(), false).await;
        }
        assert_eq!(store.report().await.chunks, listed.len() as u64, "{}", self.context());
        // What could not be read three times over is told of, and was read above all the same.
        if !matches!(self.world, World::Failing | World::All) {
            self.check_damaged(store);
        }
    }

    fn check_damaged(&self, store: &ChunkStore) {
        let damaged = store.take_damaged(100);
        let is_held = |key: &ChunkKey| matches!(self.model.known(key), Known::Held { .. });
        assert!(!damaged.iter().any(is_held), "{}: {damaged:?} of what is held were not damaged", self.context());
    }
}
