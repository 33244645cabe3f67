//! The `dfs` command: one file per command, and what they share.
//!
//! # Invariants
//! - Exit status 0 is success, 1 a failed operation, 2 wrong usage; an error is one line. (`dfs doctor` has its own.)
//! - The environment is read once, here, before anything else happens.
//! - Whatever ends a command (success, failure, Ctrl-C), the library is given the chance to clean up.
//!
//! # Not here
//! How files are moved (the library); how things look (`text`).

mod arguments;
mod bench;
mod cat;
mod cp;
mod dev;
mod df;
mod doctor;
mod drain;
mod du;
mod environment;
mod failure;
mod gc;
mod health;
mod invocation;
mod json;
mod ln;
mod local_target;
mod login;
mod ls;
mod member;
mod mkdir;
mod mount;
mod moving;
mod mv;
mod nodes;
mod owners;
mod progress;
mod remote_target;
mod remove;
mod ring;
mod rm;
mod screen;
mod seeds;
mod stat;
mod status;
mod stop;
mod target;
mod text;
mod token;
mod transfer;
mod tree;
mod umount;

use std::{future::Future, io::IsTerminal, process::ExitCode, time::Duration};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use arguments::{Arguments, Command};
use environment::Environment;
use failure::{Failure, Line};
use invocation::Invocation;
use screen::{Screen, say};
use stop::{Over, StopSignals};

/// Longest wait for what is still going on when the command is over.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

/// Runs the command that the arguments ask for.
pub(crate) fn main() -> ExitCode {
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let helper = words.first().is_some_and(|name| std::path::Path::new(name).ends_with("mount.fuse.dfs"));
    let arguments = if helper { Arguments::parse_from(mount::from_fstab(&words)) } else { Arguments::parse() };
    let environment = Environment::read();
    log_to_stderr(environment.log.as_deref());
    // Becomes the node: no runtime, no threads before that.
    if let Command::Dev(dev::DevArguments { command: dev::DevCommand::Launch(launch) }) = &arguments.command {
        return end(launch.run());
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Line::new("cannot start threads").because(&error).failed())),
    };
    let invocation = Invocation { environment, screen: Screen::new(), profile: arguments.profile };
    let over = Over::default();
    let outcome = match arguments.command {
        // A signal asks it to store what was written, and takes no part of it away.
        Command::Mount(arguments) => runtime.block_on(mount::run(&invocation, arguments)),
        // A signal ends what is measured; what was made for it is removed after that.
        Command::Bench(arguments) => runtime.block_on(bench::run(&invocation, arguments)),
        command => runtime.block_on(until_stopped(&over, run(&invocation, command))),
    };
    over.handle_end();
    // Tasks that were dropped remove their unfinished files now; a stuck disk must not keep the command alive.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    end(outcome)
}

/// Says what went wrong, if something did.
fn end(outcome: Result<(), Failure>) -> ExitCode {
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    if let Some(line) = failure.line() {
        say(&line);
    }
    failure.status().into()
}

/// Events of the library at the levels of `DFS_LOG`, in the syntax of `RUST_LOG`; none without it.
fn log_to_stderr(levels: Option<&str>) {
    if let Some(levels) = levels {
        let colours = std::io::stderr().is_terminal();
        // Errors of the log would be told on standard error too, and end a mount whose log is on a full disk.
        let events =
            tracing_subscriber::fmt().with_writer(std::io::stderr).log_internal_errors(false).with_ansi(colours);
        events.with_env_filter(EnvFilter::new(levels)).init();
    }
}

/// Runs a command until it ends or a signal asks it to stop; then it is dropped, and with it unfinished files.
async fn until_stopped(over: &Over, command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    tokio::spawn(over.clone().enforce(StopSignals::listen()?));
    tokio::select! {
        outcome = command => outcome,
        signal = signals.next() => Err(Failure::Stopped(signal)),
    }
}

/// The command itself.
async fn run(invocation: &Invocation, command: Command) -> Result<(), Failure> {
    match command {
        Command::Upload(arguments) => transfer::upload::run(invocation, arguments).await,
        Command::Download(arguments) => transfer::download::run(invocation, arguments).await,
        Command::Ls(arguments) => ls::run(invocation, arguments).await,
        Command::Tree(arguments) => tree::run(invocation, arguments).await,
        Command::Stat(arguments) => stat::run(invocation, arguments).await,
        Command::Cat(arguments) => cat::run(invocation, arguments).await,
        Command::Mkdir(arguments) => mkdir::run(invocation, arguments).await,
        Command::Rm(arguments) => rm::run(invocation, arguments).await,
        Command::Mv(arguments) => mv::run(invocation, arguments).await,
        Command::Cp(arguments) => cp::run(invocation, arguments).await,
        Command::Ln(arguments) => ln::run(invocation, arguments).await,
        Command::Du(arguments) => du::run(invocation, arguments).await,
        Command::Df(arguments) => df::run(invocation, arguments).await,
        Command::Mount(arguments) => mount::run(invocation, arguments).await,
        Command::Umount(arguments) => umount::run(arguments).await,
        Command::Status(arguments) => status::run(invocation, arguments).await,
        Command::Doctor(arguments) => doctor::run(invocation, arguments).await,
        Command::Bench(arguments) => bench::run(invocation, arguments).await,
        Command::Nodes(arguments) => nodes::run(invocation, arguments).await,
        Command::Ring(arguments) => ring::run(invocation, arguments).await,
        Command::Gc(arguments) => gc::run(invocation, arguments).await,
        Command::Drain(arguments) => drain::run(invocation, arguments).await,
        Command::Remove(arguments) => remove::run(invocation, arguments).await,
        Command::Token(arguments) => token::run(invocation, arguments).await,
        Command::Login(arguments) => login::run(invocation, arguments).await,
        Command::Dev(arguments) => dev::run(invocation, arguments).await,
    }
}
