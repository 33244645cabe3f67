//! Verified bytes of chunks in memory, and the fetches that bring them. What is kept is named by its hash, so it is
//! never out of date.
//!
//! # Invariants
//! - The bytes kept are bounded; what is on its way is bounded by the cluster's download pool.
//! - A piece is fetched once, however many ask for it at the same time.

use std::{collections::HashMap, num::NonZeroUsize, sync::Arc};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use ring::ChunkKey;
use tokio::sync::watch;
use wire::namespace::ChunkSlice;

use super::error::FsError;
use crate::{
    cluster::{Cluster, pool_units},
    download::fetch_slice,
};

/// Unit of random reads: sixteen pages cost little more than one on the way, and the next read may want them.
const GRANULE: u32 = 64 << 10;

/// Entries kept at most, whatever their size.
const ENTRIES_MAX: usize = 65_536;

/// How much of a chunk to bring.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Span {
    /// All of it: somebody reads on.
    Whole,
    /// This granule.
    Granule(u32),
}

type Name = (ChunkKey, Span);
type Fetched = Option<Result<Bytes, FsError>>;

/// Bytes of chunks.
#[derive(Debug)]
pub(crate) struct ChunkCache {
    cluster: Cluster,
    runtime: tokio::runtime::Handle,
    /// Guards the table alone.
    state: Mutex<State>,
    len_max: u64,
}

#[derive(Debug)]
struct State {
    kept: LruCache<Name, Bytes>,
    len: u64,
    fetching: HashMap<Name, watch::Receiver<Fetched>>,
}

impl ChunkCache {
    /// Keeps at most `len_max` bytes.
    pub(crate) fn new(cluster: Cluster, len_max: u64) -> Arc<Self> {
        let entries = NonZeroUsize::new(ENTRIES_MAX).expect("not zero");
        let state = State { kept: LruCache::new(entries), len: 0, fetching: HashMap::new() };
        Arc::new(Self { cluster, runtime: tokio::runtime::Handle::current(), state: Mutex::new(state), len_max })
    }

    /// The bytes of `slice`, if they are here.
    pub(crate) fn peek(&self, slice: &ChunkSlice) -> Option<Bytes> {
        let mut state = self.state.lock();
        let range = slice.offset as usize..(slice.offset + slice.len) as usize;
        if let Some(whole) = state.kept.get(&(slice.key, Span::Whole)) {
            return (whole.len() >= range.end).then(|| whole.slice(range));
        }
        let granule = slice.offset / GRANULE;
        if (slice.offset + slice.len - 1) / GRANULE != granule {
            return None;
        }
        let bytes = state.kept.get(&(slice.key, Span::Granule(granule)))?;
        let base = (granule * GRANULE) as usize;
        (bytes.len() >= range.end - base).then(|| bytes.slice(range.start - base..range.end - base))
    }

    /// Keeps a whole chunk that was just made here.
    pub(crate) fn keep(&self, key: ChunkKey, bytes: Bytes) {
        self.state.lock().keep((key, Span::Whole), bytes, self.len_max);
    }

    /// Begins to bring all of a chunk, unless it is here or on its way.
    pub(crate) fn prefetch(self: &Arc<Self>, slice: &ChunkSlice) {
        let _on_its_way = self.fetch(slice, Span::Whole);
    }

    /// The bytes of `slice`; of its chunk, `span` is brought.
    pub(crate) async fn get(self: &Arc<Self>, slice: &ChunkSlice, whole: bool) -> Result<Bytes, FsError> {
        if let Some(bytes) = self.peek(slice) {
            return Ok(bytes);
        }
        let granule = slice.offset / GRANULE;
        let one = (slice.offset + slice.len - 1) / GRANULE == granule;
        let span = if whole || !one { Span::Whole } else { Span::Granule(granule) };
        let base = if let Span::Granule(granule) = span { granule * GRANULE } else { 0 };
        let bytes = self.wait(slice, span).await?;
        let range = (slice.offset - base) as usize..(slice.offset + slice.len - base) as usize;
        if bytes.len() < range.end {
            return Err(crate::download::ReadError::Unsound.into());
        }
        Ok(bytes.slice(range))
    }

    async fn wait(self: &Arc<Self>, slice: &ChunkSlice, span: Span) -> Result<Bytes, FsError> {
        let mut fetch = self.fetch(slice, span);
        let fetched = fetch.wait_for(Option::is_some).await.map_err(|_| FsError::Deadline)?;
        fetched.clone().unwrap_or(Err(FsError::Deadline))
    }

    fn fetch(self: &Arc<Self>, slice: &ChunkSlice, span: Span) -> watch::Receiver<Fetched> {
        let name = (slice.key, span);
        let mut state = self.state.lock();
        if let Some(bytes) = state.kept.get(&name) {
            return watch::channel(Some(Ok(bytes.clone()))).1;
        }
        if let Some(fetching) = state.fetching.get(&name) {
            return fetching.clone();
        }
        let (sender, receiver) = watch::channel(None);
        state.fetching.insert(name, receiver.clone());
        drop(state);
        let wanted = match span {
            Span::Whole => ChunkSlice { offset: 0, len: slice.chunk_len, ..*slice },
            Span::Granule(granule) => {
                let offset = granule * GRANULE;
                ChunkSlice { offset, len: GRANULE.min(slice.chunk_len.saturating_sub(offset)), ..*slice }
            }
        };
        let cache = Arc::clone(self);
        self.runtime.spawn(async move {
            let fetched = cache.bring(wanted).await;
            let mut state = cache.state.lock();
            state.fetching.remove(&name);
            if let Ok(bytes) = &fetched {
                state.keep(name, bytes.clone(), cache.len_max);
            }
            drop(state);
            sender.send_replace(Some(fetched));
        });
        receiver
    }

    async fn bring(&self, wanted: ChunkSlice) -> Result<Bytes, FsError> {
        let pool = Arc::clone(self.cluster.download_pool());
        let _room = pool.acquire_many_owned(pool_units(u64::from(wanted.len))).await.map_err(|_| FsError::Deadline)?;
        Ok(fetch_slice(&self.cluster, wanted).await?)
    }
}

impl State {
    fn keep(&mut self, name: Name, bytes: Bytes, len_max: u64) {
        self.len += bytes.len() as u64;
        if let Some((_, old)) = self.kept.push(name, bytes) {
            self.len -= old.len() as u64;
        }
        while self.len > len_max
            && let Some((_, oldest)) = self.kept.pop_lru()
        {
            self.len -= oldest.len() as u64;
        }
    }
}
