//! Profiles: where a cluster is and who we are. A folder with `profile.toml`, `authority.der`, `certificate.der` and
//! `key.der`; 0700, the key 0600.
//!
//! # Invariants
//! - The key is never readable by others, not even for a moment.
//! - `profile.toml` is written last: a folder that has it is whole.
//!
//! # Not here
//! The environment (`DFS_PROFILE`, `XDG_CONFIG_HOME`, `HOME`): `main` reads it and hands it in.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wire::{
    cluster::{Access, ClusterId},
    quic::{Authority, Credentials, IdentityError, KeyPair},
};

/// Where profiles are looked for.
#[derive(Clone, Debug)]
pub struct ProfilePlaces {
    /// `$XDG_CONFIG_HOME/dfs` or `~/.config/dfs`; none without a home.
    pub user: Option<PathBuf>,
    /// `/etc/dfs`.
    pub system: PathBuf,
    /// Where new ones go.
    pub new: NewProfiles,
    /// The system's come before the user's: at boot, where nobody is logged in.
    pub system_first: bool,
}

/// Where new profiles go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NewProfiles {
    /// To the user's place; without one to the system's.
    User,
    /// To the system's place, unless the user's has one of that name: for root, whose mounts in `/etc/fstab` are made at boot,
    /// where nobody is logged in and no home is set.
    System,
}

/// Everything needed to reach a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Profile {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Nodes to begin with.
    pub seeds: Vec<SocketAddr>,
    /// What the certificate allows.
    pub access: Access,
    /// The authority's certificate (DER).
    pub authority: Vec<u8>,
    /// Our certificate (DER).
    pub certificate: Vec<u8>,
    /// Our key (PKCS #8 DER).
    pub key: ProfileKey,
}

/// A private key that does not print itself.
#[derive(Clone, Eq, PartialEq)]
pub struct ProfileKey(pub Vec<u8>);

impl std::fmt::Debug for ProfileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProfileKey(…)")
    }
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// There is none of that name.
    #[error(
        "no profile {name} in {places}: get a token from the cluster (dfs token create --for client) and run dfs login TOKEN"
    )]
    Missing {
        /// Its name.
        name: String,
        /// Where was looked.
        places: String,
    },
    /// A file of it cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of it is not what it should be.
    #[error("{path} is damaged: {reason}; log in again with a new token")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Key and certificate do not go together.
    #[error("the profile's key or certificate cannot be used; log in again with a new token")]
    Identity(#[from] IdentityError),
}

impl ProfilePlaces {
    /// The folder of the profile `name`: a path if there is a `/` in it; else the user's, else the system's, whichever
    /// exists first.
    pub fn find(&self, name: &OsStr) -> Result<PathBuf, ProfileError> {
        if name.as_bytes().contains(&b'/') {
            return Ok(PathBuf::from(name));
        }
        let mut places = self.user.iter().chain([&self.system]).collect::<Vec<_>>();
        if self.system_first {
            places.reverse();
        }
        let places = places.into_iter();
        let found = places.clone().map(|place| place.join(name)).find(|folder| folder.join(MANIFEST).exists());
        found.ok_or_else(|| ProfileError::Missing {
            name: name.to_string_lossy().into_owned(),
            places: places.map(|place| place.display().to_string()).collect::<Vec<_>>().join(" or "),
        })
    }

    /// Where a new profile `name` goes: a path if there is a `/` in it; else where [`NewProfiles`] says.
    pub fn new_folder(&self, name: &OsStr) -> PathBuf {
        if name.as_bytes().contains(&b'/') {
            return PathBuf::from(name);
        }
        let is_ours = |place: &&PathBuf| self.new == NewProfiles::User || place.join(name).join(MANIFEST).exists();
        self.user.as_ref().filter(is_ours).unwrap_or(&self.system).join(name)
    }
}

/// The file that says a profile is whole.
const MANIFEST: &str = "profile.toml";
const AUTHORITY: &str = "authority.der";
const CERTIFICATE: &str = "certificate.der";
const KEY: &str = "key.der";
const PENDING_KEY: &str = "key.pending.der";

/// Seeds that a profile keeps: one of so many answers, however large the cluster.
const SEEDS_MAX: usize = 16;

/// Larger files are no profile: a certificate is below 1 KiB.
const FILE_LEN_MAX: u64 = 64 << 10;

/// `profile.toml` as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    cluster: String,
    access: String,
    seeds: Vec<SocketAddr>,
}

impl Profile {
    /// Reads a profile from its folder.
    pub fn load(folder: &Path) -> Result<Self, ProfileError> {
        let path = folder.join(MANIFEST);
        let damaged = |reason: String| ProfileError::Damaged { path: path.clone(), reason };
        let text = match read(&path) {
            Err(ProfileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(ProfileError::Missing {
                    name: folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned(),
                    places: folder.parent().unwrap_or(folder).display().to_string(),
                });
            }
            other => String::from_utf8(other?).map_err(|_| damaged("it is not text".into()))?,
        };
        let manifest: Manifest = toml::from_str(&text).map_err(|error| damaged(error.message().to_owned()))?;
        if manifest.version != 1 {
            return Err(damaged(format!("it has version {}, this program knows version 1", manifest.version)));
        }
        let access = match manifest.access.as_str() {
            "read-write" => Access::ReadWrite,
            "read-only" => Access::ReadOnly,
            other => return Err(damaged(format!("{other:?} is no access"))),
        };
        let cluster = parse_hex(&manifest.cluster).ok_or_else(|| damaged("the cluster's id is no id".into()))?;
        if manifest.seeds.is_empty() {
            return Err(damaged("it names no seeds".into()));
        }
        Ok(Self {
            cluster: ClusterId(cluster),
            seeds: manifest.seeds,
            access,
            authority: read(&folder.join(AUTHORITY))?,
            certificate: read(&folder.join(CERTIFICATE))?,
            key: ProfileKey(read(&folder.join(KEY))?),
        })
    }

    /// Writes the profile to its folder, which is made if it does not exist.
    pub fn save(&self, folder: &Path) -> Result<(), ProfileError> {
        create_folder(folder)?;
        write(&folder.join(KEY), &self.key.0, 0o600)?;
        write(&folder.join(AUTHORITY), &self.authority, 0o600)?;
        write(&folder.join(CERTIFICATE), &self.certificate, 0o600)?;
        write(&folder.join(MANIFEST), self.manifest().as_bytes(), 0o600)
    }

    fn manifest(&self) -> String {
        let manifest = Manifest {
            version: 1,
            cluster: self.cluster.to_string(),
            access: match self.access {
                Access::ReadWrite => "read-write".into(),
                Access::ReadOnly => "read-only".into(),
            },
            seeds: self.seeds.clone(),
        };
        toml::to_string(&manifest).expect("a manifest is a plain table")
    }

    /// Lets the folder's seeds follow the members of the cluster: whoever the first node let in must find the others when
    /// that one is gone. Changes nothing where it could do harm: if no seed is the address of a member (they are reached
    /// by other addresses from here), and if the profile is somebody else's.
    pub fn follow_members(&self, folder: &Path, members: &[SocketAddr]) -> Result<(), ProfileError> {
        let path = folder.join(MANIFEST);
        let seeds = followed(&self.seeds, members);
        if seeds == self.seeds {
            return Ok(());
        }
        let owner = fs::metadata(&path).map_err(|source| ProfileError::Io { path: path.clone(), source })?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        write(&path, Self { seeds, ..self.clone() }.manifest().as_bytes(), 0o600)
    }

    /// What to show to nodes.
    pub fn credentials(&self) -> Result<Credentials, ProfileError> {
        let key = KeyPair::from_pkcs8(&self.key.0)?;
        let authority = Authority { certificate: self.authority.clone() };
        Ok(Credentials::new(key, self.certificate.clone(), authority)?)
    }
}

/// Seeds that are members stay first, in their order; other members follow.
fn followed(seeds: &[SocketAddr], members: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut followed: Vec<_> = seeds.iter().filter(|seed| members.contains(seed)).copied().collect();
    if followed.is_empty() {
        return seeds.to_vec();
    }
    let others: Vec<_> = members.iter().filter(|member| !followed.contains(member)).copied().collect();
    followed.extend(others);
    followed.truncate(SEEDS_MAX);
    followed
}

/// Makes the folder of a profile, for its owner alone.
pub(crate) fn create_folder(folder: &Path) -> Result<(), ProfileError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|source| ProfileError::Io { path: folder.to_owned(), source })
}

/// The key that an earlier attempt to log in left in the folder, if any.
pub(crate) fn load_pending_key(folder: &Path) -> Result<Option<ProfileKey>, ProfileError> {
    match read(&folder.join(PENDING_KEY)) {
        Ok(bytes) => Ok(Some(ProfileKey(bytes))),
        Err(ProfileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a key to the folder before a certificate is asked for; an older profile there stays whole.
pub(crate) fn save_pending_key(folder: &Path, key: &ProfileKey) -> Result<(), ProfileError> {
    write(&folder.join(PENDING_KEY), &key.0, 0o600)
}

/// Forgets the key of an attempt: it is in the profile now.
pub(crate) fn remove_pending_key(folder: &Path) -> Result<(), ProfileError> {
    let path = folder.join(PENDING_KEY);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(ProfileError::Io { path, source }),
        _ => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ProfileError> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(FILE_LEN_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(source) => Err(ProfileError::Io { path: path.to_owned(), source }),
    }
}

/// Writes a file under a name of its own, syncs it, and gives it its name: the old one or the new one, never half.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), ProfileError> {
    // Two commands at once must not write into each other's file.
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let written = (|| {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|source| ProfileError::Io { path: path.to_owned(), source })
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::fs::PermissionsExt};

    use wire::cluster::{Access, ClusterId};

    use super::{NewProfiles, Profile, ProfileError, ProfileKey, ProfilePlaces};

    fn profile() -> Profile {
        Profile {
            cluster: ClusterId([0xab; 16]),
            seeds: vec!["127.0.0.1:4000".parse().unwrap(), "[::1]:4001".parse().unwrap()],
            access: Access::ReadOnly,
            authority: vec![1, 2],
            certificate: vec![3],
            key: ProfileKey(vec![4, 5]),
        }
    }

    #[test]
    fn a_saved_profile_loads_again_and_its_key_is_its_owners_alone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("dfs/default");
        profile().save(&folder).unwrap();
        assert_eq!(Profile::load(&folder).unwrap(), profile());
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&folder), mode(&folder.join("key.der"))), (0o700, 0o600));
        profile().save(&folder).unwrap();
        assert_eq!(Profile::load(&folder).unwrap(), profile());
    }

    #[test]
    fn seeds_follow_the_members_of_the_cluster() {
        let place = tempfile::tempdir().unwrap();
        let members = ["127.0.0.1:4000", "127.0.0.1:4002", "127.0.0.1:4003"].map(|text| text.parse().unwrap());
        profile().save(place.path()).unwrap();
        profile().follow_members(place.path(), &members).unwrap();
        assert_eq!(Profile::load(place.path()).unwrap(), Profile { seeds: members.to_vec(), ..profile() });
        // From behind an address translation members have other addresses than they know themselves.
        profile().save(place.path()).unwrap();
        profile().follow_members(place.path(), &members[1..]).unwrap();
        assert_eq!(Profile::load(place.path()).unwrap(), profile());
    }

    #[test]
    fn the_users_profile_comes_before_the_systems_and_a_slash_makes_a_path() {
        let place = tempfile::tempdir().unwrap();
        let (user, system) = (place.path().join("user"), place.path().join("etc"));
        let places = ProfilePlaces { user: Some(user), system, new: NewProfiles::User, system_first: false };
        let missing = places.find(OsStr::new("default")).unwrap_err();
        assert!(matches!(missing, ProfileError::Missing { .. }) && missing.to_string().contains("dfs login"));
        profile().save(&places.system.join("default")).unwrap();
        assert_eq!(places.find(OsStr::new("default")).unwrap(), places.system.join("default"));
        profile().save(&places.user.clone().unwrap().join("default")).unwrap();
        assert_eq!(places.find(OsStr::new("default")).unwrap(), place.path().join("user/default"));
        assert_eq!(places.find(OsStr::new("./x")).unwrap(), std::path::Path::new("./x"));
        assert_eq!(places.new_folder(OsStr::new("other")), place.path().join("user/other"));
        let at_boot = ProfilePlaces { system_first: true, ..places.clone() };
        assert_eq!(at_boot.find(OsStr::new("default")).unwrap(), places.system.join("default"));
        let of_root = ProfilePlaces { new: NewProfiles::System, ..places };
        assert_eq!(of_root.new_folder(OsStr::new("other")), place.path().join("etc/other"));
        assert_eq!(of_root.new_folder(OsStr::new("default")), place.path().join("user/default"), "it is found first");
        assert_eq!(of_root.new_folder(OsStr::new("./x")), std::path::Path::new("./x"));
    }

    #[test]
    fn a_damaged_profile_is_named_in_one_line() {
        let place = tempfile::tempdir().unwrap();
        profile().save(place.path()).unwrap();
        for text in ["", "version = 1", "version = 2\ncluster = \"\"\naccess = \"\"\nseeds = []", "\u{0}"] {
            std::fs::write(place.path().join("profile.toml"), text).unwrap();
            let error = Profile::load(place.path()).unwrap_err();
            assert!(matches!(error, ProfileError::Damaged { .. }), "{error}");
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }
}
