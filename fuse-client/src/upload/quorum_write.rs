//! One chunk on its way to its replicas: whom to send to, whom to sync, when enough is enough. Pure.
//!
//! A put is *accepted* by a store of some incarnation, and *stable* by a sync of the same incarnation. If the store
//! answers the sync as another, it may have lost the put, which is sent again.
//!
//! # Invariants
//! - [`Durable`] is made here alone, once a write quorum of the row is stable.
//! - A replica is sent the chunk again only if it may have lost it or may never have got it.

use std::time::{Duration, Instant};

use ring::{ChunkKey, Epoch, GcEpoch, NodeId};
use wire::{
    chunk::Incarnation,
    namespace::{ChunkSlice, NewExtent},
};

/// Puts of one chunk to one replica: a store that loses it this often is no home for it.
const ATTEMPTS_MAX: u32 = 12;

/// First pause before a replica is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);

/// As long as a node is spared after a failure.
const RETRY_MAX: Duration = Duration::from_secs(2);

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
}

/// A write of one chunk to one row of the ring.
#[derive(Debug)]
pub(crate) struct QuorumWrite {
    subject: Subject,
    quorum: usize,
    replicas: Vec<Replica>,
    deadline: Instant,
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
    /// A write to `row`, in order of preference, given up at `deadline`.
    pub(crate) fn new(
        subject: Subject,
        row: impl IntoIterator<Item = (NodeId, Turn)>,
        quorum: usize,
        now: Instant,
        deadline: Instant,
    ) -> Self {
        let replica = |(node, turn)| Replica {
            node,
            state: match turn {
                Turn::First => State::Waiting { not_before: now },
                Turn::Reserve => State::Reserve,
            },
            attempts: 0,
            last_failure: PutFailure::Transient,
        };
        let replicas: Vec<Replica> = row.into_iter().map(replica).collect();
        assert!((1..=replicas.len()).contains(&quorum), "a quorum is a part of its row");
        Self { subject, quorum, replicas, deadline, told: false }
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
        let mut sound = self.replicas.iter().filter(sound).count();
        for replica in self.replicas.iter_mut().filter(|replica| replica.state == State::Reserve) {
            if sound < self.quorum {
                replica.state = State::Waiting { not_before: now };
                sound += 1;
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
        retries.fold(self.deadline, Instant::min)
    }

    /// The outcome, once: as soon as a quorum is stable, or none can be any more.
    pub(crate) fn poll_outcome(&mut self) -> Option<Result<Durable, QuorumLost>> {
        if self.told {
            return None;
        }
        let stable = self.count(|state| state == State::Stable);
        let lost = self.count(|state| matches!(state, State::Lost { .. }));
        let outcome = if stable >= self.quorum {
            let Subject { key, chunk_len, epoch, gc } = self.subject;
            Ok(Durable { key, chunk_len, epoch, gc })
        } else if self.replicas.len() - lost < self.quorum {
            let full = self.count(|state| state == State::Lost { failure: PutFailure::DiskFull });
            Err(QuorumLost { stable, quorum: self.quorum, disk_full: full > 0 && stable + full >= self.quorum })
        } else {
            return None;
        };
        self.told = true;
        Some(outcome)
    }

    /// Whether nothing more can come of it: every replica has the chunk, is lost, or was never needed.
    pub(crate) fn is_settled(&self) -> bool {
        self.count(|state| !matches!(state, State::Stable | State::Lost { .. } | State::Reserve)) == 0
    }

    /// Replicas that are being written to, or will be.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = NodeId> + '_ {
        let unsettled =
            |replica: &&Replica| !matches!(replica.state, State::Stable | State::Lost { .. } | State::Reserve);
        self.replicas.iter().filter(unsettled).map(|replica| replica.node)
    }

    fn count(&self, is: impl Fn(State) -> bool) -> usize {
        self.replicas.iter().filter(|replica| is(replica.state)).count()
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
