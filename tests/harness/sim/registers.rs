//! Two clients that replace and read the same files at once.

use std::{collections::BTreeMap, time::Duration};

use fuse_client::{FilePath, Namespace, NamespaceError, download, upload};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::sleep;
use wire::namespace::Mode;

use super::story::Story;
use crate::invariants::{
    Ledger,
    register::{Event, wrong},
};

/// Where the registers are.
const DIR: &str = "/shared";

/// One that is kept in its inode, and one in a chunk: lengths of their contents.
const LENS: [usize; 2] = [64, 6_400];

/// What was done with each register.
pub(super) type Histories = BTreeMap<usize, Vec<Event>>;

/// The registers, holding 0.
pub(super) async fn make(story: &Story, namespace: &Namespace) {
    let dir = FilePath::parse(DIR.as_bytes()).unwrap();
    story.done("create /shared", 0, namespace.create_dir(&dir, Mode::new(0o755))).await;
    for register in 0..LENS.len() {
        story.done("make a register", 0, write(namespace, register, 0)).await;
    }
}

/// Client `number` uses them until nothing goes wrong any more.
pub(super) async fn use_them(story: &Story, namespace: &Namespace, number: u64) -> Histories {
    let mut chance = StdRng::seed_from_u64(story.world.seed ^ (number << 8));
    let mut histories = Histories::new();
    let mut next = number << 32;
    while !story.stage.is_over() {
        let register = chance.random_range(0..LENS.len());
        let is_write = chance.random();
        let begun = now();
        let value = if is_write {
            next += 1;
            story.done(&format!("write {next} to register {register}"), 0, write(namespace, register, next)).await;
            next
        } else {
            story.done(&format!("read register {register}"), 0, read(namespace, register)).await
        };
        histories.entry(register).or_default().push(Event { begun, ended: now(), is_write, value });
        sleep(Duration::from_millis(chance.random_range(0..1_000))).await;
    }
    histories
}

/// P3: each was one register to all who used it. What they hold in the end.
pub(super) async fn check(story: &Story, namespace: &Namespace, all: [Histories; 2]) -> Ledger {
    let mut ledger = Ledger::new();
    let mut histories = Histories::new();
    for (register, events) in all.into_iter().flatten() {
        histories.entry(register).or_default().extend(events);
    }
    for register in 0..LENS.len() {
        let begun = now();
        let value = story.done(&format!("read register {register}"), 0, read(namespace, register)).await;
        let events = histories.entry(register).or_default();
        events.push(Event { begun, ended: now(), is_write: false, value });
        let found = wrong(events);
        assert!(found.is_empty(), "register {register} is none: {}", found.join("\n"));
        ledger.insert(path(register), content(register, value));
    }
    ledger
}

async fn write(namespace: &Namespace, register: usize, value: u64) -> Result<(), NamespaceError> {
    let (file, bytes) = (FilePath::parse(path(register).as_bytes()).unwrap(), content(register, value));
    match upload::upload(namespace, &file, &bytes[..], &Default::default()).await {
        Ok(_) => Ok(()),
        Err(upload::UploadError::Namespace(error)) => Err(error),
        Err(error) => panic!("a write to register {register}: {error}"),
    }
}

async fn read(namespace: &Namespace, register: usize) -> Result<u64, NamespaceError> {
    let file = FilePath::parse(path(register).as_bytes()).unwrap();
    let mut reader = download::open(namespace, &file).await?;
    let mut found = Vec::new();
    while let Some(part) = reader.next().await? {
        found.extend_from_slice(&part);
    }
    let value = u64::from_le_bytes(*found.first_chunk().unwrap());
    assert!(found == content(register, value), "register {register} holds {value}, and something else too");
    Ok(value)
}

fn path(register: usize) -> String {
    format!("{DIR}/{register}")
}

fn content(register: usize, value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(LENS[register] / 8)
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap()
}
