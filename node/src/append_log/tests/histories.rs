//! Random histories: appends, syncs, marks, new files, failures, kills and power cuts, against a list.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::{Align, AppendError, AppendLog, FileId, FileState, FileStyle, LogConfig, Position};
use super::{FILE_LEN, append_synced, config, dir, record, records, rng};
use crate::disk::{SimDisk, SimFault, SimOptions};

/// A record that was appended, in order.
#[derive(Clone, Copy, Debug)]
struct Known {
    number: u64,
    /// Unknown if the append was not answered.
    position: Option<Position>,
}

struct History {
    seed: u64,
    dice: StdRng,
    disk: SimDisk,
    config: LogConfig,
    log: AppendLog,
    /// What the log may hold, in order.
    known: Vec<Known>,
    /// So many of them must survive.
    acked: usize,
    next: u64,
    trace: Vec<String>,
    survived_unsynced: u64,
    cuts: u64,
    refused: u64,
    /// Whether the removal of the oldest file was not answered.
    dropping: bool,
}

impl History {
    async fn new(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let latency_max = Duration::from_millis(dice.random_range(0..3) * 4);
        let capacity = if dice.random_range(0..3) == 0 { dice.random_range(4..8) * FILE_LEN } else { u64::MAX };
        let disk = SimDisk::new(SimOptions { seed, latency_max, capacity });
        let style = if dice.random() { FileStyle::Allocated } else { FileStyle::ZeroFilled };
        let config = config(style);
        let (log, _) = open_log(&disk, &config, seed).await.unwrap();
        let trace = vec![format!("{style:?}, latency {latency_max:?}")];
        let (known, acked, next, survived_unsynced, cuts, refused) = (Vec::new(), 0, 0, 0, 0, 0);
        Self {
            seed,
            dice,
            disk,
            config,
            log,
            known,
            acked,
            next,
            trace,
            survived_unsynced,
            cuts,
            refused,
            dropping: false,
        }
    }

    async fn step(&mut self) {
        let choice = self.dice.random_range(0..100);
        self.trace.push(format!("{choice}: {} known, {} acked", self.known.len(), self.acked));
        match choice {
            0..40 => self.append(false).await,
            40..55 => self.append(true).await,
            55..67 => self.sync().await,
            67..73 => tokio::time::sleep(Duration::from_millis(self.dice.random_range(1..100))).await,
            73..76 => drop(self.log.seal().await),
            76..80 => self.drop_oldest_file().await,
            80..82 => self.disk.inject(SimFault::NextSync),
            82..83 => self.disk.inject(SimFault::NextWrite),
            83..88 => self.disk.cut_power_after(self.dice.random_range(1..12)),
            88..92 => self.restart(Ending::Killed).await,
            92..96 => self.restart(Ending::PowerCut).await,
            96..98 => self.restart(Ending::Closed).await,
            _ => self.reopen().await,
        }
        if !self.disk.is_powered() {
            self.restart(Ending::PowerCut).await;
        }
    }

    async fn append(&mut self, synced: bool) {
        let len = if self.dice.random_range(0..4) == 0 { 6000 } else { 300 };
        let len = self.dice.random_range(0..len);
        let align = if self.dice.random_range(0..4) == 0 { Align::Page } else { Align::Packed };
        let number = self.next;
        self.next += 1;
        let record = record(number, len, align);
        let appended = if synced {
            append_synced(&self.log, vec![record]).await.map(|(appended, _)| appended[0])
        } else {
            self.log.append(record).await
        };
        match appended {
            Ok(appended) => {
                assert!(align == Align::Packed || appended.payload_offset % 4096 == 0, "seed {}", self.seed);
                self.known.push(Known { number, position: Some(appended.position) });
                if synced {
                    self.acked = self.known.len();
                }
            }
            Err(AppendError::Failed { .. }) => {
                self.known.push(Known { number, position: None });
                self.reopen().await;
            }
            Err(AppendError::NoRoom { .. }) => {
                self.refused += 1;
                self.drop_oldest_file().await;
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    async fn sync(&mut self) {
        match self.log.sync().await {
            Ok(_) => self.acked = self.known.len(),
            Err(_) => self.reopen().await,
        }
    }

    async fn reopen(&mut self) {
        let before = self.log.incarnation();
        let Ok(reopened) = self.log.reopen().await else { return };
        if reopened.incarnation == before {
            return assert_eq!(reopened.cut, None, "seed {}", self.seed);
        }
        let stays = |position| reopened.cut.is_none_or(|cut| position < cut);
        self.known.retain(|known| known.position.is_some_and(stays));
        let (left, acked, story) = (self.known.len(), self.acked, self.trace.join("\n"));
        assert!(left >= acked, "seed {}: {reopened:?} left {left} of {acked} acknowledged\n{story}", self.seed);
        self.acked = self.known.len();
        if self.disk.is_powered() {
            self.disk.cut_power_after(u64::MAX);
            self.check(self.known.len()).await;
        }
    }

    async fn drop_oldest_file(&mut self) {
        let Some(file) = self.log.files().first().copied().filter(|file| file.state == FileState::Sealed) else {
            return;
        };
        let dropped =
            if self.dice.random() { self.log.remove_file(file.id).await } else { self.log.recycle(file.id).await };
        match dropped {
            Ok(()) => self.forget(file.id),
            Err(_) => {
                // It may be gone or not: the next open tells.
                self.dropping = true;
                self.restart(Ending::PowerCut).await;
                self.dropping = false;
            }
        }
    }

    fn forget(&mut self, file: FileId) {
        let gone = |known: &Known| known.position.is_some_and(|position| position.file == file);
        self.acked -= self.known[..self.acked].iter().filter(|known| gone(known)).count();
        self.known.retain(|known| !gone(known));
    }

    async fn restart(&mut self, ending: Ending) {
        match ending {
            Ending::Closed => {
                if self.log.clone().close().await.is_ok() {
                    self.acked = self.known.len();
                }
            }
            Ending::Killed => self.disk.kill(),
            Ending::PowerCut => {
                self.disk.power_cycle();
                self.cuts += 1;
            }
        }
        for attempt in 0.. {
            // Sometimes the power goes again while the log is opened.
            if attempt == 0 && self.dice.random_range(0..4) == 0 {
                self.disk.cut_power_after(self.dice.random_range(1..6));
            }
            let opened = open_log(&self.disk, &self.config, self.seed * 1000 + self.next).await;
            if let (Ok((log, recovered)), true) = (&opened, self.disk.is_powered()) {
                self.disk.cut_power_after(u64::MAX);
                assert_eq!(recovered.damage, vec![], "seed {}", self.seed);
                self.log = log.clone();
                break;
            }
            assert!(attempt < 5, "seed {}: cannot open: {:?}", self.seed, opened.err());
            self.disk.power_cycle();
        }
        // A file whose removal was not answered is there whole, or not at all.
        let first = self.log.files().first().map(|file| file.id);
        let oldest = self.known.iter().find_map(|known| known.position.map(|position| position.file));
        if let (Some(first), Some(oldest)) = (first, oldest)
            && first > oldest
            && self.dropping
        {
            self.forget(oldest);
        }
        self.check(self.acked).await;
    }

    /// What is there is a prefix of what was appended, and at least what was acknowledged; from now on all of it is.
    async fn check(&mut self, least: usize) {
        let (found, positions): (Vec<u64>, Vec<Position>) = records(&self.log).await.into_iter().unzip();
        let known: Vec<u64> = self.known.iter().map(|known| known.number).collect();
        let story = || self.trace.join("\n");
        assert!(known.starts_with(&found), "seed {}: {found:?} of {known:?}\n{}", self.seed, story());
        assert!(found.len() >= least, "seed {}: lost {:?}\n{}", self.seed, &known[found.len()..least], story());
        self.survived_unsynced += (found.len() - least) as u64;
        let place = |(number, position)| Known { number, position: Some(position) };
        self.known = found.iter().copied().zip(positions).map(place).collect();
        self.acked = found.len();
    }
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Closed,
    Killed,
    PowerCut,
}

async fn open_log(
    disk: &SimDisk,
    config: &LogConfig,
    seed: u64,
) -> Result<(AppendLog, super::super::Recovered), super::super::OpenError> {
    AppendLog::open(disk.process(), &dir(), config.clone(), rng(seed)).await
}

/// Runs one history in virtual time.
fn run(seed: u64) -> History {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut history = History::new(seed).await;
        for _ in 0..60 {
            history.step().await;
        }
        history.restart(Ending::PowerCut).await;
        history
    })
}

#[test]
fn whatever_happens_the_log_holds_a_prefix_and_all_that_was_acknowledged() {
    let (mut cuts, mut survived, mut refused) = (0, 0, 0);
    for seed in 0..1000 {
        let history = run(seed);
        cuts += history.cuts;
        refused += history.refused;
        survived += history.survived_unsynced;
    }
    assert!(refused > 50, "the disk was full only {refused} times: too tame");
    assert!(cuts > 4_000 && survived > 1_500, "{cuts} power cuts, {survived} unsynced records survived: too tame");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..20 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.disk.paths(), second.disk.paths(), "seed {seed}");
        assert_eq!(first.disk.sync_count(), second.disk.sync_count(), "seed {seed}");
    }
}
