//! When something last ended, per inode, in bounded memory. Pure.

use std::collections::BTreeMap;

use wire::namespace::Inode;

/// Inodes remembered: at 10,000 changes a second what a question of some seconds has to look back at.
const INODES_MAX: usize = 65_536;

/// A point in the order of what happens to a table. 0 is before everything.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Moment(pub(super) u64);

/// The last end of each inode; of those that are forgotten, that it was not after the floor.
#[derive(Debug, Default)]
pub(super) struct EndLog {
    ends: BTreeMap<Inode, Moment>,
    floor: Moment,
    last: Moment,
}

impl EndLog {
    /// Something of `inode` ended at `moment`.
    pub(super) fn note(&mut self, inode: Inode, moment: Moment) {
        if self.ends.len() >= INODES_MAX && !self.ends.contains_key(&inode) {
            self.ends.clear();
            self.floor = self.last;
        }
        self.last = moment;
        self.ends.insert(inode, moment);
    }

    /// Everything may have ended at `moment`.
    pub(super) fn note_all(&mut self, moment: Moment) {
        self.ends.clear();
        (self.floor, self.last) = (moment, moment);
    }

    /// Whether something of `inode` has ended, or may have, since `moment`.
    pub(super) fn ended_since(&self, inode: Inode, moment: Moment) -> bool {
        self.floor > moment || self.ends.get(&inode).is_some_and(|end| *end > moment)
    }

    /// Whether anything may have ended since `moment`.
    pub(super) fn any_since(&self, moment: Moment) -> bool {
        self.last > moment
    }
}

#[cfg(test)]
mod tests {
    use wire::namespace::Inode;

    use super::{EndLog, INODES_MAX, Moment};

    #[test]
    fn what_is_forgotten_counts_as_ended_and_the_log_stays_bounded() {
        let mut log = EndLog::default();
        let most = INODES_MAX as u64;
        for number in 1..=most {
            log.note(Inode(number), Moment(number));
        }
        assert!(log.ended_since(Inode(7), Moment(6)));
        assert!(!log.ended_since(Inode(7), Moment(7)));
        assert!(!log.ended_since(Inode(most + 9), Moment(0)), "never noted");
        log.note(Inode(most + 1), Moment(most + 1));
        assert!(log.ends.len() <= INODES_MAX);
        assert!(log.ended_since(Inode(7), Moment(most - 1)), "forgotten: it may have");
        assert!(!log.ended_since(Inode(7), Moment(most)), "nothing that is forgotten ended later");
        assert!(log.any_since(Moment(most)) && !log.any_since(Moment(most + 1)));
    }
}
