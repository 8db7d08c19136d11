//! W3C trace context: which trace a call says it belongs to.
//!
//! A trace is what the agent says, so it only ever adds: what was read elsewhere in the same trace counts
//! against a call, what the agent itself read counts whatever trace the call names.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

/// The trace identity of a `traceparent`: 32 lowercase hexadecimal digits, not all zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TraceId(String);

/// Exactly `digits` lowercase hexadecimal digits.
fn hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn all_zero(text: &str) -> bool {
    text.bytes().all(|b| b == b'0')
}

impl TraceId {
    /// The trace a `traceparent` names, read as the recommendation says: `None` for whatever is not exactly
    /// of its form, which then counts as no trace at all.
    ///
    /// ```
    /// use turnback_core::trace::TraceId;
    ///
    /// let trace = TraceId::of_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    /// assert_eq!(trace.as_str(), "4bf92f3577b34da6a3ce929d0e0e4736");
    /// assert_eq!(TraceId::of_traceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), None);
    /// ```
    pub fn of_traceparent(text: &str) -> Option<Self> {
        // A later version may add fields after the four known ones.
        let mut parts = text.splitn(5, '-');
        let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let more = parts.next().is_some();
        let known = hex(version, 2) && version != "ff" && (version != "00" || !more);
        let valid =
            known && hex(trace, 32) && !all_zero(trace) && hex(parent, 16) && !all_zero(parent) && hex(flags, 2);
        valid.then(|| Self(trace.to_owned()))
    }

    /// The trace of that identity, for operators who name one.
    pub fn new(text: &str) -> Option<Self> {
        (hex(text, 32) && !all_zero(text)).then(|| Self(text.to_owned()))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).ok_or_else(|| de::Error::custom("a trace is 32 lowercase hexadecimal digits, not all zero"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_a_trace() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        const PARENT: &str = "00f067aa0ba902b7";
        let named = |text: &str| TraceId::of_traceparent(text).map(|t| t.to_string());
        for good in [
            format!("00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-ff"),
            format!("01-{TRACE}-{PARENT}-01"),
            format!("01-{TRACE}-{PARENT}-01-what-comes"),
        ] {
            assert_eq!(named(&good).as_deref(), Some(TRACE), "{good}");
        }
        for bad in [
            String::new(),
            "00-1".into(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("0-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-1"),
            format!("00-{TRACE}-{PARENT}-0g"),
            format!(" 00-{TRACE}-{PARENT}-01"),
            format!("00-{TRACE}-{PARENT}-01 "),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{}-{PARENT}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}0-{PARENT}-01"),
        ] {
            assert_eq!(named(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_trace_read_back_is_checked_again() {
        let trace = TraceId::new(&"a".repeat(32)).unwrap();
        let text = serde_json::to_string(&trace).unwrap();
        assert_eq!(serde_json::from_str::<TraceId>(&text).unwrap(), trace);
        assert!(serde_json::from_str::<TraceId>("\"00-1\"").is_err());
    }
}
