//! The data directory of a node: who it is, and what proves it.
//!
//! | file | holds | mode |
//! |---|---|---|
//! | `node.toml` | format version, cluster, identity, place, addresses | 0644 |
//! | `key.der` | private key (PKCS #8); written before a certificate is asked for | 0600 |
//! | `certificate.der`, `authority.der` | what the cluster signed, and who signed | 0644 |
//! | `seal.key` | key that unseals the authority's key; voters only | 0600 |
//! | `founding.der` | the authority's sealed key, on the first node until the cluster has it | 0600 |
//! | `peers.toml` | where the nodes were last reached, by identity | 0644 |
//! | `admin/` | profile of the first client, on the first node | 0700 |
//! | `before-recovery-N/` | what a survivor of a recovered cluster had of the namespace; a person may delete it | 0700 |
//! | `log/`, `chunks/` | append logs of Raft and of chunks | 0700 |
//! | `state/`, `index/` | key-value stores: state machine, chunk index | 0700 |
//!
//! # Invariants
//! - `node.toml` is written last: a directory without it is no data directory, whatever else is in it.
//! - Every file is written under another name, synced, and renamed.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ring::{NodeId, ReplicaCount, Zone};
use serde::{Deserialize, Serialize};
use wire::{
    cluster::{ClusterId, SealKey},
    quic::{Authority, Credentials, IdentityError, KeyPair},
};

/// Version of the formats in a data directory that this program reads and writes.
pub const FORMAT: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// There is none.
    #[error("{} is not a dfs data directory; make one with dfs-node init or dfs-node join", dir.display())]
    Missing {
        /// Where.
        dir: PathBuf,
    },
    /// There is one already.
    #[error("{} belongs to cluster {cluster} already; choose another directory", dir.display())]
    Exists {
        /// Where.
        dir: PathBuf,
        /// Whose it is.
        cluster: String,
    },
    /// Something else is there.
    #[error("{} is not empty and is no dfs data directory; choose another directory", dir.display())]
    Foreign {
        /// Where.
        dir: PathBuf,
    },
    /// Another version wrote it.
    #[error("{} has data format {found}, this program reads format {FORMAT}; run the version that wrote it", dir.display())]
    Format {
        /// Where.
        dir: PathBuf,
        /// Format found.
        found: u32,
    },
    /// A file is not what it should be.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The node has voted, and does not know any more what it promised.
    #[error(
        "the Raft log of {} is lost, so this node must not vote again; join as a new one, in another directory",
        dir.display()
    )]
    RaftLogLost {
        /// Where.
        dir: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What `node.toml` says.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    /// Version of the formats in the directory.
    pub format: u32,
    /// Which cluster, 32 hexadecimal digits.
    pub cluster: String,
    /// Which node, 32 hexadecimal digits.
    pub node: String,
    /// Replicas that the cluster keeps.
    pub replicas: ReplicaCount,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where others reach it, if that is another address.
    pub advertise: SocketAddr,
    /// Failure domain.
    pub zone: Option<Zone>,
    /// Bytes that the chunk store may use; what the file system has, if none.
    pub capacity: Option<u64>,
    /// Members to start from.
    pub seeds: Vec<SocketAddr>,
    /// User and group of whoever made the cluster, on its first node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
}

impl NodeFile {
    /// Identity of the cluster.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster.parse::<NodeId>().ok().map(|id| ClusterId(*id.as_bytes()))
    }

    /// Identity of the node.
    pub fn node_id(&self) -> Option<NodeId> {
        self.node.parse().ok()
    }
}

/// A data directory. That it is locked is the caller's business, see [`super::Disk::lock_dir`].
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// A directory to be filled: made if it is missing, refused if anything of another is in it. What an interrupted
    /// attempt left is used again (its key), as it has shown nobody anything else.
    pub fn create(path: &Path) -> Result<Self, DataDirError> {
        let dir = Self { path: path.to_owned() };
        match dir.node_file() {
            Ok(node) => return Err(DataDirError::Exists { dir: dir.path, cluster: node.cluster }),
            Err(DataDirError::Missing { .. }) => {}
            Err(error) => return Err(error),
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("create", path))?;
        for entry in fs::read_dir(path).map_err(io_error("list", path))? {
            let name = entry.map_err(io_error("list", path))?.file_name();
            let ours = ["LOCK", "key.der", "seal.key", "founding.der", "certificate.der", "authority.der", "admin"];
            let known = name.to_str().is_some_and(|name| ours.contains(&name) || name.ends_with(".new"));
            if !known {
                return Err(DataDirError::Foreign { dir: dir.path });
            }
        }
        Ok(dir)
    }

    /// A directory that is in use, or was.
    pub fn open(path: &Path) -> Result<(Self, NodeFile), DataDirError> {
        let dir = Self { path: path.to_owned() };
        let node = dir.node_file()?;
        Ok((dir, node))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn node_file(&self) -> Result<NodeFile, DataDirError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let path = self.path.join("node.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DataDirError::Missing { dir: self.path.clone() });
            }
            Err(source) => return Err(DataDirError::Io { action: "read", path, source }),
        };
        let damaged =
            |error: toml::de::Error| DataDirError::Damaged { path: path.clone(), reason: error.message().to_owned() };
        let version: Version = toml::from_str(&text).map_err(damaged)?;
        if version.format != FORMAT {
            return Err(DataDirError::Format { dir: self.path.clone(), found: version.format });
        }
        let node: NodeFile = toml::from_str(&text).map_err(damaged)?;
        if node.node_id().is_none() || node.cluster_id().is_none() {
            return Err(DataDirError::Damaged { path, reason: "an identity is not 32 hexadecimal digits".to_owned() });
        }
        Ok(node)
    }

    /// Writes `node.toml`.
    pub fn write_node_file(&self, node: &NodeFile) -> Result<(), DataDirError> {
        let text = toml::to_string_pretty(node)
            .map_err(|error| DataDirError::Damaged { path: self.path.join("node.toml"), reason: error.to_string() })?;
        self.write("node.toml", text.as_bytes(), 0o644)
    }

    /// The key of the node: the one that is there, or a new one, on disk before anybody sees it.
    pub fn key(&self) -> Result<KeyPair, DataDirError> {
        if let Some(der) = self.read("key.der")? {
            return KeyPair::from_pkcs8(&der).map_err(|error| self.damaged("key.der", &error));
        }
        let key = KeyPair::generate();
        self.write("key.der", &key.to_pkcs8(), 0o600)?;
        Ok(key)
    }

    /// Keeps what the authority signed.
    pub fn write_certificate(&self, certificate: &[u8], authority: &Authority) -> Result<(), DataDirError> {
        self.write("authority.der", &authority.certificate, 0o644)?;
        self.write("certificate.der", certificate, 0o644)
    }

    /// What the node shows to others.
    pub fn credentials(&self) -> Result<Credentials, DataDirError> {
        let key = self.require("key.der")?;
        let certificate = self.require("certificate.der")?;
        let authority = Authority { certificate: self.require("authority.der")? };
        let key = KeyPair::from_pkcs8(&key).map_err(|error| self.damaged("key.der", &error))?;
        Credentials::new(key, certificate, authority).map_err(|error| self.damaged("certificate.der", &error))
    }

    /// The authority's certificate.
    pub fn authority(&self) -> Result<Authority, DataDirError> {
        Ok(Authority { certificate: self.require("authority.der")? })
    }

    /// The key that unseals the authority's, if this node has it.
    pub fn seal(&self) -> Result<Option<SealKey>, DataDirError> {
        let Some(bytes) = self.read("seal.key")? else { return Ok(None) };
        let seal = <[u8; 32]>::try_from(bytes).map_err(|_| DataDirError::Damaged {
            path: self.path.join("seal.key"),
            reason: "it is not 32 bytes long".to_owned(),
        })?;
        Ok(Some(SealKey(seal)))
    }

    /// Keeps the key that unseals the authority's.
    pub fn write_seal(&self, seal: &SealKey) -> Result<(), DataDirError> {
        self.write("seal.key", &seal.0, 0o600)
    }

    /// The authority's sealed key, on the node that founds the cluster.
    pub fn founding(&self) -> Result<Option<Vec<u8>>, DataDirError> {
        self.read("founding.der")
    }

    /// Keeps the authority's sealed key until the cluster has it.
    pub fn write_founding(&self, sealed: &[u8]) -> Result<(), DataDirError> {
        self.write("founding.der", sealed, 0o600)
    }

    /// Where the nodes were reached when this one last ran.
    pub fn addresses(&self) -> Result<BTreeMap<NodeId, SocketAddr>, DataDirError> {
        let Some(bytes) = self.read("peers.toml")? else { return Ok(BTreeMap::new()) };
        let damaged = |reason| DataDirError::Damaged { path: self.path.join("peers.toml"), reason };
        let text = str::from_utf8(&bytes).map_err(|error| damaged(error.to_string()))?;
        let rows: BTreeMap<String, SocketAddr> =
            toml::from_str(text).map_err(|error| damaged(error.message().to_owned()))?;
        let parsed = rows.iter().map(|(id, address)| id.parse().ok().map(|id| (id, *address)));
        parsed.collect::<Option<_>>().ok_or_else(|| damaged("an identity is not 32 hexadecimal digits".to_owned()))
    }

    /// Keeps where the nodes are reached.
    pub fn write_addresses(&self, addresses: &BTreeMap<NodeId, SocketAddr>) -> Result<(), DataDirError> {
        let rows: BTreeMap<String, SocketAddr> = addresses.iter().map(|(id, at)| (id.to_string(), *at)).collect();
        let text = toml::to_string_pretty(&rows)
            .map_err(|error| DataDirError::Damaged { path: self.path.join("peers.toml"), reason: error.to_string() })?;
        self.write("peers.toml", text.as_bytes(), 0o644)
    }

    /// The cluster has it: this node founds no other.
    pub fn remove_founding(&self) -> Result<(), DataDirError> {
        let path = self.path.join("founding.der");
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(DataDirError::Io { action: "remove", path, source }),
        }
        sync(&self.path)
    }

    /// Refuses a directory that has lost its Raft log. A node is given the seal before it votes, and the first node has
    /// founded its cluster once it knows where the nodes are, or has nothing to found one with any more.
    pub fn check_raft_log(&self) -> Result<(), DataDirError> {
        let has = |name: &str| self.path.join(name).exists();
        let has_voted = has("seal.key") && (has("peers.toml") || !has("founding.der"));
        if has_voted && !(has("log/vote") && has("log/log")) {
            return Err(DataDirError::RaftLogLost { dir: self.path.clone() });
        }
        Ok(())
    }

    /// Puts the node's part in the namespace aside, and the log in `new` in its place; where the old files are now.
    ///
    /// The seal goes last: with it and without a log a node does not start ([`DataDir::check_raft_log`]), so that after a
    /// crash half way this has to be asked again.
    pub fn put_aside(&self, new: &Path) -> Result<PathBuf, DataDirError> {
        let aside = (1..)
            .map(|number: u32| self.path.join(format!("before-recovery-{number}")))
            .find(|path| !path.exists())
            .expect("a directory holds fewer entries than there are numbers");
        fs::DirBuilder::new().mode(0o700).create(&aside).map_err(io_error("create", &aside))?;
        for name in ["founding.der", "state", "log"] {
            self.put_aside_one(name, &aside)?;
        }
        let log = self.path.join("log");
        fs::rename(new, &log).map_err(io_error("rename to", &log))?;
        sync(&self.path)?;
        self.put_aside_one("seal.key", &aside)?;
        Ok(aside)
    }

    fn put_aside_one(&self, name: &str, aside: &Path) -> Result<(), DataDirError> {
        let (from, to) = (self.path.join(name), aside.join(name));
        match fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(DataDirError::Io { action: "rename", path: from, source }),
        }
        sync(aside)?;
        sync(&self.path)
    }

    /// Writes the profile of the first client: files by name, in a folder only its owner may enter.
    pub fn write_profile(&self, files: &[(&str, &[u8])]) -> Result<(), DataDirError> {
        let folder = self.path.join("admin");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io_error("create", &folder))?;
        files.iter().try_for_each(|(name, bytes)| self.write(&format!("admin/{name}"), bytes, 0o600))
    }

    /// Fingerprint material of the first client: its certificate request is not kept, its certificate is.
    pub fn admin_key(&self) -> Result<Option<KeyPair>, DataDirError> {
        let Some(der) = self.read("admin/key.der")? else { return Ok(None) };
        KeyPair::from_pkcs8(&der).map(Some).map_err(|error| self.damaged("admin/key.der", &error))
    }

    /// A file of the first client's profile.
    pub fn admin_file(&self, name: &str) -> Result<Option<Vec<u8>>, DataDirError> {
        self.read(&format!("admin/{name}"))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DataDirError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DataDirError::Io { action: "read", path, source }),
        }
    }

    fn require(&self, name: &str) -> Result<Vec<u8>, DataDirError> {
        self.read(name)?
            .ok_or_else(|| DataDirError::Damaged { path: self.path.join(name), reason: "it is missing".to_owned() })
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), DataDirError> {
        let path = self.path.join(name);
        let new = self.path.join(format!("{name}.new"));
        let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new).and_then(
            |mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            },
        );
        written.map_err(io_error("write", &new))?;
        fs::rename(&new, &path).map_err(io_error("rename to", &path))?;
        let parent = path.parent().unwrap_or(&self.path);
        sync(parent)
    }

    fn damaged(&self, name: &str, error: &IdentityError) -> DataDirError {
        DataDirError::Damaged { path: self.path.join(name), reason: error.to_string() }
    }
}

fn sync(dir: &Path) -> Result<(), DataDirError> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DataDirError + 'a {
    move |source| DataDirError::Io { action, path: path.to_owned(), source }
}
