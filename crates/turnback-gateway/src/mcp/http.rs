//! The streamable HTTP transport.
//!
//! Owns connections, sessions and status codes. Order of refusal: `Host` and `Origin`, then the path,
//! then the token, then room for one more, and only then is a body read: a stranger costs a head.
//!
//! * `POST /mcp` – one message. The answer is JSON; when it takes longer than a keep-alive interval, or
//!   something must be said before it, an event stream.
//! * `DELETE /mcp` – ends a session.
//! * `GET /mcp` – 405: nothing is ever sent outside the stream of a request.
//! * `POST /access/v1/evaluation` and `/evaluations` – decisions the caller enforces itself (AuthZEN 1.0).
//! * `GET /approvals/<id>` – a page that says what is asked and how an operator answers. Its address is
//!   its only credential, and it has no means to answer.

mod access;
mod body;
mod connection;
mod patient;
mod session;

use std::net::SocketAddr;
use std::str::FromStr as _;
use std::sync::Arc;

use base64::Engine as _;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName};
use hyper::{Method, Response, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use turnback_core::names::ApprovalId;
use turnback_core::refusal::{Code, Refusal};

pub use connection::serve_http;

use self::body::Body;
use self::session::Sessions;
use super::guard::{Guard, single};
use super::message::{
    self, CANCELLED, FORBIDDEN, HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND,
    Message, OVERLOADED, PARSE_ERROR, Request, RpcError, TOO_LARGE, TOO_SLOW, UNAUTHENTICATED, UNSUPPORTED_VERSION,
};
use super::peer::Peer;
use super::room::Place;
use super::server::{self, HANDSHAKE_VERSIONS, Line, MODERN_VERSION, Outcome, Server};
use crate::desk::{Caller, Desk};

/// What this door is called in the record.
const DOOR: &str = "mcp/http";
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// What all connections share.
struct Door<D> {
    server: Arc<Server<D>>,
    guard: Guard,
    sessions: Sessions,
}

/// A refusal on its way out.
struct Turned {
    status: StatusCode,
    id: Option<Box<RawValue>>,
    error: RpcError,
    caller: Option<Box<Caller>>,
}

impl Turned {
    fn new(status: StatusCode, error: RpcError) -> Self {
        Self { status, id: None, error, caller: None }
    }

    fn of(mut self, caller: &Caller) -> Self {
        self.caller = Some(Box::new(caller.clone()));
        self
    }

    fn under(mut self, id: Option<&RawValue>) -> Self {
        self.id = id.map(ToOwned::to_owned);
        self
    }
}

impl<D: Desk> Door<D> {
    /// Answers one HTTP request that came in at the address `at`.
    async fn answer(self: Arc<Self>, request: hyper::Request<Incoming>, at: SocketAddr) -> Response<Body> {
        let access = access::is_about(request.uri().path());
        match self.route(request, at).await {
            Ok(response) => response,
            Err(turned) => {
                self.server.turned(DOOR, turned.caller.as_deref(), &turned.error.refusal);
                let (kind, text) = if access {
                    ("application/problem+json", access::problem(turned.status, &turned.error.refusal))
                } else {
                    ("application/json", message::error(turned.id.as_deref(), &turned.error))
                };
                refusal(turned.status, kind, text)
            }
        }
    }

    async fn route(
        self: &Arc<Self>,
        request: hyper::Request<Incoming>,
        at: SocketAddr,
    ) -> Result<Response<Body>, Turned> {
        self.guard
            .check(request.uri(), request.headers(), at)
            .map_err(|error| Turned::new(StatusCode::FORBIDDEN, error))?;
        let path = request.uri().path();
        if let Some(id) = path.strip_prefix("/approvals/") {
            return self.question(request.method(), id);
        }
        if access::is_about(path) {
            return self.access(request).await;
        }
        if path != "/mcp" {
            let refusal = Refusal::new(Code::NotFound, "nothing is here").at(path).next("use `/mcp`");
            return Err(Turned::new(StatusCode::NOT_FOUND, RpcError::new(INVALID_REQUEST, refusal)));
        }
        let caller =
            self.authenticate(request.headers()).map_err(|error| Turned::new(StatusCode::UNAUTHORIZED, error))?;
        match *request.method() {
            Method::POST => self.post(request, &caller).await,
            Method::DELETE => {
                let (id, _) = self.session(request.headers(), &caller)?;
                self.sessions.end(&id);
                Ok(plain(StatusCode::NO_CONTENT))
            }
            _ => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
                response.headers_mut().insert("allow", hyper::header::HeaderValue::from_static("POST, DELETE"));
                Ok(response)
            }
        }
    }

    fn question(&self, method: &Method, id: &str) -> Result<Response<Body>, Turned> {
        // Exactly the full identity: no short forms, no other spellings of the same digits.
        let exact = ApprovalId::from_str(id).is_ok_and(|parsed| parsed.to_string() == id);
        let page = (exact && *method == Method::GET).then(|| self.server.desk.question_page(id)).flatten();
        let page = page.ok_or_else(|| {
            let refusal = Refusal::new(Code::NotFound, "there is no such question").at("approval");
            Turned::new(StatusCode::NOT_FOUND, RpcError::new(INVALID_REQUEST, refusal))
        })?;
        let mut response = Response::new(Body::text(turnback_core::text::visible_lines(&page)));
        let headers = response.headers_mut();
        for (name, value) in [
            ("content-type", "text/plain; charset=utf-8"),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
        ] {
            headers.insert(name, hyper::header::HeaderValue::from_static(value));
        }
        Ok(response)
    }

    fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, RpcError> {
        let missing = || {
            Refusal::new(Code::Unauthenticated, "a bearer token is expected")
                .at("Authorization")
                .next("send `Authorization: Bearer <token>`; an operator makes one with `turnback token new`")
        };
        let header = single(headers, &AUTHORIZATION).map_err(|e| RpcError { code: UNAUTHENTICATED, ..e })?;
        let (scheme, token) =
            header.and_then(|value| value.split_once(' ')).ok_or_else(|| RpcError::new(UNAUTHENTICATED, missing()))?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(RpcError::new(UNAUTHENTICATED, missing()));
        }
        self.server.desk.authenticate(token.trim()).map_err(|refusal| RpcError::new(UNAUTHENTICATED, refusal))
    }

    /// The session a request belongs to. Somebody else's is answered like one that never was.
    fn session(&self, headers: &HeaderMap, caller: &Caller) -> Result<(String, Arc<Peer>), Turned> {
        let named = single(headers, &SESSION)
            .map_err(|e| Turned::new(StatusCode::BAD_REQUEST, RpcError { code: INVALID_REQUEST, ..e }).of(caller))?;
        let Some(id) = named else {
            let refusal = Refusal::new(Code::BadInput, "the header is missing")
                .at("Mcp-Session-Id")
                .next("send `initialize` first and then the session id it was answered with");
            return Err(Turned::new(StatusCode::BAD_REQUEST, RpcError::new(INVALID_REQUEST, refusal)).of(caller));
        };
        match self.sessions.find(id, caller) {
            Some(peer) => Ok((id.to_owned(), peer)),
            None => {
                let refusal = Refusal::new(Code::NotFound, "there is no such session of this caller")
                    .at("Mcp-Session-Id")
                    .next("send `initialize` again");
                Err(Turned::new(StatusCode::NOT_FOUND, RpcError::new(INVALID_REQUEST, refusal)).of(caller))
            }
        }
    }

    /// Finds room for a request and reads its body.
    async fn read(
        &self,
        request: hyper::Request<Incoming>,
        caller: &Caller,
    ) -> Result<(HeaderMap, Vec<u8>, Place), Turned> {
        let turned = |status, error| Turned::new(status, error).of(caller);
        let place = self.server.admit(caller).map_err(|error| turned(StatusCode::SERVICE_UNAVAILABLE, error))?;
        let (head, incoming) = request.into_parts();
        let headers = head.headers;
        let json = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        });
        if !json {
            let error = RpcError::bad(INVALID_REQUEST, "Content-Type", "`application/json` is expected");
            return Err(turned(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
        let options = &self.server.options;
        let bytes = body::read(incoming, options.body_limit, options.body_deadline).await.map_err(|refusal| {
            let (status, code) = match refusal.code {
                Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE),
                Code::Busy => (StatusCode::REQUEST_TIMEOUT, TOO_SLOW),
                _ => (StatusCode::BAD_REQUEST, INVALID_REQUEST),
            };
            turned(status, RpcError::new(code, refusal))
        })?;
        Ok((headers, bytes, place))
    }

    async fn post(
        self: &Arc<Self>,
        request: hyper::Request<Incoming>,
        caller: &Caller,
    ) -> Result<Response<Body>, Turned> {
        let turned = |status, error| Turned::new(status, error).of(caller);
        let (headers, bytes, place) = self.read(request, caller).await?;
        let message =
            message::read(&bytes).map_err(|(id, error)| turned(StatusCode::BAD_REQUEST, error).under(id.as_deref()))?;
        drop(bytes);

        let version = single(&headers, &VERSION)
            .map_err(|e| turned(StatusCode::BAD_REQUEST, RpcError { code: HEADER_MISMATCH, ..e }))?;
        let handshake = version.is_some_and(|version| HANDSHAKE_VERSIONS.contains(&version));
        let modern = match &message {
            Message::Request(request) if request.method == "initialize" => version == Some(MODERN_VERSION),
            Message::Request(request) => version == Some(MODERN_VERSION) || server::enveloped(request),
            _ => version == Some(MODERN_VERSION),
        };
        // A version nobody speaks is told so, unless the request contradicts its own header.
        if let Some(version) = version.filter(|_| !handshake && !modern) {
            let id = match &message {
                Message::Request(request) => Some(&*request.id),
                _ => None,
            };
            let error = server::unsupported_version("MCP-Protocol-Version", version);
            return Err(turned(StatusCode::BAD_REQUEST, error).under(id));
        }
        if modern {
            return self.modern(&headers, message, caller, place).await;
        }
        match message {
            Message::Request(request) if request.method == "initialize" => {
                self.initialize(&headers, request, caller, place).await
            }
            Message::Request(request) => {
                let (_, peer) = self.session(&headers, caller).map_err(|t| t.under(Some(&request.id)))?;
                let line = self.line(&headers, caller, peer, false);
                Ok(self.run(line, request, place).await)
            }
            Message::Notification { method, params } => {
                let (_, peer) = self.session(&headers, caller)?;
                if method == "notifications/cancelled" {
                    peer.cancel(params.as_deref());
                }
                Ok(plain(StatusCode::ACCEPTED))
            }
            Message::Response { id, result } => {
                let (_, peer) = self.session(&headers, caller)?;
                peer.answered(&id, result.as_deref());
                Ok(plain(StatusCode::ACCEPTED))
            }
        }
    }

    /// One self-contained request of 2026-07-28.
    async fn modern(
        self: &Arc<Self>,
        headers: &HeaderMap,
        message: Message,
        caller: &Caller,
        place: Place,
    ) -> Result<Response<Body>, Turned> {
        let request = match message {
            Message::Request(request) => request,
            // There is none this era defines over HTTP; clients that send one are not told off.
            Message::Notification { .. } => return Ok(plain(StatusCode::ACCEPTED)),
            Message::Response { .. } => {
                let error = RpcError::bad(INVALID_REQUEST, "message", "a request is expected");
                return Err(Turned::new(StatusCode::BAD_REQUEST, error).of(caller));
            }
        };
        server::check_envelope(&request, |version, method, name| {
            for (header, body) in [(&VERSION, Some(version)), (&METHOD, Some(method)), (&NAME, name)] {
                let value = single(headers, header).map_err(|e| RpcError { code: HEADER_MISMATCH, ..e })?;
                if body.is_some() && value.and_then(decode).as_deref() != body {
                    let message = "the header does not say the same as the body";
                    return Err(RpcError::bad(HEADER_MISMATCH, header.as_str(), message));
                }
            }
            Ok(())
        })
        .map_err(|error| Turned::new(status(error.code, true), error).of(caller).under(Some(&request.id)))?;
        let line = self.line(headers, caller, Arc::default(), true);
        Ok(self.run(line, request, place).await)
    }

    async fn initialize(
        self: &Arc<Self>,
        headers: &HeaderMap,
        request: Request,
        caller: &Caller,
        place: Place,
    ) -> Result<Response<Body>, Turned> {
        let peer = Arc::<Peer>::default();
        let id = request.id.clone();
        let line = self.line(headers, caller, Arc::clone(&peer), false);
        let response = self.run(line, request, place).await;
        if response.extensions().get::<Failed>().is_some() {
            return Ok(response);
        }
        let options = &self.server.options;
        let most = options.max_sessions;
        let session = self.sessions.begin(caller, peer, most).map_err(|refusal| {
            let error = message::full("sessions", most, refusal);
            Turned::new(StatusCode::SERVICE_UNAVAILABLE, error).of(caller).under(Some(&id))
        })?;
        let mut response = response;
        if let Ok(value) = session.parse() {
            response.headers_mut().insert(SESSION, value);
        }
        Ok(response)
    }

    fn line(
        &self,
        headers: &HeaderMap,
        caller: &Caller,
        peer: Arc<Peer>,
        modern: bool,
    ) -> (Line, mpsc::Receiver<String>) {
        let streams = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            value.split(',').filter_map(|kind| kind.split(';').next()).any(|kind| {
                let kind = kind.trim();
                ["text/event-stream", "text/*", "*/*"].iter().any(|known| kind.eq_ignore_ascii_case(known))
            })
        });
        let (out, sent) = mpsc::channel(16);
        (Line { door: DOOR, caller: caller.clone(), peer, modern, streams, out }, sent)
    }

    /// Runs a request in a task of its own and answers with JSON or, when it takes long, a stream.
    async fn run(
        self: &Arc<Self>,
        (line, mut sent): (Line, mpsc::Receiver<String>),
        request: Request,
        place: Place,
    ) -> Response<Body> {
        let (streams, modern) = (line.streams, line.modern);
        let (finish, mut finished) = oneshot::channel();
        let id = request.id.clone();
        let server = Arc::clone(&self.server);
        tokio::spawn(async move {
            let outcome = server.serve(&line, &request, place).await;
            let _ = finish.send(outcome);
        });
        let keep_alive = self.server.options.keep_alive;
        let first = tokio::select! {
            biased;
            outcome = &mut finished => {
                return match text(outcome.ok(), &id) {
                    (text, None) => json_response(StatusCode::OK, text),
                    (text, Some(code)) => {
                        let mut response = json_response(status(code, modern), text);
                        response.extensions_mut().insert(Failed);
                        response
                    }
                };
            }
            Some(text) = sent.recv(), if streams => Some(text),
            () = tokio::time::sleep(keep_alive), if streams => None,
        };
        let (body, events) = Body::events();
        tokio::spawn(async move {
            let mut next = Some(first.map_or_else(body::comment, |text| body::event(&text)));
            loop {
                // A closed stream means nobody is there: dropping `sent` ends a wait, never a run.
                if let Some(event) = next.take()
                    && events.send(event).await.is_err()
                {
                    return;
                }
                next = Some(tokio::select! {
                    biased;
                    Some(text) = sent.recv() => body::event(&text),
                    outcome = &mut finished => {
                        while let Ok(text) = sent.try_recv() {
                            if events.send(body::event(&text)).await.is_err() {
                                return;
                            }
                        }
                        let _ = events.send(body::event(&text(outcome.ok(), &id).0)).await;
                        return;
                    }
                    () = events.closed() => return,
                    () = tokio::time::sleep(keep_alive) => body::comment(),
                });
            }
        });
        let mut response = Response::new(body);
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
        ] {
            response.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
        }
        response
    }
}

/// Marks a response that carries an error.
#[derive(Clone)]
struct Failed;

/// The text of an outcome, and its code when it is an error. No outcome means the task died.
fn text(outcome: Option<Outcome>, id: &RawValue) -> (String, Option<i64>) {
    let error = match outcome {
        Some(Outcome::Result(result)) => return (message::response(id, &result), None),
        Some(Outcome::Error(error)) => error,
        Some(Outcome::Cancelled) => {
            RpcError::new(CANCELLED, Refusal::new(Code::Unavailable, "cancelled; the run still waits for a person"))
        }
        None => RpcError::new(INTERNAL_ERROR, Refusal::new(Code::Failed, "the gateway failed; its log says why")),
    };
    (message::error(Some(id), &error), Some(error.code))
}

/// The HTTP status of a JSON-RPC error. In the handshake era a 404 means that the session is gone, so
/// errors of a request inside a session are plain answers there.
fn status(code: i64, modern: bool) -> StatusCode {
    match code {
        PARSE_ERROR | INVALID_REQUEST => StatusCode::BAD_REQUEST,
        INVALID_PARAMS | HEADER_MISMATCH | UNSUPPORTED_VERSION if modern => StatusCode::BAD_REQUEST,
        METHOD_NOT_FOUND if modern => StatusCode::NOT_FOUND,
        FORBIDDEN => StatusCode::FORBIDDEN,
        OVERLOADED => StatusCode::SERVICE_UNAVAILABLE,
        INTERNAL_ERROR => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::OK,
    }
}

/// A header value as its sender meant it: `=?base64?…?=` wraps what a header cannot carry (MCP 2026-07-28).
fn decode(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(wrapped) => String::from_utf8(base64::engine::general_purpose::STANDARD.decode(wrapped).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn json_response(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn refusal(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = json_response(status, text);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    if status == StatusCode::UNAUTHORIZED {
        let challenge = hyper::header::HeaderValue::from_static(r#"Bearer realm="turnback", error="invalid_token""#);
        headers.insert("www-authenticate", challenge);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert("retry-after", hyper::header::HeaderValue::from(message::RETRY_AFTER));
    }
    response
}
