//! From a path to an inode: which walks to ask for, what their answers mean. Pure.

use std::collections::VecDeque;

use wire::namespace::{Attr, FileType, InlineData, Inode, Name, Query, WALK_LEN_MAX, WalkEnd, Walked};

use super::{
    Follow,
    caller::{Caller, Permission},
};
use crate::path::{Component, FilePath};

/// As in the kernel.
const LINKS_MAX: u32 = 40;

/// Where a path led.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Resolution {
    /// To this inode. Directory and name are missing for the root and what ends in `..`.
    Found { attr: Attr, entry: Option<(Attr, Name)> },
    /// To a directory that has no such entry.
    Missing { dir: Attr, name: Name },
    /// Nowhere: a directory on the way does not exist.
    NoWay,
    /// Through something that is no directory.
    NotDirectory,
    /// In circles.
    Loop,
    /// Through a directory that the caller may not search.
    Denied,
    /// A link whose target does not match its hash.
    Unsound,
}

/// A path being resolved: ask what [`Resolver::poll_query`] says, hand the answer to [`Resolver::handle_walked`], until
/// there is a resolution.
#[derive(Debug)]
pub(super) struct Resolver {
    /// From the root to where we are, with the name of each below the root.
    passed: Vec<(Attr, Option<Name>)>,
    rest: VecDeque<Component>,
    asked: usize,
    links: u32,
    follow: Follow,
    wants_directory: bool,
}

impl Resolver {
    pub(super) fn new(path: &FilePath, follow: Follow) -> Self {
        Self {
            passed: Vec::new(),
            rest: path.components().iter().cloned().collect(),
            asked: 0,
            links: 0,
            follow,
            wants_directory: path.wants_directory(),
        }
    }

    /// The next walk.
    pub(super) fn poll_query(&mut self) -> Query {
        let names = self.rest.iter().map_while(|component| match component {
            Component::Name(name) => Some(name.clone()),
            Component::Parent => None,
        });
        let path: Vec<Name> = names.take(WALK_LEN_MAX).collect();
        self.asked = path.len();
        let from = self.passed.last().map_or(Inode::ROOT, |(attr, _)| attr.inode);
        Query::Walk { from, path }
    }

    /// The answer to the walk; the resolution, if there is no more to ask.
    pub(super) fn handle_walked(&mut self, walked: Walked, caller: &Caller) -> Option<Resolution> {
        let mut steps = walked.steps.into_iter();
        let Some(start) = steps.next() else {
            return Some(Resolution::NoWay);
        };
        match self.passed.last_mut() {
            Some((attr, _)) => *attr = start,
            None => self.passed.push((start, None)),
        }
        for step in steps.take(self.asked) {
            if !caller.may(Permission::Search, self.here()) {
                return Some(Resolution::Denied);
            }
            let Some(Component::Name(name)) = self.rest.pop_front() else {
                return Some(Resolution::NoWay);
            };
            self.asked -= 1;
            self.passed.push((step, Some(name)));
        }
        match walked.end {
            WalkEnd::Reached => self.climb(caller),
            WalkEnd::NotDirectory => Some(Resolution::NotDirectory),
            WalkEnd::Symlink(target) => self.follow_link(&target, caller),
            WalkEnd::Missing => Some(self.missing(caller)),
        }
    }

    fn here(&self) -> &Attr {
        let (attr, _) = self.passed.last().expect("the root is passed first and never left");
        attr
    }

    /// Takes the `..` that come next; the end, if nothing is left then.
    fn climb(&mut self, caller: &Caller) -> Option<Resolution> {
        while self.rest.front() == Some(&Component::Parent) {
            if self.here().file_type != FileType::Directory {
                return Some(Resolution::NotDirectory);
            }
            if !caller.may(Permission::Search, self.here()) {
                return Some(Resolution::Denied);
            }
            self.rest.pop_front();
            if self.passed.len() > 1 {
                self.passed.pop();
            }
        }
        if self.rest.is_empty() { Some(self.arrived()) } else { None }
    }

    fn arrived(&mut self) -> Resolution {
        let (attr, name) = self.passed.pop().expect("the root is passed first and never left");
        if self.wants_directory && attr.file_type != FileType::Directory {
            return Resolution::NotDirectory;
        }
        let dir = self.passed.last().map(|(dir, _)| *dir);
        Resolution::Found { attr, entry: dir.zip(name) }
    }

    fn follow_link(&mut self, target: &InlineData, caller: &Caller) -> Option<Resolution> {
        if self.rest.is_empty() && self.follow == Follow::No && !self.wants_directory {
            return Some(self.arrived());
        }
        self.links += 1;
        if self.links > LINKS_MAX {
            return Some(Resolution::Loop);
        }
        if !target.is_sound() {
            return Some(Resolution::Unsound);
        }
        let Ok(path) = FilePath::parse(&target.bytes) else {
            return Some(Resolution::NoWay);
        };
        self.passed.pop();
        if target.bytes.first() == Some(&b'/') {
            self.passed.truncate(1);
        }
        self.wants_directory |= self.rest.is_empty() && path.wants_directory();
        for component in path.components().iter().rev() {
            self.rest.push_front(component.clone());
        }
        self.climb(caller)
    }

    fn missing(&mut self, caller: &Caller) -> Resolution {
        if !caller.may(Permission::Search, self.here()) {
            return Resolution::Denied;
        }
        let dir = *self.here();
        match (self.rest.pop_front(), self.rest.is_empty()) {
            (Some(Component::Name(name)), true) => Resolution::Missing { dir, name },
            _ => Resolution::NoWay,
        }
    }
}

#[cfg(test)]
#[path = "resolver/tests.rs"]
mod tests;
