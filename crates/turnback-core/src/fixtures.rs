//! Small worlds for unit tests.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::contract::{Actor, Contract, Target};
use crate::decision::{Decision, Obligation, Phase, Ruling, Verdict};
use crate::digest::{EffectDigest, Sha256};
use crate::effect::{Blast, Effect, Rows, Touch};
use crate::flags::Flagged;
use crate::gates::autonomy::{Ceilings, Levels};
use crate::gates::blast_radius::{Limits, Spent};
use crate::gates::controls::Controls;
use crate::gates::ownership::Agent;
use crate::gates::recoverability::Floor;
use crate::gates::release::Mode;
use crate::gates::{Facts, Measured};
use crate::names::{AgentName, ApprovalId, EnvironmentName, ResourceName, RunId, ToolName};
use crate::policy::{Policy, Source};
use crate::rollback::{Bearer, Completeness, Footprint, Level, RollbackPlan};
use crate::run::Measurement;
use crate::tool::{Kind, Match, Risk, Tool, Verb};

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(crate) fn run_id(n: u128) -> RunId {
    RunId::new(Uuid::from_u128(n))
}

pub(crate) fn approval_id(n: u128) -> ApprovalId {
    ApprovalId::new(Uuid::from_u128(n))
}

pub(crate) fn tool(kind: Kind, resource: &str, local: &str, verb: Verb, risk: Risk) -> Tool {
    let resource = ResourceName::new(resource).unwrap();
    Tool {
        name: ToolName::joined(&resource, local).unwrap(),
        resource,
        kind,
        environment: EnvironmentName::new("production").unwrap(),
        local: local.to_owned(),
        description: String::new(),
        verb,
        risk,
        schema: json!({}),
        schema_hash: Sha256::of(local.as_bytes()),
        effect_match: Match::Exact,
        bearer: Bearer::Operator,
        forms: vec![],
    }
}

/// `shop` is a database, `notes` a folder.
pub(crate) fn registry() -> Vec<Tool> {
    use Kind::{Files, Sqlite};
    vec![
        tool(Sqlite, "shop", "query", Verb::Read, Risk::ScopedRead),
        tool(Sqlite, "shop", "execute", Verb::Update, Risk::ReversibleWrite),
        tool(Files, "notes", "read_file", Verb::Read, Risk::ScopedRead),
        tool(Files, "notes", "write_file", Verb::Update, Risk::ReversibleWrite),
        tool(Files, "notes", "delete", Verb::Delete, Risk::ReversibleWrite),
        tool(Files, "notes", "move", Verb::Update, Risk::ReversibleWrite),
    ]
}

pub(crate) fn registered(name: &str) -> Tool {
    registry().into_iter().find(|t| t.name.as_str() == name).unwrap()
}

pub(crate) fn contract(tool: &Tool, place: &str, statement: &str) -> Contract {
    let target = Target { identity: "id".into(), place: place.into(), statement: statement.into() };
    let actor = Actor::Agent(AgentName::new("coder").unwrap());
    Contract::parse(tool, actor, None, b"{}", None, |_, _| Ok(target)).unwrap()
}

pub(crate) fn agent() -> Agent {
    Agent {
        name: AgentName::new("coder").unwrap(),
        owner: "anna".into(),
        suspended: None,
        grants: vec![],
        levels: Levels::default(),
    }
}

pub(crate) fn blast(deleted: u64) -> Blast {
    Blast {
        rows: BTreeMap::from([("customers".to_owned(), Rows { deleted, ..Rows::default() })]),
        bytes: deleted,
        ..Blast::default()
    }
}

pub(crate) fn measurement(blast: Blast, label: &str) -> Measurement {
    let effect = Effect {
        summary: format!("deletes {} rows", blast.rows_deleted()),
        blast,
        digest: EffectDigest(Sha256::of(label.as_bytes())),
        places: EffectDigest(Sha256::of(b"places")),
        volatile: false,
        reply: json!({}),
    };
    let footprint = Footprint {
        resource: ResourceName::new("shop").unwrap(),
        completeness: Completeness::Closed,
        places: vec![Touch { place: "customers 17".into(), fields: vec![], before: None, after: None }],
        more: 0,
    };
    let plan = RollbackPlan::new(Level::Proved, "the inverse ran", footprint);
    Measurement { effect, plan, recipe: json!(null), artifacts: vec![] }
}

pub(crate) fn sources(text: &str) -> Vec<Source> {
    vec![Source { name: "test.cedar".into(), text: text.into() }]
}

pub(crate) fn policy(text: &str) -> Policy {
    Policy::compile(&sources(text), &registry()).unwrap()
}

/// Owns what [`Facts`] borrows.
pub(crate) struct World {
    pub(crate) contract: Contract,
    pub(crate) agent: Option<Agent>,
    pub(crate) controls: Controls,
    pub(crate) mode: Mode,
    pub(crate) flags: Option<Flagged>,
    pub(crate) ceilings: Ceilings,
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
    pub(crate) spent: Vec<Spent>,
    pub(crate) irreversible: u64,
    pub(crate) floor: Floor,
    pub(crate) approved: bool,
    pub(crate) flow: Option<crate::gates::flow::Flow>,
    pub(crate) evidence: Option<crate::gates::evidence::Evidence>,
    pub(crate) excepted: Vec<String>,
    pub(crate) grants_required: bool,
    pub(crate) collision: Option<crate::gates::collision::Collision>,
    pub(crate) forms: Vec<crate::form::Form>,
    pub(crate) plan: Option<crate::gates::plan::Planned>,
    pub(crate) measurement: Option<Measurement>,
    pub(crate) now: Timestamp,
    pub(crate) wall: Option<Timestamp>,
}

impl World {
    /// Agent `coder` calls `tool` under a policy; everything else lets it pass.
    pub(crate) fn new(policy_text: &str, tool: &str) -> Self {
        Self {
            contract: contract(&registered(tool), "a.txt", ""),
            agent: Some(agent()),
            controls: Controls::default(),
            mode: Mode::Enforce,
            flags: None,
            ceilings: Ceilings::default(),
            policy: policy(policy_text),
            limits: Limits::default(),
            spent: vec![],
            irreversible: 0,
            floor: Floor::default(),
            approved: false,
            flow: None,
            evidence: None,
            excepted: vec![],
            grants_required: false,
            collision: None,
            forms: vec![],
            plan: None,
            measurement: None,
            now: at(0),
            wall: None,
        }
    }

    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            contract: &self.contract,
            now: self.now,
            wall: self.wall,
            agent: self.agent.as_ref(),
            controls: &self.controls,
            mode: self.mode,
            flags: self.flags.as_ref(),
            ceilings: &self.ceilings,
            policy: &self.policy,
            limits: &self.limits,
            spent: &self.spent,
            irreversible: self.irreversible,
            floor: &self.floor,
            approved: self.approved,
            flow: self.flow.as_ref(),
            evidence: self.evidence.as_ref(),
            excepted: &self.excepted,
            grants_required: self.grants_required,
            collision: self.collision.as_ref(),
            forms: &self.forms,
            plan: self.plan.as_ref(),
            measured: self.measurement.as_ref().map(|m| Measured { effect: &m.effect, plan: &m.plan }),
        }
    }
}

pub(crate) fn decision(phase: Phase, ruling: Ruling) -> Decision {
    Decision::combine(phase, Sha256::of(b"policy"), vec![Verdict::new("test", ruling, "said so")])
}

pub(crate) fn measure_only(phase: Phase) -> Decision {
    let verdict = Verdict::new("release", Ruling::Allow, "observed").oblige(Obligation::MeasureOnly);
    Decision::combine(phase, Sha256::of(b"policy"), vec![verdict])
}

pub(crate) fn circumstances() -> Box<crate::gates::Circumstances> {
    Box::new(crate::gates::Circumstances {
        now: at(0),
        wall: None,
        agent: None,
        controls: Controls::default(),
        mode: Mode::Enforce,
        flags: None,
        ceilings: Ceilings::default(),
        limits: Limits::default(),
        spent: vec![],
        irreversible: 0,
        floor: Floor::default(),
        approved: false,
        flow: None,
        evidence: None,
        excepted: vec![],
        grants_required: false,
        collision: None,
        forms: vec![],
        plan: None,
    })
}
