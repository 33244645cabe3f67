use super::*;

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(SimOptions { seed, ..SimOptions::default() })
}

async fn new_file(disk: &SimDisk, path: &str) -> Arc<dyn DiskFile> {
    disk.create_dir(Path::new("/d")).await.unwrap();
    disk.open(Path::new(path), OpenMode::CreateNew).await.unwrap()
}

#[tokio::test]
async fn synced_bytes_under_a_synced_name_survive_and_others_may_not() {
    let mut lost = 0;
    for seed in 0..32 {
        let disk = disk(seed);
        let file = new_file(&disk, "/d/a").await;
        file.write_at(0, vec![Bytes::from_static(b"kept")], Durability::Synced).await.unwrap();
        disk.sync_dir(Path::new("/d")).await.unwrap();
        file.write_at(4, vec![Bytes::from_static(b"gone")], Durability::Buffered).await.unwrap();
        new_file(&disk, "/d/b").await;
        disk.power_cycle();
        assert!(file.read_at(0, 4).await.is_err(), "seed {seed}: a handle outlived the power cut");
        let file = disk.open(Path::new("/d/a"), OpenMode::Existing).await.unwrap();
        assert_eq!(file.read_at(0, 4).await.unwrap(), Bytes::from_static(b"kept"), "seed {seed}");
        lost += usize::from(file.read_at(4, 4).await.unwrap() != Bytes::from_static(b"gone"));
        lost += usize::from(disk.open(Path::new("/d/b"), OpenMode::Existing).await.is_err());
    }
    assert!((8..56).contains(&lost), "{lost} of 64 unsynced things were lost");
}

#[tokio::test]
async fn after_a_failed_sync_the_cache_lies_and_the_next_sync_agrees() {
    let mut lost = 0;
    for seed in 0..32 {
        let disk = disk(seed);
        let file = new_file(&disk, "/d/a").await;
        disk.sync_dir(Path::new("/d")).await.unwrap();
        file.write_at(0, vec![Bytes::from(vec![7; 4096])], Durability::Buffered).await.unwrap();
        disk.inject(SimFault::NextSync);
        assert!(file.sync_data().await.is_err());
        assert_eq!(file.read_at(0, 4096).await.unwrap(), vec![7; 4096]);
        file.sync_data().await.unwrap();
        disk.power_cycle();
        let file = disk.open(Path::new("/d/a"), OpenMode::Existing).await.unwrap();
        lost += usize::from(file.read_at(0, 4096).await.unwrap() != vec![7; 4096]);
    }
    assert!(lost > 8, "only {lost} of 32 failed syncs lost anything");
}

#[tokio::test]
async fn a_full_disk_says_so_and_a_reservation_keeps_its_room() {
    let disk = SimDisk::new(SimOptions { capacity: 64 << 10, ..SimOptions::default() });
    let reserved = new_file(&disk, "/d/a").await;
    reserved.allocate(32 << 10).await.unwrap();
    let other = new_file(&disk, "/d/b").await;
    let error = other.write_at(0, vec![Bytes::from(vec![1; 48 << 10])], Durability::Buffered).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    reserved.write_at(0, vec![Bytes::from(vec![1; 32 << 10])], Durability::Synced).await.unwrap();
}

#[tokio::test]
async fn a_locked_directory_is_in_use_until_the_guard_drops() {
    let disk = disk(1);
    let guard = disk.lock_dir(Path::new("/d")).await.unwrap();
    assert!(matches!(disk.lock_dir(Path::new("/d")).await, Err(LockError::InUse { .. })));
    drop(guard);
    disk.lock_dir(Path::new("/d")).await.unwrap();
}
