//! When to take directories and what is in them for oneself: a mount that changes names one after the other, and whom
//! nobody disturbs, goes on without asking. Pure.

use std::time::Instant;

use wire::{
    lease::{EXCLUSIVE_MAX, LeaseMode},
    namespace::{Inode, Name, Op, RenameMode},
};

use super::Table;

/// Changes of names that the leader was asked for, with nobody in between, before more is taken than they need.
const ALONE_AFTER: u32 = 4;

impl Table {
    /// Notes that the leader is asked for a change of names.
    pub(crate) fn note_asked(&mut self) {
        self.alone = self.alone.saturating_add(1);
    }

    /// What to hold exclusively for `op` and for those like it that will follow; none if it is not worth it.
    pub(crate) fn worth_holding(&self, op: &Op, now: Instant) -> Option<Vec<Inode>> {
        if self.alone < ALONE_AFTER {
            return None;
        }
        let mut wanted: Vec<Inode> = Vec::new();
        let mut want = |inode: Inode| {
            if !wanted.contains(&inode) {
                wanted.push(inode);
            }
        };
        match op {
            Op::Create { dir, .. } => want(*dir),
            Op::Link { inode, dir, .. } => [*dir, *inode].into_iter().for_each(want),
            Op::Unlink { dir, name } | Op::RemoveDirectory { dir, name } => {
                [*dir, self.child(*dir, name)?].into_iter().for_each(want);
            }
            Op::Rename { from_dir, from_name, to_dir, to_name, mode: RenameMode::Replace | RenameMode::NoReplace } => {
                [*from_dir, *to_dir, self.child(*from_dir, from_name)?].into_iter().for_each(&mut want);
                self.child(*to_dir, to_name).into_iter().for_each(want);
            }
            _ => return None,
        }
        let is_contended = |inode: &Inode| {
            let node = self.nodes.get(inode);
            node.is_some_and(|node| node.revoking > 0 || node.contended_until.is_some_and(|until| until > now))
        };
        if wanted.iter().any(is_contended) {
            return None;
        }
        // If all of it is held, something else is in the way.
        wanted.retain(|inode| self.nodes.get(inode).is_none_or(|node| node.lease != Some(LeaseMode::Exclusive)));
        if wanted.is_empty() {
            return None;
        }
        if let Op::Unlink { dir, name } | Op::Rename { from_dir: dir, from_name: name, .. } = op {
            self.add_next(*dir, self.child(*dir, name)?, &mut wanted);
        }
        Some(wanted)
    }

    fn child(&self, dir: Inode, name: &Name) -> Option<Inode> {
        self.nodes.get(&dir)?.children.get(name)?
    }

    /// Adds those of a directory that will be next: programs go through directories in the order in which files were made,
    /// mostly.
    fn add_next(&self, dir: Inode, subject: Inode, wanted: &mut Vec<Inode>) {
        let Some(node) = self.nodes.get(&dir) else { return };
        let is_next = |inode: &Inode| {
            let node = self.nodes.get(inode);
            *inode > subject
                && node.is_some_and(|node| {
                    node.lease == Some(LeaseMode::Shared) && node.revoking == 0 && node.attr.is_some()
                })
        };
        let mut next: Vec<Inode> = node.children.names.values().flatten().copied().filter(is_next).collect();
        let room = EXCLUSIVE_MAX.saturating_sub(wanted.len());
        if next.len() > room {
            next.select_nth_unstable(room);
            next.truncate(room);
        }
        wanted.extend(next);
    }
}
