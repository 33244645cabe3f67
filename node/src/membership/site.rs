//! A node that stands elsewhere than the map says: the map follows.

use std::time::Duration;

use tracing::{debug, info, warn};
use wire::{Refusal, Request, cluster::ClusterRequest};

use super::propose;
use crate::{
    namespace::{ClusterCommand, CommandBody},
    node::{Node, Site},
};

/// Tells the leader what the map says wrongly of this node. `told`: whether a person was told that it will not have it.
pub(super) async fn tell(node: &Node, deadline: Duration, told: &mut bool) {
    let Some(map) = node.map() else { return };
    let Some(row) = map.node(node.id) else { return };
    let Site { advertise, zone, .. } = &node.site;
    let moved = node.site.has_moved(row).then_some(ClusterRequest::Moved { address: *advertise });
    let placed = node.site.other_weight(row).map(|weight| ClusterRequest::Placed { zone: zone.clone(), weight });
    for request in moved.into_iter().chain(placed) {
        match node.ask_leader(&Request::Cluster(request), deadline).await {
            Ok(_) => info!(site = ?node.site, "the leader knows where this node stands now"),
            Err(refusal) => note(&refusal, node, told),
        }
    }
}

/// An address of another member is a mistake that only a person can mend; everything else passes.
fn note(refusal: &Refusal, node: &Node, told: &mut bool) {
    if *refusal == Refusal::Taken && !*told {
        *told = true;
        warn!(address = %node.site.advertise, "another member has the address that this node is to be reached at: \
            start it with another --advertise, or dfs remove that member");
    } else {
        debug!(%refusal, "the map does not say yet where this node stands");
    }
}

/// Whether the map says wrongly where this node stands.
pub(super) fn is_elsewhere(node: &Node) -> bool {
    let map = node.map();
    let row = map.as_ref().and_then(|map| map.node(node.id));
    row.is_some_and(|row| node.site.has_moved(row) || node.site.other_weight(row).is_some())
}

/// A leader of which the map says wrongly where it stands; other nodes tell it with a request. Nothing else waits for it.
pub(super) async fn follow(node: &Node, told: &mut bool) {
    let Some(map) = node.map() else { return };
    let Some(row) = map.node(node.id) else { return };
    let Site { advertise, zone, .. } = &node.site;
    let moved = node.site.has_moved(row).then_some(ClusterCommand::MoveNode { node: node.id, address: *advertise });
    let weight = node.site.other_weight(row);
    let placed = weight.map(|weight| ClusterCommand::PlaceNode { node: node.id, zone: zone.clone(), weight });
    for command in moved.into_iter().chain(placed) {
        if let Err(refusal) = propose(node, CommandBody::Cluster(command)).await {
            note(&refusal, node, told);
        }
    }
}
