//! Partitions that nodes have confirmed to this leader, for one epoch. Soft state: they say it again. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ring::{Epoch, NodeId, Partition};

/// What was confirmed for the highest epoch that anybody named.
#[derive(Debug, Default)]
pub(super) struct Confirmed {
    epoch: Epoch,
    by: BTreeMap<NodeId, BTreeSet<Partition>>,
}

impl Confirmed {
    /// `node` confirms these for `epoch`. The map of this leader may be behind, the node's never is beyond the log.
    pub(super) fn handle(&mut self, node: NodeId, epoch: Epoch, partitions: &[Partition]) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.by.clear();
        }
        if epoch == self.epoch {
            self.by.entry(node).or_default().extend(partitions);
        }
    }

    /// Whether `node` has confirmed `partition` for just this epoch.
    pub(super) fn has(&self, epoch: Epoch, node: NodeId, partition: Partition) -> bool {
        self.epoch == epoch && self.by.get(&node).is_some_and(|partitions| partitions.contains(&partition))
    }
}
