//! The bytes of what the Raft log holds and of what members say, as the first release writes them. See
//! [`crate::golden`].

use std::collections::BTreeSet;

use openraft::raft::VoteRequest;
use ring::NodeId;

use super::super::error::OpenError;
use super::super::message::{Answer, AppendAnswer, Message, VoteWordsRequest};
use super::super::raft_types::Types;
use super::super::snapshot::SpooledSnapshot;
use super::super::state_machine::{STATE_KEY, encode_state, read_state};
use super::super::words::{EntryHead, EntryKind, LogIdWords, MembershipWords, StateWords, VoteWords};
use crate::golden::Golden;
use crate::kv::{KvStore as _, MemoryKv, WriteBatch};

const NODE: NodeId = NodeId::from_bytes([0x11; 16]);
const VOTE: VoteWords = VoteWords { term: 300, node: NODE, committed: true };
const ID: LogIdWords = LogIdWords { term: 300, node: NODE, index: 70_000 };

fn state() -> StateWords {
    let nodes: BTreeSet<NodeId> = [1, 2, 3].map(|number| NodeId::from_bytes([number; 16])).into();
    let voters = vec![nodes.iter().take(2).copied().collect(), nodes.clone()];
    StateWords { applied: Some(ID), membership_at: None, membership: MembershipWords { voters, members: nodes } }
}

fn messages() -> Vec<(&'static str, Message)> {
    let kinds = [EntryKind::Blank, EntryKind::Command, EntryKind::Membership];
    let entries = kinds.map(|kind| EntryHead { id: ID, kind, len: 1000 }).to_vec();
    let request = VoteWordsRequest::from(&VoteRequest::<Types>::new(VOTE.into(), Some(ID.into())));
    vec![
        ("message.append", Message::Append { vote: VOTE, prev: Some(ID), committed: None, entries }),
        ("message.vote", Message::Vote(request)),
        ("message.pre_vote", Message::PreVote(request)),
        ("message.transfer", Message::Transfer { from: VOTE, to: NODE, last: Some(ID) }),
        ("message.page", Message::Page { transfer: 5, number: 300 }),
        (
            "message.pages_end",
            Message::PagesEnd { transfer: 5, pages: 300, digest: [0xdd; 32], vote: VOTE, state: state() },
        ),
        ("message.pages_status", Message::PagesStatus { transfer: 5 }),
        ("message.want", Message::Want { number: 300 }),
    ]
}

fn answers() -> Vec<(&'static str, Answer)> {
    vec![
        ("answer.success", Answer::Appended(AppendAnswer::Success)),
        ("answer.partial", Answer::Appended(AppendAnswer::Partial(Some(ID)))),
        ("answer.conflict", Answer::Appended(AppendAnswer::Conflict)),
        ("answer.higher_vote", Answer::Appended(AppendAnswer::HigherVote(VOTE))),
        ("answer.vote", Answer::Vote { vote: VOTE, granted: true, last: Some(ID) }),
        ("answer.transfer", Answer::Transfer { taken: true }),
        ("answer.page_taken", Answer::PageTaken),
        ("answer.pages_lost", Answer::PagesLost),
        ("answer.installing", Answer::Installing),
        ("answer.installed", Answer::Installed { vote: VOTE }),
        ("answer.page", Answer::Page { state: state(), page: vec![1, 2, 3] }),
    ]
}

#[test]
fn the_bytes_of_slots_records_messages_and_the_state_are_those_of_the_first_release() {
    let mut golden = Golden::default();
    golden.value("slot.vote", &VOTE);
    golden.value("slot.purged", &ID);
    golden.value("slot.members", &vec![NODE, NodeId::from_bytes([0x12; 16])]);
    let spooled = postcard::to_stdvec(&(state(), 70_000_u64, [0xdd_u8; 32])).unwrap();
    let note: SpooledSnapshot = postcard::from_bytes(&spooled).unwrap();
    assert_eq!(postcard::to_stdvec(&note).unwrap(), spooled);
    golden.bytes("slot.snapshot", spooled);
    for kind in [EntryKind::Blank, EntryKind::Command, EntryKind::Membership] {
        golden.value(&format!("tag.entry.{kind:?}").to_lowercase(), &EntryHead { id: ID, kind, len: 1000 });
    }
    golden.value("tag.cut", &70_000_u64);
    golden.value("payload.membership", &state().membership);
    golden.bytes("row.state", encode_state(&state().into_meta().unwrap()));
    messages().iter().for_each(|(name, message)| golden.value(name, message));
    answers().iter().for_each(|(name, answer)| golden.value(name, answer));
    golden.check("consensus");
}

/// Breaks the build when a variant is added, so that the values above are brought up to date.
#[allow(dead_code, reason = "only its compilation matters")]
fn counted(message: &Message, answer: &Answer, appended: &AppendAnswer) {
    match message {
        Message::Append { .. } | Message::Vote(_) | Message::PreVote(_) | Message::Transfer { .. } => {}
        Message::Page { .. } | Message::PagesEnd { .. } | Message::PagesStatus { .. } | Message::Want { .. } => {}
    }
    match answer {
        Answer::Appended(_) | Answer::Vote { .. } | Answer::Transfer { .. } | Answer::PageTaken => {}
        Answer::PagesLost | Answer::Installing | Answer::Installed { .. } | Answer::Page { .. } => {}
    }
    match appended {
        AppendAnswer::Success | AppendAnswer::Partial(_) => {}
        AppendAnswer::Conflict | AppendAnswer::HigherVote(_) => {}
    }
}

#[test]
fn a_state_of_a_later_version_is_refused_by_name() {
    let kv = MemoryKv::new();
    let mut later = encode_state(&state().into_meta().unwrap());
    later[0] = 2;
    let mut batch = WriteBatch::default();
    batch.put(STATE_KEY, later);
    kv.commit(batch).unwrap();
    let error = read_state(&kv).unwrap_err();
    assert!(matches!(error, OpenError::StateVersion { version: 2, known: 1 }), "{error}");
    assert!(error.to_string().ends_with("run the version that wrote it"), "{error}");
}
