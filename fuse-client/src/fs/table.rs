//! Inodes that the kernel or this client knows: leases, attributes, entries. Pure.
//!
//! # Invariants
//! - What is cached of an inode is there only while its lease is held and not being given back.
//! - A grant that a later recall has overtaken is not taken in ([`LeaseNumber`]).

mod absorb;
mod alone;
mod children;
mod foresee;
mod forget;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use wire::{
    lease::{LeaseMode, LeaseNumber},
    namespace::{Attr, Content, FileType, Inode, Name, NumberedOp, Op, OpError, OpOutcome, Query, QueryAnswer, Xattr},
};

pub(crate) use self::foresee::Foreseen;
use self::{
    absorb::Absorb,
    children::{Children, ToldName},
};
use super::{
    OldName,
    file::{Base, File},
};
use crate::session::Changed;

/// How long a directory counts as one that others change, after they did.
const CONTENDED: std::time::Duration = std::time::Duration::from_secs(10);

/// How much longer than it was told the kernel may believe something: it counts from when the caller runs that had asked, and
/// in its own ticks.
pub(crate) const LATE_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// All inodes.
#[derive(Debug, Default)]
pub(crate) struct Table {
    nodes: HashMap<Inode, Node>,
    /// No node that was dropped has been recalled beyond it: grants below do not count where there is no node.
    floor: LeaseNumber,
    /// Content that came with listings is not kept: there is enough of it.
    content_is_full: bool,
    /// Operations executed here that the leader has not answered, by number, and the inodes that each touches.
    deferred: BTreeMap<u64, Vec<Inode>>,
    /// Changes of names that the leader was asked for since somebody else wanted something that is held here.
    alone: u32,
}

/// What is known of an inode.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// It was made here, and nobody else has held a lease on it since: nobody has it open.
    pub(crate) is_unseen: bool,
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
    /// As it is here, with all deferred operations.
    pub(crate) attr: Option<Attr>,
    /// The version of its bytes when the lease was lost last.
    pub(crate) lost_version: Option<u64>,
    /// Deferred operations that touch it and have no outcome.
    pub(crate) deferred: u32,
    /// As the last answer left it, while there are such.
    committed: Option<Attr>,
    /// The highest number of an answer to a change of our own that touched it: others with lower ones are older.
    own: LeaseNumber,
    /// A deferred operation on the names of this directory has failed, and nobody was told.
    pub(crate) failure: Option<super::FsError>,
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

/// What the leader came to otherwise than was foreseen.
#[derive(Debug, Default)]
pub(crate) struct Surprise {
    /// Deferred operations that it refused, and the inodes that they were to touch.
    pub(crate) failed: Vec<(Op, Vec<Inode>, super::FsError)>,
    /// Attributes as they were here, and as they are.
    pub(crate) other: Vec<(Attr, Attr)>,
    /// What was made and is not leased.
    pub(crate) unleased: Vec<Inode>,
}

/// What a kernel must forget of an inode whose lease goes.
#[derive(Debug, Default)]
pub(crate) struct Forgotten {
    /// Pages and attributes of this inode.
    pub(crate) pages: bool,
    /// Entries of this directory.
    pub(crate) names: Vec<OldName>,
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

    /// The kernel holds `count` references less. Whether there is the state of a file, which may be idle now.
    pub(crate) fn forget(&mut self, inode: Inode, count: u64) -> bool {
        let Some(node) = self.nodes.get_mut(&inode) else { return false };
        node.lookups = node.lookups.saturating_sub(count);
        let has_file = node.file.is_some();
        self.drop_if_idle(inode);
        has_file
    }

    /// Drops what nobody refers to and no lease stands for.
    pub(crate) fn drop_if_idle(&mut self, inode: Inode) {
        let idle = |node: &Node| {
            // That others want a directory is remembered for a while, also of the root, which the kernel never looks up.
            let wanted = node.contended_until.is_some();
            let busy = node.revoking > 0 || node.deferred > 0;
            let held = node.lease.is_some() || node.file.is_some() || busy || wanted;
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
            node.own = LeaseNumber::default();
        }
        self.nodes.retain(|_, node| {
            let busy = node.revoking > 0 || node.deferred > 0;
            node.lookups > 0 || node.opens > 0 || node.lease.is_some() || node.file.is_some() || busy
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

    /// The outcome of changes arrived. What of those deferred has failed, and what is not leased, is told.
    pub(crate) fn absorb_changed(&mut self, changed: &Changed, ops: &[NumberedOp], outcomes: &[OpOutcome]) -> Surprise {
        let mut surprise = Surprise::default();
        let unleased: HashSet<Inode> = changed.unleased.iter().copied().collect();
        let touched: HashSet<Inode> = changed.touched.iter().map(|attr| attr.inode).collect();
        for inode in changed.made.iter().filter(|inode| touched.contains(inode)) {
            if unleased.contains(inode) {
                surprise.unleased.push(*inode);
            } else if self.grant(*inode, LeaseMode::Exclusive, changed.number)
                && let Some(node) = self.nodes.get_mut(inode).filter(|node| node.losses == 0)
            {
                node.is_unseen = true;
            }
        }
        // Answered from memory: the leader leases nothing with that.
        for inode in changed.made.iter().filter(|inode| !touched.contains(inode)) {
            if let Some(node) = self.nodes.get_mut(inode) {
                (node.lease, node.is_unseen) = (None, false);
                surprise.unleased.push(*inode);
            }
        }
        for attr in &changed.touched {
            self.note_own(attr, changed.number);
        }
        let mut absorb = Absorb { table: self, number: changed.number, unleased: &unleased };
        for attr in &changed.touched {
            absorb.attr(attr);
            absorb.own_attr(attr);
        }
        for (numbered, outcome) in ops.iter().zip(outcomes) {
            if let Ok(answer) = outcome {
                Absorb::commit(absorb.table, &numbered.op, answer);
            }
            absorb.bytes(&numbered.op);
            if absorb.table.settle(numbered, outcome, (&touched, changed.number), &mut surprise) {
                continue;
            }
            let Ok(answer) = outcome else { continue };
            match numbered.op.subject() {
                Some(subject) if touched.contains(&subject) => absorb.op(&numbered.op, answer.done.inode),
                // Executed before, and answered again from memory: what it touched was not told.
                Some(_) => absorb.table.forget_named(std::slice::from_ref(numbered)),
                None => {}
            }
        }
        surprise
    }

    /// The outcome of changes arrived, with grants of a generation that is over.
    pub(crate) fn absorb_outdated(&mut self, ops: &[NumberedOp], outcomes: &[OpOutcome]) -> Surprise {
        let mut surprise = Surprise::default();
        for (numbered, outcome) in ops.iter().zip(outcomes) {
            if let Ok(answer) = outcome {
                Absorb::commit(self, &numbered.op, answer);
            }
            self.settle(numbered, outcome, (&HashSet::new(), LeaseNumber::default()), &mut surprise);
        }
        self.forget_named(ops);
        surprise
    }

    /// A change of our own left an inode like this.
    fn note_own(&mut self, attr: &Attr, number: LeaseNumber) {
        if let Some(node) = self.nodes.get_mut(&attr.inode) {
            node.own = node.own.max(number);
            if node.deferred > 0 && node.committed.is_none_or(|known| known.change < attr.change) {
                node.committed = Some(*attr);
                // Bytes are changed by others of our operations only.
                if let Some(here) = node.attr.as_mut().filter(|here| here.data_version < attr.data_version)
                    && here.file_type == FileType::File
                {
                    (here.size, here.allocated, here.data_version) = (attr.size, attr.allocated, attr.data_version);
                }
            }
        }
    }

    /// An operation has its outcome, or will be sent again; false if it was not deferred. `told`: of what the answer
    /// tells, and its number.
    fn settle(
        &mut self,
        numbered: &NumberedOp,
        outcome: &OpOutcome,
        (told, number): (&HashSet<Inode>, LeaseNumber),
        surprise: &mut Surprise,
    ) -> bool {
        if !self.deferred.contains_key(&numbered.number.0) {
            return false;
        }
        if matches!(outcome, Err(OpError::OutOfOrder | OpError::CutPending)) {
            return true;
        }
        let touched = self.deferred.remove(&numbered.number.0).unwrap_or_default();
        if let Err(error) = outcome {
            surprise.failed.push((numbered.op.clone(), touched.clone(), (*error).into()));
        }
        for inode in touched {
            let Some(node) = self.nodes.get_mut(&inode) else { continue };
            node.deferred = node.deferred.saturating_sub(1);
            node.own = node.own.max(number);
            if !told.contains(&inode) {
                // Answered from memory: what it left is not known.
                node.committed = None;
            }
            if node.deferred > 0 {
                continue;
            }
            let committed = node.committed.take();
            if let (Some(here), Some(there)) = (node.attr, committed)
                && here.change == there.change
                && here != there
            {
                surprise.other.push((here, there));
            }
            node.attr = committed.filter(|_| node.lease.is_some());
            self.drop_if_idle(inode);
        }
        true
    }

    /// The session is over: what of its deferred operations has no outcome is lost. Which inodes that concerns.
    pub(crate) fn abandon_deferred(&mut self) -> HashSet<Inode> {
        let touched: HashSet<Inode> = std::mem::take(&mut self.deferred).into_values().flatten().collect();
        for inode in &touched {
            if let Some(node) = self.nodes.get_mut(inode) {
                (node.deferred, node.committed, node.attr) = (0, None, None);
                self.drop_if_idle(*inode);
            }
        }
        touched
    }

    /// Whether what the leader says of any of `inodes` is older than what is known here.
    pub(crate) fn is_ahead(&self, mut inodes: impl Iterator<Item = Inode>) -> bool {
        !self.deferred.is_empty() && inodes.any(|inode| self.nodes.get(&inode).is_some_and(|node| node.deferred > 0))
    }

    /// The kernel's entries have changed places, with the times for which it believes them.
    fn move_told(&mut self, from: (Inode, &Name), to: (Inode, &Name)) {
        let told = |table: &Table, (dir, name): (Inode, &Name)| table.get(dir)?.children.told.get(name).copied();
        let [here, there] = [from, to].map(|entry| told(self, entry));
        for (dir, name) in [from, to] {
            let until = here.map(|told| told.until).max(there.map(|told| told.until));
            let is_directory = [here, there].into_iter().flatten().all(|told| told.is_directory);
            if let (Some(until), Some(node)) = (until, self.get_mut(dir)) {
                node.children.told.insert(name.clone(), ToldName { until, is_directory });
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
}

impl Node {
    /// What a page rests on that comes back from the kernel: nothing newer than what was known while it could be read.
    pub(crate) fn base(&self) -> Option<Base> {
        match (self.lease, self.attr) {
            (Some(_), Some(attr)) => Some(Base { version: attr.data_version, losses: self.losses }),
            // It may have been changed here since.
            (Some(_), None) => None,
            (None, _) => self.lost_version.map(|version| Base { version, losses: u64::MAX }),
        }
    }

    /// As [`Node::base`], for a page of a mapping. While pages are still to be given up it may be one of those, of before
    /// the lease was lost, though there is another one by now.
    pub(crate) fn base_of_page(&self) -> Option<Base> {
        match (self.pages_stale, self.lost_version) {
            (true, Some(version)) => Some(Base { version, losses: u64::MAX }),
            (true, None) | (false, _) => self.base(),
        }
    }

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

    /// Whether an answer under `number` tells something newer than what is known.
    fn is_news(&self, number: LeaseNumber) -> bool {
        self.deferred == 0 && number >= self.own
    }

    /// Bytes are given to the kernel.
    pub(crate) fn note_read(&mut self) {
        self.draining = self.draining.map(|_| Draining::Read);
    }
}
