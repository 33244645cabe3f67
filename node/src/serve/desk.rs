//! Where requests wait at the leases of one term.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, SemaphorePermit},
    time::{Instant, timeout_at},
};
use tracing::warn;
use wire::Refusal;

use crate::{
    lease::{Leases, Readiness},
    namespace,
    node::Node,
};

/// How long a wait may miss that this node does not lead any more: nothing rings then.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The leases of one term of this node. In another term everything is refused.
#[derive(Clone)]
pub(super) struct Desk {
    node: Arc<Node>,
    term: u64,
}

/// What a look at the leases came to.
pub(super) enum Look<T> {
    /// This.
    Done(T),
    /// Nothing yet: look again when the bell rings, or at this time.
    Until(Instant),
}

impl Desk {
    /// The leases of this term.
    pub(super) fn of(node: &Arc<Node>) -> Result<Self, Refusal> {
        let term = node.with_leases(|leases| leases.term());
        let term = term.ok_or_else(|| Refusal::NotLeader { leader: node.leader_id() })?;
        Ok(Self { node: node.clone(), term })
    }

    /// The leases of this term, once they may be granted: what mounts held in the term before is known or over.
    pub(super) async fn open(node: &Arc<Node>, deadline: Instant) -> Result<Self, Refusal> {
        let desk = Self::of(node)?;
        desk.learn_mounts(deadline).await?;
        let ready = |leases: &mut Leases, now| match leases.readiness(now) {
            Readiness::Ready => Look::Done(()),
            Readiness::Until(at) => Look::Until(at),
            Readiness::MountsUnknown => Look::Until(deadline),
        };
        desk.wait(deadline, ready).await?;
        Ok(desk)
    }

    /// Tells the table which mounts there are. Not before everything that the terms before have decided is applied.
    pub(super) async fn learn_mounts(&self, deadline: Instant) -> Result<(), Refusal> {
        if self.with(|leases| leases.readiness(Instant::now()))? != Readiness::MountsUnknown {
            return Ok(());
        }
        let store = self.node.consensus.read(left(deadline)).await.map_err(Refusal::from)?;
        let mounts = namespace::mount_sessions(&*store).map_err(|error| broken(&error))?;
        self.with(|leases| leases.begin(mounts))
    }

    /// The node.
    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Looks at the leases.
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Leases) -> T) -> Result<T, Refusal> {
        let done = self.node.with_leases(|leases| (leases.term() == self.term).then(|| look(leases)));
        done.flatten().ok_or_else(|| Refusal::NotLeader { leader: self.node.leader_id() })
    }

    /// A place for a request that waits for others: if there is none, [`Refusal::Busy`].
    pub(super) fn place(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        self.node.lease_waits.try_acquire().map_err(|_| Refusal::Busy)
    }

    /// Looks at the leases until there is something to see that others have to bring about; [`Refusal::Busy`] if there
    /// is not in time, or too many wait.
    pub(super) async fn wait<T>(
        &self,
        deadline: Instant,
        mut look: impl FnMut(&mut Leases, Instant) -> Look<T>,
    ) -> Result<T, Refusal> {
        // Mostly there is something at once.
        if let Look::Done(done) = self.with(|leases| look(leases, Instant::now()))? {
            return Ok(done);
        }
        let _place = self.place()?;
        self.listen(&self.node.lease_bells.freed, deadline, look).await
    }

    /// Looks at the leases until there is something to see; [`Refusal::Busy`] if there is not in time.
    pub(super) async fn listen<T>(
        &self,
        bell: &Notify,
        deadline: Instant,
        mut look: impl FnMut(&mut Leases, Instant) -> Look<T>,
    ) -> Result<T, Refusal> {
        loop {
            let mut rung = std::pin::pin!(bell.notified());
            // From here on: what happens between the look and the wait must not be missed.
            rung.as_mut().enable();
            let now = Instant::now();
            match self.with(|leases| look(leases, now))? {
                Look::Done(done) => return Ok(done),
                Look::Until(_) if now >= deadline => return Err(Refusal::Busy),
                // Whether it rang or not: look again.
                Look::Until(at) => drop(timeout_at(at.min(deadline).min(now + LOOK_EVERY), rung).await),
            }
        }
    }
}

/// Time until `deadline`.
pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Logs a failing store.
pub(super) fn broken(error: &crate::kv::KvError) -> Refusal {
    warn!(%error, "the state of the namespace cannot be read");
    Refusal::Internal
}
