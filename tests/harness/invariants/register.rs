//! P3: a file that several clients replace and read behaves as one register. Pure.
//!
//! After Gibbons and Korach, "Testing shared memories" (1997): each value is written once, so its operations form a zone,
//! from the first end to the last start among them. The history is linearizable if and only if no value is read before its
//! write begins, no two zones that run forward overlap, and none that runs backward lies within one that runs forward.

use std::{collections::BTreeMap, time::Duration};

/// One operation on the register. Times count from the beginning of the run.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// When it was asked for.
    pub begun: Duration,
    /// When it was answered; never, if it failed.
    pub ended: Duration,
    /// Whether the value was written, not read.
    pub is_write: bool,
    /// Which value.
    pub value: u64,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    value: u64,
    written: Option<Duration>,
    first_read: Duration,
    first_end: Duration,
    last_begin: Duration,
}

/// What is wrong with a history; the register holds 0 at first.
pub fn wrong(events: &[Event]) -> Vec<String> {
    let never = Duration::MAX;
    let mut zones: BTreeMap<u64, Zone> = BTreeMap::new();
    let fresh = |value| Zone { value, written: None, first_read: never, first_end: never, last_begin: Duration::ZERO };
    zones.insert(0, Zone { written: Some(Duration::ZERO), first_end: Duration::ZERO, ..fresh(0) });
    for event in events {
        let zone = zones.entry(event.value).or_insert_with(|| fresh(event.value));
        zone.first_end = zone.first_end.min(event.ended);
        zone.last_begin = zone.last_begin.max(event.begun);
        if event.is_write {
            zone.written = Some(event.begun);
        } else {
            zone.first_read = zone.first_read.min(event.ended);
        }
    }
    let mut found = Vec::new();
    for zone in zones.values() {
        if zone.written.is_none_or(|begun| begun > zone.first_read) {
            found.push(format!("{} was read before it was written: {zone:?}", zone.value));
        }
    }
    let (forward, backward): (Vec<_>, Vec<_>) = zones.values().partition(|zone| zone.first_end < zone.last_begin);
    let mut forward: Vec<Zone> = forward;
    forward.sort_by_key(|zone| zone.first_end);
    for pair in forward.windows(2) {
        if pair[0].last_begin > pair[1].first_end {
            found.push(format!("{} and {} were there in turns: {pair:?}", pair[0].value, pair[1].value));
        }
    }
    for zone in backward {
        let within = |around: &&Zone| around.first_end < zone.last_begin && zone.first_end < around.last_begin;
        if let Some(around) = forward.iter().find(within) {
            found.push(format!("{} was there while {} was: {zone:?} {around:?}", zone.value, around.value));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Event, wrong};

    #[test]
    fn a_register_that_goes_back_or_ahead_is_found_out() {
        let at = Duration::from_millis;
        let write = |value, begun, ended| Event { begun: at(begun), ended: at(ended), is_write: true, value };
        let read = |value, begun, ended| Event { begun: at(begun), ended: at(ended), is_write: false, value };
        assert!(wrong(&[read(0, 1, 2), write(1, 3, 8), read(0, 4, 5), read(1, 6, 7), read(1, 9, 10)]).is_empty());
        assert!(wrong(&[write(1, 1, 4), write(2, 2, 5), read(2, 6, 7), read(2, 8, 9)]).is_empty());
        assert!(!wrong(&[write(1, 1, 2), read(0, 3, 4)]).is_empty(), "old");
        assert!(!wrong(&[write(1, 1, 4), read(1, 2, 3), read(0, 5, 6)]).is_empty(), "back again");
        assert!(!wrong(&[read(1, 1, 2), write(1, 3, 4)]).is_empty(), "ahead of time");
        assert!(!wrong(&[write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)]).is_empty(), "an old one");
        let failed = Event { ended: Duration::MAX, ..write(1, 1, 0) };
        assert!(wrong(&[failed, read(0, 5, 6), read(1, 7, 8)]).is_empty(), "a failed write may come late");
        assert!(wrong(&[failed, read(0, 5, 6)]).is_empty(), "or never");
    }
}
