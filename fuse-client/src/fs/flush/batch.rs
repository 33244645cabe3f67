//! What a flush takes out of a file, and what it leaves when it is committed. Pure.

use tokio::sync::OwnedSemaphorePermit;
use wire::namespace::{Attr, Extent, ExtentBody, NewExtent, OpAnswer, SetId, SetTime};

use super::{BATCH_LEN, Take};
use crate::{
    cluster::pool_units,
    fs::{
        dirty::Taken,
        file::{Base, File, Known, KnownBody},
    },
};

/// What was taken out of a file to be committed.
pub(super) struct Batch {
    pub(super) ranges: Vec<Taken>,
    pub(super) modified: SetTime,
    pub(super) set_id: SetId,
    pub(super) base: Option<Base>,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// Takes a batch out of a file; none if there is nothing to take.
pub(super) fn take_batch(file: &File, take: Take) -> Option<Batch> {
    let mut state = file.state.lock();
    // Whoever took these was cancelled: nobody else is at work, it is our turn.
    state.take_up_flushing();
    let ranges = match take {
        Take::Full => state.dirty.take_full(BATCH_LEN),
        Take::Until(number) if !state.dirty.holds_of(number) => Vec::new(),
        Take::Until(_) | Take::All => state.dirty.take(BATCH_LEN),
    };
    if ranges.is_empty() {
        return None;
    }
    // They are read from here until they are committed.
    state.flushing = ranges.clone();
    let units: u32 = ranges.iter().map(|taken| pool_units(taken.bytes.len() as u64)).sum();
    let all = state.dirty.is_empty();
    if all {
        state.dirty_since = None;
    }
    let room = match &mut state.room {
        Some(_) if all => state.room.take(),
        Some(held) => {
            let part = (units as usize).min(held.num_permits());
            held.split(part)
        }
        None => None,
    };
    let modified = state.modified.map_or(SetTime::Keep, SetTime::To);
    Some(Batch { ranges, modified, set_id: state.set_id, base: state.base, room })
}

/// What becomes known of a file by the commit of `extents`.
pub(super) fn mapped(extents: &[NewExtent]) -> Vec<Extent> {
    let extent = |new: &NewExtent| Extent { offset: new.offset, body: ExtentBody::Chunk(new.slice) };
    extents.iter().map(extent).collect()
}

impl crate::fs::file::FileState {
    /// Everything written here is given up.
    pub(in crate::fs) fn drop_news(&mut self) {
        self.dirty.clear();
        self.flushing.clear();
        self.dirty_since = None;
        self.note_committed();
        self.room = None;
    }

    /// What was taken out by a flush that was given up half way comes back.
    fn take_up_flushing(&mut self) {
        for taken in std::mem::take(&mut self.flushing) {
            self.dirty.put_back(&taken);
        }
    }

    /// What is written here from `size` on is given up: the file ends there.
    pub(in crate::fs) fn cut_news(&mut self, size: u64) {
        // Of a flush that was given up half way.
        self.take_up_flushing();
        self.dirty.cut(size..u64::MAX);
        if self.dirty.is_empty() {
            return self.drop_news();
        }
        // Others wait for the memory.
        if let Some(room) = &mut self.room {
            let excess = room.num_permits().saturating_sub(crate::cluster::pool_units(self.dirty.len()) as usize);
            drop(room.split(excess));
        }
    }

    /// A batch is committed; if nothing has come after it, nothing is left of it.
    pub(in crate::fs) fn note_committed(&mut self) {
        if self.dirty.is_empty() {
            self.modified = None;
            self.set_id = SetId::Keep;
            self.base = None;
            if self.flushing.is_empty() {
                self.room = None;
            }
        }
    }

    /// Extents were committed on top of `attr`.
    pub(in crate::fs) fn note_extents(&mut self, attr: &Attr, answer: &OpAnswer, extents: &[Extent]) {
        let version = answer.done.version;
        match &mut self.content {
            Some(Known { version: known, body: KnownBody::Extents(map) }) if *known == attr.data_version => {
                for extent in extents {
                    map.insert(*extent);
                }
                *known = version;
            }
            // Everything there was lay inline, and is among the extents now.
            _ if attr.size == 0
                || extents.first().is_some_and(|first| first.offset == 0 && first.len() >= attr.size) =>
            {
                let map = crate::fs::extent_map::ExtentMap::new(0..u64::MAX, extents.to_vec());
                self.content = Some(Known { version, body: KnownBody::Extents(map) });
            }
            _ => self.content = None,
        }
    }
}
