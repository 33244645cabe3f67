//! The command line of `dfs-node`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};
use node::config::{RepairConfig, ScrubConfig};
use ring::{ReplicaCount, Zone};

/// A storage node of dfs.
#[derive(Debug, Parser)]
#[command(name = "dfs-node", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Example, a cluster of three hosts:
  host a:  dfs-node init --data /srv/dfs --listen 10.0.0.1:7400
           dfs-node run --data /srv/dfs
           dfs --profile /srv/dfs/admin token create --for node
  host b:  dfs-node join --data /srv/dfs --listen 10.0.0.2:7400 --token TOKEN
           dfs-node run --data /srv/dfs")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a new cluster with this node as its first.
    #[command(after_help = "Example:\n  dfs-node init --data /srv/dfs --listen 10.0.0.1:7400 --replicas 3")]
    Init(InitArguments),
    /// Make this a node of an existing cluster.
    #[command(after_help = "Example:\n  dfs-node join --data /srv/dfs --listen 10.0.0.2:7400 --token dfs-node-…")]
    Join(JoinArguments),
    /// Serve until SIGTERM or SIGINT.
    #[command(after_help = "\
An address, zone or capacity given here is told to the cluster, and counts
until the node is started without it; chunks move accordingly.

Examples:
  dfs-node run --data /srv/dfs
  dfs-node run --data /srv/dfs --listen 10.0.9.1:7400              it was moved
  dfs-node run --data /srv/dfs --listen 0.0.0.0:7400 --advertise 10.0.9.1:7400
  dfs-node run --data /srv/dfs --zone rack-2 --capacity 8TiB")]
    Run(RunArguments),
    /// Say what this node has, when a majority of the voting nodes is gone for good; with --force, go on from it.
    #[command(after_help = "\
The node must not run. Without an option nothing is changed. Look on every
node that is left, and recover the one with the highest position; the others
follow it, and keep their chunks.

Examples:
  dfs-node recover --data /srv/dfs             what it has, and what would be lost
  dfs-node recover --data /srv/dfs --force     on one node: it is the only voter now
  dfs-node recover --data /srv/dfs --follow    on the others, while that one runs")]
    Recover(RecoverArguments),
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Data directory: made if it does not exist.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Address and UDP port to listen on.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
    /// Address under which others reach this node, if it is another than --listen.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Failure domain (rack, room): replicas avoid sharing one.
    #[arg(long, value_parser = parse_zone)]
    pub(crate) zone: Option<Zone>,
    /// Bytes that chunks may take, such as 500GiB; what the file system has, if not given.
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<ByteSize>,
}

#[derive(Debug, Args)]
pub(crate) struct InitArguments {
    #[command(flatten)]
    pub(crate) place: Place,
    /// Replicas of each chunk; writes need a majority of them.
    #[arg(long, default_value = "3", value_parser = parse_replicas)]
    pub(crate) replicas: ReplicaCount,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArguments {
    #[command(flatten)]
    pub(crate) place: Place,
    /// What `dfs token create --for node` printed.
    #[arg(long)]
    pub(crate) token: String,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Data directory, made by init or join.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Another address and UDP port than the one given to init or join.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Another address under which others reach this node than the one given to init or join.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) advertise: Option<SocketAddr>,
    /// Another failure domain than the one given to init or join.
    #[arg(long, value_parser = parse_zone)]
    pub(crate) zone: Option<Zone>,
    /// Other bytes that chunks may take than those given to init or join, such as 500GiB.
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<ByteSize>,
    /// Silence after which the replicas of a node are made on others, if this node leads: 90s, 10m, 2h.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_time)]
    pub(crate) out_after: Duration,
    /// Bytes a second, at most, that this node fetches, or reads for others, to make lost replicas again: 50MiB, 1GiB.
    /// If not given, as many as it can; while clients are served, a fifth of its time.
    #[arg(long, value_name = "SIZE", value_parser = parse_repair_rate)]
    pub(crate) repair_rate: Option<ByteSize>,
    /// Bytes a second, at most, of what this node holds that are read again and checked: 500KiB, 20MiB.
    #[arg(long, value_name = "SIZE", default_value = "20MiB", value_parser = parse_rate)]
    pub(crate) scrub_rate: ByteSize,
    /// From the beginning of one such pass over everything to that of the next: 12h, 14d.
    #[arg(long, value_name = "TIME", default_value = "14d", value_parser = parse_time)]
    pub(crate) scrub_every: Duration,
    /// What to log: error, warn, info, debug, trace, or a filter of tracing.
    #[arg(long, env = "DFS_LOG", default_value = "info")]
    pub(crate) log: String,
}

impl RunArguments {
    pub(crate) fn repair(&self) -> RepairConfig {
        let scrub = ScrubConfig { bytes_per_s: self.scrub_rate.as_u64(), every: self.scrub_every };
        let bytes_per_s = self.repair_rate.map(|rate| rate.as_u64());
        RepairConfig { bytes_per_s, scrub, ..RepairConfig::default() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArguments {
    /// Data directory, made by init or join.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Go on from what this node has; what only the others have is lost.
    #[arg(long, conflicts_with = "follow")]
    pub(crate) force: bool,
    /// Begin anew in the cluster that was recovered on another node; its chunks stay.
    #[arg(long)]
    pub(crate) follow: bool,
}

pub(crate) fn parse_zone(text: &str) -> Result<Zone, ring::ZoneError> {
    Zone::try_from(text.to_owned())
}

/// A number with `s`, `m`, `h` or `d`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "a time is a number with s, m, h or d: 90s, 10m, 2h";
    let unit_s = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        Some(_) | None => return Err(WRONG),
    };
    let number = text.get(..text.len() - 1).and_then(|number| number.parse::<u32>().ok()).filter(|number| *number > 0);
    number.map(|number| Duration::from_secs(u64::from(number) * unit_s)).ok_or(WRONG)
}

/// A size that is not 0.
pub(crate) fn parse_rate(text: &str) -> Result<ByteSize, String> {
    match text.parse::<ByteSize>()? {
        ByteSize(0) => Err("a rate is at least one byte a second".to_owned()),
        rate => Ok(rate),
    }
}

/// A rate at which a chunk comes before whoever asked for it gives up.
pub(crate) fn parse_repair_rate(text: &str) -> Result<ByteSize, String> {
    match text.parse::<ByteSize>()? {
        rate if rate < ByteSize(1 << 20) => Err("repair needs at least 1MiB a second".to_owned()),
        rate => Ok(rate),
    }
}

pub(crate) fn parse_replicas(text: &str) -> Result<ReplicaCount, String> {
    let count: u8 = text.parse().map_err(|_| "not a number".to_owned())?;
    ReplicaCount::new(count).map_err(|error| error.to_string())
}
