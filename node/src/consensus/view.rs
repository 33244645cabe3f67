//! What a node knows of its group.

use std::collections::BTreeSet;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use ring::NodeId;
use tokio::sync::watch;
use wire::cluster::RaftRole;

use super::raft_types::{Raft, RaftId};

/// What this node knows of the group at the moment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct View {
    /// Who leads, as far as this node knows. `(term, leader)` is never the same for two leaderships.
    pub leader: Option<NodeId>,
    /// Highest term this node has seen.
    pub term: u64,
    /// This node's part.
    pub role: RaftRole,
    /// Who votes; in the middle of a change, the old and the new ones.
    pub voters: BTreeSet<NodeId>,
    /// Who receives the log without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Index of the last entry applied here; 0 if none was.
    pub applied: u64,
    /// Index of the last entry in this node's log; 0 if there is none.
    pub last_log: u64,
    /// Whether consensus works on this node.
    pub health: Health,
}

/// Whether consensus works on a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Health {
    /// It does.
    Running,
    /// It was stopped.
    Stopped,
    /// Log or store failed: the node must be started again, or given up. The reason is in its log, too.
    Failed {
        /// What failed.
        reason: String,
    },
}

impl View {
    pub(super) fn of(raft: &Raft) -> Self {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().map(|id| id.0).collect();
        let learners: BTreeSet<NodeId> = membership.learner_ids().map(|id| id.0).collect();
        let RaftId(node) = metrics.id;
        let role = match metrics.state {
            ServerState::Leader => RaftRole::Leader,
            _ if voters.contains(&node) => RaftRole::Voter,
            _ if learners.contains(&node) => RaftRole::Learner,
            _ => RaftRole::None,
        };
        let health = match &metrics.running_state {
            Ok(()) => Health::Running,
            Err(Fatal::Stopped) => Health::Stopped,
            Err(error) => Health::Failed { reason: error.to_string() },
        };
        Self {
            leader: metrics.current_leader.map(|id| id.0),
            term: metrics.current_term,
            role,
            voters,
            learners,
            applied: metrics.last_applied.map_or(0, |id| id.index),
            last_log: metrics.last_log_index.unwrap_or(0),
            health,
        }
    }
}

/// Keeps `view` up to date until the library stops.
pub(super) async fn follow(raft: Raft, view: watch::Sender<View>) {
    let mut metrics = raft.metrics();
    loop {
        // A failure that we have noticed before the library is not taken back.
        let now = View::of(&raft);
        view.send_if_modified(|view| {
            let changed = *view != now && !matches!(view.health, Health::Failed { .. });
            if changed {
                *view = now;
            }
            changed
        });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
