//! Changes that take room, where there is none.
//!
//! What the namespace writes takes room on every voter, and a voter that finds none ends. A minority of them that does so
//! stops nobody; but once no majority would be left, only what gives room back goes on, from what the nodes have kept back
//! for that ([`crate::disk::ballast`]).

use wire::{
    Refusal,
    lease::MadeAt,
    namespace::{Batch, Op},
};

use crate::node::Node;

/// Whether there is room for `batch`, as far as this leader has heard.
pub(super) fn check(node: &Node, batch: &Batch) -> Result<(), Refusal> {
    if !only_takes(batch.ops.iter().map(|op| &op.op)) || is_left(node) { Ok(()) } else { Err(Refusal::DiskFull) }
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
    let starved = node.with_leader_state(|leader| {
        voters.iter().filter(|voter| leader.detector.store(**voter).is_some_and(|store| store.starved)).count()
    });
    leaves_majority(voters.len(), starved.unwrap_or(0))
}

/// Whether without `starved` of so many voters there is a majority.
fn leaves_majority(voters: usize, starved: usize) -> bool {
    starved == 0 || voters - starved > voters / 2
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
        let left = |voters| (0..=voters).map(|starved| leaves_majority(voters, starved)).collect::<Vec<_>>();
        assert_eq!(left(1), [true, false]);
        assert_eq!(left(3), [true, true, false, false]);
        assert_eq!(left(4), [true, true, false, false, false]);
        assert_eq!(left(5), [true, true, true, false, false, false]);
        assert!(leaves_majority(0, 0));
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
