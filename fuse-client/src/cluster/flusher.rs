//! Makes buffered puts on one node stable: one `Sync` covers all who wait (group commit, as in a log).

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use ring::NodeId;
use tokio::{sync::Notify, time::timeout};
use wire::chunk::{ChunkAnswer, ChunkRequest, Incarnation};

use super::{ChunkCallError, Cluster};

/// How long a node may take for a sync: a disk that needs longer is as good as gone.
const SYNC_DEADLINE: Duration = Duration::from_secs(10);

/// How long a sync waits for puts to its node that are under way, which it could cover: a few of them at the rate of a
/// disk, and little beside the time that a large flush takes.
const GATHER_MAX: Duration = Duration::from_millis(8);

/// The syncs of one node, counted.
#[derive(Debug, Default)]
pub(crate) struct Flusher {
    /// Held by who syncs; the others wait in line and mostly find that it was done for them.
    turn: tokio::sync::Mutex<()>,
    /// Guards the counts alone.
    counts: Mutex<Counts>,
    /// Rung when no put is under way any more.
    quiet: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    /// Buffered puts under way.
    puts: u32,
    started: u64,
    finished: u64,
    outcome: Option<Result<Incarnation, FlushError>>,
}

/// A buffered put under way.
#[derive(Debug)]
pub(crate) struct PutUnderWay(Arc<Flusher>);

impl Drop for PutUnderWay {
    fn drop(&mut self) {
        let left = {
            let mut counts = self.0.counts.lock();
            counts.puts -= 1;
            counts.puts
        };
        if left == 0 {
            self.0.quiet.notify_waiters();
        }
    }
}

/// A sync that failed, for all who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct FlushError {
    /// Whether the node's disk is what failed.
    pub(crate) disk: bool,
    /// Whether the map is old.
    pub(crate) stale: bool,
    /// In words.
    pub(crate) reason: String,
}

impl Flusher {
    /// A sync of `node` that begins after this call: what it had accepted before is stable, if the incarnation is that
    /// of the put.
    ///
    /// While other puts are under way it waits for them a little: what comes many at a time shares a sync.
    pub(crate) async fn sync(&self, cluster: &Cluster, node: NodeId) -> Result<Incarnation, FlushError> {
        let wanted = self.counts.lock().started + 1;
        let _turn = self.turn.lock().await;
        if self.counts.lock().finished < wanted {
            self.gather().await;
        }
        let number = {
            let mut counts = self.counts.lock();
            if let Some(outcome) = counts.outcome.as_ref().filter(|_| counts.finished >= wanted) {
                return outcome.clone();
            }
            counts.started += 1;
            counts.started
        };
        let request = ChunkRequest::Sync { epoch: cluster.map().epoch };
        let outcome = match cluster.chunk(node, request, &[], SYNC_DEADLINE).await {
            Ok((ChunkAnswer::Synced { incarnation }, _)) => Ok(incarnation),
            Ok(_) => Err(ChunkCallError::Confused.into()),
            Err(error) => Err(error.into()),
        };
        let mut counts = self.counts.lock();
        counts.finished = number;
        counts.outcome = Some(outcome.clone());
        outcome
    }

    /// A buffered put begins.
    pub(crate) fn begin_put(self: &Arc<Self>) -> PutUnderWay {
        self.counts.lock().puts += 1;
        PutUnderWay(Arc::clone(self))
    }

    /// Until no put is under way, or for [`GATHER_MAX`].
    async fn gather(&self) {
        let quiet = self.quiet.notified();
        if self.counts.lock().puts > 0 {
            // Whoever is late takes the next one.
            let _quiet = timeout(GATHER_MAX, quiet).await;
        }
    }
}

impl From<ChunkCallError> for FlushError {
    fn from(error: ChunkCallError) -> Self {
        use wire::Refusal;
        let (disk, stale) = match &error {
            ChunkCallError::Refused(refusal) => (
                matches!(refusal, Refusal::DiskFailed | Refusal::DiskFull),
                matches!(refusal, Refusal::StaleEpoch { .. }),
            ),
            _ => (false, false),
        };
        Self { disk, stale, reason: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::Arc};

    use futures::FutureExt;

    use super::Flusher;

    #[tokio::test]
    async fn a_sync_waits_for_puts_that_are_under_way_and_for_no_others() {
        let flusher = Arc::new(Flusher::default());
        assert!(flusher.gather().now_or_never().is_some(), "nothing is under way");
        let (first, second) = (flusher.begin_put(), flusher.begin_put());
        let mut gathering = pin!(flusher.gather());
        assert!((&mut gathering).now_or_never().is_none());
        drop(first);
        assert!((&mut gathering).now_or_never().is_none(), "another is");
        drop(second);
        assert!((&mut gathering).now_or_never().is_some());
        let _stuck = flusher.begin_put();
        flusher.gather().await;
    }
}
