//! Room kept back beside the stores of a node, for the day on which something else fills its file system.
//!
//! Puts of chunks leave a reserve by themselves, but another program takes that as well. What the namespace and the indexes
//! write then fails, and the node with it; and without nodes nothing can be read, or removed to make room. So a file, the
//! *ballast*, holds some room from the day on which there is enough. Once everything is taken, and whoever took it has
//! stopped, the ballast is given up, and the node works on from that: reads, removals, and small changes.
//!
//! # Invariants
//! - It is given up only where nothing else is left, and not while somebody is still taking what there is: that would be
//!   gone as well.
//! - It is taken again only where more than twice as much is free.
//!
//! # Not here
//! Refusing chunks while there is little room ([`crate::chunk_store`]).

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use tracing::{info, warn};

/// Between two looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The most that it is: some minutes of a busy namespace, a day of an idle one.
const LEN_MAX: u64 = 128 << 20;

/// And at most this part of the file system.
const PART: u64 = 10;

/// Less than this is nothing: a table of the key-value stores is 8 MiB.
const NOTHING_LEFT: u64 = 16 << 20;

/// Looks in a row that find nothing left, and no less than before, before whoever took it counts as done.
const LOOKS: u32 = 4;

/// What is to be done. Pure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Keep,
    GiveUp,
    Take,
}

/// How it was at the last looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Looks {
    /// That found nothing left, and no less than the one before.
    starved: u32,
    free: u64,
}

impl Looks {
    fn poll(&mut self, is_held: bool, free: u64, len: u64) -> Step {
        let starved = free < NOTHING_LEFT.min(len / 2);
        self.starved = if starved && free >= self.free { self.starved + 1 } else { 0 };
        self.free = free;
        match is_held {
            true if self.starved >= LOOKS => Step::GiveUp,
            false if free > 2 * len => Step::Take,
            true | false => Step::Keep,
        }
    }
}

/// The ballast of one data directory.
#[derive(Debug)]
pub struct Ballast {
    dir: PathBuf,
    looks: Looks,
}

impl Ballast {
    /// Of the data directory `dir`. Nothing is taken yet.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), looks: Looks::default() }
    }

    /// Looks how much room there is, and gives the ballast up, or takes it, if that is due. To be called every
    /// [`LOOK_EVERY`]; blocks for a few calls of the system.
    pub fn look(&mut self) -> io::Result<()> {
        let (free, len) = self.space()?;
        match self.looks.poll(self.is_held()?, free, len) {
            Step::Keep => Ok(()),
            Step::GiveUp => self.give_up(),
            Step::Take => self.take(len),
        }
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
            if let Err(error) = looked
                && !std::mem::replace(&mut told, true)
            {
                warn!(%error, "no room can be kept back for the day on which the file system is full");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether a store that has failed may have failed for want of room which there is once the ballast is given up.
    pub fn may_help(&self) -> io::Result<bool> {
        let (free, len) = self.space()?;
        Ok(self.is_held()? && free < len)
    }

    /// Whether it holds room.
    pub fn is_held(&self) -> io::Result<bool> {
        self.path().try_exists()
    }

    /// Gives the room to whoever is first.
    pub fn give_up(&self) -> io::Result<()> {
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

    /// Bytes free, and how long the ballast is to be.
    fn space(&self) -> io::Result<(u64, u64)> {
        let space = statvfs(&self.dir)?;
        let len = LEN_MAX.min(space.f_blocks * space.f_frsize / PART);
        Ok((space.f_bavail * space.f_frsize, len))
    }

    fn path(&self) -> PathBuf {
        self.dir.join("ballast")
    }
}

#[cfg(test)]
mod tests {
    use super::{LEN_MAX, LOOKS, Looks, NOTHING_LEFT, Step};

    #[test]
    fn it_is_given_up_once_nothing_is_left_and_nobody_takes_more() {
        let mut looks = Looks::default();
        assert_eq!(looks.poll(true, 10 * LEN_MAX, LEN_MAX), Step::Keep);
        assert_eq!(looks.poll(true, NOTHING_LEFT, LEN_MAX), Step::Keep);
        for taken in 1..10 {
            assert_eq!(looks.poll(true, NOTHING_LEFT - (taken << 20), LEN_MAX), Step::Keep, "somebody is at it");
        }
        let left = NOTHING_LEFT - (9 << 20);
        let steps: Vec<Step> = (0..LOOKS).map(|_| looks.poll(true, left, LEN_MAX)).collect();
        assert_eq!(steps, [Step::Keep, Step::Keep, Step::Keep, Step::GiveUp]);
        assert_eq!(looks.poll(false, LEN_MAX + left, LEN_MAX), Step::Keep, "what was given up is no room to take");
        assert_eq!(looks.poll(false, 2 * LEN_MAX + 1, LEN_MAX), Step::Take);
    }

    #[test]
    fn on_a_small_file_system_less_than_half_of_it_is_nothing() {
        let (mut looks, len) = (Looks::default(), 8 << 20);
        let steps: Vec<Step> = (0..2 * LOOKS).map(|_| looks.poll(true, len / 2, len)).collect();
        assert!(steps.iter().all(|step| *step == Step::Keep));
        let last = (0..=LOOKS).map(|_| looks.poll(true, len / 2 - 1, len)).last();
        assert_eq!(last, Some(Step::GiveUp));
    }
}
