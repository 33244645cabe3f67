//! `dfs nodes`: the machines of the cluster.

use clap::Args;
use ring::NodeId;
use serde_json::{Value, json};
use wire::cluster::{ClusterStatus, NodeState, NodeStatus, RaftRole};

use super::{
    failure::{Failure, Line},
    health::short_ids,
    invocation::Invocation,
    text::{
        number::short_size,
        table::{Align, Table},
    },
};

/// Arguments of `dfs nodes`.
#[derive(Args, Debug)]
#[command(after_help = "\
STATE is up, catching up (fetching what it missed), draining (giving what it
holds to others), down, or out (down for so long that others hold its share).
ROLE is its part in the namespace: leader, voter, learner. PARTITIONS counts
the parts of the ring it holds.

Examples:
  dfs nodes
  dfs nodes --json | jq -r '.nodes[] | select(.state == \"down\").address'")]
pub(crate) struct NodesArguments {
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Lists nodes.
pub(crate) async fn run(invocation: &Invocation, arguments: NodesArguments) -> Result<(), Failure> {
    let (status, map) = invocation
        .with_cluster(async |cluster| {
            let failed = |error| Line::new("cannot list the nodes").because(&error).failed();
            Ok((cluster.status().await.map_err(failed)?, cluster.refresh().await.map_err(failed)?))
        })
        .await?;
    if arguments.json {
        let nodes: Vec<Value> = status.nodes.iter().map(|node| node_json(node, map.is_away(node.row.id))).collect();
        return invocation.screen.print_json(&json!({ "epoch": status.epoch.0, "nodes": nodes }));
    }
    let mut text = node_table(&status).text();
    text.push_str(&without_partitions(&status).map(|note| format!("\n{note}\n")).unwrap_or_default());
    let name = node_names(&status);
    for away in map.away.iter().filter(|away| away.partitions() > 0) {
        text.push_str(&format!("\nWrites of node {} go to stand-ins.\n", name(away.node)));
    }
    invocation.screen.print(&text)
}

/// Short names for the nodes of a status.
pub(crate) fn node_names(status: &ClusterStatus) -> impl Fn(NodeId) -> String + use<> {
    let ids: Vec<NodeId> = status.nodes.iter().map(|node| node.row.id).collect();
    short_ids(&ids)
}

/// A row for each node.
pub(crate) fn node_table(status: &ClusterStatus) -> Table {
    let name = node_names(status);
    let zones = status.nodes.iter().any(|node| node.row.zone.is_some());
    let mut columns = vec![("NODE", Align::Left), ("ADDRESS", Align::Left)];
    columns.extend(zones.then_some(("ZONE", Align::Left)));
    columns.extend([
        ("STATE", Align::Left),
        ("ROLE", Align::Left),
        ("PARTITIONS", Align::Right),
        ("USED", Align::Right),
        ("FREE", Align::Right),
    ]);
    let mut table = Table::new(&columns);
    for node in &status.nodes {
        let mut row = vec![name(node.row.id), node.row.address.to_string()];
        row.extend(zones.then(|| node.row.zone.as_ref().map_or("-".to_owned(), ToString::to_string)));
        let store = node.store.as_ref();
        row.extend([
            state_word(node.state).replace('-', " "),
            role_word(node.role).to_owned(),
            if node.partitions == 0 { "none".to_owned() } else { node.partitions.to_string() },
            store.map_or("?".to_owned(), |store| short_size(store.used)),
            store.map_or("?".to_owned(), |store| if store.full { "full".to_owned() } else { short_size(store.free) }),
        ]);
        table.push(row);
    }
    table
}

/// What to say of members without partitions.
pub(crate) fn without_partitions(status: &ClusterStatus) -> Option<String> {
    if status.missing > 0 {
        let missing = status.missing;
        return Some(format!("No node holds partitions until {missing} more joined: dfs token create --for node"));
    }
    let name = node_names(status);
    let names: Vec<String> =
        status.nodes.iter().filter(|node| node.partitions == 0).map(|node| name(node.row.id)).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("Node {one} holds no partitions: it is new, drained or out.")),
        _ => Some(format!("Nodes {} hold no partitions: they are new, drained or out.", names.join(", "))),
    }
}

/// A node as JSON.
pub(crate) fn node_json(node: &NodeStatus, is_away: bool) -> Value {
    let store = node.store.as_ref().map(|store| {
        json!({
            "capacity": store.capacity,
            "used": store.used,
            "free": store.free,
            "chunks": store.chunks,
            "full": store.full,
            "failed": store.failed,
            "damaged": store.damaged,
            "repaired": store.repaired,
            "lacking": store.lacking,
        })
    });
    json!({
        "id": node.row.id.to_string(),
        "address": node.row.address.to_string(),
        "zone": node.row.zone.as_ref().map(ToString::to_string),
        "weight": node.row.weight.0,
        "state": state_word(node.state),
        "role": role_word(node.role),
        "partitions": node.partitions,
        "away": is_away,
        "store": store,
    })
}

/// A state as a word.
pub(crate) fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Up => "up",
        NodeState::CatchingUp => "catching-up",
        NodeState::Down => "down",
        NodeState::Draining => "draining",
        NodeState::Out => "out",
    }
}

fn role_word(role: RaftRole) -> &'static str {
    match role {
        RaftRole::Leader => "leader",
        RaftRole::Voter => "voter",
        RaftRole::Learner => "learner",
        RaftRole::None => "none",
    }
}
