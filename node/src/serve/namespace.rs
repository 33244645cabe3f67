//! Changes and questions: the leader proposes and answers, others redirect.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use wire::{
    Answer, Refusal,
    namespace::{Batch, NamespaceAnswer, NamespaceRequest, Query, SessionId},
};

use super::{
    Asker, Served, change,
    change::OpenChange,
    desk::{Desk, broken, left},
    lease,
    question::{self, QUERIES_MAX},
    room,
};
use crate::{
    membership::HOLDS_MAX,
    namespace::{self, CommandBody, CommandOutcome},
    node::Node,
};

/// Answers one request.
pub(super) async fn handle(
    node: &Arc<Node>,
    asker: Asker,
    request: NamespaceRequest,
    deadline: Duration,
) -> Result<Served, Refusal> {
    let client = asker.peer;
    let until = Instant::now() + deadline;
    let answer = match request {
        NamespaceRequest::Query(queries) => return query(node, &queries, until).await,
        NamespaceRequest::Lease(request) => return lease::handle(node, asker, request, until).await,
        NamespaceRequest::OpenSession { nonce } => {
            open_session(node, CommandBody::OpenSession { client, nonce }, deadline).await?
        }
        NamespaceRequest::OpenMount { nonce } => {
            open_session(node, CommandBody::OpenMount { client, nonce }, deadline).await?
        }
        NamespaceRequest::KeepAlive { session, lowest_gc, orphans_seen, holds } => {
            if holds.len() > HOLDS_MAX {
                return Err(Refusal::Malformed);
            }
            must_own(node, asker, session, deadline).await?;
            let holds: BTreeSet<_> = holds.into_iter().collect();
            let spoken = node.with_leader_state(|leader| {
                leader.sessions.handle_keep_alive(session, orphans_seen, holds, Instant::now());
                leader.sessions.handle_lowest_gc(session, lowest_gc, Instant::now());
            });
            spoken.ok_or_else(|| Refusal::NotLeader { leader: node.leader_id() })?;
            let gc_current = namespace::gc_current(&*node.consensus.local()).map_err(|error| broken(&error))?;
            let orphans_index = namespace::orphans_index(&*node.consensus.local()).map_err(|error| broken(&error))?.0;
            NamespaceAnswer::Alive { gc_current, orphans_index }
        }
        NamespaceRequest::CloseSession { session } => {
            must_own(node, asker, session, deadline).await?;
            propose(node, CommandBody::CloseSession { session }, deadline).await?;
            node.with_leases(|leases| leases.handle_session_end(session));
            NamespaceAnswer::SessionClosed
        }
        NamespaceRequest::ReserveInodes { session } => {
            must_own(node, asker, session, deadline).await?;
            match propose(node, CommandBody::ReserveInodes { session }, deadline).await? {
                CommandOutcome::InodesReserved(range) => NamespaceAnswer::InodesReserved(range),
                _ => return Err(Refusal::Internal),
            }
        }
        NamespaceRequest::Batch(batch) => {
            asker.may_change(&batch)?;
            // Nobody keeps another's session alive. These rows suffice: a session that is not in them is new.
            let owner = namespace::session_owner(&*node.consensus.local(), batch.session);
            if owner.map_err(|error| broken(&error))? == Some(asker.peer) {
                heard(node, batch.session);
            }
            batch_outcomes(node, asker, batch, until).await?
        }
    };
    Ok(Answer::Namespace(answer).into())
}

async fn open_session(node: &Node, command: CommandBody, deadline: Duration) -> Result<NamespaceAnswer, Refusal> {
    match propose(node, command, deadline).await? {
        CommandOutcome::SessionOpened { session, inodes, gc_current } => {
            node.with_leader_state(|leader| leader.sessions.handle_opened(session, gc_current, Instant::now()));
            Ok(NamespaceAnswer::SessionOpened { session, inodes, gc_current })
        }
        _ => Err(Refusal::Internal),
    }
}

/// Changes of a session, which may hold leases or none.
async fn batch_outcomes(
    node: &Arc<Node>,
    asker: Asker,
    batch: Batch,
    deadline: Instant,
) -> Result<NamespaceAnswer, Refusal> {
    change::check(&batch)?;
    let desk = Desk::open(node, deadline).await?;
    room::check(node, &batch)?;
    let mut change = OpenChange::of_batch(&desk, &batch, deadline).await?;
    let applied = change.apply(asker, batch, Vec::new(), deadline).await?;
    change.end()?;
    Ok(NamespaceAnswer::Batch(applied.outcomes))
}

async fn query(node: &Arc<Node>, queries: &[Query], deadline: Instant) -> Result<Served, Refusal> {
    if queries.len() > QUERIES_MAX {
        return Err(Refusal::Malformed);
    }
    if queries.iter().any(|query| matches!(query, Query::Journaled { .. })) {
        return journaled(node, queries, deadline).await;
    }
    let desk = Desk::open(node, deadline).await?;
    let (answers, ()) = question::answer(&desk, None, queries, deadline, |_, _, _| ()).await?;
    Ok(Answer::Namespace(NamespaceAnswer::Query(answers)).into())
}

/// A chunk's bytes never change and nobody leases them, so a new leader answers before it knows of leases. They are long, so
/// one is asked for at a time.
async fn journaled(node: &Node, queries: &[Query], deadline: Instant) -> Result<Served, Refusal> {
    let [query] = queries else { return Err(Refusal::Malformed) };
    let rows = node.consensus.read(left(deadline)).await.map_err(Refusal::from)?;
    let answer = namespace::query(&*rows, query).map_err(|error| broken(&error))?;
    Ok(Answer::Namespace(NamespaceAnswer::Query(vec![answer])).into())
}

/// Proposes a command and takes a whole refusal apart from the other outcomes.
pub(crate) async fn propose(node: &Node, command: CommandBody, deadline: Duration) -> Result<CommandOutcome, Refusal> {
    match node.consensus.propose(command, deadline).await {
        Ok(CommandOutcome::Refused(refusal)) => Err(refusal),
        Ok(outcome) => Ok(outcome),
        Err(error) => Err(error.into()),
    }
}

/// A session serves its own client alone.
async fn must_own(node: &Node, asker: Asker, session: SessionId, deadline: Duration) -> Result<(), Refusal> {
    let store = node.consensus.read(deadline).await.map_err(Refusal::from)?;
    let owner = namespace::session_owner(&*store, session).map_err(|error| broken(&error))?;
    if owner == Some(asker.peer) { Ok(()) } else { Err(Refusal::UnknownSession) }
}

fn heard(node: &Node, session: SessionId) {
    node.with_leader_state(|leader| leader.sessions.handle_request(session, Instant::now()));
}
