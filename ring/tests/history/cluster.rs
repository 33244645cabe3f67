//! A cluster whose nodes come and go by a seed, with what is promised of every ring and every transition on its way.

use std::collections::BTreeSet;

use ring::{
    ChunkKey, Epoch, Member, NodeId, Partition, PartitionBits, Placement, ReplicaCount, Ring, Transition, Weight, Zone,
    plan::plan,
    solver::{fair_shares, solve},
};

/// Replicas of each chunk.
const REPLICAS: usize = 3;

/// SplitMix64: the seed decides everything, on every machine.
pub(crate) struct Chance(u64);

/// What happens to a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// So many nodes come.
    Join(usize),
    /// So many nodes go.
    Leave(usize),
    /// So many nodes get another weight.
    Reweigh(usize),
    /// All nodes of a zone go at once.
    LoseZone,
    /// A new zone of that many nodes comes.
    GainZone(usize),
}

/// A cluster on its way.
pub(crate) struct Cluster {
    chance: Chance,
    members: Vec<Member>,
    bits: PartitionBits,
    ring: Ring,
    /// A change that is to be given up for the next one.
    under_way: Option<Transition>,
    /// Of nodes and of zones: names are never given twice.
    named: u32,
}

/// A change of the ring that was solved and holds its promises.
pub(crate) struct Change {
    /// Members after it.
    pub(crate) nodes: usize,
    /// Replicas that come to another node; no ring could do with fewer than `moves_min`.
    pub(crate) moves: usize,
    /// See `moves`.
    pub(crate) moves_min: usize,
    /// The highest load by fair share, of those whose share is 100 partitions or more; 1 if there is none.
    pub(crate) max_to_fair: f64,
    /// From this ring.
    base: Ring,
    /// To this one.
    next: Ring,
}

impl Chance {
    /// The numbers of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

impl Cluster {
    /// `nodes` in `zones` that need not be alike, and their first ring.
    pub(crate) fn new(seed: u64, nodes: usize, zones: usize, bits: u8) -> Self {
        let mut chance = Chance::new(seed);
        let mut named = 0;
        let names: Vec<Zone> = (0..zones).map(|_| zone(next(&mut named))).collect();
        let members: Vec<Member> = (0..nodes)
            .map(|at| {
                // A few in each, the others by lot.
                let at = if at < zones * 4 { at % zones } else { chance.below(zones) };
                newcomer(&mut chance, &mut named, names[at].clone())
            })
            .collect();
        let bits = PartitionBits::new(bits).unwrap();
        let ring = solve(None, &members, replicas(), bits, Epoch(1)).unwrap();
        let cluster = Self { chance, members, bits, ring, under_way: None, named };
        cluster.check_ring(&cluster.ring);
        cluster
    }

    /// What happens next: mostly little, sometimes much.
    pub(crate) fn any_event(&mut self) -> Event {
        let tenth = self.members.len() / 10;
        match self.chance.below(10) {
            0 | 1 => Event::Join(1),
            2 => Event::Join(1 + self.chance.below(tenth)),
            3 | 4 => Event::Leave(1),
            5 => Event::Leave(1 + self.chance.below(tenth)),
            6 => Event::Reweigh(1),
            7 => Event::Reweigh(1 + self.chance.below(tenth)),
            8 if self.zones().len() > REPLICAS => Event::LoseZone,
            _ => Event::GainZone(self.members.len() / self.zones().len()),
        }
    }

    /// Members after an event.
    pub(crate) fn apply(&mut self, event: Event) {
        let zones = self.zones();
        match event {
            Event::Join(count) => (0..count).for_each(|_| {
                let zone = zones[self.chance.below(zones.len())].clone();
                self.members.push(newcomer(&mut self.chance, &mut self.named, zone));
            }),
            Event::Leave(count) => (0..count).for_each(|_| {
                self.members.swap_remove(self.chance.below(self.members.len()));
            }),
            Event::Reweigh(count) => (0..count).for_each(|_| {
                let at = self.chance.below(self.members.len());
                self.members[at].weight = weight(50 + self.chance.below(350));
            }),
            Event::LoseZone => {
                let lost = zones[self.chance.below(zones.len())].clone();
                self.members.retain(|member| member.zone.as_ref() != Some(&lost));
            }
            Event::GainZone(count) => {
                let zone = zone(next(&mut self.named));
                (0..count).for_each(|_| self.members.push(newcomer(&mut self.chance, &mut self.named, zone.clone())));
            }
        }
    }

    /// The ring of these members, from the rows in force: the time that this takes is that of a command in the log.
    pub(crate) fn solve(&self) -> (Ring, Ring) {
        let epoch = self.placement().epoch().next();
        let base = self.under_way.as_ref().map(|given_up| given_up.merged(&self.ring, epoch).unwrap());
        let base = base.unwrap_or_else(|| self.ring.clone());
        let next = solve(Some(&base), &self.members, replicas(), self.bits, epoch.next()).unwrap();
        (base, next)
    }

    /// What was solved, after a look at all that is promised of it.
    pub(crate) fn check(&self, (base, next): (Ring, Ring)) -> Change {
        let max_to_fair = self.check_ring(&next);
        let plan = plan(&base, &next, |_| 1).unwrap();
        let (moves, moves_min) = (plan.moves.len(), plan.moves_min);
        // Of few zones the rows that a node leaves may lack places for those that are to take its replicas, by what small
        // numbers happen to be: then the fewest moves there can be lie above the bound. Over a history that is little.
        let is_tight = self.zones().len() >= 4 * REPLICAS;
        assert!(!is_tight || moves * 100 <= moves_min * 102, "{moves} moves, {moves_min} would do");
        Change { nodes: self.members.len(), moves, moves_min, max_to_fair, base, next }
    }

    /// Distinct nodes, distinct zones while zones suffice, and loads as fair as promised; the highest by its share.
    fn check_ring(&self, ring: &Ring) -> f64 {
        let zones_suffice = self.zones().len() >= REPLICAS;
        let mut loads = vec![0usize; ring.members().len()];
        for partition in ring.bits().partitions() {
            let row = ring.row(partition);
            row.iter().for_each(|&index| loads[usize::from(index)] += 1);
            for (at, &one) in row.iter().enumerate() {
                for &other in &row[..at] {
                    assert_ne!(one, other, "{partition:?} is twice on one node");
                    let zone = |index: u16| &ring.members()[usize::from(index)].zone;
                    assert!(!zones_suffice || zone(one) != zone(other), "{partition:?} is twice in one zone");
                }
            }
        }
        let shares = fair_shares(&self.members, replicas(), self.bits).unwrap();
        assert_eq!(shares.len(), ring.members().len(), "the members of the ring are those of the cluster");
        let mut max_to_fair = 1.0;
        for ((id, share), (member, load)) in shares.into_iter().zip(ring.members().iter().zip(loads)) {
            assert_eq!(id, member.id);
            assert!((share.floor()..=share.ceil()).contains(&load), "{id} holds {load} for {}", share.to_f64());
            if share.to_f64() >= 100.0 {
                max_to_fair = f64::max(max_to_fair, load as f64 / share.to_f64());
            }
        }
        assert!(max_to_fair <= 1.01, "{max_to_fair} at 100 partitions or more");
        max_to_fair
    }

    /// The change becomes the ring, partition by partition in any order, or is given up on its way for the next one.
    pub(crate) fn carry_out(&mut self, Change { base, next, moves, .. }: Change) {
        let mut transition = Transition::begin(&base, next).unwrap();
        self.ring = base;
        let mut unsettled: Vec<Partition> = transition.unsettled().collect();
        let placement = Placement::new(&self.ring, Some(&transition));
        let coming: usize = unsettled.iter().map(|partition| placement.coming(*partition).count()).sum();
        assert_eq!(coming, moves, "who is to come is who the plan moves");
        let is_given_up = self.chance.below(4) == 0 && !unsettled.is_empty();
        let stays = if is_given_up { self.chance.below(unsettled.len()) + 1 } else { 0 };
        while unsettled.len() > stays {
            let partition = unsettled.swap_remove(self.chance.below(unsettled.len()));
            self.check_owners(&transition, partition, &self.ring);
            transition.settle(partition);
            self.check_owners(&transition, partition, transition.next());
        }
        assert_eq!(transition.unsettled().count(), stays);
        if is_given_up {
            self.under_way = Some(transition);
        } else {
            self.ring = transition.next().clone();
            self.under_way = None;
        }
    }

    fn check_owners(&self, transition: &Transition, partition: Partition, expected: &Ring) {
        let placement = Placement::new(&self.ring, Some(transition));
        assert!(placement.owners(partition).eq(expected.owners(partition)), "{partition:?} has other owners");
        let is_settled = transition.is_settled(partition);
        assert_eq!(placement.next_owners(partition).is_none(), is_settled);
        assert_eq!(placement.coming(partition).next().is_none(), is_settled);
    }

    fn placement(&self) -> Placement<'_> {
        Placement::new(&self.ring, self.under_way.as_ref())
    }

    fn zones(&self) -> Vec<Zone> {
        let zones: BTreeSet<&Zone> = self.members.iter().filter_map(|member| member.zone.as_ref()).collect();
        zones.into_iter().cloned().collect()
    }
}

fn next(named: &mut u32) -> u32 {
    *named += 1;
    *named
}

fn newcomer(chance: &mut Chance, named: &mut u32, zone: Zone) -> Member {
    let digest = ChunkKey::of(&next(named).to_le_bytes());
    let id = NodeId::from_bytes(*digest.as_bytes().first_chunk().unwrap());
    Member { id, zone: Some(zone), weight: weight(100 + chance.below(100)) }
}

fn zone(number: u32) -> Zone {
    Zone::try_from(format!("zone-{number}")).unwrap()
}

fn weight(share: usize) -> Weight {
    Weight(u32::try_from(share).unwrap().try_into().unwrap())
}

fn replicas() -> ReplicaCount {
    ReplicaCount::new(REPLICAS as u8).unwrap()
}
