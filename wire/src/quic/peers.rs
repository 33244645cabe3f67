//! A few connections to each node, kept and made again.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use ring::NodeId;
use tokio::time::{Instant, timeout};

use super::{CallError, ConnectError, Connection, Endpoint};
use crate::{Reply, Request, cluster::Peer};

/// Which of a node's connections: bulk transfers must not stand before a heartbeat.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Lane {
    /// Small requests.
    Control,
    /// Chunks, snapshots.
    Bulk,
}

/// Bounds.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// How long a connection may take to stand; 2 s by default.
    pub connect_deadline: Duration,
    /// How long a node that could not be reached is not tried again; 200 ms by default: callers that retry at once
    /// learn of it at once, and a node that comes back is not kept waiting.
    pub retry_after: Duration,
}

impl Default for PeersConfig {
    fn default() -> Self {
        Self { connect_deadline: Duration::from_secs(2), retry_after: Duration::from_millis(200) }
    }
}

/// Connections to nodes, by identity: one a lane, made when first needed, shared by all who call (one handshake for
/// all who wait), made again after loss. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    config: PeersConfig,
    /// Guards the table alone, never held while waiting. One row for each node and lane that was called, at most two
    /// for each member of the map; [`Peers::forget`] removes them.
    slots: Mutex<BTreeMap<(NodeId, Lane), Slot>>,
}

type Dial = Shared<BoxFuture<'static, Result<Connection, ConnectError>>>;

#[derive(Clone, Debug)]
enum Slot {
    Dialling { address: SocketAddr, dial: Dial },
    Connected { address: SocketAddr, connection: Connection },
    Failed { address: SocketAddr, at: Instant, error: ConnectError },
}

impl Peers {
    /// Over `endpoint`.
    pub fn new(endpoint: Endpoint, config: PeersConfig) -> Self {
        Self { inner: Arc::new(Inner { endpoint, config, slots: Mutex::new(BTreeMap::new()) }) }
    }

    /// Asks `node`, which listens at `address`.
    pub async fn call(
        &self,
        node: NodeId,
        address: SocketAddr,
        lane: Lane,
        request: &Request,
        body: &[Bytes],
        deadline: Duration,
    ) -> Result<(Reply, Bytes), CallError> {
        let until = Instant::now() + deadline;
        let connection = match self.standing(node, address, lane) {
            Some(connection) => connection,
            None => timeout(deadline, self.connection(node, address, lane))
                .await
                .unwrap_or(Err(ConnectError::Unreachable { address }))?,
        };
        let left = until.saturating_duration_since(Instant::now());
        connection.call(request, body, left).await.map_err(|error| match error {
            CallError::Deadline(_) => CallError::Deadline(deadline),
            CallError::NotSent(_) | CallError::Lost | CallError::Malformed => error,
        })
    }

    /// Connects to whoever of the cluster listens at `address` (a seed, whose identity is not known yet), and keeps
    /// the connection under the identity that it shows.
    pub async fn connect_seed(&self, address: SocketAddr) -> Result<(NodeId, Connection), CallError> {
        let connection = self.inner.endpoint.connect(address, None, self.inner.config.connect_deadline).await?;
        let Peer::Node(node) = connection.peer() else { unreachable!("only nodes pass as servers") };
        let slot = Slot::Connected { address, connection: connection.clone() };
        self.slots().insert((node, Lane::Control), slot);
        Ok((node, connection))
    }

    /// Closes the connections to `node`.
    pub fn forget(&self, node: NodeId) {
        let mut slots = self.slots();
        for lane in [Lane::Control, Lane::Bulk] {
            if let Some(Slot::Connected { connection, .. }) = slots.remove(&(node, lane)) {
                connection.close();
            }
        }
    }

    /// The endpoint below.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// The connection if it stands: the way of nearly every call.
    fn standing(&self, node: NodeId, address: SocketAddr, lane: Lane) -> Option<Connection> {
        match self.slots().get(&(node, lane)) {
            Some(Slot::Connected { address: at, connection }) if *at == address && !connection.is_closed() => {
                Some(connection.clone())
            }
            _ => None,
        }
    }

    /// Joins the dial that is under way, or begins one, unless one has just failed.
    async fn connection(&self, node: NodeId, address: SocketAddr, lane: Lane) -> Result<Connection, ConnectError> {
        let dial = {
            let mut slots = self.slots();
            let slot = slots.get(&(node, lane)).filter(|slot| slot.address() == address);
            match slot {
                Some(Slot::Connected { connection, .. }) if !connection.is_closed() => return Ok(connection.clone()),
                Some(Slot::Failed { at, error, .. }) if at.elapsed() < self.inner.config.retry_after => {
                    return Err(error.clone());
                }
                Some(Slot::Dialling { dial, .. }) => dial.clone(),
                Some(Slot::Connected { .. } | Slot::Failed { .. }) | None => {
                    let dial = self.dial(node, address);
                    slots.insert((node, lane), Slot::Dialling { address, dial: dial.clone() });
                    dial
                }
            }
        };
        let outcome = dial.clone().await;
        self.note(node, lane, address, &dial, &outcome);
        outcome
    }

    /// Runs while anybody waits for it; when all have gone the next one goes on where it stopped.
    fn dial(&self, node: NodeId, address: SocketAddr) -> Dial {
        let endpoint = self.inner.endpoint.clone();
        let deadline = self.inner.config.connect_deadline;
        async move { endpoint.connect(address, Some(Peer::Node(node)), deadline).await }.boxed().shared()
    }

    /// The first of those who waited puts the outcome in the place of the dial, if that is still the one.
    fn note(
        &self,
        node: NodeId,
        lane: Lane,
        address: SocketAddr,
        dial: &Dial,
        outcome: &Result<Connection, ConnectError>,
    ) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(&(node, lane)) else { return };
        if matches!(slot, Slot::Dialling { dial: current, .. } if current.ptr_eq(dial)) {
            *slot = match outcome {
                Ok(connection) => Slot::Connected { address, connection: connection.clone() },
                Err(error) => Slot::Failed { address, at: Instant::now(), error: error.clone() },
            };
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<(NodeId, Lane), Slot>> {
        // Nothing that can panic runs under the lock, so a poisoned table is a whole one.
        self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Dialling { address, .. } | Self::Connected { address, .. } | Self::Failed { address, .. } => *address,
        }
    }
}
