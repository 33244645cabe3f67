//! How far a transfer is: a bar on a terminal, a line every few seconds elsewhere. Of other work on a tree, a count on a
//! terminal.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use fuse_client::transfer::{Outcome, Progress, TransferError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, interval};

use super::{
    failure::with_causes,
    screen::{Screen, printable, say},
    text::number::{counted, long_size, span, thousands},
};

/// Between two pictures of the bar: fluid to the eye, nothing to a core.
const BAR_PERIOD: Duration = Duration::from_millis(100);

/// Between two lines: few enough for a log file.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// What the rate is measured over: long enough to be calm, short enough to follow.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// What to show while a transfer runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Show {
    /// Only failures.
    Nothing,
    /// How far it is.
    Progress,
    /// How far it is, and each file.
    Files,
}

/// Counts of a transfer, told by many tasks.
#[derive(Debug)]
pub(crate) struct Meter {
    verb: &'static str,
    show: Show,
    bar: Option<ProgressBar>,
    files_found: AtomicU64,
    bytes_found: AtomicU64,
    files_done: AtomicU64,
    bytes_done: AtomicU64,
}

impl Meter {
    /// Nothing done yet. `verb` says what is done: `uploaded`.
    pub(crate) fn new(verb: &'static str, show: Show, screen: Screen) -> Arc<Self> {
        let on_terminal = show != Show::Nothing && screen.stderr_terminal;
        Arc::new(Self {
            verb,
            show,
            bar: on_terminal.then(bar),
            files_found: AtomicU64::new(0),
            bytes_found: AtomicU64::new(0),
            files_done: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
        })
    }

    /// Runs a transfer and shows how far it is until it ends.
    pub(crate) async fn during<T>(&self, transfer: impl Future<Output = T>) -> T {
        let outcome = tokio::select! {
            biased;
            outcome = transfer => outcome,
            () = self.watch() => unreachable!("watching has no end"),
        };
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        outcome
    }

    async fn watch(&self) {
        let mut ticks = interval(if self.bar.is_some() { BAR_PERIOD } else { LINE_PERIOD });
        let mut rate = Rate::default();
        // The first tick comes at once, when there is nothing to say yet.
        rate.sample(ticks.tick().await, 0);
        loop {
            let now = ticks.tick().await;
            let state = self.state();
            rate.sample(now, state.bytes_done);
            let text = state.text(rate.bytes_per_s());
            match &self.bar {
                Some(bar) => {
                    bar.set_length(state.bytes_found.max(1));
                    bar.set_position(state.bytes_done.min(state.bytes_found));
                    bar.set_message(text);
                }
                None if self.show != Show::Nothing => say(&format!("{} {text}", self.verb)),
                None => {}
            }
        }
    }

    fn state(&self) -> State {
        State {
            files_found: self.files_found.load(Ordering::Relaxed),
            bytes_found: self.bytes_found.load(Ordering::Relaxed),
            files_done: self.files_done.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
        }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }
}

impl Progress for Meter {
    fn found(&self, files: u64, bytes: u64) {
        self.files_found.fetch_add(files, Ordering::Relaxed);
        self.bytes_found.fetch_add(bytes, Ordering::Relaxed);
    }

    fn advanced(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn finished(&self, path: &str, outcome: Outcome) {
        self.files_done.fetch_add(1, Ordering::Relaxed);
        if self.show == Show::Files {
            let verb = match outcome {
                Outcome::Transferred => self.verb,
                Outcome::Skipped => "skipped",
            };
            self.line(&format!("{verb} {}", super::text::quote::shell(path.as_bytes())));
        }
    }

    fn failed(&self, error: &TransferError) {
        self.line(&printable(&with_causes(error)));
    }
}

/// A bar with room for the message at 80 columns.
fn bar() -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    let style =
        ProgressStyle::with_template("{wide_bar} {msg}").expect("the template is sound").progress_chars("█▉▊▋▌▍▎▏ ");
    ProgressBar::with_draw_target(Some(1), target).with_style(style)
}

/// How many entries of a tree are done, on a terminal; goes when dropped.
#[derive(Debug)]
pub(crate) struct Counter(Option<ProgressBar>);

impl Counter {
    /// Nothing done yet. `verb` says what is done: `removed`.
    pub(crate) fn new(verb: &'static str, screen: Screen) -> Self {
        Self(screen.stderr_terminal.then(|| {
            let style = ProgressStyle::with_template("{human_pos} {prefix}").expect("the template is sound");
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.with_style(style).with_prefix(verb)
        }))
    }

    /// One more is done.
    pub(crate) fn add(&self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }

    /// Out of the way of what `say` prints.
    pub(crate) fn aside(&self, say: impl FnOnce()) {
        match &self.0 {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Counts at one moment.
#[derive(Clone, Copy, Debug)]
struct State {
    files_found: u64,
    bytes_found: u64,
    files_done: u64,
    bytes_done: u64,
}

impl State {
    /// `1.0 GiB/2.0 GiB, 210.0 MiB/s, 5 s left, 3/10 files`.
    fn text(&self, bytes_per_s: u64) -> String {
        let Self { files_found, bytes_found, files_done, bytes_done } = self;
        let mut text = format!("{}/{}", long_size(*bytes_done), long_size(*bytes_found));
        if bytes_per_s > 0 {
            text.push_str(&format!(", {}/s", long_size(bytes_per_s)));
            let left = bytes_found.saturating_sub(*bytes_done) / bytes_per_s;
            if left > 0 {
                text.push_str(&format!(", {} left", span(Duration::from_secs(left)).replace(".0 s", " s")));
            }
        }
        if *files_found != 1 {
            let found = counted(*files_found, "file", "files");
            text.push_str(&format!(", {}/{found}", thousands(*files_done)));
        }
        text
    }
}

/// Bytes a second over the last few seconds.
#[derive(Debug, Default)]
struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    fn sample(&mut self, now: Instant, bytes: u64) {
        self.samples.push_back((now, bytes));
        // At least two remain: a rate needs a span.
        while self.samples.len() > 2
            && self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= RATE_WINDOW)
        {
            self.samples.pop_front();
        }
    }

    fn bytes_per_s(&self) -> u64 {
        let (Some((from, first)), Some((to, last))) = (self.samples.front(), self.samples.back()) else {
            return 0;
        };
        let millis = to.duration_since(*from).as_millis();
        let bytes = u128::from(last.saturating_sub(*first));
        bytes.saturating_mul(1000).checked_div(millis).map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

/// Time since the transfer began, for its last line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Since the start.
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Rate, State};

    #[test]
    fn the_message_says_bytes_rate_time_left_and_files() {
        let state = State { files_found: 1200, bytes_found: 3 << 30, files_done: 7, bytes_done: 1 << 30 };
        assert_eq!(state.text(0), "1.0 GiB/3.0 GiB, 7/1,200 files");
        assert_eq!(state.text(256 << 20), "1.0 GiB/3.0 GiB, 256.0 MiB/s, 8 s left, 7/1,200 files");
        let one = State { files_found: 1, bytes_found: 10, files_done: 0, bytes_done: 10 };
        assert_eq!(one.text(5), "10 B/10 B, 5 B/s");
    }

    #[test]
    fn the_message_leaves_room_for_a_bar_on_80_columns() {
        let state = State { files_found: 10_000, bytes_found: 999 << 30, files_done: 9_999, bytes_done: 123 << 30 };
        assert!(state.text(123 << 20).len() <= 72, "{}", state.text(123 << 20));
    }

    #[test]
    fn the_rate_forgets_what_is_older_than_its_window() {
        let start = Instant::now();
        let mut rate = Rate::default();
        rate.sample(start, 0);
        assert_eq!(rate.bytes_per_s(), 0);
        for second in 1..=20 {
            // Ten seconds at 100 B/s, then ten at 1,000 B/s.
            let bytes = if second <= 10 { second * 100 } else { 1000 + (second - 10) * 1000 };
            rate.sample(start + Duration::from_secs(second), bytes);
            assert!(rate.samples.len() <= 7);
            match second {
                10 => assert_eq!(rate.bytes_per_s(), 100),
                20 => assert_eq!(rate.bytes_per_s(), 1000),
                _ => {}
            }
        }
    }
}
