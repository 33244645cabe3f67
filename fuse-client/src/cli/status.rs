//! `dfs status`: how the cluster is.

use clap::Args;
use serde_json::{Value, json};
use wire::{
    cluster::{ClusterStatus, NodeState, NodeStatus},
    health::{HealthStatus, NodeHealth},
    moves::{AwayStatus, MovesAnswer, MovesRequest, MovesStatus},
};

use super::{
    failure::{Failure, Line},
    health::{Health, Warning, examine, room},
    invocation::Invocation,
    moving::bytes_left,
    nodes::{node_json, node_names, node_table, without_partitions},
    text::number::{counted, long_size},
};

/// Arguments of `dfs status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status 0 means that the cluster answered; whether all is well stands in
the answer: \"health\" is ok, degraded or unavailable, and \"warnings\" say
why. For each node, \"scrub\" tells what of its copies it has read again and
checked in this pass (\"chunks\", \"bytes\"), how many passes have ended since its
start, how many seconds ago the last one did (\"ended_s\"), and how many damaged
copies were found; what became of these stands in \"store\".

Examples:
  dfs status
  dfs status --json | jq -r .health

dfs doctor says more of what is wrong, and what to do.")]
pub(crate) struct StatusArguments {
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Shows how the cluster is.
pub(crate) async fn run(invocation: &Invocation, arguments: StatusArguments) -> Result<(), Failure> {
    let (status, moves, nodes) = invocation
        .with_cluster(async |cluster| {
            let failed = |error| Line::new("cannot ask for the status").because(&error).failed();
            let status = cluster.status().await.map_err(failed)?;
            let nodes = cluster.health().await.map_err(failed)?;
            match cluster.moves(MovesRequest::Status).await.map_err(failed)? {
                MovesAnswer::Status(moves) => Ok((status, *moves, nodes)),
                MovesAnswer::Noted | MovesAnswer::Done { .. } | MovesAnswer::Kept(_) => {
                    Err(Line::new("cannot ask for the status").why("the answer makes no sense").failed())
                }
            }
        })
        .await?;
    let (mut health, mut warnings) = examine(&status, &moves, &node_names(&status));
    if moves.endangered > 0 {
        let text = format!(
            "{} fewer replicas than wished until others have taken over",
            counted(u64::from(moves.endangered), "partition has", "partitions have")
        );
        warnings.push(Warning { kind: "endangered", node: None, text });
        health = if health == Health::Ok { Health::Degraded } else { health };
    }
    if arguments.json {
        return invocation.screen.print_json(&status_json(&status, &moves, nodes.as_ref(), health, &warnings));
    }
    invocation.screen.print(&sentences(&status, &moves, health, &warnings))
}

/// Sentences, warnings, and the table of nodes.
fn sentences(status: &ClusterStatus, moves: &MovesStatus, health: Health, warnings: &[Warning]) -> String {
    let count = |state| status.nodes.iter().filter(|node| node.state == state).count();
    let all = status.nodes.len();
    let up = all - count(NodeState::Down) - count(NodeState::Out);
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
    if let Some(transition) = &moves.transition {
        text.push_str(&format!(
            "The ring is changing: {} still to come to {}, about {}.\n",
            counted(u64::from(transition.replicas_left), "replica of a partition is", "replicas of partitions are"),
            counted(transition.coming.len() as u64, "node", "nodes"),
            long_size(bytes_left(status, transition)),
        ));
    }
    if moves.unclean > 0 && moves.away.is_empty() {
        text.push_str(&format!(
            "Nodes that were away fetch what others took for them: {} to go.\n",
            counted(u64::from(moves.unclean), "partition", "partitions"),
        ));
    }
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

fn status_json(
    status: &ClusterStatus,
    moves: &MovesStatus,
    nodes: Option<&HealthStatus>,
    health: Health,
    warnings: &[Warning],
) -> Value {
    let room = room(status);
    let warnings: Vec<Value> = warnings
        .iter()
        .map(|warning| {
            let node = warning.node.map(|node| node.to_string());
            json!({ "kind": warning.kind, "node": node, "text": warning.text })
        })
        .collect();
    let told = |node: &NodeStatus| nodes.and_then(|all| all.nodes.iter().find(|told| told.node == node.row.id));
    let node = |node: &NodeStatus| {
        let is_away = moves.away.iter().any(|away| away.node == node.row.id);
        let mut object = node_json(node, is_away);
        object["scrub"] = told(node).map_or(Value::Null, scrub_json);
        object
    };
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
        "moves": moves_json(status, moves),
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
    })
}

/// How far a node is with reading again what it holds; null if it has not said.
pub(crate) fn scrub_json(node: &NodeHealth) -> Value {
    node.heard.as_ref().map_or(Value::Null, |heard| {
        let scrub = heard.report.scrub;
        json!({
            "chunks": scrub.chunks,
            "bytes": scrub.bytes,
            "passes": scrub.passes,
            "ended_s": scrub.ended_s,
            "next_s": scrub.next_s,
            "damaged": scrub.damaged,
        })
    })
}

fn moves_json(status: &ClusterStatus, moves: &MovesStatus) -> Value {
    let transition = moves.transition.as_ref().map(|transition| {
        let coming: Vec<Value> = transition
            .coming
            .iter()
            .map(|coming| {
                json!({
                    "node": coming.node.to_string(),
                    "partitions": coming.partitions,
                    "confirmed": coming.confirmed,
                })
            })
            .collect();
        json!({
            "epoch": transition.epoch.0,
            "unsettled": transition.unsettled,
            "replicas_left": transition.replicas_left,
            "bytes_left": bytes_left(status, transition),
            "coming": coming,
        })
    });
    let away = |away: &AwayStatus| json!({ "node": away.node.to_string(), "partitions": away.partitions });
    json!({
        "endangered": moves.endangered,
        "transition": transition,
        "away": moves.away.iter().map(away).collect::<Vec<_>>(),
        "unclean": moves.unclean,
    })
}
