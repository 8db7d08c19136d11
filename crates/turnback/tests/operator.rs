//! The commands against a gateway's socket: what is asked, what is printed, how it exits.
//!
//! The other side here is a script of replies, because these tests are about this side alone; the two
//! sides together are tested where the gateway is.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

const RUN: &str = "r_01920000000070008000000000000001";
const SHOWN: &str = "ap_00000000000000000000000000000002";

/// What a command asked, and how it ended.
struct Met {
    asked: Vec<Value>,
    output: Output,
}

impl Met {
    fn code(&self) -> i32 {
        self.output.status.code().unwrap()
    }

    fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }
}

fn turnback(arguments: &[&str], replies: Vec<Value>) -> Met {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("operator.sock")).unwrap();
    let (send, asked) = mpsc::channel();
    std::thread::spawn(move || {
        let mut replies = VecDeque::from(replies);
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut line = String::new();
            // A connection without a question is somebody who looks whether we are here.
            if BufReader::new(&stream).read_line(&mut line).unwrap() == 0 {
                continue;
            }
            let request: Value = serde_json::from_str(&line).unwrap();
            let reply = replies.pop_front().unwrap_or_else(|| {
                json!({ "reply": "refused", "value": { "code": "failed", "message": format!("unexpected {request}") } })
            });
            send.send(request).unwrap();
            writeln!(&stream, "{reply}").unwrap();
        }
    });
    let output = at(dir.path(), arguments);
    Met { asked: asked.try_iter().collect(), output }
}

fn at(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_turnback"))
        .arg("--state-dir")
        .arg(state)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn row(state: &str, level: Value) -> Value {
    json!({
        "run": RUN, "proposed": "2026-11-20T02:57:00Z", "updated": "2026-11-20T02:57:00Z",
        "actor": { "kind": "agent", "name": "coder" }, "tool": "shop__execute", "resource": "shop",
        "environment": "production", "action": "00".repeat(32), "state": state, "over": false, "undelivered": false,
        "summary": "drops `orders`", "level": level, "question": SHOWN,
    })
}

fn view(state: &str, level: u8) -> Value {
    let zero = "00".repeat(32);
    json!({
        "row": row(state, json!(level)), "contract": {}, "history": [], "level": level,
        "question": {
            "id": SHOWN, "run": RUN, "action": zero, "effect": zero, "places": zero, "policy": zero,
            "asked": "2026-11-20T02:57:00Z", "expires": "2026-11-21T02:57:00Z",
        },
    })
}

fn shown(level: u8) -> Value {
    json!({ "reply": "run", "value": view("parked", level) })
}

fn ended(state: &str) -> Value {
    json!({ "reply": "ended", "value": [view(state, 5)] })
}

#[test]
fn an_approval_names_the_question_that_was_shown() {
    let met = turnback(&["approve", "r_00000001", "--yes"], vec![shown(5), ended("settled")]);
    assert_eq!(met.code(), 0, "{}", met.stderr());
    assert_eq!(met.asked[0], json!({ "op": "show", "run": "r_00000001" }));
    assert_eq!(met.asked[1], json!({ "op": "approve", "approval": SHOWN }));
    assert!(met.stderr().contains("shop"), "it was shown first: {}", met.stderr());
}

#[test]
fn without_a_way_back_yes_alone_approves_nothing() {
    for (arguments, said) in [
        (vec!["approve", SHOWN, "--yes"], "--target shop"),
        (vec!["approve", SHOWN, "--yes", "--target", "shops"], "not on `shops`"),
        (vec!["approve", SHOWN], "add --yes"),
        (vec!["-o", "json", "approve", SHOWN], "add --yes"),
    ] {
        let met = turnback(&arguments, vec![shown(0)]);
        assert_eq!(met.code(), 1, "{arguments:?}");
        assert_eq!(met.asked.len(), 1, "{arguments:?} asked {:?}", met.asked);
        assert!(met.stderr().contains(said), "{arguments:?}: {}", met.stderr());
    }
    let met = turnback(&["approve", SHOWN, "--yes", "--target", "shop"], vec![shown(0), ended("settled")]);
    assert_eq!((met.code(), met.asked.len()), (0, 2), "{}", met.stderr());
}

#[test]
fn an_approval_that_did_not_end_as_approved_is_a_finding() {
    let met = turnback(&["approve", SHOWN, "--yes"], vec![shown(5), ended("parked")]);
    assert_eq!(met.code(), 2, "{}", met.stderr());
}

#[test]
fn an_answer_in_the_middle_of_a_commit_is_waited_out() {
    let again = |state: &str| json!({ "reply": "run", "value": view(state, 5) });
    let replies = vec![shown(5), ended("committing"), again("committing"), again("settled")];
    let met = turnback(&["approve", SHOWN, "--yes"], replies);
    assert_eq!((met.code(), met.asked.len()), (0, 4), "{}", met.stderr());
    assert!(met.stdout().contains("settled"), "{}", met.stdout());
}

#[test]
fn json_is_the_payload_and_nothing_else_is_on_stdout() {
    let met = turnback(
        &["-o", "json", "runs", "--state", "parked"],
        vec![json!({ "reply": "runs", "value": [row("parked", json!(4))] })],
    );
    assert_eq!(met.code(), 0, "{}", met.stderr());
    let printed: Value = serde_json::from_str(&met.stdout()).unwrap();
    assert_eq!(met.asked, [json!({ "op": "runs", "agent": null, "state": "parked", "limit": 20 })]);
    assert_eq!(printed[0]["run"], RUN);
    assert_eq!(met.stderr(), "");
}

#[test]
fn a_refusal_is_told_on_stderr_and_exits_with_one() {
    let refused = json!({ "reply": "refused", "value": {
        "code": "not_found", "place": "r_9", "message": "there is no such run", "next": "turnback runs",
    } });
    let met = turnback(&["show", "r_9"], vec![refused.clone()]);
    assert_eq!((met.code(), met.stdout().as_str()), (1, ""));
    assert_eq!(met.stderr(), "error: there is no such run\n   at: r_9\n next: turnback runs\n");
    let met = turnback(&["-o", "json", "show", "r_9"], vec![refused.clone()]);
    assert_eq!((met.code(), met.stdout().as_str()), (1, ""));
    assert_eq!(serde_json::from_str::<Value>(&met.stderr()).unwrap(), refused["value"]);
}

#[test]
fn an_undo_shows_its_plan_and_changes_nothing_when_something_is_in_the_way() {
    let plan = |blockers: Value| {
        json!({ "reply": "undo_plan", "value": {
            "parts": [{ "resource": "shop", "runs": [RUN], "residue": [] }], "blockers": blockers, "readers": [],
        } })
    };
    let blocked = json!([{ "conflict": { "place": "customers 17", "why": "changed since" }, "by": null }]);
    for arguments in [vec!["undo", RUN, "--dry-run"], vec!["undo", RUN]] {
        let met = turnback(&arguments, vec![plan(blocked.clone())]);
        assert_eq!((met.code(), met.asked.len()), (2, 1), "{arguments:?}");
        assert!(met.stdout().contains("customers 17: changed since, by somebody outside Turnback"), "{}", met.stdout());
    }
    let met = turnback(&["undo", RUN, "--dry-run"], vec![plan(json!([]))]);
    assert_eq!((met.code(), met.asked[0]["dry_run"].clone()), (0, json!(true)));
    // Nobody to ask: nothing is undone.
    let met = turnback(&["undo", RUN], vec![plan(json!([]))]);
    assert_eq!((met.code(), met.asked.len()), (1, 1), "{}", met.stderr());
    let met = turnback(&["undo", RUN, "--yes"], vec![ended("settled")]);
    assert_eq!((met.code(), met.asked[0]["dry_run"].clone()), (0, json!(false)), "{}", met.stderr());
}

#[test]
fn a_kill_switch_needs_no_configuration_and_no_question() {
    let switches = json!({ "reply": "switches", "value": [{
        "scope": { "kind": "everything" }, "reason": "it runs wild", "by": "anna", "since": "2026-11-20T02:57:00Z",
    }] });
    let met = turnback(&["kill", "everything", "--reason", "it runs wild"], vec![json!({ "reply": "done" }), switches]);
    assert_eq!(met.code(), 0, "{}", met.stderr());
    assert_eq!(met.asked[0], json!({ "op": "kill", "scope": { "kind": "everything" }, "reason": "it runs wild" }));
    assert!(met.stdout().contains("everything"));
}

#[test]
fn a_secret_is_alone_on_stdout() {
    let id = "tk_00000000000000000000000000000007";
    let token =
        json!({ "reply": "token", "value": { "id": id, "secret": "tbk_abc", "expires": "2026-12-20T00:00:00Z" } });
    let met = turnback(&["token", "new", "coder", "--lifetime", "8h"], vec![token]);
    assert_eq!(met.asked[0]["lifetime_seconds"], 8 * 3600);
    assert_eq!(met.stdout(), "export TURNBACK_TOKEN=tbk_abc\n");
    assert!(!met.stderr().contains("tbk_abc"));
}

#[test]
fn init_writes_what_up_and_lint_accept_and_never_overwrites() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("My Work")).unwrap();
    std::fs::write(dir.path().join("shop.db"), "").unwrap();
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_turnback")).current_dir(dir.path()).args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&["init", "--files", "My Work", "--sqlite", "shop.db", "--agent", "coder"]), (0, String::new()));
    let text = std::fs::read_to_string(dir.path().join("turnback.toml")).unwrap();
    assert!(text.contains("[resources.my-work]") && text.contains("root = \"My Work\""), "{text}");
    assert!(text.contains("agent = \"coder\"") && !text.contains('@'), "{text}");
    assert_eq!(run(&["policy", "lint"]), (0, String::new()));
    assert_eq!(run(&["policy", "test"]), (0, String::new()));
    let (code, said) = run(&["init"]);
    assert_eq!(code, 1);
    assert!(said.contains("nothing was written"), "{said}");
    assert_eq!(std::fs::read_to_string(dir.path().join("turnback.toml")).unwrap(), text);
    // A folder that holds the configuration is refused, and leaves nothing.
    let (code, said) = run(&["init", "My Work/inner", "--files", "My Work"]);
    assert_eq!(code, 1);
    assert!(said.contains("agents could write it"), "{said}");
    assert!(!dir.path().join("My Work/inner/turnback.toml").exists());
    assert!(!dir.path().join("My Work/inner/policies").exists());
}

#[test]
fn doctor_finds_what_others_could_reach() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let set = |path: &str, mode| {
        std::fs::set_permissions(dir.path().join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_turnback")).current_dir(dir.path()).args(arguments).output().unwrap()
    };
    let found = || -> Vec<String> {
        let output = run(&["-o", "json", "doctor"]);
        assert_eq!(output.status.code(), Some(2));
        let lines: Value = serde_json::from_slice(&output.stdout).unwrap();
        let bad = lines.as_array().unwrap().iter().filter(|line| line["found"] != "ok");
        bad.inspect(|line| assert!(line["next"].is_string(), "no next step: {line}"))
            .map(|line| format!("{} {}", line["check"].as_str().unwrap(), line["detail"].as_str().unwrap()))
            .collect()
    };
    std::fs::create_dir(dir.path().join("work")).unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("data/shop.db"), "").unwrap();
    for (path, mode) in [("work", 0o755), ("data", 0o755), ("data/shop.db", 0o600)] {
        set(path, mode);
    }
    assert!(run(&["init", "--files", "work", "--sqlite", "data/shop.db"]).status.success());
    for (path, mode) in [("turnback.toml", 0o644), ("policies", 0o755)] {
        set(path, mode);
    }
    let alone = found();
    assert!(alone.len() == 1 && alone[0].starts_with("gateway nobody answers at"), "{alone:?}");
    std::fs::create_dir(dir.path().join(".turnback")).unwrap();
    std::fs::write(dir.path().join(".turnback/journal.db"), "").unwrap();
    for (path, mode) in [
        ("turnback.toml", 0o666),
        ("work", 0o777),
        ("data", 0o775),
        ("data/shop.db", 0o620),
        (".turnback", 0o755),
        (".turnback/journal.db", 0o644),
    ] {
        set(path, mode);
    }
    let found = found().join("\n");
    for expected in [
        "turnback.toml can be written by others (mode 666)",
        "work can be written by others (mode 777)",
        "data can be written by others (mode 775)",
        "shop.db can be written by others (mode 620)",
        ".turnback can be opened by others (mode 755)",
        "journal.db can be read by others (mode 644)",
    ] {
        assert!(found.contains(expected), "{expected} is missing in\n{found}");
    }
}

#[test]
fn verify_accepts_a_real_journal_and_finds_what_was_altered() {
    use turnback_core::record::Body;
    use turnback_journal::{Batch, Entry, Journal, Options};
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let journal = Journal::open(&state, Options::default()).unwrap().journal;
    let entry = |body| Entry { at: "2026-11-20T02:57:00Z".parse().unwrap(), body, project: vec![] };
    for _ in 0..3 {
        journal.append_wait(Batch { entries: vec![entry(Body::Closed)], blobs: vec![] }).unwrap();
    }
    let saved = dir.path().join("checkpoint.txt");
    std::fs::write(&saved, journal.checkpoint().unwrap()).unwrap();
    journal.append_wait(Batch { entries: vec![entry(Body::Closed)], blobs: vec![] }).unwrap();
    journal.close();
    let verify = |more: &[&str]| {
        let output = at(&state, &[&["-o", "json", "verify"], more].concat());
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap(), said, String::from_utf8(output.stderr).unwrap())
    };
    let older = ["--checkpoint", saved.to_str().unwrap()];
    let (code, said, _) = verify(&older);
    assert_eq!((code, &said["fits"], &said["records"], &said["older"]), (0, &json!(true), &json!(4), &json!(3)));
    // Evidence is never overwritten unseen, and a checkpoint needs the gateway that holds the key.
    let (code, _, said) = verify(&["--save", saved.to_str().unwrap()]);
    assert!(code == 1 && said.contains("was not compared with it"), "{said}");
    let (code, _, said) = verify(&["--save", dir.path().join("fresh.txt").to_str().unwrap()]);
    assert!(code == 1 && said.contains("turnback up"), "{said}");
    assert!(!dir.path().join("fresh.txt").exists());
    // Another log under the same name is not a continuation of the one the checkpoint signed.
    std::fs::remove_dir_all(&state).unwrap();
    Journal::open(&state, Options::default()).unwrap().journal.close();
    let (code, said, _) = verify(&older);
    assert_eq!((code, &said["fits"]), (2, &json!(false)));
}
