//! `dfs ring`: how chunks are spread over the nodes, where one lies, and what moves.

pub(super) mod plan;

use std::{collections::BTreeMap, ffi::OsString, os::unix::ffi::OsStrExt};

use clap::{Args, Subcommand};
use fuse_client::{Cluster, FilePath};
use ring::{
    ChunkKey, NodeId, Placement, Ring,
    solver::{FairShare, fair_shares},
};
use serde_json::{Map, Value, json};
use wire::cluster::ClusterMap;

use super::{
    failure::{Failure, Line},
    health::short_ids,
    invocation::{Invocation, cannot, parse_path},
    json::insert_bytes,
    stat::chunks_of,
    text::{
        number::counted,
        quote::quoted,
        table::{Align, Table},
    },
};

/// Arguments of `dfs ring`.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  dfs ring                       partitions of each node, and its fair share
  dfs ring /photos/sea.jpg       where the chunks of a file lie
  dfs ring 7f3a…                 where the chunk with this key (64 digits) lies
  dfs ring plan                  what moves from node to node")]
pub(crate) struct RingArguments {
    /// A file, or the key of a chunk
    #[arg(value_name = "PATH|KEY")]
    subject: Option<OsString>,
    /// As a JSON object
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<RingCommand>,
}

#[derive(Debug, Subcommand)]
enum RingCommand {
    /// Show what moves from node to node, or would move
    Plan(plan::PlanArguments),
}

/// What is asked about.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Subject {
    /// The ring as a whole.
    Ring,
    /// A chunk.
    Key(ChunkKey),
    /// The chunks of a file.
    Path(FilePath),
}

/// Shows the ring.
pub(crate) async fn run(invocation: &Invocation, arguments: RingArguments) -> Result<(), Failure> {
    if let Some(RingCommand::Plan(arguments)) = &arguments.command {
        return plan::run(invocation, arguments).await;
    }
    let subject = match &arguments.subject {
        None => Subject::Ring,
        Some(text) => match key_of(text.as_bytes()) {
            Some(key) => Subject::Key(key),
            None => Subject::Path(parse_path("find", text)?),
        },
    };
    match subject {
        Subject::Ring => invocation.with_cluster(async |cluster| summary(invocation, &arguments, cluster).await).await,
        Subject::Key(key) => {
            invocation
                .with_cluster(async |cluster| {
                    let map = newest_map(cluster).await?;
                    show(invocation, &arguments, &map, &[key], Map::new())
                })
                .await
        }
        Subject::Path(path) => {
            invocation
                .with_files(async |files| {
                    let keys = chunks_of(files, &path).await.map_err(|error| cannot("find", &path, &error).failed())?;
                    let map = newest_map(files.cluster()).await?;
                    if keys.is_empty() && !arguments.json {
                        let name = quoted(&path.to_bytes());
                        return invocation
                            .screen
                            .print(&format!("{name} has no chunks: its content, if any, is kept in the namespace\n"));
                    }
                    let mut object = Map::new();
                    insert_bytes(&mut object, "path", &path.to_bytes());
                    show(invocation, &arguments, &map, &keys, object)
                })
                .await
        }
    }
}

/// The map as the cluster has it now.
pub(crate) async fn newest_map(cluster: &Cluster) -> Result<std::sync::Arc<ClusterMap>, Failure> {
    cluster.refresh().await.map_err(|error| Line::new("cannot ask for the cluster map").because(&error).failed())
}

/// 64 hexadecimal digits.
fn key_of(text: &[u8]) -> Option<ChunkKey> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(ChunkKey::from_bytes(key))
}

/// The ring of a map, or why there is none.
fn ring_of(map: &ClusterMap) -> Result<&Ring, Failure> {
    map.ring.as_ref().ok_or_else(|| {
        let missing = counted(u64::from(map.missing()), "more node", "more nodes");
        let line = Line::new("there is no ring yet").why(format!("{missing} must join first"));
        line.advice("make a token with dfs token create --for node").failed()
    })
}

/// Where chunks lie: owners in order of preference, then others that may hold them.
pub(crate) fn holders(map: &ClusterMap, key: &ChunkKey) -> (Vec<NodeId>, Vec<NodeId>) {
    let Some(placement) = map.placement() else {
        return (Vec::new(), Vec::new());
    };
    let partition = placement.bits().partition_of(key);
    (placement.owners(partition).collect(), map.others(partition).collect())
}

fn show(
    invocation: &Invocation,
    arguments: &RingArguments,
    map: &ClusterMap,
    keys: &[ChunkKey],
    mut object: Map<String, Value>,
) -> Result<(), Failure> {
    let ring = ring_of(map)?;
    if arguments.json {
        let chunks: Vec<Value> = keys
            .iter()
            .map(|key| {
                let (owners, others) = holders(map, key);
                json!({
                    "key": key.to_string(),
                    "partition": ring.bits().partition_of(key).0,
                    "nodes": owners.iter().map(ToString::to_string).collect::<Vec<_>>(),
                    "may_hold": others.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })
            })
            .collect();
        object.insert("epoch".into(), json!(map.epoch.0));
        object.insert("chunks".into(), Value::Array(chunks));
        return invocation.screen.print_json(&Value::Object(object));
    }
    let mut page = invocation.screen.page();
    for key in keys {
        let (owners, others) = holders(map, key);
        let mut text = format!("chunk {key}\n  partition {}\n", ring.bits().partition_of(key).0);
        for node in owners {
            text.push_str(&format!("  on        {}\n", describe(map, node)));
        }
        for node in others {
            text.push_str(&format!("  perhaps   {}\n", describe(map, node)));
        }
        page.push(text.as_bytes())?;
    }
    page.finish()
}

/// A node with its address.
pub(crate) fn describe(map: &ClusterMap, node: NodeId) -> String {
    let ids: Vec<NodeId> = map.nodes.iter().map(|row| row.id).collect();
    let name = short_ids(&ids)(node);
    match map.node(node) {
        Some(row) => match &row.zone {
            Some(zone) => format!("{name} {} in {zone}", row.address),
            None => format!("{name} {}", row.address),
        },
        None => format!("{name} (no longer a member)"),
    }
}

/// Partitions of each node beside its fair share.
async fn summary(invocation: &Invocation, arguments: &RingArguments, cluster: &Cluster) -> Result<(), Failure> {
    let map = newest_map(cluster).await?;
    let ring = ring_of(&map)?;
    let placement = Placement::new(ring, map.transition.as_ref());
    let mut counts: BTreeMap<NodeId, u64> = BTreeMap::new();
    for node in ring.bits().partitions().flat_map(|partition| placement.owners(partition)) {
        *counts.entry(node).or_default() += 1;
    }
    let shares: BTreeMap<NodeId, FairShare> = fair_shares(placement.target().members(), ring.replicas(), ring.bits())
        .map_err(|error| Line::new("cannot tell the fair shares").because(&error).failed())?
        .into_iter()
        .collect();
    if arguments.json {
        let nodes: Vec<Value> = map
            .nodes
            .iter()
            .map(|row| {
                json!({
                    "id": row.id.to_string(),
                    "address": row.address.to_string(),
                    "zone": row.zone.as_ref().map(ToString::to_string),
                    "weight": row.weight.0,
                    "partitions": counts.get(&row.id).copied().unwrap_or(0),
                    "away": map.is_away(row.id),
                })
            })
            .collect();
        return invocation.screen.print_json(&json!({
            "epoch": map.epoch.0,
            "ring_epoch": ring.epoch().0,
            "partitions": ring.bits().count(),
            "replicas": ring.replicas().count(),
            "unclean": map.unclean().len(),
            "nodes": nodes,
        }));
    }
    let ids: Vec<NodeId> = map.nodes.iter().map(|row| row.id).collect();
    let name = short_ids(&ids);
    let mut table = Table::new(&[
        ("NODE", Align::Left),
        ("ADDRESS", Align::Left),
        ("ZONE", Align::Left),
        ("WEIGHT", Align::Right),
        ("PARTITIONS", Align::Right),
        ("OF FAIR SHARE", Align::Right),
    ]);
    for row in &map.nodes {
        let count = counts.get(&row.id).copied().unwrap_or(0);
        let of_share = shares
            .get(&row.id)
            .map_or("not a part".to_owned(), |share| format!("{:.1} %", 100.0 * count as f64 / share.to_f64()));
        let zone = row.zone.as_ref().map_or("-".to_owned(), ToString::to_string);
        let weight = row.weight.0.to_string();
        table.push(vec![name(row.id), row.address.to_string(), zone, weight, count.to_string(), of_share]);
    }
    let mut text = format!(
        "Epoch {} of the map; the ring, of epoch {}, has {} partitions, {} of each.\n\n{}",
        map.epoch,
        ring.epoch(),
        ring.bits().count(),
        counted(u64::try_from(ring.replicas().count()).expect("at most 7"), "replica", "replicas"),
        table.text()
    );
    for away in map.away.iter().filter(|away| away.partitions() > 0) {
        text.push_str(&format!("\nWrites of node {} go to stand-ins.\n", name(away.node)));
    }
    invocation.screen.print(&text)
}

#[cfg(test)]
mod tests {
    use ring::ChunkKey;

    use super::key_of;

    #[test]
    fn a_key_is_64_hexadecimal_digits_and_all_else_a_path() {
        let key = ChunkKey::of(b"x");
        assert_eq!(key_of(key.to_string().as_bytes()), Some(key));
        assert_eq!(key_of(key.to_string().to_uppercase().as_bytes()), Some(key));
        assert_eq!(key_of(&key.to_string().as_bytes()[1..]), None);
        assert_eq!(key_of(&[b'g'; 64]), None);
    }
}
