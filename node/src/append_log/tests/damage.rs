//! What rot does: below the mark it is damage and reported; above it, a torn tail.

use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::file_header::FILE_HEADER_LEN;
use super::super::{Align, AppendLog, Damage, FileStyle, OpenError, Position, ReadError, Recovered, Source};
use super::{append_synced, config, dir, file_at, log_files, number, numbers, open, payload, raw, record, rng, sim};
use crate::disk::{Disk, Durability, OpenMode, SimDisk};

/// Longer than the delay and the sync of the mark.
const MARK_WAIT: Duration = Duration::from_millis(50);

/// A log whose last file holds these records, all synced and marked, after a power cut.
async fn marked_log(disk: &SimDisk, style: FileStyle, lens: &[usize]) -> Vec<Position> {
    let (log, _) = open(disk, config(style), 1).await;
    let mut positions = Vec::new();
    for (number, len) in lens.iter().enumerate() {
        positions.push(log.append(record(number as u64, *len, Align::Packed)).await.unwrap().position);
    }
    log.sync().await.unwrap();
    tokio::time::sleep(MARK_WAIT).await;
    disk.power_cycle();
    positions
}

/// Numbers of the records that are listed and read well, and all damage: of the open, and of the lists.
async fn survey(log: &AppendLog, recovered: &Recovered) -> (Vec<u64>, Vec<Damage>) {
    let (mut good, mut damage) = (Vec::new(), recovered.damage.clone());
    for file in log.files() {
        let listing = log.list(file.id).await.unwrap();
        damage.extend(listing.damage);
        for info in listing.records {
            match log.read_record(info.position, Source::Anywhere).await {
                Ok((_, bytes)) => {
                    assert_eq!(bytes, payload(number(&info.tag), info.payload_len as usize));
                    good.push(number(&info.tag));
                }
                Err(ReadError::Damaged { position }) => {
                    damage.push(Damage { at: position, len: 1 });
                }
                Err(ReadError::Disk { .. }) => damage.push(Damage { at: info.position, len: 1 }),
                Err(error) => panic!("{error}"),
            }
        }
    }
    (good, damage)
}

#[tokio::test(start_paused = true)]
async fn a_rotten_header_below_the_mark_is_damage_and_what_follows_is_found() {
    for style in [FileStyle::Allocated, FileStyle::ZeroFilled] {
        let disk = sim(1);
        let positions = marked_log(&disk, style, &[100, 700, 200]).await;
        disk.rot(&file_at(&disk, 0), positions[1].offset + 10);
        let (log, recovered) = open(&disk, config(style), 2).await;
        let len = positions[2].offset - positions[1].offset;
        let damage = Damage { at: positions[1], len };
        assert_eq!(recovered.damage, vec![damage]);
        assert_eq!(recovered.cut, None);
        let listing = log.list(positions[0].file).await.unwrap();
        assert_eq!(listing.damage, vec![damage]);
        assert_eq!(listing.records.iter().map(|info| number(&info.tag)).collect::<Vec<_>>(), vec![0, 2]);
        // Sealing the file does not make anyone forget.
        append_synced(&log, vec![record(3, 10, Align::Packed)]).await.unwrap();
        log.seal().await.unwrap();
        assert_eq!(log.list(positions[0].file).await.unwrap().damage, vec![damage]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_synced_record_is_damage_too_once_the_mark_follows_it() {
    let disk = sim(1);
    let positions = marked_log(&disk, FileStyle::Allocated, &[100, 700]).await;
    disk.rot(&file_at(&disk, 0), positions[1].offset + 10);
    let (_, recovered) = open(&disk, config(FileStyle::Allocated), 2).await;
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!(recovered.damage[0].at, positions[1]);
}

#[tokio::test(start_paused = true)]
async fn a_tail_torn_above_the_mark_is_cut_and_never_comes_back() {
    let disk = sim(1);
    let (log, _) = open(&disk, config(FileStyle::ZeroFilled), 1).await;
    let mut positions = Vec::new();
    for number in 0..3 {
        positions.push(log.append(record(number, 300, Align::Packed)).await.unwrap().position);
    }
    // Synced, so that the bytes are there after the cut, but the mark has had no time.
    log.sync().await.unwrap();
    disk.kill();
    disk.rot(&file_at(&disk, 0), positions[1].offset + 200);
    let (log, recovered) = open(&disk, config(FileStyle::ZeroFilled), 2).await;
    assert_eq!((recovered.damage, recovered.cut.unwrap().at), (vec![], positions[1]));
    assert_eq!(numbers(&log).await, vec![0]);
    // Of the same length, so that record 2 of old follows it without a seam.
    let again = append_synced(&log, vec![record(9, 300, Align::Packed)]).await.unwrap().0[0];
    assert_eq!(again.position, positions[1]);
    disk.power_cycle();
    let (log, recovered) = open(&disk, config(FileStyle::ZeroFilled), 3).await;
    assert_eq!(recovered.damage, vec![]);
    assert_eq!(numbers(&log).await, vec![0, 9]);
}

#[tokio::test(start_paused = true)]
async fn rot_anywhere_below_the_mark_never_goes_unreported() {
    let mut reported = 0;
    for seed in 0..300 {
        let mut dice = StdRng::seed_from_u64(seed);
        let style = if dice.random() { FileStyle::Allocated } else { FileStyle::ZeroFilled };
        let disk = sim(seed);
        let lens: Vec<usize> = (0..40).map(|_| dice.random_range(0..4000)).collect();
        marked_log(&disk, style, &lens).await;
        let (index, count) = (dice.random_range(0..log_files(&disk).len()), dice.random_range(1..4));
        let (path, len) = log_files(&disk)[index].clone();
        for _ in 0..count {
            disk.rot(&path, dice.random_range(0..len));
        }
        let (log, recovered) = open(&disk, config(style), seed + 1).await;
        let (good, damage) = survey(&log, &recovered).await;
        let missing = lens.len() - good.len();
        assert_eq!(recovered.cut, None, "seed {seed}");
        assert!(missing == 0 || !damage.is_empty(), "seed {seed}: {missing} records are missing and nobody says so");
        let mut in_order = good.clone();
        in_order.sort_unstable();
        assert_eq!(good, in_order, "seed {seed}");
        reported += usize::from(!damage.is_empty());
    }
    assert!(reported > 100, "only {reported} of 300 rots hit a record: too tame");
}

#[tokio::test(start_paused = true)]
async fn a_file_whose_header_is_lost_is_reported_whole_and_the_log_goes_on() {
    let disk = sim(1);
    marked_log(&disk, FileStyle::Allocated, &[100, 700]).await;
    disk.rot(&file_at(&disk, 0), 3);
    let (log, recovered) = open(&disk, config(FileStyle::Allocated), 2).await;
    assert_eq!((recovered.damage, numbers(&log).await), (vec![], vec![0, 1]), "the second copy serves");
    drop(log);
    disk.power_cycle();
    disk.rot(&file_at(&disk, 0), FILE_HEADER_LEN / 2 + 3);
    let (log, recovered) = open(&disk, config(FileStyle::Allocated), 3).await;
    let file = recovered.files[0];
    assert_eq!(recovered.damage, vec![Damage { at: Position { file: file.id, offset: 0 }, len: file.len }]);
    let appended = append_synced(&log, vec![record(7, 10, Align::Packed)]).await.unwrap().0[0];
    assert!(appended.position.file > file.id);
    assert_eq!(log.read_record(appended.position, Source::Anywhere).await.unwrap().1, payload(7, 10));
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_sector_is_damage_below_the_mark_and_stops_the_open_above_it() {
    let disk = sim(1);
    let positions = marked_log(&disk, FileStyle::Allocated, &[100, 700, 200]).await;
    disk.break_sector(&file_at(&disk, 0), positions[1].offset);
    let (log, recovered) = open(&disk, config(FileStyle::Allocated), 2).await;
    let (good, damage) = survey(&log, &recovered).await;
    assert!(good.contains(&2) && !good.contains(&1) && !damage.is_empty(), "{good:?}, {damage:?}");
    let last = append_synced(&log, vec![record(3, 700, Align::Packed)]).await.unwrap().0[0];
    disk.kill();
    disk.break_sector(&file_at(&disk, 0), last.position.offset + 64);
    let opened = AppendLog::open(disk.process(), &dir(), config(FileStyle::Allocated), rng(1)).await;
    assert!(matches!(opened, Err(OpenError::Disk { .. })));
}

/// Of whole sectors that cannot be read one by one, none keeps a log from opening as long as something else knows.
#[tokio::test(start_paused = true)]
async fn an_unreadable_header_or_trailer_of_a_sealed_file_costs_no_record() {
    let half = FILE_HEADER_LEN / 2;
    for broken in [&[0][..], &[half], &[0, half], &[u64::MAX], &[half, u64::MAX]] {
        let disk = sim(1);
        let (log, _) = open(&disk, config(FileStyle::Allocated), 1).await;
        for number in 0..3 {
            append_synced(&log, vec![record(number, 700, Align::Packed)]).await.unwrap();
            log.seal().await.unwrap();
        }
        append_synced(&log, vec![record(3, 10, Align::Packed)]).await.unwrap();
        log.close().await.unwrap();
        disk.power_cycle();
        for at in 0..3 {
            let path = file_at(&disk, at);
            let len = disk.paths().into_iter().find(|(found, _)| *found == path).unwrap().1;
            broken.iter().for_each(|offset| disk.break_sector(&path, (*offset).min(len - 1)));
        }
        let (log, recovered) = open(&disk, config(FileStyle::Allocated), 2).await;
        assert_eq!(survey(&log, &recovered).await, (vec![0, 1, 2, 3], vec![]), "{broken:?} cannot be read");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_of_which_nothing_can_be_read_is_not_given_up() {
    let disk = sim(1);
    marked_log(&disk, FileStyle::Allocated, &[100]).await;
    [0, FILE_HEADER_LEN / 2].into_iter().for_each(|offset| disk.break_sector(&file_at(&disk, 0), offset));
    let opened = AppendLog::open(disk.process(), &dir(), config(FileStyle::Allocated), rng(1)).await;
    assert!(matches!(opened, Err(OpenError::Disk { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_newer_format_is_refused_and_not_touched() {
    let disk = sim(1);
    marked_log(&disk, FileStyle::Allocated, &[100]).await;
    let path = file_at(&disk, 0);
    let mut header = raw(&disk, &path, 0, 512).await.to_vec();
    header[8] = 2;
    let crc = crc32c::crc32c(&header[..508]).to_le_bytes();
    header[508..].copy_from_slice(&crc);
    let file = disk.open(Path::new(&path), OpenMode::Existing).await.unwrap();
    file.write_at(0, vec![header.repeat(2).into()], Durability::Synced).await.unwrap();
    let before = raw(&disk, &path, 0, 1 << 16).await;
    let opened = AppendLog::open(disk.process(), &dir(), config(FileStyle::Allocated), rng(1)).await;
    assert!(matches!(opened, Err(OpenError::Version { version: 2, known: 1, .. })));
    assert_eq!(raw(&disk, &path, 0, 1 << 16).await, before);
}
