//! What a store holds of a partition, in a few bytes.

use ring::{GcEpoch, Partition, PartitionBits};
use wire::chunk::{Durability, PartitionDigest};

use super::super::ChunkStore;
use super::rig::{Rig, compact_all, put};

const SEGMENT: u64 = 1 << 20;

fn bits() -> PartitionBits {
    PartitionBits::new(4).unwrap()
}

async fn digests(store: &ChunkStore) -> Vec<PartitionDigest> {
    store.digests(bits(), Partition(0), Partition(15)).await.unwrap()
}

/// Partitions of which two stores do not hold the same.
async fn unequal(store: &ChunkStore, other: &ChunkStore) -> Vec<Partition> {
    let (ours, theirs) = (digests(store).await, digests(other).await);
    assert_eq!((ours.len(), theirs.len()), (16, 16));
    bits().partitions().filter(|partition| ours[partition.0 as usize] != theirs[partition.0 as usize]).collect()
}

/// "Equal digests are equal copies with equal stamps".
#[tokio::test(start_paused = true)]
async fn two_stores_have_the_digest_of_a_partition_in_common_only_with_the_same_copies_and_stamps() {
    let (mut rig, mut other_rig) = (Rig::new(41, SEGMENT), Rig::new(42, SEGMENT));
    let (store, _) = rig.open().await;
    let (other, _) = other_rig.open().await;
    assert_eq!(unequal(&store, &other).await, []);
    let chunks: Vec<_> = (0..100).map(|_| rig.chunk(20_000)).collect();
    for chunk in &chunks {
        put(&store, chunk, 3).await;
    }
    // The same in another order, by other ways: put lower and stamped, deleted and put again, moved by compaction.
    for chunk in chunks.iter().rev() {
        put(&other, chunk, 2).await;
    }
    assert_eq!(unequal(&store, &other).await, bits().partitions().collect::<Vec<_>>(), "the stamps are others");
    let keys: Vec<_> = chunks.iter().map(|chunk| chunk.key()).collect();
    other.forget(&keys[..70], GcEpoch(2)).await.unwrap();
    assert!(compact_all(&other).await > 0);
    for chunk in &chunks[..70] {
        put(&other, chunk, 3).await;
    }
    assert_eq!(other.has(&keys[70..], GcEpoch(3)).await.unwrap().0, [true; 30]);
    assert_eq!(unequal(&store, &other).await, []);

    // One more, one fewer, one stamped higher: of its partition only.
    let of = |index: usize| bits().partition_of(&keys[index]);
    let more = rig.chunk(100);
    put(&store, &more, 3).await;
    assert_eq!(unequal(&store, &other).await, [bits().partition_of(&more.key())]);
    store.forget(&[more.key()], GcEpoch(3)).await.unwrap();
    store.forget(&[keys[8]], GcEpoch(3)).await.unwrap();
    assert_eq!(unequal(&store, &other).await, [of(8)]);
    put(&store, &chunks[8], 3).await;
    put(&store, &chunks[9], 4).await;
    assert_eq!(unequal(&store, &other).await, [of(9)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_listing_does_not_show_is_in_no_digest() {
    let mut rig = Rig::new(43, SEGMENT);
    let (store, _) = rig.open().await;
    let nothing = digests(&store).await;
    let chunk = rig.chunk(5_000);
    store.put(chunk.clone(), GcEpoch(3), Durability::Buffered).await.unwrap();
    assert_eq!(digests(&store).await, nothing, "it is not stable");
    store.sync().await.unwrap();
    let one = digests(&store).await;
    assert_ne!(one, nothing);
    let condemned = [(chunk.key(), GcEpoch(3))];
    store.quarantine(&condemned);
    assert_eq!(digests(&store).await, nothing, "it is out of use");
    store.release(&condemned);
    assert_eq!(digests(&store).await, one);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_would_take_long_ends_with_a_whole_partition_and_the_next_goes_on_after_it() {
    let mut rig = Rig::new(44, 4 * SEGMENT);
    let (store, _) = rig.open().await;
    let puts = (0..6000).map(|_| store.put(rig.chunk(10), GcEpoch(3), Durability::Buffered));
    for put in futures::future::join_all(puts).await {
        put.unwrap();
    }
    store.sync().await.unwrap();
    let all = digests(&store).await;
    let (mut found, mut answers) = (Vec::new(), 0);
    while found.len() < 16 {
        let first = Partition(found.len() as u32);
        let some = store.digest_span(bits(), first, Partition(15), 2000).await.unwrap();
        assert!(!some.is_empty());
        found.extend(some);
        answers += 1;
    }
    assert_eq!(found, all);
    // Two turns of 1,024 rows hold five whole partitions of about 375, …
    assert_eq!(answers, 4);
    // … and where even one turn is too long, each answer has at least one.
    let big = PartitionBits::new(1).unwrap();
    assert_eq!(store.digest_span(big, Partition(0), Partition(1), 1).await.unwrap().len(), 1);
}
