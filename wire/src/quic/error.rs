//! Why something did not work, and how quinn's reasons become ours.

use std::{io, net::SocketAddr, time::Duration};

use quinn::{ConnectionError, VarInt};

use crate::Refusal;

/// Connection closed because all is done.
pub(super) const CODE_DONE: VarInt = VarInt::from_u32(0);

/// Connection closed because the peer is not served; the reason is a [`Refusal`] in postcard.
pub(super) const CODE_REFUSED: VarInt = VarInt::from_u32(1);

/// Stream given up by whoever had asked, or by whoever was to answer.
pub(super) const CODE_GIVEN_UP: VarInt = VarInt::from_u32(2);

/// Errors of TLS travel as 0x100 and the number of the alert (RFC 9001, section 4.8).
const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;

/// `no_application_protocol`: no ALPN in common.
const TLS_NO_PROTOCOL: u64 = 0x100 + 120;

/// Why an endpoint cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The socket failed.
    #[error("the UDP socket cannot be used")]
    Socket(#[source] io::Error),
    /// The credentials cannot be used with TLS.
    #[error("the certificate or key cannot be used")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why there is no connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConnectError {
    /// No answer in time.
    #[error("{address} does not answer")]
    Unreachable {
        /// Who was asked.
        address: SocketAddr,
    },
    /// Its certificate is not of our cluster, ours is not of its, or it is not the peer expected.
    #[error("{address} is no member of this cluster, or does not accept this identity: {reason}")]
    Untrusted {
        /// Who was asked.
        address: SocketAddr,
        /// What TLS says.
        reason: String,
    },
    /// It refused after the handshake (removed identity, other version).
    #[error("{address} refused: {refusal}")]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
}

/// Why a call has no reply. Whether the request was executed is not known, unless it was [`CallError::NotSent`].
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection could be made, or the peer closed it with a refusal before it served anything.
    #[error(transparent)]
    NotSent(#[from] ConnectError),
    /// The deadline passed.
    #[error("no answer in {0:?}")]
    Deadline(Duration),
    /// The connection was lost, or the peer gave the request up.
    #[error("the connection was lost")]
    Lost,
    /// The reply cannot be read, or the request breaks a limit of the protocol.
    #[error("the reply is malformed")]
    Malformed,
}

/// Why a reply could not be sent: the asker has gone.
#[derive(Debug, thiserror::Error)]
#[error("the asker has gone")]
pub struct ReplyError;

/// Why a token was not redeemed.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// The address does not answer, or is not the cluster of the token.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke before the answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The cluster refused.
    #[error("{0}")]
    Refused(Refusal),
}

/// What the end of a connection says about the peer at `address`.
pub(super) fn connect_error(address: SocketAddr, error: &ConnectionError) -> ConnectError {
    let untrusted = |reason: String| ConnectError::Untrusted { address, reason };
    match error {
        ConnectionError::TransportError(error) if TLS_ALERTS.contains(&u64::from(error.code)) => {
            untrusted(error.reason.clone())
        }
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == TLS_NO_PROTOCOL => {
            untrusted("it speaks no protocol of ours".to_owned())
        }
        ConnectionError::ConnectionClosed(close) if TLS_ALERTS.contains(&u64::from(close.error_code)) => {
            untrusted(format!("it says {}", String::from_utf8_lossy(&close.reason)))
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
        {
            ConnectError::Refused { address, refusal: Refusal::Busy }
        }
        ConnectionError::ApplicationClosed(close) => match refusal_of(error) {
            Some(refusal) => ConnectError::Refused { address, refusal },
            None if close.error_code == CODE_DONE => ConnectError::Refused { address, refusal: Refusal::NotServing },
            None => untrusted("it closed the connection".to_owned()),
        },
        ConnectionError::VersionMismatch => untrusted("it speaks another version of QUIC".to_owned()),
        ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::TimedOut
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => ConnectError::Unreachable { address },
    }
}

/// What a connection that ended under a call says.
pub(super) fn call_error(address: SocketAddr, error: &ConnectionError) -> CallError {
    match refusal_of(error) {
        Some(refusal) => CallError::NotSent(ConnectError::Refused { address, refusal }),
        None => CallError::Lost,
    }
}

/// The refusal with which the peer closed a connection, if it did.
fn refusal_of(error: &ConnectionError) -> Option<Refusal> {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == CODE_REFUSED => {
            postcard::from_bytes(&close.reason).ok()
        }
        _ => None,
    }
}
