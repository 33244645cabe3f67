//! Leases as two mounts see them, message by message, against a real node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fuse_client::Profile;
use harness::Cluster;
use wire::{
    Answer, Refusal, Request,
    cluster::ClusterRequest,
    lease::{GRACE, LeaseAnswer, LeaseGeneration, LeaseMode, LeaseNumber, LeaseRequest, MadeAt, Recall, Release, TERM},
    namespace::{
        Batch, FileLock, InlineData, Inode, LockKind, LockOwner, Mode, Name, NamespaceAnswer, NamespaceRequest,
        NewContent, NewGroup, NewInode, NewKind, NumberedOp, Op, OpError, OpNumber, Query, QueryAnswer, Replace,
        SessionId, SessionNonce, SetId, SetTime, Timestamp, Want,
    },
    quic::{Connection, Endpoint, EndpointConfig, UdpSocketConfig, bind_udp},
};

const DEADLINE: Duration = Duration::from_secs(15);

/// Between two tries.
const POLL: Duration = Duration::from_millis(20);

/// A mount that says only what it is told to.
#[derive(Clone)]
struct Mount {
    connection: Connection,
    session: SessionId,
    generation: LeaseGeneration,
    first: Inode,
}

/// A way to the cluster that holds no session.
async fn connect(cluster: &Cluster) -> Connection {
    let profile = Profile::load(&cluster.profile()).unwrap();
    let endpoint = Endpoint::new(EndpointConfig {
        socket: bind_udp(([127, 0, 0, 1], 0).into(), UdpSocketConfig::default()).unwrap(),
        credentials: Some(Arc::new(profile.credentials().unwrap())),
        cluster: Some(profile.cluster),
        serve: false,
        rng_seed: None,
    });
    let endpoint = endpoint.unwrap();
    let deadline = Instant::now() + DEADLINE;
    loop {
        // A node that has just started turns clients away until it knows who leads.
        if let Ok(connection) = endpoint.connect(cluster.nodes[0].address, None, DEADLINE).await {
            let map = Request::Cluster(ClusterRequest::Map { known: None });
            if connection.call(&map, &[], DEADLINE).await.is_ok() {
                return connection;
            }
        }
        assert!(Instant::now() < deadline, "the node lets nobody in");
        tokio::time::sleep(POLL).await;
    }
}

async fn ask(connection: &Connection, request: NamespaceRequest) -> Result<NamespaceAnswer, Refusal> {
    match connection.call(&Request::Namespace(request), &[], DEADLINE).await.unwrap().0 {
        Ok(Answer::Namespace(answer)) => Ok(answer),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal),
    }
}

impl Mount {
    async fn open(cluster: &Cluster, nonce: u8) -> Self {
        let connection = connect(cluster).await;
        let opened = ask(&connection, NamespaceRequest::OpenMount { nonce: SessionNonce([nonce; 16]) }).await;
        let Ok(NamespaceAnswer::SessionOpened { session, inodes, .. }) = opened else { panic!("{opened:?}") };
        let mut mount = Self { connection, session, generation: LeaseGeneration::default(), first: inodes.first };
        assert_eq!(mount.renew().await, LeaseAnswer::NotCurrent);
        mount.reclaim(Vec::new()).await;
        mount
    }

    async fn lease(&self, request: LeaseRequest) -> LeaseAnswer {
        match ask(&self.connection, NamespaceRequest::Lease(request)).await {
            Ok(NamespaceAnswer::Lease(answer)) => answer,
            other => panic!("{other:?}"),
        }
    }

    async fn reclaim(&mut self, leases: Vec<(Inode, LeaseMode)>) -> Vec<Inode> {
        let (session, generation) = (self.session, self.generation);
        match self.lease(LeaseRequest::Reclaim { session, generation, leases, more: false }).await {
            LeaseAnswer::Reclaimed { generation, refused } => {
                self.generation = generation;
                refused
            }
            other => panic!("{other:?}"),
        }
    }

    async fn renew(&self) -> LeaseAnswer {
        self.lease(LeaseRequest::Renew { session: self.session, generation: self.generation }).await
    }

    async fn change(&self, number: u64, op: Op) -> LeaseAnswer {
        let ops = vec![NumberedOp { number: OpNumber(number), after: None, op }];
        let batch = Batch { session: self.session, lowest_unanswered: OpNumber(number), ops, want: Want::Outcome };
        self.lease(LeaseRequest::Change { generation: self.generation, batch }).await
    }

    /// An operation that was executed before it is told of.
    async fn made(&self, number: u64, op: Op, before: Vec<(Inode, u64)>) -> Result<Inode, OpError> {
        let ops = vec![NumberedOp { number: OpNumber(number), after: None, op }];
        let batch = Batch { session: self.session, lowest_unanswered: OpNumber(number), ops, want: Want::Outcome };
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let time = Timestamp::new(i64::try_from(since.as_secs()).unwrap(), since.subsec_nanos()).unwrap();
        let made = vec![MadeAt { time, before }];
        match self.lease(LeaseRequest::ChangeMade { generation: self.generation, batch, made }).await {
            LeaseAnswer::Changed { outcomes, .. } => outcomes[0].map(|answer| answer.done.inode),
            other => panic!("{other:?}"),
        }
    }

    /// How often an inode has changed.
    async fn changes(&self, inode: Inode) -> u64 {
        let (session, generation, queries) = (self.session, self.generation, vec![Query::Attr { inode }]);
        match self.lease(LeaseRequest::Ask { session, generation, exclusive: vec![inode], queries }).await {
            LeaseAnswer::Asked { answers, .. } => match &answers[..] {
                [Ok(QueryAnswer::Attr(attr))] => attr.change,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    async fn attr(&self, exclusive: Vec<Inode>, inode: Inode) -> (u64, Vec<Inode>) {
        let (session, generation, queries) = (self.session, self.generation, vec![Query::Attr { inode }]);
        match self.lease(LeaseRequest::Ask { session, generation, exclusive, queries }).await {
            LeaseAnswer::Asked { answers, unleased, .. } => match &answers[..] {
                [Ok(QueryAnswer::Attr(attr))] => (attr.size, unleased),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    async fn recalls(&self, known: LeaseNumber) -> Vec<Recall> {
        let (session, generation) = (self.session, self.generation);
        match self.lease(LeaseRequest::Recalls { session, generation, known }).await {
            LeaseAnswer::Recalls(recalls) => recalls,
            other => panic!("{other:?}"),
        }
    }

    async fn obey(&self, recalls: &[Recall]) {
        let releases = recalls.iter().map(|&Recall { number, inode, keep }| Release { number, inode, keep }).collect();
        let (session, generation) = (self.session, self.generation);
        let released = self.lease(LeaseRequest::Release { session, generation, releases }).await;
        assert_eq!(released, LeaseAnswer::Released);
    }

    async fn create(&self, number: u64, inode: Inode, name: &str) {
        let LeaseAnswer::Changed { outcomes, touched, unleased, .. } =
            self.change(number, file(inode, name, Replace::No)).await
        else {
            panic!("it changes")
        };
        assert!(outcomes[0].is_ok());
        assert_eq!(touched.iter().map(|attr| attr.inode).collect::<Vec<_>>(), [Inode::ROOT, inode]);
        assert_eq!(unleased, []);
    }
}

#[test]
fn what_a_mount_did_under_a_lease_that_has_ended_is_refused_and_what_was_told_in_time_is_not() {
    let cluster = Cluster::with(1, 1);
    block_on(async {
        let (mut one, other) = (Mount::open(&cluster, 1).await, Mount::open(&cluster, 2).await);
        let file = one.first;
        let name = |name: &str| Name::new(name.as_bytes()).unwrap();
        one.create(1, file, "file").await;
        assert_eq!(one.attr(vec![Inode::ROOT, file], Inode::ROOT).await.1, []);
        let link = |to: &str| Op::Link { inode: file, dir: Inode::ROOT, name: name(to), replace: Replace::No };
        let unlink = || Op::Unlink { dir: Inode::ROOT, name: name("file") };
        let told = one.made(2, link("in-time"), Vec::new()).await;
        assert!(told.is_ok(), "{told:?}");
        let before = vec![(Inode::ROOT, one.changes(Inode::ROOT).await), (file, one.changes(file).await)];
        // One is silent; the other replaces the file that it has removed without telling.
        let begun = Instant::now();
        let new = Inode(other.first.0);
        let answer = other.change(1, self::file(new, "file", Replace::File)).await;
        assert!(matches!(&answer, LeaseAnswer::Changed { outcomes, .. } if outcomes[0].is_ok()), "{answer:?}");
        assert!(begun.elapsed() >= TERM, "it waits for the term of the silent one");
        let held = vec![(Inode::ROOT, LeaseMode::Exclusive), (file, LeaseMode::Exclusive)];
        assert_eq!(one.reclaim(held).await, [Inode::ROOT, file]);
        assert_eq!(one.made(3, unlink(), before.clone()).await, Err(OpError::LeaseEnded));
        assert_eq!(one.made(3, unlink(), before).await, Err(OpError::LeaseEnded), "answered from memory");
        let again = one.made(2, link("in-time"), Vec::new()).await;
        assert!(again.is_ok() || again == Err(OpError::BelowWindow), "{again:?}");
        let queries = ["file", "in-time"].map(|at| Query::Walk { from: Inode::ROOT, path: vec![name(at)] }).to_vec();
        let asked = ask(&connect(&cluster).await, NamespaceRequest::Query(queries)).await;
        let Ok(NamespaceAnswer::Query(answers)) = asked else { panic!("{asked:?}") };
        let found = |answer: &Result<QueryAnswer, OpError>| match answer {
            Ok(QueryAnswer::Walked(walked)) => walked.steps.last().map(|attr| attr.inode),
            other => panic!("{other:?}"),
        };
        assert_eq!(answers.iter().map(found).collect::<Vec<_>>(), [Some(new), Some(file)]);
    });
}

#[test]
fn what_a_mount_did_under_a_lease_that_has_ended_is_done_all_the_same_if_nothing_has_changed_meanwhile() {
    let cluster = Cluster::with(1, 1);
    block_on(async {
        let (mut one, mut other) = (Mount::open(&cluster, 1).await, Mount::open(&cluster, 2).await);
        let file = one.first;
        one.create(1, file, "file").await;
        let link = |to: &str| {
            let name = Name::new(to.as_bytes()).unwrap();
            Op::Link { inode: file, dir: Inode::ROOT, name, replace: Replace::No }
        };
        let (root, of_file) = (one.changes(Inode::ROOT).await, one.changes(file).await);
        // One is silent until its leases have ended; the other has looked, and changed nothing.
        assert_eq!(other.attr(vec![Inode::ROOT], Inode::ROOT).await.1, []);
        assert_eq!(one.reclaim(vec![(Inode::ROOT, LeaseMode::Exclusive)]).await, [Inode::ROOT]);
        let unnamed = one.made(2, link("unnamed"), vec![(file, of_file)]).await;
        assert_eq!(unnamed, Err(OpError::LeaseEnded), "it does not say what it rests on");
        other.reclaim(Vec::new()).await;
        assert_eq!(other.attr(vec![Inode::ROOT], Inode::ROOT).await.1, []);
        assert_eq!(one.renew().await, LeaseAnswer::Renewed);
        let obedient = async {
            let recalls = other.recalls(LeaseNumber::default()).await;
            other.obey(&recalls).await;
        };
        let late = one.made(3, link("late"), vec![(Inode::ROOT, root), (file, of_file)]);
        let (late, ()) = tokio::join!(late, obedient);
        assert!(late.is_ok(), "{late:?}");
        // Those that follow rest on it.
        let next = one.made(4, link("next"), vec![(Inode::ROOT, root + 1), (file, of_file + 1)]).await;
        assert!(next.is_ok(), "{next:?}");
    });
}

/// Makes a file at the root.
fn file(inode: Inode, name: &str, replace: Replace) -> Op {
    let new = NewInode {
        inode,
        kind: NewKind::File(NewContent::Empty),
        mode: Mode::new(0o644),
        uid: 0,
        gid: NewGroup::Caller(0),
        times: None,
        xattrs: Vec::new(),
    };
    Op::Create { dir: Inode::ROOT, name: Name::new(name.as_bytes()).unwrap(), new, replace }
}

fn write(inode: Inode, bytes: &[u8]) -> Op {
    let content = InlineData::new(bytes.to_vec());
    Op::WriteInline { inode, content, if_version: None, modified: SetTime::Now, set_id: SetId::Keep }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn what_one_mount_wrote_locally_is_told_before_another_is_answered() {
    let cluster = Cluster::with(1, 1);
    block_on(async {
        let (writer, reader) = (Mount::open(&cluster, 1).await, Mount::open(&cluster, 2).await);
        let file = writer.first;
        writer.create(1, file, "file").await;
        let asks = tokio::spawn({
            let reader = reader.clone();
            async move { reader.attr(Vec::new(), file).await }
        });
        let recalls = writer.recalls(LeaseNumber::default()).await;
        assert!(matches!(recalls[..], [Recall { inode, keep: Some(LeaseMode::Shared), .. }] if inode == file));
        assert!(!asks.is_finished());
        assert!(matches!(writer.change(2, write(file, b"told")).await, LeaseAnswer::Changed { .. }));
        writer.obey(&recalls).await;
        assert_eq!(asks.await.unwrap(), (4, vec![]), "the answer has what was written back");
        // Now both share it: a change of one waits for the other, and passes a stranger's question by.
        let writes = tokio::spawn({
            let writer = writer.clone();
            async move { writer.change(3, write(file, b"again")).await }
        });
        let recalls = reader.recalls(LeaseNumber::default()).await;
        assert!(matches!(recalls[..], [Recall { inode, keep: None, .. }] if inode == file));
        let asked = ask(&connect(&cluster).await, NamespaceRequest::Query(vec![Query::Attr { inode: file }])).await;
        let Ok(NamespaceAnswer::Query(answers)) = asked else { panic!("{asked:?}") };
        assert!(matches!(&answers[..], [Ok(QueryAnswer::Attr(attr))] if attr.size == 4));
        assert!(!writes.is_finished());
        reader.obey(&recalls).await;
        assert!(matches!(writes.await.unwrap(), LeaseAnswer::Changed { .. }));
        assert_eq!(reader.attr(vec![], file).await.0, 5);
    });
}

#[test]
fn a_write_back_passes_the_change_that_waits_for_it_and_a_silent_mount_holds_up_nobody_for_long() {
    let cluster = Cluster::with(1, 1);
    block_on(async {
        let (first, second) = (Mount::open(&cluster, 1).await, Mount::open(&cluster, 2).await);
        let file = first.first;
        first.create(1, file, "file").await;
        let changes = tokio::spawn({
            let second = second.clone();
            async move { second.change(1, write(file, b"second")).await }
        });
        let recalls = first.recalls(LeaseNumber::default()).await;
        let LeaseAnswer::Changed { unleased, .. } = first.change(2, write(file, b"first")).await else {
            panic!("it passes")
        };
        assert_eq!(unleased, [file]);
        first.obey(&recalls).await;
        assert!(matches!(changes.await.unwrap(), LeaseAnswer::Changed { .. }));
        assert_eq!(first.attr(vec![], file).await, (6, vec![]));
        // The first says nothing any more.
        let begun = Instant::now();
        assert!(matches!(second.change(2, write(file, b"alone")).await, LeaseAnswer::Changed { .. }));
        assert!(begun.elapsed() < TERM + GRACE + Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(first.renew().await, LeaseAnswer::NotCurrent);
        // A lock in the way is told, and goes with its session.
        let lock = |kind| FileLock { owner: LockOwner(1), pid: 1, start: 0, end: u64::MAX, kind };
        let take = |kind| Op::Lock { inode: file, lock: lock(kind) };
        let locked = second.change(3, take(LockKind::Write)).await;
        assert!(matches!(locked, LeaseAnswer::Changed { outcomes, .. } if outcomes[0].is_ok()));
        let mut first = first;
        assert_eq!(first.reclaim(vec![(file, LeaseMode::Shared)]).await, [file], "what was taken away is gone");
        let locked = first.change(3, take(LockKind::Read)).await;
        assert!(matches!(locked, LeaseAnswer::Changed { outcomes, .. } if outcomes[0] == Err(OpError::Locked)));
        let close = NamespaceRequest::CloseSession { session: second.session };
        assert_eq!(ask(&second.connection, close).await, Ok(NamespaceAnswer::SessionClosed));
        let locked = first.change(4, take(LockKind::Read)).await;
        assert!(matches!(locked, LeaseAnswer::Changed { outcomes, .. } if outcomes[0].is_ok()));
    });
}

/// Half of the places are for those by whom the others are let go on.
#[test]
fn a_crowd_that_waits_for_a_lease_leaves_room_for_whoever_gives_it_back() {
    let cluster = Cluster::with(1, 1);
    block_on(async {
        let writer = Mount::open(&cluster, 1).await;
        let file = writer.first;
        writer.create(1, file, "file").await;
        let mut crowd = tokio::task::JoinSet::new();
        for _ in 0..5 {
            let connection = connect(&cluster).await;
            for _ in 0..900 {
                let connection = connection.clone();
                let query = NamespaceRequest::Query(vec![Query::Attr { inode: file }]);
                crowd.spawn(async move { ask(&connection, query).await });
            }
        }
        // All places of those who wait are taken when the first is told to come again.
        let deadline = Instant::now() + DEADLINE;
        let first = loop {
            match tokio::time::timeout(TERM / 4, crowd.join_next()).await {
                Ok(first) => break first.unwrap().unwrap(),
                Err(_) => assert_eq!(writer.renew().await, LeaseAnswer::Renewed),
            }
            assert!(Instant::now() < deadline, "all of them wait");
        };
        assert_eq!(first, Err(Refusal::Busy));
        let begun = Instant::now();
        assert!(matches!(writer.change(2, write(file, b"four")).await, LeaseAnswer::Changed { .. }));
        writer.obey(&writer.recalls(LeaseNumber(0)).await).await;
        assert!(begun.elapsed() < TERM, "{:?}", begun.elapsed());
        let mut answered = 0;
        while let Some(told) = crowd.join_next().await {
            match told.unwrap() {
                Ok(NamespaceAnswer::Query(answers)) => {
                    assert!(matches!(&answers[..], [Ok(QueryAnswer::Attr(attr))] if attr.size == 4), "{answers:?}");
                    answered += 1;
                }
                other => assert_eq!(other, Err(Refusal::Busy)),
            }
        }
        assert!(answered > 1000, "{answered}");
    });
}

#[test]
fn a_new_leader_waits_for_the_mounts_of_the_last() {
    let mut cluster = Cluster::with(1, 1);
    block_on(async {
        let (mut first, mut second) = (Mount::open(&cluster, 1).await, Mount::open(&cluster, 2).await);
        let file = first.first;
        first.create(1, file, "file").await;
        cluster.nodes[0].kill();
        cluster.nodes[0].start();
        first.connection = connect(&cluster).await;
        second.connection = connect(&cluster).await;
        let asks = tokio::spawn({
            let connection = connect(&cluster).await;
            async move {
                // Before the node leads it sends whoever asks away.
                loop {
                    match ask(&connection, NamespaceRequest::Query(vec![Query::Attr { inode: file }])).await {
                        Err(Refusal::NotLeader { .. } | Refusal::NotServing) => {}
                        answered => return answered,
                    }
                }
            }
        });
        let begun = Instant::now();
        while second.connection_is_early().await {}
        assert_eq!(second.renew().await, LeaseAnswer::NotCurrent);
        assert_eq!(second.reclaim(vec![]).await, []);
        assert_eq!(first.reclaim(vec![(file, LeaseMode::Exclusive)]).await, []);
        assert!(begun.elapsed() < TERM, "{:?}", begun.elapsed());
        let recalls = first.recalls(LeaseNumber::default()).await;
        assert!(matches!(recalls[..], [Recall { keep: Some(LeaseMode::Shared), .. }]), "it still holds it");
        assert!(!asks.is_finished());
        first.obey(&recalls).await;
        assert!(matches!(asks.await.unwrap(), Ok(NamespaceAnswer::Query(_))));
    });
}

impl Mount {
    /// Whether the node does not lead yet.
    async fn connection_is_early(&self) -> bool {
        let (session, generation) = (self.session, self.generation);
        let request = NamespaceRequest::Lease(LeaseRequest::Renew { session, generation });
        matches!(ask(&self.connection, request).await, Err(Refusal::NotLeader { .. } | Refusal::NotServing))
    }
}
