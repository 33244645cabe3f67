//! Generations: how often a cluster was recovered by force. Pure.
//!
//! A recovery ([`crate::recover`]) begins a new history where one survivor's log ends, while others may hold another
//! continuation of it. Every counter that says "newer" (terms, epochs, stamps, numbers) therefore jumps to the first
//! value of the next generation, which no counter of the lost history can have reached.
//!
//! # Invariants
//! - Counters of one generation are below all of the next.

use std::fmt;

use ring::Epoch;

/// Numbers of a generation: a counter that moves a hundred times a second needs 500 days of it for a hundredth, and
/// 65,536 generations fit into the 48 bits of an inode's number.
const LEN: u64 = 1 << 32;

/// How often the cluster was recovered.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Generation(u64);

impl Generation {
    /// That of a term.
    pub const fn of_term(term: u64) -> Self {
        Self(term / LEN)
    }

    /// That of a map.
    pub const fn of_epoch(epoch: Epoch) -> Self {
        Self(epoch.0 / LEN)
    }

    /// The one of this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Which one it is; 0 is the one that a cluster is founded in.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after this.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The lowest number of this generation, for terms and epochs.
    pub const fn first(self) -> u64 {
        self.0 * LEN
    }

    /// Where a counter goes on that may have been used up to anywhere below the next generation of it.
    pub const fn beyond(counter: u64) -> u64 {
        counter + LEN
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use ring::Epoch;

    use super::Generation;

    #[test]
    fn the_first_number_of_a_generation_is_above_every_number_of_the_one_before() {
        for number in [0, 1, 77, u64::from(u32::MAX)] {
            let before = Generation::of_term(number);
            assert_eq!(before, Generation::of_epoch(Epoch(number)));
            let first = before.next().first();
            assert!(first > number);
            assert_eq!(Generation::of_term(first), before.next());
            assert_eq!(Generation::of_term(first - 1), before);
            assert!(Generation::beyond(number) > number + u64::from(u32::MAX));
        }
    }
}
