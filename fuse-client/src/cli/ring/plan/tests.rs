//! A cluster of four nodes, and what would move if some came or went.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
};

use ring::{Epoch, GcEpoch, NodeId, PartitionBits, ReplicaCount, Weight, solver};
use wire::{
    chunk::Incarnation,
    cluster::{
        ClusterId, ClusterMap, ClusterStatus, KeyFingerprint, NodeRow, NodeState, NodeStatus, RaftRole, StoreReport,
    },
    health::{HealthStatus, Moving},
    moves::MovesStatus,
    namespace::Usage,
};

use super::{Facts, Outlook, Wish, look_ahead, outlook_json, parse_joining, sentences};

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn row(number: u8) -> NodeRow {
    NodeRow {
        id: id(number),
        address: ([10, 0, 0, number], 7400).into(),
        zone: None,
        weight: Weight(NonZeroU32::new(100).unwrap()),
        key: KeyFingerprint([number; 32]),
    }
}

/// 64 partitions, three replicas of each, on four equal nodes with 4,800 bytes each: 100 bytes a replica.
fn facts() -> Facts {
    let (replicas, bits) = (ReplicaCount::new(3).unwrap(), PartitionBits::new(6).unwrap());
    let members: Vec<_> = (1..=4).map(|number| row(number).member()).collect();
    let map = ClusterMap {
        cluster: ClusterId([0xab; 16]),
        epoch: Epoch(4),
        replicas,
        nodes: (1..=4).map(row).collect(),
        ring: Some(solver::solve(None, &members, replicas, bits, Epoch(1)).unwrap()),
        may_hold: Vec::new(),
        transition: None,
        leaving: Vec::new(),
        away: Vec::new(),
        acting: Epoch(0),
    };
    let store = StoreReport {
        capacity: 10_000,
        used: 4800,
        free: 5200,
        chunks: 48,
        incarnation: Incarnation(1),
        full: false,
        failed: false,
        damaged: 0,
        repaired: 0,
        lacking: 0,
        starved: false,
    };
    let node = |number| {
        let (role, store) = (RaftRole::Voter, Some(store.clone()));
        NodeStatus { row: row(number), state: NodeState::Up, role, store, partitions: 48 }
    };
    let status = ClusterStatus {
        cluster: map.cluster,
        epoch: map.epoch,
        replicas,
        missing: 0,
        nodes: (1..=4).map(node).collect(),
        usage: Usage::default(),
        term: 1,
        applied: 9,
        gc_current: GcEpoch(0),
    };
    let health = HealthStatus { out_after_ms: 600_000, nodes: Vec::new(), moving: None };
    Facts { status, moves: MovesStatus::default(), health: Some(health), map: Arc::new(map) }
}

fn wish(facts: &Facts, drained: &[u8], removed: &[u8], joining: &[&str]) -> Wish {
    let ids = |numbers: &[u8]| numbers.iter().map(|number| id(*number)).collect::<BTreeSet<_>>();
    let joining: Vec<_> = joining.iter().map(|text| parse_joining(text).unwrap()).collect();
    Wish::new(&facts.map, ids(drained), ids(removed), &joining)
}

fn ahead(facts: &Facts, wish: &Wish) -> Outlook {
    look_ahead(facts, wish).unwrap()
}

#[test]
fn a_node_is_joined_by_its_capacity_and_zone() {
    for good in ["2TB", "500GiB", "1GiB,rack-4", "4TB,site, room 2"] {
        assert!(parse_joining(good).is_ok(), "{good}");
    }
    for (bad, why) in [("", "no capacity"), ("lots", "500GiB or 2TB"), ("2TB,", "a zone is"), (",rack", "no capacity")]
    {
        let error = parse_joining(bad).unwrap_err().to_string();
        assert!(error.contains(why), "{bad}: {error}");
    }
    // Of four equal nodes and one of twice their size, that one holds a third of all.
    let facts = facts();
    let wished = wish(&facts, &[], &[], &["200GiB,rack-4"]);
    let Outlook { plan, lowest, time } = ahead(&facts, &wished);
    assert_eq!((plan.moves.len(), plan.bytes(), lowest, time), (64, 6400, 3, None));
    let text = sentences(&facts.map, &wished, &ahead(&facts, &wished));
    assert!(text.contains("fewest has 3 sure copies on the way"), "{text}");
    assert!(text.contains("How long that takes is not known"), "{text}");
    assert!(text.contains("new-1"), "{text}");
    let json = outlook_json(&wished, &ahead(&facts, &wished));
    assert_eq!((&json["moves"][0]["to"], &json["time_left_s"]), (&"new-1".into(), &serde_json::Value::Null));
}

#[test]
fn a_removed_node_takes_its_copies_with_it_and_a_drained_one_does_not() {
    let mut facts = facts();
    let (drained, removed) = (wish(&facts, &[4], &[], &[]), wish(&facts, &[], &[4], &[]));
    assert_eq!(ahead(&facts, &drained).plan, ahead(&facts, &removed).plan, "the same replicas have to be made");
    assert_eq!((ahead(&facts, &drained).lowest, ahead(&facts, &removed).lowest), (3, 2));
    let text = sentences(&facts.map, &removed, &ahead(&facts, &removed));
    assert!(text.starts_with("48 replicas of partitions move, about 4.7 KiB; at least 2 of each"), "{text}");
    assert!(
        text.contains("fewest has 2 sure copies until the removed ones are copied from the other owners"),
        "{text}"
    );
    assert!(text.contains("04040404 (removed)"), "{text}");
    assert_eq!(outlook_json(&removed, &ahead(&facts, &removed))["moves"][0]["removed"], true);
    // While another owner is down, the last sure copy is nearer; and the pace of what moves tells the time.
    facts.status.nodes[0].state = NodeState::Down;
    facts.health.as_mut().unwrap().moving = Some(Moving { seen_ms: 60_000, replicas_done: 24 });
    let outlook = ahead(&facts, &removed);
    assert_eq!((outlook.lowest, outlook.time.unwrap().as_secs()), (1, 120));
    assert_eq!(outlook_json(&removed, &outlook)["time_left_s"], 120);
    assert!(sentences(&facts.map, &removed, &outlook).contains("it takes about 2 min 0 s"));
}

#[test]
fn one_comes_as_another_goes_and_too_few_are_refused() {
    let facts = facts();
    let wished = wish(&facts, &[1], &[], &["100GiB", "100GiB"]);
    let plan = ahead(&facts, &wished).plan;
    let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
    plan.moves.iter().for_each(|step| *held.entry(step.to).or_default() += 1);
    assert_eq!(held.values().sum::<usize>(), plan.moves.len());
    assert!(plan.moves.iter().all(|step| wished.newcomer(step.to).is_some()), "{held:?}");
    let few = look_ahead(&facts, &wish(&facts, &[1], &[2], &[])).unwrap_err().line().unwrap();
    assert!(few.contains("2 nodes cannot hold 3 distinct replicas") && few.contains("--join"), "{few}");
    let nothing = wish(&facts, &[], &[], &[]);
    let text = sentences(&facts.map, &nothing, &ahead(&facts, &nothing));
    assert_eq!(text, "Nothing moves. The partition that has fewest has 3 sure copies.\n");
}
