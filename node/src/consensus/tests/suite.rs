//! The Raft library's own tests of a log and a state machine, over ours.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::harness::apply;
use crate::append_log::LogConfig;
use crate::append_log::slots::Slots;
use crate::consensus::log_store::LogStore;
use crate::consensus::raft_types::Types;
use crate::consensus::runtime::Runtime;
use crate::consensus::snapshot::Spool;
use crate::consensus::state_machine::StateMachine;
use crate::disk::{Disk, SimDisk, SimOptions};
use crate::kv::MemoryKv;

/// A new disk and a new store for each test.
#[derive(Default)]
struct Builder {
    built: AtomicU64,
}

impl StoreBuilder<Types, LogStore, StateMachine, SimDisk> for Builder {
    async fn build(&self) -> Result<(SimDisk, LogStore, StateMachine), StorageError<Types>> {
        let seed = self.built.fetch_add(1, Ordering::Relaxed);
        let sim = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
        let disk: Arc<dyn Disk> = sim.process();
        let dir = Path::new("/data/raft");
        let config = LogConfig { file_len: 64 << 10, ..LogConfig::raft_log() };
        let rng = Box::new(StdRng::seed_from_u64(seed));
        let (log, _writer) = LogStore::open(Arc::clone(&disk), dir, config, rng).await.unwrap();
        let (spool, _) = Spool::open(Arc::clone(&disk), dir).await.unwrap();
        let (members, _) = Slots::open(Arc::clone(&disk), &dir.join("members")).await.unwrap();
        let machine = StateMachine::open(Arc::new(MemoryKv::new()), apply, Arc::new(spool), members).await.unwrap();
        Ok((sim, log, machine))
    }
}

#[tokio::test(start_paused = true)]
async fn log_and_state_machine_keep_what_the_library_demands_of_them() {
    Runtime::scope(1, Suite::test_all(Builder::default())).await.unwrap();
}
