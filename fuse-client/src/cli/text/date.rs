//! Dates as `ls -l` and `stat` write them.

use chrono::{DateTime, TimeZone, Utc};
use wire::namespace::Timestamp;

/// Half of an average Gregorian year: `ls` shows the clock of what is younger and the year of the rest.
const RECENT_S: i64 = 31_556_952 / 2;

/// A date as `ls -l` writes it: `Nov 20 23:41` within the last half year, else `Jan  5  2019`.
pub(crate) fn list_date<Z: TimeZone>(time: Timestamp, now: Timestamp, zone: &Z) -> String
where
    Z::Offset: std::fmt::Display,
{
    let Some(date) = in_zone(time, zone) else {
        return time.seconds().to_string();
    };
    let recent = time <= now && time.seconds() > now.seconds().saturating_sub(RECENT_S);
    date.format(if recent { "%b %e %H:%M" } else { "%b %e  %Y" }).to_string()
}

/// A date as `stat` writes it: to the nanosecond, with the zone.
pub(crate) fn full_date<Z: TimeZone>(time: Timestamp, zone: &Z) -> String
where
    Z::Offset: std::fmt::Display,
{
    match in_zone(time, zone) {
        Some(date) => date.format("%Y-%m-%d %H:%M:%S%.9f %z").to_string(),
        None => format!("{}.{:09}", time.seconds(), time.nanoseconds()),
    }
}

/// A date in JSON: RFC 3339 in UTC, to the nanosecond.
pub(crate) fn json_date(time: Timestamp) -> String {
    match in_zone(time, &Utc) {
        Some(date) => date.format("%Y-%m-%dT%H:%M:%S%.9fZ").to_string(),
        None => format!("@{}.{:09}", time.seconds(), time.nanoseconds()),
    }
}

/// None outside the years that the calendar knows (± 262,000).
fn in_zone<Z: TimeZone>(time: Timestamp, zone: &Z) -> Option<DateTime<Z>> {
    DateTime::from_timestamp(time.seconds(), time.nanoseconds()).map(|date| date.with_timezone(zone))
}

#[cfg(test)]
mod tests {
    use chrono::{FixedOffset, Utc};
    use wire::namespace::Timestamp;

    use super::{full_date, json_date, list_date};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::new(seconds, 5).unwrap()
    }

    #[test]
    fn ls_shows_the_clock_of_the_last_half_year_and_the_year_of_all_else() {
        let now = at(1_795_000_000); // 2026-11-18 11:06:40
        assert_eq!(list_date(at(1_795_000_000 - 60), now, &Utc), "Nov 18 11:05");
        assert_eq!(list_date(at(1_795_000_000 - 15_778_475), now, &Utc), "May 19 20:12");
        assert_eq!(list_date(at(1_795_000_000 - 15_778_477), now, &Utc), "May 19  2026");
        assert_eq!(list_date(at(1_795_000_000 + 60), now, &Utc), "Nov 18  2026", "the future has no clock");
        assert_eq!(list_date(at(0), now, &Utc), "Jan  1  1970");
    }

    #[test]
    fn dates_are_shown_in_the_zone_asked_for() {
        let zone = FixedOffset::east_opt(3600).unwrap();
        assert_eq!(full_date(at(-1), &zone), "1970-01-01 00:59:59.000000005 +0100");
        assert_eq!(json_date(at(-1)), "1969-12-31T23:59:59.000000005Z");
    }

    #[test]
    fn a_date_outside_the_calendar_is_shown_as_its_number() {
        assert_eq!(list_date(at(i64::MAX), at(0), &Utc), "9223372036854775807");
        assert_eq!(json_date(at(i64::MIN)), "@-9223372036854775808.000000005");
    }
}
