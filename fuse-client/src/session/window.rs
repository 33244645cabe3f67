//! Numbers, batches and outcomes of one session. Pure.

use std::collections::BTreeMap;

use wire::namespace::{NumberedOp, Op, OpError, OpNumber, OpOutcome, WINDOW_LEN};

use super::ops::op_weight;

/// Operations in one batch. The window of 1,024 then holds several, so that one is packed while another travels.
const BATCH_OPS: usize = 256;

/// Weight of one batch: encoded it must stay within 1 MiB, and the weight of an operation is never too low.
const BATCH_WEIGHT_MAX: usize = 1000 << 10;

/// Batches under way at once. While there are any, only full ones are added, so that waiting makes batches larger.
const BATCHES_IN_FLIGHT_MAX: usize = 4;

/// How often an operation is sent again because one that it follows has not arrived, or a cut is under way: with the
/// driver's pause between, as long as a change may take at all.
const RETRIES_MAX: u32 = 2000;

/// Operations of one session that have no outcome, and who waits for each (`W`).
#[derive(Debug)]
pub(super) struct Window<W> {
    next: u64,
    /// In order of number; what was sent in vain comes back to its place.
    queue: BTreeMap<u64, Queued>,
    queued_weight: usize,
    in_flight: usize,
    waiters: BTreeMap<u64, (W, u32)>,
    /// Nothing more is taken in: the session is over.
    closed: bool,
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
            queue: BTreeMap::new(),
            queued_weight: 0,
            in_flight: 0,
            waiters: BTreeMap::new(),
            closed: false,
        }
    }
}

impl<W> Window<W> {
    /// Takes in an operation, and gives it its number; gives the waiter back if the session is over.
    pub(super) fn submit(&mut self, op: Op, after: Option<OpNumber>, waiter: W) -> Result<OpNumber, W> {
        if self.closed {
            return Err(waiter);
        }
        let number = OpNumber(self.next);
        self.next += 1;
        self.waiters.insert(number.0, (waiter, 0));
        self.enqueue(NumberedOp { number, after, op });
        Ok(number)
    }

    fn enqueue(&mut self, op: NumberedOp) {
        let weight = op_weight(&op.op);
        self.queued_weight += weight;
        self.queue.insert(op.number.0, Queued { op, weight });
    }

    /// The lowest number without an outcome.
    fn lowest_unanswered(&self) -> u64 {
        self.waiters.keys().next().copied().unwrap_or(self.next)
    }

    /// The next batch, if one should go now.
    pub(super) fn poll_batch(&mut self) -> Option<Packed> {
        let full = self.queue.len() >= BATCH_OPS || self.queued_weight >= BATCH_WEIGHT_MAX;
        if self.in_flight >= BATCHES_IN_FLIGHT_MAX || (self.in_flight > 0 && !full) {
            return None;
        }
        let lowest = self.lowest_unanswered();
        let mut weight = 0;
        let mut chosen = Vec::new();
        for (number, queued) in self.queue.range(..lowest + WINDOW_LEN) {
            if self.is_held_back(&queued.op, &chosen) {
                continue;
            }
            let fits = chosen.is_empty() || weight + queued.weight <= BATCH_WEIGHT_MAX;
            if chosen.len() >= BATCH_OPS || !fits {
                break;
            }
            weight += queued.weight;
            chosen.push(*number);
        }
        let ops: Vec<NumberedOp> =
            chosen.iter().filter_map(|number| self.queue.remove(number)).map(|queued| queued.op).collect();
        if ops.is_empty() {
            return None;
        }
        self.queued_weight -= weight;
        self.in_flight += 1;
        Some(Packed { lowest_unanswered: OpNumber(lowest), ops })
    }

    /// An operation that came too early once waits until the one that it follows is answered, or goes in its batch.
    fn is_held_back(&self, op: &NumberedOp, chosen: &[u64]) -> bool {
        let came_early = self.waiters.get(&op.number.0).is_some_and(|(_, retries)| *retries > 0);
        let ahead = |after: OpNumber| self.waiters.contains_key(&after.0) && chosen.binary_search(&after.0).is_err();
        came_early && op.after.is_some_and(ahead)
    }

    /// The batch was answered, each operation for itself.
    pub(super) fn handle_outcomes(&mut self, ops: Vec<NumberedOp>, outcomes: Vec<OpOutcome>) -> Answered<W> {
        self.in_flight -= 1;
        let mut answered = Answered { outcomes: Vec::with_capacity(ops.len()), put_back: false };
        for (op, outcome) in ops.into_iter().zip(outcomes) {
            let again = matches!(outcome, Err(OpError::OutOfOrder | OpError::CutPending));
            match self.waiters.get_mut(&op.number.0) {
                Some((_, retries)) if again && *retries < RETRIES_MAX => {
                    *retries += 1;
                    self.enqueue(op);
                    answered.put_back = true;
                }
                Some(_) => {
                    let waiter = self.waiters.remove(&op.number.0).map(|(waiter, _)| waiter);
                    answered.outcomes.extend(waiter.map(|waiter| (waiter, outcome)));
                }
                None => {}
            }
        }
        answered
    }

    /// The batch will not be answered: its operations are given up, their fate unknown.
    pub(super) fn handle_given_up(&mut self, ops: Vec<NumberedOp>) -> Vec<W> {
        self.in_flight -= 1;
        ops.iter().filter_map(|op| self.waiters.remove(&op.number.0)).map(|(waiter, _)| waiter).collect()
    }

    /// Gives up everything, for good.
    pub(super) fn drain(&mut self) -> Vec<W> {
        self.closed = true;
        self.queue.clear();
        self.queued_weight = 0;
        std::mem::take(&mut self.waiters).into_values().map(|(waiter, _)| waiter).collect()
    }

    /// Whether everything has its outcome.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.is_empty()
    }
}

#[cfg(test)]
#[path = "window/tests.rs"]
mod tests;
