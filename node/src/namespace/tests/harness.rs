//! A cluster in rows, and a client of it.

use std::num::NonZeroU32;

use ring::{ChunkKey, Epoch, GcEpoch, NodeId, ReplicaCount, Weight};
use wire::{
    cluster::{ClientId, ClusterId, KeyFingerprint, NodeRow, Peer},
    namespace::{
        Attr, Batch, ChunkSlice, Content, Cookie, Entry, Extent, INODE_RANGE_LEN, InlineData, Inode, InodeRange,
        ListWant, Mode, Name, NewContent, NewExtent, NewGroup, NewInode, NewKind, NumberedOp, Op, OpAnswer, OpError,
        OpNumber, OpOutcome, Page, Query, QueryAnswer, Replace, SessionId, SessionNonce, Timestamp, Usage, Want,
    },
};

use crate::{
    kv::{KvStore, MemoryKv},
    namespace::{ClusterCommand, Command, CommandBody, CommandOutcome, LogIndex, ROWS_MAX, apply, pending_work, query},
};

/// Who asks in most tests.
pub(crate) const CLIENT: Peer = Peer::Client(ClientId([7; 16]));

/// The state machine, with its log index and its clock.
pub(crate) struct Machine {
    pub(crate) rows: MemoryKv,
    pub(crate) index: u64,
    pub(crate) clock: i64,
    /// Every command so far.
    pub(crate) log: Vec<Command>,
    /// Rows that the last command changed.
    pub(crate) changed: usize,
}

impl Machine {
    /// Nothing yet.
    pub(crate) fn empty() -> Self {
        Self { rows: MemoryKv::new(), index: 0, clock: 1_000, log: Vec::new(), changed: 0 }
    }

    /// A cluster of one node.
    pub(crate) fn new() -> Self {
        let mut machine = Self::empty();
        machine.propose(CommandBody::Cluster(found()));
        machine
    }

    /// Applies a command one second after the last.
    pub(crate) fn propose(&mut self, body: CommandBody) -> CommandOutcome {
        self.clock += 1;
        let stamp = Timestamp::new(self.clock, 0).unwrap();
        self.apply(Command { stamp, body })
    }

    pub(crate) fn apply(&mut self, command: Command) -> CommandOutcome {
        self.index += 1;
        let (batch, outcome) = apply(&self.rows, LogIndex(self.index), &command).unwrap();
        self.changed = batch.changes.len();
        assert!(self.changed <= ROWS_MAX, "a command changed {} rows", self.changed);
        self.rows.commit(batch).unwrap();
        drop(self.rows.persist());
        self.log.push(command);
        outcome
    }

    /// Does what the leader does about unfinished cuts and closes; how many commands it took.
    pub(crate) fn finish_work(&mut self) -> usize {
        let mut commands = 0;
        loop {
            let work = pending_work(&self.rows, 16).unwrap();
            if work.is_empty() {
                return commands;
            }
            for body in work {
                self.propose(body);
                commands += 1;
            }
        }
    }

    pub(crate) fn query(&self, question: Query) -> Result<QueryAnswer, OpError> {
        query(&self.rows, &question).unwrap()
    }

    pub(crate) fn attr(&self, inode: Inode) -> Attr {
        match self.query(Query::Attr { inode }) {
            Ok(QueryAnswer::Attr(attr)) => attr,
            other => panic!("{inode}: {other:?}"),
        }
    }

    pub(crate) fn content(&self, inode: Inode) -> Content {
        match self.query(Query::Content { inode, offset: 0, len: u64::MAX }) {
            Ok(QueryAnswer::Content { content, .. }) => content,
            other => panic!("{inode}: {other:?}"),
        }
    }

    pub(crate) fn extents(&self, inode: Inode) -> Vec<Extent> {
        let (mut all, mut offset) = (Vec::new(), 0);
        loop {
            match self.query(Query::Content { inode, offset, len: u64::MAX }) {
                Ok(QueryAnswer::Content { content: Content::Extents { extents, next }, .. }) => {
                    all.extend(extents);
                    match next {
                        Some(next) => offset = next,
                        None => return all,
                    }
                }
                other => panic!("{inode}: {other:?}"),
            }
        }
    }

    pub(crate) fn page(&self, dir: Inode, after: Cookie, limit: u32, want: ListWant) -> Page {
        match self.query(Query::List { dir, after, limit, want }) {
            Ok(QueryAnswer::Page(page)) => page,
            other => panic!("{dir}: {other:?}"),
        }
    }

    pub(crate) fn list(&self, dir: Inode) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            let after = entries.last().map_or(Cookie(0), |entry: &Entry| entry.cookie);
            let page = self.page(dir, after, u32::MAX, ListWant::Contents);
            entries.extend(page.entries);
            if page.end {
                return entries;
            }
        }
    }

    pub(crate) fn names(&self, dir: Inode) -> Vec<String> {
        self.list(dir).iter().map(|entry| entry.name.to_string()).collect()
    }

    pub(crate) fn usage(&self) -> Usage {
        match self.query(Query::Usage) {
            Ok(QueryAnswer::Usage(usage)) => usage,
            other => panic!("{other:?}"),
        }
    }
}

/// A session of [`CLIENT`], with its numbers.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) session: SessionId,
    pub(crate) next_op: u64,
    pub(crate) next_inode: u64,
    pub(crate) range: InodeRange,
}

impl Client {
    pub(crate) fn open(machine: &mut Machine, nonce: u8) -> Self {
        let body = CommandBody::OpenSession { client: CLIENT, nonce: SessionNonce([nonce; 16]) };
        match machine.propose(body) {
            CommandOutcome::SessionOpened { session, inodes, .. } => {
                Self { session, next_op: 1, next_inode: inodes.first.0, range: inodes }
            }
            other => panic!("{other:?}"),
        }
    }

    /// A number for a new inode.
    pub(crate) fn inode(&mut self, machine: &mut Machine) -> Inode {
        if self.next_inode == self.range.first.0 + u64::from(INODE_RANGE_LEN) {
            match machine.propose(CommandBody::ReserveInodes { session: self.session }) {
                CommandOutcome::InodesReserved(range) => self.range = range,
                other => panic!("{other:?}"),
            }
            self.next_inode = self.range.first.0;
        }
        self.next_inode += 1;
        Inode(self.next_inode - 1)
    }

    /// A batch of the next numbers, all earlier ones answered.
    pub(crate) fn batch(&mut self, ops: Vec<Op>) -> Batch {
        let lowest_unanswered = OpNumber(self.next_op);
        let ops = ops
            .into_iter()
            .map(|op| {
                self.next_op += 1;
                NumberedOp { number: OpNumber(self.next_op - 1), after: None, op }
            })
            .collect();
        Batch { session: self.session, lowest_unanswered, ops, want: Want::Attr }
    }

    pub(crate) fn run_all(&mut self, machine: &mut Machine, ops: Vec<Op>) -> Vec<OpOutcome> {
        let batch = self.batch(ops);
        outcomes(machine.propose(CommandBody::Batch { client: CLIENT, batch }))
    }

    pub(crate) fn run(&mut self, machine: &mut Machine, op: Op) -> OpOutcome {
        let mut outcomes = self.run_all(machine, vec![op]);
        assert_eq!(outcomes.len(), 1);
        outcomes.remove(0)
    }

    pub(crate) fn ok(&mut self, machine: &mut Machine, op: Op) -> OpAnswer {
        let told = format!("{op:?}");
        self.run(machine, op).unwrap_or_else(|error| panic!("{error} at {told}"))
    }

    /// A new inode in a directory.
    pub(crate) fn create(&mut self, machine: &mut Machine, dir: Inode, name: &str, kind: NewKind) -> Inode {
        let new = new_inode(self.inode(machine), kind);
        self.ok(machine, Op::Create { dir, name: self::name(name), new, replace: Replace::No }).done.inode
    }

    pub(crate) fn mkdir(&mut self, machine: &mut Machine, dir: Inode, name: &str) -> Inode {
        self.create(machine, dir, name, NewKind::Directory)
    }

    pub(crate) fn touch(&mut self, machine: &mut Machine, dir: Inode, name: &str) -> Inode {
        self.create(machine, dir, name, NewKind::File(NewContent::Empty))
    }

    pub(crate) fn inline_file(&mut self, machine: &mut Machine, dir: Inode, name: &str, bytes: &[u8]) -> Inode {
        let content = NewContent::Inline(InlineData::new(bytes.to_vec()));
        self.create(machine, dir, name, NewKind::File(content))
    }
}

pub(crate) fn outcomes(outcome: CommandOutcome) -> Vec<OpOutcome> {
    match outcome {
        CommandOutcome::Batch { outcomes, .. } => outcomes,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn found() -> ClusterCommand {
    ClusterCommand::Found {
        cluster: ClusterId([1; 16]),
        replicas: ReplicaCount::new(1).unwrap(),
        node: node_row(1),
        authority: vec![1, 2, 3],
        sealed_key: vec![4, 5, 6],
        owner: (0, 0),
    }
}

pub(crate) fn node_row(number: u8) -> NodeRow {
    NodeRow {
        id: NodeId::from_bytes([number; 16]),
        address: ([127, 0, 0, 1], 7000 + u16::from(number)).into(),
        zone: None,
        weight: Weight(NonZeroU32::MIN),
        key: KeyFingerprint([number; 32]),
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub(crate) fn new_inode(inode: Inode, kind: NewKind) -> NewInode {
    let gid = NewGroup::Caller(100);
    NewInode { inode, kind, mode: Mode::new(0o644), uid: 10, gid, times: None, xattrs: Vec::new() }
}

/// A chunk that is told from others by its number.
pub(crate) fn chunk(number: u64) -> ChunkKey {
    ChunkKey::of(&number.to_be_bytes())
}

/// The whole of a chunk of `len` bytes.
pub(crate) fn slice(number: u64, len: u32) -> ChunkSlice {
    ChunkSlice { key: chunk(number), chunk_len: len, offset: 0, len }
}

pub(crate) fn extent(offset: u64, slice: ChunkSlice) -> NewExtent {
    NewExtent { offset, slice, epoch: Epoch(1), gc: GcEpoch(1) }
}
