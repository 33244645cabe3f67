//! Whether somebody who waits has a signal pending: the FUSE library cannot tell us of interrupts.

use std::fs;

/// Whether the thread `pid` has a signal pending that it neither blocks nor ignores, or does not exist any more.
pub(super) fn is_interrupted(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => has_pending(&status),
        Err(_) => true,
    }
}

fn has_pending(status: &str) -> bool {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    (field("SigPnd:") | field("ShdPnd:")) & !(field("SigBlk:") | field("SigIgn:")) != 0
}

#[cfg(test)]
mod tests {
    use super::has_pending;

    #[test]
    fn only_signals_that_are_neither_blocked_nor_ignored_count() {
        let status = |pending: &str, blocked: &str, ignored: &str| {
            format!("Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t0000000000000000\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\n")
        };
        let none = "0000000000000000";
        assert!(has_pending(&status("0000000000000002", none, none)));
        assert!(!has_pending(&status("0000000000000002", "0000000000000002", none)));
        assert!(!has_pending(&status("0000000000000002", none, "0000000000000002")));
        assert!(!has_pending(&status(none, none, none)));
    }
}
