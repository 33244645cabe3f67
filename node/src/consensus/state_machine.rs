//! The replicated state machine's place in the Raft library: entries in, rows and answers out.
//!
//! # Invariants
//! - The rows and the word on how far they reach ([`StateWords`], under [`STATE_KEY`]) change in one batch.
//! - An answer is sent only after its batch is committed; it is durable by the log, not by the store.
//! - What counts as a snapshot (so that the log may be purged up to it) has been persisted and synced.

use std::fmt;
use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use ring::NodeId;

use super::error::OpenError;
use super::raft_types::{Applied, Entry, LogId, SnapshotMeta, StoredMembership, Types};
use super::snapshot::Spool;
use super::snapshot::SpooledSnapshot;
use super::words::{MembershipWords, StateWords};
use crate::append_log::slots::{Slots, VALUE_LEN_MAX};
use crate::kv::{KvError, KvRead, KvStore, WriteBatch};
use crate::namespace::{Command, CommandOutcome, LogIndex};

/// How a command is applied: [`crate::namespace::apply`], or a small stand-in in tests.
pub(super) type ApplyFn = fn(&dyn KvRead, LogIndex, &Command) -> Result<(WriteBatch, CommandOutcome), KvError>;

/// Row that says how far the rows reach. The tables of the namespace begin at [`ROWS_FROM`].
pub(super) const STATE_KEY: &[u8] = b"\0raft";

/// First and last key of what a snapshot carries.
pub(super) const ROWS_FROM: &[u8] = &[1];
/// No table of the namespace has this prefix.
pub(super) const ROWS_TO: &[u8] = &[0xff];

/// First byte of the row under [`STATE_KEY`].
const STATE_VERSION: u8 = 1;

/// Rows that entries change before others have their turn: some ten milliseconds.
const ROWS_IN_A_ROW: usize = 1024;

/// What a snapshot is made of.
pub(super) enum SnapshotData {
    /// The store as it was, to be read page by page.
    Rows(Box<dyn KvRead>),
    /// A file that was received whole.
    Spooled(SpooledSnapshot),
}

type RaftSnapshot = openraft::type_config::alias::SnapshotOf<Types, SnapshotData>;

/// The state machine; clones share it.
#[derive(Clone)]
pub(super) struct StateMachine {
    shared: Arc<Shared>,
}

struct Shared {
    kv: Arc<dyn KvStore>,
    apply: ApplyFn,
    spool: Arc<Spool>,
    /// Who the members are, beside the store: whom to ask if the store is lost.
    members: tokio::sync::Mutex<Slots>,
    /// How far the rows reach. Guards itself alone; changed only by the library's one worker.
    state: Mutex<SnapshotMeta>,
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine").field("state", &*self.shared.state.lock()).finish()
    }
}

impl StateMachine {
    /// Takes up the store where it was left. What it holds is made durable first, because the log may be purged up to it.
    pub(super) async fn open(
        kv: Arc<dyn KvStore>,
        apply: ApplyFn,
        spool: Arc<Spool>,
        members: Slots,
    ) -> Result<Self, OpenError> {
        kv.persist().await?;
        let state = read_state(&*kv)?;
        let members = tokio::sync::Mutex::new(members);
        Ok(Self { shared: Arc::new(Shared { kv, apply, spool, members, state: Mutex::new(state) }) })
    }

    async fn note_members(&self) -> io::Result<()> {
        let words = MembershipWords::from(self.shared.state.lock().last_membership.membership());
        let note = encode_members(&words);
        self.shared.members.lock().await.write(note.into()).await.map_err(io::Error::other)
    }

    /// The last entry that the rows hold.
    pub(super) fn applied(&self) -> Option<LogId> {
        self.shared.state.lock().last_log_id
    }

    /// Everything applied so far, to be read page by page.
    fn snapshot(&self) -> RaftSnapshot {
        let meta = self.shared.state.lock().clone();
        Snapshot { meta, snapshot: SnapshotData::Rows(self.shared.kv.snapshot()) }
    }

    /// What came of an entry, and how many rows it changed.
    fn apply_one(&self, entry: &Entry) -> io::Result<(Applied, usize)> {
        let mut state = self.shared.state.lock().clone();
        let mut batch = WriteBatch::default();
        let mut outcome = None;
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(proposal) => {
                let index = LogIndex(entry.log_id.index);
                let unknown = |error| {
                    let advice = "run the version that wrote it";
                    let what = format!("this program cannot read entry {} of the Raft log: {error}; {advice}", index.0);
                    io::Error::new(io::ErrorKind::InvalidData, what)
                };
                let command: Command = postcard::from_bytes(&proposal.0).map_err(unknown)?;
                let applied = (self.shared.apply)(&*self.shared.kv, index, &command).map_err(io::Error::other)?;
                batch = applied.0;
                outcome = Some(applied.1);
            }
            EntryPayload::Membership(membership) => {
                state.last_membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
        }
        state.last_log_id = Some(entry.log_id);
        batch.put(STATE_KEY, encode_state(&state));
        let rows = batch.changes.len();
        self.shared.kv.commit(batch).map_err(io::Error::other)?;
        *self.shared.state.lock() = state;
        Ok((Applied { outcome }, rows))
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.shared.state.lock().clone();
        Ok((state.last_log_id, state.last_membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut changed = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let (applied, rows) = self.apply_one(&entry)?;
            if matches!(entry.payload, EntryPayload::Membership(_)) {
                self.note_members().await?;
            }
            if let Some(responder) = responder {
                responder.send(applied);
            }
            // A long run of entries must not keep the thread from the network.
            changed += rows;
            match changed {
                ROWS_IN_A_ROW.. => {
                    changed = 0;
                    tokio::task::yield_now().await;
                }
                _ => tokio::task::consume_budget().await,
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let spooled = match snapshot {
            SnapshotData::Spooled(spooled) => spooled,
            SnapshotData::Rows(rows) => self.shared.spool.take(rows, meta.into()).await?,
        };
        self.shared.spool.install(&spooled, &*self.shared.kv).await?;
        *self.shared.state.lock() = meta.clone();
        self.note_members().await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        Ok(self.applied().is_some().then(|| self.snapshot()))
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    type SnapshotData = SnapshotData;

    /// The store is the snapshot: what was applied before the call is made durable, nothing is copied.
    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let meta = self.shared.state.lock().clone();
        self.shared.kv.persist().await.map_err(io::Error::other)?;
        Ok(Snapshot { meta, snapshot: SnapshotData::Rows(self.shared.kv.snapshot()) })
    }
}

/// How far the rows of a store reach.
pub(super) fn read_state(kv: &dyn KvRead) -> Result<SnapshotMeta, OpenError> {
    let Some(value) = kv.get(STATE_KEY)? else { return Ok(SnapshotMeta::default()) };
    let unreadable = OpenError::Unreadable { what: "the applied state" };
    let words = match value.split_first() {
        Some((&STATE_VERSION, words)) => words,
        Some((&version, _)) => return Err(OpenError::StateVersion { version, known: STATE_VERSION }),
        None => return Err(unreadable),
    };
    let words: Option<StateWords> = postcard::from_bytes(words).ok();
    words.and_then(StateWords::into_meta).ok_or(unreadable)
}

/// One state of the rows; none before the first, or while those of a snapshot take their place.
pub(super) fn whole_rows(kv: &dyn KvStore) -> Result<Option<Box<dyn KvRead>>, KvError> {
    let rows = kv.snapshot();
    Ok(rows.get(STATE_KEY)?.is_some().then_some(rows))
}

/// The row that says how far the rows reach.
pub(super) fn encode_state(state: &SnapshotMeta) -> Vec<u8> {
    postcard::to_extend(&StateWords::from(state), vec![STATE_VERSION]).expect("ids and sets of ids always encode")
}

/// The note on who the members are: as many as fit, which is more than any group has.
fn encode_members(words: &MembershipWords) -> Vec<u8> {
    let members: Vec<NodeId> = words.members.iter().copied().take(VALUE_LEN_MAX / 32).collect();
    postcard::to_stdvec(&members).expect("ids always encode")
}
