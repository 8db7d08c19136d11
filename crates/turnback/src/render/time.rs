//! Times as people say them.

use jiff::Timestamp;

use super::number;

/// `just now`, `3 min ago`, `in 23 h`.
pub(crate) fn relative(now: Timestamp, at: Timestamp) -> String {
    let seconds = at.duration_since(now).as_secs();
    match seconds {
        -1..=1 => "just now".into(),
        2.. => format!("in {}", number::seconds(seconds.unsigned_abs())),
        _ => format!("{} ago", number::seconds(seconds.unsigned_abs())),
    }
}

/// `2026-11-20 12:00:00 UTC`.
pub(crate) fn absolute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Both.
pub(crate) fn both(now: Timestamp, at: Timestamp) -> String {
    format!("{} ({})", absolute(at), relative(now, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2026-11-20T12:00:00Z");
        assert_eq!(relative(now, at("2026-11-20T11:57:00Z")), "3 min ago");
        assert_eq!(relative(now, at("2026-11-21T11:00:00Z")), "in 23 h");
        assert_eq!(relative(now, now), "just now");
        assert_eq!(both(now, at("2026-11-18T12:00:00Z")), "2026-11-18 12:00:00 UTC (2 days ago)");
    }
}
