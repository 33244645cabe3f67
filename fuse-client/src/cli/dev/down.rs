//! `dfs dev down`: stops the nodes, and deletes the cluster if asked.

use std::{ffi::OsStr, fs, io, time::Duration};

use fuse_client::Profile;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::{
    DownArguments,
    folder::{DevFolder, DevState, NodeFolder},
    mounted,
    process::NodeProcess,
};
use crate::cli::{
    failure::{Failure, Line},
    invocation::Invocation,
    screen::say,
    text::number::counted,
    umount::mounts_below,
};

/// A node syncs what it holds and says good-bye; then it is taken for stuck.
const TERM_MAX: Duration = Duration::from_secs(10);

/// The kernel ends a killed process as soon as its disk lets go of it.
const KILL_MAX: Duration = Duration::from_secs(10);

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(25);

/// Stops the cluster.
pub(super) async fn run(invocation: &Invocation, arguments: DownArguments) -> Result<(), Failure> {
    let (folder, state) = DevFolder::open(&arguments.folder.path(invocation)?)?;
    let _lock = folder.lock()?;
    if let Some(dir) = &state.mount {
        mounted::take_down(&folder, dir).await?;
    }
    let stopped = stop_all(&folder, &state).await?;
    let dir = folder.path().display();
    let stopped = match stopped {
        0 => "No node was running".to_owned(),
        count => format!("Stopped {}", counted(count, "node", "nodes")),
    };
    if !arguments.purge {
        return invocation.screen.print(&format!("{stopped}; dfs dev up --dir {dir} starts them again\n"));
    }
    if let Some(point) = mounts_below(folder.path()) {
        let line =
            Line::new(format!("cannot delete {dir}")).why(format!("something is mounted at {}", point.display()));
        return Err(line.advice("unmount it first").failed());
    }
    forget_default_profile(invocation, &folder);
    folder.delete().map_err(|error| Line::new(format!("cannot delete {dir}")).because(&error).failed())?;
    invocation.screen.print(&format!("{stopped}; deleted {dir}\n"))
}

/// Stops all nodes side by side: first politely, then not.
async fn stop_all(folder: &DevFolder, state: &DevState) -> Result<u64, Failure> {
    let nodes = (0..state.nodes.len()).map(|index| folder.node(index));
    let mut running: Vec<(NodeFolder, NodeProcess)> =
        nodes.filter_map(|node| NodeProcess::find(&node).map(|process| (node, process))).collect();
    let count = running.len() as u64;
    for (signal, patience) in [(Signal::TERM, TERM_MAX), (Signal::KILL, KILL_MAX)] {
        for (node, process) in &running {
            if signal == Signal::KILL {
                say(&format!("{} did not stop within {} s: killed", node.name(), TERM_MAX.as_secs()));
            }
            process
                .signal(signal)
                .map_err(|error| Line::new(format!("cannot stop {}", node.name())).because(&error).failed())?;
        }
        let deadline = Instant::now() + patience;
        while !running.is_empty() && Instant::now() < deadline {
            running.retain(|(node, process)| process.is_running(node));
            sleep(PERIOD).await;
        }
    }
    for index in 0..state.nodes.len() {
        // A pid that means nothing any more does no harm: it is checked before it is used.
        drop(fs::remove_file(folder.node(index).pid_file()));
    }
    match running.first() {
        None => Ok(count),
        Some((node, process)) => {
            let line = Line::new(format!("cannot stop {}", node.name()));
            Err(line.why(format!("process {} does not end", process.pid())).advice("its disk may hang").failed())
        }
    }
}

/// A default profile of a cluster that is being deleted leads nowhere.
fn forget_default_profile(invocation: &Invocation, folder: &DevFolder) {
    let places = invocation.profile_places();
    let (Ok(default), Ok(ours)) = (places.find(OsStr::new("default")), Profile::load(&folder.profile())) else {
        return;
    };
    // Not the whole profiles: seeds follow the members, and each login has a key of its own.
    let same = |profile: Profile| (profile.cluster, profile.authority) == (ours.cluster, ours.authority);
    if Profile::load(&default).is_ok_and(same) {
        let removed: io::Result<()> = fs::remove_dir_all(&default);
        if let Err(error) = removed {
            say(&Line::new(format!("cannot delete the profile {}", default.display())).because(&error).to_string());
        }
    }
}
