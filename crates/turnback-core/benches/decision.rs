//! One whole decision, both phases and every gate, without I/O, at 10, 100 and 1,000 policies spread
//! over 30 tools. The figure to watch: it must not grow with the number of policies, only with those
//! whose scope can match the one tool asked about.
//!
//! Two spreads are measured. `scoped`: each policy names one tool, so a tool's slice holds a thirtieth
//! of them. `few_for_this_tool`: as before, but always ten for the tool asked about. A third, `with_one_for_cedar`,
//! is `scoped` with one rule that only Cedar can evaluate, which leaves the tool's whole slice to it.
//!
//! Every call differs from the one before in agent, place, statement, rows, touched places and budget, so that
//! nothing can be fast by remembering.

use std::sync::atomic::{AtomicUsize, Ordering};

use divan::Bencher;
use divan::counter::ItemsCount;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use turnback_core::contract::{Actor, Contract, Target};
use turnback_core::decision::{Phase, Ruling};
use turnback_core::digest::{EffectDigest, Sha256};
use turnback_core::effect::{Blast, Effect, Rows, Touch};
use turnback_core::flags::Flags;
use turnback_core::gates::autonomy::{Ceilings, Levels};
use turnback_core::gates::blast_radius::{Budget, Caps, Limits, Per, Spent};
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

/// How many different calls take turns.
const CALLS: usize = 630;

const SIZES: [usize; 3] = [10, 100, 1000];

/// Two hundred flags, of which three concern each call: one for everything with a share, one for the environment, one
/// for the tool. None of them tightens.
fn flags(tools: &[Tool]) -> Result<Flags, Failed> {
    let variants = json!({ "all": "autonomous", "some": "approved_external" });
    let plain = json!({ "state": "ENABLED", "variants": variants, "defaultVariant": "all" });
    let mut flags = serde_json::Map::new();
    let shared = json!({ "if": [{ "in": [{ "var": "agent" }, ["other", "nobody"]] }, "some",
        { "fractional": [["all", 70], ["some", 30]] }] });
    flags.insert("release".into(), json!({ "state": "ENABLED", "variants": variants, "targeting": shared }));
    flags.insert("release.environment.production".into(), plain.clone());
    for tool in tools {
        flags.insert(format!("release.tool.{}", tool.name), plain.clone());
    }
    for n in flags.len()..200 {
        flags.insert(format!("release.agent.somebody-{n}"), plain.clone());
    }
    let text = json!({ "flags": flags }).to_string();
    Flags::read(&text, tools).map_err(|errors| errors.iter().map(ToString::to_string).collect::<String>().into())
}

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

fn policy(tools: &[Tool], target: impl Fn(usize) -> usize, count: usize, base: &str) -> Result<Policy, Failed> {
    let mut text = format!("@id(\"base\") permit(principal, action in Action::\"write\", resource is Sqlite){base};\n");
    for i in 1..count {
        if let Some(tool) = tools.get(target(i) % tools.len()) {
            text.push_str(&rule(i, tool));
        }
    }
    let sources = [Source { name: "bench.cedar".to_owned(), text }];
    Policy::compile(&sources, tools).map_err(|errors| format!("{errors:?}").into())
}

/// What the facts of one call are made of; no two neighbouring calls share it.
struct Call {
    agent: Agent,
    contract: Contract,
    effect: Effect,
    plan: RollbackPlan,
    spent: Vec<Spent>,
}

/// Calls that differ in agent, place, statement, rows, touched places and spent budget.
fn calls(tool: &Tool) -> Result<Vec<Call>, Failed> {
    const TABLES: [&str; 5] = ["customers", "orders", "items", "invoices", "sessions"];
    let mut calls = Vec::new();
    for n in 0..CALLS {
        let table = TABLES.get(n % TABLES.len()).copied().unwrap_or_default();
        let agent = Agent {
            name: AgentName::new(&format!("coder-{}", n % 7))?,
            owner: "anna".to_owned(),
            suspended: None,
            grants: Vec::new(),
            levels: Levels::default(),
        };
        let statement = if n % 2 == 0 { "update" } else { "delete" };
        let aim = Target {
            identity: "id".to_owned(),
            place: format!("{statement} {table}"),
            statement: statement.to_owned(),
        };
        let text = format!(r#"{{"sql":"{statement} {table} {n}"}}"#);
        let contract =
            Contract::parse(tool, Actor::Agent(agent.name.clone()), None, text.as_bytes(), None, |_, _| Ok(aim))?;
        let digest = EffectDigest(Sha256::of(text.as_bytes()));
        let rows = n as u64 % 9 + 1;
        let touch = |i| Touch { place: format!("{table} {i}"), fields: Vec::new(), before: None, after: None };
        let effect = Effect {
            summary: format!("updates {rows} rows of `{table}`"),
            blast: Blast {
                rows: [(table.to_owned(), Rows { updated: rows, ..Rows::default() })].into(),
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
            places: (0..rows).map(touch).collect(),
            more: 0,
        };
        let plan = RollbackPlan::new(Level::Proved, "the inverse ran", footprint);
        let spent = vec![Spent { actions: n as u64 % 50, rows: n as u64, ..Spent::default() }];
        calls.push(Call { agent, contract, effect, plan, spent });
    }
    Ok(calls)
}

fn measure(bencher: Bencher<'_, '_>, target: impl Fn(usize) -> usize, count: usize, base: &str) -> Result<(), Failed> {
    let tools = tools()?;
    let policy = policy(&tools, target, count, base)?;
    let Some(tool) = tools.first() else { return Err("no tool".into()) };
    let calls = calls(tool)?;
    let most = Caps { deletions: Some(100), ..Caps::default() };
    let budget = Budget { per: Per::Agent, window: SignedDuration::from_hours(1), actions: Some(100), most };
    let action = Caps { rows: Some(1000), ..Caps::default() };
    let limits = Limits { action, budgets: vec![budget], ..Limits::default() };
    let (controls, floor, ceilings) = (Controls::default(), Floor::default(), Ceilings::default());
    let flags = flags(&tools)?;
    let whole = |call: &Call| {
        let flagged = flags.about(&call.contract, Some(&call.agent), Timestamp::UNIX_EPOCH);
        let facts = |measured| Facts {
            contract: &call.contract,
            now: Timestamp::UNIX_EPOCH,
            wall: None,
            agent: Some(&call.agent),
            controls: &controls,
            mode: Mode::Enforce,
            flags: Some(&flagged),
            ceilings: &ceilings,
            policy: &policy,
            limits: &limits,
            spent: &call.spent,
            irreversible: 0,
            excepted: &[],
            grants_required: false,
            floor: &floor,
            approved: false,
            flow: None,
            evidence: None,
            collision: None,
            forms: &[],
            plan: None,
            measured,
        };
        let before = decide(Phase::Before, &facts(None));
        let after = decide(Phase::After, &facts(Some(Measured { effect: &call.effect, plan: &call.plan })));
        (before, after)
    };
    // A benchmark of refusals would be a benchmark of nothing.
    for call in &calls {
        let (before, after) = whole(call);
        if (before.ruling, after.ruling) != (Ruling::Allow, Ruling::Allow) {
            return Err(format!("not allowed: {before:?} {after:?}").into());
        }
    }
    let next = AtomicUsize::new(0);
    let inputs = || calls.get(next.fetch_add(1, Ordering::Relaxed) % calls.len());
    bencher.counter(ItemsCount::new(1u32)).with_inputs(inputs).bench_values(|call| call.map(whole));
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
    or_stop(measure(bencher, |i| i, policies, ""));
}

#[divan::bench(args = SIZES)]
fn few_for_this_tool(bencher: Bencher<'_, '_>, policies: usize) {
    or_stop(measure(bencher, |i| if i < 10 { 0 } else { 1 + i % 29 }, policies, ""));
}

#[divan::bench(args = SIZES)]
fn with_one_for_cedar(bencher: Bencher<'_, '_>, policies: usize) {
    let base = " when { decimal(\"1.0\").lessThan(decimal(\"2.0\")) }";
    or_stop(measure(bencher, |i| i, policies, base));
}
