//! Random histories against a server that keeps outcomes as the namespace does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use wire::lease::MadeAt;
use wire::namespace::{
    Inode, NumberedOp, Op, OpAnswer, OpDone, OpError, OpNumber, OpOutcome, SetAttr, Timestamp, WINDOW_LEN,
};

use super::{BATCH_OPS, BATCH_WEIGHT_MAX, GATHER, STUCK_AFTER, Way, Window};

const ASKED: Way = Way::Asked { after: None };

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
        let start = Instant::now();
        let mut window: Window<u64> = Window::default();
        let mut server = Server::default();
        let mut after = BTreeMap::new();
        for number in 1..=count {
            let follows = (number > 1 && chained[(number % 64) as usize]).then(|| OpNumber(number - 1));
            after.extend(follows.map(|follows| (number, follows.0)));
            prop_assert_eq!(window.submit(op(number), Way::Asked { after: follows }, number), Ok(OpNumber(number)));
        }
        let mut answered = BTreeSet::new();
        let mut in_flight = Vec::new();
        let mut schedule = schedule.into_iter().cycle();
        for _ in 0..100_000 {
            while let Some(packed) = window.poll_batch(start) {
                prop_assert!(packed.ops.len() <= BATCH_OPS);
                in_flight.push(packed);
            }
            if in_flight.is_empty() { break }
            let (lost, which) = schedule.next().unwrap();
            let packed = in_flight.remove(usize::from(which) % in_flight.len());
            let outcomes = server.execute(packed.lowest_unanswered, &packed.ops);
            // A lost answer: the call below the window sends the same batch again until it is answered.
            let outcomes = if lost { server.execute(packed.lowest_unanswered, &packed.ops) } else { outcomes };
            for (waiter, outcome) in window.handle_outcomes(packed.ops, &packed.made, outcomes).outcomes {
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
    let start = Instant::now();
    let mut window: Window<()> = Window::default();
    window.submit(op(1), ASKED, ()).unwrap();
    let first = window.poll_batch(start).unwrap();
    assert_eq!(first.ops.len(), 1, "alone, one goes at once");
    for number in 2..200 {
        window.submit(op(number), ASKED, ()).unwrap();
    }
    assert!(window.poll_batch(start).is_none(), "what waits is packed together");
    window.handle_given_up(first.ops, &[], false);
    assert_eq!(window.poll_batch(start).unwrap().ops.len(), 198);
}

#[test]
fn a_batch_stays_within_its_weight_however_large_the_operations() {
    let start = Instant::now();
    let mut window: Window<()> = Window::default();
    let heavy = || Op::WriteInline {
        inode: Inode(1),
        content: wire::namespace::InlineData::new(vec![0; 4096]),
        if_version: None,
        modified: Default::default(),
        set_id: Default::default(),
    };
    for _ in 0..600 {
        window.submit(heavy(), ASKED, ()).unwrap();
    }
    let mut packed = 0;
    for _ in 0..2 {
        let batch = window.poll_batch(start).unwrap();
        let weight: usize = batch.ops.iter().map(|op| super::op_weight(&op.op)).sum();
        assert!(weight <= BATCH_WEIGHT_MAX && batch.ops.len() > 200, "{weight}");
        packed += batch.ops.len();
    }
    assert!(packed < 600);
}

#[test]
fn an_operation_that_was_given_up_frees_its_place_in_the_window() {
    let start = Instant::now();
    let mut window: Window<u64> = Window::default();
    for number in 1..=WINDOW_LEN + 1 {
        window.submit(op(number), ASKED, number).unwrap();
    }
    let mut batches: Vec<_> = std::iter::from_fn(|| window.poll_batch(start)).collect();
    let sent: usize = batches.iter().map(|batch| batch.ops.len()).sum();
    assert_eq!(sent as u64, WINDOW_LEN, "one is beyond the window");
    let given_up = window.handle_given_up(batches.remove(0).ops, &[], false);
    assert_eq!(given_up.len(), BATCH_OPS);
    for batch in batches {
        let outcomes = batch.ops.iter().map(|_| Err(OpError::NotFound)).collect();
        assert!(!window.handle_outcomes(batch.ops, &[], outcomes).put_back);
    }
    let last = window.poll_batch(start).unwrap();
    assert_eq!(last.lowest_unanswered, OpNumber(WINDOW_LEN + 1));
}

#[test]
fn a_chain_behind_a_batch_that_does_not_arrive_is_not_sent_in_vain() {
    let start = Instant::now();
    let mut window: Window<u64> = Window::default();
    for number in 1..=2 * BATCH_OPS as u64 {
        let after = (number > 1).then(|| OpNumber(number - 1));
        window.submit(op(number), Way::Asked { after }, number).unwrap();
    }
    let (first, second) = (window.poll_batch(start).unwrap(), window.poll_batch(start).unwrap());
    let early = second.ops.iter().map(|_| Err(OpError::OutOfOrder)).collect();
    assert!(window.handle_outcomes(second.ops, &[], early).put_back);
    assert!(window.poll_batch(start).is_none(), "it waits for what is under way");
    let done = OpDone { inode: Inode(1), version: 0, offset: 0 };
    let outcomes = first.ops.iter().map(|_| Ok(OpAnswer { done, attr: None })).collect();
    assert_eq!(window.handle_outcomes(first.ops, &[], outcomes).outcomes.len(), BATCH_OPS);
    assert_eq!(window.poll_batch(start).unwrap().ops.len(), BATCH_OPS, "and goes as a whole");
}

fn made_at(number: u64) -> MadeAt {
    MadeAt { time: time(number), before: vec![(Inode(number), number)] }
}

fn time(number: u64) -> Timestamp {
    Timestamp::new(number as i64, 0).unwrap()
}

fn done(ops: &[NumberedOp]) -> Vec<OpOutcome> {
    let done = |op: &NumberedOp| OpDone { inode: Inode(op.number.0), version: 0, offset: 0 };
    ops.iter().map(|op| Ok(OpAnswer { done: done(op), attr: None })).collect()
}

fn numbers(ops: &[NumberedOp]) -> Vec<u64> {
    ops.iter().map(|op| op.number.0).collect()
}

#[test]
fn what_is_made_goes_past_what_is_asked_and_what_is_asked_waits_for_what_was_deferred() {
    let start = Instant::now();
    let mut window: Window<u64> = Window::default();
    window.submit(op(1), ASKED, 1).unwrap();
    let asked = window.poll_batch(start).unwrap();
    window.submit(op(2), Way::Deferred(made_at(2)), 2).unwrap();
    window.submit(op(3), Way::Made(made_at(3)), 3).unwrap();
    window.submit(op(4), ASKED, 4).unwrap();
    let made = window.poll_batch(start).unwrap();
    assert_eq!((numbers(&made.ops), made.made.clone()), (vec![2, 3], vec![made_at(2), made_at(3)]));
    window.submit(op(5), Way::Deferred(made_at(5)), 5).unwrap();
    assert!(window.poll_batch(start).is_none(), "one batch of what is made at a time");
    assert_eq!(window.deferred_until(), 2);
    // The first asked one is answered: the other still waits for the deferred one before it.
    window.handle_outcomes(asked.ops.clone(), &[], done(&asked.ops));
    assert!(window.poll_batch(start).is_none());
    window.handle_outcomes(made.ops.clone(), &made.made, done(&made.ops));
    assert_eq!(window.deferred_until(), 5);
    window.hurry();
    assert_eq!(numbers(&window.poll_batch(start).unwrap().ops), [5], "what is made goes first");
    assert_eq!(numbers(&window.poll_batch(start).unwrap().ops), [4]);
}

#[test]
fn what_is_made_goes_again_until_the_session_ends_or_it_is_refused_before_its_caller_was_answered() {
    let start = Instant::now();
    let mut window: Window<u64> = Window::default();
    window.submit(op(1), Way::Deferred(made_at(1)), 1).unwrap();
    window.submit(op(2), Way::Made(made_at(2)), 2).unwrap();
    for refused in [false, false, true, false, true] {
        let made = window.poll_batch(start).unwrap();
        assert_eq!(made.ops[0].number, OpNumber(1));
        let is_told = refused && made.ops.len() == 2;
        assert_eq!(
            window.handle_given_up(made.ops.clone(), &made.made, refused),
            if is_told { vec![2] } else { vec![] }
        );
    }
    assert!(!window.has_lost_deferred());
    assert_eq!(window.drain(), [1]);
    assert_eq!(window.deferred_until(), 3);
    assert!(window.has_lost_deferred(), "whoever waits for it must not take it for done");
}

#[test]
fn what_is_deferred_always_fits_into_the_window_beside_what_is_asked_and_waits() {
    let start = Instant::now();
    let mut window: Window<u64> = Window::default();
    window.submit(op(1), ASKED, 1).unwrap();
    let _waits_for_another_mount = window.poll_batch(start).unwrap();
    let mut deferred = 0;
    while window.may_defer() {
        deferred += 1;
        window.submit(op(1 + deferred), Way::Deferred(made_at(1)), 1 + deferred).unwrap();
    }
    assert_eq!(deferred, WINDOW_LEN - 1);
    let mut sent = 0;
    window.hurry();
    while let Some(batch) = window.poll_batch(start) {
        sent += batch.ops.len() as u64;
        let outcomes = batch.ops.iter().map(|_| Err(OpError::NotFound)).collect();
        window.handle_outcomes(batch.ops, &batch.made, outcomes);
    }
    assert_eq!((sent, window.deferred_until()), (deferred, window.next()), "all of it is told");
}

#[test]
fn a_batch_that_waits_for_somebody_holds_up_no_others() {
    let start = Instant::now();
    let mut window: Window<u64> = Window::default();
    window.submit(op(1), ASKED, 1).unwrap();
    let _stuck = window.poll_batch(start).unwrap();
    window.submit(op(2), ASKED, 2).unwrap();
    assert!(window.poll_batch(start).is_none());
    assert_eq!(window.look_again_in(start), Some(STUCK_AFTER));
    assert_eq!(numbers(&window.poll_batch(start + STUCK_AFTER).unwrap().ops), [2]);
}

/// What nobody waits for is packed together; as soon as somebody does, or a batch is full, it goes.
#[test]
fn deferred_operations_are_gathered_until_somebody_waits() {
    let start = Instant::now();
    let deferred = || Way::Deferred(MadeAt::default());
    let gathering = || {
        let mut window: Window<()> = Window::default();
        window.submit(op(1), deferred(), ()).unwrap();
        assert!(window.calls_for_poll(), "its time begins to run");
        assert!(window.poll_batch(start).is_none());
        window.submit(op(2), deferred(), ()).unwrap();
        assert!(!window.calls_for_poll() && window.poll_batch(start).is_none());
        window
    };

    let mut window = gathering();
    assert_eq!(window.look_again_in(start), Some(GATHER));
    assert_eq!(numbers(&window.poll_batch(start + GATHER).unwrap().ops), [1, 2]);
    assert_eq!(window.look_again_in(start + GATHER), None, "what is under way is waited for");

    let mut window = gathering();
    window.hurry();
    window.submit(op(3), deferred(), ()).unwrap();
    assert_eq!(numbers(&window.poll_batch(start).unwrap().ops), [1, 2, 3], "somebody waits for all of it");

    let mut window = gathering();
    window.submit(op(3), Way::Made(MadeAt::default()), ()).unwrap();
    assert_eq!(numbers(&window.poll_batch(start).unwrap().ops), [1, 2, 3], "with what somebody waits for");

    let mut window = gathering();
    window.submit(op(3), ASKED, ()).unwrap();
    let made = window.poll_batch(start).unwrap();
    assert_eq!(made.ops.len(), 2, "what is asked waits for them");
    assert!(window.poll_batch(start).is_none());

    let mut window = gathering();
    for number in 3..=BATCH_OPS as u64 {
        window.submit(op(number), deferred(), ()).unwrap();
    }
    assert!(window.calls_for_poll());
    let full = window.poll_batch(start).unwrap();
    assert_eq!(full.ops.len(), BATCH_OPS);
    window.submit(op(1000), deferred(), ()).unwrap();
    assert!(window.poll_batch(start).is_none(), "one batch at a time");
    window.handle_given_up(full.ops, &full.made, true);
    assert_eq!(window.poll_batch(start + GATHER).unwrap().ops.len(), BATCH_OPS, "in order");
}
