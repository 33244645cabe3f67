//! `dfs umount`: ends a mount.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::Args;
use tokio::time::{Instant, sleep};

use super::failure::{Failure, Line};

/// How long the program behind a mount may take to store what is left.
const END_MAX: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(25);

/// Arguments of `dfs umount`.
#[derive(Args, Debug)]
#[command(after_help = "\
Returns when everything that programs have written is stored. With --lazy the
mount goes out of sight at once, and ends when nobody has a file open in it.

Examples:
  dfs umount /mnt/dfs
  dfs umount --lazy /mnt/dfs")]
pub(crate) struct UmountArguments {
    /// Where the store is mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Also while somebody uses it
    #[arg(short, long)]
    lazy: bool,
}

impl UmountArguments {
    /// An unmount that waits for those who use it to be gone.
    pub(crate) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), lazy: false }
    }
}

/// What is at a directory.
#[derive(Debug)]
pub(crate) enum MountPoint {
    /// Nothing is mounted there.
    Free,
    /// This kind of file system.
    Mounted {
        /// As the kernel names it: `fuse.dfs`.
        kind: String,
        /// What is mounted: the name of a profile.
        source: String,
    },
    /// A mount of ours whose program is gone.
    Dead,
}

/// Looks at a directory: an absolute path.
pub(crate) fn look_at(dir: &Path) -> io::Result<MountPoint> {
    let list = mounts()?;
    let Some(mounted) = list.into_iter().rev().find(|mounted| mounted.point == dir) else {
        return Ok(MountPoint::Free);
    };
    let Listed { kind, source, .. } = mounted;
    if kind == "fuse.dfs" && is_dead(dir) { Ok(MountPoint::Dead) } else { Ok(MountPoint::Mounted { kind, source }) }
}

/// Whether the program behind a mount is gone. The kernel may still have attributes of its root, and a living program
/// may have to ask a cluster that does not answer; this question neither answers from a cache, and a program of ours
/// answers it (with a refusal) by itself.
fn is_dead(dir: &Path) -> bool {
    let asked = rustix::fs::getxattr(dir, "system.posix_acl_access", &mut [0_u8; 0]);
    matches!(asked, Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED))
}

/// A mount in the kernel's list.
#[derive(Debug, Eq, PartialEq)]
struct Listed {
    point: PathBuf,
    kind: String,
    source: String,
}

/// All mounts that this process sees, later ones above earlier ones.
fn mounts() -> io::Result<Vec<Listed>> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(listed).collect())
}

/// A mount at a directory or below it, if there is one: deleting the directory would delete what is mounted.
pub(crate) fn mounts_below(dir: &Path) -> Option<PathBuf> {
    mounts().unwrap_or_default().into_iter().map(|mounted| mounted.point).find(|point| point.starts_with(dir))
}

/// The mount that a line of `mountinfo` tells of.
fn listed(line: &str) -> Option<Listed> {
    let (left, right) = line.split_once(" - ")?;
    let point = unescaped(left.split(' ').nth(4)?).into();
    let mut right = right.split(' ');
    Some(Listed { point, kind: right.next()?.to_owned(), source: unescaped(right.next()?) })
}

/// Octal escapes of blanks and backslashes.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Takes a mount out of sight, whoever uses it.
pub(crate) fn unmount_lazily(dir: &Path) -> Result<(), Failure> {
    unmount(dir, true).map_err(|why| Line::new(format!("cannot unmount {}", dir.display())).why(why).failed())
}

/// Unmounts: as root by ourselves, else by the helper that may.
fn unmount(dir: &Path, lazy: bool) -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        let flags = if lazy { rustix::mount::UnmountFlags::DETACH } else { rustix::mount::UnmountFlags::empty() };
        return rustix::mount::unmount(dir, flags).map_err(|error| match error {
            rustix::io::Errno::BUSY => "somebody uses it (fuser -vm shows who)".to_owned(),
            error => io::Error::from(error).kind().to_string(),
        });
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    match command.arg(dir).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("fusermount3 cannot be run ({error}); apt install fuse3")),
    }
}

/// Unmounts and waits until the mount has stored everything.
pub(crate) async fn run(arguments: UmountArguments) -> Result<(), Failure> {
    let dir = std::path::absolute(&arguments.dir).unwrap_or(arguments.dir);
    let cannot = || Line::new(format!("cannot unmount {}", dir.display()));
    match look_at(&dir).map_err(|error| cannot().because(&error).failed())? {
        MountPoint::Free => return Err(cannot().why("nothing is mounted there").failed()),
        MountPoint::Mounted { kind, .. } if kind != "fuse.dfs" => {
            return Err(cannot().why(format!("it is no mount of dfs, but {kind}")).failed());
        }
        MountPoint::Dead => return unmount_lazily(&dir),
        MountPoint::Mounted { .. } => {}
    }
    let served_by = servers(&dir);
    unmount(&dir, arguments.lazy).map_err(|why| {
        let line = cannot().why(why);
        if arguments.lazy { line.failed() } else { line.advice("end those programs, or use --lazy").failed() }
    })?;
    if arguments.lazy {
        return Ok(());
    }
    let until = Instant::now() + END_MAX;
    while served_by.iter().any(|pid| is_serving(*pid, &dir)) {
        if Instant::now() >= until {
            return Err(cannot().why("its program still has something to store").advice("see its log").failed());
        }
        sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Processes that serve a mount at `dir`.
fn servers(dir: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_serving(*pid, dir)).collect()
}

fn is_serving(pid: u32, dir: &Path) -> bool {
    let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    let dir = std::os::unix::ffi::OsStrExt::as_bytes(dir.as_os_str());
    words.contains(&b"mount".as_slice()) && words.contains(&dir) && words.contains(&b"--foreground".as_slice())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::listed;

    #[test]
    fn a_mount_is_found_in_the_kernels_list_whatever_its_name() {
        let line = r"95 29 0:51 / /mnt/my\040files rw,nosuid,nodev - fuse.dfs default rw,user_id=0";
        let listed = listed(line).unwrap();
        assert_eq!(listed.point, Path::new("/mnt/my files"));
        assert_eq!((listed.kind.as_str(), listed.source.as_str()), ("fuse.dfs", "default"));
    }
}
