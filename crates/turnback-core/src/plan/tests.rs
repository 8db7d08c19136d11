use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::fixtures::{blast, contract, measurement, registered};
use crate::gates::Measured;
use crate::refusal::{Code, Refusal};

fn draft(value: &Value) -> Result<Draft, Refusal> {
    Draft::parse(value.to_string().as_bytes())
}

fn steps(after: &[&[&str]]) -> Value {
    let step = |(at, after): (usize, &&[&str])| json!({ "name": format!("s{at}"), "tool": "t", "arguments": {}, "after": after });
    json!({ "goal": "g", "steps": after.iter().enumerate().map(step).collect::<Vec<_>>() })
}

#[test]
fn steps_stand_behind_what_they_wait_for_and_otherwise_as_listed() {
    let found = draft(&steps(&[&["s2"], &[], &["s3"], &[]])).unwrap();
    assert_eq!(found.order, [1, 3, 2, 0]);
    assert_eq!((found.lifetime, found.never.len(), found.at_most.is_empty()), (LIFETIME_DEFAULT, 0, true));
}

#[test]
fn what_is_wrong_is_named_with_its_step_and_field() {
    let one = json!({ "name": "a", "tool": "t", "arguments": {} });
    let with = |key: &str, value: Value| {
        let mut plan = json!({ "goal": "g", "steps": [one] });
        plan[key] = value;
        plan
    };
    let many: Vec<Value> = (0..65).map(|n| json!({ "name": format!("s{n}"), "tool": "t", "arguments": {} })).collect();
    for (plan, place, says) in [
        (steps(&[&["s1"], &["s2"], &["s1"]]), "steps[1].after", "s1 -> s2 -> s1"),
        (steps(&[&["s0"]]), "steps[0].after", "s0 -> s0"),
        (steps(&[&[], &["s7"]]), "steps[1].after", "no step is called `s7`"),
        (with("steps", json!([])), "steps", "at least one"),
        (with("steps", json!([one, one])), "steps[1].name", "steps[0] already"),
        (with("steps", json!([{ "name": "a b", "tool": "t" }])), "steps[0].name", "`a b` is no name"),
        (with("steps", json!([{ "name": "a", "tool": 3 }])), "steps[0].tool", "a text"),
        (with("steps", json!([{ "name": "a", "tool": "t", "arguments": [] }])), "steps[0].arguments", "an object"),
        (with("steps", json!([{ "name": "a", "tool": "t", "when": 1 }])), "steps[0].when", "unknown field"),
        (with("steps", json!(many)), "steps", "65 entries"),
        (with("goal", json!(" ")), "goal", "what the plan is for"),
        (with("by", json!("anna")), "by", "unknown field"),
        (with("expires_in", json!(0)), "expires_in", "from 1 to 86400"),
        (with("never", json!([{ "verb": "explode" }])), "never[0].verb", "one of search"),
        (with("never", json!([{ "colour": "red" }])), "never[0].colour", "unknown field"),
        (with("at_most", json!({ "cows": 1 })), "at_most.cows", "unknown field"),
        (with("at_most", json!({ "rows": 1.5 })), "at_most.rows", "whole number"),
    ] {
        let refusal = draft(&plan).expect_err(says);
        assert_eq!(refusal.place.as_deref(), Some(place), "{refusal}");
        assert!(refusal.message.contains(says), "{refusal}");
    }
    assert_eq!(Draft::parse(&vec![b' '; SIZE_LIMIT + 1]).unwrap_err().code, Code::TooLarge);
    assert_eq!(Draft::parse(b"{\"goal\":1,\"goal\":2}").unwrap_err().code, Code::BadInput);
}

#[test]
fn a_constraint_holds_what_is_said_against_what_was_measured() {
    let write = contract(&registered("shop__execute"), "customers", "delete");
    let notes = contract(&registered("notes__delete"), "notes/1.txt", "");
    let found = measurement(blast(3), "x");
    let measured = Some(Measured { effect: &found.effect, plan: &found.plan });
    let never = |value: Value| {
        let plan = json!({ "goal": "g", "steps": [{ "name": "a", "tool": "t" }], "never": [value] });
        draft(&plan).unwrap().never.remove(0)
    };
    for (said, forbids) in [
        (json!({ "statement": "delete" }), true),
        (json!({ "statement": ["drop_table", "DELETE"] }), true),
        (json!({ "statement": "drop_table" }), false),
        (json!({ "statement": "delete", "resource": "notes" }), false),
        (json!({ "environment": "production", "verb": "update" }), true),
        (json!({ "table": "Customers" }), true),
        (json!({ "table": "orders" }), false),
        (json!({ "path": "customers" }), false),
        (json!({ "risk": "irreversible" }), false),
    ] {
        assert_eq!(never(said.clone()).forbids(&write, measured), forbids, "{said}");
    }
    for (path, forbids) in [("notes", true), ("notes/", true), ("notes/1.txt", true), ("note", false), ("b", false)] {
        assert_eq!(never(json!({ "path": path })).forbids(&notes, None), forbids, "{path}");
    }
    // By what it does: another table is named than the one that changes.
    let cascade = contract(&registered("shop__execute"), "teams", "delete");
    assert!(!never(json!({ "table": "customers" })).forbids(&cascade, None));
    assert!(never(json!({ "table": "customers" })).forbids(&cascade, measured));
    // An index does not say whose it is.
    let mut index = measurement(Blast { schema_objects: 1, ..Blast::default() }, "x");
    let place = |text: &str| crate::effect::Touch { place: text.into(), fields: vec![], before: None, after: None };
    for (text, forbids) in [("index `i`", true), ("table `orders`", false), ("table `Customers`", true)] {
        index.plan.footprint.places = vec![place(text)];
        let measured = Some(Measured { effect: &index.effect, plan: &index.plan });
        assert_eq!(never(json!({ "table": "customers" })).forbids(&cascade, measured), forbids, "{text}");
    }
}

#[test]
fn what_must_be_stated_is_stated_as_such_or_wider() {
    let never = |value: Value| {
        let plan =
            json!({ "goal": "g", "steps": [{ "name": "a", "tool": "t" }], "never": value, "at_most": { "rows": 3 } });
        let draft = draft(&plan).unwrap();
        (draft.never, draft.at_most)
    };
    let must = |text: &str| Must::parse(text).unwrap();
    for (said, stated) in [
        (json!([{ "statement": "drop_table" }]), true),
        (json!([{ "statement": ["drop_index", "DROP_TABLE"] }]), true),
        (json!([{ "path": "a" }, { "statement": "drop_table" }]), true),
        // Narrower than asked for.
        (json!([{ "statement": "drop_table", "resource": "shop" }]), false),
        (json!([{ "statement": "drop_index" }]), false),
        (json!([]), false),
    ] {
        let (never, at_most) = never(said.clone());
        assert_eq!(must("never statement=drop_table").is_stated(&never, &at_most), stated, "{said}");
        assert!(must("at_most rows").is_stated(&never, &at_most));
        assert!(!must("at_most bytes").is_stated(&never, &at_most));
    }
    for wrong in
        ["", "never", "never drop", "never statement=", "never colour=red", "at_most", "at_most cows", "always x"]
    {
        assert!(Must::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn sums_end_exactly_and_never_wrap() {
    let at_most = AtMost { rows_deleted: Some(6), ..AtMost::default() };
    let three = Amounts::of(&blast(3));
    assert_eq!(at_most.exceeded(three.plus(three)), []);
    assert_eq!(at_most.exceeded(three.plus(three).plus(Amounts::of(&blast(1)))), [("rows_deleted", 7, 6)]);
    let full = Amounts { rows_deleted: u64::MAX, ..Amounts::default() };
    assert_eq!(at_most.exceeded(full.plus(three)), [("rows_deleted", u64::MAX, 6)]);
}

/// A graph as lists of what each node waits for.
fn graph() -> impl Strategy<Value = Vec<BTreeSet<usize>>> {
    (1..12_usize).prop_flat_map(|n| prop::collection::vec(prop::collection::btree_set(0..n, 0..3), n))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// There is an order exactly when no step waits for itself through others; the order holds for every edge,
    /// and read backwards it takes back each step before everything that step waited for. What is spelled as a
    /// cycle is one.
    #[test]
    fn every_cycle_is_found_and_every_order_holds(after in graph()) {
        let ring = (0..after.len()).any(|at| reaches(&after, at, at));
        match order(&after) {
            Ok(order) => {
                prop_assert!(!ring);
                let place = |step: usize| order.iter().position(|at| *at == step).unwrap();
                prop_assert_eq!(order.len(), after.len());
                for (step, waits) in after.iter().enumerate() {
                    prop_assert!(waits.iter().all(|on| place(*on) < place(step)));
                }
                let back: Vec<usize> = order.iter().rev().copied().collect();
                for (step, waits) in after.iter().enumerate() {
                    let at = back.iter().position(|b| *b == step).unwrap();
                    prop_assert!(waits.iter().all(|on| back[..at].iter().all(|b| b != on)));
                }
            }
            Err(cycle) => {
                prop_assert!(ring && cycle.len() > 1);
                prop_assert_eq!(cycle.first(), cycle.last());
                prop_assert!(cycle.windows(2).all(|pair| after[pair[0]].contains(&pair[1])));
            }
        }
    }
}
