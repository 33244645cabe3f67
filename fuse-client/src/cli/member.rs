//! A node, as people name it: by its address, or by the first digits of its id.

use fuse_client::Cluster;
use ring::NodeId;
use wire::cluster::ClusterMap;

use super::{
    failure::{Failure, Line},
    health::short_ids,
};

/// Fewer digits are no name: they may mean another node tomorrow.
const DIGITS_MIN: usize = 4;

/// A member, with what it is called in sentences.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Named {
    /// Who.
    pub(crate) id: NodeId,
    /// The first digits of its id.
    pub(crate) name: String,
}

/// The member that `text` names; `action` is what cannot be done otherwise.
pub(crate) async fn find_member(action: &str, cluster: &Cluster, text: &str) -> Result<Named, Failure> {
    let failed = |error| Line::new("cannot ask for the cluster map").because(&error).failed();
    let map = cluster.refresh().await.map_err(failed)?;
    let found = matching(&map, text);
    let ids: Vec<NodeId> = map.nodes.iter().map(|row| row.id).collect();
    let line = Line::new(format!("cannot {action} '{text}'"));
    match found.as_slice() {
        [id] => Ok(Named { id: *id, name: short_ids(&ids)(*id) }),
        [] => Err(line.why("no node has this address or id").advice("dfs nodes lists them").failed()),
        [..] => Err(line.why("several nodes have ids that begin so").advice("give more digits").failed()),
    }
}

fn matching(map: &ClusterMap, text: &str) -> Vec<NodeId> {
    let digits = text.to_ascii_lowercase();
    let is_prefix = |id: NodeId| digits.len() >= DIGITS_MIN && id.to_string().starts_with(&digits);
    let is_named = |row: &&wire::cluster::NodeRow| row.address.to_string() == text || is_prefix(row.id);
    map.nodes.iter().filter(is_named).map(|row| row.id).collect()
}
