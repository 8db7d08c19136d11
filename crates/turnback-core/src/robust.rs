//! Numbers that are compared with their own past and with each other.
//!
//! Everything here is total: a number is finite or does not exist, and what overflows on the way counts as
//! too far apart, never as close.

use serde::{Deserialize, Serialize};

/// A finite number. Recorded as text, because not every JSON reader brings back the last bit of a number.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Number(f64);

// Without NaN equality is an equivalence.
impl Eq for Number {}

impl Number {
    /// `None` for NaN and infinities.
    pub fn new(value: f64) -> Option<Self> {
        // One zero: -0.0 and 0.0 are written alike.
        value.is_finite().then_some(Self(value + 0.0))
    }

    /// Its value.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The number a JSON value is. Text is never a number.
    pub fn of_json(value: &serde_json::Value) -> Option<Self> {
        value.as_f64().and_then(Self::new)
    }
}

/// Robust deviations that are usual when nobody says otherwise: the customary 3.5.
pub const DEVIATIONS: Number = Number(3.5);

impl TryFrom<String> for Number {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().ok().and_then(Self::new).ok_or("a finite number is expected")
    }
}

impl From<Number> for String {
    fn from(number: Number) -> String {
        number.0.to_string()
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How far two numbers may lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// In the numbers' own unit.
    Absolute(Number),
    /// In percent of the larger of the two, whatever its sign.
    Percent(Number),
}

impl Tolerance {
    /// Whether the two agree. A negative tolerance agrees with nothing.
    pub fn holds(self, a: Number, b: Number) -> bool {
        match self {
            // A difference that overflows is infinite, and over every tolerance.
            Tolerance::Absolute(within) => (a.0 - b.0).abs() <= within.0,
            Tolerance::Percent(within) => {
                let larger = a.0.abs().max(b.0.abs());
                let (apart, allowed) = ((a.0 - b.0).abs() * 100.0, within.0 * larger);
                if apart.is_finite() && allowed.is_finite() {
                    return apart <= allowed;
                }
                // Divided first, neither side overflows; multiplied, one in a hundred is exactly one percent.
                (a.0 / larger - b.0 / larger).abs() <= within.0 / 100.0
            }
        }
    }
}

impl std::fmt::Display for Tolerance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Tolerance::Absolute(n) => n.fmt(f),
            Tolerance::Percent(n) => write!(f, "{n} %"),
        }
    }
}

/// How a value compares with its history.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// There is too little history to say.
    Short,
    /// Within the limit.
    Usual,
    /// Farther from the median than the limit. The score is infinite when every earlier value was the same,
    /// or when the distances overflow.
    Unusual {
        /// Distance from the median in robust standard deviations.
        score: f64,
        /// The median of the history.
        median: f64,
    },
}

/// One standard deviation of a normal distribution is so many MADs.
const PER_MAD: f64 = 0.674_489_750_196_081_7;

/// The middle of sorted values; the mean of the two middle ones when their count is even.
fn middle(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    let upper = sorted.get(half).copied()?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = sorted.get(half.checked_sub(1)?).copied()?;
    let mean = (lower + upper) / 2.0;
    // The sum of two finite numbers may overflow, the sum of their halves does not.
    Some(if mean.is_finite() { mean } else { lower / 2.0 + upper / 2.0 })
}

/// Compares `value` with `history` by median and MAD (median absolute deviation): `limit` robust standard
/// deviations are usual; fewer than `least` earlier values say nothing. Where the MAD is zero any other value
/// than the median is unusual; where it overflows everything is.
pub fn compare(value: Number, history: &[Number], limit: Number, least: usize) -> Standing {
    let mut sorted: Vec<f64> = history.iter().map(|n| n.0).collect();
    sorted.sort_by(f64::total_cmp);
    let (true, Some(median)) = (history.len() >= least, middle(&sorted)) else { return Standing::Short };
    let mut apart: Vec<f64> = sorted.iter().map(|x| (x - median).abs()).collect();
    apart.sort_by(f64::total_cmp);
    let mad = middle(&apart).unwrap_or(f64::INFINITY);
    let distance = (value.0 - median).abs();
    if mad.is_finite() && distance == 0.0 {
        return Standing::Usual;
    }
    let score = if mad.is_finite() && mad > 0.0 { PER_MAD * (distance / mad) } else { f64::INFINITY };
    if score <= limit.0 { Standing::Usual } else { Standing::Unusual { score, median } }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn n(value: f64) -> Number {
        Number::new(value).unwrap()
    }

    fn numbers(values: &[f64]) -> Vec<Number> {
        values.iter().copied().map(n).collect()
    }

    #[test]
    fn only_finite_numbers_exist() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(Number::new(value), None);
            assert!(Number::try_from(value.to_string()).is_err());
        }
        for json in [serde_json::json!("7"), serde_json::json!(null), serde_json::json!([7]), serde_json::json!(true)] {
            assert_eq!(Number::of_json(&json), None, "{json}");
        }
        assert_eq!(Number::of_json(&serde_json::json!(7)), Some(n(7.0)));
        assert_eq!(n(-0.0).to_string(), "0");
    }

    #[test]
    fn agreement_ends_exactly_and_overflow_is_disagreement() {
        let big = f64::MAX;
        for (a, b, tolerance, holds) in [
            (10.0, 12.0, Tolerance::Absolute(n(2.0)), true),
            (10.0, 12.5, Tolerance::Absolute(n(2.0)), false),
            (12.0, 10.0, Tolerance::Absolute(n(2.0)), true),
            (7.0, 7.0, Tolerance::Absolute(n(0.0)), true),
            (7.0, 7.0, Tolerance::Absolute(n(-1.0)), false),
            (big, -big, Tolerance::Absolute(n(big)), false),
            (100.0, 99.0, Tolerance::Percent(n(1.0)), true),
            (100.0, 98.9, Tolerance::Percent(n(1.0)), false),
            (0.0, 0.0, Tolerance::Percent(n(0.0)), true),
            (0.0, 1.0, Tolerance::Percent(n(99.0)), false),
            (-1.0, 1.0, Tolerance::Percent(n(199.0)), false),
            (big, -big, Tolerance::Percent(n(199.0)), false),
            (big, big, Tolerance::Percent(n(0.0)), true),
            (5e-324, -5e-324, Tolerance::Percent(n(100.0)), false),
        ] {
            assert_eq!(tolerance.holds(n(a), n(b)), holds, "{a} {b} {tolerance}");
            assert_eq!(tolerance.holds(n(b), n(a)), holds, "either way round: {a} {b} {tolerance}");
        }
    }

    #[test]
    fn the_edges_of_history_are_defined() {
        let limit = n(3.5);
        let usual = |value, history: &[f64]| compare(n(value), &numbers(history), limit, 1) == Standing::Usual;
        assert_eq!(compare(n(1.0), &[], limit, 0), Standing::Short, "no history says nothing");
        assert_eq!(compare(n(1.0), &numbers(&[1.0; 9]), limit, 10), Standing::Short);
        // Zero MAD: whatever is not the median is unusual, however near.
        assert!(usual(5.0, &[5.0; 10]));
        assert!(!usual(5.000_000_1, &[5.0; 10]));
        assert!(!usual(6.0, &[5.0, 5.0, 5.0, 6.0]));
        // Distances that overflow, and a median of two numbers whose sum does.
        let big = f64::MAX;
        assert!(!usual(big, &[-big, -big, -big]));
        assert!(usual(0.0, &[-big, big]));
        assert!(usual(big, &[big, big]));
        match compare(n(20.0), &numbers(&[9.0, 10.0, 11.0, 10.0, 12.0]), limit, 5) {
            Standing::Unusual { score, median } => {
                assert_eq!(median, 10.0);
                assert!((score - 6.744_897_501).abs() < 1e-6, "{score}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// The textbook's way: median of a sorted copy, by definition and without care for overflow.
    fn reference(value: f64, history: &[f64], limit: f64) -> bool {
        let median = |values: &[f64]| {
            let mut values = values.to_vec();
            values.sort_by(|a, b| a.partial_cmp(b).unwrap());
            let m = values.len();
            (values[(m - 1) / 2] + values[m / 2]) / 2.0
        };
        let center = median(history);
        let mad = median(&history.iter().map(|x| (x - center).abs()).collect::<Vec<_>>());
        let distance = (value - center).abs();
        distance == 0.0 || (mad > 0.0 && 0.674_489_750_196_081_7 * (distance / mad) <= limit)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_the_textbooks_answer(
            history in proptest::collection::vec(-20i32..20, 1..40), value in -40i32..40, limit in 0u8..6,
        ) {
            let history: Vec<f64> = history.into_iter().map(|x| f64::from(x) / 4.0).collect();
            let (value, limit) = (f64::from(value) / 4.0, f64::from(limit));
            let found = compare(n(value), &numbers(&history), n(limit), 1) == Standing::Usual;
            prop_assert_eq!(found, reference(value, &history, limit));
        }

        /// Any finite numbers at all have an answer, and a lower limit never finds more usual.
        #[test]
        fn a_lower_limit_never_loosens(
            history in proptest::collection::vec(proptest::num::f64::NORMAL, 0..12),
            value in proptest::num::f64::NORMAL, limit in 0.0..9.0f64, less in 0.0..9.0f64,
        ) {
            let history = numbers(&history);
            let usual = |limit| compare(n(value), &history, n(limit), 1) == Standing::Usual;
            prop_assert!(usual(limit) || !usual(limit - less));
        }
    }
}
