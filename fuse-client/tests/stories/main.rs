//! Stories of the client against a cluster of three nodes in this process, with faults.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod downloads;
mod fake;
mod files;
mod trees;
