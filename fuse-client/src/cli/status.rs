//! `dfs status`: how the cluster is.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use wire::{
    cluster::{NodeState, NodeStatus},
    health::NodeHealth,
    moves::{AwayStatus, TransitionStatus},
};

use super::{
    doctor::{
        diagnosis::Facts,
        facts,
        redundancy::{Redundancy, redundancy},
    },
    failure::{Failure, Line},
    health::{Health, Warning, examine, room},
    invocation::Invocation,
    moving::{bytes_left, time_left},
    nodes::{node_json, node_names, node_table, without_partitions},
    ring::plan::{self, short_table, under_way},
    text::number::{counted, long_size, span, thousands},
};

/// Rows of moves under the nodes: a new node of a large cluster is given something by all others.
const MOVES_MAX: usize = 12;

/// Arguments of `dfs status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit status 0 means that the cluster answered; whether all is well stands in
the answer: \"health\" is ok, degraded or unavailable, and \"warnings\" say
why. For each node, \"scrub\" tells what of its copies it has read again and
checked in this pass (\"chunks\", \"bytes\"), how many passes have ended since its
start, how many seconds ago the last one did (\"ended_s\"), and how many damaged
copies were found; what became of these stands in \"store\". While the ring
changes, \"moves\" says what goes from where to where, what is left of it in bytes
and seconds (null before a pace is known), and how many sure copies (on nodes
that are up and lack nothing) the partition has that has \"lowest\".

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
    let failed = |error| Line::new("cannot ask for the status").because(&error).failed();
    let facts = invocation.with_cluster(async |cluster| facts(cluster).await.map_err(failed)).await?;
    let Facts { status, moves, .. } = &facts;
    let (mut health, mut warnings) = examine(status, moves, &node_names(status));
    if moves.endangered > 0 {
        let text = format!(
            "{} fewer replicas than wished until others have taken over",
            counted(u64::from(moves.endangered), "partition has", "partitions have")
        );
        warnings.push(Warning { kind: "endangered", node: None, text });
        health = if health == Health::Ok { Health::Degraded } else { health };
    }
    if arguments.json {
        return invocation.screen.print_json(&status_json(&facts, health, &warnings));
    }
    invocation.screen.print(&sentences(&facts, health, &warnings))
}

/// Sentences, warnings, and the table of nodes.
fn sentences(facts: &Facts, health: Health, warnings: &[Warning]) -> String {
    let Facts { status, moves, .. } = facts;
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
        text.push_str(&ring_changes(facts, transition));
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
    if let Some(outlook) = under_way(facts) {
        let (table, more) = short_table(&facts.map, &outlook.plan, MOVES_MAX);
        text.push_str(&format!("\n{}", table.text()));
        if more > 0 {
            text.push_str(&format!("and {} more; dfs ring plan shows all\n", thousands(more as u64)));
        }
    }
    text
}

/// What is left of a change of the ring, how long that takes, and how few copies there are meanwhile.
fn ring_changes(facts: &Facts, transition: &TransitionStatus) -> String {
    let left = time_of(facts, transition).map_or("How long that takes cannot be told yet".to_owned(), |left| {
        format!("At the pace so far that takes another {}", span(left))
    });
    let Redundancy { lowest, .. } = redundancy(&facts.map, &facts.status);
    format!(
        "The ring is changing: {} still to come to {}, about {}.\n{left}; the partition that has fewest has {}.\n",
        counted(u64::from(transition.replicas_left), "replica of a partition is", "replicas of partitions are"),
        counted(transition.coming.len() as u64, "node", "nodes"),
        long_size(bytes_left(&facts.status, transition)),
        counted(u64::from(lowest), "sure copy", "sure copies"),
    )
}

fn time_of(facts: &Facts, transition: &TransitionStatus) -> Option<Duration> {
    let moving = facts.health.as_ref().and_then(|health| health.moving);
    moving.and_then(|moving| time_left(moving, transition.replicas_left))
}

fn status_json(facts: &Facts, health: Health, warnings: &[Warning]) -> Value {
    let Facts { status, moves, health: nodes, .. } = facts;
    let room = room(status);
    let warnings: Vec<Value> = warnings
        .iter()
        .map(|warning| {
            let node = warning.node.map(|node| node.to_string());
            json!({ "kind": warning.kind, "node": node, "text": warning.text })
        })
        .collect();
    let told =
        |node: &NodeStatus| nodes.as_ref().and_then(|all| all.nodes.iter().find(|told| told.node == node.row.id));
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
        "moves": moves_json(facts),
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

fn moves_json(facts: &Facts) -> Value {
    let Facts { status, moves, .. } = facts;
    let outlook = under_way(facts);
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
            "time_left_s": time_of(facts, transition).map(|left| left.as_secs()),
            "lowest": redundancy(&facts.map, status).lowest,
            "coming": coming,
            "moves": outlook.as_ref().map_or(Value::Array(Vec::new()), |outlook| plan::moves_json(&outlook.plan)),
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

#[cfg(test)]
mod tests {
    use ring::Epoch;
    use wire::{
        cluster::NodeState,
        health::Moving,
        moves::{Coming, TransitionStatus},
    };

    use super::{Health, sentences, status_json};
    use crate::cli::doctor::tests::{begin_move, id, set_state, well};

    #[test]
    fn while_partitions_move_it_says_from_where_to_where_and_what_is_left() {
        let mut facts = well();
        let json = status_json(&facts, Health::Ok, &[]);
        assert_eq!(json["moves"]["transition"], serde_json::Value::Null);
        assert!(!sentences(&facts, Health::Ok, &[]).contains("FROM"));

        begin_move(&mut facts);
        let coming = vec![Coming { node: id(1), partitions: 1, confirmed: 0 }];
        facts.moves.transition = Some(TransitionStatus { epoch: Epoch(9), unsettled: 1, replicas_left: 1, coming });
        let text = sentences(&facts, Health::Ok, &[]);
        let words =
            ["1 replica of a partition is still to come to 1 node, about 66 B.", "cannot be told yet", "3 sure copies"];
        words.iter().for_each(|word| assert!(text.contains(word), "{word:?} in:\n{text}"));
        let row: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row, ["04040404", "01010101", "1", "66"], "{text}");

        set_state(&mut facts, 2, NodeState::Down, 5000);
        facts.health.as_mut().unwrap().moving = Some(Moving { seen_ms: 60_000, replicas_done: 1 });
        let text = sentences(&facts, Health::Ok, &[]);
        assert!(text.contains("another 1 min 0 s; the partition that has fewest has 2 sure copies."), "{text}");
        let transition = &status_json(&facts, Health::Ok, &[])["moves"]["transition"];
        assert_eq!((&transition["time_left_s"], &transition["lowest"]), (&60.into(), &2.into()));
        assert_eq!(transition["moves"][0]["from"], id(4).to_string());
        assert_eq!(transition["moves"][0]["to"], id(1).to_string());
        assert_eq!(transition["moves"][0]["bytes"], 66);
    }
}
