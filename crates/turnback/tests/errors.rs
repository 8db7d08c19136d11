//! Every write, sync, open and change of a name fails once, in turn: the node says what failed and what to
//! do, never acknowledges what is not durable, accepts nothing any more when it was the journal that
//! failed, and after a restart what was in doubt is known and world and journal agree.
//!
//! Faults come from the tracer of `turnback_faults`, so it is the real binary that meets them. Each
//! test goes on until nothing is struck any more. `TURNBACK_FAULTS=all` strikes every call; without it every
//! second sync with EIO and a part of the calls with each other fault. `TURNBACK_FAULTS=17` strikes
//! that one alone, and with `TURNBACK_FAULTS_TELL=1` everything that was said is printed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::path::Path;

use common::fits::{Act, fits};
use common::script::{Cut, files, play, questions, rows};
use common::{CONFIG, Place};
use rustix::io::Errno;
use serde_json::json;
use turnback_faults::{Call, Injector, Kind, Struck, Verdict};

/// What of the place is not ours to fail: the log is the test's own file.
fn counts(call: &Call) -> bool {
    !call.path().ends_with("gateway.log") && !call.path().ends_with("operator.sock")
}

/// A fault, and how it is spoken of where it is met.
struct Fault {
    kind: Kind,
    verdict: Verdict,
}

const fn fails(kind: Kind, errno: Errno) -> Fault {
    Fault { kind, verdict: Verdict::Fail(errno.raw_os_error()) }
}

/// Words that name what failed: those of the system, of SQLite, and our own.
const WORDS: &[&str] = &[
    "os error",
    "Input/output error",
    "No space left",
    "no space is left",
    "Read-only file system",
    "Too many open files",
    "disk I/O error",
    "disk is full",
    "unable to open",
    "readonly database",
];

/// Names what failed and says what to do.
fn is_clear(said: &str) -> bool {
    // What was done and could not be looked at is told as such; its next step is the run's own page.
    let told = said.contains("next") || said.contains("could not be read back");
    WORDS.iter().any(|word| said.contains(word)) && told
}

/// Plays a script in which the n-th call of a kind fails. Whether there was one.
fn strike(script: fn() -> Vec<Act>, mode: &str, fault: &Fault, nth: usize) -> bool {
    let memory = Path::new("/dev/shm");
    let place = Place::inside(if memory.is_dir() { memory } else { Path::new("/tmp") }, CONFIG);
    place.db().pragma_update(None, "journal_mode", mode).unwrap();
    let (base, acts) = (place.world(), script());
    let (mut heard, mut token) = (Vec::new(), None);
    let struck = Struck::default();
    println!("{:?} {:?} number {nth}", fault.verdict, fault.kind);
    let judge = Injector { kind: fault.kind, counts, nth, verdict: fault.verdict, struck: struck.clone() };
    let killed = fault.verdict == Verdict::Kill;
    let whole;
    match place.start_judged(judge) {
        Err(ended) => {
            assert!(!ended.status.success() && (killed || is_clear(&ended.said)), "{:?}: {ended:?}", struck.at());
            whole = false;
        }
        Ok(node) if killed => {
            let played = play(&node, &acts, &mut heard, &mut token, &|_, _| {});
            assert!(!matches!(played, Err(Cut::Refused(_))), "{:?}: {played:?}", struck.at());
            // Where the script ends before the n-th call, stopping may still come to it.
            let status = if played.is_ok() { node.stop() } else { node.ended() };
            assert_eq!(status.success(), struck.at().is_none(), "{status}");
            whole = false;
        }
        Ok(node) => {
            let played = play(&node, &acts, &mut heard, &mut token, &|_, _| {});
            let at = struck.at();
            match &played {
                Ok(()) => {}
                Err(Cut::Refused(why)) => assert!(is_clear(why), "{at:?}: {why}"),
                Err(Cut::Dead(why)) => panic!("{at:?}: nobody answers: {why}; {}", node.log()),
            }
            whole = played.is_ok();
            let status = node.told(&json!({ "op": "status" }), "status");
            if let Some(why) = status["poisoned"].as_str() {
                let refused = node.ask(&json!({ "op": "agent_add", "name": "late", "owner": "anna" })).unwrap();
                assert!(refused.to_string().contains("accepts nothing"), "poisoned ({why}), and says {refused}");
            }
            if std::env::var_os("TURNBACK_FAULTS_TELL").is_some() {
                println!("{at:?} {heard:?} {played:?} {} {:?}", node.log(), node.rows().last());
                println!("{:?}", std::process::Command::new("find").arg(place.path("state/vault")).output());
            }
            let stopped = node.stop();
            let said = place_log(&place);
            let end = said.rsplit("error:").next().unwrap_or_default();
            assert!(stopped.success() || is_clear(end), "{at:?}: {stopped}: {said}");
        }
    }
    if struck.at().is_none() {
        return false;
    }
    let node = place.start();
    fits(&node, &place, &base, &acts, &heard, &mut BTreeMap::new());
    node.stop_in_order();
    place.verify();
    let node = place.start();
    fits(&node, &place, &base, &acts, &heard, &mut BTreeMap::new());
    if !whole && heard.is_empty() {
        play(&node, &acts, &mut heard, &mut None, &|_, _| {}).unwrap();
        fits(&node, &place, &base, &acts, &heard, &mut BTreeMap::new());
    }
    node.kill();
    true
}

fn place_log(place: &Place) -> String {
    std::fs::read_to_string(place.path("gateway.log")).unwrap()
}

/// Strikes every call, or every so-manieth.
fn sweep(script: fn() -> Vec<Act>, mode: &str, fault: &Fault, stride: usize) {
    let how = std::env::var("TURNBACK_FAULTS").unwrap_or_default();
    if let Ok(one) = how.parse() {
        assert!(strike(script, mode, fault, one), "there is no call number {one}");
        return;
    }
    let stride = if how == "all" { 1 } else { stride };
    let (mut nth, mut wrong) = (0, Vec::new());
    loop {
        // All that is wrong is worth more than the first of it.
        match catch_unwind(|| strike(script, mode, fault, nth)) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => wrong.push(nth),
        }
        nth += stride;
    }
    assert!(nth >= stride, "nothing was ever struck");
    assert_eq!(wrong, [0; 0], "wrong after the fault at these");
}

macro_rules! sweeps {
    ($($name:ident: $script:ident, $mode:literal, $fault:expr, $stride:literal;)*) => {
        $(#[test] fn $name() { sweep($script, $mode, &$fault, $stride); })*
    };
}

sweeps! {
    rows_eio_at_writes: rows, "wal", fails(Kind::Write, Errno::IO), 13;
    rows_eio_at_syncs: rows, "wal", fails(Kind::Sync, Errno::IO), 2;
    rows_full_at_writes: rows, "delete", fails(Kind::Write, Errno::NOSPC), 17;
    rows_full_at_syncs: rows, "wal", fails(Kind::Sync, Errno::NOSPC), 5;
    rows_read_only_at_writes: rows, "wal", fails(Kind::Write, Errno::ROFS), 29;
    rows_no_descriptor_at_opens: rows, "wal", fails(Kind::Open, Errno::MFILE), 7;
    rows_short_writes: rows, "wal", Fault { kind: Kind::Write, verdict: Verdict::Short(1) }, 23;
    files_eio_at_writes: files, "wal", fails(Kind::Write, Errno::IO), 13;
    files_eio_at_syncs: files, "wal", fails(Kind::Sync, Errno::IO), 2;
    files_eio_at_names: files, "wal", fails(Kind::Name, Errno::IO), 1;
    rows_killed_before_calls: rows, "delete", Fault { kind: Kind::Write, verdict: Verdict::Kill }, 19;
    files_killed_before_syncs: files, "wal", Fault { kind: Kind::Sync, verdict: Verdict::Kill }, 3;
    files_killed_before_names: files, "wal", Fault { kind: Kind::Name, verdict: Verdict::Kill }, 2;
    files_full_at_writes: files, "wal", fails(Kind::Write, Errno::NOSPC), 17;
    files_full_at_names: files, "wal", fails(Kind::Name, Errno::NOSPC), 3;
    files_no_descriptor_at_opens: files, "wal", fails(Kind::Open, Errno::MFILE), 9;
    files_read_only_at_syncs: files, "wal", fails(Kind::Sync, Errno::ROFS), 7;
    questions_eio_at_syncs: questions, "delete", fails(Kind::Sync, Errno::IO), 3;
    questions_full_at_writes: questions, "wal", fails(Kind::Write, Errno::NOSPC), 31;
    rows_eio_at_names: rows, "delete", fails(Kind::Name, Errno::IO), 3;
}
