use proptest::prelude::*;

use super::*;
use crate::decision::Phase;
use crate::effect::Touch;
use crate::fixtures::{World, at, blast, contract, decision, measurement, registered, run_id};
use crate::run::{self, Command};
use crate::tool::Match;

fn seen(labels: &[Label]) -> Labels {
    labels.iter().map(|label| (*label, Seen { at: at(-5), run: run_id(9) })).collect()
}

fn rule(after: &[Label], outcome: Outcome) -> Rule {
    Rule {
        name: "no way out".into(),
        after: after.iter().copied().collect(),
        then: Selector::default(),
        outcome,
        reason: "secrets do not follow tickets".into(),
    }
}

fn with(flow: Flow) -> World {
    // Every policy of these tests is this one, which gives `intent` its digest.
    let mut world = World::new("", "notes__write_file");
    world.flow = Some(flow);
    world
}

fn judged(world: &World) -> Verdict {
    judge(&world.facts())
}

#[test]
fn all_labels_of_a_rule_must_have_been_read() {
    use Label::{Personal, Secret, Untrusted};
    for (labels, ruling) in [
        (vec![], Ruling::Allow),
        (vec![Untrusted], Ruling::Allow),
        (vec![Secret, Personal], Ruling::Allow),
        (vec![Untrusted, Secret], Ruling::Deny),
        (vec![Untrusted, Secret, Personal], Ruling::Deny),
    ] {
        let rules = vec![rule(&[Untrusted, Secret], Outcome::Deny)];
        let verdict = judged(&with(Flow { labels: seen(&labels), rules, refused: vec![] }));
        assert_eq!(verdict.ruling, ruling, "{labels:?}");
        if ruling == Ruling::Deny {
            assert!(
                verdict.reason.contains("untrusted content 5 s ago")
                    && verdict.reason.contains("secrets do not follow")
            );
        }
    }
}

#[test]
fn the_strictest_rule_wins_and_an_approval_answers_a_review() {
    let rules = vec![rule(&[Label::Secret], Outcome::Review), rule(&[Label::Untrusted], Outcome::Deny)];
    let mut world = with(Flow { labels: seen(&Label::ALL), rules, refused: vec![] });
    world.approved = true;
    assert_eq!(judged(&world).ruling, Ruling::Deny);
    world.flow.as_mut().unwrap().rules.pop();
    assert_eq!(judged(&world).ruling, Ruling::Allow);
    world.approved = false;
    assert_eq!(judged(&world).ruling, Ruling::Review);
}

/// A run of `contract` that the policy denied, before or after it was measured.
fn denied(contract: crate::contract::Contract, places: Option<&[(&str, Change)]>) -> run::Run {
    let mut refusal = decision(if places.is_some() { Phase::After } else { Phase::Before }, Ruling::Deny);
    refusal.policy = World::new("", "shop__query").policy.digest();
    refusal.verdicts[0].gate = "authorization".into();
    let judge = |decision| run::Event::Judged { decision, circumstances: crate::fixtures::circumstances() };
    let opened = run::open(run_id(7), contract, Match::Exact, at(0));
    assert_eq!(opened.commands, [Command::Judge(Phase::Before)]);
    let Some(places) = places else { return run::step(opened.run, judge(refusal), at(1)).unwrap().run };
    let cleared = run::step(opened.run, judge(decision(Phase::Before, Ruling::Allow)), at(1)).unwrap();
    let staged = run::Event::Staged { measurement: Box::new(touching(places)) };
    let measured = run::step(cleared.run, staged, at(1)).unwrap();
    run::step(measured.run, judge(refusal), at(1)).unwrap().run
}

fn touching(places: &[(&str, Change)]) -> Measurement {
    let mut measured = measurement(blast(1), "x");
    let print = Some(crate::effect::Fingerprint(Sha256::of(b"content")));
    measured.plan.footprint.places = places
        .iter()
        .map(|(place, change)| Touch {
            place: (*place).into(),
            fields: if *change == Change::Structure { vec!["mode".into()] } else { vec![] },
            before: print,
            after: if *change == Change::Remove { None } else { print },
        })
        .collect();
    measured
}

fn returned(intent: Intent, tool: &str, place: &str, statement: &str, measured: Option<Measurement>) -> Verdict {
    let mut world = with(Flow { refused: vec![intent], ..Flow::default() });
    world.contract = contract(&registered(tool), place, statement);
    world.measurement = measured;
    judged(&world)
}

/// Incident 16: an edit is denied, the same comes back through another tool.
#[test]
fn a_denied_intent_is_recognised_whatever_the_tool() {
    use Change::{Put, Remove, Structure};
    let intent = Intent::of(&denied(contract(&registered("notes__write_file"), "prod/config", ""), None)).unwrap();
    let verdict = returned(intent.clone(), "notes__write_file", "prod/config", "", None);
    assert_eq!(verdict.ruling, Ruling::Deny);
    assert!(verdict.reason.contains("refused once before, first by the policy as run"), "{}", verdict.reason);
    // A move names where it comes from; where it goes to is measured.
    let onto = touching(&[("a.txt", Remove), ("prod/config", Put)]);
    assert_eq!(returned(intent.clone(), "notes__move", "a.txt", "", None).ruling, Ruling::Allow);
    assert_eq!(returned(intent.clone(), "notes__move", "a.txt", "", Some(onto)).ruling, Ruling::Deny);
    // Something else becomes of it, or of something else.
    for (place, change, ruling) in [
        ("prod/config", Remove, Ruling::Allow),
        ("prod/config", Structure, Ruling::Allow),
        ("prod/config.bak", Put, Ruling::Allow),
        ("prod/config", Put, Ruling::Deny),
    ] {
        let measured = touching(&[(place, change)]);
        assert_eq!(
            returned(intent.clone(), "notes__move", "a.txt", "", Some(measured)).ruling,
            ruling,
            "{place} {change:?}"
        );
    }
    let more = Intent { times: 3, ..intent };
    assert!(returned(more, "notes__write_file", "prod/config", "", None).reason.contains("refused 3 times"));
}

#[test]
fn rows_are_recognised_in_another_statement_and_a_part_of_them_is_a_smaller_action() {
    use Change::{Put, Remove};
    let rows = [("customers 1", Remove), ("customers 2", Remove)];
    let run = denied(contract(&registered("shop__execute"), "customers", "delete"), Some(&rows));
    let intent = Intent::of(&run).unwrap();
    let of = |places: &[(&str, Change)]| {
        returned(intent.clone(), "shop__execute", "customers", "replace", Some(touching(places))).ruling
    };
    assert_eq!(of(&rows), Ruling::Deny);
    assert_eq!(
        of(&[rows[0], ("orders 1", Remove), ("orders 2", Remove)]),
        Ruling::Deny,
        "more than was asked for before"
    );
    assert_eq!(of(&[rows[0]]), Ruling::Allow, "narrower, as refusals ask for");
    assert_eq!(of(&[("customers 1", Put), ("customers 2", Put)]), Ruling::Allow);
    assert_eq!(of(&[("customers 3", Remove)]), Ruling::Allow);
    // What a person rejected is put to a person, in part too.
    let rejected = Intent { by_person: true, ..intent.clone() };
    assert_eq!(
        returned(rejected, "shop__execute", "customers", "delete", Some(touching(&[rows[0]]))).ruling,
        Ruling::Review
    );
    // More than is listed cannot be told apart.
    let mut many = touching(&[("customers 3", Remove)]);
    many.plan.footprint.more = 1;
    assert_eq!(returned(intent, "shop__execute", "customers", "delete", Some(many)).ruling, Ruling::Deny);
    // A class of statement that was refused before it was measured: the whole table.
    let class = Intent::of(&denied(contract(&registered("shop__execute"), "customers", "delete"), None)).unwrap();
    assert_eq!(
        returned(class.clone(), "shop__execute", "customers", "replace", Some(touching(&rows))).ruling,
        Ruling::Deny
    );
    assert_eq!(returned(class, "shop__execute", "customers", "insert", None).ruling, Ruling::Allow);
}

#[test]
fn another_policy_another_target_and_what_is_about_the_moment_are_not_the_same_intent() {
    let run = denied(contract(&registered("notes__write_file"), "a.txt", ""), None);
    let intent = Intent::of(&run).unwrap();
    let of = |intent: Intent| returned(intent, "notes__write_file", "a.txt", "", None).ruling;
    assert_eq!(of(intent.clone()), Ruling::Deny);
    assert_eq!(of(Intent { policy: Sha256::of(b"other"), ..intent.clone() }), Ruling::Allow);
    assert_eq!(of(Intent { target: "other".into(), ..intent.clone() }), Ruling::Allow);
    assert_eq!(of(Intent { by_person: true, ..intent }), Ruling::Review);
    let mut frozen = run;
    if let State::Ended { how: Ended::Denied(decision), .. } = &mut frozen.state {
        decision.verdicts[0].gate = "controls".into();
    }
    assert_eq!(Intent::of(&frozen), None, "a freeze ends, and asking again is what it invites to");
    assert_eq!(Intent::of(&denied(contract(&registered("notes__read_file"), "a.txt", ""), None)), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// More labels, more rules and more refusals never loosen.
    #[test]
    fn more_never_loosens(
        labels in proptest::collection::vec(0usize..3, 0..3), more in 0usize..3,
        rules in proptest::collection::vec((0usize..8, any::<bool>()), 0..4), refused in 0usize..3, approved in any::<bool>(),
    ) {
        let word = |i: usize| Label::ALL[i % 3];
        let rules: Vec<Rule> = rules
            .into_iter()
            .map(|(bits, deny)| {
                let after: Vec<Label> = (0..3).filter(|i| bits >> i & 1 == 1).map(word).collect();
                rule(&after, if deny { Outcome::Deny } else { Outcome::Review })
            })
            .collect();
        let labels: Vec<Label> = labels.into_iter().map(word).collect();
        let one = Intent::of(&denied(contract(&registered("notes__write_file"), "a.txt", ""), None)).unwrap();
        let of = |labels: &[Label], rules: &[Rule], refused: usize| {
            let intent = Intent { by_person: refused == 1, ..one.clone() };
            let refused = vec![intent; refused];
            let mut world = with(Flow { labels: seen(labels), rules: rules.to_vec(), refused });
            world.approved = approved;
            judged(&world).ruling
        };
        let base = of(&labels, &rules, refused);
        let mut all = labels.clone();
        all.push(word(more));
        prop_assert!(of(&all, &rules, refused) >= base);
        let fewer = rules.get(1..).unwrap_or_default();
        prop_assert!(of(&labels, fewer, refused) <= base);
        prop_assert!(of(&labels, &rules, 0) <= base);
    }
}
