//! Policy: hostile arguments never make it fail, and never make it allow what a rule forbids.
//!
//! Input: numbers for the facts, then the argument text. What the policy says is held against the same
//! rules written down a second time, in Rust.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use turnback_core::contract::Contract;
use turnback_core::decision::Ruling;
use turnback_core::digest::{EffectDigest, Sha256};
use turnback_core::effect::{Blast, Effect, Rows, Touch};
use turnback_core::gates::autonomy::{Ceilings, Levels};
use turnback_core::gates::blast_radius::Limits;
use turnback_core::gates::controls::Controls;
use turnback_core::gates::ownership::Agent;
use turnback_core::gates::recoverability::Floor;
use turnback_core::gates::release::Mode;
use turnback_core::gates::{Facts, Measured};
use turnback_core::names::AgentName;
use turnback_core::policy::{Policy, Source};
use turnback_core::rollback::{Completeness, Footprint, Level, RollbackPlan};
use turnback_core::tool::Kind;
use turnback_fuzz::{Bytes, World};

const POLICY: &str = r#"
@id("reads") permit (principal, action in Action::"read", resource);
@id("writes") permit (principal, action in Action::"write", resource)
  when { principal.owner == "anna" };
@id("place") forbid (principal, action, resource is Files)
  when { context.place like "secret*" || context.place like "*/.git*" };
@id("names") forbid (principal, action, resource) when { context.names.containsAny([".env", "payroll"]) };
@id("statement") forbid (principal, action, resource is Sqlite) when { context.statement like "drop*" };
@id("user") forbid (principal, action in Action::"write", resource)
  unless { principal has on_behalf_of && principal.on_behalf_of != "" };
@id("sure") forbid (principal, action in Action::"write", resource)
  when { context has confidence && context.confidence < 500 };
@id("many") @outcome("review") forbid (principal, action in Action::"write", resource)
  when { context has effect && context.effect.deletions > 100 } unless { context.approved };
@id("overflow") forbid (principal, action, resource)
  when { context has effect && context.effect.bytes * 4096 > 1000000000 };
"#;

fn policy() -> &'static Policy {
    static POLICY_: OnceLock<Policy> = OnceLock::new();
    POLICY_.get_or_init(|| {
        let source = Source { name: "fuzz.cedar".into(), text: POLICY.into() };
        Policy::compile(&[source], &World::get().tools).unwrap_or_else(|e| panic!("{e:?}"))
    })
}

/// What the rules above say, without Cedar. `None`: an evaluation that must fail.
fn expected(facts: &Facts<'_>, places: &[String]) -> Option<Ruling> {
    let c = facts.contract;
    let writes = c.writes();
    let place = c.target.place.as_str();
    let mut names: BTreeSet<String> = BTreeSet::new();
    for place in places.iter().map(String::as_str).chain([place]) {
        match c.kind {
            Kind::Files => names.extend(place.split('/').map(str::to_owned)),
            Kind::Sqlite => names.extend(place.split_whitespace().next().map(|w| w.trim_matches('`').to_owned())),
        }
    }
    let mut bytes = 0_i64;
    let mut deletions = 0_u64;
    if let Some(measured) = facts.measured {
        names.extend(measured.effect.blast.rows.keys().cloned());
        bytes = i64::try_from(measured.effect.blast.bytes).unwrap_or(i64::MAX);
        deletions = measured.effect.blast.deletions();
    }
    let large = bytes.checked_mul(4096)?;
    let owned = facts.agent.is_some_and(|a| a.owner == "anna");
    let forbidden = (c.kind == Kind::Files && (place.starts_with("secret") || place.contains("/.git")))
        || names.contains(".env")
        || names.contains("payroll")
        || (c.kind == Kind::Sqlite && c.target.statement.starts_with("drop"))
        || (writes && c.on_behalf_of.as_deref().is_none_or(str::is_empty))
        || (writes && c.statement.confidence.is_some_and(|c| (c * 1000.0).floor() < 500.0))
        || (facts.measured.is_some() && large > 1_000_000_000);
    Some(if forbidden || (writes && !owned) {
        Ruling::Deny
    } else if writes && deletions > 100 && !facts.approved {
        Ruling::Review
    } else {
        Ruling::Allow
    })
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Bytes(data);
    let (choice, flags, small, shift) = (bytes.u8(), bytes.u8(), u64::from(bytes.u16()), bytes.u8() % 64);
    let flag = |n: u8| flags & (1 << n) != 0;
    let world = World::get();
    let Ok(mut contract) = world.parse(world.tool(choice), bytes.0) else { return };
    if flag(0) {
        contract.on_behalf_of = Some(if flag(1) { "ben" } else { "" }.into());
    }
    let place = contract.target.place.clone();
    let back: Contract = serde_json::from_value(serde_json::to_value(&contract).unwrap()).unwrap();
    assert_eq!(back, contract);

    let owner = if flag(2) { "anna" } else { "eve" };
    let agent = Agent {
        name: AgentName::new("coder").unwrap(),
        owner: owner.into(),
        suspended: None,
        grants: vec![],
        levels: Levels::default(),
    };
    let places: Vec<String> = if flag(4) { vec![format!("{place}/.env")] } else { vec![format!("{place} 17")] };
    let number = small << shift;
    let rows = Rows { deleted: small, updated: number, inserted: number };
    let blast = Blast {
        rows: BTreeMap::from([(place.clone(), rows)]),
        bytes: number,
        files_deleted: small,
        ..Blast::default()
    };
    let effect = Effect {
        summary: place.clone(),
        blast,
        digest: EffectDigest(Sha256::of(b"effect")),
        places: EffectDigest(Sha256::of(b"places")),
        volatile: false,
        reply: json!({}),
    };
    let touched =
        places.iter().map(|p| Touch { place: p.clone(), fields: vec![], before: None, after: None }).collect();
    let footprint = Footprint {
        resource: contract.resource.clone(),
        completeness: Completeness::Closed,
        places: touched,
        more: number,
    };
    let plan = RollbackPlan::new(Level::Proved, "the inverse ran", footprint);
    let (controls, limits, floor) = (Controls::default(), Limits::default(), Floor::default());
    let ceilings = Ceilings::default();
    let facts = Facts {
        contract: &contract,
        now: Timestamp::UNIX_EPOCH,
        wall: None,
        agent: Some(&agent),
        controls: &controls,
        mode: Mode::Enforce,
        flags: None,
        ceilings: &ceilings,
        policy: policy(),
        limits: &limits,
        spent: &[],
        irreversible: 0,
        excepted: &[],
        grants_required: false,
        collision: None,
        plan: None,
        forms: &[],
        floor: &floor,
        approved: flag(5),
        flow: None,
        evidence: None,
        measured: flag(3).then_some(Measured { effect: &effect, plan: &plan }),
    };
    let verdict = policy().judge(&facts);
    for wrong in ["panicked", "does not fit", "not registered", "not what the policy"] {
        assert!(!verdict.reason.contains(wrong), "{}", verdict.reason);
    }
    let places: &[String] = if flag(3) { &places } else { &[] };
    match expected(&facts, places) {
        Some(ruling) => assert_eq!(verdict.ruling, ruling, "{verdict:?} for {contract:?}"),
        // Cedar skips a policy it cannot evaluate; here that is a refusal that says so. A rule of another
        // kind may have been enough already.
        None => assert_eq!(verdict.ruling, Ruling::Deny, "{verdict:?}"),
    }
    assert_eq!(verdict, policy().judge(&facts), "the same facts give the same verdict");
});
