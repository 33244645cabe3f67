//! `dfs dev`: a whole cluster on this machine.
//!
//! Everything stands in one folder: `dev.json` (what was asked for and how far it came), `lock`, `profile/` (a client's),
//! and for each node `node-N/{data/, log, pid}`. A mount that was asked for is noted in `dev.json` and lies where the
//! user wants it. `up` is a list of steps, each of which looks whether it is done: after a crash, a kill or a reboot the
//! same command goes on where it was.
//!
//! # Invariants
//! - One `up` or `down` at a time works on a folder.
//! - A signal goes only to a process that was seen to be the node of the folder, through a handle that cannot come to
//!   mean another process.
//! - Nothing is deleted but a folder that holds a `dev.json`, and only while nothing is mounted in it.
//! - Nodes are not stopped under a mount of `up` that is in use.
//!
//! # Not here
//! What a node does (`dfs-node`); this only runs it as a person would.

mod binary;
mod down;
mod folder;
mod join;
mod launch;
mod mounted;
mod ports;
mod process;
mod serving;
mod status;
mod up;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    failure::{Failure, Line},
    invocation::Invocation,
};
pub(crate) use launch::LaunchArguments;

/// Arguments of `dfs dev`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dfs dev up                     three nodes, then: dfs status
  dfs dev status
  dfs dev down                   stop them; the files stay
  dfs dev down --purge           stop them and delete everything")]
pub(crate) struct DevArguments {
    #[command(subcommand)]
    pub(crate) command: DevCommand,
}

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Start a cluster, or what is not running of it
    Up(UpArguments),
    /// Stop the cluster
    Down(DownArguments),
    /// Show the nodes and their processes
    Status(StatusArguments),
    /// Become a program in a session of its own
    #[command(hide = true)]
    Launch(LaunchArguments),
}

/// Which cluster.
#[derive(Args, Debug)]
struct FolderArguments {
    /// Folder of the cluster [default: ~/.local/share/dfs/dev]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Arguments of `dfs dev up`.
#[derive(Args, Debug)]
#[command(after_help = "\
Returns when all is serving. On a folder that holds a cluster it starts again
what is not running; a larger --nodes adds nodes. A client profile is written
to DIR/profile, and as the default profile if there is none. A mount that was
asked for once is made again by every later up.

Examples:
  dfs dev up
  dfs dev up --mount ~/dfs       and the cluster as a directory
  dfs dev up --nodes 5 --dir /tmp/five
  dfs dev up --nodes 1 --replicas 1
  dfs --profile /tmp/five/profile ls /")]
pub(crate) struct UpArguments {
    #[command(flatten)]
    folder: FolderArguments,
    /// Nodes [default: 3, or what there is]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: Option<u16>,
    /// Replicas of each chunk [default: 3, or the number of nodes if that is less]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=7))]
    replicas: Option<u8>,
    /// Ports from this one upwards [default: free ones]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port_base: Option<u16>,
    /// Room that each node may use, as dfs-node takes it: 10GiB [default: what its disk has]
    #[arg(long, value_name = "SIZE")]
    capacity: Option<String>,
    /// Mount it on this directory, made if it does not exist
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// The dfs-node to run [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    node_binary: Option<PathBuf>,
}

/// Arguments of `dfs dev down`.
#[derive(Args, Debug)]
#[command(after_help = "\
The mount of dfs dev up --mount goes first, with all that was written in it.
Nodes are asked to stop, and killed after 10 seconds.

Examples:
  dfs dev down
  dfs dev down --purge           all files in the cluster are gone")]
pub(crate) struct DownArguments {
    #[command(flatten)]
    folder: FolderArguments,
    /// Delete the cluster with all its files
    #[arg(long)]
    purge: bool,
}

/// Arguments of `dfs dev status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dfs dev status
  dfs dev status --json | jq -r '.nodes[] | \"\\(.pid) \\(.state)\"'")]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    folder: FolderArguments,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) async fn run(invocation: &Invocation, arguments: DevArguments) -> Result<(), Failure> {
    match arguments.command {
        DevCommand::Up(arguments) => up::run(invocation, arguments).await,
        DevCommand::Down(arguments) => down::run(invocation, arguments).await,
        DevCommand::Status(arguments) => status::run(invocation, arguments).await,
        // Done before the runtime was started.
        DevCommand::Launch(arguments) => arguments.run(),
    }
}

impl FolderArguments {
    /// The folder as an absolute path.
    fn path(&self, invocation: &Invocation) -> Result<PathBuf, Failure> {
        match &self.dir {
            Some(dir) => std::path::absolute(dir)
                .map_err(|error| Line::new(format!("cannot use {}", dir.display())).because(&error).failed()),
            None => invocation.environment.dev_dir().ok_or_else(|| {
                Line::new("no folder for the cluster").why("HOME is not set").advice("name one with --dir").usage()
            }),
        }
    }
}
