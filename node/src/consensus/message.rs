//! What members of the group say to each other: postcard in [`wire::Request::Raft`], entries and pages in its body. Pure.
//!
//! Both enums only grow at the end.

use bytes::Bytes;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use ring::NodeId;
use serde::{Deserialize, Serialize};

use super::raft_types::{RaftId, Types};
use super::words::{EntryHead, LogIdWords, StateWords, VoteWords, decode_entry, encode_entry};

/// A question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Message {
    /// Entries, or none as a heartbeat. Their payloads follow each other in the body.
    Append { vote: VoteWords, prev: Option<LogIdWords>, committed: Option<LogIdWords>, entries: Vec<EntryHead> },
    /// Vote for me.
    Vote(VoteWordsRequest),
    /// Would you?
    PreVote(VoteWordsRequest),
    /// Become the leader in my place.
    Transfer { from: VoteWords, to: NodeId, last: Option<LogIdWords> },
    /// A page of a snapshot, in the body. Number 0 begins a snapshot.
    Page { transfer: u64, number: u64 },
    /// The snapshot is whole: install it.
    PagesEnd { transfer: u64, pages: u64, digest: [u8; 32], vote: VoteWords, state: StateWords },
    /// How far is the installation?
    PagesStatus { transfer: u64 },
    /// My store is lost: give me page `number` of yours. Number 0 begins with a new view of it.
    Want { number: u64 },
}

/// A request for a vote.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct VoteWordsRequest {
    vote: VoteWords,
    last: Option<LogIdWords>,
    transfer: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// To an append.
    Appended(AppendAnswer),
    /// To a request for a vote.
    Vote { vote: VoteWords, granted: bool, last: Option<LogIdWords> },
    /// To a transfer.
    Transfer { taken: bool },
    /// To a page: send the next.
    PageTaken,
    /// To a page or an end: it does not follow what came before, or was damaged. Begin again.
    PagesLost,
    /// To an end or a question: it is being installed.
    Installing,
    /// To an end or a question: it is installed, or was not needed.
    Installed { vote: VoteWords },
    /// To a want: the page, and how far the view reaches. An empty page is behind the last one.
    Page { state: StateWords, page: Vec<u8> },
}

/// What became of entries.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum AppendAnswer {
    /// All are durable.
    Success,
    /// Those up to here are.
    Partial(Option<LogIdWords>),
    /// They do not follow what is here.
    Conflict,
    /// Another leader is newer.
    HigherVote(VoteWords),
}

impl Message {
    /// Who says it, by its own words: must be the peer at the other end.
    pub(super) fn speaker(&self) -> Option<NodeId> {
        match self {
            Self::Append { vote, .. } | Self::PagesEnd { vote, .. } => Some(vote.node),
            Self::Vote(request) | Self::PreVote(request) => Some(request.vote.node),
            Self::Transfer { from, .. } => Some(from.node),
            Self::Page { .. } | Self::PagesStatus { .. } | Self::Want { .. } => None,
        }
    }

    /// The term it is said in, if it says one.
    pub(super) fn term(&self) -> Option<u64> {
        match self {
            Self::Append { vote, .. } | Self::PagesEnd { vote, .. } => Some(vote.term),
            Self::Vote(request) | Self::PreVote(request) => Some(request.vote.term),
            Self::Transfer { from, .. } => Some(from.term),
            Self::Page { .. } | Self::PagesStatus { .. } | Self::Want { .. } => None,
        }
    }

    /// The message for entries, and its body.
    pub(super) fn append(request: &AppendEntriesRequest<Types>) -> (Self, Bytes) {
        let (heads, payloads): (Vec<_>, Vec<_>) = request.entries.iter().map(encode_entry).unzip();
        let body = match payloads.as_slice() {
            [one] => one.clone(),
            many => many.concat().into(),
        };
        let message = Self::Append {
            vote: (&request.vote).into(),
            prev: request.prev_log_id.as_ref().map(Into::into),
            committed: request.leader_commit.as_ref().map(Into::into),
            entries: heads,
        };
        (message, body)
    }

    pub(super) fn transfer(request: &TransferLeaderRequest<Types>) -> Self {
        Self::Transfer {
            from: request.from_leader().into(),
            to: request.to_node_id().0,
            last: request.last_log_id().map(Into::into),
        }
    }
}

/// The library's request; none if heads and body do not fit each other.
pub(super) fn append_request(
    vote: VoteWords,
    prev: Option<LogIdWords>,
    committed: Option<LogIdWords>,
    heads: Vec<EntryHead>,
    mut body: Bytes,
) -> Option<AppendEntriesRequest<Types>> {
    let mut entries = Vec::with_capacity(heads.len());
    for head in heads {
        if body.len() < head.len as usize {
            return None;
        }
        entries.push(decode_entry(head, body.split_to(head.len as usize))?);
    }
    body.is_empty().then(|| AppendEntriesRequest {
        vote: vote.into(),
        prev_log_id: prev.map(Into::into),
        entries,
        leader_commit: committed.map(Into::into),
    })
}

impl From<&VoteRequest<Types>> for VoteWordsRequest {
    fn from(request: &VoteRequest<Types>) -> Self {
        Self {
            vote: (&request.vote).into(),
            last: request.last_log_id.as_ref().map(Into::into),
            transfer: request.leadership_transfer,
        }
    }
}

impl From<VoteWordsRequest> for VoteRequest<Types> {
    fn from(words: VoteWordsRequest) -> Self {
        let mut request = Self::new(words.vote.into(), words.last.map(Into::into));
        request.leadership_transfer = words.transfer;
        request
    }
}

impl From<&VoteResponse<Types>> for Answer {
    fn from(response: &VoteResponse<Types>) -> Self {
        Self::Vote {
            vote: (&response.vote).into(),
            granted: response.vote_granted,
            last: response.last_log_id.as_ref().map(Into::into),
        }
    }
}

impl From<&AppendEntriesResponse<Types>> for AppendAnswer {
    fn from(response: &AppendEntriesResponse<Types>) -> Self {
        match response {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::PartialSuccess(id) => Self::Partial(id.as_ref().map(Into::into)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendAnswer> for AppendEntriesResponse<Types> {
    fn from(answer: AppendAnswer) -> Self {
        match answer {
            AppendAnswer::Success => Self::Success,
            AppendAnswer::Partial(id) => Self::PartialSuccess(id.map(Into::into)),
            AppendAnswer::Conflict => Self::Conflict,
            AppendAnswer::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

/// The library's request for a transfer of leadership.
pub(super) fn transfer_request(from: VoteWords, to: NodeId, last: Option<LogIdWords>) -> TransferLeaderRequest<Types> {
    TransferLeaderRequest::new(from.into(), RaftId(to), last.map(Into::into))
}

/// An answer to a request for a vote, as the library wants it.
pub(super) fn vote_response(vote: VoteWords, granted: bool, last: Option<LogIdWords>) -> VoteResponse<Types> {
    let vote: super::raft_types::Vote = vote.into();
    VoteResponse::new(vote, last.map(Into::into), granted)
}
