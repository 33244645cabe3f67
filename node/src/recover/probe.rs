//! Asks other nodes whether they are there, without being one: over connections of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures::future::join_all;
use ring::NodeId;
use wire::{
    Answer, Request,
    cluster::{ClusterAnswer, ClusterId, ClusterMap, ClusterRequest},
    quic::{
        CallError, ConnectError, Credentials, Endpoint, EndpointConfig, Peers, PeersConfig, UdpSocketConfig, bind_udp,
    },
};

/// How long a node may take to answer: it is alive if it does at all.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// Nodes asked at most: any one knows the map.
const ASKED_MAX: usize = 32;

/// Which of `places` answer as a member of the cluster.
pub(super) async fn answering(
    credentials: Arc<Credentials>,
    cluster: ClusterId,
    places: &BTreeMap<NodeId, SocketAddr>,
) -> io::Result<BTreeSet<NodeId>> {
    let (endpoint, peers) = open(credentials, cluster, places.values())?;
    let asked = places.iter().map(|(node, address)| {
        let peers = peers.clone();
        async move { is_there(&peers, *node, *address).await.then_some(*node) }
    });
    let found = join_all(asked).await.into_iter().flatten().collect();
    endpoint.close().await;
    Ok(found)
}

async fn is_there(peers: &Peers, node: NodeId, address: SocketAddr) -> bool {
    match peers.connect_seed(address).await {
        Ok((found, _)) => found == node,
        // It is there, whatever it thinks of us.
        Err(CallError::NotSent(ConnectError::Refused { .. })) => true,
        Err(_) => false,
    }
}

/// The newest map that any of `places` has; none if nobody answers.
pub(super) async fn newest_map(
    credentials: Arc<Credentials>,
    cluster: ClusterId,
    places: impl Iterator<Item = SocketAddr>,
) -> io::Result<Option<ClusterMap>> {
    let places: BTreeSet<SocketAddr> = places.take(ASKED_MAX).collect();
    let (endpoint, peers) = open(credentials, cluster, places.iter())?;
    let maps = join_all(places.iter().map(|address| map_of(&peers, *address))).await;
    endpoint.close().await;
    Ok(maps.into_iter().flatten().max_by_key(|map| map.epoch))
}

async fn map_of(peers: &Peers, address: SocketAddr) -> Option<ClusterMap> {
    let (_, connection) = peers.connect_seed(address).await.ok()?;
    let request = Request::Cluster(ClusterRequest::Map { known: None });
    match connection.call(&request, &[], ASK_DEADLINE).await {
        Ok((Ok(Answer::Cluster(ClusterAnswer::Map { map, .. })), _)) => map.map(|map| *map),
        _ => None,
    }
}

fn open<'a>(
    credentials: Arc<Credentials>,
    cluster: ClusterId,
    mut places: impl Iterator<Item = &'a SocketAddr>,
) -> io::Result<(Endpoint, Peers)> {
    let v4 = places.next().is_none_or(SocketAddr::is_ipv4);
    let any: SocketAddr = if v4 { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = bind_udp(any, UdpSocketConfig::default())?;
    let config =
        EndpointConfig { socket, credentials: Some(credentials), cluster: Some(cluster), serve: false, rng_seed: None };
    let endpoint = Endpoint::new(config).map_err(io::Error::other)?;
    let peers = Peers::new(endpoint.clone(), PeersConfig { connect_deadline: ASK_DEADLINE, ..PeersConfig::default() });
    Ok((endpoint, peers))
}
