use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::contract::Actor;
use crate::fixtures::{World, at, blast, contract, measurement, registered, run_id};

fn rule(outcome: Outcome) -> Rule {
    Rule {
        name: "stock".into(),
        of: Selector::default(),
        outcome,
        reads: None,
        sources: vec![],
        agree: vec![],
        usual: vec![],
        confidence: None,
        coverage: None,
    }
}

fn reading(max_age: Option<i64>, required: bool) -> Rule {
    let max_age = max_age.map(SignedDuration::from_secs);
    Rule { reads: Some(ReadRule { scope: Scope::SameResource, max_age, required }), ..rule(Outcome::Deny) }
}

fn held(second: i64, again: Again) -> Held {
    Held {
        run: run_id(1),
        at: at(second),
        tool: ToolName::new("shop__query").unwrap(),
        resource: ResourceName::new("shop").unwrap(),
        what: "stock".into(),
        digest: ReadDigest::of(&json!({ "rows": [[1], [2], [3]] })),
        again,
    }
}

fn changed() -> Again {
    Again::Changed { digest: ReadDigest::of(&json!({ "rows": [[1], [9], [3], [4]] })) }
}

fn n(value: f64) -> Number {
    Number::new(value).unwrap()
}

fn source(value: f64) -> Observed {
    Observed { value: Ok(n(value)), at: at(0), max_age: None }
}

/// A write at second 100 under these rules, staged or not.
fn world(rules: Vec<Applied>, staged: bool) -> World {
    let mut world = World::new("", "shop__execute");
    world.now = at(100);
    world.measurement = staged.then(|| measurement(blast(1), "x"));
    world.evidence = Some(Evidence { asked: at(100), rules, sources: BTreeMap::new(), histories: BTreeMap::new() });
    world
}

fn applied(rule: Rule, reads: Vec<Held>) -> Vec<Applied> {
    vec![Applied { rule, reads, forgotten: false }]
}

fn judged(world: &World) -> Verdict {
    judge(&world.facts())
}

#[test]
fn without_a_rule_it_allows() {
    let mut world = world(vec![], true);
    world.evidence = None;
    assert_eq!(judged(&world).ruling, Ruling::Allow);
}

#[test]
fn a_read_ages_until_the_write_is_asked_for() {
    for (second, ruling) in [(40, Ruling::Allow), (39, Ruling::Deny), (200, Ruling::Allow)] {
        for staged in [false, true] {
            let world = world(applied(reading(Some(60), true), vec![held(second, Again::Same)]), staged);
            assert_eq!(judged(&world).ruling, ruling, "{second} {staged}");
        }
    }
    let mut world = world(applied(reading(Some(60), true), vec![held(39, Again::Same)]), true);
    let verdict = judged(&world);
    assert!(
        verdict.reason.contains("read stock 1 min 1 s before") && verdict.reason.contains("at most 1 min 0 s"),
        "{verdict:?}"
    );
    assert_eq!(verdict.rules, ["stock"]);
    // How long a person thinks about it does not make it older.
    world.evidence.as_mut().unwrap().asked = at(90);
    world.now = at(9_000);
    assert_eq!(judged(&world).ruling, Ruling::Allow);
}

#[test]
fn what_changed_since_is_named() {
    let verdict = judged(&world(applied(reading(None, true), vec![held(0, changed())]), true));
    assert_eq!(verdict.ruling, Ruling::Deny);
    assert!(verdict.reason.contains("it changed since: row 2, 4 of 3 (now 4), digest "), "{}", verdict.reason);
}

#[test]
fn what_is_missing_forgotten_or_out_of_reach_is_a_deny_even_where_change_is_a_review() {
    let lenient = |required| Rule { outcome: Outcome::Review, ..reading(None, required) };
    let of =
        |rule: Rule, reads, forgotten, staged| judged(&world(vec![Applied { rule, reads, forgotten }], staged)).ruling;
    assert_eq!(of(lenient(true), vec![], false, false), Ruling::Deny);
    assert_eq!(of(lenient(false), vec![], false, true), Ruling::Allow);
    assert_eq!(of(lenient(true), vec![held(0, Again::Same)], true, false), Ruling::Deny);
    assert_eq!(of(lenient(false), vec![held(0, Again::Same)], true, false), Ruling::Review);
    assert_eq!(of(lenient(false), vec![held(0, Again::Unreachable { why: "gone".into() })], false, true), Ruling::Deny);
    assert_eq!(of(lenient(false), vec![held(0, changed())], false, true), Ruling::Review);
    // Not read again yet is how it must be before staging, and never after it.
    assert_eq!(of(lenient(false), vec![held(0, Again::NotYet)], false, false), Ruling::Allow);
    assert_eq!(of(lenient(false), vec![held(0, Again::NotYet)], false, true), Ruling::Deny);
}

#[test]
fn an_approval_answers_a_review_and_nothing_else() {
    for (outcome, ruling) in [(Outcome::Review, Ruling::Allow), (Outcome::Deny, Ruling::Deny)] {
        let rule = Rule { outcome, ..reading(None, true) };
        let mut world = world(applied(rule, vec![held(0, changed())]), true);
        world.approved = true;
        assert_eq!(judged(&world).ruling, ruling);
    }
}

#[test]
fn what_the_agent_says_of_itself_is_only_ever_stricter() {
    let rule = Rule { confidence: Some(n(0.8)), coverage: Some(n(0.9)), ..rule(Outcome::Review) };
    for (confidence, evidence, ruling) in [
        (Some(0.8), vec![json!({ "coverage": 0.9 })], Ruling::Allow),
        (Some(0.79), vec![json!({ "coverage": 0.9 })], Ruling::Review),
        (None, vec![json!({ "coverage": 0.9 })], Ruling::Deny),
        (Some(1.0), vec![], Ruling::Deny),
        (Some(1.0), vec![json!("a report")], Ruling::Deny),
        (Some(1.0), vec![json!({ "coverage": 1.0 }), json!({ "coverage": 0.5 })], Ruling::Review),
        (Some(1.0), vec![json!({ "coverage": 1.0 }), json!({ "coverage": "all" })], Ruling::Deny),
        (Some(1.0), vec![json!({ "coverage": 1.5 })], Ruling::Deny),
    ] {
        let mut world = world(applied(rule.clone(), vec![]), false);
        world.contract.statement.confidence = confidence;
        world.contract.statement.evidence = evidence.clone();
        assert_eq!(judged(&world).ruling, ruling, "{confidence:?} {evidence:?}");
    }
}

#[test]
fn sources_must_answer_be_young_and_agree() {
    let agree = Agreement { sources: vec!["a".into(), "b".into()], within: Tolerance::Absolute(n(2.0)) };
    let rule = Rule { agree: vec![agree], ..rule(Outcome::Review) };
    let of = |a: Option<Observed>, b: Option<Observed>, staged: bool| {
        let mut world = world(applied(rule.clone(), vec![]), staged);
        let named = [("a", a), ("b", b)].into_iter().filter_map(|(name, o)| Some((name.to_owned(), o?)));
        world.evidence.as_mut().unwrap().sources = named.collect();
        judged(&world)
    };
    let old = |limit| Observed { max_age: Some(SignedDuration::from_secs(limit)), ..source(5.0) };
    assert_eq!(of(Some(source(5.0)), Some(source(7.0)), true).ruling, Ruling::Allow);
    let differ = of(Some(source(5.0)), Some(source(7.5)), true);
    assert_eq!(differ.ruling, Ruling::Review);
    assert!(differ.reason.contains("`a` (5) and `b` (7.5) differ by more than 2"), "{}", differ.reason);
    assert_eq!(of(Some(source(5.0)), None, true).ruling, Ruling::Deny);
    assert_eq!(of(None, None, false).ruling, Ruling::Allow, "sources are asked after staging");
    let silent = Observed { value: Err("did not answer within 5 ms".into()), ..source(0.0) };
    assert_eq!(of(Some(silent), Some(source(5.0)), true).ruling, Ruling::Deny);
    assert_eq!(of(Some(old(100)), Some(source(5.0)), true).ruling, Ruling::Allow);
    assert_eq!(of(Some(old(99)), Some(source(5.0)), true).ruling, Ruling::Review);
    let early = Observed { at: at(100 + 61), ..source(5.0) };
    assert_ne!(of(Some(early), Some(source(5.0)), true).ruling, Ruling::Allow, "nothing was observed tomorrow");
}

#[test]
fn a_number_is_held_against_its_history() {
    let usual = |short| Usual { of: Quantity::Field("/amount".into()), limit: n(3.5), least: 3, short };
    let of = |amount: serde_json::Value, history: &[f64], short| {
        let mut world = world(applied(Rule { usual: vec![usual(short)], ..rule(Outcome::Deny) }, vec![]), true);
        world.contract.arguments = json!({ "amount": amount });
        let history = history.iter().copied().map(n).collect();
        world.evidence.as_mut().unwrap().histories = [("shop__execute /amount".to_owned(), history)].into();
        judged(&world).ruling
    };
    assert_eq!(of(json!(11), &[9.0, 10.0, 11.0], Outcome::Review), Ruling::Allow);
    assert_eq!(of(json!(1100), &[9.0, 10.0, 11.0], Outcome::Review), Ruling::Deny);
    assert_eq!(of(json!(11), &[9.0, 10.0], Outcome::Review), Ruling::Review);
    assert_eq!(of(json!(11), &[9.0, 10.0], Outcome::Deny), Ruling::Deny);
    assert_eq!(of(json!("11"), &[9.0, 10.0, 11.0], Outcome::Review), Ruling::Deny, "text is no number");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Older evidence, more reads, a lower age and lost memory never loosen.
    #[test]
    fn older_evidence_never_loosens(
        ages in proptest::collection::vec(0i64..300, 0..4), older in 0i64..300, limit in 1i64..200,
        required in any::<bool>(), review in any::<bool>(), staged in any::<bool>(), forgotten in any::<bool>(),
    ) {
        let outcome = if review { Outcome::Review } else { Outcome::Deny };
        let of = |older: i64, limit: i64, forgotten: bool| {
            let reads = ages.iter().map(|age| held(100 - age - older, Again::Same)).collect();
            let rule = Rule { outcome, ..reading(Some(limit), required) };
            judged(&world(vec![Applied { rule, reads, forgotten }], staged)).ruling
        };
        let base = of(0, limit, false);
        prop_assert!(of(older, limit, false) >= base);
        prop_assert!(of(0, 1, false) >= base);
        prop_assert!(of(0, limit, forgotten) >= base);
    }
}

#[test]
fn it_speaks_of_nothing_but_what_a_rule_concerns() {
    let mut rule = reading(None, true);
    rule.of.tools = vec![ToolName::new("notes__delete").unwrap()];
    let mut world = world(applied(rule, vec![]), false);
    assert_eq!(judged(&world).ruling, Ruling::Allow);
    world.contract = contract(&registered("notes__delete"), "a.txt", "");
    assert_eq!(judged(&world).ruling, Ruling::Deny);
    world.contract.actor = Actor::Turnback;
    assert_eq!(judged(&world).ruling, Ruling::Deny, "who asks is for whoever looks the facts up");
}
