//! The seeds of a profile, which follow the members of the cluster: who was let in by the first node must find the others
//! when that one is gone.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fuse_client::{Cluster, Profile, ProfileError};
use ring::Epoch;

/// Between two looks of a mount whether there is a new map: members come and go more rarely.
const FOLLOW_EVERY: Duration = Duration::from_secs(10);

/// Writes the members of the cluster into the profile in `folder`, where they are others than its seeds.
pub(crate) fn follow(cluster: &Cluster, folder: &Path) {
    if let Err(error) = try_follow(cluster, folder) {
        // A profile that cannot be written serves as well today.
        tracing::debug!(%error, "the seeds of the profile stay as they are");
    }
}

fn try_follow(cluster: &Cluster, folder: &Path) -> Result<(), ProfileError> {
    let map = cluster.map();
    // As it is now: somebody may have logged in to another cluster since it was read.
    let profile = Profile::load(folder)?;
    if profile.cluster != map.cluster {
        return Ok(());
    }
    let members: Vec<_> = map.nodes.iter().map(|node| node.address).collect();
    profile.follow_members(folder, &members)
}

/// Seeds that follow for as long as a mount lives.
#[derive(Debug)]
pub(crate) struct Seeds {
    cluster: Cluster,
    folder: PathBuf,
    /// Epoch of the map that was followed last, and when.
    followed: (Epoch, Instant),
}

impl Seeds {
    /// Follows the cluster in the profile in `folder`, from now on.
    pub(crate) fn new(cluster: Cluster, folder: PathBuf) -> Self {
        follow(&cluster, &folder);
        let followed = (cluster.map().epoch, Instant::now());
        Self { cluster, folder, followed }
    }

    /// Follows a new map, if there is one and the last was long enough ago.
    pub(crate) fn poll(&mut self) {
        let (epoch, at) = self.followed;
        if at.elapsed() < FOLLOW_EVERY {
            return;
        }
        let newest = self.cluster.map().epoch;
        self.followed = (newest, Instant::now());
        if newest > epoch {
            follow(&self.cluster, &self.folder);
        }
    }
}
