//! Who a peer is and what it may do, by the map and the tables of the voters.
//!
//! Whoever is known is let in by the word of any one voter; that somebody is unknown only the leader can say. So a node
//! that does not vote lets a client in while nobody leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use ring::{NodeId, Zone};
use tracing::warn;
use wire::{
    Answer, Refusal, Request,
    cluster::{ClusterAnswer, ClusterRequest, KeyFingerprint, Peer, PeerAccess, RaftRole},
};

use crate::{kv::KvStore, node::Node};

/// How long a peer's identity may take to be looked up at a voter.
const DEADLINE: Duration = Duration::from_secs(3);

/// How long the leader is waited for before others are asked.
const HEAD_START: Duration = Duration::from_millis(200);

/// How many members are asked beside the leader: the first of each zone, then the second, as voters are chosen.
const OTHERS_MAX: usize = 7;

/// What `peer` may do, by what this node knows or, where it does not know the peer, by the word of a voter.
pub(super) async fn identify(node: &Node, peer: Peer, key: KeyFingerprint) -> Result<PeerAccess, Refusal> {
    if let Some(access) = known_here(node, &peer, &key)? {
        return Ok(access);
    }
    if node.is_leader() {
        // Just elected, it may have to apply the very entry that let the peer in.
        return known_by_leader(node, &peer, &key, DEADLINE).await?.ok_or(Refusal::UnknownPeer);
    }
    let asking = ask(node, Request::Cluster(ClusterRequest::Identify { peer, key }));
    tokio::time::timeout(DEADLINE, asking).await.unwrap_or(Err(Refusal::NotLeader { leader: node.leader_id() }))
}

/// Answers a node that does not know `peer`: from the rows here, or if this node leads by the newest there are.
pub(super) async fn answer(
    node: &Node,
    peer: Peer,
    key: KeyFingerprint,
    deadline: Duration,
) -> Result<ClusterAnswer, Refusal> {
    if let Some(access) = known_here(node, &peer, &key)? {
        return Ok(ClusterAnswer::Identified { access: Some(access) });
    }
    if !node.is_leader() {
        return Err(Refusal::NotLeader { leader: node.leader_id() });
    }
    Ok(ClusterAnswer::Identified { access: known_by_leader(node, &peer, &key, deadline).await? })
}

/// By the map, and by the rows of a node that follows the log.
fn known_here(node: &Node, peer: &Peer, key: &KeyFingerprint) -> Result<Option<PeerAccess>, Refusal> {
    let is_mapped = |id| node.map().is_some_and(|map| map.node(id).is_some_and(|row| row.key == *key));
    if peer.node().is_some_and(is_mapped) {
        return Ok(Some(PeerAccess::Node));
    }
    match node.consensus.watch().borrow().role {
        RaftRole::None => Ok(None),
        _ => known(&*node.consensus.local(), peer, key),
    }
}

async fn known_by_leader(
    node: &Node,
    peer: &Peer,
    key: &KeyFingerprint,
    deadline: Duration,
) -> Result<Option<PeerAccess>, Refusal> {
    let rows = node.consensus.read(deadline).await.map_err(Refusal::from)?;
    known(&*rows, peer, key)
}

fn known(rows: &dyn KvStore, peer: &Peer, key: &KeyFingerprint) -> Result<Option<PeerAccess>, Refusal> {
    crate::namespace::identify(rows, peer, key).map_err(|error| {
        warn!(%error, "the table of peers cannot be read");
        Refusal::Internal
    })
}

/// The first answer of any voter; all are asked together once the leader has had its time.
async fn ask(node: &Node, request: Request) -> Result<PeerAccess, Refusal> {
    if node.leader_id().is_none() {
        node.fetch_map(DEADLINE).await;
    }
    let mut asked = BTreeSet::from([node.id]);
    let mut asking = FuturesUnordered::new();
    let leader = node.leader_id().filter(|leader| asked.insert(*leader));
    asking.extend(leader.map(|leader| node.ask(leader, &request, DEADLINE)));
    let mut others = first_members(node);
    let head_start = tokio::time::sleep(if leader.is_some() { HEAD_START } else { Duration::ZERO });
    tokio::pin!(head_start);
    loop {
        let answer = tokio::select! {
            biased;
            Some(answer) = asking.next() => answer,
            () = &mut head_start, if !others.is_empty() => {
                let others = std::mem::take(&mut others).into_iter().filter(|other| asked.insert(*other));
                asking.extend(others.map(|other| node.ask(other, &request, DEADLINE)));
                continue;
            }
            else => return Err(Refusal::NotLeader { leader: node.leader_id() }),
        };
        match answer {
            Ok(Answer::Cluster(ClusterAnswer::Identified { access })) => return access.ok_or(Refusal::UnknownPeer),
            Err(Refusal::NotLeader { leader: Some(leader) }) if asked.insert(leader) => {
                asking.push(node.ask(leader, &request, DEADLINE));
            }
            _ => {}
        }
    }
}

fn first_members(node: &Node) -> Vec<NodeId> {
    let map = node.map();
    let mut of_zone: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    let members = map.iter().flat_map(|map| &map.nodes).map(|row| {
        let place = of_zone.entry(row.zone.as_ref().map(Zone::as_str)).or_default();
        *place += 1;
        (*place, row.id)
    });
    let mut members: Vec<(usize, NodeId)> = members.filter(|(_, id)| *id != node.id).collect();
    members.sort_by_key(|(place, _)| *place);
    members.into_iter().map(|(_, id)| id).take(OTHERS_MAX).collect()
}
