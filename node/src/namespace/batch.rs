//! Batches: operations of a session, each executed exactly once.
//!
//! # Invariants
//! - An outcome is kept from the lowest unanswered number up; the same number is answered from it, never executed again.
//! - A number below the window is refused, never executed.
//! - A failed operation changes nothing but that its failure is recorded; what tells the asker to ask again
//!   ([`OpError::OutOfOrder`], [`OpError::CutPending`]) is not recorded.

use wire::{
    Refusal,
    cluster::Peer,
    namespace::{
        AppendData, BATCH_OPS_MAX, Batch, Inode, NewContent, NewInode, NewKind, NumberedOp, Op, OpAnswer, OpDone,
        OpError, OpNumber, OpOutcome, SessionId, Timestamp, WINDOW_LEN, Want,
    },
};

use super::{
    clone::CloneRange,
    command::{CommandOutcome, Made},
    edit::{Edit, Fault, ROWS_MAX},
    extents::{PIECES_MAX, ROWS_PER_EXTENT},
    row::{InodeRow, Outcome, SessionRow},
    session, table,
};

/// Rows kept back while operations run: the session's, the removal of outcomes, and one to spare.
const ROWS_BESIDE: usize = 16;

/// Seconds that a change may wait before it is told: a session that is silent for longer has ended.
const TOLD_LATE_MAX: u64 = 60;

/// Seconds by which a session's clock may be ahead of the leader's. Were it far ahead, what others change afterwards would
/// seem to change at the same time, for ctime never goes back.
const TOLD_EARLY_MAX: u64 = 1;

/// Rows that an operation takes beside what it does: its outcome, and the removal of an older one.
const ROWS_OF_OUTCOME: usize = 2;

/// Rows that `op` changes at most, as far as the operation itself tells, with those of its outcome.
///
/// The leader splits a batch so that the sum stays within [`ROWS_MAX`]. Where an operation finds more to change than
/// it tells (extents that it covers), the rest of the batch is answered [`OpError::OutOfOrder`] and sent again.
pub fn cost(op: &Op) -> usize {
    // Directory, inode, name, cookie, usage, orphan, counters, range, unnamed, with room to spare.
    const BASE: usize = 12 + ROWS_OF_OUTCOME;
    let new_inode = |new: &NewInode| {
        new.xattrs.len()
            + match &new.kind {
                NewKind::File(NewContent::Extents { extents, .. }) => ROWS_PER_EXTENT * extents.len(),
                NewKind::File(NewContent::Inline(_)) | NewKind::Symlink(_) => 1,
                NewKind::File(NewContent::Empty)
                | NewKind::Directory
                | NewKind::Fifo
                | NewKind::Socket
                | NewKind::CharDevice { .. }
                | NewKind::BlockDevice { .. } => 0,
            }
    };
    let rows = match op {
        Op::Create { new, .. } | Op::CreateUnnamed { new } => BASE + new_inode(new),
        Op::Link { .. }
        | Op::Unlink { .. }
        | Op::RemoveDirectory { .. }
        | Op::Rename { .. }
        | Op::SetXattr { .. }
        | Op::RemoveXattr { .. }
        | Op::Lock { .. }
        | Op::Unlock { .. }
        | Op::DelegateLocks { .. }
        | Op::ReturnLocks { .. } => BASE,
        Op::SetAttr { set, .. } if set.size.is_none() => BASE,
        // One extent put in, and one or two that it narrows or replaces.
        Op::WriteExtents { extents, .. } => BASE + 2 * ROWS_PER_EXTENT * extents.len() + ROWS_PER_EXTENT,
        // Beside them the bytes, and the tally.
        Op::WriteJournaled { parts, .. } => BASE + 2 * ROWS_PER_EXTENT * parts.len() + ROWS_PER_EXTENT + 2,
        Op::Append { data: AppendData::Inline(_), .. } => BASE,
        Op::Append { data: AppendData::Slices { slices, .. }, .. } => BASE + ROWS_PER_EXTENT * slices.len(),
        // Few files that are written whole lay in many pieces before. Where one did, it finds no room beside others, and
        // comes again, first, with those behind it.
        Op::WriteInline { .. } => BASE + ROWS_PER_EXTENT,
        Op::SetAttr { .. } => BASE + ROWS_PER_EXTENT * PIECES_MAX / 4,
        Op::Punch { .. } | Op::Clone { .. } => BASE + ROWS_PER_EXTENT * PIECES_MAX,
    };
    rows.min(ROWS_MAX)
}

/// Whether an operation that its session has executed already may still take effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fence {
    Passed,
    /// Others have come between.
    Closed,
}

/// Whether a time may be one at which something was made that is told now.
fn is_near(time: Timestamp, now: Timestamp) -> bool {
    let most = if time > now { TOLD_EARLY_MAX } else { TOLD_LATE_MAX };
    time.seconds().abs_diff(now.seconds()) <= most
}

impl Edit<'_> {
    /// Applies the operations of a batch in order and answers each. `made`: how each was made, if that was before.
    pub(super) fn batch(&mut self, client: &Peer, batch: &Batch, made: &[Made]) -> Result<CommandOutcome, Fault> {
        if batch.ops.len() > BATCH_OPS_MAX {
            return Ok(CommandOutcome::Refused(Refusal::Malformed));
        }
        let Some(session) = self.live_session(batch.session)?.filter(|session| session.client == *client) else {
            return Ok(CommandOutcome::Refused(Refusal::UnknownSession));
        };
        let lowest = session.lowest.max(batch.lowest_unanswered.0);
        if batch.ops.iter().any(|op| op.number.0 > lowest.saturating_add(WINDOW_LEN)) {
            return Ok(CommandOutcome::Refused(Refusal::OutsideWindow));
        }
        if lowest != session.lowest {
            self.put(table::session(batch.session), &SessionRow { lowest, ..session })?;
        }
        let mut outcomes: Vec<OpOutcome> = Vec::with_capacity(batch.ops.len());
        let mut recorded = 0;
        let leaders = self.stamp;
        for (place, op) in batch.ops.iter().enumerate() {
            let (fence, time) = match made.get(place) {
                None => (Fence::Passed, None),
                Some(Made::Held { time }) => (Fence::Passed, Some(*time)),
                Some(Made::Unchanged { time, before }) => (self.fence_of(before)?, Some(*time)),
                Some(Made::Lost) => (Fence::Closed, None),
            };
            self.stamp = time.filter(|time| is_near(*time, leaders)).unwrap_or(leaders);
            // Those before it filled the command: this one, and what may build on it, come again.
            let outcome = match self.answer(batch, lowest, (op, fence), &mut recorded) {
                Ok(outcome) => outcome,
                Err(Fault::Overflow) => {
                    outcomes.resize(batch.ops.len(), Err(OpError::OutOfOrder));
                    break;
                }
                Err(fault) => return Err(fault),
            };
            outcomes.push(outcome);
        }
        self.stamp = leaders;
        self.limit_to(ROWS_MAX);
        self.trim_outcomes(batch.session)?;
        let touched = if session::is_seen_by_mounts(self, batch.session)? { self.touched()? } else { Vec::new() };
        Ok(CommandOutcome::Batch { outcomes, touched })
    }

    /// Whether all of these are as they were.
    fn fence_of(&self, before: &[(Inode, u64)]) -> Result<Fence, Fault> {
        for (inode, change) in before {
            match self.inode(*inode) {
                Ok(row) if row.change == *change => {}
                Ok(_) | Err(Fault::Refused(_)) => return Ok(Fence::Closed),
                Err(fault) => return Err(fault),
            }
        }
        Ok(Fence::Passed)
    }

    /// Answers one operation: from the window, or by executing it. [`Fault::Overflow`] if others left it no room.
    fn answer(
        &mut self,
        batch: &Batch,
        lowest: u64,
        (NumberedOp { number, after, op }, fence): (&NumberedOp, Fence),
        recorded: &mut usize,
    ) -> Result<OpOutcome, Fault> {
        if number.0 < lowest {
            return Ok(Err(OpError::BelowWindow));
        }
        let key = table::outcome(batch.session, *number);
        match self.read(&key)? {
            Some(Outcome::Done(done)) => return Ok(Ok(OpAnswer { done, attr: None })),
            Some(Outcome::Failed(error)) => return Ok(Err(error)),
            None => {}
        }
        if !self.was_executed(batch.session, lowest, *after)? {
            return Ok(Err(OpError::OutOfOrder));
        }
        self.limit_to(ROWS_MAX - ROWS_BESIDE - ROWS_OF_OUTCOME * (*recorded + 1));
        let savepoint = self.savepoint();
        let result = match fence {
            Fence::Passed => self.execute(batch.session, op),
            Fence::Closed => Err(OpError::LeaseEnded.into()),
        };
        if result.is_err() {
            self.roll_back(savepoint);
        }
        let outcome = match result {
            Ok((done, row)) => {
                let attr = matches!(batch.want, Want::Attr).then(|| row.attr(done.inode));
                Ok(OpAnswer { done, attr })
            }
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Overflow) if *recorded == 0 => Err(OpError::TooLarge),
            Err(fault) => return Err(fault),
        };
        let record = match outcome {
            Ok(OpAnswer { done, .. }) => Outcome::Done(done),
            Err(OpError::CutPending) => return Ok(outcome),
            Err(error) => Outcome::Failed(error),
        };
        self.limit_to(ROWS_MAX);
        self.put(key, &record)?;
        *recorded += 1;
        Ok(outcome)
    }

    fn was_executed(&self, session: SessionId, lowest: u64, after: Option<OpNumber>) -> Result<bool, Fault> {
        match after {
            Some(after) if after.0 >= lowest => Ok(self.exists(&table::outcome(session, after))?),
            Some(_) | None => Ok(true),
        }
    }

    /// Removes outcomes below the window, as many as there is room for: at least as many as the batch added.
    fn trim_outcomes(&mut self, session: SessionId) -> Result<(), Fault> {
        let mut row = self.session(session)?.expect("the session of a batch exists");
        if row.trimmed >= row.lowest {
            return Ok(());
        }
        let limit = self.room().saturating_sub(2);
        if row.lowest - row.trimmed <= WINDOW_LEN {
            // Nearly all of these exist: to remove them unseen costs less than to look.
            let until = row.lowest.min(row.trimmed.saturating_add(limit as u64));
            for number in row.trimmed..until {
                self.remove(table::outcome(session, OpNumber(number)))?;
            }
            row.trimmed = until;
            return self.put(table::session(session), &row);
        }
        let (from, to) =
            (table::numbers(table::OUTCOME, session.0, row.trimmed), table::outcome(session, OpNumber(row.lowest)));
        let below = self.rows(&from, &to, limit)?;
        row.trimmed = match below.last() {
            Some((key, _)) if below.len() == limit => table::last_number(key).map_or(row.trimmed, |last| last + 1),
            Some(_) | None => row.lowest,
        };
        for (key, _) in below {
            self.remove(key)?;
        }
        self.put(table::session(session), &row)
    }

    fn execute(&mut self, session: SessionId, op: &Op) -> Result<(OpDone, InodeRow), Fault> {
        let mut offset = 0;
        let (inode, row) = match op {
            Op::Create { dir, name, new, replace } => self.create(session, *dir, name, new, *replace)?,
            Op::CreateUnnamed { new } => {
                let row = self.create_inode(session, new, None)?;
                self.put(table::unnamed(session, new.inode), &())?;
                (new.inode, row)
            }
            Op::Link { inode, dir, name, replace } => self.link(session, *inode, *dir, name, *replace)?,
            Op::Unlink { dir, name } => self.unlink(*dir, name)?,
            Op::RemoveDirectory { dir, name } => self.remove_directory(*dir, name)?,
            Op::Rename { from_dir, from_name, to_dir, to_name, mode } => {
                self.rename((*from_dir, from_name), (*to_dir, to_name), *mode)?
            }
            Op::SetAttr { inode, set } => (*inode, self.set_attr(*inode, set)?),
            Op::SetXattr { inode, xattr, mode } => (*inode, self.set_xattr(*inode, xattr, *mode)?),
            Op::RemoveXattr { inode, name } => (*inode, self.remove_xattr(*inode, name)?),
            Op::WriteExtents { inode, extents, if_version, modified, set_id } => {
                (*inode, self.write_extents(*inode, extents, *if_version, *modified, *set_id)?)
            }
            Op::WriteJournaled { inode, chunk, parts, if_version, modified, set_id } => {
                (*inode, self.write_journaled(*inode, (chunk, parts), *if_version, *modified, *set_id)?)
            }
            Op::WriteInline { inode, content, if_version, modified, set_id } => {
                (*inode, self.write_inline(*inode, content, *if_version, *modified, *set_id)?)
            }
            Op::Append { inode, data, set_id } => {
                let (row, at) = self.append(*inode, data, *set_id)?;
                offset = at;
                (*inode, row)
            }
            Op::Punch { inode, offset: from, len, mode, set_id } => {
                let (row, done) = self.punch(*inode, *from, *len, *mode, *set_id)?;
                offset = done;
                (*inode, row)
            }
            Op::Clone { from, from_offset, to, to_offset, len, if_version, set_id } => {
                let (from, to, len) = (*from, *to, *len);
                let range = CloneRange { from, from_offset: *from_offset, to, to_offset: *to_offset, len };
                let (row, done) = self.clone_range(range, *if_version, *set_id)?;
                offset = done;
                (to, row)
            }
            Op::Lock { inode, lock } => (*inode, self.lock(session, *inode, lock)?),
            Op::Unlock { inode, owner, start, end } => (*inode, self.unlock(session, *inode, *owner, (*start, *end))?),
            Op::DelegateLocks { inode, delegation } => (*inode, self.delegate_locks(session, *inode, *delegation)?),
            Op::ReturnLocks { inode, delegation, locks } => {
                (*inode, self.return_locks(session, *inode, *delegation, locks)?)
            }
        };
        Ok((OpDone { inode, version: row.data_version, offset }, row))
    }
}
