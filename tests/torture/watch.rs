//! Whether every operation ends.

use std::{
    collections::BTreeMap,
    fs,
    sync::Mutex,
    time::{Duration, Instant},
};

/// "Each ends by itself, with an error after at most 20 s (an `fsync` after two minutes)"; and some, for a step is more
/// than one operation.
pub(crate) const STEP_MAX: Duration = Duration::from_secs(240);

/// Which threads are in the middle of what.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    busy: Mutex<BTreeMap<u32, (String, Instant)>>,
    slowest: Mutex<Duration>,
}

impl Watch {
    /// Does something under watch.
    pub(crate) fn during<R>(&self, what: &str, act: impl FnOnce() -> R) -> R {
        let thread = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let begun = Instant::now();
        self.busy.lock().unwrap().insert(thread, (what.to_owned(), begun));
        let done = act();
        self.busy.lock().unwrap().remove(&thread);
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = begun.elapsed().max(*slowest);
        done
    }

    /// Whether anybody is in the middle of something.
    pub(crate) fn is_busy(&self) -> bool {
        !self.busy.lock().unwrap().is_empty()
    }

    /// The longest step so far that has ended.
    pub(crate) fn slowest(&self) -> Duration {
        *self.slowest.lock().unwrap()
    }

    /// Steps that take longer than anything may, and where in the kernel they are.
    pub(crate) fn stuck(&self) -> Vec<String> {
        let busy = self.busy.lock().unwrap();
        let stuck = busy.iter().filter(|(_, (_, begun))| begun.elapsed() > STEP_MAX);
        let tell = |(thread, (what, begun)): (&u32, &(String, Instant))| {
            let stack = fs::read_to_string(format!("/proc/self/task/{thread}/stack")).unwrap_or_default();
            format!("{what} since {:?}:\n{stack}", begun.elapsed())
        };
        stuck.map(tell).collect()
    }
}
