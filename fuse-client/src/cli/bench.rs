//! `dfs bench`: how fast the cluster is from this machine, now.
//!
//! # Invariants
//! - It works in a directory of its own, which goes whatever ended the work: success, failure, a signal. Only a second
//!   signal, or a cluster that is gone, leaves it there, and then its name is told.
//! - The bytes of a large file are made as they are sent, and dropped as they come back.
//!
//! # Not here
//! How files are moved (the library).

mod measure;
mod noise;
mod report;

use std::{future::Future, time::Duration};

use bytesize::ByteSize;
use clap::Args;
use fuse_client::{FilePath, Namespace, NamespaceError, namespace::TreeNews};
use tokio::time::sleep;
use wire::namespace::{Mode, Name, OpError};

use self::{measure::measure, report::Report};
use super::{
    failure::{Failure, Line},
    health::room,
    invocation::{Invocation, cannot},
    stop::StopSignals,
    text::number::long_size,
};

/// Longest large file: who writes more wants a test of endurance, and has a program for it.
const SIZE_MAX: ByteSize = ByteSize::tib(1);

/// Most small files: their names stay in the memory of the nodes for as long as they are there.
const FILES_MAX: u64 = 1_000_000;

/// Bytes of each small file: as many as stand in the namespace.
const SMALL_LEN: usize = wire::namespace::INLINE_LEN_MAX;

/// How often the directory is emptied again: changes that were under way at a signal may still have been made in it.
const REMOVALS_MAX: u32 = 10;
const REMOVAL_PAUSE: Duration = Duration::from_millis(100);

/// Arguments of `dfs bench`.
#[derive(Args, Debug)]
#[command(after_help = "\
Everything happens in a new directory, /.dfs-bench-…, which is removed at the
end. Writes count as done when they are on stable storage on a quorum of nodes,
reads when every byte was checked against its hash. The bytes are random: no
disk and no network makes less of them. Their room comes back as that of all
deleted files does (dfs gc status).

What was written just before may be read from the memory of the nodes, not from
their disks: a --size larger than their memory shows the disks.

Examples:
  dfs bench
  dfs bench --size 4GiB --files 10000
  dfs bench --json | jq .change.p99_ms")]
pub(crate) struct BenchArguments {
    /// Size of the large file
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size)]
    size: ByteSize,
    /// How many small files, of 4 KiB each
    #[arg(long, value_name = "COUNT", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=FILES_MAX))]
    files: u64,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// A byte to [`SIZE_MAX`].
fn parse_size(text: &str) -> Result<ByteSize, &'static str> {
    match text.parse() {
        Ok(size) if size > ByteSize(0) && size <= SIZE_MAX => Ok(size),
        Ok(_) | Err(_) => Err("a size is from 1B to 1TiB: 64MiB, 4GiB"),
    }
}

/// Measures. A signal ends what is measured, and then what was made is removed.
pub(crate) async fn run(invocation: &Invocation, arguments: BenchArguments) -> Result<(), Failure> {
    let files = interruptible(invocation.files()).await?;
    let measured = in_directory_of_its_own(invocation, &files, &arguments).await;
    files.finish().await;
    let report = measured?;
    if arguments.json {
        return invocation.screen.print_json(&report.json());
    }
    invocation.screen.print(&report.text())
}

/// Until it ends, or a signal asks it to. However long it takes to notice that, the program is not ended before it has
/// cleaned up.
async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut signals = StopSignals::listen()?;
    tokio::select! {
        outcome = work => outcome,
        signal = signals.next() => Err(Failure::Stopped(signal)),
    }
}

async fn in_directory_of_its_own(
    invocation: &Invocation,
    files: &Namespace,
    arguments: &BenchArguments,
) -> Result<Report, Failure> {
    interruptible(fits(files, arguments)).await?;
    let name = Name::new(format!(".dfs-bench-{:08x}", rand::random::<u32>())).expect("a short name without a slash");
    let dir = FilePath::root().join(name);
    // In a task: a signal must not leave open whether it is there.
    let mut making = tokio::spawn({
        let (files, dir) = (files.clone(), dir.clone());
        async move { files.create_dir(&dir, Mode::new(0o700)).await }
    });
    let measured = interruptible(async {
        let made = (&mut making).await.expect("the task neither panics nor is aborted");
        made.map_err(|error| cannot("mkdir", &dir, &error).failed())?;
        measure(invocation, files, &dir, arguments).await
    })
    .await;
    let removed = interruptible(async {
        if !making.is_finished() {
            // Its failure leaves nothing to remove, which the removal finds by itself.
            let _made = making.await.is_ok();
        }
        remove(files, &dir).await.map_err(|error| left(&dir).why(format!("cannot remove it: {error}")).failed())
    })
    .await;
    match (measured, removed) {
        (measured, Ok(())) => measured,
        (Ok(_), Err(failure @ Failure::Failed(_))) => Err(failure),
        // Both are to be told: what failed first, and that something is left.
        (Ok(_), Err(failure)) | (Err(failure), Err(_)) => {
            invocation.screen.report(&left(&dir));
            Err(failure)
        }
    }
}

/// What to say of a directory that could not be removed.
fn left(dir: &FilePath) -> Line {
    Line::new(format!("the bench left {dir}")).advice(format!("remove it with dfs rm -r {dir}"))
}

/// Refuses what would fill the cluster.
async fn fits(files: &Namespace, arguments: &BenchArguments) -> Result<(), Failure> {
    let failed = |error| Line::new("cannot ask for the room in the cluster").because(&error).failed();
    let status = files.cluster().status().await.map_err(failed)?;
    let (size, free) = (arguments.size.as_u64(), room(&status).free);
    if size <= free {
        return Ok(());
    }
    let why = format!("the file would take {}, and there is room for {}", long_size(size), long_size(free));
    Err(Line::new("cannot measure").why(why).advice("give a smaller --size").failed())
}

/// Removes the directory with all that is in it, also what comes into it meanwhile.
async fn remove(files: &Namespace, dir: &FilePath) -> Result<(), NamespaceError> {
    let mut removals = 0;
    loop {
        removals += 1;
        let mut stays = None;
        let told = |news| {
            if let TreeNews::Failed { error, .. } = news {
                stays = Some(error);
            }
        };
        match files.remove_tree(dir, told).await.and_then(|()| stays.map_or(Ok(()), Err)) {
            Ok(()) | Err(NamespaceError::Op { source: OpError::NotFound, .. }) => return Ok(()),
            Err(NamespaceError::Op { source: OpError::NotEmpty, .. }) if removals < REMOVALS_MAX => {
                sleep(REMOVAL_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytesize::ByteSize;

    use super::parse_size;

    #[test]
    fn a_size_is_some_bytes_and_no_more_than_a_tebibyte() {
        assert_eq!(parse_size("1"), Ok(ByteSize(1)));
        assert_eq!(parse_size("4GiB"), Ok(ByteSize::gib(4)));
        assert_eq!(parse_size("1TiB"), Ok(ByteSize::tib(1)));
        for text in ["", "0", "0MiB", "-1", "2TiB", "much", "99999999999999999999PiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
