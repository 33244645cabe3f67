//! `dfs umount`: ends a mount.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::Args;
use fuse_client::fs::LOST;
use tokio::time::{Instant, sleep};

use super::failure::{Failure, Line};

/// How long the program behind a mount may take to store what is left.
const END_MAX: Duration = Duration::from_secs(60);

/// How long others may be in it: who has just looked at it, or made it, is gone in a moment.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// More of a log is not read: loss is told at the end of a mount, which tells little else.
const LOG_READ_MAX: u64 = 16 << 20;

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
        /// What is mounted: the name of a profile, if it is ours.
        source: OsString,
    },
    /// A mount of ours whose program is gone.
    Dead,
}

/// What the kernel calls a mount of ours.
pub(crate) const KIND: &str = "fuse.dfs";

/// Looks at a directory: an absolute path without links.
pub(crate) fn look_at(dir: &Path) -> io::Result<MountPoint> {
    let list = mounts()?;
    let Some(mounted) = list.into_iter().rev().find(|mounted| mounted.point == dir) else {
        return Ok(MountPoint::Free);
    };
    let Listed { kind, source, .. } = mounted;
    if kind == KIND && is_dead(dir) { Ok(MountPoint::Dead) } else { Ok(MountPoint::Mounted { kind, source }) }
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
    source: OsString,
}

/// All mounts that this process sees, later ones above earlier ones.
fn mounts() -> io::Result<Vec<Listed>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(listed).collect())
}

/// A mount at a directory or below it, if there is one: deleting the directory would delete what is mounted.
pub(crate) fn mounts_below(dir: &Path) -> io::Result<Option<PathBuf>> {
    Ok(mounts()?.into_iter().map(|mounted| mounted.point).find(|point| point.starts_with(dir)))
}

/// The mount that a line of `mountinfo` tells of.
fn listed(line: &[u8]) -> Option<Listed> {
    let mut words = line.split(|byte| *byte == b' ');
    let point = unescaped(words.nth(4)?).into();
    let mut after = words.skip_while(|word| *word != b"-").skip(1);
    let kind = unescaped(after.next()?).to_string_lossy().into_owned();
    Some(Listed { point, kind, source: unescaped(after.next()?) })
}

/// The kernel writes blanks, backslashes and a few others as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let code = if byte == b'\\' { after.get(..3).and_then(octal) } else { None };
        plain.push(code.unwrap_or(byte));
        rest = if code.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    OsString::from_vec(plain)
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
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
    // Without links, as the kernel lists it; the directory of a dead mount answers nothing, but its name can be had.
    let real = fs::canonicalize(&arguments.dir).or_else(|_| std::path::absolute(&arguments.dir));
    let dir = real.unwrap_or(arguments.dir);
    let cannot = || Line::new(format!("cannot unmount {}", dir.display()));
    match look_at(&dir).map_err(|error| cannot().because(&error).failed())? {
        MountPoint::Free => return Err(cannot().why("nothing is mounted there").failed()),
        MountPoint::Mounted { kind, .. } if kind != KIND => {
            return Err(cannot().why(format!("it is no mount of dfs, but {kind}")).failed());
        }
        MountPoint::Dead => return unmount_lazily(&dir),
        MountPoint::Mounted { .. } => {}
    }
    let served_by = servers(&dir);
    let logs: Vec<Log> = served_by.iter().filter_map(|pid| Log::of(*pid)).collect();
    let patience = Instant::now() + BUSY_MAX;
    let mut unmounted = unmount(&dir, arguments.lazy);
    while unmounted.is_err() && Instant::now() < patience {
        sleep(LOOK_INTERVAL).await;
        unmounted = unmount(&dir, arguments.lazy);
    }
    unmounted.map_err(|why| {
        let line = cannot().why(why);
        if arguments.lazy {
            return line.failed();
        }
        line.advice(format!("end those programs, or dfs umount --lazy {}", dir.display())).failed()
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
    match logs.iter().find(|log| log.tells_of_loss()) {
        None => Ok(()),
        Some(log) => {
            let what = format!("{} is unmounted, but not all that programs had written could be stored", dir.display());
            Err(Line::new(what).advice(format!("{} says what is lost", log.path.display())).failed())
        }
    }
}

/// The log of a mount that is about to end. Another process cannot ask it how it ended.
struct Log {
    path: PathBuf,
    /// What is told behind this is told from now on.
    len: u64,
}

impl Log {
    /// Where the standard error of a process goes, if that is a file.
    fn of(pid: u32) -> Option<Self> {
        let path = fs::read_link(format!("/proc/{pid}/fd/2")).ok()?;
        let found = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        Some(Self { path, len: found.len() })
    }

    fn tells_of_loss(&self) -> bool {
        let mut said = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.len))?;
            file.take(LOG_READ_MAX).read_to_end(&mut said)
        });
        read.is_ok() && String::from_utf8_lossy(&said).contains(LOST)
    }
}

/// Processes that serve a mount at `dir`.
fn servers(dir: &Path) -> Vec<u32> {
    processes().filter(|pid| is_serving(*pid, dir)).collect()
}

fn is_serving(pid: u32, dir: &Path) -> bool {
    has_words(pid, &[OsStr::new("mount"), dir.as_os_str(), OsStr::new("--foreground")])
}

/// Whether some `dfs mount` for `dir` runs: one that is about to mount, that serves, or that stores what is left.
pub(crate) fn is_worked_on(dir: &Path) -> bool {
    processes().any(|pid| has_words(pid, &[OsStr::new("mount"), dir.as_os_str()]))
}

/// Whether a process was started with all of these words.
fn has_words(pid: u32, wanted: &[&OsStr]) -> bool {
    let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    wanted.iter().all(|word| words.contains(&word.as_bytes()))
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

    use super::listed;

    #[test]
    fn a_mount_is_found_in_the_kernels_list_whatever_its_name() {
        let line = br"95 29 0:51 / /mnt/my\040files rw,nosuid,nodev shared:7 - fuse.dfs /p\043\134040 rw,user_id=0";
        let found = listed(line).unwrap();
        assert_eq!(found.point, Path::new("/mnt/my files"));
        assert_eq!((found.kind.as_str(), found.source.as_os_str()), ("fuse.dfs", OsStr::new(r"/p#\040")));
        let strange = listed(b"95 29 0:51 / /mnt/\xff rw - ext4 /dev/sda rw").unwrap();
        assert_eq!(strange.point.as_os_str(), OsStr::from_bytes(b"/mnt/\xff"));
    }
}
