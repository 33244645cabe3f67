//! A UDP socket with QUIC on it: dialling, accepting, redeeming.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use quinn::{
    TokioRuntime, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
    rustls::pki_types::CertificateDer,
};
use tokio::{sync::Mutex, time::timeout};
use tracing::debug;

use super::{
    BindError, CallError, ConnectError, Connection, Credentials, NewcomerExchange, RedeemError,
    error::{CODE_DONE, connect_error},
    handshake::{self, Acceptor},
    identity::{self, Leaf},
    socket::Socket,
    stream::{ReadEnd, SendHalf, WriteEnd, read_frame},
    tls,
    transport::{EndpointTime, Side, endpoint_config, first_ids, transport},
};
use crate::{
    Refusal,
    cluster::{ClusterId, Peer, Redeem, Redeemed},
    frame,
};

/// How long a handshake may take from the first packet to the last word; longer than a dialler waits.
pub(super) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Handshakes under way at once: a cluster of a thousand machines that starts all at once waits a few rounds, a
/// flood of strangers costs 256 signatures a round trip.
const HANDSHAKES_MAX: usize = 256;

/// Connections at once: eight for each of a thousand nodes and a thousand clients.
const CONNECTIONS_MAX: usize = 16_384;

/// How long [`Endpoint::close`] waits for peers to be told.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// How long [`Endpoint::hang_up`] waits for them.
const HANG_UP_DEADLINE: Duration = Duration::from_millis(10);

/// What an endpoint needs.
#[derive(Debug)]
pub struct EndpointConfig {
    /// The socket.
    pub socket: Socket,
    /// Who we are; none for a newcomer, who can only redeem.
    pub credentials: Option<Arc<Credentials>>,
    /// Which cluster; told in the handshake. If none, the one that the credentials' authority names.
    pub cluster: Option<ClusterId>,
    /// Whether to accept connections.
    pub serve: bool,
    /// Seed for quinn's own randomness (connection ids, tokens): fixed in simulation.
    pub rng_seed: Option<[u8; 32]>,
}

/// A UDP socket with QUIC on it: connects, and accepts if it serves. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    quinn: quinn::Endpoint,
    /// None for a newcomer.
    member: Option<Member>,
    payload_len_max: u16,
    rng_seed: Option<[u8; 32]>,
    /// Handshakes under way. One task at a time waits for the next peer; it may go away while it waits, and the
    /// handshakes stay.
    handshakes: Mutex<FuturesUnordered<BoxFuture<'static, Option<Accepted>>>>,
}

#[derive(Debug)]
struct Member {
    config: quinn::ClientConfig,
    cluster: ClusterId,
}

/// What arrives at a serving endpoint.
#[derive(Debug)]
pub enum Accepted {
    /// A peer with a certificate of the authority. Whether it is still a row of the map is for the caller to decide
    /// before it serves anything ([`Connection::refuse`] otherwise).
    Member(Connection),
    /// A newcomer with its one request.
    Newcomer(NewcomerExchange),
}

impl Endpoint {
    /// An endpoint on a socket.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn new(config: EndpointConfig) -> Result<Self, BindError> {
        let EndpointConfig { socket, credentials, cluster, serve, rng_seed } = config;
        let payload_len_max = socket.payload_len_max();
        let credentials = credentials.as_deref();
        let cluster = match (cluster, credentials) {
            (Some(cluster), _) => Some(cluster),
            (None, Some(credentials)) => {
                Some(credentials.authority().cluster().map_err(|error| BindError::Tls(error.into()))?)
            }
            (None, None) => None,
        };
        let server = match credentials {
            Some(credentials) if serve => Some(server_config(credentials, payload_len_max)?),
            None if serve => return Err(BindError::Tls("an endpoint that serves has credentials".into())),
            Some(_) | None => None,
        };
        let member = match (credentials, cluster) {
            (Some(credentials), Some(cluster)) => {
                let config = client_config(tls::member_config(credentials)?, payload_len_max, rng_seed)?;
                Some(Member { config, cluster })
            }
            _ => None,
        };
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            endpoint_config(credentials, rng_seed, payload_len_max)?,
            server,
            socket.into_quinn().map_err(BindError::Socket)?,
            Arc::new(TokioRuntime),
        )
        .map_err(BindError::Socket)?;
        let handshakes = Mutex::new(FuturesUnordered::new());
        Ok(Self { inner: Arc::new(Inner { quinn, member, payload_len_max, rng_seed, handshakes }) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.quinn.local_addr()
    }

    /// A connection to `address`, which must show a node's certificate of our authority and be `expect`, if given.
    pub async fn connect(
        &self,
        address: SocketAddr,
        expect: Option<Peer>,
        deadline: Duration,
    ) -> Result<Connection, ConnectError> {
        let Some(member) = &self.inner.member else {
            return Err(ConnectError::Untrusted { address, reason: "this end has no certificate".to_owned() });
        };
        let dialled = async {
            let (quinn, leaf) = self.dial(member.config.clone(), address).await?;
            if expect.is_some_and(|expected| expected != leaf.peer) {
                quinn.close(CODE_DONE, b"");
                return Err(ConnectError::Untrusted { address, reason: format!("it is {:?}", leaf.peer) });
            }
            handshake::greet(&quinn, member.cluster).await.inspect_err(|_| quinn.close(CODE_DONE, b""))?;
            Ok(Connection::new(quinn, leaf))
        };
        timeout(deadline, dialled).await.unwrap_or(Err(ConnectError::Unreachable { address }))
    }

    /// Redeems a token at `address`, whose chain must hold the authority with this fingerprint.
    pub async fn redeem(
        &self,
        address: SocketAddr,
        authority: [u8; 32],
        redeem: &Redeem,
        deadline: Duration,
    ) -> Result<Redeemed, RedeemError> {
        let untrusted = |reason: &str| ConnectError::Untrusted { address, reason: reason.to_owned() };
        let config = tls::newcomer_config(authority)
            .and_then(|config| client_config(config, self.inner.payload_len_max, self.inner.rng_seed))
            .map_err(|_| untrusted("TLS cannot be set up"))?;
        let header = frame::encode(redeem, 0).map_err(|_| CallError::Malformed)?;
        let asked = async {
            let (quinn, _) = self.dial(config, address).await?;
            let outcome = ask_for_redemption(&quinn, header, address).await;
            quinn.close(CODE_DONE, b"");
            outcome?.map_err(RedeemError::Refused)
        };
        timeout(deadline, asked).await.unwrap_or(Err(ConnectError::Unreachable { address }.into()))
    }

    /// The next peer or newcomer; none when the endpoint is closed. Handshakes run beside each other, and only while
    /// somebody waits here.
    pub async fn accept(&self) -> Option<Accepted> {
        let mut handshakes = self.inner.handshakes.lock().await;
        loop {
            tokio::select! {
                biased;
                Some(outcome) = handshakes.next(), if !handshakes.is_empty() => {
                    if outcome.is_some() {
                        return outcome;
                    }
                }
                incoming = self.inner.quinn.accept(), if handshakes.len() < HANDSHAKES_MAX => {
                    if let Some(incoming) = self.admit(incoming?, handshakes.len()) {
                        let acceptor = Acceptor { cluster: self.inner.member.as_ref()?.cluster };
                        handshakes.push(acceptor.accept(incoming).boxed());
                    }
                }
            }
        }
    }

    /// Closes all connections and waits (bounded) until the peers were told, and the address is free.
    pub async fn close(&self) {
        self.close_within(CLOSE_DEADLINE).await;
    }

    /// Closes all connections and waits until the peers are likely to have been told, for a program that ends. The words
    /// go out at once; what quinn waits for before the address is free is packets that are still on their way to us,
    /// three times as long as one could take: 80 ms of every command.
    pub async fn hang_up(&self) {
        self.close_within(HANG_UP_DEADLINE).await;
    }

    async fn close_within(&self, patience: Duration) {
        self.inner.quinn.close(CODE_DONE, b"");
        // Peers that do not answer find out by their idle timeout.
        let _outcome = timeout(patience, self.inner.quinn.wait_idle()).await;
    }

    /// Turns away what is too much; when half the places are taken, only who proves its address gets one of the rest.
    fn admit(&self, incoming: quinn::Incoming, handshakes: usize) -> Option<quinn::Incoming> {
        if self.inner.quinn.open_connections() >= CONNECTIONS_MAX {
            debug!(address = %incoming.remote_address(), "too many connections");
            incoming.refuse();
            return None;
        }
        if handshakes >= HANDSHAKES_MAX / 2 && !incoming.remote_address_validated() {
            // Fails only for an address that is validated already.
            let _outcome = incoming.retry();
            return None;
        }
        Some(incoming)
    }

    /// TLS with a node: its connection, and who it is.
    async fn dial(
        &self,
        config: quinn::ClientConfig,
        address: SocketAddr,
    ) -> Result<(quinn::Connection, Leaf), ConnectError> {
        let connecting = self
            .inner
            .quinn
            .connect_with(config, address, tls::SERVER_NAME)
            .map_err(|_| ConnectError::Unreachable { address })?;
        let quinn = connecting.await.map_err(|error| connect_error(address, &error))?;
        let leaf = leaf_of(&quinn).expect("the verifier has read the certificate of a server");
        Ok((quinn, leaf))
    }
}

/// Who is at the other end; none if it showed no certificate of ours.
pub(super) fn leaf_of(connection: &quinn::Connection) -> Option<Leaf> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    identity::leaf_of(chain.first()?)
}

async fn ask_for_redemption(
    connection: &quinn::Connection,
    header: Vec<u8>,
    address: SocketAddr,
) -> Result<Result<Redeemed, Refusal>, RedeemError> {
    let (send, mut receive) = connection.open_bi().await.map_err(|error| connect_error(address, &error))?;
    let mut send = SendHalf::new(send);
    match send.send(header, &[]).await {
        Ok(()) | Err(WriteEnd::Stopped) => {}
        Err(WriteEnd::Connection(error)) => return Err(connect_error(address, &error).into()),
    }
    let answer = match read_frame(&mut receive).await {
        Ok(frame) => frame.message().map_err(|_| CallError::Malformed.into()),
        Err(ReadEnd::Malformed(_)) => Err(CallError::Malformed.into()),
        Err(ReadEnd::Short | ReadEnd::Reset) => Err(CallError::Lost.into()),
        Err(ReadEnd::Connection(error)) => Err(connect_error(address, &error).into()),
    };
    send.settle();
    answer
}

fn server_config(credentials: &Credentials, payload_len_max: u16) -> Result<quinn::ServerConfig, BindError> {
    let crypto =
        QuicServerConfig::try_from(tls::server_config(credentials)?).map_err(|error| BindError::Tls(error.into()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport(Side::Acceptor, payload_len_max)))
        // Connections wait here for a place among the handshakes; each may have sent a few packets by then.
        .max_incoming(2 * HANDSHAKES_MAX)
        .incoming_buffer_size(16 << 10)
        .incoming_buffer_size_total(4 << 20)
        // Machines of a cluster stay where they are; an address that changes under a connection is a new connection.
        .migration(false)
        .time_source(Arc::new(EndpointTime::new()));
    Ok(config)
}

fn client_config(
    tls: rustls::ClientConfig,
    payload_len_max: u16,
    rng_seed: Option<[u8; 32]>,
) -> Result<quinn::ClientConfig, BindError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| BindError::Tls(error.into()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(Side::Dialler, payload_len_max)));
    if let Some(seed) = rng_seed {
        config.initial_dst_cid_provider(first_ids(seed));
    }
    Ok(config)
}

/// What a peer that has been let in may have under way at first.
pub(super) fn open_windows(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(super::transport::CONNECTION_WINDOW));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(super::transport::STREAMS_FIRST));
}
