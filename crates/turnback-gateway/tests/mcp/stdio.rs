//! The same door over a pair of pipes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, ReadHalf, WriteHalf, split};
use tokio::task::JoinHandle;
use turnback_gateway::mcp::{McpOptions, serve_stdio};

use crate::desk::{MemoryDesk, caller};
use crate::wire::{call, elicits, initialize, options};

struct Pipe {
    desk: Arc<MemoryDesk>,
    input: WriteHalf<DuplexStream>,
    output: Lines<BufReader<ReadHalf<DuplexStream>>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Pipe {
    fn open(options: McpOptions) -> Self {
        let desk = Arc::new(MemoryDesk::default());
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (reader, writer) = split(theirs);
        let serving = tokio::spawn(serve_stdio(Arc::clone(&desk), caller("alice"), reader, writer, options));
        let (output, input) = split(ours);
        Self { desk, input, output: BufReader::new(output).lines(), serving }
    }

    async fn send(&mut self, line: impl AsRef<[u8]>) {
        self.input.write_all(line.as_ref()).await.unwrap();
        self.input.write_all(b"\n").await.unwrap();
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(Duration::from_secs(5), self.output.next_line()).await.expect("a line in time");
        serde_json::from_str(&line.unwrap().expect("a line")).unwrap()
    }
}

fn modern(id: u32, method: &str, mut params: Value, capabilities: Value) -> String {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

#[tokio::test]
async fn both_eras_over_one_pipe() {
    let mut pipe = Pipe::open(options());
    pipe.send(modern(1, "server/discover", json!({}), json!({}))).await;
    assert_eq!(pipe.next().await["result"]["resultType"], "complete");
    pipe.send(initialize("2025-11-25", json!({}))).await;
    assert_eq!(pipe.next().await["result"]["protocolVersion"], "2025-11-25");
    pipe.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    pipe.send(r#"{"jsonrpc":"2.0","id":98765432109876543210987654321,"method":"ping"}"#).await;
    let line = pipe.output.next_line().await.unwrap().unwrap();
    assert_eq!(line, r#"{"jsonrpc":"2.0","id":98765432109876543210987654321,"result":{}}"#);
    pipe.send(call(3, "shop__query", &json!({ "sql": "x" }))).await;
    assert_eq!(pipe.next().await["result"]["structuredContent"]["echo"]["sql"], "x");
    assert_eq!(pipe.desk.calls.lock().unwrap()[0].caller, caller("alice"));
    drop(pipe.input);
    // Both halves must go before the other side sees the end.
    drop(pipe.output);
    pipe.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn bad_lines_are_answered_and_recorded_and_the_pipe_goes_on() {
    let mut pipe = Pipe::open(McpOptions { body_limit: 2000, ..options() });
    let long = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"x":"{}"}}}}"#, "x".repeat(300_000));
    let cases: [(&[u8], i64, &str); 6] = [
        (br#"{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}"#, -32700, "duplicate key `id`"),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}", -32700, "invalid UTF-8"),
        (b"nonsense", -32700, "a value is expected"),
        (br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600, "batches"),
        (long.as_bytes(), -32013, "more than 2000 bytes"),
        (br#"{"jsonrpc":"2.0","id":5,"method":"server/discover"}"#, -32602, "protocolVersion"),
    ];
    for (n, (line, code, text)) in cases.into_iter().enumerate() {
        pipe.send(line).await;
        let reply = pipe.next().await;
        assert_eq!(reply["error"]["code"], code, "{reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains(text), "{reply}");
        let turned = pipe.desk.turned.lock().unwrap();
        assert_eq!((turned.len(), turned[n].0), (n + 1, "mcp/stdio"));
    }
    pipe.send("").await;
    pipe.send(r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#).await;
    assert_eq!(pipe.next().await["id"], 9);
}

#[tokio::test]
async fn requests_run_beside_each_other_up_to_the_bound() {
    let mut pipe = Pipe::open(McpOptions { max_in_flight: 2, ..options() });
    for id in 1..=3 {
        pipe.send(call(id, "shop__query", &json!({ "sql": "slow" }))).await;
    }
    let first = pipe.next().await;
    assert_eq!((&first["id"], &first["error"]["code"]), (&json!(3), &json!(-32011)));
    for _ in 0..2 {
        assert_eq!(pipe.next().await["result"]["structuredContent"]["slow"], true);
    }
}

#[tokio::test]
async fn a_user_is_sent_to_look_over_the_pipe() {
    let mut pipe = Pipe::open(McpOptions { hold: Duration::from_secs(5), ..options() });
    pipe.send(initialize("2025-11-25", elicits())).await;
    pipe.next().await;
    pipe.send(call(1, "shop__execute", &json!({ "sql": "park" }))).await;
    let asked = pipe.next().await;
    assert_eq!(asked["method"], "elicitation/create");
    pipe.send(json!({ "jsonrpc": "2.0", "id": asked["id"], "result": { "action": "accept" } }).to_string()).await;
    // The pipe is not blocked meanwhile, and accepting approved nothing.
    pipe.send(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#).await;
    assert_eq!(pipe.next().await["id"], 2);
    pipe.desk.decide(true);
    assert_eq!(pipe.next().await["method"], "notifications/elicitation/complete");
    assert_eq!(pipe.next().await["result"]["structuredContent"]["rows"], 3);
}

#[tokio::test]
async fn a_cancelled_request_is_not_answered() {
    let mut pipe = Pipe::open(McpOptions { hold: Duration::from_secs(5), ..options() });
    pipe.send(call(1, "shop__execute", &json!({ "sql": "park" }))).await;
    while pipe.desk.parked() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    pipe.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#).await;
    pipe.send(r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#).await;
    assert_eq!(pipe.next().await["id"], 2);
    let silence = tokio::time::timeout(Duration::from_millis(200), pipe.output.next_line()).await;
    assert!(silence.is_err(), "{silence:?}");
}

#[tokio::test]
async fn the_end_of_input_lets_waiting_callers_go_and_answers_what_runs() {
    let desk = Arc::new(MemoryDesk::default());
    let input =
        [call(1, "shop__execute", &json!({ "sql": "park" })), call(2, "shop__query", &json!({ "sql": "slow" }))]
            .join("\n");
    let (reader, writer) = tokio::io::duplex(64 * 1024);
    let options = McpOptions { hold: Duration::from_secs(30), ..options() };
    let served = serve_stdio(Arc::clone(&desk), caller("alice"), std::io::Cursor::new(input), writer, options);
    tokio::time::timeout(Duration::from_secs(3), served).await.expect("it ends").unwrap();
    let mut lines = BufReader::new(reader).lines();
    let first: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!((&first["id"], &first["result"]["structuredContent"]["code"]), (&json!(1), &json!("pending")));
    let second: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!(second["result"]["structuredContent"]["slow"], true);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_not_read_from_either() {
    let mut pipe = Pipe::open(McpOptions { max_in_flight: 4, max_waiting: 0, ..options() });
    let line = call(1, "shop__query", &json!({ "sql": "x", "pad": "x".repeat(4000) })) + "\n";
    let calls = |pipe: &Pipe| pipe.desk.calls.lock().unwrap().len();
    // One after the other, so that no call is refused for want of a place.
    let mut before = 0;
    loop {
        let write = tokio::time::timeout(Duration::from_millis(300), pipe.input.write_all(line.as_bytes())).await;
        for _ in 0..60 {
            if calls(&pipe) > before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if write.is_err() || calls(&pipe) == before {
            break;
        }
        before = calls(&pipe);
        assert!(before < 400, "{before} calls for a peer that reads nothing");
    }
    // Once it reads, everything goes on.
    for _ in 0..before {
        pipe.next().await;
    }
}
