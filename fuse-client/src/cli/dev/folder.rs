//! The folder of a development cluster and its `dev.json`.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fuse_client::Profile;
use serde::{Deserialize, Serialize};

use crate::cli::failure::{Failure, Line};

/// Version of `dev.json` that is written and read.
const FORMAT: u32 = 1;

/// What was asked for, and how far it came.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct DevState {
    format: u32,
    /// Replicas that the cluster was made for.
    pub(super) replicas: u8,
    /// Nodes, the first of which made the cluster.
    pub(super) nodes: Vec<DevNode>,
    /// Where it is mounted, if that was asked for: an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mount: Option<PathBuf>,
}

/// A node of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct DevNode {
    /// Where it listens.
    pub(super) address: String,
    /// How far it came.
    pub(super) stage: Stage,
    /// Its identity, once the cluster told it.
    pub(super) id: Option<String>,
}

/// How far a node came.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// It has an address.
    Planned,
    /// It is a member: `init` or `join` succeeded.
    Joined,
}

/// The folder of a cluster.
#[derive(Clone, Debug)]
pub(super) struct DevFolder {
    path: PathBuf,
}

/// The folder of a node in it.
#[derive(Clone, Debug)]
pub(super) struct NodeFolder {
    path: PathBuf,
}

/// Holds the folder against another `up` or `down`, until dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

impl DevState {
    /// A cluster to be made.
    pub(super) fn new(replicas: u8, addresses: Vec<String>) -> Self {
        let nodes = addresses.into_iter().map(DevNode::planned).collect();
        Self { format: FORMAT, replicas, nodes, mount: None }
    }
}

impl DevNode {
    /// A node to be made.
    pub(super) fn planned(address: String) -> Self {
        Self { address, stage: Stage::Planned, id: None }
    }
}

impl DevFolder {
    /// The folder, made if it does not exist; refused if it holds something else.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let failed = |error: &io::Error| Line::new(format!("cannot use {}", path.display())).because(error).failed();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed(&error))?;
        let folder = Self { path: fs::canonicalize(path).map_err(|error| failed(&error))? };
        if !folder.state_file().exists() {
            // Only the lock may stand in it: of an `up` that ended before it had begun.
            let strange = fs::read_dir(&folder.path)
                .map_err(|error| failed(&error))?
                .filter_map(Result::ok)
                .any(|entry| entry.file_name() != "lock" && entry.file_name() != "dev.json.new");
            if strange {
                let line = Line::new(format!("cannot use {}", path.display()));
                let why = "it is not empty and holds no cluster of dfs dev";
                return Err(line.why(why).advice("name another folder with --dir").failed());
            }
        }
        Ok(folder)
    }

    /// The folder of a cluster that exists, with its state.
    pub(super) fn open(path: &Path) -> Result<(Self, DevState), Failure> {
        let missing = || {
            let line = Line::new(format!("no cluster of dfs dev in {}", path.display()));
            line.advice("dfs dev up makes one; --dir names another folder").failed()
        };
        let folder = Self { path: fs::canonicalize(path).map_err(|_| missing())? };
        let state = folder.load()?.ok_or_else(missing)?;
        Ok((folder, state))
    }

    /// Locks out other commands that start or stop nodes.
    pub(super) fn lock(&self) -> Result<FolderLock, Failure> {
        let what = || Line::new(format!("cannot lock {}", self.path.display()));
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.join("lock"))
            .map_err(|error| what().because(&error).failed())?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                let why = "another dfs dev up or down is at work there";
                Err(what().why(why).advice("wait until it is done").failed())
            }
            Err(TryLockError::Error(error)) => Err(what().because(&error).failed()),
        }
    }

    /// The state, if the folder has one.
    pub(super) fn load(&self) -> Result<Option<DevState>, Failure> {
        let path = self.state_file();
        let what = || Line::new(format!("cannot read {}", path.display()));
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(what().because(&error).failed()),
        };
        let state: DevState = serde_json::from_slice(&text)
            .map_err(|error| what().because(&error).advice("it is not of dfs dev, or damaged").failed())?;
        if state.format != FORMAT {
            return Err(what().why(format!("format {} is not known to this dfs", state.format)).failed());
        }
        Ok(Some(state))
    }

    /// Writes the state, the old one or the new one whole.
    pub(super) fn save(&self, state: &DevState) -> Result<(), Failure> {
        let path = self.state_file();
        let new = self.path.join("dev.json.new");
        let text = serde_json::to_string_pretty(state).expect("plain data has a JSON form");
        fs::write(&new, text + "\n")
            .and_then(|()| fs::rename(&new, &path))
            .map_err(|error| Line::new(format!("cannot write {}", path.display())).because(&error).failed())
    }

    /// Deletes everything, what says that it is a cluster of ours last: an interrupted deletion can be repeated.
    pub(super) fn delete(&self) -> io::Result<()> {
        let last = [self.state_file(), self.path.join("lock")];
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if last.contains(&path) {
                continue;
            }
            if fs::symlink_metadata(&path)?.is_dir() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
        fs::remove_file(self.state_file())?;
        fs::remove_dir_all(&self.path)
    }

    /// The node at this place of the state.
    pub(super) fn node(&self, index: usize) -> NodeFolder {
        NodeFolder { path: self.path.join(format!("node-{}", index + 1)) }
    }

    /// The profile that clients of the cluster use.
    pub(super) fn profile(&self) -> PathBuf {
        self.path.join("profile")
    }

    /// Whether a profile is one for this cluster, whoever logged in with it.
    pub(super) fn is_profile_of_cluster(&self, profile: &Path) -> bool {
        let (Ok(ours), Ok(theirs)) = (Profile::load(&self.profile()), Profile::load(profile)) else { return false };
        // Not the whole profiles: seeds follow the members, and each login has a key of its own.
        (ours.cluster, ours.authority) == (theirs.cluster, theirs.authority)
    }

    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn state_file(&self) -> PathBuf {
        self.path.join("dev.json")
    }
}

impl NodeFolder {
    /// The folder itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `node-2`.
    pub(super) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// What `dfs-node` knows as `--data`.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Whether `init` or `join` was done here: they write this file last.
    pub(super) fn is_member(&self) -> bool {
        self.data().join("node.toml").exists()
    }

    /// All that the node prints.
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Number of its process.
    pub(super) fn pid_file(&self) -> PathBuf {
        self.path.join("pid")
    }

    /// The token it joins with, until it has.
    pub(super) fn token_file(&self) -> PathBuf {
        self.path.join("token")
    }

    /// The profile that `dfs-node init` writes for the first client.
    pub(super) fn admin_profile(&self) -> PathBuf {
        self.data().join("admin")
    }
}

#[cfg(test)]
mod tests {
    use super::{DevFolder, DevState, Stage};

    #[test]
    fn a_folder_with_other_things_in_it_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        assert!(DevFolder::create(dir.path()).unwrap_err().line().unwrap().contains("is not empty"));
        assert!(DevFolder::open(dir.path()).unwrap_err().line().unwrap().contains("no cluster of dfs dev"));
    }

    #[test]
    fn the_state_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DevFolder::create(&dir.path().join("a/b")).unwrap();
        assert_eq!(folder.load().unwrap(), None);
        let mut state = DevState::new(3, vec!["127.0.0.1:20000".into(), "127.0.0.1:20001".into()]);
        state.nodes[0].stage = Stage::Joined;
        folder.save(&state).unwrap();
        assert_eq!(DevFolder::open(&dir.path().join("a/b")).unwrap().1, state);
        DevFolder::create(&dir.path().join("a/b")).unwrap();
    }

    #[test]
    fn a_state_of_another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("dev.json"), r#"{"format":9,"replicas":3,"nodes":[]}"#).unwrap();
        assert!(DevFolder::open(dir.path()).unwrap_err().line().unwrap().contains("format 9"));
    }

    #[test]
    fn two_commands_at_once_are_locked_out() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DevFolder::create(dir.path()).unwrap();
        let held = folder.lock().unwrap();
        assert!(folder.lock().unwrap_err().line().unwrap().contains("at work"));
        drop(held);
        folder.lock().unwrap();
    }
}
