//! Copies out of use.

use ring::GcEpoch;

use super::rig::{IndexFate, Rig, list, put, read};

const SEGMENT: u64 = 1 << 20;

#[tokio::test(start_paused = true)]
async fn a_copy_in_quarantine_is_read_but_not_held_and_a_put_brings_it_back_with_one_small_record() {
    let mut rig = Rig::new(31, SEGMENT);
    let (store, _) = rig.open().await;
    let (chunk, other) = (rig.chunk(5_000), rig.chunk(5_000));
    put(&store, &chunk, 3).await;
    put(&store, &other, 3).await;
    let keys = [chunk.key(), other.key()];
    let condemned = keys.map(|key| (key, GcEpoch(4)));
    store.quarantine(&condemned);
    // An affirmation does not stamp it: it is not held.
    assert_eq!(store.has(&keys, GcEpoch(9)).await.unwrap().0, [false, false]);
    assert_eq!(store.has(&keys, GcEpoch(1)).await.unwrap().0, [false, false]);
    assert!(!store.holds(&chunk.key()).unwrap());
    assert_eq!(list(&store).await, []);
    assert_eq!(read(&store, chunk.key(), 0, 5_000).await.unwrap(), chunk.bytes());

    let used = |rig: &Rig| rig.segments().iter().map(|(_, len)| len).sum::<u64>();
    let (before, syncs) = (used(&rig), rig.disk.sync_count());
    put(&store, &chunk, 9).await;
    assert!(used(&rig) - before < 1_000, "its bytes are not written again");
    assert!(rig.disk.sync_count() > syncs);
    assert_eq!(store.has(&keys, GcEpoch(9)).await.unwrap().0, [true, false]);
    assert_eq!(list(&store).await, [(chunk.key(), GcEpoch(9))]);
    // The deletion finds it stamped higher than what may go.
    assert_eq!(store.forget(&keys, GcEpoch(4)).await.unwrap(), 1);
    store.release(&condemned);
    assert_eq!(list(&store).await, [(chunk.key(), GcEpoch(9))]);
    rig.crash(store, IndexFate::Lost);
    let (store, _) = rig.open().await;
    assert_eq!(list(&store).await, [(chunk.key(), GcEpoch(9))]);
}

#[tokio::test(start_paused = true)]
async fn what_is_released_or_survives_a_restart_is_held_as_before() {
    let mut rig = Rig::new(32, SEGMENT);
    let (store, _) = rig.open().await;
    let chunk = rig.chunk(5_000);
    put(&store, &chunk, 3).await;
    let condemned = [(chunk.key(), GcEpoch(3))];
    store.quarantine(&condemned);
    assert!(!store.holds(&chunk.key()).unwrap());
    store.release(&condemned);
    assert!(store.holds(&chunk.key()).unwrap());
    store.quarantine(&condemned);
    rig.crash(store, IndexFate::Kept);
    let (store, _) = rig.open().await;
    assert_eq!(store.has(&[chunk.key()], GcEpoch(5)).await.unwrap().0, [true]);
    assert_eq!(store.forget(&[chunk.key()], GcEpoch(3)).await.unwrap(), 0, "it was affirmed since");
}
