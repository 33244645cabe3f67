//! How much of its time a node gives to repair: all of it while nobody else asks for anything, and beside the requests of
//! clients a fifth. Pure.
//!
//! What repair does on a node, reading a chunk for another or keeping one that came, is a *turn*. While turns and requests
//! of clients run side by side a debt grows, which is rested off before the next turn. Time is what is shared, and not
//! bytes, because a node cannot know what its disk and its network could do: whatever they can, clients have them to
//! themselves for four fifths of the time in which they ask for something. Who asks rarely hardly slows repair, because
//! the debt grows only while both are at it.
//!
//! # Invariants
//! - Without requests of clients, and without a bound, a turn never waits for longer than the debt that is left.
//! - Beside requests of clients turns begin one at a time, and take at most a fifth of the time, unless one takes longer
//!   than half a second.
//! - Debt makes a turn wait for two seconds at most after the last has ended: repair always goes on.
//! - Never more bytes than the bound allows for the time, and those of the turns that run at once.
//!
//! # Not here
//! Who waits for a turn, in which order and for how long ([`super::turns`]).

use std::time::Duration;

use tokio::time::Instant;

use super::scrub::time_for;

/// A node rests so many times as long as turns ran beside requests of clients. A fifth of the time costs clients at most a
/// fifth, even where a turn stops them altogether, and leaves room below the three tenths that they may lose.
const REST: u32 = 4;

/// The most that is ever rested: turns on a disk that is as good as dead must not put off those after them for minutes.
const REST_MAX: Duration = Duration::from_secs(2);

/// So long after its last request a client counts as working on: it is about to send the next.
const LULL: Duration = Duration::from_millis(5);

/// While a turn runs beside requests of clients, others look again after this time.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What is to be done about a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    /// It runs from now on, until [`Pace::handle_turn_end`].
    Begun,
    /// It is to be asked for again at this time.
    Wait { until: Instant },
}

/// When repair may work.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_s: Option<u64>,
    /// Everything before is in `debt`.
    at: Instant,
    requests: usize,
    /// When the last request ended.
    asked: Option<Instant>,
    turns: usize,
    debt: Duration,
    /// The bound allows no turn before.
    due: Instant,
}

impl Pace {
    /// Of a node that does nothing yet.
    pub(super) fn new(bytes_per_s: Option<u64>, now: Instant) -> Self {
        Self { bytes_per_s, at: now, requests: 0, asked: None, turns: 0, debt: Duration::ZERO, due: now }
    }

    /// A request of a client has come.
    pub(super) fn handle_request(&mut self, now: Instant) {
        self.advance(now);
        self.requests += 1;
    }

    /// It is answered, or given up.
    pub(super) fn handle_request_end(&mut self, now: Instant) {
        self.advance(now);
        self.requests = self.requests.checked_sub(1).expect("each request ends once");
        self.asked = Some(now);
    }

    /// A turn is wanted.
    pub(super) fn poll_turn(&mut self, now: Instant) -> Turn {
        self.advance(now);
        let until = self.due.max(now + self.debt);
        if until > now {
            return Turn::Wait { until };
        }
        if self.turns > 0 && self.is_asked(now) {
            return Turn::Wait { until: now + LOOK_AGAIN };
        }
        self.turns += 1;
        Turn::Begun
    }

    /// A turn that had begun at `began` has ended, and moved so many bytes.
    pub(super) fn handle_turn_end(&mut self, began: Instant, bytes: u64, now: Instant) {
        self.advance(now);
        self.turns = self.turns.checked_sub(1).expect("each turn ends once");
        if let Some(bytes_per_s) = self.bytes_per_s {
            self.due = self.due.max(began) + time_for(bytes, bytes_per_s);
        }
    }
    /// Whether a client is at it, or was a moment ago.
    fn is_asked(&self, now: Instant) -> bool {
        self.requests > 0 || self.asked.is_some_and(|asked| now < asked + LULL)
    }

    /// Brings the debt up to `now`.
    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.debt = if self.turns > 0 {
            let asked_until = if self.requests > 0 { Some(now) } else { self.asked.map(|asked| now.min(asked + LULL)) };
            let beside = asked_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(self.at));
            (self.debt + beside * REST).min(REST_MAX)
        } else {
            self.debt.saturating_sub(passed)
        };
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests;
