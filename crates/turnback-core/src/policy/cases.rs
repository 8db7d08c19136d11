//! Golden cases beside a policy: what it must say, kept with what it says.
//!
//! A case file is a JSON array; every field but `name`, `agent`, `tool` and `expect` may be left out:
//!
//! ```json
//! [{"name": "dropping a table is reviewed", "agent": "coder", "tool": "sqlite.execute",
//!   "statement": "drop_table", "approved": false, "expect": "review",
//!   "effect": {"rows": 3, "rows_deleted": 3, "level": 5, "names": ["orders"]}}]
//! ```
//!
//! `account`, `region` and `workflow` say which part of the organisation it is; left out they are absent.
//! `tool` is a registered tool, or `kind.local` for whichever tool of that name is registered. Only
//! the authorization gate is asked; limits, freezes and modes are not policy.

use serde::{Deserialize, Serialize};

use super::source::position;
use super::{Policy, PolicyError, schema};
use crate::contract::{Actor, Assignment, Contract, Statement, Target};
use crate::decision::Ruling;
use crate::digest::{EffectDigest, Sha256};
use crate::effect::{Blast, Effect, Rows, Touch};
use crate::gates::autonomy::{Ceilings, Levels};
use crate::gates::blast_radius::Limits;
use crate::gates::controls::Controls;
use crate::gates::ownership::Agent;
use crate::gates::recoverability::Floor;
use crate::gates::release::Mode;
use crate::gates::{Facts, Measured};
use crate::names::AgentName;
use crate::rollback::{Completeness, Footprint, Level, RollbackPlan};
use crate::tool::Tool;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    agent: AgentName,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    on_behalf_of: Option<String>,
    tool: String,
    #[serde(default)]
    account: Option<String>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    workflow: Option<String>,
    #[serde(default)]
    place: String,
    #[serde(default)]
    statement: String,
    #[serde(default)]
    confidence: Option<f64>,
    #[serde(default)]
    approved: bool,
    #[serde(default)]
    effect: Option<CaseEffect>,
    expect: Ruling,
    /// The rules that must be named, when the case says.
    #[serde(default)]
    rules: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseEffect {
    #[serde(default)]
    rows: u64,
    #[serde(default)]
    rows_deleted: u64,
    #[serde(default)]
    files: u64,
    #[serde(default)]
    files_deleted: u64,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    schema_objects: u64,
    /// Level 5 unless said otherwise.
    #[serde(default = "proved")]
    level: u8,
    /// Places touched.
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    unlisted: u64,
}

const fn proved() -> u8 {
    Level::Proved.number()
}

/// How a case came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Came {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// No tool of that `kind.local` is registered.
    Skipped,
}

/// One case and what the policy said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// How it came out.
    pub came: Came,
    /// What was expected.
    pub expected: Ruling,
    /// What the policy said; `None` when it could not be asked.
    pub said: Option<Ruling>,
    /// Why, in the policy's words, or why it could not be asked.
    pub reason: String,
    /// The rules it rests on.
    pub rules: Vec<String>,
}

/// Runs the cases in `text` against a policy and the tools it was compiled for.
///
/// # Errors
/// A [`PolicyError`] with line and column (its `file` is `cases`) when the file is not strict JSON of
/// the shape above.
pub fn run_cases(policy: &Policy, registry: &[Tool], text: &str) -> Result<Vec<CaseResult>, PolicyError> {
    let error = |line, column, message| PolicyError { file: "cases".to_owned(), line, column, message, next: None };
    crate::json::parse(text.as_bytes()).map_err(|e| {
        let (line, column) = position(text, e.offset);
        error(line, column, e.to_string())
    })?;
    let cases: Vec<Case> = serde_json::from_str(text).map_err(|e| error(e.line(), e.column(), e.to_string()))?;
    Ok(cases.into_iter().map(|case| run(policy, registry, case)).collect())
}

fn run(policy: &Policy, registry: &[Tool], case: Case) -> CaseResult {
    let mut result = CaseResult {
        name: case.name.clone(),
        came: Came::Failed,
        expected: case.expect,
        said: None,
        reason: String::new(),
        rules: Vec::new(),
    };
    let tool = registry.iter().find(|t| t.name.as_str() == case.tool || schema::local_group(t) == case.tool);
    let Some(tool) = tool else {
        // A whole kind of tool may be absent from this configuration; a misspelt name may not.
        if case.tool.contains('.') {
            result.came = Came::Skipped;
        }
        result.reason = format!("no tool `{}` is registered", case.tool);
        return result;
    };
    let measured = match case.effect.as_ref().map(|effect| measured(effect, tool)).transpose() {
        Ok(measured) => measured,
        Err(why) => {
            result.reason = why;
            return result;
        }
    };
    let target = Target { identity: "case".to_owned(), place: case.place.clone(), statement: case.statement.clone() };
    let statement = Statement { confidence: case.confidence, ..Statement::default() };
    let parsed =
        Contract::parse(tool, Actor::Agent(case.agent.clone()), case.on_behalf_of, b"{}", Some(statement), |_, _| {
            Ok(target)
        });
    let mut contract = match parsed {
        Ok(contract) => contract,
        Err(refusal) => {
            result.reason = refusal.to_string();
            return result;
        }
    };
    contract.assignment = Assignment { account: case.account, region: case.region, workflow: case.workflow };
    let agent = Agent {
        name: case.agent,
        owner: case.owner.unwrap_or_else(|| "somebody".to_owned()),
        suspended: None,
        grants: Vec::new(),
        levels: Levels::default(),
    };
    let verdict = policy.judge(&Facts {
        contract: &contract,
        now: jiff::Timestamp::UNIX_EPOCH,
        wall: None,
        agent: Some(&agent),
        controls: &Controls::default(),
        mode: Mode::Enforce,
        flags: None,
        ceilings: &Ceilings::default(),
        policy,
        limits: &Limits::default(),
        spent: &[],
        irreversible: 0,
        excepted: &[],
        grants_required: false,
        floor: &Floor::default(),
        approved: case.approved,
        flow: None,
        evidence: None,
        collision: None,
        forms: &[],
        plan: None,
        measured: measured.as_ref().map(|(effect, plan)| Measured { effect, plan }),
    });
    if verdict.ruling == case.expect && case.rules.is_none_or(|rules| rules == verdict.rules) {
        result.came = Came::Passed;
    }
    CaseResult { said: Some(verdict.ruling), reason: verdict.reason, rules: verdict.rules, ..result }
}

fn measured(case: &CaseEffect, tool: &Tool) -> Result<(Effect, RollbackPlan), String> {
    let level = Level::from_number(case.level)
        .ok_or_else(|| format!("effect.level {} is not a level: use 0, 2, 3, 4 or 5", case.level))?;
    let updated = case.rows.checked_sub(case.rows_deleted).ok_or("effect.rows counts deleted rows too")?;
    let files_changed = case.files.checked_sub(case.files_deleted).ok_or("effect.files counts deleted files too")?;
    let mut blast = Blast {
        schema_objects: case.schema_objects,
        files_changed,
        files_deleted: case.files_deleted,
        bytes: case.bytes,
        ..Blast::default()
    };
    if case.rows > 0 {
        let table = case.names.first().cloned().unwrap_or_else(|| "table".to_owned());
        blast.rows.insert(table, Rows { inserted: 0, updated, deleted: case.rows_deleted });
    }
    let digest = EffectDigest(Sha256::of(b"case"));
    let effect = Effect {
        summary: "does what the case says".to_owned(),
        blast,
        digest,
        places: digest,
        volatile: false,
        reply: serde_json::Value::Null,
    };
    let place = |name: &String| Touch { place: name.clone(), fields: Vec::new(), before: None, after: None };
    let footprint = Footprint {
        resource: tool.resource.clone(),
        completeness: Completeness::Closed,
        places: case.names.iter().map(place).collect(),
        more: case.unlisted,
    };
    Ok((effect, RollbackPlan::new(level, "the case says so", footprint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{policy, registry, tool};
    use crate::policy::Source;
    use crate::policy::lint::lint;
    use crate::tool::{Kind, Risk, Verb};

    #[test]
    fn a_case_fails_when_the_policy_says_otherwise() {
        let policy = policy("@id(\"r\") permit(principal, action in Action::\"read\", resource);");
        let text = r#"[
            {"name": "ok", "agent": "coder", "tool": "shop__query", "expect": "allow", "rules": ["r"]},
            {"name": "wrong", "agent": "coder", "tool": "sqlite.execute", "expect": "allow"},
            {"name": "other rule", "agent": "coder", "tool": "shop__query", "expect": "allow", "rules": ["x"]},
            {"name": "absent", "agent": "coder", "tool": "files.search", "expect": "allow"},
            {"name": "misspelt", "agent": "coder", "tool": "shop__qwery", "expect": "deny"},
            {"name": "level", "agent": "coder", "tool": "shop__execute", "expect": "deny", "effect": {"level": 1}}
        ]"#;
        let came: Vec<_> = run_cases(&policy, &registry(), text).unwrap().iter().map(|r| r.came).collect();
        use Came::{Failed, Passed, Skipped};
        assert_eq!(came, [Passed, Failed, Failed, Skipped, Failed, Failed]);
    }

    #[test]
    fn a_case_says_which_part_of_the_organisation_it_is() {
        for what in ["account", "region", "workflow"] {
            let policy = policy(&format!(
                "@id(\"all\") permit(principal, action in Action::\"read\", resource);\n\
                 @id(\"other\") forbid(principal, action, resource) unless {{ context has {what} && context.{what} == \"a\" }};"
            ));
            let text = format!(
                r#"[{{"name": "a", "agent": "coder", "tool": "shop__query", "{what}": "a", "expect": "allow"}},
                    {{"name": "b", "agent": "coder", "tool": "shop__query", "{what}": "b", "expect": "deny", "rules": ["other"]}},
                    {{"name": "none", "agent": "coder", "tool": "shop__query", "expect": "deny"}}]"#
            );
            let came = run_cases(&policy, &registry(), &text).unwrap();
            assert!(came.iter().all(|result| result.came == Came::Passed), "{came:?}");
        }
    }

    #[test]
    fn a_malformed_case_file_is_refused_with_its_place() {
        let policy = policy("");
        let refused = |text: &str| run_cases(&policy, &registry(), text).unwrap_err();
        assert_eq!(refused("[\n {\"name\": \"a\", \"name\": \"b\"}]").line, 2);
        assert!(refused(r#"[{"name":"a","agent":"c","tool":"t","expects":"allow"}]"#).message.contains("expects"));
        assert!(refused(r#"[{"name":"a","agent":"c","tool":"t","expect":"maybe"}]"#).message.contains("maybe"));
    }

    /// The starting policy against tools like those the two domains offer.
    #[test]
    fn the_starting_policy_does_what_its_cases_say() {
        let file = |local: &str, verb, risk| tool(Kind::Files, "work", local, verb, risk);
        let base = |local: &str, verb, risk| tool(Kind::Sqlite, "shop", local, verb, risk);
        let tools = vec![
            file("read_file", Verb::Read, Risk::ScopedRead),
            file("write_file", Verb::Update, Risk::ReversibleWrite),
            file("move", Verb::Update, Risk::ReversibleWrite),
            file("delete", Verb::Delete, Risk::ReversibleWrite),
            file("set_permissions", Verb::Administer, Risk::AdminAction),
            base("query", Verb::Read, Risk::ScopedRead),
            base("execute", Verb::Update, Risk::ReversibleWrite),
        ];
        let text = include_str!("../../../../policies/starter.cedar");
        let starter = vec![Source { name: "starter.cedar".into(), text: text.into() }];
        let cases = include_str!("../../../../policies/starter.cases.json");
        assert_eq!(lint(&starter, &tools), []);
        let policy = Policy::compile(&starter, &tools).unwrap();
        let results = run_cases(&policy, &tools, cases).unwrap();
        assert!(results.len() >= 15);
        for result in &results {
            assert_eq!(result.came, Came::Passed, "{result:?}");
        }
        // It also loads where only one kind of resource is configured, or none yet.
        for some in [&tools[..5], &tools[5..], &[]] {
            Policy::compile(&starter, some).unwrap();
        }
        // Every rule decides at least one case: a rule nobody tests is a rule nobody knows.
        for rule in text.lines().filter_map(|line| line.strip_prefix("@id(\"")?.split('"').next()) {
            assert!(results.iter().any(|r| r.rules.iter().any(|name| name == rule)), "no case for `{rule}`");
        }
    }
}
