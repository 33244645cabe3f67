//! Bytes that must not change by accident, for the tests of what is kept on disk.

mod tests;

pub(crate) use tests::Golden;
