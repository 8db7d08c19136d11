//! The binary from outside: who gets in by which door, what it refuses to start on, how it stops, and what
//! scripts may rely on.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{CONFIG, PATIENCE, Place, text};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::{Value, json};

const NOBODY: u32 = 65_534;

fn sql(statement: &str) -> Value {
    json!({ "sql": statement })
}

/// Everything in a folder, to see that nothing was changed.
fn bytes(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    all.sort();
    all
}

/// A place with a journal of some records, closed in order.
fn used() -> Place {
    let place = Place::new();
    let node = place.start();
    let token = node.register().unwrap();
    let called = node.agent(&token).unwrap().call("shop__execute", &sql("delete from stock where id = 1")).unwrap();
    assert!(!called.error, "{called:?}");
    node.stop_in_order();
    place
}

#[test]
fn a_second_gateway_is_refused_and_told_who_is_first() {
    let place = Place::new();
    let node = place.start();
    let second = place.try_start("").err().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(second.said.contains(&node.pid().to_string()), "{}", second.said);
    assert!(node.register().is_ok(), "the first one still serves at the same door");
    node.stop_in_order();
    place.start();
}

#[test]
fn an_older_or_damaged_journal_is_refused_untouched() {
    type Harm = fn(&Path);
    let harms: [(&str, Harm); 4] = [
        ("older", |state| {
            // A copy taken before the last records came, put back beside the newer checkpoint.
            fs::copy(state.join("../older.db"), state.join("journal.db")).unwrap();
        }),
        ("header", |state| {
            let mut journal = fs::read(state.join("journal.db")).unwrap();
            journal[..16].fill(0x55);
            fs::write(state.join("journal.db"), journal).unwrap();
        }),
        ("gone", |state| fs::remove_file(state.join("journal.db")).unwrap()),
        ("open", |state| fs::set_permissions(state, fs::Permissions::from_mode(0o755)).unwrap()),
    ];
    for (what, harm) in harms {
        let place = used();
        let state = place.path("state");
        fs::copy(state.join("journal.db"), place.path("older.db")).unwrap();
        let node = place.start();
        node.stop_in_order();
        harm(&state);
        let (before, world) = (bytes(&state), place.world());
        let ended = place.try_start("").err().unwrap_or_else(|| panic!("{what}: it started"));
        assert_eq!(ended.status.code(), Some(1), "{what}");
        assert!(ended.said.contains("state") && ended.said.contains("next: "), "{what}: {}", ended.said);
        let (after, left) = (bytes(&state), place.world());
        for (name, content) in &before {
            // The lock names who tried last; SQLite's shared memory is no state.
            if !["lock", "journal.db-shm", "journal.db-wal"].contains(&name.as_str()) {
                assert!(after.iter().any(|(n, c)| n == name && c == content), "{what}: {name} was changed");
            }
        }
        assert!(what != "gone" || !after.iter().any(|(name, _)| name == "journal.db"), "a new journal was made");
        assert_eq!(left, world, "{what}");
    }
}

#[test]
fn the_operators_door_is_for_its_user_alone() {
    let place = Place::new();
    let node = place.start();
    let token = node.register().unwrap();
    assert_eq!(fs::metadata(&node.socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(place.path("state")).unwrap().permissions().mode() & 0o777, 0o700);

    // What an agent has, tried there: no credential is looked at, nothing but requests is understood.
    let mut agent = node.agent(&token).unwrap();
    let waits = agent.call("shop__execute", &sql("delete from stock where id > 3")).unwrap();
    let run = waits.run.unwrap();
    for line in [
        format!("{{\"authorization\":\"Bearer {token}\"}}"),
        token.clone(),
        "POST /mcp HTTP/1.1".to_owned(),
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" }).to_string(),
    ] {
        let mut stream = UnixStream::connect(&node.socket).unwrap();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let reply: Value = serde_json::from_str(&reply).unwrap_or_else(|e| panic!("{line}: {e}: {reply}"));
        assert_eq!(reply["reply"], "refused", "{line}: {reply}");
        assert_eq!(reply["value"]["code"], "bad_input", "{line}: {reply}");
    }
    // And what an operator asks, tried at the agents' door with an agent's token.
    for (method, params) in [
        ("approve", json!({ "approval": run })),
        ("tools/call", json!({ "name": "approve", "arguments": { "approval": run } })),
        ("tools/call", json!({ "name": "undo", "arguments": { "run": run } })),
    ] {
        let answer = agent.request(method, &params).unwrap();
        assert!(answer.get("error").is_some() || answer["result"]["isError"] == json!(true), "{method}: {answer}");
    }
    assert_eq!(node.show(&run)["row"]["state"], "parked");
}

#[test]
fn another_user_is_refused() {
    if !geteuid().is_root() {
        // Only root can become somebody else; that root is let in is the other tests.
        eprintln!("not run as root: another user cannot be played");
        return;
    }
    let place = Place::new();
    let node = place.start();
    let binary = place.path("turnback");
    fs::copy(env!("CARGO_BIN_EXE_turnback"), &binary).unwrap();
    let runs = || {
        let mut command = Command::new(&binary);
        command.arg("--state-dir").arg(place.path("state")).args(["-o", "json", "runs"]).current_dir("/");
        command.stdin(Stdio::null()).uid(NOBODY).gid(NOBODY);
        command.output().unwrap()
    };
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let output = runs();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("ermission denied"), "{}", text(&output));
    // Even with every permission bit in the way removed, the kernel says who asks.
    fs::set_permissions(place.path("state"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&node.socket, fs::Permissions::from_mode(0o666)).unwrap();
    let output = runs();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("for the user who runs the node"), "{}", text(&output));
    assert!(node.register().is_ok());
}

#[test]
fn the_page_of_a_question_answers_nothing() {
    let place = Place::new();
    let node = place.start();
    let token = node.register().unwrap();
    let waits = node.agent(&token).unwrap().call("shop__execute", &sql("delete from stock where id > 3")).unwrap();
    let run = waits.run.unwrap();
    let question = node.show(&run)["question"]["id"].as_str().unwrap().to_owned();
    let page = format!("{}/approvals/{question}", node.url.strip_suffix("/mcp").unwrap());
    let http: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut shown = http.get(&page).call().unwrap();
    assert_eq!(shown.status().as_u16(), 200);
    assert!(shown.body_mut().read_to_string().unwrap().contains("turnback approve"));
    for (body, kind) in
        [("", "text/plain"), ("answer=approve", "application/x-www-form-urlencoded"), ("{}", "application/json")]
    {
        for token in [None, Some(&token)] {
            let mut request = http.post(&page).header("Content-Type", kind);
            if let Some(token) = token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let status = request.send(body).unwrap().status().as_u16();
            assert!((400..500).contains(&status), "POST answered with {status}");
        }
    }
    for status in [http.put(&page).send("x"), http.delete(&page).call()] {
        assert!((400..500).contains(&status.unwrap().status().as_u16()));
    }
    assert_eq!(node.show(&run)["row"]["state"], "parked");
    assert_eq!(place.world().rows["stock"].len(), 6);
}

#[test]
fn no_call_that_begins_after_a_kill_goes_through() {
    let place = Place::new();
    let node = place.start();
    let token = node.register().unwrap();
    let (killed, passed) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (node, token, killed, passed) = (&node, &token, &killed, &passed);
            scope.spawn(move || {
                let mut agent = node.agent(token).unwrap();
                for round in 0..10_000 {
                    // Read before the call begins: such a call must be refused.
                    let after = killed.load(Ordering::SeqCst);
                    let called = match n % 2 {
                        0 => agent.call("work__read_file", &json!({ "path": "a.txt" })).unwrap(),
                        _ => agent.call("shop__execute", &sql("update stock set n = n + 1 where id = 1")).unwrap(),
                    };
                    if after {
                        assert!(called.error && called.text.contains("drill"), "round {round}: {called:?}");
                        return;
                    }
                    passed.fetch_or(!called.error, Ordering::SeqCst);
                }
                panic!("the switch was never thrown");
            });
        }
        while !passed.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        node.told(&json!({ "op": "kill", "scope": { "kind": "everything" }, "reason": "drill" }), "switches");
        killed.store(true, Ordering::SeqCst);
    });
    // Through kill -9 too.
    node.kill();
    let node = place.start();
    let called = node.agent(&token).unwrap().call("work__read_file", &json!({ "path": "a.txt" })).unwrap();
    assert!(called.error && called.text.contains("drill"), "{called:?}");
    let stock = &place.world().rows["stock"][0];
    let settled = node.rows().iter().filter(|r| r["state"] == "settled").count();
    assert_eq!(*stock, format!("1 {}", 10 + settled), "what was under way is in both or in neither");
}

#[test]
fn up_says_where_everything_is_and_stops_in_order() {
    let place = Place::new();
    let node = place.start();
    let deadline = Instant::now() + PATIENCE;
    while !node.log().contains("next:") {
        assert!(Instant::now() < deadline, "{}", node.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = node.log();
    for fact in [&node.url, &place.path("state").display().to_string(), "shop.db", "enforce"] {
        assert!(said.contains(fact), "no {fact} in {said}");
    }
    assert!(!said.contains("tb_"), "no secret belongs into a log: {said}");
    // What it says to do next works, and leads to what is pasted into a client.
    let next =
        |said: &str| said.lines().find_map(|line| line.trim().strip_prefix("next: turnback ")).unwrap().to_owned();
    let add = next(&said).replace("<person>", "anna");
    assert!(place.run(&add.split(' ').collect::<Vec<_>>()).status.success(), "{add}");
    let url = node.url.clone();
    let made = place.run(&["token", "new", "coder", "--client", "claude-code"]);
    assert!(made.status.success() && text(&made).contains(&url) && text(&made).contains("tb_"), "{}", text(&made));
    for client in ["claude-code", "codex", "cursor", "gemini"] {
        let made = place.run(&["token", "new", "coder", "--client", client]);
        assert!(made.status.success() && text(&made).contains(&url), "{client}: {}", text(&made));
    }
    let records = node.told(&json!({ "op": "status" }), "status")["records"].as_u64().unwrap();
    node.stop_in_order();
    // The last checkpoint vouches for every record, the closing one included.
    let report = place.run(&["-o", "json", "verify"]);
    assert_eq!(report.status.code(), Some(0), "{}", text(&report));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["records"], json!(records + 1), "{report}");
    assert_eq!(report["vouched"], report["records"], "{report}");
}

#[test]
fn stopped_as_soon_as_it_answers_it_stops_in_order() {
    let place = Place::new();
    for _ in 0..10 {
        place.start().stop_in_order();
    }
    place.verify();
}

/// A small file system for a state directory, where mounting is allowed.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        fs::set_permissions(at, fs::Permissions::from_mode(0o700)).unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs"]).arg(at).output();
        output.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }

    /// Takes every free byte.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        for size in [65_536, 4_096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_changes_nothing_and_recovers() {
    // The way back of files lies beside them, not on the small disk; here only the database counts.
    let config = CONFIG.split("[resources.work]").next().unwrap().to_owned() + "[policy]\npath = \"policies\"\n";
    let place = Place::with(&config);
    let state = place.path("state");
    let Some(disk) = Disk::mount(&state) else {
        eprintln!("mounting is not allowed here: a full disk cannot be played");
        return;
    };
    let node = place.start();
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    let add = sql("update stock set n = n + 1 where id = 1");
    assert!(!agent.call("shop__execute", &add).unwrap().error);
    disk.fill();
    let mut refused = None;
    // Space that is allocated already takes some more.
    for _ in 0..2_000 {
        let called = agent.call("shop__execute", &add).unwrap();
        if called.error {
            refused = Some(called);
            break;
        }
    }
    let refused = refused.unwrap_or_else(|| panic!("never refused on a full disk"));
    assert!(refused.text.contains("full"), "{refused:?}");
    let world = place.world();
    // From now on everything is refused, reads too, and says what to do.
    for (tool, arguments) in [("shop__execute", &add), ("shop__query", &sql("select 1"))] {
        let called = agent.call(tool, arguments).unwrap();
        assert!(called.error && called.text.contains("refuses everything"), "{called:?}");
    }
    let status = node.told(&json!({ "op": "status" }), "status");
    assert!(status["poisoned"].as_str().is_some_and(|why| why.contains("full")), "{status}");
    assert_eq!(place.world(), world);
    assert_eq!(node.stop().code(), Some(1), "it could not close in order and says so");
    // Still full: it does not start, and says why.
    let ended = place.try_start("").err().unwrap();
    assert!(ended.said.contains("full") || ended.said.contains("space"), "{}", ended.said);
    fs::remove_file(state.join("filler")).unwrap();
    let node = place.start();
    let done = node.rows().iter().filter(|row| row["state"] == "settled").count();
    assert_eq!(place.world().rows["stock"][0], format!("1 {}", 10 + done));
    assert_eq!(place.world(), world, "what was refused did not happen");
    assert!(node.rows().iter().all(|row| row["over"] == json!(true)), "{:?}", node.rows());
    assert!(!node.agent(&token).unwrap().call("shop__execute", &add).unwrap().error);
    node.stop_in_order();
    place.verify();
}

/// Identities differ each time; they are what may.
fn without_identities(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("r_") {
        let (before, from) = rest.split_at(at + 2);
        out.push_str(before);
        rest = from.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    out + rest
}

#[test]
fn the_demo_is_true_and_tells_the_same_story_twice() {
    let demo = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnback"));
        command.arg("demo").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let [first, second] = [demo(), demo()].map(|child| child.wait_with_output().unwrap());
    for output in [&first, &second] {
        assert_eq!(output.status.code(), Some(0), "{}", text(output));
    }
    let story = |output: &std::process::Output| without_identities(&String::from_utf8(output.stdout.clone()).unwrap());
    assert_eq!(story(&first), story(&second));
    assert!(story(&first).contains("kill -9"), "{}", story(&first));
}

fn code(place: &Place, arguments: &[&str]) -> i32 {
    place.run(arguments).status.code().unwrap()
}

#[test]
fn exit_codes_and_json_are_a_promise() {
    let place = Place::new();
    assert_eq!(code(&place, &["runs"]), 1, "nobody serves");
    assert_eq!(code(&place, &["--no-such-option"]), 1);
    assert_eq!(code(&place, &["--help"]), 0);
    let node = place.start();
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    let run = agent.call("shop__execute", &sql("update stock set n = 0 where id = 1")).unwrap().run.unwrap();
    assert_eq!(code(&place, &["show", "r_ffffffff"]), 1);
    assert_eq!(code(&place, &["undo", &run, "--dry-run"]), 0);
    for arguments in [
        vec!["runs"],
        vec!["show", &run],
        vec!["undo", &run, "--dry-run"],
        vec!["agents", "list"],
        vec!["token", "list"],
        vec!["policy", "lint"],
        vec!["doctor"],
        vec!["verify"],
    ] {
        let output = place.run(&[&["-o", "json"], arguments.as_slice()].concat());
        assert!([Some(0), Some(2)].contains(&output.status.code()), "{arguments:?}: {}", text(&output));
        let parsed = serde_json::from_slice::<Value>(&output.stdout);
        assert!(parsed.is_ok(), "{arguments:?}: {}", text(&output));
    }
    // A later change by hand is in the way of the undo: something to look at.
    place.db().execute("update stock set n = 7 where id = 1", []).unwrap();
    assert_eq!(code(&place, &["undo", &run, "--dry-run"]), 2);
    assert_eq!(code(&place, &["undo", &run, "--yes"]), 2);
    node.stop_in_order();
    assert_eq!(code(&place, &["verify"]), 0);
    // One altered record is a finding.
    let journal = rusqlite::Connection::open(place.path("state/journal.db")).unwrap();
    let altered = "UPDATE leaves SET body = CAST(replace(body, 'run.intended', 'run.released') AS BLOB) \
                   WHERE instr(body, 'run.intended')";
    assert!(journal.execute(altered, []).unwrap() > 0);
    drop(journal);
    assert_eq!(code(&place, &["verify"]), 2);
}

/// What a command prints on a terminal.
fn on_a_terminal(place: &Place, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let inner = place.command(arguments);
    let words: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut command = Command::new("script");
    command
        .args(["-qec", &words.join(" "), "/dev/null"])
        .stdin(Stdio::null())
        .env_remove("NO_COLOR")
        .env("TERM", "xterm");
    command.envs(environment.iter().copied());
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[test]
fn no_color_means_no_escapes() {
    let place = Place::new();
    let node = place.start();
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    let run = agent.call("shop__execute", &sql("update stock set n = 0 where id = 1")).unwrap().run.unwrap();
    assert!(on_a_terminal(&place, &["show", &run], &[]).contains('\u{1b}'), "a terminal gets colours");
    for arguments in [vec!["show", run.as_str()], vec!["runs"], vec!["doctor"], vec!["runs", "--no-such-option"]] {
        let plain = on_a_terminal(&place, &arguments, &[("NO_COLOR", "1")]);
        assert!(!plain.is_empty() && !plain.contains('\u{1b}'), "{arguments:?}: {plain:?}");
        let piped = text(&place.run(&arguments));
        assert!(!piped.contains('\u{1b}'), "{arguments:?}: {piped:?}");
    }
}

#[test]
fn init_then_up_works_as_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let turnback = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turnback"));
        command.args(arguments).current_dir(dir.path()).stdin(Stdio::null());
        command
    };
    let next = |said: &str| said.lines().find_map(|line| line.strip_prefix("next: ")).unwrap().to_owned();
    // Without anything to act on it says what is missing before it says what to start.
    let output = turnback(&["init"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(next(&text(&output)).contains("name a folder or a database"), "{}", text(&output));
    let output = turnback(&["up"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    // Never over what is there.
    assert_eq!(turnback(&["init"]).output().unwrap().status.code(), Some(1));
    fs::remove_file(dir.path().join("turnback.toml")).unwrap();
    fs::remove_dir_all(dir.path().join("policies")).unwrap();

    fs::create_dir(dir.path().join("work")).unwrap();
    fs::write(dir.path().join("work/a.txt"), "one\n").unwrap();
    let output = turnback(&["init", "--files", "work"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(next(&text(&output)), "turnback up");
    // Only the port is changed: others may test here at the same time.
    let config = dir.path().join("turnback.toml");
    let written = fs::read_to_string(&config).unwrap();
    assert!(written.contains("127.0.0.1:7423"));
    fs::write(&config, written.replace("127.0.0.1:7423", "127.0.0.1:0")).unwrap();
    let mut child = turnback(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let socket = dir.path().join(".turnback/operator.sock");
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Ok(status) = common::ask(&socket, &json!({ "op": "status" })) {
            break status;
        }
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none(), "not up");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(turnback(&["agents", "add", "agent", "--owner", "anna"]).status().unwrap().code(), Some(0));
    let made = turnback(&["-o", "json", "token", "new", "agent"]).output().unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let url = status["value"]["url"].as_str().unwrap();
    let mut agent = common::Agent::connect(url, made["secret"].as_str().unwrap()).unwrap();
    let read = agent.call("work__read_file", &json!({ "path": "a.txt" })).unwrap();
    assert!(!read.error && read.text.contains("one"), "{read:?}");
    // As promised: measured, never done.
    let write = agent.call("work__write_file", &json!({ "path": "b.txt", "content": "b" })).unwrap();
    assert!(write.error && write.text.contains("nothing was changed"), "{write:?}");
    assert!(!dir.path().join("work/b.txt").exists());
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(turnback(&["verify"]).output().unwrap().status.code(), Some(0));
}

/// One call of a built-in function on large values cannot be interrupted. The agent is stopped for good,
/// the database's lock is gone, and nothing that was acknowledged is lost.
#[test]
fn a_statement_nobody_can_stop_ends_the_node_and_its_agent() {
    let place = Place::with(&CONFIG.replace("[policy]", "[limits]\ntime = \"1s\"\n[policy]"));
    let node = place.start();
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    assert!(!agent.call("shop__execute", &sql("delete from stock where id = 1")).unwrap().error);
    let endless = "update stock set n = instr(replace(hex(zeroblob(20000000)), '0', 'a'), \
                   replace(hex(zeroblob(5000000)), '0', 'a') || 'b')";
    assert!(agent.call("shop__execute", &sql(endless)).is_err(), "nobody answers");
    assert!(!node.ended().success());
    let by_hand = place.db();
    by_hand.execute_batch("BEGIN IMMEDIATE; ROLLBACK").unwrap();
    let node = place.start();
    let mut agent = node.agent(&token).unwrap();
    let called = agent.call("shop__query", &sql("select 1")).unwrap();
    assert!(called.error && called.text.contains("could not be stopped"), "{called:?}");
    assert_eq!(node.rows().iter().filter(|row| row["state"] == "settled").count(), 1);
    node.stop_in_order();
    place.verify();
}
