//! Signals that ask a command to stop, also one that is stuck in a read or write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::{
    failure::{Failure, Line, StopSignal},
    screen::say,
};

/// How long a command may take to notice that it was asked to stop. One that takes longer waits for somebody to read its
/// output: standard output is written where the command runs, and holds no unfinished file.
const NOTICE_MAX: Duration = Duration::from_secs(1);

/// Standard error may be stuck as well.
const SAY_MAX: Duration = Duration::from_millis(100);

/// The signals.
#[derive(Debug)]
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl StopSignals {
    /// From now on they do not end the program by themselves.
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Line::new("cannot listen for signals").because(&error).failed());
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for one.
    pub(super) async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = self.hang_up.recv() => StopSignal::HangUp,
        }
    }
}

/// Whether the command is over. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Over {
    over: Arc<AtomicBool>,
}

impl Over {
    /// It ended, or was dropped.
    pub(super) fn handle_end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Ends the program if the command has not noticed a signal in time.
    pub(super) async fn enforce(self, mut signals: StopSignals) {
        let failure = Failure::Stopped(signals.next().await);
        sleep(NOTICE_MAX).await;
        if self.over.load(Ordering::Acquire) {
            return;
        }
        let status = failure.status();
        if let Some(line) = failure.line() {
            // Whether it could be said or not, this is the end.
            let _said = timeout(SAY_MAX, spawn_blocking(move || say(&line))).await.is_ok();
        }
        std::process::exit(status.into());
    }
}
