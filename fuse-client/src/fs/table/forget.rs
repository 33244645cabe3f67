//! What is not known any more. Pure.

use std::time::Instant;

use wire::{
    lease::{LeaseMode, Recall},
    namespace::{Inode, Name, NumberedOp, Op},
};

use super::{CONTENDED, Forgotten, LATE_MAX, Table, children::ToldName};
use crate::fs::OldName;

impl Table {
    /// Nothing is known any more of what operations named: they may or may not have been executed. Those deferred go
    /// again.
    pub(crate) fn forget_named(&mut self, ops: &[NumberedOp]) {
        for numbered in ops.iter().filter(|numbered| !self.deferred.contains_key(&numbered.number.0)) {
            let led_to = self.led_to(&numbered.op);
            for inode in numbered.op.named().chain(led_to.into_iter().flatten()) {
                if let Some(node) = self.nodes.get_mut(&inode) {
                    node.attr = None;
                    node.xattrs = None;
                    node.content = None;
                    node.children.forget();
                }
            }
        }
    }

    /// What the names of an operation lead to, as far as that is known: it changes that, too.
    fn led_to(&self, op: &Op) -> [Option<Inode>; 2] {
        let child = |dir: &Inode, name: &Name| self.get(*dir)?.children.get(name)?;
        match op {
            Op::Create { dir, name, .. }
            | Op::Link { dir, name, .. }
            | Op::Unlink { dir, name }
            | Op::RemoveDirectory { dir, name } => [child(dir, name), None],
            Op::Rename { from_dir, from_name, to_dir, to_name, .. } => {
                [child(from_dir, from_name), child(to_dir, to_name)]
            }
            _ => [None, None],
        }
    }

    /// The lease goes, or becomes `keep`: what rested on it is dropped. Says what the kernel must forget.
    pub(crate) fn lose(&mut self, inode: Inode, keep: Option<LeaseMode>, now: Instant) -> Forgotten {
        let Some(node) = self.nodes.get_mut(&inode) else { return Forgotten::default() };
        node.lease = node.lease.min(keep);
        if node.lease.is_some() {
            return Forgotten::default();
        }
        node.losses += 1;
        if !node.children.told.is_empty() || node.contended_until.is_some() {
            node.contended_until = Some(now + CONTENDED);
        }
        // What was granted until now is let go, also where the answer that says so is still on its way.
        node.recalled = node.recalled.max(node.granted);
        node.lost_version = node.attr.map(|attr| attr.data_version).or(node.lost_version);
        node.attr = None;
        node.target = None;
        node.xattrs = None;
        node.content = None;
        if let Some(file) = &node.file {
            file.forget_content();
        }
        let told = |until: Option<Instant>| until.is_some_and(|until| until + LATE_MAX > now);
        let pages = node.pages.take().is_some() || node.opens > 0 || told(node.told_until);
        let names = std::mem::take(&mut node.children).told;
        let names = names.into_iter().filter(|(_, told)| told.until + LATE_MAX > now);
        let old = |(name, told): (Name, ToldName)| OldName { name, is_directory: told.is_directory };
        Forgotten { pages, names: names.map(old).collect() }
    }

    /// Notes a recall. True if there is something to give back.
    pub(crate) fn begin_recall(&mut self, recall: &Recall) -> bool {
        let node = self.entry(recall.inode);
        node.recalled = node.recalled.max(recall.number);
        let holds_more = node.lease > recall.keep;
        if holds_more {
            node.revoking += 1;
            self.alone = 0;
        }
        holds_more
    }
}
