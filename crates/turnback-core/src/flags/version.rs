//! `sem_ver`: semantic versions as flagd compares them.
//!
//! A leading `v` or `V` is accepted, missing parts count as 0, numbers are read as versions (`1.2` is 1.2.0), and
//! build metadata is ignored. Precedence is that of <https://semver.org>, clause 11.

use std::cmp::Ordering;

use serde_json::Value;

/// One version, ordered by precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    /// Identifiers of the pre-release; empty for a release, which comes after all of them.
    pre: Vec<Identifier>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    // Numeric identifiers have lower precedence than others.
    Number(u64),
    Text(String),
}

impl Version {
    fn read(value: &Value) -> Option<Self> {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        let text = text.strip_prefix(['v', 'V']).unwrap_or(&text);
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        if build.is_some_and(|build| !identifiers(build)) {
            return None;
        }
        let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
        let parts: Vec<&str> = core.split('.').collect();
        // Only a whole version has a pre-release: `1-2` is neither.
        if parts.len() > 3 || ((pre.is_some() || build.is_some()) && parts.len() != 3) {
            return None;
        }
        let mut numbers = [0; 3];
        for (number, part) in numbers.iter_mut().zip(parts) {
            *number = numeric(part)?;
        }
        let pre = match pre {
            None => Vec::new(),
            Some(pre) if identifiers(pre) => pre
                .split('.')
                .map(|part| match part.bytes().all(|b| b.is_ascii_digit()) {
                    true => numeric(part).map(Identifier::Number),
                    false => Some(Identifier::Text(part.to_owned())),
                })
                .collect::<Option<_>>()?,
            Some(_) => return None,
        };
        Some(Self { numbers, pre })
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn identifiers(text: &str) -> bool {
    text.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
}

/// A number without leading zeros.
fn numeric(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

/// The operators between two versions.
pub(super) const OPERATORS: [&str; 8] = ["=", "!=", ">", "<", ">=", "<=", "~", "^"];

/// Whether `left` stands to `right` as `operator` says; `None` when one of them is no version.
pub(super) fn compare(left: &Value, operator: &str, right: &Value) -> Option<bool> {
    let (left, right) = (Version::read(left)?, Version::read(right)?);
    let order = left.cmp(&right);
    Some(match operator {
        "=" => order == Ordering::Equal,
        "!=" => order != Ordering::Equal,
        ">" => order == Ordering::Greater,
        "<" => order == Ordering::Less,
        ">=" => order != Ordering::Less,
        "<=" => order != Ordering::Greater,
        "~" => left.numbers[..2] == right.numbers[..2],
        "^" => left.numbers[0] == right.numbers[0],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn precedence_is_that_of_the_specification() {
        let rising = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.10.0",
            "2.0.0",
        ];
        for (n, left) in rising.iter().enumerate() {
            for (m, right) in rising.iter().enumerate() {
                let asked = |operator| compare(&json!(left), operator, &json!(right));
                assert_eq!(asked("<"), Some(n < m), "{left} < {right}");
                assert_eq!(asked(">="), Some(n >= m), "{left} >= {right}");
                assert_eq!(asked("!="), Some(n != m), "{left} != {right}");
            }
        }
    }

    #[test]
    fn what_is_no_version_is_told_apart_from_no() {
        for wrong in [
            "",
            "not-a-version",
            "1.2.3.4",
            "01.2.3",
            "1.2.3-",
            "1.2.3-01",
            "1.2.3-a..b",
            "1.2-a",
            "vv1",
            "1..2",
            "1.0+b",
        ] {
            assert_eq!(compare(&json!(wrong), "=", &json!("1.0.0")), None, "{wrong}");
        }
        assert_eq!(compare(&json!(null), "=", &json!("1.0.0")), None);
        assert_eq!(compare(&json!("1.0.0"), "===", &json!("1.0.0")), None);
    }
}
