//! Where the nodes are reached, kept beside the rows: a node that lost its rows has no map.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use ring::NodeId;
use tracing::warn;

use super::Node;

/// Where nodes are reached.
pub type Addresses = BTreeMap<NodeId, SocketAddr>;

/// Puts addresses on stable storage.
pub type KeepAddresses = Box<dyn Fn(&Addresses) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync>;

/// Keeps where the nodes are reached, for a start without the rows.
pub(super) async fn note_addresses(node: Arc<Node>, mut kept: Addresses, keep: KeepAddresses) {
    let mut maps = node.watch_map();
    loop {
        let map = maps.borrow_and_update().clone();
        let addresses: Addresses = map.iter().flat_map(|map| &map.nodes).map(|row| (row.id, row.address)).collect();
        if !addresses.is_empty() && addresses != kept {
            match keep(&addresses) {
                Ok(()) => kept = addresses,
                Err(error) => warn!(%error, "the addresses of the nodes cannot be kept"),
            }
        }
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            changed = maps.changed() => if changed.is_err() { return },
        }
    }
}
