//! What follows from the text of the promises alone, by trying everything. Shares no code with the solver.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{Member, NodeId, Partition, Ring, Zone};

/// Every set of `count` members that spreads over the zones as evenly as any.
pub(super) fn legal_rows(members: &[Member], count: usize) -> Vec<BTreeSet<NodeId>> {
    let mut rows: Vec<(usize, BTreeSet<NodeId>)> = Vec::new();
    for chosen in 0u32..1 << members.len() {
        if chosen.count_ones() as usize == count {
            let row: Vec<&Member> =
                members.iter().enumerate().filter(|(at, _)| chosen & 1 << at != 0).map(|(_, member)| member).collect();
            rows.push((unevenness(&row), row.iter().map(|member| member.id).collect()));
        }
    }
    let least = rows.iter().map(|(unevenness, _)| *unevenness).min().unwrap();
    rows.into_iter().filter(|(unevenness, _)| *unevenness == least).map(|(_, row)| row).collect()
}

/// Pairs of replicas that share a zone, which is least when replicas are spread most evenly.
pub(super) fn unevenness(row: &[&Member]) -> usize {
    let shares = |a: &Member, b: &Member| a.zone.is_some() && a.zone == b.zone;
    row.iter().map(|a| row.iter().filter(|b| a.id != b.id && shares(a, b)).count()).sum()
}

/// Fair shares in floating point: the level is searched, and within each zone once more.
pub(super) fn shares(members: &[Member], count: usize, partitions: usize) -> BTreeMap<NodeId, f64> {
    let zones = by_zone(members);
    let level = level(&zones, count);
    let partitions = partitions as f64;
    let node = |level: f64, member: &Member| partitions.min(level * f64::from(member.weight.0.get()));
    let sum = |level: f64, zone: &[&Member]| zone.iter().map(|member| node(level, member)).sum::<f64>();
    let zone = |at: f64, zone: &[&Member]| {
        let (floor, ceiling) = (zone.len().min(level - 1) as f64, zone.len().min(level) as f64);
        sum(at, zone).clamp(floor * partitions, ceiling * partitions)
    };
    let at = bisect(partitions, |at| zones.values().map(|members| zone(at, members)).sum(), count as f64 * partitions);
    let mut shares = BTreeMap::new();
    for members in zones.values() {
        let within = bisect(partitions, |level| sum(level, members), zone(at, members));
        shares.extend(members.iter().map(|member| (member.id, node(within, member))));
    }
    shares
}

fn bisect(high: f64, rising: impl Fn(f64) -> f64, goal: f64) -> f64 {
    let (mut low, mut high) = (0.0, high);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if rising(middle) <= goal { low = middle } else { high = middle }
    }
    if rising(high) <= goal { high } else { low }
}

/// The fewest moves from `previous` to any assignment of legal rows in which every load is a share rounded.
pub(super) fn fewest_moves(previous: &Ring, members: &[Member], count: usize, partitions: usize) -> Option<usize> {
    let rows = legal_rows(members, count);
    let shares = shares(members, count, partitions);
    let most: BTreeMap<NodeId, usize> =
        shares.iter().map(|(&id, share)| (id, (share - 1e-6).ceil() as usize)).collect();
    let mut reached: BTreeMap<BTreeMap<NodeId, usize>, usize> = BTreeMap::from([(BTreeMap::new(), 0)]);
    for partition in 0..partitions {
        let split = partitions / previous.bits().count();
        let before: BTreeSet<NodeId> = previous.owners(Partition((partition / split) as u32)).collect();
        let mut further = BTreeMap::new();
        for (loads, moves) in reached {
            for row in &rows {
                let mut loads = loads.clone();
                row.iter().for_each(|&id| *loads.entry(id).or_default() += 1);
                if loads.iter().all(|(id, load)| *load <= most[id]) {
                    let moves = moves + row.difference(&before).count();
                    let least = further.entry(loads).or_insert(moves);
                    *least = moves.min(*least);
                }
            }
        }
        reached = further;
    }
    let fair = |loads: &BTreeMap<NodeId, usize>| {
        shares.iter().all(|(id, share)| loads.get(id).copied().unwrap_or(0) >= (share + 1e-6).floor() as usize)
    };
    reached.into_iter().filter(|(loads, _)| fair(loads)).map(|(_, moves)| moves).min()
}

/// The same for rings too large to try everything: a minimum-cost flow from partitions over zones to nodes, in which a
/// replica that stays costs nothing and one that moves costs one. Augmented one by one along shortest paths.
pub(super) fn cheapest_flow(previous: &Ring, members: &[Member], count: usize, partitions: usize) -> usize {
    const FULL_FIRST: i64 = 1 << 20;
    let shares = shares(members, count, partitions);
    let zones = by_zone(members);
    let level = level(&zones, count);
    let extras = count - zones.values().map(|zone| zone.len().min(level - 1)).sum::<usize>();
    let (source, sink) = (0, 1);
    let mut vertices = 2..;
    let mut vertex = || vertices.next().unwrap();
    let mut network = Network::default();
    let mut floors = 0;
    let nodes: BTreeMap<NodeId, usize> = members.iter().map(|member| (member.id, vertex())).collect();
    for (id, &node) in &nodes {
        let (floor, ceiling) = ((shares[id] + 1e-6).floor() as i64, (shares[id] - 1e-6).ceil() as i64);
        network.edge(node, sink, floor, -FULL_FIRST);
        network.edge(node, sink, ceiling - floor, 0);
        floors += floor;
    }
    for partition in 0..partitions {
        let split = partitions / previous.bits().count();
        let before: BTreeSet<NodeId> = previous.owners(Partition((partition / split) as u32)).collect();
        let (row, extra) = (vertex(), vertex());
        network.edge(source, row, count as i64, 0);
        network.edge(row, extra, extras as i64, 0);
        for zone in zones.values() {
            let (floor, ceiling) = (zone.len().min(level - 1), zone.len().min(level));
            let here = vertex();
            network.edge(row, here, floor as i64, 0);
            network.edge(extra, here, (ceiling - floor) as i64, 0);
            for member in zone {
                network.edge(here, nodes[&member.id], 1, i64::from(!before.contains(&member.id)));
            }
        }
    }
    let (flow, cost) = network.saturate(source, sink);
    assert_eq!(flow as usize, count * partitions, "every partition gets its replicas");
    (cost + FULL_FIRST * floors) as usize
}

/// Edges in pairs, there and back: head, capacity left, cost.
#[derive(Default)]
struct Network {
    edges: Vec<(usize, i64, i64)>,
    out: Vec<Vec<usize>>,
}

impl Network {
    fn edge(&mut self, tail: usize, head: usize, capacity: i64, cost: i64) {
        self.out.resize(self.out.len().max(tail.max(head) + 1), Vec::new());
        for (tail, edge) in [(tail, (head, capacity, cost)), (head, (tail, 0, -cost))] {
            self.out[tail].push(self.edges.len());
            self.edges.push(edge);
        }
    }

    fn saturate(&mut self, source: usize, sink: usize) -> (i64, i64) {
        let (mut flow, mut total) = (0, 0);
        while let Some((cost, path)) = self.shortest(source, sink) {
            for edge in path {
                self.edges[edge].1 -= 1;
                self.edges[edge ^ 1].1 += 1;
            }
            flow += 1;
            total += cost;
        }
        (flow, total)
    }

    /// Bellman and Ford's, with a queue.
    fn shortest(&self, source: usize, sink: usize) -> Option<(i64, Vec<usize>)> {
        let mut reached: Vec<Option<(i64, usize)>> = vec![None; self.out.len()];
        reached[source] = Some((0, usize::MAX));
        let mut queue = VecDeque::from([source]);
        let mut queued = vec![false; self.out.len()];
        while let Some(at) = queue.pop_front() {
            queued[at] = false;
            let (cost, _) = reached[at].unwrap();
            for &edge in &self.out[at] {
                let (head, capacity, more) = self.edges[edge];
                if capacity > 0 && reached[head].is_none_or(|(known, _)| cost + more < known) {
                    reached[head] = Some((cost + more, edge));
                    if !std::mem::replace(&mut queued[head], true) {
                        queue.push_back(head);
                    }
                }
            }
        }
        let (cost, last) = reached[sink]?;
        let before =
            |&edge: &usize| Some(self.edges[edge ^ 1].0).filter(|&at| at != source).map(|at| reached[at].unwrap().1);
        Some((cost, std::iter::successors(Some(last), before).collect()))
    }
}

/// Members by zone; one without a zone is a zone of its own.
fn by_zone(members: &[Member]) -> BTreeMap<(Option<&Zone>, Option<NodeId>), Vec<&Member>> {
    let mut zones: BTreeMap<_, Vec<&Member>> = BTreeMap::new();
    for member in members {
        let own = member.zone.is_none().then_some(member.id);
        zones.entry((member.zone.as_ref(), own)).or_default().push(member);
    }
    zones
}

/// The most replicas of a partition that a zone must hold when all hold as few as they can.
fn level(zones: &BTreeMap<(Option<&Zone>, Option<NodeId>), Vec<&Member>>, count: usize) -> usize {
    (1..).find(|&level| zones.values().map(|zone| zone.len().min(level)).sum::<usize>() >= count).unwrap()
}
