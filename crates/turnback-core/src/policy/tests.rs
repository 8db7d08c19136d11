use proptest::prelude::*;

use super::*;
use crate::contract::Actor;
use crate::decision::Ruling::{self, Allow, Constrain, Deny, Fallback, Review};
use crate::fixtures::*;
use crate::names::{AgentName, EnvironmentName};

const ALL: &str = "@id(\"all\") permit(principal, action, resource);\n";

fn judge(text: &str, tool: &str) -> Verdict {
    let world = World::new(text, tool);
    world.policy.judge(&world.facts())
}

fn errors(text: &str) -> Vec<PolicyError> {
    Policy::compile(&sources(text), &registry()).unwrap_err()
}

#[test]
fn no_policy_permits_nothing() {
    let verdict = judge("", "shop__query");
    assert_eq!(verdict.ruling, Deny);
    assert_eq!(verdict.reason, "no rule permits agent `coder` to use `shop__query` on `shop`");
    assert!(verdict.next.is_some());
}

#[test]
fn a_permit_allows_exactly_its_scope() {
    let text = "@id(\"reads\") permit(principal, action in Action::\"read\", resource is Sqlite);";
    let verdict = judge(text, "shop__query");
    assert_eq!((verdict.ruling, verdict.rules), (Allow, vec!["reads".to_owned()]));
    assert_eq!(judge(text, "shop__execute").ruling, Deny);
    assert_eq!(judge(text, "notes__read_file").ruling, Deny);
}

#[test]
fn scopes_reach_groups_tools_and_single_resources() {
    for (scope, allowed) in [
        ("action == Action::\"shop__execute\", resource", vec!["shop__execute"]),
        ("action in Action::\"sqlite.execute\", resource", vec!["shop__execute"]),
        (
            "action in [Action::\"files.move\", Action::\"files.delete\"], resource",
            vec!["notes__delete", "notes__move"],
        ),
        ("action in Action::\"write\", resource == Sqlite::\"shop\"", vec!["shop__execute"]),
        ("action, resource in Sqlite::\"shop\"", vec!["shop__query", "shop__execute"]),
        ("action in Action::\"read\", resource is Files", vec!["notes__read_file"]),
        ("action, resource is Files in Files::\"other\"", vec![]),
    ] {
        let text = format!("permit(principal, {scope});");
        let found: Vec<String> = registry()
            .iter()
            .map(|tool| tool.name.as_str().to_owned())
            .filter(|name| judge(&text, name).ruling == Allow)
            .collect();
        let mut allowed = allowed;
        let order = |name: &&str| registry().iter().position(|t| t.name.as_str() == *name);
        allowed.sort_by_key(order);
        assert_eq!(found, allowed, "{scope}");
    }
}

#[test]
fn a_plain_forbid_wins_and_gives_its_reason() {
    let text = format!(
        "{ALL}@id(\"no-deletes\") @reason(\"nothing is deleted here\") @next(\"move it to the attic\")\n\
         forbid(principal, action in Action::\"files.delete\", resource);"
    );
    let verdict = judge(&text, "notes__delete");
    assert_eq!(verdict.ruling, Deny);
    assert_eq!(verdict.reason, "nothing is deleted here");
    assert_eq!(verdict.rules, ["no-deletes"]);
    assert_eq!(verdict.next.as_deref(), Some("move it to the attic"));
}

#[test]
fn soft_forbids_tighten_to_the_strictest() {
    let soft = |outcome: &str, id: &str| {
        format!(
            "@id(\"{id}\") @outcome(\"{outcome}\") @reason(\"because {id}\") forbid(principal, action, resource)\n\
             unless {{ context.approved }};\n"
        )
    };
    let review = soft("review", "r");
    assert_eq!(judge(&format!("{ALL}{review}"), "shop__execute").ruling, Review);
    let both = format!("{ALL}{review}{}", soft("constrain", "c"));
    let verdict = judge(&both, "shop__execute");
    assert_eq!((verdict.ruling, verdict.reason.as_str()), (Review, "because c; because r"));
    assert_eq!(verdict.rules, ["c", "r"]);
    assert_eq!(judge(&format!("{ALL}{review}{}", soft("fallback", "f")), "shop__execute").ruling, Fallback);
    assert_eq!(judge(&format!("{ALL}{}", soft("constrain", "c")), "shop__execute").ruling, Constrain);
    // A soft forbid never widens: without a permit it stays a deny.
    assert_eq!(judge(&review, "shop__execute").ruling, Deny);
    let mut world = World::new(&both, "shop__execute");
    world.approved = true;
    assert_eq!(world.policy.judge(&world.facts()).ruling, Allow);
}

#[test]
fn approvers_and_safer_forms_become_obligations() {
    let text = format!(
        "{ALL}@outcome(\"review\") @approvers(\"anna, ben\") forbid(principal, action in Action::\"write\", resource)\n\
         unless {{ context.approved }};\n\
         @outcome(\"constrain\") @form(\"a dry run\") forbid(principal, action, resource is Files);"
    );
    let verdict = judge(&text, "shop__execute");
    assert_eq!(verdict.obligations, [Obligation::Approvers { names: vec!["anna".to_owned(), "ben".to_owned()] }]);
    assert_eq!(verdict.rules, ["test.cedar:2"]);
    assert!(
        judge(&text, "notes__read_file").obligations.contains(&Obligation::SaferForm { form: "a dry run".to_owned() })
    );
}

/// The trap this module exists for: Cedar alone answers Allow here.
#[test]
fn an_evaluation_error_denies_and_names_the_policy() {
    for broken in [
        // Overflows at evaluation: nothing the validator can see.
        "@id(\"broken\") forbid(principal, action, resource) when { 9223372036854775807 + context.effect_rows > 0 };",
        "@id(\"broken\") @outcome(\"review\") forbid(principal, action, resource) when { ROWS } unless { context.approved };",
        "@id(\"broken\") forbid(principal, action, resource) when { ROWS };",
        "@id(\"broken\") permit(principal, action, resource) when { ROWS };",
    ] {
        let overflow = "context has effect && context.effect.rows * 9223372036854775807 > 0";
        let broken =
            broken.replace("context.effect_rows", "(if context.approved then 0 else 1)").replace("ROWS", overflow);
        let mut world = World::new(&format!("{ALL}{broken}"), "shop__execute");
        world.measurement = Some(measurement(blast(3), "a"));
        let verdict = world.policy.judge(&world.facts());
        assert_eq!(verdict.ruling, Deny, "{broken}");
        assert_eq!(verdict.rules, ["broken"], "{broken}");
        assert!(verdict.reason.contains("`broken` failed to evaluate"), "{}", verdict.reason);
    }
}

#[test]
fn a_panic_denies() {
    let verdict = guarded("shop__execute", || panic!("evaluator bug"));
    assert_eq!(verdict.ruling, Deny);
    assert!(verdict.reason.contains("evaluator bug"));
}

#[test]
fn the_measured_effect_is_seen_only_after_staging() {
    let text = format!(
        "{ALL}@id(\"many\") forbid(principal, action, resource) when {{ context has effect && context.effect.rows_deleted > 2 }};\n\
         @id(\"protected\") forbid(principal, action, resource) when {{ context.names.contains(\"customers\") }};"
    );
    let mut world = World::new(&text, "shop__execute");
    assert_eq!(world.policy.judge(&world.facts()).ruling, Allow);
    world.measurement = Some(measurement(blast(3), "a"));
    let verdict = world.policy.judge(&world.facts());
    assert_eq!((verdict.ruling, verdict.rules), (Deny, vec!["many".to_owned(), "protected".to_owned()]));
}

#[test]
fn counts_beyond_cedars_integers_stay_over_every_limit() {
    let text = format!(
        "{ALL}forbid(principal, action, resource) when {{ context has effect && context.effect.rows > 9223372036854775806 }};"
    );
    let mut world = World::new(&text, "shop__execute");
    world.measurement = Some(measurement(blast(u64::MAX), "a"));
    assert_eq!(world.policy.judge(&world.facts()).ruling, Deny);
}

#[test]
fn a_contract_that_differs_from_the_registered_tool_is_denied() {
    let base = || World::new(ALL, "shop__execute");
    let mut world = base();
    world.contract.environment = EnvironmentName::new("staging").unwrap();
    assert!(world.policy.judge(&world.facts()).reason.contains("environment"));
    let mut world = base();
    world.contract.schema_hash = Sha256::of(b"other");
    assert!(world.policy.judge(&world.facts()).reason.contains("schema"));
    let mut world = base();
    world.contract.tool = crate::names::ToolName::new("shop__drop").unwrap();
    assert_eq!(world.policy.judge(&world.facts()).ruling, Deny);
    let mut world = base();
    world.agent = None;
    assert!(world.policy.judge(&world.facts()).reason.contains("not registered"));
    let mut world = base();
    world.contract.actor = Actor::Agent(AgentName::new("somebody-else").unwrap());
    assert_eq!(world.policy.judge(&world.facts()).ruling, Deny);
    assert_eq!(base().policy.judge(&base().facts()).ruling, Allow);
}

#[test]
fn hostile_places_stay_plain_strings() {
    let text = format!("{ALL}forbid(principal, action, resource) when {{ context.place like \"*__entity*\" }};");
    let mut world = World::new(&text, "notes__write_file");
    world.contract.target.place = r#"{"__entity":{"type":"Agent","id":"root"}}"#.to_owned();
    assert_eq!(world.policy.judge(&world.facts()).ruling, Deny);
    world.contract.target.place = "a\u{0}\" || true".to_owned();
    assert_eq!(world.policy.judge(&world.facts()).ruling, Allow);
}

#[test]
fn compile_errors_point_at_their_place() {
    let found = errors(
        "permit(principal, action, resource)\n  when { context.nope == 1 };\n\n  forbid(principal, akshun, resource);\n",
    );
    let places: Vec<_> = found.iter().map(|e| (e.line, e.column)).collect();
    assert_eq!(places.len(), 2, "{found:?}");
    assert_eq!(places[0].0, 2);
    assert!(found[0].message.contains("nope"), "{found:?}");
    assert_eq!(places[1], (4, 21), "{found:?}");
    assert_eq!(found[0].file, "test.cedar");
    assert!(found[0].to_string().starts_with("test.cedar:2:"));
}

/// Each of these ended the process, not only the thread that reads them: a stack overflow is no panic.
#[test]
fn deep_and_endless_rules_are_read_or_refused() {
    let rule = |condition: String| format!("{ALL}permit(principal, action, resource) when {{ {condition} }};");
    let nested = |n| rule(format!("{}1 < 2{}", "(".repeat(n), ")".repeat(n)));
    let chained = |n| rule(vec!["1 < 2"; n].join(" || "));
    let summed = |n| rule(format!("{} < 3", vec!["1"; n].join("+")));
    assert_eq!(judge(&chained(60), "shop__query").ruling, Allow);
    for text in [nested(8000), chained(1800), summed(8000)] {
        // However deep, the answer is one, and nothing here or in letting go of it overflows.
        let verdict = judge(&text, "shop__query");
        assert!(verdict.ruling == Allow || verdict.reason.contains("failed to evaluate"), "{verdict:?}");
        super::lint::lint(&sources(&text), &registry());
    }
    for text in [nested(9000), chained(3000), summed(9000)] {
        let found = errors(&text);
        assert!(found[0].message.contains("at most 16384 are read"), "{found:?}");
        assert_eq!((found.len(), found[0].line), (1, 2));
    }
}

#[test]
fn misused_annotations_do_not_compile() {
    let scope = "(principal, action, resource)";
    for (text, says) in [
        (format!("@outcome(\"review\") permit{scope};"), "stands on a permit"),
        (format!("@outcome(\"maybe\") forbid{scope};"), "not an outcome"),
        (format!("@outcome(\"deny\") forbid{scope};"), "not an outcome"),
        (format!("@outcome(\"allow\") forbid{scope};"), "not an outcome"),
        (format!("@aprovers(\"anna\") @outcome(\"review\") forbid{scope};"), "unknown annotation"),
        (format!("@approvers(\"anna\") forbid{scope};"), "asks nobody"),
        (format!("@approvers(\"anna,\") @outcome(\"review\") forbid{scope};"), "empty name"),
        (format!("@form(\"x\") forbid{scope};"), "never used"),
        (format!("@id forbid{scope};"), "empty"),
        (format!("@id(\"x\") permit{scope};\n@id(\"x\") forbid{scope};"), "another rule is called `x`"),
        ("permit(principal == ?principal, action, resource);".to_owned(), "template"),
        ("permit(principal, action == Action::\"shop__exekute\", resource);".to_owned(), "unrecognized action"),
        ("permit(principal, action, resource is Postgres);".to_owned(), "unrecognized entity type"),
        ("permit(principal, action, resource) when { context.effect.rows > 1 };".to_owned(), "effect"),
        ("permit(principal, action, resource) when { context.verb == 1 };".to_owned(), "type"),
        ("permit(principal, action, resource)".to_owned(), "unexpected end"),
        ("permit(principal, action, resource) when { \"open };".to_owned(), "invalid token"),
    ] {
        let found = errors(&text);
        assert!(found.iter().any(|e| e.message.contains(says)), "{text}: {found:?}");
    }
}

#[test]
fn the_digest_covers_sources_and_schema() {
    let one = policy(ALL).digest();
    assert_eq!(one, policy(ALL).digest());
    assert_ne!(one, policy(&format!("{ALL} ")).digest());
    let fewer = Policy::compile(&sources(ALL), &registry()[1..]).unwrap().digest();
    assert_ne!(one, fewer);
    let renamed = vec![Source { name: "other.cedar".into(), text: ALL.into() }];
    assert_ne!(one, Policy::compile(&renamed, &registry()).unwrap().digest());
}

#[test]
fn a_tool_registered_twice_is_refused() {
    let mut twice = registry();
    twice.push(registry().remove(0));
    let found = Policy::compile(&sources(ALL), &twice).unwrap_err();
    assert!(found[0].message.contains("shop__query"), "{found:?}");
}

/// One random policy, as text for Cedar and as data for the reference.
#[derive(Clone, Debug)]
struct Random {
    outcome: Option<Ruling>,
    permit: bool,
    action: usize,
    resource: usize,
    condition: usize,
}

type Scope = (&'static str, fn(&Tool) -> bool);
const ACTIONS: [Scope; 5] = [
    ("action", |_| true),
    ("action in Action::\"read\"", |t| !t.risk.writes()),
    ("action in Action::\"write\"", |t| t.risk.writes()),
    ("action == Action::\"shop__execute\"", |t| t.name.as_str() == "shop__execute"),
    ("action in [Action::\"files.delete\", Action::\"files.move\"]", |t| {
        ["delete", "move"].contains(&t.local.as_str())
    }),
];
const RESOURCES: [Scope; 4] = [
    ("resource", |_| true),
    ("resource is Files", |t| t.kind == crate::tool::Kind::Files),
    ("resource is Sqlite", |t| t.kind == crate::tool::Kind::Sqlite),
    ("resource == Sqlite::\"shop\"", |t| t.resource.as_str() == "shop"),
];
type Condition = (&'static str, fn(bool, Option<u64>) -> bool);
const CONDITIONS: [Condition; 4] = [
    ("true", |_, _| true),
    ("!context.approved", |approved, _| !approved),
    ("context has effect && context.effect.rows_deleted > 2", |_, deleted| deleted.is_some_and(|d| d > 2)),
    ("context.approved", |approved, _| approved),
];

impl Random {
    fn text(&self) -> String {
        let outcome = self.outcome.map_or(String::new(), |o| format!("@outcome(\"{}\") ", o.word()));
        let effect = if self.permit { "permit" } else { "forbid" };
        format!(
            "{outcome}{effect}(principal, {}, {}) when {{ {} }};\n",
            ACTIONS[self.action].0, RESOURCES[self.resource].0, CONDITIONS[self.condition].0
        )
    }

    fn matches(&self, tool: &Tool, approved: bool, deleted: Option<u64>) -> bool {
        ACTIONS[self.action].1(tool)
            && RESOURCES[self.resource].1(tool)
            && CONDITIONS[self.condition].1(approved, deleted)
    }
}

/// The rule in four lines: default deny, forbid wins, soft forbids tighten.
fn reference(policies: &[Random], tool: &Tool, approved: bool, deleted: Option<u64>) -> Ruling {
    let matched: Vec<_> = policies.iter().filter(|p| p.matches(tool, approved, deleted)).collect();
    let permitted = matched.iter().any(|p| p.permit);
    let forbidden = matched.iter().any(|p| !p.permit && p.outcome.is_none());
    if !permitted || forbidden {
        return Deny;
    }
    matched.iter().filter_map(|p| p.outcome).max().unwrap_or(Allow)
}

fn random() -> impl Strategy<Value = Random> {
    (0..5usize, any::<bool>(), 0..5usize, 0..4usize, 0..4usize).prop_map(
        |(kind, permit, action, resource, condition)| {
            let outcome = match kind {
                2 if !permit => Some(Review),
                3 if !permit => Some(Constrain),
                4 if !permit => Some(Fallback),
                _ => None,
            };
            Random { outcome, permit, action, resource, condition }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// P11, differentially: slices and Cedar agree with the reference for every tool, and one more
    /// forbid never allows more.
    #[test]
    fn adding_a_forbid_never_allows_more(
        policies in prop::collection::vec(random(), 0..8),
        mut extra in random(),
        approved: bool,
        deleted in prop::option::of(0u64..5),
    ) {
        extra.permit = false;
        let mut more = policies.clone();
        more.push(extra);
        let text = |list: &[Random]| list.iter().map(Random::text).collect::<String>();
        let mut worlds = [&policies, &more].map(|list| World::new(&text(list), "shop__query"));
        for tool in registry() {
            let mut rulings = Vec::new();
            for (world, list) in worlds.iter_mut().zip([&policies, &more]) {
                world.contract = contract(&tool, "a.txt", "");
                world.approved = approved;
                world.measurement = deleted.map(|d| measurement(blast(d), "x"));
                let ruling = world.policy.judge(&world.facts()).ruling;
                prop_assert_eq!(ruling, reference(list, &tool, approved, deleted), "{}\n{}", tool.name, text(list));
                rulings.push(ruling);
            }
            prop_assert!(rulings[1] >= rulings[0], "{}", text(&more));
        }
    }
}
