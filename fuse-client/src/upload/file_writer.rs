//! A file on its way into the store: chunks go out as they come, extents are committed once stable, the name last.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, task::JoinSet, time::Instant};
use wire::namespace::{
    EXTENTS_MAX, INLINE_LEN_MAX, InlineData, Inode, Mode, Name, NewContent, NewExtent, NewGroup, NewInode, NewKind, Op,
    OpAnswer, OpError, OpNumber, Replace, SetAttr, SetId, SetTime, Times, Xattr,
};

use super::{
    UploadError,
    put::{PutError, Sealed, Stamped, await_newer_map, put_chunk},
};
use crate::{
    cluster::{Cluster, pool_units},
    download::{ReadError, fetch_slice},
    namespace::{Namespace, NamespaceError},
    path::FilePath,
    session::{ChangeError, GcStamp, Session},
};

/// Stamps of puts must not grow old, or garbage collection waits for them.
const COMMIT_INTERVAL: Duration = Duration::from_secs(30);

/// How often extents are put again because epoch or stamp had passed meanwhile.
const REPUTS_MAX: u32 = 5;

/// Chunks read back and put again side by side.
const REPUTS_AT_ONCE: usize = 16;

/// What the new file is like, but for its bytes.
#[derive(Clone, Debug)]
pub(crate) struct NewFile {
    pub(crate) mode: Mode,
    pub(crate) uid: u32,
    pub(crate) gid: NewGroup,
    pub(crate) times: Option<Times>,
    pub(crate) xattrs: Vec<Xattr>,
}

/// Where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// For messages.
    pub(crate) path: FilePath,
    pub(crate) dir: Inode,
    pub(crate) name: Name,
    /// The creation of the directory, if that may still be under way.
    pub(crate) after: Option<OpNumber>,
}

/// A file being written. Dropped before [`FileWriter::commit`], it leaves nothing under the name.
#[derive(Debug)]
pub(crate) struct FileWriter {
    cluster: Cluster,
    session: Session,
    file: NewFile,
    target: Target,
    /// The first bytes, if they are few enough to be all.
    first: Option<(Sealed, OwnedSemaphorePermit)>,
    puts: JoinSet<Result<(u64, Stamped), PutError>>,
    stable: BTreeMap<u64, (NewExtent, GcStamp)>,
    /// The inode that has what was committed so far.
    unnamed: Option<Inode>,
    committed_at: Instant,
}

impl FileWriter {
    pub(crate) async fn new(namespace: &Namespace, file: NewFile, target: Target) -> Result<Self, NamespaceError> {
        Ok(Self {
            cluster: namespace.cluster().clone(),
            session: namespace.session().await?,
            file,
            target,
            first: None,
            puts: JoinSet::new(),
            stable: BTreeMap::new(),
            unnamed: None,
            committed_at: Instant::now(),
        })
    }

    /// Waits for memory for `len` bytes: ask before the bytes are read.
    pub(crate) async fn room(&self, len: u64) -> OwnedSemaphorePermit {
        let pool = Arc::clone(self.cluster.upload_pool());
        pool.acquire_many_owned(pool_units(len)).await.expect("the pool is never closed")
    }

    /// Takes in a chunk of the file.
    pub(crate) async fn put(
        &mut self,
        offset: u64,
        chunk: Sealed,
        mut room: OwnedSemaphorePermit,
    ) -> Result<(), UploadError> {
        let excess = room.num_permits().saturating_sub(pool_units(chunk.bytes().len() as u64) as usize);
        drop(room.split(excess));
        if offset == 0 && chunk.bytes().len() <= INLINE_LEN_MAX {
            self.first = Some((chunk, room));
            return Ok(());
        }
        self.start(offset, chunk, room);
        while let Some(put) = self.puts.try_join_next() {
            self.take_in(put)?;
        }
        if self.stable.len() >= EXTENTS_MAX || self.committed_at.elapsed() >= COMMIT_INTERVAL {
            self.commit_part().await?;
        }
        Ok(())
    }

    fn start(&mut self, offset: u64, chunk: Sealed, room: OwnedSemaphorePermit) {
        let (cluster, session) = (self.cluster.clone(), self.session.clone());
        self.puts.spawn(async move { Ok((offset, put_chunk(&cluster, &session, chunk, room).await?)) });
    }

    fn take_in(&mut self, put: Joined<PutError>) -> Result<(), UploadError> {
        let put = put.expect("a put neither panics nor is aborted while its file is written");
        let (offset, Stamped { durable, stamp }) = put.map_err(|source| self.failed(source))?;
        self.stable.insert(offset, (durable.extent(offset), stamp));
        Ok(())
    }

    fn failed(&self, source: PutError) -> UploadError {
        UploadError::Put { path: self.target.path.clone(), source }
    }

    /// Gives the file its name, in place of what has it now, once every byte is stable. `size` may end in a hole.
    pub(crate) async fn commit(mut self, size: u64) -> Result<OpAnswer, UploadError> {
        if let Some((chunk, room)) = self.first.take() {
            if chunk.bytes().len() as u64 == size {
                let content = InlineData::new(chunk.bytes().to_vec());
                return self.create(NewContent::Inline(content)).await;
            }
            self.start(0, chunk, room);
        }
        while let Some(put) = self.puts.join_next().await {
            self.take_in(put)?;
            if self.stable.len() >= EXTENTS_MAX && !self.puts.is_empty() {
                self.commit_part().await?;
            }
        }
        if self.unnamed.is_none() && self.stable.is_empty() && size == 0 {
            return self.create(NewContent::Empty).await;
        }
        if self.unnamed.is_none() {
            return self.create_with_extents(size).await;
        }
        self.commit_part().await?;
        self.link(size).await
    }

    async fn create_with_extents(&mut self, size: u64) -> Result<OpAnswer, UploadError> {
        let mut reputs = 0;
        loop {
            let extents = self.stable.values().map(|(extent, _)| *extent).collect();
            match self.create(NewContent::Extents { extents, size }).await {
                Err(error) if is_stale(&error) && reputs < REPUTS_MAX => {
                    reputs += 1;
                    self.put_again(reputs).await?;
                }
                other => return other,
            }
        }
    }

    async fn create(&self, content: NewContent) -> Result<OpAnswer, UploadError> {
        let inode = self.new_inode().await?;
        let new = self.new_inode_of(inode, content);
        let Target { dir, name, after, .. } = self.target.clone();
        self.change(Op::Create { dir, name, new, replace: Replace::File }, after).await
    }

    fn new_inode_of(&self, inode: Inode, content: NewContent) -> NewInode {
        let NewFile { mode, uid, gid, times, xattrs } = self.file.clone();
        NewInode { inode, kind: NewKind::File(content), mode, uid, gid, times, xattrs }
    }

    /// Commits what is stable into an inode without a name.
    async fn commit_part(&mut self) -> Result<(), UploadError> {
        let mut reputs = 0;
        while !self.stable.is_empty() {
            let extents: Vec<NewExtent> = self.stable.values().map(|(extent, _)| *extent).take(EXTENTS_MAX).collect();
            let count = extents.len();
            match self.commit_extents(extents).await {
                Ok(inode) => {
                    self.unnamed = Some(inode);
                    reputs = 0;
                    let rest = self.stable.keys().nth(count).copied();
                    self.stable = rest.map_or_else(BTreeMap::new, |rest| self.stable.split_off(&rest));
                }
                Err(error) if is_stale(&error) && reputs < REPUTS_MAX => {
                    reputs += 1;
                    self.put_again(reputs).await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.committed_at = Instant::now();
        Ok(())
    }

    async fn commit_extents(&self, extents: Vec<NewExtent>) -> Result<Inode, UploadError> {
        let op = match self.unnamed {
            Some(inode) => {
                let (modified, set_id) = (SetTime::Keep, SetId::Keep);
                Op::WriteExtents { inode, extents, if_version: None, modified, set_id }
            }
            None => {
                let size = extents.last().map_or(0, |last| last.offset + u64::from(last.slice.len));
                let inode = self.new_inode().await?;
                Op::CreateUnnamed { new: self.new_inode_of(inode, NewContent::Extents { extents, size }) }
            }
        };
        Ok(self.change(op, None).await?.done.inode)
    }

    /// The last step of a long upload: length, times, name.
    async fn link(&self, size: u64) -> Result<OpAnswer, UploadError> {
        let inode = self.unnamed.expect("only what was committed without a name is linked");
        let (accessed, modified) = self
            .file
            .times
            .map_or((SetTime::Now, SetTime::Now), |times| (SetTime::To(times.accessed), SetTime::To(times.modified)));
        let set = SetAttr { size: Some(size), accessed, modified, ..SetAttr::default() };
        self.change(Op::SetAttr { inode, set }, None).await?;
        let Target { dir, name, after, .. } = self.target.clone();
        self.change(Op::Link { inode, dir, name, replace: Replace::File }, after).await
    }

    /// Epoch or stamp have passed: the chunks are read back, verified, and put at the new ones.
    async fn put_again(&mut self, reputs: u32) -> Result<(), UploadError> {
        await_newer_map(reputs).await;
        self.cluster.refresh().await.map_err(NamespaceError::from)?;
        self.session.refresh_stamp().await.map_err(|error| self.changed(error))?;
        let mut puts = JoinSet::new();
        for (offset, (extent, stamp)) in std::mem::take(&mut self.stable) {
            if puts.len() == REPUTS_AT_ONCE {
                self.take_back(puts.join_next().await)?;
            }
            let room = self.room(u64::from(extent.slice.chunk_len)).await;
            let (cluster, session) = (self.cluster.clone(), self.session.clone());
            puts.spawn(async move {
                let bytes = fetch_slice(&cluster, extent.slice).await.map_err(RepeatError::Read)?;
                let newer = put_chunk(&cluster, &session, Sealed::new(bytes), room).await.map_err(RepeatError::Put)?;
                drop(stamp);
                Ok((offset, newer))
            });
        }
        while let Some(put) = puts.join_next().await {
            self.take_back(Some(put))?;
        }
        Ok(())
    }

    fn take_back(&mut self, put: Option<Joined<RepeatError>>) -> Result<(), UploadError> {
        let Some(put) = put else { return Ok(()) };
        let put = put.expect("a put neither panics nor is aborted while its file is written");
        let (offset, Stamped { durable, stamp }) = put.map_err(|error| match error {
            RepeatError::Read(source) => NamespaceError::Read { path: self.target.path.clone(), source }.into(),
            RepeatError::Put(source) => self.failed(source),
        })?;
        self.stable.insert(offset, (durable.extent(offset), stamp));
        Ok(())
    }

    async fn new_inode(&self) -> Result<Inode, UploadError> {
        self.session.new_inode().await.map_err(|error| self.changed(error))
    }

    async fn change(&self, op: Op, after: Option<OpNumber>) -> Result<OpAnswer, UploadError> {
        let submitted = self.session.submit(op, after).await.map_err(|error| self.changed(error))?;
        submitted.outcome().await.map_err(|error| self.changed(error))
    }

    fn changed(&self, error: ChangeError) -> UploadError {
        NamespaceError::change(&self.target.path, error).into()
    }
}

type Joined<E> = Result<Result<(u64, Stamped), E>, tokio::task::JoinError>;

/// Why a chunk that was stable is not so at a newer epoch.
enum RepeatError {
    Read(ReadError),
    Put(PutError),
}

fn is_stale(error: &UploadError) -> bool {
    matches!(error, UploadError::Namespace(NamespaceError::Op { source: OpError::StaleEpoch | OpError::StaleGc, .. }))
}
