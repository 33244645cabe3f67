//! How much each member should hold: its fair share, and the whole number of replicas nearest to what it has. Pure.
//!
//! Shares follow weight until something stands in the way: no member holds more than one replica of a partition, no
//! zone more than its ceiling of each and none less than its floor. What one cannot take, the others share by weight.
//! This is water-filling: there is one level such that each member holds `level × weight`, cut at those limits.
//!
//! # Invariants
//! - Shares are rounded down to 2^-64 of a partition. What all of them lose by that is less than 2^-16 partitions.
//! - A quota is its share rounded down or up. The quotas of a zone keep to its floor and ceiling; all of them add up to
//!   all replicas.
//!
//! # Not here
//! Which partitions a member holds (`spread`, `refit`).

use crate::solver::topology::{Topology, ZoneMembers};

/// Fraction bits of a share. Weights have 32 bits, levels 64 + 20, their product fits into 128.
const FRACTION_BITS: u32 = 64;
const ONE: u128 = 1 << FRACTION_BITS;

/// Shares this close below a whole number are that number, but for the rounding described above: they are rounded up
/// before all others.
const NEARLY_ONE: u128 = ONE - (ONE >> 16);

/// Fair shares of every member, in 2^-64 of a partition.
pub(super) struct Shares {
    pub(super) members: Vec<u128>,
}

/// Shares in whole replicas. The counts are between floors and ceilings, which are at most one apart.
#[derive(Clone)]
pub(super) struct Quotas {
    pub(super) counts: Vec<u32>,
    pub(super) floors: Vec<u32>,
    pub(super) ceilings: Vec<u32>,
}

impl Shares {
    /// The fair shares under `topology`.
    pub(super) fn of(topology: &Topology) -> Self {
        let whole = topology.bits.count() as u128 * ONE;
        let poured = |zone: &ZoneMembers, level: u128| -> u128 {
            zone.members.iter().map(|&member| whole.min(level * weight(topology, member))).sum()
        };
        let in_zone = |zone: &ZoneMembers, level: u128| {
            poured(zone, level).clamp(zone.floor as u128 * whole, zone.ceiling as u128 * whole)
        };
        let all = topology.replicas.count() as u128 * whole;
        let level = highest(whole, |level| topology.zones.iter().map(|zone| in_zone(zone, level)).sum::<u128>() <= all);
        let mut members = vec![0; topology.members.len()];
        for zone in &topology.zones {
            let share = in_zone(zone, level);
            let level = highest(whole, |level| poured(zone, level) <= share);
            for &member in &zone.members {
                members[usize::from(member)] = whole.min(level * weight(topology, member));
            }
        }
        Self { members }
    }

    /// Shares in whole replicas, rounded so that as few as possible must move from `loads`, what members hold now.
    ///
    /// Up go those that are whole but for our arithmetic, then those who hold more than their share rounded down, then
    /// the largest fractions, then the first; but in each zone as many as its floor asks for and its ceiling allows.
    pub(super) fn quotas(&self, topology: &Topology, loads: &[u32]) -> Quotas {
        let partitions = topology.bits.count();
        let floors: Vec<u32> = self.members.iter().map(|&share| floor(share + ONE - NEARLY_ONE)).collect();
        let ceilings = self.members.iter().map(|&share| floor(share) + u32::from(fraction(share) > 0)).collect();
        let mut counts: Vec<u32> = self.members.iter().map(|&share| floor(share)).collect();
        let mut order: Vec<u16> =
            topology.indices().filter(|&member| fraction(self.members[usize::from(member)]) > 0).collect();
        order.sort_by_key(|&member| {
            let share = self.members[usize::from(member)];
            let keeps = loads[usize::from(member)] > floor(share);
            let rank = if fraction(share) >= NEARLY_ONE { 0 } else { 1 + u8::from(!keeps) };
            (rank, ONE - fraction(share), member)
        });
        let mut in_zone: Vec<usize> = topology
            .zones
            .iter()
            .map(|zone| zone.members.iter().map(|&member| counts[usize::from(member)] as usize).sum())
            .collect();
        let all = partitions * topology.replicas.count();
        let mut missing = all.checked_sub(in_zone.iter().sum()).expect("rounded down, shares are not above the total");
        let mut raise = |order: &mut Vec<u16>, may: &dyn Fn(&ZoneMembers) -> usize, missing: &mut usize| {
            order.retain(|&member| {
                let zone = usize::from(topology.zone_of(member));
                let raised = *missing > 0 && in_zone[zone] < may(&topology.zones[zone]) * partitions;
                if raised {
                    *missing -= 1;
                    in_zone[zone] += 1;
                    counts[usize::from(member)] += 1;
                }
                !raised
            });
        };
        raise(&mut order, &|zone| zone.floor, &mut missing);
        raise(&mut order, &|zone| zone.ceiling, &mut missing);
        assert_eq!(missing, 0, "rounded up, shares are not below the total");
        assert!(counts.iter().zip(&floors).all(|(count, floor)| count >= floor), "who is nearly whole is rounded up");
        Quotas { counts, floors, ceilings }
    }
}

/// The highest level at which `fits` still holds; `whole` is enough to fill everybody, whose weight is at least one.
fn highest(whole: u128, fits: impl Fn(u128) -> bool) -> u128 {
    if fits(whole) {
        return whole;
    }
    let (mut fitting, mut beyond) = (0, whole);
    while beyond - fitting > 1 {
        let middle = fitting + (beyond - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            beyond = middle;
        }
    }
    fitting
}

fn weight(topology: &Topology, member: u16) -> u128 {
    u128::from(topology.members[usize::from(member)].weight.0.get())
}

/// A share is at most 2^20 partitions, so many replicas of a member or a zone; the sum of a zone at most 7 × 2^20.
fn floor(share: u128) -> u32 {
    (share >> FRACTION_BITS) as u32
}

fn fraction(share: u128) -> u128 {
    share & (ONE - 1)
}
