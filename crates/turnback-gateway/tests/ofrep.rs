//! Flags of a service, over HTTP: what it says, what it says wrong, and what holds when it says nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod support;

#[path = "support/service.rs"]
mod service;

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use serde_json::{Value, json};
use service::{Act, Service};
use support::{CONFIG, Node, Place, done, ended, refused};
use turnback_core::decision::{Decision, Phase, Ruling};
use turnback_core::flags::Flagged;
use turnback_core::gates::{self, Measured};
use turnback_core::policy::Policy;
use turnback_core::run::Event;
use turnback_gateway::desk::{Answer, Call, Caller, Desk as _};
use turnback_gateway::operator::protocol::{RemoteFlagsState, RemoteFlagsView, Reply, Request};

/// A place whose flags come from a service. Answers are fresh for ten seconds of the node's clock, and used for a
/// minute; `more` may say how long a request may take, and what else.
fn place(url: &str, more: &str) -> Place {
    let timeout = if more.contains("timeout") { "" } else { "timeout = \"10s\"\n" };
    Place::with(&format!(
        "{CONFIG}\n[[flags.remote]]\nurl = \"{url}\"\nrefresh = \"10s\"\nstale_after = \"60s\"\n{timeout}{more}"
    ))
}

const ONE_KEY: &str = "keys = [\"release\"]\n";

async fn write(node: &Node) -> Answer {
    node.sql("update customers set tier = 'gold' where id = 1").await
}

fn why(answer: Answer) -> String {
    let (refusal, details) = refused(answer);
    assert_eq!(details["gates"][0]["gate"].as_str().unwrap_or("release"), "release", "{details}");
    refusal.message
}

async fn view(node: &Node) -> RemoteFlagsView {
    match node.operate(Request::FlagsRemote).await {
        Reply::FlagsRemote(mut views) => views.remove(0),
        other => panic!("{other:?}"),
    }
}

/// What was decided about a run, and what the flags had said; each decision is made again from the record.
async fn decisions(place: &Place, node: &Node, run: &str) -> Vec<(Decision, Option<Flagged>)> {
    let config = place.config();
    let tools = turnback_gateway::node::tools(&config).unwrap();
    let policy = Policy::compile(&turnback_gateway::node::policy_sources(&config.policy).unwrap(), &tools).unwrap();
    let (mut contract, mut measured, mut found) = (None, None, Vec::new());
    for happened in node.show(run).await.history {
        match happened.event {
            Event::Proposed { contract: proposed } => contract = Some(proposed),
            Event::Staged { measurement } => measured = Some(measurement),
            Event::Judged { decision, circumstances } => {
                let measured = measured.as_ref().filter(|_| decision.phase == Phase::After);
                let measured = measured.map(|m| Measured { effect: &m.effect, plan: &m.plan });
                let facts = circumstances.facts(contract.as_ref().unwrap(), &policy, measured);
                assert_eq!(gates::decide(decision.phase, &facts), decision);
                found.push((decision, circumstances.flags));
            }
            _ => {}
        }
    }
    found
}

fn reply(status: u16, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn what_a_service_says_is_the_strictest_word_and_is_recorded() {
    let service = Service::start(Act::NotFound);
    let place = place(&service.url, "");
    let node = place.start().await;
    assert_eq!(view(&node).await.state, RemoteFlagsState::Unasked);
    let (run, _) = done(write(&node).await);
    let keys: Vec<String> = service.asked().into_iter().map(|asked| asked.key).collect();
    for key in [
        "release",
        "release.environment.test",
        "release.resource.db",
        "release.tool.db__execute",
        "release.agent.coder",
    ] {
        assert_eq!(keys.iter().filter(|k| *k == key).count(), 1, "{keys:?}");
    }
    assert_eq!(keys.len(), 5);
    let asked = &service.asked()[0];
    assert_eq!(asked.context["targetingKey"], "coder");
    assert_eq!((&asked.context["owner"], &asked.context["tool"]), (&json!("anna"), &json!("db__execute")));
    assert_eq!(asked.headers["content-type"], "application/json");
    assert!(!asked.headers.contains_key("authorization"));
    // That a service has no such flags is remembered as well.
    done(write(&node).await);
    assert_eq!(service.asked().len(), 5);
    let found = decisions(&place, &node, &run).await;
    let flagged = found[0].1.as_ref().unwrap();
    assert_eq!((flagged.document, flagged.said.len()), (None, 5));
    assert!(flagged.said.iter().all(|said| said.mode.is_none() && said.error.is_none()));
    assert_eq!(flagged.said[0].remote.as_ref().unwrap().service, service.url);
    assert!(found[1].1.is_none(), "after staging nobody asks");

    place.pass(11);
    service.does_with("release.resource.db", Act::Mode("off".into()));
    let Answer::Refused { run: Some(run), refusal, .. } = write(&node).await else { panic!("not refused") };
    assert!(refusal.message.contains(&format!("flag `release.resource.db` of {} is `off`, mode `off`", service.url)));
    let found = decisions(&place, &node, &run.to_string()).await;
    assert_eq!(found[0].0.ruling, Ruling::Deny);
    // The other resource is not concerned.
    done(node.call("work__write_file", json!({ "path": "a.txt", "content": "two\n" })).await);
    let view = view(&node).await;
    assert_eq!((view.state, view.held, view.why), (RemoteFlagsState::Fresh, 10, None));
}

/// Upholds `ONLY-TIGHTEN`, through the whole node.
#[tokio::test]
async fn a_service_never_loosens_what_the_environment_or_the_file_says() {
    let service = Service::start(Act::Mode("autonomous".into()));
    for (mode, flag) in
        [("observe", "autonomous"), ("enforce", "observe"), ("enforce", "off"), ("enforce", "autonomous")]
    {
        let remote = format!(
            "\n[flags]\npath = \"flags.json\"\n[[flags.remote]]\nurl = \"{}\"\ntimeout = \"10s\"\n",
            service.url
        );
        let place = Place::with(&format!("{}{remote}", CONFIG.replace("enforce", mode)));
        let flag =
            json!({ "flags": { "release": { "state": "ENABLED", "variants": { "v": flag }, "defaultVariant": "v" } } });
        std::fs::write(place.path("flags.json"), flag.to_string()).unwrap();
        let node = place.start().await;
        let answer = write(&node).await;
        let changed = place.value("select tier from customers where id = 1") == json!("gold");
        assert_eq!(
            changed,
            (mode, &flag["flags"]["release"]["variants"]["v"]) == ("enforce", &json!("autonomous")),
            "{answer:?}"
        );
        node.stop().await;
    }
}

#[tokio::test]
async fn no_misbehaviour_of_a_service_allows_anything_and_each_is_named() {
    let service = Service::start(Act::NotFound);
    let elsewhere = Service::start(Act::Mode("autonomous".into()));
    let place = place(&service.url, &format!("{ONE_KEY}timeout = \"2s\"\n"));
    let node = place.start().await;
    let json = |status, body: &str| Act::Json(status, body.to_owned());
    let value = |value: Value| json(200, &json!({ "key": "{{key}}", "reason": "STATIC", "value": value }).to_string());
    let good = r#"{"key":"release","reason":"STATIC","value":"autonomous"}"#;
    let moved = format!(
        "HTTP/1.1 302 X\r\nLocation: {}/ofrep/v1/evaluate/flags/release\r\nContent-Length: 0\r\n\r\n",
        elsewhere.url
    );
    let cases = [
        (value(json!("auto")), "`auto` is no mode"),
        (value(json!(true)), "a boolean"),
        (value(json!(3)), "a number"),
        (value(json!({ "mode": "autonomous" })), "not the word of a mode"),
        (json(200, r#"{"key":"{{key}}","reason":"BECAUSE","value":"autonomous"}"#), "reason `BECAUSE` is unknown"),
        (json(200, r#"{"key":"release.agent.coder","reason":"STATIC","value":"autonomous"}"#), "another key"),
        (json(200, r#"{"key":"{{key}}","reason":"STATIC","value":"off","value":"autonomous"}"#), "duplicate key"),
        (json(200, r#"{"key":"{{key}}","value":"autonomous""#), "not strict JSON"),
        (Act::Long(10 << 20), "larger than 65536 bytes"),
        (Act::Bytes(reply(200, "text/html", good)), "of type `text/html`"),
        (Act::Bytes(reply(404, "text/html", "not here")), "(404) is of type `text/html`"),
        (json(400, r#"{"key":"{{key}}","errorCode":"TARGETING_KEY_MISSING"}"#), "400, `TARGETING_KEY_MISSING`"),
        (json(401, good), "answers 401"),
        (json(403, good), "answers 403"),
        (json(429, good), "answers 429"),
        (json(500, good), "answers 500"),
        (json(204, ""), "answers 204"),
        (Act::Bytes(moved.into_bytes()), "redirects are not followed"),
        (Act::Bytes(Vec::new()), "failed"),
        (Act::Bytes(b"SSH-2.0-OpenSSH\r\n".to_vec()), "failed"),
        (
            Act::Bytes(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{".to_vec()),
            "failed",
        ),
        (Act::Bytes([b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 100_000], b"\r\n\r\n"].concat()), "failed"),
        (Act::Hang, "did not answer within 2000 ms"),
        (Act::Drip, "did not answer within 2000 ms"),
    ];
    for (n, (act, says)) in cases.into_iter().enumerate() {
        let change = |more| format!("update customers set tier = '{}' where id = 2", 2 * n + more);
        // Nothing was ever said: refused. What said otherwise before is too old by now.
        place.pass(400);
        service.does(act.clone());
        let message = why(write(&node).await);
        assert!(message.contains(&format!("flag `release` of {} is not known: ", service.url)), "{act:?}: {message}");
        assert!(message.contains(says), "{act:?}: {message}");
        assert!(message.len() < 400 && place.value("select tier from customers where id = 1") == json!("basic"));

        // It was said a while ago: that counts, and is said to be stale.
        place.pass(400);
        service.does(Act::Mode("draft_write".into()));
        let Answer::Pending(_) = node.sql(&change(0)).await else { panic!("{act:?}: does not wait") };
        place.pass(20);
        service.does(act.clone());
        let Answer::Pending(waits) = node.sql(&change(1)).await else { panic!("{act:?}") };
        let found = decisions(&place, &node, &waits.run.to_string()).await;
        let said = &found[0].1.as_ref().unwrap().said[0];
        assert!(said.remote.as_ref().unwrap().stale.as_ref().unwrap().contains(says), "{act:?}: {said:?}");
        let release = found[0].0.verdicts.iter().find(|v| v.gate == "release").unwrap();
        assert!(
            release.reason.contains("(stale, said 2") && release.reason.contains(says),
            "{act:?}: {}",
            release.reason
        );
        node.operate(Request::Reject { approval: waits.approval.to_string(), reason: "no".into() }).await;
    }
    assert!(elsewhere.asked().is_empty(), "a redirect was followed");
}

#[tokio::test]
async fn nobody_there_and_no_tls_are_refusals() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // Speaks first, and plainly.
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in plain.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    for (url, says) in [
        (format!("http://{free}"), "nobody listens there"),
        (format!("https://{address}"), "no TLS connection"),
        ("https://flags.invalid".to_owned(), "flags.invalid is not known: "),
    ] {
        let place = place(&url, ONE_KEY);
        let node = place.start().await;
        let message = why(write(&node).await);
        assert!(message.contains(says), "{url}: {message}");
        assert_eq!(view(&node).await.state, RemoteFlagsState::Down);
        node.stop().await;
    }
}

#[tokio::test]
async fn a_service_that_is_down_is_not_waited_for_again_and_found_when_it_is_back() {
    let service = Service::start(Act::Hang);
    let place = place(&service.url, "timeout = \"200ms\"\n");
    let node = place.start().await;
    assert!(why(write(&node).await).contains("did not answer within 200 ms"));
    let asked = service.asked().len();
    let message = why(write(&node).await);
    assert!(message.contains("did not answer within 200 ms; it is asked again in a few seconds"), "{message}");
    assert_eq!(service.asked().len(), asked);
    // One finds out.
    place.pass(6);
    why(write(&node).await);
    assert_eq!(service.asked().len(), asked + 1);
    assert_eq!(view(&node).await.state, RemoteFlagsState::Down);
    let address = service.address();
    service.stop();
    let service = Service::at(address, Act::Mode("autonomous".into()));
    place.pass(6);
    let came = write(&node).await;
    // On a machine this busy 200 ms may be too short for an answer; then it is the next trial that finds it.
    if matches!(came, Answer::Done { .. }) {
        assert_eq!(service.asked().len(), 5, "all keys are asked by the call that found it");
    }
}

#[tokio::test]
async fn a_restart_without_the_service_refuses_clearly() {
    let service = Service::start(Act::Mode("autonomous".into()));
    let place = place(&service.url, "");
    let node = place.start().await;
    done(write(&node).await);
    node.stop().await;
    service.stop();
    let node = place.start().await;
    let message = why(write(&node).await);
    assert!(message.contains("is not known: nobody listens there"), "{message}");
    // Nor is anybody else's action governed by it.
    let Reply::Runs(runs) = node.operate(Request::Runs { agent: None, state: Some("settled".into()), limit: 10 }).await
    else {
        panic!("no runs")
    };
    ended(node.undo(&[&runs[0].run.to_string()]).await);
    assert_eq!(place.value("select tier from customers where id = 1"), json!("basic"));
}

#[tokio::test]
async fn fifty_calls_at_once_are_one_question() {
    let service = Service::start(Act::Held("autonomous".into()));
    let place = place(&service.url, "");
    let node = Arc::new(place.start().await);
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let node = Arc::clone(&node);
            tokio::spawn(async move { node.call("db__query", json!({ "sql": "select 1" })).await })
        })
        .collect();
    // On one thread every call comes as far as it can before this one goes on: to the service.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let service = tokio::task::spawn_blocking(move || {
        service.await_asked(5);
        service
    })
    .await
    .unwrap();
    assert!(calls.iter().all(|call| !call.is_finished()));
    service.let_go();
    for call in calls {
        done(call.await.unwrap());
    }
    assert_eq!(service.asked().len(), 5, "one for each key");
}

#[tokio::test]
async fn what_is_said_to_one_is_not_said_to_another() {
    let service = Service::start(Act::Mode("autonomous".into()));
    let place = place(&service.url, ONE_KEY);
    let node = place.start().await;
    let call = async |user: Option<&str>| {
        let caller = Caller { on_behalf_of: user.map(str::to_owned), ..node.caller.clone() };
        let arguments = json!({ "sql": "select 1" }).to_string().into_bytes();
        let tool = "db__query".to_owned();
        node.runtime.call(Call { caller, tool, arguments, statement: None, trace: None }).await
    };
    done(call(None).await);
    done(call(Some("ben")).await);
    // What holds for one context says nothing about another, however long it is known.
    service.does(Act::Json(503, "{}".into()));
    done(call(None).await);
    done(call(Some("ben")).await);
    assert!(why(call(Some("eve")).await).contains("answers 503"));
    let keys: Vec<Value> = service.asked().iter().map(|asked| asked.context["targetingKey"].clone()).collect();
    assert_eq!(keys, ["coder", "coder/ben", "coder/eve"]);
    // Other risks and tools are other contexts: rules there may ask for them.
    assert!(why(write(&node).await).contains("answers 503"));
}

#[tokio::test]
async fn the_token_goes_to_the_service_and_nowhere_else() {
    const TOKEN: &str = "tok-3f9c1e55aa0b4d27";
    let service = Service::start(Act::Mode("autonomous".into()));
    let place = place(&service.url, &format!("{ONE_KEY}token_file = \"flags.token\"\n"));
    let file = place.path("flags.token");
    let give = |mode: u32| {
        std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    give(0o600);
    let node = place.start().await;
    done(write(&node).await);
    assert_eq!(service.asked()[0].headers["authorization"], format!("Bearer {TOKEN}"));
    let mut heard = Vec::new();
    // It is read at every request: one that became readable for others is not sent.
    place.pass(100);
    give(0o644);
    heard.push(why(write(&node).await));
    assert!(heard[0].contains("can be opened by others (mode 644)"), "{heard:?}");
    assert_eq!(service.asked().len(), 1);
    give(0o600);
    for act in [
        Act::Json(200, format!(r#"{{"key":"{{{{key}}}}","value":"{TOKEN}"}}"#)),
        Act::Json(200, format!(r#"{{"key":"{{{{key}}}}","value":"off","reason":"{TOKEN}"}}"#)),
        Act::Json(200, format!(r#"{{"key":"{{{{key}}}}","value":"off","variant":"x{TOKEN}"}}"#)),
        Act::Json(200, format!(r#"{{"key":"Bearer {TOKEN}","value":"off"}}"#)),
        Act::Json(400, format!(r#"{{"key":"{{{{key}}}}","errorCode":"{TOKEN}"}}"#)),
        Act::Bytes(reply(200, &format!("text/{TOKEN}"), "{}")),
        Act::Json(401, TOKEN.into()),
        Act::Bytes(TOKEN.as_bytes().to_vec()),
    ] {
        place.pass(400);
        service.does(act.clone());
        heard.push(why(write(&node).await));
        heard.push(format!("{:?}", view(&node).await));
    }
    let Reply::Runs(runs) = node.operate(Request::Runs { agent: None, state: None, limit: 100 }).await else {
        panic!("no runs")
    };
    for row in runs {
        heard.push(format!("{:?}", node.show(&row.run.to_string()).await));
    }
    for said in &heard {
        assert!(!said.contains(&TOKEN[..10]), "{said}");
    }
    node.stop().await;
    for (path, content) in support::tree(&place.path("state")) {
        let found = content.unwrap_or_default().windows(10).any(|part| part == &TOKEN.as_bytes()[..10]);
        assert!(!found, "{}", path.display());
    }
}
