use proptest::prelude::*;

use super::*;
use crate::contract::Actor;
use crate::decision::Obligation;
use crate::fixtures::{World, at, contract, registered};
use crate::gates::release;

const SERVICE: &str = "https://flags.example";

fn read(status: u16, answer: &Value) -> Result<Answer, String> {
    Answer::read("release", status, answer.to_string().as_bytes())
}

fn heard(stale: Option<&str>) -> Heard {
    Heard { service: SERVICE.into(), at: Some(at(0)), stale: stale.map(str::to_owned) }
}

fn said(mode: Mode, stale: Option<&str>) -> Said {
    let answer = Answer { reason: Reason::Static, variant: Some("v".into()), mode: Some(mode) };
    Said::heard("release".into(), &answer, heard(stale))
}

#[test]
fn every_mode_is_understood_with_every_reason_openfeature_names() {
    let reasons = ["STATIC", "TARGETING_MATCH", "SPLIT", "TARGETING_MATCH_SPLIT", "DEFAULT", "CACHED", "UNKNOWN"];
    for word in Mode::WORDS {
        for reason in reasons {
            let answer = json!({ "key": "release", "reason": reason, "variant": "v", "value": word,
                "metadata": { "owner": "anna", "n": 1.5 }, "cacheable": true });
            let read = read(200, &answer).unwrap();
            assert_eq!((read.mode, read.variant.as_deref()), (Mode::from_word(word), Some("v")));
        }
    }
    let bare = read(200, &json!({ "key": "release", "value": "off" })).unwrap();
    assert_eq!(bare, Answer { reason: Reason::Unknown, variant: None, mode: Some(Mode::Off) });
}

#[test]
fn what_says_nothing_is_an_answer_of_its_own() {
    let silent = |status, answer: Value| assert_eq!(read(status, &answer).unwrap().mode, None, "{answer}");
    silent(404, json!({ "key": "release", "errorCode": "FLAG_NOT_FOUND" }));
    silent(200, json!({ "key": "release", "reason": "DISABLED" }));
    silent(200, json!({ "key": "release", "reason": "DISABLED", "value": null }));
    silent(200, json!({ "key": "release", "reason": "DEFAULT", "variant": "" }));
    // A value counts whatever its reason.
    let off = read(200, &json!({ "key": "release", "reason": "DISABLED", "value": "off" })).unwrap();
    assert_eq!((off.reason, off.mode), (Reason::Disabled, Some(Mode::Off)));
}

#[test]
fn everything_else_is_no_answer_and_says_why() {
    let good = |more: Value| {
        let mut answer = json!({ "key": "release", "reason": "STATIC", "variant": "v", "value": "autonomous" });
        answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        answer
    };
    for (status, answer, says) in [
        (200, good(json!({ "value": "auto" })), "`auto` is no mode: off, "),
        (200, good(json!({ "value": "" })), "is no mode"),
        (200, good(json!({ "value": true })), "a boolean"),
        (200, good(json!({ "value": 1 })), "a number"),
        (200, good(json!({ "value": { "mode": "off" } })), "not the word"),
        (200, good(json!({ "value": ["off"] })), "not the word"),
        (200, good(json!({ "value": null })), "no value"),
        (200, good(json!({ "reason": "BECAUSE" })), "`BECAUSE` is unknown"),
        (200, good(json!({ "reason": "STALE" })), "stale"),
        (200, good(json!({ "reason": "ERROR" })), "could not evaluate"),
        (200, good(json!({ "reason": 3 })), "not text"),
        (200, good(json!({ "key": "release.agent.coder" })), "another key, `release.agent.coder`"),
        (200, good(json!({ "key": 1 })), "another key"),
        (200, json!({ "reason": "STATIC", "value": "autonomous" }), "does not name the key"),
        (200, good(json!({ "variant": 7 })), "variant is not text"),
        (200, good(json!({ "variant": "v".repeat(201) })), "longer than 200"),
        (200, good(json!({ "errorCode": "GENERAL" })), "answers 200, `GENERAL`"),
        (200, json!(["release"]), "not an object"),
        (400, json!({ "key": "release", "errorCode": "TARGETING_KEY_MISSING" }), "400, `TARGETING_KEY_MISSING`"),
        (400, json!({ "key": "release", "errorCode": "FLAG_NOT_FOUND" }), "400, `FLAG_NOT_FOUND`"),
        (404, json!({ "key": "release", "errorCode": "GENERAL" }), "404, `GENERAL`"),
        (404, json!({ "errorCode": "FLAG_NOT_FOUND" }), "does not name the key"),
        (404, json!({ "key": "relaese", "errorCode": "FLAG_NOT_FOUND" }), "another key"),
        // Whatever a service that has no such address answers is not `no such flag`.
        (404, good(json!({})), "answers 404"),
        (500, good(json!({})), "answers 500"),
    ] {
        let why = read(status, &answer).expect_err(&answer.to_string());
        assert!(why.contains(says), "{answer}: {why}");
    }
    for (body, says) in [
        (&b"{"[..], "not strict JSON"),
        (b"", "not strict JSON"),
        (b"<html>", "not strict JSON"),
        (br#"{"key":"release","value":"off","value":"autonomous"}"#, "duplicate key `value`"),
        (b"{\"key\":\"release\",\"value\":\"off\xff\"}", "invalid UTF-8"),
        (br#"{"key":"release","reason":"DISABLED","value":1e400}"#, "round trip"),
    ] {
        let why = Answer::read("release", 200, body).unwrap_err();
        assert!(why.contains(says), "{why}");
    }
    let long = format!(r#"{{"key":"release","value":"off","metadata":"{}"}}"#, "x".repeat(ANSWER_LIMIT));
    assert!(Answer::read("release", 200, long.as_bytes()).unwrap_err().contains("larger than 65536"));
}

#[test]
fn what_is_quoted_is_short_and_harmless() {
    let value = format!("\u{202e}{}", "x".repeat(1000));
    let why = read(200, &json!({ "key": "release", "value": value })).unwrap_err();
    assert!(why.contains("<U+202E>") && why.len() < 250, "{why}");
}

#[test]
fn the_keys_are_those_of_the_convention_that_concern_the_action() {
    let all: Vec<Wanted> = Wanted::ALL.iter().map(|key| Wanted::parse(key).unwrap()).collect();
    let mut contract = contract(&registered("shop__execute"), "a.txt", "");
    let (environment, resource) = (contract.environment.clone(), contract.resource.clone());
    let mut expected = vec![
        "release".to_owned(),
        format!("release.environment.{environment}"),
        format!("release.resource.{resource}"),
        "release.tool.shop__execute".to_owned(),
        "release.agent.coder".to_owned(),
    ];
    assert_eq!(keys(&all, &contract), expected);
    contract.assignment.workflow = Some("a/b c".into());
    expected.insert(4, "release.workflow.a/b c".into());
    assert_eq!(keys(&all, &contract), expected);
    let some = ["release.agent.coder", "release.agent.ben", "release.tool.*"].map(|key| Wanted::parse(key).unwrap());
    assert_eq!(keys(&some, &contract), ["release.tool.shop__execute", "release.agent.coder"]);
    for wanted in all.iter().chain(&some) {
        assert_eq!(Wanted::parse(&wanted.to_string()).as_ref(), Some(wanted));
    }
    for none in ["", "relaese", "release.", "release.tool", "release.tool.", "release.owner.anna"] {
        assert_eq!(Wanted::parse(none), None, "{none}");
    }
    // People are not governed by flags.
    contract.actor = Actor::Turnback;
    assert!(keys(&all, &contract).is_empty());
}

#[test]
fn a_key_stays_one_segment_of_the_path() {
    assert_eq!(
        path("release.workflow.a/../b?c#d %é"),
        "/ofrep/v1/evaluate/flags/release.workflow.a%2F..%2Fb%3Fc%23d%20%25%C3%A9"
    );
}

#[test]
fn equal_contexts_are_equal_questions_and_others_are_not() {
    let world = World::new("", "shop__execute");
    let asked = |change: fn(&mut Contract)| {
        let mut contract = world.contract.clone();
        change(&mut contract);
        question(&contract, world.agent.as_ref())
    };
    let plain = asked(|_| ());
    let context: Value = serde_json::from_slice(&plain).unwrap();
    assert_eq!(context["context"]["targetingKey"], "coder");
    assert_eq!(context["context"]["owner"], "anna");
    assert_eq!(asked(|c| c.trace = None), plain);
    assert_ne!(asked(|c| c.on_behalf_of = Some("ben".into())), plain);
    assert_ne!(asked(|c| c.assignment.account = Some("acme".into())), plain);
    assert_ne!(question(&world.contract, None), plain);
}

#[test]
fn the_gate_names_the_service_the_key_and_what_happened() {
    let mut world = World::new("", "shop__execute");
    let unheard = Said::unheard("release".into(), SERVICE.into(), "it did not answer within 300 ms".into());
    world.flags = Flagged::together(None, vec![unheard]);
    let verdict = release::judge(&world.facts());
    assert_eq!(verdict.ruling, crate::decision::Ruling::Deny);
    assert_eq!(verdict.reason, "flag `release` of https://flags.example is not known: it did not answer within 300 ms");
    assert!(verdict.next.unwrap().contains("turnback flags remote"));

    world.now = at(42);
    world.flags = Flagged::together(None, vec![said(Mode::Off, Some("it answers 503"))]);
    let verdict = release::judge(&world.facts());
    assert_eq!(
        verdict.reason,
        "flag `release` of https://flags.example is `v`, mode `off` (stale, said 42 s ago, and not known now: it \
         answers 503): nothing runs"
    );
    assert!(verdict.next.unwrap().contains("at https://flags.example"));

    // Used while it is allowed, it is named as well.
    world.flags = Flagged::together(None, vec![said(Mode::Enforce, Some("it answers 503"))]);
    let verdict = release::judge(&world.facts());
    assert_eq!(verdict.ruling, crate::decision::Ruling::Allow);
    assert!(verdict.reason.contains("stale, said 42 s ago"), "{}", verdict.reason);
    assert!(!release::judge(&World::new("", "shop__execute").facts()).reason.contains("stale"));
}

#[test]
fn records_come_back_and_older_ones_are_read() {
    let flagged = Flagged::together(None, vec![said(Mode::Draft, Some("why")), said(Mode::Off, None)]).unwrap();
    let text = serde_json::to_string(&flagged).unwrap();
    assert_eq!(serde_json::from_str::<Flagged>(&text).unwrap(), flagged);
    let digest = "0".repeat(64);
    let old = format!(
        r#"{{"document":"{digest}","said":[{{"flag":"release","reason":"STATIC","variant":"on","mode":"enforce"}}]}}"#
    );
    let read: Flagged = serde_json::from_str(&old).unwrap();
    assert!(read.document.is_some() && read.said[0].remote.is_none());
    assert_eq!(serde_json::to_string(&read).unwrap(), old, "an old record is written as it was");
}

const MODES: [Mode; 7] =
    [Mode::Off, Mode::SearchOnly, Mode::Fallback, Mode::Observe, Mode::Draft, Mode::ApprovedExternal, Mode::Enforce];

/// Upholds `ONLY-TIGHTEN`, for every pair of what holds here and what a service says, fresh, stale or unknown.
#[test]
fn a_service_never_loosens_what_holds_here() {
    for tool in ["shop__execute", "shop__query"] {
        let mut world = World::new("", tool);
        let mut judged = |mode, local: Option<Mode>, remote: Vec<Said>, approved| {
            let local =
                local.map(|mode| Flagged { document: None, said: vec![Said { remote: None, ..said(mode, None) }] });
            world.mode = mode;
            world.approved = approved;
            world.flags = Flagged::together(local, remote);
            let verdict = release::judge(&world.facts());
            (verdict.ruling, verdict.obligations.contains(&Obligation::MeasureOnly))
        };
        for (mode, local) in MODES.iter().flat_map(|mode| MODES.iter().map(move |local| (*mode, Some(*local)))) {
            for approved in [false, true] {
                let before = judged(mode, local, vec![], approved);
                for remote in MODES {
                    let alone = judged(remote, None, vec![], approved);
                    for stale in [None, Some("why")] {
                        let after = judged(mode, local, vec![said(remote, stale)], approved);
                        assert_eq!(after.0, before.0.max(alone.0), "{mode:?} {local:?} {remote:?}");
                        assert_eq!(after.1, before.1 || alone.1, "{mode:?} {local:?} {remote:?}");
                    }
                }
                let unheard = Said::unheard("release".into(), SERVICE.into(), "why".into());
                assert_eq!(judged(mode, local, vec![unheard], approved).0, crate::decision::Ruling::Deny);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, there is an answer with a mode of ours or none, or one line that says why not.
    #[test]
    fn no_body_breaks_the_reader(status in proptest::sample::select(vec![200_u16, 400, 404]), body in ".{0,200}") {
        if let Err(why) = Answer::read("release", status, body.as_bytes()) {
            prop_assert!(!why.contains('\n') && why.len() < 1_000);
        }
    }
}
