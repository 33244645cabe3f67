//! `dfs ring plan`: what moves, or would move, before anyone moves it.

mod wish;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::Args;
use fuse_client::Cluster;
use ring::{
    NodeId, Partition,
    plan::{Move, Plan, plan},
    solver::SolveError,
};
use serde_json::{Value, json};
use wire::cluster::{ClusterMap, ClusterStatus};

use self::wish::{Joining, Wish, parse_joining};
use super::{describe, ring_of};
use crate::cli::{
    doctor::{diagnosis::Facts, facts, redundancy::lowest_without},
    failure::{Failure, Line},
    health::short_ids,
    invocation::Invocation,
    member::find_member,
    moving::time_left,
    text::{
        number::{counted, long_size, short_size, span},
        table::{Align, Table},
    },
};

/// Arguments of `dfs ring plan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Bytes are an estimate: what the nodes hold, spread evenly over the partitions.
So is the time, at the pace of the moves that are under way: without any, no
pace is known. A drained node gives what it holds; what a removed one held is
copied from the other owners.

Examples:
  dfs ring plan                            what is moving now
  dfs ring plan --drain 10.0.0.3:7400      what draining that node would move
  dfs ring plan --join 2TB,rack-4          what a new node of that size would take
  dfs ring plan --join 4TB --remove 7f3a   one comes, another is lost")]
pub(crate) struct PlanArguments {
    /// As if this node were drained or out; may be given several times
    #[arg(long, value_name = "NODE")]
    drain: Vec<String>,
    /// As if this node were removed with what it holds; may be given several times
    #[arg(long, value_name = "NODE")]
    remove: Vec<String>,
    /// As if a node of this capacity, in this zone, joined; may be given several times
    #[arg(long, value_name = "CAPACITY[,ZONE]", value_parser = parse_joining)]
    join: Vec<Joining>,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// What is to move.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Outlook {
    pub(crate) plan: Plan,
    /// Sure copies of the partition that has fewest, until the moves are done.
    pub(crate) lowest: u32,
    /// At the pace so far, if one is known.
    time: Option<Duration>,
}

/// Shows a plan.
pub(crate) async fn run(invocation: &Invocation, arguments: &PlanArguments) -> Result<(), Failure> {
    let (facts, wish) = invocation.with_cluster(async |cluster| ask(cluster, arguments).await).await?;
    let outlook = look_ahead(&facts, &wish)?;
    if arguments.json {
        return invocation.screen.print_json(&outlook_json(&wish, &outlook));
    }
    invocation.screen.print(&sentences(&facts.map, &wish, &outlook))
}

async fn ask(cluster: &Cluster, arguments: &PlanArguments) -> Result<(Facts, Wish), Failure> {
    let (mut drained, mut removed) = (BTreeSet::new(), BTreeSet::new());
    for (names, ids) in [(&arguments.drain, &mut drained), (&arguments.remove, &mut removed)] {
        for name in names {
            ids.insert(find_member("plan for", cluster, name).await?.id);
        }
    }
    let failed = |error| Line::new("cannot ask for the status").because(&error).failed();
    let facts = facts(cluster).await.map_err(failed)?;
    let wish = Wish::new(&facts.map, drained, removed, &arguments.join);
    Ok((facts, wish))
}

/// What is moving now, if anything is.
pub(crate) fn under_way(facts: &Facts) -> Option<Outlook> {
    facts.moves.transition.as_ref()?;
    let outlook = look_ahead(facts, &Wish::default()).ok()?;
    (!outlook.plan.moves.is_empty()).then_some(outlook)
}

/// From the rows in force to the ring that is coming, or to the one that was wished for.
fn look_ahead(facts: &Facts, wish: &Wish) -> Result<Outlook, Failure> {
    let Facts { map, status, health, .. } = facts;
    let ring = ring_of(map)?;
    let failed = |why: String| Line::new("cannot plan").why(why).failed();
    let base = match &map.transition {
        None => ring.clone(),
        Some(transition) => transition.merged(ring, transition.epoch()).map_err(|error| failed(error.to_string()))?,
    };
    let target = map.placement().map_or(ring, |placement| placement.target());
    let next = wish.ring(map, &base, target).map_err(|error| {
        let line = Line::new("cannot plan").because(&error);
        let is_few = matches!(error, SolveError::TooFewMembers { .. });
        if is_few {
            line.advice("plan with --join CAPACITY as well, for a node that joins").failed()
        } else {
            line.failed()
        }
    })?;
    let bytes = bytes_of_partition(status, map);
    let plan = plan(&base, &next, |_: Partition| bytes).map_err(|error| failed(error.to_string()))?;
    let lowest = lowest_without(map, status, &wish.removed).unwrap_or(0);
    let replicas = u32::try_from(plan.moves.len()).unwrap_or(u32::MAX);
    let moving = health.as_ref().and_then(|health| health.moving);
    let time = moving.and_then(|moving| time_left(moving, replicas));
    Ok(Outlook { plan, lowest, time })
}

/// What a replica of a partition weighs: all that is stored, spread evenly.
fn bytes_of_partition(status: &ClusterStatus, map: &ClusterMap) -> u64 {
    let Some(ring) = &map.ring else { return 0 };
    let used: u64 = status.nodes.iter().filter_map(|node| node.store.as_ref()).map(|store| store.used).sum();
    let replicas = ring.bits().count() * ring.replicas().count();
    used / u64::try_from(replicas).expect("a ring has at most 2^20 partitions").max(1)
}

/// Who gives, if somebody does, and who gets.
type Pair = (Option<NodeId>, NodeId);

/// Moves by who gives and who gets: partitions and bytes.
fn pairs(plan: &Plan) -> BTreeMap<Pair, (u64, u64)> {
    let mut pairs = BTreeMap::new();
    for Move { from, to, bytes, .. } in &plan.moves {
        let (partitions, sum): &mut (u64, u64) = pairs.entry((*from, *to)).or_default();
        *partitions += 1;
        *sum += bytes;
    }
    pairs
}

fn sentences(map: &ClusterMap, wish: &Wish, Outlook { plan, lowest, time }: &Outlook) -> String {
    let fewest = counted(u64::from(*lowest), "sure copy", "sure copies");
    if plan.moves.is_empty() {
        return format!("Nothing moves. The partition that has fewest has {fewest}.\n");
    }
    let moves = u64::try_from(plan.moves.len()).unwrap_or(u64::MAX);
    let mut text = format!(
        "{}, about {}; at least {} of each partition stay where they are meanwhile.\n",
        counted(moves, "replica of a partition moves", "replicas of partitions move"),
        long_size(plan.bytes()),
        plan.staying_min,
    );
    let until =
        if wish.removed.is_empty() { "on the way" } else { "until the removed ones are copied from the other owners" };
    text.push_str(&format!("The partition that has fewest has {fewest} {until}.\n"));
    if *lowest == 0 {
        text.push_str("With none left, chunks that only the removed nodes hold are lost.\n");
    }
    let time = time
        .map_or("How long that takes is not known: nothing moves now that shows the pace.".to_owned(), |time| {
            format!("At the pace of the moves under way it takes about {}.", span(time))
        });
    text.push_str(&format!("{time}\n\n"));
    text.push_str(&table(map, wish, pairs(plan)).text());
    text
}

/// The table of what is moving, with its first rows alone if there are more; and how many these are.
pub(crate) fn short_table(map: &ClusterMap, plan: &Plan, rows_max: usize) -> (Table, usize) {
    let pairs = pairs(plan);
    let more = pairs.len().saturating_sub(rows_max);
    (table(map, &Wish::default(), pairs.into_iter().take(rows_max)), more)
}

fn table(map: &ClusterMap, wish: &Wish, pairs: impl IntoIterator<Item = (Pair, (u64, u64))>) -> Table {
    let ids: Vec<NodeId> = map.nodes.iter().map(|row| row.id).collect();
    let short = short_ids(&ids);
    let name = |node: NodeId| match wish.newcomer(node) {
        Some(newcomer) => newcomer,
        None if wish.removed.contains(&node) => format!("{} (removed)", short(node)),
        None if map.node(node).is_some() => short(node),
        None => describe(map, node),
    };
    let mut table = Table::new(&[
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("PARTITIONS", Align::Right),
        ("BYTES", Align::Right),
    ]);
    for ((from, to), (partitions, bytes)) in pairs {
        let from = from.map_or("nobody".to_owned(), name);
        table.push(vec![from, name(to), partitions.to_string(), short_size(bytes)]);
    }
    table
}

fn outlook_json(wish: &Wish, Outlook { plan, lowest, time }: &Outlook) -> Value {
    json!({
        "replicas": plan.moves.len(),
        "bytes": plan.bytes(),
        "staying_min": plan.staying_min,
        "lowest": lowest,
        "time_left_s": time.map(|time| time.as_secs()),
        "moves": pairs_json(wish, plan),
    })
}

/// What is moving, by who gives and who gets.
pub(crate) fn moves_json(plan: &Plan) -> Value {
    pairs_json(&Wish::default(), plan)
}

fn pairs_json(wish: &Wish, plan: &Plan) -> Value {
    let name = |node: NodeId| wish.newcomer(node).unwrap_or_else(|| node.to_string());
    pairs(plan)
        .into_iter()
        .map(|((from, to), (partitions, bytes))| {
            json!({
                "from": from.map(name),
                "removed": from.is_some_and(|from| wish.removed.contains(&from)),
                "to": name(to),
                "partitions": partitions,
                "bytes": bytes,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
