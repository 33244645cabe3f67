//! Changes that take room, where there is none.
//!
//! What the namespace writes takes room on every voter, and a voter that finds none ends. A minority of them that does so
//! stops nobody; but once no majority would be left, only what gives room back goes on, from what the nodes have kept back
//! for that ([`crate::disk::ballast`]).

use ring::NodeId;
use tokio::time::Instant;
use wire::{
    Refusal,
    cluster::NodeState,
    lease::MadeAt,
    namespace::{Batch, Op},
};

use super::desk::broken;
use crate::{namespace, node::Node};

/// Whether there is room for `batch`, as far as this leader has heard.
pub(super) fn check(node: &Node, batch: &Batch) -> Result<(), Refusal> {
    if !only_takes(batch.ops.iter().map(|op| &op.op)) || is_left(node) {
        return Ok(());
    }
    // What was executed before has its answer to get, which was lost on the way.
    let numbers = batch.ops.iter().map(|op| op.number);
    let executed = namespace::any_executed(&*node.consensus.local(), batch.session, numbers);
    if executed.map_err(|error| broken(&error))? { Ok(()) } else { Err(Refusal::DiskFull) }
}

/// The same for a batch that its session has executed before. What somebody takes for done already is never refused; but a
/// mount that hears of it does nothing more in that way ([`wire::lease::LeaseAnswer::Changed`]).
pub(super) fn check_made(node: &Node, batch: &Batch, made: &[MadeAt]) -> Result<(), Refusal> {
    // Who answers before the cluster does says what it found.
    if made.iter().all(|made| made.before.is_empty()) { check(node, batch) } else { Ok(()) }
}

/// Whether a majority of the voters has room, as far as this leader has heard.
pub(super) fn is_left(node: &Node) -> bool {
    let voters = node.consensus.watch().borrow().voters.clone();
    let now = Instant::now();
    let counted = node.with_leader_state(|leader| {
        let detector = &leader.detector;
        let is_starved = |voter: NodeId| detector.store(voter).is_some_and(|store| store.starved);
        let starved = voters.iter().filter(|voter| is_starved(**voter)).count();
        let down = |voter: NodeId| !is_starved(voter) && detector.state(voter, now) == NodeState::Down;
        (starved, voters.iter().filter(|voter| down(**voter)).count())
    });
    let (starved, down) = counted.unwrap_or_default();
    leaves_majority(voters.len(), starved, down)
}

/// Whether without those of so many voters that are starved, and those that are down, there is a majority.
fn leaves_majority(voters: usize, starved: usize, down: usize) -> bool {
    starved == 0 || voters - starved - down > voters / 2
}

/// Whether changes take room and do nothing that must go on without: removals, unlocks.
fn only_takes<'a>(ops: impl Iterator<Item = &'a Op>) -> bool {
    let mut takes = false;
    for op in ops {
        match op {
            Op::Create { .. }
            | Op::CreateUnnamed { .. }
            | Op::Link { .. }
            | Op::SetXattr { .. }
            | Op::WriteExtents { .. }
            | Op::WriteInline { .. }
            | Op::WriteJournaled { .. }
            | Op::Append { .. }
            | Op::Clone { .. } => takes = true,
            // A change of attributes, or of a name, is part of what makes a file; by itself it takes next to nothing.
            Op::SetAttr { .. } | Op::Rename { .. } => {}
            _ => return false,
        }
    }
    takes
}

#[cfg(test)]
mod tests {
    use wire::namespace::{Inode, Name, Op, Replace, SetAttr};

    use super::{leaves_majority, only_takes};

    #[test]
    fn a_majority_is_left_while_fewer_than_half_are_starved() {
        let left = |voters| (0..=voters).map(|starved| leaves_majority(voters, starved, 0)).collect::<Vec<_>>();
        assert_eq!(left(1), [true, false]);
        assert_eq!(left(3), [true, true, false, false]);
        assert_eq!(left(4), [true, true, false, false, false]);
        assert_eq!(left(5), [true, true, true, false, false, false]);
        assert!(leaves_majority(0, 0, 0));
        assert!(leaves_majority(3, 0, 2), "that is no trouble of room");
        assert!(!leaves_majority(3, 1, 1) && leaves_majority(5, 1, 1) && !leaves_majority(5, 1, 2));
    }

    #[test]
    fn what_gives_room_back_is_never_held_up_by_what_takes_it() {
        let (inode, dir, name) = (Inode(7), Inode(1), Name::new(b"a".as_slice()).unwrap());
        let link = Op::Link { inode, dir, name: name.clone(), replace: Replace::No };
        let unlink = Op::Unlink { dir, name };
        let set = Op::SetAttr { inode, set: SetAttr::default() };
        let only_takes = |ops: &[&Op]| only_takes(ops.iter().copied());
        assert!(only_takes(&[&link]) && only_takes(&[&set, &link]));
        assert!(!only_takes(&[]) && !only_takes(&[&set]) && !only_takes(&[&unlink]));
        assert!(!only_takes(&[&link, &unlink]) && !only_takes(&[&unlink, &link]));
    }
}
