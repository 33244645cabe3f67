//! What a node knows of its group.

use std::collections::BTreeSet;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use ring::NodeId;
use tokio::sync::watch;
use wire::cluster::RaftRole;

use super::raft_types::{Raft, RaftId, Types};

type Metrics = openraft::RaftMetrics<Types>;

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
        let mut view = Self {
            leader: None,
            term: 0,
            role: RaftRole::None,
            voters: BTreeSet::new(),
            learners: BTreeSet::new(),
            applied: 0,
            last_log: 0,
            health: Health::Running,
        };
        let metrics = metrics.borrow_watched();
        view.take_in_members(&metrics);
        view.take_in(&metrics);
        view
    }

    fn take_in_members(&mut self, metrics: &Metrics) {
        let membership = metrics.membership_config.membership();
        self.voters = membership.voter_ids().map(|id| id.0).collect();
        self.learners = membership.learner_ids().map(|id| id.0).collect();
    }

    /// Takes in all but the members. Whether more than the indices has changed: these are for whoever looks.
    fn take_in(&mut self, metrics: &Metrics) -> bool {
        let RaftId(node) = metrics.id;
        let role = match metrics.state {
            ServerState::Leader => RaftRole::Leader,
            _ if self.voters.contains(&node) => RaftRole::Voter,
            _ if self.learners.contains(&node) => RaftRole::Learner,
            _ => RaftRole::None,
        };
        let health = match &metrics.running_state {
            Ok(()) => Health::Running,
            Err(Fatal::Stopped) => Health::Stopped,
            Err(error) => Health::Failed { reason: error.to_string() },
        };
        let leader = metrics.current_leader.map(|id| id.0);
        let term = metrics.current_term;
        self.applied = metrics.last_applied.map_or(0, |id| id.index);
        self.last_log = metrics.last_log_index.unwrap_or(0);
        let changed = (self.leader, self.term, self.role) != (leader, term, role) || self.health != health;
        (self.leader, self.term, self.role, self.health) = (leader, term, role, health);
        changed
    }
}

/// Keeps `view` up to date until the library stops. Most of what the library tells is that indices have grown: nobody is
/// woken for that.
pub(super) async fn follow(raft: Raft, view: watch::Sender<View>) {
    let mut metrics = raft.metrics();
    let mut members = None;
    loop {
        {
            let now = metrics.borrow_watched();
            view.send_if_modified(|view| {
                // A failure that we have noticed before the library is not taken back.
                if matches!(view.health, Health::Failed { .. }) {
                    return false;
                }
                let of = Some(*now.membership_config.log_id());
                let are_other = members != of;
                if are_other {
                    members = of;
                    view.take_in_members(&now);
                }
                view.take_in(&now) | are_other
            });
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
