//! Money and recipients, read from the arguments of an action.
//!
//! Exact: no number here ever was a float that rounded, and what cannot be counted is a refusal.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contract::Contract;
use crate::names::ToolName;
use crate::text::visible;

/// Decimal places of a money field when nothing is said: `12.34` is 1234 minor units.
pub const DECIMALS: u8 = 2;

/// Most decimal places of a money field.
pub const DECIMALS_MOST: u8 = 9;

/// Where the arguments of a tool say how much of something there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// The tool.
    pub tool: ToolName,
    /// What is counted.
    pub kind: Counted,
    /// JSON Pointer (RFC 6901) of the field inside the arguments.
    pub field: String,
}

/// What a [`Measure`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Counted {
    /// Money: a number that is not negative.
    Money {
        /// How many decimal places the field has; the number times ten to that power is in minor units.
        decimals: u8,
    },
    /// Recipients: a list, of which the entries are counted, or a whole number.
    Recipients,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Minor units of money.
    pub money: u64,
    /// Recipients.
    pub recipients: u64,
}

/// Adds up what `measures` say of an action.
///
/// # Errors
/// A sentence that names the field which is missing, negative, no number or too large.
pub fn amounts(contract: &Contract, measures: &[Measure]) -> Result<Amounts, String> {
    let mut sum = Amounts::default();
    for measure in measures.iter().filter(|m| m.tool == contract.tool) {
        let wrong = |why: &str| format!("`{}` of `{}` {why}", visible(&measure.field), contract.tool);
        let value = contract.arguments.pointer(&measure.field).ok_or_else(|| wrong("is missing"))?;
        let (total, amount) = match measure.kind {
            Counted::Money { decimals } => (&mut sum.money, minor_units(value, decimals).map_err(wrong)?),
            Counted::Recipients => (&mut sum.recipients, heads(value).map_err(wrong)?),
        };
        *total = total.checked_add(amount).ok_or_else(|| wrong("makes more than can be counted"))?;
    }
    Ok(sum)
}

fn heads(value: &Value) -> Result<u64, &'static str> {
    match value {
        Value::Array(list) => Ok(list.len() as u64),
        Value::Number(n) => n.as_u64().ok_or("is no whole number from 0"),
        _ => Err("is neither a list nor a number"),
    }
}

/// The number as written, `decimals` places moved to the left of the point.
///
/// Arguments hold only numbers that survive the way through a double, so the shortest text that means the
/// double is the number the agent wrote.
fn minor_units(value: &Value, decimals: u8) -> Result<u64, &'static str> {
    const LARGE: &str = "is more than can be counted";
    let Value::Number(number) = value else { return Err("is no number") };
    let text = number.to_string();
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let exponent: i64 = exponent.parse().map_err(|_| LARGE)?;
    let (negative, mantissa) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    if negative {
        return Err("is negative");
    }
    let significant = digits.trim_end_matches('0');
    let zeros = digits.len() - significant.len();
    // No text of a double is longer than a few hundred digits.
    let place = exponent - fraction.len() as i64 + i64::from(decimals) + zeros as i64;
    let Ok(place) = u32::try_from(place) else { return Err("has more decimal places than its currency") };
    let amount: u64 = significant.parse().map_err(|_| LARGE)?;
    10u64.checked_pow(place).and_then(|scale| amount.checked_mul(scale)).ok_or(LARGE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::fixtures::World;

    fn counted(kind: Counted, arguments: &str) -> Result<Amounts, String> {
        let mut world = World::new("", "shop__execute");
        world.contract.arguments = crate::json::parse(arguments.as_bytes()).unwrap();
        let measure = |field: &str| Measure { tool: world.contract.tool.clone(), kind, field: field.into() };
        amounts(&world.contract, &[measure("/a")])
    }

    fn money(text: &str, decimals: u8) -> Result<u64, String> {
        counted(Counted::Money { decimals }, &format!("{{\"a\":{text}}}")).map(|a| a.money)
    }

    #[test]
    fn money_is_counted_exactly() {
        for (text, decimals, expected) in [
            ("0", 2, 0),
            ("12", 2, 1200),
            ("12.3", 2, 1230),
            ("12.34", 2, 1234),
            ("0.29", 2, 29),
            ("1.15", 2, 115),
            ("1e3", 2, 100_000),
            ("1e-2", 2, 1),
            ("70368744177664.25", 2, 7_036_874_417_766_425),
            ("1234", 0, 1234),
            ("0.000000001", 9, 1),
        ] {
            assert_eq!(money(text, decimals), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_counted_is_refused_with_its_field() {
        for (text, decimals, why) in [
            ("-0.01", 2, "is negative"),
            ("-1", 2, "is negative"),
            ("0.001", 2, "more decimal places"),
            ("0.5", 0, "more decimal places"),
            ("1e-300", 9, "more decimal places"),
            ("9007199254740991", 9, "more than can be counted"),
            ("\"12\"", 2, "is no number"),
            ("null", 2, "is no number"),
            ("[12]", 2, "is no number"),
        ] {
            let refusal = money(text, decimals).unwrap_err();
            assert!(refusal.starts_with("`/a` of `shop__execute`") && refusal.contains(why), "{text}: {refusal}");
        }
        for (arguments, why) in [
            ("{}", "missing"),
            ("{\"a\":-1}", "no whole number"),
            ("{\"a\":1.5}", "no whole number"),
            ("{\"a\":\"x@y\"}", "neither a list nor a number"),
        ] {
            let refusal = counted(Counted::Recipients, arguments).unwrap_err();
            assert!(refusal.contains(why), "{arguments}: {refusal}");
        }
        assert_eq!(counted(Counted::Recipients, "{\"a\":[1,2,3]}").unwrap().recipients, 3);
        assert_eq!(counted(Counted::Recipients, "{\"a\":17}").unwrap().recipients, 17);
    }

    #[test]
    fn several_fields_add_up_and_never_wrap() {
        let mut world = World::new("", "shop__execute");
        let tool = world.contract.tool.clone();
        let measure =
            |field: &str| Measure { tool: tool.clone(), kind: Counted::Money { decimals: 9 }, field: field.into() };
        let measures = [measure("/a"), measure("/b/0")];
        world.contract.arguments = json!({ "a": 1, "b": [2] });
        assert_eq!(amounts(&world.contract, &measures).unwrap().money, 3_000_000_000);
        world.contract.arguments = json!({ "a": 9_000_000_000u64, "b": [9_500_000_000u64] });
        assert!(amounts(&world.contract, &measures).unwrap_err().contains("more than can be counted"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Against whole numbers: what is written as cents is read as cents.
        #[test]
        fn cents_are_cents(cents in 0..1_000_000_000_000u64) {
            prop_assert_eq!(money(&format!("{}.{:02}", cents / 100, cents % 100), 2), Ok(cents));
        }
    }
}
