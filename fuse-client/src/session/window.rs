//! Numbers, batches and outcomes of one session. Pure.
//!
//! Operations go two ways. Those that are *asked* may wait at the leader for leases of others. Those that are *made*
//! already, under leases that the session holds, wait for nobody: they go in the order of their numbers, one batch at a
//! time, so that others who wait for those leases never wait for what is asked. An asked operation goes when every
//! *deferred* one before it is answered: a caller was told that it is done. Deferred ones are gathered for a moment, as
//! nobody waits for them: a commit costs every node the same for one change as for a hundred. Once somebody does wait,
//! they go at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use wire::{
    lease::MadeAt,
    namespace::{NumberedOp, Op, OpError, OpNumber, OpOutcome, WINDOW_LEN},
};

use super::ops::op_weight;

/// Operations in one batch. The window of 1,024 then holds several, so that one is packed while another travels.
const BATCH_OPS: usize = 256;

/// Weight of one batch: encoded it must stay within 1 MiB, and the weight of an operation is never too low.
const BATCH_WEIGHT_MAX: usize = 1000 << 10;

/// Full batches of asked operations under way at once.
const FULL_BATCHES_MAX: usize = 4;

/// Batches of asked operations under way at once.
const BATCHES_MAX: usize = 16;

/// While a batch of asked operations is under way only full ones are added, so that waiting makes batches larger; but
/// one that has been away for so long waits for somebody's lease, and holds up no others.
const STUCK_AFTER: Duration = Duration::from_millis(50);

/// So long deferred operations are gathered while nobody waits for them.
const GATHER: Duration = Duration::from_millis(2);

/// How often an operation is sent again because one that it follows has not arrived, or a cut is under way: with the
/// driver's pause between, as long as a change may take at all.
const RETRIES_MAX: u32 = 2000;

/// How an operation goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// It is asked; `after`: one that must have been executed before.
    Asked {
        /// Its number.
        after: Option<OpNumber>,
    },
    /// It was made so, under leases that are held. It is sent until it has an outcome or the session ends: what follows is
    /// made on it.
    Made(MadeAt),
    /// As `Made`; its caller has been told that it is done, so it is sent also where it is refused.
    Deferred(MadeAt),
}

/// Operations of one session that have no outcome, and who waits for each (`W`).
#[derive(Debug)]
pub(super) struct Window<W> {
    next: u64,
    asked: Queue,
    made: Queue,
    asked_in_flight: usize,
    last_asked: Option<Instant>,
    made_in_flight: bool,
    /// Since when something has been waiting in `made`, as far as [`Window::poll_batch`] has seen.
    gathering_since: Option<Instant>,
    /// Somebody waits for operations below this number: they are gathered no longer.
    hurried_below: u64,
    waiters: BTreeMap<u64, Waiting<W>>,
    /// Numbers of the deferred ones that have no outcome.
    deferred: BTreeSet<u64>,
    /// The session ended before all of them had theirs.
    lost_deferred: bool,
    /// What it was told last.
    no_room: bool,
    /// Nothing more is taken in: the session is over.
    closed: bool,
}

#[derive(Debug)]
struct Waiting<W> {
    waiter: W,
    way: Way,
    retries: u32,
}

/// In order of number; what was sent in vain comes back to its place.
#[derive(Debug, Default)]
struct Queue {
    ops: BTreeMap<u64, Queued>,
    weight: usize,
}

#[derive(Debug)]
struct Queued {
    op: NumberedOp,
    weight: usize,
}

/// A batch to send. It comes back by one of the `handle_` calls.
#[derive(Debug)]
pub(super) struct Packed {
    /// Everything below has its outcome.
    pub(super) lowest_unanswered: OpNumber,
    /// In order of number.
    pub(super) ops: Vec<NumberedOp>,
    /// Of operations that were made already, how; empty if they are asked.
    pub(super) made: Vec<MadeAt>,
}

/// Who is told what after an answer.
#[derive(Debug)]
pub(super) struct Answered<W> {
    /// Those with an outcome.
    pub(super) outcomes: Vec<(W, OpOutcome)>,
    /// Whether some were put back, to be sent again a little later.
    pub(super) put_back: bool,
}

impl<W> Default for Window<W> {
    fn default() -> Self {
        Self {
            next: 1,
            asked: Queue::default(),
            made: Queue::default(),
            asked_in_flight: 0,
            last_asked: None,
            made_in_flight: false,
            gathering_since: None,
            hurried_below: 0,
            waiters: BTreeMap::new(),
            deferred: BTreeSet::new(),
            lost_deferred: false,
            no_room: false,
            closed: false,
        }
    }
}

impl Queue {
    fn insert(&mut self, op: NumberedOp) {
        let weight = op_weight(&op.op);
        self.weight += weight;
        self.ops.insert(op.number.0, Queued { op, weight });
    }

    /// Whether it fills a batch.
    fn is_full(&self) -> bool {
        self.ops.len() >= BATCH_OPS || self.weight >= BATCH_WEIGHT_MAX
    }

    /// Takes those out whose numbers were chosen.
    fn take(&mut self, chosen: &[u64]) -> Vec<NumberedOp> {
        let taken = chosen.iter().filter_map(|number| self.ops.remove(number));
        let weighed: Vec<Queued> = taken.collect();
        self.weight -= weighed.iter().map(|queued| queued.weight).sum::<usize>();
        weighed.into_iter().map(|queued| queued.op).collect()
    }
}

impl<W> Window<W> {
    /// Takes in an operation, and gives it its number; gives the waiter back if the session is over.
    pub(super) fn submit(&mut self, op: Op, way: Way, waiter: W) -> Result<OpNumber, W> {
        if self.closed {
            return Err(waiter);
        }
        let number = OpNumber(self.next);
        self.next += 1;
        let after = match &way {
            Way::Asked { after } => *after,
            Way::Made(_) | Way::Deferred(_) => None,
        };
        match way {
            Way::Deferred(_) => {
                self.deferred.insert(number.0);
            }
            // Who hands it in waits for it, and for those before it.
            Way::Made(_) | Way::Asked { .. } => self.hurry(),
        }
        self.queue(&way).insert(NumberedOp { number, after, op });
        self.waiters.insert(number.0, Waiting { waiter, way, retries: 0 });
        Ok(number)
    }

    fn queue(&mut self, way: &Way) -> &mut Queue {
        match way {
            Way::Asked { .. } => &mut self.asked,
            Way::Made(_) | Way::Deferred(_) => &mut self.made,
        }
    }

    /// The lowest number without an outcome.
    fn lowest_unanswered(&self) -> u64 {
        self.waiters.keys().next().copied().unwrap_or(self.next)
    }

    /// The number that the next operation gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The cluster has told whether it has no room.
    pub(super) fn handle_no_room(&mut self, no_room: bool) {
        self.no_room = no_room;
    }

    /// Whether one more can be deferred: what is executed already must never wait for what is asked, and has to fit
    /// beside it. Where the cluster has no room, everybody waits for what it says.
    pub(super) fn may_defer(&self) -> bool {
        !self.closed && !self.no_room && self.next < self.lowest_unanswered() + WINDOW_LEN
    }

    /// Whether deferred operations are lost with the session.
    pub(super) fn has_lost_deferred(&self) -> bool {
        self.lost_deferred
    }

    /// All deferred operations below have their outcomes.
    pub(super) fn deferred_until(&self) -> u64 {
        self.deferred.first().copied().unwrap_or(self.next)
    }

    /// Somebody waits for what has been handed in so far.
    pub(super) fn hurry(&mut self) {
        self.hurried_below = self.next;
    }

    /// After a deferred operation was handed in: whether there is more to do than to let it wait beside others.
    pub(super) fn calls_for_poll(&self) -> bool {
        self.made.ops.len() == 1 || self.made.is_full()
    }

    /// The next batch, if one should go now.
    pub(super) fn poll_batch(&mut self, now: Instant) -> Option<Packed> {
        self.poll_made(now).or_else(|| self.poll_asked(now))
    }

    /// In what time to look again, though nothing has happened, after [`Self::poll_batch`] at `now`.
    pub(super) fn look_again_in(&self, now: Instant) -> Option<Duration> {
        let gathered = self.gathering_since.filter(|_| !self.made_in_flight).map(|since| since + GATHER);
        let waits = self.asked_in_flight > 0 && self.asked_in_flight < BATCHES_MAX && !self.asked.ops.is_empty();
        let stuck = self.last_asked.filter(|_| waits).map(|at| at + STUCK_AFTER);
        // What does not go though its time has come waits for an answer.
        let left = |at: Instant| Some(at.saturating_duration_since(now)).filter(|left| !left.is_zero());
        gathered.and_then(left).into_iter().chain(stuck.and_then(left)).min()
    }

    /// Whether what was made already is to be gathered still.
    fn is_gathering(&mut self, now: Instant) -> bool {
        let Some(first) = self.made.ops.keys().next() else { return false };
        let since = *self.gathering_since.get_or_insert(now);
        let is_hurried = *first < self.hurried_below;
        !is_hurried && !self.made.is_full() && now.saturating_duration_since(since) < GATHER
    }

    fn poll_made(&mut self, now: Instant) -> Option<Packed> {
        if self.is_gathering(now) || self.made_in_flight {
            return None;
        }
        let lowest = self.lowest_unanswered();
        let chosen = choose(self.made.ops.range(..lowest + WINDOW_LEN), |_, _| true);
        let ops = self.made.take(&chosen);
        if ops.is_empty() {
            return None;
        }
        let made_at = |op: &NumberedOp| match self.waiters.get(&op.number.0).map(|waiting| &waiting.way) {
            Some(Way::Made(at) | Way::Deferred(at)) => at.clone(),
            Some(Way::Asked { .. }) | None => MadeAt::default(),
        };
        let made = ops.iter().map(made_at).collect();
        self.made_in_flight = true;
        self.gathering_since = None;
        Some(Packed { lowest_unanswered: OpNumber(lowest), ops, made })
    }

    fn poll_asked(&mut self, now: Instant) -> Option<Packed> {
        let stuck = self.last_asked.is_some_and(|at| now.saturating_duration_since(at) >= STUCK_AFTER);
        let may_go = match self.asked_in_flight {
            0 => true,
            in_flight => (self.asked.is_full() && in_flight < FULL_BATCHES_MAX) || (stuck && in_flight < BATCHES_MAX),
        };
        if !may_go {
            return None;
        }
        let lowest = self.lowest_unanswered();
        let until = self.deferred_until().min(lowest + WINDOW_LEN);
        let chosen = choose(self.asked.ops.range(..until), |op, chosen| !self.is_held_back(op, chosen));
        let ops = self.asked.take(&chosen);
        if ops.is_empty() {
            return None;
        }
        self.asked_in_flight += 1;
        self.last_asked = Some(now);
        Some(Packed { lowest_unanswered: OpNumber(lowest), ops, made: Vec::new() })
    }

    /// An operation that came too early once waits until the one that it follows is answered, or goes in its batch.
    fn is_held_back(&self, op: &NumberedOp, chosen: &[u64]) -> bool {
        let came_early = self.waiters.get(&op.number.0).is_some_and(|waiting| waiting.retries > 0);
        let ahead = |after: OpNumber| self.waiters.contains_key(&after.0) && chosen.binary_search(&after.0).is_err();
        came_early && op.after.is_some_and(ahead)
    }

    fn has_returned(&mut self, made: &[MadeAt]) {
        match made.is_empty() {
            true => self.asked_in_flight -= 1,
            false => self.made_in_flight = false,
        }
    }

    fn end(&mut self, number: OpNumber) -> Option<W> {
        self.deferred.remove(&number.0);
        self.waiters.remove(&number.0).map(|waiting| waiting.waiter)
    }

    /// The batch was answered, each operation for itself.
    pub(super) fn handle_outcomes(
        &mut self,
        ops: Vec<NumberedOp>,
        made: &[MadeAt],
        outcomes: Vec<OpOutcome>,
    ) -> Answered<W> {
        self.has_returned(made);
        let mut answered = Answered { outcomes: Vec::with_capacity(ops.len()), put_back: false };
        for (op, outcome) in ops.into_iter().zip(outcomes) {
            let again = matches!(outcome, Err(OpError::OutOfOrder | OpError::CutPending));
            match self.waiters.get_mut(&op.number.0) {
                Some(waiting) if again && waiting.retries < RETRIES_MAX => {
                    waiting.retries += 1;
                    let way = waiting.way.clone();
                    self.queue(&way).insert(op);
                    answered.put_back = true;
                }
                Some(_) => answered.outcomes.extend(self.end(op.number).map(|waiter| (waiter, outcome))),
                None => {}
            }
        }
        answered
    }

    /// The batch will not be answered: those asked are given up, their fate unknown; those made go again. Where it was
    /// refused, so that nothing of it was executed now, only those go again that are deferred.
    pub(super) fn handle_given_up(&mut self, ops: Vec<NumberedOp>, made: &[MadeAt], refused: bool) -> Vec<W> {
        self.has_returned(made);
        let is_made = !made.is_empty();
        let mut given_up = Vec::new();
        for op in ops {
            match self.deferred.contains(&op.number.0) || (is_made && !refused) {
                true => self.made.insert(op),
                false => given_up.extend(self.end(op.number)),
            }
        }
        given_up
    }

    /// Gives up everything, for good.
    pub(super) fn drain(&mut self) -> Vec<W> {
        self.closed = true;
        (self.asked, self.made) = Default::default();
        self.gathering_since = None;
        self.lost_deferred |= !self.deferred.is_empty();
        self.deferred.clear();
        std::mem::take(&mut self.waiters).into_values().map(|waiting| waiting.waiter).collect()
    }

    /// Whether everything has its outcome.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty()
    }
}

/// The numbers of as many operations, in order, as one batch holds.
fn choose<'a>(
    queued: impl Iterator<Item = (&'a u64, &'a Queued)>,
    may_go: impl Fn(&NumberedOp, &[u64]) -> bool,
) -> Vec<u64> {
    let mut weight = 0;
    let mut chosen: Vec<u64> = Vec::new();
    for (number, queued) in queued {
        if !may_go(&queued.op, &chosen) {
            continue;
        }
        let fits = chosen.is_empty() || weight + queued.weight <= BATCH_WEIGHT_MAX;
        if chosen.len() >= BATCH_OPS || !fits {
            break;
        }
        weight += queued.weight;
        chosen.push(*number);
    }
    chosen
}

#[cfg(test)]
#[path = "window/tests.rs"]
mod tests;
