//! Disks that can be full.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::cluster::run;

/// How often room is taken while others take it too.
const FILL_TRIES: u32 = 20;

/// A small file system in memory; gone with the value. Only root makes one.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// One of `mib` MiB, mounted on `mount`.
    pub fn mount(mount: PathBuf, mib: u32) -> Self {
        fs::create_dir_all(&mount).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "dfs-test"]).arg(&mount)).ok();
        Self { mount }
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.mount
    }

    /// Takes all room but `left` MiB, as another program might; a second time, of what there is by then.
    pub fn fill(&self, left: u64) {
        let file = fs::File::options().create(true).append(true).open(self.filler()).unwrap();
        let taken = file.metadata().unwrap().len();
        // A node may take some of it between the look and the grip.
        let filled = (0..FILL_TRIES).any(|_| {
            let room = rustix::fs::statvfs(&self.mount).unwrap();
            let wanted = (room.f_bavail * room.f_frsize).saturating_sub(left << 20);
            wanted == 0 || rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), taken, wanted).is_ok()
        });
        assert!(filled, "{} cannot be filled", self.mount.display());
    }

    /// Gives it back.
    pub fn give_back(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that has just been killed may still hold a file for a moment.
        let ended = Command::new("umount").arg("-l").arg(&self.mount).status();
        assert!(ended.is_ok_and(|status| status.success()), "{} stays mounted", self.mount.display());
    }
}
