//! Every bad input that concerns this door: a clear error that names the place, nothing changed, recorded.

use serde_json::json;

use crate::wire::{Door, Reply, call};

/// The answer is an error with this status, code and text, and the desk was told exactly once.
fn refused(door: &Door, reply: &Reply, status: u16, code: i64, text: &str) {
    let (found, message) = reply.error();
    assert_eq!((reply.status, found), (status, code), "{}", reply.body);
    assert!(message.contains(text), "`{text}` is missing: {message}");
    let turned = std::mem::take(&mut *door.desk.turned.lock().unwrap());
    assert_eq!(turned.len(), 1, "{turned:?}");
    assert_eq!(turned[0].0, "mcp/http");
    assert!(door.desk.calls.lock().unwrap().is_empty(), "it became a call");
}

#[tokio::test]
async fn malformed_messages() {
    let door = Door::open().await;
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}{}}}"#,
        r#"{"a":"#.repeat(70),
        "1".to_owned() + &"}".repeat(70)
    );
    let cases: [(&[u8], i64, &str); 11] = [
        (br#"{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call"}"#, -32700, "duplicate key `method`"),
        (br#"{"jsonrpc":"2.0","id":1,"method":"tools/list","\u006dethod":"tools/call"}"#, -32700, "duplicate key `method`"),
        (br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"shop__execute","arguments":{"sql":"a","s\u0071l":"b"}}}"#, -32700, "/params/arguments"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"\xff\xfe\"}}", -32700, "invalid UTF-8"),
        (br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\ud800"}}"#, -32700, "lone surrogate"),
        (deep.as_bytes(), -32700, "deeper than 64"),
        (br#"[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]"#, -32600, "batches are not accepted"),
        (br#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#, -32600, "id: "),
        (br#"{"jsonrpc":"2.1","id":1,"method":"tools/list"}"#, -32600, "jsonrpc: "),
        (b"{", -32700, "/: "),
        (b"", -32700, "/: "),
    ];
    for (body, code, text) in cases {
        let reply = door.post(body).send().await;
        refused(&door, &reply, 400, code, text);
    }
}

#[tokio::test]
async fn malformed_parameters() {
    let door = Door::open().await;
    let session = door.session(json!({})).await;
    for (params, text) in [
        (r#"{"arguments":{}}"#, "params.name: "),
        (r#"{"name":7}"#, "params.name: "),
        (r#"{"name":"shop__query","_meta":[]}"#, "params._meta: "),
        (
            r#"{"name":"shop__query","_meta":{"turnback":{"intention":"x"}}}"#,
            "params._meta.turnback: unknown field `intention`",
        ),
        (r#"{"name":"shop__query","_meta":{"turnback":{"confidence":2}}}"#, "params._meta.turnback.confidence: "),
        (r#"{"name":"shop__query","_meta":{"turnback":{"confidence":0.12345678901234567890}}}"#, "does not survive"),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        let reply = door.post(body).with("Mcp-Session-Id", &session).send().await;
        refused(&door, &reply, 200, -32602, text);
    }
    let reply = door.post(r#"{"jsonrpc":"2.0","id":1,"method":"resources/list"}"#).with("Mcp-Session-Id", &session);
    refused(&door, &reply.send().await, 200, -32601, "resources/list: no such method");
    let reply = door.modern(1, "resources/list", json!({}), json!({})).send().await;
    refused(&door, &reply, 404, -32601, "resources/list: no such method");
}

#[tokio::test]
async fn tokens() {
    let door = Door::open().await;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    for token in [None, Some(""), Some("Bearer"), Some("Bearer wrong"), Some("Basic alice-secret"), Some("Bearer  ")] {
        let mut sent = door.post(list).without("Authorization");
        if let Some(token) = token {
            sent = sent.with("Authorization", token);
        }
        let reply = sent.send().await;
        refused(&door, &reply, 401, -32010, "token");
        assert!(reply.header("www-authenticate").unwrap().starts_with("Bearer "));
        assert!(!reply.body.contains("wrong"), "a secret is not repeated");
    }
    // Two credentials are two readings of who asks.
    let reply = door.post(list).with("Authorization", "Bearer bob-secret").send().await;
    refused(&door, &reply, 401, -32010, "more than once");
}

#[tokio::test]
async fn sessions_belong_to_their_principal() {
    let door = Door::open().await;
    let session = door.session(json!({})).await;
    let body = call(1, "shop__query", &json!({ "sql": "x" }));
    let reply = door.post(body.clone()).send().await;
    refused(&door, &reply, 400, -32600, "Mcp-Session-Id: the header is missing");
    let unknown = door.post(body.clone()).with("Mcp-Session-Id", &"0".repeat(32)).send().await;
    refused(&door, &unknown, 404, -32600, "no such session");
    let bobs = || door.post(body.clone()).without("Authorization").with("Authorization", "Bearer bob-secret");
    let foreign = bobs().with("Mcp-Session-Id", &session).send().await;
    assert_eq!(door.desk.turned.lock().unwrap()[0].1.as_ref().unwrap().agent().unwrap().as_str(), "bob");
    refused(&door, &foreign, 404, -32600, "no such session");
    assert_eq!(foreign.body, unknown.body, "somebody else's looks like none");
    let end =
        door.request("DELETE", "/mcp").with("Authorization", "Bearer bob-secret").with("Mcp-Session-Id", &session);
    refused(&door, &end.send().await, 404, -32600, "no such session");
    let twice = door.post(body.clone()).with("Mcp-Session-Id", &session).with("Mcp-Session-Id", &session).send().await;
    refused(&door, &twice, 400, -32600, "more than once");
    assert_eq!(door.post(body).with("Mcp-Session-Id", &session).send().await.status, 200);
}

#[tokio::test]
async fn hosts_and_origins() {
    let door = Door::open().await;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    for host in ["evil.example", "evil.example:80", "127.0.0.1:1", "localhost"] {
        let reply = door.post(list).without("Host").with("Host", host).send().await;
        refused(&door, &reply, 403, -32012, "Host: ");
    }
    let reply = door.post(list).without("Host").send().await;
    refused(&door, &reply, 403, -32012, "Host: the header is missing");
    for origin in ["https://evil.example", "null", "http://localhost"] {
        let reply = door.post(list).with("Origin", origin).send().await;
        refused(&door, &reply, 403, -32012, "Origin: ");
        let page = door.request("GET", "/approvals/x").with("Origin", origin).send().await;
        refused(&door, &page, 403, -32012, "Origin: ");
    }
    let own = format!("http://localhost:{}", door.at.port());
    assert_eq!(door.modern(1, "tools/list", json!({}), json!({})).with("Origin", &own).send().await.status, 200);
}

#[tokio::test]
async fn versions_and_routing_headers() {
    let door = Door::open().await;
    let session = door.session(json!({})).await;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    for version in ["1999-01-01", "2026-07-29", ""] {
        let reply = door.post(list).with("Mcp-Session-Id", &session).with("MCP-Protocol-Version", version).send().await;
        assert!(reply.json()["error"]["data"]["supported"].as_array().unwrap().contains(&json!("2026-07-28")));
        refused(&door, &reply, 400, -32022, "unsupported protocol version");
    }
    let query = json!({ "name": "shop__query", "arguments": { "sql": "x" } });
    let good = || door.modern(1, "tools/call", query.clone(), json!({}));
    for (sent, text) in [
        (good().without("MCP-Protocol-Version"), "mcp-protocol-version: "),
        (good().without("MCP-Protocol-Version").with("MCP-Protocol-Version", "2025-11-25"), "mcp-protocol-version: "),
        (good().without("Mcp-Method"), "mcp-method: "),
        (good().without("Mcp-Method").with("Mcp-Method", "tools/list"), "mcp-method: "),
        (good().without("Mcp-Name"), "mcp-name: "),
        (good().without("Mcp-Name").with("Mcp-Name", "shop__execute"), "mcp-name: "),
        (good().without("Mcp-Name").with("Mcp-Name", "=?base64?!?="), "mcp-name: "),
        (good().with("Mcp-Name", "shop__query"), "more than once"),
        (good().with("MCP-Protocol-Version", "2026-07-28"), "more than once"),
    ] {
        refused(&door, &sent.send().await, 400, -32020, text);
    }
    // The envelope itself.
    let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}"#;
    let reply =
        door.post(bare).with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Method", "tools/list").send().await;
    refused(&door, &reply, 400, -32602, "protocolVersion");
    let meta = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
    let reply =
        door.post(meta).with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Method", "tools/list").send().await;
    refused(&door, &reply, 400, -32602, "clientCapabilities");
    assert_eq!(good().send().await.status, 200);
}

#[tokio::test]
async fn places_and_types() {
    let door = Door::open().await;
    let reply = door.request("GET", "/").send().await;
    refused(&door, &reply, 404, -32600, "/: nothing is here");
    let reply = door.request("POST", "/approvals/x").send().await;
    refused(&door, &reply, 404, -32600, "approval: ");
    let reply = door.post("{}").without("Content-Type").with("Content-Type", "text/plain").send().await;
    refused(&door, &reply, 415, -32600, "Content-Type: ");
    let reply = door.request("GET", "/mcp").with("Authorization", "Bearer alice-secret").send().await;
    assert_eq!((reply.status, reply.header("allow").as_deref()), (405, Some("POST, DELETE")));
}

#[tokio::test]
async fn the_page_of_a_question_needs_its_whole_name_and_answers_nothing() {
    let door = Door::open().await;
    let park = json!({ "name": "shop__execute", "arguments": { "sql": "park" } });
    door.modern(1, "tools/call", park, json!({ "elicitation": { "url": {} } })).send().await;
    let id = door.desk.question().approval.to_string();
    let page = door.request("GET", &format!("/approvals/{id}")).send().await;
    assert_eq!((page.status, page.header("content-type").as_deref()), (200, Some("text/plain; charset=utf-8")));
    assert_eq!(page.header("cache-control").as_deref(), Some("no-store"));
    assert!(page.body.contains(&format!("turnback approve {id}")), "{}", page.body);
    assert!(page.body.contains("`customers`<U+202E>\n"), "{}", page.body);
    door.desk.calls.lock().unwrap().clear();
    let short = door.desk.question().approval.short();
    let dashed = format!("ap_{}", door.desk.question().approval.uuid().hyphenated());
    for other in [short, id.to_uppercase(), id.replace("ap_", "r_"), format!("{id}/"), format!("{id}x"), dashed] {
        let reply = door.request("GET", &format!("/approvals/{other}")).send().await;
        refused(&door, &reply, 404, -32600, "there is no such question");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD", "PATCH"] {
        let reply = door.request(method, &format!("/approvals/{id}")).send().await;
        assert_eq!(reply.status, 404, "{method}");
    }
}
