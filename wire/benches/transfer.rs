//! What moving chunks costs: rate, CPU of both ends together, page faults, by size of packet.
//!
//! `cargo bench -p wire --bench transfer [-- GIB]`. Both ends run in this process, on two threads.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use ring::{ChunkKey, Epoch, GcEpoch, NodeId};
use tokio::task::JoinHandle;
use wire::{
    Answer, CHUNK_LEN_MAX, Request,
    chunk::{ChunkAnswer, ChunkRequest, Durability, Incarnation},
    cluster::{Access, ClusterId, Peer},
    quic::{
        Accepted, AuthorityKey, Connection, Credentials, Endpoint, EndpointConfig, KeyPair, UdpSocketConfig, bind_udp,
    },
    tree::ReceivedChunk,
};

const GIB: u64 = 1 << 30;
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Work {
    /// 4 MiB to the server, which reads them.
    Put,
    /// The same, and the server hashes them and builds the tree.
    PutVerified,
    /// 4 MiB from the server.
    Get,
}

fn main() -> Result<()> {
    let gib: u64 = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("| packets | work | in flight | GiB/s | CPU-s/GiB | faults/MiB |\n|---|---|---|---|---|---|");
    for payload_len_max in [8900, 1452] {
        for (work, in_flight) in
            [(Work::Put, 1), (Work::Put, 4), (Work::Put, 16), (Work::PutVerified, 4), (Work::Get, 1), (Work::Get, 4)]
        {
            runtime.block_on(measure(payload_len_max, work, in_flight, gib))?;
        }
    }
    println!("\n| small requests in flight | requests/s | CPU-us each |\n|---|---|---|");
    for in_flight in [1, 64] {
        runtime.block_on(measure_small(in_flight))?;
    }
    Ok(())
}

async fn measure(payload_len_max: u16, work: Work, in_flight: usize, gib: u64) -> Result<()> {
    let chunk: Bytes = (0..CHUNK_LEN_MAX).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
    let Ends { server, dialler, connection, serving } = ends(payload_len_max, chunk.clone(), work).await?;
    // Packets grow and windows open before the clock runs.
    transfer(&connection, &chunk, work, 4, 64).await?;
    let (begin, before) = (Instant::now(), usage()?);
    transfer(&connection, &chunk, work, in_flight, gib * GIB / u64::from(CHUNK_LEN_MAX)).await?;
    let (elapsed, after) = (begin.elapsed(), usage()?);
    ensure!(connection.payload_len() == payload_len_max, "packets are of {} bytes", connection.payload_len());
    let total = gib as f64;
    println!(
        "| {payload_len_max} | {work:?} | {in_flight} | {:.2} | {:.2} | {:.0} |",
        total / elapsed.as_secs_f64(),
        (after.cpu_s - before.cpu_s) / total,
        (after.faults - before.faults) as f64 / total / 1024.0,
    );
    dialler.close().await;
    server.close().await;
    serving.await?
}

async fn measure_small(in_flight: usize) -> Result<()> {
    let Ends { server, dialler, connection, serving } = ends(8900, Bytes::new(), Work::Get).await?;
    let request = Request::Chunk(ChunkRequest::Get { key: ChunkKey::of(b""), offset: 0, len: 0 });
    let (begin, before, count) = (Instant::now(), usage()?, 20_000 * in_flight.min(4));
    stream::iter(0..count)
        .map(|_| connection.call(&request, &[], DEADLINE))
        .buffer_unordered(in_flight)
        .map_err(anyhow::Error::from)
        .try_for_each(|(reply, _)| async move { reply.map(drop).map_err(anyhow::Error::from) })
        .await?;
    let (elapsed, after, count) = (begin.elapsed(), usage()?, count as f64);
    let each = (after.cpu_s - before.cpu_s) * 1e6 / count;
    println!("| {in_flight} | {:.0} | {each:.0} |", count / elapsed.as_secs_f64());
    dialler.close().await;
    server.close().await;
    serving.await?
}

struct Ends {
    server: Endpoint,
    dialler: Endpoint,
    connection: Connection,
    serving: JoinHandle<Result<()>>,
}

async fn ends(payload_len_max: u16, chunk: Bytes, work: Work) -> Result<Ends> {
    let authority = AuthorityKey::generate(ClusterId([1; 16]));
    let server = endpoint(&authority, 1, payload_len_max)?;
    let address = server.local_addr()?;
    let serving = tokio::spawn(serve(server.clone(), chunk, work));
    let dialler = endpoint(&authority, 2, payload_len_max)?;
    let connection = dialler.connect(address, None, DEADLINE).await?;
    Ok(Ends { server, dialler, connection, serving })
}

fn endpoint(authority: &AuthorityKey, number: u8, payload_len_max: u16) -> Result<Endpoint> {
    let key = KeyPair::generate();
    let peer = Peer::Node(NodeId::from_bytes([number; 16]));
    let certificate = authority.sign(&key.request(), peer, Access::ReadWrite)?;
    let credentials = Credentials::new(key, certificate, authority.authority().clone())?;
    let config = UdpSocketConfig { payload_len_max, ..UdpSocketConfig::default() };
    Ok(Endpoint::new(EndpointConfig {
        socket: bind_udp(SocketAddr::from(([127, 0, 0, 1], 0)), config)?,
        credentials: Some(Arc::new(credentials)),
        cluster: None,
        serve: true,
        rng_seed: None,
    })?)
}

async fn transfer(connection: &Connection, chunk: &Bytes, work: Work, in_flight: usize, count: u64) -> Result<()> {
    let key = ChunkKey::of(chunk);
    let (request, body) = match work {
        Work::Put | Work::PutVerified => {
            let (epoch, gc, durability) = (Epoch(1), GcEpoch(1), Durability::Buffered);
            (ChunkRequest::Put { key, epoch, gc, durability }, vec![chunk.clone()])
        }
        Work::Get => (ChunkRequest::Get { key, offset: 0, len: CHUNK_LEN_MAX }, Vec::new()),
    };
    let request = Request::Chunk(request);
    stream::iter(0..count)
        .map(|_| connection.call(&request, &body, DEADLINE))
        .buffer_unordered(in_flight)
        .map_err(anyhow::Error::from)
        .try_for_each(|(reply, body)| async move {
            reply?;
            ensure!(work != Work::Get || body.len() == CHUNK_LEN_MAX as usize, "a short body");
            Ok(())
        })
        .await
}

async fn serve(server: Endpoint, chunk: Bytes, work: Work) -> Result<()> {
    while let Some(Accepted::Member(connection)) = server.accept().await {
        while let Some(mut exchange) = connection.accept().await {
            let chunk = chunk.clone();
            tokio::spawn(async move {
                let Request::Chunk(request) = &exchange.request else { anyhow::bail!("only chunks are asked for") };
                let (answer, body) = match *request {
                    ChunkRequest::Put { key, .. } => {
                        let body = exchange.read_body().await?;
                        if work == Work::PutVerified {
                            let _chunk = ReceivedChunk::new(body).verify(key)?;
                        }
                        (ChunkAnswer::Put { incarnation: Incarnation(1) }, Bytes::new())
                    }
                    _ => (
                        ChunkAnswer::Got { chunk_len: CHUNK_LEN_MAX, offset: 0, proof_len: 0, gc: Default::default() },
                        chunk,
                    ),
                };
                exchange.reply(&Ok(Answer::Chunk(answer)), &[body]).await?;
                Ok(())
            });
        }
    }
    Ok(())
}

struct Usage {
    cpu_s: f64,
    faults: u64,
}

/// Of this process, from `/proc/self/stat` (proc(5)): minor faults, and user and system time in hundredths.
fn usage() -> Result<Usage> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").context("no name in /proc/self/stat")?;
    let fields: Vec<u64> = fields.split(' ').map(|field| field.parse().unwrap_or_default()).collect();
    let [_state, _, _, _, _, _, _, faults, _, _, _, user, system, ..] = fields.as_slice() else {
        anyhow::bail!("too few fields in /proc/self/stat")
    };
    Ok(Usage { cpu_s: (user + system) as f64 / 100.0, faults: *faults })
}
