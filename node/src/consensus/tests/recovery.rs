//! Groups that have lost their majority for good.

use std::path::Path;
use std::sync::Arc;

use ring::NodeId;
use tokio::time::{sleep, timeout};
use wire::cluster::RaftRole;
use wire::namespace::Timestamp;

use super::harness::{Group, SECOND, add_one, id, rows};
use crate::append_log::{LogConfig, slots::Slots};
use crate::consensus::words::VoteWords;
use crate::consensus::{AfterVoting, Standing, Survivor, SurvivorError, follow_from};
use crate::disk::{SimDisk, SimOptions};
use crate::generation::Generation;
use crate::kv::MemoryKv;

const DIR: &str = "/data/raft";

/// The counter that a recovery adds one to.
const RECOVERIES: u8 = 99;

async fn open(group: &Group, node: NodeId) -> Result<Survivor, crate::consensus::OpenError> {
    let machine = &group.machines[&node];
    let log = LogConfig { file_len: 64 << 10, ..LogConfig::raft_log() };
    Survivor::open(machine.disk.process(), Path::new(DIR), Arc::new(machine.kv.clone()), log, 7).await
}

async fn standing(group: &Group, node: NodeId) -> Standing {
    let survivor = open(group, node).await.unwrap();
    let standing = survivor.standing().clone();
    survivor.close().await.unwrap();
    standing
}

async fn try_recover(group: &Group, node: NodeId) -> Result<(), SurvivorError> {
    let survivor = open(group, node).await?;
    let generation = Generation::of_term(survivor.standing().term).next();
    survivor.lead_alone(node, generation, Timestamp::default(), vec![add_one(RECOVERIES)]).await
}

/// A disk that only chunks could be left on, and the vote with which its member begins anew.
async fn reset(group: &mut Group, node: NodeId, generation: Generation) {
    let machine = group.machines.get_mut(&node).unwrap();
    machine.disk = SimDisk::new(SimOptions { seed: 4711, ..SimOptions::default() });
    machine.kv = MemoryKv::new();
    follow_from(machine.disk.process(), Path::new(DIR), node, generation).await.unwrap();
}

async fn crash_all(group: &mut Group) {
    for node in group.running() {
        group.crash(node).await;
    }
}

#[tokio::test(start_paused = true)]
async fn five_voters_of_which_three_are_lost_go_on_from_one_and_the_other_follows_when_told_to() {
    let mut group = Group::founded(900, 5).await;
    for _ in 0..20 {
        group.add(1).await;
    }
    sleep(SECOND).await;
    crash_all(&mut group).await;
    let found = standing(&group, id(1)).await;
    assert_eq!(found.voters, (1..=5).map(id).collect());
    assert_eq!(found.last.unwrap().to_string().len(), 34, "places are as long as each other");
    try_recover(&group, id(1)).await.unwrap();
    assert_eq!(standing(&group, id(1)).await.voters, [id(1)].into());
    group.start(id(1)).await.unwrap();
    assert_eq!(group.leader().await, id(1));
    assert_eq!((group.add(1).await, group.counter_at(id(1), RECOVERIES)), (21, 1));

    // The other comes as it is: nobody hears it, and it hears nobody.
    group.start(id(2)).await.unwrap();
    sleep(5 * SECOND).await;
    assert_eq!(
        group.member(id(1)).add_learner(id(2), 3 * SECOND).await.unwrap_err().to_string(),
        "the change was not done in time"
    );
    assert_eq!((group.counter_at(id(2), RECOVERIES), group.view(id(2)).role), (0, RaftRole::Voter));
    assert_eq!(group.view(id(1)).role, RaftRole::Leader);

    group.crash(id(2)).await;
    reset(&mut group, id(2), Generation::new(1)).await;
    group.start(id(2)).await.unwrap();
    group.member(id(1)).add_learner(id(2), 10 * SECOND).await.unwrap();
    group.member(id(1)).set_voters([id(1), id(2)].into(), AfterVoting::Leaves, 10 * SECOND).await.unwrap();
    assert_eq!(group.add(1).await, 22);
    group.caught_up(id(2), id(1)).await;
    assert_eq!(rows(&group.machines[&id(2)].kv), rows(&group.machines[&id(1)].kv));
    group.stop_all().await;
}

/// The one that is recovered lags; the newer one has applied what the new history does not have.
#[tokio::test(start_paused = true)]
async fn a_survivor_that_has_applied_more_ends_with_the_rows_of_the_recovered_one() {
    for writes in [1, 40] {
        let mut group = Group::founded(910 + writes, 3).await;
        group.add(1).await;
        sleep(SECOND).await;
        group.crash(id(1)).await;
        for _ in 0..writes {
            group.add(2).await;
        }
        sleep(SECOND).await;
        crash_all(&mut group).await;
        let (older, newer) = (standing(&group, id(1)).await.last, standing(&group, id(2)).await.last);
        assert!(older < newer, "a person is told which is newer");
        assert!(older.unwrap().to_string() < newer.unwrap().to_string(), "the texts compare as the places do");
        try_recover(&group, id(1)).await.unwrap();
        group.start(id(1)).await.unwrap();
        group.leader().await;
        for _ in 0..10 {
            group.add(3).await;
        }
        group.start(id(2)).await.unwrap();
        group.member(id(1)).add_learner(id(2), 3 * SECOND).await.unwrap_err();
        assert_eq!((group.counter_at(id(2), 2), group.counter_at(id(2), 3)), (u64::from(writes as u32), 0));
        group.crash(id(2)).await;
        reset(&mut group, id(2), Generation::new(1)).await;
        group.start(id(2)).await.unwrap();
        group.member(id(1)).add_learner(id(2), 10 * SECOND).await.unwrap();
        group.caught_up(id(2), id(1)).await;
        assert_eq!((group.counter_at(id(2), 2), group.counter_at(id(2), 3)), (0, 10));
        assert_eq!(rows(&group.machines[&id(2)].kv), rows(&group.machines[&id(1)].kv));
        group.stop_all().await;
    }
}

/// "Nobody of the old one gets this member's vote a second time."
#[tokio::test(start_paused = true)]
async fn who_begins_anew_makes_no_majority_of_the_old_group_with_one_that_comes_back() {
    let mut group = Group::founded(920, 3).await;
    group.add(1).await;
    sleep(SECOND).await;
    crash_all(&mut group).await;
    try_recover(&group, id(1)).await.unwrap();
    reset(&mut group, id(2), Generation::new(1)).await;
    group.start(id(2)).await.unwrap();
    group.start(id(3)).await.unwrap();
    sleep(10 * SECOND).await;
    assert_eq!((group.view(id(3)).role, group.view(id(2)).role), (RaftRole::Voter, RaftRole::None));
    group.start(id(1)).await.unwrap();
    group.member(id(1)).watch().wait_for(|view| view.role == RaftRole::Leader).await.unwrap();
    group.member(id(1)).propose(add_one(1), SECOND).await.unwrap();
    group.member(id(1)).add_learner(id(2), 10 * SECOND).await.unwrap();
    assert_eq!((group.view(id(3)).role, group.view(id(1)).role), (RaftRole::Voter, RaftRole::Leader));
    group.stop_all().await;
}

/// It is sent the old log from its beginning, where it was the only voter. Should it hear nothing more then, it must not
/// take that for the group of now.
#[tokio::test(start_paused = true)]
async fn who_begins_anew_does_not_elect_itself_by_the_membership_with_which_it_founded_the_group() {
    let mut group = Group::founded(930, 1).await;
    group.add(1).await;
    sleep(SECOND).await;
    group.crash(id(1)).await;
    // As far as it has got: the beginning of the old log, and the vote with which it begins anew.
    let disk = group.machines[&id(1)].disk.process();
    let (mut slots, _) = Slots::open(disk, &Path::new(DIR).join("vote")).await.unwrap();
    let vote = VoteWords { term: Generation::new(1).first(), node: id(1), committed: false };
    slots.write(postcard::to_stdvec(&vote).unwrap().into()).await.unwrap();
    group.start(id(1)).await.unwrap();
    sleep(20 * SECOND).await;
    assert_ne!(group.view(id(1)).role, RaftRole::Leader);
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_any_moment_of_a_recovery_leaves_the_old_state_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for cut_after in (0..60).step_by(4) {
        let mut group = Group::founded(1_000 + cut_after, 3).await;
        for _ in 0..5 {
            group.add(1).await;
        }
        sleep(SECOND).await;
        crash_all(&mut group).await;
        let before = standing(&group, id(1)).await;
        group.machines[&id(1)].disk.cut_power_after(cut_after);
        let result = timeout(10 * SECOND, try_recover(&group, id(1))).await.expect("an end");
        group.crash(id(1)).await;
        let after = standing(&group, id(1)).await;
        if after.voters == [id(1)].into() {
            new += 1;
        } else {
            result.unwrap_err();
            assert_eq!(
                Standing { applied: before.applied, ..after },
                before,
                "power cut after {cut_after}: what was there is there"
            );
            old += 1;
            try_recover(&group, id(1)).await.unwrap();
        }
        group.start(id(1)).await.unwrap();
        assert_eq!(group.leader().await, id(1), "power cut after {cut_after}");
        assert_eq!((group.add(1).await, group.counter_at(id(1), RECOVERIES)), (6, 1), "power cut after {cut_after}");
        group.stop_all().await;
    }
    assert!(old > 2 && new > 2, "the cuts fall before and behind the end: {old} and {new}");
}
