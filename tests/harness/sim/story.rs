//! What the clients do: files come, change, move and go; after every step the promises are checked.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fuse_client::{FilePath, Namespace, NamespaceError, upload};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use tokio::time::{Instant, sleep, timeout};
use wire::{
    cluster::{NodeState, RaftRole},
    namespace::{Mode, RenameMode},
};

use super::{Stage, World};
use crate::invariants::{Ledger, Severity, bytes_are_as_acknowledged, is_prompt, names_are_as_acknowledged};

/// Where the files are.
const DIRS: [&str; 2] = ["/left", "/right"];

/// Names in each directory: few, so that they are met again.
const NAMES: usize = 8;

/// Ports of the client that changes and of the one that only looks.
const WRITER_PORT: u16 = 7401;
const READER_PORT: u16 = 7402;

/// How long the cluster may take to be whole again once nothing is wrong.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);

/// The clients of one run.
#[derive(Debug)]
pub(super) struct Story {
    world: Arc<World>,
    stage: Stage,
    /// Operations that returned, and the slowest that had to be prompt. Guards itself alone.
    tally: Mutex<(usize, Duration)>,
}

/// The story on its way.
struct Clients<'a> {
    story: &'a Story,
    writer: Namespace,
    reader: Namespace,
    chance: StdRng,
    ledger: Ledger,
}

impl Story {
    pub(super) fn new(world: Arc<World>, stage: Stage) -> Self {
        Self { world, stage, tally: Mutex::default() }
    }

    pub(super) fn tally(&self) -> (usize, Duration) {
        *self.tally.lock().unwrap()
    }

    /// From the first start to the last look.
    pub(super) async fn tell(&self) {
        let writer = self.world.client(WRITER_PORT).await;
        self.world.admit(&writer, 1).await;
        self.world.admit(&writer, 2).await;
        self.wait_whole(&writer).await;
        let reader = self.world.client(READER_PORT).await;
        let chance = StdRng::seed_from_u64(self.world.seed ^ 0x0570_u64);
        let mut clients = Clients { story: self, writer, reader, chance, ledger: Ledger::default() };
        for dir in DIRS {
            let path = path(dir);
            let made = clients.writer.create_dir(&path, Mode::new(0o755));
            self.done(&format!("create {dir}"), 0, made).await;
        }
        self.stage.open();
        while !self.stage.is_over() {
            clients.step().await;
            sleep(Duration::from_millis(clients.chance.random_range(0..300))).await;
        }
        self.wait_whole(&clients.writer).await;
        clients.check_all().await;
        clients.writer.finish().await;
        clients.reader.finish().await;
    }

    /// Waits for an operation that moves `len` bytes, which must succeed, and as fast as promised.
    async fn done<T>(&self, what: &str, len: usize, operation: impl Future<Output = Result<T, NamespaceError>>) -> T {
        self.stage.begin();
        let begin = Instant::now();
        let outcome = operation.await;
        let (elapsed, worst) = (begin.elapsed(), self.stage.worst());
        let outcome = outcome.unwrap_or_else(|error| panic!("{what}: after {elapsed:?}: {error}"));
        self.world.trace.note(format_args!("{what}: done in {elapsed:?}"));
        let mut tally = self.tally.lock().unwrap();
        tally.0 += 1;
        if worst <= Severity::OneNode {
            tally.1 = tally.1.max(elapsed);
        }
        assert!(is_prompt(elapsed, len, worst), "{what}: took {elapsed:?} with {worst:?} broken");
        outcome
    }

    /// Waits until the leader sees all nodes up and voting, with nothing lacking.
    async fn wait_whole(&self, client: &Namespace) {
        let whole = async {
            loop {
                if let Ok(status) = client.cluster().status().await {
                    let lacks = |store: &wire::cluster::StoreReport| store.lacking > 0;
                    let sound = status.nodes.iter().filter(|node| {
                        node.state == NodeState::Up
                            && matches!(node.role, RaftRole::Leader | RaftRole::Voter)
                            && !node.store.as_ref().is_none_or(lacks)
                    });
                    if status.missing == 0 && sound.count() == self.world.nodes.len() {
                        return;
                    }
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        let in_time = timeout(WHOLE_WITHIN, whole).await;
        assert!(in_time.is_ok(), "the cluster is not whole within {WHOLE_WITHIN:?} with nothing wrong any more");
        self.world.trace.note("all nodes are up, vote, and lack nothing");
    }
}

impl Clients<'_> {
    async fn step(&mut self) {
        match self.chance.random_range(0..12) {
            0..4 => self.upload().await,
            4..6 => self.rename().await,
            6 => self.remove().await,
            7 => self.copy().await,
            8..11 => self.read().await,
            _ => self.list().await,
        }
    }

    async fn upload(&mut self) {
        // Inline, one chunk, several chunks.
        let len = match self.chance.random_range(0..16) {
            0 => 5 << 20,
            1..4 => 300_000,
            4..8 => 5_000,
            _ => self.chance.random_range(0..4_096),
        };
        let mut bytes = vec![0; len];
        self.chance.fill(&mut bytes[..]);
        let name = self.any_name();
        let what = format!("upload {name}, {len} bytes");
        let file = path(&name);
        let uploaded = async {
            match upload::upload(&self.writer, &file, &bytes[..], &Default::default()).await {
                Ok(_) => Ok(()),
                Err(upload::UploadError::Namespace(error)) => Err(error),
                Err(error) => panic!("{what}: {error}"),
            }
        };
        self.story.done(&what, len, uploaded).await;
        self.story.stage.acknowledge();
        self.ledger.insert(name, bytes);
    }

    async fn rename(&mut self) {
        let Some(from) = self.some_file() else { return };
        let to = self.any_name();
        let renamed = async { self.writer.rename(&path(&from), &path(&to), RenameMode::Replace).await };
        self.story.done(&format!("rename {from} to {to}"), 0, renamed).await;
        self.story.stage.acknowledge();
        let bytes = self.ledger.remove(&from).unwrap();
        self.ledger.insert(to, bytes);
    }

    async fn remove(&mut self) {
        let Some(name) = self.some_file() else { return };
        let removed = async { self.writer.remove_file(&path(&name)).await };
        self.story.done(&format!("remove {name}"), 0, removed).await;
        self.story.stage.acknowledge();
        self.ledger.remove(&name);
    }

    async fn copy(&mut self) {
        let Some(from) = self.some_file() else { return };
        let to = self.any_name();
        if from == to {
            return;
        }
        let copied = async { self.writer.copy_file(&path(&from), &path(&to)).await };
        self.story.done(&format!("copy {from} to {to}"), 0, copied).await;
        self.story.stage.acknowledge();
        let bytes = self.ledger[&from].clone();
        self.ledger.insert(to, bytes);
    }

    /// P3: the other client sees what this one did.
    async fn read(&mut self) {
        let Some(name) = self.some_file() else { return };
        let bytes = &self.ledger[&name];
        let read = bytes_are_as_acknowledged(&self.reader, &name, bytes);
        self.story.done(&format!("read {name}"), bytes.len(), read).await;
    }

    async fn list(&mut self) {
        let dir = *DIRS.iter().choose(&mut self.chance).unwrap();
        let listed = names_are_as_acknowledged(&self.reader, dir, &self.ledger);
        self.story.done(&format!("list {dir}"), 0, listed).await;
    }

    async fn check_all(&self) {
        for dir in DIRS {
            let listed = names_are_as_acknowledged(&self.reader, dir, &self.ledger);
            self.story.done(&format!("list {dir}"), 0, listed).await;
        }
        for (name, bytes) in &self.ledger {
            let read = bytes_are_as_acknowledged(&self.reader, name, bytes);
            self.story.done(&format!("read {name}"), bytes.len(), read).await;
        }
    }

    fn any_name(&mut self) -> String {
        let dir = DIRS.iter().choose(&mut self.chance).unwrap();
        format!("{dir}/{}", self.chance.random_range(0..NAMES))
    }

    fn some_file(&mut self) -> Option<String> {
        self.ledger.keys().choose(&mut self.chance).cloned()
    }
}

fn path(name: &str) -> FilePath {
    FilePath::parse(name.as_bytes()).unwrap()
}
