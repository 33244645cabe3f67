//! What this program does when it has failed on a file system that something else had filled: see [`node::disk::ballast`].

use std::{env, io, os::unix::process::CommandExt, path::PathBuf, process::Command, time::Duration};

use node::disk::ballast::{self, Ballast};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};

/// How often a node that has failed looks whether whoever fills its file system has stopped: five seconds.
const LOOKS_MAX: u32 = 20;

/// Says in the environment how often the program has started over, one time soon after the other.
const STARTED_OVER: &str = "DFS_NODE_STARTED_OVER";

/// How often it does so.
const STARTS_MAX: u32 = 5;

/// Whoever ran for so long begins to count anew.
const LONG: Duration = Duration::from_secs(60);

/// What asks this program to stop.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on none is missed.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next, also of one that came meanwhile.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// After a failure of this program, which began at `began`: whether it is worth the while to start over. Waits until whoever
/// fills the file system has stopped, and what was kept back is given up.
pub(crate) async fn make(ballast: &mut Ballast, began: Instant) -> io::Result<Option<u32>> {
    let before: u32 = env::var(STARTED_OVER).ok().and_then(|count| count.parse().ok()).unwrap_or(0);
    let count = if began.elapsed() > LONG { 0 } else { before };
    ballast.look()?;
    if !ballast.was_starved() || count >= STARTS_MAX {
        return Ok(None);
    }
    for _ in 0..LOOKS_MAX {
        if !ballast.look()? {
            break;
        }
        tokio::time::sleep(ballast::LOOK_EVERY).await;
    }
    Ok(Some(count + 1))
}

/// Begins this program again in the same process, for the `count`th time; returns only why it cannot.
pub(crate) fn start_over(count: u32) -> String {
    let mut arguments = env::args_os();
    let program =
        env::current_exe().ok().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let error = again.args(arguments).env(STARTED_OVER, count.to_string()).exec();
    format!("it cannot be started over: {error}")
}
