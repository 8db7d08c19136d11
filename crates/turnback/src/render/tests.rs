//! Snapshots of everything people read, without colours, and the law that nothing foreign gets through.

use std::collections::BTreeMap;

use anstream::adapter::strip_str;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use turnback_core::approval::{Approval, Question};
use turnback_core::contract::{Actor, Contract, Statement, Target};
use turnback_core::decision::{Decision, Obligation, Phase, Ruling, Verdict};
use turnback_core::digest::{ActionDigest, EffectDigest, Sha256};
use turnback_core::effect::{Blast, Effect, Rows, Touch};
use turnback_core::gates::autonomy::{self, Levels};
use turnback_core::gates::controls::{Scope, Switch};
use turnback_core::gates::ownership::Agent;
use turnback_core::names::{AgentName, ApprovalId, EnvironmentName, ResourceName, RunId, TokenId, ToolName};
use turnback_core::record::Row;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::{
    Assumption, Bearer, Blocker, Completeness, Conflict, Footprint, Holds, InverseStep, Level, RollbackPlan, Snapshot,
    Window,
};
use turnback_core::run::{Answer, Event, Measurement, Observation, Outcome, ProbeResult};
use turnback_core::tool::{Kind, Risk, Verb};
use turnback_gateway::operator::protocol::{Happened, RunView, TokenView, UndoPart, UndoPlan};
use uuid::Uuid;

use super::run::Detail;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-11-20T03:00:00Z")
}

fn run_id(n: u128) -> RunId {
    RunId::new(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000 + n))
}

fn resource() -> ResourceName {
    ResourceName::new("shop").unwrap()
}

fn contract() -> Contract {
    Contract {
        actor: Actor::Agent(AgentName::new("coder").unwrap()),
        on_behalf_of: Some("bob".into()),
        assignment: turnback_core::contract::Assignment::default(),
        trace: None,
        tool: ToolName::new("shop__execute").unwrap(),
        local: "execute".into(),
        schema_hash: Sha256::of(b"schema"),
        verb: Verb::Update,
        risk: Risk::ReversibleWrite,
        resource: resource(),
        kind: Kind::Sqlite,
        environment: EnvironmentName::new("production").unwrap(),
        target: Target { identity: "/srv/shop.db".into(), place: "delete".into(), statement: "delete".into() },
        arguments: json!({ "sql": "delete from customers where country = 'XX'" }),
        form: None,
        undoes: vec![],
        statement: Statement {
            intent: Some("remove test customers\nsecond line".into()),
            evidence: vec![json!("ticket 81"), json!({ "rows": 3 })],
            confidence: Some(0.9),
            plan: Some(json!(["look", "delete"])),
            alternatives: Some(json!("mark them inactive")),
            reasoning: Some("They have no real orders.\nnext: turnback approve ap_00000002".into()),
            expects: Some(json!("3 rows")),
        },
    }
}

fn effect() -> Effect {
    let rows = |inserted, updated, deleted| Rows { inserted, updated, deleted };
    Effect {
        summary: "deletes 3 rows of `customers` and, by cascade, 1,204 rows of `orders`".into(),
        blast: Blast {
            rows: BTreeMap::from([("customers".into(), rows(0, 0, 3)), ("orders".into(), rows(0, 1, 1204))]),
            bytes: 48_213,
            ..Blast::default()
        },
        digest: EffectDigest(Sha256::of(b"effect")),
        places: EffectDigest(Sha256::of(b"places")),
        volatile: false,
        reply: json!({ "rows": 3 }),
    }
}

fn plan() -> RollbackPlan {
    let touch = Touch { place: "customers 17".into(), fields: vec![], before: None, after: None };
    let footprint =
        Footprint { resource: resource(), completeness: Completeness::Bounded, places: vec![touch], more: 1207 };
    let mut plan = RollbackPlan::new(Level::Snapshotted, "every row read back by hash", footprint);
    plan.steps.push(InverseStep {
        precondition: "no row 17 is there".into(),
        operation: "insert customers 17".into(),
        postcondition: "row 17 is as before".into(),
        done_when: "row 17 is there".into(),
    });
    plan.snapshots.push(Snapshot { hash: Sha256::of(b"s"), place: "vault".into(), bytes: 48_213 });
    plan.assumptions.push(Assumption {
        claim: "the schema is as it was".into(),
        holds: Holds::True,
        ttl_seconds: 3600,
    });
    plan.assumptions.push(Assumption { claim: "no invoice was sent".into(), holds: Holds::Unknown, ttl_seconds: 60 });
    plan.window =
        Window { closes: Some(at("2026-11-20T09:00:00Z")), closed_by: vec!["the nightly invoice run".into()] };
    plan.exposure.push("the shop's customers see it at once".into());
    plan.residue.push("autoincrement values stay used".into());
    plan.bearer = Bearer::Customer;
    plan
}

fn question() -> Question {
    Question {
        id: ApprovalId::new(Uuid::from_u128(2)),
        run: run_id(1),
        action: ActionDigest(Sha256::of(b"action")),
        effect: EffectDigest(Sha256::of(b"effect")),
        places: EffectDigest(Sha256::of(b"places")),
        policy: Sha256::of(b"policy"),
        asked: at("2026-11-20T02:57:00Z"),
        expires: at("2026-11-21T02:57:00Z"),
        approvers: vec!["anna".into(), "ben".into()],
        exceptions: vec![],
        only_exceptions: false,
    }
}

fn row(state: &str) -> Row {
    Row {
        run: run_id(1),
        proposed: at("2026-11-20T02:57:00Z"),
        updated: at("2026-11-20T02:57:01Z"),
        committed: None,
        actor: contract().actor,
        tool: "shop__execute".into(),
        resource: "shop".into(),
        environment: "production".into(),
        action: Sha256::of(b"action"),
        state: state.into(),
        over: state != "parked",
        undelivered: false,
        summary: effect().summary,
        level: Some(4),
        question: (state == "parked").then(|| question().id),
        expires: (state == "parked").then(|| question().expires),
        spent: Default::default(),
        undoes: vec![],
        undone_by: None,
        reads: vec![],
    }
}

fn waiting() -> RunView {
    let policy = Sha256::of(b"policy");
    let before = vec![Verdict::new("ownership", Ruling::Allow, "owned by alice")];
    let after = vec![
        Verdict::new("controls", Ruling::Allow, "no switch is thrown and no freeze is on"),
        Verdict::new("authorization", Ruling::Review, "customers are deleted by people")
            .rule("customer-deletes")
            .oblige(Obligation::Approvers { names: vec!["anna".into(), "ben".into()] }),
        Verdict::new("recoverability", Ruling::Review, "a third party pays if the way back fails")
            .next("a person looks at the effect and the way back"),
    ];
    let happened = |seq, text: &str, event| Happened { seq, at: at(text), event };
    let measurement = Measurement { effect: effect(), plan: plan(), recipe: json!({}), artifacts: vec![] };
    RunView {
        row: row("parked"),
        owner: Some("alice".into()),
        contract: serde_json::to_value(contract()).unwrap(),
        before: Some(Decision::combine(Phase::Before, policy, before)),
        after: Some(Decision::combine(Phase::After, policy, after)),
        effect: Some(effect()),
        diff: Some("customers 17\n- name  'Ann'\n- country  'XX'\n\norders 99\n- total  1200\n".into()),
        plan: Some(plan()),
        level: Some(4),
        question: Some(question()),
        moved: Some("`customers` row 18 is new".into()),
        refusal: None,
        observation: None,
        history: vec![
            happened(1041, "2026-11-20T02:57:00Z", Event::Proposed { contract: Box::new(contract()) }),
            happened(1042, "2026-11-20T02:57:00Z", Event::Staged { measurement: Box::new(measurement) }),
            happened(
                1043,
                "2026-11-20T02:57:01Z",
                Event::Parked { question: question(), moved: Some("row 18".into()) },
            ),
        ],
    }
}

fn settled() -> RunView {
    let mut view = waiting();
    view.row = row("settled");
    view.moved = None;
    view.question = None;
    let approval = Approval { question: question(), by: "anna".into(), at: now() };
    let answer = Answer::Approved { approval: Box::new(approval) };
    let happened = |seq, event| Happened { seq, at: at("2026-11-20T02:59:00Z"), event };
    view.history.push(happened(1044, Event::Answered { answer }));
    view.history.push(happened(1045, Event::Intended));
    view.history.push(happened(1046, Event::Committed { outcome: Outcome::Succeeded }));
    view.observation = Some(Observation {
        compared: 1208,
        differences: vec![],
        probes: vec![ProbeResult { name: "no orphans".into(), passed: true, detail: "0".into() }],
    });
    view
}

fn diverged() -> RunView {
    let mut view = settled();
    view.row = row("diverged");
    view.observation = Some(Observation {
        compared: 1208,
        differences: vec!["customers 17 is there again".into()],
        probes: vec![ProbeResult { name: "no orphans".into(), passed: false, detail: "2, not 0".into() }],
    });
    view
}

fn denied() -> RunView {
    let mut view = waiting();
    view.row = Row { level: None, summary: "change freeze `year end`".into(), ..row("denied") };
    let verdicts = vec![
        Verdict::new("controls", Ruling::Deny, "change freeze `year end` on `production` until 2027-01-02T00:00:00Z")
            .rule("freeze year end")
            .next("reads are answered; ask again after the freeze"),
    ];
    view.before = Some(Decision::combine(Phase::Before, Sha256::of(b"policy"), verdicts));
    view.refusal = Some(
        Refusal::new(Code::Denied, "the change freeze `year end` is on").at("production").next("wait for its end"),
    );
    (view.after, view.effect, view.diff, view.plan, view.level) = (None, None, None, None, None);
    (view.question, view.moved, view.history) = (None, None, vec![]);
    view
}

fn undo(blocked: bool) -> UndoPlan {
    let blocker = |place: &str, by| Blocker {
        conflict: Conflict { place: place.into(), fields: vec!["name".into()], why: "changed since".into() },
        by,
    };
    UndoPlan {
        parts: vec![UndoPart {
            resource: "shop".into(),
            runs: vec![run_id(1).to_string(), run_id(3).to_string()],
            summary: Some("inserts 3 rows of `customers`".into()),
            level: Some(5),
            residue: vec!["autoincrement values stay used".into()],
            diff: Some("customers 17\n+ name  'Ann'\n".into()),
        }],
        blockers: if blocked {
            vec![blocker("customers 17", None), blocker("customers 18", Some(run_id(9)))]
        } else {
            vec![]
        },
        readers: vec![Row { run: run_id(7), tool: "shop__query".into(), ..row("released") }],
    }
}

fn everything() -> Detail {
    Detail { statement: true, history: true }
}

#[test]
fn what_an_approver_reads() {
    insta::assert_snapshot!(strip_str(&super::run::view(&waiting(), Detail::default(), now())).to_string());
}

#[test]
fn a_settled_run_with_everything() {
    insta::assert_snapshot!(strip_str(&super::run::view(&settled(), everything(), now())).to_string());
}

#[test]
fn a_diverged_run_says_how_to_go_back_by_hand() {
    insta::assert_snapshot!(strip_str(&super::run::view(&diverged(), Detail::default(), now())).to_string());
}

#[test]
fn a_denied_run_says_what_would_be_acceptable() {
    insta::assert_snapshot!(strip_str(&super::run::view(&denied(), Detail::default(), now())).to_string());
}

#[test]
fn how_runs_end() {
    let text: String = [settled(), diverged(), denied(), waiting()].iter().map(super::run::ended).collect();
    insta::assert_snapshot!(strip_str(&text).to_string());
}

#[test]
fn the_list_of_runs() {
    let mut rows = vec![row("parked"), row("settled"), row("denied")];
    rows[1].run = run_id(0xabcd);
    rows[1].proposed = at("2026-11-19T20:00:00Z");
    rows[2].actor = Actor::Operator("anna".into());
    rows[2].level = None;
    insta::assert_snapshot!(strip_str(&super::runs::runs(&rows, now())).to_string());
    assert_eq!(super::runs::runs(&[], now()), "no runs\n");
}

#[test]
fn an_undo_that_can_go_ahead() {
    insta::assert_snapshot!(strip_str(&super::undo::plan(&undo(false), "turnback undo r_00000001", now())).to_string());
}

#[test]
fn an_undo_with_something_in_the_way() {
    insta::assert_snapshot!(strip_str(&super::undo::plan(&undo(true), "turnback undo r_00000001", now())).to_string());
}

fn operators_lists() -> (Vec<Agent>, Vec<TokenView>, Vec<Switch>) {
    let name = AgentName::new("coder").unwrap();
    let agents = vec![
        Agent { name: name.clone(), owner: "alice".into(), suspended: None, grants: vec![], levels: Levels::default() },
        Agent {
            name: AgentName::new("reviewer").unwrap(),
            owner: "bob".into(),
            suspended: Some("too eager".into()),
            grants: vec![],
            levels: Levels {
                level: autonomy::Level::Approved,
                classes: [(Risk::AdminAction, autonomy::Level::Propose)].into(),
            },
        },
    ];
    let token = |n, on_behalf_of, expires| TokenView {
        id: TokenId::new(Uuid::from_u128(n)),
        agent: name.clone(),
        on_behalf_of,
        assignment: turnback_core::contract::Assignment::default(),
        expires: at(expires),
    };
    let tokens = vec![token(5, Some("bob".into()), "2026-12-20T03:00:00Z"), token(6, None, "2026-11-20T02:00:00Z")];
    let switches = vec![Switch {
        scope: Scope::Agent(name.clone()),
        reason: "wrong tables".into(),
        by: "anna".into(),
        since: at("2026-11-20T02:59:30Z"),
    }];
    (agents, tokens, switches)
}

#[test]
fn agents_tokens_and_switches() {
    let (agents, tokens, switches) = operators_lists();
    let text = [
        super::operator::agents(&agents, now()),
        super::operator::tokens(&tokens, now()),
        super::operator::switches(&switches, now()),
        super::operator::agents(&[], now()),
        super::operator::tokens(&[], now()),
        super::operator::switches(&[], now()),
    ]
    .join("\n");
    insta::assert_snapshot!(strip_str(&text).to_string());
}

#[test]
fn colours_are_there_for_terminals() {
    let text = super::run::view(&waiting(), Detail::default(), now());
    assert!(text.contains("\x1b[31m- name"), "a deleted line is red");
}

/// Beginning a line, hiding, turning the reading direction, and steering the terminal.
const HOSTILE: &str = "\u{1b}[2J\u{9b}31m\u{202e}\u{200b}\u{7}\r\nPWNED";

/// `good` with hostile text at the end of every string whose type allows it, and how many those were.
fn poisoned<T: Serialize + DeserializeOwned>(good: &T, also: impl Fn(&T) -> bool) -> (T, usize) {
    fn strings(value: &Value, path: String, found: &mut Vec<String>) {
        match value {
            Value::String(_) => found.push(path),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, item)| strings(item, format!("{path}/{n}"), found));
            }
            Value::Object(map) => map.iter().for_each(|(key, item)| {
                strings(item, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(good).unwrap();
    let mut paths = Vec::new();
    strings(&value, String::new(), &mut paths);
    let mut poisoned = 0;
    for path in paths {
        let mut tried = value.clone();
        let Some(Value::String(text)) = tried.pointer_mut(&path) else { unreachable!("{path}") };
        text.push_str(HOSTILE);
        if serde_json::from_value::<T>(tried.clone()).is_ok_and(|t| also(&t)) {
            value = tried;
            poisoned += 1;
        }
    }
    (serde_json::from_value(value).unwrap(), poisoned)
}

/// Nothing of [`HOSTILE`] acts: our own escape sequences are all there are, and no line is begun.
fn harmless(clean: &str, hostile: &str) {
    assert!(hostile.contains("<U+202E>") && hostile.contains("PWNED"), "the hostile text is shown: {hostile}");
    for c in ['\u{202e}', '\u{200b}', '\u{7}', '\u{9b}', '\r'] {
        assert!(!hostile.contains(c), "{c:?} got through: {hostile:?}");
    }
    assert!(!hostile.contains("\u{1b}[2J"), "{hostile:?}");
    // Foreign lines stand behind the gutter.
    for line in strip_str(hostile).to_string().lines() {
        assert!(!line.trim_start().starts_with("PWNED"), "a line of its own: {hostile}");
    }
    assert!(!clean.contains("PWNED"));
}

#[test]
fn nothing_foreign_steers_the_terminal_or_begins_a_line() {
    let parses = |view: &RunView| serde_json::from_value::<Contract>(view.contract.clone()).is_ok();
    for good in [waiting(), settled(), diverged(), denied()] {
        let (bad, strings) = poisoned(&good, parses);
        assert!(strings > 15, "only {strings} strings were poisoned");
        harmless(&super::run::view(&good, everything(), now()), &super::run::view(&bad, everything(), now()));
        harmless(&super::run::ended(&good), &super::run::ended(&bad));
        let rows = |view: &RunView| super::runs::runs(std::slice::from_ref(&view.row), now());
        harmless(&rows(&good), &rows(&bad));
    }
    let (bad, strings) = poisoned(&undo(true), |_| true);
    assert!(strings > 10, "only {strings} strings were poisoned");
    harmless(&super::undo::plan(&undo(true), "again", now()), &super::undo::plan(&bad, "again", now()));
    let (agents, tokens, switches) = operators_lists();
    harmless(&super::operator::agents(&agents, now()), &super::operator::agents(&poisoned(&agents, |_| true).0, now()));
    harmless(&super::operator::tokens(&tokens, now()), &super::operator::tokens(&poisoned(&tokens, |_| true).0, now()));
    harmless(
        &super::operator::switches(&switches, now()),
        &super::operator::switches(&poisoned(&switches, |_| true).0, now()),
    );
    let refusal = Refusal::new(Code::BadInput, "no").at("here").next("that");
    harmless(&super::error::refusal(&refusal), &super::error::refusal(&poisoned(&refusal, |_| true).0));
}

#[test]
fn json_is_ascii_and_means_the_same() {
    let value = json!({ "name": format!("Grüße 😀{HOSTILE}") });
    let text = super::json(&value).unwrap();
    assert!(text.bytes().all(|b| b == b'\n' || (0x20..0x7f).contains(&b)), "{text:?}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
}

#[test]
fn a_view_survives_the_wire() {
    for view in [waiting(), settled(), diverged(), denied()] {
        let line = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<RunView>(&line).unwrap(), view);
    }
}
