//! One seed: the production code of three to five nodes and their clients on simulated disks, network and time.
//!
//! Everything but the kernel and the on-disk key-value store is what runs in production: `BTreeMap`s stand in for the
//! latter. The same seed gives the same run.

mod faults;
mod host;
mod members;
mod mounts;
mod registers;
mod run;
mod socket;
mod story;
mod trace;
mod whole;

pub use faults::{Fault, Stage};
pub use host::{CLIENT, SimNode, World};
pub use members::Members;
pub use run::{Outcome, Scenario, run};
pub use trace::{Trace, first_difference};
