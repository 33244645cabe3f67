use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use wire::namespace::{FileLock, Inode, LockKind, LockOwner, OpError, OpNumber};

use super::{Delegated, Fate, HeldLocks, Turn, Wish};

const FILE: Inode = Inode(7);
const ALL: (u64, u64) = (0, u64::MAX);

fn lock(owner: u64, start: u64, end: u64) -> FileLock {
    FileLock { owner: LockOwner(owner), pid: 3, start, end, kind: LockKind::Write }
}

fn ask_lock(locks: &mut HeldLocks, lock: &FileLock, now: Instant) {
    assert_eq!(locks.turn(FILE, Wish::Lock(lock.owner), false, now), Turn::Ask);
    locks.handle_locked(FILE, lock, Fate::Done);
}

fn ask_unlock(locks: &mut HeldLocks, owner: LockOwner, range: (u64, u64), now: Instant) {
    assert_eq!(locks.turn(FILE, Wish::Unlock(owner), false, now), Turn::Ask);
    locks.handle_unlocked(FILE, owner, range, Fate::Done);
}

/// As after some use of the file: the next lock asks for a delegation.
fn busy(now: Instant) -> HeldLocks {
    let mut locks = HeldLocks::default();
    for _ in 0..2 {
        ask_lock(&mut locks, &lock(1, 0, 9), now);
        ask_unlock(&mut locks, LockOwner(1), ALL, now);
    }
    locks
}

fn delegated(now: Instant) -> HeldLocks {
    let mut locks = busy(now);
    let Turn::Delegate(delegation) = locks.turn(FILE, Wish::Lock(LockOwner(1)), true, now) else {
        panic!("it is worth it")
    };
    assert_eq!(locks.handle_delegated(FILE, delegation, Fate::Done, now), Delegated::Settled);
    locks
}

#[test]
fn an_owner_holds_what_it_locked_and_has_not_given_up_byte_for_byte() {
    let (now, owner) = (Instant::now(), LockOwner(1));
    let mut locks = HeldLocks::default();
    ask_lock(&mut locks, &lock(1, 10, 19), now);
    ask_lock(&mut locks, &lock(1, 15, u64::MAX), now);
    assert!(locks.holds(FILE, owner) && !locks.holds(FILE, LockOwner(2)));
    ask_unlock(&mut locks, owner, (12, 30), now);
    ask_unlock(&mut locks, owner, (0, 10), now);
    ask_unlock(&mut locks, owner, (31, u64::MAX), now);
    assert!(locks.holds(FILE, owner), "11 is left");
    ask_unlock(&mut locks, owner, (11, 11), now);
    assert!(!locks.holds(FILE, owner));
}

#[test]
fn what_is_lost_is_told_once() {
    let now = Instant::now();
    let mut locks = delegated(now);
    assert_eq!(locks.lose_all(), HashSet::new(), "nothing was locked");
    let mut locks = delegated(now);
    locks.lock_here(FILE, &lock(1, 0, 1)).unwrap();
    assert_eq!(locks.lose_all(), HashSet::from([FILE]));
    assert_eq!(locks.lose_all(), HashSet::new());
    assert!(!locks.holds(FILE, LockOwner(1)));
}

#[test]
fn a_delegation_is_worth_asking_for_only_where_the_file_is_held_alone_and_locked_often() {
    let now = Instant::now();
    let wish = Wish::Lock(LockOwner(1));
    assert_eq!(HeldLocks::default().turn(FILE, wish, true, now), Turn::Ask, "the first");
    assert_eq!(busy(now).turn(FILE, wish, false, now), Turn::Ask, "others may read it");
    assert_eq!(busy(now).turn(FILE, Wish::Test, true, now), Turn::Ask);
    assert_eq!(busy(now).turn(FILE, wish, true, now + Duration::from_secs(5)), Turn::Ask, "long ago");
    assert!(matches!(busy(now).turn(FILE, wish, true, now), Turn::Delegate(_)));
}

#[test]
fn no_delegation_is_asked_for_while_anything_is_under_way_or_in_doubt() {
    let now = Instant::now();
    let wish = Wish::Lock(LockOwner(2));
    let mut locks = busy(now);
    assert_eq!(locks.turn(FILE, wish, false, now), Turn::Ask);
    assert_eq!(locks.turn(FILE, Wish::Lock(LockOwner(1)), true, now), Turn::Ask, "one is under way");
    locks.handle_locked(FILE, &lock(2, 5, 5), Fate::Unknown);
    locks.handle_locked(FILE, &lock(1, 0, 0), Fate::Refused);
    assert!(locks.holds(FILE, LockOwner(2)), "perhaps");
    assert_eq!(locks.turn(FILE, Wish::Lock(LockOwner(1)), true, now), Turn::Ask, "one is in doubt");
    locks.handle_locked(FILE, &lock(1, 0, 0), Fate::Refused);
    ask_unlock(&mut locks, LockOwner(2), ALL, now);
    assert!(!locks.holds(FILE, LockOwner(2)));
}

#[test]
fn questions_of_one_owner_go_one_after_the_other_and_follow_what_is_not_known() {
    let now = Instant::now();
    let (lock_it, unlock_it) = (Wish::Lock(LockOwner(2)), Wish::Unlock(LockOwner(2)));
    let mut locks = HeldLocks::default();
    assert_eq!(locks.turn(FILE, lock_it, false, now), Turn::Ask);
    assert!(locks.holds(FILE, LockOwner(2)), "perhaps: a close waits for it");
    assert_eq!(locks.turn(FILE, unlock_it, false, now), Turn::Wait);
    assert_eq!(locks.turn(FILE, Wish::Lock(LockOwner(3)), false, now), Turn::Ask, "another owner");
    assert_eq!(locks.after(FILE), None);
    locks.handle_unknown(FILE, OpNumber(9));
    locks.handle_locked(FILE, &lock(2, 0, 9), Fate::Unknown);
    assert_eq!(locks.turn(FILE, unlock_it, false, now), Turn::Ask);
    assert_eq!(locks.after(FILE), Some(OpNumber(9)));
}

#[test]
fn what_is_not_locked_for_a_while_is_left_to_the_cluster() {
    let now = Instant::now();
    let mut locks = delegated(now);
    assert!(!locks.is_idle(FILE, now));
    assert!(locks.is_idle(FILE, now + Duration::from_secs(5)));
    assert_eq!(locks.turn(FILE, Wish::Lock(LockOwner(1)), true, now + Duration::from_secs(5)), Turn::Here);
    assert!(!locks.is_idle(FILE, now + Duration::from_secs(5)));
    locks.lock_here(FILE, &lock(1, 0, 1)).unwrap();
    assert!(!locks.is_idle(FILE, now + Duration::from_secs(60)), "it is locked");
}

#[test]
fn locks_are_decided_here_only_under_an_exclusive_lease_and_all_are_returned() {
    let now = Instant::now();
    let mut locks = delegated(now);
    let wish = Wish::Lock(LockOwner(1));
    assert_eq!(locks.turn(FILE, wish, true, now), Turn::Here);
    locks.lock_here(FILE, &lock(1, 0, 9)).unwrap();
    assert_eq!(locks.lock_here(FILE, &lock(2, 9, 9)), Err(OpError::Locked));
    assert_eq!(locks.conflict_here(FILE, &lock(2, 9, 9)), Some(lock(1, 0, 9)));
    locks.lock_here(FILE, &lock(2, 20, 29)).unwrap();
    // Giving up cannot hurt, whatever became of the lease.
    assert_eq!(locks.turn(FILE, Wish::Unlock(LockOwner(1)), false, now), Turn::Here);
    locks.unlock_here(FILE, LockOwner(1), (0, 4)).unwrap();
    let Turn::Return(delegation) = locks.turn(FILE, wish, false, now) else { panic!("the lease has gone") };
    assert_eq!(locks.begin_return(FILE), Turn::Wait);
    assert_eq!(locks.turn(FILE, Wish::Unlock(LockOwner(1)), true, now), Turn::Wait, "what is returned stays as it is");
    let mut returned = locks.locks(FILE, delegation);
    returned.sort_by_key(|lock| lock.start);
    assert_eq!(returned, [lock(1, 5, 9), lock(2, 20, 29)]);
    locks.handle_returned(FILE, LockOwner(99), now);
    assert_eq!(locks.begin_return(FILE), Turn::Wait, "another delegation");
    locks.handle_returned(FILE, delegation, now);
    assert!(locks.holds(FILE, LockOwner(1)));
    assert_eq!(locks.turn(FILE, wish, true, now), Turn::Ask, "somebody else is interested");
}

#[test]
fn a_delegation_that_may_have_been_given_is_returned() {
    let now = Instant::now();
    let mut locks = busy(now);
    let Turn::Delegate(delegation) = locks.turn(FILE, Wish::Lock(LockOwner(1)), true, now) else {
        panic!("it is worth it")
    };
    assert_eq!(locks.turn(FILE, Wish::Lock(LockOwner(2)), true, now), Turn::Wait);
    assert_eq!(locks.handle_delegated(FILE, delegation, Fate::Unknown, now), Delegated::InDoubt);
    assert_eq!(locks.turn(FILE, Wish::Lock(LockOwner(2)), true, now), Turn::Wait);
    locks.handle_returned(FILE, delegation, now);
    assert_eq!(locks.turn(FILE, Wish::Lock(LockOwner(2)), true, now), Turn::Ask);
}

#[test]
fn files_without_locks_are_forgotten_after_a_while() {
    let now = Instant::now();
    let mut locks = busy(now);
    locks.sweep(now);
    assert_eq!(locks.files.len(), 1);
    locks.sweep(now + Duration::from_secs(5));
    assert_eq!(locks.files.len(), 0);
    let mut locks = delegated(now);
    locks.sweep(now + Duration::from_secs(5));
    assert_eq!(locks.delegated().collect::<Vec<_>>(), [FILE]);
}

#[test]
fn a_lock_is_given_up_from_the_question_to_its_end() {
    let (mut locks, now) = (HeldLocks::default(), Instant::now());
    ask_lock(&mut locks, &lock(1, 0, 9), now);
    assert!(!locks.is_given_up(FILE), "a lock is asked for, and there is another");
    assert_eq!(locks.turn(FILE, Wish::Lock(LockOwner(2)), false, now), Turn::Ask);
    assert!(!locks.is_given_up(FILE));
    assert_eq!(locks.turn(FILE, Wish::Unlock(LockOwner(1)), false, now), Turn::Ask);
    assert!(locks.is_given_up(FILE));
    locks.handle_unlocked(FILE, LockOwner(1), (0, u64::MAX), Fate::Done);
    assert!(!locks.is_given_up(FILE));
}

/// The owner of a lock by `flock` is an address, which the kernel uses again: a file that was closed while its locks were being
/// returned gave up what the next to open it had locked.
#[test]
fn what_an_owner_is_to_give_up_it_gives_up_before_it_locks_anything_else() {
    let now = Instant::now();
    let (owner, other) = (LockOwner(1), LockOwner(2));
    let mut locks = delegated(now);
    locks.lock_here(FILE, &lock(1, 0, 9)).unwrap();
    let Turn::Return(delegation) = locks.begin_return(FILE) else { panic!("it decides about them") };
    locks.begin_unlock(FILE, owner);
    locks.begin_unlock(FILE, owner);
    locks.handle_returned(FILE, delegation, now);
    assert_eq!(locks.turn(FILE, Wish::Lock(owner), false, now), Turn::Wait);
    assert_eq!(locks.turn(FILE, Wish::Lock(other), false, now), Turn::Ask);
    ask_unlock(&mut locks, owner, ALL, now);
    locks.end_unlock(FILE, owner);
    assert_eq!(locks.turn(FILE, Wish::Lock(owner), false, now), Turn::Wait, "it is to give up more");
    locks.end_unlock(FILE, owner);
    assert_eq!(locks.turn(FILE, Wish::Lock(owner), false, now), Turn::Ask);
}
