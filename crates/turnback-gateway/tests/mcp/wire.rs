//! HTTP by hand, so that a test can also send what no client would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use turnback_gateway::mcp::{McpOptions, serve_http};

use crate::desk::MemoryDesk;

/// A door that is open until it is dropped or shut.
pub(crate) struct Door {
    pub(crate) desk: Arc<MemoryDesk>,
    pub(crate) at: SocketAddr,
    shut: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<std::io::Result<()>>>,
}

/// Short holds, otherwise the defaults.
pub(crate) fn options() -> McpOptions {
    McpOptions { hold: Duration::from_millis(300), keep_alive: Duration::from_millis(100), ..McpOptions::default() }
}

impl Door {
    pub(crate) async fn open() -> Self {
        Self::with(options()).await
    }

    pub(crate) async fn with(options: McpOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let desk = Arc::new(MemoryDesk::default());
        let (shut, shutdown) = oneshot::channel();
        let serving = tokio::spawn(serve_http(listener, Arc::clone(&desk), options, shutdown));
        Self { desk, at, shut: Some(shut), serving: Some(serving) }
    }

    /// Shuts the door and waits until it is.
    pub(crate) async fn shut(mut self) {
        drop(self.shut.take());
        self.serving.take().unwrap().await.unwrap().unwrap();
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Sent {
        Sent {
            at: self.at,
            line: format!("{method} {path} HTTP/1.1"),
            headers: vec![("Host".into(), self.at.to_string()), ("Connection".into(), "close".into())],
            body: Vec::new(),
        }
    }

    /// A POST of alice's with what every request needs.
    pub(crate) fn post(&self, body: impl Into<Vec<u8>>) -> Sent {
        self.request("POST", "/mcp")
            .with("Authorization", "Bearer alice-secret")
            .with("Content-Type", "application/json")
            .with("Accept", "application/json, text/event-stream")
            .body(body)
    }

    /// A handshake of alice's; answers the session id.
    pub(crate) async fn session(&self, capabilities: Value) -> String {
        let reply = self.post(initialize("2025-11-25", capabilities)).send().await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.header("mcp-session-id").expect("a session id")
    }

    /// A request of 2026-07-28 with its headers.
    pub(crate) fn modern(&self, id: u32, method: &str, params: Value, capabilities: Value) -> Sent {
        let mut params = params;
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
        let name = params["name"].as_str().map(ToOwned::to_owned);
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string();
        let sent = self.post(body).with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Method", method);
        match name {
            Some(name) => sent.with("Mcp-Name", &name),
            None => sent,
        }
    }
}

pub(crate) fn initialize(version: &str, capabilities: Value) -> String {
    let params = json!({
        "protocolVersion": version, "capabilities": capabilities, "clientInfo": { "name": "test", "version": "1" },
    });
    json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string()
}

/// A tools/call of the handshake era.
pub(crate) fn call(id: u32, tool: &str, arguments: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": arguments } })
        .to_string()
}

/// A client whose user can be sent to an address.
pub(crate) fn elicits() -> Value {
    json!({ "elicitation": { "form": {}, "url": {} } })
}

/// A request being put together.
pub(crate) struct Sent {
    at: SocketAddr,
    line: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Sent {
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(header, _)| !header.eq_ignore_ascii_case(name));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.line);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n", self.body.len()));
        [text.into_bytes(), self.body.clone()].concat()
    }

    /// Sends it and leaves the answer to be read bit by bit.
    pub(crate) async fn begin(self) -> Begun {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(&self.bytes()).await.unwrap();
        Begun { stream, read: Vec::new() }
    }

    pub(crate) async fn send(self) -> Reply {
        self.begin().await.finish().await
    }
}

/// A request whose answer is still coming.
pub(crate) struct Begun {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Begun {
    /// Reads until `text` has come.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut chunk = [0; 4096];
        loop {
            let read = String::from_utf8_lossy(&self.read).into_owned();
            if read.contains(text) {
                return read;
            }
            let reading = self.stream.read(&mut chunk);
            let n = tokio::time::timeout(Duration::from_secs(5), reading)
                .await
                .unwrap_or_else(|_| panic!("no `{text}` in: {read}"));
            let n = n.unwrap();
            assert!(n > 0, "it ended without `{text}`: {read}");
            self.read.extend_from_slice(&chunk[..n]);
        }
    }

    pub(crate) async fn finish(mut self) -> Reply {
        let reading = self.stream.read_to_end(&mut self.read);
        tokio::time::timeout(Duration::from_secs(10), reading).await.expect("an answer in time").unwrap();
        Reply::read(&self.read)
    }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    fn read(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {bytes:?}"));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = bytes[end + 4..].to_vec();
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            body = dechunk(&body);
        }
        Self { status, head, body: String::from_utf8(body).unwrap() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .find_map(|(header, value)| header.eq_ignore_ascii_case(name).then(|| value.to_owned()))
    }

    /// The JSON-RPC message in a plain answer, or the last one of a stream.
    pub(crate) fn json(&self) -> Value {
        let text = self.body.lines().rev().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&self.body);
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// All messages of a stream.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|t| serde_json::from_str(t).unwrap())
            .collect()
    }

    /// Code and sentence of an error.
    pub(crate) fn error(&self) -> (i64, String) {
        let json = self.json();
        (
            json["error"]["code"].as_i64().unwrap_or_else(|| panic!("{json}")),
            json["error"]["message"].as_str().unwrap().into(),
        )
    }
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        out.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 2 + size + 2..];
    }
    out
}
