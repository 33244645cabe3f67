//! What is found of a survivor, and what follows from it. Pure.

use std::collections::BTreeSet;

use ring::{Epoch, NodeId};
use wire::cluster::ClusterMap;

use crate::{consensus::Standing, generation::Generation, namespace::ENDED_MAX};

/// What is found.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The survivor.
    pub node: NodeId,
    /// Its part in Raft.
    pub standing: Standing,
    /// The map as its rows have it.
    pub map: Option<ClusterMap>,
    /// Sessions in its rows.
    pub sessions: usize,
    /// Whether it can sign certificates for nodes and clients.
    pub has_seal: bool,
    /// Other voters that answer.
    pub answering: BTreeSet<NodeId>,
    /// The newest map that any of them has.
    pub newest: Option<Epoch>,
}

/// Why nothing is recovered here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// It never had a part in the namespace.
    #[error("this node has no part in the namespace; run this on a node that voted")]
    NothingHere,
    /// It votes alone already.
    #[error("nothing is to recover: this node is the only voter; start it with dfs-node run")]
    VotesAlone,
    /// Somebody was faster.
    #[error("the cluster was recovered on another node already; follow it with dfs-node recover --follow")]
    RecoveredElsewhere,
    /// The others are there.
    #[error(
        "nothing is to recover: {answering} of the other voters answer, which with this node is a majority of {voters}; \
         start it with dfs-node run"
    )]
    MajorityAnswers {
        /// How many.
        answering: usize,
        /// Of how many, with this one.
        voters: usize,
    },
    /// The rows were lost, and nobody is left to give them.
    #[error(
        "the replicated state of this node was lost and its log begins behind entry {purged}; recover another node \
         that is left"
    )]
    StateLost {
        /// Up to where the log was shortened.
        purged: u64,
    },
    /// It could let nobody in.
    #[error(
        "this node has no seal.key, without which nobody can be let in any more; recover another node that is left"
    )]
    NoSeal,
}

/// What recovering this survivor means.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was found.
    pub facts: Facts,
    /// The generation that would begin.
    pub generation: Generation,
    /// How many times the rows are told, so that every session ends.
    pub commands: usize,
}

impl Facts {
    /// Whether this survivor may lead alone, and what that takes.
    pub fn judge(self) -> Result<Plan, Refused> {
        let standing = &self.standing;
        let Some(last) = standing.last else { return Err(Refused::NothingHere) };
        if standing.applied < standing.purged {
            return Err(Refused::StateLost { purged: standing.purged });
        }
        if self.map.is_none() || standing.voters.is_empty() {
            return Err(Refused::NothingHere);
        }
        if standing.voters == BTreeSet::from([self.node]) {
            return Err(Refused::VotesAlone);
        }
        let seen = Generation::of_term(standing.term.max(last.term));
        if self.newest.is_some_and(|newest| Generation::of_epoch(newest) > seen) {
            return Err(Refused::RecoveredElsewhere);
        }
        let (answering, voters) = (self.answering.len(), standing.voters.len());
        let own = usize::from(standing.voters.contains(&self.node));
        if answering + own > voters / 2 {
            return Err(Refused::MajorityAnswers { answering, voters });
        }
        if !self.has_seal {
            return Err(Refused::NoSeal);
        }
        let generation = seen.next();
        // Every entry that the rows do not hold yet may open one more.
        let unapplied = usize::try_from(last.index.saturating_sub(standing.applied)).unwrap_or(usize::MAX);
        let commands = 1 + self.sessions.saturating_add(unapplied) / ENDED_MAX;
        Ok(Plan { generation, commands, facts: self })
    }
}

impl Plan {
    /// What `--force` gives up, in a line.
    pub fn cost(&self) -> String {
        let Standing { voters, last, .. } = &self.facts.standing;
        let last = last.map_or(0, |last| last.index);
        let others = voters.iter().filter(|voter| **voter != self.facts.node).count();
        let noun = if others == 1 { "voter" } else { "voters" };
        format!("recovering by force: {others} other {noun} and every change behind entry {last} are given up")
    }
}

#[cfg(test)]
mod tests;
