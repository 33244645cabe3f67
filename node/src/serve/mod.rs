//! Answers requests: one task a request, one span each, bounded in number and in bytes.
//!
//! # Invariants
//! - Nothing is served to a peer whose identity is no row of the map or the client table.
//! - Every request is answered, if only with a refusal.
//!
//! # Not here
//! What the answers are made of: `chunk_store`, `consensus`, `namespace`.

pub(crate) use chunk::{keep as keep_chunk, list_refusal, put_refusal};

mod change;
mod chunk;
mod cluster;
mod desk;
pub(crate) mod garbage;
mod health;
mod identify;
mod lease;
mod moves;
mod namespace;
mod question;
mod redeem;
mod room;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use self::namespace::propose;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{Instrument, debug, debug_span, info};
use wire::{
    Refusal, Reply, Request,
    cluster::{Access, Peer, PeerAccess},
    lease::LeaseRequest,
    namespace::{Batch, NamespaceRequest, NumberedOp, Op},
    quic::{Accepted, Connection, Endpoint, Exchange},
};

use crate::{node::Node, repair::Turn};

/// How long before the asker's deadline a request that waits is answered, at most.
const ANSWER_MARGIN: Duration = Duration::from_millis(300);

/// How long any request may take, whatever its sender would wait.
const REQUEST_DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Serves until the node stops.
pub async fn accept(node: Arc<Node>, endpoint: Endpoint) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            accepted = endpoint.accept() => accepted,
        };
        match accepted {
            Some(Accepted::Member(connection)) => {
                let span = debug_span!("connection", peer = ?connection.peer(), address = %connection.address());
                node.tasks.spawn(serve_connection(node.clone(), connection).instrument(span));
            }
            Some(Accepted::Newcomer(exchange)) => {
                node.tasks.spawn(redeem::serve(node.clone(), exchange));
            }
            None => return,
        }
    }
}

async fn serve_connection(node: Arc<Node>, connection: Connection) {
    let access = match identify::identify(&node, connection.peer(), connection.key()).await {
        Ok(access) => access,
        Err(refusal) => {
            info!(%refusal, peer = ?connection.peer(), "connection refused");
            return connection.refuse(refusal);
        }
    };
    let mut maps = node.watch_map();
    let mut is_member = false;
    loop {
        // A removal holds as soon as it is known here.
        let was_member = std::mem::replace(&mut is_member, is_listed(&node, connection.peer()));
        if was_member && !is_member {
            info!(peer = ?connection.peer(), "it was removed: its connection ends");
            return connection.refuse(Refusal::UnknownPeer);
        }
        let exchange = tokio::select! {
            biased;
            () = node.stop.cancelled() => return connection.close(),
            exchange = connection.accept() => exchange,
            changed = maps.changed() => if changed.is_ok() { continue } else { return connection.close() },
        };
        let Some(exchange) = exchange else { return };
        let asker = Asker { peer: connection.peer(), access };
        // A client whose requests wait reads no more of them. Those of a node wait side by side: a listing for its
        // repair must not stand before its heartbeats.
        let permit = match access {
            PeerAccess::Node => None,
            PeerAccess::Client(_) => match places(&node, &asker, &exchange.request).clone().acquire_owned().await {
                Ok(permit) => Some(permit),
                Err(_) => return,
            },
        };
        let request = serve_exchange(node.clone(), asker, exchange, permit);
        node.tasks.spawn(request.in_current_span());
    }
}

/// Whether the map in use lists `peer` as a node.
fn is_listed(node: &Node, peer: Peer) -> bool {
    let map = node.map();
    peer.node().is_some_and(|id| map.is_some_and(|map| map.node(id).is_some()))
}

/// The places for such a request: what keeps the cluster together never waits for clients.
fn places<'a>(node: &'a Node, asker: &Asker, request: &Request) -> &'a Arc<Semaphore> {
    match (asker.access, request) {
        (PeerAccess::Node, Request::Raft(_) | Request::Cluster(_)) => &node.peer_requests,
        (_, Request::Namespace(NamespaceRequest::Lease(LeaseRequest::Recalls { .. }))) => &node.recall_listeners,
        _ => &node.requests,
    }
}

/// Whether somebody waits for the answer to this, so that repair leaves it its share. A mount that listens for recalls has
/// nothing to do.
fn is_foreground(asker: &Asker, request: &Request) -> bool {
    match (asker.access, request) {
        (PeerAccess::Node, _) => false,
        (_, Request::Namespace(NamespaceRequest::Lease(LeaseRequest::Recalls { .. }))) => false,
        (PeerAccess::Client(_), _) => true,
    }
}

/// Who asks, and what it may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// Who.
    pub(crate) peer: Peer,
    /// What it may.
    pub(crate) access: PeerAccess,
}

impl Asker {
    /// Refuses a client that may only read.
    pub(crate) fn may_write(&self) -> Result<(), Refusal> {
        match self.access {
            PeerAccess::Node | PeerAccess::Client(Access::ReadWrite) => Ok(()),
            PeerAccess::Client(Access::ReadOnly) => Err(Refusal::ReadOnly),
        }
    }

    /// Refuses a client that may only read, unless all it wants to change are locks, which those who read need as well.
    pub(crate) fn may_change(&self, batch: &Batch) -> Result<(), Refusal> {
        let is_lock = |op: &NumberedOp| matches!(op.op, Op::Lock { .. } | Op::Unlock { .. });
        if batch.ops.iter().all(is_lock) { Ok(()) } else { self.may_write() }
    }

    /// Refuses whoever is no node.
    pub(crate) fn must_be_node(&self) -> Result<ring::NodeId, Refusal> {
        match (self.access, self.peer) {
            (PeerAccess::Node, Peer::Node(node)) => Ok(node),
            _ => Err(Refusal::NotAllowed),
        }
    }
}

/// An answer with the bytes that follow it.
pub(crate) struct Served {
    /// The answer.
    pub(crate) answer: wire::Answer,
    /// Parts of the body.
    pub(crate) body: Vec<Bytes>,
    /// Room in memory for the body, taken before it was read and held until it has left.
    pub(crate) room: Option<OwnedSemaphorePermit>,
    /// Of repair, in which the body was read and leaves.
    pub(crate) turn: Option<Turn>,
}

impl From<wire::Answer> for Served {
    fn from(answer: wire::Answer) -> Self {
        Self { answer, body: Vec::new(), room: None, turn: None }
    }
}

/// Answers one request. `permit` is its place, if it has one already; held until the answer has left.
async fn serve_exchange(
    node: Arc<Node>,
    asker: Asker,
    mut exchange: Exchange,
    mut permit: Option<OwnedSemaphorePermit>,
) {
    let deadline = exchange.deadline.min(REQUEST_DEADLINE_MAX);
    // What could not be done in time is said in time: that nobody leads is another word than silence.
    let work_deadline = deadline - (deadline / 10).min(ANSWER_MARGIN);
    let _served = is_foreground(&asker, &exchange.request).then(|| node.repair.turns.serve_client());
    let gone = exchange.gone();
    let work = async {
        if permit.is_none() {
            let place = places(&node, &asker, &exchange.request).clone().acquire_owned().await;
            permit = Some(place.map_err(|_| Refusal::NotServing)?);
        }
        handle(&node, asker, &mut exchange, work_deadline).await
    };
    let served = tokio::select! {
        biased;
        served = tokio::time::timeout(deadline, work) => served.unwrap_or(Err(Refusal::Busy)),
        // Nobody waits for the answer: the place is for others.
        () = gone => return debug!("request given up"),
    };
    let (reply, body, held): (Reply, Vec<Bytes>, _) = match served {
        Ok(served) => (Ok(served.answer), served.body, (served.room, served.turn)),
        Err(refusal) => {
            debug!(%refusal, "request refused");
            (Err(refusal), Vec::new(), (None, None))
        }
    };
    // Whoever does not take the answer must not keep its bytes in memory.
    match tokio::time::timeout(REQUEST_DEADLINE_MAX, exchange.reply(&reply, &body)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "answer not delivered"),
        Err(_) => debug!("answer not taken in time"),
    }
    drop(held);
}

async fn handle(
    node: &Arc<Node>,
    asker: Asker,
    exchange: &mut Exchange,
    deadline: Duration,
) -> Result<Served, Refusal> {
    // The request is taken apart below, the body is still to be read from the exchange.
    let request = std::mem::replace(&mut exchange.request, Request::Raft(Vec::new()));
    match request {
        Request::Chunk(request) => chunk::handle(node, asker, request, exchange).await,
        Request::Namespace(request) => namespace::handle(node, asker, request, deadline).await,
        Request::Cluster(request) => cluster::handle(node, asker, request, deadline).await,
        Request::Raft(message) => {
            let from = asker.must_be_node()?;
            // Entries and pages have room of their own: chunks of clients must not silence the leader.
            let _room = take_room(&node.raft_bodies, exchange.body_len).await?;
            let body = read_body(node, exchange).await?;
            let answer = node.consensus.handle(from, &message, body).await?;
            Ok(wire::Answer::Raft(answer).into())
        }
    }
}

/// Waits for room in memory for a body; held as long as its bytes are.
pub(crate) async fn take_room(of: &Arc<Semaphore>, len: u32) -> Result<OwnedSemaphorePermit, Refusal> {
    of.clone().acquire_many_owned(len).await.map_err(|_| Refusal::NotServing)
}

/// Reads a body for which there is room.
pub(crate) async fn read_body(node: &Node, exchange: &mut Exchange) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(node.config.serve.body_deadline, exchange.read_body()).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(Refusal::Malformed),
        Err(_) => Err(Refusal::Busy),
    }
}
