//! What is to be said of one node. Pure.

use std::time::Duration;

use wire::{
    cluster::{NodeState, NodeStatus, StoreReport},
    health::HealthStatus,
    moves::Leaving,
};

use super::diagnosis::{Facts, Finding, Severity};
use crate::cli::{
    health::is_nearly_full,
    text::number::{counted, long_size, span},
};

/// Everything about `node`, which is called `name`.
pub(crate) fn node_findings(facts: &Facts, node: &NodeStatus, name: &str) -> Vec<Finding> {
    let store = node.store.as_ref();
    let found = [
        presence(facts, node, name),
        store.and_then(|store| disk(store, name)),
        store.and_then(|store| damage(store, name)),
        store.and_then(|store| lacking(store, name)),
    ];
    found.into_iter().flatten().map(|finding| Finding { node: Some(node.row.id), ..finding }).collect()
}

/// Whether it is up, and whether it is to stay.
fn presence(facts: &Facts, node: &NodeStatus, name: &str) -> Option<Finding> {
    let who = format!("Node {name} ({})", node.row.address);
    let is_draining = facts.map.leaving(node.row.id) == Some(Leaving::Draining);
    match node.state {
        NodeState::Down => Some(down(facts, node, &who)),
        NodeState::Out => Some(out(facts, node, &who)),
        NodeState::Draining | NodeState::Up | NodeState::CatchingUp if is_draining => Some(draining(node, &who)),
        NodeState::Draining => Some(draining(node, &who)),
        NodeState::Up | NodeState::CatchingUp => None,
    }
}

fn down(facts: &Facts, node: &NodeStatus, who: &str) -> Finding {
    let silent = silence(facts.health.as_ref(), node);
    let since = silent.map_or(String::new(), |silent| format!(" for {}", span(silent)));
    let finding = Finding::new("node-down", Severity::Attention, format!("{who} is down: not heard{since}."));
    let finding = finding.advice("start dfs-node there again, or see its log; if it is lost for good, dfs remove it");
    if facts.map.leaving(node.row.id) == Some(Leaving::Draining) {
        return finding.meanwhile("it was being drained: others take over what it held, from the other copies");
    }
    let holding = facts.map.nodes.iter().filter(|row| facts.map.leaving(row.id).is_none()).count();
    if facts.map.ring.is_some() && holding <= facts.map.replicas.count() {
        return finding.meanwhile("no other node could take over what it holds: that waits until it is back");
    }
    let out_after = facts.health.as_ref().map(|health| Duration::from_millis(health.out_after_ms));
    match out_after.zip(silent) {
        Some((out_after, silent)) => {
            let left = out_after.saturating_sub(silent);
            let others = if facts.map.is_away(node.row.id) { "others take its writes; " } else { "" };
            finding.meanwhile(format!(
                "{others}in {} it counts as out, and its copies are made again on others",
                span(left)
            ))
        }
        None => finding.meanwhile("if it stays away it will count as out, and its copies are made again on others"),
    }
}

fn silence(health: Option<&HealthStatus>, node: &NodeStatus) -> Option<Duration> {
    let told = health?.nodes.iter().find(|told| told.node == node.row.id)?;
    Some(Duration::from_millis(told.silent_ms))
}

fn out(facts: &Facts, node: &NodeStatus, who: &str) -> Finding {
    let since = silence(facts.health.as_ref(), node)
        .map_or(String::new(), |silent| format!(", not heard for {} at least", span(silent)));
    let moving = facts.moves.transition.is_some() || facts.moves.endangered > 0;
    let meanwhile = if moving { "its copies are being made again on others" } else { "others hold what it held" };
    Finding::new("node-out", Severity::Attention, format!("{who} is out{since}."))
        .meanwhile(format!("{meanwhile}; when it comes back it takes its share again"))
        .advice("start dfs-node there again; if it is lost for good, dfs remove it")
}

fn draining(node: &NodeStatus, who: &str) -> Finding {
    if node.partitions == 0 {
        let finding = Finding::new("drained", Severity::Attention, format!("{who} is drained and holds nothing."));
        return finding.advice("dfs remove it, or dfs drain --cancel if it is to hold its share again");
    }
    let left = counted(node.partitions.into(), "partition is", "partitions are");
    let text = format!("{who} is being drained: {left} still to go over to others.");
    Finding::new("draining", Severity::Mending, text).meanwhile("it serves until they have; then dfs remove it")
}

fn disk(store: &StoreReport, name: &str) -> Option<Finding> {
    if store.failed {
        let text = format!("The disk of node {name} failed: it takes no chunks.");
        let finding = Finding::new("disk-failed", Severity::Attention, text);
        return Some(
            finding.advice("dfs drain or dfs remove the node, replace the disk, and let it join as a new one"),
        );
    }
    if store.starved {
        let text = format!("The disk of node {name} is full to the last byte: it takes nothing at all.");
        let finding = Finding::new("disk-full", Severity::Attention, text);
        let finding = finding.meanwhile("where most voting nodes are like that, only what gives room back goes on");
        return Some(finding.advice("give it more room, or remove files"));
    }
    if store.full {
        let text = format!("The disk of node {name} is full: it takes no chunks.");
        let finding = Finding::new("disk-full", Severity::Attention, text);
        let finding = finding.meanwhile("what it should hold is stored on its write quorum alone, and fetched later");
        return Some(finding.advice("remove files, give it more room, or add a node"));
    }
    is_nearly_full(store).then(|| {
        let text = format!("The disk of node {name} is nearly full: {} left.", long_size(store.free));
        Finding::new("disk-nearly-full", Severity::Attention, text).advice("remove files, or add a node")
    })
}

fn damage(store: &StoreReport, name: &str) -> Option<Finding> {
    let left = store.damaged.saturating_sub(store.repaired);
    let copies = |count| counted(count, "damaged copy", "damaged copies");
    if left > 0 {
        let text = format!("Node {name} has found {}; {left} not replaced yet.", copies(store.damaged));
        return Some(
            Finding::new("damaged", Severity::Attention, text)
                .meanwhile("it fetches them from the other replicas, again and again")
                .advice("see its log: if no other replica is sound, the log names the chunk"),
        );
    }
    (store.damaged > 0).then(|| {
        let text = format!("Node {name} has found {} since its start, and replaced all.", copies(store.damaged));
        Finding::new("damage-mended", Severity::Note, text).advice("if there are more each week, replace its disk")
    })
}

fn lacking(store: &StoreReport, name: &str) -> Option<Finding> {
    (store.lacking > 0).then(|| {
        let text = format!("Node {name} is catching up: it lacks {}.", counted(store.lacking, "chunk", "chunks"));
        Finding::new("catching-up", Severity::Mending, text).meanwhile("it fetches them from the other replicas")
    })
}
