//! A node that stands elsewhere than the map says: the map follows.

use std::time::Duration;

use tracing::{debug, info};
use wire::{Refusal, Request, cluster::ClusterRequest};

use super::propose;
use crate::{
    namespace::{ClusterCommand, CommandBody},
    node::{Node, Site},
};

/// Tells the leader what the map says wrongly of this node.
pub(super) async fn tell(node: &Node, deadline: Duration) {
    let Some(map) = node.map() else { return };
    let Some(row) = map.node(node.id) else { return };
    let Site { advertise, zone, .. } = &node.site;
    let moved = node.site.has_moved(row).then_some(ClusterRequest::Moved { address: *advertise });
    let placed = node.site.other_weight(row).map(|weight| ClusterRequest::Placed { zone: zone.clone(), weight });
    for request in moved.into_iter().chain(placed) {
        match node.ask_leader(&Request::Cluster(request), deadline).await {
            Ok(_) => info!(site = ?node.site, "the leader knows where this node stands now"),
            Err(refusal) => debug!(%refusal, "the leader cannot be told where this node stands"),
        }
    }
}

/// Whether the map says wrongly where this node stands.
pub(super) fn is_elsewhere(node: &Node) -> bool {
    let map = node.map();
    let row = map.as_ref().and_then(|map| map.node(node.id));
    row.is_some_and(|row| node.site.has_moved(row) || node.site.other_weight(row).is_some())
}

/// A leader of which the map says wrongly where it stands; other nodes tell it with a request.
pub(super) async fn follow(node: &Node) -> Result<(), Refusal> {
    let Some(map) = node.map() else { return Ok(()) };
    let Some(row) = map.node(node.id) else { return Ok(()) };
    let Site { advertise, zone, .. } = &node.site;
    if node.site.has_moved(row) {
        let command = ClusterCommand::MoveNode { node: node.id, address: *advertise };
        propose(node, CommandBody::Cluster(command)).await?;
    }
    if let Some(weight) = node.site.other_weight(row) {
        let command = ClusterCommand::PlaceNode { node: node.id, zone: zone.clone(), weight };
        propose(node, CommandBody::Cluster(command)).await?;
    }
    Ok(())
}
