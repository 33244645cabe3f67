//! Room kept back beside the stores of a node, for the day on which something else fills its file system.
//!
//! Puts of chunks leave a reserve by themselves, but another program takes that as well. What the namespace and the indexes
//! write then fails, and the node with it; and without nodes nothing can be read, or removed to make room. So a file, the
//! *ballast*, holds some room from the day on which there is enough. Once everything is taken, and nobody seems to take more,
//! the ballast is given up, and the node works on from that: reads, removals, and small changes.
//!
//! # Invariants
//! - It is given up only where nothing else is left, and not while free room still shrinks: whoever is at it would take that
//!   as well. (Somebody who tries again and again for the last byte gets it all the same.)
//! - It is taken only where the node has room to spare, what the chunk store leaves free among it.
//!
//! # Not here
//! Refusing chunks while there is little room ([`crate::chunk_store`]).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tracing::{info, warn};

use super::Space;

/// Between two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The most that it is: some minutes of a busy namespace, a day of an idle one.
const LEN_MAX: u64 = 128 << 20;

/// And at most this part of the file system.
const PART: u64 = 10;

/// Less than this is nothing: the Raft log begins a file of 32 MiB now and then, and a table of the key-value stores has 8.
const NOTHING_LEFT: u64 = 48 << 20;

/// Free room at which it is taken, and half of a file system in any case: twice what the chunk store leaves free for itself.
const PLENTY: u64 = 1 << 30;

/// Before it is tried again to take it, where that failed.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Looks in a row that find nothing left, and no less than before, before whoever took it counts as done.
const LOOKS: u32 = 4;

/// What is to be done. Pure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Keep,
    GiveUp,
    Take,
}

/// How long the ballast of such a file system is.
fn ballast_len(space: Space) -> u64 {
    LEN_MAX.min(space.total / PART)
}

/// Whether nothing is left of a file system.
fn is_starved(space: Space) -> bool {
    space.free < NOTHING_LEFT.min(ballast_len(space) / 2)
}

/// How it was at the last looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Looks {
    /// In a row that found nothing left, and no less than the one before.
    starved: u32,
    free: u64,
}

impl Looks {
    fn poll(&mut self, is_held: bool, space: Space) -> Step {
        self.starved = if is_starved(space) && space.free >= self.free { self.starved + 1 } else { 0 };
        self.free = space.free;
        match is_held {
            true if self.starved >= LOOKS => Step::GiveUp,
            false if space.free > PLENTY.min(space.total / 2) => Step::Take,
            true | false => Step::Keep,
        }
    }
}

/// The ballast of one data directory.
#[derive(Debug)]
pub struct Ballast {
    dir: PathBuf,
    looks: Looks,
    was_starved: Arc<AtomicBool>,
    starved: Starved,
}

/// Whether next to nothing is left on the file system of a node, and nothing is kept back either. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Starved(Arc<AtomicBool>);

impl Starved {
    /// As of the last look.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, is_starved: bool) {
        self.0.store(is_starved, Ordering::Relaxed);
    }
}

impl Ballast {
    /// Of the data directory `dir`. Nothing is taken yet.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), looks: Looks::default(), was_starved: Arc::default(), starved: Starved::default() }
    }

    /// Another that looks for itself, and tells this one when it found nothing left.
    pub fn twin(&self) -> Self {
        let (was_starved, starved) = (Arc::clone(&self.was_starved), self.starved.clone());
        Self { dir: self.dir.clone(), looks: Looks::default(), was_starved, starved }
    }

    /// Whether nothing was left at a look of this or of its twins.
    pub fn was_starved(&self) -> bool {
        self.was_starved.load(Ordering::Relaxed)
    }

    /// What the looks of this and of its twins find.
    pub fn starved(&self) -> Starved {
        self.starved.clone()
    }

    /// Looks how much room there is, and gives the ballast up, or takes it, if that is due. To be called every
    /// [`LOOK_EVERY`]; blocks for a few calls of the system. Whether nothing is left, and there is a ballast to give up.
    pub fn look(&mut self) -> io::Result<bool> {
        let (space, is_held) = (self.space()?, self.is_held()?);
        if is_starved(space) {
            self.was_starved.store(true, Ordering::Relaxed);
        }
        // Before anything that may fail.
        self.starved.set(is_starved(space) && !is_held);
        match self.looks.poll(is_held, space) {
            Step::Keep => {}
            Step::GiveUp => self.give_up()?,
            Step::Take => self.take(ballast_len(space))?,
        }
        Ok(is_starved(space) && self.is_held()?)
    }

    /// Looks again and again, until this is dropped.
    pub async fn keep(self) {
        let (mut ballast, mut told) = (self, false);
        loop {
            let looked = tokio::task::spawn_blocking(move || {
                let looked = ballast.look();
                (ballast, looked)
            });
            let Ok((same, looked)) = looked.await else { return };
            ballast = same;
            if let Err(error) = &looked
                && !std::mem::replace(&mut told, true)
            {
                warn!(%error, "no room can be kept back for the day on which the file system is full");
            }
            tokio::time::sleep(if looked.is_err() { TRY_AGAIN } else { LOOK_EVERY }).await;
        }
    }

    fn is_held(&self) -> io::Result<bool> {
        self.path().try_exists()
    }

    /// Gives the room to whoever is first.
    fn give_up(&self) -> io::Result<()> {
        fs::remove_file(self.path())?;
        warn!(dir = %self.dir.display(), "the file system is full: working on from what was kept back; make room there");
        Ok(())
    }

    fn take(&self, len: u64) -> io::Result<()> {
        let (path, making) = (self.path(), self.dir.join("ballast.new"));
        let taken = fallocate(File::create(&making)?, FallocateFlags::empty(), 0, len);
        match taken {
            Ok(()) => {}
            // There is no way to hold room on such a file system, or it has just been taken.
            Err(error) => return fs::remove_file(making).and(Err(error.into())),
        }
        fs::rename(making, path)?;
        info!(bytes = len, "room is kept back for the day on which the file system is full");
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let space = statvfs(&self.dir)?;
        Ok(Space { free: space.f_bavail * space.f_frsize, total: space.f_blocks * space.f_frsize })
    }

    fn path(&self) -> PathBuf {
        self.dir.join("ballast")
    }
}

#[cfg(test)]
mod tests {
    use super::{Ballast, LEN_MAX, LOOKS, Looks, NOTHING_LEFT, PLENTY, Space, Step, ballast_len};

    const TOTAL: u64 = 1 << 40;

    /// Otherwise the cluster would go on refusing what takes room.
    #[test]
    fn room_that_is_back_is_seen_also_where_none_can_be_kept_back() {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(dir.path().join("ballast.new")).unwrap();
        let mut ballast = Ballast::new(dir.path());
        ballast.starved.set(true);
        assert!(ballast.look().is_err(), "there is more than a GiB of room here, and no way to take it");
        assert!(!ballast.starved().get());
    }

    #[test]
    fn it_is_given_up_once_nothing_is_left_and_free_room_shrinks_no_more() {
        let mut looks = Looks::default();
        let mut poll = |is_held, free| looks.poll(is_held, Space { free, total: TOTAL });
        assert_eq!(poll(true, PLENTY), Step::Keep);
        assert_eq!(poll(true, NOTHING_LEFT), Step::Keep);
        for taken in 1..10 {
            assert_eq!(poll(true, NOTHING_LEFT - (taken << 20)), Step::Keep, "somebody is at it");
        }
        let left = NOTHING_LEFT - (9 << 20);
        let steps: Vec<Step> = (0..LOOKS).map(|_| poll(true, left)).collect();
        assert_eq!(steps, [Step::Keep, Step::Keep, Step::Keep, Step::GiveUp]);
        assert_eq!(poll(false, LEN_MAX + left), Step::Keep, "what was given up is no room to take");
        assert_eq!(poll(false, PLENTY), Step::Keep);
        assert_eq!(poll(false, PLENTY + 1), Step::Take);
    }

    #[test]
    fn of_a_small_file_system_a_tenth_is_kept_back_and_half_of_that_is_nothing() {
        let (mut looks, total) = (Looks::default(), 400 << 20);
        let mut poll = |is_held, free| looks.poll(is_held, Space { free, total });
        assert_eq!(ballast_len(Space { free: 0, total }), 40 << 20);
        assert_eq!(poll(false, total / 2), Step::Keep);
        assert_eq!(poll(false, total / 2 + 1), Step::Take);
        let steps: Vec<Step> = (0..2 * LOOKS).map(|_| poll(true, 20 << 20)).collect();
        assert!(steps.iter().all(|step| *step == Step::Keep));
        let last = (0..=LOOKS).map(|_| poll(true, (20 << 20) - 1)).last();
        assert_eq!(last, Some(Step::GiveUp));
    }
}
