//! What this program does about a file system that something else has filled: see [`node::disk::ballast`].

use std::io;

use node::disk::ballast::{self, Ballast};

/// How often a node that has failed looks whether whoever fills its file system has stopped: five seconds.
const LOOKS_MAX: u32 = 20;

/// After a failure: gives up the room that is kept back, if that may help.
pub(crate) async fn make(ballast: &mut Ballast) -> io::Result<bool> {
    if !ballast.may_help()? {
        return Ok(false);
    }
    // Whoever fills the file system would take that as well.
    for _ in 0..LOOKS_MAX {
        ballast.look()?;
        if !ballast.is_held()? {
            return Ok(true);
        }
        tokio::time::sleep(ballast::LOOK_EVERY).await;
    }
    ballast.give_up()?;
    Ok(true)
}

/// Begins this program again in the same process; returns only why it cannot.
pub(crate) fn start_over() -> String {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let mut again = std::process::Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let error = again.args(arguments).exec();
    format!("it cannot be started over: {error}")
}
