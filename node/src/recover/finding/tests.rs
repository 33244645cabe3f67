use std::{collections::BTreeSet, num::NonZeroU32, path::PathBuf};

use proptest::prelude::*;
use ring::{Epoch, NodeId, ReplicaCount, Weight};
use wire::{
    cluster::{ClusterId, ClusterMap, KeyFingerprint, NodeRow},
    namespace::Timestamp,
};

use super::{Facts, Refused};
use crate::{
    consensus::{Place, Standing},
    generation::Generation,
    recover::Report,
};

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn map(nodes: u8) -> ClusterMap {
    let row = |number: u8| NodeRow {
        id: id(number),
        address: format!("10.0.0.{number}:7400").parse().unwrap(),
        zone: None,
        weight: Weight(NonZeroU32::MIN),
        key: KeyFingerprint([number; 32]),
    };
    ClusterMap {
        cluster: ClusterId([1; 16]),
        epoch: Epoch(9),
        replicas: ReplicaCount::new(3).unwrap(),
        nodes: (1..=nodes).map(row).collect(),
        ring: None,
        may_hold: Vec::new(),
        transition: None,
        leaving: Vec::new(),
        away: Vec::new(),
        acting: Epoch(0),
    }
}

/// Node 1 of `voters` voters, of whose others `answering` answer.
fn facts(voters: u8, answering: u8) -> Facts {
    Facts {
        node: id(1),
        standing: Standing {
            voters: (1..=voters).map(id).collect(),
            last: Some(Place { term: 7, leader: id(2), index: 4711 }),
            applied: 4700,
            purged: 100,
            term: 8,
            changed: Timestamp::new(1_000, 0).ok(),
        },
        map: Some(map(voters)),
        sessions: 2,
        has_seal: true,
        answering: (2..2 + answering).map(id).collect(),
        newest: (answering > 0).then_some(Epoch(12)),
    }
}

#[test]
fn a_survivor_of_a_lost_majority_may_lead_alone() {
    for (voters, answering) in [(2, 0), (3, 0), (5, 0), (5, 1)] {
        let plan = facts(voters, answering).judge().unwrap();
        assert_eq!((plan.generation, plan.commands), (Generation::new(1), 1));
    }
    let again = Generation::new(1).first() + 3;
    let standing = Standing { term: again, ..facts(3, 0).standing };
    assert_eq!(Facts { standing, ..facts(3, 0) }.judge().unwrap().generation, Generation::new(2));
    assert_eq!(Facts { sessions: 2_500, ..facts(3, 0) }.judge().unwrap().commands, 3);
}

#[test]
fn where_nothing_is_to_recover_or_nothing_can_be_the_line_says_why() {
    let refused = |facts: Facts| facts.judge().unwrap_err();
    assert_eq!(refused(facts(1, 0)), Refused::VotesAlone);
    assert_eq!(refused(facts(3, 1)), Refused::MajorityAnswers { answering: 1, voters: 3 });
    assert_eq!(refused(facts(5, 2)), Refused::MajorityAnswers { answering: 2, voters: 5 });
    let newest = Some(Epoch(Generation::new(1).first()));
    assert_eq!(refused(Facts { newest, ..facts(5, 1) }), Refused::RecoveredElsewhere);
    assert_eq!(refused(Facts { has_seal: false, ..facts(3, 0) }), Refused::NoSeal);
    assert_eq!(refused(Facts { map: None, ..facts(3, 0) }), Refused::NothingHere);
    let standing = Standing { last: None, ..facts(3, 0).standing };
    assert_eq!(refused(Facts { standing, ..facts(3, 0) }), Refused::NothingHere);
    let standing = Standing { applied: 99, ..facts(3, 0).standing };
    assert_eq!(refused(Facts { standing, ..facts(3, 0) }), Refused::StateLost { purged: 100 });
}

#[test]
fn the_report_says_who_is_missing_how_far_this_node_is_what_is_lost_and_what_to_type() {
    let plan = facts(5, 1).judge().unwrap();
    let now = Timestamp::new(1_000 + 600, 0).unwrap();
    let text = Report { plan: &plan, data: PathBuf::from("/srv/dfs"), now }.to_string();
    for words in [
        "a cluster in which 5 nodes vote",
        "10.0.0.2:7400  answers\n",
        "10.0.0.3:7400  does not answer\n",
        "It takes 3 of them",
        "position 000000000007-02020202-000000001267\n",
        "entry 4711 is the last in its log, 4700 are applied; the newest change was made 10 minutes ago",
        "the one with the highest position",
        "lost for good",
        "dfs-node recover --data /srv/dfs --force",
    ] {
        assert!(text.contains(words), "{words:?} in {text}");
    }
    assert!(plan.cost().contains("4 other voters and every change behind entry 4711"), "{}", plan.cost());
}

proptest! {
    /// Nobody is overruled who could go on without a recovery; and whoever may lead begins above everything it has seen.
    #[test]
    fn nothing_is_recovered_while_a_majority_answers(
        voters in 1..=7_u8, answering in proptest::collection::btree_set(2..=7_u8, 0..6), votes in any::<bool>(),
        term in any::<u32>(), generation in 0..9_u64,
    ) {
        let mut facts = facts(voters, 0);
        facts.answering = answering.into_iter().filter(|other| *other <= voters).map(id).collect();
        facts.standing.term = Generation::new(generation).first() + u64::from(term);
        if !votes {
            facts.standing.voters.remove(&id(1));
        }
        let ballots: BTreeSet<NodeId> = facts.answering.iter().copied().chain(votes.then(|| id(1))).collect();
        let all = facts.standing.voters.clone();
        let seen = facts.standing.term;
        let has_majority = ballots.intersection(&all).count() * 2 > all.len();
        match facts.judge() {
            Ok(plan) => {
                prop_assert!(!has_majority);
                prop_assert!(plan.generation.first() > seen);
            }
            Err(_) => prop_assert!(has_majority || all.is_empty()),
        }
    }
}

proptest! {
    #[test]
    fn places_compare_as_their_texts_do(
        a in (0..1_u64 << 48, any::<[u8; 4]>(), 0..1_u64 << 48), b in (0..1_u64 << 48, any::<[u8; 4]>(), 0..1_u64 << 48),
        same_term in any::<bool>(),
    ) {
        let place = |(term, leader, index): (u64, [u8; 4], u64)| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&leader);
            Place { term, leader: NodeId::from_bytes(bytes), index }
        };
        let b = if same_term { (a.0, b.1, b.2) } else { b };
        prop_assert_eq!(place(a).cmp(&place(b)), place(a).to_string().cmp(&place(b).to_string()));
    }
}
