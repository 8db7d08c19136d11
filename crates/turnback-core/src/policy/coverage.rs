//! Which rules no golden case decides.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::cases::CaseResult;
use super::{Policy, RulePlace};

/// A rule no case rests on: it may be deleted, or say the opposite, and every case still passes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untested {
    /// Its name.
    pub rule: String,
    /// Where it stands.
    pub place: RulePlace,
}

/// How far the cases reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// How many rules there are.
    pub rules: usize,
    /// Those no case rests on, in the order of files and lines.
    pub untested: Vec<Untested>,
}

/// Which rules the answers to these cases rest on. A case that was skipped covers nothing.
pub fn coverage<'c>(policy: &Policy, results: impl IntoIterator<Item = &'c CaseResult>) -> Coverage {
    let decided: BTreeSet<&str> = results.into_iter().flat_map(|result| &result.rules).map(String::as_str).collect();
    let rules = policy.rules();
    let untested = rules.iter().filter(|(name, _)| !decided.contains(name));
    let untested = untested.map(|(name, place)| Untested { rule: (*name).to_owned(), place: (*place).clone() });
    Coverage { rules: rules.len(), untested: untested.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{policy, registry};
    use crate::policy::cases::run_cases;

    #[test]
    fn a_rule_without_a_case_is_named_with_its_place() {
        let policy = policy(
            "@id(\"reads\") permit(principal, action in Action::\"read\", resource);\n\
             @id(\"writes\") permit(principal, action in Action::\"write\", resource);\n\
             @id(\"ask\") @outcome(\"review\") forbid(principal, action, resource) when { context.place == \"x\" } \
             unless { context.approved };",
        );
        let untested = |text: &str| {
            let results = run_cases(&policy, &registry(), text).unwrap();
            let coverage = coverage(&policy, &results);
            assert_eq!(coverage.rules, 3);
            coverage.untested.into_iter().map(|u| (u.rule, u.place.line)).collect::<Vec<_>>()
        };
        let read = r#"{"name": "a", "agent": "coder", "tool": "shop__query", "expect": "allow"}"#;
        let ask = r#"{"name": "b", "agent": "coder", "tool": "shop__query", "place": "x", "expect": "review"}"#;
        let skipped = r#"{"name": "c", "agent": "coder", "tool": "files.search", "expect": "allow"}"#;
        assert_eq!(untested(&format!("[{read}, {skipped}]")), [("writes".to_owned(), 2), ("ask".to_owned(), 3)]);
        // A review rests on the rule that asks, not on the permit under it.
        assert_eq!(untested(&format!("[{ask}]")), [("reads".to_owned(), 1), ("writes".to_owned(), 2)]);
    }
}
