//! Questions: answered from one state, and only when nobody may be changing locally what the answers tell.

use tokio::time::Instant;
use wire::{
    Refusal,
    namespace::{Inode, OpError, Query, QueryAnswer, SessionId},
};

use super::{
    change::OpenChange,
    desk::{Desk, Look, broken, left},
};
use crate::{
    lease::{Leases, Moment, Standing, told},
    namespace,
};

/// Questions in one request.
pub(super) const QUERIES_MAX: usize = 256;

/// How often the state that answers were made from may be overtaken before the question has its turn: somebody who
/// writes all the time would take the lease back each time before it is read.
const OVERTAKEN_MAX: u32 = 2;

/// Answers to questions, in their order.
pub(super) type Answers = Vec<Result<QueryAnswer, OpError>>;

/// Answers `queries` of `asker`, and does `grant` at the moment at which the answers stand, with the inodes that they
/// tell of and the moment after which they were made.
pub(super) async fn answer<T>(
    desk: &Desk,
    asker: Option<SessionId>,
    queries: &[Query],
    deadline: Instant,
    mut grant: impl FnMut(&mut Leases, &[Inode], Moment) -> T,
) -> Result<(Answers, T), Refusal> {
    let mut overtaken = 0;
    let mut turn = None;
    loop {
        let since = desk.with(|leases| leases.moment())?;
        let store = desk.node().consensus.read(left(deadline)).await.map_err(Refusal::from)?;
        let rows = store.snapshot();
        let answers = queries.iter().map(|query| namespace::query(&*rows, query)).collect::<Result<Answers, _>>();
        let answers = answers.map_err(|error| broken(&error))?;
        drop(rows);
        let mut inodes = Vec::new();
        if asker.is_some() || !desk.with(|leases| leases.is_quiet(since))? {
            queries.iter().zip(&answers).for_each(|(query, answer)| told(query, answer, &mut inodes));
            inodes.sort_unstable();
            inodes.dedup();
        }
        let look = |leases: &mut Leases, now| match leases.poll_told(asker, &inodes, since, now) {
            Standing::Current => Look::Done(Some(grant(leases, &inodes, since))),
            Standing::AskAgain => Look::Done(None),
            Standing::Until(at) => Look::Until(at),
        };
        if let Some(granted) = desk.wait(deadline, look).await? {
            return Ok((answers, granted));
        }
        overtaken += 1;
        if overtaken >= OVERTAKEN_MAX && turn.is_none() {
            turn = Some(OpenChange::of_question(desk, asker, &inodes, deadline).await?);
        }
    }
}
