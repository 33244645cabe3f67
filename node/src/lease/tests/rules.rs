//! Each rule by itself.

use std::time::Duration;

use wire::{
    lease::{LeaseGeneration, LeaseNumber, Recall},
    namespace::Inode,
};

use super::harness::{A, B, C, CLIENT, EXCLUSIVE, OVER, SHARED, Table, X, Y};
use crate::lease::{Clearing, Ending, Marking, Passing, Readiness, Standing};

#[test]
fn a_term_with_mounts_answers_nothing_until_each_has_reclaimed() {
    let mut table = Table::with_mounts(&[A, B]);
    let end = Readiness::Until(table.now + OVER);
    assert_eq!(table.leases.readiness(table.now), end);
    let (generation, refused) = table.reclaim(A, &[(X, EXCLUSIVE), (Y, SHARED)]);
    assert_eq!((generation, refused), (LeaseGeneration { term: 5, life: 1 }, vec![]));
    assert_eq!(table.leases.readiness(table.now), end, "one is silent");
    let (_, refused) = table.reclaim(B, &[(X, SHARED), (Y, SHARED)]);
    assert_eq!(refused, [X], "another holds it exclusively");
    assert_eq!(table.leases.readiness(table.now), Readiness::Ready);
    let id = table.marked(C, &[Y]);
    assert_eq!(table.clear(id), Clearing::Until(table.now + OVER), "what was reclaimed is held");
    assert_eq!((table.recalls(A).len(), table.recalls(B).len()), (1, 1));
}

#[test]
fn a_reclaim_in_several_messages_counts_with_the_last() {
    let mut table = Table::with_mounts(&[A]);
    let of_before = (CLIENT, LeaseGeneration { term: 4, life: 3 });
    let (first, _) = table.leases.handle_reclaim(A, of_before, &[(X, SHARED)], true, table.now);
    assert_ne!(table.leases.readiness(table.now), Readiness::Ready);
    let (second, refused) = table.leases.handle_reclaim(A, of_before, &[(Y, SHARED)], false, table.now);
    assert_eq!((first, refused), (second, vec![]), "one generation");
    assert_eq!(table.leases.readiness(table.now), Readiness::Ready);
}

/// Of parts that all say that more follows, the first renewal says that there are none any more: it names the generation, so
/// that no other leader takes a last part for all.
#[test]
fn a_renewal_ends_a_reclaim() {
    let mut table = Table::with_mounts(&[A]);
    let of_before = (CLIENT, LeaseGeneration { term: 4, life: 3 });
    table.leases.handle_reclaim(A, of_before, &[(X, SHARED)], true, table.now);
    table.leases.handle_reclaim(A, of_before, &[(Y, SHARED)], true, table.now);
    assert_ne!(table.leases.readiness(table.now), Readiness::Ready);
    table.leases.handle_renew(A, table.now);
    assert_eq!(table.leases.readiness(table.now), Readiness::Ready);
}

#[test]
fn the_grace_ends_without_those_who_are_silent_or_gone() {
    let mut table = Table::with_mounts(&[A]);
    assert_eq!(table.leases.readiness(table.now + OVER), Readiness::Ready);
    let mut table = Table::with_mounts(&[A]);
    table.leases.handle_session_end(A);
    assert_eq!(table.leases.readiness(table.now), Readiness::Ready);
    let mut table = Table::with_mounts(&[A]);
    table.leases.retain(|session| session != A);
    assert_eq!(table.leases.readiness(table.now), Readiness::Ready);
}

#[test]
fn what_is_reclaimed_after_the_term_is_over_is_refused_and_another_life_begins() {
    let mut table = Table::open();
    table.take(A, &[X]);
    table.now += OVER;
    let id = table.marked(B, &[X]);
    assert_eq!(table.clear(id), Clearing::Clear);
    let (generation, refused) = table.reclaim(A, &[(X, EXCLUSIVE)]);
    assert_eq!(refused, [X]);
    assert!(table.leases.is_current(A, CLIENT, generation));
    assert!(!table.leases.is_current(A, CLIENT, LeaseGeneration { life: 1, ..generation }));
    assert!(!table.leases.is_current(A, CLIENT, LeaseGeneration { term: 4, ..generation }), "another leader's");
    table.settle(id, &[], &[]);
    assert!(table.leases.is_idle());
}

/// Its first answer was lost, or it was on its way for long.
#[test]
fn a_reclaim_that_comes_again_changes_nothing() {
    let mut table = Table::with_mounts(&[A]);
    let (first, _) = table.reclaim(A, &[(X, EXCLUSIVE), (Y, SHARED)]);
    assert_eq!(table.leases.readiness(table.now), Readiness::Ready);
    let id = table.marked(B, &[X]);
    let recalled = table.clear(id);
    assert_eq!(table.reclaim(A, &[(X, EXCLUSIVE), (Y, SHARED)]), (first, vec![]));
    assert_eq!(table.clear(id), recalled, "it is waited for: the session goes on with it until it hears of that");
    table.obey(A);
    assert_eq!(table.clear(id), Clearing::Clear);
    assert_eq!(table.reclaim(A, &[(X, EXCLUSIVE), (Y, SHARED)]), (first, vec![X]), "it has let go of that");
}

/// A node that does not lead any more, and does not know, has told it that its generation is over.
#[test]
fn who_knows_the_current_life_begins_another_with_all_it_has() {
    let mut table = Table::open();
    table.take(A, &[X]);
    assert_eq!((table.ask(A, &[Y]), table.ask(B, &[Y])), (vec![], vec![]));
    let id = table.marked(C, &[X]);
    let recalled = table.clear(id);
    let known = LeaseGeneration { term: 5, life: 1 };
    let (begun, refused) = table.leases.handle_reclaim(A, (CLIENT, known), &[(X, EXCLUSIVE)], true, table.now);
    assert!(!table.leases.is_current(A, CLIENT, known) && table.leases.is_current(A, CLIENT, begun));
    assert_eq!(refused, []);
    let rest = table.leases.handle_reclaim(A, (CLIENT, known), &[(Y, SHARED)], false, table.now);
    assert_eq!(rest, (begun, vec![]), "in two messages");
    assert_eq!(table.clear(id), recalled, "what was wanted back is wanted back");
    let recalls = table.recalls(A);
    assert_eq!(recalls, [Recall { number: LeaseNumber(1), inode: X, keep: None }], "counted anew");
    table.obey(A);
    assert_eq!(table.clear(id), Clearing::Clear);
}

#[test]
fn a_change_ends_what_others_hold_and_not_what_its_session_holds() {
    let mut table = Table::open();
    for session in [A, B] {
        assert_eq!(table.ask(session, &[X]), []);
    }
    let id = table.marked(A, &[X]);
    assert_eq!(table.clear(id), Clearing::Until(table.now + OVER));
    assert_eq!(table.recalls(A), []);
    let recall = table.recalls(B)[0];
    assert_eq!((recall.inode, recall.keep), (X, None));
    table.release(B, recall.number, X, None);
    assert_eq!(table.clear(id), Clearing::Clear);
    assert_eq!(table.settle(id, &[], &[X]).0, []);
    table.obey(B);
    assert_eq!(table.recalls(B), []);
}

#[test]
fn a_holder_that_is_silent_loses_everything_when_its_term_is_over() {
    let mut table = Table::open();
    table.take(A, &[X]);
    assert_eq!(table.ask(A, &[Y]), []);
    let generation = LeaseGeneration { term: 5, life: 1 };
    let id = table.marked(B, &[X]);
    let before = table.now;
    assert_eq!(table.clear(id), Clearing::Until(before + OVER));
    table.now += OVER - Duration::from_millis(1);
    table.leases.handle_renew(A, table.now);
    table.now = before + OVER;
    assert_eq!(table.clear(id), Clearing::Until(before + OVER * 2 - Duration::from_millis(1)), "it renewed");
    table.now = before + OVER * 2;
    assert!(table.leases.is_current(A, CLIENT, generation), "while nobody minds");
    assert_eq!(table.clear(id), Clearing::Clear);
    assert!(!table.leases.is_current(A, CLIENT, generation));
    let other = table.marked(C, &[Y]);
    assert_eq!(table.clear(other), Clearing::Clear, "its other leases have gone too");
}

#[test]
fn nothing_is_leased_where_another_changes_something_or_has_since_the_state_that_is_told() {
    let mut table = Table::open();
    let since = table.leases.moment();
    let id = table.marked(B, &[X]);
    assert_eq!(table.clear(id), Clearing::Clear);
    assert_eq!(table.ask(A, &[X, Y]), [X], "a change is under way");
    table.leases.end_change(id, Ending::Decided);
    assert_eq!(table.leases.settle_ask(A, &[], &[X], since).0, [X], "the answer may be older than the change");
    assert_eq!(table.ask(A, &[X]), []);
    let id = table.marked(B, &[X]);
    let since = table.leases.moment();
    table.leases.end_change(id, Ending::Abandoned);
    assert_eq!(table.leases.settle_ask(C, &[], &[X], since).0, [], "it was not proposed");
}

#[test]
fn changes_of_two_sessions_wait_for_each_other_and_none_holds_a_part() {
    let mut table = Table::open();
    let first = table.marked(A, &[X]);
    table.marked(A, &[X]);
    let (second, marking) = table.change(B, &[Y, X]);
    assert_eq!(marking, Marking::Blocked);
    let third = table.marked(C, &[Inode(12)]);
    assert_eq!(table.leases.mark(third, &[Y]), Marking::Blocked, "the second came first");
    let fourth = table.change(A, &[X]);
    assert_eq!(fourth.1, Marking::Blocked, "a stream of changes keeps nobody out");
    table.leases.end_change(first, Ending::Decided);
    assert_eq!(table.leases.mark(second, &[Y, X]), Marking::Blocked, "another of the same session");
}

#[test]
fn what_was_blocked_gets_all_or_nothing_and_wakes_nobody_in_vain() {
    let mut table = Table::open();
    let holder = table.marked(A, &[Y]);
    let waiter = table.marked(B, &[X]);
    table.leases.take_wakes();
    assert_eq!(table.leases.mark(waiter, &[Y]), Marking::Blocked);
    assert!(table.leases.take_wakes().freed, "it gave up what it had");
    assert_eq!(table.leases.mark(waiter, &[X]), Marking::Blocked, "it waits for the other one too");
    assert!(!table.leases.take_wakes().freed, "nothing happened");
    table.leases.end_change(holder, Ending::Decided);
    assert!(table.leases.take_wakes().freed);
    assert_eq!(table.leases.mark(waiter, &[X]), Marking::Marked);
    assert_eq!(table.leases.mark(waiter, &[Y]), Marking::Marked);
}

#[test]
fn a_change_that_waits_for_a_lease_lets_the_holder_write_back_first() {
    let mut table = Table::open();
    table.take(A, &[X]);
    let waits = table.marked(B, &[X, Y]);
    let (early, marking) = table.change(A, &[X]);
    assert_eq!(marking, Marking::Blocked, "nothing was recalled yet");
    assert!(matches!(table.clear(waits), Clearing::Until(_)));
    assert_eq!(table.leases.mark(early, &[X]), Marking::Marked);
    let behind = table.marked(A, &[Y]);
    let wish = table.leases.open_change(A, Passing::No);
    assert_eq!(table.leases.mark(wish, &[X]), Marking::Blocked, "a wish is no write");
    assert_eq!((table.clear(early), table.clear(behind)), (Clearing::Clear, Clearing::Clear));
    table.obey(A);
    assert!(matches!(table.clear(waits), Clearing::Until(_)), "a change that passed is under way");
    assert_eq!(table.settle(early, &[], &[X]).0, [X], "nothing is granted where another waits");
    table.leases.end_change(behind, Ending::Decided);
    assert_eq!(table.clear(waits), Clearing::LookAgain);
    assert_eq!(table.clear(waits), Clearing::Clear);
}

#[test]
fn a_question_that_has_its_turn_comes_before_later_wishes_and_lets_the_holder_write_back() {
    let mut table = Table::open();
    table.take(A, &[X]);
    let question = table.leases.open_change(B, Passing::No);
    assert_eq!(table.leases.mark_question(question, &[X]), Marking::Marked);
    let since = table.leases.moment();
    assert_eq!(table.leases.poll_told(Some(B), &[X], since, table.now), Standing::Until(table.now + OVER));
    let write_back = table.marked(A, &[X]);
    assert_eq!(table.clear(write_back), Clearing::Clear);
    table.settle(write_back, &[], &[X]);
    table.obey(A);
    let wish = table.leases.open_change(A, Passing::No);
    assert_eq!(table.leases.mark(wish, &[X]), Marking::Blocked, "it would overtake the question again");
    assert_eq!(table.leases.poll_told(Some(B), &[X], since, table.now), Standing::AskAgain);
    let since = table.leases.moment();
    assert_eq!(table.leases.poll_told(Some(B), &[X], since, table.now), Standing::Current);
    assert_eq!(table.ask(B, &[X]), []);
    table.leases.end_change(question, Ending::Abandoned);
    assert_eq!(table.leases.mark(wish, &[X]), Marking::Marked);
}

#[test]
fn what_the_cluster_itself_changed_is_recalled_from_all_and_not_leased_as_it_was() {
    let mut table = Table::open();
    assert_eq!(table.ask(A, &[X, Y]), []);
    let since = table.leases.moment();
    table.leases.handle_changed(X, table.now);
    assert_eq!(table.recalls(A).iter().map(|recall| recall.inode).collect::<Vec<_>>(), [X]);
    assert_eq!(table.leases.settle_ask(B, &[], &[X, Y], since).0, [X], "told from before the change");
    assert_eq!(table.ask(B, &[X]), []);
}

#[test]
fn what_a_change_makes_is_its_sessions_alone_and_what_it_touches_shared() {
    let mut table = Table::open();
    let id = table.marked(A, &[X, Y]);
    assert_eq!(table.clear(id), Clearing::Clear);
    assert_eq!(table.settle(id, &[Y], &[X, Y]).0, []);
    let since = table.leases.moment();
    assert_eq!(table.leases.poll_told(Some(B), &[X], since, table.now), Standing::Current);
    assert!(matches!(table.leases.poll_told(Some(B), &[Y], since, table.now), Standing::Until(_)));
    assert_eq!(table.recalls(A)[0].keep, Some(SHARED));
    let id = table.marked(A, &[Y]);
    assert_eq!(table.clear(id), Clearing::Clear);
    assert_eq!(table.settle(id, &[], &[Y]).0, [Y], "recalled: not granted again before it was given back");
    assert_eq!(table.leases.poll_told(Some(A), &[Y], since, table.now), Standing::Current, "its own");
}

#[test]
fn an_answer_stands_only_if_nobody_was_changing_locally_what_it_tells() {
    let mut table = Table::open();
    table.take(A, &[X]);
    let since = table.leases.moment();
    assert_eq!(table.leases.poll_told(None, &[Y], since, table.now), Standing::Current);
    assert_eq!(table.leases.poll_told(None, &[X], since, table.now), Standing::Until(table.now + OVER));
    table.obey(A);
    assert_eq!(table.leases.poll_told(None, &[X], since, table.now), Standing::AskAgain, "it has written back since");
    let since = table.leases.moment();
    assert_eq!(table.leases.poll_told(None, &[X], since, table.now), Standing::Current);
    assert_eq!(table.ask(B, &[X]), [], "the holder kept it shared");
    table.take(A, &[Y]);
    let since = table.leases.moment();
    assert!(matches!(table.leases.poll_told(None, &[Y], since, table.now), Standing::Until(_)));
    table.now += OVER;
    assert_eq!(table.leases.poll_told(None, &[Y], since, table.now), Standing::AskAgain, "its term is over");
}

#[test]
fn a_release_that_crosses_a_grant_frees_nothing() {
    let mut table = Table::open();
    let first = table.take(A, &[X]);
    assert_eq!(table.ask(A, &[X]), []);
    table.release(A, first, X, None);
    let id = table.marked(B, &[X]);
    assert!(matches!(table.clear(id), Clearing::Until(_)), "it was granted again after the release was sent");
    let recall = table.recalls(A)[0];
    assert_eq!(table.ask(A, &[X]), [X], "no grant overtakes a recall");
    table.release(A, LeaseNumber(recall.number.0 - 1), X, Some(SHARED));
    assert_eq!(table.recalls(A), [recall], "not enough");
    table.release(A, recall.number, X, None);
    assert_eq!(table.clear(id), Clearing::Clear);
}

#[test]
fn recalls_are_told_again_until_they_are_answered() {
    let mut table = Table::open();
    table.take(A, &[X, Y]);
    let since = table.leases.moment();
    assert!(matches!(table.leases.poll_told(None, &[X, Y], since, table.now), Standing::Until(_)));
    let told = table.recalls(A);
    assert_eq!(told.len(), 2);
    assert_eq!(table.leases.recalls(A, told[0].number), told[1..]);
    assert_eq!(table.leases.recalls(A, told[1].number), []);
    let id = table.marked(B, &[X]);
    assert!(matches!(table.clear(id), Clearing::Until(_)));
    let more = table.leases.recalls(A, told[1].number);
    assert!(matches!(more[..], [Recall { inode: X, keep: None, .. }]), "more is wanted: {more:?}");
    assert_eq!(table.recalls(A).len(), 2, "in place of the first");
}

#[test]
fn a_session_that_ends_holds_nothing() {
    let mut table = Table::open();
    table.take(A, &[X]);
    table.leases.handle_session_end(A);
    assert!(table.leases.is_idle());
    let (generation, _) = table.reclaim(A, &[]);
    assert!(generation.life > 1, "no life is taken for another");
}

#[test]
fn leases_beyond_the_limit_of_a_session_are_not_given() {
    let mut table = Table::open();
    let most: Vec<Inode> = (0..wire::lease::LEASES_MAX as u64).map(|number| Inode(100 + number)).collect();
    assert_eq!(table.ask(A, &most), []);
    assert_eq!(table.ask(A, &[X, most[0]]), [X]);
    table.release(A, LeaseNumber(u64::MAX), most[1], None);
    assert_eq!(table.ask(A, &[X]), []);
}
