//! Ends sessions of which nothing has been heard for their lifetime.

use tokio::time::Instant;
use tracing::info;
use wire::Refusal;

use super::{broken, live_sessions, propose};
use crate::{
    namespace::{self, CommandBody},
    node::Node,
};

pub(super) async fn end_silent_sessions(node: &Node) -> Result<(), Refusal> {
    let rows = node.consensus.local();
    // In this order: a session that is opened between lives, or is beyond.
    let beyond = namespace::next_session(&*rows).map_err(|error| broken(&error))?;
    let live = live_sessions(&*rows)?;
    let now = Instant::now();
    let expired = node.with_leader_state(|leader| {
        leader.sessions.retain(&live, beyond, now);
        leader.leases.retain(|session| live.contains_key(&session) || session >= beyond);
        leader.sessions.expired(&live, now)
    });
    for session in expired.unwrap_or_default() {
        // It may have spoken while others were ended. From here on it holds no lease, and is given none.
        let ends = node.with_leader_state(|leader| {
            let is_silent = leader.sessions.expired(&live, Instant::now()).contains(&session);
            is_silent.then(|| leader.leases.begin_session_end(session)).is_some()
        });
        if ends != Some(true) {
            continue;
        }
        info!(?session, "a silent session ends");
        let closed = propose(node, CommandBody::CloseSession { session }).await;
        node.with_leases(|leases| match &closed {
            Ok(_) => leases.handle_session_end(session),
            Err(_) => leases.abandon_session_end(session),
        });
        closed?;
    }
    Ok(())
}
