//! Chains of exchanges, for what could not be handed over directly. Pure.
//!
//! A chain begins at a vacant place or at a member with too many replicas, and ends at one who lacks some: each member
//! on it takes a replica and gives another up. Exchanging a replica that moves anyway costs nothing, one that could
//! have stayed costs one move more; chains are searched in order of that cost (breadth first, with two kinds of step,
//! as augmenting paths of a minimum-cost flow are).
//!
//! # Invariants
//! - A chain touches no partition twice, so each exchange on it is as legal after the others as before. Only where no
//!   such chain is left, chains that *cross* themselves are searched: each step is legal after those before it.

use std::borrow::Cow;

use crate::solver::{draft::Draft, topology::VACANT};

/// Looks at zones of candidates, in all searches together, before they are given up: a few seconds.
const LOOKS_MAX: u64 = 1 << 28;

/// Puts back, where that costs no move, who was dropped from rows that could not keep everybody: after it no other
/// choice of whom to drop would have kept more.
pub(super) fn regain(draft: &mut Draft<'_>) {
    let dropped = |&partition: &usize| {
        let (row, prior) = (draft.row(partition), draft.prior_row(partition));
        prior.iter().any(|member| *member != VACANT && !row.contains(member))
    };
    if draft.partitions().any(|partition| dropped(&partition)) {
        // Whoever is reached in vain can be passed over from then on: nothing that ends a chain comes into reach later.
        let mut repair = Repair::new(draft);
        for source in repair.sources() {
            while repair.is_open(source) && repair.follow(source, Cost::Nothing).is_some() {}
        }
    }
}

/// Fills every vacant place and takes from everyone who has too much; `None` if no chain was found.
pub(super) fn repair(draft: &mut Draft<'_>) -> Option<()> {
    let mut repair = Repair::new(draft);
    for source in repair.sources() {
        while repair.is_open(source) {
            if repair.follow(source, Cost::OneMove).is_none() {
                repair.follow_crossing(source)?;
            }
        }
    }
    Some(())
}

#[derive(Clone, Copy)]
enum Source {
    Vacancy { partition: usize },
    Excess { member: u16 },
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Cost {
    Nothing,
    OneMove,
}

/// `incoming` has one replica more to hold in the place of `outgoing`, whom the step `before` gave one elsewhere.
#[derive(Clone, Copy)]
struct Step {
    by: By,
    outgoing: u16,
    incoming: u16,
    before: Option<usize>,
}

/// How a step shifts the burden.
#[derive(Clone, Copy, Eq, PartialEq)]
enum By {
    /// `incoming` takes the place of `outgoing` in a row.
    Place { partition: usize },
    /// The quota of `outgoing` is rounded up, that of `incoming` down.
    Rounding,
}

/// A member that a chain has come to, by its last step.
#[derive(Clone, Copy)]
struct Reached {
    member: u16,
    by: Option<usize>,
}

struct Repair<'d, 'a> {
    draft: &'d mut Draft<'a>,
    /// Partitions that each member holds; those that it has given up since are passed over.
    held: Vec<Vec<usize>>,
    /// Partitions that had vacant places in the beginning.
    vacant: Vec<usize>,
    /// Partitions whose row is not what it was: only there a step can cost nothing.
    changed: Vec<bool>,
    /// Members from whom no chain leads on.
    in_vain: Vec<bool>,
    /// Whether chains may touch a partition again.
    crossing: bool,
    looks: u64,
}

struct Search {
    steps: Vec<Step>,
    /// Members not reached yet by zone, those who lack replicas first: whether a zone fits is asked once for all of it.
    unreached: Vec<(u16, Vec<u16>)>,
    is_unreached: Vec<bool>,
}

impl<'d, 'a> Repair<'d, 'a> {
    fn new(draft: &'d mut Draft<'a>) -> Self {
        let members = draft.topology.members.len();
        let mut held = vec![Vec::new(); members];
        for partition in draft.partitions() {
            for &member in draft.row(partition).iter().filter(|&&member| member != VACANT) {
                held[usize::from(member)].push(partition);
            }
        }
        let vacant = draft.partitions().filter(|&partition| draft.row(partition).contains(&VACANT)).collect();
        let kept = |partition: usize| {
            let (row, prior) = (draft.row(partition), draft.prior_row(partition));
            row.len() == prior.len() && prior.iter().all(|member| row.contains(member)) && !row.contains(&VACANT)
        };
        let changed = draft.partitions().map(|partition| !kept(partition)).collect();
        Self { draft, held, vacant, changed, in_vain: vec![false; members], crossing: false, looks: 0 }
    }

    fn sources(&self) -> Vec<Source> {
        let vacancies = self.vacant.iter().map(|&partition| Source::Vacancy { partition });
        let excesses = self.draft.topology.indices().map(|member| Source::Excess { member });
        vacancies.chain(excesses).collect()
    }

    fn is_open(&self, source: Source) -> bool {
        match source {
            Source::Vacancy { partition } => self.draft.row(partition).contains(&VACANT),
            Source::Excess { member } => self.draft.excess(member) > 0,
        }
    }

    /// Exchanges along the cheapest chain from `source`, and along all like it.
    fn follow(&mut self, source: Source, most: Cost) -> Option<()> {
        let chain = self.search(source, most)?;
        self.exchange(&chain);
        self.repeat(chain);
        Some(())
    }

    /// Exchanges along a chain from `source` that may touch partitions again.
    fn follow_crossing(&mut self, source: Source) -> Option<()> {
        self.crossing = true;
        let chain = self.search(source, Cost::OneMove);
        self.crossing = false;
        self.exchange(&chain?);
        Some(())
    }

    /// Exchanges along chains through the same members at the same cost, in other partitions. Where few members hold
    /// many partitions this spares almost every search.
    fn repeat(&mut self, mut chain: Vec<Step>) {
        let (Some(&Step { incoming: end, .. }), Some(&Step { outgoing: begin, .. })) = (chain.first(), chain.last())
        else {
            return;
        };
        let mut passed = vec![0; chain.len()];
        while self.draft.deficit(end) > 0 && (begin == VACANT || self.draft.excess(begin) > 0) {
            for at in 0..chain.len() {
                let Step { by: By::Place { partition }, outgoing, incoming, .. } = chain[at] else { return };
                let from = if outgoing == VACANT { &self.vacant } else { &self.held[usize::from(outgoing)] };
                let alike = |&other: &usize| {
                    self.cost(other, outgoing, incoming) <= self.cost(partition, outgoing, incoming)
                        && self.draft.row(other).contains(&outgoing)
                        && self.draft.fits(self.draft.row(other), outgoing, incoming)
                        && !chain[..at].iter().any(|step| step.by == By::Place { partition: other })
                };
                let Some(found) = from[passed[at]..].iter().position(alike) else { return };
                passed[at] += found + 1;
                chain[at].by = By::Place { partition: from[passed[at] - 1] };
            }
            self.exchange(&chain);
        }
    }

    /// What it costs in moves that `incoming` takes the place of `outgoing`, less the move to any newcomer.
    fn cost(&self, partition: usize, outgoing: u16, incoming: u16) -> i8 {
        let prior = self.draft.prior_row(partition);
        i8::from(outgoing != VACANT && prior.contains(&outgoing)) - i8::from(prior.contains(&incoming))
    }

    /// The cheapest chain from `source`, with no step dearer than `most`, last step first.
    fn search(&mut self, source: Source, most: Cost) -> Option<Vec<Step>> {
        let mut search = self.unreached();
        let mut reached = Vec::new();
        match source {
            Source::Vacancy { partition } => {
                if let Some(end) = self.reach(&mut search, partition, VACANT, None, &mut reached, most) {
                    return Some(search.chain(end));
                }
            }
            Source::Excess { member } => {
                search.is_unreached[usize::from(member)] = false;
                reached.push(Reached { member, by: None });
            }
        }
        // Every round reaches a member that was not reached before, or is the last.
        while !reached.is_empty() {
            let mut at = 0;
            while let Some(&from) = reached.get(at) {
                if let Some(end) = self.expand(&mut search, from, &mut reached, Cost::Nothing) {
                    return Some(search.chain(end));
                }
                at += 1;
            }
            if most == Cost::Nothing {
                reached.iter().for_each(|reached| self.in_vain[usize::from(reached.member)] = true);
                return None;
            }
            let mut next = Vec::new();
            for from in reached {
                if let Some(end) = self.expand(&mut search, from, &mut next, Cost::OneMove) {
                    return Some(search.chain(end));
                }
            }
            reached = next;
        }
        None
    }

    fn unreached(&self) -> Search {
        let topology = self.draft.topology;
        let (lacking, others): (Vec<u16>, Vec<u16>) = topology
            .indices()
            .filter(|&member| !self.in_vain[usize::from(member)])
            .partition(|&member| self.draft.deficit(member) > 0);
        let mut unreached: Vec<(u16, Vec<u16>)> = Vec::new();
        let mut at_zone = vec![None; topology.zones.len()];
        for member in lacking.into_iter().chain(others) {
            let zone = topology.zone_of(member);
            let at = *at_zone[usize::from(zone)].get_or_insert(unreached.len());
            if at == unreached.len() {
                unreached.push((zone, Vec::new()));
            }
            unreached[at].1.push(member);
        }
        Search { steps: Vec::new(), unreached, is_unreached: self.in_vain.iter().map(|in_vain| !in_vain).collect() }
    }

    /// Steps on from a member by everything it could give up at `cost`; the last step, if one ends the chain.
    fn expand(&mut self, search: &mut Search, from: Reached, into: &mut Vec<Reached>, cost: Cost) -> Option<usize> {
        if cost == Cost::Nothing && self.draft.may_round_up(from.member) {
            let draft = &*self.draft;
            let step = |incoming| Step { by: By::Rounding, outgoing: from.member, incoming, before: from.by };
            let end = search.reach(draft, into, |_| true, |member| draft.may_round_down(member).then(|| step(member)));
            if end.is_some() {
                return end;
            }
        }
        for at in 0..self.held[usize::from(from.member)].len() {
            let partition = self.held[usize::from(from.member)][at];
            if search.unreached.is_empty() || self.looks > LOOKS_MAX {
                return None;
            }
            let could = cost == Cost::OneMove || self.changed[partition];
            if !could || !self.draft.row(partition).contains(&from.member) {
                continue;
            }
            let stayed = self.draft.prior_row(partition).contains(&from.member);
            if (cost == Cost::OneMove && !stayed) || (!self.crossing && search.touches(from.by, partition)) {
                continue;
            }
            let cost = if stayed { cost } else { Cost::OneMove };
            if let Some(end) = self.reach(search, partition, from.member, from.by, into, cost) {
                return Some(end);
            }
        }
        None
    }

    /// Reaches everyone who may stand in for `outgoing`: at [`Cost::Nothing`] only who stood there before.
    fn reach(
        &mut self,
        search: &mut Search,
        partition: usize,
        outgoing: u16,
        before: Option<usize>,
        into: &mut Vec<Reached>,
        cost: Cost,
    ) -> Option<usize> {
        let draft = &*self.draft;
        // Other chains have not been in this row.
        let row = if self.crossing { search.row(draft, before, partition) } else { draft.row(partition).into() };
        let step = |incoming| Step { by: By::Place { partition }, outgoing, incoming, before };
        self.looks += 1;
        match cost {
            Cost::Nothing => draft.prior_row(partition).iter().find_map(|&member| {
                let fits = |member| draft.fits(&row, outgoing, member);
                search.try_reach(draft, into, member, |member| fits(member).then(|| step(member)))
            }),
            Cost::OneMove => {
                self.looks += search.unreached.len() as u64;
                let zone_fits = |zone| draft.zone_fits(&row, outgoing, zone);
                search.reach(draft, into, zone_fits, |member| (!row.contains(&member)).then(|| step(member)))
            }
        }
    }

    /// First step first, as the steps of a chain that crosses itself are legal in that order.
    fn exchange(&mut self, chain: &[Step]) {
        for &Step { by, outgoing, incoming, .. } in chain.iter().rev() {
            match by {
                By::Rounding => self.draft.round_over(incoming, outgoing),
                By::Place { partition } => {
                    let row = self.draft.row(partition);
                    assert!(self.draft.fits(row, outgoing, incoming), "an exchange on a chain is legal");
                    self.draft.replace(partition, outgoing, incoming);
                    self.held[usize::from(incoming)].push(partition);
                    self.changed[partition] = true;
                }
            }
        }
    }
}

impl Search {
    /// Takes the steps that `step` has to members not reached yet in zones that fit; the first that ends the chain ends
    /// this too.
    fn reach(
        &mut self,
        draft: &Draft<'_>,
        into: &mut Vec<Reached>,
        zone_fits: impl Fn(u16) -> bool,
        step: impl Fn(u16) -> Option<Step>,
    ) -> Option<usize> {
        let mut unreached = std::mem::take(&mut self.unreached);
        let mut end = None;
        for (_, members) in unreached.iter_mut().filter(|(zone, _)| zone_fits(*zone)) {
            end = members.iter().find_map(|&member| self.try_reach(draft, into, member, &step));
            members.retain(|&member| self.is_unreached[usize::from(member)]);
            if end.is_some() {
                break;
            }
        }
        unreached.retain(|(_, members)| !members.is_empty());
        self.unreached = unreached;
        end
    }

    /// Takes the step to `member`, if there is one and it has not been reached yet; the step, if it ends the chain.
    fn try_reach(
        &mut self,
        draft: &Draft<'_>,
        into: &mut Vec<Reached>,
        member: u16,
        step: impl Fn(u16) -> Option<Step>,
    ) -> Option<usize> {
        let step = if self.may_reach(member) { step(member)? } else { return None };
        let by = self.steps.len();
        self.is_unreached[usize::from(member)] = false;
        self.steps.push(step);
        into.push(Reached { member, by: Some(by) });
        (draft.deficit(member) > 0).then_some(by)
    }

    fn may_reach(&self, member: u16) -> bool {
        self.is_unreached.get(usize::from(member)).is_some_and(|&unreached| unreached)
    }

    /// The steps up to `end`, last first.
    fn chain(&self, end: usize) -> Vec<Step> {
        self.back(Some(end)).collect()
    }

    /// The places of `partition` once the steps up to `before` are taken.
    fn row<'d>(&self, draft: &'d Draft<'_>, before: Option<usize>, partition: usize) -> Cow<'d, [u16]> {
        let mut row = Cow::Borrowed(draft.row(partition));
        // In any order: nobody comes twice on a chain, or goes twice, or comes where it stood.
        for step in self.back(before).filter(|step| step.by == By::Place { partition }) {
            if let Some(at) = row.iter().position(|&member| member == step.outgoing) {
                row.to_mut()[at] = step.incoming;
            }
        }
        row
    }

    fn touches(&self, by: Option<usize>, partition: usize) -> bool {
        self.back(by).any(|step| step.by == By::Place { partition })
    }

    fn back(&self, by: Option<usize>) -> impl Iterator<Item = Step> {
        std::iter::successors(by.map(|at| self.steps[at]), |step| step.before.map(|at| self.steps[at]))
    }
}
