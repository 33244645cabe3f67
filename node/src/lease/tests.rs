//! Tests of the table, in virtual time.

mod harness;
mod rules;
mod schedules;
