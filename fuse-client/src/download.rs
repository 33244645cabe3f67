//! The story of a read: extents, replicas, proof, bytes.
//!
//! # Invariants
//! - P1: every byte handed out was checked against the hash that the namespace recorded. Holes are zeros because the
//!   namespace says that nothing is there; what should be there and cannot be read is an error, never zeros.
//! - A file that changes while it is read is noticed by its data version: one reading never mixes two versions.
//!
//! # Not here
//! Trees and local files (`transfer`).

mod fetch;
mod layout;
mod replica_choice;

use std::{collections::VecDeque, time::Instant};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use ring::ChunkKey;
use tokio_util::task::AbortOnDropHandle;
use wire::namespace::{Attr, ChunkSlice, Content, FileType, InlineData, Inode};

pub(crate) use fetch::fetch_slice;
use layout::split_zeros;
pub(crate) use layout::{Piece, may_be_merged, pieces};

use crate::{
    cluster::{Cluster, now},
    namespace::{Follow, Namespace, NamespaceError, Permission},
    path::FilePath,
};

/// Chunks of one file on their way at once: 32 MiB keep three nodes busy, and two such readers fit in the pool.
const READ_AHEAD: usize = 8;

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No replica gave bytes that match the key.
    #[error("no replica of chunk {key} could be read ({tried})")]
    NoReplica {
        /// Which chunk.
        key: ChunkKey,
        /// Who was asked and what came of it.
        tried: String,
        /// Whether somebody said that it does not have it: it may be needed no more.
        is_missing: bool,
    },
    /// What the namespace holds does not match its own hash, or makes no sense.
    #[error("the content kept in the namespace is damaged")]
    Unsound,
    /// The file is no regular file.
    #[error("not a regular file")]
    NotAFile,
    /// It changed while it was read.
    #[error("the file changed while it was read; read it again")]
    Changed,
}

impl ReadError {
    /// Whether the bytes may be elsewhere.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::NoReplica { is_missing: true, .. })
    }
}

/// A file being read from start to end, with a window of chunks ahead.
#[derive(Debug)]
pub struct FileReader {
    pages: Pages,
    ahead: VecDeque<Ahead>,
    planned: VecDeque<Piece>,
}

/// A piece that was asked for.
#[derive(Debug)]
enum Ahead {
    Ready(Bytes),
    Fetching(AbortOnDropHandle<Result<Bytes, ReadError>>),
}

/// The content of a file, page by page of extents.
#[derive(Debug)]
pub(crate) struct Pages {
    namespace: Namespace,
    path: FilePath,
    attr: Attr,
    first: Option<Content>,
    /// Where the next page begins.
    at: u64,
    /// Where the range ends.
    end: u64,
    /// When the last page was asked for.
    told: Instant,
}

/// Part of the content of a file.
#[derive(Debug)]
pub(crate) enum Part {
    Inline(Bytes),
    Pieces(Vec<Piece>),
}

impl Pages {
    /// The content of a file of which `attr` and `content`, from its start, are known.
    pub(crate) fn new(namespace: &Namespace, path: FilePath, attr: Attr, content: Content) -> Self {
        Self { namespace: namespace.clone(), path, attr, first: Some(content), at: 0, end: attr.size, told: now() }
    }

    /// A range of a file of which `attr` and `content`, from `start`, are known.
    fn range(namespace: &Namespace, path: FilePath, attr: Attr, content: Content, start: u64, end: u64) -> Self {
        Self { at: start, end, ..Self::new(namespace, path, attr, content) }
    }

    pub(crate) fn attr(&self) -> &Attr {
        &self.attr
    }

    fn failed(&self, source: ReadError) -> NamespaceError {
        NamespaceError::Read { path: self.path.clone(), source }
    }

    /// Whether a piece of the last part is better asked for again: the next part begins with it then, and those behind it are
    /// not to be read.
    pub(crate) fn go_back(&mut self, piece: &Piece) -> bool {
        let old = piece.data().filter(|(_, slice)| may_be_merged(slice, self.told, now()));
        if let Some((offset, _)) = old {
            self.at = offset;
        }
        old.is_some()
    }

    /// The next part; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Part>, NamespaceError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let content = match self.first.take() {
            Some(content) => content,
            None => {
                self.told = now();
                let (attr, content) = self.namespace.content(self.attr.inode, self.at, self.end - self.at).await?;
                if attr.data_version != self.attr.data_version {
                    return Err(self.failed(ReadError::Changed));
                }
                content
            }
        };
        match content {
            Content::Inline(data) => {
                let bytes = inline_bytes(data, &self.attr).map_err(|error| self.failed(error))?;
                let index = |at: u64| usize::try_from(at).expect("inline bytes are few");
                let part = bytes.slice(index(self.at)..index(self.end));
                self.at = self.end;
                Ok(Some(Part::Inline(part)))
            }
            Content::Extents { extents, next } => {
                let end = next.unwrap_or(self.end).min(self.end);
                let made = pieces(&extents, self.at, end).filter(|_| end > self.at);
                let pieces = made.ok_or_else(|| self.failed(ReadError::Unsound))?;
                self.at = end;
                Ok(Some(Part::Pieces(pieces)))
            }
            Content::Symlink(_) | Content::None => Err(self.failed(ReadError::NotAFile)),
        }
    }
}

/// Inline bytes that match their hash and their file's size.
pub(crate) fn inline_bytes(data: InlineData, attr: &Attr) -> Result<Bytes, ReadError> {
    if data.is_sound() && data.bytes.len() as u64 == attr.size {
        Ok(Bytes::from(data.bytes))
    } else {
        Err(ReadError::Unsound)
    }
}

impl FileReader {
    /// Attributes when it was opened.
    pub fn attr(&self) -> &Attr {
        self.pages.attr()
    }

    /// The next bytes, verified, in order; none at the end. Holes come as zeros.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NamespaceError> {
        self.fill().await?;
        match self.ahead.pop_front() {
            None => Ok(None),
            Some(Ahead::Ready(bytes)) => Ok(Some(bytes)),
            Some(Ahead::Fetching(fetch)) => {
                let fetched = fetch.await.expect("a fetch neither panics nor is aborted while it is awaited");
                fetched.map(Some).map_err(|error| self.pages.failed(error))
            }
        }
    }

    async fn fill(&mut self) -> Result<(), NamespaceError> {
        while self.ahead.len() < READ_AHEAD {
            match self.planned.pop_front() {
                Some(piece) if self.pages.go_back(&piece) => self.planned.clear(),
                Some(Piece::Data { offset, slice }) => {
                    let (namespace, attr) = (self.pages.namespace.clone(), self.pages.attr);
                    let fetch = tokio::spawn(async move { fetch_piece(&namespace, &attr, offset, slice).await });
                    self.ahead.push_back(Ahead::Fetching(AbortOnDropHandle::new(fetch)));
                }
                Some(Piece::Zeros { offset, len }) => {
                    let mut parts = split_zeros(offset, len);
                    if let Some(first) = parts.next() {
                        let rest = len - first.len();
                        if rest > 0 {
                            self.planned.push_front(Piece::Zeros { offset: offset + first.len(), len: rest });
                        }
                        let zeros = usize::try_from(first.len()).expect("zeros come in parts of a chunk's length");
                        self.ahead.push_back(Ahead::Ready(BytesMut::zeroed(zeros).freeze()));
                    }
                }
                None => match self.pages.next().await? {
                    Some(Part::Inline(bytes)) => self.ahead.push_back(Ahead::Ready(bytes)),
                    Some(Part::Pieces(pieces)) => self.planned.extend(pieces),
                    None => return Ok(()),
                },
            }
        }
        Ok(())
    }
}

/// Opens the file at `path` for reading from start to end.
pub async fn open(namespace: &Namespace, path: &FilePath) -> Result<FileReader, NamespaceError> {
    let found = namespace.resolve(path, Follow::Yes).await?;
    if found.file_type != FileType::File {
        return Err(NamespaceError::Read { path: path.clone(), source: ReadError::NotAFile });
    }
    namespace.require(Permission::Read, &found, path)?;
    let (attr, content) = namespace.content(found.inode, 0, u64::MAX).await?;
    let pages = Pages::new(namespace, path.clone(), attr, content);
    Ok(FileReader { pages, ahead: VecDeque::new(), planned: VecDeque::new() })
}

/// `len` bytes from `offset` of a file, fewer only at its end.
pub(crate) async fn read_range(
    namespace: &Namespace,
    inode: Inode,
    offset: u64,
    len: u32,
) -> Result<Bytes, NamespaceError> {
    let failed = |source| NamespaceError::Read { path: FilePath::root(), source };
    let mut reads = 0;
    let mut gone: Option<(Vec<Piece>, ReadError)> = None;
    loop {
        reads += 1;
        let (attr, content) = namespace.content(inode, offset, u64::from(len)).await?;
        let end = offset.saturating_add(u64::from(len)).min(attr.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let mut pages = Pages::range(namespace, FilePath::root(), attr, content, offset, end);
        match gather(&mut pages).await {
            // Bytes of two versions are never mixed: what is asked for is read again.
            Err(NamespaceError::Read { source: ReadError::Changed, .. }) if reads < RANGE_READS_MAX => {}
            Err(error) => return Err(error),
            Ok(Gathered::Inline(bytes)) => return Ok(bytes),
            Ok(Gathered::Pieces(pieces)) => {
                if let Some((before, error)) = gone.take()
                    && before == pieces
                {
                    return Err(failed(error));
                }
                match assemble(namespace.cluster(), &pieces, offset, end).await {
                    Ok(bytes) => return Ok(bytes),
                    // What was written over, or merged, meanwhile need not be there any more.
                    Err(error) if reads < RANGE_READS_MAX && error.is_missing() => gone = Some((pieces, error)),
                    Err(error) => return Err(failed(error)),
                }
            }
        }
    }
}

/// How often a range that changes while it is looked up is looked up again.
const RANGE_READS_MAX: u32 = 4;

/// All parts of a range.
enum Gathered {
    Inline(Bytes),
    Pieces(Vec<Piece>),
}

async fn gather(pages: &mut Pages) -> Result<Gathered, NamespaceError> {
    let mut all = Vec::new();
    while let Some(part) = pages.next().await? {
        match part {
            Part::Inline(bytes) => return Ok(Gathered::Inline(bytes)),
            Part::Pieces(pieces) => all.extend(pieces),
        }
    }
    Ok(Gathered::Pieces(all))
}

/// The bytes of a piece of a file of which `attr` is known. As long as its version stands its bytes do; but a server may have
/// merged the extents that held them.
pub(crate) async fn fetch_piece(
    namespace: &Namespace,
    attr: &Attr,
    offset: u64,
    slice: ChunkSlice,
) -> Result<Bytes, ReadError> {
    let (len, end) = (u64::from(slice.len), offset + u64::from(slice.len));
    let mut asked = vec![Piece::Data { offset, slice }];
    let mut looks = 0;
    loop {
        let error = match assemble(namespace.cluster(), &asked, offset, end).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if !error.is_missing() => return Err(error),
            Err(error) => error,
        };
        looks += 1;
        // Whether or not anybody can say where the bytes are: they could not be read.
        let Ok((now, content)) = namespace.content(attr.inode, offset, len).await else { return Err(error) };
        if now.data_version != attr.data_version {
            return Err(ReadError::Changed);
        }
        let found = match content {
            Content::Extents { extents, next } if next.is_none_or(|next| next >= end) => pieces(&extents, offset, end),
            _ => None,
        };
        let is_data = |found: &Vec<Piece>| found.iter().all(|piece| matches!(piece, Piece::Data { .. }));
        match found.filter(|found| is_data(found) && *found != asked) {
            Some(found) if looks < RANGE_READS_MAX => asked = found,
            _ => return Err(error),
        }
    }
}

async fn assemble(cluster: &Cluster, pieces: &[Piece], start: u64, end: u64) -> Result<Bytes, ReadError> {
    if let [Piece::Data { slice, .. }] = pieces {
        return fetch_slice(cluster, *slice).await;
    }
    let index = |at: u64| usize::try_from(at - start).expect("a range is shorter than 4 GiB");
    let mut bytes = BytesMut::zeroed(index(end));
    let data: Vec<(u64, ChunkSlice)> = pieces.iter().filter_map(Piece::data).collect();
    let mut fetched = stream::iter(data)
        .map(|(offset, slice)| async move { Ok::<_, ReadError>((offset, fetch_slice(cluster, slice).await?)) })
        .buffer_unordered(READ_AHEAD);
    while let Some((offset, part)) = fetched.try_next().await? {
        let from = index(offset);
        let place = bytes.get_mut(from..from + part.len()).ok_or(ReadError::Unsound)?;
        place.copy_from_slice(&part);
    }
    Ok(bytes.freeze())
}
