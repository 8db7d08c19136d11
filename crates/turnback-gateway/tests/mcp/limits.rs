//! Bounds: over each of them a clear refusal, quickly, and the door goes on.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use turnback_gateway::mcp::McpOptions;

use crate::wire::{Door, call, initialize, options};

async fn works(door: &Door) {
    assert_eq!(door.modern(9, "tools/list", json!({}), json!({})).send().await.status, 200);
}

#[tokio::test]
async fn bodies_over_a_mebibyte_are_refused_and_those_at_it_are_not() {
    let door = Door::open().await;
    let session = door.session(json!({})).await;
    let fit = |size: usize| {
        let body = call(1, "shop__query", &json!({ "sql": "x", "pad": "" }));
        body.replace(r#""pad":"""#, &format!(r#""pad":"{}""#, "x".repeat(size - body.len())))
    };
    let reply = door.post(fit(1 << 20)).with("Mcp-Session-Id", &session).send().await;
    assert_eq!(reply.status, 200);
    for size in [(1 << 20) + 1, 3 << 20] {
        let reply = door.post(fit(size)).with("Mcp-Session-Id", &session).send().await;
        assert_eq!((reply.status, reply.error().0), (413, -32013));
    }
    // One that only announces a flood is not waited for.
    let mut stream = TcpStream::connect(door.at).await.unwrap();
    let head =
        String::from_utf8(door.post("").bytes()).unwrap().replace("content-length: 0", "content-length: 99999999999");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = String::new();
    tokio::time::timeout(Duration::from_secs(1), stream.read_to_string(&mut reply)).await.unwrap().unwrap();
    assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
    assert_eq!(door.desk.refusals().len(), 3);
    works(&door).await;
}

#[tokio::test]
async fn more_calls_than_can_be_served_are_refused_at_once() {
    let door = Door::with(McpOptions { max_in_flight: 2, ..options() }).await;
    let slow =
        || door.modern(1, "tools/call", json!({ "name": "shop__query", "arguments": { "sql": "slow" } }), json!({}));
    let (first, second) = (slow().begin().await, slow().begin().await);
    while door.desk.calls.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = Instant::now();
    let reply = slow().send().await;
    assert!(before.elapsed() < Duration::from_millis(200));
    assert_eq!((reply.status, reply.error().0, reply.header("retry-after").as_deref()), (503, -32011, Some("1")));
    assert_eq!(door.desk.refusals(), ["too many calls are being worked on; the bound is 2"]);
    assert_eq!(first.finish().await.status, 200);
    assert_eq!(second.finish().await.status, 200);
    works(&door).await;
}

#[tokio::test]
async fn a_flood_of_refusals_is_recorded_by_its_number() {
    const FLOOD: u64 = 200;
    let door = Door::with(McpOptions { max_in_flight: 0, ..options() }).await;
    for _ in 0..FLOOD {
        let reply = door.modern(1, "tools/list", json!({}), json!({})).send().await;
        assert_eq!(reply.status, 503);
        let data = &reply.json()["error"]["data"];
        assert_eq!(
            (&data["full"], &data["bound"], &data["retry_after_seconds"]),
            (&json!("calls"), &json!(0), &json!(1))
        );
    }
    let counted = || -> u64 {
        let number = |words: &str| words.split_once(" more within a second").map_or(1, |(n, _)| n.parse().unwrap());
        door.desk.refusals().iter().map(|words| number(words)).sum()
    };
    while counted() < FLOOD {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(counted(), FLOOD);
    // At most seventeen a second, however long the flood took.
    assert!((door.desk.refusals().len() as u64) < FLOOD, "{:?}", door.desk.refusals().len());
    assert!(door.desk.refusals().iter().any(|words| words.contains("the last of them: too many calls")));
}

#[tokio::test]
async fn sessions_are_bounded_and_forgotten_when_idle() {
    let door = Door::with(McpOptions { max_sessions: 2, session_idle: Duration::from_millis(200), ..options() }).await;
    let first = door.session(json!({})).await;
    door.session(json!({})).await;
    let reply = door.post(initialize("2025-11-25", json!({}))).send().await;
    assert_eq!((reply.status, reply.error().0, reply.header("mcp-session-id")), (503, -32011, None));
    tokio::time::sleep(Duration::from_millis(250)).await;
    door.session(json!({})).await;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    assert_eq!(door.post(list).with("Mcp-Session-Id", &first).send().await.status, 404);
}

#[tokio::test]
async fn connections_are_bounded() {
    let door = Door::with(McpOptions { max_connections: 1, ..options() }).await;
    let idle = TcpStream::connect(door.at).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut stream = TcpStream::connect(door.at).await.unwrap();
    let mut reply = String::new();
    tokio::time::timeout(Duration::from_secs(1), stream.read_to_string(&mut reply)).await.unwrap().unwrap();
    assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("-32011"), "{reply}");
    assert!(reply.contains(r#""full":"connections""#) && reply.contains("retry-after: 1\r\n"), "{reply}");
    assert_eq!(door.desk.refusals(), ["1 connections are open already"]);
    // Also when a request was sent already: unread, it would reset the connection and take the answer along.
    let mut stream = TcpStream::connect(door.at).await.unwrap();
    stream.write_all(&door.post("x".repeat(200_000)).bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 503"), "{reply}");
    drop(idle);
    tokio::time::sleep(Duration::from_millis(50)).await;
    works(&door).await;
}

#[tokio::test]
async fn a_slow_head_is_cut_off() {
    let door = Door::with(McpOptions { head_deadline: Duration::from_millis(200), ..options() }).await;
    let mut stream = TcpStream::connect(door.at).await.unwrap();
    let before = Instant::now();
    let dripping = async {
        for byte in b"POST /mcp HTTP/1.1\r\nHost: x\r\nA: ".iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), dripping).await.expect("the drip is cut off");
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(door.desk.refusals().len(), 1, "{:?}", door.desk.refusals());
    works(&door).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let door = Door::with(McpOptions { head_deadline: Duration::from_millis(100), ..options() }).await;
    let mut begun = door.modern(1, "tools/list", json!({}), json!({})).without("Connection").begin().await;
    begun.until("\"result\"").await;
    assert_eq!(tokio::time::timeout(Duration::from_secs(2), begun.stream.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
    assert!(door.desk.refusals().is_empty(), "{:?}", door.desk.refusals());
}

#[tokio::test]
async fn a_slow_body_is_cut_off_and_frees_its_place() {
    let door =
        Door::with(McpOptions { max_in_flight: 1, body_deadline: Duration::from_millis(150), ..options() }).await;
    let mut stream = TcpStream::connect(door.at).await.unwrap();
    let bytes = door.post(call(1, "shop__query", &json!({ "sql": "x" }))).bytes();
    stream.write_all(&bytes[..bytes.len() - 5]).await.unwrap();
    let mut reply = String::new();
    tokio::time::timeout(Duration::from_secs(1), stream.read_to_string(&mut reply)).await.unwrap().unwrap();
    assert!(reply.starts_with("HTTP/1.1 408") && reply.contains("-32014"), "{reply}");
    assert_eq!(door.desk.refusals(), ["body: it did not arrive within 150 ms"]);
    works(&door).await;
}

#[tokio::test]
async fn heads_are_bounded() {
    let door = Door::open().await;
    let mut many = door.post("{}");
    for n in 0..100 {
        many = many.with(&format!("X-{n}"), "x");
    }
    assert_eq!(many.send().await.status, 431);
    let big = door.post("{}").with("X", &"x".repeat(64 * 1024)).begin().await;
    assert_eq!(big.finish().await.status, 431);
    assert_eq!(door.desk.refusals().len(), 2, "{:?}", door.desk.refusals());
    works(&door).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_stop_what_was_begun() {
    let door = Door::open().await;
    let slow = json!({ "name": "shop__query", "arguments": { "sql": "slow" } });
    let begun = door.modern(1, "tools/call", slow, json!({})).begin().await;
    while door.desk.calls.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(begun);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(door.desk.finished.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_failure_inside_is_an_answer_and_not_the_end() {
    let door = Door::open().await;
    let panics = json!({ "name": "shop__query", "arguments": { "sql": "panic" } });
    let reply = door.modern(1, "tools/call", panics, json!({})).send().await;
    assert_eq!((reply.status, reply.error().0), (500, -32603));
    works(&door).await;
}

#[tokio::test]
async fn one_agent_cannot_lock_another_out() {
    let door = Door::with(McpOptions { max_in_flight: 4, max_sessions: 4, ..options() }).await;
    let slow = json!({ "name": "shop__query", "arguments": { "sql": "slow" } });
    let mut begun = Vec::new();
    for _ in 0..4 {
        begun.push(door.modern(1, "tools/call", slow.clone(), json!({})).begin().await);
    }
    while door.desk.calls.lock().unwrap().len() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let bobs = || door.modern(1, "tools/list", json!({}), json!({})).without("Authorization");
    assert_eq!(bobs().with("Authorization", "Bearer bob-secret").send().await.status, 200);
    let mut statuses = Vec::new();
    for begun in begun {
        statuses.push(begun.finish().await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 503]);

    for _ in 0..3 {
        door.session(json!({})).await;
    }
    let begin = || door.post(initialize("2025-11-25", json!({})));
    assert_eq!(begin().send().await.status, 503);
    assert_eq!(begin().without("Authorization").with("Authorization", "Bearer bob-secret").send().await.status, 200);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_let_go() {
    let door =
        Door::with(McpOptions { max_connections: 1, write_deadline: Duration::from_millis(200), ..options() }).await;
    // Without a token: answers nobody reads fill the socket.
    let mut stream = TcpStream::connect(door.at).await.unwrap();
    let request = door.post("").without("Authorization").without("Connection").bytes();
    let flood = async { while stream.write_all(&request).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), flood).await.expect("the connection is closed");
    tokio::time::sleep(Duration::from_millis(50)).await;
    works(&door).await;
}
