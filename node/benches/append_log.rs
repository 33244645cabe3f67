//! Microseconds per durable batch of the Raft log, and MiB/s of large chunks: `cargo bench -p node --bench append_log`.
//! The directory is the first argument that is a path, or a temporary one.
#![expect(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use node::append_log::{Align, AppendLog, LogConfig, NewRecord, RecordKind, Room, TAG_LEN};
use node::disk::{FileDisk, FileDiskConfig};
use rand::SeedableRng;
use rand::rngs::StdRng;

fn main() -> anyhow::Result<()> {
    let root = std::env::args().skip(1).map(PathBuf::from).find(|path| path.is_dir());
    let root = root.unwrap_or_else(std::env::temp_dir);
    let dir = root.join(format!("dfs-append-log-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let measured = runtime.block_on(measure(&dir));
    std::fs::remove_dir_all(&dir)?;
    measured
}

async fn measure(dir: &Path) -> anyhow::Result<()> {
    small_batches(&dir.join("raft")).await?;
    for (len, per_sync) in [(4 << 10, 1), (4 << 10, 16), (64 << 10, 16), (1 << 20, 16), (4 << 20, 1), (4 << 20, 16)] {
        chunks(&dir.join(format!("chunks-{len}-{per_sync}")), len, per_sync).await?;
    }
    Ok(())
}

async fn open(dir: &Path, config: LogConfig) -> anyhow::Result<AppendLog> {
    let disk = Arc::new(FileDisk::start(&FileDiskConfig::default())?);
    let rng = Box::new(StdRng::seed_from_u64(1));
    Ok(AppendLog::open(disk, dir, config, rng).await?.0)
}

async fn small_batches(dir: &Path) -> anyhow::Result<()> {
    const BATCHES: usize = 5000;
    let log = open(dir, LogConfig::raft_log()).await?;
    let batch = vec![record(256, Align::Packed); 20];
    let appended = log.append_urgent(batch.clone()).await?;
    log.sync_to(appended.last().expect("a batch is not empty")).await?;
    let mut times = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let started = Instant::now();
        let appended = log.append_urgent(batch.clone()).await?;
        log.sync_to(appended.last().expect("a batch is not empty")).await?;
        times.push(started.elapsed());
    }
    log.close().await?;
    times.sort();
    let at = |share: f64| times[(share * (BATCHES - 1) as f64) as usize].as_micros();
    let mean = times.iter().sum::<Duration>().as_micros() / BATCHES as u128;
    println!("20 × 256 B per durable batch: mean {mean} µs, p50 {}, p99 {}, max {}", at(0.5), at(0.99), at(1.0));
    Ok(())
}

async fn chunks(dir: &Path, len: usize, per_sync: usize) -> anyhow::Result<()> {
    let log = open(dir, LogConfig::segments()).await?;
    let align = if len >= 64 << 10 { Align::Page } else { Align::Packed };
    let count = (1 << 30) / len.max(256 << 10) / per_sync * per_sync;
    let chunk = record(len, align);
    let started = Instant::now();
    for _ in 0..count / per_sync {
        for _ in 0..per_sync {
            log.append(chunk.clone()).await?;
        }
        log.sync().await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (rate, mib) = (count as f64 / seconds, (count * len) as f64 / seconds / (1 << 20) as f64);
    println!("{:>5} KiB, {per_sync:>2} per sync: {rate:>8.0} records/s, {mib:>6.0} MiB/s", len >> 10);
    log.close().await?;
    Ok(())
}

fn record(len: usize, align: Align) -> NewRecord {
    let payload = Bytes::from(vec![0x5a; len]);
    NewRecord { kind: RecordKind(1), tag: [7; TAG_LEN], parts: vec![payload], align, room: Room::Ordinary }
}
