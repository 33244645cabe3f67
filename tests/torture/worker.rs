//! Programs: each works with files of its own through one mount, looks through the others, and keeps a ledger.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use harness::{invariants::register::Event, tree};
use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

use crate::{
    ledger::{Content, Ledger, brief},
    watch::Watch,
};

/// Files of one program at a time.
const FILES_MAX: usize = 24;

/// Of these, files that are written in many pieces and then rest, so that servers merge them.
const PIECEMEAL_MAX: usize = 8;

/// What everybody sees.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Mount points.
    pub(crate) mounts: Vec<PathBuf>,
    /// How often each mount was killed and came back: odd while it is away, and its empty directory can be seen.
    pub(crate) deaths: Vec<AtomicU64>,
    /// Whether a disk was full at any time.
    pub(crate) was_full: AtomicBool,
    /// Everybody is to come to an end.
    pub(crate) stop: AtomicBool,
    pub(crate) begun: Instant,
    pub(crate) watch: Watch,
}

impl Stage {
    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn deaths_of(&self, mount: usize) -> u64 {
        self.deaths[mount].load(Ordering::Acquire)
    }
}

/// What one program did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) ledger: Ledger,
    pub(crate) dir: String,
    pub(crate) steps: u64,
    pub(crate) failed: u64,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

/// One program.
pub(crate) struct Worker<'a> {
    stage: &'a Stage,
    mount: usize,
    dir: String,
    deaths: u64,
    random: StdRng,
    /// Files named so far.
    named: u64,
    report: Report,
}

impl<'a> Worker<'a> {
    /// A program on `mount`, with the random numbers of `seed`.
    pub(crate) fn new(stage: &'a Stage, mount: usize, seed: u64) -> Self {
        let dir = format!("worker-{seed}");
        fs::create_dir(stage.mounts[mount].join(&dir)).unwrap();
        let report = Report { dir: dir.clone(), ..Report::default() };
        let deaths = stage.deaths_of(mount);
        Self { stage, mount, dir, deaths, random: StdRng::seed_from_u64(seed), named: 0, report }
    }

    /// Works until the end.
    pub(crate) fn run(mut self) -> Report {
        while !self.stage.is_over() && self.report.wrong.len() < 10 {
            let done = self.stage.watch.during(&self.dir.clone(), || self.step());
            self.report.steps += 1;
            let died = self.stage.deaths_of(self.mount) != self.deaths;
            if let Err((name, error)) = done {
                self.report.failed += 1;
                self.report.ledger.close(&name);
                self.judge(&name, &error, died);
            }
            if died {
                self.report.ledger.crash();
                self.wait_for_mount();
            }
        }
        self.report
    }

    /// Errors say that the cluster or the mount is away, or that disks are full, nothing else.
    fn judge(&mut self, name: &str, error: &io::Error, died: bool) {
        let allowed = [rustix::io::Errno::IO, rustix::io::Errno::NOTCONN, rustix::io::Errno::CONNABORTED];
        let is_full = error.kind() == ErrorKind::StorageFull && self.stage.was_full.load(Ordering::Acquire);
        let is_allowed = is_full || allowed.iter().any(|allowed| error.raw_os_error() == Some(allowed.raw_os_error()));
        if !is_allowed && !died {
            self.report.wrong.push(format!("{}/{name}: {error}", self.dir));
        }
        thread::park_timeout(Duration::from_millis(50));
    }

    fn wait_for_mount(&mut self) {
        let begun = Instant::now();
        loop {
            let deaths = self.stage.deaths_of(self.mount);
            if deaths.is_multiple_of(2)
                && fs::read_dir(self.path("")).is_ok()
                && self.stage.deaths_of(self.mount) == deaths
            {
                self.deaths = deaths;
                return;
            }
            if begun.elapsed() > Duration::from_secs(90) {
                self.report.wrong.push(format!("{}: its mount does not come back", self.dir));
                return;
            }
            thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stage.mounts[self.mount].join(&self.dir).join(name)
    }

    fn step(&mut self) -> Result<(), (String, io::Error)> {
        let mut names = self.report.ledger.open_names();
        let kind = self.random.random_range(0..100);
        let resting: Vec<String> = names.extract_if(.., |name| name.starts_with('p')).collect();
        match resting.choose(&mut self.random) {
            Some(name) if kind >= 96 => return self.look(name).map_err(|error| (name.clone(), error)),
            None | Some(_) if kind == 95 && resting.len() < PIECEMEAL_MAX => {
                self.named += 1;
                let name = format!("p{}", self.named);
                return self.write_pieces(&name).map_err(|error| (name, error));
            }
            None | Some(_) => {}
        }
        let known = names.choose(&mut self.random).cloned();
        let name = match known {
            Some(name) if names.len() >= FILES_MAX || kind >= 15 => name,
            _ => {
                self.named += 1;
                let name = format!("f{}", self.named);
                return self.replace(&name).map_err(|error| (name, error));
            }
        };
        let done = match kind {
            0..30 => self.replace(&name),
            30..50 => self.overwrite(&name),
            50..62 => self.append(&name),
            62..70 => self.truncate(&name),
            70..78 => self.rename(&name),
            78..84 => self.remove(&name),
            _ => self.look(&name),
        };
        done.map_err(|error| (name, error))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = match self.random.random_range(0..100) {
            0..40 => self.random.random_range(0..5_000),
            40..95 => self.random.random_range(0..300_000),
            _ => self.random.random_range(0..9 << 20),
        };
        tree::bytes(self.random.random(), len)
    }

    /// As editors save.
    fn replace(&mut self, name: &str) -> io::Result<()> {
        let bytes = self.bytes();
        // A name of its own: what failed may still happen.
        self.named += 1;
        let new = self.path(&format!("new-{}", self.named));
        let file = File::create(&new)?;
        file.write_all_at(&bytes, 0)?;
        if self.random.random_bool(0.7) {
            file.sync_all()?;
        }
        drop(file);
        self.report.ledger.begin(name, Some(bytes));
        fs::rename(new, self.path(name))?;
        self.maybe_sync_names(name)
    }

    /// A new file, each piece of which is waited for.
    fn write_pieces(&mut self, name: &str) -> io::Result<()> {
        let bytes = tree::bytes(self.random.random(), self.random.random_range(80_000..160_000));
        let len = self.random.random_range(2000..4000);
        let mut pieces: Vec<(usize, &[u8])> =
            bytes.chunks(len).enumerate().map(|(index, piece)| (index * len, piece)).collect();
        pieces.shuffle(&mut self.random);
        self.named += 1;
        let new = self.path(&format!("new-{}", self.named));
        let (file, begun) = (File::create(&new)?, Instant::now());
        for (at, piece) in pieces {
            file.write_all_at(piece, at as u64)?;
            // Each may take long while nodes are away, and a step is to end.
            if begun.elapsed() < Duration::from_secs(60) && !self.stage.is_over() {
                file.sync_all()?;
            }
        }
        drop(file);
        self.report.ledger.begin(name, Some(bytes));
        fs::rename(new, self.path(name))?;
        self.maybe_sync_names(name)
    }

    fn maybe_sync_names(&mut self, name: &str) -> io::Result<()> {
        if self.random.random_bool(0.5) {
            // The file's bytes, and then its name.
            if let Some(Some(_)) = self.report.ledger.current(name) {
                File::open(self.path(name))?.sync_all()?;
            }
            File::open(self.path(""))?.sync_all()?;
            self.report.ledger.synced(name);
        }
        Ok(())
    }

    fn current(&self, name: &str) -> Vec<u8> {
        self.report.ledger.current(name).cloned().flatten().unwrap_or_default()
    }

    fn overwrite(&mut self, name: &str) -> io::Result<()> {
        let mut content = self.current(name);
        if content.is_empty() {
            return self.replace(name);
        }
        let at = self.random.random_range(0..content.len());
        let mut patch = self.bytes();
        patch.truncate(200_000.min(content.len() - at));
        content[at..at + patch.len()].copy_from_slice(&patch);
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        self.report.ledger.begin(name, Some(content));
        file.write_all_at(&patch, at as u64)?;
        self.maybe_sync(name, &file)
    }

    fn append(&mut self, name: &str) -> io::Result<()> {
        let mut content = self.current(name);
        let mut more = self.bytes();
        more.truncate(100_000);
        content.extend_from_slice(&more);
        if self.report.ledger.current(name).is_none_or(Option::is_none) || content.len() > 12 << 20 {
            return self.replace(name);
        }
        let mut file = OpenOptions::new().append(true).open(self.path(name))?;
        self.report.ledger.begin(name, Some(content));
        file.write_all(&more)?;
        self.maybe_sync(name, &file)
    }

    fn truncate(&mut self, name: &str) -> io::Result<()> {
        let mut content = self.current(name);
        if content.is_empty() {
            return self.replace(name);
        }
        let len = self.random.random_range(0..content.len() + 1000);
        content.resize(len, 0);
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        self.report.ledger.begin(name, Some(content));
        file.set_len(len as u64)?;
        self.maybe_sync(name, &file)
    }

    fn maybe_sync(&mut self, name: &str, file: &File) -> io::Result<()> {
        if self.random.random_bool(0.4) {
            file.sync_all()?;
            self.report.ledger.synced(name);
        }
        Ok(())
    }

    fn rename(&mut self, name: &str) -> io::Result<()> {
        let content = self.report.ledger.current(name).cloned().flatten();
        let Some(content) = content else { return self.replace(name) };
        self.named += 1;
        let to = format!("f{}", self.named);
        self.report.ledger.begin(&to, Some(content));
        self.report.ledger.begin(name, None);
        let done = fs::rename(self.path(name), self.path(&to)).and_then(|()| {
            if self.random.random_bool(0.5) {
                File::open(self.path(&to))?.sync_all()?;
                File::open(self.path(""))?.sync_all()?;
                self.report.ledger.synced(&to);
                self.report.ledger.synced(name);
            }
            Ok(())
        });
        if done.is_err() {
            self.report.ledger.close(&to);
        }
        done
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        if self.report.ledger.current(name).is_none_or(Option::is_none) {
            return self.look(name);
        }
        self.report.ledger.begin(name, None);
        fs::remove_file(self.path(name))?;
        self.maybe_sync_names(name)
    }

    /// Through any mount: what is there is what was made of it last.
    fn look(&mut self, name: &str) -> io::Result<()> {
        let mount = self.random.random_range(0..self.stage.mounts.len());
        let deaths = self.stage.deaths_of(mount);
        let found = read(&self.stage.mounts[mount].join(&self.dir).join(name));
        let is_away = !deaths.is_multiple_of(2) || self.stage.deaths_of(mount) != deaths;
        let died = is_away || self.stage.deaths_of(self.mount) != self.deaths;
        match found {
            Ok(found) if !died => {
                let expected = self.report.ledger.current(name);
                if expected != Some(&found) {
                    let expected = expected.map_or_else(|| "anything".to_owned(), brief);
                    let found = brief(&found);
                    let dir = &self.dir;
                    self.report
                        .wrong
                        .push(format!("{dir}/{name} by mount {mount}: found {found}, expected {expected}"));
                }
                Ok(())
            }
            // A mount that is away says nothing of the file.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// A file's bytes.
pub(crate) fn read(path: &Path) -> io::Result<Content> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a register file says; half of it says what nobody wrote.
fn value_of(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// A register file that says what nobody wrote: what it says a moment later, for whoever looks for the reason.
fn tell_strange(path: &Path, bytes: &[u8], at: Duration) {
    let file = File::open(path).and_then(|file| Ok((file.metadata()?, read(path)?)));
    eprintln!("{at:.3?} {path:?}: {bytes:?} was read; a moment later {file:?}");
}

/// A program that replaces and reads a file that others replace and read, too. Its mount is not killed.
pub(crate) fn use_register(stage: &Stage, mount: usize, seed: u64) -> Vec<Event> {
    let mut random = StdRng::seed_from_u64(seed);
    let path = stage.mounts[mount].join("register");
    let own = stage.mounts[mount].join(format!("register-{seed}"));
    let mut events = Vec::new();
    for number in 1.. {
        if stage.is_over() {
            break;
        }
        let is_write = random.random_bool(0.3);
        let begun = stage.begun.elapsed();
        let done = stage.watch.during("register", || {
            if is_write {
                let value = seed * 1_000_000 + number;
                // Synced, as closing alone tells nobody here what could not be stored.
                let written = File::create(&own).and_then(|mut file| {
                    file.write_all(value.to_string().as_bytes())?;
                    file.sync_all()
                });
                let done = written.and_then(|()| fs::rename(&own, &path));
                if let Err(error) = &done {
                    eprintln!("{:.3?} register {value}, begun at {begun:.3?}: {error}", stage.begun.elapsed());
                }
                (value, done.is_ok())
            } else {
                match read(&path) {
                    Ok(None) => (0, true),
                    Ok(Some(bytes)) => {
                        let value = value_of(&bytes);
                        if value == u64::MAX {
                            tell_strange(&path, &bytes, stage.begun.elapsed());
                        }
                        (value, true)
                    }
                    Err(_) => (0, false),
                }
            }
        });
        let ended = if done.1 { stage.begun.elapsed() } else { Duration::MAX };
        if is_write || done.1 {
            events.push(Event { begun, ended, is_write, value: done.0 });
        }
        thread::park_timeout(Duration::from_millis(random.random_range(0..30)));
    }
    events
}
