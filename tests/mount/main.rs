//! The mount, driven through the kernel as any program drives it, over clusters of real processes.
//!
//! What a test needs root for (other users) says so in its name.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests: what cannot go on should stop there, and say so")]

mod bad_days;
mod bad_input;
mod coherence;
mod deferred;
mod dev;
mod directories;
mod durability;
mod format;
mod inodes;
mod late_callers;
mod locks;
mod mapping;
mod merging;
mod model;
mod postgres;
mod programs;
mod ranges;
mod writers;
