//! What `dfs upload` and `dfs download` share: options, progress, the last line.

pub(crate) mod download;
pub(crate) mod upload;

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, sync::Arc, time::Duration};

use clap::Args;
use fuse_client::transfer::{Equality, Existing, LocalDurability, Recurse, Summary, TransferOptions};
use serde_json::json;

use super::{
    failure::Failure,
    invocation::Invocation,
    progress::{Clock, Meter, Show},
    target::{IntoDirectory, last_name},
    text::number::{counted, long_size, span},
};

/// Arguments of both.
#[derive(Args, Debug)]
struct TransferArguments {
    /// Directories with all below them
    #[arg(short, long, visible_short_alias = 'R')]
    recursive: bool,
    /// DST is the name itself, even if it is a directory
    #[arg(short = 'T', long)]
    no_target_directory: bool,
    /// Skip what is there only if its bytes are equal, not by size and time
    #[arg(long)]
    checksum: bool,
    /// Files in flight
    #[arg(short, long, value_name = "COUNT", default_value_t = 32, value_parser = parse_jobs)]
    jobs: usize,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Name each file
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
    /// A summary as a JSON object at the end
    #[arg(long)]
    json: bool,
}

/// 1 to 1,024: each is a file open.
fn parse_jobs(text: &str) -> Result<usize, &'static str> {
    match text.parse() {
        Ok(jobs @ 1..=1024) => Ok(jobs),
        Ok(_) | Err(_) => Err("a number from 1 to 1024"),
    }
}

/// What becomes of a directory that is there where a source goes. What is *in* a directory (`dir/.`) goes into it, and leaves
/// it as it is.
fn existing(source: &OsStr) -> Existing {
    if last_name(source.as_bytes()).is_none() { Existing::Kept } else { Existing::Dressed }
}

impl TransferArguments {
    fn options(&self, durability: LocalDurability) -> TransferOptions {
        TransferOptions {
            recurse: if self.recursive { Recurse::Yes } else { Recurse::No },
            equality: if self.checksum { Equality::Checksum } else { Equality::SizeAndTime },
            jobs: self.jobs,
            durability,
        }
    }

    fn directory_rule(&self) -> IntoDirectory {
        if self.no_target_directory { IntoDirectory::No } else { IntoDirectory::Yes }
    }

    /// Runs a transfer under a progress bar, and says what it came to.
    async fn show(
        &self,
        invocation: &Invocation,
        verb: &'static str,
        transfer: impl AsyncFnOnce(Arc<Meter>) -> Summary,
    ) -> Result<(), Failure> {
        let show = match (self.quiet, self.verbose) {
            (true, _) => Show::Nothing,
            (false, true) => Show::Files,
            (false, false) => Show::Progress,
        };
        let meter = Meter::new(verb, show, invocation.screen);
        let clock = Clock::start();
        let summary = meter.during(transfer(Arc::clone(&meter))).await;
        let elapsed = clock.elapsed();
        if self.json {
            invocation.screen.print_json(&json!({
                "files": summary.files,
                "directories": summary.directories,
                "skipped": summary.skipped,
                "failed": summary.failed,
                "bytes": summary.bytes,
                "seconds": elapsed.as_secs_f64(),
            }))?;
        } else if !self.quiet && (summary.failed == 0 || summary.files + summary.directories + summary.skipped > 0) {
            invocation.screen.print(&format!("{verb} {}\n", last_line(&summary, elapsed)))?;
        }
        if summary.failed > 0 { Err(Failure::Reported) } else { Ok(()) }
    }
}

/// `12 files, 3 directories, 1.5 GiB in 2.0 s (768.0 MiB/s); 4 skipped; 1 failed`.
fn last_line(summary: &Summary, elapsed: Duration) -> String {
    let mut parts = vec![counted(summary.files, "file", "files")];
    if summary.directories > 0 {
        parts.push(counted(summary.directories, "directory", "directories"));
    }
    parts.push(format!("{} in {}", long_size(summary.bytes), span(elapsed)));
    let mut line = parts.join(", ");
    let millis = elapsed.as_millis().max(1);
    let rate = u128::from(summary.bytes) * 1000 / millis;
    // Of less, the rate says more about the command than about the cluster.
    if summary.bytes >= 1 << 20 {
        line.push_str(&format!(" ({}/s)", long_size(u64::try_from(rate).unwrap_or(u64::MAX))));
    }
    if summary.skipped > 0 {
        line.push_str(&format!("; {} skipped, there and equal", counted(summary.skipped, "file", "files")));
    }
    if summary.failed > 0 {
        line.push_str(&format!("; {} failed", summary.failed));
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fuse_client::transfer::Summary;

    use super::{last_line, parse_jobs};

    #[test]
    fn the_last_line_counts_what_was_done_and_what_was_not() {
        let summary = Summary { files: 12, directories: 1, skipped: 0, failed: 0, bytes: 3 << 29 };
        assert_eq!(
            last_line(&summary, Duration::from_secs(2)),
            "12 files, 1 directory, 1.5 GiB in 2.0 s (768.0 MiB/s)"
        );
        let summary = Summary { files: 0, directories: 0, skipped: 4, failed: 1, bytes: 0 };
        assert_eq!(
            last_line(&summary, Duration::ZERO),
            "0 files, 0 B in 0.0 s; 4 files skipped, there and equal; 1 failed"
        );
    }

    #[test]
    fn jobs_are_bounded() {
        assert_eq!(parse_jobs("1"), Ok(1));
        assert!(parse_jobs("0").is_err() && parse_jobs("1025").is_err() && parse_jobs("x").is_err());
    }
}
