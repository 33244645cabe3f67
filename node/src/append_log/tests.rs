//! Claims of the append log over the simulated disk, and in short over real files.

mod damage;
mod files;
mod golden;
mod histories;
mod slots;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{
    Align, AppendError, AppendLog, Appended, FileStyle, Fill, Footer, LogConfig, LogRng, NewRecord, Position,
    RecordKind, Recovered, Room, Source, SyncError, TAG_LEN, Tag,
};
use crate::disk::{Disk, SimDisk, SimOptions};

const FILE_LEN: u64 = 32 << 10;
const KIND: RecordKind = RecordKind(1);

fn dir() -> PathBuf {
    PathBuf::from("/log")
}

fn config(style: FileStyle) -> LogConfig {
    LogConfig {
        file_len: FILE_LEN,
        style,
        footer: match style {
            FileStyle::Allocated => Footer::Index,
            FileStyle::ZeroFilled => Footer::None,
        },
        capacity: None,
        reserve: 2 * FILE_LEN,
        queue_bytes: 1 << 20,
        mark_delay: Duration::from_millis(20),
        spares_max: 2,
        fill: Fill::WhenNeeded,
    }
}

fn rng(seed: u64) -> LogRng {
    Box::new(StdRng::seed_from_u64(seed))
}

fn sim(seed: u64) -> SimDisk {
    SimDisk::new(SimOptions { seed, ..SimOptions::default() })
}

async fn open(disk: &SimDisk, config: LogConfig, seed: u64) -> (AppendLog, Recovered) {
    AppendLog::open(disk.process(), &dir(), config, rng(seed)).await.unwrap()
}

/// A record whose bytes follow from its number.
fn record(number: u64, len: usize, align: Align) -> NewRecord {
    let bytes = payload(number, len);
    let parts = vec![bytes.slice(..len / 3), Bytes::new(), bytes.slice(len / 3..)];
    NewRecord { kind: KIND, tag: tag(number), parts, align, room: Room::Ordinary }
}

fn payload(number: u64, len: usize) -> Bytes {
    (0..len as u64).map(|at| (number.wrapping_mul(31) ^ at.wrapping_mul(7)) as u8).collect()
}

fn tag(number: u64) -> Tag {
    let mut tag = [0; TAG_LEN];
    tag[..8].copy_from_slice(&number.to_le_bytes());
    tag
}

fn number(tag: &Tag) -> u64 {
    u64::from_le_bytes(tag[..8].try_into().unwrap())
}

/// Appends records and makes them durable.
async fn append_synced(
    log: &AppendLog,
    records: Vec<NewRecord>,
) -> Result<(Vec<Appended>, super::Synced), AppendError> {
    let appended = log.append_urgent(records).await?;
    match log.sync_to(appended.last().unwrap()).await {
        Ok(synced) => Ok((appended, synced)),
        Err(SyncError::Failed { source }) => Err(AppendError::Failed { source }),
        Err(SyncError::Lost { .. } | SyncError::Closed) => Err(AppendError::Closed),
    }
}

async fn numbers(log: &AppendLog) -> Vec<u64> {
    records(log).await.into_iter().map(|(number, _)| number).collect()
}

/// Numbers and places of all records, read back and compared; panics on damage.
async fn records(log: &AppendLog) -> Vec<(u64, Position)> {
    let mut numbers = Vec::new();
    for file in log.files() {
        let listing = log.list(file.id).await.unwrap();
        assert_eq!(listing.damage, vec![], "file {}", file.id);
        for info in listing.records {
            let (read, bytes) = log.read_record(info.position, Source::Anywhere).await.unwrap();
            assert_eq!((read, info.kind), (info, KIND));
            assert_eq!(bytes, payload(number(&info.tag), info.payload_len as usize));
            numbers.push((number(&info.tag), info.position));
        }
    }
    numbers
}

fn log_files(disk: &SimDisk) -> Vec<(PathBuf, u64)> {
    disk.paths().into_iter().filter(|(path, _)| path.extension() == Some("log".as_ref())).collect()
}

fn file_at(disk: &SimDisk, index: usize) -> PathBuf {
    log_files(disk)[index].0.clone()
}

async fn raw(disk: &SimDisk, path: &Path, offset: u64, len: usize) -> Bytes {
    let file = disk.open(path, crate::disk::OpenMode::Existing).await.unwrap();
    file.read_at(offset, len).await.unwrap()
}
