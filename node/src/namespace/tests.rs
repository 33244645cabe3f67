//! Tests of the state machine.

mod bounds;
mod cluster;
mod files;
mod garbage;
pub(crate) mod harness;
mod histories;
mod locks;
mod model;
mod moves;
mod names;
mod recount;
mod recovery;
mod sessions;
mod smoke;
