//! How a node becomes a member: `init` for the first, `join` for the others. Both can be repeated after a crash.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use fuse_client::Profile;
use tokio::time::{Instant, sleep};
use wire::cluster::TokenPurpose;

use super::{binary::Programs, folder::NodeFolder, process::NodeProcess, serving};
use crate::cli::failure::{Failure, Line, with_causes};

/// Life of a token that is used at once.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Between two attempts to get a token: the first leader may still be taking office.
const TOKEN_PERIOD: Duration = Duration::from_millis(100);

/// How long an `init` or `join` of an `up` that was killed may still hold the data directory.
const INTERRUPTED_MAX: Duration = Duration::from_secs(5);

/// Between two attempts meanwhile.
const RETRY_PERIOD: Duration = Duration::from_millis(200);

/// Where a node will be, and how large.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Address and port.
    pub(super) listen: &'a str,
    /// `--capacity`, if given.
    pub(super) capacity: Option<&'a str>,
}

/// Makes the cluster.
pub(super) async fn init(
    programs: &Programs,
    node: &NodeFolder,
    replicas: u8,
    place: &Place<'_>,
) -> Result<(), Failure> {
    let replicas = replicas.to_string();
    let mut arguments = place.arguments("init", node);
    arguments.extend(["--replicas", &replicas].map(OsString::from));
    let interrupted = node.data().exists();
    let patience = Instant::now() + INTERRUPTED_MAX;
    loop {
        if node.is_member() {
            return Ok(());
        }
        if NodeProcess::is_being_made(node) {
            // It must not lose files half way: what it left in the end would look whole.
            if Instant::now() >= patience {
                let line = Line::new(format!("cannot make {}", node.name()));
                return Err(line.why("another dfs-node init is still at work on it").advice("end it").failed());
            }
            sleep(RETRY_PERIOD).await;
            continue;
        }
        // It never ran, so nothing is in it but what an interrupted init left.
        clear(&node.data())?;
        match run(programs, &arguments).await {
            Err(_) if interrupted && Instant::now() < patience => sleep(RETRY_PERIOD).await,
            outcome => return outcome,
        }
    }
}

/// Makes the node a member of the cluster that `profile` is a client of.
pub(super) async fn join(
    programs: &Programs,
    node: &NodeFolder,
    place: &Place<'_>,
    profile: &Profile,
    deadline: Instant,
) -> Result<(), Failure> {
    // An `up` that was killed may have come so far without noting it: a token would lead to a second join, which the
    // data directory refuses.
    if node.is_member() {
        return forget_token(node);
    }
    let join = async |token: &str| {
        let mut arguments = place.arguments("join", node);
        arguments.extend(["--token", token].map(OsString::from));
        run(programs, &arguments).await
    };
    // A token that is there was perhaps used, by the key in the data directory: the same again gets the same answer.
    // That key is never thrown away: with another one this node would be a stranger at an address that is taken.
    if let Ok(token) = fs::read_to_string(node.token_file()) {
        let patience = Instant::now() + INTERRUPTED_MAX;
        while Instant::now() < patience {
            if node.is_member() || join(token.trim()).await.is_ok() {
                return forget_token(node);
            }
            sleep(RETRY_PERIOD).await;
        }
    }
    let token = self::token(profile, TokenPurpose::Node, deadline).await?;
    write_token(node, &token)?;
    join(&token).await?;
    forget_token(node)
}

/// A token from the cluster, asked for until the deadline.
pub(super) async fn token(profile: &Profile, purpose: TokenPurpose, deadline: Instant) -> Result<String, Failure> {
    loop {
        let token = match serving::open(profile).await {
            Ok(cluster) => {
                let token = cluster.create_token(purpose, TOKEN_LIFETIME).await;
                cluster.close().await;
                token.map_err(|error| Line::new("the cluster gives no token").why(with_causes(&error)).failed())
            }
            Err(failure) => Err(failure),
        };
        match token {
            Ok(token) => return Ok(token),
            Err(failure) if Instant::now() >= deadline => return Err(failure),
            Err(_) => sleep(TOKEN_PERIOD).await,
        }
    }
}

impl Place<'_> {
    fn arguments(&self, command: &str, node: &NodeFolder) -> Vec<OsString> {
        let mut arguments = [command, "--listen", self.listen, "--data"].map(OsString::from).to_vec();
        arguments.push(node.data().into());
        arguments.extend(self.capacity.into_iter().flat_map(|size| ["--capacity", size]).map(OsString::from));
        arguments
    }
}

fn write_token(node: &NodeFolder, token: &str) -> Result<(), Failure> {
    let path = node.token_file();
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(token.as_bytes())).map_err(|error| cannot_write(&path, &error))
}

async fn run(programs: &Programs, arguments: &[OsString]) -> Result<(), Failure> {
    let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
    programs.run_node(&arguments).await
}

/// Removes what an interrupted attempt left.
fn clear(data: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(data) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Line::new(format!("cannot remove {}", data.display())).because(&error).failed()),
    }
}

fn forget_token(node: &NodeFolder) -> Result<(), Failure> {
    match fs::remove_file(node.token_file()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot_write(&node.token_file(), &error)),
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Line::new(format!("cannot write {}", path.display())).because(error).failed()
}
