//! What answers say, taken into the table. Pure.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use wire::{
    lease::{LeaseMode, LeaseNumber},
    namespace::{
        Attr, CAPABILITY_XATTR, Content, Cookie, Inode, Name, NewKind, Op, OpAnswer, Query, QueryAnswer, RenameMode,
        WalkEnd,
    },
};

use super::{Node, Table};

/// Takes in answers under one number.
pub(super) struct Absorb<'a> {
    pub(super) table: &'a mut Table,
    pub(super) number: LeaseNumber,
    pub(super) unleased: &'a HashSet<Inode>,
}

impl Absorb<'_> {
    /// The node, if the grant of a shared lease on it counts, and what is told of it is news.
    fn node(&mut self, inode: Inode) -> Option<&mut Node> {
        let granted = !self.unleased.contains(&inode) && self.table.grant(inode, LeaseMode::Shared, self.number);
        let number = self.number;
        if granted { self.table.get_mut(inode).filter(|node| node.is_news(number)) } else { None }
    }

    pub(super) fn attr(&mut self, attr: &Attr) {
        if let Some(node) = self.node(attr.inode)
            && node.attr.is_none_or(|known| known.change <= attr.change)
        {
            node.attr = Some(*attr);
        }
    }

    /// As a change of our own left it: as long as the lease is not let go, it is the newest there is.
    pub(super) fn own_attr(&mut self, attr: &Attr) {
        if let Some(node) = self.table.get_mut(attr.inode)
            && node.lease.is_some()
            && node.deferred == 0
            && node.attr.is_some_and(|known| known.change < attr.change)
        {
            node.attr = Some(*attr);
        }
    }

    /// As a change of our own left it.
    fn own_child(&mut self, dir: Inode, name: &Name, inode: Option<Inode>) {
        if let Some(node) = self.table.get_mut(dir)
            && node.lease.is_some()
        {
            let is_lost = node.revoking == 0 && node.recalled > self.number;
            if is_lost || node.own > self.number {
                // The lease was lost and granted anew since, or a later change of our own was answered before.
                node.children.forget_name(name);
            } else {
                node.children.insert(name, inode);
            }
        }
    }

    /// As a rename of our own left it. What is known of the names may be from after it already: an answer to a question
    /// that was asked meanwhile can arrive first.
    fn own_rename(&mut self, from: (Inode, &Name), to: (Inode, &Name), mode: RenameMode) {
        let known = |(dir, name): (Inode, &Name)| self.table.get(dir)?.children.get(name)?;
        let (moved, replaced) = (known(from), known(to));
        self.table.move_told(from, to);
        match moved {
            Some(inode) if mode != RenameMode::Exchange && replaced != Some(inode) => {
                self.own_child(from.0, from.1, None);
                self.own_child(to.0, to.1, Some(inode));
            }
            // Two names of one inode, which stay, or one that has moved; or two that have changed places, or not yet.
            _ => {
                for (dir, name) in [from, to] {
                    if let Some(node) = self.table.get_mut(dir) {
                        node.children.forget_name(name);
                    }
                }
            }
        }
    }

    fn child(&mut self, dir: Inode, name: &Name, inode: Option<Inode>) {
        let leased = !self.unleased.contains(&dir);
        if let Some(node) = self.table.get_mut(dir)
            && leased
            && node.is_leased()
            && node.recalled <= self.number
            && node.is_news(self.number)
        {
            node.children.insert(name, inode);
        }
    }

    pub(super) fn answer(&mut self, query: &Query, answer: &QueryAnswer) {
        match (query, answer) {
            (Query::Walk { path, .. }, QueryAnswer::Walked(walked)) => {
                for attr in &walked.steps {
                    self.attr(attr);
                }
                for (pair, name) in walked.steps.windows(2).zip(path) {
                    if let [dir, child] = pair {
                        self.child(dir.inode, name, Some(child.inode));
                    }
                }
                match (&walked.end, walked.steps.last()) {
                    (WalkEnd::Missing, Some(dir)) => {
                        if let Some(name) = path.get(walked.steps.len() - 1) {
                            self.child(dir.inode, name, None);
                        }
                    }
                    (WalkEnd::Symlink(target), Some(link)) if target.is_sound() => {
                        if let Some(node) = self.node(link.inode) {
                            node.target = Some(Bytes::copy_from_slice(&target.bytes));
                        }
                    }
                    _ => {}
                }
            }
            (_, QueryAnswer::Attr(attr)) => self.attr(attr),
            (Query::Content { offset: 0, .. }, QueryAnswer::Content { attr, content }) => {
                self.attr(attr);
                self.content(attr, content);
            }
            (_, QueryAnswer::Content { attr, .. }) => self.attr(attr),
            (Query::Xattrs { inode }, QueryAnswer::Xattrs(xattrs)) => {
                if let Some(node) = self.node(*inode) {
                    node.xattrs = Some(Arc::new(xattrs.clone()));
                }
            }
            (Query::List { dir, after, want, .. }, QueryAnswer::Page(page)) => {
                self.page(*dir, *after, page, *want == wire::namespace::ListWant::Contents);
            }
            _ => {}
        }
    }

    fn page(&mut self, dir: Inode, after: Cookie, page: &wire::namespace::Page, contents: bool) {
        for entry in &page.entries {
            self.child(dir, &entry.name, Some(entry.inode));
            if let Some(attr) = &entry.attr {
                self.attr(attr);
                if let Some(content) = &entry.content {
                    self.content(attr, content);
                }
                if contents && let Some(node) = self.node(attr.inode) {
                    node.xattrs = Some(Arc::new(entry.xattrs.clone()));
                }
            }
        }
        if let Some(node) = self.node(dir)
            && node.children.ahead.unwrap_or_default() == after
        {
            node.children.ahead = page.entries.last().map(|entry| entry.cookie).or(Some(after));
            node.children.ahead_done = page.end;
            // All of it was read, from the start, under one lease.
            node.children.complete |= page.end;
        }
    }

    fn content(&mut self, attr: &Attr, content: &Content) {
        match content {
            Content::Symlink(target) if target.is_sound() => {
                if let Some(node) = self.node(attr.inode) {
                    node.target = Some(Bytes::copy_from_slice(&target.bytes));
                }
            }
            Content::Inline(_) | Content::Extents { .. } => {
                if !self.table.content_is_full
                    && let Some(node) = self.node(attr.inode)
                    && node.attr.is_some_and(|known| known.data_version == attr.data_version)
                {
                    node.content = Some((attr.data_version, content.clone()));
                }
            }
            Content::Symlink(_) | Content::None => {}
        }
    }

    /// Where an operation of this session changed bytes, a program has lost its capabilities with them.
    pub(super) fn bytes(&mut self, op: &Op) {
        let (Op::WriteExtents { inode, .. }
        | Op::WriteJournaled { inode, .. }
        | Op::WriteInline { inode, .. }
        | Op::Append { inode, .. }
        | Op::Punch { inode, .. }
        | Op::SetAttr { inode, .. }
        | Op::Clone { to: inode, .. }) = op
        else {
            return;
        };
        if let Some(node) = self.table.get_mut(*inode)
            && node.xattrs.iter().flat_map(|all| all.iter()).any(|xattr| xattr.name.as_bytes() == CAPABILITY_XATTR)
        {
            node.xattrs = None;
        }
    }

    /// A commit of bytes was executed: those that are written on the version that it replaced are written on its own.
    pub(super) fn commit(table: &Table, op: &Op, done: &OpAnswer) {
        if let Op::WriteExtents { inode, if_version: Some(before), .. }
        | Op::WriteJournaled { inode, if_version: Some(before), .. }
        | Op::WriteInline { inode, if_version: Some(before), .. } = op
            && let Some(file) = table.get(*inode).and_then(|node| node.file.as_ref())
            && let Some(base) = &mut file.state.lock().base
            && base.version == *before
        {
            base.version = done.done.version;
        }
    }

    /// What an operation of this session did to names.
    pub(super) fn op(&mut self, op: &Op, inode: Inode) {
        match op {
            Op::Create { dir, name, new, .. } => {
                self.own_child(*dir, name, Some(inode));
                // A listing asks each file for some attribute that almost none has.
                if new.inode == inode
                    && let Some(node) = self.node(inode)
                {
                    node.xattrs = Some(Arc::new(new.xattrs.clone()));
                    node.children.complete = matches!(new.kind, NewKind::Directory);
                }
            }
            Op::Link { inode, dir, name, .. } => self.own_child(*dir, name, Some(*inode)),
            Op::Unlink { dir, name } | Op::RemoveDirectory { dir, name } => self.own_child(*dir, name, None),
            Op::Rename { from_dir, from_name, to_dir, to_name, mode } => {
                self.own_rename((*from_dir, from_name), (*to_dir, to_name), *mode);
            }
            Op::SetXattr { inode, .. } | Op::RemoveXattr { inode, .. } => {
                if let Some(node) = self.table.get_mut(*inode) {
                    node.xattrs = None;
                }
            }
            Op::CreateUnnamed { .. }
            | Op::SetAttr { .. }
            | Op::WriteExtents { .. }
            | Op::WriteJournaled { .. }
            | Op::WriteInline { .. }
            | Op::Append { .. }
            | Op::Punch { .. }
            | Op::Clone { .. }
            | Op::Lock { .. }
            | Op::Unlock { .. }
            | Op::DelegateLocks { .. }
            | Op::ReturnLocks { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use wire::{
        lease::{LeaseMode, LeaseNumber},
        namespace::{Inode, Name, Op, RenameMode},
    };

    use super::{Absorb, Table};

    const ROOT: Inode = Inode(1);

    fn name(text: &str) -> Name {
        Name::new(text.as_bytes()).unwrap()
    }

    /// A directory that is leased, and what its names lead to.
    fn table(names: &[(&str, u64)]) -> Table {
        let mut table = Table::default();
        assert!(table.grant(ROOT, LeaseMode::Shared, LeaseNumber(1)));
        for (text, inode) in names {
            table.entry(ROOT).children.insert(&name(text), Some(Inode(*inode)));
        }
        table
    }

    fn rename(table: &mut Table, mode: RenameMode) {
        let op = Op::Rename { from_dir: ROOT, from_name: name("new"), to_dir: ROOT, to_name: name("file"), mode };
        Absorb { table, number: LeaseNumber(5), unleased: &HashSet::new() }.op(&op, Inode(8));
    }

    fn known(table: &Table, text: &str) -> Option<Option<Inode>> {
        table.get(ROOT).unwrap().children.get(&name(text))
    }

    #[test]
    fn a_name_that_was_moved_is_gone() {
        let mut table = table(&[("new", 8), ("file", 7)]);
        rename(&mut table, RenameMode::Replace);
        assert_eq!((known(&table, "new"), known(&table, "file")), (Some(None), Some(Some(Inode(8)))));
    }

    /// Else a program that writes the new file again would write into the one that it has put in place.
    #[test]
    fn a_name_that_was_moved_is_gone_though_somebody_has_looked_at_where_it_went_before_the_answer() {
        let mut table = table(&[("new", 8), ("file", 8)]);
        rename(&mut table, RenameMode::Replace);
        assert_eq!(known(&table, "new"), None, "it is asked for");
        assert!(matches!(known(&table, "file"), None | Some(Some(Inode(8)))));
    }

    #[test]
    fn names_that_changed_places_are_asked_for() {
        let mut table = table(&[("new", 8), ("file", 7)]);
        rename(&mut table, RenameMode::Exchange);
        assert_eq!((known(&table, "new"), known(&table, "file")), (None, None));
    }

    #[test]
    fn a_later_change_that_was_answered_before_is_not_undone() {
        let mut table = table(&[("file", 7)]);
        table.entry(ROOT).own = LeaseNumber(6);
        let op = Op::Unlink { dir: ROOT, name: name("file") };
        Absorb { table: &mut table, number: LeaseNumber(5), unleased: &HashSet::new() }.op(&op, Inode(7));
        assert_eq!(known(&table, "file"), None, "it may have been made again since");
    }
}
