//! The story of a tree going up: scan, look what is there, decide, write; hard links, then directories' times, last.

use std::{collections::BTreeMap, sync::Arc};

use futures::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use wire::namespace::{Attr, Inode, Op, SetAttr, SetTime};

use super::{
    Existing, Outcome, Progress, Recurse, Summary, TransferError, TransferOptions, UploadItem,
    equality::Owners,
    stop::{News, Stop},
    tally::Tally,
    upload_dir::{FinishedDir, UploadDir},
    upload_file::blocking,
};
use crate::{
    local::{Found, Group, ScanItem, scan},
    namespace::{Follow, Namespace, NamespaceError, is_directory},
    session::Session,
};

/// Groups that the scanner may be ahead.
const GROUPS_AHEAD: usize = 4;

/// Groups being written. With 256 entries each, more than the session's window holds, so that batches stay full.
const GROUPS_IN_FLIGHT: usize = 8;

/// Directories and links being finished at once.
const FINISHES_IN_FLIGHT: usize = 512;

/// An upload of trees.
pub(super) struct UploadTree {
    pub(super) namespace: Namespace,
    pub(super) session: Session,
    pub(super) options: TransferOptions,
    pub(super) tally: Tally,
    pub(super) owners: Owners,
    /// Files in chunks at once.
    pub(super) jobs: Semaphore,
    /// Guards the table alone.
    pub(super) links: Mutex<Links>,
    pub(super) stop: Stop,
}

/// Files with several names: the first that can be is uploaded, the others linked to it at the end. Grows with the number
/// of such files, as in `cp` and `rsync`.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// By identity here: the copy, once there is one.
    first: BTreeMap<(u64, u64), Option<Inode>>,
    /// The directories stay unfinished until these are done.
    pub(super) later: Vec<(Arc<UploadDir>, Found)>,
}

impl Links {
    /// Whether this is the first name of the file that was met.
    pub(super) fn is_first(&mut self, identity: (u64, u64)) -> bool {
        let mut first = false;
        self.first.entry(identity).or_insert_with(|| {
            first = true;
            None
        });
        first
    }

    pub(super) fn handle_done(&mut self, identity: (u64, u64), copy: Inode) {
        self.first.insert(identity, Some(copy));
    }

    pub(super) fn copy_of(&self, identity: (u64, u64)) -> Option<Inode> {
        self.first.get(&identity).copied().flatten()
    }
}

/// Uploads files and trees.
pub(super) async fn upload(
    namespace: &Namespace,
    items: Vec<UploadItem>,
    options: &TransferOptions,
    progress: Arc<dyn Progress>,
) -> Summary {
    let tally = Tally::new(Arc::clone(&progress));
    let session = match namespace.session().await {
        Ok(session) => session,
        Err(error) => {
            tally.failed(&error.into());
            return tally.summary();
        }
    };
    let tree = Arc::new(UploadTree {
        namespace: namespace.clone(),
        session,
        options: options.clone(),
        tally: tally.clone(),
        owners: if namespace.caller().is_root() { Owners::Kept } else { Owners::Own },
        jobs: Semaphore::new(options.jobs.max(1)),
        links: Mutex::default(),
        stop: Stop::default(),
    });
    let (finished, finishing) = mpsc::unbounded_channel();
    let (_, ()) = tokio::join!(tree.run(items, finished), tree.finish_dirs(finishing));
    tally.summary()
}

impl UploadTree {
    async fn run(self: &Arc<Self>, items: Vec<UploadItem>, finished: mpsc::UnboundedSender<FinishedDir>) {
        let mut prepared = Vec::with_capacity(items.len());
        for item in items {
            match self.prepare(item, &finished).await {
                Ok(item) => prepared.push(item),
                Err(error) => self.fail(&error.into()),
            }
        }
        drop(finished);
        let (sender, mut groups) = mpsc::channel(GROUPS_AHEAD);
        let (recurse, tally) = (self.options.recurse, self.tally.clone());
        let cluster = self.namespace.cluster().map().cluster;
        let scanning = blocking(move || {
            scan(prepared, recurse, cluster, tally.progress(), &|error| tally.failed(&error), sender);
        });
        let writing = async {
            let mut tasks = JoinSet::new();
            let all = async {
                while let Some(group) = groups.recv().await {
                    self.join_until(&mut tasks, GROUPS_IN_FLIGHT - 1).await;
                    let tree = Arc::clone(self);
                    tasks.spawn(async move { tree.group(group).await });
                }
                self.join_until(&mut tasks, 0).await;
            };
            tokio::select! {
                biased;
                () = self.stop.stopped() => {}
                () = all => {}
            }
            // The scanner ends when nobody takes its groups any more.
            drop(groups);
            tasks.shutdown().await;
        };
        tokio::join!(scanning, writing);
        self.link_the_rest().await;
    }

    /// Waits until no more than `count` groups are being written.
    async fn join_until(&self, tasks: &mut JoinSet<()>, count: usize) {
        while tasks.len() > count {
            if let Some(Err(error)) = tasks.join_next().await {
                self.fail(&error.into());
            }
        }
    }

    /// Where an item goes.
    async fn prepare(
        &self,
        item: UploadItem,
        finished: &mpsc::UnboundedSender<FinishedDir>,
    ) -> Result<ScanItem, NamespaceError> {
        let UploadItem { source, target, existing } = item;
        let there = match (target.components().is_empty(), existing) {
            (true, _) => Some(self.namespace.resolve(&target, Follow::Yes).await?),
            (false, Existing::Kept) => self.namespace.lookup(&target, Follow::Yes).await?.filter(is_directory),
            (false, Existing::Dressed) => None,
        };
        if let Some(there) = there {
            let dir = UploadDir::at(source.clone(), there, target, finished.clone());
            return Ok(ScanItem { source, dir, name: None });
        }
        let named = source.clone();
        let looked = blocking(move || std::fs::symlink_metadata(named)).await;
        let as_it_is = self.options.recurse == Recurse::Yes && looked.is_ok_and(|it| !it.is_file() && !it.is_dir());
        // What is copied as a link takes the place of a link there, and not of what that leads to: this one perhaps.
        let place = match as_it_is {
            true => self.namespace.place(&target).await?,
            false => self.namespace.place_through(&target).await?,
        };
        let above = target.parent().unwrap_or_default();
        let dir = UploadDir::above(source.clone(), place.dir, above, finished.clone());
        Ok(ScanItem { source, dir, name: Some(place.name) })
    }

    /// Tells of a failure; one after which nothing can go well stops the transfer, and is told once.
    pub(super) fn fail(&self, error: &TransferError) {
        if self.stop.handle_failure(error) == News::Yes {
            self.tally.failed(error);
        }
    }

    async fn group(&self, group: Group) {
        let Group { dir, entries, unsettled: _unsettled } = group;
        let Some((inode, after, existing)) = dir.remote().await else {
            entries.iter().for_each(Found::abandon);
            return;
        };
        let there = match existing {
            Some(_) => self.look_up(&dir, inode, &entries).await,
            None => Ok(entries.iter().map(|_| None).collect()),
        };
        let there = match there {
            Ok(there) => there,
            Err(error) => {
                entries.iter().for_each(Found::abandon);
                return self.fail(&error.into());
            }
        };
        let into = super::upload_entry::Into { dir, inode, after, existing };
        let entries: FuturesUnordered<_> =
            entries.into_iter().zip(there).map(|(found, there)| self.entry(&into, found, there)).collect();
        entries.collect::<()>().await;
    }

    /// Names of files that were met before: links to the copies.
    async fn link_the_rest(&self) {
        let link = async |(dir, found)| {
            if !self.stop.is_stopped() {
                self.link_later(dir, found).await;
            }
        };
        let (copied, others): (Vec<_>, Vec<_>) = {
            let mut links = self.links.lock();
            let later = std::mem::take(&mut links.later);
            later.into_iter().partition(|(_, found): &(_, Found)| links.copy_of(found.meta.identity).is_some())
        };
        stream::iter(copied).for_each_concurrent(FINISHES_IN_FLIGHT, link).await;
        // Those whose first name failed: one after the other, because what comes first is what the next is linked to.
        stream::iter(others).for_each(link).await;
    }

    /// Attributes of directories in which everything is done.
    async fn finish_dirs(&self, finishing: mpsc::UnboundedReceiver<FinishedDir>) {
        let finishing =
            stream::unfold(
                finishing,
                |mut finishing| async move { finishing.recv().await.map(|dir| (dir, finishing)) },
            );
        finishing
            .for_each_concurrent(FINISHES_IN_FLIGHT, |dir| async move {
                if let Err(error) = self.finish_dir(&dir).await {
                    self.fail(&error.into());
                }
            })
            .await;
    }

    async fn finish_dir(&self, dir: &FinishedDir) -> Result<(), NamespaceError> {
        let FinishedDir { target, inode, meta, existing } = dir;
        let caller = self.namespace.caller();
        let theirs = existing.as_ref().is_some_and(|existing: &Attr| !caller.owns(existing));
        if theirs || self.stop.is_stopped() {
            return Ok(());
        }
        let owner = |id: u32| (self.owners == Owners::Kept).then_some(id);
        let set = SetAttr {
            mode: Some(self.mode_of(meta)),
            uid: owner(meta.uid),
            gid: owner(meta.gid),
            accessed: SetTime::To(meta.times.accessed),
            modified: SetTime::To(meta.times.modified),
            ..SetAttr::default()
        };
        self.namespace.change(target, Op::SetAttr { inode: *inode, set }).await.map(drop)
    }

    /// Counts a directory.
    pub(super) fn directory_done(&self, path: &std::path::Path, outcome: Outcome) {
        self.tally.directory(&path.display().to_string(), outcome);
    }
}
