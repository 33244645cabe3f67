//! Carries the messages of Raft over the connections to peers.
//!
//! # Invariants
//! - A member is found though this node has no map: one that lost its rows asks the others for them before it has
//!   rows to read a map from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use ring::{Epoch, NodeId};
use tokio::{sync::watch, time::timeout};
use wire::{
    Answer, Refusal, Request,
    cluster::{ClusterAnswer, ClusterMap, ClusterRequest},
    quic::{CallError, ConnectError, Lane, Peers},
};

use super::{Addresses, offer};
use crate::consensus::{RaftTransport, TransportError};

/// Carries the messages of Raft; clones share the map.
#[derive(Clone)]
pub(super) struct PeerTransport {
    peers: Peers,
    map: Arc<watch::Sender<Option<Arc<ClusterMap>>>>,
    known: Arc<Addresses>,
    /// Addresses that nodes told of themselves, each good until the next map. Guards itself alone.
    told: Arc<Mutex<BTreeMap<NodeId, (Epoch, SocketAddr)>>>,
    /// Whom to ask for a map, each once.
    seeds: Arc<BTreeSet<SocketAddr>>,
}

impl PeerTransport {
    /// Over `peers`. `seeds` and `known` help as long as there is no map.
    pub(super) fn new(
        peers: Peers,
        map: Arc<watch::Sender<Option<Arc<ClusterMap>>>>,
        seeds: &[SocketAddr],
        known: &Addresses,
    ) -> Self {
        let seeds = seeds.iter().copied().chain(known.values().copied()).collect();
        Self { peers, map, known: Arc::new(known.clone()), told: Arc::default(), seeds: Arc::new(seeds) }
    }

    /// `node` says that it is reached at `address`. The map learns of it by the Raft log; but without this node's votes
    /// there may be no majority to write it.
    pub(super) fn note_moved(&self, node: NodeId, address: SocketAddr) {
        if let Some(map) = &*self.map.borrow() {
            self.told.lock().insert(node, (map.epoch, address));
        }
    }

    async fn address_of(&self, to: NodeId, deadline: Duration) -> Option<SocketAddr> {
        if self.map.borrow().is_none() {
            // What the others say is newer than what was kept; without an answer that has to do.
            timeout(deadline, self.fetch_map()).await.ok();
        }
        let Some(map) = self.map.borrow().clone() else { return self.known.get(&to).copied() };
        let told = self.told.lock().get(&to).copied();
        match told {
            Some((epoch, address)) if epoch == map.epoch => Some(address),
            _ => map.node(to).map(|row| row.address),
        }
    }

    async fn fetch_map(&self) {
        let request = Request::Cluster(ClusterRequest::Map { known: None });
        let deadline = Duration::from_secs(2);
        for &seed in &*self.seeds {
            let Ok((_, connection)) = self.peers.connect_seed(seed).await else { continue };
            let Ok((Ok(answer), _)) = connection.call(&request, &[], deadline).await else { continue };
            if let Answer::Cluster(ClusterAnswer::Map { map: Some(map), .. }) = answer {
                return offer(&self.map, *map);
            }
        }
    }
}

impl RaftTransport for PeerTransport {
    fn send(
        &self,
        to: NodeId,
        message: Vec<u8>,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>> {
        let this = self.clone();
        Box::pin(async move {
            let address = this.address_of(to, deadline).await.ok_or(TransportError::Unreachable)?;
            // Pieces of snapshots must not stand before heartbeats.
            let lane = if body.is_empty() { Lane::Control } else { Lane::Bulk };
            let parts = if body.is_empty() { Vec::new() } else { vec![body] };
            let request = Request::Raft(message);
            match this.peers.call(to, address, lane, &request, &parts, deadline).await {
                Ok((Ok(Answer::Raft(answer)), _)) => Ok(answer),
                Ok((Ok(_), _)) => Err(TransportError::Unreachable),
                Ok((Err(refusal), _)) => Err(TransportError::Refused(refusal)),
                Err(_) => Err(TransportError::Unreachable),
            }
        })
    }
}

/// What a call that brought no reply means: this node was removed, or the other cannot be reached.
pub(super) fn no_answer(error: &CallError) -> Refusal {
    match error {
        CallError::NotSent(ConnectError::Refused { refusal: Refusal::UnknownPeer, .. }) => Refusal::UnknownPeer,
        _ => Refusal::NoQuorum,
    }
}
