//! Questions under leases: the leader grants with the answer.

use std::{collections::HashSet, time::Duration};

use tokio::time::{Instant, timeout};
use wire::{
    Refusal,
    lease::{LeaseAnswer, LeaseMode, LeaseRequest},
    namespace::{Attr, Inode, NamespaceAnswer, NamespaceRequest, OpError, Query, QueryAnswer},
};

use super::{FsError, OP_DEADLINE, Shared};
use crate::{cluster::ClusterError, session::NOT_CURRENT_PAUSE};

/// How long a question may take: a change of leader, and the reclaim after it, twice; and bytes that another mount has yet to
/// commit.
const ASK_DEADLINE: Duration = Duration::from_secs(18);

/// Between two looks at an inode whose lease the leader does not grant at the moment.
pub(super) const CONTENTION_PAUSE: Duration = Duration::from_millis(2);

impl Shared {
    /// Asks; every inode that the answers tell of is leased, those of `exclusive` exclusively, as far as the leader
    /// grants it now.
    pub(super) async fn ask(
        &self,
        exclusive: Vec<Inode>,
        queries: Vec<Query>,
    ) -> Result<Vec<Result<QueryAnswer, OpError>>, FsError> {
        self.commit_before_asking(&exclusive, &queries).await?;
        let until = Instant::now() + ASK_DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(FsError::Deadline);
            }
            let session = self.session();
            let Some(leasing) = session.leasing() else { return Err(FsError::SessionEnded) };
            let generation = leasing.generation();
            if generation.term == 0 || session.is_over() {
                self.keeper.notify_one();
                self.wait_for_news(left).await;
                continue;
            }
            let (id, exclusive, queries) = (session.id(), exclusive.clone(), queries.clone());
            let request =
                LeaseRequest::Ask { session: id, generation, exclusive: exclusive.clone(), queries: queries.clone() };
            match self.cluster.namespace(NamespaceRequest::Lease(request)).await {
                Ok(NamespaceAnswer::Lease(LeaseAnswer::Asked { answers, unleased, number })) => {
                    if answers.len() != queries.len() {
                        return Err(ClusterError::Confused.into());
                    }
                    let unleased: HashSet<Inode> = unleased.into_iter().collect();
                    let mut table = self.table.lock();
                    // What another generation granted is not held.
                    if leasing.generation() == generation {
                        table.absorb_asked(number, &exclusive, &unleased, &queries, &answers);
                    }
                    return Ok(answers);
                }
                Ok(NamespaceAnswer::Lease(LeaseAnswer::NotCurrent)) => {
                    self.keeper.notify_one();
                    leasing.renewed_since(generation, left.min(NOT_CURRENT_PAUSE)).await;
                }
                Err(ClusterError::Refused(Refusal::UnknownSession)) => {
                    session.handle_unknown();
                    self.keeper.notify_one();
                    self.wait_for_news(left).await;
                }
                // Somebody else has it, and needs longer to let it go.
                Err(ClusterError::Refused(Refusal::Busy)) => tokio::time::sleep(CONTENTION_PAUSE).await,
                Ok(_) => return Err(ClusterError::Confused.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One question.
    pub(super) async fn ask_one(&self, query: Query) -> Result<QueryAnswer, FsError> {
        let answer = self.ask(Vec::new(), vec![query]).await?.pop();
        Ok(answer.ok_or_else(|| FsError::from(ClusterError::Confused))??)
    }

    /// Attributes of an inode, and a shared lease on it.
    pub(super) async fn ask_attr(&self, inode: Inode) -> Result<Attr, FsError> {
        match self.ask_one(Query::Attr { inode }).await? {
            QueryAnswer::Attr(attr) => Ok(attr),
            _ => Err(ClusterError::Confused.into()),
        }
    }

    /// Waits until a lease was given back or a generation has begun, or a moment has passed.
    async fn wait_for_news(&self, at_most: Duration) {
        let mut settled = self.settled.subscribe();
        let mut sessions = self.session.subscribe();
        let news = async {
            tokio::select! {
                _ = settled.changed() => {}
                _ = sessions.changed() => {}
            }
        };
        // The loops that call this look again whatever happened.
        let _in_time = timeout(at_most.min(Duration::from_millis(200)), news).await.is_ok();
    }

    /// Waits until `inode` is not being given back any more, or its lease counts meanwhile.
    pub(super) async fn wait_settled(&self, inode: Inode) {
        let mut settled = self.settled.subscribe();
        let until = Instant::now() + OP_DEADLINE;
        while self.table.lock().get(inode).is_some_and(super::table::Node::is_closed) && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            let _in_time = timeout(left, settled.changed()).await.is_ok();
        }
    }

    /// Whether bytes of `inode` may be changed here: also while the lease is being given back, until it is let go.
    pub(super) fn holds_exclusive(&self, inode: Inode) -> bool {
        let held = |node: &super::table::Node| node.lease == Some(LeaseMode::Exclusive) && node.attr.is_some();
        self.ttl().is_some() && self.table.lock().get(inode).is_some_and(held)
    }

    /// Whether bytes of `inode` that lie here may be committed: its attributes need not be known.
    pub(super) fn may_commit(&self, inode: Inode) -> bool {
        let held = |node: &super::table::Node| node.lease == Some(LeaseMode::Exclusive);
        self.ttl().is_some() && self.table.lock().get(inode).is_some_and(held)
    }

    /// Makes sure that bytes of `inode` may be changed here: an exclusive lease, whose term runs.
    pub(super) async fn make_exclusive(&self, inode: Inode) -> Result<(), FsError> {
        let until = Instant::now() + OP_DEADLINE;
        while !self.holds_exclusive(inode) {
            if Instant::now() >= until {
                return Err(FsError::Deadline);
            }
            let mut answers = self.ask(vec![inode], vec![Query::Attr { inode }]).await?;
            answers.pop().ok_or_else(|| FsError::from(ClusterError::Confused))??;
            if !self.holds_exclusive(inode) {
                self.keeper.notify_one();
                self.wait_settled(inode).await;
                tokio::time::sleep(CONTENTION_PAUSE).await;
            }
        }
        Ok(())
    }
}
