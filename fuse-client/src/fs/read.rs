//! Bytes of open files: what is written here over what is committed, every committed byte verified.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use wire::namespace::{Attr, ChunkSlice, Content, ExtentBody, Inode, Query, QueryAnswer};

use super::{
    FileSystem, FsError, Gate, LOOKS_MAX, Shared,
    dirty::lay_over,
    file::{File, FileState, Known, KnownBody, Plan},
    open_files::HandleId,
};
use crate::{cluster::ClusterError, download::Piece};

/// Questions where the bytes of one read are, beyond those that find out that something has changed meanwhile: each is answered
/// with a thousand extents.
const LEARNT_MAX: u32 = 20;

/// Slices of one read on their way at once.
const FETCHES: usize = 8;

/// Chunks fetched ahead of somebody who reads on: 16 MiB, what three nodes send while one chunk is copied.
const AHEAD: usize = 4;

/// What an answer rests on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stand {
    inode: Inode,
    losses: u64,
}

/// Where `SEEK_DATA` and `SEEK_HOLE` lead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seek {
    /// To the next byte that is data.
    Data,
    /// To the next byte that is not.
    Hole,
}

impl FileSystem {
    /// Bytes that are here; none if anything has to be asked for.
    pub fn read_cached(&self, _gate: &Gate<'_>, handle: HandleId, offset: u64, len: u32) -> Option<Bytes> {
        self.shared.ttl()?;
        let file = self.shared.file_of(handle).ok()?.file;
        let ((attr, losses), mut state) = self.shared.look(&file, |node| {
            node.note_read();
            Some((node.attr.filter(|_| node.is_leased())?, node.losses))
        })?;
        self.shared.give_up_overtaken(file.inode, &mut state, &attr, losses);
        let range = clip(offset, len, state.size(&attr));
        if range.is_empty() {
            return Some(Bytes::new());
        }
        match state.plan(&attr, range.clone()) {
            Plan::Here(bytes) => {
                state.note_read(&range);
                Some(bytes.into())
            }
            Plan::Fetch { pieces, over } => {
                let here = |(offset, slice): (u64, ChunkSlice)| Some((offset, self.shared.chunks.peek(&slice)?));
                let parts = pieces.iter().filter_map(Piece::data).map(here).collect::<Option<Vec<_>>>()?;
                if state.note_read(&range) {
                    self.shared.read_ahead(&state, &attr, range.end);
                }
                Some(assemble(&range, &parts, &over))
            }
            Plan::Unknown => None,
        }
    }

    /// Bytes, and what they rest on: they may be given, and cached by the kernel, if it still stands
    /// ([`FileSystem::stands`]).
    pub async fn read(&self, handle: HandleId, offset: u64, len: u32) -> Result<(Bytes, Stand), FsError> {
        let open = self.shared.file_of(handle)?;
        let read = self.shared.read(&open.file, offset, len).await?;
        // The lease that it rests on may be one of the next session.
        open.check()?;
        Ok(read)
    }

    /// Whether what an answer rests on is as it was.
    pub fn stands(&self, _gate: &Gate<'_>, stand: Stand) -> bool {
        let leased = |node: &mut super::table::Node| {
            node.note_read();
            node.is_leased() && node.losses == stand.losses
        };
        self.shared.table.lock().get_mut(stand.inode).is_some_and(leased) && self.shared.ttl().is_some()
    }

    /// The next data or hole at or after `offset`.
    pub async fn seek(&self, handle: HandleId, offset: u64, seek: Seek) -> Result<u64, FsError> {
        let file = self.shared.file_of(handle)?.file;
        self.shared.flush(&file).await?;
        let mut at = offset;
        loop {
            let query = Query::Content { inode: file.inode, offset: at, len: u64::MAX };
            let QueryAnswer::Content { attr, content } = self.shared.ask_one(query).await? else {
                return Err(ClusterError::Confused.into());
            };
            if offset >= attr.size {
                return Err(FsError::NothingThere);
            }
            match seek_in(&content, at, attr.size, seek) {
                Found::At(found) => return Ok(found.max(offset)),
                Found::Nowhere => {
                    return if seek == Seek::Hole { Ok(attr.size) } else { Err(FsError::NothingThere) };
                }
                Found::GoOn(next) => at = next,
            }
        }
    }
}

/// What a page of extents says of the next data or hole.
enum Found {
    At(u64),
    GoOn(u64),
    Nowhere,
}

fn seek_in(content: &Content, from: u64, size: u64, seek: Seek) -> Found {
    let (extents, next) = match content {
        Content::Extents { extents, next } => (extents.as_slice(), *next),
        // Inline bytes are all data.
        Content::Inline(_) | Content::Symlink(_) | Content::None => {
            return if seek == Seek::Data { Found::At(from) } else { Found::At(size) };
        }
    };
    let mut at = from;
    for extent in extents {
        let data = matches!(extent.body, ExtentBody::Chunk(_));
        if extent.offset > at && seek == Seek::Hole {
            return Found::At(at);
        }
        match (seek, data) {
            (Seek::Data, true) => return Found::At(extent.offset.max(at)),
            // Room that was never written reads as zeros: a hole, as on other file systems.
            (Seek::Hole, false) => return Found::At(extent.offset.max(at)),
            _ => at = extent.end().max(at),
        }
    }
    match next {
        Some(next) => Found::GoOn(next),
        None if seek == Seek::Hole => Found::At(at.min(size)),
        None => Found::Nowhere,
    }
}

/// What of a read lies within the file.
fn clip(offset: u64, len: u32, size: u64) -> Range<u64> {
    let end = offset.saturating_add(u64::from(len)).min(size);
    offset.min(end)..end
}

fn zeros(range: &Range<u64>) -> Vec<u8> {
    vec![0; usize::try_from(range.end - range.start).expect("a read is at most some megabytes")]
}

/// The bytes of a range: `parts`, with `over` laid over them in order; zeros where neither is. One part that is all of it
/// is not copied.
fn assemble(range: &Range<u64>, parts: &[(u64, Bytes)], over: &[(u64, Bytes)]) -> Bytes {
    if let ([(start, whole)], []) = (parts, over)
        && (*start, whole.len() as u64) == (range.start, range.end - range.start)
    {
        return whole.clone();
    }
    let mut buffer = zeros(range);
    for (start, bytes) in parts.iter().chain(over) {
        lay_over(range.start, &mut buffer, *start, bytes);
    }
    buffer.into()
}

impl Shared {
    pub(super) async fn read(&self, file: &Arc<File>, offset: u64, len: u32) -> Result<(Bytes, Stand), FsError> {
        let (mut gone, mut asked): (Option<(Vec<Piece>, FsError)>, bool) = (None, false);
        for _ in 0..LOOKS_MAX + LEARNT_MAX {
            let stand = self.stand(file.inode).await?;
            let planned = {
                let looked = self.look(file, |node| Some((node.attr.filter(|_| node.is_leased())?, node.losses)));
                let Some(((attr, losses), mut state)) = looked else { continue };
                self.give_up_overtaken(file.inode, &mut state, &attr, losses);
                let range = clip(offset, len, state.size(&attr));
                let reads_on = state.note_read(&range);
                let mut plan = if range.is_empty() { Plan::Here(Vec::new()) } else { state.plan(&attr, range.clone()) };
                let now = crate::cluster::now();
                let is_old =
                    |piece: &Piece| matches!(piece, Piece::Data { slice, .. } if state.may_be_merged(slice, now));
                if !asked && matches!(&plan, Plan::Fetch { pieces, .. } if pieces.iter().any(is_old)) {
                    state.forget_content(attr.data_version);
                    plan = Plan::Unknown;
                }
                if reads_on && !matches!(plan, Plan::Unknown) {
                    self.read_ahead(&state, &attr, range.start);
                }
                (plan, range, reads_on, attr.data_version)
            };
            match planned {
                (Plan::Here(bytes), ..) => return Ok((bytes.into(), stand)),
                (Plan::Unknown, range, ..) => {
                    self.learn(file, range).await?;
                    asked = true;
                }
                (Plan::Fetch { pieces, mut over }, range, reads_on, version) => {
                    if let Some((before, error)) = gone.take()
                        && before == pieces
                    {
                        return Err(error);
                    }
                    let part = match self.fetch(&range, &pieces, reads_on || len >= 128 << 10).await {
                        // What was written over meanwhile need not be anywhere any more.
                        Err(FsError::Read(_)) if !self.is_as_planned(stand, version) => continue,
                        // Nor need what a server has merged: the bytes are elsewhere then.
                        Err(FsError::Read(error)) if error.is_missing() => {
                            file.state.lock().forget_content(version);
                            gone = Some((pieces, FsError::Read(error)));
                            continue;
                        }
                        fetched => fetched?,
                    };
                    over.extend(file.state.lock().news_over(&range));
                    return Ok((assemble(&range, &[part], &over), stand));
                }
            }
        }
        Err(FsError::Deadline)
    }

    /// Whether a file still has the bytes that a read was planned for.
    fn is_as_planned(&self, stand: Stand, version: u64) -> bool {
        let table = self.table.lock();
        let node = table.get(stand.inode).filter(|node| node.losses == stand.losses);
        node.and_then(|node| node.attr).is_some_and(|attr| attr.data_version == version)
    }

    /// What an answer about an inode may rest on: a lease.
    async fn stand(&self, inode: Inode) -> Result<Stand, FsError> {
        let until = tokio::time::Instant::now() + super::OP_DEADLINE;
        loop {
            self.wait_settled(inode).await;
            if self.ttl().is_some() {
                let table = self.table.lock();
                let node = table.get(inode).filter(|node| node.is_leased() && node.attr.is_some());
                if let Some(node) = node {
                    return Ok(Stand { inode, losses: node.losses });
                }
            }
            if tokio::time::Instant::now() >= until {
                return Err(FsError::Deadline);
            }
            self.ask_attr(inode).await?;
            let leased = self.table.lock().get(inode).is_some_and(|node| node.is_leased() && node.attr.is_some());
            if !leased || self.ttl().is_none() {
                self.keeper.notify_one();
                tokio::time::sleep(super::leases::CONTENTION_PAUSE).await;
            }
        }
    }

    /// What `pick` sees of a file's node, and the file's state, of one moment.
    pub(super) fn look<'a, T>(
        &self,
        file: &'a File,
        pick: impl FnOnce(&mut super::table::Node) -> Option<T>,
    ) -> Option<(T, parking_lot::MutexGuard<'a, super::file::FileState>)> {
        let mut table = self.table.lock();
        let picked = pick(table.get_mut(file.inode)?)?;
        // Taken before the table is let go: a commit changes both together.
        Some((picked, file.state.lock()))
    }

    /// What was written here lies over what somebody else has written since, and will not be stored: it is not shown either.
    fn give_up_overtaken(&self, inode: Inode, state: &mut FileState, attr: &Attr, losses: u64) {
        if state.is_overtaken(attr, losses) {
            state.drop_news();
            state.fail(FsError::Overtaken);
            self.drop_pages_soon(inode);
        }
    }

    /// Asks where the bytes of a range are.
    async fn learn(&self, file: &Arc<File>, range: Range<u64>) -> Result<(), FsError> {
        // A little before and much after: who reads here reads on.
        let start = {
            let state = file.state.lock();
            match &state.content {
                Some(Known { body: KnownBody::Extents(map), .. }) => map.next_unknown(range.start),
                _ => range.start,
            }
        };
        // All of it is known of another version, or was a moment ago.
        let start = if start < range.end { start } else { range.start };
        let query = Query::Content { inode: file.inode, offset: start, len: u64::MAX - start };
        let told = crate::cluster::now();
        let QueryAnswer::Content { attr, content } = self.ask_one(query).await? else {
            return Err(ClusterError::Confused.into());
        };
        let asked = match content {
            Content::Inline(_) => 0..u64::MAX,
            _ => start..u64::MAX,
        };
        file.state.lock().learn(attr.data_version, asked, &content, Some(told));
        Ok(())
    }

    /// The bytes of the pieces of a range, as one part of it: a single one as it is, of several a copy, so that none holds
    /// its whole chunk in memory until the last has come.
    async fn fetch(&self, range: &Range<u64>, pieces: &[Piece], whole: bool) -> Result<(u64, Bytes), FsError> {
        let slices: Vec<(u64, ChunkSlice)> = pieces.iter().filter_map(Piece::data).collect();
        let chunks = &self.chunks;
        if let [(offset, slice)] = slices.as_slice() {
            return Ok((*offset, chunks.get(slice, whole).await?));
        }
        let mut buffer = zeros(range);
        let get = |(offset, slice): (u64, ChunkSlice)| async move {
            Ok::<_, FsError>((offset, chunks.get(&slice, whole).await?))
        };
        let mut fetched = stream::iter(slices).map(get).buffer_unordered(FETCHES);
        while let Some((offset, bytes)) = fetched.try_next().await? {
            lay_over(range.start, &mut buffer, offset, &bytes);
        }
        Ok((range.start, buffer.into()))
    }

    /// Begins to bring the chunks that follow `from`.
    fn read_ahead(&self, state: &super::file::FileState, attr: &Attr, from: u64) {
        let Some(known) = state.content.as_ref().filter(|known| known.version == attr.data_version) else { return };
        let super::file::KnownBody::Extents(map) = &known.body else { return };
        let window = (AHEAD as u64) * u64::from(wire::CHUNK_LEN_MAX);
        let to = from.saturating_add(window).min(attr.size);
        let Some(extents) = map.find(from..to.max(from)) else { return };
        let (mut last, now) = (None, crate::cluster::now());
        for extent in extents {
            if let ExtentBody::Chunk(slice) = extent.body
                && last != Some(slice.key)
            {
                // Pieces of large chunks are read at random; only those that a reader passes whole are brought ahead.
                if slice.len >= slice.chunk_len / 4 && !state.may_be_merged(&slice, now) {
                    self.chunks.prefetch(&slice);
                }
                last = Some(slice.key);
            }
        }
    }
}
