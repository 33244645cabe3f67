//! The log through power cuts: what was acknowledged is there, what was cut off stays away.

use std::path::Path;

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _, RaftLogStorageExt as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::harness::id;
use crate::append_log::LogConfig;
use crate::consensus::OpenError;
use crate::consensus::log_store::LogStore;
use crate::consensus::raft_types::{Entry, LogId, Proposal, Vote};
use crate::consensus::words::{LogIdWords, VoteWords};
use crate::disk::{SimDisk, SimOptions};

fn log_id(term: u64, index: u64) -> LogId {
    LogIdWords { term, node: id(1), index }.into()
}

/// An entry whose bytes follow from its place.
fn entry(term: u64, index: u64) -> Entry {
    let len = usize::try_from((term * 31 + index * 977) % 3_000).unwrap();
    let payload = EntryPayload::Normal(Proposal(Bytes::from(vec![(term + index) as u8; len])));
    Entry { log_id: log_id(term, index), payload }
}

async fn open(disk: &SimDisk, seed: u64) -> Result<LogStore, OpenError> {
    let config = LogConfig { file_len: 32 << 10, ..LogConfig::raft_log() };
    let rng = Box::new(StdRng::seed_from_u64(seed));
    let (store, _writer) = LogStore::open(disk.process(), Path::new("/raft"), config, rng).await?;
    Ok(store)
}

/// What a log holds: purge point and the terms of the entries behind it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Model {
    purged: Option<LogId>,
    terms: Vec<u64>,
}

impl Model {
    fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    fn end(&self) -> u64 {
        self.first() + self.terms.len() as u64
    }

    fn cut(&mut self, from: u64) {
        self.terms.truncate(usize::try_from(from - self.first()).unwrap());
    }

    fn purge(&mut self, index: u64) {
        let gone = usize::try_from(index + 1 - self.first()).unwrap();
        self.purged = Some(log_id(self.terms[gone - 1], index));
        self.terms.drain(..gone);
    }

    async fn of(store: &mut LogStore) -> Self {
        let state = store.get_log_state().await.unwrap();
        let entries = store.try_get_log_entries(0..u64::MAX).await.unwrap();
        let model = Self {
            purged: state.last_purged_log_id,
            terms: entries.iter().map(|entry| entry.log_id.leader_id.term).collect(),
        };
        for (index, found) in (model.first()..).zip(&entries) {
            assert_eq!(*found, entry(found.log_id.leader_id.term, index));
        }
        model
    }
}

struct History {
    disk: SimDisk,
    store: LogStore,
    rng: StdRng,
    /// What the log may hold after a crash, besides what a failed operation adds.
    possible: Vec<Model>,
    vote: Option<Vote>,
    term: u64,
}

impl History {
    fn now(&self) -> Model {
        self.possible.last().unwrap().clone()
    }

    /// One operation of a kind that the library would ask for. False: the power is gone.
    async fn step(&mut self) -> bool {
        let model = self.now();
        match self.rng.random_range(0..10) {
            0..6 => self.append(model).await,
            6 => {
                self.term += 1;
                let vote: Vote = VoteWords { term: self.term, node: id(1), committed: false }.into();
                let saved = self.store.save_vote(&vote).await.is_ok();
                // Half done, it may be there or not: the check allows both.
                if saved {
                    self.vote = Some(vote);
                }
                saved
            }
            7 if !model.terms.is_empty() => {
                let from = self.rng.random_range(model.first()..=model.end());
                let last = from.checked_sub(1).map(|index| log_id(0, index));
                let done = self.store.truncate_after(last).await.is_ok();
                let mut after = model;
                after.cut(from);
                // Not synced by itself: a crash may bring the entries back, until the next append is acknowledged.
                self.possible.push(after);
                done
            }
            8 if model.terms.len() > 20 => {
                let index = self.rng.random_range(model.first()..model.end() - 5);
                let id = log_id(model.terms[usize::try_from(index - model.first()).unwrap()], index);
                let mut after = self.possible.clone();
                after.iter_mut().for_each(|possible| possible.purge(index));
                let done = self.store.purge(id).await.is_ok();
                if !done {
                    after.append(&mut self.possible);
                }
                self.possible = after;
                done
            }
            _ => {
                self.store.recycle().await;
                true
            }
        }
    }

    async fn append(&mut self, model: Model) -> bool {
        let count = self.rng.random_range(1..8);
        let entries: Vec<_> = (model.end()..model.end() + count).map(|index| entry(self.term, index)).collect();
        let acknowledged = self.store.blocking_append(entries).await.is_ok();
        let mut after = model;
        if acknowledged {
            after.terms.extend((0..count).map(|_| self.term));
            self.possible = vec![after];
        } else {
            for _ in 0..count {
                after.terms.push(self.term);
                self.possible.push(after.clone());
            }
        }
        acknowledged
    }

    async fn check(&mut self, seed: u64) {
        let found = Model::of(&mut self.store).await;
        assert!(self.possible.contains(&found), "seed {seed}: found {found:?}, possible {:?}", self.possible);
        let vote = self.store.read_vote().await.unwrap();
        assert!(vote >= self.vote, "seed {seed}: {vote:?} after {:?}", self.vote);
        self.vote = vote;
        self.possible = vec![found];
    }
}

#[tokio::test(start_paused = true)]
async fn every_acknowledged_entry_vote_and_purge_survives_power_cuts_and_cuts_are_honoured() {
    for seed in 0..40 {
        let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
        let store = open(&disk, seed).await.unwrap();
        let rng = StdRng::seed_from_u64(seed);
        let mut history = History { disk, store, rng, possible: vec![Model::default()], vote: None, term: 1 };
        for life in 0..6 {
            let ops = history.rng.random_range(1..150);
            history.disk.cut_power_after(ops);
            while history.step().await {}
            history.disk.power_cycle();
            history.store = open(&history.disk, seed * 100 + life).await.unwrap();
            history.check(seed).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn files_of_purged_entries_are_used_again() {
    let disk = SimDisk::new(SimOptions::default());
    let mut store = open(&disk, 1).await.unwrap();
    let mut most = 0;
    for round in 0..60_u64 {
        let first = round * 50;
        store.blocking_append((first..first + 50).map(|index| entry(1, index))).await.unwrap();
        if let Some(index) = first.checked_sub(1) {
            store.purge(log_id(1, index)).await.unwrap();
        }
        store.recycle().await;
        most = most.max(disk.paths().iter().map(|(_, len)| len).sum::<u64>());
    }
    // 60 × 75 KiB went through; at most 100 entries are held at a time.
    assert!(most < 512 << 10, "{most} bytes");
}

#[tokio::test(start_paused = true)]
async fn callbacks_complete_in_order_and_share_syncs() {
    let disk = SimDisk::new(SimOptions { latency_max: std::time::Duration::from_millis(2), ..SimOptions::default() });
    let mut store = open(&disk, 1).await.unwrap();
    let before = disk.sync_count();
    let mut waiting = Vec::new();
    for index in 0..100 {
        let (done, flushed) = openraft_rt_tokio_oneshot();
        store.append([entry(1, index)], IOFlushed::signal(done)).await.unwrap();
        assert_eq!(store.try_get_log_entries(index..=index).await.unwrap(), [entry(1, index)], "readable at once");
        waiting.push(flushed);
    }
    for flushed in waiting {
        flushed.await.unwrap().unwrap();
    }
    let syncs = disk.sync_count() - before;
    assert!(syncs < 60, "{syncs} syncs for 100 appends");
}

type Flushed = std::io::Result<()>;
type OneshotOf = <crate::consensus::runtime::Runtime as openraft_rt::AsyncRuntime>::Oneshot;

fn openraft_rt_tokio_oneshot()
-> (<OneshotOf as openraft_rt::Oneshot>::Sender<Flushed>, <OneshotOf as openraft_rt::Oneshot>::Receiver<Flushed>) {
    <OneshotOf as openraft_rt::Oneshot>::channel()
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_never_followed_by_an_acknowledgement() {
    let disk = SimDisk::new(SimOptions::default());
    let mut store = open(&disk, 1).await.unwrap();
    store.blocking_append([entry(1, 0)]).await.unwrap();
    disk.inject(crate::disk::SimFault::NextSync);
    assert!(store.blocking_append([entry(1, 1)]).await.is_err());
    assert!(store.blocking_append([entry(1, 2)]).await.is_err());
    let vote: Vote = VoteWords { term: 9, node: id(1), committed: false }.into();
    assert!(store.save_vote(&vote).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_lost_its_beginning_is_not_opened() {
    let disk = SimDisk::new(SimOptions::default());
    let mut store = open(&disk, 1).await.unwrap();
    store.blocking_append((0..100).map(|index| entry(1, index))).await.unwrap();
    let process = disk.process();
    let first = disk.paths().into_iter().map(|(path, _)| path).find(|path| path.starts_with("/raft/log")).unwrap();
    drop(store);
    process.remove(&first).await.unwrap();
    disk.kill();
    let error = open(&disk, 2).await.unwrap_err();
    assert!(matches!(error, OpenError::Gap { expected: 0, .. } | OpenError::Damaged { .. }), "{error}");
}

/// Behind a snapshot of another history, nothing of the old one comes back.
#[tokio::test(start_paused = true)]
async fn a_log_that_began_anew_stays_empty_through_a_power_cut() {
    for seed in 0..20 {
        let disk = SimDisk::new(SimOptions { seed, ..SimOptions::default() });
        let mut store = open(&disk, seed).await.unwrap();
        store.blocking_append((0..10).map(|index| entry(1, index))).await.unwrap();
        store.restart_at(log_id(2, 5)).await.unwrap();
        disk.power_cycle();
        let mut store = open(&disk, seed + 100).await.unwrap();
        assert_eq!(Model::of(&mut store).await, Model { purged: Some(log_id(2, 5)), terms: Vec::new() }, "seed {seed}");
    }
}
