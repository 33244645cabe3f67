//! The whole command line. The arguments of each command stand in its own file.

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use super::{
    bench::BenchArguments, cat::CatArguments, cp::CpArguments, dev::DevArguments, df::DfArguments,
    doctor::DoctorArguments, drain::DrainArguments, du::DuArguments, gc::GcArguments, ln::LnArguments,
    login::LoginArguments, ls::LsArguments, mkdir::MkdirArguments, mount::MountArguments, mv::MvArguments,
    nodes::NodesArguments, remove::RemoveArguments, ring::RingArguments, rm::RmArguments, stat::StatArguments,
    status::StatusArguments, token::TokenArguments, transfer::download::DownloadArguments,
    transfer::upload::UploadArguments, tree::TreeArguments, umount::UmountArguments,
};

/// A distributed file store: put files in, list them, get them back, on one machine or a thousand.
#[derive(Debug, Parser)]
#[command(
    name = "dfs",
    version,
    max_term_width = 96,
    disable_help_subcommand = true,
    after_help = "\
Paths in the store are absolute: /a/b. A relative one is taken from /.
Exit status: 0 success, 1 a failed operation, 2 wrong usage.

Try it on this machine:
  dfs dev up                     start a cluster of three nodes
  dfs upload -r ~/photos /       put a tree in
  dfs ls -l /photos              look at it
  dfs download -r /photos /tmp   get it back
  dfs dev down                   stop the cluster

dfs COMMAND --help shows more, with examples. DFS_LOG=debug tells what goes on."
)]
pub(crate) struct Arguments {
    /// Which cluster: a profile written by `dfs login`, or its folder if there is a / in it [default: default]
    #[arg(long, global = true, env = "DFS_PROFILE", hide_env_values = true, value_name = "NAME", display_order = 900)]
    pub(crate) profile: Option<OsString>,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands, in the order in which a newcomer needs them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy files and trees from this machine into the store
    Upload(UploadArguments),
    /// Copy files and trees from the store to this machine
    Download(DownloadArguments),
    /// List directories
    Ls(LsArguments),
    /// Show a directory and all below it as a tree
    Tree(TreeArguments),
    /// Show all that is known of a file: attributes, extents, chunks, nodes
    Stat(StatArguments),
    /// Write files to standard output
    Cat(CatArguments),
    /// Make directories
    Mkdir(MkdirArguments),
    /// Remove files and directories
    Rm(RmArguments),
    /// Move or rename
    Mv(MvArguments),
    /// Copy within the store, without moving data
    Cp(CpArguments),
    /// Make hard and symbolic links
    Ln(LnArguments),
    /// Show how much room files take
    Du(DuArguments),
    /// Show how much room there is
    Df(DfArguments),
    /// Mount the store as a file system
    Mount(MountArguments),
    /// End a mount
    Umount(UmountArguments),
    /// Show how the cluster is
    Status(StatusArguments),
    /// Say what is wrong, what is at risk, and what to do
    Doctor(DoctorArguments),
    /// Measure how fast the cluster is from this machine
    Bench(BenchArguments),
    /// List the nodes of the cluster
    Nodes(NodesArguments),
    /// Show how chunks are spread over the nodes, or where one lies
    Ring(RingArguments),
    /// Show what becomes of the room of deleted files
    Gc(GcArguments),
    /// Give everything that a node holds to others
    Drain(DrainArguments),
    /// Take a node out of the cluster
    Remove(RemoveArguments),
    /// Make tokens, which let in new nodes and clients
    Token(TokenArguments),
    /// Become a client of a cluster, with a token from `dfs token create`
    Login(LoginArguments),
    /// Run a whole cluster on this machine, to try things and to develop
    Dev(DevArguments),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Arguments;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_an_example_that_fits_a_terminal_of_80_columns() {
        for mut command in Arguments::command().get_subcommands().cloned() {
            command.set_bin_name(format!("dfs {}", command.get_name()));
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{} has no example", command.get_name());
            assert!(help.contains(&format!("  dfs {}", command.get_name())), "{}:\n{help}", command.get_name());
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let long = after.lines().find(|line| line.chars().count() > 80);
            assert_eq!(long, None, "{}", command.get_name());
        }
    }
}
