//! Lengths and ranges: truncation, allocation, holes, clones. Each commits what is written before it, and then is one
//! change of the namespace.

use std::{ops::Range, sync::Arc};

use wire::namespace::{
    Attr, FILE_LEN_MAX, INLINE_LEN_MAX, Inode, NewExtent, Op, OpAnswer, OpError, PunchMode, SetAttr, SetId, SetTime,
};

use super::{FileSystem, FsError, LOOKS_MAX, Shared, file::File, flush::TRIES_MAX, open_files::HandleId};
use crate::{
    cluster::pool_units,
    upload::{Sealed, put_chunk},
};

/// Changes that one call makes at most: each does a thousand extents.
const STEPS_MAX: usize = 4096;

/// From so many bytes on what is free is looked at before they are allocated.
const PROBED_MIN: u64 = 16 << 20;

/// A range of one file that is to become a range of another.
#[derive(Clone, Copy, Debug)]
pub struct CopyRange {
    /// From where.
    pub from: (HandleId, u64),
    /// To where.
    pub to: (HandleId, u64),
    /// Bytes.
    pub len: u64,
}

impl FileSystem {
    /// Makes a hole, zeros or room in a range.
    pub async fn allocate(
        &self,
        handle: HandleId,
        offset: u64,
        len: u64,
        mode: PunchMode,
        set_id: SetId,
    ) -> Result<(), FsError> {
        if len == 0 {
            return Err(FsError::Invalid);
        }
        offset.checked_add(len).filter(|end| *end <= FILE_LEN_MAX).ok_or(OpError::FileTooLarge)?;
        let file = self.shared.file_of(handle)?.file;
        let allocates = mode != PunchMode::Hole;
        // Nothing is kept free for it, but what there cannot be is not promised.
        if allocates && len >= PROBED_MIN {
            let missing = len.saturating_sub(self.load_attr(file.inode).await?.allocated);
            if missing >= PROBED_MIN && self.space().await.is_ok_and(|space| missing > space.free) {
                return Err(FsError::TooMuchAsked);
            }
        }
        let turn = self.shared.turn(&file).await?;
        let punched = self.punch(&file, offset..offset + len, mode, set_id).await;
        drop(turn);
        // The kernel's pages of the range hold what was there, also where only a part of it was changed.
        self.shared.drop_pages(file.inode).await;
        punched
    }

    async fn punch(&self, file: &Arc<File>, range: Range<u64>, mode: PunchMode, set_id: SetId) -> Result<(), FsError> {
        let mut at = range.start;
        for _ in 0..STEPS_MAX {
            let op = Op::Punch { inode: file.inode, offset: at, len: range.end - at, mode, set_id };
            let answer = self.shared.change_in_turn(file, op).await?;
            at = at.saturating_add(answer.done.offset);
            if at >= range.end {
                return Ok(());
            }
        }
        Err(FsError::Deadline)
    }

    /// Lets a range of a file be the same bytes as a range of another, and moves none; how many bytes.
    pub async fn copy_range(&self, range: CopyRange, set_id: SetId) -> Result<u64, FsError> {
        let (source, target) = (self.shared.file_of(range.from.0)?.file, self.shared.file_of(range.to.0)?.file);
        self.shared.flush(&source).await?;
        let turn = self.shared.turn(&target).await?;
        let op = Op::Clone {
            from: source.inode,
            from_offset: range.from.1,
            to: target.inode,
            to_offset: range.to.1,
            len: range.len,
            if_version: None,
            set_id,
        };
        let copied = match self.shared.change_in_turn(&target, op).await {
            Ok(answer) => Ok(answer.done.offset),
            // Small files lie in the namespace: their bytes are written, not cloned.
            Err(FsError::Op(OpError::InlineInTheWay | OpError::NotInline)) => {
                drop(turn);
                return self.copy_bytes(range, &source, set_id).await;
            }
            Err(error) => Err(error),
        };
        drop(turn);
        self.shared.drop_pages(target.inode).await;
        copied
    }

    /// Copies a few bytes the long way.
    async fn copy_bytes(&self, range: CopyRange, source: &Arc<File>, set_id: SetId) -> Result<u64, FsError> {
        let len = u32::try_from(range.len.min(1 << 20)).expect("a megabyte at most");
        let (bytes, _) = self.shared.read(source, range.from.1, len).await?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let write = super::write::Write {
            handle: range.to.0,
            offset: range.to.1,
            data: &bytes,
            kind: super::write::WriteKind::Plain,
            mode: super::write::WriteMode::default(),
            set_id,
        };
        let written = self.write(write).await?;
        let target = self.shared.file_of(range.to.0)?.file;
        self.shared.drop_pages(target.inode).await;
        Ok(u64::from(written))
    }
}

impl Shared {
    /// Cuts or extends a file, with other attributes in the same step.
    pub(super) async fn set_len(self: &Arc<Self>, inode: Inode, size: u64, set: SetAttr) -> Result<Attr, FsError> {
        if size > FILE_LEN_MAX {
            return Err(OpError::FileTooLarge.into());
        }
        let file = self.file(inode);
        let turn = match self.turn(&file).await {
            // What finds no room goes all the same, as far as it is cut.
            Err(error) if error.is_no_room() => self.turn_to_cut(&file).await?,
            turn => turn?,
        };
        let answer = self.change_in_turn(&file, Op::SetAttr { inode, set }).await;
        if answer.is_ok() {
            let mut state = file.state.lock();
            state.cut_news(size);
            if set.modified != SetTime::Keep {
                state.modified = None;
            }
        }
        drop(turn);
        let told = answer.map(|answer| answer.attr.map(|attr| file.state.lock().overlay(&attr)));
        drop(file);
        self.drop_file_if_idle(inode);
        match told? {
            Some(attr) => Ok(attr),
            None => self.ask_attr(inode).await,
        }
    }

    /// The turn to change what is committed of a file, with an exclusive lease, and everything committed that is written by
    /// now: what somebody writes meanwhile comes after.
    async fn turn<'a>(self: &Arc<Self>, file: &'a Arc<File>) -> Result<tokio::sync::MutexGuard<'a, ()>, FsError> {
        let newest = file.newest();
        for _ in 0..LOOKS_MAX {
            self.make_exclusive(file.inode).await?;
            // Not by somebody who may be given up half way.
            self.flush(file).await?;
            let turn = file.turn.lock().await;
            // Whoever gives the lease back may be waiting for the turn: it is not held while a lease is asked for.
            if self.holds_exclusive(file.inode) && !file.holds_of(newest) {
                return Ok(turn);
            }
        }
        Err(FsError::Deadline)
    }

    /// As [`Shared::turn`], with what is written left here.
    async fn turn_to_cut<'a>(
        self: &Arc<Self>,
        file: &'a Arc<File>,
    ) -> Result<tokio::sync::MutexGuard<'a, ()>, FsError> {
        for _ in 0..LOOKS_MAX {
            self.make_exclusive(file.inode).await?;
            let turn = file.turn.lock().await;
            if self.holds_exclusive(file.inode) {
                return Ok(turn);
            }
        }
        Err(FsError::Deadline)
    }

    /// A change of the bytes of a file by somebody whose turn it is.
    async fn change_in_turn(&self, file: &Arc<File>, op: Op) -> Result<OpAnswer, FsError> {
        let mut tries = 0;
        loop {
            match self.change(op.clone()).await {
                Ok(answer) => {
                    let mut state = file.state.lock();
                    state.content = None;
                    if let Some(base) = &mut state.base {
                        base.version = answer.done.version;
                    }
                    drop(state);
                    self.move_pages(file.inode, answer.done.version);
                    return Ok(answer);
                }
                Err(FsError::Op(OpError::InlineInTheWay)) if tries == 0 && !matches!(op, Op::Clone { .. }) => {
                    tries += 1;
                    self.move_out(file).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What lies inline becomes a chunk, for a file that grows beyond what may lie inline.
    async fn move_out(&self, file: &Arc<File>) -> Result<(), FsError> {
        let mut tries = 0;
        loop {
            let moved = self.try_to_move_out(file).await;
            if tries == TRIES_MAX || !matches!(moved, Err(FsError::Op(OpError::StaleEpoch | OpError::StaleGc))) {
                return moved;
            }
            tries += 1;
            self.catch_up(tries).await?;
        }
    }

    async fn try_to_move_out(&self, file: &Arc<File>) -> Result<(), FsError> {
        let attr = self.ask_attr(file.inode).await?;
        let Some(bytes) = self.inline_bytes(file, &attr).await? else { return Ok(()) };
        if bytes.is_empty() || bytes.len() > INLINE_LEN_MAX {
            return Ok(());
        }
        let pool = Arc::clone(self.cluster.upload_pool());
        let room = pool.acquire_many_owned(pool_units(bytes.len() as u64)).await.map_err(|_| FsError::Deadline)?;
        let stamped = put_chunk(&self.cluster, &self.session(), Sealed::new(bytes.into()), room).await?;
        let extents: Vec<NewExtent> = vec![stamped.durable.extent(0)];
        let op = Op::WriteExtents {
            inode: file.inode,
            extents,
            if_version: Some(attr.data_version),
            modified: SetTime::Keep,
            set_id: SetId::Keep,
        };
        self.change(op).await?;
        file.state.lock().content = None;
        Ok(())
    }

    /// The kernel has seen to its pages itself.
    fn move_pages(&self, inode: Inode, version: u64) {
        let mut table = self.table.lock();
        if let Some(node) = table.get_mut(inode).filter(|node| node.pages.is_some()) {
            node.pages = Some(version);
        }
    }
}
