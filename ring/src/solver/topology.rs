//! What the members allow: who stands in which zone, and how many replicas of one partition a zone may hold. Pure.
//!
//! # Invariants
//! - Members stand in the order of their ids, whatever order they came in.
//! - A row that [`Topology::admits`] can always be completed to one of `replicas` members that it admits as well.
//!
//! # Not here
//! How much each member should hold (`shares`).

use std::collections::BTreeMap;

use crate::{Member, NodeId, PartitionBits, ReplicaCount, Zone, solver::SolveError};

/// A place of a row that nobody holds yet. [`Topology::new`] admits fewer members than would reach it.
pub(super) const VACANT: u16 = u16::MAX;

/// The members in order, and the zones they stand in. Members and zones are named by their index.
pub(super) struct Topology {
    pub(super) members: Vec<Member>,
    pub(super) replicas: ReplicaCount,
    pub(super) bits: PartitionBits,
    pub(super) zones: Vec<ZoneMembers>,
    /// Replicas of a partition beyond what every zone holds of it anyway: at most one in each zone.
    pub(super) extras: usize,
    zone_of: Vec<u16>,
    salts: Vec<u64>,
}

/// A zone: who stands in it, and how many replicas of each partition it holds.
pub(super) struct ZoneMembers {
    /// In order of their ids, never empty.
    pub(super) members: Vec<u16>,
    /// Replicas of every partition that the zone holds at least.
    pub(super) floor: usize,
    /// Replicas of any partition that the zone holds at most: `floor`, or one more.
    pub(super) ceiling: usize,
}

/// What rows hold of a zone beyond its ceiling, added up.
#[derive(Default)]
pub(super) struct Crowding {
    /// Replicas that the zone must lose in those rows.
    pub(super) loses: usize,
    /// Replicas that those rows must gain from other zones.
    pub(super) others_gain: usize,
}

impl Topology {
    /// The members in order, checked; a member without a zone is a zone of its own.
    pub(super) fn new(members: &[Member], replicas: ReplicaCount, bits: PartitionBits) -> Result<Self, SolveError> {
        if members.len() < replicas.count() {
            return Err(SolveError::TooFewMembers { members: members.len(), replicas: replicas.count() });
        }
        if members.len() > usize::from(VACANT) {
            return Err(SolveError::TooManyMembers { members: members.len() });
        }
        let mut members = members.to_vec();
        members.sort_unstable_by_key(|member| member.id);
        if let Some([twice, _]) = members.array_windows().find(|[one, other]| one.id == other.id) {
            return Err(SolveError::MemberTwice { id: twice.id });
        }
        let (zone_of, in_zone) = group(&members);
        let level = (1..=replicas.count())
            .find(|&level| in_zone.iter().map(|zone| zone.len().min(level)).sum::<usize>() >= replicas.count())
            .expect("as many replicas in one zone as there are replicas is enough, for there are as many members");
        let zones: Vec<ZoneMembers> = in_zone
            .into_iter()
            .map(|members| ZoneMembers {
                floor: members.len().min(level - 1),
                ceiling: members.len().min(level),
                members,
            })
            .collect();
        let extras = replicas.count() - zones.iter().map(|zone| zone.floor).sum::<usize>();
        let salts = members.iter().map(|member| salt(member.id)).collect();
        Ok(Self { members, replicas, bits, zones, extras, zone_of, salts })
    }

    /// Index of the member `id`.
    pub(super) fn index_of(&self, id: NodeId) -> Option<u16> {
        // At most VACANT members, so an index fits.
        self.members.binary_search_by_key(&id, |member| member.id).ok().map(|index| index as u16)
    }

    /// Every member, by index.
    pub(super) fn indices(&self) -> impl Iterator<Item = u16> + Clone + use<> {
        0..self.members.len() as u16
    }

    /// The zone of a member.
    pub(super) fn zone_of(&self, member: u16) -> u16 {
        self.zone_of[usize::from(member)]
    }

    /// Whether no zone holds two replicas of a partition: there are as many zones as replicas.
    pub(super) fn zones_suffice(&self) -> bool {
        self.extras == self.replicas.count()
    }

    /// Whether the zones of `row` allow it; vacant places are passed over. Distinctness is not looked at.
    pub(super) fn admits(&self, row: &[u16]) -> bool {
        let (mut extras, mut within) = (0, true);
        self.each_zone(row, |zone, count| {
            within &= count <= zone.ceiling;
            extras += count.saturating_sub(zone.floor);
        });
        within && extras <= self.extras
    }

    /// Whether a row of `members`, which is admitted, is admitted with one more of `zone`.
    pub(super) fn admits_with(&self, members: impl Iterator<Item = u16>, zone: u16) -> bool {
        let mut row = [VACANT; ReplicaCount::MAX as usize];
        let mut len = 0;
        for member in members {
            row[len] = member;
            len += 1;
        }
        let row = &row[..len];
        let count = row.iter().filter(|&&member| self.zone_of(member) == zone).count();
        let limits = &self.zones[usize::from(zone)];
        if count < limits.floor {
            return true;
        }
        let mut extras = 0;
        self.each_zone(row, |zone, count| extras += count.saturating_sub(zone.floor));
        count < limits.ceiling && extras < self.extras
    }

    /// The members of `row` one of whom must go before the row is admitted, if it is not.
    pub(super) fn surplus(&self, row: &[u16]) -> Vec<u16> {
        let over = |most: fn(&ZoneMembers) -> usize| -> Vec<u16> {
            let in_zone = |zone: u16| row.iter().filter(|&&member| self.zone_of(member) == zone).count();
            let crowded = |&member: &u16| in_zone(self.zone_of(member)) > most(self.zone(member));
            row.iter().copied().filter(crowded).collect()
        };
        if self.admits(row) {
            return Vec::new();
        }
        let beyond_ceiling = over(|zone| zone.ceiling);
        if beyond_ceiling.is_empty() { over(|zone| zone.floor) } else { beyond_ceiling }
    }

    /// For each zone, what it has too much of in `rows`; vacant places are passed over.
    pub(super) fn crowding<'r>(&self, rows: impl Iterator<Item = &'r [u16]>) -> Vec<Crowding> {
        let mut crowding: Vec<Crowding> = self.zones.iter().map(|_| Crowding::default()).collect();
        for row in rows {
            let present = row.iter().filter(|&&member| member != VACANT).count();
            self.each_zone(row, |zone, count| {
                if count > zone.ceiling {
                    let of_zone = &mut crowding[usize::from(self.zone_of(zone.members[0]))];
                    of_zone.loses += count - zone.ceiling;
                    of_zone.others_gain += (self.replicas.count() - zone.ceiling).saturating_sub(present - count);
                }
            });
        }
        crowding
    }

    /// A number that looks random and depends on nothing but the member's id and `about`: what breaks ties, so that
    /// neighbours on the ring do not all share the same neighbours.
    pub(super) fn lot(&self, member: u16, about: u64) -> u64 {
        mix(self.salts[usize::from(member)] ^ mix(about))
    }

    fn zone(&self, member: u16) -> &ZoneMembers {
        &self.zones[usize::from(self.zone_of(member))]
    }

    fn each_zone(&self, row: &[u16], mut told: impl FnMut(&ZoneMembers, usize)) {
        for (at, &member) in row.iter().enumerate().filter(|&(_, &member)| member != VACANT) {
            let same = |&other: &u16| other != VACANT && self.zone_of(other) == self.zone_of(member);
            if !row[..at].iter().any(same) {
                told(self.zone(member), row[at..].iter().copied().filter(|other| same(other)).count());
            }
        }
    }
}

/// SplitMix64's finaliser: every bit of the input stirs every bit of the output.
pub(crate) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A node's id as a number that looks random.
pub(crate) fn salt(id: NodeId) -> u64 {
    let number = u128::from_be_bytes(*id.as_bytes());
    mix((number >> 64) as u64 ^ mix(number as u64))
}

/// Zones are numbered in the order in which their first member appears.
fn group(members: &[Member]) -> (Vec<u16>, Vec<Vec<u16>>) {
    let mut named: BTreeMap<&Zone, u16> = BTreeMap::new();
    let mut zone_of = Vec::with_capacity(members.len());
    let mut in_zone: Vec<Vec<u16>> = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let fresh = in_zone.len() as u16;
        let zone = member.zone.as_ref().map_or(fresh, |zone| *named.entry(zone).or_insert(fresh));
        if zone == fresh {
            in_zone.push(Vec::new());
        }
        in_zone[usize::from(zone)].push(index as u16);
        zone_of.push(zone);
    }
    (zone_of, in_zone)
}
