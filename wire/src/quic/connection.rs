//! A connection with an authenticated peer: calls out, requests in, one stream each.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::{sync::Mutex, time::timeout};

use super::{
    CallError, Exchange,
    error::{CODE_DONE, CODE_REFUSED, call_error},
    identity::Leaf,
    stream::{ReadEnd, SendHalf, WriteEnd, read_body, read_end, read_frame},
    transport::{STREAMS_FIRST, STREAMS_MAX},
};
use crate::{
    Refusal, Reply, Request,
    cluster::{KeyFingerprint, Peer},
    frame::{self, RequestHeader},
};

/// How long the header of a request may take from the opening of its stream: whoever opens one has it at hand.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// A connection with an authenticated peer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connection {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    quinn: quinn::Connection,
    peer: Peer,
    key: KeyFingerprint,
    /// One task at a time waits for the next request; it may go away while it waits, and the streams stay.
    incoming: Mutex<Incoming>,
}

/// What the peer asks.
#[derive(Debug)]
struct Incoming {
    /// Streams whose headers are still coming.
    reading: FuturesUnordered<BoxFuture<'static, Option<Exchange>>>,
    /// Shared with each of its requests until that is answered or dropped.
    under_way: Arc<()>,
    /// How many it may have under way.
    streams_max: u32,
}

impl Incoming {
    /// Lets a peer that makes use of half its streams have twice as many: quinn keeps room for each from the beginning, and
    /// most peers need few. A limit, if the peer is to be told of one.
    fn grow(&mut self) -> Option<u32> {
        let under_way = Arc::strong_count(&self.under_way);
        let is_enough = under_way <= self.streams_max as usize / 2 || self.streams_max >= STREAMS_MAX;
        (!is_enough).then(|| {
            self.streams_max = STREAMS_MAX.min(2 * self.streams_max);
            self.streams_max
        })
    }
}

impl Connection {
    pub(super) fn new(quinn: quinn::Connection, leaf: Leaf) -> Self {
        let incoming =
            Incoming { reading: FuturesUnordered::new(), under_way: Arc::default(), streams_max: STREAMS_FIRST };
        Self { inner: Arc::new(Inner { quinn, peer: leaf.peer, key: leaf.key, incoming: Mutex::new(incoming) }) }
    }

    /// Who is at the other end, as its certificate says.
    pub fn peer(&self) -> Peer {
        self.inner.peer
    }

    /// Name of its key.
    pub fn key(&self) -> KeyFingerprint {
        self.inner.key
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        let address = self.inner.quinn.remote_address();
        // A socket for both families shows addresses of IPv4 as IPv6 that maps them.
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// Asks, with a body of several parts, and waits for the reply and its body (contiguous, at most
    /// [`frame::BODY_LEN_MAX`]). Dropping the call, and its deadline, reset the stream.
    pub async fn call(
        &self,
        request: &Request,
        body: &[Bytes],
        deadline: Duration,
    ) -> Result<(Reply, Bytes), CallError> {
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        let body_len = body.iter().map(Bytes::len).sum();
        let header = frame::encode_request(request, deadline_ms, body_len).map_err(|_| CallError::Malformed)?;
        timeout(deadline, self.ask(header, body)).await.unwrap_or(Err(CallError::Deadline(deadline)))
    }

    /// The next request of the peer; none when the connection is closed. Malformed ones are answered and skipped, and
    /// a stream whose header does not come holds up no other.
    pub async fn accept(&self) -> Option<Exchange> {
        let mut incoming = self.inner.incoming.lock().await;
        loop {
            tokio::select! {
                biased;
                Some(read) = incoming.reading.next(), if !incoming.reading.is_empty() => {
                    if let Some(exchange) = read {
                        return Some(exchange);
                    }
                }
                opened = self.inner.quinn.accept_bi() => match opened {
                    Ok((send, receive)) => {
                        let under_way = Arc::clone(&incoming.under_way);
                        incoming.reading.push(read_request(send, receive, under_way).boxed());
                        if let Some(streams_max) = incoming.grow() {
                            self.inner.quinn.set_max_concurrent_bi_streams(VarInt::from_u32(streams_max));
                        }
                    }
                    Err(_) => return None,
                },
            }
        }
    }

    /// Tells the peer why it is not served, and closes. Its calls end with that refusal.
    pub fn refuse(&self, refusal: Refusal) {
        refuse(&self.inner.quinn, &refusal);
    }

    /// Closes.
    pub fn close(&self) {
        self.inner.quinn.close(CODE_DONE, b"");
    }

    /// Whether it is closed.
    pub fn is_closed(&self) -> bool {
        self.inner.quinn.close_reason().is_some()
    }

    /// Largest UDP payload found to pass so far.
    pub fn payload_len(&self) -> u16 {
        self.inner.quinn.stats().path.current_mtu
    }

    async fn ask(&self, header: Vec<u8>, body: &[Bytes]) -> Result<(Reply, Bytes), CallError> {
        let (send, mut receive) = self.inner.quinn.open_bi().await.map_err(|error| self.lost(&error))?;
        let mut send = SendHalf::new(send);
        match send.send(header, body).await {
            // Whoever refuses a request need not read its body: the reply is on its way.
            Ok(()) | Err(WriteEnd::Stopped) => {}
            Err(WriteEnd::Connection(error)) => return Err(self.lost(&error)),
        }
        let answer = read_reply(&mut receive).await.map_err(|end| self.unread(&end))?;
        send.settle();
        Ok(answer)
    }

    fn unread(&self, end: &ReadEnd) -> CallError {
        match end {
            ReadEnd::Malformed(_) => CallError::Malformed,
            ReadEnd::Short | ReadEnd::Reset => CallError::Lost,
            ReadEnd::Connection(error) => self.lost(error),
        }
    }

    fn lost(&self, error: &quinn::ConnectionError) -> CallError {
        call_error(self.address(), error)
    }
}

pub(super) fn refuse(connection: &quinn::Connection, refusal: &Refusal) {
    let reason = postcard::to_stdvec(refusal).expect("a refusal is plain data");
    connection.close(CODE_REFUSED, &reason);
}

async fn read_reply(receive: &mut RecvStream) -> Result<(Reply, Bytes), ReadEnd> {
    let frame = read_frame(receive).await?;
    let reply: Reply = frame.message().map_err(ReadEnd::Malformed)?;
    let body = read_body(receive, frame.body_len()).await?;
    read_end(receive).await?;
    Ok((reply, body))
}

/// A stream's request; none if there is none to serve.
async fn read_request(send: SendStream, mut receive: RecvStream, under_way: Arc<()>) -> Option<Exchange> {
    let mut send = SendHalf::new(send);
    let read = async {
        let header = match read_frame(&mut receive).await {
            Ok(frame) => frame.message::<RequestHeader>().map(|header| (header, frame.body_len())),
            Err(ReadEnd::Malformed(error)) => Err(error),
            Err(ReadEnd::Short | ReadEnd::Reset | ReadEnd::Connection(_)) => return None,
        };
        if header.is_err() {
            let reply: Reply = Err(Refusal::Malformed);
            let refusal = frame::encode(&reply, 0).expect("a refusal is a few bytes");
            // Whether it arrives is the asker's business.
            if send.send(refusal, &[]).await.is_ok() {
                send.settle();
            }
        }
        header.ok()
    };
    let (header, body_len) = timeout(HEADER_DEADLINE, read).await.ok().flatten()?;
    Some(Exchange::new(header, body_len, (send, receive), under_way))
}
