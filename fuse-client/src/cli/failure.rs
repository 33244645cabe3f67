//! How a command ends badly: the one line it says, and its exit status.

use std::{fmt, io};

/// Why a command did not succeed. Each variant is another exit status or another thing to print.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command was asked in a way that cannot be: status 2.
    Usage(Line),
    /// What it was asked to do failed: status 1.
    Failed(Line),
    /// Parts failed; each was reported in a line of its own when it happened: status 1.
    Reported,
    /// Nothing failed: what was asked about is not well, which was said, and this status says how bad it is.
    Diagnosed {
        /// Exit status.
        status: u8,
    },
    /// Standard output was closed, as by `head`: no line, the status of a program ended by SIGPIPE.
    StdoutClosed,
    /// The person stopped it: the status of a program ended by that signal.
    Stopped(StopSignal),
}

/// A signal that asks a command to stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`.
    Terminate,
    /// The terminal has gone.
    HangUp,
}

/// What a person reads: what failed on what, why, and what to do.
#[derive(Debug)]
pub(crate) struct Line {
    what: String,
    why: Option<String>,
    advice: Option<String>,
}

impl Line {
    /// What failed, and on what: `cannot list '/a'`.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), why: None, advice: None }
    }

    /// With the reason, its own reasons included.
    pub(crate) fn because(mut self, why: &(dyn std::error::Error + 'static)) -> Self {
        self.why = Some(with_causes(why));
        self
    }

    /// With the reason in words.
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// With what to do about it.
    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// As the failure of an operation.
    pub(crate) fn failed(self) -> Failure {
        Failure::Failed(self)
    }

    /// As wrong usage.
    pub(crate) fn usage(self) -> Failure {
        Failure::Usage(self)
    }
}

/// An error with all that caused it, in one line.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = without_number(error.to_string());
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = without_number(cause.to_string());
        // Some errors name their source in their own text already.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Without the number that the standard library puts behind the words of the system.
fn without_number(mut text: String) -> String {
    while let Some(start) = text.find(" (os error ") {
        let Some(end) = text.get(start..).and_then(|rest| rest.find(')')) else { break };
        text.replace_range(start..=start + end, "");
    }
    text
}

/// One line whatever its parts hold.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.what.clone();
        if let Some(why) = &self.why {
            text = format!("{text}: {why}");
        }
        if let Some(advice) = &self.advice {
            text = format!("{text}; {advice}");
        }
        f.write_str(
            &text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; "),
        )
    }
}

impl Failure {
    /// What to print on standard error, if anything.
    pub(crate) fn line(&self) -> Option<String> {
        match self {
            Self::Usage(line) | Self::Failed(line) => Some(line.to_string()),
            Self::Stopped(StopSignal::Interrupt) => Some("interrupted".to_owned()),
            Self::Stopped(StopSignal::Terminate | StopSignal::HangUp) => Some("terminated".to_owned()),
            Self::Reported | Self::Diagnosed { .. } | Self::StdoutClosed => None,
        }
    }

    /// 1 for a failed operation, 2 for wrong usage, 128 and the signal's number as a shell reports it.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Reported => 1,
            Self::Usage(_) => 2,
            Self::Diagnosed { status } => *status,
            Self::Stopped(StopSignal::HangUp) => 128 + 1,
            Self::Stopped(StopSignal::Interrupt) => 128 + 2,
            Self::StdoutClosed => 128 + 13,
            Self::Stopped(StopSignal::Terminate) => 128 + 15,
        }
    }

    /// A failed write to standard output.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::StdoutClosed
        } else {
            Line::new("cannot write to standard output").because(error).failed()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Failure, Line};

    #[derive(Debug, thiserror::Error)]
    #[error("the put failed")]
    struct Outer {
        source: io::Error,
    }

    #[test]
    fn a_failure_is_one_line_with_what_why_and_what_to_do() {
        let error = Outer { source: io::Error::other("disk\nfull") };
        let line = Line::new("cannot upload 'a'").because(&error).advice("free some room");
        assert_eq!(line.to_string(), "cannot upload 'a': the put failed: disk; full; free some room");
    }

    #[test]
    fn what_the_system_says_stands_without_its_number() {
        let error = Outer { source: io::Error::from_raw_os_error(28) };
        let line = Line::new("cannot download 'a'").because(&error);
        assert_eq!(line.to_string(), "cannot download 'a': the put failed: No space left on device");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_to_talk_about() {
        let failure = Failure::stdout(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.line(), None);
        let failure = Failure::stdout(&io::Error::from(io::ErrorKind::StorageFull));
        assert!(failure.line().is_some_and(|line| line.starts_with("cannot write to standard output: ")));
    }
}
