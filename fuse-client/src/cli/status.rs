//! `dfs status`: how the cluster is.

use clap::Args;
use serde_json::{Value, json};
use wire::cluster::{ClusterStatus, NodeState};

use super::{
    failure::{Failure, Line},
    health::{Health, Warning, examine, room},
    invocation::Invocation,
    nodes::{node_json, node_names, node_table, without_partitions},
    text::number::{counted, long_size},
};

/// Arguments of `dfs status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status 0 means that the cluster answered; whether all is well stands in
the answer: \"health\" is ok, degraded or unavailable, and \"warnings\" say
why.

Examples:
  dfs status
  dfs status --json | jq -r .health")]
pub(crate) struct StatusArguments {
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Shows how the cluster is.
pub(crate) async fn run(invocation: &Invocation, arguments: StatusArguments) -> Result<(), Failure> {
    let status = invocation
        .with_cluster(async |cluster| {
            let failed = |error| Line::new("cannot ask for the status").because(&error).failed();
            cluster.status().await.map_err(failed)
        })
        .await?;
    let (health, warnings) = examine(&status, &node_names(&status));
    if arguments.json {
        return invocation.screen.print_json(&status_json(&status, health, &warnings));
    }
    invocation.screen.print(&sentences(&status, health, &warnings))
}

/// Sentences, warnings, and the table of nodes.
fn sentences(status: &ClusterStatus, health: Health, warnings: &[Warning]) -> String {
    let count = |state| status.nodes.iter().filter(|node| node.state == state).count();
    let all = status.nodes.len();
    let up = all - count(NodeState::Down);
    let how = match health {
        Health::Ok => "is healthy",
        Health::Degraded => "serves, but wants attention",
        Health::Unavailable => "cannot store files",
    };
    let cluster: String = status.cluster.to_string().chars().take(8).collect();
    let room = room(status);
    // The root directory is always there, and nobody put it in.
    let files = status.usage.inodes.saturating_sub(1);
    let mut text = format!(
        "Cluster {cluster} {how}: {up} of {} up, {} of each chunk.\n",
        if all == 1 { "1 node is".to_owned() } else { format!("{all} nodes are") },
        counted(u64::try_from(status.replicas.count()).expect("at most 7"), "replica", "replicas"),
    );
    text.push_str(&format!(
        "It holds {} with {} of data; there is room for {} more.\n",
        counted(files, "file or directory", "files and directories"),
        long_size(status.usage.bytes),
        long_size(room.free),
    ));
    for warning in warnings {
        text.push_str(&format!("Warning: {}.\n", warning.text));
    }
    text.push('\n');
    text.push_str(&node_table(status).text());
    if let Some(note) = without_partitions(status) {
        text.push_str(&format!("\n{note}\n"));
    }
    text
}

fn status_json(status: &ClusterStatus, health: Health, warnings: &[Warning]) -> Value {
    let room = room(status);
    let warnings: Vec<Value> = warnings
        .iter()
        .map(|warning| {
            let node = warning.node.map(|node| node.to_string());
            json!({ "kind": warning.kind, "node": node, "text": warning.text })
        })
        .collect();
    json!({
        "cluster": status.cluster.to_string(),
        "health": health.word(),
        "warnings": warnings,
        "epoch": status.epoch.0,
        "term": status.term,
        "applied": status.applied,
        "replicas": status.replicas.count(),
        "missing": status.missing,
        "usage": { "inodes": status.usage.inodes, "bytes": status.usage.bytes },
        "room": { "capacity": room.capacity, "used": room.used, "free": room.free },
        "nodes": status.nodes.iter().map(node_json).collect::<Vec<_>>(),
    })
}
