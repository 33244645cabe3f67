//! The task that sends a session's batches and keeps it alive.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{
    StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::warn;
use wire::{
    Answer, Refusal, Request,
    lease::{LeaseAnswer, LeaseGeneration, LeaseRequest, MadeAt},
    namespace::{Batch, NamespaceAnswer, NamespaceRequest, NumberedOp, OpOutcome, Want},
};

use super::{
    CLOSE_DEADLINE, ChangeError, Shared,
    leasing::{Changed, Leasing, NOT_CURRENT_PAUSE, Told},
    window::Packed,
};
use crate::cluster::{ClusterError, now};

/// A session lives 60 s of silence, and the cluster wants a word each 20 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How long changes wait for others to let go of what they change: longer than one question to the leader may take.
const PATIENCE: Duration = Duration::from_secs(18);

/// Before operations that came too early are sent again: about a round trip with a sync.
const PUT_BACK_PAUSE: Duration = Duration::from_millis(5);

/// Before what was executed here and refused there is sent again: whoever refused it will not change its mind at once.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Whether the answers carry attributes: single calls want them, bulk work pays nothing for them.
const WANT_ATTRS_OPS_MAX: usize = 4;

/// A batch that is back from the cluster.
struct Returned {
    ops: Vec<NumberedOp>,
    /// As they were packed with them.
    made: Vec<MadeAt>,
    outcome: Result<Vec<OpOutcome>, ClusterError>,
}

/// Sends batches until the session is over.
pub(super) async fn drive(shared: Arc<Shared>) {
    let mut in_flight: FuturesUnordered<BoxFuture<'static, Returned>> = FuturesUnordered::new();
    let mut keep_alive: Option<BoxFuture<'static, ()>> = None;
    let mut ticks = interval(KEEP_ALIVE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut not_before = Instant::now();
    while !shared.is_over() {
        let at = now();
        if shared.closing.load(Ordering::Acquire) {
            shared.window.lock().hurry();
        }
        let pausing = Instant::now() < not_before;
        if !pausing {
            while let Some(packed) = { shared.window.lock().poll_batch(at) } {
                in_flight.push(Box::pin(send(Arc::clone(&shared), packed)));
            }
        }
        let look_again = { shared.window.lock().look_again_in(at) };
        tokio::select! {
            biased;
            Some(returned) = in_flight.next() => {
                if let Some(pause) = take_in(&shared, returned) {
                    not_before = Instant::now() + pause;
                }
            }
            () = shared.wake.notified() => {}
            () = sleep_until(not_before), if pausing => {}
            () = sleep(look_again.unwrap_or_default()), if look_again.is_some() => {}
            _ = ticks.tick(), if keep_alive.is_none() => {
                let shared = Arc::clone(&shared);
                // A missed one is no harm: the next is due long before the session ends.
                keep_alive = Some(Box::pin(async move { let _heard = shared.keep_alive().await.is_ok(); }));
            }
            Some(()) = OptionFuture::from(keep_alive.as_mut()) => keep_alive = None,
        }
    }
    shared.say_goodbye().await;
}

/// Sends one batch, to whoever leads, until it is answered or its deadline has passed.
async fn send(shared: Arc<Shared>, packed: Packed) -> Returned {
    let want = if packed.ops.len() <= WANT_ATTRS_OPS_MAX { Want::Attr } else { Want::Outcome };
    let Packed { lowest_unanswered, ops, made } = packed;
    let batch = Batch { session: shared.id, lowest_unanswered, ops, want };
    if let Some(leasing) = &shared.leasing {
        return send_under_leases(&shared, leasing, batch, made).await;
    }
    let request = Request::Namespace(NamespaceRequest::Batch(batch));
    let answer = shared.cluster.call_leader(&request, shared.cluster.config().deadline).await;
    let Request::Namespace(NamespaceRequest::Batch(Batch { ops, .. })) = request else {
        unreachable!("the request was made as a batch");
    };
    let outcome = match answer {
        Ok(Answer::Namespace(NamespaceAnswer::Batch(outcomes))) if outcomes.len() == ops.len() => Ok(outcomes),
        Ok(_) => Err(ClusterError::Confused),
        Err(error) => Err(error),
    };
    Returned { ops, made, outcome }
}

/// As [`send`], for a mount: what the changes touched is taken in before anybody who waits hears of it.
async fn send_under_leases(shared: &Shared, leasing: &Leasing, mut batch: Batch, made_at: Vec<MadeAt>) -> Returned {
    // What was touched is told of anyway.
    batch.want = Want::Outcome;
    let lowest = batch.lowest_unanswered;
    let deadline = shared.cluster.config().deadline;
    let until = Instant::now() + deadline;
    let patience = Instant::now() + PATIENCE;
    loop {
        let generation = leasing.generation();
        if generation.term == 0 {
            // Between two generations: the next begins in a moment.
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !leasing.renewed_since(generation, left).await {
                let outcome = Err(ClusterError::Refused(Refusal::Busy));
                // An attempt before this one may have come to something.
                leasing.tell(&batch.ops, Told::FateUnknown);
                return Returned { ops: batch.ops, made: made_at, outcome };
            }
            continue;
        }
        let ops = batch.ops.clone();
        let answer = shared.cluster.namespace(change(generation, batch, &made_at)).await;
        let outcome = match answer {
            Ok(NamespaceAnswer::Lease(LeaseAnswer::NotCurrent)) => {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    leasing.renewed_since(generation, left.min(NOT_CURRENT_PAUSE)).await;
                    batch = Batch { session: shared.id, lowest_unanswered: lowest, ops, want: Want::Outcome };
                    continue;
                }
                Err(ClusterError::Refused(Refusal::Busy))
            }
            Ok(NamespaceAnswer::Lease(LeaseAnswer::Changed { mut outcomes, touched, unleased, number, no_room }))
                if outcomes.len() == ops.len() =>
            {
                for answer in outcomes.iter_mut().flatten() {
                    answer.attr = touched.iter().find(|attr| attr.inode == answer.done.inode).copied();
                }
                shared.window.lock().handle_no_room(no_room);
                let made = made(&ops, &outcomes);
                let changed = Changed { generation, number, made, touched, unleased };
                leasing.tell(&ops, Told::Changed(&changed, &outcomes));
                Ok(outcomes)
            }
            // Others have yet to let go of what it changes.
            Err(ClusterError::Refused(Refusal::Busy)) if Instant::now() + deadline / 2 < patience => {
                batch = Batch { session: shared.id, lowest_unanswered: lowest, ops, want: Want::Outcome };
                continue;
            }
            Ok(_) => Err(ClusterError::Confused),
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            leasing.tell(&ops, Told::FateUnknown);
        }
        return Returned { ops, made: made_at, outcome };
    }
}

fn change(generation: LeaseGeneration, batch: Batch, made: &[MadeAt]) -> NamespaceRequest {
    NamespaceRequest::Lease(match made.is_empty() {
        true => LeaseRequest::Change { generation, batch },
        false => LeaseRequest::ChangeMade { generation, batch, made: made.to_vec() },
    })
}

/// Inodes that the operations made.
fn made(ops: &[NumberedOp], outcomes: &[OpOutcome]) -> Vec<wire::namespace::Inode> {
    let done = ops.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_ok());
    done.filter_map(|(numbered, _)| numbered.op.made()).collect()
}

/// Tells those who wait. In what time some operations are to be sent again, if any are.
fn take_in(shared: &Shared, returned: Returned) -> Option<Duration> {
    let Returned { ops, made, outcome } = returned;
    match outcome {
        Ok(outcomes) => {
            let answered = shared.window.lock().handle_outcomes(ops, &made, outcomes);
            shared.note_deferred();
            for (waiter, outcome) in answered.outcomes {
                waiter.answer(outcome.map_err(ChangeError::Op));
            }
            answered.put_back.then_some(PUT_BACK_PAUSE)
        }
        Err(ClusterError::Refused(Refusal::UnknownSession)) => {
            shared.end();
            None
        }
        Err(error) => {
            let error = Arc::new(error);
            let count = ops.len();
            let waiters = shared.window.lock().handle_given_up(ops, &made, error.is_final());
            let put_back = waiters.len() < count;
            for waiter in waiters {
                waiter.answer(Err(ChangeError::Cluster(Arc::clone(&error))));
            }
            match &*error {
                _ if !put_back => None,
                ClusterError::Refused(refusal) if *refusal != Refusal::Busy => {
                    warn!(%refusal, "changes that were answered are not taken; they are sent again");
                    Some(REFUSED_PAUSE)
                }
                _ => Some(PUT_BACK_PAUSE),
            }
        }
    }
}

impl Shared {
    /// Whether the driver has nothing more to do: the session has ended, or is closing and everything is answered.
    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Acquire) || (self.closing.load(Ordering::Acquire) && self.window.lock().is_idle())
    }

    async fn say_goodbye(&self) {
        if !self.ended.load(Ordering::Acquire) {
            let request = NamespaceRequest::CloseSession { session: self.id };
            // A session that could not say good-bye is ended by the cluster.
            let _closed = timeout(CLOSE_DEADLINE, self.cluster.namespace(request)).await.is_ok();
        }
        self.end();
    }
}
