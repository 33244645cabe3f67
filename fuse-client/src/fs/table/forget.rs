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
        let again = |numbered: &&NumberedOp| self.deferred.contains_key(&numbered.number.0);
        let ops: Vec<&Op> = ops.iter().filter(|op| !again(op)).map(|numbered| &numbered.op).collect();
        // Before any name is forgotten.
        let led_to: Vec<Inode> = ops.iter().flat_map(|op| self.led_to(op)).flatten().collect();
        for inode in led_to {
            if let Some(node) = self.nodes.get_mut(&inode).filter(|node| node.deferred == 0) {
                node.attr = None;
            }
        }
        for inode in ops.into_iter().flat_map(Op::named) {
            if let Some(node) = self.nodes.get_mut(&inode) {
                node.attr = None;
                node.xattrs = None;
                node.content = None;
                node.children.forget();
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
        node.is_unseen = false;
        if node.lease.is_some() {
            return Forgotten::default();
        }
        node.losses += 1;
        if !node.children.told.is_empty() || node.contended_until.is_some() {
            node.contended_until = Some(now + CONTENDED);
        }
        // What was granted until now is let go, also where the answer that says so is still on its way.
        node.recalled = node.recalled.max(node.granted);
        // Pages that are still to be given up are of the version before.
        let kept = node.lost_version.filter(|_| node.pages_stale);
        node.lost_version = kept.or(node.attr.map(|attr| attr.data_version)).or(node.lost_version);
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

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Instant};

    use wire::{
        lease::{LeaseMode, LeaseNumber},
        namespace::{Attr, FileType, Inode, Mode, Name, NumberedOp, Op, OpNumber, Timestamp},
    };

    use super::Table;
    use crate::fs::file::Base;

    const DIR: Inode = Inode(1);

    fn attr(inode: Inode) -> Attr {
        let time = Timestamp::default();
        Attr {
            inode,
            file_type: FileType::File,
            mode: Mode::new(0o600),
            uid: 0,
            gid: 0,
            links: 2,
            size: 0,
            allocated: 0,
            device: 0,
            accessed: time,
            modified: time,
            changed: time,
            born: time,
            change: 3,
            data_version: 5,
        }
    }

    /// Its answer was lost: what the second of two names led to has changed as well as what the first did.
    #[test]
    fn what_the_names_of_changes_led_to_is_not_known_either() {
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let mut table = Table::default();
        for inode in [DIR, Inode(7), Inode(8), Inode(9)] {
            assert!(table.grant(inode, LeaseMode::Shared, LeaseNumber(1)));
            table.entry(inode).attr = Some(attr(inode));
        }
        for (text, inode) in [("a", 7), ("b", 8), ("c", 9)] {
            table.entry(DIR).children.insert(&name(text), Some(Inode(inode)));
        }
        let op = |number, text| {
            let op = Op::Unlink { dir: DIR, name: name(text) };
            NumberedOp { number: OpNumber(number), after: None, op }
        };
        table.forget_named(&[op(1, "a"), op(2, "b")]);
        let known: HashSet<Inode> =
            table.iter().filter(|(_, node)| node.attr.is_some()).map(|(inode, _)| inode).collect();
        assert_eq!(known, HashSet::from([Inode(9)]));
    }

    #[test]
    fn a_page_that_comes_back_rests_on_what_was_known_when_the_lease_was_lost() {
        let mut table = Table::default();
        assert!(table.grant(DIR, LeaseMode::Exclusive, LeaseNumber(1)));
        assert_eq!(table.entry(DIR).base(), None);
        let version = attr(DIR).data_version;
        table.entry(DIR).attr = Some(attr(DIR));
        assert_eq!(table.entry(DIR).base(), Some(Base { version, losses: 0 }));
        table.lose(DIR, None, Instant::now());
        assert_eq!(table.entry(DIR).base(), Some(Base { version, losses: u64::MAX }));
        assert!(table.grant(DIR, LeaseMode::Exclusive, LeaseNumber(9)));
        assert_eq!(table.entry(DIR).base(), None, "it may have been changed here since");
    }
}
