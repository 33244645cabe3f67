//! Leases at the edge: waits for what the table says, asks in the right order, answers.
//!
//! # Invariants
//! - What is granted or renewed is answered only after a read index whose round began after the request arrived.
//! - Answers are made from a state after the moment that their grants are compared with.
//! - A change keeps its inodes until it has been decided, whoever still waits for its answer.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::Instant;
use wire::{
    Answer, Refusal,
    lease::{
        EXCLUSIVE_MAX, LEASES_PER_MESSAGE_MAX, LeaseAnswer, LeaseGeneration, LeaseMode, LeaseNumber, LeaseRequest,
        MadeAt,
    },
    namespace::{Batch, Inode, NamespaceAnswer, Query, SessionId},
};

use super::{
    Asker, Served, change,
    change::OpenChange,
    desk::{Desk, Look, broken, left},
    question::{self, QUERIES_MAX},
    room,
};
use crate::{lease::Leases, namespace, node::Node};

/// How long a wait for recalls lasts, at most: so much longer than a round trip that waiting costs nothing.
const RECALLS_WAIT: Duration = Duration::from_secs(10);

/// Inodes that one operation changes: a rename has two directories, what moves and what is replaced.
const BEFORE_MAX: usize = 4;

/// Answers one request.
pub(super) async fn handle(
    node: &Arc<Node>,
    asker: Asker,
    request: LeaseRequest,
    deadline: Instant,
) -> Result<Served, Refusal> {
    let answer = match request {
        LeaseRequest::Ask { session, generation, exclusive, queries } => {
            let is_long = queries.iter().any(|query| matches!(query, Query::Journaled { .. }));
            if exclusive.len() > EXCLUSIVE_MAX || queries.len() > QUERIES_MAX || is_long {
                return Err(Refusal::Malformed);
            }
            if !exclusive.is_empty() {
                asker.may_write()?;
            }
            ask(node, asker, (session, generation), &exclusive, &queries, deadline).await?
        }
        LeaseRequest::Change { generation, batch } => {
            change(node, asker, generation, (batch, Vec::new()), deadline).await?
        }
        LeaseRequest::Renew { session, generation } => renew(node, asker, session, generation, deadline).await?,
        LeaseRequest::Reclaim { session, generation, leases, more } => {
            if leases.len() > LEASES_PER_MESSAGE_MAX {
                return Err(Refusal::Malformed);
            }
            reclaim(node, asker, (session, generation), &leases, more, deadline).await?
        }
        LeaseRequest::Recalls { session, generation, known } => {
            recalls(node, asker, (session, generation), known, deadline).await?
        }
        LeaseRequest::Release { session, generation, releases } => {
            if releases.len() > LEASES_PER_MESSAGE_MAX {
                return Err(Refusal::Malformed);
            }
            Desk::of(node)?.with(|leases| {
                if !leases.is_current(session, asker.peer, generation) {
                    return LeaseAnswer::NotCurrent;
                }
                leases.handle_release(session, &releases);
                LeaseAnswer::Released
            })?
        }
        LeaseRequest::ChangeMade { generation, batch, made } => {
            if made.len() != batch.ops.len() || made.iter().any(|made| made.before.len() > BEFORE_MAX) {
                return Err(Refusal::Malformed);
            }
            change(node, asker, generation, (batch, made), deadline).await?
        }
    };
    Ok(Answer::Namespace(NamespaceAnswer::Lease(answer)).into())
}

async fn ask(
    node: &Arc<Node>,
    asker: Asker,
    (session, generation): (SessionId, LeaseGeneration),
    exclusive: &[Inode],
    queries: &[Query],
    deadline: Instant,
) -> Result<LeaseAnswer, Refusal> {
    let desk = Desk::open(node, deadline).await?;
    let is_current = |leases: &mut Leases| leases.is_current(session, asker.peer, generation);
    if !desk.with(is_current)? {
        return Ok(LeaseAnswer::NotCurrent);
    }
    heard(node, session);
    if !exclusive.is_empty() {
        OpenChange::of_wish(&desk, session, exclusive, deadline).await?.end_wish()?;
    }
    let grant = |leases: &mut Leases, told: &[Inode], since| {
        is_current(leases).then(|| leases.settle_ask(session, exclusive, told, since))
    };
    let (answers, granted) = question::answer(&desk, Some(session), queries, deadline, grant).await?;
    Ok(match granted {
        Some((unleased, number)) => LeaseAnswer::Asked { answers, unleased, number },
        None => LeaseAnswer::NotCurrent,
    })
}

async fn change(
    node: &Arc<Node>,
    asker: Asker,
    generation: LeaseGeneration,
    (batch, made_at): (Batch, Vec<MadeAt>),
    deadline: Instant,
) -> Result<LeaseAnswer, Refusal> {
    asker.may_change(&batch)?;
    change::check(&batch)?;
    let desk = Desk::open(node, deadline).await?;
    room::check_made(node, &batch, &made_at)?;
    let session = batch.session;
    let is_current = |leases: &mut Leases| leases.is_current(session, asker.peer, generation);
    if !desk.with(is_current)? {
        return Ok(LeaseAnswer::NotCurrent);
    }
    heard(node, session);
    let makes: Vec<Option<Inode>> = batch.ops.iter().map(|op| op.op.made()).collect();
    let mut change = OpenChange::of_batch(&desk, &batch, deadline).await?;
    if !desk.with(is_current)? {
        return Ok(LeaseAnswer::NotCurrent);
    }
    let applied = change.apply(asker, batch, made_at, deadline).await?;
    let made = makes.iter().zip(&applied.outcomes).filter(|(_, outcome)| outcome.is_ok());
    let made: BTreeSet<Inode> = made.filter_map(|(made, _)| *made).collect();
    let (unleased, number) = change.end_leased(asker, (session, generation), &made, &applied.touched)?;
    let no_room = !room::is_left(node);
    Ok(LeaseAnswer::Changed { outcomes: applied.outcomes, touched: applied.touched, unleased, number, no_room })
}

async fn renew(
    node: &Arc<Node>,
    asker: Asker,
    session: SessionId,
    generation: LeaseGeneration,
    deadline: Instant,
) -> Result<LeaseAnswer, Refusal> {
    let desk = Desk::of(node)?;
    let is_current = |leases: &Leases| leases.is_current(session, asker.peer, generation);
    if !desk.with(|leases| is_current(leases))? {
        return Ok(LeaseAnswer::NotCurrent);
    }
    heard(node, session);
    node.consensus.read(left(deadline)).await.map_err(Refusal::from)?;
    desk.with(|leases| {
        if !is_current(leases) {
            return LeaseAnswer::NotCurrent;
        }
        leases.handle_renew(session, Instant::now());
        LeaseAnswer::Renewed
    })
}

async fn reclaim(
    node: &Arc<Node>,
    asker: Asker,
    (session, known): (SessionId, LeaseGeneration),
    leases: &[(Inode, LeaseMode)],
    more: bool,
    deadline: Instant,
) -> Result<LeaseAnswer, Refusal> {
    let desk = Desk::of(node)?;
    let store = node.consensus.read(left(deadline)).await.map_err(Refusal::from)?;
    let owner = namespace::session_owner(&*store, session).map_err(|error| broken(&error))?;
    let is_mount = namespace::is_mount(&*store, session).map_err(|error| broken(&error))?;
    if owner != Some(asker.peer) || !is_mount {
        return Err(Refusal::UnknownSession);
    }
    heard(node, session);
    desk.learn_mounts(deadline).await?;
    if desk.with(|table| table.is_ending(session))? {
        return Err(Refusal::Busy);
    }
    desk.with(|table| {
        let (generation, refused) = table.handle_reclaim(session, (asker.peer, known), leases, more, Instant::now());
        LeaseAnswer::Reclaimed { generation, refused }
    })
}

async fn recalls(
    node: &Arc<Node>,
    asker: Asker,
    (session, generation): (SessionId, LeaseGeneration),
    known: LeaseNumber,
    deadline: Instant,
) -> Result<LeaseAnswer, Refusal> {
    let desk = Desk::of(node)?;
    // The asker should hear that there are none, rather than nothing.
    let until = Instant::now() + RECALLS_WAIT.min(left(deadline) * 3 / 4);
    let look = |leases: &mut Leases, now| {
        if !leases.is_current(session, asker.peer, generation) {
            return Look::Done(LeaseAnswer::NotCurrent);
        }
        let recalls = leases.recalls(session, known);
        if recalls.is_empty() && now < until { Look::Until(until) } else { Look::Done(LeaseAnswer::Recalls(recalls)) }
    };
    desk.listen(&node.lease_bells.recalled, deadline, look).await
}

fn heard(node: &Node, session: SessionId) {
    node.with_leader_state(|leader| leader.sessions.handle_request(session, Instant::now()));
}
