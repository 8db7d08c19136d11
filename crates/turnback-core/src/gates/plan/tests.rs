use super::*;
use crate::contract::Actor;
use crate::digest::Sha256;
use crate::fixtures::{World, at, blast, measurement, run_id};
use serde_json::json;
use uuid::Uuid;

fn plan_id(n: u128) -> PlanId {
    PlanId::new(Uuid::from_u128(n))
}

fn step() -> StepOf {
    let found = measurement(blast(3), "x").effect;
    StepOf {
        plan: plan_id(1),
        step: "delete".into(),
        ended: None,
        expires: at(10),
        after: vec![],
        run: None,
        verified: Some(Verified {
            summary: found.summary,
            effect: found.digest,
            places: found.places,
            effect_match: Match::Exact,
        }),
        never: vec![],
        at_most: AtMost::default(),
        spent: Amounts::default(),
        unstated: None,
    }
}

fn world(planned: Planned) -> World {
    let mut world = World::new("", "shop__execute");
    world.measurement = Some(measurement(blast(3), "x"));
    world.plan = Some(planned);
    world
}

fn of(step: StepOf) -> World {
    world(Planned { step: Some(step), ..Planned::default() })
}

#[test]
fn what_no_plan_concerns_passes_and_so_do_reads_and_people() {
    let mut world = World::new("", "shop__execute");
    assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    let strict = Planned { required: Some("r".into()), step: None, beside: vec![plan_id(1)] };
    world.plan = Some(strict.clone());
    world.contract.actor = Actor::Operator("anna".into());
    assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    let mut world = World::new("", "shop__query");
    world.plan = Some(strict);
    assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
}

#[test]
fn a_step_runs_in_its_order_in_its_time_and_once() {
    type Change = fn(&mut StepOf);
    let cases: [(Change, Ruling, &str); 8] = [
        (|_| {}, Ruling::Allow, "it is step `delete`"),
        (|s| s.after = vec![("a".into(), Some("settled".into()))], Ruling::Allow, ""),
        (|s| s.after = vec![("a".into(), None)], Ruling::Deny, "out of order: `a` is not done"),
        (|s| s.after = vec![("a".into(), Some("in_doubt".into()))], Ruling::Deny, "`a` is in_doubt"),
        (|s| s.run = Some((run_id(7), "running".into())), Ruling::Deny, "at most once"),
        (|s| s.ended = Some("aborted".into()), Ruling::Deny, "is aborted"),
        (|s| s.expires = at(0), Ruling::Deny, "expired at"),
        (|s| s.spent = Amounts { rows: 99, ..Amounts::default() }, Ruling::Allow, ""),
    ];
    for (change, ruling, says) in cases {
        let mut step = step();
        change(&mut step);
        for measured in [true, false] {
            let mut world = of(step.clone());
            world.measurement = world.measurement.filter(|_| measured);
            let verdict = judge(&world.facts());
            assert_eq!(verdict.ruling, ruling, "{verdict:?}");
            assert!(verdict.reason.contains(says), "{verdict:?}");
            // No yes of a person changes what is denied.
            world.approved = true;
            assert_eq!(judge(&world.facts()).ruling, ruling);
        }
    }
}

#[test]
fn another_effect_than_was_verified_is_looked_at() {
    let mut world = of(step());
    world.measurement = Some(measurement(blast(2), "y"));
    let verdict = judge(&world.facts());
    assert_eq!(verdict.ruling, Ruling::Review);
    assert!(verdict.reason.contains("it was to `deletes 3 rows`, it would `deletes 2 rows`"), "{verdict:?}");
    world.approved = true;
    assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    // Where the values may differ, the places must not.
    world.approved = false;
    let mut changed = step();
    let verified = changed.verified.as_mut().unwrap();
    verified.effect_match = Match::SameRows;
    if let Some(measured) = &mut world.measurement {
        measured.effect.volatile = true;
    }
    world.plan = Some(Planned { step: Some(changed.clone()), ..Planned::default() });
    assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    changed.verified.as_mut().unwrap().places = EffectDigest(Sha256::of(b"elsewhere"));
    world.plan = Some(Planned { step: Some(changed), ..Planned::default() });
    assert_eq!(judge(&world.facts()).ruling, Ruling::Review);
}

#[test]
fn what_the_plan_promised_is_held_against_what_all_steps_do() {
    let mut limited = step();
    limited.at_most = AtMost { rows_deleted: Some(5), ..AtMost::default() };
    assert_eq!(judge(&of(limited.clone()).facts()).ruling, Ruling::Allow);
    limited.spent = Amounts { rows_deleted: 3, ..Amounts::default() };
    let mut world = of(limited);
    world.approved = true;
    let verdict = judge(&world.facts());
    assert_eq!(verdict.ruling, Ruling::Deny);
    assert!(verdict.reason.contains("6 rows_deleted, at most 5"), "{verdict:?}");
    let mut bound = step();
    bound.never = vec![Never { tables: vec!["customers".into()], ..Never::default() }];
    let mut world = of(bound);
    assert_eq!(judge(&world.facts()).ruling, Ruling::Deny);
    world.measurement = None;
    assert_eq!(judge(&world.facts()).ruling, Ruling::Allow, "before it is measured nothing says so");
}

#[test]
fn what_is_no_step_deviates_where_a_plan_is_under_way_and_is_denied_where_one_is_required() {
    for (required, beside, approved, ruling) in [
        (false, true, false, Ruling::Review),
        (true, true, false, Ruling::Review),
        (true, true, true, Ruling::Allow),
        (true, false, false, Ruling::Deny),
        (true, false, true, Ruling::Deny),
    ] {
        let beside = if beside { vec![plan_id(1)] } else { vec![] };
        let mut world = world(Planned { required: required.then(|| "r".into()), step: None, beside });
        world.approved = approved;
        assert_eq!(judge(&world.facts()).ruling, ruling, "{required} {approved}");
    }
}

/// What an agent says of itself only ever makes it stricter.
#[test]
fn naming_a_plan_never_helps() {
    let none = World::new("", "shop__execute");
    let own = of(step());
    let other = world(Planned { required: Some("r".into()), ..Planned::default() });
    for mut world in [none, own, other] {
        let silent = judge(&world.facts()).ruling;
        for said in
            [json!(plan_id(1)), json!(plan_id(2)), json!("pl_\u{202e}"), json!("a free text"), json!({ "a": 1 })]
        {
            world.contract.statement.plan = Some(said.clone());
            let verdict = judge(&world.facts());
            assert!(verdict.ruling >= silent, "{said}: {verdict:?}");
            assert!(!verdict.reason.contains('\u{202e}'));
        }
        world.contract.statement.plan = Some(json!(plan_id(2)));
        assert!(judge(&world.facts()).ruling >= Ruling::Review);
    }
}

#[test]
fn facts_are_recorded_and_read_back() {
    let planned = Planned { required: Some("r".into()), step: Some(step()), beside: vec![plan_id(3)] };
    let text = serde_json::to_string(&planned).unwrap();
    assert_eq!(serde_json::from_str::<Planned>(&text).unwrap(), planned);
}
