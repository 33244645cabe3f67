//! Followers that missed what the log no longer holds; logs that stay short; restarts in the middle.

use std::path::Path;
use std::time::Duration;

use tokio::time::sleep;

use super::harness::{Group, SECOND, blob, id, rows, value_of};
use crate::consensus::raft_types::SnapshotMeta;
use crate::consensus::state_machine::{STATE_KEY, encode_state, whole_rows};
use crate::consensus::{OpenError, Retention};
use crate::kv::{KvStore as _, MemoryKv, WriteBatch};
use crate::namespace::CommandBody;

const SHORT: Retention = Retention { entries: 50, bytes: 1 << 20 };

/// Writes `count` rows of 4 KiB through the leader.
async fn fill(group: &Group, count: u32, prefix: u8) {
    let leader = group.leader().await;
    let member = group.member(leader);
    for number in 0..count {
        let key = [&[prefix], number.to_be_bytes().as_slice()].concat();
        let outcome = member.propose(CommandBody::Cluster(blob(&key, 4 << 10)), SECOND).await.unwrap();
        assert_eq!(value_of(&outcome), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_stays_short_on_every_member() {
    let group = Group::founded_with(50, 3, SHORT).await;
    fill(&group, 300, 1).await;
    sleep(5 * SECOND).await;
    for (node, machine) in &group.machines {
        let (entries, bytes) = group.member(*node).log_size();
        assert!(entries <= 60, "{node:?} keeps {entries} entries");
        assert!(bytes <= (1 << 20) + (1 << 17), "{node:?} keeps {bytes} bytes");
        // 300 × 4 KiB went through files of 64 KiB; what is kept, the active file and two spares stay.
        let on_disk: u64 = machine.disk.paths().iter().map(|(_, len)| len).sum();
        assert!(on_disk <= 1 << 20, "{node:?} keeps {on_disk} bytes on disk: {:?}", machine.disk.paths());
    }
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_missed_purged_entries_gets_a_snapshot_and_ends_with_the_same_rows() {
    let mut group = Group::founded_with(51, 3, SHORT).await;
    fill(&group, 100, 1).await;
    let leader = group.leader().await;
    let away = [id(1), id(2), id(3)].into_iter().find(|&node| node != leader).unwrap();
    group.crash(away).await;
    // Overwrites some rows, adds others; the row that only the one away has must go.
    fill(&group, 300, 1).await;
    let mut stray = WriteBatch::default();
    stray.put([0x20, 0, 9], b"stray");
    group.machines[&away].kv.commit(stray).unwrap();
    sleep(3 * SECOND).await;
    group.start(away).await.unwrap();
    let leader = group.leader().await;
    group.caught_up(away, leader).await;
    assert_eq!(rows(&group.machines[&away].kv), rows(&group.machines[&leader].kv));
    assert_eq!(rows(&group.machines[&away].kv).len(), 301, "300 rows and the founding one");
    assert!(group.net.body_bytes() > 300 * (4 << 10), "the rows travelled in bodies");
    // It goes on with entries from there.
    fill(&group, 10, 2).await;
    let leader = group.leader().await;
    group.caught_up(away, leader).await;
    assert_eq!(rows(&group.machines[&away].kv), rows(&group.machines[&leader].kv));
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_member_of_an_old_group_gets_a_snapshot() {
    let mut group = Group::founded_with(52, 1, SHORT).await;
    fill(&group, 150, 1).await;
    sleep(3 * SECOND).await;
    group.start(id(2)).await.unwrap();
    group.member(id(1)).add_learner(id(2), 30 * SECOND).await.unwrap();
    group.caught_up(id(2), id(1)).await;
    assert_eq!(rows(&group.machines[&id(2)].kv), rows(&group.machines[&id(1)].kv));
    group.stop_all().await;
}

/// As a snapshot is installed: the word on the rows goes first, and comes last.
#[test]
fn rows_are_read_in_one_state_and_not_while_a_snapshot_takes_their_place() {
    let kv = MemoryKv::new();
    let put = |key: &[u8], value: &[u8]| {
        let mut batch = WriteBatch::default();
        batch.put(key.to_vec(), value);
        kv.commit(batch).unwrap();
    };
    put(&[1, 1], b"of a snapshot that is not all there");
    assert!(whole_rows(&kv).unwrap().is_none());
    put(STATE_KEY, &encode_state(&SnapshotMeta::default()));
    let before = whole_rows(&kv).unwrap().expect("they are whole");
    put(&[1, 2], b"applied meanwhile");
    assert_eq!(before.get(&[1, 2]).unwrap(), None);
    assert!(whole_rows(&kv).unwrap().unwrap().get(&[1, 2]).unwrap().is_some());
    let mut batch = WriteBatch::default();
    batch.remove(STATE_KEY);
    kv.commit(batch).unwrap();
    assert!(whole_rows(&kv).unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_moment_of_a_snapshot_s_installation_loses_nothing() {
    for cut_after in (0..120).step_by(20) {
        let mut group = Group::founded_with(1_000 + cut_after, 3, SHORT).await;
        let leader = group.leader().await;
        let away = [id(1), id(2), id(3)].into_iter().find(|&node| node != leader).unwrap();
        group.crash(away).await;
        fill(&group, 100, 1).await;
        sleep(2 * SECOND).await;
        group.start(away).await.unwrap();
        group.machines[&away].disk.cut_power_after(cut_after);
        sleep(Duration::from_millis(40 * (cut_after % 5))).await;
        sleep(Duration::from_millis(300)).await;
        group.crash(away).await;
        group.start(away).await.unwrap();
        let leader = group.leader().await;
        group.caught_up(away, leader).await;
        assert_eq!(rows(&group.machines[&away].kv), rows(&group.machines[&leader].kv), "power cut after {cut_after}");
        group.stop_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lost_its_store_fetches_the_rows_and_keeps_its_log_and_vote() {
    let mut group = Group::founded_with(54, 3, SHORT).await;
    fill(&group, 120, 1).await;
    sleep(3 * SECOND).await;
    let leader = group.leader().await;
    let lost = [id(1), id(2), id(3)].into_iter().find(|&node| node != leader).unwrap();
    let term = group.view(leader).term;
    group.crash(lost).await;
    group.machines.get_mut(&lost).unwrap().kv = MemoryKv::new();
    group.start(lost).await.unwrap();
    assert!(group.member(lost).log_size().0 >= 40, "the log stayed");
    fill(&group, 5, 2).await;
    group.caught_up(lost, leader).await;
    assert_eq!(rows(&group.machines[&lost].kv), rows(&group.machines[&leader].kv));
    assert_eq!(group.view(leader).term, term, "nobody was disturbed");
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_lost_its_store_and_finds_nobody_says_so() {
    let mut group = Group::founded_with(55, 3, SHORT).await;
    fill(&group, 120, 1).await;
    sleep(3 * SECOND).await;
    for node in [id(1), id(2), id(3)] {
        group.crash(node).await;
    }
    group.machines.get_mut(&id(2)).unwrap().kv = MemoryKv::new();
    let error = group.start(id(2)).await.unwrap_err();
    assert!(matches!(error, OpenError::Behind { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_log_was_damaged_does_not_start() {
    let mut group = Group::founded(53, 3).await;
    fill(&group, 20, 1).await;
    sleep(SECOND).await;
    group.crash(id(2)).await;
    let disk = &group.machines[&id(2)].disk;
    let log_dir = Path::new("/data/raft/log");
    let (file, _) = disk.paths().into_iter().find(|(path, len)| path.starts_with(log_dir) && *len > 8_192).unwrap();
    // Into a payload that was synced long ago.
    disk.rot(&file, 4_100);
    let error = group.start(id(2)).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    group.stop_all().await;
}
