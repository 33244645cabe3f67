//! A store without room: what goes on, and how room comes back.

use ring::GcEpoch;
use wire::chunk::Durability;
use wire::tree::VerifiedChunk;

use super::super::{ChunkStore, PutError};
use super::rig::{Rig, compact_all, list, put, read};

/// Puts chunks until one is refused for want of room.
async fn fill(rig: &mut Rig, store: &ChunkStore, len: usize) -> Vec<VerifiedChunk> {
    let mut chunks = Vec::new();
    loop {
        let chunk = rig.chunk(len);
        match store.put(chunk.clone(), GcEpoch(1), Durability::Synced).await {
            Ok(_) => chunks.push(chunk),
            Err(PutError::Full { .. }) => return chunks,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_store_gets_its_room_back_however_evenly_it_was_thinned() {
    for (every, len) in [(3, 20_000), (8, 20_000), (8, 66_000)] {
        let mut rig = Rig::new(17, 1 << 20);
        rig.config.capacity = Some(16 << 20);
        let (store, _) = rig.open().await;
        let chunks = fill(&mut rig, &store, len).await;
        let is_gone = |place: &usize| place.is_multiple_of(every);
        let gone: Vec<_> = (0..chunks.len()).filter(is_gone).map(|place| chunks[place].key()).collect();
        assert_eq!(store.forget(&gone, GcEpoch(1)).await.unwrap(), gone.len());
        let mut again = Vec::new();
        // Compaction takes no more trouble than room is short.
        while compact_all(&store).await > 0 {
            again.extend(fill(&mut rig, &store, len).await);
        }
        assert!(again.len() > gone.len() / 2, "one in {every}: {} of {} fit again", again.len(), gone.len());
        let kept = (0..chunks.len()).filter(|place| !is_gone(place)).map(|place| &chunks[place]);
        for chunk in kept.chain(&again) {
            assert_eq!(read(&store, chunk.key(), 0, len as u32).await.unwrap(), chunk.bytes());
        }
    }
}

/// Stamps begin files with the reserve; puts would fill them, and so use it up for good.
#[tokio::test(start_paused = true)]
async fn whatever_is_written_into_a_full_store_compaction_has_room_to_work() {
    let mut rig = Rig::new(18, 256 << 10);
    rig.config.capacity = Some(4 << 20);
    let (mut store, _) = rig.open().await;
    let mut chunks = fill(&mut rig, &store, 20_000).await;
    let mut refused = 0;
    for epoch in 2..200 {
        let keys: Vec<_> = chunks.iter().map(|chunk| chunk.key()).collect();
        refused += u32::from(store.has(&keys, GcEpoch(epoch)).await.is_err());
        chunks.extend(fill(&mut rig, &store, 3_000).await);
        if epoch % 64 == 0 {
            store.close().await.unwrap();
            store = rig.open().await.0;
        }
    }
    assert!(refused > 0, "stamps never met the end of their room");
    let stamped = list(&store).await.into_iter().map(|(_, stamp)| stamp).max().unwrap();
    let gone: Vec<_> = chunks.iter().step_by(3).map(|chunk| chunk.key()).collect();
    // Deletions may have to wait for the room of stamps that count no longer.
    for _ in 0..100 {
        compact_all(&store).await;
        if store.forget(&gone, stamped).await.is_ok() {
            break;
        }
    }
    compact_all(&store).await;
    put(&store, &rig.chunk(20_000), 1).await;
    assert_eq!(list(&store).await.len(), chunks.len() - gone.len() + 1);
}
