//! What happened, in virtual time: equal for equal seeds.
//!
//! Lines of the story, every event of the production code, and every datagram: two runs that differ in anything differ
//! here, at the first moment at which they do.

use std::{
    fmt::{self, Write},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tracing::{Dispatch, dispatcher::DefaultGuard};
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
};

/// What of the production code is written down. The Raft library says at `info` what it decides, but with the time of
/// day in it. (The span of `turmoil` names the host.)
const EVENTS: &str = "off,turmoil=info,node=debug,wire=debug,fuse_client=debug,openraft=warn";

/// What happened; clones share it.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<String>>);

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").finish_non_exhaustive()
    }
}

impl Trace {
    /// Adds a line with the virtual time.
    pub fn note(&self, what: impl fmt::Display) {
        writeln!(self.0.lock().unwrap(), "{Moment} story: {what}").unwrap();
    }

    /// A datagram leaves. Its bytes are encrypted under keys that no seed decides; its length is not.
    pub(super) fn datagram(&self, from: SocketAddr, to: SocketAddr, len: usize) {
        writeln!(self.0.lock().unwrap(), "{Moment} {from} > {to} {len}").unwrap();
    }

    /// Writes down the events of this thread until the guard is dropped.
    #[must_use]
    pub fn collect_events(&self) -> DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(EVENTS))
            .with_ansi(false)
            .with_timer(Moment)
            .with_writer(self.clone())
            .finish();
        tracing::dispatcher::set_default(&Dispatch::new(subscriber))
    }

    /// All lines.
    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

/// The first line in which two traces differ, with those before it; none if they are equal.
pub fn first_difference(first: &str, second: &str) -> Option<String> {
    if first == second {
        return None;
    }
    let same = first.lines().zip(second.lines()).take_while(|(first, second)| first == second).count();
    let before = first.lines().skip(same.saturating_sub(12)).take(same.min(12)).collect::<Vec<_>>().join("\n");
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    Some(format!("{before}\nfirst:  {}\nsecond: {}", line(first), line(second)))
}

/// The virtual time.
struct Moment;

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match turmoil::sim_elapsed() {
            Some(at) => write!(f, "{:>10.3}", at.as_secs_f64() * 1000.0),
            // The simulation itself speaks.
            None => write!(f, "{:>10}", "-"),
        }
    }
}

impl FormatTime for Moment {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{self}")
    }
}

impl MakeWriter<'_> for Trace {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl io::Write for Trace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
