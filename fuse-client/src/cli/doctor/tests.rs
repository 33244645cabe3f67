//! One cluster that is well, and what is found when something of it is otherwise.

use std::{num::NonZeroU32, sync::Arc};

use fuse_client::ClusterError;
use ring::{Epoch, GcEpoch, NodeId, PartitionBits, ReplicaCount, Ring, Transition, Weight};
use wire::{
    chunk::Incarnation,
    cluster::{
        ClusterId, ClusterMap, ClusterStatus, KeyFingerprint, NodeRow, NodeState, NodeStatus, RaftRole, StoreReport,
    },
    health::{HealthStatus, HeardReport, Moving, NodeHealth, NodeReport, ScrubReport},
    moves::{Coming, Leave, Leaving, MovesStatus, TransitionStatus},
    namespace::{Timestamp, Usage},
};

use super::{
    diagnosis::{Diagnosis, Facts, Finding, Severity, diagnose, unanswered},
    diagnosis_json, exit_status, text,
};

pub(crate) fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn row(number: u8) -> NodeRow {
    NodeRow {
        id: id(number),
        address: ([10, 0, 0, number], 7400).into(),
        zone: None,
        weight: Weight(NonZeroU32::MIN),
        key: KeyFingerprint([number; 32]),
    }
}

fn node(number: u8) -> NodeStatus {
    let store = StoreReport {
        capacity: 1000,
        used: 200,
        free: 800,
        chunks: 30,
        incarnation: Incarnation(1),
        full: false,
        failed: false,
        damaged: 0,
        repaired: 0,
        lacking: 0,
        starved: false,
    };
    let role = [RaftRole::Leader, RaftRole::Voter, RaftRole::Voter, RaftRole::None][usize::from(number) - 1];
    NodeStatus { row: row(number), state: NodeState::Up, role, store: Some(store), partitions: 3 }
}

fn health(number: u8) -> NodeHealth {
    let scrub = ScrubReport { chunks: 30, bytes: 200, passes: 1, ended_s: Some(7200), next_s: Some(5), damaged: 0 };
    let clock = Timestamp::new(0, 0).unwrap();
    let report = NodeReport { version: "0.1.0".to_owned(), clock, scrub };
    NodeHealth { node: id(number), silent_ms: 100, heard: Some(HeardReport { report, clock_ahead_ms: 3 }) }
}

/// Four nodes, four partitions, three replicas of each: every node holds three.
pub(crate) fn well() -> Facts {
    let replicas = ReplicaCount::new(3).unwrap();
    let members = (1..=4).map(|number| row(number).member()).collect();
    let table = vec![0, 1, 2, 0, 1, 3, 0, 2, 3, 1, 2, 3];
    let ring = Ring::new(Epoch(1), PartitionBits::new(2).unwrap(), replicas, members, table).unwrap();
    let map = ClusterMap {
        cluster: ClusterId([0xab; 16]),
        epoch: Epoch(4),
        replicas,
        nodes: (1..=4).map(row).collect(),
        ring: Some(ring),
        may_hold: Vec::new(),
        transition: None,
        leaving: Vec::new(),
        away: Vec::new(),
        acting: Epoch(0),
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
    let health = HealthStatus { out_after_ms: 600_000, nodes: (1..=4).map(health).collect(), moving: None };
    Facts { status, moves: MovesStatus::default(), health: Some(health), map: Arc::new(map) }
}

/// Three nodes and three copies: nobody else could take over.
fn well_with_three() -> Facts {
    let mut facts = well();
    let replicas = facts.map.replicas;
    let members = (1..=3).map(|number| row(number).member()).collect();
    let ring = Ring::new(Epoch(1), PartitionBits::new(1).unwrap(), replicas, members, vec![0, 1, 2, 0, 1, 2]).unwrap();
    let map = Arc::make_mut(&mut facts.map);
    map.ring = Some(ring);
    map.nodes.truncate(3);
    facts.status.nodes.truncate(3);
    facts.health.as_mut().unwrap().nodes.truncate(3);
    facts
}

pub(crate) fn set_state(facts: &mut Facts, number: u8, state: NodeState, silent_ms: u64) {
    let at = usize::from(number) - 1;
    facts.status.nodes[at].state = state;
    facts.health.as_mut().unwrap().nodes[at].silent_ms = silent_ms;
}

/// A change of the ring begins: the last partition goes from the fourth node to the first.
pub(crate) fn begin_move(facts: &mut Facts) {
    let map = Arc::make_mut(&mut facts.map);
    let ring = map.ring.as_ref().unwrap();
    let table = vec![0, 1, 2, 0, 1, 3, 0, 2, 3, 1, 2, 0];
    let next = Ring::new(Epoch(9), ring.bits(), ring.replicas(), ring.members().to_vec(), table).unwrap();
    map.transition = Some(Transition::begin(ring, next).unwrap());
}

fn leave(facts: &mut Facts, number: u8, why: Leaving) {
    Arc::make_mut(&mut facts.map).leaving.push(Leave { node: id(number), why });
}

fn store(facts: &mut Facts, number: u8) -> &mut StoreReport {
    facts.status.nodes[usize::from(number) - 1].store.as_mut().unwrap()
}

fn heard(facts: &mut Facts, number: u8) -> &mut HeardReport {
    facts.health.as_mut().unwrap().nodes[usize::from(number) - 1].heard.as_mut().unwrap()
}

fn kinds(diagnosis: &Diagnosis) -> Vec<&'static str> {
    diagnosis.findings.iter().map(|finding| finding.kind).filter(|kind| *kind != "scrub").collect()
}

/// What is found, its exit status, and words that some finding of it must hold.
fn expect(case: &str, facts: &Facts, wanted: &[&str], status: u8, words: &[&str]) {
    let diagnosis = diagnose(facts);
    assert_eq!(kinds(&diagnosis), wanted, "{case}");
    assert_eq!(exit_status(diagnosis.severity()), status, "{case}");
    let said = text(&diagnosis);
    for word in words {
        assert!(said.contains(word), "{case}: {word:?} in:\n{said}");
    }
}

#[test]
fn a_cluster_that_is_well_is_said_to_be() {
    let words =
        ["Cluster abababab is healthy.", "4 nodes are up and hold 3 copies", "4 of 4 nodes have read", "2 h 0 min"];
    expect("four", &well(), &["healthy"], 0, &words);
    expect("three", &well_with_three(), &["healthy"], 0, &["3 nodes are up"]);
    let mut older = well();
    older.health = None;
    expect("a leader of an earlier release", &older, &["healthy"], 0, &[]);
}

#[test]
fn of_a_node_that_is_down_it_says_for_how_long_and_when_it_counts_as_out() {
    let mut facts = well();
    set_state(&mut facts, 4, NodeState::Down, 90_000);
    let words = ["Node 04040404 (10.0.0.4:7400) is down: not heard for 1 min 30 s.", "in 8 min 30 s it counts as out"];
    expect("one of four", &facts, &["fewer-copies", "node-down"], 1, &words);
    expect(
        "one of four",
        &facts,
        &["fewer-copies", "node-down"],
        1,
        &["3 partitions of 4, about 30 chunks, have fewer"],
    );
    let mut facts = well_with_three();
    set_state(&mut facts, 3, NodeState::Down, 90_000);
    let words = ["no other node could take over", "2 of 3 voting nodes are up", "the fewest is 2"];
    expect("one of three", &facts, &["fewer-copies", "no-spare-voter", "node-down"], 1, &words);
    leave(&mut facts, 3, Leaving::Draining);
    let wanted = ["too-few-nodes", "fewer-copies", "no-spare-voter", "node-down"];
    expect("while it was drained", &facts, &wanted, 1, &["was being drained"]);
}

#[test]
fn of_a_node_that_is_out_it_says_whether_its_copies_are_made_again_yet() {
    let mut facts = well();
    set_state(&mut facts, 4, NodeState::Out, 700_000);
    leave(&mut facts, 4, Leaving::Out);
    facts.moves.endangered = 3;
    let coming = vec![Coming { node: id(1), partitions: 1, confirmed: 0 }];
    facts.moves.transition = Some(TransitionStatus { epoch: Epoch(5), unsettled: 3, replicas_left: 3, coming });
    let wanted = ["fewer-copies", "node-out", "ring-changing"];
    expect("copies are made", &facts, &wanted, 1, &["being made again", "3 partitions come first"]);
    let mut facts = well_with_three();
    facts.map = Arc::new(ClusterMap { nodes: (1..=4).map(row).collect(), ..ClusterMap::clone(&facts.map) });
    facts.status.nodes.push(NodeStatus { partitions: 0, ..node(4) });
    facts.health.as_mut().unwrap().nodes.push(health(4));
    set_state(&mut facts, 4, NodeState::Out, 700_000);
    leave(&mut facts, 4, Leaving::Out);
    expect("copies were made", &facts, &["node-out"], 1, &["others hold what it held", "not heard for 11 min 40 s"]);
}

#[test]
fn with_too_many_nodes_down_it_says_what_is_out_of_reach() {
    let mut facts = well();
    set_state(&mut facts, 3, NodeState::Down, 5000);
    set_state(&mut facts, 4, NodeState::Down, 5000);
    let wanted = ["out-of-reach", "fewer-copies", "no-spare-voter", "node-down", "node-down"];
    let words =
        ["of 4 partitions, 2 cannot be written to, and 0 cannot be read", "the fewest is 1", "cannot store or read"];
    expect("two of four", &facts, &wanted, 3, &words);
    set_state(&mut facts, 2, NodeState::Down, 5000);
    let wanted = ["out-of-reach", "fewer-copies", "node-down", "node-down", "node-down"];
    expect("three of four", &facts, &wanted, 3, &["4 cannot be written to, and 1 cannot be read"]);
}

#[test]
fn a_node_that_lacks_chunks_is_no_sure_copy_of_what_it_owns() {
    let mut facts = well();
    store(&mut facts, 2).lacking = 7;
    set_state(&mut facts, 2, NodeState::CatchingUp, 0);
    let words =
        ["3 partitions of 4, about 7 chunks, have fewer than 3 sure copies in reach; the fewest is 2.", "all of"];
    expect("one", &facts, &["fewer-copies", "catching-up"], 1, &words);
    assert_eq!(diagnose(&facts).severity(), Severity::Mending);
    // The last that is whole: a node that is down would not be missed if the other were.
    set_state(&mut facts, 4, NodeState::Down, 5000);
    let words = ["4 partitions of 4, about 37 chunks", "the fewest is 1", "which makes 1 of them whole again"];
    expect("and one is down", &facts, &["fewer-copies", "node-down", "catching-up"], 1, &words);
    // What comes to a node by a change of the ring it does not own yet.
    let mut facts = well();
    begin_move(&mut facts);
    store(&mut facts, 1).lacking = 7;
    expect("moves", &facts, &["catching-up"], 1, &[]);
}

#[test]
fn each_trouble_of_a_store_has_its_finding() {
    type Change = fn(&mut StoreReport);
    let table: [(&str, Change, &[&str], u8, &str); 8] = [
        ("nearly full", |store| store.free = 99, &["disk-nearly-full"], 1, "99 B left"),
        ("room enough", |store| store.free = 100, &["healthy"], 0, "is healthy"),
        ("full", |store| (store.full, store.free) = (true, 0), &["disk-full"], 1, "is full: it takes no chunks"),
        ("starved", |store| (store.full, store.starved) = (true, true), &["disk-full"], 1, "to the last byte"),
        ("failed", |store| store.failed = true, &["disk-failed"], 1, "replace the disk"),
        (
            "damaged",
            |store| (store.damaged, store.repaired) = (3, 1),
            &["damaged"],
            1,
            "has found 3 damaged copies; 2 not replaced yet",
        ),
        (
            "damaged and mended",
            |store| (store.damaged, store.repaired) = (1, 1),
            &["damage-mended", "healthy"],
            0,
            "found 1 damaged copy since its start, and replaced all",
        ),
        ("lacking", |store| store.lacking = 1, &["fewer-copies", "catching-up"], 1, "it lacks 1 chunk"),
    ];
    for (case, change, wanted, status, word) in table {
        let mut facts = well();
        change(store(&mut facts, 2));
        expect(case, &facts, wanted, status, &[word]);
        assert!(case == "room enough" || diagnose(&facts).findings.iter().any(|finding| finding.node == Some(id(2))));
    }
}

#[test]
fn with_too_few_nodes_for_the_copies_it_says_how_many_are_missing() {
    let mut facts = well_with_three();
    let map = Arc::make_mut(&mut facts.map);
    (map.ring, map.nodes) = (None, vec![row(1)]);
    facts.status.nodes = vec![NodeStatus { partitions: 0, ..node(1) }];
    facts.status.missing = 2;
    facts.health.as_mut().unwrap().nodes.truncate(1);
    let words = ["has 1 node to hold them: 2 more nodes must join, and no file can be stored"];
    expect("one of three has joined", &facts, &["too-few-nodes"], 3, &words);
    assert_eq!(diagnose(&facts).redundancy, None);
    let mut facts = well_with_three();
    Arc::make_mut(&mut facts.map).nodes.pop();
    facts.status.nodes.pop();
    facts.health.as_mut().unwrap().nodes.pop();
    let words = ["1 more node must join, and not all copies can be made", "dfs token create --for node"];
    expect("one was removed by force", &facts, &["too-few-nodes", "fewer-copies"], 1, &words);
}

#[test]
fn of_a_transition_it_says_what_is_left_and_how_long_that_takes() {
    let mut facts = well();
    let coming = vec![Coming { node: id(4), partitions: 4, confirmed: 1 }];
    facts.moves.transition = Some(TransitionStatus { epoch: Epoch(5), unsettled: 3, replicas_left: 3, coming });
    // 4 nodes with 200 bytes each in 12 places.
    let words = ["3 copies of partitions are to come to 1 node, about 199 B", "cannot be told yet"];
    let words_later = ["another 3 min 0 s", "at work and wants nothing of you"];
    expect("just begun", &facts, &["ring-changing"], 1, &[&words[0].replace("199", "200"), words[1]]);
    facts.health.as_mut().unwrap().moving = Some(Moving { seen_ms: 60_000, replicas_done: 1 });
    expect("under way", &facts, &["ring-changing"], 1, &words_later);
}

#[test]
fn of_a_drain_it_says_what_is_left_and_when_it_is_over() {
    let mut facts = well();
    set_state(&mut facts, 4, NodeState::Draining, 0);
    leave(&mut facts, 4, Leaving::Draining);
    expect("draining", &facts, &["draining"], 1, &["is being drained: 3 partitions are still to go over"]);
    // One that also fetches what it lacks is seen as catching up.
    set_state(&mut facts, 4, NodeState::CatchingUp, 0);
    expect("draining and catching up", &facts, &["draining"], 1, &[]);
    facts.status.nodes[3].partitions = 0;
    expect("drained", &facts, &["drained"], 1, &["is drained and holds nothing", "dfs remove"]);
}

#[test]
fn different_versions_and_clocks_are_told_if_they_are_known() {
    let mut facts = well();
    heard(&mut facts, 3).report.version = "0.2.0".to_owned();
    let words = ["3 nodes run \"0.1.0\", 1 node runs \"0.2.0\"", "the same version"];
    expect("versions", &facts, &["versions"], 1, &words);
    let mut facts = well();
    heard(&mut facts, 3).clock_ahead_ms = 10_000;
    heard(&mut facts, 4).clock_ahead_ms = -10_000;
    expect("clocks that differ a little", &facts, &["healthy"], 0, &[]);
    heard(&mut facts, 3).clock_ahead_ms = 65_000;
    heard(&mut facts, 4).clock_ahead_ms = -10_001;
    let words = ["node 03030303 is 1 min 5 s ahead of", "node 04040404 is 10 s behind"];
    expect("clocks", &facts, &["clock", "clock"], 1, &words);
    facts.health.as_mut().unwrap().nodes[2].heard = None;
    expect("of one nothing is known", &facts, &["clock"], 1, &["3 of 3 nodes have read"]);
}

#[test]
fn a_cluster_that_cannot_be_asked_is_told_from_one_without_quorum() {
    let tried = || "10.0.0.1:7400 silent".to_owned();
    let table = [
        (ClusterError::NoQuorum { tried: tried() }, "no-quorum", "more than half of them must run"),
        (ClusterError::Unreachable { tried: tried() }, "unreachable", "No node answers"),
        (ClusterError::Untrusted { tried: tried() }, "untrusted", "dfs login"),
        (ClusterError::Confused, "cannot-ask", "cannot be asked"),
    ];
    for (error, kind, word) in table {
        let diagnosis = unanswered(&error);
        assert_eq!((kinds(&diagnosis), exit_status(diagnosis.severity())), (vec![kind], 3));
        let said = text(&diagnosis);
        assert!(said.starts_with("The cluster cannot be asked.\n") && said.contains(word), "{said}");
    }
}

#[test]
fn the_worst_comes_first_and_json_says_the_same() {
    let mut facts = well();
    store(&mut facts, 1).lacking = 2;
    store(&mut facts, 2).full = true;
    let diagnosis = diagnose(&facts);
    assert_eq!(kinds(&diagnosis), ["disk-full", "fewer-copies", "catching-up"]);
    assert!(text(&diagnosis).starts_with("Cluster abababab serves; 1 thing wants attention, 2 under way.\n"));
    assert!(diagnosis.findings.iter().is_sorted_by_key(|Finding { severity, .. }| std::cmp::Reverse(*severity)));
    let json = diagnosis_json(Some(&facts), &diagnosis);
    assert_eq!((&json["severity"], &json["status"]), (&"attention".into(), &1.into()));
    assert_eq!(json["findings"][0]["node"], id(2).to_string());
    assert_eq!(json["findings"][1]["severity"], Severity::Mending.word());
    assert_eq!(json["redundancy"]["lowest"], 2);
    assert_eq!(json["nodes"][3]["scrub"]["ended_s"], 7200);
    assert_eq!(diagnosis_json(None, &unanswered(&ClusterError::Confused))["nodes"], serde_json::Value::Null);
}
