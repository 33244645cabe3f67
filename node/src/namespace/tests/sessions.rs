//! Sessions, windows and reserved numbers.

use wire::{
    Refusal,
    cluster::{ClientId, Peer},
    namespace::{
        BATCH_OPS_MAX, Batch, Cookie, INODE_RANGE_LEN, Inode, ListWant, NewContent, NewKind, NumberedOp, Op, OpError,
        OpNumber, Replace, SessionId, SessionNonce, SetAttr, SetTime, Timestamp, WINDOW_LEN, Want,
    },
};

use super::harness::{CLIENT, Client, Machine, name, new_inode, outcomes};
use crate::namespace::{CommandBody, CommandOutcome, LogIndex, orphans, pending_work, session_list};

fn open(machine: &mut Machine, client: Peer, nonce: u8) -> CommandOutcome {
    machine.propose(CommandBody::OpenSession { client, nonce: SessionNonce([nonce; 16]) })
}

/// A change that shows whether it was executed: each makes the change counter of the root rise.
fn touch_root() -> Op {
    Op::SetAttr { inode: Inode::ROOT, set: SetAttr { accessed: SetTime::Now, ..SetAttr::default() } }
}

fn changes(machine: &Machine) -> u64 {
    machine.attr(Inode::ROOT).change
}

/// A batch with these numbers, each following another or none.
fn numbered(client: &Client, lowest: u64, ops: &[(u64, Option<u64>)]) -> CommandBody {
    let op = |&(number, after): &(u64, Option<u64>)| NumberedOp {
        number: OpNumber(number),
        after: after.map(OpNumber),
        op: touch_root(),
    };
    let ops = ops.iter().map(op).collect();
    let lowest_unanswered = OpNumber(lowest);
    CommandBody::Batch {
        client: CLIENT,
        batch: Batch { session: client.session, lowest_unanswered, ops, want: Want::Outcome },
    }
}

fn errors(machine: &mut Machine, body: CommandBody) -> Vec<Option<OpError>> {
    outcomes(machine.propose(body)).into_iter().map(Result::err).collect()
}

#[test]
fn the_same_nonce_of_the_same_client_is_the_same_session() {
    let mut machine = Machine::new();
    let first = open(&mut machine, CLIENT, 1);
    assert_eq!(open(&mut machine, CLIENT, 1), first);
    assert_ne!(open(&mut machine, CLIENT, 2), first);
    assert_ne!(open(&mut machine, Peer::Client(ClientId([8; 16])), 1), first);
    assert_eq!(session_list(&machine.rows).unwrap().len(), 3);
}

#[test]
fn nothing_is_served_before_the_cluster_is_founded() {
    let mut machine = Machine::empty();
    assert_eq!(open(&mut machine, CLIENT, 1), CommandOutcome::Refused(Refusal::NotServing));
    let client = Client {
        session: SessionId(1),
        next_op: 1,
        next_inode: 0,
        range: wire::namespace::InodeRange { first: Inode(0) },
    };
    let refused = CommandOutcome::Refused(Refusal::UnknownSession);
    assert_eq!(machine.propose(numbered(&client, 1, &[(1, None)])), refused);
    assert_eq!(machine.propose(CommandBody::ReserveInodes { session: SessionId(1) }), refused);
    machine.propose(CommandBody::CloseSession { session: SessionId(1) });
    machine.propose(CommandBody::ContinueCut { inode: Inode(5) });
    machine.propose(CommandBody::ReclaimOrphans { inodes: vec![Inode::ROOT, Inode(5)] });
    assert!(machine.rows.pairs().is_empty());
}

#[test]
fn an_operation_sent_again_is_answered_and_not_executed() {
    let mut machine = Machine::new();
    let client = Client::open(&mut machine, 1);
    let batch = numbered(&client, 1, &[(1, None), (2, None)]);
    let first = outcomes(machine.propose(batch.clone()));
    let before = changes(&machine);
    assert_eq!(outcomes(machine.propose(batch)), first);
    assert_eq!(changes(&machine), before);
    // Beside a new one, the old is still not executed.
    machine.propose(numbered(&client, 1, &[(2, None), (3, None)]));
    assert_eq!(changes(&machine), before + 1);
}

#[test]
fn a_failure_is_remembered_as_a_success_is() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let batch = client.batch(vec![Op::Unlink { dir: Inode::ROOT, name: name("late") }]);
    let body = CommandBody::Batch { client: CLIENT, batch };
    assert_eq!(outcomes(machine.propose(body.clone())), [Err(OpError::NotFound)]);
    let mut other = Client::open(&mut machine, 2);
    other.touch(&mut machine, Inode::ROOT, "late");
    assert_eq!(outcomes(machine.propose(body)), [Err(OpError::NotFound)]);
    assert_eq!(machine.names(Inode::ROOT), ["late"]);
}

#[test]
fn a_number_below_the_window_is_refused_and_never_executed() {
    let mut machine = Machine::new();
    let client = Client::open(&mut machine, 1);
    machine.propose(numbered(&client, 1, &[(1, None), (2, None)]));
    let before = changes(&machine);
    assert_eq!(
        errors(&mut machine, numbered(&client, 3, &[(2, None), (1, None), (0, None)])),
        [Some(OpError::BelowWindow); 3]
    );
    // The window never goes back.
    assert_eq!(errors(&mut machine, numbered(&client, 1, &[(2, None)])), [Some(OpError::BelowWindow)]);
    assert_eq!(changes(&machine), before);
}

#[test]
fn a_number_too_far_ahead_is_refused_with_its_batch() {
    let mut machine = Machine::new();
    let client = Client::open(&mut machine, 1);
    let before = changes(&machine);
    let body = numbered(&client, 1, &[(1, None), (2 + WINDOW_LEN, None)]);
    assert_eq!(machine.propose(body), CommandOutcome::Refused(Refusal::OutsideWindow));
    assert_eq!(changes(&machine), before);
    assert_eq!(errors(&mut machine, numbered(&client, 1, &[(1 + WINDOW_LEN, None)])), [None]);
    let many: Vec<_> = (0..=BATCH_OPS_MAX as u64).map(|number| (number + 1, None)).collect();
    assert_eq!(machine.propose(numbered(&client, 1, &many)), CommandOutcome::Refused(Refusal::Malformed));
}

#[test]
fn a_chained_operation_waits_for_the_one_it_follows() {
    let mut machine = Machine::new();
    let client = Client::open(&mut machine, 1);
    let before = changes(&machine);
    let late = numbered(&client, 1, &[(3, Some(2)), (4, None)]);
    assert_eq!(errors(&mut machine, late.clone()), [Some(OpError::OutOfOrder), None]);
    assert_eq!(changes(&machine), before + 1);
    assert_eq!(errors(&mut machine, numbered(&client, 1, &[(2, None), (3, Some(2))])), [None, None]);
    assert_eq!(errors(&mut machine, late), [None, None]);
    assert_eq!(changes(&machine), before + 3);
    // What lies below the window was executed.
    assert_eq!(errors(&mut machine, numbered(&client, 5, &[(5, Some(1))])), [None]);
}

#[test]
fn outcomes_below_the_window_are_forgotten() {
    let mut machine = Machine::new();
    let client = Client::open(&mut machine, 1);
    let rows = machine.rows.pairs().len();
    for round in 0..5 {
        let first = 1 + round * 500;
        let ops: Vec<_> = (first..first + 500).map(|number| (number, None)).collect();
        machine.propose(numbered(&client, first, &ops));
        assert!(machine.rows.pairs().len() <= rows + 500, "outcomes pile up");
    }
    machine.propose(numbered(&client, 2501, &[]));
    assert_eq!(machine.rows.pairs().len(), rows);
}

#[test]
fn a_session_serves_only_its_own_client() {
    let mut machine = Machine::new();
    let client = Client::open(&mut machine, 1);
    let CommandBody::Batch { batch, .. } = numbered(&client, 1, &[(1, None)]) else { panic!("no batch") };
    let stranger = Peer::Client(ClientId([9; 16]));
    let outcome = machine.propose(CommandBody::Batch { client: stranger, batch });
    assert_eq!(outcome, CommandOutcome::Refused(Refusal::UnknownSession));
}

#[test]
fn a_number_is_used_once_and_only_from_a_range_of_the_session() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let mut other = Client::open(&mut machine, 2);
    let create = |machine: &mut Machine, client: &mut Client, inode: u64, text: &str| {
        let new = new_inode(Inode(inode), NewKind::File(NewContent::Empty));
        client.run(machine, Op::Create { dir: Inode::ROOT, name: name(text), new, replace: Replace::No }).err()
    };
    let first = client.range.first.0;
    let last = first + u64::from(INODE_RANGE_LEN) - 1;
    assert_eq!(create(&mut machine, &mut client, last, "a"), None);
    assert_eq!(create(&mut machine, &mut client, first, "b"), None);
    assert_eq!(create(&mut machine, &mut client, last, "c"), Some(OpError::NotReserved));
    assert_eq!(create(&mut machine, &mut other, first + 1, "d"), Some(OpError::NotReserved));
    assert_eq!(create(&mut machine, &mut client, 1, "e"), Some(OpError::NotReserved));
    assert_eq!(create(&mut machine, &mut client, u64::MAX, "e"), Some(OpError::NotReserved));
    // Gone is used as well.
    client.ok(&mut machine, Op::Unlink { dir: Inode::ROOT, name: name("b") });
    machine.propose(CommandBody::ReclaimOrphans { inodes: vec![Inode(first)] });
    assert_eq!(create(&mut machine, &mut client, first, "b"), Some(OpError::NotReserved));
    // A failed create gives its number back.
    assert_eq!(create(&mut machine, &mut client, first + 1, "a"), Some(OpError::Exists));
    assert_eq!(create(&mut machine, &mut client, first + 1, "f"), None);
}

#[test]
fn a_used_up_range_takes_no_row_and_its_numbers_stay_used() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let first = client.range.first;
    let rows = machine.rows.pairs().len();
    for group in 0..8 {
        let ops = (0..512).map(|at| {
            let new = new_inode(client.inode(&mut machine), NewKind::Fifo);
            Op::Create { dir: Inode::ROOT, name: name(&format!("{group}-{at}")), new, replace: Replace::No }
        });
        let ops = ops.collect();
        assert!(client.run_all(&mut machine, ops).iter().all(Result::is_ok));
    }
    machine.propose(numbered(&client, client.next_op, &[]));
    // An inode, a name and a position each, and no range.
    assert_eq!(machine.rows.pairs().len(), rows + 3 * 4096 - 1);
    let page = machine.page(Inode::ROOT, Cookie(0), 3000, ListWant::Attrs);
    let rest = machine.page(Inode::ROOT, page.entries[2999].cookie, u32::MAX, ListWant::Attrs);
    assert_eq!((page.entries.len(), page.end, rest.entries.len(), rest.end), (3000, false, 1096, true));
    assert!(page.entries.iter().chain(&rest.entries).all(|entry| entry.attr.unwrap().inode == entry.inode));
    let new = new_inode(first, NewKind::Fifo);
    let op = Op::Create { dir: Inode::ROOT, name: name("again"), new, replace: Replace::No };
    assert_eq!(client.run(&mut machine, op), Err(OpError::NotReserved));
}

#[test]
fn a_closed_session_leaves_orphans_and_nothing_else() {
    let mut machine = Machine::new();
    let rows = machine.rows.pairs().len();
    let mut client = Client::open(&mut machine, 1);
    // As many as two commands take.
    for _ in 0..4 {
        let ops = (0..500).map(|_| Op::CreateUnnamed {
            new: new_inode(client.inode(&mut machine), NewKind::File(NewContent::Empty)),
        });
        let ops = ops.collect();
        assert!(client.run_all(&mut machine, ops).iter().all(Result::is_ok));
    }
    machine.propose(CommandBody::CloseSession { session: client.session });
    assert!(session_list(&machine.rows).unwrap().is_empty());
    assert_eq!(pending_work(&machine.rows, 9).unwrap(), [CommandBody::CloseSession { session: client.session }]);
    let refused = CommandOutcome::Refused(Refusal::UnknownSession);
    assert_eq!(machine.propose(numbered(&client, 1, &[(5000, None)])), refused);
    assert_eq!(open(&mut machine, CLIENT, 1), refused);
    assert_eq!(machine.propose(CommandBody::ReserveInodes { session: client.session }), refused);
    assert!(machine.finish_work() > 0);
    let up_to = LogIndex(machine.index);
    assert_eq!(orphans(&machine.rows, up_to, usize::MAX).unwrap().len(), 2000);
    while let found = orphans(&machine.rows, up_to, 3000).unwrap()
        && !found.is_empty()
    {
        machine.propose(CommandBody::ReclaimOrphans { inodes: found });
    }
    assert_eq!(machine.rows.pairs().len(), rows);
    assert_eq!(machine.usage().inodes, 1);
}

#[test]
fn a_leader_with_a_slow_clock_does_not_turn_ctime_back() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let file = client.touch(&mut machine, Inode::ROOT, "file");
    let changed = machine.attr(file).changed;
    machine.clock -= 500;
    let set = SetAttr { modified: SetTime::Now, ..SetAttr::default() };
    client.ok(&mut machine, Op::SetAttr { inode: file, set });
    assert_eq!((machine.attr(file).changed, machine.attr(file).modified), (changed, changed));
    let early = Timestamp::new(-5, 7).unwrap();
    let set = SetAttr { modified: SetTime::To(early), ..SetAttr::default() };
    client.ok(&mut machine, Op::SetAttr { inode: file, set });
    assert_eq!((machine.attr(file).changed, machine.attr(file).modified), (changed, early));
}

#[test]
fn a_session_that_reserves_too_far_ahead_loses_its_oldest_range() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let oldest = client.range.first;
    let mut ranges = vec![client.range];
    for _ in 0..256 {
        match machine.propose(CommandBody::ReserveInodes { session: client.session }) {
            CommandOutcome::InodesReserved(range) => ranges.push(range),
            other => panic!("{other:?}"),
        }
    }
    let create = |inode, name: &str| Op::Create {
        dir: Inode::ROOT,
        name: self::name(name),
        new: new_inode(inode, NewKind::File(NewContent::Empty)),
        replace: Replace::No,
    };
    assert_eq!(client.run(&mut machine, create(oldest, "oldest")), Err(OpError::NotReserved));
    for (number, range) in ranges[1..].iter().enumerate() {
        client.run(&mut machine, create(range.first, &number.to_string())).unwrap();
    }
    machine.propose(CommandBody::CloseSession { session: client.session });
    machine.finish_work();
    assert_eq!(session_list(&machine.rows).unwrap(), []);
}
