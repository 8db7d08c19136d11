//! Killed at every boundary: nothing acknowledged is lost, nothing is done twice, and world and journal
//! agree. Built only with feature `turnback/failpoints` (see `required-features`), as `./check` does.
//!
//! Each test is a script of calls, undos and answers. It is played to the `n`-th hit of one fail point,
//! for every `n` until the script ends alive; so every batch of the journal and every point of
//! `runtime/drive.rs` is met, those of starting, registering and stopping included. After the kill a node
//! without fail points recovers, and [`fits`] compares.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;

use common::fits::{Act, Do, Heard, fits, word};
use common::script::{Cut, files, play, questions, rows};
use common::{Place, World};
use serde_json::json;

const SIGKILL: i32 = 9;

/// Another build of the same target directory may have put a binary without fail points in place.
const SUSPECT: &str = "was `turnback` built without feature `turnback/failpoints` meanwhile?";

/// Recovers what the kills left, compares, goes on working, and comes to rest.
fn recovers(place: &Place, base: &World, acts: &[Act], heard: &mut Vec<Heard>, token: &mut Option<String>) {
    let mut known = BTreeMap::new();
    let node = place.start();
    fits(&node, place, base, acts, heard, &mut known);
    let rows = node.rows();
    // Who was cut off asks again: told the end of what was approved, joined to what waits, never done twice.
    if let Some(secret) = token.as_ref() {
        let mut agent = node.agent(secret).unwrap();
        for row in rows.iter().filter(|row| row["undelivered"] == json!(true)) {
            let Do::Call(tool, arguments) = &acts[known[word(row, "run")]].does else { panic!("{row}") };
            let again = agent.call(tool, arguments).unwrap();
            assert_eq!(again.run.as_deref(), Some(word(row, "run")), "{again:?}");
            let told = if word(row, "state") == "parked" { "PENDING" } else { "" };
            assert!(again.text.contains(told) && again.error == (word(row, "state") != "settled"), "{again:?}");
        }
    }
    assert_eq!(node.rows().len(), rows.len());
    fits(&node, place, base, acts, heard, &mut known);
    let settled = node.rows();
    node.stop_in_order();
    place.verify();
    let node = place.start();
    assert_eq!(node.rows(), settled, "a further restart changes nothing");
    fits(&node, place, base, acts, heard, &mut known);
    // The rest of the script goes through as if nothing had happened; what was cut off stays as it is.
    if heard.last().is_none_or(|last| *last != Heard::Nothing) {
        play(&node, acts, heard, token, &|_, _| {}).unwrap();
        assert_eq!(heard.len(), acts.len());
        fits(&node, place, base, acts, heard, &mut known);
    }
    node.kill();
}

/// Plays a script with fail points, again and again after each kill with the next ones. Whether the
/// last of them killed it.
fn killed(script: fn() -> Vec<Act>, failpoints: &[String]) -> bool {
    let place = Place::new();
    let (base, acts) = (place.world(), script());
    let (mut heard, mut token) = (Vec::new(), None);
    let mut died = false;
    for (nth, points) in failpoints.iter().enumerate() {
        assert!(nth == 0 || died, "{failpoints:?}: not killed at the first; {SUSPECT}");
        let status = match place.try_start(points) {
            Err(ended) => ended.status,
            // After a kill nothing is asked any more: what follows is recovery alone.
            Ok(node) if died => node.stop(),
            Ok(node) => match play(&node, &acts, &mut heard, &mut token, &|_, _| {}) {
                Ok(()) => node.stop(),
                Err(Cut::Dead(_)) => node.ended(),
                // The node lives on when only its journal died, and says so.
                Err(Cut::Refused(why)) => panic!("{points}: {why}"),
            },
        };
        died = status.signal() == Some(SIGKILL);
        assert!(died || status.success(), "{points}: {status}");
    }
    recovers(&place, &base, &acts, &mut heard, &mut token);
    died
}

fn nth(point: &str, n: u32) -> String {
    if n == 0 { format!("{point}=return") } else { format!("{point}={n}*off->return") }
}

/// Kills at every hit of a point; returns how many there were.
fn at_every_hit(script: fn() -> Vec<Act>, point: &str) -> u32 {
    let mut n = 0;
    while killed(script, &[nth(point, n)]) {
        n += 1;
    }
    n
}

/// One test for each script and point, with the least number of hits: a point that is never met tests
/// nothing.
macro_rules! kills {
    ($($name:ident: $script:ident, $point:literal, $least:literal;)*) => {
        $(#[test] fn $name() {
            let hits = at_every_hit($script, $point);
            assert!(hits >= $least, "only {hits} hits; {SUSPECT}");
        })*
    };
}

kills! {
    rows_before_each_batch: rows, "journal-before-commit", 10;
    rows_after_each_batch: rows, "journal-after-commit", 10;
    rows_before_intent: rows, "before-intent", 6;
    rows_after_intent: rows, "after-intent", 6;
    rows_after_commit: rows, "after-commit", 6;
    rows_in_undone_marks: rows, "in-undone-marks", 4;
    rows_before_outcome: rows, "before-outcome", 6;
    rows_after_outcome: rows, "after-outcome", 6;

    files_before_each_batch: files, "journal-before-commit", 10;
    files_after_each_batch: files, "journal-after-commit", 10;
    files_before_intent: files, "before-intent", 6;
    files_after_intent: files, "after-intent", 6;
    files_between_steps: files, "between-steps", 3;
    files_after_commit: files, "after-commit", 6;
    files_in_undone_marks: files, "in-undone-marks", 5;
    files_before_outcome: files, "before-outcome", 6;
    files_after_outcome: files, "after-outcome", 6;

    questions_before_each_batch: questions, "journal-before-commit", 10;
    questions_after_each_batch: questions, "journal-after-commit", 10;
    questions_before_they_are_durable: questions, "before-question", 3;
    questions_after_they_are_durable: questions, "after-question", 3;
    answers_before_they_are_durable: questions, "before-answer", 3;
    answers_after_they_are_durable: questions, "after-answer", 3;
    answers_before_intent: questions, "before-intent", 2;
    answers_after_intent: questions, "after-intent", 2;
    answers_after_commit: questions, "after-commit", 2;
    answers_after_outcome: questions, "after-outcome", 3;

    while_the_node_is_made: rows, "journal-before-made", 1;
    before_the_last_checkpoint_is_a_file: questions, "journal-before-checkpoint-file", 1;
}

/// Killed inside an undo of several steps, and again while that is recovered.
fn killed_twice(script: fn() -> Vec<Act>, first: &str) {
    let mut hits = 0;
    for second in ["journal-before-commit", "journal-after-commit", "between-steps"] {
        let mut n = 0;
        while killed(script, &[first.to_owned(), nth(second, n)]) {
            n += 1;
        }
        hits += n;
    }
    assert!(hits >= 2, "{first}: only {hits} kills in recovery");
}

#[test]
fn twice_inside_an_undo_of_rows() {
    // The last undo of the script counters two runs.
    for first in [nth("after-intent", 5), nth("after-commit", 5)] {
        killed_twice(rows, &first);
    }
}

#[test]
fn twice_inside_an_undo_of_files() {
    killed_twice(files, &nth("after-commit", 5));
}

#[test]
fn twice_between_the_steps_of_an_undo_of_files() {
    // Only the last undo has several steps.
    for step in [0, 1] {
        killed_twice(files, &nth("between-steps", step));
    }
}
