//! Files and directories by path, on behalf of a caller: resolves, checks permissions, asks, changes.
//!
//! # Invariants
//! - Links are followed here, at most 40 on a way; `..` leaves the directory that was really passed.
//! - Nothing is asked or changed that the mode bits forbid the caller. (Nodes trust a client for this, as with NFS
//!   `sys`.)
//!
//! # Not here
//! Bytes of files (`upload`, `download`); numbers and batches (`session`).

mod caller;
mod change;
mod copy;
mod error;
mod remove;
mod resolver;
mod tree_news;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OnceCell;
use wire::namespace::{
    Attr, Content, Cookie, Entry, FileType, Inode, ListWant, Name, OpError, Query, QueryAnswer, Usage, Xattr,
};

pub(crate) use caller::Permission;
pub use caller::{Caller, is_directory};
pub use error::NamespaceError;
use resolver::{Resolution, Resolver};
pub use tree_news::TreeNews;

use crate::{cluster::Cluster, download, path::FilePath, session::Session};

/// Entries asked for in one page; the page ends at 1 MiB anyway.
const PAGE_LIMIT: u32 = 4096;

/// Whether a symbolic link at the end of a path is followed. Links on the way always are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Follow {
    /// The target counts.
    Yes,
    /// The link itself counts.
    No,
}

/// A directory and a name in it, whether or not there is such an entry.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory.
    pub dir: Attr,
    /// The name.
    pub name: Name,
    /// What is there.
    pub existing: Option<Attr>,
}

/// Files and directories, for one caller. Cheap to clone. Its session is opened by the first change.
#[derive(Clone, Debug)]
pub struct Namespace {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cluster: Cluster,
    caller: Caller,
    session: OnceCell<Session>,
}

impl Namespace {
    /// Files of `cluster`, for `caller`.
    pub fn new(cluster: Cluster, caller: Caller) -> Self {
        Self { shared: Arc::new(Shared { cluster, caller, session: OnceCell::new() }) }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.shared.cluster
    }

    /// For whom.
    pub fn caller(&self) -> &Caller {
        &self.shared.caller
    }

    /// The session; opened when first needed.
    pub async fn session(&self) -> Result<Session, NamespaceError> {
        let session = self.shared.session.get_or_try_init(|| Session::open(self.cluster())).await?;
        Ok(session.clone())
    }

    /// Attributes of what `path` names.
    pub async fn resolve(&self, path: &FilePath, follow: Follow) -> Result<Attr, NamespaceError> {
        let found = self.lookup(path, follow).await?;
        found.ok_or_else(|| NamespaceError::op(path, OpError::NotFound))
    }

    /// As [`Namespace::resolve`], but `None` if there is nothing (the directory above may be missing as well).
    pub async fn lookup(&self, path: &FilePath, follow: Follow) -> Result<Option<Attr>, NamespaceError> {
        match self.walk(path, follow).await? {
            Resolution::Found { attr, .. } => Ok(Some(attr)),
            Resolution::Missing { .. } | Resolution::NoWay => Ok(None),
            other => Err(refusal(path, &other)),
        }
    }

    /// The directory that holds the last name of `path`, which must exist, and what is there (a link, not its target).
    pub async fn place(&self, path: &FilePath) -> Result<Place, NamespaceError> {
        self.place_at(path, Follow::No).await
    }

    /// As [`Namespace::place`], or the place that a link there leads to.
    pub(crate) async fn place_at(&self, path: &FilePath, follow: Follow) -> Result<Place, NamespaceError> {
        match self.walk(path, follow).await? {
            Resolution::Found { attr, entry: Some((dir, name)) } => Ok(Place { dir, name, existing: Some(attr) }),
            Resolution::Found { entry: None, .. } => Err(NamespaceError::op(path, OpError::Exists)),
            Resolution::Missing { dir, name } => Ok(Place { dir, name, existing: None }),
            other => Err(refusal(path, &other)),
        }
    }

    /// The place where a file goes that is written to `path`: that of the file which a link there leads to. As `cp`, it does
    /// not make a file where a link leads nowhere: who put the link there may want it just there.
    pub(crate) async fn place_through(&self, path: &FilePath) -> Result<Place, NamespaceError> {
        let place = self.place_at(path, Follow::Yes).await?;
        if place.existing.is_none() && self.lookup(path, Follow::No).await?.is_some() {
            return Err(NamespaceError::Dangling { path: path.clone() });
        }
        Ok(place)
    }

    async fn walk(&self, path: &FilePath, follow: Follow) -> Result<Resolution, NamespaceError> {
        let mut resolver = Resolver::new(path, follow);
        loop {
            match self.ask(path, resolver.poll_query()).await? {
                QueryAnswer::Walked(walked) => {
                    if let Some(resolution) = resolver.handle_walked(walked, self.caller()) {
                        return Ok(resolution);
                    }
                }
                _ => return Err(NamespaceError::confused()),
            }
        }
    }

    /// One question, about `path`.
    async fn ask(&self, path: &FilePath, query: Query) -> Result<QueryAnswer, NamespaceError> {
        let mut answers = self.cluster().query(vec![query]).await?;
        let answer = answers.pop().ok_or_else(NamespaceError::confused)?;
        answer.map_err(|source| NamespaceError::op(path, source))
    }

    /// The entries of a directory, page by page, in order of cookie.
    pub async fn list(&self, path: &FilePath, want: ListWant) -> Result<Listing, NamespaceError> {
        let dir = self.resolve(path, Follow::Yes).await?;
        self.list_dir(path.clone(), dir, want)
    }

    /// As [`Namespace::list`], of a directory that was resolved before.
    pub fn list_dir(&self, path: FilePath, dir: Attr, want: ListWant) -> Result<Listing, NamespaceError> {
        if !is_directory(&dir) {
            return Err(NamespaceError::op(&path, OpError::NotDirectory));
        }
        self.require(Permission::Read, &dir, &path)?;
        Ok(Listing { namespace: self.clone(), path, dir, want, after: Some(Cookie::default()) })
    }

    /// Attributes and content of an inode, from `offset` for `len` bytes. Checks no permission.
    pub async fn content(&self, inode: Inode, offset: u64, len: u64) -> Result<(Attr, Content), NamespaceError> {
        let path = FilePath::root();
        match self.ask(&path, Query::Content { inode, offset, len }).await? {
            QueryAnswer::Content { attr, content } => Ok((attr, content)),
            _ => Err(NamespaceError::confused()),
        }
    }

    /// Target of the symbolic link at `path`.
    pub async fn read_link(&self, path: &FilePath) -> Result<Vec<u8>, NamespaceError> {
        let attr = self.resolve(path, Follow::No).await?;
        if attr.file_type != FileType::Symlink {
            return Err(NamespaceError::op(path, OpError::Invalid));
        }
        match self.ask(path, Query::Content { inode: attr.inode, offset: 0, len: u64::MAX }).await? {
            QueryAnswer::Content { content: Content::Symlink(target), .. } if target.is_sound() => Ok(target.bytes),
            QueryAnswer::Content { content: Content::Symlink(_), .. } => {
                Err(NamespaceError::Read { path: path.clone(), source: download::ReadError::Unsound })
            }
            _ => Err(NamespaceError::confused()),
        }
    }

    /// Extended attributes of what `path` names.
    pub async fn xattrs(&self, path: &FilePath, follow: Follow) -> Result<Vec<Xattr>, NamespaceError> {
        let attr = self.resolve(path, follow).await?;
        match self.ask(path, Query::Xattrs { inode: attr.inode }).await? {
            QueryAnswer::Xattrs(xattrs) => Ok(xattrs),
            _ => Err(NamespaceError::confused()),
        }
    }

    /// How much is stored.
    pub async fn usage(&self) -> Result<Usage, NamespaceError> {
        match self.ask(&FilePath::root(), Query::Usage).await? {
            QueryAnswer::Usage(usage) => Ok(usage),
            _ => Err(NamespaceError::confused()),
        }
    }

    /// Bytes of a file, verified; fewer only at its end. Checks no permission.
    pub async fn read_range(&self, inode: Inode, offset: u64, len: u32) -> Result<Bytes, NamespaceError> {
        download::read_range(self, inode, offset, len).await
    }

    pub(crate) fn require(&self, permission: Permission, attr: &Attr, path: &FilePath) -> Result<(), NamespaceError> {
        let may = self.caller().may(permission, attr);
        if may { Ok(()) } else { Err(NamespaceError::Denied { path: path.clone() }) }
    }

    /// Ends the session, if one was opened, after a grace for replicas that lag, and closes the connections (bounded).
    pub async fn finish(self) {
        self.cluster().drain().await;
        if let Some(session) = self.shared.session.get() {
            session.close().await;
        }
        self.cluster().close().await;
    }
}

fn refusal(path: &FilePath, resolution: &Resolution) -> NamespaceError {
    let path = path.clone();
    match resolution {
        Resolution::Found { .. } => NamespaceError::Op { path, source: OpError::Exists },
        Resolution::Missing { .. } | Resolution::NoWay => NamespaceError::Op { path, source: OpError::NotFound },
        Resolution::NotDirectory => NamespaceError::Op { path, source: OpError::NotDirectory },
        Resolution::Loop => NamespaceError::Loop { path },
        Resolution::Denied => NamespaceError::Denied { path },
        Resolution::Unsound => NamespaceError::Read { path, source: download::ReadError::Unsound },
    }
}

/// The entries of a directory, page by page.
#[derive(Debug)]
pub struct Listing {
    namespace: Namespace,
    path: FilePath,
    dir: Attr,
    want: ListWant,
    /// Where the next page begins; none at the end.
    after: Option<Cookie>,
}

impl Listing {
    /// The directory.
    pub fn dir(&self) -> &Attr {
        &self.dir
    }

    /// The next page; none at the end.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Entry>>, NamespaceError> {
        let Some(after) = self.after else {
            return Ok(None);
        };
        let query = Query::List { dir: self.dir.inode, after, limit: PAGE_LIMIT, want: self.want };
        let QueryAnswer::Page(page) = self.namespace.ask(&self.path, query).await? else {
            return Err(NamespaceError::confused());
        };
        self.after = page.entries.last().map(|entry| entry.cookie).filter(|_| !page.end);
        Ok(Some(page.entries))
    }
}
