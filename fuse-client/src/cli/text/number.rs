//! Sizes, times and counts for people.

use std::time::Duration;

/// A size as `ls -h` writes it: powers of 1,024, one decimal below ten, always rounded up: `4.0K`, `12M`.
pub(crate) fn short_size(bytes: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut unit_len = 1024_u128;
    let bytes = u128::from(bytes);
    for unit in UNITS {
        let tenths = (bytes * 10).div_ceil(unit_len);
        if tenths < 100 {
            return format!("{}.{}{unit}", tenths / 10, tenths % 10);
        }
        let whole = bytes.div_ceil(unit_len);
        if whole < 1024 {
            return format!("{whole}{unit}");
        }
        unit_len *= 1024;
    }
    unreachable!("2^64 bytes are 16 E")
}

/// A size in a sentence: `512 B`, `1.5 GiB`.
pub(crate) fn long_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit_len = 1_u128 << 10;
    let bytes = u128::from(bytes);
    if bytes < unit_len {
        return format!("{bytes} B");
    }
    for unit in UNITS {
        let tenths = (bytes * 10 + unit_len / 2) / unit_len;
        if tenths < 10_240 {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        unit_len <<= 10;
    }
    unreachable!("2^64 bytes are 16 EiB")
}

/// A whole number with its thousands set apart: `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun: `1 file`, `2 files`, `0 directories`.
pub(crate) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", thousands(number), if number == 1 { one } else { many })
}

/// A span of time in its two largest units: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{counted, long_size, short_size, span, thousands};

    #[test]
    fn short_sizes_round_up_as_ls_does() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1025, "1.1K"),
            (10_137, "9.9K"),
            (10_138, "10K"),
            (1_047_552, "1023K"),
            (1_047_553, "1.0M"),
            (5 << 30, "5.0G"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(short_size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn long_sizes_round_to_the_nearest_tenth() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (256 << 20, "256.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(long_size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn numbers_in_sentences_are_grouped_and_agree_with_their_noun() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(counted(100_000, "file", "files"), "100,000 files");
    }

    #[test]
    fn spans_show_two_units() {
        for (millis, text) in [
            (412, "0.4 s"),
            (12_900, "12 s"),
            (185_000, "3 min 5 s"),
            (7_800_000, "2 h 10 min"),
            (180_000_000, "2 d 2 h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }
}
