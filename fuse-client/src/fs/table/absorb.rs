//! What answers say, taken into the table. Pure.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use wire::{
    lease::{LeaseMode, LeaseNumber},
    namespace::{Attr, Content, Cookie, Inode, Name, NewKind, Op, Query, QueryAnswer, RenameMode, WalkEnd},
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
            if node.revoking > 0 || node.recalled <= self.number {
                node.children.insert(name, inode);
            } else {
                // The lease was lost and granted anew since.
                node.children.forget_name(name);
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
                let known = |table: &Table, dir: &Inode, name: &Name| {
                    table.get(*dir).and_then(|node| node.children.get(name)).flatten()
                };
                let (from, to) = (known(self.table, from_dir, from_name), known(self.table, to_dir, to_name));
                self.table.move_told((*from_dir, from_name), (*to_dir, to_name));
                match mode {
                    RenameMode::Exchange => {
                        self.renamed(*from_dir, from_name, to);
                        self.renamed(*to_dir, to_name, from);
                    }
                    // A rename between two names of one inode does nothing at all.
                    RenameMode::Replace | RenameMode::NoReplace if from.is_some() && from == to => {}
                    RenameMode::Replace | RenameMode::NoReplace => {
                        self.own_child(*from_dir, from_name, None);
                        self.renamed(*to_dir, to_name, from);
                    }
                }
            }
            Op::SetXattr { inode, .. } | Op::RemoveXattr { inode, .. } => {
                if let Some(node) = self.table.get_mut(*inode) {
                    node.xattrs = None;
                }
            }
            Op::CreateUnnamed { .. }
            | Op::SetAttr { .. }
            | Op::WriteExtents { .. }
            | Op::WriteInline { .. }
            | Op::Append { .. }
            | Op::Punch { .. }
            | Op::Clone { .. }
            | Op::Lock { .. }
            | Op::Unlock { .. } => {}
        }
    }

    /// A name leads to `inode` now; if that is not known here, nothing is known of the name.
    fn renamed(&mut self, dir: Inode, name: &Name, inode: Option<Inode>) {
        match inode {
            Some(inode) => self.own_child(dir, name, Some(inode)),
            None => {
                if let Some(node) = self.table.get_mut(dir) {
                    node.children.forget_name(name);
                }
            }
        }
    }
}
