//! Who stands first in each row. Pure.
//!
//! The first of a row is asked first, so each member should lead its share of the partitions that it holds: one in
//! `replicas` of them, rounded down or up. Changing the order moves no bytes. Members hand the lead along chains of
//! rows that they share, as in a flow of unit capacities; such a division always exists, for leading every row of r
//! members by 1/r each is one in fractions.

use std::collections::VecDeque;

use crate::solver::topology::Topology;

/// Rows looked at, in all searches together, before the rest is left as it is: balance of the lead is a wish.
const LOOKS_MAX: u64 = 1 << 27;

/// Orders `rows` so that every member leads its share of them; `leaders` led before, where they still stand in the row.
pub(super) fn balance(topology: &Topology, rows: &mut [u16], leaders: Option<impl Fn(usize) -> u16>) {
    let width = topology.replicas.count();
    let mut lead = Lead::new(topology, rows, width);
    let mut fresh = Vec::new();
    for partition in 0..topology.bits.count() {
        let before = leaders.as_ref().map(|leader| leader(partition));
        match before.and_then(|leader| lead.row(partition).iter().position(|&member| member == leader)) {
            Some(place) => lead.put_first(partition, place),
            None => fresh.push(partition),
        }
    }
    for partition in fresh {
        let place = lead.neediest(partition);
        lead.put_first(partition, place);
    }
    lead.settle();
}

struct Lead<'a> {
    rows: &'a mut [u16],
    width: usize,
    /// Rows that each member holds.
    loads: Vec<u32>,
    /// Rows that each member leads.
    led: Vec<u32>,
}

impl<'a> Lead<'a> {
    fn new(topology: &Topology, rows: &'a mut [u16], width: usize) -> Self {
        let mut loads = vec![0; topology.members.len()];
        for &member in rows.iter() {
            loads[usize::from(member)] += 1;
        }
        let led = vec![0; loads.len()];
        Self { rows, width, loads, led }
    }

    fn row(&self, partition: usize) -> &[u16] {
        &self.rows[partition * self.width..(partition + 1) * self.width]
    }

    /// Moves the member at `place` to the front of a row that nobody was counted to lead; the others keep their order.
    fn put_first(&mut self, partition: usize, place: usize) {
        let row = &mut self.rows[partition * self.width..(partition + 1) * self.width];
        row[..=place].rotate_right(1);
        self.led[usize::from(row[0])] += 1;
    }

    /// The place of who leads least of its share.
    fn neediest(&self, partition: usize) -> usize {
        let row = self.row(partition);
        let part = |&place: &usize| {
            let member = usize::from(row[place]);
            // Leads per load, as an integer; a load in a row is at least one.
            ((u64::from(self.led[member]) << 32) / u64::from(self.loads[member]), place)
        };
        (0..row.len()).min_by_key(part).expect("a row is not empty")
    }

    fn least(&self, member: u16) -> u32 {
        self.loads[usize::from(member)] / self.width as u32
    }

    fn most(&self, member: u16) -> u32 {
        self.loads[usize::from(member)].div_ceil(self.width as u32)
    }

    fn settle(&mut self) {
        let members = 0..self.led.len() as u16;
        let mut held = vec![Vec::new(); self.led.len()];
        for partition in 0..self.rows.len() / self.width {
            held[usize::from(self.row(partition)[0])].push(partition);
        }
        let mut looks = 0;
        // Each chain takes one lead from who has too many, or gives one to who has too few.
        while looks < LOOKS_MAX {
            let led = |member: u16| self.led[usize::from(member)];
            let over: Vec<u16> = members.clone().filter(|&member| led(member) > self.most(member)).collect();
            let chain = if over.is_empty() {
                if members.clone().all(|member| led(member) >= self.least(member)) {
                    return;
                }
                let spare: Vec<u16> = members.clone().filter(|&member| led(member) > self.least(member)).collect();
                self.chain(&held, &spare, |lead, at| lead.led[usize::from(at)] < lead.least(at), &mut looks)
            } else {
                self.chain(&held, &over, |lead, at| lead.led[usize::from(at)] < lead.most(at), &mut looks)
            };
            let Some(chain) = chain else { return };
            for (partition, place) in chain {
                let leader = self.row(partition)[0];
                self.led[usize::from(leader)] -= 1;
                held[usize::from(leader)].retain(|&at| at != partition);
                self.put_first(partition, place);
                held[usize::from(self.row(partition)[0])].push(partition);
            }
        }
    }

    /// The shortest chain of rows, with the place that shall lead each, from one of `sources` to a member that `ends` it.
    fn chain(
        &self,
        held: &[Vec<usize>],
        sources: &[u16],
        ends: impl Fn(&Self, u16) -> bool,
        looks: &mut u64,
    ) -> Option<Vec<(usize, usize)>> {
        let mut by: Vec<Option<(usize, usize)>> = vec![None; self.led.len()];
        let mut seen = vec![false; self.led.len()];
        let mut queue: VecDeque<u16> = sources.iter().copied().collect();
        sources.iter().for_each(|&member| seen[usize::from(member)] = true);
        while let Some(member) = queue.pop_front() {
            for &partition in &held[usize::from(member)] {
                *looks += 1;
                for (place, &next) in self.row(partition).iter().enumerate().skip(1) {
                    if std::mem::replace(&mut seen[usize::from(next)], true) {
                        continue;
                    }
                    by[usize::from(next)] = Some((partition, place));
                    if ends(self, next) {
                        let step = |&(partition, _): &(usize, usize)| by[usize::from(self.row(partition)[0])];
                        return Some(std::iter::successors(by[usize::from(next)], step).collect());
                    }
                    queue.push_back(next);
                }
            }
        }
        None
    }
}
