//! The ordinary path in both eras.

use serde_json::json;

use crate::wire::{Door, call, initialize};

#[tokio::test]
async fn the_handshake_era_lists_and_calls() {
    let door = Door::open().await;
    let reply = door.post(initialize("2025-11-25", json!({}))).send().await;
    let result = &reply.json()["result"];
    assert_eq!(result["protocolVersion"], "2025-11-25");
    assert_eq!(result["serverInfo"]["name"], "turnback");
    let session = reply.header("mcp-session-id").unwrap();
    assert_eq!(session.len(), 32);

    let initialized = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let reply = door.post(initialized).with("Mcp-Session-Id", &session).send().await;
    assert_eq!((reply.status, reply.body.as_str()), (202, ""));

    let list = r#"{"jsonrpc":"2.0","id":"a","method":"tools/list"}"#;
    let reply = door.post(list).with("Mcp-Session-Id", &session).send().await.json();
    let tools = reply["result"]["tools"].as_array().unwrap();
    assert_eq!(tools.len(), 3);
    let hints = |n: usize| {
        (tools[n]["annotations"]["readOnlyHint"].clone(), tools[n]["annotations"]["destructiveHint"].clone())
    };
    assert_eq!(hints(0), (json!(true), json!(false)));
    assert_eq!(hints(1), (json!(false), json!(true)));
    assert_eq!(hints(2), (json!(false), json!(false)), "only adding is not destructive");
    assert_eq!(tools[0]["inputSchema"]["properties"].get("turnback"), None, "reads take no statement");
    let statement = &tools[1]["inputSchema"]["properties"]["turnback"]["properties"];
    for field in ["intent", "evidence", "confidence", "plan", "alternatives", "reasoning", "expects"] {
        assert!(statement.get(field).is_some(), "{field}");
    }
    assert_eq!(tools[1]["inputSchema"]["required"], json!(["sql"]), "saying why stays optional");
    assert!(reply["result"].get("resultType").is_none());

    let reply = door
        .post(call(3, "shop__execute", &json!({ "sql": "update" })))
        .with("Mcp-Session-Id", &session)
        .with("MCP-Protocol-Version", "2025-11-25")
        .send()
        .await;
    assert_eq!(reply.header("content-type").unwrap(), "application/json");
    let result = &reply.json()["result"];
    assert_eq!(result["isError"], false);
    assert_eq!(result["content"][0]["text"], r#"{"echo":{"sql":"update"}}"#);
    assert_eq!(result["content"][1]["text"], "it can be undone");
    assert_eq!(result["structuredContent"]["echo"]["sql"], "update");
    assert!(result["_meta"]["turnback"]["run"].as_str().unwrap().starts_with("r_"));

    let reply = door
        .request("DELETE", "/mcp")
        .with("Authorization", "Bearer alice-secret")
        .with("Mcp-Session-Id", &session)
        .send()
        .await;
    assert_eq!(reply.status, 204);
    let reply = door.post(list).with("Mcp-Session-Id", &session).send().await;
    assert_eq!(reply.status, 404, "the session is over");
}

#[tokio::test]
async fn an_unknown_offer_is_countered_with_the_latest_handshake_version() {
    let door = Door::open().await;
    for (offer, version) in [("2025-06-18", "2025-06-18"), ("2031-01-01", "2025-11-25"), ("2026-07-28", "2025-11-25")] {
        let reply = door.post(initialize(offer, json!({}))).send().await;
        assert_eq!(reply.json()["result"]["protocolVersion"], version, "{offer}");
    }
}

#[tokio::test]
async fn the_stateless_era_discovers_lists_and_calls() {
    let door = Door::open().await;
    let reply = door.modern(1, "server/discover", json!({}), json!({})).send().await;
    assert_eq!((reply.status, reply.header("mcp-session-id")), (200, None));
    let result = &reply.json()["result"];
    assert!(result["supportedVersions"].as_array().unwrap().contains(&json!("2026-07-28")));
    assert_eq!((&result["resultType"], &result["ttlMs"]), (&json!("complete"), &json!(0)));

    let result = &door.modern(2, "tools/list", json!({}), json!({})).send().await.json()["result"];
    assert_eq!(result["tools"].as_array().unwrap().len(), 3);
    assert_eq!((&result["resultType"], &result["cacheScope"]), (&json!("complete"), &json!("private")));

    let params = json!({ "name": "shop__query", "arguments": { "sql": "select 1" } });
    let reply = door.modern(3, "tools/call", params.clone(), json!({})).send().await.json();
    assert_eq!(reply["result"]["structuredContent"]["echo"]["sql"], "select 1");
    assert_eq!(reply["result"]["resultType"], "complete");

    // A header may wrap its value (MCP 2026-07-28, custom headers).
    let wrapped = door
        .modern(4, "tools/call", params, json!({}))
        .without("Mcp-Name")
        .with("Mcp-Name", "=?base64?c2hvcF9fcXVlcnk=?=");
    assert_eq!(wrapped.send().await.status, 200);
}

#[tokio::test]
async fn what_a_peer_sends_reaches_the_desk_as_it_was_sent() {
    let door = Door::open().await;
    let session = door.session(json!({})).await;
    let body = r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"tools/call","params":{
        "name":"shop__query","arguments":{ "sql" : "\u0078", "n":0.10 },
        "_meta":{"traceparent":"00-1","unknown":[1e999],"turnback":{"intent":"why","confidence":0.5}},"more":1}}"#;
    let reply = door.post(body).with("Mcp-Session-Id", &session).send().await;
    assert!(
        reply.body.starts_with(r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"result""#),
        "{}",
        reply.body
    );
    let calls = door.desk.calls.lock().unwrap();
    assert_eq!(calls[0].arguments, br#"{ "sql" : "\u0078", "n":0.10 }"#);
    let statement = calls[0].statement.clone().unwrap();
    assert_eq!((statement.intent.as_deref(), statement.confidence), (Some("why"), Some(0.5)));
}

#[tokio::test]
async fn a_refusal_is_told_in_words_and_in_fields() {
    let door = Door::open().await;
    let params = json!({ "name": "shop2__drop", "arguments": {} });
    let result = door.modern(1, "tools/call", params, json!({})).send().await.json()["result"].clone();
    assert_eq!(result["isError"], true);
    assert_eq!(result["content"][0]["text"], "shop2__drop: no tool has that name");
    let fields = &result["structuredContent"];
    assert_eq!((&fields["code"], &fields["place"]), (&json!("unknown_tool"), &json!("shop2__drop")));
    assert_eq!((&fields["details"]["gate"], &fields["run"]), (&json!("input"), &json!(null)));
    assert!(door.desk.turned.lock().unwrap().is_empty(), "the desk knows what it refused itself");
}

#[tokio::test]
async fn a_long_call_is_streamed_and_kept_alive() {
    let door = Door::open().await;
    let session = door.session(json!({})).await;
    let slow = call(1, "shop__query", &json!({ "sql": "slow" }));
    let reply = door.post(slow.clone()).with("Mcp-Session-Id", &session).send().await;
    assert_eq!(reply.header("content-type").unwrap(), "text/event-stream");
    assert!(reply.body.starts_with(": waiting\n\n"), "{}", reply.body);
    assert_eq!(reply.json()["result"]["structuredContent"]["slow"], true);

    // Without a stream to keep alive the answer is plain JSON, however long it takes.
    let reply = door
        .post(slow)
        .without("Accept")
        .with("Accept", "application/json")
        .with("Mcp-Session-Id", &session)
        .send()
        .await;
    assert_eq!(reply.header("content-type").unwrap(), "application/json");
    assert_eq!(reply.json()["result"]["structuredContent"]["slow"], true);
}
