//! P5: the loss of any one node stops nothing for longer than 5 seconds.

use std::time::Duration;

/// What P5 promises.
const PROMPT: Duration = Duration::from_secs(5);

/// How much is broken.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// Nothing.
    #[default]
    None,
    /// One node: its process, its power, its links, or its disk.
    OneNode,
    /// More than one node: operations may wait until that is over.
    More,
}

/// What the simulated network carries in a second, at least, to one replica after another: 1 MiB.
const BYTES_PER_SECOND_MIN: usize = 1 << 20;

/// Whether an operation that moved `len` bytes and took `elapsed`, with at most `severity` broken meanwhile, was as fast
/// as promised.
pub fn is_prompt(elapsed: Duration, len: usize, severity: Severity) -> bool {
    let transfer = Duration::from_secs_f64(len as f64 / BYTES_PER_SECOND_MIN as f64);
    match severity {
        Severity::None | Severity::OneNode => elapsed <= PROMPT + transfer,
        Severity::More => true,
    }
}
