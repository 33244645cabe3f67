//! A store on a simulated disk, with ways to hurt it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ring::{ChunkKey, GcEpoch, Partition, PartitionBits};
use wire::chunk::Durability;
use wire::tree::{VerifiedChunk, verify};

use super::super::{ChunkStore, ChunkStoreConfig, Compacted, Opened, PageEnd, ReadError};
use crate::disk::{SimDisk, SimOptions};
use crate::kv::MemoryKv;

pub(super) const DIR: &str = "/node/chunks";

pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) kv: MemoryKv,
    pub(super) config: ChunkStoreConfig,
    pub(super) rng: StdRng,
}

/// What became of the index in a crash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum IndexFate {
    Kept,
    Lost,
}

impl Rig {
    pub(super) fn new(seed: u64, segment_len: u64) -> Self {
        Self::on(SimOptions { seed, ..SimOptions::default() }, segment_len)
    }

    pub(super) fn on(options: SimOptions, segment_len: u64) -> Self {
        let seed = options.seed;
        let disk = SimDisk::new(options);
        let config = ChunkStoreConfig { segment_len, reserve: 2 * segment_len, ..ChunkStoreConfig::default() };
        Self { disk, kv: MemoryKv::new(), config, rng: StdRng::seed_from_u64(seed) }
    }

    pub(super) async fn try_open(&mut self) -> Result<(ChunkStore, Opened), super::super::OpenError> {
        let rng = Box::new(StdRng::seed_from_u64(self.rng.random()));
        let (disk, kv) = (Arc::new(self.disk.clone()), Arc::new(self.kv.clone()));
        ChunkStore::open(disk, Path::new(DIR), kv, self.config.clone(), rng).await
    }

    pub(super) async fn open(&mut self) -> (ChunkStore, Opened) {
        self.try_open().await.unwrap()
    }

    /// Cuts the power: the disk loses what was not synced, the index what was not persisted, or all.
    pub(super) fn crash(&mut self, store: ChunkStore, fate: IndexFate) {
        let survivors = self.rng.random_range(0..=self.kv.unpersisted());
        self.kv = match fate {
            IndexFate::Kept => self.kv.after_crash(survivors),
            IndexFate::Lost => MemoryKv::new(),
        };
        self.disk.power_cycle();
        drop(store);
    }

    pub(super) fn segments(&self) -> Vec<(PathBuf, u64)> {
        let segment = |(path, _): &(PathBuf, u64)| path.starts_with(DIR) && !path.ends_with("LOCK");
        self.disk.paths().into_iter().filter(segment).collect()
    }

    pub(super) fn chunk(&mut self, len: usize) -> VerifiedChunk {
        let mut bytes = vec![0; len];
        self.rng.fill(&mut bytes[..]);
        VerifiedChunk::seal(Bytes::from(bytes))
    }
}

/// Reads and verifies as a client does.
pub(super) async fn read(store: &ChunkStore, key: ChunkKey, offset: u32, len: u32) -> Result<Bytes, ReadError> {
    let range = store.read(&key, offset, len).await?;
    match verify(key, range.chunk_len, range.offset, range.data, &range.proof) {
        Ok(verified) => Ok(verified.slice(offset, len.min(range.chunk_len - offset)).unwrap()),
        Err(_) => Err(ReadError::Damaged { key }),
    }
}

pub(super) async fn put(store: &ChunkStore, chunk: &VerifiedChunk, stamp: u64) {
    store.put(chunk.clone(), GcEpoch(stamp), Durability::Synced).await.unwrap();
}

/// Every key with its stamp.
pub(super) async fn list(store: &ChunkStore) -> Vec<(ChunkKey, GcEpoch)> {
    let bits = PartitionBits::new(0).unwrap();
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(bits, Partition(0), after, 7).await.unwrap();
        keys.extend(page.keys);
        after = keys.last().map(|(key, _)| *key);
        if page.end == PageEnd::Last {
            return keys;
        }
    }
}

/// Compacts until nothing is worth it; says how many segments went.
pub(super) async fn compact_all(store: &ChunkStore) -> usize {
    for count in 0..10_000 {
        match store.compact().await.unwrap() {
            Compacted::Segment { .. } => {}
            Compacted::Nothing => return count,
            Compacted::Stuck { file, live } => panic!("{live} bytes of segment {file} cannot be moved"),
        }
    }
    panic!("compaction does not come to an end");
}
