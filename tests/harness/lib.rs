//! Proof across the crates of dfs: what the tests stand on.
//!
//! A [`Cluster`] is made of real processes on loopback (or in network namespaces of its own); it ends with the test that
//! made it. The programs are those that `cargo build --workspace --bins` put beside the tests.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what cannot go on should stop there, and say so")]

pub mod cluster;
pub mod dev;
pub mod disk;
pub mod hosts;
pub mod invariants;
pub mod mount;
pub mod node;
pub mod sim;
pub mod tree;
pub mod wait;

pub use cluster::{Cluster, Ran};
pub use dev::Dev;
pub use disk::SmallDisk;
pub use hosts::Hosts;
pub use mount::Mount;
pub use node::NodeProcess;
