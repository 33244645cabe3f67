//! Changes and questions: the leader proposes and answers, others redirect.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::warn;
use wire::{
    Answer, Refusal,
    namespace::{BATCH_OPS_MAX, Batch, NamespaceAnswer, NamespaceRequest, Query, SessionId},
};

use super::{Asker, Served};
use crate::{
    membership::HOLDS_MAX,
    namespace::{self, CommandBody, CommandOutcome},
    node::Node,
};

/// Questions in one request.
const QUERIES_MAX: usize = 256;

/// Answers one request.
pub(super) async fn handle(
    node: &Arc<Node>,
    asker: Asker,
    request: NamespaceRequest,
    deadline: Duration,
) -> Result<Served, Refusal> {
    let client = asker.peer;
    let answer = match request {
        NamespaceRequest::Query(queries) => return query(node, &queries, deadline).await,
        NamespaceRequest::OpenSession { nonce } => {
            match propose(node, CommandBody::OpenSession { client, nonce }, deadline).await? {
                CommandOutcome::SessionOpened { session, inodes, gc_current } => {
                    heard(node, session);
                    NamespaceAnswer::SessionOpened { session, inodes, gc_current }
                }
                _ => return Err(Refusal::Internal),
            }
        }
        NamespaceRequest::KeepAlive { session, lowest_gc: _, orphans_seen, holds } => {
            if holds.len() > HOLDS_MAX {
                return Err(Refusal::Malformed);
            }
            must_own(node, asker, session, deadline).await?;
            let holds: BTreeSet<_> = holds.into_iter().collect();
            let spoken = node.with_leader_state(|leader| {
                leader.sessions.handle_keep_alive(session, orphans_seen, holds, Instant::now());
            });
            spoken.ok_or_else(|| Refusal::NotLeader { leader: node.leader_id() })?;
            let gc_current = namespace::gc_current(&*node.consensus.local()).map_err(|error| broken(&error))?;
            let orphans_index = namespace::orphans_index(&*node.consensus.local()).map_err(|error| broken(&error))?.0;
            NamespaceAnswer::Alive { gc_current, orphans_index }
        }
        NamespaceRequest::CloseSession { session } => {
            must_own(node, asker, session, deadline).await?;
            propose(node, CommandBody::CloseSession { session }, deadline).await?;
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
            asker.may_write()?;
            // Nobody keeps another's session alive. These rows suffice: a session that is not in them is new.
            let owner = namespace::session_owner(&*node.consensus.local(), batch.session);
            if owner.map_err(|error| broken(&error))? == Some(asker.peer) {
                heard(node, batch.session);
            }
            batch_outcomes(node, asker, batch, deadline).await?
        }
    };
    Ok(Answer::Namespace(answer).into())
}

/// Proposes a batch, in as many entries as its rows need.
async fn batch_outcomes(
    node: &Node,
    asker: Asker,
    batch: Batch,
    deadline: Duration,
) -> Result<NamespaceAnswer, Refusal> {
    if batch.ops.len() > BATCH_OPS_MAX {
        return Err(Refusal::Malformed);
    }
    let mut outcomes = Vec::with_capacity(batch.ops.len());
    for part in split(batch) {
        let command = CommandBody::Batch { client: asker.peer, batch: part };
        match propose(node, command, deadline).await? {
            CommandOutcome::Batch(part) => outcomes.extend(part),
            _ => return Err(Refusal::Internal),
        }
    }
    Ok(NamespaceAnswer::Batch(outcomes))
}

/// Cuts a batch between operations, so that no command touches more rows than it may.
fn split(batch: Batch) -> Vec<Batch> {
    let mut parts: Vec<Batch> = Vec::new();
    let mut rows = 0;
    for op in batch.ops {
        let cost = namespace::cost(&op.op);
        match parts.last_mut() {
            Some(part) if rows + cost <= namespace::ROWS_MAX => {
                rows += cost;
                part.ops.push(op);
            }
            _ => {
                rows = cost;
                let (session, lowest_unanswered) = (batch.session, batch.lowest_unanswered);
                parts.push(Batch { session, lowest_unanswered, ops: vec![op], want: batch.want });
            }
        }
    }
    parts
}

async fn query(node: &Node, queries: &[Query], deadline: Duration) -> Result<Served, Refusal> {
    if queries.len() > QUERIES_MAX {
        return Err(Refusal::Malformed);
    }
    let store = node.consensus.read(deadline).await.map_err(Refusal::from)?;
    let rows = store.snapshot();
    let answers = queries.iter().map(|query| namespace::query(&*rows, query)).collect::<Result<Vec<_>, _>>();
    let answers = answers.map_err(|error| broken(&error))?;
    Ok(Answer::Namespace(NamespaceAnswer::Query(answers)).into())
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

fn broken(error: &crate::kv::KvError) -> Refusal {
    warn!(%error, "the state of the namespace cannot be read");
    Refusal::Internal
}
