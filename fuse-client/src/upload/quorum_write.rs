//! One chunk on its way to its replicas: whom to send to, whom to sync, when enough is enough. Pure.
//!
//! While a partition moves, enough is a write quorum of its old row and one of its new row; a node of both counts twice.
//!
//! A quorum lies in as many zones as it can: one within a single zone is not enough while a replica of another zone, which
//! is not known to be in trouble, may still answer, for [`ZONES_PATIENCE`].
//!
//! A put is *accepted* by a store of some incarnation, and *stable* by a sync of the same incarnation. If the store
//! answers the sync as another, it may have lost the put, which is sent again. A store that was asked to sync with the put says
//! both at once.
//!
//! # Invariants
//! - [`Durable`] is made here alone, once a write quorum of every row is stable.
//! - A replica is sent the chunk again only if it may have lost it or may never have got it.

use std::time::{Duration, Instant};

use ring::{ChunkKey, Epoch, GcEpoch, NodeId};
use wire::{
    chunk::Incarnation,
    cluster::PutRow,
    namespace::{ChunkSlice, NewExtent},
};

/// Puts of one chunk to one replica: a store that loses it this often is no home for it.
const ATTEMPTS_MAX: u32 = 12;

/// First pause before a replica is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);

/// As long as a node is spared after a failure.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How long a write whose quorum crowds a zone waits for a replica of another: as long as a node may be silent before it
/// counts as in trouble, whereupon nobody waits for it.
const ZONES_PATIENCE: Duration = Duration::from_secs(2);

/// Proof that a chunk is stable on its write quorum. Made only by a [`QuorumWrite`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Durable {
    key: ChunkKey,
    chunk_len: u32,
    epoch: Epoch,
    gc: GcEpoch,
}

impl Durable {
    /// The chunk as the extent of a file that begins at `offset`: all that may become one.
    pub fn extent(&self, offset: u64) -> NewExtent {
        let slice = ChunkSlice { key: self.key, chunk_len: self.chunk_len, offset: 0, len: self.chunk_len };
        NewExtent { offset, slice, epoch: self.epoch, gc: self.gc }
    }

    /// Which chunk.
    pub fn key(&self) -> ChunkKey {
        self.key
    }
}

/// What is being written, and what says when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    pub(crate) key: ChunkKey,
    pub(crate) chunk_len: u32,
    /// Epoch of the map that the row is from.
    pub(crate) epoch: Epoch,
    /// Stamp of the puts.
    pub(crate) gc: GcEpoch,
}

/// Whether a replica is asked at once, or only if the others are too few.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    First,
    /// At once, to find out whether it is out of trouble; nobody waits for it without need.
    Trial,
    Reserve,
}

/// Why a replica does not have the chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PutFailure {
    /// It may work the next time.
    Transient,
    /// Its disk is full.
    DiskFull,
    /// It will not work.
    Permanent,
}

/// What can still become of the chunk on a replica.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Not sent yet, or to be sent again.
    Waiting {
        not_before: Instant,
    },
    /// Not sent unless needed.
    Reserve,
    Sending,
    Accepted {
        incarnation: Incarnation,
    },
    Syncing {
        incarnation: Incarnation,
    },
    Stable,
    Lost {
        failure: PutFailure,
    },
}

#[derive(Debug)]
struct Replica {
    node: NodeId,
    state: State,
    attempts: u32,
    last_failure: PutFailure,
    /// Was not in trouble when the write began.
    is_trusted: bool,
}

/// A write of one chunk to the rows of its partition.
#[derive(Debug)]
pub(crate) struct QuorumWrite {
    subject: Subject,
    rows: Vec<PutRow>,
    replicas: Vec<Replica>,
    deadline: Instant,
    /// Until when a quorum that crowds a zone is not enough.
    spread_until: Instant,
    is_spread_wanted: bool,
    told: bool,
}

/// Too few replicas have the chunk, and no more can get it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct QuorumLost {
    pub(crate) stable: usize,
    pub(crate) quorum: usize,
    /// Disks that were full: with these, the quorum would have stood.
    pub(crate) disk_full: bool,
}

impl QuorumWrite {
    /// A write to `rows`, each in order of preference, given up at `deadline`.
    pub(crate) fn new(
        subject: Subject,
        rows: Vec<PutRow>,
        turn: impl Fn(NodeId) -> Turn,
        now: Instant,
        deadline: Instant,
    ) -> Self {
        let replica = |node| {
            let turn = turn(node);
            Replica {
                node,
                state: match turn {
                    Turn::First | Turn::Trial => State::Waiting { not_before: now },
                    Turn::Reserve => State::Reserve,
                },
                attempts: 0,
                last_failure: PutFailure::Transient,
                is_trusted: turn == Turn::First,
            }
        };
        let mut nodes: Vec<NodeId> = Vec::new();
        for node in rows.iter().flat_map(|row| row.nodes.iter().copied()) {
            if !nodes.contains(&node) {
                nodes.push(node);
            }
        }
        for row in &rows {
            assert!((1..=row.nodes.len()).contains(&row.quorum), "a quorum is a part of its row");
        }
        let replicas = nodes.into_iter().map(replica).collect();
        let spread_until = now + ZONES_PATIENCE;
        Self { subject, rows, replicas, deadline, spread_until, is_spread_wanted: true, told: false }
    }

    /// Whom to send the chunk to now.
    pub(crate) fn poll_send(&mut self, now: Instant) -> Option<NodeId> {
        self.call_reserves(now);
        let due = |replica: &&mut Replica| matches!(replica.state, State::Waiting { not_before } if not_before <= now);
        let replica = self.replicas.iter_mut().find(due)?;
        replica.state = State::Sending;
        replica.attempts += 1;
        Some(replica.node)
    }

    /// Those in reserve are asked when the others cannot make the quorum, or are in trouble.
    fn call_reserves(&mut self, now: Instant) {
        let sound = |replica: &&Replica| match replica.state {
            State::Waiting { .. } | State::Sending => replica.attempts <= 1,
            State::Accepted { .. } | State::Syncing { .. } | State::Stable => true,
            State::Reserve | State::Lost { .. } => false,
        };
        let mut fit: Vec<NodeId> = self.replicas.iter().filter(sound).map(|replica| replica.node).collect();
        for replica in self.replicas.iter_mut().filter(|replica| replica.state == State::Reserve) {
            let is_needed = |row: &PutRow| {
                row.nodes.contains(&replica.node)
                    && row.nodes.iter().filter(|node| fit.contains(node)).count() < row.quorum
            };
            if self.rows.iter().any(is_needed) {
                replica.state = State::Waiting { not_before: now };
                fit.push(replica.node);
            }
        }
    }

    /// The quorum stands: those in reserve that are `wanted` get the chunk, too.
    pub(crate) fn call_stragglers(&mut self, wanted: impl Fn(NodeId) -> bool, now: Instant) {
        for replica in self.replicas.iter_mut().filter(|replica| replica.state == State::Reserve) {
            if wanted(replica.node) {
                replica.state = State::Waiting { not_before: now };
            }
        }
    }

    /// Whose store to sync now.
    pub(crate) fn poll_sync(&mut self) -> Option<NodeId> {
        self.replicas.iter_mut().find_map(|replica| match replica.state {
            State::Accepted { incarnation } => {
                replica.state = State::Syncing { incarnation };
                Some(replica.node)
            }
            _ => None,
        })
    }

    /// The store accepted the put.
    pub(crate) fn handle_accepted(&mut self, node: NodeId, incarnation: Incarnation) {
        if let Some(replica) = self.replica(node).filter(|replica| replica.state == State::Sending) {
            replica.state = State::Accepted { incarnation };
        }
    }

    /// The store accepted the put and synced it before it answered.
    pub(crate) fn handle_stable(&mut self, node: NodeId) {
        if let Some(replica) = self.replica(node).filter(|replica| replica.state == State::Sending) {
            replica.state = State::Stable;
        }
    }

    /// The store synced, as this incarnation.
    pub(crate) fn handle_synced(&mut self, node: NodeId, synced: Incarnation, now: Instant) {
        let Some(replica) = self.replica(node) else { return };
        match replica.state {
            State::Syncing { incarnation } if incarnation == synced => replica.state = State::Stable,
            State::Syncing { .. } => replica.fail(PutFailure::Transient, now),
            _ => {}
        }
    }

    /// A put or sync failed: what was accepted may be lost.
    pub(crate) fn handle_failure(&mut self, node: NodeId, failure: PutFailure, now: Instant) {
        if let Some(replica) = self.replica(node) {
            let pause = (RETRY_MIN * 2u32.saturating_pow(replica.attempts.saturating_sub(1))).min(RETRY_MAX);
            replica.fail(failure, now + pause);
        }
    }

    fn replica(&mut self, node: NodeId) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|replica| replica.node == node)
    }

    /// Time has passed: at the deadline, what is not stable is lost.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.is_spread_wanted &= now < self.spread_until;
        if now >= self.deadline {
            for replica in self.replicas.iter_mut().filter(|replica| replica.state != State::Stable) {
                replica.state = State::Lost { failure: replica.last_failure };
            }
        }
    }

    /// When to call [`QuorumWrite::handle_timeout`] and poll again.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let retries = self.replicas.iter().filter_map(|replica| match replica.state {
            State::Waiting { not_before } => Some(not_before),
            _ => None,
        });
        let waits_for_zones = self.is_spread_wanted && !self.told && !self.rows.iter().any(|row| self.lacks(row));
        let spread = waits_for_zones.then_some(self.spread_until);
        retries.chain(spread).fold(self.deadline, Instant::min)
    }

    /// The outcome, once: as soon as a quorum is stable, or none can be any more.
    pub(crate) fn poll_outcome(&mut self) -> Option<Result<Durable, QuorumLost>> {
        if self.told {
            return None;
        }
        let lost = self.rows.iter().find_map(|row| self.lost(row));
        let outcome = match lost {
            Some(lost) => Err(lost),
            None if self.rows.is_empty() => Err(QuorumLost { stable: 0, quorum: 1, disk_full: false }),
            None if self.rows.iter().any(|row| self.lacks(row)) => return None,
            None if self.is_spread_wanted && self.rows.iter().any(|row| self.may_spread(row)) => return None,
            None => {
                let Subject { key, chunk_len, epoch, gc } = self.subject;
                Ok(Durable { key, chunk_len, epoch, gc })
            }
        };
        self.told = true;
        Some(outcome)
    }

    /// Whether the outcome was told.
    pub(crate) fn is_decided(&self) -> bool {
        self.told
    }

    fn lacks(&self, row: &PutRow) -> bool {
        self.count(row, |state| state == State::Stable) < row.quorum
    }

    /// Whether the stable replicas of a row crowd a zone, and one of another zone may come to them.
    fn may_spread(&self, row: &PutRow) -> bool {
        let is = |node: NodeId, is: &dyn Fn(&Replica) -> bool| {
            self.replicas.iter().any(|replica| replica.node == node && is(replica))
        };
        let is_stable = |replica: &Replica| replica.state == State::Stable;
        let may_come = |replica: &Replica| {
            is_stable(replica) || (replica.is_trusted && !matches!(replica.state, State::Lost { .. } | State::Reserve))
        };
        let now = row.zones(|node| is(node, &is_stable));
        now < row.spread() && now < row.zones(|node| is(node, &may_come))
    }

    /// That a row can have no quorum any more.
    fn lost(&self, row: &PutRow) -> Option<QuorumLost> {
        let lost = self.count(row, |state| matches!(state, State::Lost { .. }));
        if row.nodes.len() - lost >= row.quorum {
            return None;
        }
        let stable = self.count(row, |state| state == State::Stable);
        let full = self.count(row, |state| state == State::Lost { failure: PutFailure::DiskFull });
        Some(QuorumLost { stable, quorum: row.quorum, disk_full: full > 0 && stable + full >= row.quorum })
    }

    /// Whether nothing more can come of it: every replica has the chunk, is lost, or was never needed.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled().next().is_none()
    }

    /// Replicas that are being written to, or will be.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = NodeId> + '_ {
        let unsettled =
            |replica: &&Replica| !matches!(replica.state, State::Stable | State::Lost { .. } | State::Reserve);
        self.replicas.iter().filter(unsettled).map(|replica| replica.node)
    }

    /// Those of them that were sent the chunk.
    pub(crate) fn overdue(&self) -> impl Iterator<Item = NodeId> + '_ {
        let is_sent = |node: &NodeId| self.replicas.iter().any(|replica| replica.node == *node && replica.attempts > 0);
        self.unsettled().filter(is_sent)
    }

    fn count(&self, row: &PutRow, is: impl Fn(State) -> bool) -> usize {
        self.replicas.iter().filter(|replica| row.nodes.contains(&replica.node) && is(replica.state)).count()
    }
}

impl Replica {
    fn fail(&mut self, failure: PutFailure, retry_at: Instant) {
        self.last_failure = failure;
        if matches!(self.state, State::Stable | State::Lost { .. }) {
            return;
        }
        self.state = match failure {
            PutFailure::Transient if self.attempts < ATTEMPTS_MAX => State::Waiting { not_before: retry_at },
            PutFailure::Transient | PutFailure::DiskFull | PutFailure::Permanent => State::Lost { failure },
        };
    }
}

#[cfg(test)]
#[path = "quorum_write/tests.rs"]
mod tests;
