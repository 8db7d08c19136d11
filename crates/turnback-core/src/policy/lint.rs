//! What a policy file says that its author probably did not mean.
//!
//! Errors keep a policy from loading or make a rule do the opposite of its purpose; warnings are
//! worth a look. Never changes anything and never runs a policy.
//!
//! Rooms: `conditions` (what a rule's conditions contradict or name in vain) · `pairs` (rules in the way of
//! others).

mod conditions;
mod pairs;

use std::collections::HashSet;

use cedar_policy::{ActionConstraint, Effect, EntityUid, ResourceConstraint};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::compile::{Checked, Parsed, check, matches, with_room};
use super::{PolicyError, Source, schema};
use crate::decision::{Obligation, Ruling};
use crate::form::DRY_RUN;
use crate::text::visible;
use crate::tool::Tool;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth a look.
    Warning,
    /// It does not load, or cannot do what it says.
    Error,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The source's name.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How serious it is.
    pub severity: Severity,
    /// The lint's stable name, one of [`LINTS`].
    pub rule: String,
    /// What is wrong and what to write instead.
    pub message: String,
    /// What the lint is about, whatever the place.
    #[serde(default)]
    pub help: String,
}

/// One thing that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lint {
    /// Its stable name.
    pub id: &'static str,
    /// How serious it is.
    pub severity: Severity,
    /// What it finds, in a few words.
    pub title: &'static str,
    /// Why that matters and what to do.
    pub help: &'static str,
}

const fn warning(id: &'static str, title: &'static str, help: &'static str) -> Lint {
    Lint { id, severity: Severity::Warning, title, help }
}

/// Everything that is looked for.
pub const LINTS: &[Lint] = &[
    Lint {
        id: "compile",
        severity: Severity::Error,
        title: "a policy does not load",
        help: "A gateway refuses a policy with a mistake in it as a whole; the one before stays active.",
    },
    Lint {
        id: "endless-review",
        severity: Severity::Error,
        title: "a review no approval satisfies",
        help: "After an approval every rule is asked again. A rule that does not step aside for `context.approved` \
               asks again for ever.",
    },
    warning(
        "never-fires",
        "a rule whose conditions contradict each other",
        "No request can meet all of the rule's scope and conditions, so it decides nothing. For a forbid that means \
         that what it should stop is not stopped.",
    ),
    warning(
        "dead-rule",
        "a rule no registered tool can match",
        "The rule is about tools or resources that are not configured. It starts to count when they are.",
    ),
    warning(
        "shadowed",
        "a rule that another rule always outweighs",
        "A forbid without conditions stops everything this rule is about, so it decides nothing.",
    ),
    warning(
        "duplicate",
        "a rule that repeats another",
        "Both say the same about the same requests. Whoever changes one of them will believe that the other is gone.",
    ),
    warning(
        "wide-permit",
        "a permit that also covers what is registered later",
        "A permit should name what it is for, so that a tool or resource added later is not open from the first moment.",
    ),
    warning(
        "unmatched-action",
        "an action no registered tool has on this resource",
        "The rule lists an action that never meets its resource: it is wider on paper than in fact, or the resource \
         is not the one that was meant.",
    ),
    warning(
        "unmatched-resource",
        "a resource that is not configured",
        "The rule names a resource nobody configured; a misspelt name protects or opens nothing.",
    ),
    warning(
        "late-permit",
        "a permit that waits for the measured effect",
        "A permit is asked before anything is measured; one that needs the effect never lets an action be staged.",
    ),
    warning(
        "unknown-word",
        "a comparison with a word that never occurs",
        "Verbs and risks are closed lists; a comparison with any other word is never true.",
    ),
    warning(
        "missing-form",
        "a safer form that a tool does not have",
        "Where a tool has no form of that name, what the rule constrains is denied. Forms are [[safer]] tables of \
         turnback.toml; `dry_run` is there for every write.",
    ),
    warning(
        "missing-id",
        "a rule without a name",
        "Records name a rule without @id by its line, which moves when the file is edited.",
    ),
    warning("cedar", "a warning of Cedar's own validator", "See the Cedar documentation on policy validation."),
    Lint {
        id: "flag-metadata",
        severity: Severity::Error,
        title: "a release flag nobody answers for",
        help: "Every flag says in its metadata who answers for it, why it is there, when it was made, when it is looked \
               at again, under which condition it goes, and whether it is meant to stay.",
    },
    warning(
        "flag-review",
        "a release flag whose review is overdue",
        "A flag nobody looked at since is what holds when nobody remembers why. Remove it or set a later date.",
    ),
];

/// What is known of a lint.
pub fn about(id: &str) -> Option<&'static Lint> {
    LINTS.iter().find(|lint| lint.id == id)
}

fn help(id: &str) -> String {
    about(id).map_or_else(String::new, |lint| lint.help.to_owned())
}

/// Everything questionable in policy files, in the order of the files.
pub fn lint(sources: &[Source], registry: &[Tool]) -> Vec<Finding> {
    with_room(|| lint_here(sources, registry)).unwrap_or_else(|error| vec![compile_error(error)])
}

fn lint_here(sources: &[Source], registry: &[Tool]) -> Vec<Finding> {
    let checked = match check(sources, registry) {
        Ok(checked) => checked,
        Err(errors) => return errors.into_iter().map(compile_error).collect(),
    };
    let Checked { parsed, dead, warnings, errors, .. } = checked;
    let mut findings: Vec<Finding> = errors.into_iter().map(compile_error).collect();
    let mut dead: HashSet<usize> = dead.into_iter().collect();
    let tools: Vec<(EntityUid, Vec<EntityUid>, EntityUid, &Tool)> = registry
        .iter()
        .filter_map(|tool| {
            let (action, resource, entities) = schema::tool_entities(tool).ok()?;
            let actions = entities.iter().map(cedar_policy::Entity::uid);
            let actions = actions.filter(|uid| uid.type_name() == action.type_name()).collect();
            Some((action, actions, resource, tool))
        })
        .collect();
    let mut reaches: Vec<HashSet<&str>> = Vec::with_capacity(parsed.len());
    for (index, one) in parsed.iter().enumerate() {
        let reached: Vec<&Tool> = tools
            .iter()
            .filter(|(action, actions, resource, _)| matches(&one.policy, action, actions, resource))
            .map(|(_, _, _, tool)| *tool)
            .collect();
        if reached.is_empty() || dead.contains(&index) {
            dead.insert(index);
            findings.push(warn(one, "dead-rule", "no registered tool can match this rule".to_owned()));
        }
        examine(one, &reached, &mut findings);
        conditions::examine(one, &reached, registry, &mut findings);
        reaches.push(reached.iter().map(|tool| tool.name.as_str()).collect());
    }
    pairs::examine(&parsed, &reaches, &mut findings);
    // Cedar also finds a contradiction impossible: one mistake, one finding.
    let silent: HashSet<(usize, usize)> =
        findings.iter().filter(|f| f.rule == "never-fires").map(|f| (f.line, f.column)).collect();
    for (index, offset, message) in warnings {
        // Cedar also finds a dead rule impossible: one mistake, one finding.
        if let Some(one) = parsed.get(index).filter(|one| !dead.contains(&index) && !silent.contains(&one.at(0))) {
            let (line, column) = one.at(offset);
            findings.push(Finding { line, column, ..warn(one, "cedar", message) });
        }
    }
    let order = |file: &str| sources.iter().position(|source| source.name == file);
    findings.sort_by(|a, b| {
        let key = |f: &Finding| (order(&f.file), f.line, f.column);
        key(a).cmp(&key(b)).then_with(|| a.rule.cmp(&b.rule))
    });
    findings
}

fn examine(one: &Parsed<'_>, reached: &[&Tool], findings: &mut Vec<Finding>) {
    if one.policy.annotation("id").is_none() {
        findings.push(warn(
            one,
            "missing-id",
            "without @id records name this rule by its line, which moves when the file is edited".to_owned(),
        ));
    }
    // A policy that parsed also has a JSON form; without one there is nothing to look at.
    let Ok(body) = one.policy.to_json() else { return };
    if one.policy.effect() == Effect::Permit {
        let any_action = one.policy.action_constraint() == ActionConstraint::Any;
        let any_resource = one.policy.resource_constraint() == ResourceConstraint::Any;
        if any_action {
            findings.push(warn(
                one,
                "wide-permit",
                "this permit covers every tool, those registered later included; name an action or a group".to_owned(),
            ));
        } else if any_resource && reached.iter().any(|tool| tool.risk.writes()) {
            findings.push(warn(
                one,
                "wide-permit",
                "this permit covers writes on every resource, those configured later included; add `resource is ...` \
                 or `resource == ...`"
                    .to_owned(),
            ));
        }
        if mentions(&body, ".", "effect") {
            findings.push(warn(
                one,
                "late-permit",
                "the effect is measured only after a permit without it let the action be staged; put the limit \
                 into a forbid"
                    .to_owned(),
            ));
        }
    }
    if one.rule.outcome == Some(Ruling::Review) && !mentions(&body, ".", "approved") {
        findings.push(Finding {
            severity: Severity::Error,
            ..warn(
                one,
                "endless-review",
                "an approval never satisfies this review; add `unless { context.approved }`".to_owned(),
            )
        });
    }
    for form in one.rule.obligations.iter().filter_map(Obligation::form) {
        let lacks = |tool: &&&Tool| {
            let built_in = form == DRY_RUN && tool.risk.writes();
            !built_in && !tool.forms.iter().any(|there| there.name == form)
        };
        let without: Vec<&str> = reached.iter().filter(lacks).map(|tool| tool.name.as_str()).collect();
        if !without.is_empty() {
            let message =
                format!("no form `{}` of {}: denied instead of constrained", visible(form), without.join(", "));
            findings.push(warn(one, "missing-form", message));
        }
    }
    let mut words = Vec::new();
    compared(&body, &mut words);
    let (verbs, risks) = schema::words();
    for (attribute, word) in words {
        let known = match attribute {
            "verb" => &verbs,
            "risk" => &risks,
            _ => continue,
        };
        if !known.contains(&word) {
            findings.push(warn(
                one,
                "unknown-word",
                format!("context.{attribute} is never `{}`; it is one of {}", visible(word), known.join(", ")),
            ));
        }
    }
}

fn compile_error(error: PolicyError) -> Finding {
    let message = match error.next {
        Some(next) => format!("{}; {next}", error.message),
        None => error.message,
    };
    Finding {
        file: error.file,
        line: error.line,
        column: error.column,
        severity: Severity::Error,
        rule: "compile".to_owned(),
        message,
        help: help("compile"),
    }
}

fn warn(one: &Parsed<'_>, rule: &str, message: String) -> Finding {
    let (line, column) = one.at(0);
    Finding {
        file: one.source.name.clone(),
        line,
        column,
        severity: Severity::Warning,
        rule: rule.to_owned(),
        message,
        help: help(rule),
    }
}

/// Whether an expression applies `operator` to `context` and `attribute`, in Cedar's JSON form.
fn mentions(value: &Value, operator: &str, attribute: &str) -> bool {
    match value {
        Value::Object(map) => {
            map.get(operator).is_some_and(|inner| context_attribute(inner) == Some(attribute))
                || map.values().any(|inner| mentions(inner, operator, attribute))
        }
        Value::Array(items) => items.iter().any(|inner| mentions(inner, operator, attribute)),
        _ => false,
    }
}

/// The attribute, when `value` is the operand of an access to `context`.
fn context_attribute(value: &Value) -> Option<&str> {
    (value.pointer("/left/Var")?.as_str()? == "context").then(|| value.get("attr")?.as_str()).flatten()
}

/// Literals that context attributes are compared with.
fn compared<'a>(value: &'a Value, found: &mut Vec<(&'a str, &'a str)>) {
    match value {
        Value::Object(map) => {
            for (operator, inner) in map {
                if (operator == "==" || operator == "!=")
                    && let (Some(left), Some(right)) = (inner.get("left"), inner.get("right"))
                {
                    for (access, literal) in [(left, right), (right, left)] {
                        if let (Some(attribute), Some(word)) =
                            (access.get(".").and_then(context_attribute), literal.get("Value").and_then(Value::as_str))
                        {
                            found.push((attribute, word));
                        }
                    }
                }
                compared(inner, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|inner| compared(inner, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{registry, sources};

    fn found(text: &str) -> Vec<(usize, Severity, String)> {
        lint(&sources(text), &registry()).into_iter().map(|f| (f.line, f.severity, f.rule)).collect()
    }

    #[test]
    fn each_lint_finds_its_mistake_and_nothing_else() {
        use Severity::{Error, Warning};
        for (text, expected) in [
            ("@id(\"a\") permit(principal, action in Action::\"read\", resource);", vec![]),
            ("@id(\"a\") permit(principal, action in Action::\"write\", resource is Files);", vec![]),
            ("@id(\"a\")\npermit(principal, action, resource);", vec![(1, Warning, "wide-permit")]),
            (
                "\n@id(\"a\") permit(principal, action in Action::\"write\", resource);",
                vec![(2, Warning, "wide-permit")],
            ),
            ("forbid(principal, action, resource);", vec![(1, Warning, "missing-id")]),
            (
                "@id(\"a\") @outcome(\"review\") forbid(principal, action, resource);",
                vec![(1, Error, "endless-review")],
            ),
            (
                "@id(\"a\") @outcome(\"review\") forbid(principal, action, resource) unless { context.approved };",
                vec![],
            ),
            ("@id(\"a\") @outcome(\"fallback\") forbid(principal, action, resource);", vec![]),
            (
                "@id(\"a\") @outcome(\"constrain\") @form(\"dry_run\") forbid(principal, action in Action::\"write\", resource);",
                vec![],
            ),
            (
                "@id(\"a\") @outcome(\"constrain\") @form(\"dry_run\") forbid(principal, action, resource);",
                vec![(1, Warning, "missing-form")],
            ),
            (
                "@id(\"a\") @outcome(\"constrain\") @form(\"less\") forbid(principal, action in Action::\"write\", resource);",
                vec![(1, Warning, "missing-form")],
            ),
            (
                "@id(\"a\") forbid(principal, action in Action::\"sqlite.query\", resource is Files);",
                vec![(1, Warning, "dead-rule")],
            ),
            ("@id(\"a\") forbid(principal, action, resource == Files::\"nowhere\");", vec![(1, Warning, "dead-rule")]),
            (
                "@id(\"a\") forbid(principal, action, resource) when { context.verb == \"remove\" };",
                vec![(1, Warning, "unknown-word")],
            ),
            (
                "@id(\"a\") permit(principal, action in Action::\"read\", resource) when { context has effect && context.effect.rows < 9 };",
                vec![(1, Warning, "late-permit")],
            ),
            ("@id(\"a\") forbid(principal, akshun, resource);", vec![(1, Error, "compile")]),
            (
                "@id(\"a\") forbid(principal, action, resource) when { context.place == \"x\" && context.place == \"y\" };",
                vec![(1, Warning, "never-fires")],
            ),
            (
                "@id(\"a\") forbid(principal, action, resource) when { context.place == \"x\" } unless { context.place == \"x\" };",
                vec![(1, Warning, "never-fires")],
            ),
            // Either of two is no contradiction, nor is a choice that is denied.
            (
                "@id(\"a\") forbid(principal, action, resource) when { context.place == \"x\" || context.place == \"y\" };",
                vec![],
            ),
            (
                "@id(\"a\") forbid(principal, action, resource) when { context.place == \"x\" } unless { context.place == \"x\" && context.approved };",
                vec![],
            ),
            (
                "@id(\"a\") forbid(principal, action, resource) when { context has effect && context.effect.rows > 5 && context.effect.rows < 6 };",
                vec![(1, Warning, "never-fires")],
            ),
            (
                "@id(\"a\") forbid(principal, action, resource) when { context has effect && context.effect.rows > 5 && context.effect.rows < 7 };",
                vec![],
            ),
            (
                "@id(\"a\") forbid(principal, action, resource) when { context has effect && !(context.effect.rows <= 5) && 5 >= context.effect.rows };",
                vec![(1, Warning, "never-fires")],
            ),
            (
                "@id(\"a\") forbid(principal, action, resource) when { context.environment == \"staging\" };",
                vec![(1, Warning, "never-fires")],
            ),
            (
                "@id(\"a\") forbid(principal, action in Action::\"read\", resource) when { context.risk == \"reversible_write\" };",
                vec![(1, Warning, "never-fires")],
            ),
            (
                "@id(\"a\") forbid(principal == Agent::\"coder\", action, resource) when { principal == Agent::\"other\" };",
                vec![(1, Warning, "never-fires")],
            ),
            (
                "@id(\"a\") permit(principal, action in Action::\"read\", resource);\n@id(\"b\") forbid(principal, action in Action::\"read\", resource);",
                vec![(1, Warning, "shadowed")],
            ),
            // Some of it is left.
            (
                "@id(\"a\") permit(principal, action in Action::\"read\", resource);\n@id(\"b\") forbid(principal, action in Action::\"read\", resource is Files);",
                vec![],
            ),
            (
                "@id(\"a\") permit(principal, action in Action::\"read\", resource);\n@id(\"b\") forbid(principal == Agent::\"x\", action, resource);",
                vec![],
            ),
            (
                "@id(\"a\") forbid(principal, action, resource) when { context.place == \"x\" };\n@id(\"b\")  forbid ( principal, action,resource) when { context.place == \"x\" };",
                vec![(2, Warning, "duplicate")],
            ),
            // What they ask for differs.
            (
                "@id(\"a\") forbid(principal, action, resource) when { context.place == \"x\" };\n@id(\"b\") @outcome(\"fallback\") forbid(principal, action, resource) when { context.place == \"x\" };",
                vec![],
            ),
            (
                "@id(\"a\") permit(principal, action in [Action::\"shop__execute\", Action::\"files.move\"], resource is Files);",
                vec![(1, Warning, "unmatched-action")],
            ),
            (
                "@id(\"a\") forbid(principal, action, resource) when { resource == Sqlite::\"shpo\" };",
                vec![(1, Warning, "unmatched-resource")],
            ),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(l, s, r)| (l, s, r.to_owned())).collect();
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn cedars_own_warnings_are_passed_on() {
        let found =
            found("@id(\"a\") forbid(principal, action, resource) when { resource is Files && resource is Sqlite };");
        assert!(found.iter().any(|(_, _, rule)| rule == "cedar"), "{found:?}");
    }
}
