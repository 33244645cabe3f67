//! A change under way: has its inodes to itself from before it is proposed until it has been decided.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};
use wire::{
    Refusal,
    lease::{LeaseGeneration, LeaseNumber, MadeAt},
    namespace::{Attr, BATCH_OPS_MAX, Batch, Inode, Op, OpError, OpOutcome, SessionId},
};

use super::{
    Asker,
    desk::{Desk, LOOK_EVERY, Look, broken, left},
};
use crate::{
    consensus::ProposeError,
    lease::{ChangeId, Clearing, Ending, Leases, Marking, Passing},
    namespace::{self, CommandBody, CommandOutcome, Made},
    node::Node,
};

/// Between two attempts to learn what became of a proposal.
const DECIDE_RETRY: Duration = Duration::from_millis(100);

/// How long one such attempt may take.
const DECIDE_DEADLINE: Duration = Duration::from_secs(5);

/// Stands for those who ask without a session: the first session is 1.
const NOBODY: SessionId = SessionId(0);

/// What a batch came to.
pub(super) struct Applied {
    /// One for each operation, in order.
    pub(super) outcomes: Vec<OpOutcome>,
    /// Attributes of what it touched, in order of inode.
    pub(super) touched: Vec<Attr>,
}

/// A change in the table; taken out of it when it is dropped, and has been decided.
pub(super) struct OpenChange {
    desk: Desk,
    id: ChangeId,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    /// Not proposed.
    Unproposed,
    /// Proposed, and nobody knows.
    Undecided,
    /// Applied, or never will be.
    Decided,
    /// Out of the table.
    Ended,
}

impl OpenChange {
    /// What `batch` reaches is its own, and nobody else holds a lease there.
    pub(super) async fn of_batch(desk: &Desk, batch: &Batch, deadline: Instant) -> Result<Self, Refusal> {
        let mut named = Vec::with_capacity(2 * batch.ops.len());
        for op in &batch.ops {
            named.extend(op.op.named());
        }
        named.sort_unstable();
        named.dedup();
        let change = Self::begin(desk, batch.session, Passing::Allowed)?;
        let mut place = None;
        loop {
            let bell = &desk.node().lease_bells.freed;
            let mut rung = std::pin::pin!(bell.notified());
            rung.as_mut().enable();
            if change.mark_reached(&named, batch)? == Marking::Marked {
                drop(place.take());
                if change.clear(deadline).await? == Cleared::Wholly {
                    return Ok(change);
                }
                continue;
            }
            if Instant::now() >= deadline {
                return Err(Refusal::Busy);
            }
            if place.is_none() {
                place = Some(desk.place()?);
            }
            // Whether it rang or not: look again.
            drop(timeout_at(deadline.min(Instant::now() + LOOK_EVERY), rung).await);
        }
    }

    /// Others hold nothing of `inodes`, which `session` wishes for.
    pub(super) async fn of_wish(
        desk: &Desk,
        session: SessionId,
        inodes: &[Inode],
        deadline: Instant,
    ) -> Result<Self, Refusal> {
        let change = Self::begin(desk, session, Passing::No)?;
        let mark = |leases: &mut Leases, _| match leases.mark(change.id, inodes) {
            Marking::Marked => Look::Done(()),
            Marking::Blocked => Look::Until(deadline),
        };
        desk.wait(deadline, mark).await?;
        while change.clear(deadline).await? == Cleared::AnotherPassed {}
        Ok(change)
    }

    /// A question about `inodes` has its turn among wishes for them, until this is dropped.
    pub(super) async fn of_question(
        desk: &Desk,
        asker: Option<SessionId>,
        inodes: &[Inode],
        deadline: Instant,
    ) -> Result<Self, Refusal> {
        let question = Self::begin(desk, asker.unwrap_or(NOBODY), Passing::No)?;
        let mark = |leases: &mut Leases, _| match leases.mark_question(question.id, inodes) {
            Marking::Marked => Look::Done(()),
            Marking::Blocked => Look::Until(deadline),
        };
        desk.wait(deadline, mark).await?;
        Ok(question)
    }

    fn begin(desk: &Desk, session: SessionId, passing: Passing) -> Result<Self, Refusal> {
        let id = desk.with(|leases| leases.open_change(session, passing))?;
        Ok(Self { desk: desk.clone(), id, fate: Fate::Unproposed })
    }

    /// Marks what the batch names, then what its names lead to, which nobody can change any more.
    fn mark_reached(&self, named: &[Inode], batch: &Batch) -> Result<Marking, Refusal> {
        let (marking, has_holders) = self.desk.with(|leases| (leases.mark(self.id, named), leases.has_holders()))?;
        // Without anybody who holds leases, what is touched is enough to know, afterwards: bulk uploads pay no lookups.
        if marking == Marking::Blocked || !has_holders {
            return Ok(marking);
        }
        let rows = self.desk.node().consensus.local();
        let mut led_to = Vec::new();
        for op in &batch.ops {
            namespace::led_to(&*rows, &op.op, &mut led_to).map_err(|error| broken(&error))?;
        }
        self.desk.with(|leases| leases.mark(self.id, &led_to))
    }

    async fn clear(&self, deadline: Instant) -> Result<Cleared, Refusal> {
        let look = |leases: &mut Leases, now| match leases.poll_clear(self.id, now) {
            Clearing::Clear => Look::Done(Cleared::Wholly),
            Clearing::LookAgain => Look::Done(Cleared::AnotherPassed),
            Clearing::Until(at) => Look::Until(at),
        };
        self.desk.wait(deadline, look).await
    }

    /// Proposes the batch, in as many entries as its rows need, and recalls what it touched unforeseen. `made_at`: how its
    /// operations were made, if that was before.
    pub(super) async fn apply(
        &mut self,
        asker: Asker,
        batch: Batch,
        made_at: Vec<MadeAt>,
        deadline: Instant,
    ) -> Result<Applied, Refusal> {
        let mut outcomes = Vec::with_capacity(batch.ops.len());
        let mut touched: Vec<Attr> = Vec::new();
        let (count, is_made) = (batch.ops.len(), !made_at.is_empty());
        let mut made = self.fence(&batch, made_at)?.into_iter();
        let session = batch.session;
        let locked: Vec<Option<Inode>> = batch.ops.iter().map(|numbered| locked_by(&numbered.op)).collect();
        for part in split(batch) {
            let of_part: Vec<Made> = made.by_ref().take(part.ops.len()).collect();
            let command = match is_made {
                false => CommandBody::Batch { client: asker.peer, batch: part },
                true => CommandBody::BatchMade { client: asker.peer, batch: part, made: of_part },
            };
            match self.propose(command, deadline).await? {
                CommandOutcome::Batch { outcomes: part, touched: of_part } => {
                    touched.extend(of_part);
                    let is_short = part.contains(&Err(OpError::OutOfOrder));
                    outcomes.extend(part);
                    if is_made && is_short {
                        // What was made keeps its order: those that follow come again, after it.
                        outcomes.resize(count, Err(OpError::OutOfOrder));
                        break;
                    }
                }
                CommandOutcome::Refused(refusal) => return Err(refusal),
                _ => return Err(Refusal::Internal),
            }
        }
        for (inode, _) in locked.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Err(OpError::LocksDelegated))
        {
            let Some(inode) = inode else { continue };
            self.desk.with(|leases| leases.handle_locks_wanted(*inode, session, Instant::now()))?;
        }
        // The last word on each counts.
        touched.sort_by_key(|attr| (attr.inode, std::cmp::Reverse(attr.change)));
        touched.dedup_by_key(|attr| attr.inode);
        if !touched.is_empty() {
            let inodes: Vec<Inode> = touched.iter().map(|attr| attr.inode).collect();
            let look = |leases: &mut Leases, now| match leases.poll_touched(self.id, &inodes, now) {
                None => Look::Done(()),
                Some(at) => Look::Until(at),
            };
            // It has happened: it waits also where there is no place.
            self.desk.listen(&self.desk.node().lease_bells.freed, deadline, look).await?;
        }
        Ok(Applied { outcomes, touched })
    }

    /// Operations that their session has executed already: whether it still has the leases for each, or what must be
    /// as it was. Bytes are fenced by the data version that they replace.
    fn fence(&self, batch: &Batch, made_at: Vec<MadeAt>) -> Result<Vec<Made>, Refusal> {
        if made_at.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.desk.node().consensus.local();
        let mut born: BTreeSet<Inode> = BTreeSet::new();
        let mut fenced = Vec::with_capacity(made_at.len());
        for (op, MadeAt { time, before }) in batch.ops.iter().map(|numbered| &numbered.op).zip(made_at) {
            born.extend(op.made());
            let is_fenced_itself = matches!(
                op,
                Op::WriteExtents { if_version: Some(_), .. }
                    | Op::WriteJournaled { if_version: Some(_), .. }
                    | Op::WriteInline { if_version: Some(_), .. }
            );
            let mut needed: Vec<Inode> = Vec::new();
            if !is_fenced_itself {
                needed.extend(op.named());
                namespace::led_to(&*rows, op, &mut needed).map_err(|error| broken(&error))?;
            }
            needed.retain(|inode| !born.contains(inode));
            let is_held = self.desk.with(|leases| leases.holds_exclusively(batch.session, &needed))?;
            let is_named = |inode: &Inode| before.iter().any(|(named, _)| named == inode);
            fenced.push(match () {
                () if is_held => Made::Held { time },
                () if needed.iter().all(is_named) => Made::Unchanged { time, before },
                () => Made::Lost,
            });
        }
        Ok(fenced)
    }

    async fn propose(&mut self, command: CommandBody, deadline: Instant) -> Result<CommandOutcome, Refusal> {
        self.fate = Fate::Undecided;
        let result = self.desk.node().consensus.propose(command, left(deadline)).await;
        self.fate = match result {
            Ok(_) | Err(ProposeError::Busy | ProposeError::TooLarge { .. }) => Fate::Decided,
            Err(ProposeError::NotLeader { .. } | ProposeError::NoQuorum | ProposeError::Stopped) => Fate::Undecided,
        };
        Ok(result?)
    }

    /// Ends an applied change of a session without leases.
    pub(super) fn end(mut self) -> Result<(), Refusal> {
        // Should the term have changed, the change may not have had its inodes to itself: it is asked for again.
        self.desk.with(|leases| leases.end_change(self.id, Ending::Decided))?;
        self.fate = Fate::Ended;
        Ok(())
    }

    /// Ends an applied change of a session with leases under `generation`, and leases it what it made and touched.
    /// What it did not get is returned.
    pub(super) fn end_leased(
        mut self,
        asker: Asker,
        (session, generation): (SessionId, LeaseGeneration),
        made: &BTreeSet<Inode>,
        touched: &[Attr],
    ) -> Result<(Vec<Inode>, LeaseNumber), Refusal> {
        let touched: Vec<Inode> = touched.iter().map(|attr| attr.inode).collect();
        let ended = self.desk.with(|leases| {
            if leases.is_current(session, asker.peer, generation) {
                return leases.settle_change(self.id, made, &touched);
            }
            leases.end_change(self.id, Ending::Decided);
            (touched, LeaseNumber::default())
        });
        let ended = ended?;
        self.fate = Fate::Ended;
        Ok(ended)
    }

    /// Ends a wish that is clear of others: its session has the inodes exclusively.
    pub(super) fn end_wish(mut self) -> Result<(), Refusal> {
        self.desk.with(|leases| leases.settle_exclusive(self.id))?;
        self.fate = Fate::Ended;
        Ok(())
    }
}

/// Whether nothing is in the way of a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cleared {
    Wholly,
    /// It is not clear what its names lead to now.
    AnotherPassed,
}

impl Drop for OpenChange {
    fn drop(&mut self) {
        let ending = match self.fate {
            Fate::Unproposed => Ending::Abandoned,
            Fate::Decided => Ending::Decided,
            Fate::Ended => return,
            Fate::Undecided => {
                // Who waited for it has gone; the inodes are its own until the log says what became of it.
                if tokio::runtime::Handle::try_current().is_ok() {
                    self.desk.node().tasks.spawn(decide(self.desk.clone(), self.id));
                }
                return;
            }
        };
        // In another term the table has gone, and the change with it.
        drop(self.desk.with(|leases| leases.end_change(self.id, ending)));
    }
}

/// Waits until what was proposed before has been decided, or nobody leads this term any more.
async fn decide(desk: Desk, id: ChangeId) {
    let node: Arc<Node> = desk.node().clone();
    let decided = async {
        while desk.with(|_| ()).is_ok() {
            // The log keeps the order in which this leader proposed.
            if node.consensus.propose(CommandBody::Nothing, DECIDE_DEADLINE).await.is_ok() {
                drop(desk.with(|leases| leases.end_change(id, Ending::Decided)));
                return;
            }
            sleep(DECIDE_RETRY).await;
        }
    };
    tokio::select! {
        () = node.stop.cancelled() => {}
        () = decided => {}
    }
}

/// The inode on which an operation takes locks.
fn locked_by(op: &Op) -> Option<Inode> {
    match op {
        Op::Lock { inode, .. } | Op::DelegateLocks { inode, .. } => Some(*inode),
        _ => None,
    }
}

/// Whether a batch keeps to its limit.
pub(super) fn check(batch: &Batch) -> Result<(), Refusal> {
    if batch.ops.len() > BATCH_OPS_MAX { Err(Refusal::Malformed) } else { Ok(()) }
}

/// Cuts a batch between operations, so that no command touches more rows than it may.
fn split(batch: Batch) -> Vec<Batch> {
    let mut parts: Vec<Batch> = Vec::new();
    let mut rows = 0;
    for op in batch.ops {
        let cost = namespace::cost(&op.op);
        match parts.last_mut() {
            Some(part) if rows + cost <= namespace::ROWS_MAX => {
                rows += cost;
                part.ops.push(op);
            }
            _ => {
                rows = cost;
                let (session, lowest_unanswered) = (batch.session, batch.lowest_unanswered);
                parts.push(Batch { session, lowest_unanswered, ops: vec![op], want: batch.want });
            }
        }
    }
    parts
}
