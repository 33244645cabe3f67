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

/// What is at a directory.
#[derive(Debug)]
pub(crate) enum MountPoint {
    /// Nothing is mounted there.
    Free,
    /// This kind of file system.
    Mounted {
        /// As the kernel names it: `fuse.dfs`.
        kind: String,
    },
    /// A mount of ours whose program is gone.
    Dead,
}

/// Looks at a directory: an absolute path.
pub(crate) fn look_at(dir: &Path) -> io::Result<MountPoint> {
    let Some(kind) = mounted_kind(dir)? else { return Ok(MountPoint::Free) };
    if kind == "fuse.dfs" && is_dead(dir) { Ok(MountPoint::Dead) } else { Ok(MountPoint::Mounted { kind }) }
}

/// Whether the program behind a mount is gone. The kernel may still have attributes of its root, and a living program
/// may have to ask a cluster that does not answer; this question neither answers from a cache, and a program of ours
/// answers it (with a refusal) by itself.
fn is_dead(dir: &Path) -> bool {
    let asked = rustix::fs::getxattr(dir, "system.posix_acl_access", &mut [0_u8; 0]);
    matches!(asked, Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED))
}

/// The kind of the topmost mount at a directory, from the kernel's list.
fn mounted_kind(dir: &Path) -> io::Result<Option<String>> {
    let list = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(list.lines().filter_map(|line| kind_of(line, dir)).next_back())
}

/// The kind of the mount that a line of `mountinfo` tells of, if it is at `dir`.
fn kind_of(line: &str, dir: &Path) -> Option<String> {
    let (left, right) = line.split_once(" - ")?;
    let point = unescaped(left.split(' ').nth(4)?);
    (Path::new(&point) == dir).then(|| right.split(' ').next().unwrap_or_default().to_owned())
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
        MountPoint::Mounted { kind } if kind != "fuse.dfs" => {
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

    use super::kind_of;

    #[test]
    fn a_mount_is_found_in_the_kernels_list_whatever_its_name() {
        let line = r"95 29 0:51 / /mnt/my\040files rw,nosuid,nodev - fuse.dfs default rw,user_id=0";
        assert_eq!(kind_of(line, Path::new("/mnt/my files")).as_deref(), Some("fuse.dfs"));
        assert_eq!(kind_of(line, Path::new("/mnt/my")), None);
    }
}
