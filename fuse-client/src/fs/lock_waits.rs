//! Who waits for whose lock on this mount, to find those that would wait for one another for ever. Pure.
//!
//! # Invariants
//! - A wait counts for a circle only if it was looked at after the one that closes the circle had begun: who waits lets
//!   nothing go meanwhile, so all of them still wait.
//!
//! # Not here
//! Circles through other mounts: nobody sees all of their waits, as on NFS.

use std::time::Instant;

use wire::namespace::LockOwner;

/// All waits, in no order: a mount has few.
#[derive(Debug, Default)]
pub(crate) struct LockWaits {
    waits: Vec<Wait>,
    next: u64,
}

/// Number of a wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct WaitId(u64);

#[derive(Debug)]
struct Wait {
    id: WaitId,
    owner: LockOwner,
    begun: Instant,
    /// Who stood in the way, by a look that began then.
    blocked: Option<(LockOwner, Instant)>,
}

impl LockWaits {
    /// Somebody begins to wait.
    pub(crate) fn begin(&mut self, owner: LockOwner, now: Instant) -> WaitId {
        let id = WaitId(self.next);
        self.next += 1;
        self.waits.push(Wait { id, owner, begun: now, blocked: None });
        id
    }

    /// Somebody waits no longer.
    pub(crate) fn end(&mut self, id: WaitId) {
        self.waits.retain(|wait| wait.id != id);
    }

    /// A look that began at `looked` found `blocker` in the way. Whether the wait would never end; if so it counts no more,
    /// so that of a circle only one is told.
    pub(crate) fn note_blocked(&mut self, id: WaitId, blocker: LockOwner, looked: Instant) -> bool {
        let Some(wait) = self.waits.iter_mut().find(|wait| wait.id == id) else { return false };
        wait.blocked = Some((blocker, looked));
        let (owner, begun) = (wait.owner, wait.begun);
        let is_circle = self.leads_to(blocker, owner, begun);
        if is_circle {
            self.end(id);
        }
        is_circle
    }

    /// Whether `from` waits for `to`, over any others, by waits that were looked at after `since`.
    fn leads_to(&self, from: LockOwner, to: LockOwner, since: Instant) -> bool {
        let (mut reached, mut at) = (vec![from], 0);
        while let Some(&owner) = reached.get(at) {
            if owner == to {
                return true;
            }
            at += 1;
            let waits = self.waits.iter().filter(|wait| wait.owner == owner);
            let blockers = waits.filter_map(|wait| wait.blocked).filter(|(_, looked)| *looked > since);
            for (blocker, _) in blockers {
                if !reached.contains(&blocker) {
                    reached.push(blocker);
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use wire::namespace::LockOwner;

    use super::LockWaits;

    const A: LockOwner = LockOwner(1);
    const B: LockOwner = LockOwner(2);
    const C: LockOwner = LockOwner(3);

    #[test]
    fn the_last_to_close_a_circle_is_told_and_nobody_else() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut waits = LockWaits::default();
        let [a, b, c] = [(A, 0), (B, 1), (C, 2)].map(|(owner, ms)| waits.begin(owner, at(ms)));
        assert!(!waits.note_blocked(a, B, at(10)));
        assert!(!waits.note_blocked(b, C, at(11)));
        assert!(waits.note_blocked(c, A, at(12)));
        assert!(!waits.note_blocked(a, B, at(20)), "C waits no longer");
        assert!(!waits.note_blocked(b, C, at(21)));
    }

    #[test]
    fn what_was_seen_before_a_wait_began_may_have_passed() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut waits = LockWaits::default();
        let a = waits.begin(A, at(0));
        assert!(!waits.note_blocked(a, B, at(5)));
        // B has let go what A waits for, and waits for something else that A has.
        let b = waits.begin(B, at(6));
        assert!(!waits.note_blocked(b, A, at(7)), "A has not looked again");
        waits.end(a);
        assert!(!waits.note_blocked(b, A, at(50)));
        let a = waits.begin(A, at(60));
        assert!(!waits.note_blocked(a, B, at(61)), "B has not looked again");
        assert!(waits.note_blocked(b, A, at(70)));
    }

    #[test]
    fn an_owner_that_waits_for_itself_over_nobody_is_no_circle_of_others() {
        let begun = Instant::now();
        let mut waits = LockWaits::default();
        let [a, b] = [A, B].map(|owner| waits.begin(owner, begun));
        assert!(!waits.note_blocked(a, C, begun + Duration::from_millis(1)));
        assert!(!waits.note_blocked(b, C, begun + Duration::from_millis(1)));
        assert!(!waits.note_blocked(a, C, begun + Duration::from_millis(2)));
    }
}
