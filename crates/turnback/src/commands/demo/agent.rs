//! The demo's agent: an ordinary MCP client over HTTP, protocol version 2025-11-25. It knows an address
//! and a token, nothing else.

use std::time::Duration;

use serde_json::{Value, json};

/// The protocol version the client asks for.
const VERSION: &str = "2025-11-25";

/// Error of a call that never became an answer.
pub(super) type Failure = Box<dyn std::error::Error>;

pub(super) struct Agent {
    http: ureq::Agent,
    url: String,
    token: String,
    session: Option<String>,
    next: u64,
}

/// What a tool call came back with.
pub(super) struct Called {
    /// The tool said that it failed.
    pub(super) error: bool,
    /// All text of the answer.
    pub(super) text: String,
    /// The machine-readable answer.
    pub(super) structured: Value,
    /// The run it became.
    pub(super) run: Option<String>,
}

impl Agent {
    pub(super) fn connect(url: &str, token: &str) -> Result<Self, Failure> {
        let http = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(30)))
            .http_status_as_error(false)
            .build()
            .into();
        let mut agent = Self { http, url: url.to_owned(), token: token.to_owned(), session: None, next: 0 };
        let client = json!({ "name": "turnback-demo", "version": env!("CARGO_PKG_VERSION") });
        agent.request("initialize", json!({ "protocolVersion": VERSION, "capabilities": {}, "clientInfo": client }))?;
        agent.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        Ok(agent)
    }

    pub(super) fn tools(&mut self) -> Result<Vec<String>, Failure> {
        let listed = self.request("tools/list", json!({}))?;
        let tools = listed["tools"].as_array().cloned().unwrap_or_default();
        Ok(tools.iter().filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect())
    }

    pub(super) fn call(&mut self, tool: &str, arguments: &Value) -> Result<Called, Failure> {
        let result = self.request("tools/call", json!({ "name": tool, "arguments": arguments }))?;
        let text = result["content"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|part| part["text"].as_str())
            .collect::<Vec<_>>()
            .join("\n");
        let structured = result["structuredContent"].clone();
        let run = result["_meta"]["turnback"]["run"].as_str().map(str::to_owned);
        Ok(Called { error: result["isError"] == json!(true), text, structured, run })
    }

    fn request(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        self.next += 1;
        let answer = self
            .send(&json!({ "jsonrpc": "2.0", "id": self.next, "method": method, "params": params }))?
            .ok_or("no answer to a request")?;
        match answer.get("error") {
            Some(error) => Err(format!("{method}: {error}").into()),
            None => Ok(answer["result"].clone()),
        }
    }

    fn send(&mut self, message: &Value) -> Result<Option<Value>, Failure> {
        let mut request = self
            .http
            .post(&self.url)
            .header("Authorization", format!("Bearer {}", self.token))
            .header("Accept", "application/json, text/event-stream")
            .header("Content-Type", "application/json")
            .header("MCP-Protocol-Version", VERSION);
        if let Some(session) = &self.session {
            request = request.header("Mcp-Session-Id", session);
        }
        let mut response = request.send(message.to_string())?;
        if let Some(session) = response.headers().get("Mcp-Session-Id") {
            self.session = Some(session.to_str()?.to_owned());
        }
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string()?;
        if !(200..300).contains(&status) {
            return Err(format!("status {status}: {text}").into());
        }
        if text.trim().is_empty() {
            return Ok(None);
        }
        // A server may answer with one JSON document or with a stream of events; the answer is the one
        // message that carries our request's number.
        let messages: Vec<Value> = match serde_json::from_str(&text) {
            Ok(message) => vec![message],
            Err(_) => text
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .filter_map(|data| serde_json::from_str(data.trim()).ok())
                .collect(),
        };
        Ok(messages.into_iter().find(|m| m["id"] == json!(self.next)))
    }
}
