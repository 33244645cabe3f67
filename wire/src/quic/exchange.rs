//! Requests that have arrived and wait for their replies.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::RecvStream;
use tokio::time::{Instant, timeout};
use tracing::error;

use super::{
    CallError, ReplyError,
    error::CODE_DONE,
    stream::{ReadEnd, SendHalf, read_body, read_end},
};
use crate::{
    Answer, Refusal, Reply, Request,
    cluster::{Redeem, Redeemed},
    frame::{self, RequestHeader},
};

/// Longest deadline that a server goes by, whatever the asker says: nothing in the protocol takes longer.
const DEADLINE_MAX: Duration = Duration::from_secs(300);

/// Least time for sending a reply, though the asker's deadline is over: our clocks do not start at the same moment.
const REPLY_TIME_MIN: Duration = Duration::from_secs(1);

/// A request to answer. Dropped without an answer, it resets the stream: the asker's call ends at once.
#[derive(Debug)]
pub struct Exchange {
    /// What is asked.
    pub request: Request,
    /// Bytes of the body that follows, at most [`frame::BODY_LEN_MAX`]; not read yet.
    pub body_len: u32,
    /// What is left of the asker's deadline as of arrival.
    pub deadline: Duration,
    arrived: Instant,
    unread_len: u32,
    send: SendHalf,
    receive: RecvStream,
    /// Counts it among those of its connection.
    _under_way: Arc<()>,
}

/// A redemption to answer.
#[derive(Debug)]
pub struct NewcomerExchange {
    /// What it asks.
    pub redeem: Redeem,
    pub(super) send: SendHalf,
    pub(super) connection: quinn::Connection,
}

impl Exchange {
    pub(super) fn new(
        header: RequestHeader,
        body_len: u32,
        (send, receive): (SendHalf, RecvStream),
        under_way: Arc<()>,
    ) -> Self {
        let deadline = Duration::from_millis(header.deadline_ms.into()).min(DEADLINE_MAX);
        let arrived = Instant::now();
        let request = header.request;
        Self { request, body_len, deadline, arrived, unread_len: body_len, send, receive, _under_way: under_way }
    }

    /// Reads the body, contiguous; the second time there is none left. Ends with the asker's deadline.
    pub async fn read_body(&mut self) -> Result<Bytes, CallError> {
        let len = std::mem::take(&mut self.unread_len);
        let left = self.left();
        let receive = &mut self.receive;
        let read = async {
            let body = read_body(receive, len).await?;
            read_end(receive).await?;
            Ok::<_, ReadEnd>(body)
        };
        match timeout(left, read).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(ReadEnd::Malformed(_))) => Err(CallError::Malformed),
            Ok(Err(ReadEnd::Short | ReadEnd::Reset | ReadEnd::Connection(_))) => Err(CallError::Lost),
            Err(_) => Err(CallError::Deadline(self.deadline)),
        }
    }

    /// What is left of the asker's deadline now.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.arrived.elapsed())
    }

    /// Resolves when the asker has given up or is lost: nobody waits for the answer any more.
    pub fn gone(&self) -> impl Future<Output = ()> + Send + use<> {
        self.send.stopped()
    }

    /// Answers, with a body of several parts.
    pub async fn reply(mut self, reply: &Result<Answer, Refusal>, body: &[Bytes]) -> Result<(), ReplyError> {
        let body_len = body.iter().map(Bytes::len).sum();
        let header = match frame::encode(reply, body_len) {
            Ok(header) => header,
            Err(error) => {
                error!(%error, "a reply breaks a limit of the protocol");
                return self.refuse(Refusal::Internal).await;
            }
        };
        self.send(header, body).await
    }

    async fn refuse(&mut self, refusal: Refusal) -> Result<(), ReplyError> {
        let reply: Reply = Err(refusal);
        let header = frame::encode(&reply, 0).expect("a refusal is a few bytes");
        self.send(header, &[]).await
    }

    async fn send(&mut self, header: Vec<u8>, body: &[Bytes]) -> Result<(), ReplyError> {
        let time = self.left().max(REPLY_TIME_MIN);
        match timeout(time, self.send.send(header, body)).await {
            Ok(Ok(())) => {
                self.send.settle();
                Ok(())
            }
            Ok(Err(_)) | Err(_) => Err(ReplyError),
        }
    }
}

impl NewcomerExchange {
    /// Answers, waits (bounded) until the newcomer has the answer, and closes its connection.
    pub async fn reply(mut self, reply: &Result<Redeemed, Refusal>) -> Result<(), ReplyError> {
        let header = frame::encode(reply, 0).map_err(|_| ReplyError)?;
        let sent = async {
            self.send.send(header, &[]).await.map_err(|_| ReplyError)?;
            self.send.settle();
            self.send.received().await;
            Ok(())
        };
        let outcome = timeout(super::endpoint::HANDSHAKE_DEADLINE, sent).await.unwrap_or(Err(ReplyError));
        self.connection.close(CODE_DONE, b"");
        outcome
    }
}
