//! How much is left of the moves, in bytes and in time. Pure.

use std::time::Duration;

use wire::{cluster::ClusterStatus, health::Moving, moves::TransitionStatus};

/// What the replicas weigh that are still to come.
pub(crate) fn bytes_left(status: &ClusterStatus, transition: &TransitionStatus) -> u64 {
    bytes_of_replicas(status, transition.replicas_left)
}

/// What so many replicas of partitions weigh: what is stored, spread evenly over the partitions.
pub(crate) fn bytes_of_replicas(status: &ClusterStatus, replicas: u32) -> u64 {
    let used: u64 = status.nodes.iter().filter_map(|node| node.store.as_ref()).map(|store| store.used).sum();
    let places: u64 = status.nodes.iter().map(|node| u64::from(node.partitions)).sum();
    let left = u128::from(used) * u128::from(replicas) / u128::from(places.max(1));
    u64::try_from(left).unwrap_or(u64::MAX)
}

/// What is left at the pace so far; none before something has come.
pub(crate) fn time_left(moving: Moving, replicas_left: u32) -> Option<Duration> {
    let left_ms = u128::from(moving.seen_ms) * u128::from(replicas_left) / u128::from(moving.replicas_done.max(1));
    (moving.replicas_done > 0).then(|| Duration::from_millis(u64::try_from(left_ms).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wire::health::Moving;

    use super::time_left;

    #[test]
    fn time_is_told_once_something_has_come_and_does_not_overflow() {
        let moving = |seen_ms, replicas_done| Moving { seen_ms, replicas_done };
        assert_eq!(time_left(moving(u64::MAX, 1), u32::MAX), Some(Duration::from_millis(u64::MAX)));
        assert_eq!(time_left(moving(60_000, 2), 3), Some(Duration::from_secs(90)));
        assert_eq!(time_left(moving(5, 0), 3), None);
    }
}
