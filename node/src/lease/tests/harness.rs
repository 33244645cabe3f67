//! A table with a clock.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;
use wire::{
    cluster::{ClientId, Peer},
    lease::{GRACE, LeaseGeneration, LeaseMode, LeaseNumber, Recall, Release, TERM},
    namespace::{Inode, SessionId},
};

use crate::lease::{ChangeId, Clearing, Leases, Marking, Passing, Readiness};

pub(super) const A: SessionId = SessionId(1);
pub(super) const B: SessionId = SessionId(2);
pub(super) const C: SessionId = SessionId(3);
pub(super) const CLIENT: Peer = Peer::Client(ClientId([7; 16]));
pub(super) const X: Inode = Inode(10);
pub(super) const Y: Inode = Inode(11);
pub(super) const SHARED: LeaseMode = LeaseMode::Shared;
pub(super) const EXCLUSIVE: LeaseMode = LeaseMode::Exclusive;

/// Longer than any lease lasts without a renewal.
pub(super) const OVER: Duration = TERM.saturating_add(GRACE);

pub(super) struct Table {
    pub(super) leases: Leases,
    pub(super) now: Instant,
}

impl Table {
    /// A term that begins without mounts.
    pub(super) fn open() -> Self {
        let mut table = Self::with_mounts(&[]);
        assert_eq!(table.leases.readiness(table.now), Readiness::Ready);
        for session in [A, B, C] {
            table.reclaim(session, &[]);
        }
        table
    }

    /// A term that begins with these.
    pub(super) fn with_mounts(mounts: &[SessionId]) -> Self {
        let now = Instant::now();
        let mut leases = Leases::new(5, now);
        assert_eq!(leases.readiness(now), Readiness::MountsUnknown);
        leases.begin(mounts.iter().copied());
        Self { leases, now }
    }

    pub(super) fn reclaim(
        &mut self,
        session: SessionId,
        leases: &[(Inode, LeaseMode)],
    ) -> (LeaseGeneration, Vec<Inode>) {
        self.leases.handle_reclaim(session, (CLIENT, LeaseGeneration::default()), leases, false, self.now)
    }

    /// Asks about inodes, from a state of now; what it did not get.
    pub(super) fn ask(&mut self, session: SessionId, told: &[Inode]) -> Vec<Inode> {
        let since = self.leases.moment();
        self.leases.settle_ask(session, &[], told, since).0
    }

    /// Takes inodes exclusively that nobody else holds; the place of the grant.
    pub(super) fn take(&mut self, session: SessionId, inodes: &[Inode]) -> LeaseNumber {
        let id = self.leases.open_change(session, Passing::No);
        assert_eq!(self.leases.mark(id, inodes), Marking::Marked);
        assert_eq!(self.leases.poll_clear(id, self.now), Clearing::Clear);
        self.leases.settle_exclusive(id);
        let since = self.leases.moment();
        let (unleased, number) = self.leases.settle_ask(session, inodes, &[], since);
        assert_eq!(unleased, []);
        number
    }

    pub(super) fn change(&mut self, session: SessionId, inodes: &[Inode]) -> (ChangeId, Marking) {
        let id = self.leases.open_change(session, Passing::Allowed);
        (id, self.leases.mark(id, inodes))
    }

    pub(super) fn marked(&mut self, session: SessionId, inodes: &[Inode]) -> ChangeId {
        let (id, marking) = self.change(session, inodes);
        assert_eq!(marking, Marking::Marked);
        id
    }

    pub(super) fn clear(&mut self, id: ChangeId) -> Clearing {
        self.leases.poll_clear(id, self.now)
    }

    pub(super) fn settle(&mut self, id: ChangeId, made: &[Inode], touched: &[Inode]) -> (Vec<Inode>, LeaseNumber) {
        let made: BTreeSet<Inode> = made.iter().copied().collect();
        self.leases.settle_change(id, &made, touched)
    }

    pub(super) fn recalls(&self, session: SessionId) -> Vec<Recall> {
        self.leases.recalls(session, LeaseNumber::default())
    }

    pub(super) fn release(&mut self, session: SessionId, number: LeaseNumber, inode: Inode, keep: Option<LeaseMode>) {
        self.leases.handle_release(session, &[Release { number, inode, keep }]);
    }

    /// Does what every recall asks for.
    pub(super) fn obey(&mut self, session: SessionId) {
        for Recall { number, inode, keep } in self.recalls(session) {
            self.release(session, number, inode, keep);
        }
    }
}
