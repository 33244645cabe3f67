//! Which copies may go. Pure.
//!
//! Why deleting on old news is safe: say that in some state of the namespace no file refers to a chunk, and no commit
//! with a stamp below `safe` is accepted any more. Whatever refers to the chunk in a later state came by a commit with
//! a stamp of `safe` or more, and a write quorum of copies had been stamped as high before. So copies with lower
//! stamps are needed by nobody, however much later they are deleted, as long as the stamp is looked at as they are.
//! A journaled chunk has no copies when its commit comes: its bytes are in the namespace, and leave it only by a command whose
//! stamp is checked as a commit's is.

use ring::{ChunkKey, GcEpoch};
use wire::garbage::{Claim, DeadPage, Standing};

/// The highest stamp of copies that may go; none if all must stay. Both arguments are from one state.
pub fn condemned_up_to(standing: Standing, safe: GcEpoch) -> Option<GcEpoch> {
    match standing {
        Standing::Named => None,
        Standing::Dead { at } => (at < safe).then_some(at),
        Standing::Unnamed => safe.0.checked_sub(1).map(GcEpoch),
    }
}

/// Whether a copy that another node holds is worth fetching.
pub fn is_worth_fetching(standing: Standing, safe: GcEpoch, stamp: GcEpoch) -> bool {
    match standing {
        Standing::Named => true,
        Standing::Dead { .. } => false,
        // Its commit may be on the way.
        Standing::Unnamed => stamp >= safe,
    }
}

/// A walk over the dead rows of a node's partitions, page by page.
#[derive(Debug)]
pub struct Pass {
    before: Claim,
    state: State,
}

#[derive(Debug)]
enum State {
    Begun,
    Listed { claim: Claim, after: ChunkKey },
    Over { claim: Claim },
}

/// The partitions are others than when the pass began: it begins again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RingChanged;

impl Pass {
    /// A pass of a node that has made good this claim.
    pub fn new(before: Claim) -> Self {
        Self { before, state: State::Begun }
    }

    /// The key after which the next page begins; nothing once the pass is over.
    pub fn poll_page(&self) -> Option<Option<ChunkKey>> {
        match self.state {
            State::Begun => Some(None),
            State::Listed { after, .. } => Some(Some(after)),
            State::Over { .. } => None,
        }
    }

    /// A page has come: what of it must go, with the highest stamp that may.
    pub fn handle_page(&mut self, page: &DeadPage) -> Result<Vec<(ChunkKey, GcEpoch)>, RingChanged> {
        // What dies from now on dies at the current stamp, which is no lower: the first page sets the mark.
        let claim = match self.state {
            State::Begun => Claim { ring: page.ring, below: page.safe },
            State::Listed { claim, .. } | State::Over { claim } => claim,
        };
        if claim.ring != page.ring {
            return Err(RingChanged);
        }
        self.state = match page.next {
            Some(after) => State::Listed { claim, after },
            None => State::Over { claim },
        };
        let condemned = |&(key, at): &(ChunkKey, GcEpoch)| {
            condemned_up_to(Standing::Dead { at }, page.safe).map(|up_to| (key, up_to))
        };
        Ok(page.rows.iter().filter_map(condemned).collect())
    }

    /// What can be claimed once everything that the pass was told has been deleted.
    pub fn claim(&self) -> Claim {
        match self.state {
            State::Over { claim } => claim,
            State::Begun | State::Listed { .. } => self.before,
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::{ChunkKey, Epoch, GcEpoch};
    use wire::garbage::{Claim, DeadPage, Standing};

    use super::{Pass, RingChanged, condemned_up_to, is_worth_fetching};

    #[test]
    fn only_copies_from_before_the_death_or_below_every_stamp_in_use_may_go() {
        let safe = GcEpoch(5);
        assert_eq!(condemned_up_to(Standing::Named, safe), None);
        assert_eq!(condemned_up_to(Standing::Dead { at: GcEpoch(5) }, safe), None, "a put from then may be committed");
        assert_eq!(condemned_up_to(Standing::Dead { at: GcEpoch(4) }, safe), Some(GcEpoch(4)));
        assert_eq!(condemned_up_to(Standing::Dead { at: GcEpoch(2) }, safe), Some(GcEpoch(2)));
        assert_eq!(condemned_up_to(Standing::Unnamed, safe), Some(GcEpoch(4)));
        assert_eq!(condemned_up_to(Standing::Unnamed, GcEpoch(0)), None);
    }

    #[test]
    fn garbage_is_not_fetched_and_what_may_be_committed_is() {
        assert!(is_worth_fetching(Standing::Named, GcEpoch(5), GcEpoch(1)));
        assert!(!is_worth_fetching(Standing::Dead { at: GcEpoch(9) }, GcEpoch(5), GcEpoch(9)));
        assert!(is_worth_fetching(Standing::Unnamed, GcEpoch(5), GcEpoch(5)));
        assert!(!is_worth_fetching(Standing::Unnamed, GcEpoch(5), GcEpoch(4)));
    }

    #[test]
    fn a_pass_claims_what_was_safe_when_it_began_and_nothing_before_its_end() {
        let key = |byte| ChunkKey::from_bytes([byte; 32]);
        let page = |ring, safe, rows: &[(u8, u64)], next: Option<u8>| DeadPage {
            ring: Epoch(ring),
            safe: GcEpoch(safe),
            rows: rows.iter().map(|(byte, at)| (key(*byte), GcEpoch(*at))).collect(),
            next: next.map(key),
        };
        let before = Claim { ring: Epoch(2), below: GcEpoch(3) };
        let mut pass = Pass::new(before);
        assert_eq!(pass.poll_page(), Some(None));
        let condemned = pass.handle_page(&page(2, 7, &[(1, 4), (2, 7)], Some(2)));
        assert_eq!(condemned, Ok(vec![(key(1), GcEpoch(4))]));
        assert_eq!((pass.poll_page(), pass.claim()), (Some(Some(key(2))), before));
        assert_eq!(pass.handle_page(&page(2, 9, &[(3, 8)], None)), Ok(vec![(key(3), GcEpoch(8))]));
        assert_eq!((pass.poll_page(), pass.claim()), (None, Claim { ring: Epoch(2), below: GcEpoch(7) }));

        let mut pass = Pass::new(before);
        assert_eq!(pass.handle_page(&page(2, 7, &[], Some(2))), Ok(vec![]));
        assert_eq!(pass.handle_page(&page(3, 7, &[], None)), Err(RingChanged));
        assert_eq!(pass.claim(), before);
    }
}
