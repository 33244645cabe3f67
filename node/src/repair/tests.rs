//! Three nodes in one process that compare what they hold.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ring::{ChunkKey, GcEpoch, Partition, PartitionBits};
use wire::{chunk::Durability, tree::VerifiedChunk};

use super::comparison::{Taken, fetch_window};
use super::{REST_PER_ROUND, plan, work_max};
use crate::{
    node::Node,
    serve::tests::{Machine, Rig, until},
};

async fn three_nodes(rig: &Rig) -> [Arc<Node>; 3] {
    let first = rig.found().await;
    let second = rig.join(&first, &mut Machine::new(2)).await;
    let third = rig.join(&first, &mut Machine::new(3)).await;
    let nodes = [first, second, third];
    for node in &nodes {
        until("the ring is known", || node.map().is_some_and(|map| map.ring.is_some())).await;
    }
    nodes
}

/// Every copy of a node, with its stamp.
async fn copies(node: &Node) -> Vec<(ChunkKey, GcEpoch)> {
    node.chunks.list(PartitionBits::new(0).unwrap(), Partition(0), None, usize::MAX).await.unwrap().keys
}

/// Compares all that `node` holds with `holder`.
async fn compare(node: &Arc<Node>, holder: &Node) -> Taken {
    let map = node.map().unwrap();
    let mut all = Taken::default();
    let windows = plan::windows(&map, map.placement().unwrap().bits().partitions(), node.id);
    for window in &windows[&holder.id] {
        let taken = fetch_window(node, &map, holder.id, window).await.unwrap();
        all.fetched += taken.fetched;
        all.failed += taken.failed;
        all.listed += taken.listed;
    }
    all
}

fn chunks(count: u64) -> Vec<VerifiedChunk> {
    (0..count).map(|number| VerifiedChunk::seal(Bytes::from(number.to_le_bytes().repeat(100)))).collect()
}

async fn put(node: &Node, chunks: &[VerifiedChunk], stamp: u64) {
    for chunk in chunks {
        node.chunks.put(chunk.clone(), GcEpoch(stamp), Durability::Synced).await.unwrap();
    }
}

/// "Replicas of a partition compare digests …, fetch what they miss, verify on arrival."
#[tokio::test]
async fn a_comparison_brings_what_is_missing_raises_lower_stamps_and_lists_nothing_where_all_is_the_same() {
    let rig = Rig::new();
    let [first, second, third] = three_nodes(&rig).await;
    let chunks = chunks(40);
    put(&first, &chunks, 3).await;
    put(&second, &chunks[..30], 3).await;
    let taken = compare(&second, &first).await;
    // Some may have come by the node's own comparison already.
    assert!(taken.fetched <= 10 && taken.failed == 0, "{}, {}", taken.fetched, taken.failed);
    assert!(taken.listed < 40, "only what is in partitions that differ: {}", taken.listed);
    assert_eq!(copies(&second).await, copies(&first).await);
    for (node, holder) in [(&first, &second), (&second, &first)] {
        let taken = compare(node, holder).await;
        assert_eq!((taken.fetched, taken.listed), (0, 0));
    }
    // A dedup hit that one of them missed.
    put(&first, &chunks[..1], 7).await;
    let taken = compare(&second, &first).await;
    assert_eq!((taken.fetched, taken.failed), (0, 0));
    assert_eq!(copies(&second).await, copies(&first).await, "the copy here may not go before the one there");
    // What only this node has, or has stamped higher, is for the others to find.
    put(&second, &chunks[1..2], 9).await;
    let before = copies(&second).await;
    assert_eq!(compare(&second, &first).await.fetched, 0);
    assert_eq!(copies(&second).await, before);
    // Whoever is woken by something that happened does the same by itself.
    third.repair.compare_again();
    let holds = |chunk: &VerifiedChunk| third.chunks.holds(&chunk.key()).unwrap();
    until("everything has come", || chunks.iter().all(holds)).await;
    compare(&third, &second).await;
    assert_eq!(copies(&third).await, before);
    for node in [first, second, third] {
        node.shut_down().await;
    }
}

/// A node whose 300 chunks took ten seconds to compare, for want of a processor, compares again within half a minute; one
/// with a million works as long as it takes.
#[test]
fn a_comparison_counts_for_no_more_than_there_is_to_compare() {
    assert!(work_max(600) * REST_PER_ROUND < Duration::from_secs(30), "{:?}", work_max(600));
    assert!(work_max(2_000_000) > Duration::from_secs(40));
    assert!(work_max(u64::MAX) > Duration::from_secs(40));
}
