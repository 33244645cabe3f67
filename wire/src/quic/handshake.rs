//! First words on a connection: who may stay, and in which version both speak.

use quinn::crypto::rustls::HandshakeData;
use tokio::time::timeout;
use tracing::debug;

use super::{
    Accepted, ConnectError, Connection, NewcomerExchange,
    connection::refuse,
    endpoint::{HANDSHAKE_DEADLINE, leaf_of, open_windows},
    error::{CODE_DONE, connect_error},
    identity::Leaf,
    stream::{ReadEnd, SendHalf, WriteEnd, read_first_words, read_frame},
};
use crate::{
    Refusal,
    cluster::{ClusterId, Redeem},
    frame,
    handshake::{ALPN_JOIN, Hello, HelloReply, VERSION_MAX, VERSION_MIN, Welcome},
};

/// The dialler's words: says hello and waits to be welcomed.
pub(super) async fn greet(connection: &quinn::Connection, cluster: ClusterId) -> Result<Welcome, ConnectError> {
    let address = connection.remote_address();
    let lost = |error: quinn::ConnectionError| connect_error(address, &error);
    let hello = Hello { version_min: VERSION_MIN, version_max: VERSION_MAX, cluster, features: 0 };
    let header = frame::encode(&hello, 0).expect("a hello is a few bytes");
    let (send, mut receive) = connection.open_bi().await.map_err(lost)?;
    let mut send = SendHalf::new(send);
    match send.send(header, &[]).await {
        Ok(()) | Err(WriteEnd::Stopped) => {}
        Err(WriteEnd::Connection(error)) => return Err(lost(error)),
    }
    let strange = || ConnectError::Untrusted { address, reason: "its first words cannot be read".to_owned() };
    let reply: HelloReply = match read_frame(&mut receive).await {
        Ok(frame) => frame.message().map_err(|_| strange())?,
        Err(ReadEnd::Connection(error)) => return Err(lost(error)),
        Err(ReadEnd::Malformed(_) | ReadEnd::Short | ReadEnd::Reset) => return Err(strange()),
    };
    send.settle();
    reply.map_err(|refusal| ConnectError::Refused { address, refusal })
}

/// The acceptor's part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Acceptor {
    pub(super) cluster: ClusterId,
}

impl Acceptor {
    /// A peer or newcomer whose first words were sound; none if it was turned away, or too slow.
    pub(super) async fn accept(self, incoming: quinn::Incoming) -> Option<Accepted> {
        let address = incoming.remote_address();
        let accepted = async {
            let connection = match incoming.accept() {
                Ok(connecting) => connecting.await,
                Err(error) => Err(error),
            };
            let connection = connection.inspect_err(|error| debug!(%address, %error, "no handshake")).ok()?;
            // Dropped half-way it would close as if all were done.
            let connection = CloseOnDrop(Some(connection));
            let accepted = self.welcome(connection.quinn()).await;
            if accepted.is_some() {
                connection.keep();
            }
            accepted
        };
        timeout(HANDSHAKE_DEADLINE, accepted).await.ok().flatten()
    }

    async fn welcome(self, connection: &quinn::Connection) -> Option<Accepted> {
        let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
        if data.protocol.as_deref() == Some(ALPN_JOIN) {
            return self.welcome_newcomer(connection).await.map(Accepted::Newcomer);
        }
        match leaf_of(connection) {
            Some(leaf) => self.welcome_member(connection, leaf).await.map(Accepted::Member),
            None => {
                debug!(address = %connection.remote_address(), "a peer without a certificate");
                refuse(connection, &Refusal::UnknownPeer);
                None
            }
        }
    }

    async fn welcome_member(self, connection: &quinn::Connection, leaf: Leaf) -> Option<Connection> {
        let (send, mut receive) = connection.accept_bi().await.ok()?;
        let mut send = SendHalf::new(send);
        let hello = match read_first_words(&mut receive).await {
            Ok(frame) => frame.message::<Hello>().map_err(|_| Refusal::Malformed),
            Err(ReadEnd::Malformed(_)) => Err(Refusal::Malformed),
            Err(ReadEnd::Short | ReadEnd::Reset | ReadEnd::Connection(_)) => return None,
        };
        let reply: HelloReply = hello.and_then(|hello| self.answer(&hello));
        if reply.is_ok() {
            open_windows(connection);
        }
        let header = frame::encode(&reply, 0).expect("first words are a few bytes");
        send.send(header, &[]).await.ok()?;
        send.settle();
        match reply {
            Ok(_) => Some(Connection::new(connection.clone(), leaf)),
            Err(refusal) => {
                debug!(address = %connection.remote_address(), %refusal, "a peer was turned away");
                send.received().await;
                refuse(connection, &refusal);
                None
            }
        }
    }

    fn answer(self, hello: &Hello) -> HelloReply {
        if hello.cluster != self.cluster {
            return Err(Refusal::OtherCluster);
        }
        let version = hello.version_max.min(VERSION_MAX);
        if version < hello.version_min.max(VERSION_MIN) {
            return Err(Refusal::Version { min: VERSION_MIN, max: VERSION_MAX });
        }
        Ok(Welcome { version, features: 0 })
    }

    async fn welcome_newcomer(self, connection: &quinn::Connection) -> Option<NewcomerExchange> {
        let (send, mut receive) = connection.accept_bi().await.ok()?;
        let mut send = SendHalf::new(send);
        let redeem = match read_first_words(&mut receive).await {
            Ok(frame) => frame.message::<Redeem>(),
            Err(ReadEnd::Malformed(error)) => Err(error),
            Err(ReadEnd::Short | ReadEnd::Reset | ReadEnd::Connection(_)) => return None,
        };
        match redeem {
            Ok(redeem) => Some(NewcomerExchange { redeem, send, connection: connection.clone() }),
            Err(_) => {
                let refusal: Result<crate::cluster::Redeemed, Refusal> = Err(Refusal::Malformed);
                send.send(frame::encode(&refusal, 0).expect("a refusal is a few bytes"), &[]).await.ok()?;
                send.settle();
                send.received().await;
                None
            }
        }
    }
}

/// Closes a connection that was not welcomed.
struct CloseOnDrop(Option<quinn::Connection>);

impl CloseOnDrop {
    fn quinn(&self) -> &quinn::Connection {
        self.0.as_ref().expect("it is taken only by keep, which consumes it")
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.close(CODE_DONE, b"");
        }
    }
}
