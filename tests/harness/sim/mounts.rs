//! Two mounts, without a kernel, that share files: leases, journaled pages, merging.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fuse_client::{
    Namespace,
    fs::{FileSystem, Forget, FsConfig, FsError, HandleId, Making, Write, WriteKind, WriteMode},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::{sync::mpsc, time::sleep};
use wire::namespace::{Inode, Mode, Name, NewContent, NewKind, SetId};

use super::{World, host::wall_clock, story::Story};
use crate::invariants::{
    Ledger, Severity, bytes_are_as_acknowledged,
    register::{Event, wrong},
};

const PAGE: usize = 4096;

/// As many as are merged.
const PAGES: usize = 20;

/// Ports of the clients of the mounts.
const PORTS: [u16; 2] = [7405, 7406];

/// Pages that are written and read by both, each a register; and pages that are written once, one by one, and rest.
const FILES: [&str; 2] = ["registers", "resting"];

/// Answers of one moment are looked up so often at most.
const LOOKS_MAX: usize = 20;

/// What was done with each page.
pub(super) type Histories = BTreeMap<usize, Vec<Event>>;

/// A mount.
pub(super) struct Mount {
    fs: FileSystem,
    handles: [HandleId; 2],
}

/// Both mounts, with the files made by the first.
pub(super) async fn open(story: &Story) -> [Mount; 2] {
    let [first, second] = PORTS;
    let (one, other) = (file_system(&story.world, first).await, file_system(&story.world, second).await);
    for file in FILES {
        let making = Making { kind: NewKind::File(NewContent::Empty), mode: Mode::new(0o644), uid: 0, gid: 0 };
        story.done(&format!("make {file}"), 0, one.make(Inode::ROOT, &name(file), making)).await;
    }
    let one = Mount::new(story, one).await;
    let mut order: Vec<usize> = (0..PAGES).collect();
    order.shuffle(&mut StdRng::seed_from_u64(story.world.seed));
    for page in order {
        one.write(story, 1, page, resting(page)).await;
        assert!(one.sync(story, 1).await, "nothing is broken yet");
        one.write(story, 0, page, 0).await;
    }
    assert!(one.sync(story, 0).await, "nothing is broken yet");
    [one, Mount::new(story, other).await]
}

/// Mount `number` uses the files until nothing goes wrong any more.
pub(super) async fn use_them(story: &Story, mount: &Mount, number: u64) -> Histories {
    let mut chance = StdRng::seed_from_u64(story.world.seed ^ (number << 16));
    let mut histories = Histories::new();
    let mut next = number << 32;
    while !story.stage.is_over() {
        let page = chance.random_range(0..PAGES);
        match chance.random_range(0..8) {
            0 => assert_eq!(mount.read(story, 1, page).await, resting(page), "page {page} that rests"),
            1..5 => {
                let begun = now();
                let value = mount.read(story, 0, page).await;
                histories.entry(page).or_default().push(Event { begun, ended: now(), is_write: false, value });
            }
            _ => {
                next += 1;
                let begun = now();
                mount.write(story, 0, page, next).await;
                // What was written and not synced is lost, with an error, if the lease ends and another mount writes.
                let ended = if mount.sync(story, 0).await { now() } else { Duration::MAX };
                histories.entry(page).or_default().push(Event { begun, ended, is_write: true, value: next });
            }
        }
        sleep(Duration::from_millis(chance.random_range(0..500))).await;
    }
    histories
}

/// P3: each page was one register to both mounts. What the files hold in the end.
pub(super) async fn check(story: &Story, reader: &Namespace, [one, other]: [Mount; 2], all: [Histories; 2]) -> Ledger {
    let mut histories = Histories::new();
    for (page, events) in all.into_iter().flatten() {
        histories.entry(page).or_default().extend(events);
    }
    for page in 0..PAGES {
        let begun = now();
        let value = other.read(story, 0, page).await;
        let events = histories.entry(page).or_default();
        events.push(Event { begun, ended: now(), is_write: false, value });
        let found = wrong(events);
        assert!(found.is_empty(), "page {page} is no register: {}", found.join("\n"));
        // From now on all pages differ.
        one.write(story, 0, page, last(page)).await;
        assert!(one.sync(story, 0).await, "nothing is broken any more");
    }
    let whole = |value: fn(usize) -> u64| (0..PAGES).flat_map(|page| content(value(page))).collect::<Vec<u8>>();
    let ledger = Ledger::from([(path(FILES[0]), whole(last)), (path(FILES[1]), whole(resting))]);
    for (file, bytes) in &ledger {
        story.done(&format!("read {file}"), bytes.len(), bytes_are_as_acknowledged(reader, file, bytes)).await;
    }
    for mount in [one, other] {
        mount.handles.into_iter().for_each(|handle| drop(mount.fs.release_file(handle, None)));
        mount.fs.close().await;
    }
    ledger
}

async fn file_system(world: &Arc<World>, port: u16) -> FileSystem {
    let cluster = world.client(port).await.cluster().clone();
    let config = FsConfig { wall_clock, ..FsConfig::default() };
    let (fs, forgets) = FileSystem::open(cluster, config).await.unwrap();
    tokio::spawn(forget(forgets));
    fs
}

/// A kernel that keeps nothing.
async fn forget(mut forgets: mpsc::Receiver<Forget>) {
    while let Some(forget) = forgets.recv().await {
        match forget {
            Forget::Pages(_, done) | Forget::Names(_, done) => drop(done.send(())),
            Forget::Attributes(..) | Forget::AllNames(_) => {}
        }
    }
}

impl Mount {
    async fn new(story: &Story, fs: FileSystem) -> Self {
        let mut handles = [HandleId(0); 2];
        for (file, handle) in FILES.into_iter().zip(&mut handles) {
            let opened = async {
                let attr = fs.load_name(Inode::ROOT, &name(file)).await?.expect("it was made");
                fs.open_file(attr.inode).await
            };
            *handle = story.done(&format!("open {file}"), 0, opened).await.handle;
        }
        Self { fs, handles }
    }

    async fn write(&self, story: &Story, file: usize, page: usize, value: u64) {
        let (offset, data) = ((page * PAGE) as u64, content(value));
        let write = Write {
            handle: self.handles[file],
            offset,
            data: &data,
            kind: WriteKind::Plain,
            mode: WriteMode::default(),
            set_id: SetId::Keep,
        };
        let what = format!("write {value} to page {page} of {}", FILES[file]);
        assert_eq!(story.done(&what, PAGE, self.fs.write(write)).await as usize, PAGE);
    }

    /// Whether what was written is there for good. Where more than one node is broken leases end.
    async fn sync(&self, story: &Story, file: usize) -> bool {
        let begun = now();
        let synced = async {
            match self.fs.sync(self.handles[file]).await {
                Err(FsError::Overtaken) if story.stage.worst_since(begun) == Severity::More => Ok(false),
                synced => synced.map(|()| true),
            }
        };
        story.done(&format!("sync {}", FILES[file]), PAGES * PAGE, synced).await
    }

    async fn read(&self, story: &Story, file: usize, page: usize) -> u64 {
        let offset = (page * PAGE) as u64;
        let read = async {
            for _ in 0..LOOKS_MAX {
                let (bytes, stand) = self.fs.read(self.handles[file], offset, PAGE as u32).await?;
                if self.fs.stands(&self.fs.gate(), stand) {
                    return Ok(bytes);
                }
            }
            Err(FsError::Deadline)
        };
        let bytes = story.done(&format!("read page {page} of {}", FILES[file]), PAGE, read).await;
        let value = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        assert!(bytes == content(value), "page {page} of {} holds {value}, and something else too", FILES[file]);
        value
    }
}

fn name(file: &str) -> Name {
    Name::new(file).unwrap()
}

fn path(file: &str) -> String {
    format!("/{file}")
}

fn resting(page: usize) -> u64 {
    1000 + page as u64
}

fn last(page: usize) -> u64 {
    2000 + page as u64
}

fn content(value: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(PAGE / 8)
}

fn now() -> Duration {
    turmoil::sim_elapsed().unwrap()
}
