//! The last step before a node runs: a session of its own, so that neither Ctrl-C nor a closed terminal reaches it.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use clap::Args;
use rustix::process::setsid;

use crate::cli::failure::{Failure, Line};

/// Arguments of the hidden `dfs dev launch`.
#[derive(Args, Debug)]
pub(crate) struct LaunchArguments {
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl LaunchArguments {
    /// Becomes the program; returns only if that failed. The process id stays.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let (program, arguments) = self.command.split_first().expect("at least one is required");
        let failed = || Line::new(format!("cannot run {}", program.display()));
        setsid().map_err(|error| failed().because(&error).failed())?;
        let error = Command::new(program).args(arguments).exec();
        Err(failed().because(&error).failed())
    }
}
