use super::*;
use crate::fixtures::{World, at, blast, measurement, run_id};
use crate::names::AgentName;

fn lease(place: &str) -> Lease {
    Lease {
        spot: Spot {
            resource: ResourceName::new("shop").unwrap(),
            place: Some(Place { kind: crate::tool::Kind::Sqlite, at: place.into() }),
        },
        holder: Holder { agent: AgentName::new("cleaner").unwrap(), on_behalf_of: None, trace: None },
        token: 7,
        since: at(0),
        until: at(600),
        lasts: SignedDuration::from_secs(600),
        run: run_id(1),
    }
}

fn rule(on_conflict: OnConflict) -> Rule {
    Rule {
        name: "rows".into(),
        of: Selector::default(),
        whole: false,
        on_conflict,
        wait: SignedDuration::from_secs(5),
        lease: SignedDuration::from_secs(600),
        by_trace: false,
        soft: None,
        depends: Vec::new(),
    }
}

fn unsettled() -> Obstacle {
    let Lease { holder, spot, .. } = lease("customers 17");
    Obstacle::Run { run: run_id(2), holder, spot, state: "parked".into(), since: at(0) }
}

fn judged(met: Vec<Met>, fence: Vec<Lease>, approved: bool, staged: bool) -> Verdict {
    let mut world = World::new("", "shop__execute");
    world.collision = Some(Collision { fence, met, waited_ms: 5_000 });
    world.approved = approved;
    world.measurement = staged.then(|| measurement(blast(1), "x"));
    judge(&world.facts())
}

#[test]
fn each_rule_has_its_ruling_and_names_the_holder() {
    for (on_conflict, obstacle, ruling, approved) in [
        (OnConflict::Deny, Obstacle::Lease(lease("customers 17")), Ruling::Deny, Ruling::Deny),
        (OnConflict::Wait, Obstacle::Lease(lease("customers 17")), Ruling::Deny, Ruling::Deny),
        (OnConflict::Review, Obstacle::Lease(lease("customers 17")), Ruling::Review, Ruling::Allow),
        (OnConflict::Deny, unsettled(), Ruling::Deny, Ruling::Deny),
        (OnConflict::Wait, unsettled(), Ruling::Review, Ruling::Allow),
        (OnConflict::Review, unsettled(), Ruling::Review, Ruling::Allow),
    ] {
        let met = Met::new(&rule(on_conflict), obstacle);
        let verdict = judged(vec![met.clone()], Vec::new(), false, true);
        assert_eq!(verdict.ruling, ruling, "{met:?}");
        assert!(verdict.reason.contains("agent `cleaner`") && verdict.reason.contains("since"), "{}", verdict.reason);
        assert!(verdict.next.is_some() && verdict.rules == ["rows"], "{verdict:?}");
        assert_eq!(judged(vec![met], vec![lease("customers 17")], true, true).ruling, approved);
    }
    let held =
        judged(vec![Met::new(&rule(OnConflict::Wait), Obstacle::Lease(lease("customers 17")))], vec![], false, true);
    assert!(held.reason.contains("until") && held.reason.contains("token 7") && held.reason.contains("5000 ms"));
}

#[test]
fn the_strictest_obstacle_decides_and_none_may_be_left_out() {
    let soft = Met::new(&rule(OnConflict::Review), unsettled());
    let hard = Met::new(&rule(OnConflict::Deny), Obstacle::Lease(lease("customers 17")));
    for met in [vec![soft.clone(), hard.clone()], vec![hard, soft]] {
        assert_eq!(judged(met.clone(), vec![lease("customers 18")], false, true).ruling, Ruling::Deny);
        assert_eq!(judged(met, vec![lease("customers 18")], true, true).ruling, Ruling::Deny);
    }
}

#[test]
fn a_staged_write_without_the_lease_a_rule_wants_is_a_deny() {
    assert_eq!(judged(vec![], vec![], false, true).ruling, Ruling::Deny);
    let soft = Met::new(&rule(OnConflict::Review), unsettled());
    assert_eq!(judged(vec![soft], vec![], true, true).ruling, Ruling::Deny);
    assert_eq!(judged(vec![], vec![lease("customers 17")], false, true).ruling, Ruling::Allow);
    assert_eq!(judged(vec![], vec![], false, false).ruling, Ruling::Allow);
    // What changes nothing wants none.
    let mut world = World::new("", "shop__execute");
    world.collision = Some(Collision::default());
    let mut found = measurement(blast(0), "x");
    found.plan.footprint.places.clear();
    world.measurement = Some(found);
    assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    // No rule wants any.
    assert_eq!(judge(&World::new("", "shop__execute").facts()).ruling, Ruling::Allow);
}

#[test]
fn a_rule_wants_places_or_all_of_it_and_what_it_depends_on() {
    let mut world = World::new("", "shop__execute");
    world.measurement = Some(measurement(blast(1), "x"));
    let all = |name: &str| Spot { resource: ResourceName::new(name).unwrap(), place: None };
    let spots = |rule: &Rule, world: &World| rule.spots(&world.contract, world.facts().measured);
    let mut by_place = rule(OnConflict::Deny);
    assert_eq!(spots(&by_place, &world), BTreeSet::from([lease("customers 17").spot]));
    assert_eq!(by_place.spots(&world.contract, None), BTreeSet::new());
    by_place.depends = vec![ResourceName::new("notes").unwrap()];
    assert_eq!(spots(&by_place, &world), BTreeSet::from([lease("customers 17").spot, all("notes")]));
    // A write on what others depend on wants its own places only, and is asked about all the same.
    by_place.of.resources = vec![ResourceName::new("other").unwrap()];
    assert!(!by_place.concerns(&world.contract));
    by_place.depends = vec![ResourceName::new("shop").unwrap()];
    assert!(by_place.concerns(&world.contract));
    assert_eq!(spots(&by_place, &world), BTreeSet::from([lease("customers 17").spot]));
    let whole = Rule { whole: true, ..rule(OnConflict::Deny) };
    assert_eq!(whole.spots(&world.contract, None), BTreeSet::from([all("shop")]));
    // What is not listed, or structure, may be anywhere.
    let anywhere = |change: &dyn Fn(&mut crate::run::Measurement)| {
        let mut world = World::new("", "shop__execute");
        let mut found = measurement(blast(1), "x");
        change(&mut found);
        world.measurement = Some(found);
        assert_eq!(spots(&rule(OnConflict::Deny), &world), BTreeSet::from([all("shop")]));
    };
    anywhere(&|m| m.plan.footprint.more = 1);
    anywhere(&|m| m.effect.blast.schema_objects = 1);
    // People and reads are not concerned.
    world.contract.actor = crate::contract::Actor::Operator("anna".into());
    assert!(!whole.concerns(&world.contract));
    assert!(!whole.concerns(&World::new("", "shop__query").contract));
}
