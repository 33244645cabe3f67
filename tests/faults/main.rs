//! Bad days, over real processes: machines that die, disks that fill up or rot, files that are gone, strangers.
//!
//! What a test needs root for (mounts, network namespaces) says so in its name.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what cannot go on should stop there, and say so")]

mod all_nodes;
mod disk_full;
mod doctor;
mod garbage;
mod hosts;
mod leader;
mod lost_files;
mod moves;
mod one_node;
mod open_files;
mod quorum;
mod recover;
mod rot;
mod scrub;
mod standins;
mod store;
mod strangers;
