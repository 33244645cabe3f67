//! A counter that programs on two mounts count up under a lock, several times in a row, as a database that is in use on one
//! machine for a while and on another afterwards.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::FileExt,
    path::Path,
    thread,
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::worker::Stage;

/// Where the count is: beyond what is kept inline.
const AT: u64 = 8192;

/// Steps in a row.
const ROW_MAX: u32 = 20;

/// How a step ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// This count was written under the lock, and synced.
    Counted(u64),
    /// This count may be there.
    Unsure(u64),
}

/// Counts up on one mount until the story is over. Its mount is not killed.
pub(crate) fn count(stage: &Stage, mount: usize, seed: u64) -> Vec<Step> {
    let mut random = StdRng::seed_from_u64(seed);
    let path = stage.mounts[mount].join("counter");
    let mut steps = Vec::new();
    while !stage.is_over() {
        let row = random.random_range(1..=ROW_MAX);
        // Whatever went wrong, the next row begins with a new opening.
        if let Err(error) = count_row(stage, &path, row, &mut steps) {
            eprintln!("{:.3?} counter on mount {mount}: {error}", stage.begun.elapsed());
        }
        thread::park_timeout(Duration::from_millis(random.random_range(0..600)));
    }
    steps
}

fn count_row(stage: &Stage, path: &Path, row: u32, steps: &mut Vec<Step>) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    for _ in 0..row {
        while !stage.watch.during("lock", || try_lock(&file))? {
            if stage.is_over() {
                return Ok(());
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        let done = stage.watch.during("count", || step(&file, steps));
        stage.watch.during("unlock", || file.unlock())?;
        done?;
    }
    Ok(())
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn step(file: &File, steps: &mut Vec<Step>) -> io::Result<()> {
    let mut bytes = [0; 8];
    let count = match file.read_at(&mut bytes, AT)? {
        0 => 0,
        _ => u64::from_le_bytes(bytes),
    };
    let next = count + 1;
    let written = file.write_all_at(&next.to_le_bytes(), AT).and_then(|()| file.sync_all());
    steps.push(if written.is_ok() { Step::Counted(next) } else { Step::Unsure(next) });
    written
}

/// What of this cannot be, `last` being the count in the end.
pub(crate) fn wrong(steps: &[Step], last: u64) -> Vec<String> {
    let mut counted = BTreeSet::new();
    let mut wrong = Vec::new();
    for step in steps {
        if let Step::Counted(count) = step
            && !counted.insert(*count)
        {
            wrong.push(format!("counter: {count} was counted twice, each time under the lock"));
        }
    }
    if let Some(highest) = counted.last().filter(|highest| **highest > last) {
        wrong.push(format!("counter: {highest} was counted and synced, and it is {last} in the end"));
    }
    let unsure = steps.iter().filter(|step| matches!(step, Step::Unsure(_))).count() as u64;
    if last > counted.len() as u64 + unsure {
        wrong.push(format!("counter: it is {last} after {} steps and {unsure} that may have failed", counted.len()));
    }
    wrong
}

/// The count on a mount.
pub(crate) fn read(path: &Path) -> u64 {
    let mut bytes = [0; 8];
    match File::open(path).and_then(|file| file.read_at(&mut bytes, AT)) {
        Ok(8) => u64::from_le_bytes(bytes),
        Ok(_) => 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

#[test]
fn counts_that_cannot_be_are_told() {
    use Step::{Counted, Unsure};
    assert_eq!(wrong(&[Counted(1), Unsure(2), Counted(2)], 2), Vec::<String>::new());
    assert_eq!(wrong(&[Counted(1), Unsure(2), Counted(3)], 3), Vec::<String>::new());
    assert_eq!(wrong(&[Counted(1), Counted(1)], 1).len(), 1, "two held the lock");
    assert_eq!(wrong(&[Counted(1), Counted(2)], 1).len(), 1, "what was synced is gone");
    assert_eq!(wrong(&[Counted(1)], 3).len(), 1, "out of nothing");
}
