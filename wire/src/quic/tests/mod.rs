//! Claims about connections, over loopback. What a peer must not do is done through quinn itself.

mod calls;
mod identity;
mod pool;
mod strangers;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use ring::{Epoch, NodeId};

use super::*;
use crate::{
    Answer, Refusal, Reply, Request,
    chunk::{ChunkAnswer, ChunkRequest, Incarnation},
    cluster::{Access, ClientId, ClusterId, Peer},
};

/// No test waits as long as this; one that would is broken.
const LONG: Duration = Duration::from_secs(20);

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn node(number: u8) -> Peer {
    Peer::Node(NodeId::from_bytes([number; 16]))
}

fn client(number: u8) -> Peer {
    Peer::Client(ClientId([number; 16]))
}

fn credentials(authority: &AuthorityKey, peer: Peer) -> Arc<Credentials> {
    let key = KeyPair::generate();
    let certificate = authority.sign(&key.request(), peer, Access::ReadWrite).unwrap();
    Arc::new(Credentials::new(key, certificate, authority.authority().clone()).unwrap())
}

fn socket(payload_len_max: u16) -> Socket {
    let config = UdpSocketConfig { payload_len_max, ..UdpSocketConfig::default() };
    bind_udp(SocketAddr::from(([127, 0, 0, 1], 0)), config).unwrap()
}

fn endpoint_on(socket: Socket, credentials: Option<Arc<Credentials>>, cluster: Option<ClusterId>) -> Endpoint {
    let serve = matches!(credentials.as_ref().map(|own| own.peer()), Some(Peer::Node(_)));
    Endpoint::new(EndpointConfig { socket, credentials, cluster, serve, rng_seed: None }).unwrap()
}

fn endpoint(authority: &AuthorityKey, peer: Peer) -> Endpoint {
    endpoint_on(socket(PAYLOAD_LEN_MAX), Some(credentials(authority, peer)), Some(CLUSTER))
}

fn sync(epoch: u64) -> Request {
    Request::Chunk(ChunkRequest::Sync { epoch: Epoch(epoch) })
}

fn synced(incarnation: u64) -> Reply {
    Ok(Answer::Chunk(ChunkAnswer::Synced { incarnation: Incarnation(incarnation) }))
}

/// Two endpoints of one cluster and a connection from the second to the first, as both ends see it.
struct Pair {
    server: Endpoint,
    _dialler: Endpoint,
    accepted: Connection,
    dialled: Connection,
}

async fn accept_member(server: &Endpoint) -> Connection {
    match server.accept().await.expect("the endpoint is open") {
        Accepted::Member(connection) => connection,
        Accepted::Newcomer(_) => panic!("no newcomer was expected"),
    }
}

async fn pair_of(server: Endpoint, dialler: Endpoint) -> Pair {
    let address = server.local_addr().unwrap();
    let (accepted, dialled) = tokio::join!(accept_member(&server), dialler.connect(address, None, LONG));
    Pair { accepted, dialled: dialled.unwrap(), server, _dialler: dialler }
}

async fn pair() -> Pair {
    let authority = AuthorityKey::generate(CLUSTER);
    pair_of(endpoint(&authority, node(1)), endpoint(&authority, client(2))).await
}

/// A call that owns what it sends, for `join!` and `select!`.
async fn ask(connection: &Connection, epoch: u64, body: Vec<Bytes>) -> Result<(Reply, Bytes), CallError> {
    connection.call(&sync(epoch), &body, LONG).await
}

/// Answers every request with its own body and its epoch, until the connection closes.
async fn echo(connection: Connection) {
    while let Some(mut exchange) = connection.accept().await {
        let Request::Chunk(ChunkRequest::Sync { epoch }) = exchange.request else { panic!("only syncs are sent") };
        let Ok(body) = exchange.read_body().await else { continue };
        // An asker that has gone is no failure of the server.
        let _outcome = exchange.reply(&synced(epoch.0), &[body]).await;
    }
}

/// Serves whoever comes with [`echo`].
async fn serve_echo(server: Endpoint) {
    while let Some(Accepted::Member(connection)) = server.accept().await {
        tokio::spawn(echo(connection));
    }
}

fn noise(len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes.into()
}
