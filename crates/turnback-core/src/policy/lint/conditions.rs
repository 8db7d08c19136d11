//! What a rule's conditions contradict, and what they name that is not there.
//!
//! Only what must hold together is compared: the links of `&&`, each `when`, each `unless` denied. What stands
//! under a choice is left alone, so a finding is never a guess; a contradiction hidden deeper is not found.

use std::collections::BTreeMap;

use cedar_policy::{ActionConstraint, Effect, EntityUid};
use serde_json::Value;

use super::{Finding, warn};
use crate::policy::compile::{Parsed, matches};
use crate::policy::schema;
use crate::text::visible;
use crate::tool::Tool;

pub(super) fn examine(one: &Parsed<'_>, reached: &[&Tool], registry: &[Tool], findings: &mut Vec<Finding>) {
    let Ok(body) = one.policy.to_json() else { return };
    let mut facts = Facts::default();
    if body.pointer("/principal/op").and_then(Value::as_str) == Some("==")
        && let Some(entity) = body.pointer("/principal/entity")
    {
        facts.equal("principal".to_owned(), entity.to_string());
    }
    for condition in body.get("conditions").and_then(Value::as_array).into_iter().flatten() {
        if let Some(expr) = condition.get("body") {
            facts.hold(expr, condition.get("kind").and_then(Value::as_str) == Some("when"));
        }
    }
    // A rule nothing reaches is found as that.
    if !reached.is_empty() {
        let why = facts.contradiction.clone().or_else(|| facts.nowhere(reached));
        if let Some(why) = why {
            findings.push(warn(one, "never-fires", format!("this rule can never match: {why}")));
        }
    }
    unmatched_actions(one, registry, findings);
    let mut named = Vec::new();
    entities(&body.get("conditions").cloned().unwrap_or_default(), &mut named);
    named.sort_unstable();
    named.dedup();
    for (kind, name) in named {
        let known = registry.iter().any(|t| t.kind.entity_type() == kind && t.resource.as_str() == name);
        if ["Files", "Sqlite"].contains(&kind.as_str()) && !known {
            let message = format!("no resource `{}` of this kind is configured", visible(&name));
            findings.push(warn(one, "unmatched-resource", message));
        }
    }
}

/// Actions of a list that none of the tools on the rule's resource has.
fn unmatched_actions(one: &Parsed<'_>, registry: &[Tool], findings: &mut Vec<Finding>) {
    if one.policy.effect() != Effect::Permit {
        return;
    }
    let ActionConstraint::In(listed) = one.policy.action_constraint() else { return };
    if listed.len() < 2 {
        return;
    }
    let meets = |wanted: &EntityUid| {
        registry.iter().any(|tool| {
            schema::tool_entities(tool).is_ok_and(|(action, resource, entities)| {
                let actions: Vec<EntityUid> = entities
                    .iter()
                    .map(cedar_policy::Entity::uid)
                    .filter(|uid| uid.type_name() == action.type_name())
                    .collect();
                let has = *wanted == action || in_groups(wanted, tool);
                has && matches(&one.policy, &action, &actions, &resource)
            })
        })
    };
    let idle: Vec<String> = listed
        .iter()
        .filter(|wanted| !meets(wanted))
        .map(|uid| format!("`{}`", visible(uid.id().unescaped())))
        .collect();
    // When none meets it, the whole rule is dead and found as that.
    if !idle.is_empty() && idle.len() < listed.len() {
        let message = format!("no registered tool on this resource has {}", idle.join(", "));
        findings.push(warn(one, "unmatched-action", message));
    }
}

fn in_groups(wanted: &EntityUid, tool: &Tool) -> bool {
    let name = wanted.id().unescaped();
    name == schema::local_group(tool) || name == schema::effect_group(tool)
}

/// Types and names of the entities an expression names.
fn entities(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            if let Some(entity) = map.get("__entity")
                && let (Some(kind), Some(name)) =
                    (entity.get("type").and_then(Value::as_str), entity.get("id").and_then(Value::as_str))
            {
                found.push((kind.to_owned(), name.to_owned()));
            }
            map.values().for_each(|inner| entities(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| entities(inner, found)),
        _ => {}
    }
}

/// What must hold for the rule to match, and the first two things that cannot both.
#[derive(Default)]
struct Facts {
    equal: BTreeMap<String, String>,
    unequal: Vec<(String, String)>,
    /// Smallest and largest value a number may have.
    range: BTreeMap<String, (i128, i128)>,
    /// Other conditions, as they are written, and whether they must hold.
    others: Vec<(String, bool)>,
    contradiction: Option<String>,
}

impl Facts {
    fn hold(&mut self, expr: &Value, holds: bool) {
        let Some((operator, operands)) = expr.as_object().and_then(|map| map.iter().next()) else { return };
        let sides = || Some((operands.get("left")?, operands.get("right")?));
        match (operator.as_str(), holds) {
            ("&&", true) | ("||", false) => {
                if let Some((left, right)) = sides() {
                    self.hold(left, holds);
                    self.hold(right, holds);
                }
            }
            ("!", _) => {
                if let Some(inner) = operands.get("arg") {
                    self.hold(inner, !holds);
                }
            }
            ("Value", _) if operands.as_bool() == Some(!holds) => {
                self.contradict(format!("`{}` stands where it must be `{holds}`", !holds));
            }
            ("==" | "!=" | "<" | "<=" | ">" | ">=", _) => {
                if let Some((left, right)) = sides() {
                    self.compare(operator, left, right, holds);
                }
            }
            _ => self.other(expr, holds),
        }
    }

    fn contradict(&mut self, why: String) {
        self.contradiction.get_or_insert(why);
    }

    fn other(&mut self, expr: &Value, holds: bool) {
        let text = expr.to_string();
        if self.others.iter().any(|(known, held)| *known == text && *held != holds) {
            self.contradict("a condition and its opposite must both hold".to_owned());
        }
        self.others.push((text, holds));
    }

    /// A comparison of a variable or attribute with a literal, whichever side it is on.
    fn compare(&mut self, operator: &str, left: &Value, right: &Value, holds: bool) {
        let mirrored = match operator {
            "<" => ">",
            "<=" => ">=",
            ">" => "<",
            ">=" => "<=",
            same => same,
        };
        let (Some(path), Some(literal), operator) =
            (match (path(left), right.get("Value"), path(right), left.get("Value")) {
                (path @ Some(_), literal @ Some(_), _, _) => (path, literal, operator),
                (_, _, path @ Some(_), literal @ Some(_)) => (path, literal, mirrored),
                _ => (None, None, operator),
            })
        else {
            return;
        };
        let operator = match (operator, holds) {
            (operator, true) => operator,
            ("==", false) => "!=",
            ("!=", false) => "==",
            ("<", false) => ">=",
            ("<=", false) => ">",
            (">", false) => "<=",
            (_, false) => "<",
        };
        if let Some(number) = literal.as_i64().map(i128::from) {
            let (least, most) = match operator {
                "==" => (number, number),
                "<" => (i128::MIN, number - 1),
                "<=" => (i128::MIN, number),
                ">" => (number + 1, i128::MAX),
                ">=" => (number, i128::MAX),
                _ => return,
            };
            let range = self.range.entry(path.clone()).or_insert((i128::MIN, i128::MAX));
            *range = (range.0.max(least), range.1.min(most));
            if range.0 > range.1 {
                self.contradict(format!("no number is what `{path}` must be"));
            }
            return;
        }
        let literal = match literal.get("__entity") {
            Some(entity) => entity.to_string(),
            None => literal.to_string(),
        };
        match operator {
            "==" => self.equal(path, literal),
            "!=" => {
                if self.equal.get(&path) == Some(&literal) {
                    self.contradict(format!("`{path}` must be {literal} and must not"));
                }
                self.unequal.push((path, literal));
            }
            _ => {}
        }
    }

    fn equal(&mut self, path: String, literal: String) {
        if let Some(other) = self.equal.get(&path).filter(|other| **other != literal) {
            let why = format!("`{path}` must be {} and {}", visible(other), visible(&literal));
            return self.contradict(why);
        }
        if self.unequal.contains(&(path.clone(), literal.clone())) {
            self.contradict(format!("`{path}` must be {literal} and must not"));
        }
        self.equal.insert(path, literal);
    }

    /// What the operator's own contracts say of each tool, against what must hold of it.
    fn nowhere(&self, reached: &[&Tool]) -> Option<String> {
        let (verbs, risks) = schema::words();
        let known = |path: &str, word: &str| match path {
            // Found as an unknown word.
            "context.verb" => verbs.contains(&word),
            "context.risk" => risks.contains(&word),
            _ => true,
        };
        let fits = |tool: &Tool| {
            self.equal.iter().all(|(path, literal)| {
                let Ok(word) = serde_json::from_str::<String>(literal) else { return true };
                let is = match path.as_str() {
                    "context.environment" | "resource.environment" => tool.environment.as_str(),
                    "context.verb" => tool.verb.word(),
                    "context.risk" => tool.risk.word(),
                    _ => return true,
                };
                !known(path, &word) || is == word
            })
        };
        (!reached.iter().any(|tool| fits(tool)))
            .then(|| "no registered tool it covers has that environment, verb and risk".to_owned())
    }
}

/// `context.effect.rows`, `principal`: a variable and the attributes taken from it.
fn path(expr: &Value) -> Option<String> {
    if let Some(var) = expr.get("Var").and_then(Value::as_str) {
        return Some(var.to_owned());
    }
    let access = expr.get(".")?;
    Some(format!("{}.{}", path(access.get("left")?)?, access.get("attr")?.as_str()?))
}
