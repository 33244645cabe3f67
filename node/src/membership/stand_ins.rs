//! What the leader does about nodes that are away: from when others take their writes, from when not, and when what those
//! hold counts no more. Pure: told of words and of time.
//!
//! # Invariants
//! - Nothing here is needed to be safe: a wrong guess about who is away costs writes to others, not chunks. What is decided
//!   goes through the Raft log, and is checked there against the map of that moment.
//! - Partitions become clean only when every owner has confirmed it since nobody went away or came back.

use std::time::Duration;

use ring::{Epoch, NodeId, Partition};
use tokio::time::Instant;
use wire::cluster::ClusterMap;

use super::{confirmed::Confirmed, moves::Hearing};
use crate::namespace::{ClusterCommand, SETTLED_MAX};

/// How long a node must have been heard before it takes its writes itself: one that falls silent again and again does not
/// make clients put again each time.
const STEADY_FOR: Duration = Duration::from_secs(2);

/// A node that has missed two heartbeats may be about to count as down …
const DOUBTFUL_AFTER: Duration = Duration::from_millis(1200);

/// … and is waited for as long as others have not been down for so long.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Between two commands that make partitions clean, unless all are: each makes a new map, which travels to every node.
const CLEAN_EVERY: Duration = Duration::from_secs(1);

/// What nodes have confirmed to this leader. Soft state: they say it again.
#[derive(Debug)]
pub struct StandIns {
    down_after: Duration,
    confirmed: Confirmed,
    cleaned: Option<Instant>,
    /// Whose absence makes no difference, by the map of this epoch.
    needless: Option<(Epoch, Vec<NodeId>)>,
}

impl StandIns {
    /// Nothing confirmed yet; others take the writes of a node after a silence of `down_after`.
    pub fn new(down_after: Duration) -> Self {
        Self { down_after, confirmed: Confirmed::default(), cleaned: None, needless: None }
    }

    /// `node` holds all that anybody holds of these partitions, by a map whose stand-ins changed last at `acting`.
    pub fn handle_confirm(&mut self, node: NodeId, acting: Epoch, partitions: &[Partition]) {
        self.confirmed.handle(node, acting, partitions);
    }

    /// What to propose now, if anything. Asked again with the map that came of it, or when time has passed.
    pub fn poll(
        &mut self,
        map: &ClusterMap,
        hearing: impl Fn(NodeId) -> Hearing,
        now: Instant,
    ) -> Option<ClusterCommand> {
        map.placement()?;
        self.who_is_away(map, &hearing).or_else(|| who_is_back(map, &hearing)).or_else(|| self.clean(map, now))
    }

    /// Everybody who is silent, at once: one of them must not be taken for a stand-in of another. For those that are about
    /// to be so it waits a moment.
    fn who_is_away(&mut self, map: &ClusterMap, hearing: &impl Fn(NodeId) -> Hearing) -> Option<ClusterCommand> {
        let silences = map.nodes.iter().map(|row| row.id).filter(|node| !map.is_away(*node));
        let silences: Vec<(NodeId, Duration)> = silences.map(|node| (node, hearing(node).silent)).collect();
        let silent = silences.iter().filter(|(_, silence)| *silence >= self.down_after);
        let nodes: Vec<NodeId> = silent.map(|(node, _)| *node).collect();
        if nodes.is_empty() || self.needless == Some((map.epoch, nodes.clone())) {
            return None;
        }
        let longest = silences.iter().map(|(_, silence)| *silence).max().unwrap_or_default();
        let is_doubtful = |silence: Duration| (DOUBTFUL_AFTER..self.down_after).contains(&silence);
        if longest < self.down_after + WAIT_MAX && silences.iter().any(|(_, silence)| is_doubtful(*silence)) {
            return None;
        }
        if map.can_go_away(&nodes) {
            return Some(ClusterCommand::Away { nodes });
        }
        self.needless = Some((map.epoch, nodes));
        None
    }

    /// Partitions that everybody who owns them has confirmed.
    fn clean(&mut self, map: &ClusterMap, now: Instant) -> Option<ClusterCommand> {
        if map.may_hold.is_empty() {
            return None;
        }
        let unclean = map.unclean();
        let ready: Vec<Partition> =
            unclean.iter().copied().filter(|partition| self.is_ready(map, *partition)).collect();
        let is_due = self.cleaned.is_none_or(|cleaned| now >= cleaned + CLEAN_EVERY);
        if ready.is_empty() || !(ready.len() == unclean.len() || is_due) {
            return None;
        }
        self.cleaned = Some(now);
        let partitions = ready.into_iter().take(SETTLED_MAX).collect();
        Some(ClusterCommand::Clean { acting: map.acting, partitions })
    }

    fn is_ready(&self, map: &ClusterMap, partition: Partition) -> bool {
        let Some(placement) = map.placement().filter(|_| map.can_be_clean(partition)) else { return false };
        let has_confirmed = |node: &NodeId| self.confirmed.has(map.acting, *node, partition);
        let mut left = placement.owners(partition).filter(|owner| map.node(*owner).is_some()).peekable();
        left.peek().is_some() && left.all(|owner| has_confirmed(&owner))
    }
}

/// A node that is heard again, or that owns nothing any more and is not to.
fn who_is_back(map: &ClusterMap, hearing: &impl Fn(NodeId) -> Hearing) -> Option<ClusterCommand> {
    let placement = map.placement()?;
    let owns_nothing = |node: NodeId| map.leaving(node).is_some() && placement.kept_by(node).next().is_none();
    let is_back = |node: NodeId| hearing(node).steady >= STEADY_FOR || owns_nothing(node);
    let node = map.away.iter().map(|away| away.node).find(|node| is_back(*node))?;
    Some(ClusterCommand::Back { node })
}

#[cfg(test)]
mod tests;
