//! Opening a store: brings the index up to the segments, or builds it again from them.
//!
//! # Invariants
//! - Only headers and footers of segments are read, never the bytes of chunks.
//! - An index is used only if it belongs to these segments: it is whole, it ends inside of them, and each file that it
//!   counts on is there.
//!
//! # Not here
//! Torn tails and damaged records (`append_log`).

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use ring::ChunkKey;
use tracing::{info, warn};

use super::error::OpenError;
use super::index::{FORMAT, Fold, Index, Meta, Phase, Tally};
use super::keeper::end_of;
use super::segment::SegmentRecord;
use crate::append_log::{AppendLog, Damage, FileId, Position};
use crate::kv::{KvError, KvStore};

/// Rows in one batch.
const BATCH: usize = 1024;

/// Why an index was built again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rebuilt {
    /// There was none.
    Missing,
    /// It was written in another format.
    OtherFormat,
    /// Building it had not come to its end.
    Unfinished,
    /// It had seen records that the segments no longer hold.
    Ahead,
    /// It counts on a segment that is gone.
    SegmentMissing {
        /// The first such segment.
        file: FileId,
    },
}

/// How an open came by its index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IndexOrigin {
    /// It was there; so many records were newer.
    Kept {
        /// Records read again.
        replayed: u64,
    },
    /// It was built from the segments.
    Built {
        /// Why.
        because: Rebuilt,
        /// Records read.
        records: u64,
    },
}

/// An index that agrees with the segments.
pub(super) struct Recovered {
    pub(super) index: Index,
    pub(super) tally: Tally,
    pub(super) origin: IndexOrigin,
    /// Chunks with a place in the index that has become bad: to be checked.
    pub(super) suspects: Vec<ChunkKey>,
    /// Chunks that the index before this one knew and no segment holds.
    pub(super) lost: Vec<ChunkKey>,
}

/// The story of an open.
pub(super) async fn recover(
    log: &AppendLog,
    kv: Arc<dyn KvStore>,
    damage: Vec<Damage>,
    keys_max: usize,
) -> Result<Recovered, OpenError> {
    let meta = Index::meta(&*kv)?;
    match check(log, &kv, meta)? {
        Ok((index, tally)) => keep(log, index, tally, damage, keys_max).await,
        Err(because) => build(log, kv, meta, because, keys_max).await,
    }
}

fn check(
    log: &AppendLog,
    kv: &Arc<dyn KvStore>,
    meta: Option<Meta>,
) -> Result<Result<(Index, Tally), Rebuilt>, KvError> {
    let Some(meta) = meta else { return Ok(Err(Rebuilt::Missing)) };
    if meta.format != FORMAT {
        return Ok(Err(Rebuilt::OtherFormat));
    }
    if meta.phase == Phase::Building {
        return Ok(Err(Rebuilt::Unfinished));
    }
    let end = end_of(log);
    if meta.reached.file == end.file && meta.reached > end {
        return Ok(Err(Rebuilt::Ahead));
    }
    let index = Index { kv: Arc::clone(kv), generation: meta.generation };
    let mut tally = index.tally(&meta)?;
    let files: BTreeSet<FileId> = log.files().iter().map(|info| info.id).collect();
    let missing: Vec<_> = tally.live.iter().filter(|(file, _)| !files.contains(file)).map(|(f, l)| (*f, *l)).collect();
    for (file, live) in missing {
        if live > 0 {
            return Ok(Err(Rebuilt::SegmentMissing { file }));
        }
        // A crash came between the removal of the segment and that of its count.
        index.forget_file(file, &mut tally)?;
    }
    Ok(Ok((index, tally)))
}

async fn keep(
    log: &AppendLog,
    index: Index,
    mut tally: Tally,
    mut damage: Vec<Damage>,
    keys_max: usize,
) -> Result<Recovered, OpenError> {
    let (replayed, found) = replay(log, &index, Phase::Built, &mut tally).await?;
    damage.extend(found);
    let suspects = if damage.is_empty() { Vec::new() } else { keys_in(&index, &damage, keys_max)? };
    let origin = IndexOrigin::Kept { replayed };
    Ok(Recovered { index, tally, origin, suspects, lost: Vec::new() })
}

async fn build(
    log: &AppendLog,
    kv: Arc<dyn KvStore>,
    meta: Option<Meta>,
    because: Rebuilt,
    keys_max: usize,
) -> Result<Recovered, OpenError> {
    warn!(?because, "the index of the chunk store is built again from the segments");
    let built_before = meta.filter(|meta| meta.format == FORMAT && meta.phase == Phase::Built);
    let old = built_before.map(|meta| Index { kv: Arc::clone(&kv), generation: meta.generation });
    let generation = meta.map_or(0, |meta| meta.generation.wrapping_add(1));
    let index = Index { kv, generation };
    index.clear()?;
    let mut tally = Tally::default();
    index.set_phase(Phase::Building, &tally)?;
    let (records, _) = replay(log, &index, Phase::Building, &mut tally).await?;
    let lost = old.map_or(Ok(Vec::new()), |old| keys_without_row(&old, &index, keys_max))?;
    index.set_phase(Phase::Built, &tally)?;
    for generation in (0..=u8::MAX).filter(|other| *other != generation) {
        Index { generation, ..index.clone() }.clear()?;
    }
    index.kv.persist().await?;
    info!(records, chunks = tally.chunks, lost = lost.len(), "the index of the chunk store was built");
    let origin = IndexOrigin::Built { because, records };
    Ok(Recovered { index, tally, origin, suspects: Vec::new(), lost })
}

/// Merges the records that the index has not seen, in order.
async fn replay(
    log: &AppendLog,
    index: &Index,
    phase: Phase,
    tally: &mut Tally,
) -> Result<(u64, Vec<Damage>), OpenError> {
    let files: BTreeSet<FileId> = log.files().iter().map(|info| info.id).collect();
    let from = tally.reached;
    let (mut count, mut damage) = (0, Vec::new());
    for file in files.range(from.file..) {
        let listing = log.list(*file).await?;
        damage.extend(listing.damage);
        let mut fold = Fold::new(index, phase, tally);
        for info in listing.records.iter().filter(|info| info.position >= from) {
            fold.apply(&SegmentRecord::decode(info)?)?;
            count += 1;
            if fold.len() >= BATCH {
                fold.commit(tally, |file| files.contains(&file))?;
                fold = Fold::new(index, phase, tally);
            }
        }
        fold.commit(tally, |file| files.contains(&file))?;
    }
    Ok((count, damage))
}

/// Chunks whose record, or that of their stamp, lies in a damaged part.
fn keys_in(index: &Index, damage: &[Damage], keys_max: usize) -> Result<Vec<ChunkKey>, KvError> {
    let hits = |at: &Position| {
        let within =
            |part: &Damage| at.file == part.at.file && (part.at.offset..part.at.offset + part.len).contains(&at.offset);
        damage.iter().any(within)
    };
    let mut keys = Vec::new();
    index.scan(&ChunkKey::from_bytes([0; 32]), None, |key, row| {
        if row.held().is_some_and(|held| hits(&held.at)) {
            keys.push(key);
        }
        if keys.len() < keys_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(keys)
}

fn keys_without_row(old: &Index, new: &Index, keys_max: usize) -> Result<Vec<ChunkKey>, KvError> {
    let mut keys = Vec::new();
    let mut failure = None;
    old.scan(&ChunkKey::from_bytes([0; 32]), None, |key, row| {
        if row.held().is_some() {
            match new.row(&key) {
                Ok(None) => keys.push(key),
                Ok(Some(_)) => {}
                Err(error) => failure = Some(error),
            }
        }
        let go_on = failure.is_none() && keys.len() < keys_max;
        if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    failure.map_or(Ok(keys), Err)
}
