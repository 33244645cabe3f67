//! What the clients do: files come, change, move and go; after every step the promises are checked.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fuse_client::{FilePath, Namespace, upload};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use tokio::time::{Instant, sleep};
use wire::namespace::{Mode, RenameMode};

use super::{
    Members, Stage, World,
    members::come_and_go,
    mounts, registers,
    whole::{wait_collected, wait_whole},
};
use crate::invariants::{Ledger, Severity, bytes_are_as_acknowledged, is_prompt, names_are_as_acknowledged};

/// Where the files are.
const DIRS: [&str; 2] = ["/left", "/right"];

/// Names in each directory: few, so that they are met again.
const NAMES: usize = 8;

/// Ports of the client that changes, of the one that only looks, and of two that share files.
const PORTS: [u16; 4] = [7401, 7402, 7403, 7404];

/// The clients of one run.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) world: Arc<World>,
    pub(super) stage: Stage,
    members: Members,
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
    pub(super) fn new(world: Arc<World>, stage: Stage, members: Members) -> Self {
        Self { world, stage, members, tally: Mutex::default() }
    }

    pub(super) fn tally(&self) -> (usize, Duration) {
        *self.tally.lock().unwrap()
    }

    /// From the first start to the last look.
    pub(super) async fn tell(&self) {
        let [writer, reader, one, other] = self.clients().await;
        let mut clients = Clients { story: self, writer, reader, chance: self.chance(1), ledger: Ledger::default() };
        for dir in DIRS {
            let path = path(dir);
            let made = clients.writer.create_dir(&path, Mode::new(0o755));
            self.done(&format!("create {dir}"), 0, made).await;
        }
        registers::make(self, &one).await;
        let mounts = mounts::open(self).await;
        self.stage.open();
        let (first, second, by_first, by_second, members, ()) = tokio::join!(
            registers::use_them(self, &one, 1),
            registers::use_them(self, &other, 2),
            mounts::use_them(self, &mounts[0], 1),
            mounts::use_them(self, &mounts[1], 2),
            self.come_and_go(&other),
            clients.act(),
        );
        wait_whole(&clients.writer, members).await;
        self.world.trace.note("all nodes are up, with nothing lacking");
        clients.check_all().await;
        let mut ledger = std::mem::take(&mut clients.ledger);
        ledger.extend(registers::check(self, &clients.reader, [first, second]).await);
        ledger.extend(mounts::check(self, &clients.reader, mounts, [by_first, by_second]).await);
        for client in [clients.writer, one, other] {
            client.finish().await;
        }
        wait_collected(&clients.reader, &ledger).await;
        clients.reader.finish().await;
        self.world.trace.note("the nodes hold what files need, and nothing else");
    }

    /// The clients, once the first nodes are there.
    async fn clients(&self) -> [Namespace; 4] {
        let [writer, reader, one, other] = PORTS;
        let writer = self.world.client(writer).await;
        let first = self.members_at_first();
        for node in 1..first {
            self.world.admit(&writer, node).await;
        }
        wait_whole(&writer, first).await;
        let client = |port| self.world.client(port);
        [writer, client(reader).await, client(one).await, client(other).await]
    }

    fn members_at_first(&self) -> usize {
        match self.members {
            Members::Stay => self.world.nodes.len(),
            Members::ComeAndGo => self.world.nodes.len() - 1,
        }
    }

    /// How many members there are in the end.
    async fn come_and_go(&self, client: &Namespace) -> usize {
        match self.members {
            Members::Stay => self.world.nodes.len(),
            Members::ComeAndGo => come_and_go(&self.world, client, &mut self.chance(2)).await,
        }
    }

    fn chance(&self, of: u64) -> StdRng {
        StdRng::seed_from_u64(self.world.seed ^ (0x0570_u64 << of))
    }

    /// Waits for an operation that moves `len` bytes, which must succeed, and as fast as promised.
    pub(super) async fn done<T, E: std::fmt::Display>(
        &self,
        what: &str,
        len: usize,
        operation: impl Future<Output = Result<T, E>>,
    ) -> T {
        let (begin, begun) = (Instant::now(), turmoil::sim_elapsed().unwrap());
        let outcome = operation.await;
        let (elapsed, worst) = (begin.elapsed(), self.stage.worst_since(begun));
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
}

impl Clients<'_> {
    /// One thing after another, until nothing goes wrong any more.
    async fn act(&mut self) {
        while !self.story.stage.is_over() {
            self.step().await;
            sleep(Duration::from_millis(self.chance.random_range(0..300))).await;
        }
    }

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
