//! How long a store of many chunks takes to open, with its index and without, and how fast it is read again to find damage:
//! `cargo bench -p node --bench chunk_store`. The directory is the first argument that is a path, or a temporary one; it
//! takes 7 GiB there. Cold reads need the page cache dropped, which is tried and told.
#![expect(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use node::{
    chunk_store::{Checked, ChunkStore, ChunkStoreConfig, Opened},
    disk::{FileDisk, FileDiskConfig},
    kv::{FjallConfig, FjallKv},
};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use ring::{ChunkKey, GcEpoch};
use wire::{chunk::Durability, tree::VerifiedChunk};

const MANY: usize = 1_000_000;
const SMALL_LEN: usize = 4 << 10;
const LARGE: usize = 512;
const LARGE_LEN: usize = 4 << 20;

/// Puts under way at once.
const PUTS: usize = 64;

fn main() -> anyhow::Result<()> {
    let root = std::env::args().skip(1).map(PathBuf::from).find(|path| path.is_dir());
    let root = root.unwrap_or_else(std::env::temp_dir);
    let dir = root.join(format!("dfs-chunk-store-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let measured = runtime.block_on(async {
        opening(&dir.join("many")).await?;
        checking(&dir.join("large")).await
    });
    fs::remove_dir_all(&dir)?;
    measured
}

async fn open(dir: &Path) -> anyhow::Result<(ChunkStore, Opened, Duration)> {
    fs::create_dir_all(dir)?;
    let disk = Arc::new(FileDisk::start(&FileDiskConfig::default())?);
    let rng = Box::new(StdRng::seed_from_u64(1));
    let started = Instant::now();
    let index = Arc::new(FjallKv::open(&dir.join("index"), FjallConfig::default())?);
    let opened = ChunkStore::open(disk, &dir.join("chunks"), index, ChunkStoreConfig::default(), rng).await?;
    Ok((opened.0, opened.1, started.elapsed()))
}

async fn fill(store: &ChunkStore, count: usize, len: usize) -> anyhow::Result<Vec<ChunkKey>> {
    let mut rng = StdRng::seed_from_u64(len as u64);
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    let chunks = (0..count).map(|number| {
        // Others by their first bytes: it is not randomness that is measured.
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        VerifiedChunk::seal(Bytes::from(bytes.clone()))
    });
    let puts = stream::iter(chunks).map(|chunk| async {
        let key = chunk.key();
        store.put(chunk, GcEpoch(1), Durability::Buffered).await.map(|_| key)
    });
    let keys: Vec<_> = puts.buffer_unordered(PUTS).collect().await;
    store.sync().await?;
    Ok(keys.into_iter().collect::<Result<_, _>>()?)
}

async fn opening(dir: &Path) -> anyhow::Result<()> {
    let (store, _, _) = open(dir).await?;
    let started = Instant::now();
    fill(&store, MANY, SMALL_LEN).await?;
    println!("{MANY} chunks of {SMALL_LEN} B put at {:.0}/s", MANY as f64 / started.elapsed().as_secs_f64());
    store.close().await?;

    for cache in [Cache::Warm, Cache::Cold] {
        cache.prepare();
        let (store, opened, took) = open(dir).await?;
        println!("opened with its index, {cache:?}: {took:.2?}, {:?}, {} MiB resident", opened.index, resident_mib());
        store.close().await?;
    }
    let bytes: u64 = fs::read_dir(dir.join("chunks"))?
        .map(|entry| entry?.metadata().map(|meta| meta.len()))
        .sum::<Result<u64, _>>()?;
    for cache in [Cache::Warm, Cache::Cold] {
        fs::remove_dir_all(dir.join("index"))?;
        cache.prepare();
        let (store, opened, took) = open(dir).await?;
        let rate = bytes as f64 / took.as_secs_f64() / 1e6;
        println!(
            "opened without, {cache:?}: {took:.2?}, {rate:.0} MB/s of segments, {:?}, {} MiB resident",
            opened.index,
            resident_mib()
        );
        anyhow::ensure!(opened.chunks == MANY as u64, "{} chunks", opened.chunks);
        store.close().await?;
    }
    Ok(())
}

async fn checking(dir: &Path) -> anyhow::Result<()> {
    let (store, _, _) = open(dir).await?;
    let keys = fill(&store, LARGE, LARGE_LEN).await?;
    let mib = (LARGE * LARGE_LEN) as f64 / f64::from(1 << 20);
    for (cache, at_once) in [(Cache::Warm, 1), (Cache::Cold, 1), (Cache::Cold, 2)] {
        cache.prepare();
        let before = resident_mib();
        let started = Instant::now();
        let checks = stream::iter(&keys).map(|key| store.check(key)).buffer_unordered(at_once);
        let good = checks.filter(|checked| std::future::ready(matches!(checked, Ok(Checked::Good)))).count().await;
        let rate = mib / started.elapsed().as_secs_f64();
        println!(
            "checked, {cache:?}, {at_once} at once: {rate:.0} MiB/s, {before} MiB resident before, {} after",
            resident_mib()
        );
        anyhow::ensure!(good == LARGE, "{good} of {LARGE} are good");
    }
    store.close().await?;
    Ok(())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cache {
    Warm,
    Cold,
}

impl Cache {
    fn prepare(self) {
        if self == Self::Cold {
            rustix::fs::sync();
            if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "1\n") {
                println!("the page cache cannot be dropped: {error}");
            }
        }
    }
}

fn resident_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) >> 10
}
