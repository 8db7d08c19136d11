//! The node's two doors as their peers see them: bytes over TCP for agents, lines over a socket for
//! operators. Nothing here knows the gateway's types for what it sends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use turnback_core::refusal::{Code, Refusal};
use turnback_gateway::config::Config;
use turnback_gateway::node::{Node, NotStarted};

use super::Wrong;
use super::place::Place;

/// Far above anything that is under way and not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Why no node serves.
pub(crate) enum NotOpen {
    /// It says so itself.
    Refused(Refusal),
    /// The story is wrong, or the machine.
    Wrong(Wrong),
}

impl From<NotOpen> for Wrong {
    fn from(not: NotOpen) -> Self {
        match not {
            NotOpen::Refused(refusal) => format!("the node does not start: {refusal}"),
            NotOpen::Wrong(wrong) => wrong,
        }
    }
}

/// A node that serves in this process, on doors like everybody's.
pub(crate) struct Doors {
    runtime: tokio::runtime::Runtime,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<Result<(), Refusal>>,
    address: String,
    socket: PathBuf,
}

impl Doors {
    /// Starts a node.
    pub(crate) fn open(place: &Place) -> Result<Self, NotOpen> {
        let config = Config::load(&place.own("turnback.toml"))
            .map_err(|e| NotOpen::Refused(Refusal::new(Code::BadInput, e.to_string())))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|e| NotOpen::Wrong(e.to_string()))?;
        let node = runtime.block_on(Node::start(&config)).map_err(|e| match e {
            NotStarted::Refused(refusal) => NotOpen::Refused(refusal),
            NotStarted::Policy(errors) => NotOpen::Wrong(format!("the policy: {errors:?}")),
        })?;
        let address = node.url.trim_start_matches("http://").trim_end_matches("/mcp").to_owned();
        let (stop, stopped) = oneshot::channel();
        let served = runtime.spawn(node.serve(async {
            let _ = stopped.await;
        }));
        Ok(Self { runtime, stop, served, address, socket: config.socket() })
    }

    /// Stops the node in order.
    pub(crate) fn close(self) -> Result<(), Wrong> {
        drop(self.stop);
        let served = self.runtime.block_on(self.served).map_err(|e| format!("the node broke: {e}"))?;
        served.map_err(|refusal| format!("the node did not stop in order: {refusal}"))
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// One request with exactly these headers.
    pub(crate) fn http(&self, line: &str, headers: &[(String, String)], body: &[u8]) -> Result<Answer, Wrong> {
        let mut head = format!("{line} HTTP/1.1\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("Content-Length: {}\r\nConnection: close\r\n\r\n", body.len()));
        let talk = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(head.as_bytes())?;
            // A body that is too large may be refused before all of it was sent.
            let _ = stream.write_all(body);
            let mut bytes = Vec::new();
            match stream.read_to_end(&mut bytes) {
                Err(e) if bytes.is_empty() => Err(e),
                _ => Ok(bytes),
            }
        };
        Answer::read(&talk().map_err(|e| format!("{line}: {e}"))?)
    }

    /// One line to the operators' door, and the line that comes back.
    pub(crate) fn operator(&self, line: &str) -> Result<Value, Wrong> {
        let talk = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(format!("{line}\n").as_bytes())?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            Ok(answer)
        };
        let answer = talk().map_err(|e| format!("operators' door: {e}"))?;
        serde_json::from_str(&answer).map_err(|e| format!("operators' door: {e}: {answer}"))
    }
}

/// An HTTP answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) session: Option<String>,
    pub(crate) body: String,
    /// The body, when it is JSON.
    pub(crate) json: Value,
}

impl Answer {
    /// The door closed without a word.
    pub(crate) fn silence() -> Self {
        Self { status: 0, session: None, body: String::new(), json: Value::Null }
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Wrong> {
        let text = String::from_utf8(bytes.to_vec()).map_err(|e| format!("an answer that is not UTF-8: {e}"))?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("not an HTTP answer: {text:?}"))?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("no status: {head}"))?;
        let header = |name: &str| {
            let mut headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
            headers.find_map(|(header, value)| header.eq_ignore_ascii_case(name).then(|| value.to_owned()))
        };
        // Only `application/json` is asked for, so nothing is streamed and nothing comes in chunks.
        if header("transfer-encoding").is_some() {
            return Err(format!("an answer in chunks was not asked for: {text}"));
        }
        let json = serde_json::from_str(body).unwrap_or(json!(null));
        Ok(Self { status, session: header("mcp-session-id"), body: body.to_owned(), json })
    }
}
