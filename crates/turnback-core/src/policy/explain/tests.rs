use super::*;
use crate::decision::{Phase, Verdict};
use crate::fixtures::{World, blast, measurement};
use crate::gates::decide;

fn explained(world: &World) -> Explanation {
    let circumstances = world.facts().circumstances();
    let before = decide(Phase::Before, &circumstances.facts(&world.contract, &world.policy, None));
    let after = decide(Phase::After, &world.facts());
    let judged = |decision| Judged { decision, circumstances: &circumstances };
    let recorded = Recorded {
        contract: &world.contract,
        before: judged(&before),
        after: world.measurement.as_ref().map(|m| (judged(&after), &m.effect, &m.plan)),
    };
    Explanation::new(&recorded, &world.policy, &|_| Mode::Enforce)
}

const ALL: &str = "@id(\"all\") permit(principal, action, resource);\n";

#[test]
fn one_sentence_then_rules_with_their_place_facts_and_the_nearest_alternative() {
    let policy = format!(
        "{ALL}@id(\"many\") @outcome(\"review\") @reason(\"more than\\n2 rows\")\nforbid(principal, action, resource)\n\
         when {{ context has effect && context.effect.rows_deleted > 2 }} unless {{ context.approved }};"
    );
    let mut world = World::new(&policy, "shop__execute");
    world.measurement = Some(measurement(blast(30), "x"));
    let explanation = explained(&world);
    let text = explanation.text();
    assert!(text.starts_with("A person decides: authorization says more than<U+000A>2 rows.\nnext: "), "{text}");
    assert!(text.contains("rule many (test.cedar:2)"), "{text}");
    assert!(text.contains("context.effect.rows_deleted  30\n"), "{text}");
    assert!(text.contains("nearest acceptable: rows deleted at most 2 instead of 30: allow\n"), "{text}");
    let others: Vec<String> = explanation.alternatives.iter().map(|a| a.fact.clone()).collect();
    assert_eq!(others, ["rows deleted", "approved by a person"], "{text}");
}

#[test]
fn what_is_offered_is_what_the_gates_say() {
    // A limit that an approval does not lift, and a review that a smaller size does not lift.
    let policy = format!(
        "{ALL}@id(\"ask\") @outcome(\"review\") forbid(principal, action in Action::\"write\", resource) unless {{ context.approved }};"
    );
    let mut world = World::new(&policy, "shop__execute");
    world.measurement = Some(measurement(blast(30), "x"));
    world.limits.action.rows = Some(10);
    let explanation = explained(&world);
    assert_eq!(explanation.ruling, Ruling::Deny);
    let found: Vec<_> = explanation.alternatives.iter().map(|a| (a.fact.as_str(), a.to.as_str(), a.ruling)).collect();
    assert_eq!(found, [("rows deleted", "at most 10", Ruling::Review)], "{}", explanation.text());
}

#[test]
fn another_tool_for_the_same_is_offered_as_far_as_it_can_be_said() {
    let policy = "@id(\"moves\") permit(principal, action in Action::\"files.move\", resource);\n\
                  @id(\"reads\") permit(principal, action in Action::\"read\", resource);";
    let world = World::new(policy, "notes__delete");
    let found = explained(&world).alternatives;
    let [one] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((one.fact.as_str(), one.to.as_str(), one.ruling), ("tool", "notes__move", Ruling::Allow));
    assert!(one.unmeasured && one.line().ends_with("before staging"));
}

#[test]
fn when_no_single_fact_helps_that_is_said() {
    let mut world = World::new("", "notes__write_file");
    world.mode = Mode::Off;
    let text = explained(&world).text();
    assert!(text.contains("no single fact, changed alone, would make the answer less strict"), "{text}");
}

#[test]
fn an_older_decision_is_told_apart_from_the_present_policy() {
    let mut world = World::new("", "shop__execute");
    let mut explanation = explained(&world);
    assert!(!explanation.text().contains("present policy is"));
    world.policy = crate::fixtures::policy(ALL);
    let circumstances = world.facts().circumstances();
    let judged = Judged { decision: &explanation.before, circumstances: &circumstances };
    let recorded = Recorded { contract: &world.contract, before: judged, after: None };
    explanation = Explanation::new(&recorded, &world.policy, &|_| Mode::Enforce);
    assert_eq!((explanation.ruling, explanation.now), (Ruling::Deny, Ruling::Allow));
    assert!(explanation.text().contains("on the recorded facts it says allow"), "{}", explanation.text());
}

#[test]
fn a_decision_without_a_verdict_has_a_sentence() {
    let world = World::new(ALL, "shop__execute");
    let circumstances = world.facts().circumstances();
    let decision = Decision::combine(Phase::Before, world.policy.digest(), Vec::<Verdict>::new());
    let judged = Judged { decision: &decision, circumstances: &circumstances };
    let recorded = Recorded { contract: &world.contract, before: judged, after: None };
    let explanation = Explanation::new(&recorded, &world.policy, &|_| Mode::Enforce);
    assert_eq!(explanation.sentence, "Denied: no gate spoke.");
}
