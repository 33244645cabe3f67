//! Frames over QUIC, between peers that know each other.
//!
//! # Invariants
//! - Mutual TLS 1.3: both ends show a certificate of the cluster's authority. Only the join ALPN serves a peer
//!   without one, and there only one [`crate::cluster::Redeem`].
//! - One request a bidirectional stream. Dropping a [`Connection::call`] resets its stream.
//! - Every call has a deadline; it travels with the request, so that a server does not work for nobody.
//! - Until a peer has been welcomed it has one stream and a small window: strangers cannot fill memory.
//!
//! # Not here
//! Whether a peer's identity is still a row of the map: the acceptor's decision, see [`Connection::peer`].

mod connection;
mod endpoint;
mod error;
mod exchange;
mod handshake;
mod identity;
mod peers;
mod socket;
mod stream;
mod tls;
mod transport;

pub use connection::Connection;
pub use endpoint::{Accepted, Endpoint, EndpointConfig};
pub use error::{BindError, CallError, ConnectError, RedeemError, ReplyError};
pub use exchange::{Exchange, NewcomerExchange};
pub use identity::{Authority, AuthorityKey, Credentials, IdentityError, KeyPair};
pub use peers::{Lane, Peers, PeersConfig};
pub use socket::{DatagramSocket, PAYLOAD_LEN_MAX, PAYLOAD_LEN_MIN, Socket, UdpSocketConfig, bind_udp};

#[cfg(test)]
mod tests;
