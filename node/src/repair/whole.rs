//! Makes partitions whole here, a batch at a time: compares them with their holders, and fetches what is missing.
//!
//! # Invariants
//! - A partition is whole only if what was compared of it meets every write quorum, and all of that is on stable storage here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use ring::{NodeId, Partition};
use tokio::time::Instant;
use tracing::{debug, info};
use wire::cluster::ClusterMap;

use super::{comparison::fetch_window, plan};
use crate::node::Node;

/// Windows compared at once: what is missing of one is fetched while others are listed.
const WINDOWS_AT_ONCE: usize = 4;

/// How long a holder that did not answer is asked only where nobody else will do.
const SPARED_FOR: Duration = Duration::from_secs(10);

/// What came of making partitions whole.
#[derive(Debug)]
pub(super) struct Gathered {
    /// Those of which everything is here.
    pub(super) whole: Vec<Partition>,
    /// Chunks that were missing here and were fetched.
    pub(super) fetched: u64,
}

/// Who did not answer, and what could not be made whole.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    silent: BTreeMap<NodeId, Instant>,
    unlucky: BTreeSet<Partition>,
}

impl Gatherer {
    /// The next partitions to make whole: at most `count` of `open`, those first that did not fail before, and of them those
    /// for which `urgency` is lowest. Neighbours come together, and are listed in one go.
    pub(super) fn next(
        &mut self,
        open: impl Iterator<Item = Partition>,
        urgency: impl Fn(Partition) -> usize,
        count: usize,
    ) -> Vec<Partition> {
        let mut open: Vec<Partition> = open.collect();
        if open.iter().all(|partition| self.unlucky.contains(partition)) {
            self.unlucky.clear();
        }
        open.sort_by_key(|partition| (self.unlucky.contains(partition), urgency(*partition)));
        open.truncate(count);
        open.sort_unstable();
        open
    }

    /// Fetches what is missing of these partitions.
    pub(super) async fn gather(&mut self, node: &Arc<Node>, map: &Arc<ClusterMap>, open: &[Partition]) -> Gathered {
        let mut coverage = plan::Coverage::new(open.iter().copied(), node.id);
        let (mut fetched, mut incomplete) = (0, BTreeSet::new());
        let now = Instant::now();
        self.silent.retain(|_, until| *until > now);
        let mut holders: Vec<_> = plan::windows(map, open.iter().copied(), node.id).into_iter().collect();
        holders.sort_by_key(|(holder, _)| self.silent.contains_key(holder) || !map.is_in(*holder));
        for (holder, windows) in holders {
            let spared = self.silent.contains_key(&holder) || !map.is_in(holder);
            if spared && open.iter().all(|partition| coverage.is_covered(map, *partition)) {
                continue;
            }
            let compared = windows.into_iter().map(async |window| {
                let taken = fetch_window(node, map, holder, &window).await;
                (window, taken)
            });
            let mut compared = futures::stream::iter(compared).buffer_unordered(WINDOWS_AT_ONCE);
            while let Some((window, result)) = compared.next().await {
                match result {
                    Ok(taken) => {
                        fetched += taken.fetched;
                        incomplete.extend(taken.incomplete);
                        coverage.handle_compared(map, holder, &window);
                    }
                    Err(refusal) => {
                        debug!(?holder, %refusal, "a holder cannot be compared with now");
                        self.silent.insert(holder, Instant::now() + SPARED_FOR);
                        break;
                    }
                }
            }
        }
        let is_whole = |partition: &Partition| coverage.is_covered(map, *partition) && !incomplete.contains(partition);
        let (whole, unlucky): (Vec<Partition>, Vec<Partition>) = open.iter().copied().partition(is_whole);
        self.unlucky.extend(unlucky);
        info!(epoch = %map.epoch, partitions = open.len(), whole = whole.len(), fetched, "gathered");
        Gathered { whole, fetched }
    }
}
