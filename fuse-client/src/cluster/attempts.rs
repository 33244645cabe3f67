//! What was tried, for the one line that a person reads when nothing helped. Pure.

use std::{fmt, net::SocketAddr};

use wire::quic::{CallError, ConnectError};

/// The last outcome by address, in the order in which they were first asked.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    outcomes: Vec<(SocketAddr, String)>,
    no_quorum: bool,
    untrusted: bool,
}

/// A message with all nodes of a large cluster in it helps nobody.
const ATTEMPTS_SHOWN_MAX: usize = 5;

impl Attempts {
    /// `address` was asked, with this outcome.
    pub(crate) fn note(&mut self, address: SocketAddr, outcome: impl fmt::Display) {
        let outcome = outcome.to_string();
        if let Some((_, last)) = self.outcomes.iter_mut().find(|(known, _)| *known == address) {
            *last = outcome;
        } else if self.outcomes.len() < ATTEMPTS_SHOWN_MAX {
            self.outcomes.push((address, outcome));
        }
    }

    /// A node answered, but there is no leader.
    pub(crate) fn note_leaderless(&mut self) {
        self.no_quorum = true;
    }

    /// `address` was asked in vain.
    pub(crate) fn note_failure(&mut self, address: SocketAddr, error: &CallError) {
        self.untrusted |= matches!(error, CallError::NotSent(ConnectError::Untrusted { .. }));
        self.note(address, error);
    }

    /// Whether a node does not accept who we are, or is none that we accept.
    pub(crate) fn is_untrusted(&self) -> bool {
        self.untrusted
    }

    /// Whether somebody answered.
    pub(crate) fn is_leaderless(&self) -> bool {
        self.no_quorum
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, outcome)) in self.outcomes.iter().enumerate() {
            let gap = if index == 0 { "" } else { "; " };
            let address = address.to_string();
            if outcome.contains(&address) {
                write!(f, "{gap}{outcome}")?;
            } else {
                write!(f, "{gap}{address}: {outcome}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Attempts;

    #[test]
    fn each_address_is_named_once_with_its_last_outcome() {
        let mut attempts = Attempts::default();
        attempts.note("127.0.0.1:1".parse().unwrap(), "no answer");
        attempts.note("127.0.0.1:2".parse().unwrap(), "127.0.0.1:2 does not answer");
        attempts.note("127.0.0.1:1".parse().unwrap(), "not leading");
        assert_eq!(attempts.to_string(), "127.0.0.1:1: not leading; 127.0.0.1:2 does not answer");
    }
}
