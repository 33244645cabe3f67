//! When what is written goes out: by and by, and at the end of a mount.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::sleep};
use tracing::warn;
use wire::namespace::OpError;

use super::{
    FileSystem, FsError, LOOKS_MAX, OP_DEADLINE, Shared,
    file::File,
    flush::{Flushed, Journal, LeaseHeld, Take},
};
use crate::cluster::now;

/// How often dirty files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Files that are written out at once.
const FLUSHES_MAX: usize = 64;

/// A file whose bytes cannot be committed at the moment is left alone for as long.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// How long a file is tried at the end of a mount: longer than a cluster may take to choose a leader.
const LAST_DEADLINE: Duration = Duration::from_secs(40);

/// How often room is looked for at the end of a mount.
const REFUSALS_MAX: u32 = 4;

/// Looks after dirty files.
pub(super) async fn write_out(shared: Arc<Shared>) {
    let turns = Arc::new(tokio::sync::Semaphore::new(FLUSHES_MAX));
    loop {
        let pressed = tokio::select! {
            () = shared.pressure.notified() => true,
            () = sleep(LOOK_INTERVAL) => false,
        };
        for file in shared.due(pressed) {
            let Ok(turn) = Arc::clone(&turns).acquire_owned().await else { return };
            let task = Arc::clone(&shared);
            shared.spawn(async move {
                task.flush_deferred(file, Take::All).await;
                drop(turn);
            });
        }
    }
}

impl FileSystem {
    /// Writes out what a file that was closed holds.
    pub(super) fn write_out_soon(&self, file: &Arc<File>) {
        let (shared, file) = (Arc::clone(&self.shared), Arc::clone(file));
        self.shared.spawn(async move { shared.flush_deferred(file, Take::All).await });
    }

    /// Writes out the whole chunks of a file that is being written.
    pub(super) fn write_out_full(&self, file: &Arc<File>) {
        let (shared, file) = (Arc::clone(&self.shared), Arc::clone(file));
        self.shared.spawn(async move { shared.flush_deferred(file, Take::Full).await });
    }

    /// Writes everything out (bounded). Returns of how many files not all could be, which the log names.
    pub async fn flush_everything(&self) -> usize {
        let mut flushes = JoinSet::new();
        for file in self.shared.unsaved() {
            let shared = Arc::clone(&self.shared);
            flushes.spawn(async move {
                let until = now() + LAST_DEADLINE;
                let mut flushed = shared.flush_within(&file, OP_DEADLINE).await;
                let mut tries = 1;
                while let Err(error) = &flushed
                    && now() < until
                    && (tries < REFUSALS_MAX || !error.is_no_room())
                {
                    tries += 1;
                    sleep(AFTER_FAILURE).await;
                    flushed = shared.flush_within(&file, OP_DEADLINE).await;
                }
                if let Err(error) = &flushed
                    && shared.is_of_no_use(&file, error).await
                {
                    flushed = Ok(());
                }
                (flushed, file.inode)
            });
        }
        let mut lost = 0;
        while let Some(flushed) = flushes.join_next().await {
            match flushed {
                Ok((Ok(()), _)) => {}
                Ok((Err(error), inode)) => {
                    warn!(%inode, %error, "bytes written to a file could not be stored and are lost");
                    lost += 1;
                }
                Err(error) => {
                    warn!(%error, "a file could not be written out");
                    lost += 1;
                }
            }
        }
        lost
    }
}

impl Shared {
    /// Files of which something is not stored, be it on its way.
    fn unsaved(&self) -> Vec<Arc<File>> {
        self.files().into_iter().filter(|file| file.is_dirty()).collect()
    }

    fn files(&self) -> Vec<Arc<File>> {
        let table = self.table.lock();
        table.iter().filter_map(|(_, node)| node.file.clone()).collect()
    }

    /// Files to be written out now.
    fn due(&self, all: bool) -> Vec<Arc<File>> {
        let before = now().checked_sub(self.config.flush_after);
        let due = |file: &Arc<File>| {
            let state = file.state.lock();
            let old = state.dirty_since.zip(before).is_some_and(|(since, before)| since <= before);
            let left = !state.dirty.is_empty() || (!state.flushing.is_empty() && file.turn.try_lock().is_ok());
            let rested = state.retry_at.is_none_or(|at| at <= now());
            left && (all || ((old || state.dirty.is_empty()) && rested))
        };
        self.files().into_iter().filter(due).collect()
    }

    async fn flush_deferred(&self, file: Arc<File>, take: Take) {
        if let Err(error) = self.flush_if_free(&file, take).await {
            if self.is_of_no_use(&file, &error).await {
                let _turn = file.turn.lock().await;
                file.state.lock().drop_news();
            } else {
                warn!(inode = %file.inode, %error, "bytes written to a file could not be stored yet");
                file.state.lock().retry_at = Some(now() + AFTER_FAILURE);
            }
        }
        let inode = file.inode;
        drop(file);
        self.drop_file_if_idle(inode);
    }

    /// Whether what could not be stored was written to a file that has lost its last name, wherever that was, and that nobody
    /// has open here. As long as it counts as open here its room does not come back.
    async fn is_of_no_use(&self, file: &File, error: &FsError) -> bool {
        let inode = file.inode;
        if !error.is_no_room() && !matches!(error, FsError::Op(OpError::StaleInode)) {
            return false;
        }
        let is_open = self.table.lock().get(inode).is_some_and(|node| node.opens > 0);
        !is_open
            && match self.ask_attr(inode).await {
                Ok(attr) => attr.links == 0,
                Err(error) => matches!(error, FsError::Op(OpError::StaleInode)),
            }
    }

    async fn flush_if_free(&self, file: &Arc<File>, take: Take) -> Result<(), FsError> {
        // One at a time waits for a lease: others have files of their own to see to.
        let Ok(_writing_out) = file.writing_out.try_lock() else { return Ok(()) };
        for _ in 0..LOOKS_MAX {
            // Whoever has the turn takes what there is.
            let Ok(turn) = file.turn.try_lock() else { return Ok(()) };
            let flushed = self.flush_in_turn(file, take, LeaseHeld::Unsure, Journal::No).await?;
            drop(turn);
            if flushed == Flushed::Wholly {
                return Ok(());
            }
            self.make_exclusive_to_flush(file).await?;
        }
        Err(FsError::Deadline)
    }
}
