//! A rule and its golden case made from a run that should not have been.
//!
//! The rule catches the run's shape – agent, tool, environment, class of statement, size – and not the one
//! request. What is drafted was tried before it is handed out: it loads, lints as before, its case passes, and
//! without it the case fails.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::cases::{Came, CaseResult, run_cases};
use super::lint::lint;
use super::{Policy, PolicyError, Source};
use crate::contract::Contract;
use crate::decision::Ruling;
use crate::effect::Effect;
use crate::refusal::{Code, Refusal};
use crate::rollback::RollbackPlan;
use crate::tool::{Kind, Tool};

/// What a rule is drafted from.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// The action.
    pub contract: &'a Contract,
    /// Its agent's owner.
    pub owner: Option<&'a str>,
    /// What staging measured, when it came that far.
    pub measured: Option<(&'a Effect, &'a RollbackPlan)>,
    /// What the rule is for: one sentence for whoever is refused by it.
    pub reason: &'a str,
    /// The rule's `@id`.
    pub id: &'a str,
    /// [`Ruling::Deny`] or [`Ruling::Review`].
    pub outcome: Ruling,
}

/// A rule and its case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// The rule's `@id`.
    pub id: String,
    /// The Cedar file.
    pub cedar: String,
    /// The case file beside it.
    pub cases: String,
}

/// Most places a case names; the rest is counted.
const NAMES: usize = 20;

/// Drafts a rule and its case, beside the policy there is.
///
/// # Errors
/// When the policy does not load, when the run was nobody's but a person's, or when beside the present rules
/// the new one would decide nothing: what it should ask about is denied already.
pub fn draft(shape: &Shape<'_>, sources: &[Source], registry: &[Tool]) -> Result<Draft, Refusal> {
    let Some(agent) = shape.contract.actor.agent() else {
        return Err(Refusal::new(Code::BadInput, "policy governs agents, and this run was a person's")
            .next("name a run an agent proposed"));
    };
    if !registry.iter().any(|tool| tool.name == shape.contract.tool) {
        return Err(
            Refusal::new(Code::NotFound, "its tool is not registered any more").at(shape.contract.tool.as_str())
        );
    }
    let broken = |errors: Vec<PolicyError>| match errors.into_iter().next() {
        Some(e) => Refusal::new(Code::BadInput, e.message).at(format!("{}:{}:{}", e.file, e.line, e.column)),
        None => Refusal::new(Code::BadInput, "the policy does not load"),
    };
    let present = Policy::compile(sources, registry).map_err(broken)?;
    if present.place(shape.id).is_some() {
        return Err(Refusal::new(Code::Exists, format!("a rule is called `{}` already", shape.id))
            .next("look at it, or name this one with --id"));
    }
    let cedar = rule(shape, agent.as_str());
    let added = Source { name: format!("{}.cedar", shape.id), text: cedar.clone() };
    let with: Vec<Source> = sources.iter().cloned().chain([added.clone()]).collect();
    let policy = Policy::compile(&with, registry).map_err(broken)?;
    let mine = |findings: Vec<super::lint::Finding>| findings.into_iter().find(|finding| finding.file == added.name);
    if let Some(finding) = mine(lint(&with, registry)) {
        return Err(Refusal::new(Code::BadInput, format!("the rule would be questionable: {}", finding.message))
            .next("write it by hand"));
    }

    // Other rules may speak too; asked once, the policy itself says which.
    let mut case = case(shape, agent.as_str());
    let asked = ask(&policy, registry, &case)?;
    if asked.said != Some(shape.outcome) || !asked.rules.iter().any(|rule| rule == shape.id) {
        let said = asked.said.map_or("nothing", Ruling::word);
        return Err(Refusal::new(
            Code::Exists,
            format!("beside the present rules it would decide nothing: they say {said}: {}", asked.reason),
        )
        .next(match shape.outcome {
            Ruling::Review => "draft a rule that denies: --outcome deny",
            _ => "nothing is needed",
        }));
    }
    case.insert("rules".to_owned(), json!(asked.rules));
    if ask(&policy, registry, &case)?.came != Came::Passed || ask(&present, registry, &case)?.came != Came::Failed {
        return Err(Refusal::new(Code::Failed, "the case does not tell whether the rule is there")
            .next("report it with the output of `turnback show`"));
    }
    let cases = format!("[\n  {}\n]\n", Value::Object(case));
    Ok(Draft { id: shape.id.to_owned(), cedar, cases })
}

fn ask(policy: &Policy, registry: &[Tool], case: &Map<String, Value>) -> Result<CaseResult, Refusal> {
    let failed = |why: String| Refusal::new(Code::Failed, why);
    let text = json!([case]).to_string();
    let results = run_cases(policy, registry, &text).map_err(|e| failed(e.to_string()))?;
    let result = results.into_iter().next().ok_or_else(|| failed("no case was run".to_owned()))?;
    match result.said {
        Some(_) => Ok(result),
        None => Err(failed(result.reason)),
    }
}

/// A Cedar string literal.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}

fn rule(shape: &Shape<'_>, agent: &str) -> String {
    let contract = shape.contract;
    let mut when = vec![format!("context.environment == {}", quoted(contract.environment.as_str()))];
    if !contract.target.statement.is_empty() {
        when.push(format!("context.statement == {}", quoted(&contract.target.statement)));
    }
    match shape.measured.and_then(|(effect, _)| size(effect)) {
        Some((field, least)) => {
            when.push("context has effect".to_owned());
            when.push(format!("context.effect.{field} >= {least}"));
        }
        // Nothing tells it from a smaller one but where it was aimed.
        None => when.push(format!("context.folded_place == {}", quoted(&crate::text::folded(&contract.target.place)))),
    }
    let review = shape.outcome == Ruling::Review;
    let outcome = if review { "@outcome(\"review\")\n" } else { "" };
    let unless = if review { "\nunless { context.approved }" } else { "" };
    format!(
        "@id({})\n{outcome}@reason({})\nforbid (\n  principal == Agent::{},\n  action == Action::{},\n  \
         resource == {}::{}\n)\nwhen {{\n  {}\n}}{unless};\n",
        quoted(shape.id),
        quoted(shape.reason),
        quoted(agent),
        quoted(contract.tool.as_str()),
        contract.kind.entity_type(),
        quoted(contract.resource.as_str()),
        when.join(" &&\n  ")
    )
}

/// The number that says best how large it was.
fn size(effect: &Effect) -> Option<(&'static str, u64)> {
    let blast = &effect.blast;
    [
        ("schema_objects", blast.schema_objects),
        ("deletions", blast.deletions()),
        ("rows", blast.rows_total()),
        ("files", blast.files_total()),
    ]
    .into_iter()
    .find(|(_, size)| *size > 0)
    // Cedar counts to 2^63-1, and so does the fact it is compared with.
    .map(|(field, size)| (field, size.min(i64::MAX.unsigned_abs())))
}

fn case(shape: &Shape<'_>, agent: &str) -> Map<String, Value> {
    let contract = shape.contract;
    let mut case = Map::new();
    let mut set = |key: &str, value: Value| drop(case.insert(key.to_owned(), value));
    set("name", json!(format!("{}: {}", shape.id, shape.reason)));
    set("agent", json!(agent));
    if let Some(owner) = shape.owner {
        set("owner", json!(owner));
    }
    if let Some(user) = &contract.on_behalf_of {
        set("on_behalf_of", json!(user));
    }
    set("tool", json!(contract.tool));
    let assignment = &contract.assignment;
    for (key, value) in
        [("account", &assignment.account), ("region", &assignment.region), ("workflow", &assignment.workflow)]
    {
        if let Some(value) = value {
            set(key, json!(value));
        }
    }
    if !contract.target.place.is_empty() {
        set("place", json!(contract.target.place));
    }
    if !contract.target.statement.is_empty() {
        set("statement", json!(contract.target.statement));
    }
    if let Some(confidence) = contract.statement.confidence {
        set("confidence", json!(confidence));
    }
    set("expect", json!(shape.outcome));
    if let Some((effect, plan)) = shape.measured {
        let blast = &effect.blast;
        // A case counts the rows of one table: the first name there is.
        let mut names: Vec<&str> = match contract.kind {
            Kind::Sqlite => blast.rows.keys().map(String::as_str).collect(),
            Kind::Files => Vec::new(),
        };
        names.extend(plan.footprint.places.iter().map(|touch| touch.place.as_str()));
        let unlisted = plan.footprint.more.saturating_add(names.len().saturating_sub(NAMES) as u64);
        names.truncate(NAMES);
        set(
            "effect",
            json!({
                "rows": blast.rows_total(), "rows_deleted": blast.rows_deleted(), "files": blast.files_total(),
                "files_deleted": blast.files_deleted, "bytes": blast.bytes, "schema_objects": blast.schema_objects,
                "level": plan.level().number(), "names": names, "unlisted": unlisted,
            }),
        );
    }
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{blast, contract, measurement, registered, registry, sources};

    const ALL: &str = "@id(\"all\") permit(principal, action in Action::\"write\", resource is Sqlite);\n";

    fn drafted(outcome: Ruling, present: &str, measured: bool) -> Result<Draft, Refusal> {
        let contract = contract(&registered("shop__execute"), "delete", "delete");
        let found = measurement(blast(40), "x");
        let shape = Shape {
            contract: &contract,
            owner: Some("anna"),
            measured: measured.then_some((&found.effect, &found.plan)),
            reason: "it emptied a \"table\"\nonce",
            id: "from-r_00000001",
            outcome,
        };
        draft(&shape, &sources(present), &registry())
    }

    #[test]
    fn the_rule_catches_the_shape_and_the_case_needs_the_rule() {
        for outcome in [Ruling::Deny, Ruling::Review] {
            for measured in [true, false] {
                let draft = drafted(outcome, ALL, measured).unwrap();
                let mut with = sources(ALL);
                with.push(Source { name: "from.cedar".into(), text: draft.cedar.clone() });
                assert!(lint(&with, &registry()).is_empty());
                let came = |sources: &[Source], text: &str| {
                    let policy = Policy::compile(sources, &registry()).unwrap();
                    run_cases(&policy, &registry(), text).unwrap().remove(0).came
                };
                assert_eq!(came(&with, &draft.cases), Came::Passed, "{}", draft.cedar);
                assert_eq!(came(&sources(ALL), &draft.cases), Came::Failed);
                if measured {
                    // One row fewer, another agent, and another statement are not that shape.
                    for (from, to) in [
                        ("\"rows\":40,\"rows_deleted\":40", "\"rows\":39,\"rows_deleted\":39"),
                        ("\"agent\":\"coder\"", "\"agent\":\"other\""),
                        ("\"statement\":\"delete\"", "\"statement\":\"update\""),
                    ] {
                        let other = draft.cases.replace(from, to);
                        assert_ne!(other, draft.cases);
                        assert_eq!(came(&with, &other), Came::Failed, "{to}: {}", draft.cedar);
                    }
                }
            }
        }
    }

    #[test]
    fn a_rule_that_would_decide_nothing_is_not_written() {
        // Denied already: a review beneath a deny never speaks.
        let refused = drafted(Ruling::Review, "", true).unwrap_err();
        assert_eq!(refused.code, Code::Exists);
        assert!(refused.next.unwrap().contains("--outcome deny"));
        // A deny beside a deny still speaks, and its case still needs it.
        drafted(Ruling::Deny, "", true).unwrap();
        let taken = format!("{ALL}@id(\"from-r_00000001\") forbid(principal, action, resource is Files);");
        assert!(drafted(Ruling::Deny, &taken, true).unwrap_err().message.contains("already"));
    }
}
