//! `dfs mount`: the store as a file system.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    io::{BufRead, BufReader},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use clap::Args;
use fuse_client::{
    Cluster, ClusterConfig, FilePath, Namespace, Profile,
    fs::FsConfig,
    mount::{Mount, MountConfig, MountError},
    namespace::{Follow, is_directory},
};
use tokio::signal::unix::{SignalKind, signal};
use wire::namespace::Inode;

use super::{
    failure::{Failure, Line},
    invocation::{Invocation, cannot, parse_path},
    seeds::Seeds,
    umount::{MountPoint, look_at, unmount_lazily},
};

/// Bytes of chunks on their way up in a mount, beside what is dirty; with all other pools a mount stays below 256 MiB.
const UPLOAD_POOL_BYTES: u64 = 32 << 20;

/// Bytes of chunks on their way down.
const DOWNLOAD_POOL_BYTES: u64 = 32 << 20;

/// How often a mount that was asked to end looks whether it is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What the mount in the background says when it is there.
const READY: &str = "mounted";

/// Arguments of `dfs mount`.
#[derive(Args, Debug)]
#[command(after_help = "\
Returns when the mount is there; it goes on in the background, with its log in
~/.local/state/dfs (for root, /var/log/dfs). What programs write is durable
after fsync, as on a local disk, and visible to all other mounts at once.

Options (-o), separated by commas:
  ro              nothing can be changed
  subdir=/x       show this directory of the store instead of its root
  allow_other     let other users in, as the modes allow (not only yourself)
  suid, dev       let set-id bits and device files count
  noexec          programs cannot be run from it
  nonempty        hide what lies in DIR
  profile=NAME    as --profile, for /etc/fstab

In /etc/fstab the first word is the profile, and :/x after it a directory of the
store. At boot profiles are looked for in ~root/.config/dfs and /etc/dfs, where
the dfs login of root puts them. mount(8) knows this program by a link:
  ln -s $(command -v dfs) /sbin/mount.fuse.dfs
  default          /mnt/dfs     fuse.dfs  allow_other,_netdev  0  0
  default:/photos  /srv/photos  fuse.dfs  ro,allow_other,_netdev  0  0

Examples:
  dfs mount /mnt/dfs
  dfs mount ~/photos -o ro,subdir=/photos
  dfs umount /mnt/dfs")]
pub(crate) struct MountArguments {
    /// An empty directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Options, as of mount(8)
    #[arg(short, value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<String>,
    /// Stay in the foreground, with the log on standard error
    #[arg(short, long)]
    foreground: bool,
    /// Say on standard output when the mount is there, or why it is not
    #[arg(long, hide = true)]
    report: bool,
}

/// Options, understood.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Options {
    read_only: bool,
    subdir: Option<OsString>,
    allow_other: bool,
    suid: bool,
    dev: bool,
    no_exec: bool,
    nonempty: bool,
    profile: Option<OsString>,
}

impl Options {
    fn parse(options: &[String]) -> Result<Self, Failure> {
        let mut parsed = Self::default();
        for option in options.iter().filter(|option| !option.is_empty()) {
            match option.split_once('=').unwrap_or((option, "")) {
                ("ro", "") => parsed.read_only = true,
                ("rw", "") => parsed.read_only = false,
                ("subdir", dir) if !dir.is_empty() => parsed.subdir = Some(dir.into()),
                ("profile", name) if !name.is_empty() => parsed.profile = Some(name.into()),
                ("allow_other", "") => parsed.allow_other = true,
                ("suid", "") => parsed.suid = true,
                ("nosuid", "") => parsed.suid = false,
                ("dev", "") => parsed.dev = true,
                ("nodev", "") => parsed.dev = false,
                ("exec", "") => parsed.no_exec = false,
                ("noexec", "") => parsed.no_exec = true,
                ("nonempty", "") => parsed.nonempty = true,
                // What mount(8) and systemd keep in fstab for themselves.
                ("defaults" | "auto" | "noauto" | "user" | "users" | "nouser" | "_netdev" | "nofail", "") => {}
                ("user" | "owner" | "group", _) => {}
                // Nothing of this is done otherwise here.
                ("default_permissions" | "relatime" | "noatime" | "atime" | "async" | "norelatime", "") => {}
                ("diratime" | "nodiratime" | "strictatime" | "nostrictatime", "") => {}
                ("lazytime" | "nolazytime" | "iversion" | "noiversion", "") => {}
                (name, _) if name.starts_with("x-") || name.starts_with("comment") => {}
                _ => {
                    let line = Line::new(format!("unknown mount option {option:?}"));
                    return Err(line.advice("dfs mount --help lists them").usage());
                }
            }
        }
        Ok(parsed)
    }
}

/// `mount.fuse.dfs SPEC DIR [-o OPTIONS]`, as mount(8) calls it: the words for `dfs mount`.
pub(crate) fn from_fstab(words: &[OsString]) -> Vec<OsString> {
    let mut rest = words.iter().skip(1);
    let (mut places, mut options): (Vec<OsString>, Vec<OsString>) = (Vec::new(), Vec::new());
    while let Some(word) = rest.next() {
        match word.as_bytes() {
            b"-o" => options.extend(rest.next().cloned()),
            b"-n" | b"-s" | b"-v" | b"-f" => {}
            _ => places.push(word.clone()),
        }
    }
    let mut places = places.into_iter();
    let spec = places.next().unwrap_or_default();
    let mut line: Vec<OsString> = vec!["dfs".into(), "mount".into()];
    line.extend(places);
    // `NAME` or `NAME:/directory`.
    let spec = spec.to_string_lossy().into_owned();
    let (name, dir) = spec.split_once(':').unwrap_or((&spec, ""));
    if !name.is_empty() && name != "dfs" && name != "none" {
        options.push(format!("profile={name}").into());
    }
    if !dir.is_empty() {
        options.push(format!("subdir={dir}").into());
    }
    for option in options {
        line.extend(["-o".into(), option]);
    }
    line
}

/// Mounts.
pub(crate) async fn run(invocation: &Invocation, arguments: MountArguments) -> Result<(), Failure> {
    if !arguments.foreground {
        return in_background(invocation, &arguments);
    }
    let outcome = serve(invocation, &arguments).await;
    if arguments.report
        && let Err(failure) = &outcome
    {
        invocation.screen.print(&format!("{}\n", failure.line().unwrap_or_default()))?;
    }
    outcome
}

/// Mounts, and serves until it is unmounted or a signal comes.
async fn serve(invocation: &Invocation, arguments: &MountArguments) -> Result<(), Failure> {
    let options = Options::parse(&arguments.options)?;
    let dir = mount_point(&arguments.dir, options.nonempty)?;
    let (cluster, folder) = cluster(invocation, &options).await?;
    // By where it is: the directory is changed soon.
    let seeds = Seeds::new(cluster.clone(), std::path::absolute(&folder).unwrap_or(folder));
    let root = match root(invocation, &cluster, &options).await {
        Ok(root) => root,
        Err(failure) => {
            cluster.close().await;
            return Err(failure);
        }
    };
    let source = options.profile.clone().unwrap_or_else(|| invocation.profile_name());
    let config = MountConfig {
        root,
        read_only: options.read_only,
        allow_other: options.allow_other,
        suid: options.suid,
        dev: options.dev,
        exec: !options.no_exec,
        source: source_name(&source),
        fs: FsConfig::default(),
    };
    let mount = Mount::begin(cluster, &dir, config).await.map_err(|error| refused(&dir, &error))?;
    if arguments.report {
        // Nothing is found by a relative path any more, and the directory of whoever mounted must not be kept busy.
        std::env::set_current_dir("/").map_err(|error| Line::new("cannot go to /").because(&error).failed())?;
        invocation.screen.print(&format!("{READY}\n"))?;
    }
    until_over(mount, seeds).await
}

/// What the list of mounts shows: the profile's name or, from wherever one looks, its folder.
fn source_name(profile: &OsStr) -> String {
    let is_path = profile.as_bytes().contains(&b'/');
    let folder = if is_path { fs::canonicalize(profile).ok() } else { None };
    folder.as_deref().map_or(profile, Path::as_os_str).to_string_lossy().into_owned()
}

/// The line for a mount that the kernel refuses.
fn refused(dir: &Path, error: &MountError) -> Failure {
    let line = Line::new(format!("cannot mount {}", dir.display()));
    match error {
        MountError::Cluster(error) => line.because(error).failed(),
        MountError::Refused(error) => {
            let line = line.because(error);
            let advice = match error.kind() {
                io::ErrorKind::NotFound => "is /dev/fuse there (modprobe fuse), and fusermount3 (apt install fuse3)?",
                io::ErrorKind::PermissionDenied => "an ordinary user needs fusermount3 (apt install fuse3)",
                _ => "allow_other for an ordinary user needs user_allow_other in /etc/fuse.conf",
            };
            line.advice(advice).failed()
        }
    }
}

/// Serves until somebody unmounts, or a signal asks for it: then what is written is stored, and the mount goes.
async fn until_over(mut mount: Mount, mut seeds: Seeds) -> Result<(), Failure> {
    let listen = |kind| signal(kind).map_err(|error| Line::new("cannot listen for signals").because(&error).failed());
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hang_up = listen(SignalKind::hangup())?;
    while !mount.is_over() {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {
                seeds.poll();
                continue;
            }
        }
        mount.flush().await;
        if mount.unmount().is_err() {
            // Somebody is in it: they keep what they have open, nobody else comes in.
            unmount_lazily(mount.path())?;
        }
    }
    drop(seeds);
    let path = mount.path().to_owned();
    mount
        .end()
        .await
        .map_err(|error| Line::new(format!("the mount {} failed", path.display())).because(&error).failed())
}

/// Connects to the cluster of the profile, which stands in the folder.
async fn cluster(invocation: &Invocation, options: &Options) -> Result<(Cluster, PathBuf), Failure> {
    let name = options.profile.clone().unwrap_or_else(|| invocation.profile_name());
    let failed =
        |error: &(dyn std::error::Error + 'static)| Line::new("cannot reach the cluster").because(error).failed();
    let folder = invocation.profile_places().find(&name).map_err(|error| failed(&error))?;
    let profile = Profile::load(&folder).map_err(|error| failed(&error))?;
    let config = ClusterConfig {
        upload_pool_bytes: UPLOAD_POOL_BYTES,
        download_pool_bytes: DOWNLOAD_POOL_BYTES,
        ..ClusterConfig::default()
    };
    let cluster = Cluster::connect(&profile, config).await.map_err(|error| failed(&error))?;
    Ok((cluster, folder))
}

/// The directory of the store that is to be seen.
async fn root(invocation: &Invocation, cluster: &Cluster, options: &Options) -> Result<Inode, Failure> {
    let Some(subdir) = &options.subdir else { return Ok(Inode::ROOT) };
    let path: FilePath = parse_path("mount", subdir)?;
    let environment = &invocation.environment;
    let caller = fuse_client::Caller { uid: environment.uid, gid: environment.gid, groups: environment.groups.clone() };
    let namespace = Namespace::new(cluster.clone(), caller);
    let found = namespace.resolve(&path, Follow::Yes).await;
    let attr = found.map_err(|error| cannot("mount", &path, &error).failed())?;
    if !is_directory(&attr) {
        return Err(Line::new(format!("cannot mount {path}")).why("not a directory").failed());
    }
    Ok(attr.inode)
}

/// The directory as an absolute path, if something can be mounted there.
fn mount_point(dir: &Path, nonempty: bool) -> Result<PathBuf, Failure> {
    let cannot = || Line::new(format!("cannot mount {}", dir.display()));
    // A dead mount cannot be opened, but its name without links can be had.
    let found = fs::canonicalize(dir).map_err(|error| {
        let line = cannot().because(&error);
        if error.kind() == io::ErrorKind::NotFound { line.advice("mkdir it first").failed() } else { line.failed() }
    })?;
    match look_at(&found).map_err(|error| cannot().because(&error).failed())? {
        // A mount whose program was killed: nobody can use it any more.
        MountPoint::Dead => unmount_lazily(&found)?,
        MountPoint::Mounted { kind, .. } => {
            let why = format!("a file system ({kind}) is mounted there already");
            return Err(cannot().why(why).advice("dfs umount it first, or choose another directory").failed());
        }
        MountPoint::Free => {}
    }
    if !found.is_dir() {
        return Err(cannot().why("not a directory").failed());
    }
    let mut entries = fs::read_dir(&found).map_err(|error| cannot().because(&error).failed())?;
    if !nonempty && entries.next().is_some() {
        return Err(cannot().why("the directory is not empty").advice("use an empty one, or -o nonempty").failed());
    }
    Ok(found)
}

/// Starts the same command in a session of its own, and waits until it is mounted.
fn in_background(invocation: &Invocation, arguments: &MountArguments) -> Result<(), Failure> {
    let cannot = || Line::new(format!("cannot mount {}", arguments.dir.display()));
    // What can be said at once is said here.
    let options = Options::parse(&arguments.options)?;
    let dir = mount_point(&arguments.dir, options.nonempty)?;
    let program = std::env::current_exe().map_err(|error| cannot().because(&error).failed())?;
    let (log, log_path) = log_file(invocation, &dir).map_err(|error| cannot().because(&error).failed())?;
    let mut command = Command::new(&program);
    command.args(["dev", "launch", "--"]).arg(&program).arg("--profile").arg(invocation.profile_name());
    command.arg("mount").arg(&dir).args(["--foreground", "--report"]);
    for option in &arguments.options {
        command.arg("-o").arg(option);
    }
    if invocation.environment.log.is_none() {
        command.env("DFS_LOG", "warn");
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
    let mut child = child.map_err(|error| cannot().because(&error).failed())?;
    let mut word = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut word).map_err(|error| cannot().because(&error).failed())?;
    }
    match word.trim() {
        READY => Ok(()),
        "" => Err(cannot().why("it ended without a word").advice(format!("see {}", log_path.display())).failed()),
        line => Err(Failure::Failed(Line::new(line.to_owned()))),
    }
}

/// Where the mount in the background writes what it has to say.
fn log_file(invocation: &Invocation, dir: &Path) -> io::Result<(fs::File, PathBuf)> {
    let folder = invocation.environment.log_dir();
    fs::create_dir_all(&folder)?;
    let name: String = dir.to_string_lossy().trim_matches('/').replace('/', "-");
    let path = folder.join(format!("mount-{name}.log"));
    Ok((fs::OpenOptions::new().create(true).append(true).open(&path)?, path))
}

#[cfg(test)]
mod tests {
    use super::{Options, from_fstab};

    #[test]
    fn options_are_those_of_mount_and_others_are_refused() {
        let parse = |text: &str| Options::parse(&text.split(',').map(String::from).collect::<Vec<_>>());
        let parsed = parse("ro,subdir=/a,allow_other,_netdev,x-systemd.automount,defaults").unwrap();
        assert_eq!((parsed.read_only, parsed.allow_other), (true, true));
        assert_eq!(parsed.subdir.unwrap(), "/a");
        assert!(parse("subdir=").is_err() && parse("nonsense").is_err());
    }

    #[test]
    fn what_mount_8_says_becomes_a_command_of_ours() {
        let words = ["mount.fuse.dfs", "home:/photos", "/mnt", "-n", "-o", "rw,allow_other"].map(Into::into);
        let line: Vec<String> = from_fstab(&words).into_iter().map(|word| word.into_string().unwrap()).collect();
        let expected = "dfs mount /mnt -o rw,allow_other -o profile=home -o subdir=/photos";
        assert_eq!(line.join(" "), expected);
    }
}
