//! Figures of the ring beside its goals, and beside the two usual ways to place: `cargo bench -p ring`.
//!
//! A plain program: it prints what it measures, and fails if a goal is missed by a pure number (balance, moves). Times
//! are only printed, for they depend on the machine.

#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

use std::{collections::BTreeMap, hint::black_box, time::Instant};

use ring::{
    ChunkKey, Epoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, Ring, Weight, Zone,
    plan::{Plan, plan},
    solver::{fair_shares, solve},
};

const REPLICAS: usize = 3;
const CLASSIC_VIRTUAL_NODES: u64 = 128;

fn main() {
    lookup();
    solving();
    large();
    let mut missed = 0;
    for nodes in [4, 10, 100, 1000] {
        missed += u32::from(!comparison(nodes));
    }
    zoned();
    rezoned();
    assert_eq!(missed, 0, "goals missed");
}

fn lookup() {
    let ring = fresh(&members(1000), 16);
    let keys: Vec<ChunkKey> = (0..1u64 << 16).map(|number| ChunkKey::of(&number.to_le_bytes())).collect();
    const ROUNDS: u32 = 200;
    let begin = Instant::now();
    let mut sum = 0u64;
    for _ in 0..ROUNDS {
        for key in &keys {
            let row = ring.row(ring.bits().partition_of(black_box(key)));
            sum += u64::from(row[0]) + u64::from(row[2]);
        }
    }
    black_box(sum);
    let each = begin.elapsed().as_nanos() as f64 / (f64::from(ROUNDS) * keys.len() as f64);
    println!("lookup, 65,536 partitions x 3, random keys: {each:.2} ns (goal: 5)");
}

/// Times of solving with 65,536 partitions, the most that any cluster up to 1,000 nodes needs.
fn solving() {
    println!("\nsolving 65,536 partitions x 3 replicas, ms (goal: 2,000 at 1,000 nodes)");
    println!("{:>6} {:>8} {:>8} {:>8} {:>8} {:>10}", "nodes", "fresh", "join", "leave", "reweight", "10 % join");
    for nodes in [3, 10, 100, 1000] {
        let before = members(nodes);
        let ring = fresh(&before, 16);
        let timed = |previous: Option<&Ring>, members: &[Member]| {
            let begin = Instant::now();
            black_box(solved(previous, members, 16));
            begin.elapsed().as_secs_f64() * 1e3
        };
        let leave =
            if nodes as usize > REPLICAS { format!("{:.1}", timed(Some(&ring), &before[1..])) } else { "-".into() };
        let mut reweighted = before.clone();
        reweighted[0].weight = weight(2);
        println!(
            "{nodes:>6} {:>8.1} {:>8.1} {leave:>8} {:>8.1} {:>10.1}",
            timed(None, &before),
            timed(Some(&ring), &members(nodes + 1)),
            timed(Some(&ring), &reweighted),
            timed(Some(&ring), &members(nodes + nodes.div_ceil(10))),
        );
    }
}

/// What a cluster of 10,000 nodes would ask of the solver.
fn large() {
    let (before, bits) = (members(10_000), 19);
    let begin = Instant::now();
    let ring = fresh(&before, bits);
    let first = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let joined = solved(Some(&ring), &members(10_001), bits);
    let plan = plan(&ring, &joined, |_| 1).expect("as many partitions");
    println!(
        "\n10,000 nodes, 2^{bits} partitions: {first:.2} s, a join {:.2} s, {} moves of at least {}",
        begin.elapsed().as_secs_f64(),
        plan.moves.len(),
        plan.moves_min
    );
}

/// One way of placing: who holds each of the points that are asked about.
struct Placement {
    name: &'static str,
    rows: Vec<Vec<NodeId>>,
}

/// Balance and moves of three ways of placing; whether ours met its goals.
fn comparison(nodes: u32) -> bool {
    // At least 196 replicas for a node on average, so that one more is about half a hundredth.
    let bits = if nodes == 1000 { 16 } else { 14 };
    let before = weighted(nodes);
    let ring = fresh(&before, bits);
    let mut reweighted = before.clone();
    reweighted[0].weight = weight(2 * before[0].weight.0.get());
    let mut joined = before.clone();
    joined.push(member(nodes, 100));
    let left = before[1..].to_vec();
    println!(
        "\n{nodes} nodes of weights 100 to 199, 2^{bits} points: max/fair, and moves / least moves after a change"
    );
    println!(
        "{:<24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "max/fair", "lead", "scatter", "join", "leave", "reweight"
    );
    let mut met = true;
    for place in [ours, classic, rendezvous] {
        let old = place(&before, bits, &ring);
        let mut ratios = Vec::new();
        for after in [&joined, &left, &reweighted] {
            let next = solved(Some(&ring), after, bits);
            let least = plan(&ring, &next, |_| 1).expect("as many partitions").moves_min;
            let new = place(after, bits, &next);
            ratios.push(moved(&old, &new) as f64 / least as f64);
        }
        let balance = max_to_fair(&old, &before, bits);
        let led = leads(&old, &before, bits);
        println!(
            "{:<24} {balance:>8.4} {led:>8.4} {:>8.1} {:>8.4} {:>8.4} {:>8.4}",
            old.name,
            scatter(&old),
            ratios[0],
            ratios[1],
            ratios[2]
        );
        if old.name == OURS {
            met = balance <= 1.01 && ratios.iter().all(|&ratio| ratio <= 1.02);
        }
    }
    met
}

const OURS: &str = "partitions, solved";

fn ours(_: &[Member], _: u8, ring: &Ring) -> Placement {
    Placement { name: OURS, rows: ring.bits().partitions().map(|at| ring.owners(at).collect()).collect() }
}

/// Consistent hashing with virtual nodes (Karger 1997, Dynamo's first strategy): as many points as weight asks for, and
/// from a key's point onwards the first three nodes that differ.
fn classic(members: &[Member], bits: u8, _: &Ring) -> Placement {
    let mut points: BTreeMap<u64, NodeId> = BTreeMap::new();
    for member in members {
        let count = u64::from(member.weight.0.get()) * CLASSIC_VIRTUAL_NODES / 150;
        points.extend((0..count).map(|number| (hash(&[member.id.as_bytes(), &number.to_le_bytes()]), member.id)));
    }
    let row = |key: u64| {
        let mut row: Vec<NodeId> = Vec::new();
        for (_, &node) in points.range(key..).chain(points.range(..key)) {
            if !row.contains(&node) {
                row.push(node);
            }
            if row.len() == REPLICAS {
                break;
            }
        }
        row
    };
    Placement { name: "128 virtual nodes", rows: keys(bits).map(row).collect() }
}

/// Highest random weight (Thaler and Ravishankar 1998), weighted by `-weight / ln(hash)`.
fn rendezvous(members: &[Member], bits: u8, _: &Ring) -> Placement {
    let row = |key: u64| {
        let score = |member: &Member| {
            let drawn = hash(&[member.id.as_bytes(), &key.to_le_bytes()]) >> 11;
            -f64::from(member.weight.0.get()) / ((drawn as f64 + 0.5) / (1u64 << 53) as f64).ln()
        };
        let mut scores: Vec<(f64, NodeId)> = members.iter().map(|member| (score(member), member.id)).collect();
        scores.select_nth_unstable_by(REPLICAS - 1, |one, other| other.0.total_cmp(&one.0));
        scores.truncate(REPLICAS);
        scores.sort_by(|one, other| other.0.total_cmp(&one.0));
        scores.into_iter().map(|(_, id)| id).collect()
    };
    Placement { name: "rendezvous hashing", rows: keys(bits).map(row).collect() }
}

/// Balance and moves where zones have a say.
fn zoned() {
    println!("\n120 nodes in zones, 2^14 partitions x 3: max/fair, moves / least moves");
    for zones in [2, 3, 4, 12] {
        let mut before = weighted(120);
        for (at, member) in before.iter_mut().enumerate() {
            member.zone = Zone::try_from(format!("rack-{}", at % zones)).ok();
        }
        let ring = fresh(&before, 14);
        let ratio = |after: &[Member]| {
            let plan = plan(&ring, &solved(Some(&ring), after, 14), |_| 1).expect("as many partitions");
            ratio_of(&plan)
        };
        let mut moved_away = before.clone();
        moved_away[0].zone = before[1].zone.clone();
        let unzoned = weighted(120);
        println!(
            "{zones:>3} zones: {:.4}, leave {:.4}, a node in another zone {:.4}, no zones any more {:.4}, zones made {:.4}",
            max_to_fair(&ours(&before, 14, &ring), &before, 14),
            ratio(&before[1..]),
            ratio(&moved_away),
            ratio(&unzoned),
            {
                let plain = fresh(&unzoned, 14);
                let plan = plan(&plain, &solved(Some(&plain), &before, 14), |_| 1).expect("as many partitions");
                ratio_of(&plan)
            },
        );
    }
}

/// Moves by the bound; one if nothing has to move and nothing does.
fn ratio_of(plan: &Plan) -> f64 {
    if plan.moves.is_empty() { 1.0 } else { plan.moves.len() as f64 / plan.moves_min as f64 }
}

/// The hardest change for the solver: a third of all rows has to be taken apart.
fn rezoned() {
    println!("\n1,000 nodes without zones, 65,536 partitions x 3, put into zones by lot");
    let before = weighted(1000);
    let ring = fresh(&before, 16);
    for zones in [2, 3, 10] {
        let mut after = before.clone();
        for member in &mut after {
            member.zone = Zone::try_from(format!("rack-{}", hash(&[member.id.as_bytes()]) % zones)).ok();
        }
        let begin = Instant::now();
        let next = solved(Some(&ring), &after, 16);
        let seconds = begin.elapsed().as_secs_f64();
        let plan = plan(&ring, &next, |_| 1).expect("as many partitions");
        println!("{zones:>3} zones: {seconds:.2} s, {} moves of at least {}", plan.moves.len(), plan.moves_min);
    }
}

fn moved(old: &Placement, new: &Placement) -> usize {
    let gained = |(old, new): (&Vec<NodeId>, &Vec<NodeId>)| new.iter().filter(|node| !old.contains(node)).count();
    old.rows.iter().zip(&new.rows).map(gained).sum()
}

fn max_to_fair(placement: &Placement, members: &[Member], bits: u8) -> f64 {
    let shares = fair_shares(members, replicas(), partition_bits(bits)).expect("enough members");
    let loads = count(placement.rows.iter().flatten());
    let ratio =
        |(id, share): &(NodeId, ring::solver::FairShare)| loads.get(id).map_or(0.0, |&load| load / share.to_f64());
    shares.iter().map(ratio).fold(0.0, f64::max)
}

fn leads(placement: &Placement, members: &[Member], bits: u8) -> f64 {
    let shares = fair_shares(members, replicas(), partition_bits(bits)).expect("enough members");
    let led = count(placement.rows.iter().filter_map(|row| row.first()));
    let ratio = |(id, share): &(NodeId, ring::solver::FairShare)| {
        led.get(id).map_or(0.0, |&led| led * REPLICAS as f64 / share.to_f64())
    };
    shares.iter().map(ratio).fold(0.0, f64::max)
}

/// With how many others a node shares partitions, on average: how many can help when it is lost.
fn scatter(placement: &Placement) -> f64 {
    let mut others: BTreeMap<NodeId, std::collections::BTreeSet<NodeId>> = BTreeMap::new();
    for row in &placement.rows {
        for node in row {
            others.entry(*node).or_default().extend(row.iter().filter(|other| *other != node));
        }
    }
    others.values().map(|set| set.len() as f64).sum::<f64>() / others.len() as f64
}

fn count<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> BTreeMap<NodeId, f64> {
    let mut counts = BTreeMap::new();
    nodes.for_each(|node| *counts.entry(*node).or_insert(0.0) += 1.0);
    counts
}

fn fresh(members: &[Member], bits: u8) -> Ring {
    solved(None, members, bits)
}

fn solved(previous: Option<&Ring>, members: &[Member], bits: u8) -> Ring {
    let epoch = previous.map_or(Epoch(1), |ring| ring.epoch().next());
    solve(previous, members, replicas(), partition_bits(bits), epoch).expect("enough members, all different")
}

fn members(count: u32) -> Vec<Member> {
    (0..count).map(|number| member(number, 1)).collect()
}

fn weighted(count: u32) -> Vec<Member> {
    (0..count).map(|number| member(number, 100 + number * 37 % 100)).collect()
}

fn member(number: u32, share: u32) -> Member {
    let digest = ChunkKey::of(&number.to_le_bytes());
    let id = digest.as_bytes().first_chunk().copied().expect("32 bytes begin with 16");
    Member { id: NodeId::from_bytes(id), zone: None, weight: weight(share) }
}

fn weight(share: u32) -> Weight {
    Weight(share.try_into().expect("weights here are above zero"))
}

fn replicas() -> ReplicaCount {
    ReplicaCount::new(REPLICAS as u8).expect("three replicas are allowed")
}

fn partition_bits(bits: u8) -> PartitionBits {
    PartitionBits::new(bits).expect("at most twenty bits here")
}

/// One key for each point.
fn keys(bits: u8) -> impl Iterator<Item = u64> {
    partition_bits(bits).partitions().map(|Partition(at)| hash(&[&at.to_le_bytes()]))
}

fn hash(parts: &[&[u8]]) -> u64 {
    let key = ChunkKey::of(&parts.concat());
    u64::from_le_bytes(key.as_bytes().first_chunk().copied().expect("32 bytes begin with 8"))
}
