//! Reads everything that this node holds again, slowly, and has replaced what the medium has changed.
//!
//! A pass lists the keys that are held, a page at a time, and has the store check one copy after the other against its
//! key. It begins at a key chosen at random and goes round: a node that is started often reads each time something else.
//! What is damaged goes where a reader's finding goes: the store gives the copy up, and repair fetches another.
//!
//! # Invariants
//! - From the first read on, never more bytes than the rate allows for the time, and one chunk.
//! - A pass checks every copy that was held from its beginning to its end.
//! - Nothing is deleted here.
//!
//! # Not here
//! When a copy counts as bad, and when it is given up (`chunk_store`); where another comes from ([`super`]).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use ring::{ChunkKey, Partition, PartitionBits};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};
use wire::health::ScrubReport;

use crate::{
    chunk_store::{CheckError, Checked, PageEnd},
    config::ScrubConfig,
    node::Node,
};

/// Keys listed at once: few enough to hold, many enough that listing costs nothing beside reading.
const PAGE_KEYS: usize = 1024;

/// A read counts as at least so many bytes: a disk that must seek for a small one takes as long as for these.
const READ_COST_MIN: u64 = 64 << 10;

/// How long to wait when the index cannot be listed.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Scrubs until the node stops.
pub(crate) async fn run(node: Arc<Node>) {
    let from = ChunkKey::from_bytes(node.random());
    let mut scrub = Scrub::new(node.config.repair.scrub.clone(), from, Instant::now());
    loop {
        let step = scrub.poll(Instant::now());
        *node.repair.scrub.lock() = scrub.progress;
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            () = take(&node, &mut scrub, step) => {}
        }
    }
}

async fn take(node: &Node, scrub: &mut Scrub, step: Step) {
    match step {
        Step::Wait { until } => sleep_until(until).await,
        Step::List { after } => {
            let whole = PartitionBits::new(0).expect("a key space of one partition is the smallest there is");
            match node.chunks.list(whole, Partition(0), after, PAGE_KEYS).await {
                Ok(page) => scrub.handle_page(page.keys.into_iter().map(|(key, _)| key).collect(), page.end),
                Err(error) => {
                    warn!(%error, "the chunk index cannot be listed");
                    scrub.handle_no_page(Instant::now());
                }
            }
        }
        Step::Read { key } => {
            let began = Instant::now();
            let found = check(node, &key).await.unwrap_or_else(|error| {
                warn!(%key, %error, "a copy cannot be checked");
                Found { bytes: 0, checked: Checked::Unreadable }
            });
            if matches!(found.checked, Checked::Damaged | Checked::Unreadable) {
                info!(%key, ?found.checked, "the scrub found a copy that is not good");
                node.repair.suspect(key);
            }
            scrub.handle_read(found, began);
        }
    }
}

/// What came of a read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Found {
    /// How many the chunk has.
    bytes: u64,
    checked: Checked,
}

/// Has the store check its copy of a chunk, if it still holds one.
async fn check(node: &Node, key: &ChunkKey) -> Result<Found, CheckError> {
    let Some(len) = node.chunks.len_of(key)? else { return Ok(Found { bytes: 0, checked: Checked::Unknown }) };
    Ok(Found { bytes: len.into(), checked: node.chunks.check(key).await? })
}

/// What to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Nothing before this moment.
    Wait { until: Instant },
    /// List the keys after this one; from the first, without one.
    List { after: Option<ChunkKey> },
    /// Read and check this copy.
    Read { key: ChunkKey },
}

/// How far the scrub is, for whoever wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    chunks: u64,
    bytes: u64,
    passes: u64,
    damaged: u64,
    ended: Option<Instant>,
    next: Option<Instant>,
}

impl Progress {
    /// The same as a message, as of `now`.
    pub(crate) fn report(&self, now: Instant) -> ScrubReport {
        ScrubReport {
            chunks: self.chunks,
            bytes: self.bytes,
            passes: self.passes,
            ended_s: self.ended.map(|ended| now.saturating_duration_since(ended).as_secs()),
            next_s: self.next.map(|next| next.saturating_duration_since(now).as_secs()),
            damaged: self.damaged,
        }
    }
}

/// Which part of a pass is under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// The keys after the one at which passes begin.
    After,
    /// That key and those before.
    UpTo,
}

/// Where the scrub is.
#[derive(Debug)]
enum Stage {
    Resting {
        until: Instant,
    },
    Reading {
        began: Instant,
        part: Part,
        /// The last key that was listed in this part.
        listed: Option<ChunkKey>,
        /// Listed and not read yet, in order.
        page: VecDeque<ChunkKey>,
        /// Whether this part has keys beyond `listed`.
        end: PageEnd,
    },
}

/// Which copy is read when. Pure: told of time, of pages and of what reads found.
#[derive(Debug)]
struct Scrub {
    config: ScrubConfig,
    /// Where passes begin.
    from: ChunkKey,
    stage: Stage,
    /// Nothing is read before.
    due: Instant,
    progress: Progress,
}

impl Scrub {
    /// The first pass begins now, after the key `from`.
    fn new(config: ScrubConfig, from: ChunkKey, now: Instant) -> Self {
        Self { config, from, stage: Stage::Resting { until: now }, due: now, progress: Progress::default() }
    }

    /// What to do now; to be asked again when it is done.
    fn poll(&mut self, now: Instant) -> Step {
        if now < self.due {
            return Step::Wait { until: self.due };
        }
        match &mut self.stage {
            Stage::Resting { until } if now < *until => Step::Wait { until: *until },
            Stage::Resting { .. } => {
                self.begin(now);
                Step::List { after: Some(self.from) }
            }
            Stage::Reading { began, part, listed, page, end } => match (page.front(), &end, &part) {
                (Some(key), _, _) => Step::Read { key: *key },
                (None, PageEnd::More, _) => Step::List { after: *listed },
                (None, PageEnd::Last, Part::After) => {
                    (*part, *listed, *end) = (Part::UpTo, None, PageEnd::More);
                    Step::List { after: None }
                }
                (None, PageEnd::Last, Part::UpTo) => {
                    let until = now.max(*began + self.config.every);
                    self.rest(now, until);
                    Step::Wait { until }
                }
            },
        }
    }

    fn begin(&mut self, now: Instant) {
        let listed = Some(self.from);
        let page = VecDeque::new();
        self.stage = Stage::Reading { began: now, part: Part::After, listed, page, end: PageEnd::More };
        self.progress = Progress { chunks: 0, bytes: 0, next: None, ..self.progress };
    }

    fn rest(&mut self, now: Instant, until: Instant) {
        let Progress { chunks, bytes, damaged, passes, .. } = self.progress;
        debug!(chunks, bytes, damaged, "everything here was read again");
        self.progress.passes = passes + 1;
        (self.progress.ended, self.progress.next) = (Some(now), Some(until));
        self.stage = Stage::Resting { until };
    }

    /// The page that was asked for, keys in order.
    fn handle_page(&mut self, mut keys: VecDeque<ChunkKey>, page_end: PageEnd) {
        let Stage::Reading { part, listed, page, end, .. } = &mut self.stage else { return };
        *end = if keys.is_empty() { PageEnd::Last } else { page_end };
        *listed = keys.back().copied().or(*listed);
        if *part == Part::UpTo && keys.back().is_some_and(|last| *last >= self.from) {
            *end = PageEnd::Last;
            keys.retain(|key| *key <= self.from);
        }
        *page = keys;
    }

    /// The page could not be had.
    fn handle_no_page(&mut self, now: Instant) {
        self.due = now + RETRY_AFTER;
    }

    /// The copy that was asked for was read, from `began` on.
    fn handle_read(&mut self, found: Found, began: Instant) {
        let Stage::Reading { page, .. } = &mut self.stage else { return };
        page.pop_front();
        let cost = found.bytes.max(READ_COST_MIN);
        self.due = began + time_for(cost, self.config.bytes_per_s);
        match found.checked {
            // It was moved or deleted since it was listed.
            Checked::Unknown => return,
            Checked::Good => {}
            Checked::Damaged | Checked::Unreadable => self.progress.damaged += 1,
        }
        self.progress.chunks += 1;
        self.progress.bytes += found.bytes;
    }
}

/// How long so many bytes take at this rate, rounded up.
pub(super) fn time_for(bytes: u64, bytes_per_s: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000;
    Duration::from_nanos(u64::try_from(nanos.div_ceil(u128::from(bytes_per_s.max(1)))).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
