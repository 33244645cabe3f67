//! The group as a whole: members in one process, virtual time, a network and disks that fail by a seed.

mod catch_up;
mod golden;
mod group;
mod harness;
mod histories;
mod log_store;
mod real;
mod recovery;
mod suite;

use ring::NodeId;

use super::message::Message;
use super::words::VoteWords;

/// A heartbeat in the name of `leader`, of a term that would end every other leadership.
fn forged_append(leader: NodeId) -> Vec<u8> {
    let vote = VoteWords { term: 1_000, node: leader, committed: true };
    let message = Message::Append { vote, prev: None, committed: None, entries: Vec::new() };
    postcard::to_stdvec(&message).unwrap()
}
