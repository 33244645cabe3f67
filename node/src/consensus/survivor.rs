//! The Raft state of a member that does not run: what it has, and how it goes on when the majority of the voters is gone
//! for good. The decisions are those of [`crate::recover`].
//!
//! Raft cannot do this: a member alone elects nobody. [`Survivor::lead_alone`] writes what a leader of a group of one
//! would have written, in the first term of the next generation. Entries first; then the vote, in one write. Entries of a
//! generation that the vote has not reached are cut at the next open, so a crash leaves the old state or the new one.
//!
//! Another survivor may have applied entries that the new history does not have, and Raft never takes back what is
//! applied. It begins anew, with an empty log and the vote that [`follow_from`] writes: a vote in the new generation, so
//! that nobody of the old one gets this member's vote a second time.
//!
//! # Invariants
//! - Nothing is written that says less than what was there: the whole log stays, committed or not.
//! - The term is above every term of the old generation, the vote is for this member.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::impls::EmptyNode;
use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use ring::NodeId;
use tokio::task::JoinHandle;
use wire::namespace::Timestamp;

use super::error::OpenError;
use super::log_store::LogStore;
use super::open::{finish_installation, reconcile};
use super::raft_types::{Entry, LeaderId, LogId, Membership, Payload, Proposal, RaftId, Vote};
use super::snapshot::Spool;
use super::state_machine::{StateMachine, read_state};
use super::words::VoteWords;
use crate::append_log::LogConfig;
use crate::append_log::slots::Slots;
use crate::disk::Disk;
use crate::generation::Generation;
use crate::kv::KvStore;
use crate::namespace::{self, Command, CommandBody};

/// Entries read at once; the newest command is looked for among as many at the end of the log.
const READ_ENTRIES: u64 = 64;

/// How far a log goes. Of two members that are left, the one with the higher place has everything that was acknowledged
/// and that either of them has.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// In which term its last entry was written,
    pub term: u64,
    /// by which leader,
    pub leader: NodeId,
    /// and its index.
    pub index: u64,
}

impl Place {
    fn of(id: LogId) -> Self {
        Self { term: id.leader_id.term, leader: id.leader_id.node_id.0, index: id.index }
    }
}

/// Of a fixed length, so that places compare as their texts do.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leader = self.leader.to_string();
        write!(f, "{:012x}-{}-{:012x}", self.term, leader.get(..8).unwrap_or(&leader), self.index)
    }
}

/// What a member has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Standing {
    /// Who votes, as far as it knows; in the middle of a change, the old and the new ones.
    pub voters: BTreeSet<NodeId>,
    /// How far its log goes; none if it has nothing.
    pub last: Option<Place>,
    /// Index of the last entry that its rows hold; 0 if there is none.
    pub applied: u64,
    /// Index up to which the log was shortened; 0 if it was not.
    pub purged: u64,
    /// The highest term that it has seen.
    pub term: u64,
    /// When the newest change that it has was made, by the clock of the leader of that time.
    pub changed: Option<Timestamp>,
}

/// Why the state of a member was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    /// It cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The medium refused: nothing has changed, or everything; ask again.
    #[error("cannot write the Raft log; what is on disk is the state before or the one after, run this again")]
    Write(#[source] io::Error),
}

/// A member that does not run; its directory is locked by the caller.
pub struct Survivor {
    store: LogStore,
    writer: JoinHandle<()>,
    standing: Standing,
}

impl fmt::Debug for Survivor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survivor").field("standing", &self.standing).finish_non_exhaustive()
    }
}

impl Survivor {
    /// Opens what is in `dir` and `kv` as a start does: what a crash left half done is finished, nothing else changes.
    pub async fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        kv: Arc<dyn KvStore>,
        log: LogConfig,
        seed: u64,
    ) -> Result<Self, OpenError> {
        let rng = Box::new(StdRng::seed_from_u64(seed));
        let (mut store, writer) = LogStore::open(Arc::clone(&disk), dir, log, rng).await?;
        let (spool, waiting) = Spool::open(Arc::clone(&disk), dir).await?;
        if let Some(waiting) = waiting {
            finish_installation(&spool, &waiting, &*kv).await?;
        }
        let (members, note) = Slots::open(disk, &dir.join("members")).await?;
        if store.lacks_vote(note.is_some() || read_state(&*kv)?.last_log_id.is_some()) {
            return Err(OpenError::VoteLost);
        }
        let machine = StateMachine::open(Arc::clone(&kv), namespace::apply, Arc::new(spool), members).await?;
        reconcile(&mut store, &machine).await?;
        let standing = standing(&mut store, &*kv).await?;
        Ok(Self { store, writer, standing })
    }

    /// What it has.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Makes `node`, this one, the only voter of the group, from the end of its log on, and adds `commands`. Returns when
    /// that is durable.
    pub async fn lead_alone(
        mut self,
        node: NodeId,
        generation: Generation,
        stamp: Timestamp,
        commands: Vec<CommandBody>,
    ) -> Result<(), SurvivorError> {
        let leader = LeaderId { term: generation.first(), node_id: RaftId(node) };
        assert!(leader.term > self.standing.term, "a generation begins above every term of the one before");
        let alone = Membership::new(
            vec![BTreeSet::from([RaftId(node)])],
            std::collections::BTreeMap::from([(RaftId(node), EmptyNode::new())]),
        )
        .expect("the only voter is a member");
        let encoded = commands.into_iter().map(|body| {
            let bytes = postcard::to_stdvec(&Command { stamp, body }).expect("commands always encode");
            EntryPayload::Normal(Proposal(bytes.into()))
        });
        let payloads: Vec<Payload> = std::iter::once(EntryPayload::Membership(alone)).chain(encoded).collect();
        let first = self.standing.last.map_or(0, |last| last.index + 1);
        let entries: Vec<Entry> = (first..)
            .zip(payloads)
            .map(|(index, payload)| Entry { log_id: LogId { leader_id: leader, index }, payload })
            .collect();
        self.store.append(entries, IOFlushed::noop()).await.map_err(SurvivorError::Write)?;
        // The writer syncs the entries before it writes the vote, which alone makes them count.
        let vote = Vote { leader_id: leader, committed: true };
        self.store.save_vote(&vote).await.map_err(SurvivorError::Write)?;
        self.close().await
    }

    /// Lets go of the files.
    pub async fn close(self) -> Result<(), SurvivorError> {
        drop(self.store);
        self.writer.await.map_err(|error| SurvivorError::Write(io::Error::other(error)))
    }
}

async fn standing(store: &mut LogStore, kv: &dyn KvStore) -> Result<Standing, OpenError> {
    let failed = |source| OpenError::Disk { path: "the Raft log".into(), source };
    let state = read_state(kv)?;
    let log = store.get_log_state().await.map_err(failed)?;
    let last = log.last_log_id.max(state.last_log_id);
    let mut membership = state.last_membership.membership().clone();
    let mut changed = None;
    let end = last.map_or(0, |id| id.index + 1);
    let unapplied = state.last_log_id.map_or(0, |id| id.index + 1);
    let mut at = unapplied.min(end.saturating_sub(READ_ENTRIES));
    while at < end {
        let entries = store.try_get_log_entries(at..end.min(at + READ_ENTRIES)).await.map_err(failed)?;
        for entry in entries {
            match entry.payload {
                EntryPayload::Membership(newer) if entry.log_id.index >= unapplied => membership = newer,
                EntryPayload::Normal(Proposal(bytes)) => {
                    // Written by another version, it still is an entry: only its time is not known.
                    changed = postcard::from_bytes(&bytes).ok().map(|command: Command| command.stamp).or(changed);
                }
                EntryPayload::Membership(_) | EntryPayload::Blank => {}
            }
        }
        at += READ_ENTRIES;
    }
    let vote = store.read_vote().await.map_err(failed)?;
    Ok(Standing {
        voters: membership.voter_ids().map(|id| id.0).collect(),
        last: last.map(Place::of),
        applied: state.last_log_id.map_or(0, |id| id.index),
        purged: log.last_purged_log_id.map_or(0, |id| id.index),
        term: vote.map_or(0, |vote| vote.leader_id.term),
        changed,
    })
}

fn vote_path(dir: &Path) -> PathBuf {
    dir.join("vote")
}

/// The generation that the member in `dir` has voted in last; none if it never has.
pub async fn generation_at(disk: Arc<dyn Disk>, dir: &Path) -> Result<Option<Generation>, OpenError> {
    let (_slots, vote) = Slots::open(disk, &vote_path(dir)).await?;
    let Some(vote) = vote else { return Ok(None) };
    let vote: VoteWords = postcard::from_bytes(&vote).map_err(|_| OpenError::Unreadable { what: "the vote" })?;
    Ok(Some(Generation::of_term(vote.term)))
}

/// Makes `dir` that of a member which has nothing and has voted for itself, `node`, in the first term of `generation`:
/// it votes for nobody of an earlier one.
pub async fn follow_from(
    disk: Arc<dyn Disk>,
    dir: &Path,
    node: NodeId,
    generation: Generation,
) -> Result<(), SurvivorError> {
    let failed = |path: PathBuf| move |source| SurvivorError::Open(OpenError::Disk { path, source });
    for path in [dir.to_owned(), dir.join("log")] {
        disk.create_dir(&path).await.map_err(failed(path))?;
    }
    let (mut slots, _) = Slots::open(Arc::clone(&disk), &vote_path(dir)).await.map_err(OpenError::from)?;
    let vote = VoteWords { term: generation.first(), node, committed: false };
    let bytes = postcard::to_stdvec(&vote).expect("a vote always encodes");
    slots.write(bytes.into()).await.map_err(|error| SurvivorError::Write(io::Error::other(error)))?;
    disk.sync_dir(dir).await.map_err(failed(dir.to_owned()))
}
