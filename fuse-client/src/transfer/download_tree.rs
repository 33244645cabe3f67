//! The story of a tree coming down: list with contents, decide, write; hard links, then directories' times, last.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use wire::namespace::{Attr, Entry, FileType, Inode, ListWant, Mode, Query, QueryAnswer, Xattr};

use super::{
    DownloadItem, Existing, Outcome, Progress, Recurse, Summary, TransferError, TransferOptions,
    download_dir::{FinishedLocalDir, LocalDir},
    download_entry::Remote,
    equality::{Owners, obstacle},
    stop::{News, Stop},
    tally::Tally,
    upload_file::blocking,
};
use crate::{
    local::{self, LocalMeta, MadeDir, Restore, TempNames},
    namespace::{Follow, Namespace, NamespaceError, Permission, is_directory},
    path::FilePath,
};

/// Directories being read at once: trees of small directories wait for round trips otherwise.
const DIRS_IN_FLIGHT: usize = 8;

/// Small files written by one blocking task: enough to pay for it, few enough to use two cores.
const SMALL_FILES: usize = 64;

/// A download of trees.
pub(super) struct DownloadTree {
    pub(super) namespace: Namespace,
    pub(super) options: TransferOptions,
    pub(super) tally: Tally,
    pub(super) owners: Owners,
    pub(super) names: Arc<TempNames>,
    /// Files in chunks at once.
    pub(super) jobs: Semaphore,
    /// Guards the table alone.
    pub(super) links: Mutex<Links>,
    pub(super) stop: Stop,
}

/// Files with several names: the first that can be is downloaded, the others linked to it at the end. Grows with the number
/// of such files.
#[derive(Debug, Default)]
pub(super) struct Links {
    first: BTreeMap<Inode, Option<PathBuf>>,
    /// The directories stay unfinished until these are done.
    pub(super) later: Vec<(Arc<LocalDir>, Remote)>,
}

impl Links {
    /// Whether this is the first name of the file that was met.
    pub(super) fn is_first(&mut self, inode: Inode) -> bool {
        let mut first = false;
        self.first.entry(inode).or_insert_with(|| {
            first = true;
            None
        });
        first
    }

    pub(super) fn handle_done(&mut self, inode: Inode, path: PathBuf) {
        self.first.insert(inode, Some(path));
    }

    pub(super) fn copy_of(&self, inode: Inode) -> Option<PathBuf> {
        self.first.get(&inode).cloned().flatten()
    }
}

/// A directory to be read, and where its entries go.
struct Pending {
    source: FilePath,
    attr: Attr,
    into: Arc<LocalDir>,
}

/// Downloads files and trees.
pub(super) async fn download(
    namespace: &Namespace,
    items: Vec<DownloadItem>,
    options: &TransferOptions,
    progress: Arc<dyn Progress>,
) -> Summary {
    let tally = Tally::new(progress);
    let tree = Arc::new(DownloadTree {
        namespace: namespace.clone(),
        options: options.clone(),
        tally: tally.clone(),
        owners: if namespace.caller().is_root() { Owners::Kept } else { Owners::Own },
        names: Arc::new(TempNames::new(namespace.cluster().random_bytes())),
        jobs: Semaphore::new(options.jobs.max(1)),
        links: Mutex::default(),
        stop: Stop::default(),
    });
    let (finished, finishing) = mpsc::unbounded_channel();
    tokio::join!(tree.run(items, finished), tree.finish_dirs(finishing));
    tally.summary()
}

impl DownloadTree {
    async fn run(self: &Arc<Self>, items: Vec<DownloadItem>, finished: mpsc::UnboundedSender<FinishedLocalDir>) {
        // One for all items that go into it, so that it is synced once.
        let mut above = BTreeMap::new();
        for item in items {
            if self.stop.is_stopped() {
                break;
            }
            let path = match item.target.parent() {
                Some(path) if path.as_os_str().is_empty() => PathBuf::from("."),
                Some(path) => path.to_owned(),
                None => item.target.clone(),
            };
            let above = above.entry(path).or_insert_with_key(|path| LocalDir::above(path.clone(), finished.clone()));
            match self.item(above, item).await {
                Ok(Some(pending)) => self.walk(pending).await,
                Ok(None) => {}
                Err(error) => self.fail(&error),
            }
        }
        drop(finished);
        let later = std::mem::take(&mut self.links.lock().later);
        for (dir, remote) in later {
            // What was stopped lets go of the directories, so that they are finished.
            if self.stop.is_stopped() {
                continue;
            }
            self.link_later(dir, remote).await;
        }
    }

    /// Downloads what is no directory; makes the directory of what is one.
    async fn item(&self, above: &Arc<LocalDir>, item: DownloadItem) -> Result<Option<Pending>, TransferError> {
        let DownloadItem { source, target, existing } = item;
        let attr = self.namespace.resolve(&source, Follow::Yes).await?;
        if is_directory(&attr) {
            if self.options.recurse == Recurse::No {
                return Err(TransferError::IsDirectory { path: source.to_string() });
            }
            // A person may name a link to a directory here; in a tree, a link is in the way.
            let followed = blocking({
                let target = target.clone();
                move || std::fs::canonicalize(&target).unwrap_or(target)
            });
            let xattrs = self.namespace.xattrs(&source, Follow::Yes).await?;
            let pending = self.directory(above, source, (attr, xattrs), followed.await, existing).await?;
            if pending.into.fresh {
                // Others may be waiting for it, and when this is interrupted nobody else gives it its mode.
                let (path, mut restore) = (pending.into.path.clone(), Restore::new(&attr, self.namespace.caller()));
                restore.mode = Mode::new(restore.mode.bits() | 0o700);
                blocking(move || local::restore(&path, &restore, FileType::Directory)).await?;
            }
            return Ok(Some(pending));
        }
        // A person who names a device, or a link to one, does not want it replaced by a file.
        let named = target.clone();
        let named = blocking(move || std::fs::metadata(&named).and_then(|found| LocalMeta::new(&found)).ok()).await;
        let named = named.filter(|named| named.file_type != FileType::Directory);
        if let Some(reason) = named.and_then(|named| obstacle(named.file_type, attr.file_type)) {
            return Err(TransferError::InTheWay { path: target.display().to_string(), reason });
        }
        let queries =
            vec![Query::Content { inode: attr.inode, offset: 0, len: u64::MAX }, Query::Xattrs { inode: attr.inode }];
        let mut answers = self.namespace.cluster().query(queries).await.map_err(NamespaceError::from)?.into_iter();
        let refused = |error| NamespaceError::op(&source, error);
        match (answers.next(), answers.next()) {
            (Some(content), Some(xattrs)) => match (content.map_err(refused)?, xattrs.map_err(refused)?) {
                (QueryAnswer::Content { attr, content }, QueryAnswer::Xattrs(xattrs)) => {
                    let remote = Remote { source, target, attr, content, xattrs };
                    self.files(above, vec![remote]).await;
                    Ok(None)
                }
                _ => Err(NamespaceError::confused().into()),
            },
            _ => Err(NamespaceError::confused().into()),
        }
    }

    async fn directory(
        &self,
        above: &Arc<LocalDir>,
        source: FilePath,
        (attr, xattrs): (Attr, Vec<Xattr>),
        target: PathBuf,
        existing: Existing,
    ) -> Result<Pending, TransferError> {
        self.namespace.require(Permission::Search, &attr, &source)?;
        // Read while it is written, it would have no end.
        let into_itself = || NamespaceError::IntoItself { path: source.clone() };
        if above.is_within(attr.inode) {
            return Err(into_itself().into());
        }
        let (path, cluster) = (target.clone(), self.namespace.cluster().map().cluster);
        let made = blocking(move || local::create_dir(&path).map(|made| (made, local::inode_in(&path, cluster))));
        let (made, stored) = made.await?;
        if stored == Some(attr.inode) {
            return Err(into_itself().into());
        }
        let caller = self.namespace.caller();
        let (outcome, ours) = match made {
            MadeDir::Fresh => (Outcome::Transferred, true),
            MadeDir::Found { owner } => {
                (Outcome::Skipped, existing == Existing::Dressed && (caller.is_root() || caller.uid == owner))
            }
        };
        self.tally.directory(&target.display().to_string(), outcome);
        // What somebody else made stays as they want it, as when a tree goes up.
        let dressed = ours.then(|| (Restore::new(&attr, caller), xattrs));
        Ok(Pending { source, attr, into: LocalDir::below(above, target, made == MadeDir::Fresh, stored, dressed) })
    }

    /// Reads directories, several at once, the deepest first.
    async fn walk(self: &Arc<Self>, first: Pending) {
        let mut pending = vec![first];
        let mut reading: JoinSet<Vec<Pending>> = JoinSet::new();
        loop {
            while reading.len() < DIRS_IN_FLIGHT {
                let Some(next) = pending.pop() else { break };
                let tree = Arc::clone(self);
                reading.spawn(async move { tree.read_directory(next).await });
            }
            let read = tokio::select! {
                biased;
                () = self.stop.stopped() => return reading.shutdown().await,
                read = reading.join_next() => read,
            };
            match read {
                Some(Ok(below)) => pending.extend(below),
                Some(Err(error)) => self.fail(&error.into()),
                None => return,
            }
        }
    }

    /// Downloads the entries of a directory; returns the directories in it.
    async fn read_directory(&self, dir: Pending) -> Vec<Pending> {
        let mut below = Vec::new();
        let listing = self.namespace.list_dir(dir.source.clone(), dir.attr, ListWant::Contents);
        let mut listing = match listing {
            Ok(listing) => listing,
            Err(error) => {
                self.fail(&error.into());
                return below;
            }
        };
        let mut page = listing.next_page().await;
        loop {
            match page {
                Ok(Some(entries)) => {
                    // The next page travels while this one is written.
                    let (found, next) = tokio::join!(self.page(&dir, entries), listing.next_page());
                    below.extend(found);
                    page = next;
                }
                Ok(None) => return below,
                Err(error) => {
                    self.fail(&error.into());
                    return below;
                }
            }
        }
    }

    async fn page(&self, dir: &Pending, entries: Vec<Entry>) -> Vec<Pending> {
        let mut below = Vec::new();
        let mut files = Vec::with_capacity(entries.len());
        for Entry { name, attr, content, xattrs, .. } in entries {
            let target = dir.into.path.join(as_os(name.as_bytes()));
            let source = dir.source.join(name);
            match (attr, content) {
                (Some(attr), _) if is_directory(&attr) => {
                    match self.directory(&dir.into, source, (attr, xattrs), target, Existing::Dressed).await {
                        Ok(pending) => below.push(pending),
                        Err(error) => self.fail(&error),
                    }
                }
                (Some(attr), Some(content)) => files.push(Remote { source, target, attr, content, xattrs }),
                _ => self.fail(&NamespaceError::confused().into()),
            }
        }
        self.files(&dir.into, files).await;
        below
    }

    /// Downloads what is no directory, but for further names of what was met before.
    async fn files(&self, into: &Arc<LocalDir>, files: Vec<Remote>) {
        let mut first = Vec::with_capacity(files.len());
        for remote in files {
            let bytes = if remote.attr.file_type == FileType::File { remote.attr.size } else { 0 };
            self.tally.progress().found(1, bytes);
            if remote.attr.links > 1 && !self.links.lock().is_first(remote.attr.inode) {
                self.links.lock().later.push((Arc::clone(into), remote));
            } else {
                first.push(remote);
            }
        }
        self.bodies(into, first).await;
    }

    /// Downloads each as a file of its own: small ones many to a task, others in chunks.
    pub(super) async fn bodies(&self, into: &Arc<LocalDir>, files: Vec<Remote>) {
        let mut small = Vec::new();
        let mut large = Vec::new();
        for remote in files {
            if let Err(error) = self.may_read(&remote) {
                self.fail(&error.into());
            } else if remote.is_small() {
                small.push(remote);
            } else {
                large.push(remote);
            }
        }
        let mut groups = Vec::new();
        while !small.is_empty() {
            let rest = small.split_off(small.len().min(SMALL_FILES));
            groups.push(std::mem::replace(&mut small, rest));
        }
        let small: FuturesUnordered<_> = groups.into_iter().map(|group| self.small_files(into, group)).collect();
        let large: FuturesUnordered<_> = large.into_iter().map(|remote| self.large_file(into, remote)).collect();
        tokio::join!(small.collect::<()>(), large.collect::<()>());
    }

    fn may_read(&self, remote: &Remote) -> Result<(), NamespaceError> {
        match remote.attr.file_type {
            FileType::File => self.namespace.require(Permission::Read, &remote.attr, &remote.source),
            _ => Ok(()),
        }
    }

    /// Tells of a failure; one after which nothing can go well stops the transfer, and is told once.
    pub(super) fn fail(&self, error: &TransferError) {
        if self.stop.handle_failure(error) == News::Yes {
            self.tally.failed(error);
        }
    }

    /// Attributes of directories in which everything is done.
    async fn finish_dirs(&self, mut finishing: mpsc::UnboundedReceiver<FinishedLocalDir>) {
        let mut dirs = Vec::new();
        while finishing.recv_many(&mut dirs, SMALL_FILES).await > 0 {
            let dirs = std::mem::take(&mut dirs);
            let durability = self.options.durability;
            let failures = blocking(move || {
                let finish = |dir: &FinishedLocalDir| local::finish_dir(&dir.path, dir.dressed.as_ref(), durability);
                dirs.iter().map(finish).filter_map(Result::err).collect::<Vec<_>>()
            });
            failures.await.iter().for_each(|error| self.fail(error));
        }
    }
}

/// Names are bytes here as there.
fn as_os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}
