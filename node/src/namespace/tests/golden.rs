//! The bytes of rows and commands, as the first release writes them. See [`crate::golden`].

use std::num::NonZeroU32;

use ring::{
    ChunkKey, Epoch, GcEpoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, Ring, Transition, Weight, Zone,
};
use serde::{Serialize, de::DeserializeOwned};
use wire::{
    cluster::{Access, ClientId, ClusterId, KeyFingerprint, Newcomer, NodeRow, Peer, TokenPurpose},
    moves::{Leaving, Loss},
    namespace::{
        Batch, ChunkSlice, Cookie, FileLock, FileType, InlineData, Inode, LockKind, LockOwner, Mode, Name, NewExtent,
        NumberedOp, Op, OpDone, OpError, OpNumber, SessionId, SessionNonce, Timestamp, Usage, Want, XattrName,
    },
    stand_in::StandIn,
};

use super::super::command::ClientRow;
use super::super::dead::{DeadRow, DeadTally};
use super::super::row::{
    Body, Counters, Dentry, DirEntry, ExtentRow, InodeRow, MemberRow, MetaRow, Outcome, SealedAuthority, SessionRow,
    SessionState, Standing, Storage, TokenRow, TokenUse, decode, encode,
};
use super::super::{Checkpointed, ClusterCommand, Command, CommandBody, Made, RunDigest, table};
use crate::golden::Golden;

const KEY: ChunkKey = ChunkKey::from_bytes([0xc5; 32]);
const FILE: Inode = Inode(70_000);
const SESSION: SessionId = SessionId(300);
const PEER: Peer = Peer::Client(ClientId([7; 16]));
const NONCE: SessionNonce = SessionNonce([9; 16]);

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::new(seconds, 999_999_999).unwrap()
}

fn name() -> Name {
    Name::new(b"name").unwrap()
}

fn member(number: u8) -> Member {
    let zone = (number == 1).then(|| Zone::try_from("rack-1".to_owned()).unwrap());
    Member { id: id(number), zone, weight: Weight(NonZeroU32::new(100).unwrap()) }
}

fn node(number: u8) -> NodeRow {
    let Member { id, zone, weight } = member(number);
    let address = std::net::SocketAddr::from(([192, 168, 1, 2], 7000));
    NodeRow { id, address, zone, weight, key: KeyFingerprint([0xf1; 32]) }
}

fn ring() -> Ring {
    let members = [1, 2, 3].map(member).to_vec();
    let bits = PartitionBits::new(1).unwrap();
    Ring::new(Epoch(7), bits, ReplicaCount::new(3).unwrap(), members, vec![0, 1, 2, 0, 2, 1]).unwrap()
}

fn transition() -> Transition {
    let members = [1, 2, 4].map(member).to_vec();
    let next = Ring::new(Epoch(8), ring().bits(), ring().replicas(), members, vec![0, 1, 2, 1, 0, 2]).unwrap();
    Transition::begin(&ring(), next).unwrap()
}

fn inode(body: Body, standing: Standing) -> InodeRow {
    InodeRow {
        body,
        standing,
        mode: Mode::new(0o4755),
        uid: 1000,
        gid: 100,
        links: 2,
        size: 70_000,
        allocated: 65_536,
        accessed: time(-1),
        modified: time(1),
        changed: time(2),
        born: time(0),
        change: 9,
        data_version: 5,
    }
}

fn row<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    golden: &mut Golden,
    name: &str,
    key: &[u8],
    value: &T,
) {
    let bytes = encode(value);
    assert_eq!(&decode::<T>(key, &bytes).unwrap(), value, "{name}");
    golden.bytes(&format!("{name}.key"), key);
    golden.bytes(name, bytes);
}

fn add_inodes(golden: &mut Golden) {
    let file = |storage, cut_from| Body::File { storage, cut_from };
    let rows = [
        ("inode.file", inode(file(Storage::Extents, Some(4096)), Standing::Named)),
        ("inode.inline", inode(file(Storage::Inline, None), Standing::Unnamed(SESSION))),
        ("inode.empty", inode(file(Storage::Empty, None), Standing::Orphan(300))),
        (
            "inode.directory",
            inode(Body::Directory { parent: Inode::ROOT, next_cookie: Cookie(4) }, Standing::Reclaiming),
        ),
        ("inode.symlink", inode(Body::Symlink, Standing::Named)),
        ("inode.fifo", inode(Body::Fifo, Standing::Named)),
        ("inode.socket", inode(Body::Socket, Standing::Named)),
        ("inode.char", inode(Body::CharDevice { device: 0x0103 }, Standing::Named)),
        ("inode.block", inode(Body::BlockDevice { device: 0x0103 }, Standing::Named)),
    ];
    for (name, value) in rows {
        row(golden, name, &table::inode(FILE), &value);
    }
}

fn add_content(golden: &mut Golden) {
    row(golden, "inline", &table::inline(FILE), &InlineData::new(b"small".to_vec()));
    let dentry = Dentry { inode: FILE, file_type: FileType::File, cookie: Cookie(3) };
    row(golden, "dentry", &table::dentry(Inode::ROOT, &name()), &dentry);
    let entry = DirEntry { name: name(), inode: FILE, file_type: FileType::Symlink };
    row(golden, "entry", &table::entry(Inode::ROOT, Cookie(3)), &entry);
    let slice = ChunkSlice { key: KEY, chunk_len: 4_194_304, offset: 16_384, len: 1000 };
    let chunk = ExtentRow::Chunk { slice, epoch: Epoch(300), gc: GcEpoch(4) };
    row(golden, "extent", &table::extent(FILE, 70_999), &chunk);
    row(golden, "extent.unwritten", &table::extent(FILE, 70_999), &ExtentRow::Unwritten { len: 4096 });
    golden.bytes("inode_chunk.key", table::inode_chunk(FILE, &KEY));
    golden.bytes("chunk.key", table::chunk(&KEY));
    golden.bytes("xattr.key", table::xattr(FILE, &XattrName::new(*b"user.color").unwrap()));
    let lock = FileLock { owner: LockOwner(5), pid: 77, start: 10, end: u64::MAX, kind: LockKind::Write };
    row(golden, "locks", &table::locks(FILE), &vec![wire::namespace::HeldLock { session: SESSION, lock }]);
    row(golden, "dead", &table::dead(&KEY), &DeadRow { at: GcEpoch(4), len: 4_194_304 });
    let tally = DeadTally { chunks: 3, bytes: 12 << 20, newest: GcEpoch(4) };
    row(golden, "dead_tally", &table::single(table::DEAD_TALLY), &tally);
    row(golden, "usage", &table::single(table::USAGE), &Usage { inodes: 300, bytes: 1 << 40 });
}

fn add_sessions(golden: &mut Golden) {
    for (name, state) in [("session", SessionState::Open), ("session.ending", SessionState::Ending)] {
        let value = SessionRow {
            client: PEER,
            nonce: NONCE,
            opened: 300,
            first_range: Inode(4096),
            ranges: 2,
            lowest: 70,
            trimmed: 60,
            state,
        };
        row(golden, name, &table::session(SESSION), &value);
    }
    row(golden, "nonce", &table::nonce(&PEER, &NONCE), &SESSION);
    golden.bytes("nonce.node.key", table::nonce(&Peer::Node(id(1)), &NONCE));
    golden.bytes("range.key", table::range(SESSION, Inode(4096)));
    let done = OpDone { inode: FILE, version: 5, offset: 70_000 };
    row(golden, "outcome", &table::outcome(SESSION, OpNumber(70)), &Outcome::Done(done));
    row(golden, "outcome.failed", &table::outcome(SESSION, OpNumber(70)), &Outcome::Failed(OpError::NotFound));
    golden.bytes("unnamed.key", table::unnamed(SESSION, FILE));
    golden.bytes("lock_of.key", table::lock_of(SESSION, FILE));
    golden.bytes("orphan.key", table::orphan(300, FILE));
    for (name, number) in [("mount", table::MOUNT), ("cut", table::CUT), ("ending", table::ENDING)] {
        golden.bytes(&format!("{name}.key"), table::number(number, 300));
    }
}

fn add_cluster(golden: &mut Golden) {
    let counters = Counters {
        next_inode: 70_000,
        next_session: 300,
        gc_current: GcEpoch(5),
        gc_safe: GcEpoch(4),
        orphans_index: 3,
    };
    row(golden, "counters", &table::single(table::COUNTERS), &counters);
    let meta = MetaRow {
        cluster: ClusterId([0xcc; 16]),
        epoch: Epoch(300),
        replicas: ReplicaCount::new(3).unwrap(),
        joined: 4,
        bits: Some(PartitionBits::new(12).unwrap()),
        highest_fence: Epoch(299),
        floor: Epoch(2),
        acting: Epoch(7),
    };
    row(golden, "meta", &table::single(table::META), &meta);
    row(golden, "node", &table::node(id(1)), &MemberRow { place: 3, node: node(1) });
    row(golden, "ring", &table::single(table::RING), &ring());
    row(golden, "transition", &table::single(table::TRANSITION), &transition());
    row(golden, "may_hold", &table::of_node(table::MAY_HOLD, id(1)), &vec![Partition(3), Partition(300)]);
    let stand_ins = vec![StandIn { node: id(2), partitions: vec![Partition(300)] }];
    row(golden, "away", &table::of_node(table::AWAY, id(1)), &stand_ins);
    row(golden, "fence", &table::partition(table::FENCE, Partition(300)), &Epoch(299));
    for (name, purpose, used) in [
        ("token.node", TokenPurpose::Node, None),
        (
            "token.client",
            TokenPurpose::Client(Access::ReadWrite),
            Some(TokenUse { key: KeyFingerprint([2; 32]), peer: PEER }),
        ),
    ] {
        row(golden, name, &table::token(&[0xab; 32]), &TokenRow { purpose, expires: time(9), used });
    }
    let client = ClientRow { id: ClientId([7; 16]), key: KeyFingerprint([3; 32]), access: Access::ReadOnly };
    row(golden, "client", &table::client(client.id), &client);
    let authority = SealedAuthority { certificate: vec![0x30, 0x82], sealed_key: vec![1, 2, 3] };
    row(golden, "authority", &table::single(table::AUTHORITY), &authority);
    for (name, why) in [("leaving.draining", Leaving::Draining), ("leaving.out", Leaving::Out)] {
        row(golden, name, &table::leaving(id(2)), &why);
    }
    golden.bytes("removed.key", table::removed(id(2)));
}

/// The operations in a batch are those of the wire: see the golden bytes there.
fn batch() -> Batch {
    let op = Op::Unlink { dir: Inode::ROOT, name: name() };
    let ops = vec![NumberedOp { number: OpNumber(70), after: Some(OpNumber(69)), op }];
    Batch { session: SESSION, lowest_unanswered: OpNumber(60), ops, want: Want::Outcome }
}

fn commands() -> Vec<(&'static str, CommandBody)> {
    let made =
        vec![Made::Held { time: time(3) }, Made::Unchanged { time: time(3), before: vec![(FILE, 9)] }, Made::Lost];
    let mut all = vec![
        ("open_session", CommandBody::OpenSession { client: PEER, nonce: NONCE }),
        ("close_session", CommandBody::CloseSession { session: SESSION }),
        ("reserve_inodes", CommandBody::ReserveInodes { session: SESSION }),
        ("batch", CommandBody::Batch { client: PEER, batch: batch() }),
        ("continue_cut", CommandBody::ContinueCut { inode: FILE }),
        ("reclaim_orphans", CommandBody::ReclaimOrphans { inodes: vec![FILE] }),
        ("open_mount", CommandBody::OpenMount { client: PEER, nonce: NONCE }),
        ("nothing", CommandBody::Nothing),
        ("batch_made", CommandBody::BatchMade { client: PEER, batch: batch(), made }),
        ("raise_gc", CommandBody::RaiseGc { from: GcEpoch(4) }),
        ("advance_gc", CommandBody::AdvanceGc { safe: GcEpoch(3) }),
        ("forget_dead", CommandBody::ForgetDead { chunks: vec![(KEY, GcEpoch(4))] }),
        (
            "checkpoint",
            CommandBody::Checkpoint {
                chunks: vec![
                    (KEY, Checkpointed::Stable { epoch: Epoch(300), gc: GcEpoch(4) }),
                    (KEY, Checkpointed::Unnamed),
                ],
            },
        ),
        (
            "merge",
            CommandBody::Merge {
                inode: FILE,
                merged: NewExtent {
                    offset: 1 << 20,
                    slice: ChunkSlice { key: KEY, chunk_len: 65_536, offset: 0, len: 65_536 },
                    epoch: Epoch(300),
                    gc: GcEpoch(4),
                },
                replaced: RunDigest::of(&[(1 << 20, ChunkSlice { key: KEY, chunk_len: 4096, offset: 96, len: 4000 })]),
            },
        ),
    ];
    all.extend(cluster_commands().into_iter().map(|(name, command)| (name, CommandBody::Cluster(command))));
    all
}

fn cluster_commands() -> Vec<(&'static str, ClusterCommand)> {
    let found = ClusterCommand::Found {
        cluster: ClusterId([0xcc; 16]),
        replicas: ReplicaCount::new(3).unwrap(),
        node: node(1),
        authority: vec![0x30, 0x82],
        sealed_key: vec![1, 2, 3],
        owner: (1000, 100),
    };
    let purpose = TokenPurpose::Client(Access::ReadOnly);
    let NodeRow { id: joined, address, zone, weight, .. } = node(1);
    let newcomer = Newcomer::Node { id: joined, address, zone, weight };
    let redeem = |newcomer| ClusterCommand::RedeemToken { hash: [0xab; 32], key: KeyFingerprint([2; 32]), newcomer };
    vec![
        ("found", found),
        ("create_token", ClusterCommand::CreateToken { hash: [0xab; 32], purpose, expires: time(9) }),
        ("redeem.node", redeem(newcomer)),
        ("redeem.client", redeem(Newcomer::Client { id: ClientId([7; 16]) })),
        ("solve_ring", ClusterCommand::SolveRing),
        ("move_node", ClusterCommand::MoveNode { node: id(1), address: node(1).address }),
        ("rebalance", ClusterCommand::Rebalance { members: vec![id(1), id(2)] }),
        ("settle", ClusterCommand::Settle { epoch: Epoch(8), partitions: vec![Partition(300)] }),
        ("set_leaving", ClusterCommand::SetLeaving { node: id(2), why: Some(Leaving::Out) }),
        ("remove_node", ClusterCommand::RemoveNode { node: id(2), loss: Loss::Accepted }),
        ("recover", ClusterCommand::Recover { generation: 1 }),
        ("away", ClusterCommand::Away { nodes: vec![id(1), id(2)] }),
        ("back", ClusterCommand::Back { node: id(1) }),
        ("place_node", ClusterCommand::PlaceNode { node: id(1), zone: node(1).zone, weight: node(1).weight }),
        ("clean", ClusterCommand::Clean { acting: Epoch(7), partitions: vec![Partition(300)] }),
    ]
}

#[test]
fn the_bytes_of_rows_and_commands_are_those_of_the_first_release() {
    let mut golden = Golden::default();
    add_inodes(&mut golden);
    add_content(&mut golden);
    add_sessions(&mut golden);
    add_cluster(&mut golden);
    for (name, body) in commands() {
        golden.value(&format!("command.{name}"), &Command { stamp: time(10), body });
    }
    golden.check("namespace");
}

#[test]
fn a_row_of_a_later_version_is_refused_by_name() {
    let key = table::inode(FILE);
    let mut later = encode(&inode(Body::Symlink, Standing::Named));
    later[0] = 2;
    let told = decode::<InodeRow>(&key, &later).unwrap_err().to_string();
    assert!(told.contains("has format version 2, this program reads 1; run the version that wrote it"), "{told}");
}

/// Breaks the build when a variant is added, so that the values above are brought up to date.
#[allow(dead_code, reason = "only its compilation matters")]
fn counted(body: &CommandBody, command: &ClusterCommand) {
    use {ClusterCommand as CC, CommandBody as CB};
    match body {
        CB::OpenSession { .. } | CB::CloseSession { .. } | CB::ReserveInodes { .. } | CB::Batch { .. } => {}
        CB::ContinueCut { .. } | CB::ReclaimOrphans { .. } | CB::Cluster(_) | CB::OpenMount { .. } => {}
        CB::Nothing | CB::BatchMade { .. } | CB::RaiseGc { .. } | CB::AdvanceGc { .. } => {}
        CB::ForgetDead { .. } | CB::Checkpoint { .. } | CB::Merge { .. } => {}
    }
    match command {
        CC::Found { .. } | CC::CreateToken { .. } | CC::RedeemToken { .. } | CC::SolveRing => {}
        CC::MoveNode { .. } | CC::Rebalance { .. } | CC::Settle { .. } | CC::SetLeaving { .. } => {}
        CC::RemoveNode { .. } | CC::Recover { .. } | CC::Away { .. } => {}
        CC::Back { .. } | CC::Clean { .. } | CC::PlaceNode { .. } => {}
    }
}
