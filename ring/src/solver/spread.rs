//! An assignment from nothing: every quota met exactly, every row admitted, neighbours mixed. Pure.
//!
//! Partition by partition, first the zones of its extra replicas are chosen, then the members within each zone. Whoever
//! needs every partition that is left must be chosen; among the others goes first who is due: the k-th replica of
//! someone who gets n is due at a drawn point of the k-th of n equal stretches of the ring.
//!
//! # Invariants
//! - Before each choice of k with `left` partitions to go, nobody needs more than `left` and all together need
//!   `k × left` (of a zone: between its floor and its ceiling for each). So at most k must be chosen, and at least k can.

use std::collections::BTreeSet;

use crate::solver::topology::{Topology, mix};

/// A row for every partition in which each member stands as often as `quotas` says.
pub(super) fn spread(topology: &Topology, quotas: &[u32]) -> Vec<u16> {
    let partitions = topology.bits.count() as u32;
    let quota = |member: u16| quotas[usize::from(member)];
    let extra = |zone: &crate::solver::topology::ZoneMembers| {
        zone.members.iter().map(|&member| quota(member)).sum::<u32>() - zone.floor as u32 * partitions
    };
    let mut zones = Draw::new(topology.zones.iter().map(|zone| (extra(zone), topology.lot(zone.members[0], 0))));
    let mut members: Vec<Draw> = topology
        .zones
        .iter()
        .map(|zone| Draw::new(zone.members.iter().map(|&member| (quota(member), topology.lot(member, 1)))))
        .collect();
    let always: Vec<usize> = (0..topology.zones.len()).filter(|&zone| topology.zones[zone].floor > 0).collect();
    let mut rows = Vec::with_capacity(partitions as usize * topology.replicas.count());
    for left in (1..=partitions).rev() {
        let extras = zones.choose(topology.extras, left);
        let mut draw_in = |zone: usize, count: usize| {
            let chosen = members[zone].choose(count, left);
            rows.extend(chosen.into_iter().map(|at| topology.zones[zone].members[at]));
        };
        for &zone in &extras {
            draw_in(zone, topology.zones[zone].floor + 1);
        }
        for &zone in always.iter().filter(|zone| !extras.contains(zone)) {
            draw_in(zone, topology.zones[zone].floor);
        }
    }
    rows
}

/// Candidates, each to be chosen a fixed number of times and at most once in a choice.
struct Draw {
    candidates: Vec<Candidate>,
    by_need: BTreeSet<(u32, usize)>,
    by_due: BTreeSet<(u64, usize)>,
}

struct Candidate {
    total: u32,
    chosen: u32,
    salt: u64,
}

impl Draw {
    fn new(totals: impl Iterator<Item = (u32, u64)>) -> Self {
        let candidates: Vec<Candidate> = totals.map(|(total, salt)| Candidate { total, chosen: 0, salt }).collect();
        let mut draw = Self { candidates, by_need: BTreeSet::new(), by_due: BTreeSet::new() };
        for at in 0..draw.candidates.len() {
            draw.enter(at);
        }
        draw
    }

    /// `count` different candidates, when `left` choices are still to be made, this one included.
    fn choose(&mut self, count: usize, left: u32) -> Vec<usize> {
        let mut chosen = Vec::with_capacity(count);
        while let Some(&(need, at)) = self.by_need.last() {
            assert!(need <= left, "nobody needs more partitions than there are");
            if need < left {
                break;
            }
            self.leave(at);
            chosen.push(at);
        }
        assert!(chosen.len() <= count, "no more candidates are due everywhere than there are places");
        while chosen.len() < count {
            let &(_, at) = self.by_due.first().expect("enough candidates have needs left");
            self.leave(at);
            chosen.push(at);
        }
        for &at in &chosen {
            self.candidates[at].chosen += 1;
            self.enter(at);
        }
        chosen
    }

    fn enter(&mut self, at: usize) {
        let candidate = &self.candidates[at];
        if candidate.chosen < candidate.total {
            self.by_need.insert((candidate.total - candidate.chosen, at));
            self.by_due.insert((due(candidate.chosen, candidate.total, candidate.salt), at));
        }
    }

    fn leave(&mut self, at: usize) {
        let candidate = &self.candidates[at];
        self.by_need.remove(&(candidate.total - candidate.chosen, at));
        self.by_due.remove(&(due(candidate.chosen, candidate.total, candidate.salt), at));
    }
}

/// When the replica after `chosen` of `total` is due, as a point of the ring in 2^-40: drawn from the stretch
/// `chosen / total .. (chosen + 1) / total`.
pub(super) fn due(chosen: u32, total: u32, salt: u64) -> u64 {
    const JITTER_BITS: u32 = 20;
    let jitter = mix(salt ^ u64::from(chosen)) >> (64 - JITTER_BITS);
    // 20 bits of `chosen`, 20 of jitter and 20 more: it fits.
    (((u64::from(chosen) << JITTER_BITS) | jitter) << 20) / u64::from(total)
}
