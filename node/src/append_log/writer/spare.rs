//! A file filled with zeros before it is needed: an append that begins a file would wait for 32 MiB of them.

use std::io;
use std::path::PathBuf;

use tracing::warn;

use super::super::directory::is_full;
use super::{Writer, finished};

impl Writer {
    /// Begins to fill a file: at the open, and when the active file is half full.
    pub(super) fn plan_spare(&mut self) {
        let is_first = self.state.spare_for.is_none();
        let half = self.directory.config.file_len / 2;
        let is_near = is_first || self.active.as_ref().is_some_and(|active| active.next >= half);
        let is_due = is_near && self.state.spare_for != Some(self.next_id) && self.directory.wants_spare();
        if is_due && self.state.spare.is_none() && self.state.failure.is_none() {
            self.state.spare_for = Some(self.next_id);
            self.state.spare = Some(self.directory.fill_spare(self.next_id));
        }
    }

    pub(super) fn handle_spare(&mut self, filled: io::Result<PathBuf>) {
        match filled {
            Ok(path) => self.directory.add_spare(path),
            // The append that needs the file finds out what is wrong, if anything still is.
            Err(error) if is_full(&error) => {}
            Err(error) => warn!(dir = %self.directory.path.display(), %error, "no file could be made ready"),
        }
    }

    /// A file that is nearly filled is there sooner than another.
    pub(super) async fn await_spare(&mut self) {
        if self.state.spare.is_some() {
            let filled = finished(&mut self.state.spare).await;
            self.handle_spare(filled);
        }
    }
}
