//! The storage node of dfs: keeps chunks, takes part in the replicated namespace, and watches over the others.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot set up its case should stop there"))]

pub mod append_log;
pub mod authority;
mod checkpoint;
pub mod chunk_store;
pub mod config;
pub mod consensus;
pub mod disk;
pub mod garbage;
pub mod generation;
#[cfg(test)]
mod golden;
pub mod kv;
pub mod lease;
pub mod membership;
mod merge;
pub mod namespace;
pub mod node;
mod put;
pub mod recover;
pub mod repair;
pub mod serve;
