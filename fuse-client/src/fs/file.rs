//! A file's own state on this client: what is written and not committed, and where its bytes are.
//!
//! # Invariants
//! - Bytes written here lie over those that the namespace knows: first what is on its way (`flushing`), then what came
//!   later (`dirty`).
//! - Operations that change what is committed take turns (`turn`).

use std::{ops::Range, sync::Arc, time::Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use wire::namespace::{Attr, ChunkSlice, Content, INLINE_LEN_MAX, Inode, MERGED_MIN, SetId, SetTime, Timestamp};

use super::{
    dirty::{DirtyRanges, Taken, lay_over},
    error::FsError,
    extent_map::ExtentMap,
};
use crate::download::{Piece, may_be_merged, pieces};

/// A file that is open or has something to write.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) inode: Inode,
    /// Guards the state alone; taken after the table's.
    pub(crate) state: Mutex<FileState>,
    /// Whose turn it is to change what is committed.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Who writes out by and by what is written; taken before the turn, and held while a lease is asked for.
    pub(crate) writing_out: tokio::sync::Mutex<()>,
}

/// What [`File`] guards.
#[derive(Debug, Default)]
pub(crate) struct FileState {
    pub(crate) dirty: DirtyRanges,
    /// Taken out of `dirty` by a flush that is under way.
    pub(crate) flushing: Vec<Taken>,
    /// When the oldest byte of `dirty` was written.
    pub(crate) dirty_since: Option<Instant>,
    /// When the last byte was written, by the clock on the wall.
    pub(crate) modified: Option<Timestamp>,
    /// Whether a write cleared the set-id bits.
    pub(crate) set_id: SetId,
    /// On what rests what is dirty.
    pub(crate) base: Option<Base>,
    pub(crate) content: Option<Known>,
    /// When the oldest extents in `content` were told.
    pub(crate) told: Option<Instant>,
    /// Memory for what is dirty.
    pub(crate) room: Option<tokio::sync::OwnedSemaphorePermit>,
    /// After a failure: when to try to commit again.
    pub(crate) retry_at: Option<Instant>,
    /// Deferred writes that failed so far, and the last failure: each handle reports what it has not reported.
    pub(crate) failures: u64,
    pub(crate) error: Option<FsError>,
    /// Failures that a sync of any handle reported. Whoever opens the file later reports the others.
    pub(crate) reported: u64,
    /// The cluster had no room for what is written here when it was last tried.
    pub(crate) no_room: Option<FsError>,
    /// Where the last read ended, and how many have followed one another.
    pub(crate) read_end: u64,
    pub(crate) reads_in_row: u32,
}

/// A data version, and how often the lease had been lost when it was that: as long as it is not lost again, every
/// newer version is of our own making. `u64::MAX`: it was lost already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Base {
    pub(crate) version: u64,
    pub(crate) losses: u64,
}

impl Base {
    /// Whether nobody else has changed the file since.
    pub(crate) fn holds(self, attr: &Attr, losses: u64) -> bool {
        self.losses == losses || self.version == attr.data_version
    }
}

/// What is known of the committed bytes of one data version.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) version: u64,
    pub(crate) body: KnownBody,
}

/// Where they are.
#[derive(Clone, Debug)]
pub(crate) enum KnownBody {
    Inline(Bytes),
    Extents(ExtentMap),
}

/// Bytes of a range, as far as they are here.
#[derive(Debug)]
pub(crate) enum Plan {
    /// All of them.
    Here(Vec<u8>),
    /// Some are in chunks; what is written here lies over them.
    Fetch { pieces: Vec<Piece>, over: Vec<(u64, Bytes)> },
    /// Where they are is not known.
    Unknown,
}

impl File {
    pub(crate) fn new(inode: Inode) -> Arc<Self> {
        let [turn, writing_out] = [(), ()].map(tokio::sync::Mutex::new);
        Arc::new(Self { inode, state: Mutex::default(), turn, writing_out })
    }

    /// The lease is gone: somebody else may change the bytes now.
    pub(crate) fn forget_content(&self) {
        self.state.lock().content = None;
    }

    /// Number of the last write.
    pub(crate) fn newest(&self) -> u64 {
        self.state.lock().dirty.newest()
    }

    /// Whether anything of the writes up to `number` is not committed.
    pub(crate) fn holds_of(&self, number: u64) -> bool {
        let state = self.state.lock();
        !state.flushing.is_empty() || state.dirty.holds_of(number)
    }

    /// Whether anything is written and not committed.
    pub(crate) fn is_dirty(&self) -> bool {
        let state = self.state.lock();
        !state.dirty.is_empty() || !state.flushing.is_empty()
    }
}

impl FileState {
    /// First byte after everything written here.
    fn end(&self) -> u64 {
        let flushing = self.flushing.iter().map(Taken::end).max();
        self.dirty.end().max(flushing.unwrap_or(0))
    }

    /// A deferred write has failed for good.
    pub(crate) fn fail(&mut self, error: FsError) {
        self.failures += 1;
        self.error = Some(error);
    }

    /// What keeps the bytes here from being stored, if that is want of room.
    pub(crate) fn without_room(&self) -> Option<FsError> {
        self.no_room.clone().filter(|_| self.has_news())
    }

    /// Whether a deferred write has failed and no sync has told anybody.
    pub(crate) fn is_failure_untold(&self) -> bool {
        self.reported < self.failures
    }

    pub(crate) fn has_news(&self) -> bool {
        !self.dirty.is_empty() || !self.flushing.is_empty()
    }

    /// Whether somebody else has changed the file since what is written here was written. `losses`: how often the lease was
    /// lost. What is on its way will tell by itself.
    pub(crate) fn is_overtaken(&self, attr: &Attr, losses: u64) -> bool {
        self.flushing.is_empty() && !self.dirty.is_empty() && self.base.is_some_and(|base| !base.holds(attr, losses))
    }

    /// All bytes of a file that fits into the namespace, with what is written here, and when that was written; none if
    /// there is nothing written, it does not fit, or not everything is at hand. `losses`: how often the lease was lost.
    pub(crate) fn small_news(&self, attr: &Attr, losses: u64) -> Option<(Vec<u8>, SetTime)> {
        let end = self.dirty.end();
        let is_plain = self.flushing.is_empty() && self.set_id == SetId::Keep;
        let rests_on_it = self.base.is_none_or(|base| base.holds(attr, losses));
        if self.dirty.is_empty() || !is_plain || !rests_on_it || end.max(attr.size) > INLINE_LEN_MAX as u64 {
            return None;
        }
        let mut whole = match &self.content {
            Some(Known { version, body: KnownBody::Inline(bytes) }) if *version == attr.data_version => bytes.to_vec(),
            Some(Known { body: KnownBody::Extents(_), .. }) => return None,
            _ if attr.size == 0 && attr.allocated == 0 => Vec::new(),
            _ => return None,
        };
        whole.resize(usize::try_from(end.max(attr.size)).ok()?, 0);
        self.dirty.overlay(0, &mut whole);
        Some((whole, self.modified.map_or(SetTime::Keep, SetTime::To)))
    }

    /// Length, with what is written here.
    pub(crate) fn size(&self, attr: &Attr) -> u64 {
        attr.size.max(self.end())
    }

    /// Attributes as they will be once everything is committed.
    pub(crate) fn overlay(&self, attr: &Attr) -> Attr {
        let mut attr = *attr;
        if !self.has_news() {
            return attr;
        }
        attr.size = self.size(&attr);
        let waiting = self.dirty.len() + self.flushing.iter().map(|taken| taken.bytes.len() as u64).sum::<u64>();
        let most = attr.size.next_multiple_of(4096).max(attr.allocated);
        attr.allocated = attr.allocated.saturating_add(waiting).min(most);
        if let Some(modified) = self.modified {
            attr.modified = modified;
            attr.changed = attr.changed.max(modified);
        }
        attr.mode = self.set_id.clear(attr.mode);
        attr
    }

    /// Takes in `data` at `offset`. Whether it is time to write something out.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], now: Instant, time: Timestamp, set_id: SetId) -> bool {
        if !self.has_news() {
            // What found no room is not there any more: this was not tried.
            self.no_room = None;
        }
        self.dirty_since.get_or_insert(now);
        self.modified = Some(time);
        self.set_id = self.set_id.max(set_id);
        self.dirty.write(offset, data)
    }

    /// Learns what came with a listing, some time ago.
    pub(crate) fn learn_listed(&mut self, version: u64, asked: Range<u64>, content: &Content) {
        if self.content.as_ref().is_none_or(|known| known.version != version) {
            self.learn(version, asked, content, None);
        }
    }

    /// Learns where bytes of `asked` are, of version `version`; it was asked for at `told`, if that is known.
    pub(crate) fn learn(&mut self, version: u64, asked: Range<u64>, content: &Content, told: Option<Instant>) {
        let body = match content {
            Content::Inline(data) if data.is_sound() => KnownBody::Inline(Bytes::copy_from_slice(&data.bytes)),
            Content::Extents { extents, next } => {
                let known = asked.start..next.unwrap_or(asked.end);
                if let Some(Known { version: old, body: KnownBody::Extents(map) }) = &mut self.content
                    && *old == version
                {
                    return map.learn(known, extents.clone());
                }
                KnownBody::Extents(ExtentMap::new(known, extents.clone()))
            }
            Content::Inline(_) | Content::Symlink(_) | Content::None => return,
        };
        self.content = Some(Known { version, body });
        self.told = told;
    }

    /// Whether a server may have merged the extent of which `slice` is, so long ago that its chunk may be gone.
    pub(crate) fn may_be_merged(&self, slice: &ChunkSlice, now: Instant) -> bool {
        let is_fragmented = match &self.content {
            Some(Known { body: KnownBody::Extents(map), .. }) => map.len() >= MERGED_MIN,
            _ => false,
        };
        is_fragmented && self.told.is_none_or(|told| may_be_merged(slice, told, now))
    }

    /// Where bytes of `version` are has to be asked again.
    pub(crate) fn forget_content(&mut self, version: u64) {
        if self.content.as_ref().is_some_and(|known| known.version == version) {
            self.content = None;
        }
    }

    /// Bytes of `range`, which lies within the file.
    pub(crate) fn plan(&self, attr: &Attr, range: Range<u64>) -> Plan {
        let zeros = || vec![0; usize::try_from(range.end - range.start).expect("a read is at most some megabytes")];
        if self.dirty.covers(range.clone()) {
            let mut buffer = zeros();
            self.dirty.overlay(range.start, &mut buffer);
            return Plan::Here(buffer);
        }
        let committed = range.start..range.end.min(attr.size);
        let (mut inline, mut data) = (None, Vec::new());
        if !committed.is_empty() {
            let Some(known) = self.content.as_ref().filter(|known| known.version == attr.data_version) else {
                return Plan::Unknown;
            };
            match &known.body {
                KnownBody::Inline(bytes) => inline = Some(bytes),
                KnownBody::Extents(map) => {
                    let Some(extents) = map.find(committed.clone()) else { return Plan::Unknown };
                    let Some(found) = pieces(&extents, committed.start, committed.end) else { return Plan::Unknown };
                    data = found.into_iter().filter(|piece| matches!(piece, Piece::Data { .. })).collect();
                }
            }
        }
        // What is dirty now may be committed, and gone from here, before the pieces have come.
        let over = self.news_over(&range);
        if !data.is_empty() {
            return Plan::Fetch { pieces: data, over };
        }
        let mut buffer = zeros();
        if let Some(bytes) = inline {
            lay_over(range.start, &mut buffer, 0, bytes);
        }
        for (start, bytes) in &over {
            lay_over(range.start, &mut buffer, *start, bytes);
        }
        Plan::Here(buffer)
    }

    /// What is written here of a range, in the order in which it lies one over the other.
    pub(crate) fn news_over(&self, range: &Range<u64>) -> Vec<(u64, Bytes)> {
        let touches = |taken: &&Taken| taken.offset < range.end && taken.end() > range.start;
        let held = |taken: &Taken| (taken.offset, taken.bytes.clone());
        let mut over: Vec<_> = self.flushing.iter().filter(touches).map(held).collect();
        over.extend(self.dirty.copy_of(range.clone()));
        over
    }

    /// Notes a read; whether it goes on where another one ended.
    pub(crate) fn note_read(&mut self, range: &Range<u64>) -> bool {
        // Reads ahead of the kernel arrive a little out of order.
        let follows =
            range.start <= self.read_end.saturating_add(1 << 20) && range.end.saturating_add(2 << 20) > self.read_end;
        let follows = follows && (self.read_end > 0 || range.start == 0);
        self.reads_in_row = if follows { self.reads_in_row.saturating_add(1) } else { 0 };
        self.read_end = if follows { self.read_end.max(range.end) } else { range.end };
        self.reads_in_row >= 2
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use wire::namespace::{SetId, Timestamp};

    use super::FileState;
    use crate::{fs::FsError, upload::PutError};

    #[test]
    fn want_of_room_is_told_as_long_as_the_bytes_that_found_none_are_there() {
        let mut state = FileState::default();
        let (now, time) = (Instant::now(), Timestamp::new(0, 0).unwrap());
        state.write(0, b"finds no room", now, time, SetId::Keep);
        assert!(state.without_room().is_none(), "not tried yet");
        state.no_room = Some(FsError::from(PutError::NoSpace));
        assert!(state.without_room().is_some());
        state.drop_news();
        assert!(state.without_room().is_none(), "truncated, or removed");
        state.write(0, b"not tried yet", now, time, SetId::Keep);
        assert!(state.without_room().is_none());
    }
}
