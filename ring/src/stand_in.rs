//! Who takes the writes of a node that is away.
//!
//! # Invariants
//! - The same input gives the same stand-in on every platform and release; the order of the candidates does not matter.
//! - Of a node that is away the partitions are spread over all candidates: each takes about as many as the others,
//!   whatever its weight, because an absence is short.
//!
//! # Not here
//! Who is away, and who may stand in (`wire::stand_in`): a choice is made once, and kept in the map.

use crate::{
    Member, NodeId, Partition, Zone,
    solver::{mix, salt},
};

/// Who of `candidates` stands in for `away` in `partition`: one of a zone that is not among `zones`, those of the others
/// of the row, if there is one. A candidate without a zone is a zone of its own. None if there is no candidate.
pub fn stand_in<'a>(
    partition: Partition,
    away: NodeId,
    zones: &[Zone],
    candidates: impl Iterator<Item = &'a Member>,
) -> Option<NodeId> {
    let is_crowded = |member: &Member| member.zone.as_ref().is_some_and(|zone| zones.contains(zone));
    let about = mix(salt(away) ^ u64::from(partition.0));
    let rank = |member: &&Member| (is_crowded(member), mix(salt(member.id) ^ about), member.id);
    candidates.min_by_key(rank).map(|member| member.id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::stand_in;
    use crate::{Member, NodeId, Partition, Weight, Zone};

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn zone(number: u8) -> Zone {
        Zone::try_from(format!("zone-{number}")).unwrap()
    }

    fn member(number: u8, in_zone: Option<u8>) -> Member {
        Member { id: id(number), zone: in_zone.map(zone), weight: Weight(1.try_into().unwrap()) }
    }

    #[test]
    fn the_partitions_of_a_node_are_spread_over_all_that_can_stand_in() {
        let candidates: Vec<Member> = (1..=8).map(|number| member(number, None)).collect();
        let mut shares: BTreeMap<NodeId, u32> = BTreeMap::new();
        for partition in (0..4096).map(Partition) {
            *shares.entry(stand_in(partition, id(99), &[], candidates.iter()).unwrap()).or_default() += 1;
        }
        assert_eq!(shares.len(), 8);
        assert!(shares.values().all(|share| (400..=640).contains(share)), "{shares:?}");
    }

    /// The choice goes into the log once, but two releases that compute it must agree.
    #[test]
    fn choices_are_frozen() {
        let candidates: Vec<Member> = (1..=5).map(|number| member(number, None)).collect();
        let chosen: Vec<u8> = (0..12)
            .map(|partition| stand_in(Partition(partition), id(9), &[], candidates.iter()).unwrap().as_bytes()[0])
            .collect();
        assert_eq!(chosen, FROZEN);
    }

    const FROZEN: [u8; 12] = [4, 1, 5, 5, 1, 3, 4, 3, 2, 4, 3, 2];

    proptest! {
        #[test]
        fn the_choice_is_a_candidate_of_another_zone_if_there_is_one_and_does_not_depend_on_order(
            partition in any::<u32>(),
            zones in proptest::collection::vec(0u8..4, 0..3),
            members in proptest::collection::vec(proptest::option::of(0u8..4), 0..8),
        ) {
            let taken: Vec<Zone> = zones.iter().copied().map(zone).collect();
            let candidates: Vec<Member> = (1u8..).zip(&members).map(|(number, of)| member(number, *of)).collect();
            let chosen = stand_in(Partition(partition), id(99), &taken, candidates.iter());
            prop_assert_eq!(chosen, stand_in(Partition(partition), id(99), &taken, candidates.iter().rev()));
            prop_assert_eq!(chosen.is_some(), !candidates.is_empty());
            let is_apart = |member: &&Member| member.zone.as_ref().is_none_or(|zone| !taken.contains(zone));
            if let Some(any) = candidates.iter().find(is_apart) {
                let chosen = candidates.iter().find(|member| Some(member.id) == chosen).unwrap();
                prop_assert!(is_apart(&chosen), "{chosen:?} rather than {any:?}");
            }
        }
    }
}
