//! `dfs ring plan`: what moves, or would move, before anyone moves it.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use fuse_client::Cluster;
use ring::{
    Epoch, Member, NodeId, Partition, Ring,
    plan::{Move, Plan, plan},
    solver,
};
use serde_json::{Value, json};
use wire::cluster::{ClusterMap, ClusterStatus};

use super::{describe, ring_of};
use crate::cli::{
    failure::{Failure, Line},
    health::short_ids,
    invocation::Invocation,
    member::find_member,
    text::{
        number::{counted, long_size, short_size},
        table::{Align, Table},
    },
};

/// Arguments of `dfs ring plan`.
#[derive(Args, Debug)]
#[command(after_help = "\
Bytes are an estimate: what the nodes hold, spread evenly over the partitions.

Examples:
  dfs ring plan                        what is moving now
  dfs ring plan --drain 10.0.0.3:7400  what draining that node would move")]
pub(crate) struct PlanArguments {
    /// As if this node were drained or out; may be given several times
    #[arg(long, value_name = "NODE")]
    drain: Vec<String>,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Shows a plan.
pub(crate) async fn run(invocation: &Invocation, arguments: &PlanArguments) -> Result<(), Failure> {
    let (map, status, leaving) = invocation.with_cluster(async |cluster| facts(cluster, arguments).await).await?;
    let plan = plan_for(&map, &leaving, bytes_of_partition(&status, &map))?;
    if arguments.json {
        return invocation.screen.print_json(&plan_json(&plan));
    }
    invocation.screen.print(&sentences(&map, &plan))
}

async fn facts(
    cluster: &Cluster,
    arguments: &PlanArguments,
) -> Result<(ClusterMap, ClusterStatus, BTreeSet<NodeId>), Failure> {
    let failed = |error| Line::new("cannot ask for the status").because(&error).failed();
    let status = cluster.status().await.map_err(failed)?;
    let mut leaving = BTreeSet::new();
    for node in &arguments.drain {
        leaving.insert(find_member("plan for", cluster, node).await?.id);
    }
    let map = super::newest_map(cluster).await?;
    Ok((ClusterMap::clone(&map), status, leaving))
}

/// What a replica of a partition weighs: all that is stored, spread evenly.
fn bytes_of_partition(status: &ClusterStatus, map: &ClusterMap) -> u64 {
    let Some(ring) = &map.ring else { return 0 };
    let used: u64 = status.nodes.iter().filter_map(|node| node.store.as_ref()).map(|store| store.used).sum();
    let replicas = ring.bits().count() * ring.replicas().count();
    used / u64::try_from(replicas).expect("a ring has at most 2^20 partitions").max(1)
}

/// From the rows in force to the ring that is coming, or to the one without these nodes.
fn plan_for(map: &ClusterMap, leaving: &BTreeSet<NodeId>, bytes: u64) -> Result<Plan, Failure> {
    let ring = ring_of(map)?;
    let failed = |why: String| Line::new("cannot plan").why(why).failed();
    let base = match &map.transition {
        None => ring.clone(),
        Some(transition) => transition.merged(ring, transition.epoch()).map_err(|error| failed(error.to_string()))?,
    };
    let target = map.placement().map_or(ring, |placement| placement.target());
    let next = if leaving.is_empty() { target.clone() } else { without(map, &base, target, leaving, &failed)? };
    plan(&base, &next, |_: Partition| bytes).map_err(|error| failed(error.to_string()))
}

fn without(
    map: &ClusterMap,
    base: &Ring,
    target: &Ring,
    leaving: &BTreeSet<NodeId>,
    failed: &impl Fn(String) -> Failure,
) -> Result<Ring, Failure> {
    let members: Vec<Member> =
        target.members().iter().filter(|member| !leaving.contains(&member.id)).cloned().collect();
    let epoch = Epoch(map.epoch.0.max(base.epoch().0) + 1);
    solver::solve(Some(base), &members, base.replicas(), base.bits(), epoch).map_err(|error| failed(error.to_string()))
}

/// Moves by who gives and who gets: partitions and bytes.
fn pairs(plan: &Plan) -> BTreeMap<(Option<NodeId>, NodeId), (u64, u64)> {
    let mut pairs = BTreeMap::new();
    for Move { from, to, bytes, .. } in &plan.moves {
        let (partitions, sum): &mut (u64, u64) = pairs.entry((*from, *to)).or_default();
        *partitions += 1;
        *sum += bytes;
    }
    pairs
}

fn sentences(map: &ClusterMap, plan: &Plan) -> String {
    if plan.moves.is_empty() {
        return "Nothing moves.\n".to_owned();
    }
    let moves = u64::try_from(plan.moves.len()).unwrap_or(u64::MAX);
    let mut text = format!(
        "{}, about {}; at least {} of each partition stay where they are meanwhile.\n\n",
        counted(moves, "replica of a partition moves", "replicas of partitions move"),
        long_size(plan.bytes()),
        plan.staying_min,
    );
    let ids: Vec<NodeId> = map.nodes.iter().map(|row| row.id).collect();
    let name = short_ids(&ids);
    let mut table = Table::new(&[
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("PARTITIONS", Align::Right),
        ("BYTES", Align::Right),
    ]);
    for ((from, to), (partitions, bytes)) in pairs(plan) {
        let from =
            from.map_or(
                "nobody".to_owned(),
                |from| if map.node(from).is_some() { name(from) } else { describe(map, from) },
            );
        table.push(vec![from, name(to), partitions.to_string(), short_size(bytes)]);
    }
    text.push_str(&table.text());
    text
}

fn plan_json(plan: &Plan) -> Value {
    let moves: Vec<Value> = pairs(plan)
        .into_iter()
        .map(|((from, to), (partitions, bytes))| {
            json!({
                "from": from.map(|from| from.to_string()),
                "to": to.to_string(),
                "partitions": partitions,
                "bytes": bytes,
            })
        })
        .collect();
    json!({ "replicas": plan.moves.len(), "bytes": plan.bytes(), "staying_min": plan.staying_min, "moves": moves })
}
