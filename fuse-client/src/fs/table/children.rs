//! Names of a directory, as far as they are known. Pure.

use std::{collections::HashMap, time::Instant};

use wire::namespace::{Cookie, Inode, Name};

use super::LATE_MAX;

/// Entries of a directory, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Children {
    /// Names, and the inode of each; none for a name that does not exist.
    pub(super) names: HashMap<Name, Option<Inode>>,
    /// All that there are are among them.
    pub(super) complete: bool,
    /// What the kernel was told of names. It moves its own entries when it renames, so this goes with the name there, too.
    pub(super) told: HashMap<Name, ToldName>,
    /// At how many names told the next look for those that are over is due.
    told_sweep: usize,
    /// Names asked for that were not known.
    pub(crate) misses: u32,
    /// Where the next page to fetch ahead begins; none at the end.
    pub(crate) ahead: Option<Cookie>,
    /// Whether the end was reached.
    pub(crate) ahead_done: bool,
}

/// What the kernel was told of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToldName {
    /// Until when it may believe it, but for [`LATE_MAX`].
    pub(super) until: Instant,
    pub(super) is_directory: bool,
}

impl Children {
    /// What is known of a name: nothing, that it does not exist, or its inode.
    pub(crate) fn get(&self, name: &Name) -> Option<Option<Inode>> {
        self.names.get(name).copied().or_else(|| self.complete.then_some(None))
    }

    /// A name leads there, or nowhere.
    pub(super) fn insert(&mut self, name: &Name, inode: Option<Inode>) {
        match inode {
            // Of a directory that is known whole, what does not exist need not be remembered.
            None if self.complete => drop(self.names.remove(name)),
            inode => drop(self.names.insert(name.clone(), inode)),
        }
    }

    /// Nothing is known of a name any more.
    pub(super) fn forget_name(&mut self, name: &Name) {
        self.names.remove(name);
        self.complete = false;
        self.ahead_done = false;
        self.ahead = None;
    }

    /// Nothing is known of any name any more.
    pub(super) fn forget(&mut self) {
        self.names.clear();
        self.complete = false;
        self.ahead_done = false;
        self.ahead = None;
    }

    /// The kernel was told of a name, which leads to a directory or not.
    pub(crate) fn told(&mut self, name: &Name, until: Instant, is_directory: bool, now: Instant) {
        if until <= now {
            return;
        }
        match self.told.get_mut(name) {
            Some(told) => *told = ToldName { until: until.max(told.until), is_directory },
            None => {
                if self.told.len() >= self.told_sweep {
                    self.told.retain(|_, told| told.until + LATE_MAX > now);
                    self.told_sweep = 1024.max(2 * self.told.len());
                }
                self.told.insert(name.clone(), ToldName { until, is_directory });
            }
        }
    }
}
