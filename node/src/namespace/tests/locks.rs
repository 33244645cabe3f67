//! Locks against a map of bytes; mounts, and what batches tell of what they touched.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use wire::namespace::{
    FileLock, HeldLock, InlineData, Inode, LOCKS_MAX, LockKind, LockOwner, Op, OpError, Query, QueryAnswer, SessionId,
    SessionNonce, SetId, SetTime, Timestamp,
};

use super::harness::{CLIENT, Client, Machine, name};
use crate::namespace::{CommandBody, CommandOutcome, edit::collect, is_mount, locks::locks_of, mount_sessions, table};

/// Bytes of the file that the histories lock, the last of them all beyond.
const BYTES: u64 = 24;

type Owner = (SessionId, LockOwner);

/// Who holds which byte how.
type ByteMap = BTreeMap<(u64, Owner), LockKind>;

fn lock(owner: u64, start: u64, end: u64, kind: LockKind) -> FileLock {
    FileLock { owner: LockOwner(owner), pid: 7, start, end, kind }
}

/// The byte of the model that stands for an offset.
fn last_byte(end: u64) -> u64 {
    end.min(BYTES - 1)
}

fn conflicts(map: &ByteMap, owner: Owner, lock: &FileLock) -> bool {
    map.iter().any(|(&(byte, other), kind)| {
        let shared = *kind == LockKind::Read && lock.kind == LockKind::Read;
        other != owner && (lock.start..=last_byte(lock.end)).contains(&byte) && !shared
    })
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut machine = Machine::new();
    let mut clients = [Client::open(&mut machine, 1), Client::open(&mut machine, 2)];
    let inode = clients[0].touch(&mut machine, Inode::ROOT, "file");
    let before = machine.attr(inode);
    let mut map = ByteMap::new();
    for _ in 0..300 {
        let client = &mut clients[random.random_range(0..2)];
        let owner: Owner = (client.session, LockOwner(random.random_range(0..2)));
        let start = random.random_range(0..BYTES);
        let end = random.random_range(start..BYTES);
        let end = if end == BYTES - 1 { u64::MAX } else { end };
        let kind = if random.random_range(0..3) == 0 { LockKind::Write } else { LockKind::Read };
        let lock = lock(owner.1.0, start, end, kind);
        let query = Query::Lock { inode, session: owner.0, lock };
        let Ok(QueryAnswer::Lock(in_the_way)) = machine.query(query) else { panic!("a lock is answered") };
        assert_eq!(in_the_way.is_some(), conflicts(&map, owner, &lock));
        if random.random_range(0..3) == 0 {
            client.ok(&mut machine, Op::Unlock { inode, owner: owner.1, start, end });
            map.retain(|(byte, other), _| *other != owner || !(start..=last_byte(end)).contains(byte));
        } else if conflicts(&map, owner, &lock) {
            assert_eq!(client.run(&mut machine, Op::Lock { inode, lock }), Err(OpError::Locked));
        } else {
            client.ok(&mut machine, Op::Lock { inode, lock });
            map.extend((start..=last_byte(end)).map(|byte| ((byte, owner), kind)));
        }
        compare(&machine, inode, &map);
    }
    assert_eq!(machine.attr(inode), before, "locks change nothing else");
}

fn compare(machine: &Machine, inode: Inode, map: &ByteMap) {
    let held = locks_of(&machine.rows, inode).unwrap();
    let mut bytes = ByteMap::new();
    for HeldLock { session, lock } in held.iter() {
        let owner = (*session, lock.owner);
        for byte in lock.start..=last_byte(lock.end) {
            assert!(bytes.insert((byte, owner), lock.kind).is_none(), "two locks of one owner overlap");
        }
        let continues = |other: &HeldLock| {
            (other.session, other.lock.owner, other.lock.kind) == (*session, lock.owner, lock.kind)
                && lock.end.checked_add(1) == Some(other.lock.start)
        };
        assert!(!held.iter().any(continues), "two locks that are one");
    }
    assert_eq!(&bytes, map);
}

fn lock_rows(machine: &Machine) -> usize {
    let rows = [table::LOCK, table::LOCK_OF].map(|table| {
        let (from, to) = table::rows_of_table(table);
        collect(&machine.rows, &from, &to, usize::MAX).unwrap().len()
    });
    rows.iter().sum()
}

#[test]
fn random_locks_agree_with_a_map_of_bytes() {
    for seed in 0..12 {
        println!("seed {seed}");
        run(seed);
    }
}

#[test]
fn a_session_that_ends_releases_its_locks_in_bounded_commands() {
    let mut machine = Machine::new();
    let (mut first, mut second) = (Client::open(&mut machine, 1), Client::open(&mut machine, 2));
    let files: Vec<Inode> =
        (0..300).map(|number| first.touch(&mut machine, Inode::ROOT, &number.to_string())).collect();
    for inode in &files {
        first.ok(&mut machine, Op::Lock { inode: *inode, lock: lock(1, 0, 9, LockKind::Read) });
        second.ok(&mut machine, Op::Lock { inode: *inode, lock: lock(1, 5, 9, LockKind::Read) });
    }
    let write = Op::Lock { inode: files[299], lock: lock(1, 0, 9, LockKind::Write) };
    assert_eq!(second.run(&mut machine, write.clone()), Err(OpError::Locked));
    machine.propose(CommandBody::CloseSession { session: first.session });
    assert!(machine.finish_work() > 1, "one command does not do it all");
    second.ok(&mut machine, write);
    assert_eq!(lock_rows(&machine), 2 * files.len());
    machine.propose(CommandBody::CloseSession { session: second.session });
    machine.finish_work();
    assert_eq!(lock_rows(&machine), 0);
}

#[test]
fn an_inode_that_goes_takes_its_locks_with_it() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let others: Vec<Client> = (2..40).map(|nonce| Client::open(&mut machine, nonce)).collect();
    let inode = client.touch(&mut machine, Inode::ROOT, "file");
    for mut other in others {
        other.ok(&mut machine, Op::Lock { inode, lock: lock(1, 0, u64::MAX, LockKind::Read) });
    }
    client.ok(&mut machine, Op::Unlink { dir: Inode::ROOT, name: name("file") });
    assert!(lock_rows(&machine) > 0, "whoever has it open may go on locking it");
    machine.propose(CommandBody::ReclaimOrphans { inodes: vec![inode] });
    assert_eq!(lock_rows(&machine), 0);
    machine.propose(CommandBody::ReclaimOrphans { inodes: vec![inode] });
    assert_eq!(machine.query(Query::Attr { inode }), Err(OpError::StaleInode));
}

#[test]
fn an_inode_has_no_more_locks_than_it_may() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let inode = client.touch(&mut machine, Inode::ROOT, "file");
    let delegation = LockOwner(7);
    client.ok(&mut machine, Op::DelegateLocks { inode, delegation });
    let many = (0..LOCKS_MAX as u64).map(|at| lock(1, 10 * at, 10 * at + 5, LockKind::Read));
    client.ok(&mut machine, Op::ReturnLocks { inode, delegation, locks: many.collect() });
    let more = Op::Lock { inode, lock: lock(2, 3, 3, LockKind::Read) };
    assert_eq!(client.run(&mut machine, more), Err(OpError::TooManyLocks));
    let split = Op::Unlock { inode, owner: LockOwner(1), start: 2, end: 2 };
    assert_eq!(client.run(&mut machine, split), Err(OpError::TooManyLocks));
    client.ok(&mut machine, Op::Unlock { inode, owner: LockOwner(1), start: 0, end: u64::MAX });
    let upside_down = Op::Lock { inode, lock: lock(1, 5, 4, LockKind::Read) };
    assert_eq!(client.run(&mut machine, upside_down), Err(OpError::Invalid));
    assert_eq!(lock_rows(&machine), 0);
}

#[test]
fn a_session_that_decides_about_locks_is_in_the_way_of_others_until_it_returns_them_or_ends() {
    let mut machine = Machine::new();
    let [mut one, mut other] = [1, 2].map(|client| Client::open(&mut machine, client));
    let inode = one.touch(&mut machine, Inode::ROOT, "file");
    let before = machine.attr(inode);
    let (delegation, held) = (LockOwner(3), lock(1, 0, 9, LockKind::Read));
    let delegate = Op::DelegateLocks { inode, delegation };
    other.ok(&mut machine, Op::Lock { inode, lock: held });
    assert_eq!(one.run(&mut machine, delegate.clone()), Err(OpError::Locked));
    other.ok(&mut machine, Op::Unlock { inode, owner: held.owner, start: 0, end: u64::MAX });
    one.ok(&mut machine, delegate.clone());
    let wish = Op::Lock { inode, lock: lock(1, 50, 50, LockKind::Read) };
    assert_eq!(other.run(&mut machine, wish.clone()), Err(OpError::LocksDelegated));
    assert_eq!(other.run(&mut machine, delegate.clone()), Err(OpError::LocksDelegated));
    let question = |session| Query::Lock { inode, session, lock: lock(1, 50, 50, LockKind::Read) };
    let answer = machine.query(question(other.session));
    assert!(matches!(answer, Ok(QueryAnswer::Lock(Some(FileLock { kind: LockKind::Delegated, .. })))), "{answer:?}");
    one.ok(&mut machine, Op::ReturnLocks { inode, delegation, locks: vec![held] });
    let again = Op::ReturnLocks { inode, delegation, locks: Vec::new() };
    assert_eq!(one.run(&mut machine, again), Err(OpError::Invalid), "what is late changes nothing");
    other.ok(&mut machine, wish.clone());
    assert_eq!(other.run(&mut machine, Op::Lock { inode, lock: lock(1, 9, 9, LockKind::Write) }), Err(OpError::Locked));
    other.ok(&mut machine, Op::Unlock { inode, owner: held.owner, start: 0, end: u64::MAX });
    one.ok(&mut machine, delegate);
    assert_eq!(machine.attr(inode), before, "locks change nothing else");
    assert_eq!(lock_rows(&machine), 2);
    machine.propose(CommandBody::CloseSession { session: one.session });
    machine.finish_work();
    assert_eq!(lock_rows(&machine), 0);
    other.ok(&mut machine, wish);
}

#[test]
fn a_mount_is_known_as_one_until_it_ends_and_batches_tell_it_what_they_touched() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let dir = client.mkdir(&mut machine, Inode::ROOT, "dir");
    let file = client.touch(&mut machine, dir, "file");
    let rename = |client: &mut Client, from: &str, to: &str| {
        let (from_name, to_name) = (name(from), name(to));
        let mode = wire::namespace::RenameMode::Replace;
        client.batch(vec![Op::Rename { from_dir: dir, from_name, to_dir: Inode::ROOT, to_name, mode }])
    };
    let batch = rename(&mut client, "no such", "name");
    let outcome = machine.propose(CommandBody::Batch { client: CLIENT, batch });
    assert!(matches!(outcome, CommandOutcome::Batch { touched, .. } if touched.is_empty()), "there is no mount");
    let open = CommandBody::OpenMount { client: CLIENT, nonce: SessionNonce([9; 16]) };
    let CommandOutcome::SessionOpened { session, .. } = machine.propose(open.clone()) else { panic!("it opens") };
    assert!(matches!(machine.propose(open), CommandOutcome::SessionOpened { session: again, .. } if again == session));
    assert_eq!(mount_sessions(&machine.rows).unwrap(), [session]);
    assert!(is_mount(&machine.rows, session).unwrap() && !is_mount(&machine.rows, client.session).unwrap());
    let batch = rename(&mut client, "file", "moved");
    let CommandOutcome::Batch { touched, .. } = machine.propose(CommandBody::Batch { client: CLIENT, batch }) else {
        panic!("a batch has outcomes")
    };
    let expected: Vec<_> = [Inode::ROOT, dir, file].map(|inode| machine.attr(inode)).to_vec();
    assert_eq!(touched, expected);
    machine.propose(CommandBody::CloseSession { session });
    assert_eq!(mount_sessions(&machine.rows).unwrap(), []);
}

#[test]
fn a_deferred_write_keeps_the_time_at_which_it_was_made() {
    let mut machine = Machine::new();
    let mut client = Client::open(&mut machine, 1);
    let inode = client.inline_file(&mut machine, Inode::ROOT, "file", b"old");
    let made = machine.attr(inode).changed;
    let mut write = |machine: &mut Machine, modified: Timestamp| {
        let content = InlineData::new(b"new".to_vec());
        let modified = SetTime::To(modified);
        let op = Op::WriteInline { inode, content, if_version: None, modified, set_id: SetId::Keep };
        client.ok(machine, op).attr.unwrap()
    };
    machine.clock += 50;
    let then = Timestamp::new(made.seconds() + 20, 5).unwrap();
    let attr = write(&mut machine, then);
    assert_eq!((attr.modified, attr.changed), (then, then));
    let attr = write(&mut machine, made);
    assert_eq!((attr.modified, attr.changed), (made, then), "ctime never goes back");
    let tomorrow = Timestamp::new(machine.clock + 86_400, 0).unwrap();
    let attr = write(&mut machine, tomorrow);
    assert_eq!(attr.modified, tomorrow);
    assert_eq!(attr.changed.seconds(), machine.clock, "a time that somebody set");
}
