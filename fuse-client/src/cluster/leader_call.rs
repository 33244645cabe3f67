//! A request to whoever leads: finds the leader, follows changes, ends within its deadline.

use std::{net::SocketAddr, time::Duration};

use ring::NodeId;
use tokio::time::{Instant, sleep};
use wire::{
    Answer, Refusal, Reply, Request,
    quic::{CallError, ConnectError, Lane},
};

use super::{Cluster, ClusterError, attempts::Attempts, connect::is_final, leader::LeaderSearch, now};

/// A leader that has been silent this long may be gone: the others are asked who leads now.
const SILENCE: Duration = Duration::from_secs(1);

/// How often they are asked while it stays silent.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// What an attempt came to.
enum Attempt {
    Answered(Answer),
    /// Asking again changes nothing.
    Refused(Refusal),
    /// Somebody else may serve it.
    Elsewhere,
    /// Not now: it waits for others.
    Busy,
}

impl Cluster {
    /// Asks the leader. The request may be executed more than once.
    pub(crate) async fn call_leader(&self, request: &Request, deadline: Duration) -> Result<Answer, ClusterError> {
        let until = Instant::now() + deadline;
        let mut attempts = Attempts::default();
        let mut search = LeaderSearch::default();
        // Whether the leader was heard to say so, whatever others said since.
        let mut is_busy = false;
        loop {
            let (members, target) = self.leader_target();
            if let Some((node, address)) = target {
                match self.attempt(node, address, request, until, &mut attempts).await {
                    Attempt::Answered(answer) => return Ok(answer),
                    Attempt::Refused(refusal) => return Err(ClusterError::Refused(refusal)),
                    Attempt::Elsewhere => {}
                    Attempt::Busy => is_busy = true,
                }
            }
            let pause = search.handle_refusal(members);
            if Instant::now() + pause >= until && is_busy {
                return Err(ClusterError::Refused(Refusal::Busy));
            }
            if Instant::now() + pause >= until {
                let tried = attempts.to_string();
                return Err(match (attempts.is_leaderless(), attempts.is_untrusted()) {
                    (true, _) => ClusterError::NoQuorum { tried },
                    (false, true) => ClusterError::Untrusted { tried },
                    (false, false) => ClusterError::Unreachable { tried },
                });
            }
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    /// How many members there are, and which to ask.
    fn leader_target(&self) -> (usize, Option<(NodeId, SocketAddr)>) {
        let map = self.map();
        let members: Vec<NodeId> = map.nodes.iter().map(|node| node.id).collect();
        let target = self.shared.leader.lock().target(&members);
        (members.len(), target.and_then(|node| map.node(node)).map(|row| (row.id, row.address)))
    }

    async fn attempt(
        &self,
        node: NodeId,
        address: SocketAddr,
        request: &Request,
        until: Instant,
        attempts: &mut Attempts,
    ) -> Attempt {
        let left = until.saturating_duration_since(Instant::now());
        let call = self.shared.peers.call(node, address, Lane::Control, request, &[], left);
        let called = tokio::select! {
            biased;
            called = call => called,
            () = self.another_leader(node) => {
                attempts.note(address, "led, and does not answer any more");
                return Attempt::Elsewhere;
            }
        };
        match called {
            Ok((reply, _)) => self.judge(node, address, reply, attempts).await,
            Err(CallError::NotSent(ConnectError::Refused { refusal, .. })) if is_final(&refusal) => {
                Attempt::Refused(refusal)
            }
            Err(error) => {
                if matches!(error, CallError::Malformed) {
                    attempts.note(address, "a reply that cannot be read; do client and nodes have the same version?");
                } else {
                    attempts.note_failure(address, &error);
                }
                self.shared.leader.lock().handle_failure(node, now());
                self.shared.health.lock().handle_failure(node, now());
                Attempt::Elsewhere
            }
        }
    }

    async fn judge(&self, node: NodeId, address: SocketAddr, reply: Reply, attempts: &mut Attempts) -> Attempt {
        let refusal = match reply {
            Ok(answer) => {
                self.shared.leader.lock().handle_answer(node);
                return Attempt::Answered(answer);
            }
            Err(refusal) => refusal,
        };
        match refusal {
            Refusal::NotLeader { leader } => {
                attempts.note_leaderless();
                attempts.note(address, "waits for a leader");
                self.shared.leader.lock().handle_not_leader(node, leader, now());
                if leader.is_some_and(|leader| self.map().node(leader).is_none()) {
                    // A leader that our map does not know: the map is old. That it stays old is no error here.
                    let _asked = self.ask_map(node, address, SILENCE).await.is_ok();
                }
                Attempt::Elsewhere
            }
            Refusal::NoQuorum | Refusal::Busy => {
                attempts.note_leaderless();
                let attempt = if refusal == Refusal::Busy { Attempt::Busy } else { Attempt::Elsewhere };
                attempts.note(address, refusal);
                self.shared.leader.lock().handle_not_leader(node, None, now());
                attempt
            }
            Refusal::NotServing | Refusal::StaleEpoch { .. } => {
                attempts.note(address, refusal);
                self.shared.leader.lock().handle_failure(node, now());
                Attempt::Elsewhere
            }
            final_one => Attempt::Refused(final_one),
        }
    }

    /// Ends when, `silent` having been silent for a while, others say that somebody else leads.
    async fn another_leader(&self, silent: NodeId) {
        sleep(SILENCE).await;
        loop {
            let map = self.map();
            let mut answered = false;
            for other in map.nodes.iter().filter(|other| other.id != silent) {
                let asked = self.ask_map(other.id, other.address, WATCH_INTERVAL).await;
                answered |= asked.is_ok();
                if let Some(leader) = asked.ok().flatten().filter(|leader| *leader != silent) {
                    return self.follow(silent, leader);
                }
            }
            // Whoever answers now may have joined after our map was made.
            if !answered && let Some(leader) = self.ask_seeds().await.filter(|leader| *leader != silent) {
                return self.follow(silent, leader);
            }
            sleep(WATCH_INTERVAL).await;
        }
    }

    fn follow(&self, silent: NodeId, leader: NodeId) {
        let mut tracker = self.shared.leader.lock();
        tracker.handle_failure(silent, now());
        tracker.handle_hint(leader, now());
    }
}
