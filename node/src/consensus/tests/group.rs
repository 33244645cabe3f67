//! What one member promises another, and a user.

use std::time::Duration;

use tokio::time::Instant;
use wire::Refusal;
use wire::cluster::RaftRole;

use super::harness::{Group, SECOND, add_one, id, read_counter, value_of};
use crate::consensus::{AfterVoting, ProposeError};

#[tokio::test(start_paused = true)]
async fn a_group_of_one_is_founded_and_counts() {
    let group = Group::founded(1, 1).await;
    let member = group.member(id(1));
    for expected in 1..=10 {
        assert_eq!(value_of(&member.propose(add_one(3), SECOND).await.unwrap()), expected);
    }
    assert_eq!(read_counter(&*member.read(SECOND).await.unwrap(), 3).unwrap(), 10);
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn what_one_member_was_told_the_leader_reads_and_every_member_applies() {
    let group = Group::founded(2, 3).await;
    let leader = group.leader().await;
    for expected in 1..=20 {
        assert_eq!(group.add(1).await, expected);
    }
    assert_eq!(read_counter(&*group.member(leader).read(SECOND).await.unwrap(), 1).unwrap(), 20);
    for node in [id(1), id(2), id(3)] {
        group.caught_up(node, leader).await;
        assert_eq!(group.counter_at(node, 1), 20);
    }
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_sends_proposals_and_reads_to_the_leader() {
    let group = Group::founded(3, 3).await;
    let leader = group.leader().await;
    let follower = [id(1), id(2), id(3)].into_iter().find(|&node| node != leader).unwrap();
    let redirect = ProposeError::NotLeader { leader: Some(leader) };
    assert_eq!(group.member(follower).propose(add_one(1), SECOND).await.unwrap_err(), redirect);
    assert_eq!(group.member(follower).read(SECOND).await.unwrap_err(), redirect);
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_the_leader_costs_at_most_some_seconds_and_nothing_that_was_answered() {
    for seed in 10..15 {
        let mut group = Group::founded(seed, 3).await;
        let leader = group.leader().await;
        for _ in 0..5 {
            group.add(1).await;
        }
        let lost_at = Instant::now();
        group.crash(leader).await;
        let value = group.add(1).await;
        assert!(value >= 6, "seed {seed}: {value}");
        let took = lost_at.elapsed();
        assert!(took < Duration::from_millis(2_500), "seed {seed}: {took:?}");
        group.stop_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_majority_fails_by_the_deadline_and_does_not_hang() {
    let mut group = Group::founded(4, 3).await;
    let leader = group.leader().await;
    for node in [id(1), id(2), id(3)] {
        if node != leader {
            group.crash(node).await;
        }
    }
    let begun = Instant::now();
    let result = group.member(leader).propose(add_one(1), 2 * SECOND).await;
    assert_eq!(result.unwrap_err(), ProposeError::NoQuorum);
    assert!(begun.elapsed() <= 2 * SECOND, "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(group.member(leader).read(2 * SECOND).await.unwrap_err(), ProposeError::NoQuorum);
    assert!(begun.elapsed() <= 3 * SECOND, "{:?}", begun.elapsed());
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_cut_off_answers_no_read_and_its_proposals_do_not_count_twice() {
    let group = Group::founded(5, 3).await;
    let old = group.leader().await;
    group.add(1).await;
    group.net.isolate(old);
    let stale = group.member(old).propose(add_one(1), SECOND).await;
    assert!(stale.is_err());
    assert!(group.member(old).read(SECOND).await.is_err());
    let others: Vec<_> = [id(1), id(2), id(3)].into_iter().filter(|&node| node != old).collect();
    let mut view = group.member(others[0]).watch();
    let new = view.wait_for(|view| view.leader.is_some_and(|leader| leader != old)).await.unwrap().leader.unwrap();
    assert_eq!(value_of(&group.member(new).propose(add_one(1), SECOND).await.unwrap()), 2);
    group.net.heal();
    assert_ne!(group.leader().await, old);
    group.caught_up(old, new).await;
    assert_eq!(group.counter_at(old, 1), 2);
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_away_does_not_disturb_the_leader_when_it_returns() {
    let group = Group::founded(6, 3).await;
    let leader = group.leader().await;
    let away = [id(1), id(2), id(3)].into_iter().find(|&node| node != leader).unwrap();
    let term = group.view(leader).term;
    group.net.isolate(away);
    tokio::time::sleep(8 * SECOND).await;
    group.net.heal();
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(group.leader().await, leader);
    assert_eq!(group.view(leader).term, term);
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn all_members_may_lose_power_at_once_and_nothing_that_was_answered_is_lost() {
    for seed in 30..33 {
        let mut group = Group::founded(seed, 3).await;
        let mut last = 0;
        for _ in 0..30 {
            last = group.add(1).await;
        }
        for node in [id(1), id(2), id(3)] {
            group.crash(node).await;
        }
        for node in [id(1), id(2), id(3)] {
            group.start(node).await.unwrap();
        }
        group.leader().await;
        assert_eq!(group.add(1).await, last + 1, "seed {seed}");
        group.stop_all().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_speaks_for_another() {
    let group = Group::founded(7, 3).await;
    let leader = group.leader().await;
    let [victim, liar] = [id(1), id(2), id(3)].into_iter().filter(|&node| node != leader).collect::<Vec<_>>()[..]
    else {
        panic!("three members")
    };
    let message = crate::consensus::tests::forged_append(leader);
    assert_eq!(group.member(victim).handle(liar, &message, bytes::Bytes::new()).await, Err(Refusal::NotAllowed));
    assert_eq!(group.member(victim).handle(liar, b"garbage", bytes::Bytes::new()).await, Err(Refusal::Malformed));
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over_without_an_election_timeout() {
    let group = Group::founded(8, 3).await;
    let leader = group.leader().await;
    let stopped_at = Instant::now();
    group.member(leader).stop().await;
    let other = [id(1), id(2), id(3)].into_iter().find(|&node| node != leader).unwrap();
    let mut view = group.member(other).watch();
    view.wait_for(|view| view.leader.is_some_and(|now| now != leader)).await.unwrap();
    assert!(stopped_at.elapsed() < Duration::from_millis(300), "{:?}", stopped_at.elapsed());
    group.stop_all().await;
}

#[tokio::test(start_paused = true)]
async fn voters_are_replaced_one_by_one_and_a_removed_leader_steps_down() {
    let mut group = Group::founded(9, 3).await;
    let leader = group.leader().await;
    group.add(1).await;
    group.start(id(4)).await.unwrap();
    group.member(leader).add_learner(id(4), 10 * SECOND).await.unwrap();
    assert!(group.view(leader).learners.contains(&id(4)));
    let voters: std::collections::BTreeSet<_> =
        [id(1), id(2), id(3), id(4)].into_iter().filter(|&node| node != leader).collect();
    group.member(leader).set_voters(voters.clone(), AfterVoting::Leaves, 10 * SECOND).await.unwrap();
    let other = *voters.first().unwrap();
    let mut view = group.member(other).watch();
    let seen = tokio::time::timeout(
        10 * SECOND,
        view.wait_for(|view| view.voters == voters && view.leader.is_some_and(|now| voters.contains(&now))),
    );
    seen.await.unwrap().unwrap();
    let new = group.view(other).leader.unwrap();
    assert_eq!(group.view(new).role, RaftRole::Leader);
    assert_eq!(value_of(&group.member(new).propose(add_one(1), SECOND).await.unwrap()), 2);
    group.stop_all().await;
}
