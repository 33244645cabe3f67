//! Gives back the room of deleted chunks, one segment at a time.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    chunk_store::{ChunkStore, Compacted},
    node::Node,
};

/// Between two steps of compaction: one segment of 256 MiB in this time leaves the disk to others.
const COMPACT_EVERY: Duration = Duration::from_secs(5);

/// The shortest pause between two steps that copied something.
const REST_MIN: Duration = Duration::from_millis(100);

/// Compacts until the node stops.
pub(crate) async fn keep_compact(node: Arc<Node>) {
    let mut rest = COMPACT_EVERY;
    loop {
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        rest = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            rest = step(&node.chunks) => rest,
        };
    }
}

/// One step; how long to rest after it.
async fn step(chunks: &ChunkStore) -> Duration {
    let began = Instant::now();
    match chunks.compact().await {
        Ok(Compacted::Nothing) => COMPACT_EVERY,
        Ok(step) => {
            info!(?step, "compaction");
            match step {
                // It has cost next to nothing.
                Compacted::Segment { copied: 0, .. } => Duration::ZERO,
                // Somebody waits for room: half of the time of the disk is theirs.
                Compacted::Segment { .. } if chunks.is_short().await => began.elapsed().clamp(REST_MIN, COMPACT_EVERY),
                Compacted::Segment { .. } | Compacted::Stuck { .. } | Compacted::Nothing => COMPACT_EVERY,
            }
        }
        Err(error) => {
            warn!(%error, "a segment could not be compacted");
            COMPACT_EVERY
        }
    }
}
