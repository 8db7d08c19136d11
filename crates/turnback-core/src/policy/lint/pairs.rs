//! Rules in the way of others: what an unconditional forbid leaves without effect, and what is said twice.

use std::collections::{HashMap, HashSet};

use cedar_policy::{Effect, PrincipalConstraint};
use serde_json::Value;

use super::{Finding, warn};
use crate::policy::compile::Parsed;
use crate::text::visible;

/// `reaches` are the names of the tools each rule's scope matches, in the order of `parsed`.
pub(super) fn examine(parsed: &[Parsed<'_>], reaches: &[HashSet<&str>], findings: &mut Vec<Finding>) {
    let bodies: Vec<Option<Value>> = parsed.iter().map(|one| one.policy.to_json().ok()).collect();
    let unconditional = |index: usize| {
        let conditions = bodies.get(index).and_then(Option::as_ref).and_then(|body| body.get("conditions"));
        conditions.is_some_and(|list| list.as_array().is_some_and(Vec::is_empty))
    };
    let everything: Vec<usize> = (0..parsed.len())
        .filter(|i| parsed[*i].policy.effect() == Effect::Forbid && parsed[*i].rule.outcome.is_none())
        .filter(|i| unconditional(*i))
        .collect();
    let mut said: HashMap<String, usize> = HashMap::new();
    for (index, one) in parsed.iter().enumerate() {
        let Some(tools) = reaches.get(index).filter(|tools| !tools.is_empty()) else { continue };
        let covered = everything.iter().copied().filter(|other| *other != index).find(|other| {
            let theirs = &parsed[*other].policy.principal_constraint();
            let agents = *theirs == PrincipalConstraint::Any || *theirs == one.policy.principal_constraint();
            agents && reaches.get(*other).is_some_and(|all| tools.is_subset(all))
        });
        let same = bodies.get(index).and_then(Option::as_ref).map(|body| meaning(body, one)).and_then(|text| {
            let first = *said.entry(text).or_insert(index);
            (first != index).then_some(first)
        });
        // Two unconditional forbids that cover each other are one thing said twice.
        if let Some(first) = same {
            findings.push(warn(one, "duplicate", format!("it says the same as {}", named(&parsed[first]))));
        } else if let Some(other) = covered {
            let what = if one.policy.effect() == Effect::Permit { "permits nothing" } else { "decides nothing" };
            let message = format!("it {what}: {} forbids all of it without a condition", named(&parsed[other]));
            if !everything.contains(&index) || index > other {
                findings.push(warn(one, "shadowed", message));
            }
        }
    }
}

fn named(one: &Parsed<'_>) -> String {
    let (line, _) = one.at(0);
    format!("`{}` ({}:{line})", visible(&one.rule.name), visible(&one.source.name))
}

/// What a rule says, without what it is called and why.
fn meaning(body: &Value, one: &Parsed<'_>) -> String {
    let mut body = body.clone();
    if let Some(map) = body.as_object_mut() {
        map.remove("annotations");
    }
    format!("{body} {:?} {:?}", one.rule.outcome, one.rule.obligations)
}
