//! Processes of nodes: which one belongs to a data directory, starting and stopping it.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::folder::NodeFolder;

/// A running node, held so that its number cannot come to mean another process.
#[derive(Debug)]
pub(super) struct NodeProcess {
    pid: Pid,
    handle: OwnedFd,
}

/// A node that was started just now.
#[derive(Debug)]
pub(super) struct Started {
    child: Child,
    /// Length of the log before: what comes after is this run's.
    pub(super) log_offset: u64,
}

impl NodeProcess {
    /// The running node of this folder: the one that its pid file names, or one that is found by its data directory
    /// (a crash may have come before the pid file).
    pub(super) fn find(node: &NodeFolder) -> Option<Self> {
        let noted = fs::read_to_string(node.pid_file()).ok().and_then(|text| text.trim().parse().ok());
        let noted = noted.and_then(Pid::from_raw).and_then(|pid| Self::open(pid, node));
        noted.or_else(|| processes().into_iter().find_map(|pid| Self::open(pid, node)))
    }

    /// Whether the node of this folder is just being made, by an `init` that has outlived its `up`.
    pub(super) fn is_being_made(node: &NodeFolder) -> bool {
        processes().into_iter().any(|pid| does(pid, b"init", node))
    }

    fn open(pid: Pid, node: &NodeFolder) -> Option<Self> {
        if !runs(pid, node) {
            return None;
        }
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Again, now that the number is held: it might have changed hands in between.
        runs(pid, node).then_some(Self { pid, handle })
    }

    /// Its number.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Asks it to stop, or stops it.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            // It has ended: that was the point.
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    /// Whether it still runs.
    pub(super) fn is_running(&self, node: &NodeFolder) -> bool {
        runs(self.pid, node)
    }
}

impl Started {
    /// Why it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown reason".to_owned(),
        })
    }
}

/// How many threads the runtime of a node has, for tokio; as many as there are processors if nobody says.
const WORKER_THREADS: &str = "TOKIO_WORKER_THREADS";

/// The processors for each of `nodes` nodes that share this machine. More threads than that only take turns: with two
/// processors and three nodes an `fsync` takes an eighth longer.
fn processors_each(nodes: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).div_ceil(nodes.max(1))
}

/// Starts the node of a folder, one of `nodes`, in a session of its own; its output goes to the folder's log.
pub(super) fn start(
    (program, binary): (&Path, &Path),
    node: &NodeFolder,
    nodes: usize,
    listen: &str,
) -> io::Result<Started> {
    let log = fs::OpenOptions::new().create(true).append(true).open(node.log())?;
    let log_offset = log.metadata()?.len();
    let threads = std::env::var_os(WORKER_THREADS).unwrap_or_else(|| processors_each(nodes).to_string().into());
    let child = Command::new(program)
        .env(WORKER_THREADS, threads)
        .args(["dev", "launch", "--"])
        .arg(binary)
        .args([OsStr::new("run"), OsStr::new("--data"), node.data().as_os_str()])
        .args(["--listen", listen])
        .current_dir(node.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    fs::write(node.pid_file(), format!("{}\n", child.id()))?;
    Ok(Started { child, log_offset })
}

/// Whether the process is the node of this folder.
fn runs(pid: Pid, node: &NodeFolder) -> bool {
    does(pid, b"run", node)
}

/// Whether the process is a command of `dfs-node` on this folder.
fn does(pid: Pid, command: &[u8], node: &NodeFolder) -> bool {
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().get().to_string());
    // A process that has ended but was not waited for has neither.
    let (Ok(exe), Ok(cmdline)) = (fs::read_link(proc.join("exe")), fs::read(proc.join("cmdline"))) else {
        return false;
    };
    is_node(exe.as_os_str(), &cmdline, command, &node.data())
}

/// Whether a program with these arguments is this command on the data directory: a process number alone says nothing.
fn is_node(exe: &OsStr, cmdline: &[u8], command: &[u8], data: &Path) -> bool {
    // The kernel adds a word to the name of a file that was replaced, as by a new build.
    let exe = exe.as_bytes().strip_suffix(b" (deleted)").unwrap_or(exe.as_bytes());
    let name = exe.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let arguments: Vec<&[u8]> = cmdline.split(|&byte| byte == 0).collect();
    let data = data.as_os_str().as_bytes();
    let has_data = arguments.windows(2).any(|pair| pair == [b"--data".as_slice(), data]);
    // `dfs` for the moment before it becomes the node.
    name.starts_with(b"dfs") && arguments.contains(&command) && has_data
}

/// Numbers of all processes.
fn processes() -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry: fs::DirEntry| parse_pid(&entry.file_name()));
    numbers.collect()
}

fn parse_pid(name: &OsString) -> Option<Pid> {
    name.to_str()?.parse().ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, path::Path};

    use super::is_node;

    fn check(exe: &str, cmdline: &str, data: &str) -> bool {
        is_node(OsStr::new(exe), cmdline.replace(' ', "\0").as_bytes(), b"run", Path::new(data))
    }

    #[test]
    fn only_a_node_that_runs_on_this_data_directory_is_ours() {
        let run = "/x/dfs-node run --data /d/node-1/data --listen 127.0.0.1:7001 ";
        assert!(check("/x/dfs-node", run, "/d/node-1/data"));
        assert!(check("/x/dfs-node (deleted)", run, "/d/node-1/data"), "built again while it runs");
        assert!(check("/x/dfs", &format!("dfs dev launch -- {run}"), "/d/node-1/data"), "about to become the node");
        assert!(!check("/x/dfs-node", run, "/d/node-2/data"), "another node");
        assert!(!check("/x/dfs-node", run, "/d/node-1/dat"), "a prefix is not the path");
        assert!(!check("/usr/bin/vim", run, "/d/node-1/data"), "the number was given to another program");
        assert!(!check("/x/dfs-node", "/x/dfs-node init --data /d/node-1/data ", "/d/node-1/data"));
        assert!(!check("/x/dfs-node", "", "/d/node-1/data"));
    }
}
