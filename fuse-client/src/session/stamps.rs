//! Garbage-collection stamps of puts that are neither committed nor dropped.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use ring::GcEpoch;

/// The current stamp and those in use.
#[derive(Debug)]
pub(super) struct Stamps {
    /// Guards the counts alone.
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    current: GcEpoch,
    held: BTreeMap<GcEpoch, u64>,
}

/// A stamp in use: the session reports none higher until it is dropped.
#[derive(Debug)]
pub(crate) struct GcStamp {
    gc: GcEpoch,
    state: Arc<Mutex<State>>,
}

impl Stamps {
    pub(super) fn new(current: GcEpoch) -> Self {
        Self { state: Arc::new(Mutex::new(State { current, held: BTreeMap::new() })) }
    }

    /// The leader's current stamp; it never goes back.
    pub(super) fn handle_current(&self, current: GcEpoch) {
        let mut state = self.state.lock();
        state.current = state.current.max(current);
    }

    /// The current stamp, in use from now on.
    pub(super) fn hold(&self) -> GcStamp {
        let mut state = self.state.lock();
        let gc = state.current;
        *state.held.entry(gc).or_default() += 1;
        GcStamp { gc, state: Arc::clone(&self.state) }
    }

    /// The lowest in use; the current one if none is.
    pub(super) fn lowest(&self) -> GcEpoch {
        let state = self.state.lock();
        state.held.keys().next().copied().unwrap_or(state.current)
    }
}

impl GcStamp {
    /// The stamp.
    pub(crate) fn gc(&self) -> GcEpoch {
        self.gc
    }
}

impl Drop for GcStamp {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if let Some(count) = state.held.get_mut(&self.gc) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.gc);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::GcEpoch;

    use super::Stamps;

    #[test]
    fn a_session_reports_the_lowest_stamp_in_use_and_the_current_one_when_idle() {
        let stamps = Stamps::new(GcEpoch(3));
        let first = stamps.hold();
        stamps.handle_current(GcEpoch(5));
        let second = stamps.hold();
        assert_eq!((first.gc(), second.gc(), stamps.lowest()), (GcEpoch(3), GcEpoch(5), GcEpoch(3)));
        drop(first);
        assert_eq!(stamps.lowest(), GcEpoch(5));
        stamps.handle_current(GcEpoch(4));
        drop(second);
        assert_eq!(stamps.lowest(), GcEpoch(5), "it never goes back");
    }
}
