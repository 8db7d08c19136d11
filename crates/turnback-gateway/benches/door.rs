//! A `tools/call` of a read over HTTP, beside the same call through the runtime without HTTP, and
//! beside the same door in front of the same tool with nothing between them.
//!
//! Client and server share the process and its two cores, so every figure holds the client's work too;
//! it is the same for both doors.
//!
//! `cargo bench -p turnback-gateway --bench door`; `-- "read a file"` takes only that tool.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use support::{Failed, Node, Outcome, Place, crowd, heading, median, middle, table, time};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use turnback_core::contract::{Actor, Contract};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::tool::Tool;
use turnback_effects::{Bounds, Domain, registry};
use turnback_gateway::config::Config;
use turnback_gateway::desk::{Answer, Call, Caller, Desk, Pending};
use turnback_gateway::mcp::{McpOptions, serve_http};
use turnback_gateway::node;
use turnback_gateway::operator::protocol::{Reply, Request};

const ROUNDS: usize = 3;
const TURN: Duration = Duration::from_secs(1);

fn main() {
    let wanted = support::wanted();
    support::run(async move {
        heading("An MCP tools/call of a read")?;
        let place = Place::new(1, "wal")?;
        let node = place.start().await?;
        let request = Request::TokenNew {
            agent: node.caller.agent.clone(),
            on_behalf_of: None,
            assignment: turnback_core::contract::Assignment::default(),
            lifetime_seconds: 3600,
        };
        let Reply::Token { secret, .. } = node.runtime.operate(request, "anna").await else {
            return Err("no token".into());
        };
        let governed = open(node.runtime.clone()).await?;
        let bare = open(Bare::new(&place, &node)?).await?;
        let kinds =
            [("read a file", "w0__read_file", support::read_file()), ("read a row", "d0__query", support::query(1))];
        let mut rows = Vec::new();
        for (name, tool, arguments) in kinds {
            if wanted.as_deref().is_some_and(|wanted| !name.contains(wanted)) {
                continue;
            }
            for callers in [1, 32] {
                rows.push(beside(name, tool, &arguments, callers, &node, (governed, bare), &secret).await?);
            }
        }
        table(
            &[
                "tool",
                "callers",
                "governed, HTTP",
                "p50",
                "governed, no HTTP",
                "p50",
                "bare, HTTP",
                "p50",
                "governed of bare",
                "median added to bare",
                "median added by HTTP",
            ],
            &rows,
        );
        node.stop().await
    });
}

async fn beside(
    name: &str,
    tool: &'static str,
    arguments: &Value,
    callers: usize,
    node: &Node,
    (governed, bare): (SocketAddr, SocketAddr),
    secret: &str,
) -> Outcome<Vec<String>> {
    let (mut through, mut without, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(over_http(bare, secret, tool, arguments, callers, async { Ok(()) }).await?);
        let (own, same) = (node.clone(), arguments.clone());
        let act = move |_, _| {
            let (node, arguments) = (own.clone(), same.clone());
            async move { node.call(tool, &arguments).await.map(drop) }
        };
        without.push(crowd(callers, TURN, act, node.settle()).await?);
        through.push(over_http(governed, secret, tool, arguments, callers, node.settle()).await?);
    }
    let rate = |seen: &[support::Seen]| format!("{:.0}/s", median(seen.iter().map(|s| s.rate).collect()));
    let p50 = |seen: &[support::Seen]| middle(seen.iter().map(|s| s.at(0.5)).collect());
    let share = median(plain.iter().zip(&through).map(|(bare, own)| 100.0 * own.rate / bare.rate).collect());
    Ok(vec![
        name.to_owned(),
        callers.to_string(),
        rate(&through),
        time(p50(&through)),
        rate(&without),
        time(p50(&without)),
        rate(&plain),
        time(p50(&plain)),
        format!("{share:.0} %"),
        time(p50(&through).saturating_sub(p50(&plain))),
        time(p50(&through).saturating_sub(p50(&without))),
    ])
}

/// Serves a desk at a port of its own until the process ends.
async fn open<D: Desk>(desk: D) -> Outcome<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(serve_http(listener, Arc::new(desk), McpOptions::default(), std::future::pending::<()>()));
    Ok(at)
}

async fn over_http(
    at: SocketAddr,
    secret: &str,
    tool: &str,
    arguments: &Value,
    callers: usize,
    settled: impl Future<Output = Outcome>,
) -> Outcome<support::Seen> {
    let mut clients = Vec::new();
    for _ in 0..callers {
        clients.push(Mutex::new(Client::connect(at, secret, tool, arguments).await?));
    }
    let clients = Arc::new(clients);
    let act = move |caller: usize, _| {
        let clients = Arc::clone(&clients);
        async move {
            let client = clients.get(caller).ok_or("no client")?;
            client.lock().await.call().await
        }
    };
    crowd(callers, TURN, act, settled).await
}

/// A client of the handshake era on one kept connection, which sends one call again and again.
struct Client {
    stream: TcpStream,
    call: Vec<u8>,
    read: Vec<u8>,
}

impl Client {
    async fn connect(at: SocketAddr, secret: &str, tool: &str, arguments: &Value) -> Outcome<Self> {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, call: Vec::new(), read: Vec::new() };
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "bench", "version": "1" },
        });
        let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string();
        client.call = post(at, secret, "", &hello);
        let (head, _) = client.exchange().await?;
        let session = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(name, value)| name.eq_ignore_ascii_case("mcp-session-id").then(|| value.to_owned()))
            .ok_or("no session")?;
        let params = json!({ "name": tool, "arguments": arguments });
        let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string();
        let own = format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
        client.call = post(at, secret, &own, &call);
        Ok(client)
    }

    async fn call(&mut self) -> Outcome {
        let (_, body) = self.exchange().await?;
        // Checked by its text: what parsing costs is the client's own business.
        if body.contains("\"result\"") && !body.contains("\"isError\":true") {
            return Ok(());
        }
        Err(format!("not done: {body}").into())
    }

    async fn exchange(&mut self) -> Outcome<(String, String)> {
        self.stream.write_all(&self.call).await?;
        self.read.clear();
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(self.read.get(..end).unwrap_or_default()).into_owned();
        let length: usize = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(name, value)| name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?)
            .ok_or_else(|| Failed::from(format!("no length: {head}")))?;
        while self.read.len() < end + length {
            self.more().await?;
        }
        let body = String::from_utf8_lossy(self.read.get(end..).unwrap_or_default()).into_owned();
        Ok((head, body))
    }

    async fn more(&mut self) -> Outcome {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err("the connection ended".into()),
            _ => Ok(()),
        }
    }
}

fn post(at: SocketAddr, secret: &str, own: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: {at}\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\n{own}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The same tools with no gate, no run and no record: what a server without Turnback does.
struct Bare {
    tools: Vec<Tool>,
    domains: Vec<(String, Arc<dyn Domain>)>,
    caller: Caller,
}

impl Bare {
    fn new(place: &Place, node: &Node) -> Outcome<Self> {
        let config = Config::load(&place.path("turnback.toml")).map_err(|e| format!("{e:?}"))?;
        let mut domains = Vec::new();
        for (name, resource) in &config.resources {
            let domain = registry::open(resource.kind, &resource.place, &node::slots(&config, name));
            domains.push((name.as_str().to_owned(), domain.map_err(|e| e.to_string())?));
        }
        let tools = node::tools(&config).map_err(|e| e.to_string())?;
        Ok(Self { tools, domains, caller: node.caller.clone() })
    }
}

impl Desk for Bare {
    fn authenticate(&self, _token: &str) -> Result<Caller, Refusal> {
        Ok(self.caller.clone())
    }

    fn tools(&self, _caller: &Caller) -> Vec<Tool> {
        self.tools.clone()
    }

    async fn call(&self, call: Call) -> Answer {
        let refused = |refusal| Answer::Refused { run: None, refusal, details: json!({}) };
        let unknown = || Refusal::new(Code::UnknownTool, "no tool has that name");
        let Some(tool) = self.tools.iter().find(|t| t.name.as_str() == call.tool) else { return refused(unknown()) };
        let Some((_, domain)) = self.domains.iter().find(|(name, _)| *name == tool.resource.as_str()) else {
            return refused(unknown());
        };
        let actor = Actor::Agent(call.caller.agent);
        let aimed = |local: &str, arguments: &Value| domain.aim(local, arguments);
        let contract = match Contract::parse(tool, actor, None, &call.arguments, None, aimed) {
            Ok(contract) => contract,
            Err(refusal) => return refused(refusal),
        };
        let domain = Arc::clone(domain);
        let read = tokio::task::spawn_blocking(move || domain.read(&contract, &Bounds::default())).await;
        match read {
            Ok(Ok(reading)) => Answer::Done {
                run: turnback_core::names::RunId::new(uuid::Uuid::now_v7()),
                reply: reading.reply,
                note: None,
                constrained: None,
            },
            Ok(Err(refusal)) => refused(refusal),
            Err(e) => refused(Refusal::new(Code::Failed, e.to_string())),
        }
    }

    async fn evaluate(
        &self,
        _: &Caller,
        _: &turnback_core::access::Evaluations,
    ) -> Result<Vec<turnback_core::decision::Verdict>, Refusal> {
        Err(Refusal::new(Code::Denied, "nobody may ask here"))
    }

    async fn wait(&self, _caller: &Caller, pending: Pending, _patience: Duration) -> Answer {
        Answer::Pending(pending)
    }

    fn turned(&self, _door: &'static str, _actor: Option<Actor>, _refusal: &Refusal) {}

    fn question_page(&self, _approval: &str) -> Option<String> {
        None
    }
}
