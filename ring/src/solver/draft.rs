//! An assignment under construction, beside the one it started from. Pure.
//!
//! # Invariants
//! - Every row is admitted by the topology, and names nobody twice; places may be vacant.
//! - `loads` counts the places of each member.

use crate::{
    Ring,
    solver::{
        shares::Quotas,
        topology::{Topology, VACANT},
    },
};

/// Rows with vacant places, and what stood in them before.
pub(super) struct Draft<'a> {
    pub(super) topology: &'a Topology,
    quotas: Quotas,
    loads: Vec<u32>,
    rows: Vec<u16>,
    prior: Prior,
}

/// The previous assignment, in this topology's indices and partitions: [`VACANT`] where a member has gone.
pub(super) struct Prior {
    rows: Vec<u16>,
    width: usize,
    shift: u32,
}

impl Prior {
    /// The rows of `previous`. A partition that has been split since takes over the row of the one it came from.
    pub(super) fn of(previous: &Ring, topology: &Topology) -> Self {
        let index: Vec<u16> =
            previous.members().iter().map(|member| topology.index_of(member.id).unwrap_or(VACANT)).collect();
        let partitions = previous.bits().partitions();
        Self {
            rows: partitions.flat_map(|at| previous.row(at)).map(|&at| index[usize::from(at)]).collect(),
            width: previous.replicas().count(),
            shift: u32::from(topology.bits.bits() - previous.bits().bits()),
        }
    }

    /// Who of today's members held `partition`, in order of preference, with [`VACANT`] for those who have gone.
    pub(super) fn row(&self, partition: usize) -> &[u16] {
        let start = (partition >> self.shift) * self.width;
        &self.rows[start..start + self.width]
    }

    /// How many partitions of today each member held.
    pub(super) fn loads(&self, topology: &Topology) -> Vec<u32> {
        let mut loads = vec![0; topology.members.len()];
        for &member in self.rows.iter().filter(|&&member| member != VACANT) {
            loads[usize::from(member)] += 1 << self.shift;
        }
        loads
    }
}

impl<'a> Draft<'a> {
    /// What can stay of `prior`: of rows that are no longer admitted, those who hold most above their quota go first.
    pub(super) fn keeping(topology: &'a Topology, prior: Prior, quotas: Quotas) -> Self {
        let width = topology.replicas.count();
        let mut loads = prior.loads(topology);
        let mut rows = Vec::with_capacity(topology.bits.count() * width);
        for partition in 0..topology.bits.count() {
            let mut row: Vec<u16> = prior.row(partition).iter().copied().filter(|&at| at != VACANT).collect();
            for _ in 0..prior.width {
                let surplus = topology.surplus(&row);
                let excess =
                    |member: u16| i64::from(loads[usize::from(member)]) - i64::from(quotas.counts[usize::from(member)]);
                // The last of equals, so that the first of the row stays.
                let Some(goes) = surplus.into_iter().max_by_key(|&member| excess(member)) else { break };
                row.retain(|&member| member != goes);
                loads[usize::from(goes)] -= 1;
            }
            row.resize(width, VACANT);
            rows.extend(row);
        }
        Self { topology, quotas, loads, rows, prior }
    }

    /// The places of `partition`.
    pub(super) fn row(&self, partition: usize) -> &[u16] {
        let width = self.topology.replicas.count();
        &self.rows[partition * width..(partition + 1) * width]
    }

    /// Who held `partition` before.
    pub(super) fn prior_row(&self, partition: usize) -> &[u16] {
        self.prior.row(partition)
    }

    /// Replicas that `member` should hold more than it does.
    pub(super) fn deficit(&self, member: u16) -> u32 {
        self.quotas.counts[usize::from(member)].saturating_sub(self.loads[usize::from(member)])
    }

    /// Replicas that `member` should hold less than it does.
    pub(super) fn excess(&self, member: u16) -> u32 {
        self.loads[usize::from(member)].saturating_sub(self.quotas.counts[usize::from(member)])
    }

    /// Whether the quota of `member` is its share rounded down, and could be rounded up.
    pub(super) fn may_round_up(&self, member: u16) -> bool {
        self.quotas.counts[usize::from(member)] < self.quotas.ceilings[usize::from(member)]
    }

    /// Whether the quota of `member` is its share rounded up, and could be rounded down.
    pub(super) fn may_round_down(&self, member: u16) -> bool {
        self.quotas.counts[usize::from(member)] > self.quotas.floors[usize::from(member)]
    }

    /// Rounds the quota of `down` down and that of `up` up.
    pub(super) fn round_over(&mut self, down: u16, up: u16) {
        assert!(self.may_round_down(down) && self.may_round_up(up), "a quota is its share rounded down or up");
        self.quotas.counts[usize::from(down)] -= 1;
        self.quotas.counts[usize::from(up)] += 1;
    }

    /// Whether `incoming` may stand in `row` where `outgoing` stands now; `outgoing` may be [`VACANT`].
    pub(super) fn fits(&self, row: &[u16], outgoing: u16, incoming: u16) -> bool {
        !row.contains(&incoming) && self.zone_fits(row, outgoing, self.topology.zone_of(incoming))
    }

    /// Whether someone of `zone` may stand in `row` where `outgoing` stands now, but for who stands there already.
    pub(super) fn zone_fits(&self, row: &[u16], outgoing: u16, zone: u16) -> bool {
        let apart = |&other: &u16| other == outgoing || other == VACANT || self.topology.zone_of(other) != zone;
        if self.topology.zones_suffice() {
            return row.iter().all(apart);
        }
        let stay = |&other: &u16| other != outgoing && other != VACANT;
        self.topology.admits_with(row.iter().copied().filter(stay), zone)
    }

    /// Lets `incoming` stand where `outgoing` stood; `outgoing` may be [`VACANT`].
    pub(super) fn replace(&mut self, partition: usize, outgoing: u16, incoming: u16) {
        let width = self.topology.replicas.count();
        let row = &mut self.rows[partition * width..(partition + 1) * width];
        let place = row.iter_mut().find(|member| **member == outgoing).expect("who goes out stands in the row");
        *place = incoming;
        self.loads[usize::from(incoming)] += 1;
        if outgoing != VACANT {
            self.loads[usize::from(outgoing)] -= 1;
        }
    }

    /// Every partition, by index.
    pub(super) fn partitions(&self) -> std::ops::Range<usize> {
        0..self.topology.bits.count()
    }

    /// The rows, once no place is vacant and every quota met: those who stay in their old order, then those who came.
    pub(super) fn into_rows(self) -> Vec<u16> {
        assert_eq!(self.loads, self.quotas.counts, "a finished draft meets every quota");
        let mut rows = Vec::with_capacity(self.rows.len());
        for partition in self.partitions() {
            let (row, prior) = (self.row(partition), self.prior_row(partition));
            rows.extend(prior.iter().filter(|member| row.contains(member)));
            rows.extend(row.iter().filter(|member| !prior.contains(member)));
        }
        rows
    }
}
