//! The real thing but for the network: threads, files, the store on disk.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::harness::{Net, SECOND, ZeroClock, add_one, apply, founding, id, read_counter, value_of};
use crate::append_log::LogConfig;
use crate::consensus::{AfterVoting, Consensus, ConsensusConfig};
use crate::disk::{FileDisk, FileDiskConfig};
use crate::kv::{FjallConfig, FjallKv};

async fn start(net: &Net, dir: &TempDir, number: u8) -> Consensus {
    let disk = Arc::new(FileDisk::start(&FileDiskConfig::default()).unwrap());
    let kv = Arc::new(FjallKv::open(&dir.path().join("state"), FjallConfig::default()).unwrap());
    let config = ConsensusConfig {
        log: LogConfig { file_len: 1 << 20, ..LogConfig::raft_log() },
        ..ConsensusConfig::new(id(number), u64::from(number))
    };
    let (transport, clock) = (net.transport(id(number)), Arc::new(ZeroClock));
    let member = Consensus::open_with(config, disk, dir.path(), kv, transport, clock, apply).await.unwrap();
    net.add(id(number), member.clone());
    member
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_on_files_count_for_many_at_once_and_again_after_a_restart() {
    let net = Net::new(1);
    let dirs: Vec<_> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let first = start(&net, &dirs[0], 1).await;
    first.found(founding()).await.unwrap();
    for number in [2, 3] {
        start(&net, &dirs[usize::from(number) - 1], number).await;
        first.add_learner(id(number), 20 * SECOND).await.unwrap();
    }
    first.set_voters([id(1), id(2), id(3)].into(), AfterVoting::Leaves, 20 * SECOND).await.unwrap();

    let askers: Vec<_> = (0..32)
        .map(|_| {
            let member = first.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    member.propose(add_one(1), 20 * SECOND).await.unwrap();
                }
            })
        })
        .collect();
    for asker in askers {
        asker.await.unwrap();
    }
    let readers = (0..640).map(|_| first.read(20 * SECOND));
    for store in futures::future::join_all(readers).await {
        assert_eq!(read_counter(&*store.unwrap(), 1).unwrap(), 640);
    }

    for number in 1..=3 {
        net.take(id(number)).unwrap().stop().await;
    }
    drop(first);
    for number in 1..=3_u8 {
        start(&net, &dirs[usize::from(number) - 1], number).await;
    }
    let mut ask = id(1);
    let value = loop {
        match net.member(ask).unwrap().propose(add_one(1), SECOND).await {
            Ok(outcome) => break value_of(&outcome),
            Err(crate::consensus::ProposeError::NotLeader { leader: Some(leader) }) => ask = leader,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(value, 641);
    for number in 1..=3 {
        net.take(id(number)).unwrap().stop().await;
    }
}
