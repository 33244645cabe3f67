//! Standard output and standard error.

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use rustix::termios::tcgetwinsize;

use super::{
    failure::{Failure, Line},
    text::quote::is_unsafe,
};

/// Where a command writes, and what it knows of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// Columns of the terminal that standard output is; none if it is none.
    pub(crate) width: Option<usize>,
    /// Whether standard error is a terminal: progress bars go there.
    pub(crate) stderr_terminal: bool,
}

/// Standard output, buffered: a listing of 100,000 lines is a few writes.
#[derive(Debug)]
pub(crate) struct Page {
    out: BufWriter<StdoutLock<'static>>,
}

impl Screen {
    /// Looks at the standard streams.
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let columns = || tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col)).filter(|&columns| columns > 0);
        let width = stdout.is_terminal().then(|| columns().unwrap_or(80));
        Self { width, stderr_terminal: io::stderr().is_terminal() }
    }

    /// Standard output, until dropped. [`Page::finish`] must be called for its last bytes.
    pub(crate) fn page(self) -> Page {
        Page { out: BufWriter::with_capacity(1 << 16, io::stdout().lock()) }
    }

    /// Prints to standard output at once.
    pub(crate) fn print(self, text: &str) -> Result<(), Failure> {
        let mut page = self.page();
        page.push(text.as_bytes())?;
        page.finish()
    }

    /// Prints a value as JSON, on several lines for a person and machine alike.
    pub(crate) fn print_json(self, value: &serde_json::Value) -> Result<(), Failure> {
        self.print(&format!("{value:#}\n"))
    }

    /// Reports a failure that does not end the command.
    pub(crate) fn report(self, line: &Line) {
        say(&printable(&line.to_string()));
    }
}

/// The text with control characters, and others that make a line look like another one, as escapes: names may hold them,
/// and a terminal obeys them.
pub(crate) fn printable(text: &str) -> String {
    let shown = |char: char| if is_unsafe(char) { char.escape_default().to_string() } else { char.to_string() };
    text.chars().map(shown).collect()
}

impl Page {
    /// Adds bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(|error| Failure::stdout(&error))
    }

    /// Hands over what was added so far.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| Failure::stdout(&error))
    }

    /// Hands over what is left.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }
}

/// A line on standard error, with the program's name before it.
pub(crate) fn say(line: &str) {
    // Nobody is left to tell if standard error is gone.
    drop(writeln!(io::stderr(), "dfs: {line}"));
}
