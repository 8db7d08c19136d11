use std::path::Path;

use turnback_core::flags::Reason;
use turnback_core::gates::release::Mode;

use super::*;
use crate::config::Config;

fn settings() -> RemoteFlags {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("turnback.toml");
    let text = "[[flags.remote]]\nurl = \"https://flags.example\"\nrefresh = \"10s\"\nstale_after = \"1m\"\n";
    std::fs::write(&file, text).unwrap();
    Config::load(Path::new(&file)).unwrap().remote_flags.remove(0)
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + milliseconds).unwrap()
}

fn question(n: usize) -> Question {
    Question::new("release".into(), n.to_string().as_bytes())
}

fn off(milliseconds: i64) -> Came {
    Ok((at(milliseconds), Answer { reason: Reason::Static, variant: None, mode: Some(Mode::Off) }))
}

fn gone() -> Came {
    Err(Failed::Down("it is gone".into(), None))
}

/// One service and its clock.
struct World {
    answers: Answers,
    settings: RemoteFlags,
}

impl World {
    fn new() -> Self {
        Self { answers: Answers::default(), settings: settings() }
    }

    fn next(&mut self, n: usize, now: i64) -> Next {
        self.answers.next(&question(n), &self.settings, at(now))
    }

    fn known(&mut self, n: usize, now: i64) -> Said {
        match self.next(n, now) {
            Next::Known(said) => said,
            _ => panic!("nothing is known of {n} at {now}"),
        }
    }

    /// Asks, and lets it come to something.
    fn ask(&mut self, n: usize, now: i64, came: &Came) {
        match self.next(n, now) {
            Next::Ask(tell) | Next::Refresh(_, tell) => {
                self.answers.came(&question(n), came, at(now));
                tell.send_replace(Some(came.clone()));
            }
            _ => panic!("{n} is not asked at {now}"),
        }
    }
}

fn stale(said: &Said) -> Option<&str> {
    said.remote.as_ref()?.stale.as_deref()
}

#[test]
fn an_answer_is_used_while_it_is_fresh_and_asked_for_again_behind_its_second_half() {
    let mut world = World::new();
    world.ask(1, 0, &off(0));
    let said = world.known(1, 5_000);
    assert_eq!((said.mode, stale(&said)), (Some(Mode::Off), None));
    assert_eq!(said.remote.unwrap().at, Some(at(0)));
    let Next::Refresh(said, tell) = world.next(1, 5_001) else { panic!("it is asked again") };
    assert_eq!(said.mode, Some(Mode::Off));
    // Once, by one.
    world.known(1, 9_999);
    assert!(matches!(world.next(1, 10_000), Next::Wait(_)));
    world.answers.came(&question(1), &off(5_001), at(11_000));
    drop(tell);
    assert_eq!(world.known(1, 10_001).remote.unwrap().at, Some(at(5_001)));
    // Another question is another.
    assert!(matches!(world.next(2, 10_001), Next::Ask(_)));
}

#[test]
fn what_cannot_be_asked_again_counts_until_it_is_too_old() {
    let mut world = World::new();
    world.ask(1, 0, &off(0));
    world.ask(1, 10_000, &gone());
    for now in [10_000, 14_999] {
        let said = world.known(1, now);
        assert_eq!(
            (said.mode, stale(&said)),
            (Some(Mode::Off), Some("it is gone; it is asked again in a few seconds"))
        );
        // Nothing else was ever said.
        assert!(world.known(2, now).error.unwrap().starts_with("it is gone"));
    }
    world.ask(1, 60_000, &gone());
    assert!(stale(&world.known(1, 60_000)).is_some());
    let late = world.known(1, 60_001);
    assert_eq!((late.mode, late.remote.as_ref().unwrap().at), (None, None));
    assert!(late.error.unwrap().ends_with("what it said 60 s ago is too old"));
}

#[test]
fn a_service_that_is_down_is_left_alone_and_then_tried_by_one() {
    let mut world = World::new();
    world.ask(1, 0, &off(0));
    world.ask(2, 10_000, &gone());
    assert_eq!(world.answers.rests_until(), Some(at(15_000)));
    world.known(3, 14_999);
    let Next::Ask(tell) = world.next(3, 15_000) else { panic!("it is tried") };
    // What is known is used meanwhile; what is not waits for the trial.
    assert!(stale(&world.known(1, 15_001)).is_some());
    assert!(matches!(world.next(4, 15_001), Next::After(_)));
    assert!(matches!(world.next(3, 15_001), Next::Wait(_)));
    world.answers.came(&question(3), &off(15_000), at(15_002));
    tell.send_replace(Some(off(15_000)));
    assert_eq!(world.answers.rests_until(), None);
    assert!(matches!(world.next(4, 15_002), Next::Ask(_)));
}

#[test]
fn a_trial_that_comes_to_nothing_does_not_end_all_trials() {
    let mut world = World::new();
    world.ask(1, 0, &gone());
    let Next::Ask(tell) = world.next(1, 5_000) else { panic!("it is tried") };
    // There was no room, or its task is gone.
    world.answers.came(&question(1), &Err(Failed::Busy("no room".into())), at(5_001));
    drop(tell);
    assert!(matches!(world.next(2, 5_001), Next::Ask(_)));
}

#[test]
fn a_service_may_ask_for_a_longer_rest_but_not_for_ever() {
    for (asked, rests) in [(None, 5_000), (Some(1), 5_000), (Some(60), 60_000), (Some(1 << 40), 300_000)] {
        let mut world = World::new();
        world.ask(1, 0, &Err(Failed::Down("429".into(), asked.map(SignedDuration::from_secs))));
        assert_eq!(world.answers.rests_until(), Some(at(rests)));
    }
}

#[test]
fn one_wrong_answer_stops_one_question_and_for_a_while() {
    let mut world = World::new();
    world.ask(1, 0, &off(0));
    world.ask(1, 10_000, &Err(Failed::Wrong("its value is a number".into())));
    let said = world.known(1, 14_999);
    assert_eq!((said.mode, stale(&said)), (Some(Mode::Off), Some("its value is a number")));
    assert!(matches!(world.next(2, 14_999), Next::Ask(_)));
    world.ask(1, 15_000, &off(15_000));
    assert_eq!(stale(&world.known(1, 15_000)), None);
}

#[test]
fn a_flood_of_contexts_grows_nothing_beyond_its_bounds() {
    let mut world = World::new();
    for n in 0..HELD_LIMIT + 500 {
        let came = if n % 7 == 0 { Err(Failed::Wrong("no mode".into())) } else { off(0) };
        world.ask(n, 0, &came);
    }
    assert_eq!((world.answers.held.len(), world.answers.turns.len()), (HELD_LIMIT, HELD_LIMIT));
    // The newest are kept, and asking again keeps one longer.
    assert!(!world.answers.held.contains_key(&question(499)));
    world.ask(500, 10_000, &off(10_000));
    world.ask(HELD_LIMIT + 500, 10_000, &off(10_000));
    assert!(world.answers.held.contains_key(&question(500)));
    assert!(!world.answers.held.contains_key(&question(501)));
    assert_eq!((world.answers.held.len(), world.answers.turns.len()), (HELD_LIMIT, HELD_LIMIT));

    let mut world = World::new();
    let tells: Vec<_> = (0..ASKING_LIMIT).map(|n| world.next(n, 0)).collect();
    assert!(tells.iter().all(|next| matches!(next, Next::Ask(_))));
    assert!(world.known(ASKING_LIMIT, 0).error.unwrap().contains("1000 questions to it are under way"));
    assert_eq!(world.answers.asking.len(), ASKING_LIMIT);
}
