//! `dfs login`: becomes a client of a cluster.

use std::io::{self, BufRead};

use clap::Args;
use fuse_client::login::{ReplaceProfile, login};
use wire::{cluster::Access, token::Token};

use super::{
    failure::{Failure, Line},
    invocation::Invocation,
    text::quote::quoted,
};

/// Longest line read as a token: a token of eight seeds has less than 400 letters.
const TOKEN_LEN_MAX: u64 = 4096;

/// Arguments of `dfs login`.
#[derive(Args, Debug)]
#[command(after_help = "\
Make the token on a client that is let in already: dfs token create --for
client. The profile is kept in $XDG_CONFIG_HOME/dfs/NAME (~/.config/dfs/NAME);
that of root in /etc/dfs/NAME, where mounts in /etc/fstab find it at boot,
unless XDG_CONFIG_HOME is set or root has one of that name in its home already.

Examples:
  dfs login TOKEN
  dfs login --profile office TOKEN
  ssh office dfs token create --for client | dfs login -")]
pub(crate) struct LoginArguments {
    /// The token; - reads it from standard input
    #[arg(value_name = "TOKEN")]
    token: String,
    /// Replace the profile of another cluster
    #[arg(long)]
    force: bool,
}

/// Redeems a token.
pub(crate) async fn run(invocation: &Invocation, arguments: LoginArguments) -> Result<(), Failure> {
    use std::os::unix::ffi::OsStrExt;

    let text = if arguments.token == "-" { token_from_stdin().await? } else { arguments.token };
    let token: Token = text.trim().parse().map_err(|error| Line::new("cannot log in").because(&error).failed())?;
    let name = invocation.profile_name();
    let folder = invocation.profile_places().new_folder(&name);
    let replace = if arguments.force { ReplaceProfile::Yes } else { ReplaceProfile::No };
    let profile =
        login(&token, &folder, replace).await.map_err(|error| Line::new("cannot log in").because(&error).failed())?;
    let cluster: String = profile.cluster.to_string().chars().take(8).collect();
    let may = match profile.access {
        Access::ReadWrite => "may read and write",
        Access::ReadOnly => "may only read",
    };
    invocation
        .screen
        .print(&format!("Logged in to cluster {cluster}: profile {} {may}. Try: dfs status\n", quoted(name.as_bytes())))
}

/// The first line of standard input, which may never come: on a thread of its own, so that Ctrl-C is seen.
async fn token_from_stdin() -> Result<String, Failure> {
    let read = tokio::task::spawn_blocking(read_token).await;
    read.unwrap_or_else(|error| Err(Line::new("cannot read the token from standard input").because(&error).failed()))
}

fn read_token() -> Result<String, Failure> {
    let mut line = String::new();
    let read = io::Read::take(io::stdin().lock(), TOKEN_LEN_MAX).read_line(&mut line);
    match read {
        Ok(0) => Err(Line::new("cannot log in").why("no token on standard input").failed()),
        Ok(_) => Ok(line),
        Err(error) => Err(Line::new("cannot read the token from standard input").because(&error).failed()),
    }
}
