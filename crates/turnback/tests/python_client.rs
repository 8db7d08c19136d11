//! A client that was not written for Turnback: the official Python `mcp` package drives the gateway end to
//! end (`e2e/client.py`), over HTTP and over stdio, in both protocol eras, with and without a user who can
//! be asked.
//!
//! `TURNBACK_MCP_PYTHON` names an interpreter that has the package; `./check` makes one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::process::{Command, Stdio};

use common::{CONFIG, Node, Place, text};
use serde_json::{Value, json};

const HANDSHAKE: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";

/// Plays the script; `node` is the gateway for HTTP, none starts `turnback stdio`.
fn drive(place: &Place, node: Option<(&Node, &str)>, mode: &str, version: &str, elicits: bool) {
    let python = std::env::var("TURNBACK_MCP_PYTHON").unwrap_or_else(|_| {
        panic!("TURNBACK_MCP_PYTHON names no Python with the `mcp` package: run ./check, which makes one")
    });
    let command = [
        env!("CARGO_BIN_EXE_turnback").to_owned(),
        "--config".into(),
        place.path("turnback.toml").display().to_string(),
    ];
    let mut given = json!({ "command": command, "mode": mode, "version": version, "elicits": elicits });
    if let Some((node, token)) = node {
        given["url"] = json!(node.url);
        given["token"] = json!(token);
    }
    let output = Command::new(&python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/client.py"))
        .arg(given.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{python}: {e}"));
    assert!(output.status.success(), "{given}: {}", text(&output));
    let world = place.world();
    assert_eq!(world.rows["stock"], ["1 11", "2 20", "3 30"], "done once, and nothing else");
    assert_eq!(world.files, Place::new().world().files);
}

fn place() -> Place {
    // Long enough for a person who answers at once.
    Place::with(&CONFIG.replace("hold = \"10ms\"", "hold = \"20s\""))
}

/// What is on record: a write, a refusal, an approved write and a plan, with nothing left open.
fn recorded(rows: &[Value]) {
    let states = |tool: &str| {
        rows.iter().filter(|r| r["tool"] == tool).map(|r| r["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // The first step of a plan came too early; then two steps ran, and an abort took both back.
    assert_eq!(states("shop__execute"), ["settled", "settled", "denied", "undone", "undone"]);
    assert_eq!(states("shop__query"), ["released"]);
    assert!(rows.iter().all(|r| r["over"] == json!(true) && r["undelivered"] == json!(false)), "{rows:?}");
}

fn over_http(mode: &str, version: &str, elicits: bool) {
    let place = place();
    let node = place.start();
    let token = node.register().unwrap();
    drive(&place, Some((&node, &token)), mode, version, elicits);
    recorded(&node.rows());
    node.stop_in_order();
    place.verify();
}

fn over_stdio(mode: &str, version: &str, elicits: bool) {
    let place = place();
    let node = place.start();
    node.register().unwrap();
    drive(&place, None, mode, version, elicits);
    recorded(&node.rows());
    node.stop_in_order();
    place.verify();
}

#[test]
fn http_handshake_era() {
    over_http("legacy", HANDSHAKE, false);
}

#[test]
fn http_handshake_era_with_a_user() {
    over_http("legacy", HANDSHAKE, true);
}

#[test]
fn http_stateless_era() {
    over_http(MODERN, MODERN, false);
}

#[test]
fn http_stateless_era_with_a_user() {
    over_http("auto", MODERN, true);
}

#[test]
fn stdio_handshake_era_with_a_user() {
    over_stdio("legacy", HANDSHAKE, true);
}

#[test]
fn stdio_stateless_era() {
    over_stdio(MODERN, MODERN, false);
}

#[test]
fn stdio_without_a_gateway_is_one() {
    let place = place();
    let node = place.start();
    node.register().unwrap();
    node.stop_in_order();
    drive(&place, None, "auto", MODERN, true);
    place.verify();
    recorded(&place.start().rows());
}
