//! Sessions: opening, closing, and the inode numbers reserved for them.
//!
//! # Invariants
//! - A number is handed out once, and names at most one inode, ever.
//! - A closed session leaves nothing: its locks are released, and what it held unnamed becomes orphans, in as many
//!   commands as that takes.

use wire::{
    Refusal,
    cluster::Peer,
    namespace::{INODE_RANGE_LEN, Inode, InodeRange, OpError, OpNumber, SessionId, SessionNonce},
};

use super::{
    command::CommandOutcome,
    edit::{Edit, Fault, collect},
    row::{self, Counters, SessionRow, SessionState},
    table,
};
use crate::kv::{KvError, KvRead};

/// Ranges of one session that are not used up. Numbers of failed creates are never used, so that ranges stay behind:
/// the oldest goes when there is one too many, a million numbers behind.
const RANGES_MAX: u32 = 256;

/// Bytes of the bitmap of a range.
const BITMAP_LEN: usize = INODE_RANGE_LEN as usize / 8;

/// A session, as the leader's loop that ends silent ones sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionSummary {
    /// Which.
    pub session: SessionId,
    /// Whose.
    pub client: Peer,
    /// Index of the log at which it was opened.
    pub opened: u64,
}

/// Every session that lives, in the order in which they were opened.
pub fn session_list(rows: &dyn KvRead) -> Result<Vec<SessionSummary>, KvError> {
    let (from, to) = table::rows_of_table(table::SESSION);
    let mut sessions = Vec::new();
    for (key, value) in collect(rows, &from, &to, usize::MAX)? {
        let row: SessionRow = row::decode(&key, &value)?;
        if row.state == SessionState::Open {
            let session = SessionId(table::first_number(&key).unwrap_or(0));
            sessions.push(SessionSummary { session, client: row.client, opened: row.opened });
        }
    }
    Ok(sessions)
}

/// No session that was opened so far has this number, or a higher one.
pub fn next_session(rows: &dyn KvRead) -> Result<SessionId, KvError> {
    let counters: Option<Counters> = row::read(rows, &table::single(table::COUNTERS))?;
    Ok(SessionId(counters.map_or(0, |counters| counters.next_session)))
}

/// Whether one of these operations of a session has been executed, and its outcome is kept.
pub fn any_executed(
    rows: &dyn KvRead,
    session: SessionId,
    mut numbers: impl Iterator<Item = OpNumber>,
) -> Result<bool, KvError> {
    numbers.try_fold(false, |any, number| Ok(any || rows.get(&table::outcome(session, number))?.is_some()))
}

/// Whose a session is, if it lives.
pub fn session_owner(rows: &dyn KvRead, session: SessionId) -> Result<Option<Peer>, KvError> {
    let row: Option<SessionRow> = row::read(rows, &table::session(session))?;
    Ok(row.filter(|row| row.state == SessionState::Open).map(|row| row.client))
}

/// Sessions that may hold leases.
pub fn mount_sessions(rows: &dyn KvRead) -> Result<Vec<SessionId>, KvError> {
    let (from, to) = table::rows_of_table(table::MOUNT);
    let found = collect(rows, &from, &to, usize::MAX)?;
    Ok(found.iter().filter_map(|(key, _)| table::first_number(key)).map(SessionId).collect())
}

/// Whether a session may hold leases.
pub fn is_mount(rows: &dyn KvRead, session: SessionId) -> Result<bool, KvError> {
    Ok(rows.get(&table::number(table::MOUNT, session.0))?.is_some())
}

/// Whether there are mounts that may care for what `session` changes: its own counts.
pub(super) fn is_seen_by_mounts(rows: &dyn KvRead, session: SessionId) -> Result<bool, KvError> {
    // One row is found faster than the first of a table.
    if is_mount(rows, session)? {
        return Ok(true);
    }
    let (from, to) = table::rows_of_table(table::MOUNT);
    Ok(!collect(rows, &from, &to, 1)?.is_empty())
}

impl Edit<'_> {
    /// Opens a session that may hold leases.
    pub(super) fn open_mount(&mut self, client: Peer, nonce: SessionNonce) -> Result<CommandOutcome, Fault> {
        let outcome = self.open_session(client, nonce)?;
        if let CommandOutcome::SessionOpened { session, .. } = outcome {
            self.put(table::number(table::MOUNT, session.0), &())?;
        }
        Ok(outcome)
    }

    /// Opens a session, or finds the one that this client opened with this nonce.
    pub(super) fn open_session(&mut self, client: Peer, nonce: SessionNonce) -> Result<CommandOutcome, Fault> {
        let Some(counters) = self.counters()? else { return Ok(CommandOutcome::Refused(Refusal::NotServing)) };
        let gc_current = counters.gc_current;
        let nonce_key = table::nonce(&client, &nonce);
        if let Some(session) = self.read(&nonce_key)? {
            let row = self.session(session)?;
            return Ok(match row {
                Some(SessionRow { state: SessionState::Open, first_range, .. }) => {
                    CommandOutcome::SessionOpened { session, inodes: InodeRange { first: first_range }, gc_current }
                }
                Some(SessionRow { state: SessionState::Ending, .. }) | None => {
                    CommandOutcome::Refused(Refusal::UnknownSession)
                }
            });
        }
        let session = SessionId(counters.next_session);
        let inodes = self.reserve(session, Counters { next_session: counters.next_session + 1, ..counters })?;
        let row = SessionRow {
            client,
            nonce,
            opened: self.index.0,
            first_range: inodes.first,
            ranges: 1,
            lowest: 1,
            trimmed: 1,
            state: SessionState::Open,
        };
        self.put(table::session(session), &row)?;
        self.put(nonce_key, &session)?;
        Ok(CommandOutcome::SessionOpened { session, inodes, gc_current })
    }

    /// A fresh range of inode numbers.
    pub(super) fn reserve_inodes(&mut self, session: SessionId) -> Result<CommandOutcome, Fault> {
        let (Some(mut row), Some(counters)) = (self.live_session(session)?, self.counters()?) else {
            return Ok(CommandOutcome::Refused(Refusal::UnknownSession));
        };
        if row.ranges >= RANGES_MAX {
            let (from, to) = table::rows_of(table::RANGE, session.0);
            // Without a row none of its numbers is accepted.
            for (oldest, _) in self.rows(&from, &to, 1)? {
                self.remove(oldest)?;
                row.ranges -= 1;
            }
        }
        row.ranges += 1;
        self.put(table::session(session), &row)?;
        Ok(CommandOutcome::InodesReserved(self.reserve(session, counters)?))
    }

    fn reserve(&mut self, session: SessionId, counters: Counters) -> Result<InodeRange, Fault> {
        let first = Inode(counters.next_inode);
        let counters = Counters { next_inode: first.0 + u64::from(INODE_RANGE_LEN), ..counters };
        self.put(table::single(table::COUNTERS), &counters)?;
        self.put_bytes(table::range(session, first), vec![0; BITMAP_LEN])?;
        Ok(InodeRange { first })
    }

    pub(super) fn session(&self, session: SessionId) -> Result<Option<SessionRow>, KvError> {
        self.read(&table::session(session))
    }

    /// The session, unless it has ended.
    pub(super) fn live_session(&self, session: SessionId) -> Result<Option<SessionRow>, KvError> {
        Ok(self.session(session)?.filter(|row| row.state == SessionState::Open))
    }

    /// Marks the number of a new inode as used.
    pub(super) fn use_number(&mut self, session: SessionId, inode: Inode) -> Result<(), Fault> {
        // Ranges begin at multiples of their length.
        let first = Inode(inode.0 - inode.0 % u64::from(INODE_RANGE_LEN));
        let key = table::range(session, first);
        let mut bitmap = self.get(&key)?.ok_or(OpError::NotReserved)?;
        let at = usize::try_from(inode.0 - first.0).expect("a number lies within its range");
        let byte = bitmap.get_mut(at / 8).ok_or_else(|| KvError { reason: "the bitmap of a range is short".into() })?;
        let bit = 1 << (at % 8);
        if *byte & bit != 0 {
            return Err(OpError::NotReserved.into());
        }
        *byte |= bit;
        if bitmap.iter().any(|byte| *byte != u8::MAX) {
            return self.put_bytes(key, bitmap);
        }
        // Used up: without a row none of its numbers is accepted.
        self.remove(key)?;
        let mut row = self.session(session)?.expect("the session of a batch exists");
        row.ranges -= 1;
        self.put(table::session(session), &row)
    }

    /// From now on a session changes nothing and holds no leases; what it held besides goes with [`Edit::close_session`].
    pub(super) fn begin_end(&mut self, session: SessionId, row: &SessionRow) -> Result<(), Fault> {
        if row.state != SessionState::Open {
            return Ok(());
        }
        self.put(table::session(session), &SessionRow { state: SessionState::Ending, ..row.clone() })?;
        self.put(table::number(table::ENDING, session.0), &())?;
        let mount = table::number(table::MOUNT, session.0);
        if self.exists(&mount)? {
            self.remove(mount)?;
        }
        Ok(())
    }

    /// Ends a session, as far as one command can: [`super::pending_work`] names those that are left.
    pub(super) fn close_session(&mut self, session: SessionId) -> Result<CommandOutcome, Fault> {
        let Some(row) = self.session(session)? else { return Ok(CommandOutcome::Done) };
        self.begin_end(session, &row)?;
        self.release_locks(session)?;
        let (from, to) = table::rows_of(table::UNNAMED, session.0);
        // Its own row, the orphan's, and that it was unnamed; beside them the counters and the end of the session.
        for (key, _) in self.rows(&from, &to, self.room().saturating_sub(8) / 3)? {
            let inode = Inode(table::last_number(&key).unwrap_or(0));
            let mut inode_row = self.inode(inode)?;
            self.touch(&mut inode_row);
            self.orphan(inode, &mut inode_row)?;
            self.put_inode(inode, &inode_row)?;
            self.remove(key)?;
        }
        for table in [table::RANGE, table::OUTCOME] {
            let (from, to) = table::rows_of(table, session.0);
            for (key, _) in self.rows(&from, &to, self.room().saturating_sub(8))? {
                self.remove(key)?;
            }
        }
        let mut left = 0;
        for table in [table::LOCK_OF, table::UNNAMED, table::RANGE, table::OUTCOME] {
            let (from, to) = table::rows_of(table, session.0);
            left += self.rows(&from, &to, 1)?.len();
        }
        if left == 0 {
            self.remove(table::nonce(&row.client, &row.nonce))?;
            self.remove(table::number(table::ENDING, session.0))?;
            self.remove(table::session(session))?;
        }
        Ok(CommandOutcome::Done)
    }
}
