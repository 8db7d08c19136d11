//! Every crash a disk can suffer: what the real binary writes is recorded, every prefix of it is cut off with
//! what was not synced dropped, reordered and torn, and each disk that comes out is reopened, recovered and
//! compared. Acknowledgements stand in the recording where they were sent, so what was promised by
//! a crash is known exactly. The disk model is `turnback_faults::Disk`.
//!
//! Held against each state: no effect without a durable intent (P1), every intent ended (P2), every record
//! that was acknowledged is there and verifies, also against every checkpoint seen outside (P7), all or nothing of
//! every undo, and everything that stands can be undone (P9).
//!
//! `TURNBACK_CRASH_STATES` says how many states to try in all (2,000), `TURNBACK_CRASH_SEED` which of them
//! (1). A failure leaves its recording behind and says how to meet that one state again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

#[path = "../common/mod.rs"]
mod common;
mod scripts;
mod worker;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use common::fits::Heard;
use common::script::{Cut, play};
use common::{CONFIG, Node, Place, World};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use turnback_faults::{Disguise, Disk, Injector, Op, Recorder, Recording, State, States, Struck, Tape, Traced};
use worker::Task;

/// What no disk keeps: SQLite's shared memory, which it makes anew after a crash; our log; the socket.
const IGNORED: &[&str] = &["-shm", "gateway.log", "operator.sock"];

/// Files in memory where there are any: the states are made and unmade by the thousand.
fn workshop() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")),
        Err(_) => otherwise,
    }
}

fn main() -> ExitCode {
    if std::env::var_os("TURNBACK_CRASH_WORKER").is_some() {
        return worker::main();
    }
    let trials = scripts::NAMES.iter().map(|name| {
        Trial::test(*name, move || {
            let found = survives(name);
            found.map_err(Failed::from)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Plays a script on the real binary and records it: half of it, an orderly stop, the rest, and a stop. Where
/// it is killed in the rest, the recovery is recorded instead.
fn record(name: &str) -> (Recording, World) {
    let place = Place::inside(&workshop(), CONFIG);
    let mode = if name.ends_with("wal") { "wal" } else { "delete" };
    place.db().pragma_update(None, "journal_mode", mode).unwrap();
    let base = place.world();
    let tape = Tape::begin(&place.path(""), IGNORED).unwrap();
    let acts = scripts::of(name);
    let mut heard = Vec::new();
    let kill = scripts::kill(name);
    let struck = kill.as_ref().map(|kill| kill.struck.clone());
    let told = |act: usize, heard: &Heard| match heard {
        Heard::Nothing => {
            tape.mark(json!({ "act": act, "heard": heard }));
            struck.iter().filter(|_| act + 1 == acts.len()).for_each(Struck::now);
        }
        _ => tape.heard(json!({ "act": act, "heard": heard })),
    };
    let start = |kill: Option<Injector>| {
        let started = match kill {
            Some(kill) => place.start_judged(Recorder::new(tape.clone(), IGNORED, kill)),
            None => place.start_judged(Recorder::new(tape.clone(), IGNORED, ())),
        };
        started.unwrap_or_else(|ended| panic!("{ended:?}"))
    };
    let stop = |node: Node| {
        let note = node.told(&json!({ "op": "checkpoint" }), "checkpoint");
        tape.heard(json!({ "checkpoint": note }));
        node.stop_in_order();
    };
    let half = acts.len() / 2;
    let node = start(None);
    let mut token = Some(node.register().unwrap());
    tape.heard(json!({ "registered": true }));
    play(&node, &acts[..half], &mut heard, &mut token, &told).unwrap();
    stop(node);
    let node = start(kill);
    let played = play(&node, &acts, &mut heard, &mut token, &told);
    match &struck {
        None => {
            played.unwrap();
            stop(node);
        }
        Some(struck) => {
            assert!(matches!(played, Err(Cut::Dead(_))) && struck.at().is_some(), "not killed: {played:?}");
            node.ended();
            stop(start(None));
        }
    }
    let recording = tape.recording();
    assert_eq!(recording.unfit, Vec::<String>::new(), "the disk model does not understand this");
    (recording, base)
}

/// What must hold after so many steps.
fn promised(recording: &Recording, disk: &Disk<'_>, steps: usize, task: &mut Task) {
    task.heard.clear();
    task.checkpoints.clear();
    task.registered = false;
    for mark in recording.marks.iter().filter(|mark| mark.at <= steps) {
        if let Some(act) = mark.note["act"].as_u64() {
            let heard: Heard = serde_json::from_value(mark.note["heard"].clone()).unwrap();
            task.heard.truncate(usize::try_from(act).unwrap());
            task.heard.push(heard);
        }
        task.registered |= mark.note["registered"] == json!(true);
        task.checkpoints.extend(mark.note["checkpoint"].as_str().map(str::to_owned));
    }
    // Anybody could have read the file and kept it.
    let file = disk.seen(steps, Path::new("state/checkpoint"));
    task.checkpoints.extend(file.and_then(|bytes| String::from_utf8(bytes).ok()));
}

/// The process that reopens.
struct Reopener {
    process: Traced,
    disguise: Disguise,
    answers: BufReader<std::process::ChildStdout>,
}

impl Reopener {
    fn new() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env("TURNBACK_CRASH_WORKER", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let disguise = Disguise::default();
        let mut process = disguise.show(command).unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, disguise, answers }
    }

    /// What is wrong with the disk under `task.root`; empty when nothing is.
    fn wrong(&mut self, task: &Task) -> String {
        let input = self.process.stdin.as_mut().unwrap();
        writeln!(input, "{}", serde_json::to_string(task).unwrap()).unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|_| json!("the node ended its process"));
        answer.as_str().unwrap().to_owned()
    }
}

/// What looking at states found.
#[derive(Default)]
struct Looked {
    states: u64,
    wrong: Vec<(State, String)>,
}

/// Looks at so many states, or until so many are wrong.
fn look(
    reopener: &mut Reopener,
    recording: &Recording,
    disk: &Disk<'_>,
    task: &mut Task,
    states: States<'_, '_>,
    wrong: usize,
    most: u64,
) -> Looked {
    let mut looked = Looked::default();
    for (state, image) in states {
        if looked.states == most || looked.wrong.len() == wrong {
            break;
        }
        looked.states += 1;
        promised(recording, disk, state.steps, task);
        image.make(&recording.root, &reopener.disguise).unwrap();
        let found = reopener.wrong(task);
        if !found.is_empty() {
            looked.wrong.push((state, found));
        }
    }
    looked
}

/// Syncs that are swallowed, by path beneath the root and whether it is a directory.
type Syncs = fn(&Path, bool) -> bool;

/// Controls: which syncs are swallowed, and in which scripts that must be found.
const CONTROLS: &[(&str, Syncs, &[&str])] = &[
    ("every sync", |_, _| true, &["rows", "files", "questions"]),
    (
        "the syncs of the journal",
        |path, _| path.to_string_lossy().starts_with("state/journal.db"),
        &["rows", "files", "questions"],
    ),
    ("the syncs of directories", |_, directory| directory, &["rows", "files", "questions"]),
    (
        "the syncs of files and slots",
        |path, _| path.starts_with("work") || path.starts_with("state/vault/slots"),
        &["files", "questions"],
    ),
    ("the syncs of the database", |path, _| path.to_string_lossy().starts_with("shop.db"), &["rows", "questions"]),
];

/// What each sync is of, with what was done just before it, by number of the operation. Identities are left
/// out, so that syncs at one place of the program are one.
fn sites(recording: &Recording) -> Vec<(usize, String)> {
    let mut before = "start".to_owned();
    let mut sites = Vec::new();
    for (n, op) in recording.ops().enumerate() {
        match op {
            Op::Sync { path, whole } => {
                let call = if *whole { "fsync" } else { "fdatasync" };
                sites.push((n, format!("{call} {} after {before}", plain(path))));
            }
            Op::SyncAll => sites.push((n, format!("syncfs after {before}"))),
            Op::Make(_) => before = "making something".to_owned(),
            Op::Write { path, .. } | Op::Resize { path, .. } => before = format!("write {}", plain(path)),
            Op::Rename { from, to, .. } => before = format!("rename {} to {}", plain(from), plain(to)),
            Op::Link { to, .. } => before = format!("link {}", plain(to)),
            Op::Unlink { path } => before = format!("unlink {}", plain(path)),
            Op::Attributes => before = "change of attributes".to_owned(),
        }
    }
    sites
}

fn plain(path: &Path) -> String {
    let parts = path.iter().map(|part| match part.to_string_lossy() {
        run if run.starts_with("r_") => "<run>".to_owned(),
        hash if hash.len() == 64 => "<hash>".to_owned(),
        new if new.ends_with(".new") && new.len() == 20 => "<new>".to_owned(),
        other => other.into_owned(),
    });
    let path = parts.collect::<Vec<_>>().join("/");
    if path.is_empty() { ".".to_owned() } else { path }
}

/// For each place that syncs: what comes of it when that sync alone is left out.
fn survey(recording: &Recording, disk: &Disk<'_>, reopener: &mut Reopener, task: &mut Task, seed: u64, most: u64) {
    let sites = sites(recording);
    let mut names: Vec<&String> = sites.iter().map(|(_, site)| site).collect();
    names.sort();
    names.dedup();
    for name in names {
        let here: Vec<usize> = sites.iter().filter(|(_, site)| site == name).map(|(n, _)| *n).collect();
        let without = Disk::new(recording, |n, _, _| here.contains(&n));
        let states = States::of(&without, seed, |steps| promises(recording, steps)).beyond(disk);
        let looked = look(reopener, recording, &without, task, states, 1, most);
        let found = looked.wrong.first().map_or("nothing".to_owned(), |(state, wrong)| format!("{state} {wrong}"));
        let times = here.len();
        println!("{}: {times} x {name}: {} states: {}", task.script, looked.states, found.replace('\n', " "));
    }
}

/// Numbers what must hold after so many steps.
fn promises(recording: &Recording, steps: usize) -> u64 {
    recording.marks.iter().filter(|mark| mark.at <= steps).count() as u64
}

fn survives(name: &str) -> Result<(), String> {
    let kept = std::env::var_os("TURNBACK_CRASH_RECORDING");
    let (recording, base): (Recording, World) = match &kept {
        Some(file) => serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap(),
        None => record(name),
    };
    let seed = number("TURNBACK_CRASH_SEED", 1);
    let mut task = Task { root: recording.root.clone(), script: name.to_owned(), base, ..Task::default() };
    let mut reopener = Reopener::new();
    let disk = Disk::new(&recording, |_, _, _| false);
    let promises = |steps: usize| promises(&recording, steps);
    if let Ok(state) = std::env::var("TURNBACK_CRASH_STATE") {
        let state: State = state.parse()?;
        promised(&recording, &disk, state.steps, &mut task);
        States::of(&disk, seed, promises).image(state).make(&recording.root, &reopener.disguise).unwrap();
        let wrong = reopener.wrong(&task);
        return if wrong.is_empty() { Ok(()) } else { Err(format!("state {state}: {wrong}\n{task:?}")) };
    }
    if std::env::var_os("TURNBACK_CRASH_SURVEY").is_some() {
        survey(&recording, &disk, &mut reopener, &mut task, seed, number("TURNBACK_CRASH_SURVEY", 300));
        return Ok(());
    }
    let most = number("TURNBACK_CRASH_STATES", 2_000).div_ceil(scripts::NAMES.len() as u64);
    let began = Instant::now();
    let states = States::of(&disk, seed, promises);
    let looked = look(&mut reopener, &recording, &disk, &mut task, states, 5, most);
    let seconds = began.elapsed().as_secs_f64();
    let syncs = sites(&recording).len();
    println!(
        "{name}: {} operations, {syncs} of them syncs; {} states, {:.1} a second; {} wrong",
        recording.len(),
        looked.states,
        looked.states as f64 / seconds,
        looked.wrong.len(),
    );
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{name}.json"));
    let mut wrong = String::new();
    for (state, found) in &looked.wrong {
        wrong.push_str(&format!(
            "state {state}: {found}\n  again: TURNBACK_CRASH_RECORDING={} TURNBACK_CRASH_STATE={state} cargo test -p turnback \
             --features turnback/failpoints --test enumerate -- {name}\n",
            file.display()
        ));
    }
    let missed = CONTROLS.iter().filter(|(_, _, scripts)| scripts.iter().any(|script| name.starts_with(script)));
    for (control, swallowed, _) in missed {
        let without = Disk::new(&recording, |_, path, directory| swallowed(path, directory));
        let states = States::of(&without, seed, promises).beyond(&disk);
        let looked = look(&mut reopener, &recording, &without, &mut task, states, 1, 2_000);
        match looked.wrong.first() {
            Some((state, found)) => {
                println!("  without {control}: {} states, then {state}: {}", looked.states, found.replace('\n', " "))
            }
            None => wrong.push_str(&format!("without {control} nothing is wrong in {} states\n", looked.states)),
        }
    }
    std::fs::remove_dir_all(&recording.root).unwrap();
    if wrong.is_empty() {
        return Ok(());
    }
    std::fs::write(&file, serde_json::to_vec(&(&recording, &task.base)).unwrap()).unwrap();
    Err(wrong)
}
