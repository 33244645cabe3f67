//! The `dfs-node` program: where it is, and its commands that end by themselves.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::cli::{
    environment::Environment,
    failure::{Failure, Line},
};

/// `init` and `join` write a few files and ask one question; a mount asks a few more.
const COMMAND_MAX: Duration = Duration::from_secs(30);

/// The two programs that make a cluster.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// This one.
    pub(super) dfs: PathBuf,
    /// The node.
    pub(super) node: PathBuf,
}

impl Programs {
    /// This program, and the node that was named or stands beside it.
    pub(super) fn find(environment: &Environment, named: Option<&Path>) -> Result<Self, Failure> {
        let dfs =
            environment.program.clone().ok_or_else(|| Line::new("cannot find this program's own file").failed())?;
        let beside = || dfs.parent().map(|folder| folder.join("dfs-node")).unwrap_or_default();
        let node = named.map_or_else(beside, Path::to_path_buf);
        let node = std::path::absolute(&node).unwrap_or(node);
        if !node.is_file() {
            let line = Line::new(format!("no dfs-node at {}", node.display()));
            return Err(line.advice("install it beside dfs, or name it with --node-binary").failed());
        }
        Ok(Self { dfs, node })
    }

    /// Runs `dfs-node` with arguments until it ends. The error is its last line.
    pub(super) async fn run_node(&self, arguments: &[&OsStr]) -> Result<(), Failure> {
        let command = arguments.first().map(|word| word.display().to_string()).unwrap_or_default();
        let what = format!("dfs-node {command} failed");
        run(Command::new(&self.node).args(arguments), "dfs-node: ")
            .await
            .map_err(|why| Line::new(what).why(why).failed())
    }

    /// Runs this program again with arguments until it ends. The error is its last line.
    pub(super) async fn run_dfs(&self, arguments: &[&OsStr]) -> Result<(), String> {
        run(Command::new(&self.dfs).args(arguments), "dfs: ").await
    }
}

/// Runs a command until it ends. The error is its last line without its name.
async fn run(command: &mut Command, name: &str) -> Result<(), String> {
    match timeout(COMMAND_MAX, command.stdin(Stdio::null()).kill_on_drop(true).output()).await {
        Err(_) => Err(format!("no end after {} s", COMMAND_MAX.as_secs())),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let last = last_line(&output.stderr).or_else(|| last_line(&output.stdout));
            let last = last.map(|line| line.trim_start_matches(name).to_owned());
            Err(last.unwrap_or_else(|| output.status.to_string()))
        }
    }
}

/// The last line that is not empty.
pub(super) fn last_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
