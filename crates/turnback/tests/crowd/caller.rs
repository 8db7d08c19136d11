//! One caller on one kept connection, in the era where every request is complete in itself.

use std::io;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub retry_after: Option<u64>,
    pub body: String,
}

impl Reply {
    /// The result inside; everything else stops the test.
    pub fn result(&self) -> Value {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert!(body["result"].is_object(), "{self:?}");
        body["result"].clone()
    }
}

pub struct Caller {
    at: String,
    token: String,
    stream: Option<TcpStream>,
    read: Vec<u8>,
}

impl Caller {
    pub fn new(url: &str, token: &str) -> Self {
        let at = url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
        Self { at, token: token.to_owned(), stream: None, read: Vec::new() }
    }

    /// One call of a tool. The connection is opened when there is none and kept as long as the door keeps it.
    pub async fn call(&mut self, tool: &str, arguments: &Value) -> io::Result<Reply> {
        let answer = self.exchange(tool, arguments).await;
        if answer.as_ref().map_or(true, |(_, closes)| *closes) {
            self.stream = None;
        }
        answer.map(|(reply, _)| reply)
    }

    /// The bytes of a call.
    pub fn bytes(&self, tool: &str, arguments: &Value) -> Vec<u8> {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string();
        format!(
            "POST /mcp HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Accept: application/json\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {tool}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.at,
            self.token,
            body.len()
        )
        .into_bytes()
    }

    async fn exchange(&mut self, tool: &str, arguments: &Value) -> io::Result<(Reply, bool)> {
        let bytes = self.bytes(tool, arguments);
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(&self.at).await?;
                stream.set_nodelay(true)?;
                none.insert(stream)
            }
        };
        // A door that turned the connection away may have closed it before this; its answer is there all the same.
        let written = stream.write_all(&bytes).await;
        self.read.clear();
        let ended = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended");
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut self.read).await? == 0 {
                return Err(written.err().unwrap_or_else(ended));
            }
        };
        let head = String::from_utf8_lossy(&self.read[..end]).to_ascii_lowercase();
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let number = |text: &str| text.trim().parse::<u64>().ok();
        let length = header("content-length").and_then(number).unwrap_or_else(|| panic!("no length: {head}"));
        let length = usize::try_from(length).unwrap();
        while self.read.len() < end + length {
            if stream.read_buf(&mut self.read).await? == 0 {
                return Err(ended());
            }
        }
        let status = head.split(' ').nth(1).and_then(number).and_then(|n| u16::try_from(n).ok()).unwrap();
        let reply = Reply {
            status,
            retry_after: header("retry-after").and_then(number),
            body: String::from_utf8_lossy(&self.read[end..end + length]).into_owned(),
        };
        Ok((reply, header("connection").is_some_and(|value| value.trim() == "close")))
    }
}
