//! One value of every variant of every message, with its name in the golden file.

use std::{net::SocketAddr, num::NonZeroU32};

use ring::{
    ChunkKey, Epoch, GcEpoch, Member, NodeId, Partition, PartitionBits, ReplicaCount, Ring, Transition, Weight, Zone,
};
use wire::{
    Answer, Refusal, Request,
    chunk::{ChunkAnswer, ChunkRequest, Durability, Incarnation, PartitionDigest},
    cluster::{
        Access, ClientId, ClusterAnswer, ClusterId, ClusterMap, ClusterRequest, ClusterStatus, KeyFingerprint, MayHold,
        Newcomer, NodeRow, NodeState, NodeStatus, Peer, PeerAccess, RaftRole, Redeem, Redeemed, SealKey, StoreReport,
        TokenPurpose,
    },
    garbage::{Claim, DeadPage, GarbageAnswer, GarbageRequest, GarbageStatus, NodeHold, SessionHold, Standing},
    health::{HealthAnswer, HealthRequest, HealthStatus, HeardReport, Moving, NodeHealth, NodeReport, ScrubReport},
    lease::{LeaseAnswer, LeaseGeneration, LeaseMode, LeaseNumber, LeaseRequest, MadeAt, Recall, Release},
    moves::{AwayStatus, Coming, Kept, Leave, Leaving, Loss, MovesAnswer, MovesRequest, MovesStatus, TransitionStatus},
    namespace::{
        AppendData, Attr, Batch, ChunkSlice, Content, Cookie, Entry, Extent, ExtentBody, FileLock, FileType,
        InlineData, Inode, InodeRange, JournaledChunk, JournaledPart, ListWant, LockKind, LockOwner, Mode, Name,
        NamespaceAnswer, NamespaceRequest, NewContent, NewExtent, NewGroup, NewInode, NewKind, NumberedOp, Op,
        OpAnswer, OpDone, OpError, OpNumber, Page, PunchMode, Query, QueryAnswer, RenameMode, Replace, SessionId,
        SessionNonce, SetAttr, SetId, SetTime, Times, Timestamp, Usage, WalkEnd, Walked, Want, Xattr, XattrMode,
        XattrName,
    },
    stand_in::{Away, StandIn},
};

const KEY: ChunkKey = ChunkKey::from_bytes([0xc5; 32]);
const SLICE: ChunkSlice = ChunkSlice { key: KEY, chunk_len: 4_194_304, offset: 16_384, len: 1000 };
const CLAIM: Claim = Claim { ring: Epoch(300), below: GcEpoch(5) };
const EXTENT: NewExtent = NewExtent { offset: 70_000, slice: SLICE, epoch: Epoch(300), gc: GcEpoch(4) };

pub(crate) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::new(seconds, 999_999_999).unwrap()
}

fn xattr() -> Xattr {
    Xattr { name: XattrName::new(*b"user.color").unwrap(), value: b"red".to_vec() }
}

fn inline() -> InlineData {
    InlineData::new(b"small".to_vec())
}

fn address() -> SocketAddr {
    SocketAddr::from(([192, 168, 1, 2], 7000))
}

fn attr(file_type: FileType) -> Attr {
    Attr {
        inode: Inode(4097),
        file_type,
        mode: Mode::new(0o4755),
        uid: 1000,
        gid: 100,
        links: 2,
        size: 70_000,
        allocated: 65_536,
        device: 0x0103,
        accessed: time(-1),
        modified: time(1),
        changed: time(2),
        born: time(0),
        change: 9,
        data_version: 5,
    }
}

fn member(number: u8) -> Member {
    let zone = (number == 1).then(|| Zone::try_from("rack-1".to_owned()).unwrap());
    Member { id: node(number), zone, weight: Weight(NonZeroU32::new(100).unwrap()) }
}

pub(crate) fn ring() -> Ring {
    let members = [1, 2, 3].map(member).to_vec();
    let table = vec![0, 1, 2, 0, 2, 1];
    Ring::new(Epoch(7), PartitionBits::new(1).unwrap(), ReplicaCount::new(3).unwrap(), members, table).unwrap()
}

fn transition() -> Transition {
    let members = [1, 2, 4].map(member).to_vec();
    let (bits, replicas) = (ring().bits(), ring().replicas());
    let next = Ring::new(Epoch(8), bits, replicas, members, vec![0, 1, 2, 1, 0, 2]).unwrap();
    let mut transition = Transition::begin(&ring(), next).unwrap();
    transition.settle(Partition(1));
    transition
}

fn row(number: u8) -> NodeRow {
    let Member { id, zone, weight } = member(number);
    NodeRow { id, address: address(), zone, weight, key: KeyFingerprint([0xf1; 32]) }
}

pub(crate) fn map() -> ClusterMap {
    ClusterMap {
        cluster: ClusterId([0xcc; 16]),
        epoch: Epoch(8),
        replicas: ReplicaCount::new(3).unwrap(),
        nodes: vec![row(1), row(2), row(3)],
        ring: Some(ring()),
        may_hold: vec![MayHold { node: node(9), partitions: vec![Partition(1)] }],
        transition: Some(transition()),
        leaving: vec![Leave { node: node(2), why: Leaving::Out }, Leave { node: node(3), why: Leaving::Draining }],
        away: vec![Away {
            node: node(1),
            stand_ins: vec![StandIn { node: node(9), partitions: vec![Partition(0), Partition(1)] }],
        }],
        acting: Epoch(7),
    }
}

fn store() -> StoreReport {
    StoreReport {
        capacity: 1 << 40,
        used: 1 << 30,
        free: 1 << 39,
        chunks: 77,
        incarnation: Incarnation(12),
        full: false,
        failed: true,
        damaged: 3,
        repaired: 2,
        lacking: 1,
        starved: true,
    }
}

pub(crate) fn redeem(newcomer: Newcomer) -> Redeem {
    Redeem { secret: [0x5e; 32], request: vec![0x30, 1, 2], newcomer }
}

pub(crate) fn newcomers() -> [Newcomer; 2] {
    let Member { id, zone, weight } = member(1);
    [Newcomer::Node { id, address: address(), zone, weight }, Newcomer::Client { id: ClientId([0xc1; 16]) }]
}

pub(crate) fn redeemed() -> Redeemed {
    Redeemed {
        cluster: ClusterId([0xcc; 16]),
        certificate: vec![0x30, 3],
        authority: vec![0x30, 4],
        seeds: vec![address()],
        access: PeerAccess::Client(Access::ReadOnly),
        replicas: ReplicaCount::new(3).unwrap(),
    }
}

pub(crate) fn requests() -> Vec<(&'static str, Request)> {
    let mut all: Vec<_> = chunk_requests().into_iter().map(|(name, chunk)| (name, Request::Chunk(chunk))).collect();
    all.extend(namespace_requests().into_iter().map(|(name, asked)| (name, Request::Namespace(asked))));
    all.extend(cluster_requests().into_iter().map(|(name, asked)| (name, Request::Cluster(asked))));
    all.push(("request.raft", Request::Raft(vec![1, 2, 3])));
    all
}

fn chunk_requests() -> Vec<(&'static str, ChunkRequest)> {
    let (key, epoch, gc) = (KEY, Epoch(300), GcEpoch(4));
    vec![
        ("request.chunk.put.buffered", ChunkRequest::Put { key, epoch, gc, durability: Durability::Buffered }),
        ("request.chunk.put.synced", ChunkRequest::Put { key, epoch, gc, durability: Durability::Synced }),
        ("request.chunk.sync", ChunkRequest::Sync { epoch }),
        ("request.chunk.has", ChunkRequest::Has { keys: vec![key, key], epoch, gc }),
        ("request.chunk.get", ChunkRequest::Get { key, offset: 70_000, len: 4096 }),
        ("request.chunk.list", ChunkRequest::List { first: Partition(5), last: Partition(9), after: None, epoch }),
        (
            "request.chunk.list.after",
            ChunkRequest::List { first: Partition(5), last: Partition(9), after: Some(key), epoch },
        ),
        ("request.chunk.suspect", ChunkRequest::Suspect { key }),
        ("request.chunk.digest", ChunkRequest::Digest { first: Partition(5), last: Partition(260), epoch }),
        ("request.chunk.keep", ChunkRequest::Keep { keys: vec![key, key], epoch, gc }),
    ]
}

fn namespace_requests() -> Vec<(&'static str, NamespaceRequest)> {
    let session = SessionId(700);
    let mut all = vec![
        ("request.namespace.open", NamespaceRequest::OpenSession { nonce: SessionNonce([9; 16]) }),
        (
            "request.namespace.keep_alive",
            NamespaceRequest::KeepAlive {
                session,
                lowest_gc: GcEpoch(4),
                orphans_seen: 1000,
                holds: vec![Inode::ROOT, Inode(4097)],
            },
        ),
        ("request.namespace.close", NamespaceRequest::CloseSession { session }),
        ("request.namespace.reserve", NamespaceRequest::ReserveInodes { session }),
        ("request.namespace.query", NamespaceRequest::Query(queries())),
        ("request.namespace.query.lock", NamespaceRequest::Query(vec![lock_query()])),
        ("request.namespace.query.journaled", NamespaceRequest::Query(vec![Query::Journaled { key: KEY }])),
        ("request.namespace.open_mount", NamespaceRequest::OpenMount { nonce: SessionNonce([9; 16]) }),
    ];
    all.extend(lease_requests().into_iter().map(|(name, request)| (name, NamespaceRequest::Lease(request))));
    all.extend(ops().into_iter().map(|(name, op)| (name, NamespaceRequest::Batch(batch(op)))));
    all
}

fn lock() -> FileLock {
    FileLock { owner: LockOwner(1 << 40), pid: 4242, start: 100, end: u64::MAX, kind: LockKind::Write }
}

fn lock_query() -> Query {
    Query::Lock { inode: Inode(4097), session: SessionId(700), lock: FileLock { kind: LockKind::Read, ..lock() } }
}

const GENERATION: LeaseGeneration = LeaseGeneration { term: 9, life: 2 };

fn lease_requests() -> Vec<(&'static str, LeaseRequest)> {
    let (session, generation) = (SessionId(700), GENERATION);
    let leases = vec![(Inode::ROOT, LeaseMode::Shared), (Inode(4097), LeaseMode::Exclusive)];
    let release = |keep| Release { number: LeaseNumber(300), inode: Inode(4097), keep };
    let releases = vec![release(None), release(Some(LeaseMode::Shared)), release(Some(LeaseMode::Exclusive))];
    let change = batch(Op::Unlock { inode: Inode(4097), owner: LockOwner(1 << 40), start: 0, end: 99 });
    let made = batch(Op::Unlink { dir: Inode::ROOT, name: name("a") });
    let made_at = vec![MadeAt { time: time(7), before: vec![(Inode::ROOT, 3), (Inode(4097), 300)] }];
    vec![
        (
            "request.lease.ask",
            LeaseRequest::Ask { session, generation, exclusive: vec![Inode(4097)], queries: queries() },
        ),
        ("request.lease.change", LeaseRequest::Change { generation, batch: change }),
        ("request.lease.renew", LeaseRequest::Renew { session, generation }),
        ("request.lease.reclaim", LeaseRequest::Reclaim { session, generation, leases, more: true }),
        (
            "request.lease.reclaim.first",
            LeaseRequest::Reclaim { session, generation: LeaseGeneration::default(), leases: Vec::new(), more: false },
        ),
        ("request.lease.recalls", LeaseRequest::Recalls { session, generation, known: LeaseNumber(299) }),
        ("request.lease.release", LeaseRequest::Release { session, generation, releases }),
        ("request.lease.change_made", LeaseRequest::ChangeMade { generation, batch: made, made: made_at }),
    ]
}

fn lease_answers() -> Vec<(&'static str, LeaseAnswer)> {
    let recall = |keep| Recall { number: LeaseNumber(300), inode: Inode(4097), keep };
    let answers = vec![Ok(QueryAnswer::Lock(Some(lock()))), Ok(QueryAnswer::Lock(None)), Err(OpError::StaleInode)];
    let journal = vec![Ok(QueryAnswer::Journaled(Some(journaled()))), Ok(QueryAnswer::Journaled(None))];
    let done = OpDone { inode: Inode(4097), version: 6, offset: 0 };
    let (unleased, number) = (vec![Inode(4097)], LeaseNumber(301));
    vec![
        ("answer.lease.asked", LeaseAnswer::Asked { answers, unleased: unleased.clone(), number }),
        ("answer.lease.asked.journaled", LeaseAnswer::Asked { answers: journal, unleased: Vec::new(), number }),
        (
            "answer.lease.changed",
            LeaseAnswer::Changed {
                outcomes: vec![Ok(OpAnswer { done, attr: None }), Err(OpError::Locked), Err(OpError::TooManyLocks)],
                touched: vec![attr(FileType::File), attr(FileType::Directory)],
                unleased,
                number,
                no_room: true,
            },
        ),
        ("answer.lease.renewed", LeaseAnswer::Renewed),
        ("answer.lease.reclaimed", LeaseAnswer::Reclaimed { generation: GENERATION, refused: vec![Inode::ROOT] }),
        ("answer.lease.recalls", LeaseAnswer::Recalls(vec![recall(None), recall(Some(LeaseMode::Shared))])),
        ("answer.lease.released", LeaseAnswer::Released),
        ("answer.lease.not_current", LeaseAnswer::NotCurrent),
    ]
}

fn batch(op: Op) -> Batch {
    let ops = vec![NumberedOp { number: OpNumber(200), after: Some(OpNumber(199)), op }];
    Batch { session: SessionId(700), lowest_unanswered: OpNumber(150), ops, want: Want::Attr }
}

fn queries() -> Vec<Query> {
    let list = |want| Query::List { dir: Inode::ROOT, after: Cookie(3), limit: 1000, want };
    vec![
        Query::Walk { from: Inode::ROOT, path: vec![name("a"), Name::new(vec![0xff, 0xfe]).unwrap()] },
        Query::Attr { inode: Inode(2) },
        Query::Content { inode: Inode(2), offset: 5, len: u64::MAX },
        list(ListWant::Names),
        list(ListWant::Attrs),
        list(ListWant::Contents),
        Query::Xattrs { inode: Inode(2) },
        Query::Usage,
    ]
}

fn new_inode(kind: NewKind, gid: NewGroup) -> NewInode {
    let times = Some(Times { accessed: time(1), modified: time(2) });
    NewInode { inode: Inode(4097), kind, mode: Mode::new(0o644), uid: 1000, gid, times, xattrs: vec![xattr()] }
}

fn create(kind: NewKind, replace: Replace) -> Op {
    Op::Create { dir: Inode::ROOT, name: name("file"), new: new_inode(kind, NewGroup::Caller(100)), replace }
}

fn ops() -> Vec<(&'static str, Op)> {
    let mut all = create_ops();
    all.extend(name_ops());
    all.extend(data_ops());
    all
}

fn create_ops() -> Vec<(&'static str, Op)> {
    let extents = NewContent::Extents { extents: vec![EXTENT], size: 1 << 40 };
    vec![
        ("op.create.empty", create(NewKind::File(NewContent::Empty), Replace::No)),
        ("op.create.inline", create(NewKind::File(NewContent::Inline(inline())), Replace::File)),
        ("op.create.extents", create(NewKind::File(extents), Replace::No)),
        ("op.create.directory", create(NewKind::Directory, Replace::No)),
        ("op.create.symlink", create(NewKind::Symlink(inline()), Replace::No)),
        ("op.create.fifo", create(NewKind::Fifo, Replace::No)),
        ("op.create.socket", create(NewKind::Socket, Replace::No)),
        ("op.create.char", create(NewKind::CharDevice { device: 0x0103 }, Replace::No)),
        ("op.create.block", create(NewKind::BlockDevice { device: 0x0800 }, Replace::No)),
        ("op.create_unnamed", Op::CreateUnnamed { new: new_inode(NewKind::Fifo, NewGroup::Exactly(5)) }),
    ]
}

fn name_ops() -> Vec<(&'static str, Op)> {
    let (dir, inode) = (Inode::ROOT, Inode(4097));
    let rename = |mode| Op::Rename {
        from_dir: Inode::ROOT,
        from_name: name("from"),
        to_dir: Inode(2),
        to_name: name("to"),
        mode,
    };
    let set_xattr = |mode| Op::SetXattr { inode: Inode(4097), xattr: xattr(), mode };
    let set = SetAttr {
        mode: Some(Mode::new(0o600)),
        uid: Some(1),
        gid: Some(2),
        size: Some(3),
        accessed: SetTime::Now,
        modified: SetTime::To(time(-5)),
        set_id: SetId::Clear,
    };
    vec![
        ("op.link", Op::Link { inode, dir, name: name("link"), replace: Replace::No }),
        ("op.unlink", Op::Unlink { dir, name: name("file") }),
        ("op.remove_directory", Op::RemoveDirectory { dir, name: name("dir") }),
        ("op.rename.replace", rename(RenameMode::Replace)),
        ("op.rename.no_replace", rename(RenameMode::NoReplace)),
        ("op.rename.exchange", rename(RenameMode::Exchange)),
        ("op.set_attr.all", Op::SetAttr { inode, set }),
        ("op.set_attr.clear_both", Op::SetAttr { inode, set: SetAttr { set_id: SetId::ClearBoth, ..set } }),
        ("op.set_attr.none", Op::SetAttr { inode, set: SetAttr::default() }),
        ("op.set_xattr.set", set_xattr(XattrMode::Set)),
        ("op.set_xattr.create", set_xattr(XattrMode::Create)),
        ("op.set_xattr.replace", set_xattr(XattrMode::Replace)),
        ("op.remove_xattr", Op::RemoveXattr { inode, name: xattr().name }),
    ]
}

fn data_ops() -> Vec<(&'static str, Op)> {
    let inode = Inode(4097);
    let (modified, set_id, if_version) = (SetTime::Keep, SetId::Keep, Some(6));
    let punch = |mode| Op::Punch { inode: Inode(4097), offset: 1, len: 2, mode, set_id: SetId::Clear };
    let append = |data| Op::Append { inode: Inode(4097), data, set_id: SetId::Keep };
    let slices = AppendData::Slices { slices: vec![SLICE], epoch: Epoch(300), gc: GcEpoch(4) };
    vec![
        ("op.write_extents", Op::WriteExtents { inode, extents: vec![EXTENT], if_version, modified, set_id }),
        ("op.write_inline", Op::WriteInline { inode, content: inline(), if_version: None, modified, set_id }),
        ("op.append.inline", append(AppendData::Inline(inline()))),
        ("op.append.slices", append(slices)),
        ("op.punch.hole", punch(PunchMode::Hole)),
        ("op.punch.zero_keep_size", punch(PunchMode::ZeroKeepSize)),
        ("op.punch.zero", punch(PunchMode::Zero)),
        ("op.punch.allocate_keep_size", punch(PunchMode::AllocateKeepSize)),
        ("op.punch.allocate", punch(PunchMode::Allocate)),
        ("op.lock", Op::Lock { inode, lock: lock() }),
        ("op.unlock", Op::Unlock { inode, owner: LockOwner(1 << 40), start: 0, end: u64::MAX }),
        ("op.delegate_locks", Op::DelegateLocks { inode, delegation: LockOwner(9) }),
        ("op.return_locks", Op::ReturnLocks { inode, delegation: LockOwner(9), locks: vec![lock()] }),
        ("op.write_journaled", write_journaled()),
        ("op.clone", Op::Clone { from: inode, from_offset: 1, to: Inode(5), to_offset: 2, len: 3, if_version, set_id }),
    ]
}

fn journaled() -> JournaledChunk {
    let bytes = b"a page".to_vec();
    JournaledChunk { key: ChunkKey::of(&bytes), bytes }
}

fn write_journaled() -> Op {
    let parts = vec![JournaledPart { offset: 8192, chunk_offset: 1, len: 5 }];
    let (modified, set_id) = (SetTime::Keep, SetId::Keep);
    Op::WriteJournaled { inode: Inode(4097), chunk: journaled(), parts, if_version: Some(6), modified, set_id }
}

fn cluster_requests() -> Vec<(&'static str, ClusterRequest)> {
    let token = |purpose| ClusterRequest::CreateToken { purpose, lifetime_s: 3600 };
    let identify = |peer| ClusterRequest::Identify { peer, key: KeyFingerprint([0xf1; 32]) };
    let [node_newcomer, client_newcomer] = newcomers();
    let garbage = ClusterRequest::Garbage;
    vec![
        ("request.cluster.map", ClusterRequest::Map { known: None }),
        ("request.cluster.map.known", ClusterRequest::Map { known: Some(Epoch(8)) }),
        ("request.cluster.heartbeat", ClusterRequest::Heartbeat { store: store(), epoch: Epoch(8) }),
        ("request.cluster.status", ClusterRequest::Status),
        ("request.cluster.create_token.node", token(TokenPurpose::Node)),
        ("request.cluster.create_token.write", token(TokenPurpose::Client(Access::ReadWrite))),
        ("request.cluster.create_token.read", token(TokenPurpose::Client(Access::ReadOnly))),
        ("request.cluster.identify.node", identify(Peer::Node(node(1)))),
        ("request.cluster.identify.client", identify(Peer::Client(ClientId([0xc1; 16])))),
        ("request.cluster.redeem.node", ClusterRequest::ForwardRedeem(redeem(node_newcomer))),
        ("request.cluster.redeem.client", ClusterRequest::ForwardRedeem(redeem(client_newcomer))),
        ("request.cluster.take_seal", ClusterRequest::TakeSeal { seal: SealKey([0x5a; 32]) }),
        ("request.cluster.moved", ClusterRequest::Moved { address: row(1).address }),
        ("request.cluster.placed", ClusterRequest::Placed { zone: row(1).zone, weight: row(1).weight }),
        ("request.cluster.garbage.dead", garbage(GarbageRequest::Dead { after: None, claim: CLAIM })),
        ("request.cluster.garbage.dead.after", garbage(GarbageRequest::Dead { after: Some(KEY), claim: CLAIM })),
        ("request.cluster.garbage.judge", garbage(GarbageRequest::Judge { copies: vec![(KEY, GcEpoch(300))] })),
        ("request.cluster.garbage.status", garbage(GarbageRequest::Status)),
        (
            "request.cluster.moves.confirm",
            moves(MovesRequest::Confirm { epoch: Epoch(8), partitions: vec![Partition(300)] }),
        ),
        ("request.cluster.moves.drain", moves(MovesRequest::Drain { node: node(3) })),
        ("request.cluster.moves.undrain", moves(MovesRequest::Undrain { node: node(3) })),
        ("request.cluster.moves.remove", moves(MovesRequest::Remove { node: node(3), loss: Loss::Refused })),
        ("request.cluster.moves.remove.loss", moves(MovesRequest::Remove { node: node(3), loss: Loss::Accepted })),
        ("request.cluster.moves.status", moves(MovesRequest::Status)),
        (
            "request.cluster.moves.confirm_clean",
            moves(MovesRequest::ConfirmClean { acting: Epoch(8), partitions: vec![Partition(300)] }),
        ),
        ("request.cluster.health.report", ClusterRequest::Health(HealthRequest::Report(node_report()))),
        ("request.cluster.health.status", ClusterRequest::Health(HealthRequest::Status)),
    ]
}

fn node_report() -> NodeReport {
    let scrub = ScrubReport { chunks: 300, bytes: 70_000, passes: 2, ended_s: Some(600), next_s: Some(5), damaged: 1 };
    NodeReport { version: "0.1.0".to_owned(), clock: time(1_700_000_000), scrub }
}

fn health_status() -> HealthStatus {
    let heard = HeardReport { report: node_report(), clock_ahead_ms: -300 };
    HealthStatus {
        out_after_ms: 600_000,
        nodes: vec![
            NodeHealth { node: node(1), silent_ms: 300, heard: Some(heard) },
            NodeHealth { node: node(2), silent_ms: 70_000, heard: None },
        ],
        moving: Some(Moving { seen_ms: 70_000, replicas_done: 300 }),
    }
}

fn moves(request: MovesRequest) -> ClusterRequest {
    ClusterRequest::Moves(request)
}

fn moves_status() -> MovesStatus {
    let coming = vec![Coming { node: node(4), partitions: 300, confirmed: 5 }];
    let transition = TransitionStatus { epoch: Epoch(8), unsettled: 300, replicas_left: 295, coming };
    MovesStatus {
        epoch: Epoch(9),
        transition: Some(transition),
        endangered: 7,
        away: vec![AwayStatus { node: node(2), partitions: 600 }],
        unclean: 700,
    }
}

pub(crate) fn answers() -> Vec<(&'static str, Answer)> {
    let mut all: Vec<_> = chunk_answers().into_iter().map(|(name, chunk)| (name, Answer::Chunk(chunk))).collect();
    all.extend(namespace_answers().into_iter().map(|(name, answer)| (name, Answer::Namespace(answer))));
    all.extend(cluster_answers().into_iter().map(|(name, answer)| (name, Answer::Cluster(answer))));
    all.push(("answer.raft", Answer::Raft(vec![4, 5])));
    all
}

fn chunk_answers() -> Vec<(&'static str, ChunkAnswer)> {
    let incarnation = Incarnation(12);
    vec![
        ("answer.chunk.put", ChunkAnswer::Put { incarnation }),
        ("answer.chunk.synced", ChunkAnswer::Synced { incarnation }),
        ("answer.chunk.has", ChunkAnswer::Has { held: vec![true, false], incarnation }),
        ("answer.chunk.got", ChunkAnswer::Got { chunk_len: 70_000, offset: 16_384, proof_len: 96, gc: GcEpoch(4) }),
        ("answer.chunk.listed", ChunkAnswer::Listed { keys: vec![(KEY, GcEpoch(4))], end: true }),
        ("answer.chunk.noted", ChunkAnswer::Noted),
        ("answer.chunk.digests", ChunkAnswer::Digests { digests: vec![PartitionDigest([7; 32])] }),
        ("answer.chunk.kept", ChunkAnswer::Kept { kept: vec![true, false] }),
    ]
}

fn namespace_answers() -> Vec<(&'static str, NamespaceAnswer)> {
    let inodes = InodeRange { first: Inode(4096) };
    let done = OpDone { inode: Inode(4097), version: 6, offset: 70_000 };
    let batch = vec![
        Ok(OpAnswer { done, attr: None }),
        Ok(OpAnswer { done, attr: Some(attr(FileType::File)) }),
        Err(OpError::NotFound),
    ];
    let mut all = vec![
        (
            "answer.namespace.opened",
            NamespaceAnswer::SessionOpened { session: SessionId(700), inodes, gc_current: GcEpoch(4) },
        ),
        ("answer.namespace.alive", NamespaceAnswer::Alive { gc_current: GcEpoch(4), orphans_index: 1000 }),
        ("answer.namespace.closed", NamespaceAnswer::SessionClosed),
        ("answer.namespace.reserved", NamespaceAnswer::InodesReserved(inodes)),
        ("answer.namespace.batch", NamespaceAnswer::Batch(batch)),
        ("answer.namespace.query", NamespaceAnswer::Query(query_answers())),
    ];
    all.extend(lease_answers().into_iter().map(|(name, answer)| (name, NamespaceAnswer::Lease(answer))));
    all
}

fn contents() -> [Content; 4] {
    let extents = vec![
        Extent { offset: 0, body: ExtentBody::Chunk(SLICE) },
        Extent { offset: 1000, body: ExtentBody::Unwritten { len: 24 } },
    ];
    [
        Content::Inline(inline()),
        Content::Extents { extents, next: Some(1024) },
        Content::Symlink(inline()),
        Content::None,
    ]
}

fn query_answers() -> Vec<Result<QueryAnswer, OpError>> {
    let walked = |end| Ok(QueryAnswer::Walked(Walked { steps: vec![attr(FileType::Directory)], end }));
    let entry = |content| Entry {
        cookie: Cookie(3),
        name: name("file"),
        inode: Inode(4097),
        file_type: FileType::File,
        attr: Some(attr(FileType::File)),
        content: Some(content),
        xattrs: vec![xattr()],
    };
    let entries = contents().map(entry).to_vec();
    let mut all = vec![
        walked(WalkEnd::Reached),
        walked(WalkEnd::Missing),
        walked(WalkEnd::Symlink(inline())),
        walked(WalkEnd::NotDirectory),
        Ok(QueryAnswer::Attr(attr(FileType::Symlink))),
        Ok(QueryAnswer::Page(Page { entries, end: false, version: 5, next: Cookie(301) })),
        Ok(QueryAnswer::Xattrs(vec![xattr()])),
        Ok(QueryAnswer::Usage(Usage { inodes: 3, bytes: 4 })),
        Err(OpError::StaleInode),
    ];
    all.extend(contents().map(|content| Ok(QueryAnswer::Content { attr: attr(FileType::File), content })));
    all
}

fn cluster_answers() -> Vec<(&'static str, ClusterAnswer)> {
    let identified = |access| ClusterAnswer::Identified { access };
    vec![
        ("answer.cluster.map", ClusterAnswer::Map { map: Some(Box::new(map())), leader: Some(node(1)) }),
        ("answer.cluster.map.known", ClusterAnswer::Map { map: None, leader: None }),
        ("answer.cluster.heard", ClusterAnswer::Heard { epoch: Epoch(8) }),
        ("answer.cluster.status", ClusterAnswer::Status(Box::new(status()))),
        ("answer.cluster.token", ClusterAnswer::Token("dfs-node-abc".to_owned())),
        ("answer.cluster.identified.none", identified(None)),
        ("answer.cluster.identified.node", identified(Some(PeerAccess::Node))),
        ("answer.cluster.identified.client", identified(Some(PeerAccess::Client(Access::ReadWrite)))),
        ("answer.cluster.redeemed", ClusterAnswer::Redeemed(Box::new(redeemed()))),
        ("answer.cluster.seal_taken", ClusterAnswer::SealTaken),
        ("answer.cluster.move_noted", ClusterAnswer::MoveNoted),
        ("answer.cluster.garbage.dead", ClusterAnswer::Garbage(GarbageAnswer::Dead(dead_page()))),
        ("answer.cluster.garbage.judged", ClusterAnswer::Garbage(judged())),
        ("answer.cluster.garbage.status", ClusterAnswer::Garbage(GarbageAnswer::Status(Box::new(garbage_status())))),
        ("answer.cluster.moves.noted", ClusterAnswer::Moves(MovesAnswer::Noted)),
        ("answer.cluster.moves.done", ClusterAnswer::Moves(MovesAnswer::Done { epoch: Epoch(9) })),
        (
            "answer.cluster.moves.kept",
            ClusterAnswer::Moves(MovesAnswer::Kept(Kept { partitions: 300, last: 2, left: 3 })),
        ),
        ("answer.cluster.moves.status", ClusterAnswer::Moves(MovesAnswer::Status(Box::new(moves_status())))),
        ("answer.cluster.health.noted", ClusterAnswer::Health(HealthAnswer::Noted)),
        ("answer.cluster.health.status", ClusterAnswer::Health(HealthAnswer::Status(Box::new(health_status())))),
    ]
}

fn dead_page() -> DeadPage {
    DeadPage { ring: Epoch(300), safe: GcEpoch(5), rows: vec![(KEY, GcEpoch(4))], next: Some(KEY) }
}

fn judged() -> GarbageAnswer {
    let standings = vec![Standing::Named, Standing::Dead { at: GcEpoch(4) }, Standing::Unnamed];
    GarbageAnswer::Judged { safe: GcEpoch(5), standings }
}

fn garbage_status() -> GarbageStatus {
    let session = SessionId(700);
    let (of_client, of_node) = (Peer::Client(ClientId([0xc1; 16])), Peer::Node(node(1)));
    GarbageStatus {
        current: GcEpoch(300),
        safe: GcEpoch(5),
        dead_chunks: 70_000,
        dead_bytes: 1 << 40,
        sessions: vec![
            SessionHold { session, client: of_client, lowest: Some(GcEpoch(5)) },
            SessionHold { session, client: of_node, lowest: None },
        ],
        nodes: vec![NodeHold { node: node(1), below: Some(GcEpoch(4)) }, NodeHold { node: node(2), below: None }],
    }
}

fn status() -> ClusterStatus {
    let states = [NodeState::Up, NodeState::CatchingUp, NodeState::Down, NodeState::Up];
    let roles = [RaftRole::Leader, RaftRole::Voter, RaftRole::Learner, RaftRole::None];
    let nodes = states.into_iter().zip(roles).map(|(state, role)| NodeStatus {
        row: row(1),
        state,
        role,
        store: (state == NodeState::Up).then(store),
        partitions: 128,
    });
    ClusterStatus {
        cluster: ClusterId([0xcc; 16]),
        epoch: Epoch(8),
        replicas: ReplicaCount::new(3).unwrap(),
        missing: 0,
        nodes: nodes.collect(),
        usage: Usage { inodes: 3, bytes: 4 },
        term: 2,
        applied: 900,
        gc_current: GcEpoch(4),
    }
}

pub(crate) fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::StaleEpoch { ours: Epoch(300) },
        Refusal::StaleGc { safe: GcEpoch(4) },
        Refusal::NotLeader { leader: Some(node(1)) },
        Refusal::NotReplica,
        Refusal::TooFewNodes { missing: 2 },
        Refusal::Busy,
        Refusal::Corrupt,
        Refusal::UnknownChunk,
        Refusal::KeyMismatch,
        Refusal::DiskFull,
        Refusal::DiskFailed,
        Refusal::NoQuorum,
        Refusal::NotServing,
        Refusal::ReadOnly,
        Refusal::NotAllowed,
        Refusal::UnknownPeer,
        Refusal::OtherCluster,
        Refusal::Version { min: 1, max: 300 },
        Refusal::TokenUnknown,
        Refusal::TokenExpired,
        Refusal::TokenUsed,
        Refusal::TokenPurpose,
        Refusal::UnknownSession,
        Refusal::OutsideWindow,
        Refusal::Malformed,
        Refusal::Internal,
        Refusal::Taken,
        Refusal::TooManyFiles,
    ]
}

pub(crate) fn op_errors() -> Vec<OpError> {
    vec![
        OpError::NotFound,
        OpError::StaleInode,
        OpError::Exists,
        OpError::NotDirectory,
        OpError::IsDirectory,
        OpError::NotEmpty,
        OpError::TooManyLinks,
        OpError::FileTooLarge,
        OpError::Invalid,
        OpError::NotPermitted,
        OpError::NoXattr,
        OpError::TooManyXattrs,
        OpError::StaleEpoch,
        OpError::StaleGc,
        OpError::VersionChanged,
        OpError::InlineInTheWay,
        OpError::NotInline,
        OpError::Unsound,
        OpError::NotReserved,
        OpError::CutPending,
        OpError::OutOfOrder,
        OpError::BelowWindow,
        OpError::TooLarge,
        OpError::Locked,
        OpError::TooManyLocks,
        OpError::LeaseEnded,
        OpError::LocksDelegated,
        OpError::JournalFull,
    ]
}

pub(crate) fn file_types() -> [FileType; 7] {
    [
        FileType::File,
        FileType::Directory,
        FileType::Symlink,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharDevice,
        FileType::BlockDevice,
    ]
}
