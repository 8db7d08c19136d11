//! One whole decision, both phases and every gate, without I/O, at 10, 100 and 1,000 policies spread
//! over 30 tools. The figure to watch: it must not grow with the number of policies, only with those
//! whose scope can match the one tool asked about.
//!
//! Two spreads are measured. `scoped`: each policy names one tool, so a tool's slice holds a thirtieth
//! of them. `few_for_this_tool`: as before, but always ten for the tool asked about.

use divan::Bencher;
use divan::counter::ItemsCount;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use turnback_core::contract::{Actor, Contract, Target};
use turnback_core::decision::{Phase, Ruling};
use turnback_core::digest::{EffectDigest, Sha256};
use turnback_core::effect::{Blast, Effect, Rows, Touch};
use turnback_core::gates::blast_radius::{Budget, Limits, Spent};
use turnback_core::gates::controls::Controls;
use turnback_core::gates::ownership::Agent;
use turnback_core::gates::recoverability::Floor;
use turnback_core::gates::release::Mode;
use turnback_core::gates::{Facts, Measured, decide};
use turnback_core::names::{AgentName, EnvironmentName, ResourceName};
use turnback_core::policy::{Policy, Source};
use turnback_core::rollback::{Bearer, Completeness, Footprint, Level, RollbackPlan};
use turnback_core::tool::{Kind, Match, Risk, Tool, ToolSpec, Verb};

type Failed = Box<dyn std::error::Error>;

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [10, 100, 1000];

/// Ten tools on each of three databases.
fn tools() -> Result<Vec<Tool>, Failed> {
    const NAMES: [&str; 10] =
        ["execute", "insert", "update", "delete", "vacuum", "alter", "create", "drop", "index", "analyze"];
    let environment = EnvironmentName::new("production")?;
    let mut tools = Vec::new();
    for database in ["shop", "crm", "ledger"] {
        let resource = ResourceName::new(database)?;
        for name in NAMES {
            let spec =
                ToolSpec { name, description: "", verb: Verb::Update, risk: Risk::ReversibleWrite, schema: json!({}) };
            tools.push(Tool::bind(&spec, &resource, Kind::Sqlite, &environment, Match::Exact, Bearer::Operator)?);
        }
    }
    Ok(tools)
}

/// A permit, a limit and a review in turn: what a real policy is made of.
fn rule(i: usize, tool: &Tool) -> String {
    let scope = format!("(principal, action == Action::\"{}\", resource)", tool.name);
    match i % 3 {
        0 => format!("@id(\"p{i}\") permit{scope} when {{ principal.owner == \"anna\" }};\n"),
        1 => format!(
            "@id(\"p{i}\") forbid{scope} when {{ context has effect && context.effect.rows > {} }};\n",
            1000 + i
        ),
        _ => format!(
            "@id(\"p{i}\") @outcome(\"review\") forbid{scope} when {{ context.statement like \"drop*\" }} unless {{ context.approved }};\n"
        ),
    }
}

fn policy(tools: &[Tool], target: impl Fn(usize) -> usize, count: usize) -> Result<Policy, Failed> {
    let mut text = String::from("@id(\"base\") permit(principal, action in Action::\"write\", resource is Sqlite);\n");
    for i in 1..count {
        if let Some(tool) = tools.get(target(i) % tools.len()) {
            text.push_str(&rule(i, tool));
        }
    }
    let sources = [Source { name: "bench.cedar".to_owned(), text }];
    Policy::compile(&sources, tools).map_err(|errors| format!("{errors:?}").into())
}

fn measure(bencher: Bencher<'_, '_>, target: impl Fn(usize) -> usize, count: usize) -> Result<(), Failed> {
    let tools = tools()?;
    let policy = policy(&tools, target, count)?;
    let Some(tool) = tools.first() else { return Err("no tool".into()) };
    let agent = Agent { name: AgentName::new("coder")?, owner: "anna".to_owned(), suspended: None };
    let aim = Target { identity: "id".to_owned(), place: "update".to_owned(), statement: "update".to_owned() };
    let contract =
        Contract::parse(tool, Actor::Agent(agent.name.clone()), None, br#"{"sql":"update"}"#, None, |_, _| Ok(aim))?;
    let digest = EffectDigest(Sha256::of(b"effect"));
    let touch = |i| Touch { place: format!("customers {i}"), fields: Vec::new(), before: None, after: None };
    let effect = Effect {
        summary: "updates 3 rows of `customers`".to_owned(),
        blast: Blast {
            rows: [("customers".to_owned(), Rows { updated: 3, ..Rows::default() })].into(),
            ..Blast::default()
        },
        digest,
        places: digest,
        volatile: false,
        reply: json!({}),
    };
    let footprint = Footprint {
        resource: tool.resource.clone(),
        completeness: Completeness::Closed,
        places: (0..3).map(touch).collect(),
        more: 0,
    };
    let plan = RollbackPlan::new(Level::Proved, "the inverse ran", footprint);
    let budget = Budget { window: SignedDuration::from_hours(1), actions: Some(100), deletions: Some(100), rows: None };
    let limits = Limits { rows: Some(1000), budget: Some(budget), ..Limits::default() };
    let (controls, floor) = (Controls::default(), Floor::default());
    let facts = |measured| Facts {
        contract: &contract,
        now: Timestamp::UNIX_EPOCH,
        wall: None,
        agent: Some(&agent),
        controls: &controls,
        mode: Mode::Enforce,
        policy: &policy,
        limits: &limits,
        spent: Spent::default(),
        floor: &floor,
        approved: false,
        measured,
    };
    let whole = || {
        let before = decide(Phase::Before, &facts(None));
        let after = decide(Phase::After, &facts(Some(Measured { effect: &effect, plan: &plan })));
        (before, after)
    };
    // A benchmark of refusals would be a benchmark of nothing.
    let (before, after) = whole();
    if (before.ruling, after.ruling) != (Ruling::Allow, Ruling::Allow) {
        return Err(format!("not allowed: {before:?} {after:?}").into());
    }
    bencher.counter(ItemsCount::new(1u32)).bench(whole);
    Ok(())
}

fn or_stop(result: Result<(), Failed>) {
    if let Err(error) = result {
        eprintln!("the benchmark could not be set up: {error}");
        std::process::exit(1);
    }
}

#[divan::bench(args = SIZES)]
fn scoped(bencher: Bencher<'_, '_>, policies: usize) {
    or_stop(measure(bencher, |i| i, policies));
}

#[divan::bench(args = SIZES)]
fn few_for_this_tool(bencher: Bencher<'_, '_>, policies: usize) {
    or_stop(measure(bencher, |i| if i < 10 { 0 } else { 1 + i % 29 }, policies));
}
