//! What clients that are connected and ask for nothing cost a node:
//! `cargo bench -p fuse-client --bench idle_connections -- PROFILE_FOLDER NODE_PID [COUNT]`.
//! Connects to the first seed of the profile, whose process is NODE_PID.
#![expect(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use fuse_client::Profile;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::{Instant, sleep};
use wire::quic::{Connection, Endpoint, EndpointConfig, UdpSocketConfig, bind_udp};

const COUNT: usize = 10_000;

/// Sockets that share them, as one a client would be out of bounds for one process.
const ENDPOINTS: usize = 100;

/// Handshakes at once.
const AT_ONCE: usize = 16;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// How long they are left alone: ten keep-alives of each.
const IDLE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [profile, pid, more @ ..] = &arguments[..] else { anyhow::bail!("usage: PROFILE_FOLDER NODE_PID [COUNT]") };
    let count = more.first().map_or(Ok(COUNT), |count| count.parse())?;
    let profile = Profile::load(Path::new(profile))?;
    let seed = *profile.seeds.first().context("the profile names no node")?;
    let endpoints = (0..ENDPOINTS.min(count)).map(|_| endpoint(&profile, seed)).collect::<anyhow::Result<Vec<_>>>()?;

    let before = resident_mib(pid)?;
    let started = Instant::now();
    let dials = stream::iter(0..count).map(|number| {
        let endpoint = &endpoints[number % endpoints.len()];
        endpoint.connect(seed, None, CONNECT_DEADLINE)
    });
    let connections: Vec<Connection> = dials.buffer_unordered(AT_ONCE).try_collect().await?;
    let took = started.elapsed();
    let connected = resident_mib(pid)?;
    let cpu = cpu_ticks(pid)?;
    sleep(IDLE).await;
    let share = (cpu_ticks(pid)? - cpu) as f64 / (IDLE.as_secs_f64() * 100.0);
    let lost = connections.iter().filter(|connection| connection.is_closed()).count();
    let idle = resident_mib(pid)?;
    println!(
        "{count} connections in {took:.1?}; the node: {before} MiB before, {connected} MiB with them, {idle} MiB {IDLE:?} later"
    );
    println!(
        "{:.1} KiB each; {share:.2} of a processor meanwhile; {lost} lost",
        (idle - before) as f64 * 1024.0 / count as f64
    );
    anyhow::ensure!(lost == 0, "connections were lost");
    Ok(())
}

fn endpoint(profile: &Profile, seed: SocketAddr) -> anyhow::Result<Endpoint> {
    let any: SocketAddr = if seed.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    Ok(Endpoint::new(EndpointConfig {
        socket: bind_udp(any, UdpSocketConfig::default())?,
        credentials: Some(Arc::new(profile.credentials()?)),
        cluster: Some(profile.cluster),
        serve: false,
        rng_seed: None,
    })?)
}

fn resident_mib(pid: &str) -> anyhow::Result<i64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no resident memory")?;
    Ok(line.split_whitespace().next().context("no number")?.parse::<i64>()? >> 10)
}

/// User and system time in hundredths of a second.
fn cpu_ticks(pid: &str) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = fields.get(11..13).context("no times")?;
    Ok(ticks.iter().map(|ticks| ticks.parse::<u64>()).sum::<Result<u64, _>>()?)
}
