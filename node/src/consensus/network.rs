//! The Raft library's calls to other members, over [`RaftTransport`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::impls::EmptyNode;
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use ring::NodeId;
use tokio::time::{Instant, timeout_at};

use super::deafness::Ears;
use super::error::TransportError;
use super::message::{Answer, Message, vote_response};
use super::raft_types::{RaftId, Types, Vote};
use super::snapshot::Pages;
use super::state_machine::SnapshotData;

/// Carries messages to other members; must not be called for the node itself.
pub trait RaftTransport: Send + Sync + 'static {
    /// Sends `message` and `body` (at most a little over 1 MiB) and brings the answer.
    fn send(
        &self,
        to: NodeId,
        message: Vec<u8>,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, TransportError>>;
}

/// For entries: 1 MiB over a slow link and a slow sync. The library's own figure (a heartbeat) would send them for ever
/// again. After a cut it is also how long a replication stream may notice nothing; heartbeats have their own.
const APPEND_DEADLINE: Duration = Duration::from_secs(2);

/// How long the news that entries are committed waits for the next entries, which carry it as well: by itself it costs a
/// round trip and a wake-up of each follower for every single command. Followers only apply the later for it, and not
/// later than the next heartbeat.
const COMMIT_NEWS_DELAY: Duration = Duration::from_millis(20);

/// For a page of a snapshot; the transfer as a whole has no deadline.
const PAGE_DEADLINE: Duration = Duration::from_secs(10);

/// How often a sender asks how far an installation is.
const STATUS_INTERVAL: Duration = Duration::from_millis(200);

/// Makes a [`Member`] for each member.
pub(super) struct Network {
    pub(super) node: NodeId,
    pub(super) transport: Arc<dyn RaftTransport>,
    pub(super) transfers: Arc<AtomicU64>,
    pub(super) ears: Arc<Ears>,
}

/// Another member of the group.
pub(super) struct Member {
    node: NodeId,
    to: NodeId,
    transport: Arc<dyn RaftTransport>,
    transfers: Arc<AtomicU64>,
    ears: Arc<Ears>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Member;

    async fn new_client(&mut self, target: RaftId, _node: &EmptyNode) -> Member {
        Member {
            node: self.node,
            to: target.0,
            transport: Arc::clone(&self.transport),
            transfers: Arc::clone(&self.transfers),
            ears: Arc::clone(&self.ears),
        }
    }
}

impl Member {
    async fn ask(&self, message: &Message, body: Bytes, deadline: Duration) -> Result<Answer, TransportError> {
        let message = postcard::to_stdvec(message).expect("our own messages always encode");
        let answer = self.transport.send(self.to, message, body, deadline).await?;
        self.ears.note(self.to);
        // An answer that makes no sense comes from another version: as good as none.
        postcard::from_bytes(&answer).map_err(|_| TransportError::Unreachable)
    }

    fn rpc_error(&self, action: RPCTypes, deadline: Duration, error: &TransportError) -> RPCError<Types> {
        match error {
            TransportError::TimedOut => {
                RPCError::Timeout(Timeout { action, id: RaftId(self.node), target: RaftId(self.to), timeout: deadline })
            }
            TransportError::Unreachable | TransportError::Refused(_) => RPCError::Unreachable(Unreachable::new(error)),
        }
    }

    fn unexpected(&self) -> RPCError<Types> {
        RPCError::Network(NetworkError::from_string("an answer to another question"))
    }

    async fn ask_vote(&self, message: Message, option: &RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let deadline = option.soft_ttl();
        match self.ask(&message, Bytes::new(), deadline).await {
            Ok(Answer::Vote { vote, granted, last }) => Ok(vote_response(vote, granted, last)),
            Ok(_) => Err(self.unexpected()),
            Err(error) => Err(self.rpc_error(RPCTypes::Vote, deadline, &error)),
        }
    }

    /// Sends the pages and waits until they are installed.
    async fn send_pages(
        &self,
        vote: &Vote,
        meta: &super::raft_types::SnapshotMeta,
        mut pages: Pages,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let transfer = self.transfers.fetch_add(1, Ordering::Relaxed);
        let mut hasher = blake3::Hasher::new();
        let mut number = 0;
        while let Some(page) = pages.next_page().map_err(|error| self.local_failure(&error))? {
            hasher.update(&page);
            match self.ask(&Message::Page { transfer, number }, page, PAGE_DEADLINE).await {
                Ok(Answer::PageTaken) => number += 1,
                Ok(_) => return Err(lost()),
                Err(error) => return Err(Unreachable::new(&error).into()),
            }
        }
        drop(pages);
        let digest = *hasher.finalize().as_bytes();
        let mut message = Message::PagesEnd { transfer, pages: number, digest, vote: vote.into(), state: meta.into() };
        loop {
            match self.ask(&message, Bytes::new(), PAGE_DEADLINE).await {
                Ok(Answer::Installed { vote }) => return Ok(SnapshotResponse::new(vote.into())),
                Ok(Answer::Installing) => tokio::time::sleep(STATUS_INTERVAL).await,
                Ok(_) => return Err(lost()),
                Err(error) => return Err(Unreachable::new(&error).into()),
            }
            message = Message::PagesStatus { transfer };
        }
    }

    fn local_failure(&self, error: &crate::kv::KvError) -> StreamingError<Types> {
        tracing::error!(%error, to = %self.to, "a snapshot cannot be read");
        Unreachable::new(error).into()
    }
}

/// The same requests, without those whose only news, the commit index, the next one brings within
/// [`COMMIT_NEWS_DELAY`]. Each request left out is acknowledged by the answer to the one that took its place.
fn unhurried<S>(requests: S) -> BoxStream<'static, AppendEntriesRequest<Types>>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
{
    let next = |requests: Option<S>| async move {
        let mut requests = requests?;
        let mut request = requests.next().await?;
        let until = Instant::now() + COMMIT_NEWS_DELAY;
        while request.entries.is_empty() {
            match timeout_at(until, requests.next()).await {
                Ok(Some(newer)) => request = newer,
                // A heartbeat, or a probe: nothing follows it.
                Ok(None) => return Some((request, None)),
                Err(_) => break,
            }
        }
        Some((request, Some(requests)))
    };
    stream::unfold(Some(requests), next).boxed()
}

fn lost() -> StreamingError<Types> {
    Unreachable::from_string("the receiver lost its place; the snapshot begins again").into()
}

impl RaftNetworkV2<Types> for Member {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        if self.ears.is_silent() {
            return Err(RPCError::Unreachable(Unreachable::from_string("this leader hears nothing of a majority")));
        }
        let deadline = if request.entries.is_empty() { option.soft_ttl() } else { APPEND_DEADLINE };
        let (message, body) = Message::append(&request);
        match self.ask(&message, body, deadline).await {
            Ok(Answer::Appended(answer)) => Ok(answer.into()),
            Ok(_) => Err(self.unexpected()),
            Err(error) => Err(self.rpc_error(RPCTypes::AppendEntries, deadline, &error)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        stream_append_sequential(self, unhurried(requests), option)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(Message::Vote((&request).into()), &option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(Message::PreVote((&request).into()), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<Types, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotData::Rows(rows) = snapshot.snapshot else {
            return Err(Unreachable::from_string("a received snapshot is not passed on").into());
        };
        tokio::select! {
            biased;
            closed = cancel => Err(closed.into()),
            result = self.send_pages(&vote, &snapshot.meta, Pages::new(rows)) => result,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let deadline = option.soft_ttl();
        match self.ask(&Message::transfer(&request), Bytes::new(), deadline).await {
            Ok(Answer::Transfer { taken: true }) => Ok(Ok(())),
            Ok(Answer::Transfer { taken: false }) => {
                let expected = request.last_log_id().copied();
                Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual: None }))
            }
            Ok(_) => Err(self.unexpected()),
            Err(error) => Err(self.rpc_error(RPCTypes::TransferLeader, deadline, &error)),
        }
    }
}
