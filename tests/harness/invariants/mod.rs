//! The promises as checks: one file for each, called after every step of a story.

mod atomic_names;
mod no_single_machine;
pub mod register;
mod verified_bytes;

pub use atomic_names::names_are_as_acknowledged;
pub use no_single_machine::{Severity, is_prompt};
pub use verified_bytes::bytes_are_as_acknowledged;

use std::collections::BTreeMap;

/// What a story knows to be stored: paths and contents of every change that has returned.
pub type Ledger = BTreeMap<String, Vec<u8>>;
