//! From the previous assignment to one that meets the new quotas, with the fewest moves. Pure.
//!
//! What may stay stays ([`Draft::keeping`]). Then vacant places go to members who lack replicas, and members who have
//! too many hand some directly to members who lack them: one move for each replica that anyone lacks, which is the
//! least there can be. Where nobody who lacks a replica may take what is left, a chain of exchanges is searched
//! (`repair`).

use std::collections::BTreeSet;

use crate::solver::{
    draft::Draft,
    repair,
    spread::due,
    topology::{VACANT, mix},
};

/// Meets every quota of `draft`; `None` if no chain of exchanges was found for some replica.
pub(super) fn refit(mut draft: Draft<'_>) -> Option<Vec<u16>> {
    repair::regain(&mut draft);
    let mut takers = Takers::of(&draft);
    fill_vacancies(&mut draft, &mut takers);
    hand_over(&mut draft, &mut takers);
    repair::repair(&mut draft)?;
    Some(draft.into_rows())
}

fn fill_vacancies(draft: &mut Draft<'_>, takers: &mut Takers) {
    let mut vacant: Vec<usize> = draft.partitions().filter(|&at| draft.row(at).contains(&VACANT)).collect();
    // In drawn order, or the first arcs of the ring would all go to whoever lacks most.
    vacant.sort_unstable_by_key(|&partition| (mix(partition as u64), partition));
    for partition in vacant {
        let places = draft.row(partition).iter().filter(|&&member| member == VACANT).count();
        for _ in 0..places {
            let Some(taker) = takers.first(draft, partition, VACANT) else { break };
            draft.replace(partition, VACANT, taker);
            takers.took(taker);
        }
    }
}

fn hand_over(draft: &mut Draft<'_>, takers: &mut Takers) {
    for (giver, mut held) in holdings(draft, |draft, member| draft.excess(member) > 0) {
        held.sort_unstable_by_key(|&partition| (draft.topology.lot(giver, partition as u64), partition));
        for partition in held {
            if draft.excess(giver) == 0 {
                break;
            }
            if let Some(taker) = takers.first(draft, partition, giver) {
                draft.replace(partition, giver, taker);
                takers.took(taker);
            }
        }
    }
}

/// The partitions of every member that is `wanted`.
fn holdings(draft: &Draft<'_>, wanted: impl Fn(&Draft<'_>, u16) -> bool) -> Vec<(u16, Vec<usize>)> {
    let members: Vec<u16> = draft.topology.indices().filter(|&member| wanted(draft, member)).collect();
    let mut held: Vec<(u16, Vec<usize>)> = members.iter().map(|&member| (member, Vec::new())).collect();
    for partition in draft.partitions() {
        for member in draft.row(partition) {
            if let Ok(at) = members.binary_search(member) {
                held[at].1.push(partition);
            }
        }
    }
    held
}

/// Members who lack replicas, in the order in which theirs are due: evenly over what is handed out.
struct Takers {
    queue: BTreeSet<(u64, u16)>,
    takers: Vec<Taker>,
}

#[derive(Clone)]
struct Taker {
    lacks: u32,
    took: u32,
    salt: u64,
}

impl Taker {
    fn due(&self) -> u64 {
        due(self.took, self.lacks, self.salt)
    }
}

impl Takers {
    fn of(draft: &Draft<'_>) -> Self {
        let members = draft.topology.indices();
        let taker = |member| Taker { lacks: draft.deficit(member), took: 0, salt: draft.topology.lot(member, 2) };
        let takers: Vec<Taker> = members.clone().map(taker).collect();
        let lacking = members.filter(|&member| takers[usize::from(member)].lacks > 0);
        let queue = lacking.map(|member| (takers[usize::from(member)].due(), member)).collect();
        Self { queue, takers }
    }

    /// The first in the queue who may stand in `partition` where `outgoing` stands.
    fn first(&self, draft: &Draft<'_>, partition: usize, outgoing: u16) -> Option<u16> {
        let row = draft.row(partition);
        // Few: zones that somebody of this row stands in.
        let mut refused = Vec::new();
        let fits = |&member: &u16| {
            let zone = draft.topology.zone_of(member);
            if refused.contains(&zone) || row.contains(&member) {
                return false;
            }
            let fits = draft.zone_fits(row, outgoing, zone);
            if !fits {
                refused.push(zone);
            }
            fits
        };
        self.queue.iter().map(|&(_, member)| member).find(fits)
    }

    fn took(&mut self, member: u16) {
        let taker = &mut self.takers[usize::from(member)];
        self.queue.remove(&(taker.due(), member));
        taker.took += 1;
        if taker.took < taker.lacks {
            self.queue.insert((taker.due(), member));
        }
    }
}
