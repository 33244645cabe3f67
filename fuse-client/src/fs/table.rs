//! Inodes that the kernel or this client knows: leases, attributes, entries. Pure.
//!
//! # Invariants
//! - What is cached of an inode is there only while its lease is held and not being given back.
//! - A grant that a later recall has overtaken is not taken in ([`LeaseNumber`]).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use wire::{
    lease::{LeaseMode, LeaseNumber, Recall},
    namespace::{
        Attr, Content, Cookie, Inode, Name, NumberedOp, Op, OpOutcome, Query, QueryAnswer, RenameMode, WalkEnd, Xattr,
    },
};

use super::file::File;
use crate::session::Changed;

/// How long a directory counts as one that others change, after they did.
const CONTENDED: std::time::Duration = std::time::Duration::from_secs(10);

/// All inodes.
#[derive(Debug, Default)]
pub(crate) struct Table {
    nodes: HashMap<Inode, Node>,
    /// No node that was dropped has been recalled beyond it: grants below do not count where there is no node.
    floor: LeaseNumber,
    /// Content that came with listings is not kept: there is enough of it.
    content_is_full: bool,
}

/// What is known of an inode.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// References of the kernel: `nlookup`.
    pub(crate) lookups: u64,
    /// Handles.
    pub(crate) opens: u32,
    pub(crate) lease: Option<LeaseMode>,
    /// The highest number of a grant.
    pub(crate) granted: LeaseNumber,
    /// The highest number of a recall.
    pub(crate) recalled: LeaseNumber,
    /// How many are giving it back: the kernel is told of nothing new that rests on it.
    pub(crate) revoking: u32,
    /// Others change the directory: until then the kernel is told of its names for the moment only. To make it forget a
    /// name takes a lock that its own changes of the directory hold, while they wait for those others.
    pub(crate) contended_until: Option<Instant>,
    /// The kernel could not be made to forget its pages before the lease went: somebody had one of them locked, and
    /// waited for us. It knows that its attributes are old, and so asks for them before it uses a page; the pages go then.
    pub(crate) pages_stale: bool,
    /// Rises each time the lease is lost: what was looked at before is not valid any more.
    pub(crate) losses: u64,
    pub(crate) attr: Option<Attr>,
    pub(crate) children: Children,
    pub(crate) target: Option<Bytes>,
    pub(crate) xattrs: Option<Arc<Vec<Xattr>>>,
    /// Content that came with a listing, and its data version.
    pub(crate) content: Option<(u64, Content)>,
    /// The file's own state, while it is open or has something to write.
    pub(crate) file: Option<Arc<File>>,
    /// The data version of which the kernel has pages.
    pub(crate) pages: Option<u64>,
    /// Until when the kernel may believe what it was told of the attributes.
    pub(crate) told_until: Option<Instant>,
}

/// Entries of a directory, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Children {
    /// Names, and the inode of each; none for a name that does not exist.
    names: HashMap<Name, Option<Inode>>,
    /// Until when the kernel may believe what it was told of a name. It moves its own entries when it renames, so this
    /// goes with the name there, too.
    told: HashMap<Name, Instant>,
    /// At how many names told the next look for those that are over is due.
    told_sweep: usize,
    /// Names asked for that were not known.
    pub(crate) misses: u32,
    /// Where the next page to fetch ahead begins; none at the end.
    pub(crate) ahead: Option<Cookie>,
    /// Whether the end was reached.
    pub(crate) ahead_done: bool,
}

/// What a kernel must forget of an inode whose lease goes.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    /// Pages and attributes of this inode.
    pub(crate) pages: bool,
    /// Entries of this directory.
    pub(crate) names: Vec<Name>,
}

impl Table {
    pub(crate) fn get(&self, inode: Inode) -> Option<&Node> {
        self.nodes.get(&inode)
    }

    pub(crate) fn get_mut(&mut self, inode: Inode) -> Option<&mut Node> {
        self.nodes.get_mut(&inode)
    }

    pub(crate) fn entry(&mut self, inode: Inode) -> &mut Node {
        let recalled = self.floor;
        self.nodes.entry(inode).or_insert_with(|| Node { recalled, ..Node::default() })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Inode, &Node)> {
        self.nodes.iter().map(|(inode, node)| (*inode, node))
    }

    /// Every lease held, for a new leader.
    pub(crate) fn leases(&self) -> Vec<(Inode, LeaseMode)> {
        self.nodes.iter().filter_map(|(inode, node)| node.lease.map(|mode| (*inode, mode))).collect()
    }

    /// The kernel holds one reference more.
    pub(crate) fn remember(&mut self, inode: Inode) {
        self.entry(inode).lookups += 1;
    }

    /// The kernel holds `count` references less.
    pub(crate) fn forget(&mut self, inode: Inode, count: u64) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.lookups = node.lookups.saturating_sub(count);
        }
        self.drop_if_idle(inode);
    }

    /// Drops what nobody refers to and no lease stands for.
    pub(crate) fn drop_if_idle(&mut self, inode: Inode) {
        let idle = |node: &Node| {
            node.lookups == 0 && node.opens == 0 && node.lease.is_none() && node.file.is_none() && node.revoking == 0
        };
        if let Some(node) = self.nodes.get(&inode).filter(|node| idle(node)) {
            // The number of a recall must be remembered as long as a grant may still be on its way.
            self.floor = self.floor.max(node.recalled);
            self.nodes.remove(&inode);
        }
    }

    /// Forgets numbers that belong to a generation that is over.
    pub(crate) fn begin_generation(&mut self) {
        self.floor = LeaseNumber::default();
        for node in self.nodes.values_mut() {
            node.granted = LeaseNumber::default();
            node.recalled = LeaseNumber::default();
        }
        self.nodes.retain(|_, node| {
            node.lookups > 0 || node.opens > 0 || node.lease.is_some() || node.file.is_some() || node.revoking > 0
        });
    }

    /// A grant arrived. False if it does not count.
    fn grant(&mut self, inode: Inode, mode: LeaseMode, number: LeaseNumber) -> bool {
        let node = self.entry(inode);
        if node.recalled > number || node.revoking > 0 {
            return false;
        }
        node.granted = node.granted.max(number);
        node.lease = node.lease.max(Some(mode));
        true
    }

    /// The answers to questions arrived. `exclusive`: what was asked for so.
    pub(crate) fn absorb_asked(
        &mut self,
        number: LeaseNumber,
        exclusive: &[Inode],
        unleased: &HashSet<Inode>,
        queries: &[Query],
        answers: &[Result<QueryAnswer, wire::namespace::OpError>],
    ) {
        for inode in exclusive.iter().filter(|inode| !unleased.contains(inode)) {
            self.grant(*inode, LeaseMode::Exclusive, number);
        }
        let mut absorb = Absorb { table: self, number, unleased };
        for (query, answer) in queries.iter().zip(answers) {
            if let Ok(answer) = answer {
                absorb.answer(query, answer);
            }
        }
    }

    /// The outcome of changes arrived.
    pub(crate) fn absorb_changed(&mut self, changed: &Changed, ops: &[NumberedOp], outcomes: &[OpOutcome]) {
        let unleased: HashSet<Inode> = changed.unleased.iter().copied().collect();
        let touched: HashSet<Inode> = changed.touched.iter().map(|attr| attr.inode).collect();
        for inode in changed.made.iter().filter(|inode| touched.contains(inode) && !unleased.contains(inode)) {
            self.grant(*inode, LeaseMode::Exclusive, changed.number);
        }
        let mut absorb = Absorb { table: self, number: changed.number, unleased: &unleased };
        for attr in &changed.touched {
            absorb.attr(attr);
            absorb.own_attr(attr);
        }
        for (numbered, outcome) in ops.iter().zip(outcomes) {
            let Ok(answer) = outcome else { continue };
            match subject(&numbered.op) {
                Some(subject) if touched.contains(&subject) => absorb.op(&numbered.op, answer.done.inode),
                // Executed before, and answered again from memory: what it touched was not told.
                Some(_) => absorb.table.forget_named(std::slice::from_ref(numbered)),
                None => {}
            }
        }
    }

    /// Nothing is known any more of what operations named: they may or may not have been executed.
    pub(crate) fn forget_named(&mut self, ops: &[NumberedOp]) {
        for numbered in ops {
            for inode in named(&numbered.op) {
                if let Some(node) = self.nodes.get_mut(&inode) {
                    node.attr = None;
                    node.xattrs = None;
                    node.content = None;
                    node.children.names.clear();
                    node.children.ahead_done = false;
                    node.children.ahead = None;
                }
            }
        }
    }

    /// Drops content that came with listings when there is too much of it.
    pub(crate) fn trim_contents(&mut self, kept_max: usize) {
        let kept = self.nodes.values().filter(|node| node.content.is_some()).count();
        self.content_is_full = kept > kept_max;
        if self.content_is_full {
            for node in self.nodes.values_mut() {
                node.content = None;
            }
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
        node.attr = None;
        node.target = None;
        node.xattrs = None;
        node.content = None;
        if let Some(file) = &node.file {
            file.forget_content();
        }
        let told = |until: Option<Instant>| until.is_some_and(|until| until > now);
        let pages = node.pages.take().is_some() || node.opens > 0 || told(node.told_until);
        let names = std::mem::take(&mut node.children).told;
        let names = names.into_iter().filter(|(_, until)| *until > now).map(|(name, _)| name).collect();
        Forgotten { pages, names }
    }

    /// Notes a recall. True if there is something to give back.
    pub(crate) fn begin_recall(&mut self, recall: &Recall) -> bool {
        let node = self.entry(recall.inode);
        node.recalled = node.recalled.max(recall.number);
        let holds_more = node.lease > recall.keep;
        if holds_more {
            node.revoking += 1;
        }
        holds_more
    }
}

impl Node {
    /// How long the kernel may be told that names of the directory count.
    pub(crate) fn name_ttl(&self, ttl: std::time::Duration, now: Instant) -> std::time::Duration {
        let contended = self.contended_until.is_some_and(|until| until > now);
        if contended { std::time::Duration::ZERO } else { ttl }
    }

    /// Whether answers may rest on the lease.
    pub(crate) fn is_leased(&self) -> bool {
        self.lease.is_some() && self.revoking == 0
    }
}

impl Children {
    /// What is known of a name: nothing, that it does not exist, or its inode.
    pub(crate) fn get(&self, name: &Name) -> Option<Option<Inode>> {
        self.names.get(name).copied()
    }

    /// The kernel was told of a name.
    pub(crate) fn told(&mut self, name: &Name, until: Instant, now: Instant) {
        if until <= now {
            return;
        }
        match self.told.get_mut(name) {
            Some(told) => *told = until.max(*told),
            None => {
                if self.told.len() >= self.told_sweep {
                    self.told.retain(|_, until| *until > now);
                    self.told_sweep = 1024.max(2 * self.told.len());
                }
                self.told.insert(name.clone(), until);
            }
        }
    }
}

/// Takes in answers under one number.
struct Absorb<'a> {
    table: &'a mut Table,
    number: LeaseNumber,
    unleased: &'a HashSet<Inode>,
}

impl Absorb<'_> {
    /// The node, if the grant of a shared lease on it counts.
    fn node(&mut self, inode: Inode) -> Option<&mut Node> {
        let granted = !self.unleased.contains(&inode) && self.table.grant(inode, LeaseMode::Shared, self.number);
        if granted { self.table.get_mut(inode) } else { None }
    }

    fn attr(&mut self, attr: &Attr) {
        if let Some(node) = self.node(attr.inode)
            && node.attr.is_none_or(|known| known.change <= attr.change)
        {
            node.attr = Some(*attr);
        }
    }

    /// As a change of our own left it: as long as the lease is not let go, it is the newest there is.
    fn own_attr(&mut self, attr: &Attr) {
        if let Some(node) = self.table.get_mut(attr.inode)
            && node.lease.is_some()
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
                node.children.names.insert(name.clone(), inode);
            } else {
                // The lease was lost and granted anew since.
                node.children.names.remove(name);
            }
        }
    }

    fn child(&mut self, dir: Inode, name: &Name, inode: Option<Inode>) {
        let leased = !self.unleased.contains(&dir);
        if let Some(node) = self.table.get_mut(dir)
            && leased
            && node.is_leased()
            && node.recalled <= self.number
        {
            node.children.names.insert(name.clone(), inode);
        }
    }

    fn answer(&mut self, query: &Query, answer: &QueryAnswer) {
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
    fn op(&mut self, op: &Op, inode: Inode) {
        match op {
            Op::Create { dir, name, .. } => self.own_child(*dir, name, Some(inode)),
            Op::Link { inode, dir, name, .. } => self.own_child(*dir, name, Some(*inode)),
            Op::Unlink { dir, name } | Op::RemoveDirectory { dir, name } => self.own_child(*dir, name, None),
            Op::Rename { from_dir, from_name, to_dir, to_name, mode } => {
                let known = |table: &Table, dir: &Inode, name: &Name| {
                    table.get(*dir).and_then(|node| node.children.get(name)).flatten()
                };
                let (from, to) = (known(self.table, from_dir, from_name), known(self.table, to_dir, to_name));
                self.move_told((*from_dir, from_name), (*to_dir, to_name));
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

    /// The kernel's entries have changed places, with the times for which it believes them.
    fn move_told(&mut self, from: (Inode, &Name), to: (Inode, &Name)) {
        let told = |table: &Table, (dir, name): (Inode, &Name)| table.get(dir)?.children.told.get(name).copied();
        let until = told(self.table, from).max(told(self.table, to));
        for (dir, name) in [from, to] {
            if let (Some(until), Some(node)) = (until, self.table.get_mut(dir)) {
                node.children.told.insert(name.clone(), until);
            }
        }
    }

    /// A name leads to `inode` now; if that is not known here, nothing is known of the name.
    fn renamed(&mut self, dir: Inode, name: &Name, inode: Option<Inode>) {
        match inode {
            Some(inode) => self.own_child(dir, name, Some(inode)),
            None => {
                if let Some(node) = self.table.get_mut(dir) {
                    node.children.names.remove(name);
                }
            }
        }
    }
}

/// Inodes that an operation names.
fn named(op: &Op) -> Vec<Inode> {
    match op {
        Op::Create { dir, new, .. } => vec![*dir, new.inode],
        Op::CreateUnnamed { new } => vec![new.inode],
        Op::Link { inode, dir, .. } => vec![*inode, *dir],
        Op::Unlink { dir, .. } | Op::RemoveDirectory { dir, .. } => vec![*dir],
        Op::Rename { from_dir, to_dir, .. } => vec![*from_dir, *to_dir],
        Op::Clone { from, to, .. } => vec![*from, *to],
        Op::SetAttr { inode, .. }
        | Op::SetXattr { inode, .. }
        | Op::RemoveXattr { inode, .. }
        | Op::WriteExtents { inode, .. }
        | Op::WriteInline { inode, .. }
        | Op::Append { inode, .. }
        | Op::Punch { inode, .. } => vec![*inode],
        Op::Lock { .. } | Op::Unlock { .. } => Vec::new(),
    }
}

/// An inode that an operation touches whenever it is executed; none if it touches nothing.
fn subject(op: &Op) -> Option<Inode> {
    match op {
        Op::Clone { to, .. } => Some(*to),
        Op::Create { dir, .. } | Op::Link { dir, .. } => Some(*dir),
        other => named(other).first().copied(),
    }
}
