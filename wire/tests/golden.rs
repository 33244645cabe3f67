//! The bytes of every message, as the first release sent them.
//!
//! A difference means that a node of this release and one of the last do not understand each other. Enums grow at the
//! end, which only adds lines; anything else needs a new ALPN. To add lines: `DFS_GOLDEN=write cargo test -p wire
//! --test golden`, and read what changed.

#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "golden/values.rs"]
mod values;

use std::{collections::BTreeMap, fmt::Write, path::Path};

use serde::{Serialize, de::DeserializeOwned};
use wire::{
    Reply, Request,
    chunk::{ChunkAnswer, ChunkRequest},
    cluster::{ClusterAnswer, ClusterId, ClusterRequest, TokenPurpose},
    frame,
    garbage::{GarbageAnswer, GarbageRequest},
    handshake::{Hello, HelloReply, Welcome},
    health::{HealthAnswer, HealthRequest},
    lease::{LeaseAnswer, LeaseRequest},
    moves::{MovesAnswer, MovesRequest},
    namespace::{NamespaceAnswer, NamespaceRequest, Op},
    token::Token,
};

/// Bytes by name.
#[derive(Default)]
struct Golden(BTreeMap<String, Vec<u8>>);

impl Golden {
    /// Adds a value, once it has come back from its bytes as it was.
    fn add<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(&mut self, name: &str, value: &T) {
        let bytes = postcard::to_stdvec(value).unwrap();
        assert_eq!(&postcard::from_bytes::<T>(&bytes).unwrap(), value, "{name}");
        assert!(self.0.insert(name.to_owned(), bytes).is_none(), "{name} twice");
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, bytes) in &self.0 {
            let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            });
            writeln!(text, "{name} {hex}").unwrap();
        }
        text
    }
}

fn golden() -> Golden {
    let mut golden = Golden::default();
    for (name, request) in values::requests() {
        golden.add(name, &request);
    }
    for (name, answer) in values::answers() {
        golden.add(name, &Ok::<_, wire::Refusal>(answer));
    }
    golden.add("refusals", &values::refusals());
    // A list grows at its beginning: what came later has a line of its own.
    let op_errors = values::op_errors();
    let (first, later) = op_errors.split_at(23);
    let (locks, leases) = later.split_at(2);
    golden.add("op_errors", &first.to_vec());
    golden.add("op_errors.locks", &locks.to_vec());
    golden.add("op_errors.leases", &leases[..1].to_vec());
    golden.add("op_errors.delegations", &leases[1..].to_vec());
    golden.add("file_types", &values::file_types());
    golden.add("reply.refusal", &Reply::Err(wire::Refusal::Busy));
    golden.add("ring", &values::ring());
    golden.add("map", &values::map());
    golden.add("node_states.leaving", &[wire::cluster::NodeState::Draining, wire::cluster::NodeState::Out]);
    for (name, newcomer) in ["redeem.node", "redeem.client"].into_iter().zip(values::newcomers()) {
        golden.add(name, &values::redeem(newcomer));
    }
    golden.add("redeemed", &Ok::<_, wire::Refusal>(values::redeemed()));
    let cluster = ClusterId([0xcc; 16]);
    golden.add("hello", &Hello { version_min: 1, version_max: 300, cluster, features: 5 });
    golden.add("welcome", &HelloReply::Ok(Welcome { version: 1, features: 5 }));
    golden.add("welcome.refused", &HelloReply::Err(wire::Refusal::Version { min: 1, max: 2 }));
    let sync = Request::Chunk(ChunkRequest::Sync { epoch: ring::Epoch(300) });
    golden.0.insert("frame.request".to_owned(), frame::encode_request(&sync, 1500, 70_000).unwrap());
    golden.0.insert("frame.reply".to_owned(), frame::encode(&Reply::Err(wire::Refusal::Busy), 0).unwrap());
    golden
}

#[test]
fn the_bytes_of_every_message_are_those_of_the_first_release() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1.hex");
    let text = golden().text();
    if std::env::var_os("DFS_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    for (kept, now) in kept.lines().zip(text.lines()) {
        assert_eq!(now, kept);
    }
    assert_eq!(text, kept, "lines were added or are missing");
}

/// Families and their variants lie in the first bytes of a message, so what is covered can be seen there.
#[test]
fn every_variant_has_its_line() {
    let mut seen: BTreeMap<(u8, u8), u32> = BTreeMap::new();
    for (_, request) in values::requests() {
        let bytes = postcard::to_stdvec(&request).unwrap();
        *seen.entry((bytes[0], bytes[1])).or_default() += 1;
    }
    for (family, count) in [(0, CHUNK_REQUESTS), (1, NAMESPACE_REQUESTS), (2, CLUSTER_REQUESTS)] {
        let variants: Vec<u8> = seen.keys().filter(|(of, _)| *of == family).map(|(_, variant)| *variant).collect();
        assert_eq!(variants, (0..count).collect::<Vec<_>>(), "requests of family {family}");
    }
    let mut seen: BTreeMap<(u8, u8), u32> = BTreeMap::new();
    for (_, answer) in values::answers() {
        let bytes = postcard::to_stdvec(&answer).unwrap();
        *seen.entry((bytes[0], bytes[1])).or_default() += 1;
    }
    for (family, count) in [(0, CHUNK_ANSWERS), (1, NAMESPACE_ANSWERS), (2, CLUSTER_ANSWERS)] {
        let variants: Vec<u8> = seen.keys().filter(|(of, _)| *of == family).map(|(_, variant)| *variant).collect();
        assert_eq!(variants, (0..count).collect::<Vec<_>>(), "answers of family {family}");
    }
    let ops: std::collections::BTreeSet<u8> = values::requests()
        .into_iter()
        .filter_map(|(_, request)| match request {
            Request::Namespace(NamespaceRequest::Batch(batch)) => {
                Some(postcard::to_stdvec(&batch.ops[0].op).unwrap()[0])
            }
            _ => None,
        })
        .collect();
    assert_eq!(ops, (0..OPS).collect());
    let mut leases = [std::collections::BTreeSet::new(), std::collections::BTreeSet::new()];
    for (_, request) in values::requests() {
        if let Request::Namespace(NamespaceRequest::Lease(request)) = request {
            leases[0].insert(postcard::to_stdvec(&request).unwrap()[0]);
        }
    }
    for (_, answer) in values::answers() {
        if let wire::Answer::Namespace(NamespaceAnswer::Lease(answer)) = answer {
            leases[1].insert(postcard::to_stdvec(&answer).unwrap()[0]);
        }
    }
    assert_eq!(leases, [(0..LEASE_REQUESTS).collect(), (0..LEASE_ANSWERS).collect()]);
}

const CHUNK_REQUESTS: u8 = 8;
const NAMESPACE_REQUESTS: u8 = 8;
const CLUSTER_REQUESTS: u8 = 12;
const CHUNK_ANSWERS: u8 = 8;
const NAMESPACE_ANSWERS: u8 = 7;
const CLUSTER_ANSWERS: u8 = 11;
const LEASE_REQUESTS: u8 = 7;
const LEASE_ANSWERS: u8 = 7;
const OPS: u8 = 19;

/// Breaks the build when a variant is added, so that the counts above and the values are brought up to date.
#[allow(dead_code, reason = "only its compilation matters")]
fn counted(
    asked: (&ChunkRequest, &NamespaceRequest, &ClusterRequest, &Op),
    answered: (&ChunkAnswer, &NamespaceAnswer, &ClusterAnswer),
) {
    use {ChunkAnswer as CA, ChunkRequest as CR, ClusterAnswer as KA, ClusterRequest as KR};
    use {GarbageAnswer as GA, GarbageRequest as GR};
    use {HealthAnswer as HA, HealthRequest as HR};
    use {LeaseAnswer as LA, LeaseRequest as LR, NamespaceAnswer as NA, NamespaceRequest as NR};
    use {MovesAnswer as MA, MovesRequest as MR};
    match asked.0 {
        CR::Put { .. } | CR::Sync { .. } | CR::Has { .. } | CR::Get { .. } | CR::List { .. } | CR::Suspect { .. } => {}
        CR::Digest { .. } | CR::Keep { .. } => {}
    }
    match asked.1 {
        NR::OpenSession { .. } | NR::KeepAlive { .. } | NR::CloseSession { .. } => {}
        NR::ReserveInodes { .. } | NR::Batch(_) | NR::Query(_) | NR::OpenMount { .. } => {}
        NR::Lease(request) => match request {
            LR::Ask { .. } | LR::Change { .. } | LR::Renew { .. } | LR::Reclaim { .. } => {}
            LR::Recalls { .. } | LR::Release { .. } | LR::ChangeMade { .. } => {}
        },
    }
    match asked.2 {
        KR::Map { .. } | KR::Heartbeat { .. } | KR::Status | KR::CreateToken { .. } => {}
        KR::Identify { .. } | KR::ForwardRedeem(_) | KR::TakeSeal { .. } | KR::Moved { .. } => {}
        KR::Placed { .. } => {}
        KR::Garbage(request) => match request {
            GR::Dead { .. } | GR::Judge { .. } | GR::Status => {}
        },
        KR::Moves(request) => match request {
            MR::Confirm { .. } | MR::Drain { .. } | MR::Undrain { .. } | MR::Remove { .. } | MR::Status => {}
            MR::ConfirmClean { .. } => {}
        },
        KR::Health(request) => match request {
            HR::Report(_) | HR::Status => {}
        },
    }
    match asked.3 {
        Op::Create { .. } | Op::CreateUnnamed { .. } | Op::Link { .. } | Op::Unlink { .. } => {}
        Op::RemoveDirectory { .. } | Op::Rename { .. } | Op::SetAttr { .. } | Op::SetXattr { .. } => {}
        Op::RemoveXattr { .. } | Op::WriteExtents { .. } | Op::WriteInline { .. } | Op::Append { .. } => {}
        Op::Punch { .. } | Op::Clone { .. } | Op::Lock { .. } | Op::Unlock { .. } => {}
        Op::DelegateLocks { .. } | Op::ReturnLocks { .. } | Op::WriteJournaled { .. } => {}
    }
    match answered.0 {
        CA::Put { .. } | CA::Synced { .. } | CA::Has { .. } | CA::Got { .. } | CA::Listed { .. } | CA::Noted => {}
        CA::Digests { .. } | CA::Kept { .. } => {}
    }
    match answered.1 {
        NA::SessionOpened { .. } | NA::Alive { .. } | NA::SessionClosed => {}
        NA::InodesReserved(_) | NA::Batch(_) | NA::Query(_) => {}
        NA::Lease(answer) => match answer {
            LA::Asked { .. } | LA::Changed { .. } | LA::Renewed | LA::Reclaimed { .. } => {}
            LA::Recalls(_) | LA::Released | LA::NotCurrent => {}
        },
    }
    match answered.2 {
        KA::Map { .. } | KA::Heard { .. } | KA::Status(_) | KA::Token(_) => {}
        KA::Identified { .. } | KA::Redeemed(_) | KA::SealTaken | KA::MoveNoted => {}
        KA::Garbage(answer) => match answer {
            GA::Dead(_) | GA::Judged { .. } | GA::Status(_) => {}
        },
        KA::Moves(answer) => match answer {
            MA::Noted | MA::Done { .. } | MA::Kept(_) | MA::Status(_) => {}
        },
        KA::Health(answer) => match answer {
            HA::Noted | HA::Status(_) => {}
        },
    }
}

#[test]
fn refusals_and_errors_are_numbered_without_a_gap() {
    for (at, refusal) in values::refusals().iter().enumerate() {
        assert_eq!(usize::from(postcard::to_stdvec(refusal).unwrap()[0]), at, "{refusal:?}");
    }
    for (at, error) in values::op_errors().iter().enumerate() {
        assert_eq!(postcard::to_stdvec(error).unwrap(), [at as u8], "{error:?}");
    }
    assert!(postcard::from_bytes::<wire::Refusal>(&[values::refusals().len() as u8]).is_err());
    assert!(postcard::from_bytes::<wire::namespace::OpError>(&[values::op_errors().len() as u8]).is_err());
}

#[test]
fn a_truncated_message_is_refused_and_a_changed_one_does_no_harm() {
    for (name, bytes) in golden().0 {
        for len in 0..bytes.len() {
            let cut = &bytes[..len];
            let sound = decodes(cut);
            assert!(!sound.contains(&kind_of(&name)), "{name} cut to {len} bytes is still one");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // Whatever it says now, it is read or refused, without a panic and without much memory.
            let _kinds = decodes(&bad);
        }
    }
}

#[test]
fn lengths_that_lie_are_refused_without_setting_memory_aside() {
    for len in [u64::from(u32::MAX), u64::MAX] {
        let mut lie = postcard::to_stdvec(&len).unwrap();
        // A list of keys, a list of names, and a blob, each said to be as long as an address space.
        let has = [&[0, 2][..], &lie].concat();
        let walk = [&[1, 5, 1, 0, 1][..], &lie].concat();
        lie.insert(0, 3);
        for bytes in [has, walk, lie.clone()] {
            assert!(postcard::from_bytes::<Request>(&bytes).is_err(), "{bytes:?}");
        }
    }
}

#[test]
fn a_token_keeps_its_text() {
    let token = Token {
        purpose: TokenPurpose::Node,
        authority: [0xa5; 32],
        secret: [0x5a; 32],
        seeds: vec![([192, 168, 1, 2], 7000).into()],
    };
    assert_eq!(token.to_string(), include_str!("golden/token.txt").trim());
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Request,
    Reply,
    Other,
}

fn kind_of(name: &str) -> Kind {
    match name.split('.').next() {
        Some("request" | "op") => Kind::Request,
        Some("answer" | "reply") => Kind::Reply,
        _ => Kind::Other,
    }
}

/// As what the bytes can be read, to the last of them.
fn decodes(bytes: &[u8]) -> Vec<Kind> {
    let request = matches!(postcard::take_from_bytes::<Request>(bytes), Ok((_, [])));
    let reply = matches!(postcard::take_from_bytes::<Reply>(bytes), Ok((_, [])));
    [request.then_some(Kind::Request), reply.then_some(Kind::Reply)].into_iter().flatten().collect()
}
