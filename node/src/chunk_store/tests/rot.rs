//! Bits that flip on the medium: never handed out, always told.

use rand::Rng;
use ring::{ChunkKey, GcEpoch};
use wire::tree::VerifiedChunk;

use super::super::{Checked, ChunkStore, Compacted};
use super::rig::{IndexFate, Rig, compact_all, list, put, read};
use crate::disk::SimFault;

const SEGMENT: u64 = 256 << 10;

async fn filled(rig: &mut Rig, count: usize) -> (ChunkStore, Vec<VerifiedChunk>) {
    let (store, _) = rig.open().await;
    let chunks: Vec<_> = (0..count).map(|_| rig.rng.random_range(1..30_000)).collect();
    let chunks: Vec<_> = chunks.into_iter().map(|len| rig.chunk(len)).collect();
    for chunk in &chunks {
        put(&store, chunk, 3).await;
    }
    (store, chunks)
}

fn rot_somewhere(rig: &mut Rig, bits: usize) {
    let segments = rig.segments();
    for _ in 0..bits {
        let (path, len) = &segments[rig.rng.random_range(0..segments.len())];
        rig.disk.rot(path, rig.rng.random_range(0..*len));
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_with_a_flipped_bit_counts_as_not_held_and_what_is_good_of_it_is_read_until_another_put_mends_it() {
    let mut rig = Rig::new(1, SEGMENT);
    let (store, _) = rig.open().await;
    let chunk = rig.chunk(100_000);
    put(&store, &chunk, 3).await;
    let path = rig.segments()[0].0.clone();
    rig.disk.rot(&path, 50_000);
    assert!(read(&store, chunk.key(), 0, 100_000).await.is_err(), "the client sees it");
    assert_eq!(read(&store, chunk.key(), 90_000, 10).await.unwrap(), chunk.bytes().slice(90_000..90_010));
    assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Damaged);
    assert_eq!(store.take_damaged(10), [chunk.key()]);
    for gc in [3, 4] {
        assert_eq!(
            store.has(&[chunk.key()], GcEpoch(gc)).await.unwrap().0,
            [false],
            "neither as it is nor stamped anew"
        );
    }
    assert!(!store.holds(&chunk.key()).unwrap() && list(&store).await.is_empty());
    assert_eq!(read(&store, chunk.key(), 90_000, 10).await.unwrap(), chunk.bytes().slice(90_000..90_010));
    put(&store, &chunk, 3).await;
    assert!(store.holds(&chunk.key()).unwrap());
    assert_eq!(list(&store).await, [(chunk.key(), GcEpoch(3))]);
    assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Good);
    assert_eq!(store.report().await.damaged, 1);
    rig.crash(store, IndexFate::Lost);
    let (store, _) = rig.open().await;
    assert_eq!(read(&store, chunk.key(), 0, 100_000).await.unwrap(), chunk.bytes());
}

/// It may be the last.
#[tokio::test(start_paused = true)]
async fn a_damaged_copy_in_a_segment_that_is_full_is_there_after_a_restart_too() {
    for fate in [IndexFate::Kept, IndexFate::Lost] {
        let mut rig = Rig::new(3, SEGMENT);
        let (store, _) = rig.open().await;
        let chunk = rig.chunk(100_000);
        put(&store, &chunk, 3).await;
        for _ in 0..4 {
            put(&store, &rig.chunk(100_000), 3).await;
        }
        list(&store).await;
        let path = rig.segments()[0].0.clone();
        rig.disk.rot(&path, 50_000);
        assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Damaged);
        rig.crash(store, fate);
        let (store, _) = rig.open().await;
        assert_eq!(read(&store, chunk.key(), 90_000, 10).await.unwrap(), chunk.bytes().slice(90_000..90_010));
        assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Damaged);
        assert_eq!(store.take_damaged(10), [chunk.key()]);
    }
}

/// Bad is what was read and found wrong each time: one such read beside others that gave nothing is not enough.
#[tokio::test(start_paused = true)]
async fn a_copy_that_is_read_only_now_and_then_is_not_called_damaged() {
    let mut rig = Rig::new(2, SEGMENT);
    let (store, _) = rig.open().await;
    let chunk = rig.chunk(30_000);
    put(&store, &chunk, 3).await;
    let path = rig.segments()[0].0.clone();
    rig.disk.rot(&path, 20_000);
    // The first two tries: of what is read with the header, and of the header alone.
    for _ in 0..4 {
        rig.disk.inject(SimFault::NextRead);
    }
    assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Unreadable);
    assert_eq!(store.has(&[chunk.key()], GcEpoch(3)).await.unwrap().0, [false]);
    assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Damaged);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_could_not_be_read_is_held_again_once_it_can() {
    let mut rig = Rig::new(2, SEGMENT);
    let (store, _) = rig.open().await;
    let chunk = rig.chunk(30_000);
    put(&store, &chunk, 3).await;
    for _ in 0..6 {
        rig.disk.inject(SimFault::NextRead);
    }
    assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Unreadable);
    assert!(!store.holds(&chunk.key()).unwrap());
    assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Good);
    assert!(store.holds(&chunk.key()).unwrap());
}

#[tokio::test(start_paused = true)]
async fn compaction_reports_rot_and_never_copies_it() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut rig = Rig::new(seed, SEGMENT);
        let (store, chunks) = filled(&mut rig, 60).await;
        rot_somewhere(&mut rig, 12);
        let (kept, gone) = chunks.split_at(20);
        let keys: Vec<_> = gone.iter().map(VerifiedChunk::key).collect();
        store.forget(&keys, GcEpoch(3)).await.unwrap();
        // Segments with something bad stay: it may be the last copy.
        while store.compact().await.unwrap() != Compacted::Nothing {}
        let mut damaged = store.take_damaged(100);
        for chunk in kept {
            let checked = store.check(&chunk.key()).await.unwrap();
            damaged.extend(store.take_damaged(100));
            match checked {
                Checked::Good => {}
                Checked::Damaged | Checked::Unknown => assert!(damaged.contains(&chunk.key()), "seed {seed}"),
                Checked::Unreadable => panic!("seed {seed}: the disk reads well"),
            }
        }
        // Once all that is bad was replaced, nothing keeps a segment from going.
        for chunk in kept {
            put(&store, chunk, 3).await;
        }
        compact_all(&store).await;
        assert_eq!(store.compact().await.unwrap(), Compacted::Nothing, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_rot_every_chunk_is_right_or_known_to_be_missing() {
    for seed in 0..30 {
        println!("seed {seed}");
        let mut rig = Rig::new(seed, SEGMENT);
        let (store, chunks) = filled(&mut rig, 60).await;
        list(&store).await;
        let rotten = rig.rng.random_range(1..6);
        rot_somewhere(&mut rig, rotten);
        rig.crash(store, IndexFate::Kept);
        let (store, _) = rig.open().await;
        let mut missing = 0;
        for chunk in &chunks {
            missing += usize::from(!is_right_or_told(&store, chunk).await);
        }
        assert_eq!(missing, 0, "seed {seed}: chunks went missing without a word");
        // Whoever puts them again has them back.
        for chunk in &chunks {
            put(&store, chunk, 3).await;
            assert_eq!(store.check(&chunk.key()).await.unwrap(), Checked::Good, "seed {seed}");
        }
        rig.crash(store, IndexFate::Lost);
        let (store, opened) = rig.open().await;
        let wrong: Vec<ChunkKey> = missing_after_rebuild(&store, &chunks).await;
        assert!(wrong.len() <= rotten + opened.damaged_places, "seed {seed}: {wrong:?} of {opened:?}");
    }
}

async fn is_right_or_told(store: &ChunkStore, chunk: &VerifiedChunk) -> bool {
    if let Ok(bytes) = read(store, chunk.key(), 0, chunk.chunk_len()).await {
        return bytes == *chunk.bytes();
    }
    let told = store.take_damaged(100);
    if told.contains(&chunk.key()) {
        return true;
    }
    match store.check(&chunk.key()).await.unwrap() {
        Checked::Damaged => true,
        // The open or another check has told of it before.
        Checked::Unknown => store.report().await.damaged > 0,
        Checked::Good | Checked::Unreadable => false,
    }
}

async fn missing_after_rebuild(store: &ChunkStore, chunks: &[VerifiedChunk]) -> Vec<ChunkKey> {
    let mut missing = Vec::new();
    for chunk in chunks {
        if store.check(&chunk.key()).await.unwrap() != Checked::Good {
            missing.push(chunk.key());
        }
    }
    missing
}
