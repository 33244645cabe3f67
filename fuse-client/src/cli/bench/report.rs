//! What was measured, in words and as JSON. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::SMALL_LEN;
use crate::cli::text::{
    number::{counted, long_size, thousands},
    table::{Align, Table},
};

/// What a measurement came to.
#[derive(Clone, Debug)]
pub(super) struct Report {
    /// Bytes of the large file, written.
    pub(super) write: Rate,
    /// The same, read.
    pub(super) read: Rate,
    /// Small files, written.
    pub(super) write_small: Rate,
    /// The same, read.
    pub(super) read_small: Rate,
    /// The same, listed.
    pub(super) list: Rate,
    /// Changes, one after another.
    pub(super) change: Latency,
}

/// So many in so long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Bytes or files.
    pub(super) count: u64,
    /// How long they took.
    pub(super) time: Duration,
}

/// How long single ones took.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Latency {
    count: usize,
    p50: Duration,
    p99: Duration,
}

impl Rate {
    fn per_s(self) -> u64 {
        let nanos = self.time.as_nanos().max(1);
        u64::try_from(u128::from(self.count) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }
}

impl Latency {
    /// Of all that were taken, at least one.
    pub(super) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let rank = |percent: usize| {
            let index = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(index).copied().unwrap_or_default()
        };
        Self { count: times.len(), p50: rank(50), p99: rank(99) }
    }
}

impl Report {
    /// A line for each thing that was measured, and what the numbers do not say.
    pub(super) fn text(&self) -> String {
        let mut table = Table::new(&[("WHAT", Align::Left), ("RATE", Align::Right), ("UNIT", Align::Left)]);
        let mut row = |what: String, rate: String, unit: &str| table.push(vec![what, rate, unit.to_owned()]);
        let large = long_size(self.write.count);
        for (verb, rate) in [("write", self.write), ("read", self.read)] {
            let size = long_size(rate.per_s());
            let (number, unit) = size.split_once(' ').unwrap_or((&size, "B"));
            row(format!("{verb} a file of {large}"), number.to_owned(), &format!("{unit}/s"));
        }
        let small = format!("{} of {}", counted(self.list.count, "file", "files"), long_size(SMALL_LEN as u64));
        for (verb, rate) in [("write", self.write_small), ("read", self.read_small), ("list", self.list)] {
            row(format!("{verb} {small}"), thousands(rate.per_s()), "files/s");
        }
        let ms = |time: Duration| format!("{:.2}", time.as_secs_f64() * 1e3);
        row("one change after another, median".to_owned(), ms(self.change.p50), "ms");
        row("one change after another, 99 of 100 within".to_owned(), ms(self.change.p99), "ms");
        format!("{}Reads may have come from the memory of the nodes, not from their disks.\n", table.text())
    }

    /// All of it in bytes, files, seconds and milliseconds.
    pub(super) fn json(&self) -> Value {
        let bytes =
            |rate: Rate| json!({"bytes": rate.count, "seconds": rate.time.as_secs_f64(), "bytes_per_s": rate.per_s()});
        let files =
            |rate: Rate| json!({"files": rate.count, "seconds": rate.time.as_secs_f64(), "files_per_s": rate.per_s()});
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        json!({
            "write": bytes(self.write),
            "read": bytes(self.read),
            "write_small": files(self.write_small),
            "read_small": files(self.read_small),
            "list": files(self.list),
            "change": {"count": self.change.count, "p50_ms": ms(self.change.p50), "p99_ms": ms(self.change.p99)},
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Latency, Rate, Report};

    #[test]
    fn the_ninety_ninth_of_a_hundred_is_not_the_slowest() {
        let times = (1..=100).rev().map(Duration::from_millis).collect();
        let latency = Latency::of(times);
        assert_eq!((latency.p50, latency.p99), (Duration::from_millis(50), Duration::from_millis(99)));
        assert_eq!(Latency::of(vec![Duration::from_millis(7)]).p50, Duration::from_millis(7));
    }

    #[test]
    fn each_line_says_what_how_fast_and_in_which_unit() {
        let (second, half) = (Duration::from_secs(1), Duration::from_millis(500));
        let files = Rate { count: 1000, time: half };
        let report = Report {
            write: Rate { count: 256 << 20, time: second },
            read: Rate { count: 256 << 20, time: half },
            write_small: files,
            read_small: files,
            list: files,
            change: Latency::of(vec![Duration::from_micros(2346)]),
        };
        assert_eq!(
            report.text(),
            "WHAT                                         RATE  UNIT\n\
             write a file of 256.0 MiB                   256.0  MiB/s\n\
             read a file of 256.0 MiB                    512.0  MiB/s\n\
             write 1,000 files of 4.0 KiB                2,000  files/s\n\
             read 1,000 files of 4.0 KiB                 2,000  files/s\n\
             list 1,000 files of 4.0 KiB                 2,000  files/s\n\
             one change after another, median             2.35  ms\n\
             one change after another, 99 of 100 within   2.35  ms\n\
             Reads may have come from the memory of the nodes, not from their disks.\n"
        );
    }
}
