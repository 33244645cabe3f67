//! Gives back the room of deleted chunks, one segment at a time.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use crate::{chunk_store::Compacted, node::Node};

/// Between two steps of compaction: one segment of 256 MiB in this time leaves the disk to others.
const COMPACT_EVERY: Duration = Duration::from_secs(5);

/// Compacts until the node stops.
pub(crate) async fn keep_compact(node: Arc<Node>) {
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(COMPACT_EVERY) => {}
        }
        let step = tokio::select! {
            () = node.stop.cancelled() => return,
            step = node.chunks.compact() => step,
        };
        match step {
            Ok(Compacted::Nothing) => {}
            Ok(step) => info!(?step, "compaction"),
            Err(error) => warn!(%error, "a segment could not be compacted"),
        }
    }
}
