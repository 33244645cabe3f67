//! Single claims, each with its own small story.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use rand::SeedableRng;
use rand::rngs::StdRng;
use ring::{GcEpoch, Partition, PartitionBits};
use wire::chunk::Durability;

use super::super::{Checked, ChunkStore, Compacted, IndexOrigin, PutError, ReadError, Rebuilt, SyncError};
use super::rig::{DIR, IndexFate, Rig, compact_all, list, put, read};
use crate::disk::{Disk, FileDisk, FileDiskConfig, OpenMode, SimFault, SimOptions};
use crate::kv::{FjallConfig, FjallKv, KvError, KvRead, KvStore, KvVisit, MemoryKv, WriteBatch};

const SEGMENT: u64 = 1 << 20;

#[tokio::test(start_paused = true)]
async fn every_range_of_a_chunk_is_read_with_a_proof() {
    let mut rig = Rig::new(1, 32 << 20);
    let (store, _) = rig.open().await;
    for len in [0, 1, 16 << 10, (16 << 10) + 1, 60_000, 300_000, 4 << 20] {
        let chunk = rig.chunk(len);
        put(&store, &chunk, 1).await;
        let len = len as u32;
        for (offset, wanted) in [(0, len), (0, 1), (len / 2, 100), (len.saturating_sub(1), 1), (len / 3, len)] {
            if offset >= len && len > 0 {
                continue;
            }
            let end = (offset + wanted).min(len);
            let bytes = read(&store, chunk.key(), offset, wanted).await;
            if len == 0 || wanted > 0 {
                assert_eq!(bytes.unwrap(), chunk.bytes().slice(offset as usize..end as usize), "{offset}+{wanted}");
            }
        }
        assert!(matches!(store.read(&chunk.key(), len + 1, 5).await, Err(ReadError::OutOfRange { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn one_sync_covers_all_puts_that_wait_and_the_same_chunk_is_written_once() {
    let latency_max = Duration::from_millis(1);
    let mut rig = Rig::on(SimOptions { seed: 2, latency_max, ..SimOptions::default() }, 32 << 20);
    let (store, _) = rig.open().await;
    put(&store, &rig.chunk(10), 1).await;
    let (syncs, chunk) = (rig.disk.sync_count(), rig.chunk(5_000));
    let chunks: Vec<_> = (0..50).map(|_| rig.chunk(5_000)).collect();
    let puts = chunks.iter().chain([&chunk; 50]).map(|chunk| put(&store, chunk, 1));
    join_all(puts).await;
    assert!(rig.disk.sync_count() - syncs < 20, "{} syncs", rig.disk.sync_count() - syncs);
    let used: u64 = rig.segments().iter().map(|(_, len)| len).sum();
    assert!(used < 52 * 5_500, "{used} bytes for 52 chunks of 5,000");
    assert_eq!(store.report().await.chunks, 52);
}

#[tokio::test(start_paused = true)]
async fn a_buffered_chunk_counts_as_held_only_once_it_is_stable() {
    let mut rig = Rig::new(3, SEGMENT);
    let (store, _) = rig.open().await;
    let chunk = rig.chunk(3_000);
    let put = store.put(chunk.clone(), GcEpoch(4), Durability::Buffered).await.unwrap();
    assert!(matches!(store.read(&chunk.key(), 0, 10).await, Err(ReadError::UnknownChunk { .. })));
    assert_eq!(list(&store).await, []);
    assert_eq!(store.sync().await.unwrap(), put);
    assert_eq!(read(&store, chunk.key(), 0, 3_000).await.unwrap(), chunk.bytes());
    assert_eq!(list(&store).await, [(chunk.key(), GcEpoch(4))]);
    rig.crash(store, IndexFate::Kept);
    let (store, _) = rig.open().await;
    assert_eq!(list(&store).await, [(chunk.key(), GcEpoch(4))]);
}

#[tokio::test(start_paused = true)]
async fn has_makes_stable_and_stamps_what_it_affirms() {
    let mut rig = Rig::new(4, SEGMENT);
    let (store, _) = rig.open().await;
    let (old, fresh, absent) = (rig.chunk(100), rig.chunk(200), rig.chunk(300));
    put(&store, &old, 3).await;
    let buffered = store.put(fresh.clone(), GcEpoch(3), Durability::Buffered).await.unwrap();
    let keys = [old.key(), absent.key(), fresh.key()];
    assert_eq!(store.has(&keys, GcEpoch(9)).await.unwrap(), (vec![true, false, true], buffered));
    assert_eq!(store.has(&keys, GcEpoch(2)).await.unwrap().0, [true, false, true]);
    for fate in [IndexFate::Kept, IndexFate::Lost] {
        let (store, _) = rig.open().await;
        let mut expected = vec![(old.key(), GcEpoch(9)), (fresh.key(), GcEpoch(9))];
        expected.sort();
        assert_eq!(list(&store).await, expected);
        rig.crash(store, fate);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_sync_nothing_unstable_is_held_and_the_store_heals_itself() {
    let mut rig = Rig::new(5, SEGMENT);
    let (store, _) = rig.open().await;
    let (kept, lost) = (rig.chunk(1_000), rig.chunk(2_000));
    put(&store, &kept, 1).await;
    let before = store.put(lost.clone(), GcEpoch(1), Durability::Buffered).await.unwrap();
    rig.disk.inject(SimFault::NextSync);
    assert!(matches!(store.sync().await, Err(SyncError::Failed { .. })));
    assert_eq!(store.has(&[kept.key(), lost.key()], GcEpoch(1)).await.unwrap().0, [true, false]);
    let after = store.put(lost.clone(), GcEpoch(1), Durability::Synced).await.unwrap();
    assert_ne!(before, after);
    rig.crash(store, IndexFate::Lost);
    let (store, _) = rig.open().await;
    for chunk in [kept, lost] {
        assert_eq!(read(&store, chunk.key(), 0, chunk.chunk_len()).await.unwrap(), chunk.bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_with_a_broken_disk_refuses_puts_until_the_disk_is_back() {
    let mut rig = Rig::new(6, SEGMENT);
    let (store, _) = rig.open().await;
    let chunk = rig.chunk(1_000);
    rig.disk.fail_one_in(1);
    for _ in 0..3 {
        let put = store.put(chunk.clone(), GcEpoch(1), Durability::Synced).await;
        assert!(matches!(put, Err(PutError::Failed { .. })), "{put:?}");
    }
    assert!(store.report().await.failed);
    rig.disk.fail_one_in(0);
    tokio::time::sleep(rig.config.reopen_pause * 2).await;
    assert!(!store.report().await.failed);
    put(&store, &chunk, 1).await;
    assert_eq!(read(&store, chunk.key(), 0, 1_000).await.unwrap(), chunk.bytes());
}

#[tokio::test(start_paused = true)]
async fn a_full_store_refuses_chunks_but_stamps_deletes_and_compacts() {
    let mut rig = Rig::new(7, 256 << 10);
    rig.config.capacity = Some(2 << 20);
    let (store, _) = rig.open().await;
    let mut chunks = Vec::new();
    let full = loop {
        let chunk = rig.chunk(20_000);
        match store.put(chunk.clone(), GcEpoch(1), Durability::Synced).await {
            Ok(_) => chunks.push(chunk),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, PutError::Full { .. }), "{full:?}");
    assert!(store.report().await.full);
    assert!(chunks.len() > 60, "only {} chunks fitted", chunks.len());
    put(&store, &chunks[0], 8).await;
    let (gone, kept) = chunks.split_at(chunks.len() * 2 / 3);
    let keys: Vec<_> = gone.iter().map(|chunk| chunk.key()).collect();
    assert_eq!(store.forget(&keys, GcEpoch(7)).await.unwrap(), keys.len() - 1, "the stamped one stays");
    assert_eq!(store.forget(&keys, GcEpoch(8)).await.unwrap(), 1);
    assert!(compact_all(&store).await > 3);
    for _ in 0..gone.len() / 2 {
        put(&store, &rig.chunk(20_000), 1).await;
    }
    assert!(!store.report().await.full);
    for chunk in kept {
        assert_eq!(read(&store, chunk.key(), 0, 20_000).await.unwrap(), chunk.bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn room_comes_back_however_long_chunks_come_and_go() {
    let mut rig = Rig::new(8, 256 << 10);
    let (store, _) = rig.open().await;
    let mut held = std::collections::VecDeque::new();
    let mut used_max = 0;
    for round in 0..600 {
        let chunk = rig.chunk(8_000);
        put(&store, &chunk, round).await;
        held.push_back(chunk.key());
        if held.len() > 50 {
            assert_eq!(store.forget(&[held.pop_front().unwrap()], GcEpoch(round)).await.unwrap(), 1);
        }
        compact_all(&store).await;
        used_max = used_max.max(store.report().await.used);
    }
    // Fifty living chunks are 400 kB; at most half is garbage, and there is one segment that grows.
    assert!(used_max < 1_600_000, "{used_max} bytes used at the worst");
    assert_eq!(list(&store).await.len(), 50);
    let rows = rig.kv.pairs().len();
    assert!(rows < 200, "{rows} rows for 50 chunks: deletions are never forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_deletion_outlives_every_copy_that_could_come_back() {
    let mut rig = Rig::new(9, 128 << 10);
    let (store, _) = rig.open().await;
    let chunk = rig.chunk(1_000);
    put(&store, &chunk, 1).await;
    // The first segment stays: most of it lives. Those with the deletion are emptied again and again.
    for _ in 0..17 {
        put(&store, &rig.chunk(8_000), 1).await;
    }
    assert_eq!(rig.segments().len(), 2);
    store.forget(&[chunk.key()], GcEpoch(1)).await.unwrap();
    for _ in 0..4 {
        let filler: Vec<_> = (0..30).map(|_| rig.chunk(8_000)).collect();
        for chunk in &filler {
            put(&store, chunk, 1).await;
        }
        let keys: Vec<_> = filler.iter().map(|chunk| chunk.key()).collect();
        store.forget(&keys, GcEpoch(1)).await.unwrap();
        assert!(compact_all(&store).await > 0);
    }
    let first = rig.segments().into_iter().next().unwrap();
    assert!(first.1 > 100_000, "the first segment was to stay: {first:?}");
    rig.crash(store, IndexFate::Lost);
    let (store, opened) = rig.open().await;
    assert!(matches!(opened.index, IndexOrigin::Built { because: Rebuilt::Missing, .. }), "{opened:?}");
    assert_eq!(store.has(&[chunk.key()], GcEpoch(1)).await.unwrap().0, [false]);
}

#[tokio::test(start_paused = true)]
async fn chunks_and_stamps_survive_being_moved_and_the_loss_of_the_index() {
    let mut rig = Rig::new(10, 128 << 10);
    let (store, _) = rig.open().await;
    let chunks: Vec<_> = (0..60).map(|_| rig.chunk(6_000)).collect();
    for chunk in &chunks {
        put(&store, chunk, 1).await;
    }
    let (kept, gone): (Vec<_>, Vec<_>) = (0..60).partition(|n| n % 3 == 0);
    let keys = |list: &[usize]| list.iter().map(|n| chunks[*n].key()).collect::<Vec<_>>();
    store.has(&keys(&kept), GcEpoch(77)).await.unwrap();
    store.forget(&keys(&gone), GcEpoch(1)).await.unwrap();
    assert!(compact_all(&store).await > 0);
    for fate in [IndexFate::Kept, IndexFate::Lost, IndexFate::Kept] {
        let (store, _) = rig.open().await;
        let mut expected: Vec<_> = keys(&kept).into_iter().map(|key| (key, GcEpoch(77))).collect();
        expected.sort();
        assert_eq!(list(&store).await, expected, "{fate:?}");
        for n in &kept {
            assert_eq!(read(&store, chunks[*n].key(), 0, 6_000).await.unwrap(), chunks[*n].bytes());
        }
        rig.crash(store, fate);
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_that_is_older_than_a_removed_segment_is_not_believed() {
    let mut rig = Rig::new(11, 128 << 10);
    let (store, _) = rig.open().await;
    let chunks: Vec<_> = (0..40).map(|_| rig.chunk(8_000)).collect();
    for chunk in &chunks {
        put(&store, chunk, 1).await;
    }
    list(&store).await;
    let old = rig.kv.after_crash(rig.kv.unpersisted());
    let gone: Vec<_> = chunks.iter().skip(1).step_by(2).chain(&chunks[..1]).map(|chunk| chunk.key()).collect();
    store.forget(&gone, GcEpoch(1)).await.unwrap();
    assert!(compact_all(&store).await > 0);
    let expected = list(&store).await;
    rig.crash(store, IndexFate::Kept);
    rig.kv = old;
    let (store, opened) = rig.open().await;
    assert!(matches!(opened.index, IndexOrigin::Built { because: Rebuilt::SegmentMissing { .. }, .. }), "{opened:?}");
    assert_eq!(list(&store).await, expected);
}

#[tokio::test(start_paused = true)]
async fn an_open_reads_again_only_what_the_index_has_not_seen() {
    let mut rig = Rig::new(12, SEGMENT);
    let (store, _) = rig.open().await;
    for _ in 0..200 {
        put(&store, &rig.chunk(500), 1).await;
    }
    store.close().await.unwrap();
    let (store, opened) = rig.open().await;
    assert_eq!((opened.chunks, opened.index), (200, IndexOrigin::Kept { replayed: 0 }));
    assert_eq!(list(&store).await.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_listing_keeps_to_its_partition_and_its_pages() {
    let mut rig = Rig::new(13, SEGMENT);
    let (store, _) = rig.open().await;
    let mut keys = Vec::new();
    for _ in 0..100 {
        let chunk = rig.chunk(64);
        put(&store, &chunk, 5).await;
        keys.push(chunk.key());
    }
    keys.sort();
    let bits = PartitionBits::new(3).unwrap();
    let mut listed = Vec::new();
    for partition in bits.partitions().chain([Partition(8)]) {
        let mut after = None;
        loop {
            let page = store.list(bits, partition, after, 4).await.unwrap();
            assert!(page.keys.len() <= 4);
            assert!(page.keys.iter().all(|(key, _)| bits.partition_of(key) == partition));
            listed.extend(page.keys.iter().map(|(key, _)| *key));
            after = page.keys.last().map(|(key, _)| *key).or(after);
            if page.end == super::super::PageEnd::Last {
                break;
            }
        }
    }
    assert_eq!(listed, keys);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_cannot_be_read_stays_until_it_is_replaced() {
    let mut rig = Rig::new(14, SEGMENT);
    let (store, _) = rig.open().await;
    let chunk = rig.chunk(30_000);
    put(&store, &chunk, 6).await;
    // Three tries: of what is read with the header, and of the header alone.
    for _ in 0..6 {
        rig.disk.inject(SimFault::NextRead);
    }
    assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Unreadable);
    assert_eq!(store.take_damaged(10), [chunk.key()]);
    assert_eq!(store.take_damaged(10), []);
    assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Good);
    store.replace(chunk.clone(), GcEpoch(2), Durability::Synced).await.unwrap();
    let used: u64 = rig.segments().iter().map(|(_, len)| len).sum();
    assert!(used > 60_000, "it was not written again");
    for fate in [IndexFate::Lost, IndexFate::Kept] {
        let (store, _) = rig.open().await;
        assert_eq!(list(&store).await, [(chunk.key(), GcEpoch(6))]);
        assert_eq!(read(&store, chunk.key(), 100, 5).await.unwrap(), chunk.bytes().slice(100..105));
        rig.crash(store, fate);
    }
}

#[tokio::test(start_paused = true)]
async fn readers_see_nothing_of_a_compaction_beside_them() {
    let mut rig = Rig::new(15, 128 << 10);
    let (store, _) = rig.open().await;
    let chunks: Vec<_> = (0..60).map(|_| rig.chunk(6_000)).collect();
    for chunk in &chunks {
        put(&store, chunk, 1).await;
    }
    let (kept, gone): (Vec<_>, Vec<_>) = (0..60).partition(|n| n % 3 == 0);
    let gone: Vec<_> = gone.into_iter().map(|n: usize| chunks[n].key()).collect();
    store.forget(&gone, GcEpoch(1)).await.unwrap();
    let chunks = Arc::new(chunks);
    let reader = |store: ChunkStore| {
        let (chunks, kept) = (Arc::clone(&chunks), kept.clone());
        async move {
            for n in kept.iter().cycle().take(400) {
                assert_eq!(read(&store, chunks[*n].key(), 0, 6_000).await.unwrap(), chunks[*n].bytes());
                tokio::task::yield_now().await;
            }
        }
    };
    let compactor = async {
        let mut count = 0;
        while let Compacted::Segment { .. } = store.compact().await.unwrap() {
            count += 1;
        }
        count
    };
    let ((), (), count) = futures::join!(reader(store.clone()), reader(store.clone()), compactor);
    assert!(count > 1);
}

#[tokio::test(start_paused = true)]
async fn a_segment_of_stamps_can_go_and_the_stamps_stay() {
    let mut rig = Rig::new(16, 128 << 10);
    let (store, _) = rig.open().await;
    let chunks: Vec<_> = (0..14).map(|_| rig.chunk(8_000)).collect();
    for chunk in &chunks {
        put(&store, chunk, 1).await;
    }
    let keys: Vec<_> = chunks.iter().map(|chunk| chunk.key()).collect();
    put(&store, &rig.chunk(16_000), 1).await;
    assert_eq!(rig.segments().len(), 2);
    // The stamp of the first chunk lies early in the second segment and must be moved, others are overtaken.
    store.has(&keys[..1], GcEpoch(900)).await.unwrap();
    for stamp in 2..=200 {
        store.has(&keys, GcEpoch(stamp)).await.unwrap();
    }
    assert!(rig.segments().len() > 2, "the stamps were to fill segments");
    assert!(compact_all(&store).await > 0);
    assert_eq!(store.compact().await.unwrap(), Compacted::Nothing);
    assert!(rig.segments().len() <= 2, "{:?}", rig.segments());
    let keys = &keys;
    for fate in [IndexFate::Lost, IndexFate::Kept] {
        let (store, _) = rig.open().await;
        for (key, stamp) in list(&store).await.into_iter().filter(|(key, _)| keys.contains(key)) {
            assert_eq!(stamp, GcEpoch(if key == keys[0] { 900 } else { 200 }));
        }
        rig.crash(store, fate);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_compaction_costs_no_rebuild() {
    let mut rig = Rig::new(17, 128 << 10);
    let (store, _) = rig.open().await;
    let chunks: Vec<_> = (0..60).map(|_| rig.chunk(6_000)).collect();
    for chunk in &chunks {
        put(&store, chunk, 1).await;
    }
    let keys: Vec<_> = chunks.iter().skip(10).map(|chunk| chunk.key()).collect();
    store.forget(&keys, GcEpoch(1)).await.unwrap();
    assert!(compact_all(&store).await > 0);
    rig.kv = rig.kv.after_crash(0);
    rig.disk.power_cycle();
    drop(store);
    let (store, opened) = rig.open().await;
    assert!(matches!(opened.index, IndexOrigin::Kept { .. }), "{opened:?}");
    assert_eq!(list(&store).await.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_is_forgotten_with_the_last_copy_that_could_come_back() {
    let mut rig = Rig::new(19, 128 << 10);
    let (store, _) = rig.open().await;
    let chunks: Vec<_> = (0..28).map(|_| rig.chunk(8_000)).collect();
    for chunk in &chunks {
        put(&store, chunk, 1).await;
    }
    // All of the first segment; the deletions lie in the second, which stays.
    let keys: Vec<_> = chunks[..15].iter().map(|chunk| chunk.key()).collect();
    store.forget(&keys, GcEpoch(1)).await.unwrap();
    assert_eq!(compact_all(&store).await, 1);
    assert_eq!(list(&store).await.len(), 13);
    let has_row = |key: &[u8]| rig.kv.pairs().iter().any(|(row, _)| row.ends_with(key));
    assert!(has_row(chunks[20].key().as_bytes()));
    assert!(!keys.iter().any(|key| has_row(key.as_bytes())));
}

#[tokio::test(start_paused = true)]
async fn an_index_that_has_seen_more_than_the_segments_hold_is_not_believed_and_tells_what_is_lost() {
    let mut rig = Rig::new(20, SEGMENT);
    let (store, _) = rig.open().await;
    let chunks: Vec<_> = (0..20).map(|_| rig.chunk(8_000)).collect();
    for chunk in &chunks {
        put(&store, chunk, 1).await;
    }
    store.close().await.unwrap();
    let path = rig.segments()[0].0.clone();
    let file = rig.disk.open(&path, OpenMode::Existing).await.unwrap();
    file.truncate(10 * 8_400).await.unwrap();
    file.sync_data().await.unwrap();
    let (store, opened) = rig.open().await;
    assert!(matches!(opened.index, IndexOrigin::Built { because: Rebuilt::Ahead, .. }), "{opened:?}");
    let held = list(&store).await.len();
    assert!((8..12).contains(&held), "{held} chunks held");
    let lost = store.take_damaged(100);
    let put_last: Vec<_> = chunks[held..].iter().map(|chunk| chunk.key()).collect();
    assert!(lost.len() == put_last.len() && put_last.iter().all(|key| lost.contains(key)));
}

#[test]
fn on_a_real_disk_and_a_real_index_chunks_survive_an_abrupt_end() {
    let root = tempfile::tempdir().unwrap();
    let mut rig = Rig::new(18, 16 << 20);
    let (kept, gone) = (rig.chunk(3_000_000), rig.chunk(5_000));
    let small: Vec<_> = (0..50).map(|_| rig.chunk(2_000)).collect();
    let mut expected: Vec<_> = small.iter().map(|chunk| (chunk.key(), GcEpoch(3))).collect();
    expected.push((kept.key(), GcEpoch(5)));
    expected.sort();
    for (round, index) in ["index", "index", "other", "other"].into_iter().enumerate() {
        // Its tasks die with the runtime, wherever they are.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let index = Arc::new(FjallKv::open(&root.path().join(index), FjallConfig::default()).unwrap());
            let disk = Arc::new(FileDisk::start(&FileDiskConfig::default()).unwrap());
            let rng = Box::new(StdRng::seed_from_u64(round as u64));
            let dir = root.path().join("chunks");
            let (store, opened) = ChunkStore::open(disk, &dir, index, rig.config.clone(), rng).await.unwrap();
            if round == 0 {
                join_all(small.iter().chain([&kept, &gone]).map(|chunk| put(&store, chunk, 3))).await;
                store.forget(&[gone.key()], GcEpoch(3)).await.unwrap();
                store.has(&[kept.key()], GcEpoch(5)).await.unwrap();
            }
            let part = read(&store, kept.key(), 1_000_000, 4096).await.unwrap();
            assert_eq!(part, kept.bytes().slice(1_000_000..1_004_096));
            assert_eq!(store.has(&[gone.key()], GcEpoch(1)).await.unwrap().0, [false]);
            assert_eq!(list(&store).await, expected);
            if round == 2 {
                store.close().await.unwrap();
            } else if round == 3 {
                assert_eq!(opened.index, IndexOrigin::Kept { replayed: 0 });
            }
        });
    }
}

/// A store of pairs that can be broken.
#[derive(Debug, Default)]
struct BrittleKv {
    kv: MemoryKv,
    is_broken: AtomicBool,
}

impl BrittleKv {
    fn check(&self) -> Result<(), KvError> {
        if self.is_broken.load(Ordering::Relaxed) { Err(KvError { reason: "broken".to_owned() }) } else { Ok(()) }
    }
}

impl KvRead for BrittleKv {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.check()?;
        self.kv.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut KvVisit<'_>) -> Result<(), KvError> {
        self.check()?;
        self.kv.scan(from, to, visit)
    }
}

impl KvStore for BrittleKv {
    fn snapshot(&self) -> Box<dyn KvRead> {
        self.kv.snapshot()
    }

    fn commit(&self, batch: WriteBatch) -> Result<(), KvError> {
        self.check()?;
        self.kv.commit(batch)
    }

    fn persist(&self) -> BoxFuture<'static, Result<(), KvError>> {
        self.kv.persist()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_whose_index_failed_says_so() {
    let mut rig = Rig::new(1, SEGMENT);
    let kv = Arc::new(BrittleKv::default());
    let (disk, rng) = (Arc::new(rig.disk.clone()), Box::new(StdRng::seed_from_u64(1)));
    let opened = ChunkStore::open(disk, Path::new(DIR), kv.clone(), rig.config.clone(), rng).await;
    let (store, _) = opened.unwrap();
    put(&store, &rig.chunk(1000), 1).await;
    assert!(!store.report().await.failed);
    kv.is_broken.store(true, Ordering::Relaxed);
    let mut index = store.watch_index();
    drop(store.put(rig.chunk(2000), GcEpoch(1), Durability::Synced).await);
    let reason = index.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(reason.as_deref(), Some("broken"));
    assert!(store.report().await.failed);
}
