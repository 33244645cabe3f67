//! `dfs gc`: what becomes of the room of deleted files.

use clap::{Args, Subcommand};
use ring::{GcEpoch, NodeId};
use serde_json::{Value, json};
use wire::{cluster::Peer, garbage::GarbageStatus};

use super::{
    failure::{Failure, Line},
    health::short_ids,
    invocation::Invocation,
    text::number::{counted, long_size},
};

/// Arguments of `dfs gc`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  dfs gc status")]
pub(crate) struct GcArguments {
    #[command(subcommand)]
    command: GcCommand,
}

/// What to do about garbage.
#[derive(Debug, Subcommand)]
enum GcCommand {
    /// Show what waits to be deleted, and for whom it waits
    Status(GcStatusArguments),
}

/// Arguments of `dfs gc status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Chunks that no file refers to any more are deleted by themselves: when no
client can use them any more, by every node that may hold one. What was put
and never committed (by a killed upload, say) is not counted here; it goes
the same way. Bytes are counted once, not for each replica.

Examples:
  dfs gc status
  dfs gc status --json | jq .dead_bytes")]
struct GcStatusArguments {
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Shows garbage.
pub(crate) async fn run(invocation: &Invocation, arguments: GcArguments) -> Result<(), Failure> {
    let GcCommand::Status(arguments) = arguments.command;
    let status = invocation
        .with_cluster(async |cluster| {
            let failed = |error| Line::new("cannot ask about garbage").because(&error).failed();
            cluster.garbage().await.map_err(failed)
        })
        .await?;
    if arguments.json {
        invocation.screen.print_json(&gc_json(&status))
    } else {
        invocation.screen.print(&text(&status))
    }
}

fn text(status: &GarbageStatus) -> String {
    let GarbageStatus { current, safe, dead_chunks, dead_bytes, .. } = *status;
    let mut text = match dead_chunks {
        0 => "No chunk waits to be deleted.\n".to_owned(),
        count => {
            format!("{} to be deleted, {}.\n", counted(count, "chunk waits", "chunks wait"), long_size(dead_bytes))
        }
    };
    text.push_str(&format!("Puts are stamped {current}; what died before {safe} can be deleted.\n"));
    for hold in status.sessions.iter().filter(|_| safe < current) {
        let whose = match hold.client {
            Peer::Client(client) => format!("client {}", hex(&client.0)),
            Peer::Node(node) => format!("node {node}"),
        };
        let what = hold.lowest.map_or("has not said what it uses".to_owned(), |lowest| format!("still uses {lowest}"));
        text.push_str(&format!("Waiting for session {} of {whose}: it {what}.\n", hold.session.0));
    }
    let ids: Vec<NodeId> = status.nodes.iter().map(|hold| hold.node).collect();
    let name = short_ids(&ids);
    for hold in &status.nodes {
        let what =
            hold.below.map_or("has not been heard".to_owned(), |below| format!("has deleted what died before {below}"));
        text.push_str(&format!("Waiting for node {}: it {what}.\n", name(hold.node)));
    }
    text
}

fn gc_json(status: &GarbageStatus) -> Value {
    let epoch = |gc: Option<GcEpoch>| gc.map(|gc| gc.0);
    let session = |hold: &wire::garbage::SessionHold| {
        let (kind, id) = match hold.client {
            Peer::Client(client) => ("client", hex(&client.0)),
            Peer::Node(node) => ("node", node.to_string()),
        };
        json!({ "session": hold.session.0, kind: id, "lowest": epoch(hold.lowest) })
    };
    json!({
        "current": status.current.0,
        "safe": status.safe.0,
        "dead_chunks": status.dead_chunks,
        "dead_bytes": status.dead_bytes,
        "sessions": status.sessions.iter().map(session).collect::<Vec<_>>(),
        "nodes": status
            .nodes
            .iter()
            .map(|hold| json!({ "id": hold.node.to_string(), "below": epoch(hold.below) }))
            .collect::<Vec<_>>(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use ring::{GcEpoch, NodeId};
    use wire::{
        cluster::{ClientId, Peer},
        garbage::{GarbageStatus, NodeHold, SessionHold},
        namespace::SessionId,
    };

    use super::{gc_json, text};

    #[test]
    fn it_says_what_waits_and_for_whom() {
        let client = Peer::Client(ClientId([0xab; 16]));
        let mut status = GarbageStatus {
            current: GcEpoch(5),
            safe: GcEpoch(3),
            dead_chunks: 2,
            dead_bytes: 8 << 20,
            sessions: vec![SessionHold { session: SessionId(7), client, lowest: Some(GcEpoch(3)) }],
            nodes: vec![NodeHold { node: NodeId::from_bytes([1; 16]), below: None }],
        };
        let said = text(&status);
        for words in ["2 chunks wait", "8.0 MiB", "session 7", "still uses 3", "has not been heard"] {
            assert!(said.contains(words), "{words:?} in {said}");
        }
        assert_eq!(gc_json(&status)["sessions"][0]["client"], "ab".repeat(16));
        assert_eq!(gc_json(&status)["nodes"][0]["below"], serde_json::Value::Null);
        status = GarbageStatus { safe: GcEpoch(5), dead_chunks: 0, nodes: Vec::new(), ..status };
        assert_eq!(text(&status).lines().count(), 2, "nobody is waited for: {}", text(&status));
    }
}
