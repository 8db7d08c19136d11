//! A decision in words: one sentence, then the rules and facts it rests on.

use std::fmt::Write as _;

use crate::decision::{Decision, Obligation, Ruling};
use crate::text::visible;

/// What the gates said about a run, for the person who asks why.
///
/// `after` is the decision on the measured effect, when it came that far. The first line is the whole
/// answer; below stand every verdict with its rules and obligations, then the policy's digest.
pub fn explain(before: &Decision, after: Option<&Decision>) -> String {
    let ruling = after.map_or(before.ruling, |after| before.ruling.max(after.ruling));
    let decisions = || std::iter::once(before).chain(after);
    let decisive: Vec<_> = decisions().flat_map(|d| &d.verdicts).filter(|v| v.ruling == ruling).collect();
    let what = match ruling {
        Ruling::Allow => "Allowed",
        Ruling::Constrain => "Only a smaller or safer form is allowed",
        Ruling::Review => "A person decides",
        Ruling::Fallback => "Refused while the system is in a safe degraded mode",
        Ruling::Deny => "Denied",
    };
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = match (ruling, decisive.as_slice()) {
        (_, []) => writeln!(out, "{what}: no gate spoke."),
        (Ruling::Allow, _) => writeln!(out, "{what}: every gate that was asked agrees."),
        (_, verdicts) => {
            let why: Vec<_> = verdicts.iter().map(|v| format!("{} says {}", v.gate, visible(&v.reason))).collect();
            writeln!(out, "{what}: {}.", why.join("; "))
        }
    };
    if let Some(next) = decisive.iter().find_map(|v| v.next.as_deref()) {
        let _ = writeln!(out, "next: {}", visible(next));
    }
    for (title, decision) in [("before staging", Some(before)), ("on the measured effect", after)] {
        let Some(decision) = decision else { continue };
        let _ = writeln!(out, "\n{title}: {}", decision.ruling.word());
        let width = decision.verdicts.iter().map(|v| v.gate.len()).max().unwrap_or(0);
        for verdict in &decision.verdicts {
            let (gate, word) = (&verdict.gate, verdict.ruling.word());
            let _ = writeln!(out, "  {gate:width$}  {word:9}  {}", visible(&verdict.reason));
            for rule in &verdict.rules {
                let _ = writeln!(out, "  {:width$}  {:9}  rule {}", "", "", visible(rule));
            }
            for obligation in &verdict.obligations {
                let what = match obligation {
                    Obligation::Approvers { names } => format!("only {} may approve", names.join(", ")),
                    Obligation::SaferForm { form } => format!("only as: {form}"),
                    Obligation::MeasureOnly => "measured, never committed".to_owned(),
                    Obligation::FreezeException { freeze } => format!("an exception from freeze `{freeze}`"),
                };
                let _ = writeln!(out, "  {:width$}  {:9}  {}", "", "", visible(&what));
            }
        }
    }
    let _ = writeln!(out, "\npolicy {}", before.policy);
    if let Some(other) = after.filter(|after| after.policy != before.policy) {
        let _ = writeln!(out, "policy {} on the measured effect", other.policy);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{Phase, Verdict};
    use crate::digest::Sha256;

    #[test]
    fn one_sentence_then_rules_and_facts() {
        let policy = Sha256::of(b"p");
        let before =
            Decision::combine(Phase::Before, policy, vec![Verdict::new("ownership", Ruling::Allow, "owned by anna")]);
        let review = Verdict::new("authorization", Ruling::Review, "schema changes need\na person")
            .rule("ddl")
            .next("ask anna")
            .oblige(Obligation::Approvers { names: vec!["anna".into()] });
        let after = Decision::combine(Phase::After, policy, vec![review]);
        let pad = " ".repeat(28);
        let text = explain(&before, Some(&after));
        assert_eq!(
            text,
            format!(
                "A person decides: authorization says schema changes need<U+000A>a person.\n\
                 next: ask anna\n\nbefore staging: allow\n  ownership  allow      owned by anna\n\n\
                 on the measured effect: review\n  authorization  review     schema changes need<U+000A>a person\n\
                 {pad}rule ddl\n{pad}only anna may approve\n\n\
                 policy {policy}\n"
            )
        );
        assert!(explain(&before, None).starts_with("Allowed: "));
    }
}
