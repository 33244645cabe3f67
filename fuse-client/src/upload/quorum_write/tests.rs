//! Random schedules against stores that crash, fail and fill up.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::prelude::{any, prop_assert, proptest};
use ring::{ChunkKey, Epoch, GcEpoch, NodeId};
use wire::{chunk::Incarnation, cluster::PutRow};

use super::{PutFailure, QuorumLost, QuorumWrite, Subject, Turn};

fn node(number: usize) -> NodeId {
    NodeId::from_bytes([number as u8; 16])
}

/// Nodes without zones.
fn row(nodes: impl IntoIterator<Item = usize>, quorum: usize) -> PutRow {
    let nodes: Vec<NodeId> = nodes.into_iter().map(node).collect();
    PutRow { zones: (0..nodes.len()).collect(), nodes, quorum }
}

fn subject() -> Subject {
    Subject { key: ChunkKey::of(b"x"), chunk_len: 1, epoch: Epoch(3), gc: GcEpoch(4) }
}

fn write(turns: &[Turn], quorum: usize, now: Instant) -> QuorumWrite {
    let row = row(0..turns.len(), quorum);
    let turn = |of: NodeId| turns[usize::from(of.as_bytes()[0])];
    QuorumWrite::new(subject(), vec![row], turn, now, now + Duration::from_secs(15))
}

/// A store that may lose what it has not synced.
#[derive(Default)]
struct Store {
    incarnation: u64,
    buffered: bool,
    stable: bool,
}

/// What is under way to a store.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Put,
    PutSynced,
    Stable,
    Accepted(u64),
    Sync,
    Synced(u64),
}

proptest! {
    /// Messages and answers arrive in any order; stores crash at any moment; the outcome is `Durable` only if a quorum
    /// holds the chunk on stable storage.
    #[test]
    fn durable_means_stable_on_a_quorum_whatever_the_schedule(
        replicas in 1usize..6,
        synced in any::<bool>(),
        reserves in proptest::collection::vec(any::<bool>(), 5),
        steps in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..400),
    ) {
        let mut now = Instant::now();
        let quorum = replicas / 2 + 1;
        let turns: Vec<Turn> =
            reserves.iter().take(replicas).map(|reserve| if *reserve { Turn::Reserve } else { Turn::First }).collect();
        let mut write = write(&turns, quorum, now);
        let mut stores: Vec<Store> = (0..replicas).map(|_| Store::default()).collect();
        let mut ways: Vec<(usize, Way)> = Vec::new();
        let put = if synced { Way::PutSynced } else { Way::Put };
        let index: BTreeMap<NodeId, usize> = (0..replicas).map(|number| (node(number), number)).collect();
        for (what, which) in steps {
            while let Some(to) = write.poll_send(now) { ways.push((index[&to], put)) }
            while let Some(to) = write.poll_sync() { ways.push((index[&to], Way::Sync)) }
            if let Some(outcome) = write.poll_outcome() {
                if outcome.is_ok() {
                    let stable = stores.iter().filter(|store| store.stable).count();
                    prop_assert!(stable >= quorum, "{stable} of {quorum}");
                }
                return Ok(());
            }
            let at = usize::from(which) % ways.len().max(1);
            match (what % 8, ways.get(at).copied()) {
                (0, _) => {
                    let store = usize::from(which) % replicas;
                    stores[store].incarnation += 1;
                    stores[store].buffered = false;
                }
                (1, Some((store, _))) => {
                    ways.remove(at);
                    let failure = match which % 3 {
                        0 => PutFailure::DiskFull,
                        _ => PutFailure::Transient,
                    };
                    write.handle_failure(node(store), failure, now);
                }
                (2, _) => {
                    now += Duration::from_millis(u64::from(which) * 10);
                    write.handle_timeout(now);
                }
                (_, Some((store, way))) => {
                    ways.remove(at);
                    let state = &mut stores[store];
                    match way {
                        Way::Put => {
                            state.buffered = true;
                            ways.push((store, Way::Accepted(state.incarnation)));
                        }
                        Way::PutSynced => {
                            state.stable = true;
                            ways.push((store, Way::Stable));
                        }
                        Way::Stable => write.handle_stable(node(store)),
                        Way::Sync => {
                            state.stable |= state.buffered;
                            ways.push((store, Way::Synced(state.incarnation)));
                        }
                        Way::Accepted(incarnation) => write.handle_accepted(node(store), Incarnation(incarnation)),
                        Way::Synced(incarnation) => write.handle_synced(node(store), Incarnation(incarnation), now),
                    }
                }
                (_, None) => now += Duration::from_millis(50),
            }
        }
    }
}

#[test]
fn a_write_ends_at_its_deadline_whatever_the_replicas_do() {
    let start = Instant::now();
    let mut write = write(&[Turn::First; 3], 2, start);
    while write.poll_send(start).is_some() {}
    write.handle_accepted(node(0), Incarnation(1));
    assert_eq!(write.poll_sync(), Some(node(0)));
    write.handle_synced(node(0), Incarnation(1), start);
    assert_eq!(write.poll_outcome(), None);
    write.handle_timeout(write.poll_timeout());
    let lost = QuorumLost { stable: 1, quorum: 2, disk_full: false };
    assert_eq!(write.poll_outcome(), Some(Err(lost)));
    assert!(write.is_settled());
}

#[test]
fn another_incarnation_at_the_sync_means_that_the_chunk_is_sent_again() {
    let start = Instant::now();
    let mut write = write(&[Turn::First], 1, start);
    assert_eq!(write.poll_send(start), Some(node(0)));
    write.handle_accepted(node(0), Incarnation(1));
    assert_eq!(write.poll_sync(), Some(node(0)));
    write.handle_synced(node(0), Incarnation(2), start);
    assert_eq!(write.poll_outcome(), None);
    assert_eq!(write.poll_send(start), Some(node(0)));
    write.handle_accepted(node(0), Incarnation(2));
    assert_eq!(write.poll_sync(), Some(node(0)));
    write.handle_synced(node(0), Incarnation(2), start);
    let extent = write.poll_outcome().unwrap().unwrap().extent(8);
    assert_eq!((extent.offset, extent.epoch, extent.gc), (8, Epoch(3), GcEpoch(4)));
}

#[test]
fn a_suspect_is_left_alone_until_the_others_are_in_trouble() {
    let start = Instant::now();
    let mut write = write(&[Turn::Reserve, Turn::First, Turn::First], 2, start);
    assert_eq!((write.poll_send(start), write.poll_send(start)), (Some(node(1)), Some(node(2))));
    assert_eq!(write.poll_send(start), None);
    write.handle_failure(node(1), PutFailure::DiskFull, start);
    assert_eq!(write.poll_send(start), Some(node(0)));
}

#[test]
fn full_disks_are_named_only_if_they_are_what_is_missing() {
    let start = Instant::now();
    for (failures, full) in [
        ([PutFailure::DiskFull, PutFailure::DiskFull, PutFailure::DiskFull], true),
        ([PutFailure::DiskFull, PutFailure::Permanent, PutFailure::Permanent], false),
    ] {
        let mut write = write(&[Turn::First; 3], 2, start);
        while write.poll_send(start).is_some() {}
        for (number, failure) in failures.into_iter().enumerate() {
            write.handle_failure(node(number), failure, start);
        }
        assert_eq!(write.poll_outcome().unwrap().unwrap_err().disk_full, full);
        assert_eq!(write.poll_outcome(), None, "an outcome is told once");
    }
}

#[test]
fn a_store_that_fails_for_a_while_is_tried_again_with_growing_pauses_and_not_for_ever() {
    let start = Instant::now();
    let mut now = start;
    let row = row([0], 1);
    let mut write = QuorumWrite::new(subject(), vec![row], |_| Turn::First, now, now + Duration::from_secs(3600));
    let mut sent = 0;
    while !write.is_settled() {
        if write.poll_send(now).is_some() {
            sent += 1;
            write.handle_failure(node(0), PutFailure::Transient, now);
        } else {
            now = write.poll_timeout();
            write.handle_timeout(now);
        }
    }
    assert_eq!(sent, 12);
    assert!(matches!(write.poll_outcome(), Some(Err(QuorumLost { stable: 0, .. }))));
}

/// While a partition moves, "a put is stable only with a write quorum in the old *and* in the new set (a shared node counts
/// in both)".
#[test]
fn while_a_partition_moves_a_put_needs_a_quorum_of_the_old_row_and_one_of_the_new() {
    let now = Instant::now();
    let outcome = |stable: &[usize], failed: &[usize]| {
        let rows = vec![row([0, 1, 2], 2), row([0, 3, 4], 2)];
        let mut write = QuorumWrite::new(subject(), rows, |_| Turn::First, now, now + Duration::from_secs(15));
        while write.poll_send(now).is_some() {}
        for number in stable {
            write.handle_accepted(node(*number), Incarnation(1));
        }
        while write.poll_sync().is_some() {}
        stable.iter().for_each(|number| write.handle_synced(node(*number), Incarnation(1), now));
        failed.iter().for_each(|number| write.handle_failure(node(*number), PutFailure::Permanent, now));
        write.poll_outcome().map(|outcome| outcome.is_ok())
    };
    assert_eq!(outcome(&[0, 1], &[]), None, "the old row alone");
    assert_eq!(outcome(&[0, 3, 4], &[]), None, "the new row alone");
    assert_eq!(outcome(&[0, 1, 3], &[]), Some(true));
    assert_eq!(outcome(&[1, 2, 3, 4], &[]), Some(true));
    assert_eq!(outcome(&[0, 1], &[3, 4]), Some(false), "the new row cannot have a quorum any more");
    assert_eq!(outcome(&[0, 3, 4], &[1, 2]), Some(false));
}

/// Else a chunk stays on fewer nodes than it could until these compare what they have.
#[test]
fn once_the_quorum_stands_those_in_reserve_get_the_chunk_too() {
    let now = Instant::now();
    let mut write = write(&[Turn::First, Turn::First, Turn::Reserve, Turn::Reserve], 2, now);
    for number in [0, 1] {
        assert_eq!(write.poll_send(now), Some(node(number)));
        write.handle_stable(node(number));
    }
    assert!(matches!(write.poll_outcome(), Some(Ok(_))));
    assert!(write.is_settled());
    write.call_stragglers(|wanted| wanted == node(3), now);
    assert_eq!(write.unsettled().collect::<Vec<_>>(), [node(3)]);
    assert_eq!(write.overdue().count(), 0, "it was not sent the chunk, and is not to blame");
    assert_eq!((write.poll_send(now), write.poll_send(now)), (Some(node(3)), None));
    assert_eq!(write.overdue().collect::<Vec<_>>(), [node(3)]);
    write.handle_stable(node(3));
    assert!(write.is_settled());
}

/// "On the write quorum of its replicas (2 of 3), in distinct zones where there are zones" (P2): two of one zone are no quorum
/// while the third, of another, may still answer; one that is known to be in trouble nobody waits for.
#[test]
fn a_quorum_lies_in_distinct_zones_while_a_replica_of_another_zone_may_answer() {
    let start = Instant::now();
    let row = PutRow { nodes: (0..3).map(node).collect(), zones: vec![0, 0, 2], quorum: 2 };
    let crowded = |turn: Turn| {
        let turns = move |of: NodeId| if of == node(2) { turn } else { Turn::First };
        let mut write = QuorumWrite::new(subject(), vec![row.clone()], turns, start, start + Duration::from_secs(15));
        while write.poll_send(start).is_some() {}
        for number in [0, 1] {
            write.handle_stable(node(number));
        }
        write
    };
    let mut write = crowded(Turn::First);
    assert_eq!(write.poll_outcome(), None, "both are of one zone");
    write.handle_stable(node(2));
    assert!(matches!(write.poll_outcome(), Some(Ok(_))));

    let mut write = crowded(Turn::First);
    write.handle_failure(node(2), PutFailure::Transient, start);
    write.handle_timeout(start + Duration::from_millis(1900));
    assert_eq!(write.poll_outcome(), None, "it is tried again");
    assert!(write.poll_timeout() <= start + Duration::from_secs(2), "somebody wakes up in time");
    write.handle_timeout(start + Duration::from_secs(2));
    assert!(matches!(write.poll_outcome(), Some(Ok(_))), "the loss of one machine stops nothing");

    let mut write = crowded(Turn::First);
    write.handle_failure(node(2), PutFailure::DiskFull, start);
    assert!(matches!(write.poll_outcome(), Some(Ok(_))), "nothing can come of it");
    for turn in [Turn::Trial, Turn::Reserve] {
        assert!(matches!(crowded(turn).poll_outcome(), Some(Ok(_))), "{turn:?}: it was in trouble before");
    }
}
