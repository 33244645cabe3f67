//! Tests of the state machine.

mod bounds;
mod cluster;
mod files;
mod garbage;
mod golden;
pub(crate) mod harness;
mod histories;
mod journal;
mod locks;
mod merge;
mod model;
mod moves;
mod names;
mod recount;
mod recovery;
mod sessions;
mod smoke;
