//! One file in chunks, to this machine.

use std::sync::Arc;

use tokio::task::JoinSet;
use wire::namespace::{Attr, Content};

use super::{LocalDurability, TransferError, tally::Tally, upload_file::blocking};
use crate::{
    cluster::pool_units,
    download::{Pages, Part, Piece, ReadError, fetch_piece},
    local::{NewLocal, TempFile, TempNames},
    namespace::{Namespace, NamespaceError},
    path::FilePath,
};

/// How often a file that changes while it is read is begun again.
const READS_MAX: u32 = 3;

/// A file to be downloaded.
pub(super) struct FileDownload<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) names: &'a Arc<TempNames>,
    pub(super) durability: LocalDurability,
    pub(super) tally: &'a Tally,
    pub(super) source: &'a FilePath,
}

impl FileDownload<'_> {
    /// Downloads the file whose attributes and content, from its start, are known. Returns its length.
    pub(super) async fn run(&self, attr: Attr, content: Content, mut new: NewLocal) -> Result<u64, TransferError> {
        let (mut attr, mut content) = (attr, content);
        let mut reads = 0;
        loop {
            reads += 1;
            let told = match self.once(attr, content, &new).await {
                Ok(()) => return Ok(attr.size),
                Err((error, told)) if reads < READS_MAX && is_about_change(&error) => {
                    let version = attr.data_version;
                    // Whoever cannot say what is there now is the reason to tell of: it is not this file's alone.
                    (attr, content) = self.namespace.content(attr.inode, 0, u64::MAX).await?;
                    if attr.data_version == version {
                        return Err(error);
                    }
                    told
                }
                Err((error, _)) => return Err(error),
            };
            // The bytes of the first attempt were told already; those of this one come on top.
            self.tally.progress().found(0, told);
            let times = wire::namespace::Times { accessed: attr.accessed, modified: attr.modified };
            new.restore.times = times;
        }
    }

    /// One attempt; with its failure, how many bytes were told of.
    async fn once(&self, attr: Attr, content: Content, new: &NewLocal) -> Result<(), (TransferError, u64)> {
        let mut told = 0;
        match self.write_all(attr, content, new, &mut told).await {
            Ok(()) => Ok(()),
            Err(error) => Err((error, told)),
        }
    }

    async fn write_all(
        &self,
        attr: Attr,
        content: Content,
        new: &NewLocal,
        told: &mut u64,
    ) -> Result<(), TransferError> {
        let (names, path) = (Arc::clone(self.names), new.path.clone());
        let file = blocking(move || TempFile::create(&names, &path, attr.size).map(Arc::new)).await?;
        let mut pages = Pages::new(self.namespace, self.source.clone(), attr, content);
        let mut writes = JoinSet::new();
        while let Some(part) = pages.next().await? {
            match part {
                Part::Inline(bytes) => {
                    let (file, len) = (Arc::clone(&file), bytes.len() as u64);
                    blocking(move || file.write_at(&bytes, 0)).await?;
                    self.tell(len, told);
                }
                Part::Pieces(pieces) => {
                    for piece in pieces {
                        if pages.go_back(&piece) {
                            break;
                        }
                        self.start(&attr, piece, &file, &mut writes, told).await;
                        while let Some(written) = writes.try_join_next() {
                            self.take_in(written, told)?;
                        }
                    }
                }
            }
        }
        while let Some(written) = writes.join_next().await {
            self.take_in(written, told)?;
        }
        drop(writes);
        let file = Arc::into_inner(file).expect("every write has ended");
        let (durability, new) = (self.durability, new.clone());
        blocking(move || {
            // Only now, for a hole at the end: a length that runs ahead of the bytes would hide what is missing.
            file.set_len(attr.size)?;
            file.finish(&new, durability)
        })
        .await
    }

    /// Fetches and writes a piece in the background, once there is memory for it.
    async fn start(
        &self,
        attr: &Attr,
        piece: Piece,
        file: &Arc<TempFile>,
        writes: &mut JoinSet<Result<u64, TransferError>>,
        told: &mut u64,
    ) {
        let Piece::Data { offset, slice } = piece else {
            return self.tell(piece.len(), told);
        };
        let pool = Arc::clone(self.namespace.cluster().download_pool());
        let room = pool.acquire_many_owned(pool_units(u64::from(slice.len))).await;
        let room = room.expect("the pool is never closed");
        let (file, source) = (Arc::clone(file), self.source.clone());
        let (namespace, attr) = (self.namespace.clone(), *attr);
        writes.spawn(async move {
            let fetched = fetch_piece(&namespace, &attr, offset, slice).await;
            let bytes = fetched.map_err(|error| NamespaceError::Read { path: source, source: error })?;
            let written = blocking(move || file.write_at(&bytes, offset)).await;
            drop(room);
            written.map(|()| u64::from(slice.len))
        });
    }

    fn take_in(&self, written: Written, told: &mut u64) -> Result<(), TransferError> {
        let len = written.expect("a write neither panics nor is aborted while its file is downloaded")?;
        self.tell(len, told);
        Ok(())
    }

    fn tell(&self, len: u64, told: &mut u64) {
        *told += len;
        self.tally.advanced(len);
    }
}

type Written = Result<Result<u64, TransferError>, tokio::task::JoinError>;

/// Whether the file may have changed since its extents were listed: a chunk that nobody names may be gone.
fn is_about_change(error: &TransferError) -> bool {
    matches!(
        error,
        TransferError::Namespace(NamespaceError::Read { source: ReadError::Changed | ReadError::NoReplica { .. }, .. })
    )
}
