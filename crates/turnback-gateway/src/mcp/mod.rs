//! The agents' door: the Model Context Protocol over HTTP and stdio.
//!
//! Owns the wire: JSON-RPC framing (`message`), the methods of both protocol eras (`server`), callers
//! that wait for a person (`waiting`), and the two transports (`http`, `stdio`). It never decides
//! and never performs: every call goes to the [`Desk`](crate::desk::Desk) as the raw bytes it came in.
//!
//! ```text
//!  socket ─ http ──┐                       ┌─ waiting ─ sealed request state
//!                  ├─ message ─ server ────┤
//!  pipe ─── stdio ─┘                       └─ desk
//! ```
//!
//! Two eras are spoken: the handshake versions up to 2025-11-25 (sessions, requests from server to
//! client) and 2026-07-28 (every request complete in itself, `input_required` retries). Nothing here
//! lets anybody approve anything: what the agent's own user answers only ends or prolongs a wait.

mod catalog;
mod guard;
mod http;
mod message;
mod peer;
mod plans;
mod room;
mod seal;
mod server;
mod stdio;
mod tally;
mod waiting;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

pub use http::serve_http;
pub use stdio::serve_stdio;

/// Limits and addresses of the agents' door.
#[derive(Clone, Debug)]
pub struct McpOptions {
    /// Where the operator meant it to listen; `Host` is compared with this and with the address the
    /// socket really has. Default `127.0.0.1:7420`.
    pub listen: SocketAddr,
    /// Further values of `Host`, with port when it is not the default one, for a reverse proxy. Default none.
    pub allowed_hosts: Vec<String>,
    /// Further values of `Origin`, for a browser client served from elsewhere. Default none.
    pub allowed_origins: Vec<String>,
    /// How long a call that waits for a person is held before it is answered `PENDING`. Default 50 s,
    /// below the 60 s after which the TypeScript SDK and Codex give up.
    pub hold: Duration,
    /// Calls worked on at once, those that only wait for a person not counted. Over it: HTTP 503. Of this
    /// bound, and of those for waiting calls and sessions, one agent may take three quarters. Default 128.
    pub max_in_flight: usize,
    /// Calls that wait for a person at once. Over it a parked call is answered `PENDING` immediately.
    /// Default 256.
    pub max_waiting: usize,
    /// Sessions of the handshake era. Over it: HTTP 503. Default 1,024.
    pub max_sessions: usize,
    /// A session unused for so long is forgotten. Default 30 min.
    pub session_idle: Duration,
    /// Open connections. Over it: HTTP 503 and close. Default 512.
    pub max_connections: usize,
    /// Bytes of one request body or one line. Over it: HTTP 413. Default 1 MiB.
    pub body_limit: usize,
    /// Time for a request body to arrive. Over it: HTTP 408. Default 10 s.
    pub body_deadline: Duration,
    /// Time for a request head to arrive, and for an idle connection to be kept. Default 30 s.
    pub head_deadline: Duration,
    /// Time without progress while an answer is written, after which the connection is closed. Default 30 s.
    pub write_deadline: Duration,
    /// Interval of keep-alive comments and progress notifications while a call takes long. An answer that
    /// takes longer than one interval is streamed. Default 10 s.
    pub keep_alive: Duration,
    /// How long the sealed state of an `input_required` answer can be brought back. Default 15 min.
    pub state_ttl: Duration,
    /// How long calls that are being performed may take to finish after a shutdown. Default 5 s.
    pub grace: Duration,
}

impl Default for McpOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7420)),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            hold: Duration::from_secs(50),
            max_in_flight: 128,
            max_waiting: 256,
            max_sessions: 1024,
            session_idle: Duration::from_secs(30 * 60),
            max_connections: 512,
            body_limit: 1 << 20,
            body_deadline: Duration::from_secs(10),
            head_deadline: Duration::from_secs(30),
            write_deadline: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            state_ttl: Duration::from_secs(15 * 60),
            grace: Duration::from_secs(5),
        }
    }
}
