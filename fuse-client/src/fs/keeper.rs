//! The task that keeps the leases: renews their term, reclaims them after a change of leader, opens a new session when
//! the cluster has ended the old one.

use std::{sync::Arc, sync::Weak, time::Duration};

use futures::{StreamExt, stream};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use wire::{
    Answer, Refusal, Request,
    lease::{
        LEASES_PER_MESSAGE_MAX, LeaseAnswer, LeaseGeneration, LeaseMode, LeaseNumber, LeaseRequest, Release, TERM,
    },
    namespace::{Inode, NamespaceAnswer, NamespaceRequest},
};

use super::{
    Forget, FsConfig, Shared, Term, chunk_cache::ChunkCache, open_files::Handles, recall, table::Forgotten, write_out,
};
use crate::{
    cluster::{Cluster, ClusterError, now, pool_units},
    session::{OnChanged, Session, Told},
};

/// Between two renewals: three in a term, so that two may be lost.
const RENEW_INTERVAL: Duration = Duration::from_millis(900);

/// How long a renewal may take: what comes later is of no use.
const RENEW_DEADLINE: Duration = Duration::from_secs(4);

/// Of how many lost inodes the kernel is told at once.
const LOSSES_MAX: usize = 64;

/// Before another try when the cluster cannot be asked.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Opens the session and starts the tasks.
pub(super) async fn begin(
    cluster: Cluster,
    config: FsConfig,
    forgets: mpsc::Sender<Forget>,
) -> Result<Arc<Shared>, ClusterError> {
    // The session's answers go into the table of what is made only after it.
    let place: Arc<Mutex<Weak<Shared>>> = Arc::default();
    let session = Session::open_mount(&cluster, on_changed(Arc::clone(&place))).await?;
    let dirty = Semaphore::new(pool_units(config.dirty_bytes) as usize);
    let shared = Arc::new(Shared {
        gate: RwLock::new(()),
        table: Mutex::default(),
        term: Mutex::new(Term { until: now() }),
        silence: Mutex::default(),
        session: watch::Sender::new(session),
        settled: watch::Sender::new(0),
        keeper: Notify::new(),
        pressure: Notify::new(),
        dirty_pool: Arc::new(dirty),
        no_journal_until: Mutex::new(None),
        no_room: Mutex::new(None),
        chunks: ChunkCache::new(cluster.clone(), config.clean_bytes),
        handles: Mutex::new(Handles::default()),
        held_locks: Mutex::default(),
        lock_waits: Mutex::default(),
        forgets,
        usage: Mutex::new(None),
        last_generation: Mutex::default(),
        closing: std::sync::atomic::AtomicBool::new(false),
        stop: CancellationToken::new(),
        runtime: tokio::runtime::Handle::current(),
        tasks: TaskTracker::new(),
        cluster,
        config,
    });
    *place.lock() = Arc::downgrade(&shared);
    tell_open_inodes(&shared, &shared.session());
    shared.spawn(until_stopped(Arc::clone(&shared), keep(Arc::clone(&shared))));
    shared.spawn(until_stopped(Arc::clone(&shared), recall::listen(Arc::clone(&shared))));
    shared.spawn(until_stopped(Arc::clone(&shared), write_out::write_out(Arc::clone(&shared))));
    Ok(shared)
}

async fn until_stopped(shared: Arc<Shared>, task: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        () = shared.stop.cancelled() => {}
        () = task => {}
    }
}

fn on_changed(place: Arc<Mutex<Weak<Shared>>>) -> OnChanged {
    Box::new(move |ops, told| {
        let Some(shared) = place.lock().upgrade() else { return };
        let session = shared.session();
        let mut table = shared.table.lock();
        let surprise = match told {
            // What another generation granted is not held.
            Told::Changed(changed, outcomes)
                if session.leasing().is_some_and(|leasing| leasing.generation() == changed.generation) =>
            {
                table.absorb_changed(changed, ops, outcomes)
            }
            Told::Changed(_, outcomes) => table.absorb_outdated(ops, outcomes),
            Told::FateUnknown => {
                table.forget_named(ops);
                return;
            }
        };
        drop(table);
        shared.handle_surprise(surprise);
    })
}

/// Each keep-alive tells which inodes are open, so that they outlive their last name.
fn tell_open_inodes(shared: &Arc<Shared>, session: &Session) {
    let weak = Arc::downgrade(shared);
    session.tell_open_inodes(Box::new(move || weak.upgrade().map_or_else(Vec::new, |shared| shared.open_inodes())));
}

/// How a word of the keeper ended.
enum Word {
    Kept,
    NotCurrent,
    SessionEnded,
    Unheard,
}

async fn keep(shared: Arc<Shared>) {
    let mut sweep = now();
    loop {
        shared.silence.lock().handle_attempt(now());
        let word = if shared.session().is_over() {
            Word::SessionEnded
        } else if shared.session().leasing().is_some_and(|leasing| leasing.generation().term == 0) {
            Word::NotCurrent
        } else {
            renew(&shared).await
        };
        let pause = match word {
            Word::Kept => Some(RENEW_INTERVAL),
            Word::NotCurrent => match reclaim(&shared).await {
                Word::Kept | Word::SessionEnded | Word::NotCurrent => Some(Duration::ZERO),
                Word::Unheard => None,
            },
            Word::SessionEnded => reopen(&shared).await.then_some(Duration::ZERO),
            Word::Unheard => None,
        };
        match pause {
            Some(_) => shared.silence.lock().handle_answer(),
            None => shared.silence.lock().handle_failure(now()),
        }
        let pause = pause.unwrap_or(RETRY_PAUSE);
        if now().saturating_duration_since(sweep) >= RENEW_INTERVAL {
            sweep = now();
            shared.trim();
            shared.tidy_locks();
        }
        tokio::select! {
            () = shared.keeper.notified(), if pause < RENEW_INTERVAL || needs_care(&shared) => {}
            () = sleep(pause) => {}
        }
    }
}

/// Whether there is a reason to look before it is time.
fn needs_care(shared: &Shared) -> bool {
    shared.session().is_over() || shared.ttl().is_none()
}

async fn renew(shared: &Shared) -> Word {
    let session = shared.session();
    let Some(leasing) = session.leasing() else { return Word::SessionEnded };
    let generation = leasing.generation();
    let sent = now();
    let request = LeaseRequest::Renew { session: session.id(), generation };
    match say(shared, request).await {
        Ok(LeaseAnswer::Renewed) => {
            shared.extend(sent);
            Word::Kept
        }
        Ok(LeaseAnswer::NotCurrent) => Word::NotCurrent,
        Ok(_) => Word::Unheard,
        Err(error) => judge(&session, &error),
    }
}

fn judge(session: &Session, error: &ClusterError) -> Word {
    if matches!(error, ClusterError::Refused(Refusal::UnknownSession)) {
        session.handle_unknown();
        return Word::SessionEnded;
    }
    Word::Unheard
}

/// Asks the leader, within the time in which its answer is of use.
pub(super) async fn say(shared: &Shared, request: LeaseRequest) -> Result<LeaseAnswer, ClusterError> {
    let request = Request::Namespace(NamespaceRequest::Lease(request));
    match shared.cluster.call_leader(&request, RENEW_DEADLINE).await? {
        Answer::Namespace(NamespaceAnswer::Lease(answer)) => Ok(answer),
        _ => Err(ClusterError::Confused),
    }
}

/// Tells a leader that does not know them which leases are held; begins the next generation with those it accepts.
async fn reclaim(shared: &Arc<Shared>) -> Word {
    let session = shared.session();
    let Some(leasing) = session.leasing() else { return Word::SessionEnded };
    let old = match leasing.generation() {
        // An attempt before this one did not come to its end.
        generation if generation.term == 0 => *shared.last_generation.lock(),
        generation => generation,
    };
    *shared.last_generation.lock() = old;
    // Answers that are still on their way belong to a generation that is over.
    leasing.begin(LeaseGeneration::default());
    // Beyond the term nothing is held any more.
    let held = if shared.ttl().is_some() { shared.table.lock().leases() } else { Vec::new() };
    let sent = now();
    let mut parts: Vec<Vec<(Inode, LeaseMode)>> = held.chunks(LEASES_PER_MESSAGE_MAX).map(<[_]>::to_vec).collect();
    if parts.is_empty() {
        parts.push(Vec::new());
    }
    // Of several parts none is the last: another leader might hear that one alone. The renewal that follows says so.
    let more = parts.len() > 1;
    let mut refused: Vec<Inode> = Vec::new();
    let mut generation: Option<LeaseGeneration> = None;
    for leases in parts {
        let request = LeaseRequest::Reclaim { session: session.id(), generation: old, leases, more };
        match say(shared, request).await {
            Ok(LeaseAnswer::Reclaimed { generation: begun, refused: gone }) => {
                // Another life than that of the parts before: those are gone.
                if generation.is_some_and(|before| before != begun) {
                    refused.extend(held.iter().map(|(inode, _)| *inode));
                }
                generation = Some(begun);
                refused.extend(gone);
            }
            Ok(_) => return Word::Unheard,
            Err(error) => return judge(&session, &error),
        }
    }
    let begun = generation.expect("at least one part was answered");
    // What was said while the term ran counts after it only for the leader that has kept others from it all the time.
    let is_late = shared.ttl().is_none() && begun.term != old.term;
    let kept: std::collections::HashSet<Inode> = held.iter().filter(|_| !is_late).map(|(inode, _)| *inode).collect();
    let lost: Vec<Inode> = {
        let table = shared.table.lock();
        let leased = table.leases().into_iter().map(|(inode, _)| inode);
        leased.filter(|inode| !kept.contains(inode)).chain(refused).collect()
    };
    if !lost.is_empty() {
        info!(lost = lost.len(), "leases are gone; what others changed meanwhile is read anew");
    }
    // The keeper does not wait for the kernel: leases would run out meanwhile.
    let (task, lost) = (Arc::clone(shared), shared.lose_here(&lost));
    shared.spawn(async move { task.lose_in_kernel(lost).await });
    shared.table.lock().begin_generation();
    leasing.begin(begun);
    shared.extend(sent);
    shared.settle();
    if is_late {
        let task = Arc::clone(shared);
        shared.spawn(async move { task.disown(held, begun).await });
    }
    Word::Kept
}

/// The cluster has ended the session, with its locks: a new one takes its place. False if none could be
/// opened.
async fn reopen(shared: &Arc<Shared>) -> bool {
    let place = Arc::new(Mutex::new(Arc::downgrade(shared)));
    let all: Vec<Inode> = shared.table.lock().leases().into_iter().map(|(inode, _)| inode).collect();
    shared.lose(&all).await;
    shared.abandon_deferred();
    match Session::open_mount(&shared.cluster, on_changed(place)).await {
        Ok(session) => {
            warn!("the session with the cluster had ended (60 s of silence); a new one has begun");
            let files = shared.lose_locks();
            if files > 0 {
                warn!(files, "locks were lost; files on which they were held answer with errors until they are closed");
            }
            tell_open_inodes(shared, &session);
            shared.table.lock().begin_generation();
            *shared.last_generation.lock() = LeaseGeneration::default();
            shared.session.send_replace(session);
            shared.settle();
            true
        }
        Err(_) => false,
    }
}

impl Shared {
    /// The term runs from when its renewal was sent.
    fn extend(&self, sent: std::time::Instant) {
        let mut term = self.term.lock();
        term.until = term.until.max(sent + TERM);
    }

    /// What this leader has leased and was dropped here: it is to know. What something here rests on that it has not heard of
    /// is returned with that, when it is recalled.
    async fn disown(&self, mut held: Vec<(Inode, LeaseMode)>, generation: LeaseGeneration) {
        held.retain(|(inode, _)| !self.is_behind(*inode));
        for part in held.chunks(LEASES_PER_MESSAGE_MAX) {
            // What was granted since has a higher number.
            let release =
                |(inode, _): &(Inode, LeaseMode)| Release { number: LeaseNumber::default(), inode: *inode, keep: None };
            self.release(part.iter().map(release).collect(), generation).await;
        }
    }

    /// Leases that are gone: what rested on them is dropped, here and in the kernel.
    pub(super) async fn lose(self: &Arc<Self>, inodes: &[Inode]) {
        let lost = self.lose_here(inodes);
        self.lose_in_kernel(lost).await;
    }

    /// Leases that are gone: what rested on them is dropped here. Nothing is leased anew before [`Shared::lose_in_kernel`] is
    /// done.
    fn lose_here(&self, inodes: &[Inode]) -> Vec<(Inode, Forgotten)> {
        {
            let mut table = self.table.lock();
            for inode in inodes {
                table.entry(*inode).revoking += 1;
            }
        }
        // Answers under way that rest on them are given first.
        let _closed = self.gate.write();
        let mut table = self.table.lock();
        let now = now();
        inodes.iter().map(|inode| (*inode, table.lose(*inode, None, now))).collect()
    }

    /// What rested on leases that are gone is dropped in the kernel.
    async fn lose_in_kernel(self: &Arc<Self>, lost: Vec<(Inode, Forgotten)>) {
        // One for which the kernel waits does not keep the others.
        let lose = |(inode, forgotten): (Inode, Forgotten)| async move {
            if forgotten.pages {
                if !self.forget_pages(inode, Duration::from_millis(20)).await {
                    self.note_stale_pages(inode);
                }
                self.tell_kernel_of_attributes(inode).await;
            }
            self.tell_kernel_of_names(inode, forgotten.names).await;
            {
                let mut table = self.table.lock();
                table.entry(inode).revoking -= 1;
                table.drop_if_idle(inode);
            }
            self.settle();
        };
        stream::iter(lost).for_each_concurrent(LOSSES_MAX, lose).await;
    }
}
