//! Consensus on the order of commands: adaptor to the Raft library, and nothing else.
//!
//! A [`Consensus`] is one member of the group: its log ([`log_store`]) on the append log, its state machine
//! ([`state_machine`]) over the key-value store, its calls to others ([`network`]) over a [`RaftTransport`].
//!
//! # Invariants
//! - An answer to [`Consensus::propose`] is given only when the command is in the synced log of a majority and applied
//!   here; it is never lost again.
//! - What [`Consensus::read`] returns has every command applied whose proposal was answered before the read began,
//!   anywhere.
//! - Nothing hangs: without a majority, proposals and reads fail at their deadline.
//! - Members of two generations ([`crate::generation`]) do not hear each other: committed entries of one may be missing in
//!   the other.
//! - No type of the Raft library leaves this module; what is on disk and on the wire is in our words ([`words`]).
//! - Time and chance come from the tokio clock and the seed: the same seed gives the same elections.
//!
//! # Not here
//! What commands mean (`namespace`); who should vote (`membership`); retries and redirects (`serve`, the client).

mod admission;
mod candidacy;
mod clock;
mod deafness;
mod error;
mod inbox;
mod log_store;
mod log_table;
mod log_writer;
mod lost_store;
mod maintenance;
mod message;
mod network;
mod open;
mod raft_types;
mod runtime;
mod snapshot;
mod state_machine;
mod survivor;
#[cfg(test)]
mod tests;
mod view;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{
    ChangeMembershipError, ClientWriteError, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError,
    RaftError,
};
use openraft::impls::EmptyNode;
use openraft::raft::ClientWriteResult;
use openraft::{ChangeMembers, ReadPolicy};
use ring::NodeId;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::Refusal;
use wire::cluster::RaftRole;
use wire::namespace::Timestamp;

pub use clock::SystemClock;
pub use error::{FoundError, MembershipError, OpenError, ProposeError, TransportError};
pub use maintenance::Retention;
pub use network::RaftTransport;
pub use open::{ConsensusConfig, Timing};
pub use survivor::{Place, Standing, Survivor, SurvivorError, follow_from, generation_at};
pub use view::{Health, View};

use self::admission::Admission;
use self::inbox::{Inbox, PagesEnd};
use self::lost_store::Lender;
use self::message::{Answer, Message, append_request, transfer_request};
use self::raft_types::{Proposal, Raft, RaftId, Reply, Types};
use crate::generation::Generation;
use crate::kv::{KvError, KvRead, KvStore};
use crate::namespace::{ClusterCommand, Command, CommandBody, CommandOutcome};

/// Longest command: with its head it must fit into a record of the log and, as a body, into one message.
const COMMAND_LEN_MAX: usize = 4 << 20;

/// For the first election and the first command of a cluster, on a slow disk.
const FOUND_DEADLINE: Duration = Duration::from_secs(10);

/// For tasks to end when the node stops: a sync, a piece of a snapshot.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How soon a leader asks again whether a majority is with it.
const LEASE_RETRY: Duration = Duration::from_millis(20);

/// Where the leader takes the time for its stamps from.
pub trait WallClock: Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> Timestamp;
}

/// A member of the group; clones share it.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    raft: Raft,
    #[cfg(test)]
    log: Arc<log_store::Shared>,
    kv: Arc<dyn KvStore>,
    clock: Arc<dyn WallClock>,
    inbox: Arc<Inbox>,
    ears: Arc<deafness::Ears>,
    lender: Arc<Lender>,
    admission: Admission,
    view: watch::Receiver<View>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// What becomes of a voter that is to vote no longer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AfterVoting {
    /// It goes on receiving the log.
    Learns,
    /// It has no part any more.
    Leaves,
}

impl fmt::Debug for Consensus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consensus").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

impl Consensus {
    /// Makes a group of this node alone and proposes the first command. Asked again after a crash, it goes on where it
    /// was.
    pub async fn found(&self, command: ClusterCommand) -> Result<(), FoundError> {
        let this = RaftId(self.inner.node);
        match self.inner.raft.initialize(BTreeMap::from([(this, EmptyNode::new())])).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                let view = self.inner.view.borrow().clone();
                if view.voters != BTreeSet::from([self.inner.node]) {
                    return Err(FoundError::AlreadyMember);
                }
            }
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => {
                unreachable!("the group consists of this node")
            }
            Err(RaftError::Fatal(_)) => return Err(ProposeError::Stopped.into()),
        }
        let mut view = self.watch();
        match timeout(FOUND_DEADLINE, view.wait_for(|view| view.role == RaftRole::Leader)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(ProposeError::Stopped.into()),
            Err(_) => return Err(ProposeError::NoQuorum.into()),
        }
        match self.propose(CommandBody::Cluster(command), FOUND_DEADLINE).await? {
            CommandOutcome::Refused(refusal) => Err(FoundError::Refused(refusal)),
            _ => Ok(()),
        }
    }

    /// Proposes a command, stamped with this node's clock, and waits until it is applied here.
    pub async fn propose(&self, body: CommandBody, deadline: Duration) -> Result<CommandOutcome, ProposeError> {
        let deadline = Instant::now() + deadline;
        {
            // Followers say so at once, before the command is encoded. The library looks again.
            let view = self.inner.view.borrow();
            if view.role != RaftRole::Leader {
                return Err(ProposeError::NotLeader { leader: view.leader });
            }
        }
        let command = Command { stamp: self.inner.clock.now(), body };
        let bytes = postcard::to_stdvec(&command).expect("commands always encode");
        if bytes.len() > COMMAND_LEN_MAX {
            return Err(ProposeError::TooLarge { len: bytes.len() });
        }
        let bytes = Bytes::from(bytes);
        loop {
            let error = match self.write(bytes.clone(), deadline).await? {
                Ok(response) => return Ok(response.data.outcome.expect("a command has an outcome")),
                Err(error) => error,
            };
            // A leader that has not heard from a majority lately takes nothing; a new one hears from it in a moment.
            let expired =
                matches!(&error, ClientWriteError::ForwardToLeader(to) if to.reason == ForwardReason::LeaseExpired);
            if !expired || Instant::now() + LEASE_RETRY >= deadline {
                return Err(self.write_error(error));
            }
            sleep(LEASE_RETRY).await;
        }
    }

    /// Hands a command to the library and waits for its end; the outer error says that there is none.
    async fn write(&self, command: Bytes, deadline: Instant) -> Result<ClientWriteResult<Types>, ProposeError> {
        let permits = self.inner.admission.admit(command.len()).ok_or(ProposeError::Busy)?;
        let (sender, answer) = oneshot::channel();
        let reply = Reply { sender, permits };
        match timeout_at(deadline, self.inner.raft.client_write_ff(Proposal(command), Some(reply))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(ProposeError::Stopped),
            Err(_) => return Err(ProposeError::Busy),
        }
        match timeout_at(deadline, answer).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(ProposeError::Stopped),
            Err(_) => Err(ProposeError::NoQuorum),
        }
    }

    /// The store, with everything applied that was answered anywhere before this call. All who wait at the same time
    /// share one round to the followers.
    pub async fn read(&self, deadline: Duration) -> Result<Arc<dyn KvStore>, ProposeError> {
        let deadline = Instant::now() + deadline;
        loop {
            let round = self.inner.raft.get_read_linearizer(ReadPolicy::ReadIndex);
            let linearizer = match timeout_at(deadline, round).await {
                Ok(Ok(linearizer)) => linearizer,
                Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                    return Err(self.not_leader(&forward));
                }
                // The library gives up after a lease; the asker may have more time.
                Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
                    if Instant::now() >= deadline {
                        return Err(ProposeError::NoQuorum);
                    }
                    continue;
                }
                Ok(Err(RaftError::Fatal(_))) => return Err(ProposeError::Stopped),
                Err(_) => return Err(ProposeError::NoQuorum),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            return match linearizer.try_await_ready(&self.inner.raft, Some(left)).await {
                Ok(Ok(_)) => Ok(Arc::clone(&self.inner.kv)),
                Ok(Err(_)) => Err(ProposeError::NoQuorum),
                Err(_) => Err(ProposeError::Stopped),
            };
        }
    }

    /// One state of what is applied here, for what is read from many rows and may be a little old; none before there is
    /// any, or while a snapshot takes the place of the rows.
    pub fn local_rows(&self) -> Result<Option<Box<dyn KvRead>>, KvError> {
        state_machine::whole_rows(&*self.inner.kv)
    }

    /// The store with whatever is applied here, while it is applied: for looking at single rows, which may be a little
    /// old, and for whoever leads and proposes what follows.
    pub fn local(&self) -> Arc<dyn KvStore> {
        Arc::clone(&self.inner.kv)
    }

    /// What this node knows of the group, now and whenever it changes. That its indices have grown wakes nobody: look.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.inner.view.clone()
    }

    /// This node's part at the moment, the highest term it has seen, and who leads, as far as it knows.
    pub fn standing(&self) -> (RaftRole, u64, Option<NodeId>) {
        let view = self.inner.view.borrow();
        (view.role, view.term, view.leader)
    }

    /// A word of another node has come, whatever it is about.
    pub fn note_heard(&self, node: NodeId) {
        self.inner.ears.note(node);
    }

    /// Answers a message of another member.
    pub async fn handle(&self, from: NodeId, message: &[u8], body: Bytes) -> Result<Vec<u8>, Refusal> {
        self.note_heard(from);
        let message: Message = postcard::from_bytes(message).map_err(|_| Refusal::Malformed)?;
        // Nobody speaks for another: one bad node must not end another's leadership.
        if message.speaker().is_some_and(|speaker| speaker != from) {
            return Err(Refusal::NotAllowed);
        }
        if message.term().is_some_and(|term| !self.is_of_our_history(term)) {
            tracing::debug!(?from, "it speaks of another generation of the cluster");
            return Err(Refusal::NotAllowed);
        }
        let answer = self.answer(from, message, body).await?;
        Ok(postcard::to_stdvec(&answer).expect("our own answers always encode"))
    }

    /// Whether a member of this term has the same history as this one: after a recovery by force, what others applied may
    /// be undone, and what they voted for does not count. Only a member that has nothing goes on to a later generation.
    fn is_of_our_history(&self, term: u64) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let (ours, theirs) = (Generation::of_term(metrics.current_term), Generation::of_term(term));
        let has_nothing = metrics.last_log_index.is_none() && metrics.last_applied.is_none();
        theirs == ours || (theirs > ours && has_nothing)
    }

    async fn answer(&self, from: NodeId, message: Message, body: Bytes) -> Result<Answer, Refusal> {
        let raft = &self.inner.raft;
        let stopped = |_| Refusal::NotServing;
        match message {
            Message::Append { vote, prev, committed, entries } => {
                let request = append_request(vote, prev, committed, entries, body).ok_or(Refusal::Malformed)?;
                let response = raft.append_entries(request).await.map_err(stopped)?;
                Ok(Answer::Appended((&response).into()))
            }
            Message::Vote(request) => Ok((&raft.vote(request.into()).await.map_err(stopped)?).into()),
            Message::PreVote(request) => Ok((&raft.pre_vote(request.into()).await.map_err(stopped)?).into()),
            Message::Transfer { from, to, last } => {
                let request = transfer_request(from, to, last);
                let response = raft.handle_transfer_leader(request).await.map_err(|_| Refusal::NotServing)?;
                Ok(Answer::Transfer { taken: response.is_ok() })
            }
            Message::Page { transfer, number } => Ok(self.inner.inbox.page((from, transfer), number, body).await),
            Message::PagesEnd { transfer, pages, digest, vote, state } => {
                let end = PagesEnd { pages, digest, vote, state };
                let inbox = Arc::clone(&self.inner.inbox);
                Ok(inbox.end((from, transfer), end, raft, &self.inner.tasks).await)
            }
            Message::PagesStatus { transfer } => Ok(self.inner.inbox.status((from, transfer)).await),
            Message::Want { number } => Ok(self.inner.lender.page(from, number, &*self.inner.kv, Instant::now())),
        }
    }

    /// Lets `node` receive the log without a vote, and waits until it has caught up. Asked again, it goes on waiting.
    pub async fn add_learner(&self, node: NodeId, deadline: Duration) -> Result<(), MembershipError> {
        let deadline = Instant::now() + deadline;
        let raft = &self.inner.raft;
        let added = timeout_at(deadline, raft.add_learner(RaftId(node), EmptyNode::new(), false)).await;
        let added = added.map_err(|_| MembershipError::TimedOut)?.map_err(|error| self.membership_error(error))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = raft.wait(Some(left));
        let caught_up = wait.metrics(
            |metrics| match &metrics.replication {
                Some(replication) => replication.get(&RaftId(node)).is_some_and(|at| *at >= Some(added.log_id)),
                None => true,
            },
            "the learner has caught up",
        );
        let metrics = caught_up.await.map_err(|_| MembershipError::TimedOut)?;
        match metrics.replication {
            Some(_) => Ok(()),
            None => Err(MembershipError::NotLeader { leader: metrics.current_leader.map(|id| id.0) }),
        }
    }

    /// Makes `voters` the ones that vote; each must vote already or be a learner that has caught up. Goes on behind a
    /// deadline that passes; asked again after a change of leaders, it ends what was begun.
    pub async fn set_voters(
        &self,
        voters: BTreeSet<NodeId>,
        after: AfterVoting,
        deadline: Duration,
    ) -> Result<(), MembershipError> {
        let raft = self.inner.raft.clone();
        let retain = after == AfterVoting::Learns;
        let voters: BTreeSet<RaftId> = voters.into_iter().map(RaftId).collect();
        // A task of its own: dropped half-way, the change would stop between its two steps.
        let change = self.inner.tasks.spawn(async move { raft.change_membership(voters, retain).await });
        match timeout(deadline, change).await {
            Ok(Ok(result)) => result.map(drop).map_err(|error| self.membership_error(error)),
            Ok(Err(_)) => Err(MembershipError::Stopped),
            Err(_) => Err(MembershipError::TimedOut),
        }
    }

    /// Takes `node` out of the group, whether it votes or only receives the log. Not for the leader itself.
    pub async fn forget_member(&self, node: NodeId, deadline: Duration) -> Result<(), MembershipError> {
        let view = self.watch().borrow().clone();
        if view.voters.contains(&node) {
            let others = view.voters.iter().copied().filter(|voter| *voter != node).collect();
            self.set_voters(others, AfterVoting::Leaves, deadline).await?;
        }
        if !self.watch().borrow().learners.contains(&node) {
            return Ok(());
        }
        let raft = self.inner.raft.clone();
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([RaftId(node)]));
        match timeout(deadline, raft.change_membership(change, false)).await {
            Ok(result) => result.map(drop).map_err(|error| self.membership_error(error)),
            Err(_) => Err(MembershipError::TimedOut),
        }
    }

    /// Hands leadership over if this node has it, stops taking part, and makes the state durable.
    pub async fn stop(&self) {
        self.hand_over().await;
        self.inner.cancel.cancel();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "the Raft library did not stop as it should");
        }
        self.inner.tasks.close();
        if timeout(STOP_DEADLINE, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("a task of the consensus did not end in time");
        }
        if let Err(error) = self.inner.kv.persist().await {
            tracing::error!(%error, "the replicated state cannot be made durable");
        }
    }

    /// Entries in the log and bytes in them.
    #[cfg(test)]
    pub(crate) fn log_size(&self) -> (u64, u64) {
        self.inner.log.size()
    }

    /// Stops as a dying process does: nothing more is made durable.
    #[cfg(test)]
    async fn kill(&self) {
        self.inner.cancel.cancel();
        self.inner.raft.shutdown().await.ok();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Asks another voter to lead, so that the others need not wait for an election. Bounded; only a courtesy.
    async fn hand_over(&self) {
        let voters = self.inner.view.borrow().voters.clone();
        if let Some(next) = voters.into_iter().find(|&voter| voter != self.inner.node) {
            self.hand_over_to(next).await;
        }
    }

    /// Asks `next`, a voter, to lead, if this node does. Bounded; nothing is promised.
    pub async fn hand_over_to(&self, next: NodeId) {
        let mut view = self.watch();
        let role = view.borrow_and_update().role;
        if role != RaftRole::Leader || self.inner.raft.trigger().transfer_leader(RaftId(next)).await.is_err() {
            return;
        }
        let node = self.inner.node;
        let handed_over = view.wait_for(|view| view.leader.is_some_and(|leader| leader != node));
        // A voter that does not answer is no reason to stay.
        timeout(Duration::from_millis(500), handed_over).await.ok();
    }

    fn write_error(&self, error: ClientWriteError<Types>) -> ProposeError {
        match error {
            ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward) => {
                self.not_leader(&forward)
            }
            ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_) => {
                unreachable!("a command changes no membership and has no precondition")
            }
        }
    }

    fn not_leader(&self, forward: &ForwardToLeader<Types>) -> ProposeError {
        match forward.reason {
            ForwardReason::LeaseExpired => ProposeError::NoQuorum,
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                let leader = forward.leader_id.map(|id| id.0).filter(|&leader| leader != self.inner.node);
                ProposeError::NotLeader { leader }
            }
        }
    }

    fn membership_error(&self, error: RaftError<Types, ClientWriteError<Types>>) -> MembershipError {
        let error = match error {
            RaftError::APIError(error) => error,
            RaftError::Fatal(_) => return MembershipError::Stopped,
        };
        match error {
            ClientWriteError::ForwardToLeader(forward) | ClientWriteError::LogEntryDiscarded(forward) => {
                match self.not_leader(&forward) {
                    ProposeError::NotLeader { leader } => MembershipError::NotLeader { leader },
                    _ => MembershipError::TimedOut,
                }
            }
            ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
            )
            | ClientWriteError::PreconditionFailed(_) => MembershipError::InProgress,
            ClientWriteError::ChangeMembershipError(ChangeMembershipError::LearnerNotFound(missing)) => {
                MembershipError::NotLearner { node: missing.node_id.0 }
            }
            ClientWriteError::ChangeMembershipError(other) => MembershipError::Impossible { reason: other.to_string() },
        }
    }
}
