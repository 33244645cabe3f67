//! Who stands for election: nobody by the word of a generation that is over.
//!
//! A member that follows a recovered cluster begins with an empty log ([`super::survivor`]) and is sent the old one from its
//! beginning, memberships of long ago among it. The first of them has one voter, who founded the cluster: by that one this
//! node would elect itself, and lead beside the recovered one. So it stands only when the membership that it knows is of
//! the generation that it has voted in: the recovered member began that one with a membership of its own.

use openraft::async_runtime::WatchReceiver as _;

use super::raft_types::Raft;
use crate::generation::Generation;

/// Whether a member that has voted in `voted` may stand by a membership of this term; `None`: it knows none.
fn may_stand(voted: u64, membership: Option<u64>) -> bool {
    membership.is_some_and(|term| Generation::of_term(term) >= Generation::of_term(voted))
}

/// Lets this node stand, or not. Before the first look it does not (`Config::enable_elect`).
pub(super) fn look(raft: &Raft) {
    let stands = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.log_id().as_ref().map(|id| id.leader_id.term);
        may_stand(metrics.vote.leader_id.term, membership)
    };
    raft.runtime_config().elect(stands);
}

#[cfg(test)]
mod tests {
    use super::may_stand;
    use crate::generation::Generation;

    #[test]
    fn nobody_stands_by_a_membership_of_a_generation_that_is_over() {
        let next = Generation::new(1).first();
        assert!(may_stand(7, Some(1)), "the terms of one generation are alike");
        assert!(may_stand(next + 7, Some(next)));
        assert!(!may_stand(next, Some(7)));
        assert!(!may_stand(7, None));
    }
}
