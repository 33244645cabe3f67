//! How quinn is set up: windows, packets, timers, and where its randomness comes from.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::{
    ConnectionId, ConnectionIdGenerator, IdleTimeout, MtuDiscoveryConfig, TimeSource, TransportConfig, VarInt,
    crypto::{self, HmacKey},
};
use quinn_proto::HashedConnectionIdGenerator;
use tokio::time::Instant;

use super::{BindError, Credentials, socket::PAYLOAD_LEN_MIN};

/// Silence after which a connection is lost. quinn counts it from the first unanswered packet, which is a keep-alive at
/// the latest, so a peer that died is noticed [`KEEP_ALIVE_INTERVAL`] later: within 4 s, before the 5 s in which the
/// cluster promises to go on. A peer that is busy for less is not mistaken for dead.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Three keep-alives in an [`IDLE_TIMEOUT`], so that two may be lost. Only the side that dialled sends them: its peer's
/// acknowledgements keep both timers quiet, at half the packets.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Requests of one peer under way on one connection: what a client with every lane full has in flight, several times.
pub(super) const STREAMS_MAX: u32 = 1024;

/// The same at first, before the peer has made use of them: quinn keeps some 70 bytes for each. Fewer cost packets: it tells
/// a peer of new ones whenever an eighth of them has been used up.
pub(super) const STREAMS_FIRST: u32 = 64;

/// Bytes of one stream that may be in flight: a whole chunk and its header, without waiting for the receiver.
const STREAM_WINDOW: u32 = 8 << 20;

/// Bytes of one connection received and not yet read: eight chunks. More would let one peer fill our memory.
pub(super) const CONNECTION_WINDOW: u32 = 32 << 20;

/// The same for a peer that has not been welcomed yet: its first words, or a redemption with its request.
const STRANGER_WINDOW: u32 = 64 << 10;

/// Bytes of one connection handed over to be sent and not yet acknowledged.
const SEND_WINDOW: u64 = 32 << 20;

const _: () = assert!(STREAM_WINDOW > crate::frame::BODY_LEN_MAX && CONNECTION_WINDOW > STREAM_WINDOW);

/// At most so many resets: a node that was started again has a thousand peers to tell within a second or two, and
/// garbage is answered with no more bytes than it brought.
const RESET_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Which end of a connection a configuration is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    /// Dials.
    Dialler,
    /// Accepts.
    Acceptor,
}

/// Cubic and the first packet size are quinn's own: the other congestion controllers measured no better, and larger
/// first packets are lost on the way where frames are small.
pub(super) fn transport(side: Side, payload_len_max: u16) -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(payload_len_max);
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("a few seconds are milliseconds in a VarInt");
    // A dialler has checked whom it talks to before the first stream; an acceptor opens its windows when it welcomes.
    let (streams_max, window) = match side {
        Side::Dialler => (STREAMS_FIRST, CONNECTION_WINDOW),
        Side::Acceptor => (1, STRANGER_WINDOW),
    };
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval((side == Side::Dialler).then_some(KEEP_ALIVE_INTERVAL))
        .max_concurrent_bidi_streams(VarInt::from_u32(streams_max))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(window))
        .send_window(SEND_WINDOW)
        // One chunk after the other, not all a little: the first is useful while the second travels.
        .send_fairness(false)
        .initial_mtu(PAYLOAD_LEN_MIN)
        .mtu_discovery_config(Some(discovery));
    config
}

pub(super) fn endpoint_config(
    credentials: Option<&Credentials>,
    rng_seed: Option<[u8; 32]>,
    payload_len_max: u16,
) -> Result<quinn::EndpointConfig, BindError> {
    // From the node's key, so that a node that was killed and started again knows the connections of its earlier life
    // for dead and says so at once; a peer would otherwise wait for its idle timeout.
    let secret = match (credentials, rng_seed) {
        (Some(credentials), _) => blake3::derive_key("dfs 2026 QUIC endpoint", &credentials.key().to_pkcs8()),
        (None, Some(seed)) => seed,
        (None, None) => rand::random(),
    };
    let mut config = quinn::EndpointConfig::new(Arc::new(ResetKey(derived(&secret, "stateless resets"))));
    config.max_udp_payload_size(payload_len_max).map_err(|error| BindError::Tls(error.into()))?;
    config.rng_seed(rng_seed);
    config.min_reset_interval(RESET_INTERVAL_MIN);
    match rng_seed {
        Some(seed) => config.cid_generator(move || Box::new(SeededIds::new(derived(&seed, "connection ids")))),
        None => {
            // The ids too, so that what an earlier life gave out is told from garbage.
            let [a, b, c, d, e, f, g, h, ..] = derived(&secret, "connection ids");
            let key = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(key)))
        }
    };
    Ok(config)
}

/// Names for the first packets of connections, from a seed; quinn's own are random.
pub(super) fn first_ids(seed: [u8; 32]) -> Arc<dyn Fn() -> ConnectionId + Send + Sync> {
    let ids = SeededIds::new(derived(&seed, "first packets"));
    Arc::new(move || ids.next_id())
}

fn derived(secret: &[u8; 32], purpose: &str) -> [u8; 32] {
    *blake3::keyed_hash(secret, purpose.as_bytes()).as_bytes()
}

/// Signs stateless resets (RFC 9000, section 10.3).
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        blake3::Hasher::new_keyed(&self.0).update(data).finalize_xof().fill(signature_out);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), crypto::CryptoError> {
        let expected = blake3::keyed_hash(&self.0, data);
        // `blake3::Hash` compares in constant time.
        let found: [u8; 32] = signature.try_into().map_err(|_| crypto::CryptoError)?;
        if expected == blake3::Hash::from_bytes(found) { Ok(()) } else { Err(crypto::CryptoError) }
    }
}

/// Connection ids from a seed, for simulations.
#[derive(Debug)]
struct SeededIds {
    seed: [u8; 32],
    count: AtomicU64,
}

impl SeededIds {
    const LEN: usize = 8;

    fn new(seed: [u8; 32]) -> Self {
        Self { seed, count: AtomicU64::new(0) }
    }

    fn next_id(&self) -> ConnectionId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; Self::LEN];
        blake3::Hasher::new_keyed(&self.seed).update(&count.to_le_bytes()).finalize_xof().fill(&mut id);
        ConnectionId::new(&id)
    }
}

impl ConnectionIdGenerator for SeededIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.next_id()
    }

    fn cid_len(&self) -> usize {
        Self::LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Time for the tokens by which an address is proved (they live 15 s): counted from the start of the endpoint, so that
/// neither a wrong clock nor a simulated one matters.
#[derive(Debug)]
pub(super) struct EndpointTime(Instant);

impl EndpointTime {
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }
}

impl TimeSource for EndpointTime {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + self.0.elapsed()
    }
}
