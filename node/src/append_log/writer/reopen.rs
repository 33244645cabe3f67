//! The way back after a failed write or sync.
//!
//! What the failed sync covered may be lost, or half there, while the page cache goes on showing all of it, and a later
//! sync would succeed. So nothing is read back: the file is cut at the last position that a good sync covered, the cut
//! is synced, and the file is never written again.

use std::sync::Arc;

use super::super::{FileState, Incarnation, Position, ReopenError, Reopened};
use super::Writer;

impl Writer {
    pub(super) async fn reopen(&mut self) -> Result<Reopened, ReopenError> {
        if self.state.failure.is_none() {
            return Ok(Reopened { incarnation: *self.incarnation.borrow(), cut: None });
        }
        while self.state.write.is_some() || self.state.sync.is_some() {
            self.await_io().await;
        }
        let cut = self.cut_active().await.map_err(|source| ReopenError::Disk { source })?;
        self.state.failure = None;
        let incarnation = Incarnation(self.rng.next_u64());
        self.incarnation.send_replace(incarnation);
        tracing::info!(dir = %self.directory.path.display(), "a log was reopened");
        Ok(Reopened { incarnation, cut })
    }

    async fn cut_active(&mut self) -> std::io::Result<Option<Position>> {
        let Some(active) = &self.active else { return Ok(None) };
        let cut = Position { file: active.id, offset: active.synced };
        let file = Arc::clone(&active.file);
        file.truncate(cut.offset).await?;
        file.sync_data().await?;
        self.files.update(cut.file, |file| {
            (file.state, file.assigned, file.written) = (FileState::Sealed, cut.offset, cut.offset);
            file.room = cut.offset;
        });
        self.active = None;
        self.previous_end = Some(cut);
        Ok(Some(cut))
    }
}
