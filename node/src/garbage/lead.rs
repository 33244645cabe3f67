//! What the leader knows of the collection and does not replicate, and what it does next. Pure.
//!
//! # Invariants
//! - Nothing here is needed for safety: whatever is raised or advanced when, `apply` refuses commits with old stamps.

use std::{collections::BTreeMap, time::Duration};

use ring::{Epoch, GcEpoch, NodeId};
use tokio::time::Instant;
use wire::garbage::Claim;

use crate::namespace::DeadTally;

/// What every node says that it has deleted.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    of: BTreeMap<NodeId, Claim>,
}

/// Soft state of a term.
#[derive(Debug, Default)]
pub struct Lead {
    claims: Claims,
    /// The highest stamp of a copy that no row names.
    unnamed: Option<GcEpoch>,
    raised: Option<Instant>,
}

impl Lead {
    /// A node says what it has deleted.
    pub fn handle_claim(&mut self, node: NodeId, claim: Claim) {
        let known = self.claims.of.entry(node).or_insert(claim);
        if claim.ring > known.ring || (claim.ring == known.ring && claim.below > known.below) {
            *known = claim;
        }
    }

    /// A node holds copies, stamped so high at most, that no row names.
    pub fn handle_unnamed(&mut self, stamp: GcEpoch) {
        self.unnamed = self.unnamed.max(Some(stamp));
    }

    /// What the nodes say.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Whether anything waits for `gc_safe` to pass `safe`.
    pub fn waits(&self, safe: GcEpoch, dead: DeadTally) -> bool {
        (dead.chunks > 0 && dead.newest >= safe) || self.unnamed >= Some(safe)
    }

    /// Whether to raise the stamp from `current` now: only if something waits for that, and not more often than
    /// `every`, as each stamp costs a record of each chunk that is put again.
    pub fn poll_raise(&mut self, current: GcEpoch, dead: DeadTally, every: Duration, now: Instant) -> bool {
        let waits = self.waits(current, dead);
        let due = self.raised.is_none_or(|raised| now.saturating_duration_since(raised) >= every);
        if waits && due {
            self.raised = Some(now);
        }
        waits && due
    }
}

impl Claims {
    /// Whether every one of `holders` has deleted what died at `at`. A claim about other partitions says nothing.
    pub fn cover(&self, ring: Epoch, mut holders: impl Iterator<Item = NodeId>, at: GcEpoch) -> bool {
        holders.all(|holder| self.below(ring, holder).is_some_and(|below| at < below))
    }

    /// Up to where a node has deleted.
    pub fn below(&self, ring: Epoch, node: NodeId) -> Option<GcEpoch> {
        self.of.get(&node).filter(|claim| claim.ring == ring).map(|claim| claim.below)
    }

    /// Whether nobody has said anything.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

/// What `gc_safe` becomes, if anything: the lowest stamp that a live session uses.
pub(super) fn next_safe(current: GcEpoch, safe: GcEpoch, lowest: Option<GcEpoch>) -> Option<GcEpoch> {
    lowest.map(|lowest| lowest.min(current)).filter(|next| *next > safe)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ring::{Epoch, GcEpoch, NodeId};
    use tokio::time::Instant;
    use wire::garbage::Claim;

    use super::{Lead, next_safe};
    use crate::namespace::DeadTally;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 16])
    }

    #[test]
    fn a_death_is_over_when_every_holder_has_said_so_for_the_same_ring() {
        let mut lead = Lead::default();
        let claim = |ring, below| Claim { ring: Epoch(ring), below: GcEpoch(below) };
        let over = |lead: &Lead, at| lead.claims().cover(Epoch(3), [node(1), node(2)].into_iter(), GcEpoch(at));
        lead.handle_claim(node(1), claim(3, 9));
        assert!(!over(&lead, 5), "the other has said nothing");
        lead.handle_claim(node(2), claim(2, 9));
        assert!(!over(&lead, 5), "it had other partitions then");
        lead.handle_claim(node(2), claim(3, 6));
        lead.handle_claim(node(2), claim(3, 0));
        assert!(over(&lead, 5), "a node that starts again has not forgotten what it deleted");
        assert!(!over(&lead, 6));
    }

    #[test]
    fn the_stamp_rises_only_when_something_waits_for_it_and_not_too_often() {
        let (start, every) = (Instant::now(), Duration::from_secs(5));
        let mut lead = Lead::default();
        let dead = |chunks, newest| DeadTally { chunks, bytes: 0, newest: GcEpoch(newest) };
        assert!(!lead.poll_raise(GcEpoch(4), dead(0, 4), every, start));
        assert!(!lead.waits(GcEpoch(0), dead(0, 4)), "a cluster without garbage writes nothing");
        assert!(lead.waits(GcEpoch(3), dead(7, 3)));
        assert!(!lead.poll_raise(GcEpoch(4), dead(7, 3), every, start), "it is high enough");
        assert!(lead.poll_raise(GcEpoch(4), dead(7, 4), every, start));
        assert!(!lead.poll_raise(GcEpoch(5), dead(7, 5), every, start + Duration::from_secs(4)));
        assert!(lead.poll_raise(GcEpoch(5), dead(7, 5), every, start + Duration::from_secs(5)));
        let later = start + Duration::from_secs(60);
        lead.handle_unnamed(GcEpoch(6));
        lead.handle_unnamed(GcEpoch(2));
        assert!(lead.poll_raise(GcEpoch(6), dead(0, 0), every, later));
        assert!(!lead.poll_raise(GcEpoch(7), dead(0, 0), every, later + every), "once");
    }

    #[test]
    fn what_is_safe_moves_forward_to_the_lowest_stamp_in_use_and_never_beyond_the_current_one() {
        assert_eq!(next_safe(GcEpoch(9), GcEpoch(4), Some(GcEpoch(6))), Some(GcEpoch(6)));
        assert_eq!(next_safe(GcEpoch(9), GcEpoch(4), Some(GcEpoch(u64::MAX))), Some(GcEpoch(9)), "no session");
        assert_eq!(next_safe(GcEpoch(9), GcEpoch(4), Some(GcEpoch(4))), None);
        assert_eq!(next_safe(GcEpoch(9), GcEpoch(4), None), None, "a session has not spoken yet");
    }
}
