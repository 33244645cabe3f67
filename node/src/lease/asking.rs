//! Questions at the table: whether answers stand, and what is leased with them. Pure.

use std::collections::BTreeSet;

use tokio::time::Instant;
use wire::{
    lease::{LeaseMode, LeaseNumber},
    namespace::{Inode, SessionId},
};

use super::{end_log::Moment, table::Leases};

/// Whether answers that were made may be given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// They tell what is.
    Current,
    /// Somebody may have changed locally what they tell, and has said so meanwhile: look again.
    AskAgain,
    /// Somebody may be changing it locally: not before then, unless something happens.
    Until(Instant),
}

impl Leases {
    /// Whether answers from a state after `since` that tell of `told` may be given to `asker`. What another may be
    /// changing locally is recalled.
    pub fn poll_told(&mut self, asker: Option<SessionId>, told: &[Inode], since: Moment, now: Instant) -> Standing {
        if self.is_quiet(since) {
            return Standing::Current;
        }
        let mut until: Option<Instant> = None;
        for inode in told {
            if let Some(holder) = self.exclusive_holder(*inode).filter(|holder| Some(*holder) != asker)
                && let Some(at) = self.recall(holder, *inode, Some(LeaseMode::Shared), now)
            {
                until = Some(until.map_or(at, |until| until.min(at)));
            }
        }
        if let Some(until) = until {
            return Standing::Until(until);
        }
        let ended = told.iter().any(|inode| self.unexclusive.ended_since(*inode, since));
        if ended { Standing::AskAgain } else { Standing::Current }
    }

    /// Whether nobody can have changed anything locally since `since`.
    pub fn is_quiet(&self, since: Moment) -> bool {
        self.exclusives == 0 && !self.unexclusive.any_since(since)
    }

    /// Leases to `session` what answers from a state after `since` told of, and that nobody changes; goes on with those
    /// of `exclusive` that it has. What it did not get is returned with the place of the grants.
    pub fn settle_ask(
        &mut self,
        session: SessionId,
        exclusive: &[Inode],
        told: &[Inode],
        since: Moment,
    ) -> (Vec<Inode>, LeaseNumber) {
        let number = self.next_number(session);
        let mut unleased = BTreeSet::new();
        for inode in exclusive {
            let has = self.exclusive_holder(*inode) == Some(session);
            if !has || !self.grant(session, *inode, LeaseMode::Exclusive, number) {
                unleased.insert(*inode);
            }
        }
        for inode in told {
            let stale = self.changed.ended_since(*inode, since);
            if stale || !self.grant(session, *inode, LeaseMode::Shared, number) {
                unleased.insert(*inode);
            }
        }
        (unleased.into_iter().collect(), number)
    }
}
