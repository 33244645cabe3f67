//! What the kernel tells of callers: whether one that waits has a signal pending, which the FUSE library cannot tell us, and
//! of which groups it is.

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

/// Whether the thread `pid` is of a group beside its first; nobody knows of one that does not exist any more.
pub(super) fn is_in_group(pid: u32, group: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| has_group(&status, group))
}

fn has_group(status: &str, group: u32) -> bool {
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_whitespace().any(|found| found.parse() == Ok(group)))
}

#[cfg(test)]
mod tests {
    use super::{has_group, has_pending};

    #[test]
    fn the_groups_of_a_caller_are_those_of_its_status() {
        let status = "Name:\tx\nGid:\t7\t7\t7\t7\nGroups:\t4 27 1000 \nNStgid:\t9\n";
        assert!(has_group(status, 4) && has_group(status, 1000));
        assert!(!has_group(status, 7) && !has_group(status, 100) && !has_group("Groups:\t \n", 0));
    }

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
