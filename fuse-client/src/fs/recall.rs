//! Recalls: the leader wants leases back, for somebody else.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};
use tracing::debug;
use wire::{
    Answer, Request,
    lease::{LeaseAnswer, LeaseGeneration, LeaseMode, LeaseNumber, LeaseRequest, Recall, Release},
    namespace::{Inode, NamespaceAnswer, NamespaceRequest},
};

use super::{FsError, Shared, keeper::say};
use crate::cluster::now;

/// How long a wait for recalls may take: the leader answers within ten seconds.
const LISTEN_DEADLINE: Duration = Duration::from_secs(14);

/// How long locks may take to be returned before a lease is let go without that: whoever waits for it waits ten seconds.
const LOCKS_DEADLINE: Duration = Duration::from_secs(6);

/// How often it is looked whether the recall still counts while what is dirty is committed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Content of small files that came with listings and is kept: 32 MiB of it.
const CONTENTS_KEPT_MAX: usize = 8192;

/// Before another try when the cluster cannot be asked.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How often a release is tried; after that the generation is over anyway.
const RELEASES_MAX: u32 = 50;

/// Leases that the client may keep before it lets go of those it has not used lately.
const LEASES_KEPT_MAX: usize = 100_000;

/// Listens for recalls and answers them.
pub(super) async fn listen(shared: Arc<Shared>) {
    let mut known = (LeaseGeneration::default(), LeaseNumber::default());
    loop {
        let session = shared.session();
        let Some(leasing) = session.leasing() else { return };
        let generation = leasing.generation();
        if generation.term == 0 || session.is_over() {
            sleep(RETRY_PAUSE).await;
            continue;
        }
        if known.0 != generation {
            known = (generation, LeaseNumber::default());
        }
        let request = LeaseRequest::Recalls { session: session.id(), generation, known: known.1 };
        let request = Request::Namespace(NamespaceRequest::Lease(request));
        match shared.cluster.call_leader(&request, LISTEN_DEADLINE).await {
            Ok(Answer::Namespace(NamespaceAnswer::Lease(LeaseAnswer::Recalls(recalls)))) => {
                for recall in recalls {
                    known.1 = known.1.max(recall.number);
                    let task = Arc::clone(&shared);
                    shared.spawn(async move { task.give_back(recall, generation).await });
                }
            }
            Ok(Answer::Namespace(NamespaceAnswer::Lease(LeaseAnswer::NotCurrent))) => {
                shared.keeper.notify_one();
                leasing.renewed_since(generation, RETRY_PAUSE).await;
            }
            Ok(_) | Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}

/// How often it is tried to commit what rests on a lease before it is let go without that.
const GIVE_BACK_TRIES: usize = 5;

/// Whether nothing rests on the lease of an inode.
fn is_idle(node: &super::table::Node, at: std::time::Instant) -> bool {
    node.lease.is_some()
        && node.revoking == 0
        && node.deferred == 0
        && node.opens == 0
        && node.file.is_none()
        && node.told_until.is_none_or(|until| until < at)
}

impl Shared {
    /// Lets go of a lease: writes out what rests on it, forgets what is cached, tells the leader.
    async fn give_back(self: &Arc<Self>, recall: Recall, generation: LeaseGeneration) {
        let Recall { inode, keep, number } = recall;
        let session = self.session();
        let holds_more = {
            let mut table = self.table.lock();
            // A recall of a generation that is over says nothing.
            if session.leasing().is_none_or(|leasing| leasing.generation() != generation) {
                return;
            }
            table.begin_recall(&recall)
        };
        if keep != Some(LeaseMode::Exclusive) {
            self.return_locks(inode, LOCKS_DEADLINE).await;
        }
        let is_gone = if holds_more {
            self.let_go(inode, keep, generation).await
        } else {
            // Let go in another generation, before all that rested on it was committed.
            !self.is_behind(inode) || self.flush_before(inode, generation).await
        };
        let number = {
            let mut table = self.table.lock();
            let node = table.entry(inode);
            number.max(node.granted)
        };
        if is_gone {
            self.release(vec![Release { number, inode, keep }], generation).await;
        }
        if holds_more {
            let mut table = self.table.lock();
            table.entry(inode).revoking -= 1;
            table.drop_if_idle(inode);
        }
        self.settle();
    }

    /// Commits what is written, sees to it that the kernel keeps nothing, and lets the lease go. Nothing that rests on
    /// it is answered meanwhile. False if the generation of the recall ended meanwhile, and the recall with it.
    async fn let_go(self: &Arc<Self>, inode: Inode, keep: Option<LeaseMode>, generation: LeaseGeneration) -> bool {
        // Answers under way, and writes that were let in, come to their end.
        drop(self.gate.write());
        if !self.flush_before(inode, generation).await {
            return false;
        }
        let mut gone = true;
        if keep.is_none() {
            gone = self.drain_pages(inode).await;
            // What was changed through mappings has come back from the kernel by now.
            if !self.flush_before(inode, generation).await {
                return false;
            }
        }
        let forgotten = {
            let _closed = self.gate.write();
            let mut table = self.table.lock();
            table.lose(inode, keep, now())
        };
        if !gone {
            self.note_stale_pages(inode);
        }
        // Asked to forget pages once more, the kernel might wait for a write that waits for the lease.
        let attributes = async {
            if keep.is_none() {
                self.tell_kernel_of_attributes(inode).await;
            }
        };
        tokio::join!(attributes, self.tell_kernel_of_names(inode, forgotten.names));
        true
    }

    /// Commits what is written and what was answered here, as long as it takes: others wait for it, and are told that they
    /// cannot have it now if that is too long. False if the generation ended meanwhile; what is not committed then goes on.
    async fn flush_before(self: &Arc<Self>, inode: Inode, generation: LeaseGeneration) -> bool {
        for _ in 0..GIVE_BACK_TRIES {
            let (done, mut flushed) = oneshot::channel();
            let shared = Arc::clone(self);
            // Not given up half way: nobody would know what became of its commit.
            self.spawn(async move {
                let outcome = shared.flush_for_recall(inode).await;
                let committed = shared.commit_before_asking(&[inode], &[]).await;
                // Nobody may wait for it any more.
                let _told = done.send(outcome.and(committed)).is_ok();
            });
            let outcome = loop {
                match timeout(LOOK_INTERVAL, &mut flushed).await {
                    Ok(outcome) => break outcome.unwrap_or(Err(FsError::SessionEnded)),
                    Err(_) if self.generation() != Some(generation) => return false,
                    Err(_) => {}
                }
            };
            match outcome {
                Ok(()) => return true,
                // Its writer was told, or will be: there is no room, and others are not to wait for that.
                Err(error) if error.is_no_room() => break,
                Err(error) => debug!(%inode, %error, "what was written could not be committed before its lease goes"),
            }
            if !self.is_behind(inode) {
                break;
            }
            sleep(RETRY_PAUSE).await;
        }
        self.generation() == Some(generation)
    }

    /// Whether something of an inode is here that the leader has not heard of.
    pub(super) fn is_behind(&self, inode: Inode) -> bool {
        let table = self.table.lock();
        let file = table.get(inode).and_then(|node| node.file.as_ref());
        file.is_some_and(|file| file.is_dirty()) || table.is_ahead(std::iter::once(inode))
    }

    fn generation(&self) -> Option<LeaseGeneration> {
        self.session().leasing().map(crate::session::Leasing::generation)
    }

    /// Tells the leader, as long as the generation lasts.
    pub(super) async fn release(&self, releases: Vec<Release>, generation: LeaseGeneration) {
        for _ in 0..RELEASES_MAX {
            let session = self.session();
            if session.leasing().is_none_or(|leasing| leasing.generation() != generation) {
                return;
            }
            let request = LeaseRequest::Release { session: session.id(), generation, releases: releases.clone() };
            match say(self, request).await {
                Ok(LeaseAnswer::Released | LeaseAnswer::NotCurrent) => return,
                Ok(_) | Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Keeps what is cached within its limits.
    pub(super) fn trim(self: &Arc<Self>) {
        self.table.lock().trim(CONTENTS_KEPT_MAX, now());
        let shared = Arc::clone(self);
        self.spawn(async move { shared.release_excess().await });
    }

    /// Lets go of leases that have not been used lately, when there are too many.
    async fn release_excess(self: &Arc<Self>) {
        let session = self.session();
        let Some(leasing) = session.leasing() else { return };
        let generation = leasing.generation();
        let excess: Vec<(Inode, LeaseNumber)> = {
            let table = self.table.lock();
            let leased = table.iter().filter(|(_, node)| node.lease.is_some()).count();
            let over = leased.saturating_sub(LEASES_KEPT_MAX);
            if over == 0 {
                return;
            }
            let at = now();
            let idle = table.iter().filter(|(_, node)| is_idle(node, at));
            // A grant after this one is not meant by the release.
            idle.map(|(inode, node)| (inode, node.granted)).take(over + LEASES_KEPT_MAX / 10).collect()
        };
        for part in excess.chunks(1024) {
            let part: Vec<_> = {
                let table = self.table.lock();
                let is_idle = |inode: &Inode| table.get(*inode).is_some_and(|node| is_idle(node, now()));
                part.iter().filter(|(inode, _)| is_idle(inode)).collect()
            };
            let inodes: Vec<Inode> = part.iter().map(|(inode, _)| *inode).collect();
            self.lose(&inodes).await;
            // What was executed here in the last moment must be there first; otherwise the lease goes when it is recalled.
            if self.commit_before_asking(&inodes, &[]).await.is_err() {
                continue;
            }
            let releases =
                part.iter().map(|(inode, number)| Release { number: *number, inode: *inode, keep: None }).collect();
            self.release(releases, generation).await;
        }
    }
}
