//! Files: sealed, recycled, removed, refused for want of room; group commit; and the same on a real disk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;

use super::super::{
    Align, AppendError, AppendLog, FileState, FileStyle, Fill, LogConfig, NewRecord, ReadError, Room, Source, SyncError,
};
use super::{FILE_LEN, append_synced, config, dir, log_files, number, numbers, open, payload, record, rng, sim};
use crate::disk::{Disk, FileDisk, FileDiskConfig, LockError, SimDisk, SimFault, SimOptions};

/// Enough records to fill some files.
async fn fill(log: &AppendLog, numbers: std::ops::Range<u64>) {
    for number in numbers {
        log.append(record(number, 2000, Align::Packed)).await.unwrap();
    }
    log.sync().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_page_aligned_payload_begins_at_a_page_and_its_ranges_read_back() {
    let disk = sim(1);
    let (log, _) = open(&disk, config(FileStyle::Allocated), 1).await;
    log.append(record(1, 77, Align::Packed)).await.unwrap();
    let appended = log.append(record(2, 9000, Align::Page)).await.unwrap();
    assert_eq!(appended.payload_offset % 4096, 0);
    let expected = payload(2, 9000);
    for range in [0..9000, 0..0, 100..200, 8999..9000] {
        let slice = expected.slice(range.start as usize..range.end as usize);
        assert_eq!(log.read(appended.position, range).await.unwrap(), slice);
    }
    let beyond = log.read(appended.position, 8000..9001).await;
    assert!(matches!(beyond, Err(ReadError::OutOfRange { end: 9001, .. })));
    assert_eq!(numbers(&log).await, vec![1, 2]);
}

#[tokio::test(start_paused = true)]
async fn everybody_who_waits_shares_a_sync() {
    let disk = SimDisk::new(SimOptions { latency_max: Duration::from_millis(4), ..SimOptions::default() });
    let (log, _) = open(&disk, config(FileStyle::Allocated), 1).await;
    fill(&log, 0..1).await;
    let before = disk.sync_count();
    let appends = (1..101).map(|number| {
        let log = log.clone();
        async move {
            let appended = log.append(record(number, 10, Align::Packed)).await.unwrap();
            let synced = log.sync_to(&appended).await.unwrap();
            assert!(synced.until > appended.position);
            assert_eq!(synced.incarnation, appended.incarnation);
        }
    });
    join_all(appends).await;
    let syncs = disk.sync_count() - before;
    assert!(syncs <= 4, "{syncs} syncs for 100 who waited at once");
}

#[tokio::test(start_paused = true)]
async fn a_recycled_file_never_shows_what_it_held() {
    let disk = sim(1);
    let (log, _) = open(&disk, config(FileStyle::ZeroFilled), 1).await;
    fill(&log, 0..60).await;
    let sealed: Vec<_> = log.files().into_iter().filter(|file| file.state == FileState::Sealed).collect();
    assert!(sealed.len() >= 3);
    let kept: Vec<u64> = {
        for file in &sealed[..2] {
            log.recycle(file.id).await.unwrap();
        }
        numbers(&log).await
    };
    assert!(!kept.contains(&0));
    let files_before = disk.paths().len();
    // The records are as long as the old ones and lie where those lay; only their number differs.
    fill(&log, 100..125).await;
    assert_eq!(disk.paths().len(), files_before, "the spares were used");
    let expected: Vec<u64> = kept.into_iter().chain(100..125).collect();
    assert_eq!(numbers(&log).await, expected);
    disk.power_cycle();
    let (log, recovered) = open(&disk, config(FileStyle::ZeroFilled), 2).await;
    assert_eq!((recovered.damage, recovered.cut), (vec![], None));
    assert_eq!(numbers(&log).await, expected);
}

#[tokio::test(start_paused = true)]
async fn ordinary_records_leave_the_reserve_and_the_reserve_serves_the_others() {
    let disk = SimDisk::new(SimOptions { capacity: 6 * FILE_LEN, ..SimOptions::default() });
    let (log, _) = open(&disk, config(FileStyle::Allocated), 1).await;
    let mut count = 0;
    let refused = loop {
        match log.append(record(count, 1800, Align::Packed)).await {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::NoRoom { .. }), "{refused}");
    assert!(count > 30, "only {count} fitted");
    log.sync().await.unwrap();
    // Smaller ones still fit into what the current file has left.
    log.append(record(count, 0, Align::Packed)).await.unwrap();
    let mut reserved = record(count + 1, 2000, Align::Packed);
    reserved.room = Room::Upkeep;
    log.append(reserved).await.unwrap();
    // What follows must not fill what the reserve has begun, and what is owed leaves a file to compaction.
    let follows = log.append(record(count + 2, 100, Align::Packed)).await.unwrap_err();
    assert!(matches!(follows, AppendError::NoRoom { .. }), "{follows}");
    count += 2;
    for room in [Room::Upkeep, Room::All] {
        let mut more = 0;
        loop {
            match log.append(NewRecord { room, ..record(count, 2000, Align::Packed) }).await {
                Ok(_) => (count, more) = (count + 1, more + 1),
                Err(AppendError::NoRoom { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(more > 10, "{more} of {room:?}");
    }
    log.sync().await.unwrap();
    assert_eq!(numbers(&log).await, (0..count).collect::<Vec<_>>());
    for _ in 0..4 {
        let oldest = log.files()[0].id;
        log.remove_file(oldest).await.unwrap();
        assert!(matches!(log.list(oldest).await, Err(ReadError::NoFile { .. })));
    }
    for number in 1000..1020 {
        log.append(record(number, 2000, Align::Packed)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_is_told_to_all_and_never_acknowledged_later() {
    let disk = sim(3);
    let (log, _) = open(&disk, config(FileStyle::Allocated), 1).await;
    let kept = log.append(record(0, 100, Align::Packed)).await.unwrap();
    log.sync().await.unwrap();
    let lost = log.append(record(1, 100, Align::Packed)).await.unwrap();
    disk.inject(SimFault::NextSync);
    let (first, second) = tokio::join!(log.sync(), log.sync_to(&lost));
    assert!(matches!((first, second), (Err(SyncError::Failed { .. }), Err(SyncError::Failed { .. }))));
    assert!(matches!(log.sync().await, Err(SyncError::Failed { .. })), "a second try believes the first no more");
    assert!(matches!(log.append(record(2, 1, Align::Packed)).await, Err(AppendError::Failed { .. })));
    let reopened = log.reopen().await.unwrap();
    assert_ne!(reopened.incarnation, lost.incarnation);
    assert!(reopened.cut.unwrap() > kept.position && reopened.cut.unwrap() <= lost.position);
    assert!(matches!(log.sync_to(&lost).await, Err(SyncError::Lost { .. })));
    assert!(matches!(log.read_record(lost.position, Source::Anywhere).await, Err(ReadError::Damaged { .. })));
    append_synced(&log, vec![record(3, 100, Align::Packed)]).await.unwrap();
    disk.power_cycle();
    let (log, recovered) = open(&disk, config(FileStyle::Allocated), 2).await;
    assert_eq!((recovered.damage, numbers(&log).await), (vec![], vec![0, 3]));
}

#[tokio::test(start_paused = true)]
async fn a_number_of_a_file_is_never_used_again() {
    let disk = sim(1);
    let (log, _) = open(&disk, config(FileStyle::Allocated), 1).await;
    fill(&log, 0..1).await;
    let file = log.seal().await.unwrap().unwrap();
    log.remove_file(file).await.unwrap();
    disk.power_cycle();
    let (log, _) = open(&disk, config(FileStyle::Allocated), 2).await;
    let appended = log.append(record(1, 1, Align::Packed)).await.unwrap();
    assert!(appended.position.file > file);
}

#[tokio::test(start_paused = true)]
async fn a_payload_over_the_limit_is_refused_and_a_batch_larger_than_the_queue_is_not() {
    let disk = sim(1);
    let config = LogConfig { queue_bytes: 1000, ..config(FileStyle::Allocated) };
    let (log, _) = open(&disk, config, 1).await;
    let refused = log.append(record(1, FILE_LEN as usize, Align::Packed)).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
    append_synced(&log, (0..50).map(|number| record(number, 500, Align::Packed)).collect()).await.unwrap();
    assert_eq!(numbers(&log).await, (0..50).collect::<Vec<_>>());
}

async fn open_real(dir: &std::path::Path, style: FileStyle, seed: u64) -> (AppendLog, super::Recovered) {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::start(&FileDiskConfig::default()).unwrap());
    AppendLog::open(disk, dir, config(style), rng(seed)).await.unwrap()
}

#[tokio::test]
async fn on_a_real_disk_what_was_synced_is_there_again_and_a_torn_tail_is_cut() {
    for style in [FileStyle::Allocated, FileStyle::ZeroFilled] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("deep/log");
        let (log, _) = open_real(&dir, style, 1).await;
        fill(&log, 0..60).await;
        let sealed = log.files()[0].id;
        log.recycle(sealed).await.unwrap();
        let before = numbers(&log).await;
        log.close().await.unwrap();
        let (log, recovered) = open_real(&dir, style, 2).await;
        assert_eq!((recovered.damage, recovered.cut), (vec![], None));
        assert_eq!(numbers(&log).await, before);
        let torn = append_synced(&log, vec![record(100, 50, Align::Packed)]).await.unwrap().0[0];
        log.close().await.unwrap();
        // A power cut that tore the last record and took the mark behind it.
        let path = dir.join(format!("{}.log", torn.position.file));
        let disk = FileDisk::start(&FileDiskConfig::default()).unwrap();
        let file = disk.open(&path, crate::disk::OpenMode::Existing).await.unwrap();
        let zeros = vec![Bytes::from(vec![0; 400])];
        file.write_at(torn.position.offset + 64, zeros, crate::disk::Durability::Synced).await.unwrap();
        let (log, recovered) = open_real(&dir, style, 3).await;
        assert_eq!(recovered.damage, vec![]);
        assert_eq!(numbers(&log).await, before);
    }
}

#[tokio::test]
async fn on_a_real_disk_a_directory_is_locked_once_and_a_large_record_keeps_its_parts() {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(FileDisk::start(&FileDiskConfig::default()).unwrap());
    let guard = disk.lock_dir(root.path()).await.unwrap();
    assert!(matches!(disk.lock_dir(root.path()).await, Err(LockError::InUse { .. })));
    drop(guard);
    disk.lock_dir(root.path()).await.unwrap();
    let config = LogConfig { file_len: 16 << 20, reserve: 0, ..LogConfig::segments() };
    let (log, _) = AppendLog::open(disk, &root.path().join("log"), config, rng(1)).await.unwrap();
    let mut large = record(1, 4 << 20, Align::Page);
    let parts = large.parts.concat();
    // More parts than the kernel takes in one call.
    large.parts = parts.chunks(1500).map(Bytes::copy_from_slice).collect();
    let (appended, _) = append_synced(&log, vec![large]).await.unwrap();
    let (info, bytes) = log.read_record(appended[0].position, Source::Anywhere).await.unwrap();
    assert_eq!((number(&info.tag), bytes), (1, Bytes::from(parts)));
    assert!(log.usage().await.unwrap().used >= 4 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_synced_log_is_marked_within_50_ms_and_then_left_alone() {
    let disk = sim(1);
    let (log, _) = open(&disk, config(FileStyle::ZeroFilled), 1).await;
    fill(&log, 0..1).await;
    let len = log.files()[0].len;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(log.files()[0].len, len + 128);
    let syncs = disk.sync_count();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((log.files()[0].len, disk.sync_count()), (len + 128, syncs));
    assert_eq!(log_files(&disk)[0].0, dir().join("0000000000000001.log"));
}

#[tokio::test(start_paused = true)]
async fn a_file_with_an_index_ends_at_its_most_records() {
    let disk = sim(1);
    let config = LogConfig { file_len: 64 << 20, reserve: 0, ..LogConfig::segments() };
    let (log, _) = open(&disk, config, 1).await;
    for batch in 0..65 {
        let records = (0..2048).map(|at| record(batch * 2048 + at, 8, Align::Packed)).collect();
        log.append_batch(records).await.unwrap();
    }
    log.sync().await.unwrap();
    let files = log.files();
    let states: Vec<_> = files.iter().map(|file| file.state).collect();
    assert_eq!(states, [FileState::Sealed, FileState::Active]);
    assert_eq!(log.list(files[0].id).await.unwrap().records.len(), 128 << 10);
}

#[tokio::test(start_paused = true)]
async fn a_file_is_filled_before_it_is_needed() {
    let disk = sim(1);
    let config = LogConfig { fill: Fill::Ahead, ..config(FileStyle::ZeroFilled) };
    let spares = || {
        let paths = disk.paths().into_iter().map(|(path, _)| path);
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "spare")).count()
    };
    let (log, _) = open(&disk, config, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(spares(), 1, "at the open");
    log.append(record(0, 10, Align::Packed)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(spares(), 0, "it is the first file now");
    let half = FILE_LEN / 2 / 2000 + 1;
    fill(&log, 1..half + 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((spares(), log.files().len()), (1, 1), "half of the first file is used");
    fill(&log, half + 1..10 * half).await;
    assert_eq!(numbers(&log).await, (0..10 * half).collect::<Vec<_>>());
}
