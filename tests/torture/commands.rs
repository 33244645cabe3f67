//! A program that works by commands: uploads small trees, downloads and removes them, and keeps a ledger.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use harness::{Cluster, Ran, cluster::run, hosts::command_in, tree};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    ledger::brief,
    worker::{self, Report, Stage},
};

/// Trees at a time.
const TREES_MAX: usize = 6;

const FILES: [&str; 3] = ["small", "of a chunk", "deep/large"];

/// What commands need, while nodes come and go.
#[derive(Clone, Debug)]
pub(crate) struct Commands {
    dir: PathBuf,
    profile: PathBuf,
    network: Option<String>,
}

impl Commands {
    /// Commands of the first client of `cluster`.
    pub(crate) fn of(cluster: &Cluster, network: Option<String>) -> Self {
        let dir = cluster.path("commands");
        fs::create_dir_all(&dir).unwrap();
        Self { dir, profile: cluster.profile(), network }
    }

    pub(crate) fn dfs(&self, arguments: &[&str]) -> Ran {
        let mut command = command_in(self.network.as_deref(), "dfs");
        command.env("XDG_CONFIG_HOME", self.dir.join("config")).env("XDG_STATE_HOME", self.dir.join("state"));
        run(command.arg("--profile").arg(&self.profile).args(arguments))
    }
}

struct User<'a> {
    commands: &'a Commands,
    random: StdRng,
    trees: Vec<String>,
    made: u64,
    report: Report,
}

/// Uploads, downloads and removes until the end.
pub(crate) fn use_commands(stage: &Stage, commands: &Commands, seed: u64) -> Report {
    let report = Report { dir: format!("commands-{seed}"), ..Report::default() };
    let mut user = User { commands, random: StdRng::seed_from_u64(seed), trees: Vec::new(), made: 0, report };
    while !stage.is_over() && user.report.wrong.len() < 10 {
        stage.watch.during("a command", || user.step());
        user.report.steps += 1;
        thread::park_timeout(Duration::from_millis(50));
    }
    user.report
}

impl User<'_> {
    fn step(&mut self) {
        let known = self.trees.choose(&mut self.random).cloned();
        match (known, self.random.random_range(0..10)) {
            (None, _) => self.upload(),
            (Some(_), 0..4) if self.trees.len() < TREES_MAX => self.upload(),
            (Some(tree), 4..6) => self.remove(&tree),
            (Some(tree), _) => self.download(&tree),
        }
    }

    fn names(tree: &str) -> impl Iterator<Item = String> {
        FILES.iter().map(move |file| format!("{tree}/{file}"))
    }

    fn upload(&mut self) {
        self.made += 1;
        let name = format!("t{}", self.made);
        let local = self.commands.dir.join(&name);
        fs::create_dir_all(local.join("deep")).unwrap();
        for (name, max) in Self::names(&name).zip([4000, 200_000, 6 << 20]) {
            let len = self.random.random_range(0..max);
            let bytes = tree::bytes(self.random.random(), len);
            fs::write(self.commands.dir.join(&name), &bytes).unwrap();
            self.report.ledger.begin(&name, Some(bytes));
        }
        let to = format!("/{}/{name}", self.report.dir);
        let ran = self.commands.dfs(&["upload", "-q", "-r", "-T", local.to_str().unwrap(), &to]);
        fs::remove_dir_all(local).unwrap();
        if self.settle(&name, &ran) {
            self.trees.push(name);
        }
    }

    fn remove(&mut self, tree: &str) {
        self.trees.retain(|one| one != tree);
        Self::names(tree).for_each(|name| self.report.ledger.begin(&name, None));
        let ran = self.commands.dfs(&["rm", "-r", &format!("/{}/{tree}", self.report.dir)]);
        self.settle(tree, &ran);
    }

    /// Whether a command has done what it says; otherwise nobody knows what of it is done.
    fn settle(&mut self, tree: &str, ran: &Ran) -> bool {
        let done = ran.status == 0;
        if !done {
            self.report.failed += 1;
        }
        for name in Self::names(tree) {
            if done {
                self.report.ledger.synced(&name);
            } else {
                self.report.ledger.close(&name);
            }
        }
        done
    }

    fn download(&mut self, tree: &str) {
        let local = self.commands.dir.join("back");
        let from = format!("/{}/{tree}", self.report.dir);
        let ran = self.commands.dfs(&["download", "-q", "-r", "-T", &from, local.to_str().unwrap()]);
        if ran.status == 0 {
            Self::names(tree).zip(FILES).for_each(|(name, file)| self.compare(&name, &local.join(file)));
        } else {
            self.report.failed += 1;
        }
        if local.exists() {
            fs::remove_dir_all(local).unwrap();
        }
    }

    fn compare(&mut self, name: &str, path: &Path) {
        let found = worker::read(path).unwrap();
        let expected = self.report.ledger.current(name);
        if expected != Some(&found) {
            let expected = expected.map_or_else(|| "anything".to_owned(), brief);
            let what = format!("{}/{name} downloaded: {}, expected {expected}", self.report.dir, brief(&found));
            self.report.wrong.push(what);
        }
    }
}
