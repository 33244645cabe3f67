//! How things look in a terminal: pure functions from values to text.
//!
//! # Invariants
//! - A name never breaks a line or sends a control sequence to a terminal: [`quote`] sees to it.
//! - Nothing here reads a clock, a file, or the environment.
//!
//! # Not here
//! What is shown (the commands), and where it goes (`super::screen`).

pub(crate) mod columns;
pub(crate) mod date;
pub(crate) mod mode;
pub(crate) mod number;
pub(crate) mod quote;
pub(crate) mod table;
