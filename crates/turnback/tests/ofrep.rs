//! The real binary and a flag service: no proxy of the environment comes between, other gateways hear the same, the
//! token stays where it is, and a start without the token's file says where it is named.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

#[path = "../../turnback-gateway/tests/support/service.rs"]
mod service;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{CONFIG, PATIENCE, Place, text};
use serde_json::{Value, json};
use service::{Act, Service};

const TOKEN: &str = "tok-9d1f0c77be42a6e8";

fn place(service: &Service) -> Place {
    let remote = format!(
        "{CONFIG}\n[[flags.remote]]\nurl = \"{}\"\ntoken_file = \"flags.token\"\ntimeout = \"10s\"\nrefresh = \"1ms\"\n",
        service.url
    );
    let place = Place::with(&remote);
    fs::write(place.path("flags.token"), format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(place.path("flags.token"), fs::Permissions::from_mode(0o600)).unwrap();
    place
}

#[test]
fn calls_other_gateways_and_operators_see_one_service() {
    let service = Service::start(Act::Mode("autonomous".into()));
    let proxy = Service::start(Act::Mode("autonomous".into()));
    let place = place(&service);
    let environment = [("http_proxy", &*proxy.url), ("HTTP_PROXY", &proxy.url), ("ALL_PROXY", &proxy.url)];
    let node = place.try_start_in(&environment).unwrap_or_else(|ended| panic!("{}", ended.said));
    let token = node.register().unwrap();
    let mut agent = node.agent(&token).unwrap();
    let write = json!({ "path": "a.txt", "content": "two\n" });
    let answer = |called: common::Called| format!("{called:?}");
    let said = answer(agent.call("work__write_file", &write).unwrap());
    assert_eq!(place.world().files["a.txt"], "two\n", "{said}");
    assert!(proxy.asked().is_empty(), "a proxy of the environment was used");
    assert!(service.asked().iter().all(|asked| asked.headers["authorization"] == format!("Bearer {TOKEN}")));

    service.does_with("release.resource.work", Act::Mode("off".into()));
    let said = answer(agent.call("work__read_file", &json!({ "path": "a.txt" })).unwrap());
    assert!(said.contains("flag `release.resource.work` of http://127.0.0.1:"), "{said}");
    // Who only wants a decision is told the same.
    let http = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).proxy(None);
    let question = json!({
        "subject": { "type": "agent", "id": "coder" },
        "action": { "name": "read_file", "properties": { "path": "a.txt" } },
        "resource": { "type": "files", "id": "work" },
    });
    let mut told = ureq::Agent::from(http.build())
        .post(node.url.replace("/mcp", "/access/v1/evaluation"))
        .header("Content-Type", "application/json")
        .header("Authorization", format!("Bearer {token}"))
        .send(question.to_string())
        .unwrap();
    let told: Value = serde_json::from_str(&told.body_mut().read_to_string().unwrap()).unwrap();
    assert_eq!(told["decision"], json!(false));
    assert!(told["context"]["reason"].as_str().unwrap().contains("flag `release.resource.work` of"), "{told}");

    service.does_with("release.resource.work", Act::Json(500, TOKEN.into()));
    let shown = place.run(&["flags", "remote", "-o", "json"]);
    let view: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&view[0]["url"], &view[0]["state"]), (&json!(service.url), &json!("stale")), "{view}");
    assert_eq!(view[0]["stale_after_seconds"], json!(300.0));
    drop(agent);
    let log = node.log();
    let shown = text(&place.run(&["flags", "remote"])) + &text(&place.run(&["doctor"])) + &log;
    assert!(!shown.contains(TOKEN), "{shown}");
    node.stop_in_order();
    place.verify();
    let kept: Vec<u8> = fs::read_dir(place.path("state"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .flat_map(|path| fs::read(path).unwrap())
        .collect();
    let holds = |what: &str| kept.windows(what.len()).any(|part| part == what.as_bytes());
    // Who said it is in the record, with what.
    assert!(holds(&service.url) && !holds(&TOKEN[..12]));
}

#[test]
fn a_token_others_can_read_is_named_with_its_place_at_the_start() {
    let service = Service::start(Act::NotFound);
    let place = place(&service);
    fs::set_permissions(place.path("flags.token"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = text(&place.run(&["up"]));
    assert!(refused.contains("can be opened by others (mode 644)") && refused.contains("chmod 600"), "{refused}");
    let line = CONFIG.lines().count() + 4;
    assert!(refused.contains(&format!("turnback.toml:{line}:")), "{refused}");
    assert!(!refused.contains(TOKEN));
}
