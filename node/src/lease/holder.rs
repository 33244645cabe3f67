//! One session's leases. Pure.

use std::collections::BTreeMap;

use tokio::time::Instant;
use wire::{
    cluster::Peer,
    lease::{LEASES_MAX, LEASES_PER_MESSAGE_MAX, LeaseMode, LeaseNumber, Recall},
    namespace::Inode,
};

/// A lease, as its holder's entry keeps it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) mode: LeaseMode,
    /// The last grant of it. Always before the recall: while one is outstanding nothing is granted.
    pub(super) granted: LeaseNumber,
    /// What is wanted back and has not come.
    pub(super) recall: Option<Recall>,
}

/// Whether a session's leases stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Life {
    /// They do, at least until its term is over.
    Current,
    /// They were taken away: it must reclaim, which begins another life.
    Over,
}

/// A session with a generation.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) client: Peer,
    /// Which life of the session this is.
    pub(super) number_of_life: u64,
    pub(super) life: Life,
    /// Its leases stand until then, unless it renews; longer if nobody minds.
    pub(super) until: Instant,
    /// The last number given out.
    last: LeaseNumber,
    pub(super) leases: BTreeMap<Inode, Held>,
    /// Recalls that were not answered, in their order.
    recalled: BTreeMap<LeaseNumber, Inode>,
}

impl Holder {
    /// A session that has not reclaimed.
    pub(super) fn new(client: Peer, now: Instant) -> Self {
        Self {
            client,
            number_of_life: 0,
            life: Life::Over,
            until: now,
            last: LeaseNumber::default(),
            leases: BTreeMap::new(),
            recalled: BTreeMap::new(),
        }
    }

    /// Another life begins, with the leases and recalls that stand, which are counted anew.
    pub(super) fn begin_life(&mut self, number: u64) {
        self.number_of_life = number;
        self.life = Life::Current;
        self.last = LeaseNumber::default();
        self.recalled.clear();
        for (inode, held) in &mut self.leases {
            held.granted = LeaseNumber::default();
            if let Some(recall) = &mut held.recall {
                self.last = LeaseNumber(self.last.0 + 1);
                recall.number = self.last;
                self.recalled.insert(self.last, *inode);
            }
        }
    }

    /// Takes all leases away; which they were.
    pub(super) fn end_life(&mut self) -> BTreeMap<Inode, Held> {
        self.life = Life::Over;
        self.recalled.clear();
        std::mem::take(&mut self.leases)
    }

    /// The next place in the order of grants and recalls.
    pub(super) fn next_number(&mut self) -> LeaseNumber {
        self.last = LeaseNumber(self.last.0 + 1);
        self.last
    }

    /// Whether there is room for a lease on `inode`.
    pub(super) fn has_room_for(&self, inode: Inode) -> bool {
        self.leases.len() < LEASES_MAX || self.leases.contains_key(&inode)
    }

    /// Whether it is waited for.
    pub(super) fn is_recalled(&self) -> bool {
        !self.recalled.is_empty()
    }

    /// Wants a lease back down to `keep`; whether that is news to the holder.
    pub(super) fn recall(&mut self, inode: Inode, keep: Option<LeaseMode>) -> bool {
        let number = LeaseNumber(self.last.0 + 1);
        let Some(held) = self.leases.get_mut(&inode).filter(|held| Some(held.mode) > keep) else { return false };
        match held.recall {
            Some(before) if before.keep <= keep => return false,
            Some(before) => {
                self.recalled.remove(&before.number);
            }
            None => {}
        }
        self.last = number;
        held.recall = Some(Recall { number, inode, keep });
        self.recalled.insert(number, inode);
        true
    }

    /// Lets go of a lease down to `keep`, unless it was granted after `number`; the mode before, if anything changed.
    pub(super) fn release(
        &mut self,
        inode: Inode,
        number: LeaseNumber,
        keep: Option<LeaseMode>,
    ) -> Option<(LeaseMode, Option<LeaseMode>)> {
        let held = self.leases.get_mut(&inode).filter(|held| held.granted <= number)?;
        let before = held.mode;
        let after = keep.map(|keep| keep.min(before));
        if let Some(recall) = held.recall.filter(|recall| after <= recall.keep) {
            self.recalled.remove(&recall.number);
            held.recall = None;
        }
        match after {
            Some(mode) => held.mode = mode,
            None => {
                self.leases.remove(&inode);
            }
        }
        Some((before, after))
    }

    /// Recalls beyond `known` that were not answered, as many as one message holds.
    pub(super) fn recalls(&self, known: LeaseNumber) -> Vec<Recall> {
        let beyond = LeaseNumber(known.0.saturating_add(1))..;
        let recalls = self.recalled.range(beyond).filter_map(|(_, inode)| self.leases.get(inode)?.recall);
        recalls.take(LEASES_PER_MESSAGE_MAX).collect()
    }
}
