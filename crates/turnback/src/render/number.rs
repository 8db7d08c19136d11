//! Numbers with units and separators.

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of things: `1 row`, `2,000 rows`. `plural` says what more than one are called.
pub(crate) fn of(number: u64, one: &str, plural: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { plural })
}

/// A size: `17 bytes`, `1.5 KiB`, `2.0 GiB`.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if number < 1024 {
        return of(number, "byte", "bytes");
    }
    // Tenths, in integers: 2^64 bytes times ten fits in 128 bits.
    let mut tenths = u128::from(number) * 10 / 1024;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A length of time in seconds: `50 s`, `10 min`, `24 h`, `30 days`. The larger unit when it is exact or
/// there are at least two of it.
pub(crate) fn seconds(number: u64) -> String {
    match number {
        0..120 if number != 60 => format!("{number} s"),
        60..7_200 if number != 3_600 => format!("{} min", number / 60),
        3_600..172_800 => format!("{} h", number / 3_600),
        _ => format!("{} days", count(number / 86_400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(of(1, "row", "rows"), "1 row");
        assert_eq!(
            [0, 1, 1023, 1024, 1536, 1 << 20, u64::MAX].map(bytes),
            ["0 bytes", "1 byte", "1,023 bytes", "1.0 KiB", "1.5 KiB", "1.0 MiB", "15.9 EiB"]
        );
        assert_eq!(
            [0, 60, 90, 119, 120, 3_600, 7_199, 7_200, 86_400, 172_800].map(seconds),
            ["0 s", "1 min", "90 s", "119 s", "2 min", "1 h", "119 min", "2 h", "24 h", "2 days"]
        );
    }
}
