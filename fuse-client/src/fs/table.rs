//! Inodes that the kernel or this client knows: leases, attributes, entries. Pure.
//!
//! # Invariants
//! - What is cached of an inode is there only while its lease is held and not being given back.
//! - A grant that a later recall has overtaken is not taken in ([`LeaseNumber`]).

mod absorb;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use wire::{
    lease::{LeaseMode, LeaseNumber, Recall},
    namespace::{Attr, Content, Cookie, Inode, Name, NumberedOp, OpOutcome, Query, QueryAnswer, Xattr},
};

use self::absorb::Absorb;
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
    /// While the lease is being given back: the kernel forgets its pages.
    pub(crate) draining: Option<Draining>,
    /// Writes that wait for an exclusive lease, with a page locked perhaps.
    pub(crate) writes_waiting: u32,
    /// The kernel could not be made to forget its pages before the lease went: somebody had one of them locked, and
    /// waited for us. It knows that its attributes are old, and so asks for them before it reads a page, but not before
    /// it shows one that is mapped; the pages go then, and at the latest when whoever had one locked is served.
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

/// To forget a page that is being read, the kernel waits for that read, and the read for us. It is answered, from the
/// lease that is still held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Draining {
    /// No read was answered meanwhile.
    Unread,
    /// Some were: their pages have to be forgotten, too.
    Read,
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
            // That others want a directory is remembered for a while, also of the root, which the kernel never looks up.
            let wanted = node.contended_until.is_some();
            let held = node.lease.is_some() || node.file.is_some() || node.revoking > 0 || wanted;
            node.lookups == 0 && node.opens == 0 && !held
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
            match numbered.op.subject() {
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
            for inode in numbered.op.named() {
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

    /// Drops content that came with listings when there is too much of it, and forgets what was contended long ago.
    pub(crate) fn trim(&mut self, kept_max: usize, now: Instant) {
        let over: Vec<Inode> = {
            let over = |node: &Node| node.contended_until.is_some_and(|until| until <= now);
            self.nodes.iter().filter(|(_, node)| over(node)).map(|(inode, _)| *inode).collect()
        };
        for inode in over {
            self.entry(inode).contended_until = None;
            self.drop_if_idle(inode);
        }
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
        self.lease.is_some() && !self.is_closed()
    }

    /// Whether the lease is being given back, and nobody is answered until it is.
    pub(crate) fn is_closed(&self) -> bool {
        self.revoking > 0 && self.draining.is_none()
    }

    /// Bytes are given to the kernel.
    pub(crate) fn note_read(&mut self) {
        self.draining = self.draining.map(|_| Draining::Read);
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
