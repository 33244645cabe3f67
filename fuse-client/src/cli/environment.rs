//! What the command reads from its surroundings, once, in `main`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use chrono::Utc;
use fuse_client::{NewProfiles, ProfilePlaces};
use rustix::{
    fs::Mode as FileMode,
    process::{getegid, geteuid, getgroups, umask},
};
use wire::namespace::Timestamp;

/// Environment and identity of the process.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    /// `HOME`; if that is not set, as at boot, what the list of users says.
    pub(crate) home: Option<PathBuf>,
    /// Whether `HOME` is set.
    pub(crate) is_home_set: bool,
    /// `XDG_CONFIG_HOME`, if set to an absolute path, as its specification asks.
    pub(crate) config_home: Option<PathBuf>,
    /// `XDG_DATA_HOME`, likewise.
    pub(crate) data_home: Option<PathBuf>,
    /// `XDG_STATE_HOME`, likewise.
    pub(crate) state_home: Option<PathBuf>,
    /// `DFS_LOG`: what the library logs to standard error; nothing if unset.
    pub(crate) log: Option<String>,
    /// Effective user.
    pub(crate) uid: u32,
    /// Effective group.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Permission bits that new directories do not get.
    pub(crate) umask: u16,
    /// This program's own file: `dfs-node` stands beside it.
    pub(crate) program: Option<PathBuf>,
    /// When the command started.
    pub(crate) now: Timestamp,
}

impl Environment {
    /// Reads everything.
    pub(crate) fn read() -> Self {
        let now = Utc::now();
        Self {
            home: std::env::home_dir().filter(|home| home.is_absolute()),
            is_home_set: std::env::var_os("HOME").is_some(),
            config_home: absolute(std::env::var_os("XDG_CONFIG_HOME")),
            data_home: absolute(std::env::var_os("XDG_DATA_HOME")),
            state_home: absolute(std::env::var_os("XDG_STATE_HOME")),
            log: std::env::var("DFS_LOG").ok().filter(|log| !log.is_empty()),
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            groups: getgroups().unwrap_or_default().into_iter().map(|gid| gid.as_raw()).collect(),
            umask: read_umask(),
            program: std::env::current_exe().ok(),
            now: Timestamp::new(now.timestamp(), now.timestamp_subsec_nanos().min(999_999_999))
                .expect("bounded to what a second has"),
        }
    }

    /// Folder that holds the profiles of this user.
    pub(crate) fn profiles(&self) -> Option<PathBuf> {
        under(self.config_home.as_deref(), self.home.as_deref(), ".config").map(|folder| folder.join("dfs"))
    }

    /// Where profiles are looked for. A profile of root serves the whole machine, unless root says where its own are.
    pub(crate) fn profile_places(&self) -> ProfilePlaces {
        let is_root = self.uid == 0 && self.config_home.is_none();
        let new = if is_root { NewProfiles::System } else { NewProfiles::User };
        let system_first = is_root && !self.is_home_set;
        ProfilePlaces { user: self.profiles(), system: PathBuf::from("/etc/dfs"), new, system_first }
    }

    /// Folder of the development cluster, if none is named.
    pub(crate) fn dev_dir(&self) -> Option<PathBuf> {
        under(self.data_home.as_deref(), self.home.as_deref(), ".local/share").map(|folder| folder.join("dfs/dev"))
    }

    /// Folder for the logs of programs that run in the background.
    pub(crate) fn log_dir(&self) -> PathBuf {
        let own = under(self.state_home.as_deref(), self.home.as_deref(), ".local/state").map(|dir| dir.join("dfs"));
        match own {
            Some(dir) if self.uid != 0 || self.state_home.is_some() => dir,
            _ if self.uid == 0 => PathBuf::from("/var/log/dfs"),
            own => own.unwrap_or_else(|| PathBuf::from("/tmp")),
        }
    }
}

/// The mask can be read only by setting it; nobody else looks yet.
fn read_umask() -> u16 {
    let mask = umask(FileMode::empty());
    umask(mask);
    u16::try_from(mask.bits() & 0o777).expect("nine bits")
}

/// Paths that are not absolute are ignored.
fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The folder that was set, or the usual one in the home folder.
fn under(set: Option<&Path>, home: Option<&Path>, usual: &str) -> Option<PathBuf> {
    set.map(Path::to_path_buf).or_else(|| home.map(|home| home.join(usual)))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, path::PathBuf};

    use fuse_client::{Profile, ProfileKey, ProfilePlaces};
    use wire::cluster::{Access, ClusterId};

    use super::Environment;

    fn save(folder: &std::path::Path) {
        let seeds = vec!["127.0.0.1:4000".parse().unwrap()];
        let key = ProfileKey(vec![1]);
        let (authority, certificate) = (vec![2], vec![3]);
        let profile =
            Profile { cluster: ClusterId([1; 16]), seeds, access: Access::ReadWrite, authority, certificate, key };
        profile.save(folder).unwrap();
    }

    #[test]
    fn at_boot_without_home_and_xdg_the_profile_is_found_that_roots_login_wrote() {
        let place = tempfile::tempdir().unwrap();
        let root = |home: Option<PathBuf>, config_home: Option<PathBuf>| {
            let environment =
                Environment { is_home_set: home.is_some(), home, config_home, uid: 0, ..Environment::read() };
            ProfilePlaces { system: place.path().join("etc"), ..environment.profile_places() }
        };
        let (home, name) = (Some(place.path().join("root")), OsStr::new("default"));
        let at_login = root(home.clone(), None);
        save(&at_login.new_folder(name));
        assert_eq!(root(None, None).find(name).unwrap(), place.path().join("etc/default"));
        assert_eq!(root(home.clone(), None).find(name).unwrap(), place.path().join("etc/default"));
        // Where root says where its profiles are, they stay there.
        let config = place.path().join("config");
        assert_eq!(root(home.clone(), Some(config.clone())).new_folder(name), config.join("dfs/default"));
        // One of an earlier release is replaced where it is, and found through the list of users.
        let before = root(home, None).user.unwrap().join("old");
        save(&before);
        assert_eq!(at_login.new_folder(OsStr::new("old")), before);
        let alice = Environment { home: Some("/home/alice".into()), config_home: None, uid: 7, ..Environment::read() };
        assert_eq!(alice.profile_places().new_folder(name), PathBuf::from("/home/alice/.config/dfs/default"));
    }
}
