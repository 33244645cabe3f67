//! Compaction: gives the room of dead chunks back, one segment a step.
//!
//! # Invariants
//! - A segment goes only when the copies of all it held that is needed are stable, the index says so and is durable, and
//!   no row of any key in it names it.
//! - Bytes are hashed before they are copied: damage is reported, never copied under a fresh checksum.
//! - A step that stops half way has lost nothing: each copy is good by itself, and the segment is still there.
//!
//! # Not here
//! Whether a record is still needed ([`super::keeper`], at the moment of copying); when to run (the node).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ring::ChunkKey;
use tracing::{info, warn};
use wire::tree::VerifiedChunk;

use super::ChunkStore;
use super::error::{CompactError, PutError};
use super::keeper::{Command, Moved, Segment};
use super::row::{Row, State};
use super::segment::{Body, SegmentRecord};
use super::verification::Copy;
use crate::append_log::{FileId, FileState, RecordInfo};

/// Keys in one command: few enough that a put does not wait for long behind it.
const KEYS_PER_COMMAND: usize = 256;

/// Room is short while puts could not fill so many segments more.
const SHORT_SEGMENTS: u64 = 2;

/// A segment is not worth it, however short room is, unless more than this part of one is dead: thirty-two bytes are
/// copied at most for each that comes back, and what is copied surely fits into one.
const LEAST_PART: u64 = 32;

/// Segments whose records are listed in one step, to see what they would give back.
const LOOKED_AT_MAX: usize = 4;

/// Rows that are read before others may run.
const ROWS_PER_TURN: usize = 1024;

/// What a compaction step did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compacted {
    /// No segment is worth it.
    Nothing,
    /// A segment is gone.
    Segment {
        /// Which.
        file: FileId,
        /// Its length in bytes.
        len: u64,
        /// Records copied out of it.
        copied: u64,
    },
    /// A segment holds something that cannot be read, or is damaged: it stays until another copy has come.
    Stuck {
        /// Which.
        file: FileId,
        /// Bytes in it that must stay.
        live: u64,
    },
}

/// Segments that could not be emptied, or would give too little back, with the bytes that were needed of them: not tried
/// again while that has not changed.
pub(super) type StuckSegments = BTreeMap<FileId, u64>;

/// The story of one step.
pub(super) async fn step(store: &ChunkStore, stuck: &mut StuckSegments) -> Result<Compacted, CompactError> {
    let Some(victim) = choose(store, stuck).await? else { return Ok(Compacted::Nothing) };
    let file = victim.file;
    if victim.state == FileState::Active {
        store.shared().log.seal().await.map_err(PutError::from)?;
    }
    let mut records = list(store, file).await?;
    let mut copied = move_all(store, file, &records).await?;
    if live_bytes(store, file).await? > 0 {
        // Rot has taken records out of the listing; the index still knows what they were.
        let unlisted = records_named(store, file).await?;
        copied += move_all(store, file, &unlisted).await?;
        records.extend(unlisted);
    }
    let live = live_bytes(store, file).await?;
    if live > 0 || is_named(store, file, &records).await? {
        warn!(%file, live, "a segment cannot be emptied");
        stuck.insert(file, live);
        return Ok(Compacted::Stuck { file, live });
    }
    store.shared().index.kv.persist().await?;
    store.shared().log.remove_file(file).await?;
    prune_shadows(store, file, &records).await?;
    store.ask(|reply| Command::Gone { file, reply }).await.ok_or(CompactError::Closed)??;
    info!(%file, len = victim.len, copied, "a segment was compacted");
    Ok(Compacted::Segment { file, len: victim.len, copied })
}

/// Whether puts are about to be refused for want of room, or are.
pub(super) async fn is_short(store: &ChunkStore) -> bool {
    let usage = store.shared().log.usage().await;
    usage.is_ok_and(|usage| usage.free < SHORT_SEGMENTS * store.config().segment_len)
}

/// The segment that gives most back; one that holds nothing needed goes first, because it takes no room to free it. Where
/// room is short, also one that gives back little.
async fn choose(store: &ChunkStore, stuck: &mut StuckSegments) -> Result<Option<Segment>, CompactError> {
    store.ask(|reply| Command::Settle { reply }).await.ok_or(CompactError::Closed)??;
    let segments = store.ask(|reply| Command::Segments { reply }).await.ok_or(CompactError::Closed)?;
    stuck.retain(|file, live| segments.iter().any(|segment| segment.file == *file && segment.live == *live));
    let config = store.config();
    let dead = |segment: &Segment| segment.len.saturating_sub(segment.live);
    let worth = |segment: &Segment| {
        let whole = match segment.state {
            FileState::Sealed => segment.len,
            // Ending a file early costs a little, so it must be worth a whole one.
            FileState::Active => config.segment_len,
        };
        dead(segment) * 100 > whole * u64::from(config.dead_percent) && !stuck.contains_key(&segment.file)
    };
    if let Some(victim) = segments.iter().filter(|&of| worth(of)).max_by_key(|of| (of.live == 0, dead(of))) {
        return Ok(Some(*victim));
    }
    if !is_short(store).await {
        return Ok(None);
    }
    let least = config.segment_len / LEAST_PART;
    let mut thinned: Vec<Segment> =
        segments.into_iter().filter(|of| dead(of) > least && !stuck.contains_key(&of.file)).collect();
    thinned.sort_by_key(|segment| Reverse(dead(segment)));
    for segment in thinned.into_iter().take(LOOKED_AT_MAX) {
        if dead(&segment).saturating_sub(gaps(store, &segment).await?) > least {
            return Ok(Some(segment));
        }
        stuck.insert(segment.file, segment.live);
    }
    Ok(None)
}

/// Bytes of a segment between its records, which copies of them would have as well.
async fn gaps(store: &ChunkStore, segment: &Segment) -> Result<u64, CompactError> {
    let listing = store.shared().log.list(segment.file).await?;
    let records: u64 = listing.records.iter().map(RecordInfo::span).sum();
    Ok(segment.len.saturating_sub(records))
}

async fn list(store: &ChunkStore, file: FileId) -> Result<Vec<SegmentRecord>, CompactError> {
    let listing = store.shared().log.list(file).await?;
    let records: Result<Vec<_>, _> = listing.records.iter().map(SegmentRecord::decode).collect();
    Ok(records?)
}

/// Copies what is needed of these records, makes the copies stable, and brings the index up to them.
async fn move_all(store: &ChunkStore, file: FileId, records: &[SegmentRecord]) -> Result<u64, CompactError> {
    let mut copied = 0;
    for record in records {
        let mut moved = move_one(store, record, None).await?;
        if moved == Moved::BytesNeeded {
            moved = match store.read_copy(&record.key, record.at, chunk_len(record)).await {
                Copy::Good(chunk) => move_one(store, record, Some(chunk)).await?,
                // It stays where it is, and the segment with it, until it was replaced.
                Copy::Bad => {
                    store.keep_bad(record.key, record.at).await?;
                    Moved::BytesNeeded
                }
                Copy::Unreadable => {
                    store.shared().note_damaged(record.key);
                    Moved::BytesNeeded
                }
                // Only this step removes files.
                Copy::Gone => Moved::Dead,
            };
        }
        copied += u64::from(moved == Moved::Copied);
    }
    store.sync().await?;
    store.ask(|reply| Command::Settle { reply }).await.ok_or(CompactError::Closed)??;
    unlist_deletions(store, file, records).await?;
    Ok(copied)
}

async fn move_one(
    store: &ChunkStore,
    record: &SegmentRecord,
    chunk: Option<VerifiedChunk>,
) -> Result<Moved, CompactError> {
    let record = *record;
    Ok(store.ask(|reply| Command::Move { record, chunk, reply }).await.ok_or(CompactError::Closed)??)
}

fn chunk_len(record: &SegmentRecord) -> u32 {
    match record.body {
        Body::Chunk { len } => len,
        Body::Stamp | Body::Delete => 0,
    }
}

/// Deletions that only this segment itself still needs go with it.
async fn unlist_deletions(store: &ChunkStore, file: FileId, records: &[SegmentRecord]) -> Result<(), CompactError> {
    let deleted_here = |row: &Row| matches!(row.state, State::Deleted { at } if at.file == file);
    let keys = keys_where(store, records, deleted_here).await?;
    for keys in keys.chunks(KEYS_PER_COMMAND) {
        let keys = keys.to_vec();
        store.ask(|reply| Command::Unlist { keys, file, reply }).await.ok_or(CompactError::Closed)??;
    }
    Ok(())
}

/// Deletions that this segment was the last to need.
async fn prune_shadows(store: &ChunkStore, file: FileId, records: &[SegmentRecord]) -> Result<(), CompactError> {
    let shadowed = |row: &Row| row.held().is_none() && row.shadows.contains(&file);
    let keys = keys_where(store, records, shadowed).await?;
    for keys in keys.chunks(KEYS_PER_COMMAND) {
        let keys = keys.to_vec();
        store.ask(|reply| Command::Prune { keys, reply }).await.ok_or(CompactError::Closed)??;
    }
    Ok(())
}

async fn live_bytes(store: &ChunkStore, file: FileId) -> Result<u64, CompactError> {
    let segments = store.ask(|reply| Command::Segments { reply }).await.ok_or(CompactError::Closed)?;
    Ok(segments.iter().find(|segment| segment.file == file).map_or(0, |segment| segment.live))
}

/// What the index says lies in this segment.
async fn records_named(store: &ChunkStore, file: FileId) -> Result<Vec<SegmentRecord>, CompactError> {
    let (mut records, mut from) = (Vec::new(), Some(ChunkKey::from_bytes([0; 32])));
    while let Some(first) = from.take() {
        let mut count = 0;
        store.shared().index.scan(&first, None, |key, row| {
            count += 1;
            if count > ROWS_PER_TURN {
                from = Some(key);
                return ControlFlow::Break(());
            }
            records.extend(row.records(key).into_iter().filter(|record| record.at.file == file));
            ControlFlow::Continue(())
        })?;
        tokio::task::yield_now().await;
    }
    Ok(records)
}

/// Whether any row, in the index or on its way there, still names a place in this segment.
async fn is_named(store: &ChunkStore, file: FileId, records: &[SegmentRecord]) -> Result<bool, CompactError> {
    let names = |row: &Row| row.footprint().any(|(named, _)| named == file);
    let pending_names = |key: &ChunkKey| {
        let pending = store.shared().pending.read();
        pending.row(key).and_then(|pending| pending.row.as_ref()).is_some_and(names)
    };
    Ok(!keys_where(store, records, names).await?.is_empty() || records.iter().any(|record| pending_names(&record.key)))
}

async fn keys_where(
    store: &ChunkStore,
    records: &[SegmentRecord],
    test: impl Fn(&Row) -> bool,
) -> Result<Vec<ChunkKey>, CompactError> {
    let mut keys = Vec::new();
    for (count, record) in records.iter().enumerate() {
        if store.shared().index.row(&record.key)?.as_ref().is_some_and(&test) {
            keys.push(record.key);
        }
        if count % KEYS_PER_COMMAND == 0 {
            tokio::task::yield_now().await;
        }
    }
    Ok(keys)
}
