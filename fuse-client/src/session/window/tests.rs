//! Random histories against a server that keeps outcomes as the namespace does.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use wire::namespace::{Inode, NumberedOp, Op, OpAnswer, OpDone, OpError, OpNumber, OpOutcome, SetAttr, WINDOW_LEN};

use super::{BATCH_OPS, BATCH_WEIGHT_MAX, Window};

fn op(number: u64) -> Op {
    Op::SetAttr { inode: Inode(number), set: SetAttr::default() }
}

/// Executes each number once and remembers its outcome.
#[derive(Default)]
struct Server {
    executed: BTreeMap<u64, OpOutcome>,
    lowest: u64,
    order: Vec<u64>,
}

impl Server {
    fn execute(&mut self, lowest: OpNumber, ops: &[NumberedOp]) -> Vec<OpOutcome> {
        self.lowest = self.lowest.max(lowest.0);
        ops.iter().map(|op| self.one(op)).collect()
    }

    fn one(&mut self, op: &NumberedOp) -> OpOutcome {
        assert!(op.number.0 >= self.lowest, "an operation below the window was sent again");
        assert!(op.number.0 < self.lowest + WINDOW_LEN, "an operation beyond the window was sent");
        if let Some(outcome) = self.executed.get(&op.number.0) {
            return *outcome;
        }
        if op.after.is_some_and(|after| after.0 >= self.lowest && !self.executed.contains_key(&after.0)) {
            return Err(OpError::OutOfOrder);
        }
        let Op::SetAttr { inode, .. } = op.op else { panic!("only attributes are set") };
        let done = OpDone { inode, version: 0, offset: 0 };
        let outcome = Ok(OpAnswer { done, attr: None });
        self.order.push(op.number.0);
        self.executed.insert(op.number.0, outcome);
        outcome
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Batches are delivered in any order, answers are lost and batches sent again: every operation has its own outcome,
    /// is executed once, and after the one that it follows.
    #[test]
    fn every_operation_is_executed_once_and_answered_with_its_own_outcome(
        count in 1u64..2000,
        chained in proptest::collection::vec(any::<bool>(), 64),
        schedule in proptest::collection::vec((any::<bool>(), any::<u8>()), 1..200),
    ) {
        let mut window: Window<u64> = Window::default();
        let mut server = Server::default();
        let mut after = BTreeMap::new();
        for number in 1..=count {
            let follows = (number > 1 && chained[(number % 64) as usize]).then(|| OpNumber(number - 1));
            after.extend(follows.map(|follows| (number, follows.0)));
            prop_assert_eq!(window.submit(op(number), follows, number), Ok(OpNumber(number)));
        }
        let mut answered = BTreeSet::new();
        let mut in_flight = Vec::new();
        let mut schedule = schedule.into_iter().cycle();
        for _ in 0..100_000 {
            while let Some(packed) = window.poll_batch() {
                prop_assert!(packed.ops.len() <= BATCH_OPS);
                in_flight.push(packed);
            }
            if in_flight.is_empty() { break }
            let (lost, which) = schedule.next().unwrap();
            let packed = in_flight.remove(usize::from(which) % in_flight.len());
            let outcomes = server.execute(packed.lowest_unanswered, &packed.ops);
            // A lost answer: the call below the window sends the same batch again until it is answered.
            let outcomes = if lost { server.execute(packed.lowest_unanswered, &packed.ops) } else { outcomes };
            for (waiter, outcome) in window.handle_outcomes(packed.ops, outcomes).outcomes {
                prop_assert_eq!(outcome.unwrap().done.inode.0, waiter);
                prop_assert!(answered.insert(waiter), "answered twice");
            }
        }
        prop_assert!(window.is_idle());
        prop_assert_eq!(answered.len() as u64, count);
        prop_assert_eq!(server.order.len() as u64, count, "executed once each");
        let position: BTreeMap<u64, usize> = server.order.iter().enumerate().map(|(at, number)| (*number, at)).collect();
        for (number, follows) in after {
            prop_assert!(position[&follows] < position[&number], "{} before {}", number, follows);
        }
    }
}

#[test]
fn while_batches_travel_only_full_ones_are_added() {
    let mut window: Window<()> = Window::default();
    window.submit(op(1), None, ()).unwrap();
    let first = window.poll_batch().unwrap();
    assert_eq!(first.ops.len(), 1, "alone, one goes at once");
    for number in 2..200 {
        window.submit(op(number), None, ()).unwrap();
    }
    assert!(window.poll_batch().is_none(), "what waits is packed together");
    window.handle_given_up(first.ops);
    assert_eq!(window.poll_batch().unwrap().ops.len(), 198);
}

#[test]
fn a_batch_stays_within_its_weight_however_large_the_operations() {
    let mut window: Window<()> = Window::default();
    let heavy = || Op::WriteInline {
        inode: Inode(1),
        content: wire::namespace::InlineData::new(vec![0; 4096]),
        if_version: None,
        modified: Default::default(),
        set_id: Default::default(),
    };
    for _ in 0..600 {
        window.submit(heavy(), None, ()).unwrap();
    }
    let mut packed = 0;
    for _ in 0..2 {
        let batch = window.poll_batch().unwrap();
        let weight: usize = batch.ops.iter().map(|op| super::op_weight(&op.op)).sum();
        assert!(weight <= BATCH_WEIGHT_MAX && batch.ops.len() > 200, "{weight}");
        packed += batch.ops.len();
    }
    assert!(packed < 600);
}

#[test]
fn an_operation_that_was_given_up_frees_its_place_in_the_window() {
    let mut window: Window<u64> = Window::default();
    for number in 1..=WINDOW_LEN + 1 {
        window.submit(op(number), None, number).unwrap();
    }
    let mut batches: Vec<_> = std::iter::from_fn(|| window.poll_batch()).collect();
    let sent: usize = batches.iter().map(|batch| batch.ops.len()).sum();
    assert_eq!(sent as u64, WINDOW_LEN, "one is beyond the window");
    let given_up = window.handle_given_up(batches.remove(0).ops);
    assert_eq!(given_up.len(), BATCH_OPS);
    for batch in batches {
        let outcomes = batch.ops.iter().map(|_| Err(OpError::NotFound)).collect();
        assert!(!window.handle_outcomes(batch.ops, outcomes).put_back);
    }
    let last = window.poll_batch().unwrap();
    assert_eq!(last.lowest_unanswered, OpNumber(WINDOW_LEN + 1));
}

#[test]
fn a_chain_behind_a_batch_that_does_not_arrive_is_not_sent_in_vain() {
    let mut window: Window<u64> = Window::default();
    for number in 1..=2 * BATCH_OPS as u64 {
        window.submit(op(number), (number > 1).then(|| OpNumber(number - 1)), number).unwrap();
    }
    let (first, second) = (window.poll_batch().unwrap(), window.poll_batch().unwrap());
    let early = second.ops.iter().map(|_| Err(OpError::OutOfOrder)).collect();
    assert!(window.handle_outcomes(second.ops, early).put_back);
    assert!(window.poll_batch().is_none(), "it waits for what is under way");
    let done = OpDone { inode: Inode(1), version: 0, offset: 0 };
    let outcomes = first.ops.iter().map(|_| Ok(OpAnswer { done, attr: None })).collect();
    assert_eq!(window.handle_outcomes(first.ops, outcomes).outcomes.len(), BATCH_OPS);
    assert_eq!(window.poll_batch().unwrap().ops.len(), BATCH_OPS, "and goes as a whole");
}
