use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::approval::Question;
use crate::digest::Sha256;
use crate::fixtures::{
    approval_id, at, blast, circumstances, contract, decision, measure_only, measurement, registered, run_id,
};

/// Run 1: an agent deletes rows; or reads, for `read` states.
fn fresh(tool: &str) -> Run {
    open(run_id(1), contract(&registered(tool), "customers", "delete"), Match::Exact, at(0)).run
}

fn question(run: &Run) -> Question {
    let shown = &run.state.measurement().unwrap().effect;
    let policy = run.state.decisions().1.unwrap().policy;
    Question {
        id: approval_id(1),
        run: run.id,
        action: run.contract.digest(),
        effect: shown.digest,
        places: shown.places,
        policy,
        asked: at(0),
        expires: at(600),
        approvers: vec![],
        exceptions: vec![],
        only_exceptions: false,
    }
}

/// Every kind of event, by a label; `run` supplies what a question or an answer must agree with.
const EVENTS: [&str; 39] = [
    "proposed",
    "before-allow",
    "before-review",
    "before-constrain",
    "before-fallback",
    "before-deny",
    "before-observe",
    "after-allow",
    "after-review",
    "after-constrain",
    "after-deny",
    "after-observe",
    "staged",
    "staged-other",
    "refused",
    "released",
    "parked",
    "parked-other",
    "approved",
    "approved-other",
    "rejected",
    "expired",
    "intended",
    "measured_only",
    "committed-ok",
    "committed-failed",
    "committed-unknown",
    "progressed",
    "probed-before",
    "probed-after",
    "probed-between",
    "probed-neither",
    "probed-unreachable",
    "observed-ok",
    "observed-bad",
    "undone",
    "redone",
    "delivered",
    "abandoned",
];

fn refusal() -> Refusal {
    Refusal::new(Code::Failed, "no")
}

fn event(label: &str, run: &Run) -> Event {
    use Ruling::{Allow, Constrain, Deny, Fallback, Review};
    let ask = |ok: bool| {
        let mut question = match &run.state {
            State::Asking(_) => question(run),
            State::Parked(parked) => parked.question.clone(),
            // Anywhere else no question fits; any will do.
            _ => Question { id: approval_id(9), ..some_question() },
        };
        if !ok {
            question.effect = crate::digest::EffectDigest(Sha256::of(b"never shown"));
        }
        question
    };
    let before = |ruling| Event::Judged { decision: decision(Phase::Before, ruling), circumstances: circumstances() };
    let after = |ruling| Event::Judged { decision: decision(Phase::After, ruling), circumstances: circumstances() };
    let staged = |label| Event::Staged { measurement: Box::new(measurement(blast(3), label)) };
    let approved =
        |ok| Answer::Approved { approval: Box::new(Approval { question: ask(ok), by: "anna".into(), at: at(1) }) };
    let probed = |standing| Event::Probed { standing };
    let observed = |differences: &[&str]| Event::Observed {
        observation: Observation {
            compared: 3,
            differences: differences.iter().map(|d| (*d).to_owned()).collect(),
            probes: vec![],
        },
    };
    match label {
        "proposed" => Event::Proposed { contract: Box::new(run.contract.clone()) },
        "before-allow" => before(Allow),
        "before-review" => before(Review),
        "before-constrain" => before(Constrain),
        "before-fallback" => before(Fallback),
        "before-deny" => before(Deny),
        "before-observe" => Event::Judged { decision: measure_only(Phase::Before), circumstances: circumstances() },
        "after-allow" => after(Allow),
        "after-review" => after(Review),
        "after-constrain" => after(Constrain),
        "after-deny" => after(Deny),
        "after-observe" => Event::Judged { decision: measure_only(Phase::After), circumstances: circumstances() },
        "staged" => staged("effect"),
        "staged-other" => staged("another effect"),
        "refused" => Event::Refused { refusal: refusal() },
        "released" => Event::Released { read: vec!["customers".into()], digest: None },
        "parked" => Event::Parked { question: ask(true), moved: None },
        "parked-other" => Event::Parked { question: ask(false), moved: None },
        "approved" => Event::Answered { answer: approved(true) },
        "approved-other" => Event::Answered { answer: approved(false) },
        "rejected" => Event::Answered { answer: Answer::Rejected { by: "anna".into(), reason: "no".into() } },
        "expired" => Event::Answered { answer: Answer::Expired },
        "intended" => Event::Intended,
        "measured_only" => Event::MeasuredOnly,
        "committed-ok" => Event::Committed { outcome: Outcome::Succeeded },
        "committed-failed" => Event::Committed { outcome: Outcome::Failed { refusal: refusal() } },
        "committed-unknown" => Event::Committed { outcome: Outcome::Unknown { why: "lost".into() } },
        "progressed" => Event::Progressed { step: "one".into() },
        "probed-before" => probed(Standing::Before),
        "probed-after" => probed(Standing::After),
        "probed-between" => probed(Standing::Between { done: 1, of: 2 }),
        "probed-neither" => probed(Standing::Neither { why: "odd".into() }),
        "probed-unreachable" => probed(Standing::Unreachable { why: "gone".into() }),
        "observed-ok" => observed(&[]),
        "observed-bad" => observed(&["row 17"]),
        "undone" => Event::Undone { by: run_id(2) },
        "redone" => Event::Redone { by: run_id(3) },
        "delivered" => Event::Delivered,
        "abandoned" => Event::Abandoned { why: "restart".into() },
        other => panic!("no event `{other}`"),
    }
}

fn some_question() -> Question {
    question(&walk("shop__execute", &["before-allow", "staged", "after-review"]))
}

fn try_walk(tool: &str, labels: &[&str]) -> Result<(Run, Vec<Command>), Illegal> {
    let mut run = fresh(tool);
    let mut commands = vec![Command::Judge(Phase::Before)];
    for label in labels {
        let next = event(label, &run);
        let done = step(run, next, at(2))?;
        (run, commands) = (done.run, done.commands);
    }
    Ok((run, commands))
}

fn walk(tool: &str, labels: &[&str]) -> Run {
    try_walk(tool, labels).unwrap().0
}

const PARKED: [&str; 4] = ["before-review", "staged", "after-allow", "parked"];
const COMMITTING: [&str; 4] = ["before-allow", "staged", "after-allow", "intended"];

/// Every state, by a name and a walk that leads there.
fn states() -> Vec<(&'static str, Run)> {
    let write = |labels: &[&str]| walk("shop__execute", labels);
    let after = |base: &[&'static str], more: &[&'static str]| write(&[base, more].concat());
    vec![
        ("proposed", write(&[])),
        ("proposed-read", walk("shop__query", &[])),
        ("cleared", write(&["before-allow"])),
        ("cleared-read", walk("shop__query", &["before-allow"])),
        ("measured", write(&["before-allow", "staged"])),
        ("measured-observe", write(&["before-observe", "staged"])),
        ("asking", write(&["before-allow", "staged", "after-review"])),
        ("parked", after(&PARKED, &[])),
        ("approved", after(&PARKED, &["approved"])),
        ("cleared-approved", after(&PARKED, &["approved", "before-allow"])),
        ("measured-approved", after(&PARKED, &["approved", "before-allow", "staged"])),
        ("allowed-approved", after(&PARKED, &["approved", "before-allow", "staged", "after-allow"])),
        ("allowed", write(&["before-allow", "staged", "after-allow"])),
        ("allowed-observe", write(&["before-allow", "staged", "after-observe"])),
        ("committing", after(&COMMITTING, &[])),
        ("in_doubt", after(&COMMITTING, &["committed-unknown"])),
        ("stuck", after(&COMMITTING, &["probed-neither"])),
        ("done", after(&COMMITTING, &["committed-ok"])),
        ("settled", after(&COMMITTING, &["committed-ok", "observed-ok"])),
        ("diverged", after(&COMMITTING, &["committed-ok", "observed-bad"])),
        ("undone", after(&COMMITTING, &["committed-ok", "observed-ok", "undone"])),
        ("undone-early", after(&COMMITTING, &["committed-ok", "undone"])),
        ("settled-waiting", {
            let approved =
                ["approved", "before-allow", "staged", "after-allow", "intended", "committed-ok", "observed-ok"];
            after(&PARKED, &approved)
        }),
        ("denied", write(&["before-deny"])),
        ("refused", write(&["before-allow", "refused"])),
        ("rejected-waiting", after(&PARKED, &["rejected"])),
        ("expired", after(&PARKED, &["expired", "delivered"])),
        ("released", walk("shop__query", &["before-allow", "released"])),
        ("measured_only", write(&["before-observe", "staged", "after-allow", "measured_only"])),
        ("abandoned", write(&["abandoned"])),
    ]
}

/// The table: state, event, the word of the state after, commands. Everything else is impossible.
const TABLE: &str = "
proposed           before-allow        cleared        Stage
proposed           before-review       cleared        Stage
proposed           before-observe      cleared        Stage
proposed           before-constrain    denied         Tell
proposed           before-fallback     denied         Tell
proposed           before-deny         denied         Tell
proposed           abandoned           abandoned      Discard Tell
proposed-read      before-allow        cleared        Read
proposed-read      before-observe      cleared        Read
proposed-read      before-review       denied         Tell
proposed-read      before-constrain    denied         Tell
proposed-read      before-fallback     denied         Tell
proposed-read      before-deny         denied         Tell
proposed-read      abandoned           abandoned      Discard Tell
cleared            staged              measured       Judge(After)
cleared            staged-other        measured       Judge(After)
cleared            refused             refused        Tell
cleared            abandoned           abandoned      Discard Tell
cleared-read       released            released       -
cleared-read       refused             refused        Tell
cleared-read       abandoned           abandoned      Discard Tell
measured           after-allow         allowed        Commit
measured           after-review        asking         Discard Ask
measured           after-constrain     denied         Discard Tell
measured           after-deny          denied         Discard Tell
measured           after-observe       allowed        Discard MeasureOnly
measured           refused             refused        Discard Tell
measured           abandoned           abandoned      Discard Tell
measured-observe   after-allow         allowed        Discard MeasureOnly
measured-observe   after-review        allowed        Discard MeasureOnly
measured-observe   after-constrain     denied         Discard Tell
measured-observe   after-deny          denied         Discard Tell
measured-observe   after-observe       allowed        Discard MeasureOnly
measured-observe   refused             refused        Discard Tell
measured-observe   abandoned           abandoned      Discard Tell
asking             parked              parked         Tell
asking             refused             refused        Discard Tell
asking             abandoned           abandoned      Discard Tell
parked             approved            approved       Judge(Before)
parked             rejected            rejected       Tell
parked             expired             expired        Tell
approved           before-allow        cleared        Stage
approved           before-review       cleared        Stage
approved           before-observe      cleared        Stage
approved           before-constrain    denied         Tell
approved           before-fallback     denied         Tell
approved           before-deny         denied         Tell
cleared-approved   staged              measured       Judge(After)
cleared-approved   staged-other        measured       Judge(After)
cleared-approved   refused             refused        Tell
cleared-approved   abandoned           abandoned      Discard Tell
measured-approved  staged              measured       Judge(After)
measured-approved  staged-other        measured       Judge(After)
measured-approved  after-allow         allowed        Commit
measured-approved  after-review        asking         Discard Ask
measured-approved  after-constrain     denied         Discard Tell
measured-approved  after-deny          denied         Discard Tell
measured-approved  after-observe       allowed        Discard MeasureOnly
measured-approved  refused             refused        Discard Tell
measured-approved  abandoned           abandoned      Discard Tell
allowed-approved   staged              measured       Judge(After)
allowed-approved   staged-other        measured       Judge(After)
allowed-approved   intended            committing     -
allowed-approved   refused             refused        Discard Tell
allowed-approved   abandoned           abandoned      Discard Tell
allowed            intended            committing     -
allowed            refused             refused        Discard Tell
allowed            abandoned           abandoned      Discard Tell
allowed-observe    measured_only       measured_only  Tell
allowed-observe    refused             refused        Discard Tell
allowed-observe    abandoned           abandoned      Discard Tell
committing         progressed          committing     -
committing         committed-ok        done           Observe
committing         committed-failed    refused        Tell
committing         committed-unknown   in_doubt       Probe
committing         probed-before       refused        Tell
committing         probed-after        done           Observe
committing         probed-between      in_doubt       Finish
committing         probed-neither      stuck          Tell
committing         probed-unreachable  in_doubt       Tell
in_doubt           progressed          in_doubt       -
in_doubt           committed-ok        done           Observe
in_doubt           committed-failed    stuck          Tell
in_doubt           committed-unknown   in_doubt       Tell
in_doubt           probed-before       refused        Tell
in_doubt           probed-after        done           Observe
in_doubt           probed-between      in_doubt       Finish
in_doubt           probed-neither      stuck          Tell
in_doubt           probed-unreachable  in_doubt       Tell
stuck              probed-before       refused        Tell
stuck              probed-after        done           Observe
stuck              probed-between      in_doubt       Finish
stuck              probed-neither      stuck          Tell
stuck              probed-unreachable  in_doubt       Tell
done               observed-ok         settled        Tell
done               observed-bad        diverged       RollBack Tell
done               undone              undone         -
settled            undone              undone         -
diverged           undone              undone         -
undone             redone              settled        -
undone-early       redone              done           -
undone-early       observed-ok         undone         Tell
undone-early       observed-bad        undone         Tell
settled-waiting    undone              undone         -
settled-waiting    delivered           settled        -
rejected-waiting   delivered           rejected       -
";

fn words(commands: &[Command]) -> String {
    let words: Vec<String> = commands
        .iter()
        .map(|command| match command {
            Command::Ask { .. } => "Ask".to_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

#[test]
fn every_pair_of_state_and_event_is_in_the_table_or_impossible() {
    let mut table: std::collections::BTreeMap<(String, String), (String, String)> = TABLE
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut parts = line.split_whitespace().map(str::to_owned);
            let mut next = || parts.next().unwrap();
            let key = (next(), next());
            let word = next();
            (key, (word, parts.collect::<Vec<_>>().join(" ")))
        })
        .collect();
    for (name, run) in states() {
        for label in EVENTS {
            let result = step(run.clone(), event(label, &run), at(3));
            match (table.remove(&(name.to_owned(), label.to_owned())), result) {
                (Some((word, commands)), Ok(step)) => {
                    assert_eq!(
                        (step.run.state.word(), words(&step.commands).as_str()),
                        (word.as_str(), commands.as_str()),
                        "{name} + {label}"
                    );
                    assert_eq!(step.run.updated, at(3));
                }
                (None, Err(illegal)) => assert_eq!(illegal.state, run.state.word(), "{name} + {label}"),
                (None, Ok(step)) => panic!("{name} + {label} led to {}", step.run.state.word()),
                (Some(_), Err(illegal)) => panic!("{illegal}, from {name}"),
            }
        }
    }
    assert!(table.is_empty(), "never reached: {table:?}");
}

#[test]
fn an_approved_run_commits_what_was_shown_and_asks_again_when_it_moved() {
    let approved = [&PARKED[..], &["approved", "before-allow"]].concat();
    let (run, commands) = try_walk("shop__execute", &[&approved[..], &["staged", "after-allow"]].concat()).unwrap();
    assert_eq!(commands, [Command::Commit]);
    assert!(run.approval().is_some());
    let (run, commands) =
        try_walk("shop__execute", &[&approved[..], &["staged-other", "after-allow"]].concat()).unwrap();
    assert_eq!(run.state.word(), "asking");
    assert!(run.approval().is_none(), "an approval that did not fit is gone");
    let Some(Command::Ask { moved: Some(moved) }) = commands.get(1) else { panic!("{commands:?}") };
    assert!(moved.contains("deletes 3 rows"), "{moved}");
}

/// Judges the approved run's new staging at `now`, under a decision.
fn after_approval(decision: Decision, rule: Match, volatile: bool, now: Timestamp) -> (State, Vec<Command>) {
    let mut run = walk("shop__execute", &[&PARKED[..], &["approved", "before-allow"]].concat());
    run.effect_match = rule;
    let mut again = measurement(blast(3), "another effect");
    if rule == Match::Exact {
        again = measurement(blast(3), "effect");
    }
    again.effect.volatile = volatile;
    let run = step(run, Event::Staged { measurement: Box::new(again) }, now).unwrap().run;
    let done = step(run, Event::Judged { decision, circumstances: circumstances() }, now).unwrap();
    (done.run.state, done.commands)
}

#[test]
fn an_approval_that_expired_or_met_another_policy_asks_again() {
    let allow = || decision(Phase::After, Ruling::Allow);
    let word = |(state, _): (State, Vec<Command>)| state.word();
    assert_eq!(word(after_approval(allow(), Match::Exact, false, at(599))), "allowed");
    for now in [at(600), at(400 * 86_400), at(0), at(-400 * 86_400)] {
        assert_eq!(word(after_approval(allow(), Match::Exact, false, now)), "asking", "{now}");
    }
    let other = Decision { policy: Sha256::of(b"other"), ..allow() };
    assert_eq!(word(after_approval(other, Match::Exact, false, at(5))), "asking");
    // The same rows with other values, where the tool's contract says so and the statement has the time.
    assert_eq!(word(after_approval(allow(), Match::SameRows, true, at(5))), "allowed");
    assert_eq!(word(after_approval(allow(), Match::SameRows, false, at(5))), "asking");
}

#[test]
fn a_parked_run_keeps_its_decisions_and_its_caller_until_told() {
    let run = walk("shop__execute", &PARKED);
    assert!(run.undelivered);
    assert_eq!(run.resume(), []);
    let (before, after) = run.state.decisions();
    assert_eq!((before.unwrap().ruling, after.unwrap().ruling), (Ruling::Review, Ruling::Allow));
    let ended = walk("shop__execute", &[&PARKED[..], &["rejected"]].concat());
    assert!(ended.undelivered && ended.state.is_over());
    assert!(!walk("shop__execute", &[&PARKED[..], &["rejected", "delivered"]].concat()).undelivered);
}

#[test]
fn after_a_restart_intents_are_probed_and_approved_work_is_staged_again() {
    let resume = |name: &str| states().into_iter().find(|(n, _)| *n == name).unwrap().1.resume();
    for (name, expected) in [
        ("proposed", vec![Command::Discard]),
        ("cleared", vec![Command::Discard]),
        ("measured", vec![Command::Discard]),
        ("allowed", vec![Command::Discard]),
        ("asking", vec![Command::Discard]),
        ("parked", vec![]),
        ("approved", vec![Command::Judge(Phase::Before)]),
        ("cleared-approved", vec![Command::Stage]),
        ("measured-approved", vec![Command::Stage]),
        ("allowed-approved", vec![Command::Stage]),
        ("committing", vec![Command::Probe]),
        ("in_doubt", vec![Command::Probe]),
        ("stuck", vec![]),
        ("done", vec![Command::Observe]),
        ("settled", vec![]),
        ("denied", vec![]),
    ] {
        assert_eq!(resume(name), expected, "{name}");
    }
    let again = [&PARKED[..], &["approved", "before-allow", "staged-other", "after-allow"]].concat();
    assert_eq!(walk("shop__execute", &again).resume(), [Command::Ask { moved: None }]);
    // Staged again in whichever state the crash met, it still needs the gates before a commit.
    for state in ["cleared-approved", "measured-approved", "allowed-approved"] {
        let run = states().into_iter().find(|(n, _)| *n == state).unwrap().1;
        let staged = event("staged", &run);
        let run = step(run, staged, at(3)).unwrap();
        assert_eq!(run.commands, [Command::Judge(Phase::After)]);
        assert!(run.run.approval().is_some());
    }
}

#[test]
fn a_question_or_answer_about_something_else_is_impossible() {
    let asking = walk("shop__execute", &["before-allow", "staged", "after-review"]);
    let good = question(&asking);
    let other = Sha256::of(b"other");
    for wrong in [
        Question { run: run_id(7), ..good.clone() },
        Question { action: crate::digest::ActionDigest(other), ..good.clone() },
        Question { effect: crate::digest::EffectDigest(other), ..good.clone() },
        Question { places: crate::digest::EffectDigest(other), ..good.clone() },
        Question { policy: other, ..good.clone() },
    ] {
        assert!(step(asking.clone(), Event::Parked { question: wrong, moved: None }, at(1)).is_err());
    }
    let parked = step(asking, Event::Parked { question: good.clone(), moved: None }, at(1)).unwrap().run;
    for wrong in [
        Question { id: approval_id(2), ..good.clone() },
        Question { expires: at(9_999_999), ..good.clone() },
        Question { effect: crate::digest::EffectDigest(other), ..good.clone() },
        Question { approvers: vec!["eve".into()], ..good },
    ] {
        let approval = Box::new(Approval { question: wrong, by: "eve".into(), at: at(1) });
        let event = Event::Answered { answer: Answer::Approved { approval } };
        assert!(step(parked.clone(), event, at(1)).is_err());
    }
}

#[test]
fn an_undo_marks_what_it_countered_and_never_rolls_itself_back() {
    let mut run = walk("shop__execute", &[&COMMITTING[..], &["committed-ok"]].concat());
    run.contract.undoes = vec![run_id(9)];
    let observe = |label: &str| step(run.clone(), event(label, &run), at(3)).unwrap().commands;
    assert_eq!(observe("observed-ok"), [Command::MarkUndone, Command::Tell]);
    assert_eq!(observe("observed-bad"), [Command::Tell]);
}

#[test]
fn events_survive_being_written_down() {
    let run = walk("shop__execute", &[&PARKED[..], &["approved"]].concat());
    for label in EVENTS {
        let event = event(label, &run);
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event, "{text}");
        assert!(label.starts_with(event.word()) || json!(event)["event"] == event.word(), "{label}");
    }
}

/// Mostly events that get somewhere, so that many walks come as far as a commit.
fn pick() -> impl Strategy<Value = &'static str> {
    let onwards = [
        "before-allow",
        "before-review",
        "staged",
        "staged",
        "staged-other",
        "after-allow",
        "after-allow",
        "after-review",
        "after-observe",
        "parked",
        "approved",
        "intended",
        "committed-unknown",
    ];
    prop_oneof![9 => prop::sample::select(onwards.to_vec()), 1 => prop::sample::select(EVENTS.to_vec())]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever arrives in whatever order at whatever time: a commit is only asked for when both
    /// decisions allow, nothing is to be measured only, and, once anybody said review, an approval of
    /// exactly this effect under this policy is good at that moment. It happens at most once.
    #[test]
    fn no_order_of_events_leads_to_a_commit_nobody_allowed(
        picks in prop::collection::vec((pick(), 0..20i64), 1..150),
    ) {
        let mut run = fresh("shop__execute");
        let (mut now, mut intents, mut reviewed, mut commits) = (0, 0, false, 0);
        for (pick, wait) in picks {
            // Mostly forwards, sometimes back, rarely beyond the approval's end.
            now += match wait { 0 => -30, 19 => 400, other => other / 6 };
            let event = event(pick, &run);
            let review = matches!(&event, Event::Judged { decision, .. } if decision.ruling == Ruling::Review);
            let intended = event == Event::Intended;
            let was_over = matches!(run.state, State::Ended { .. });
            let Ok(next) = step(run.clone(), event, at(now)) else { continue };
            reviewed |= review;
            intents += u32::from(intended);
            prop_assert!(!was_over || next.commands.is_empty(), "an ended run moved on");
            run = next.run;
            if next.commands.contains(&Command::Commit) {
                commits += 1;
                let State::Allowed(s) = &run.state else { panic!("commit asked for in `{}`", run.state.word()) };
                prop_assert_eq!((s.before.ruling, s.after.ruling), (Ruling::Allow, Ruling::Allow));
                prop_assert!(!s.before.measure_only() && !s.after.measure_only());
                prop_assert!(!reviewed || s.approval.is_some());
                if let Some(approval) = &s.approval {
                    prop_assert_eq!(approval.question.effect, s.measurement.effect.digest);
                    prop_assert!(approval.is_good(at(now)));
                }
                // The permit is minted from exactly this.
                let digest = run.contract.digest();
                let permit = crate::permit::Permit::mint(
                    run.id, digest, &s.measurement.effect, &s.before, &s.after, s.approval.as_ref(),
                    run.effect_match, at(now),
                );
                prop_assert!(permit.is_ok(), "{:?}", permit);
            }
            if intended {
                prop_assert!(commits > 0, "intended without a commit being asked for");
            }
        }
        prop_assert!(intents <= 1);
    }
}
