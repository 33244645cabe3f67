//! Writing out: dirty ranges become chunks, chunks become stable, extents are committed.
//!
//! # Invariants
//! - One flush of a file at a time ([`File::turn`]); what is on its way is still read from here until it is committed.
//! - A commit names the data version that the bytes were written on; if that has changed, they are lost and the file's
//!   next `fsync` and `close` say so.

mod batch;
mod journal;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::oneshot, task::JoinSet, time::timeout};
use wire::namespace::{
    Attr, ChunkSlice, Content, EXTENTS_MAX, INLINE_LEN_MAX, InlineData, NewExtent, Op, OpAnswer, OpError, Query,
    QueryAnswer, SetId, SetTime,
};

use self::batch::{Batch, mapped, take_batch};
pub(super) use self::journal::Journal;
use super::{
    FsError, LOOKS_MAX, SYNC_DEADLINE, Shared,
    dirty::{Packed, Taken, pack},
    file::{Base, File, Known, KnownBody},
};
use crate::{
    cluster::{ClusterError, now, pool_units},
    session::GcStamp,
    upload::{Sealed, Stamped, await_newer_map, put_chunk},
};

/// Bytes of one batch of a flush: eight full chunks.
const BATCH_LEN: u64 = 32 << 20;

/// How often chunks are put again because epoch or stamp had passed meanwhile.
pub(super) const TRIES_MAX: u32 = 12;

/// How often whoever waits for a flush looks whether the cluster is silent.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What a flush takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Take {
    /// Whole chunks, and what was written before them: more may come.
    Full,
    /// What was written up to this number ([`super::dirty::DirtyRanges::newest`]), however much somebody goes on to write.
    Until(u64),
    /// Everything.
    All,
}

/// How far a flush came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Flushed {
    /// All that was to be taken is committed.
    Wholly,
    /// The lease has to be taken first.
    LeaseMissing,
}

/// Whether the lease has to be taken first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LeaseHeld {
    /// It is held, and being given back.
    Yes,
    /// It has to be made sure of.
    Unsure,
}

impl Shared {
    /// Commits everything that is written to a file by now.
    pub(super) async fn flush(self: &Arc<Self>, file: &Arc<File>) -> Result<(), FsError> {
        self.flush_within(file, SYNC_DEADLINE).await
    }

    /// As [`Shared::flush`], given so much time: it goes on beyond that, and keeps its turn until it is known what became of
    /// its commit.
    pub(super) async fn flush_within(self: &Arc<Self>, file: &Arc<File>, deadline: Duration) -> Result<(), FsError> {
        if !file.is_dirty() {
            return Ok(());
        }
        let (done, mut flushed) = oneshot::channel();
        let (shared, file) = (Arc::clone(self), Arc::clone(file));
        self.spawn(async move {
            let flushed = shared.flush_by_turns(&file).await;
            let inode = file.inode;
            drop(file);
            if done.send(flushed).is_err() {
                // Nobody waits for it any more.
                shared.drop_file_if_idle(inode);
            }
        });
        let until = now() + deadline;
        loop {
            match timeout(LOOK_INTERVAL, &mut flushed).await {
                Ok(flushed) => return flushed.unwrap_or(Err(FsError::SessionEnded)),
                Err(_) if now() >= until || self.silence.lock().is_long(now()) => return Err(FsError::Deadline),
                Err(_) => {}
            }
        }
    }

    async fn flush_by_turns(&self, file: &Arc<File>) -> Result<(), FsError> {
        let take = Take::Until(file.newest());
        for _ in 0..LOOKS_MAX {
            let turn = file.turn.lock().await;
            let flushed = self.flush_in_turn(file, take, LeaseHeld::Unsure, Journal::IfShort).await?;
            drop(turn);
            if flushed == Flushed::Wholly {
                return Ok(());
            }
            self.make_exclusive_to_flush(file).await?;
        }
        Err(FsError::Deadline)
    }

    /// As [`Shared::make_exclusive`], without the turn: whoever gives the lease back may be waiting for it.
    pub(super) async fn make_exclusive_to_flush(&self, file: &Arc<File>) -> Result<(), FsError> {
        self.make_exclusive(file.inode).await.inspect_err(|error| self.give_up_if_gone(file, error))
    }

    /// Commits what is written to a file whose lease is about to go.
    pub(super) async fn flush_for_recall(&self, inode: wire::namespace::Inode) -> Result<(), FsError> {
        let file = self.table.lock().get(inode).and_then(|node| node.file.clone());
        let Some(file) = file.filter(|file| file.is_dirty()) else { return Ok(()) };
        let _turn = file.turn.lock().await;
        self.flush_in_turn(&file, Take::All, LeaseHeld::Yes, Journal::No).await.map(drop)
    }

    /// Commits what is written to a file, by somebody whose turn it is, as far as that can be without asking for a lease.
    pub(super) async fn flush_in_turn(
        &self,
        file: &Arc<File>,
        take: Take,
        lease: LeaseHeld,
        journal: Journal,
    ) -> Result<Flushed, FsError> {
        loop {
            if lease == LeaseHeld::Unsure && file.is_dirty() && !self.may_commit(file.inode) {
                return Ok(Flushed::LeaseMissing);
            }
            let Some(batch) = take_batch(file, take) else { return Ok(Flushed::Wholly) };
            match self.commit(file, batch, journal).await {
                Ok(()) => file.state.lock().retry_at = None,
                Err(error) => return Err(error),
            }
        }
    }

    /// A file that does not exist any more takes nothing.
    fn give_up_if_gone(&self, file: &Arc<File>, error: &FsError) {
        if matches!(error, FsError::Op(OpError::StaleInode)) {
            let mut state = file.state.lock();
            state.drop_news();
            state.fail(error.clone());
        }
    }

    /// Commits one batch; puts back what could not be.
    async fn commit(&self, file: &Arc<File>, batch: Batch, journal: Journal) -> Result<(), FsError> {
        let Batch { ranges, modified, set_id, base, room } = batch;
        let outcome = self.commit_ranges(file, ranges, (modified, set_id), base, journal).await;
        let mut state = file.state.lock();
        let flushing = std::mem::take(&mut state.flushing);
        match outcome {
            Ok(()) => {
                state.note_committed();
                state.no_room = None;
                drop(state);
                drop(room);
                Ok(())
            }
            Err(error) if is_final(&error) => {
                state.drop_news();
                state.fail(error.clone());
                drop(state);
                // The kernel's pages hold what is lost.
                self.drop_pages_soon(file.inode);
                Err(error)
            }
            Err(error) => {
                flushing.iter().for_each(|taken| state.dirty.put_back(taken));
                state.dirty_since.get_or_insert_with(now);
                state.set_id = state.set_id.max(set_id);
                if let SetTime::To(time) = modified {
                    state.modified.get_or_insert(time);
                }
                if let Some(room) = room {
                    match &mut state.room {
                        Some(held) => held.merge(room),
                        None => state.room = Some(room),
                    }
                }
                state.no_room = Some(error.clone()).filter(FsError::is_no_room);
                drop(state);
                if error.is_no_room() {
                    self.note_no_room(&error);
                }
                Err(error)
            }
        }
    }

    async fn commit_ranges(
        &self,
        file: &Arc<File>,
        mut ranges: Vec<Taken>,
        (modified, set_id): (SetTime, SetId),
        base: Option<Base>,
        journal: Journal,
    ) -> Result<(), FsError> {
        let (attr, losses) = self.attr_of(file).await?;
        if base.is_some_and(|base| !base.holds(&attr, losses)) {
            return Err(FsError::Overtaken);
        }
        let end = ranges.iter().map(Taken::end).max().unwrap_or(0);
        if attr.size <= INLINE_LEN_MAX as u64
            && let Some(mut whole) = self.inline_bytes(file, &attr).await?
        {
            if end <= INLINE_LEN_MAX as u64 {
                let len = usize::try_from(end.max(attr.size)).expect("inline bytes are few");
                whole.resize(len, 0);
                for Taken { offset, bytes, .. } in &ranges {
                    super::dirty::lay_over(0, &mut whole, *offset, bytes);
                }
                return self.commit_inline(file, &attr, whole, (modified, set_id)).await;
            }
            add_below(&mut ranges, &whole);
        }
        let packed = pack(ranges);
        if let ([short], Journal::IfShort) = (packed.as_slice(), journal)
            && self.commit_journaled(file, &attr, short, (modified, set_id)).await?
        {
            return Ok(());
        }
        self.commit_chunks(file, attr, packed, (modified, set_id)).await?;
        self.note_room();
        Ok(())
    }

    /// Attributes of a file under the exclusive lease.
    async fn attr_of(&self, file: &File) -> Result<(Attr, u64), FsError> {
        let looked = self.look(file, |node| node.attr.map(|attr| (attr, node.losses))).map(|(known, _)| known);
        if let Some(known) = looked {
            return Ok(known);
        }
        let attr = self.ask_attr(file.inode).await?;
        let losses = self.table.lock().get(file.inode).map_or(0, |node| node.losses);
        Ok((attr, losses))
    }

    /// The committed bytes of a small file, if they are inline.
    pub(super) async fn inline_bytes(&self, file: &File, attr: &Attr) -> Result<Option<Vec<u8>>, FsError> {
        if attr.size == 0 && attr.allocated == 0 {
            let known = file.state.lock().content.clone();
            let extents = known.is_some_and(|known| matches!(known.body, KnownBody::Extents(_)));
            if !extents {
                return Ok(Some(Vec::new()));
            }
        }
        {
            let state = file.state.lock();
            if let Some(known) = state.content.as_ref().filter(|known| known.version == attr.data_version) {
                return Ok(match &known.body {
                    KnownBody::Inline(bytes) => Some(bytes.to_vec()),
                    KnownBody::Extents(_) => None,
                });
            }
        }
        let query = Query::Content { inode: file.inode, offset: 0, len: u64::MAX };
        match self.ask_one(query).await? {
            QueryAnswer::Content { content: Content::Inline(data), .. } if data.is_sound() => Ok(Some(data.bytes)),
            QueryAnswer::Content { content: Content::Extents { .. }, .. } => Ok(None),
            QueryAnswer::Content { .. } => Err(crate::download::ReadError::Unsound.into()),
            _ => Err(ClusterError::Confused.into()),
        }
    }

    async fn commit_inline(
        &self,
        file: &Arc<File>,
        attr: &Attr,
        whole: Vec<u8>,
        (modified, set_id): (SetTime, SetId),
    ) -> Result<(), FsError> {
        let bytes = Bytes::copy_from_slice(&whole);
        let (inode, content, if_version) = (file.inode, InlineData::new(whole), Some(attr.data_version));
        match self.commit_op(Op::WriteInline { inode, content, if_version, modified, set_id }).await {
            Ok(answer) => {
                self.committed(file, attr.data_version, &answer, |state| {
                    state.content = Some(Known { version: answer.done.version, body: KnownBody::Inline(bytes) });
                });
                Ok(())
            }
            Err(FsError::Op(OpError::VersionChanged)) => Err(FsError::Overtaken),
            Err(error) => Err(error),
        }
    }

    async fn commit_chunks(
        &self,
        file: &Arc<File>,
        mut attr: Attr,
        packed: Vec<Packed>,
        (modified, set_id): (SetTime, SetId),
    ) -> Result<(), FsError> {
        let mut waiting: std::collections::VecDeque<Vec<NewExtent>> = std::collections::VecDeque::new();
        let mut stamps = Vec::new();
        let mut tries = 0;
        self.put_all(&packed, &mut waiting, &mut stamps).await?;
        while let Some(extents) = waiting.pop_front() {
            let op = Op::WriteExtents {
                inode: file.inode,
                extents: extents.clone(),
                if_version: Some(attr.data_version),
                modified,
                set_id,
            };
            let answer = match self.commit_op(op).await {
                Ok(answer) => answer,
                Err(FsError::Op(OpError::StaleEpoch | OpError::StaleGc)) if tries < TRIES_MAX => {
                    tries += 1;
                    self.catch_up(tries).await?;
                    waiting.clear();
                    stamps.clear();
                    self.put_all(&packed, &mut waiting, &mut stamps).await?;
                    continue;
                }
                Err(FsError::Op(OpError::TooLarge)) if let Some([first, second]) = halves(&extents) => {
                    waiting.push_front(second);
                    waiting.push_front(first);
                    continue;
                }
                Err(FsError::Op(OpError::VersionChanged)) => return Err(FsError::Overtaken),
                Err(error) => return Err(error),
            };
            self.committed(file, attr.data_version, &answer, |state| {
                state.note_extents(&attr, &answer, &mapped(&extents))
            });
            attr = self.attr_of(file).await?.0;
            attr.data_version = answer.done.version;
        }
        Ok(())
    }

    /// Epoch or stamp of what was put had passed when it was committed, for the `turn`th time: before it is put again.
    pub(super) async fn catch_up(&self, turn: u32) -> Result<(), FsError> {
        await_newer_map(turn).await;
        self.cluster.refresh().await?;
        self.session().refresh_stamp().await?;
        Ok(())
    }

    /// Puts the chunks, side by side; their extents are what is to be committed.
    async fn put_all(
        &self,
        packed: &[Packed],
        waiting: &mut std::collections::VecDeque<Vec<NewExtent>>,
        stamps: &mut Vec<GcStamp>,
    ) -> Result<(), FsError> {
        let mut puts = JoinSet::new();
        for (index, Packed { bytes, .. }) in packed.iter().enumerate() {
            let pool = Arc::clone(self.cluster.upload_pool());
            let room = pool.acquire_many_owned(pool_units(bytes.len() as u64)).await.map_err(|_| FsError::Deadline)?;
            let (cluster, session, bytes) = (self.cluster.clone(), self.session(), bytes.clone());
            puts.spawn(async move {
                let sealed = Sealed::new(bytes);
                (index, put_chunk(&cluster, &session, sealed, room).await)
            });
        }
        let mut stable: Vec<Option<NewExtent>> = vec![None; packed.len()];
        while let Some(joined) = puts.join_next().await {
            let (index, put) = joined.map_err(|_| FsError::Deadline)?;
            let Stamped { durable, stamp } = put?;
            stamps.push(stamp);
            if let Some(place) = stable.get_mut(index) {
                *place = Some(durable.extent(0));
            }
        }
        let mut all = Vec::new();
        for (Packed { parts, bytes }, whole) in packed.iter().zip(stable) {
            let whole = whole.expect("every put has ended well");
            if bytes.len() <= KEEP_LEN_MAX {
                self.chunks.keep(whole.slice.key, bytes.clone());
            }
            all.extend(parts.iter().map(|part| {
                let slice = ChunkSlice { offset: part.chunk_offset, len: part.len, ..whole.slice };
                NewExtent { offset: part.offset, slice, ..whole }
            }));
        }
        all.sort_by_key(|extent| extent.offset);
        waiting.extend(all.chunks(EXTENTS_MAX).map(<[_]>::to_vec));
        Ok(())
    }

    /// A commit is done: what is known of the file moves on to its new version.
    fn committed(&self, file: &File, before: u64, answer: &OpAnswer, update: impl FnOnce(&mut super::file::FileState)) {
        let mut table = self.table.lock();
        let mut state = file.state.lock();
        update(&mut state);
        if let Some(base) = &mut state.base {
            base.version = answer.done.version;
        }
        // The kernel's pages hold what was written here.
        if let Some(node) = table.get_mut(file.inode)
            && node.pages == Some(before)
        {
            node.pages = Some(answer.done.version);
        }
    }
}

/// Chunks up to this length are kept in memory after they were written: they are small files and pages of databases,
/// which are read again soon.
const KEEP_LEN_MAX: usize = 256 << 10;

/// Extents that replace more than one command may change, as two lists; one alone is cut in two. None if it cannot be cut.
fn halves(extents: &[NewExtent]) -> Option<[Vec<NewExtent>; 2]> {
    if let [one] = extents {
        let middle = one.slice.len / 2;
        let (first, second) = (ChunkSlice { len: middle, ..one.slice }, one.slice.len - middle);
        let second = ChunkSlice { offset: one.slice.offset + middle, len: second, ..one.slice };
        let after = NewExtent { offset: one.offset + u64::from(middle), slice: second, ..*one };
        return (middle > 0).then(|| [vec![NewExtent { slice: first, ..*one }], vec![after]]);
    }
    let (first, second) = extents.split_at_checked(extents.len() / 2)?;
    (!first.is_empty()).then(|| [first.to_vec(), second.to_vec()])
}

/// Adds what inline bytes hold and `ranges` do not: extents must cover all of it.
fn add_below(ranges: &mut Vec<Taken>, whole: &[u8]) {
    let mut merged = super::dirty::DirtyRanges::default();
    merged.write(0, whole);
    for Taken { offset, bytes, .. } in ranges.drain(..) {
        merged.write(offset, &bytes);
    }
    ranges.extend(merged.take_all());
}

/// Whether trying again later cannot help.
fn is_final(error: &FsError) -> bool {
    match error {
        FsError::Overtaken => true,
        FsError::Op(OpError::StaleEpoch | OpError::StaleGc | OpError::CutPending | OpError::JournalFull) => false,
        FsError::Op(_) => true,
        _ => false,
    }
}
