//! What a person sees: commands against clusters of real processes.
//!
//! # Not here
//! What happens when nodes, disks and networks fail: the suite of faults.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what cannot go on should stop there, and say so")]

mod bad_input;
mod bench;
mod commands;
mod coreutils;
mod data_dir;
mod dev;
mod interruption;
mod leases;
mod library;
mod listing;
mod round_trip;
mod skipping;
mod strangers;
