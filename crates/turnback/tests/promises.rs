//! Two promises of SECURITY.md played against the real binary: an approval is used once (P6), and secrets
//! stay where they belong (P15). Built only with feature `turnback/failpoints`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::{Node, Place, ask};
use serde_json::{Value, json};

const ASKS: &str = "delete from stock where id > 3";

fn asks(node: &Node, token: &str) -> String {
    let waits = node.agent(token).unwrap().call("shop__execute", &json!({ "sql": ASKS })).unwrap();
    assert!(waits.text.contains("PENDING"), "{waits:?}");
    waits.run.unwrap()
}

/// A hundred answers at once, each on a connection of its own; what each was told, `None` for nothing.
fn hundred(node: &Node, run: &str) -> Vec<Option<Value>> {
    let yes = json!({ "op": "approve", "approval": run });
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..100).map(|_| scope.spawn(|| ask(&node.socket, &yes).ok())).collect();
        all.into_iter().map(|answer| answer.join().unwrap()).collect()
    })
}

fn settled(answers: &[Option<Value>]) -> usize {
    answers.iter().flatten().filter(|a| a["value"][0]["row"]["state"] == "settled").count()
}

/// P6, with a kill in the middle: before the answer is durable nobody's counted, after it nobody else's
/// does, and the effect is there once.
#[test]
fn an_approval_is_redeemed_once_from_any_number_of_connections_and_through_a_kill() {
    for (point, counted) in
        [("before-answer", false), ("after-answer", true), ("after-intent", true), ("after-commit", true)]
    {
        let place = Place::new();
        let node = place.try_start(&format!("{point}=return")).unwrap();
        let token = node.register().unwrap();
        let run = asks(&node, &token);
        let first = hundred(&node, &run);
        assert_eq!(settled(&first), 0, "{point}: somebody was told of an end before the kill");
        assert!(!node.ended().success());

        let node = place.start();
        let state = node.show(&run)["row"]["state"].as_str().unwrap().to_owned();
        let second = hundred(&node, &run);
        // What was intended and not done is refused for good; otherwise it was done by exactly one of all.
        let expected = match (point, counted) {
            ("after-intent", _) => ("refused", 0, 6),
            (_, true) => ("settled", 0, 3),
            (_, false) => ("parked", 1, 3),
        };
        assert_eq!((state.as_str(), settled(&second), place.world().rows["stock"].len()), expected, "{point}");
        for answer in second.iter().flatten().filter(|answer| answer["reply"] == "refused") {
            // More than the door has room for are told so.
            let code = answer["value"]["code"].as_str().unwrap();
            assert!(["exists", "overloaded"].contains(&code), "{point}: {answer}");
        }
        assert_eq!(second.iter().flatten().count(), 100, "{point}: everybody is answered");
        assert_eq!(settled(&hundred(&node, &run)), 0, "{point}");
        node.stop_in_order();
        place.verify();
    }
}

/// P6: the user an agent acts for is the requester, at the operators' door too, and nothing an agent
/// can say through its own doors answers a question.
#[test]
fn neither_the_requester_nor_the_agent_answers_through_any_door() {
    let place = Place::new();
    let node = place.start();
    let other = node.register().unwrap();
    // Us, as the kernel names whoever stands at the operators' door.
    let us = node
        .told(&json!({ "op": "kill", "scope": { "kind": "tool", "name": "work__stat" }, "reason": "x" }), "switches");
    let us = us[0]["by"].as_str().unwrap().to_owned();
    let mine = json!({ "op": "token_new", "agent": "coder", "on_behalf_of": us, "lifetime_seconds": 60 });
    let token = node.told(&mine, "token")["secret"].as_str().unwrap().to_owned();
    let run = asks(&node, &token);
    let answers = hundred(&node, &run);
    let told = |code: &str| answers.iter().flatten().filter(|a| a["value"]["code"] == code).count();
    assert!(told("rejected") > 0 && told("rejected") + told("overloaded") == 100, "{answers:?}");
    let question = node.show(&run)["question"]["id"].as_str().unwrap().to_owned();
    let mut agent = node.agent(&token).unwrap();
    for (method, params) in [
        ("approve", json!({ "approval": question })),
        ("operator/approve", json!({ "approval": run })),
        ("elicitation/create", json!({ "action": "accept", "approval": question })),
        ("tools/call", json!({ "name": "approve", "arguments": { "approval": question } })),
        ("tools/call", json!({ "name": "turnback__approve", "arguments": { "approval": question } })),
        ("tools/call", json!({ "name": "shop__execute", "arguments": { "sql": ASKS, "approved": true } })),
        (
            "tools/call",
            json!({ "name": "shop__execute", "arguments": { "sql": ASKS }, "inputResponses": { "approval": { "action": "accept" } } }),
        ),
    ] {
        let answer = agent.request(method, &params).unwrap();
        assert!(answer.get("error").is_some() || answer["result"]["isError"] == json!(true), "{method}: {answer}");
        assert_eq!(node.show(&run)["row"]["state"], "parked", "{method}: {answer}");
    }
    // The stream the operators' door hands out for `stdio` carries an agent's words, not an operator's.
    let mut stdio = UnixStream::connect(&node.socket).unwrap();
    let words = json!({ "op": "approve", "approval": question });
    stdio.write_all(format!("mcp-stdio\n{words}\n").as_bytes()).unwrap();
    stdio.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = String::new();
    stdio.read_to_string(&mut said).unwrap();
    assert_eq!(node.show(&run)["row"]["state"], "parked", "{said}");
    assert!(node.agent(&other).is_ok());
    assert_eq!(place.world().rows["stock"].len(), 6);
}

/// What nobody may ever read where it does not belong, by name.
struct Canaries(Vec<(&'static str, Vec<u8>)>);

impl Canaries {
    fn search(&self, place: &str, bytes: &[u8]) {
        for (name, secret) in &self.0 {
            let found = bytes.windows(secret.len()).position(|part| part == secret.as_slice());
            let around =
                found.map(|at| String::from_utf8_lossy(&bytes[at.saturating_sub(120)..(at + 20).min(bytes.len())]));
            assert!(found.is_none(), "{name} is in {place}: {around:?}");
        }
    }

    fn search_below(&self, dir: &Path) -> usize {
        let mut files = 0;
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files += self.search_below(&path);
            } else if path.is_file() && path.file_name().unwrap() != "log.key" {
                self.search(&path.display().to_string(), &fs::read(&path).unwrap());
                files += 1;
            }
        }
        files
    }
}

/// One raw HTTP exchange; whatever comes back.
fn http(node: &Node, request: &str) -> Vec<u8> {
    let address = node.url.strip_prefix("http://").unwrap().split('/').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    // It may hang up before it has read everything: that is an answer too.
    let _ = stream.write_all(request.replace("HOST", address).as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// P15. Secret are: the tokens of agents – those that work, those that were revoked and whatever else is
/// presented as one –, every header of a request but the three that are named back to
/// whoever sent them (`Host`, `Origin`, `MCP-Protocol-Version`), the query of an
/// address, the node's environment, and the key that signs the
/// log. Not secret, because the record is there to keep it: what an agent says in the body of a call.
#[test]
fn secrets_stay_where_they_belong() {
    let place = Place::new();
    let env = "canary-environment-9f2c41";
    let node = place.try_start_in(&[("FAILPOINTS", ""), ("TURNBACK_LOG", "trace"), ("UPSTREAM_API_KEY", env)]).unwrap();
    let token = node.register().unwrap();
    let made = place.run(&["token", "new", "coder"]);
    let printed = String::from_utf8(made.stdout).unwrap();
    let revoked = printed.trim().rsplit('=').next().unwrap().to_owned();
    assert!(revoked.starts_with("tb_"), "{printed}");
    let key = fs::read_to_string(place.path("state/log.key")).unwrap();
    let key = key.trim().splitn(5, '+').nth(4).unwrap().to_owned();
    assert_eq!(key.len(), 44, "what signs: a byte of algorithm and 32 of seed");
    let wrong = format!("tb_{}", "c0ffee42".repeat(8));
    let (header, query) = ("canary-header-77aa10", "canary-query-5510bb");
    let digits = |secret: &str| secret.trim_start_matches("tb_").as_bytes().to_vec();
    let canaries = Canaries(vec![
        ("a token", digits(&token)),
        ("a revoked token", digits(&revoked)),
        ("a token that never was", digits(&wrong)),
        ("a header", header.into()),
        ("the address's query", query.into()),
        ("the environment", env.into()),
        ("the signing key", key.into_bytes()),
    ]);
    // Everything that is asked, well or badly, through every door.
    let mut said: Vec<(String, Vec<u8>)> = Vec::new();
    let mut agent = node.agent(&revoked).unwrap();
    agent.call("work__read_file", &json!({ "path": "a.txt" })).unwrap();
    let id = node.told(&json!({ "op": "tokens" }), "tokens");
    let newest = id.as_array().unwrap().iter().max_by_key(|t| t["expires"].as_str().unwrap().to_owned()).unwrap();
    node.told(&json!({ "op": "token_revoke", "token": newest["id"] }), "done");
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let call = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"shop__execute","arguments":{"sql":"drop table stock"}}}"#;
    let json = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25";
    let length = |body: &str| body.len();
    for credential in [
        format!("Authorization: Bearer {wrong}"),
        format!("Authorization: Bearer {revoked}"),
        format!("Authorization: bearer  {token}x"),
        format!("Authorization: Basic {token}"),
        format!("Authorization: {token}"),
        format!("X-Api-Key: {token}"),
        format!("Cookie: session={token}"),
        format!("Authorization: Bearer {token}\r\nMcp-Session-Id: {header}"),
        format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {wrong}"),
        format!("Authorization: Bearer {token}\r\nX-Upstream: {header}\r\nLast-Event-ID: {header}"),
        format!("Authorization: Bearer {token}\r\nOrigin: http://evil.example"),
        format!("Authorization: Bearer {token}\r\nMCP-Protocol-Version: 1999-01-01"),
        format!("Authorization: Bearer {token}\r\nX-Long: {}", header.repeat(9_000)),
        format!("Authorization: Bearer {token}\r\n{header}"),
    ] {
        for (method, path) in [
            ("POST", "/mcp".to_owned()),
            ("POST", format!("/mcp?access_token={query}")),
            ("GET", format!("/elsewhere?key={query}")),
            ("DELETE", "/mcp".to_owned()),
            ("BREW", "/mcp".to_owned()),
        ] {
            for body in [list, call, "{"] {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n{credential}\r\n{json}\r\nContent-Length: {}\r\n\r\n{body}",
                    length(body)
                );
                said.push((
                    format!("the answer to {method} {path} with {}", &credential[..credential.len().min(60)]),
                    http(&node, &request),
                ));
            }
        }
    }
    for line in [format!("{{\"authorization\":\"Bearer {header}\"}}"), "GET / HTTP/1.1".into()] {
        let mut stream = UnixStream::connect(&node.socket).unwrap();
        stream.write_all(format!("{line}\r\nAuthorization: Bearer {wrong}\r\n\r\n").as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        said.push((format!("the operators' door, after {line}"), reply));
    }
    let mut agent = node.agent(&token).unwrap();
    let done = agent.call("shop__execute", &json!({ "sql": "update stock set n = n + 1 where id = 1" })).unwrap();
    let run = done.run.clone().unwrap();
    let waits = asks(&node, &token);
    agent.call("shop__query", &json!({ "sql": "select no_such from stock" })).unwrap();
    let reject = json!({ "op": "reject", "approval": waits, "reason": "no" });
    node.ask(&reject).unwrap();
    node.undo(&[&run]).unwrap();
    for command in [
        &["runs"][..],
        &["show", &run],
        &["show", &waits],
        &["token", "list"],
        &["token", "revoke", "nobody"],
        &["agents", "list"],
        &["agents"],
        &["undo", &run],
        &["approve", &waits],
        &["verify"],
        &["doctor"],
        &["policy", "lint"],
        &["kill", "--all"],
        &["unkill", "--all"],
        &["no-such-command"],
    ] {
        for json in [false, true] {
            let arguments: Vec<&str> = if json { vec!["-o", "json"] } else { vec![] };
            let arguments = [arguments.as_slice(), command].concat();
            let mut run = place.command(&arguments);
            run.env("UPSTREAM_API_KEY", env).env("TURNBACK_TOKEN", &wrong).env("TURNBACK_LOG", "trace");
            let output = run.output().unwrap();
            said.push((format!("{arguments:?}"), [output.stdout, output.stderr].concat()));
        }
    }
    assert!(said.iter().filter(|(_, bytes)| !bytes.is_empty()).count() > 150, "hardly anything was answered");
    said.push(("the log".into(), node.log().into_bytes()));
    // While it runs, after it was killed, and after it failed to start and stopped in order.
    assert!(canaries.search_below(&place.path("state")) >= 4);
    node.kill();
    canaries.search_below(&place.path("state"));
    let ended = place.try_start_in(&[
        ("FAILPOINTS", "journal-before-commit=return"),
        ("TURNBACK_LOG", "trace"),
        ("UPSTREAM_API_KEY", env),
    ]);
    said.push(("a start that failed".into(), ended.err().unwrap().said.into_bytes()));
    let node = place.start();
    said.push(("the last log".into(), node.log().into_bytes()));
    node.stop_in_order();
    canaries.search_below(&place.path("state"));
    for (what, bytes) in &said {
        canaries.search(what, bytes);
    }
}

/// Between the end of what was asked for and the beginning of its safer form nothing is done, and asking again goes on.
#[test]
fn a_kill_before_the_safer_form_leaves_nothing_and_the_call_can_be_repeated() {
    let place = Place::new();
    let rule = "@id(\"try\") @outcome(\"constrain\") @form(\"dry_run\") @reason(\"only tried\")\n\
        forbid (principal, action == Action::\"work__write_file\", resource);";
    fs::write(place.path("policies/forms.cedar"), rule).unwrap();
    let node = place.try_start("after-constrained=return").unwrap();
    let token = node.register().unwrap();
    let write = json!({ "path": "new.txt", "content": "x" });
    assert!(node.agent(&token).unwrap().call("work__write_file", &write).is_err());
    assert!(!node.ended().success());
    let node = place.start();
    let states = |node: &Node| node.rows().iter().map(|row| row["state"].clone()).collect::<Vec<_>>();
    assert_eq!(states(&node), ["constrained"]);
    let tried = node.agent(&token).unwrap().call("work__write_file", &write).unwrap();
    assert!(tried.text.contains("dry run"), "{tried:?}");
    assert_eq!(states(&node), ["constrained", "constrained", "measured_only"]);
    assert!(!place.path("work/new.txt").exists());
    node.stop_in_order();
    place.verify();
}

/// `FENCE`, at its last moment: the intent is durable, the commit is about to be begun, and the lease it was judged
/// with is taken away. Nothing is done, and the run says why.
#[test]
fn a_lease_lost_after_the_intent_stops_the_commit() {
    let place = Place::with(&format!("{}\n[[collision]]\nresources = [\"work\"]\n", common::CONFIG));
    let node = place.try_start("after-intent=sleep(5000)").unwrap();
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    let called = std::thread::scope(|scope| {
        let call = scope.spawn(move || agent.call("work__write_file", &json!({ "path": "new.txt", "content": "x" })));
        let begun = std::time::Instant::now();
        while !node.rows().iter().any(|row| row["state"] == "committing") {
            assert!(begun.elapsed() < common::PATIENCE, "it was never intended: {:?}", node.rows());
        }
        node.told(&json!({ "op": "leases_release", "resource": "work", "reason": "somebody else needs it" }), "leases");
        call.join().unwrap().unwrap()
    });
    assert!(called.error, "{called:?}");
    assert!(called.text.contains("lease"), "{called:?}");
    assert!(!place.path("work/new.txt").exists());
    assert_eq!(node.show(&called.run.unwrap())["row"]["state"], "refused");
    node.stop_in_order();
    place.verify();
}
