//! The methods of MCP, the same over every transport.
//!
//! Owns which method does what in which era, and the bounds shared by all connections. Arguments go to
//! the desk as the bytes they came in. Every message turned away here is reported to the desk once.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use turnback_core::contract::{Actor, Statement};
use turnback_core::json::{Numbers, parse, parse_with};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::trace::TraceId;

use super::message::{self, INVALID_PARAMS, METHOD_NOT_FOUND, Request, RpcError, UNSUPPORTED_VERSION};
use super::peer::{Elicited, Peer};
use super::room::{Full, Place, Room};
use super::seal::{Bound, Seal};
use super::tally::Tally;
use super::waiting::{self, Parked};
use super::{McpOptions, catalog, plans};
use crate::desk::{Answer, Call, Caller, Desk};

/// Versions with a handshake, oldest first.
pub(super) const HANDSHAKE_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The version answered to a handshake for one we do not know.
const LATEST_HANDSHAKE: &str = "2025-11-25";
/// The version without a handshake.
pub(super) const MODERN_VERSION: &str = "2026-07-28";

/// What serves every connection of one door.
pub(super) struct Server<D> {
    pub(super) desk: Arc<D>,
    pub(super) options: McpOptions,
    pub(super) seal: Seal,
    pub(super) in_flight: Arc<Room>,
    pub(super) waiting: Arc<Room>,
    tally: Arc<Tally>,
    /// Turns true when the door closes: nobody is held any longer.
    pub(super) closing: watch::Sender<bool>,
}

/// Resolves when the door closes.
pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    // The sender lives in the server; should it be gone, the door is closed as well.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// What surrounds one request.
pub(super) struct Line {
    pub(super) door: &'static str,
    pub(super) caller: Caller,
    pub(super) peer: Arc<Peer>,
    /// Whether it is spoken as in 2026-07-28.
    pub(super) modern: bool,
    /// Whether anything but the one answer can be sent.
    pub(super) streams: bool,
    /// Messages that go out before the answer. Closed means nobody is there to read it.
    pub(super) out: mpsc::Sender<String>,
}

/// How a request ended.
pub(super) enum Outcome {
    Result(Value),
    Error(RpcError),
    /// The peer did not want an answer any more.
    Cancelled,
}

/// The members of `params._meta` that mean something here; everything else is left alone.
#[derive(Deserialize, Default)]
struct Meta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/clientCapabilities")]
    capabilities: Option<&'a RawValue>,
    #[serde(borrow, rename = "progressToken")]
    progress: Option<&'a RawValue>,
    #[serde(borrow)]
    turnback: Option<&'a RawValue>,
    #[serde(borrow)]
    traceparent: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestState")]
    state: Option<&'a RawValue>,
    #[serde(borrow, rename = "inputResponses")]
    responses: Option<&'a RawValue>,
    #[serde(borrow, rename = "protocolVersion")]
    version: Option<&'a RawValue>,
    #[serde(borrow)]
    capabilities: Option<&'a RawValue>,
}

impl<'a> Params<'a> {
    fn read(request: &'a Request) -> Result<(Self, Meta<'a>), RpcError> {
        let bad = |place: &str, e: serde_json::Error| RpcError::bad(INVALID_PARAMS, place, e.to_string());
        let params: Self = match &request.params {
            Some(raw) => serde_json::from_str(raw.get()).map_err(|e| bad("params", e))?,
            None => Self::default(),
        };
        let meta = match params.meta {
            Some(raw) if !message::is_object(raw) => {
                return Err(RpcError::bad(INVALID_PARAMS, "params._meta", "an object is expected"));
            }
            Some(raw) => serde_json::from_str(raw.get()).map_err(|e| bad("params._meta", e))?,
            None => Meta::default(),
        };
        Ok((params, meta))
    }
}

/// The protocol version a request carries in itself, when it is one of the era without handshake.
pub(super) fn enveloped(request: &Request) -> bool {
    Params::read(request).is_ok_and(|(_, meta)| meta.version.is_some())
}

/// Whether capabilities declare elicitation by URL.
fn elicits(capabilities: Option<&RawValue>) -> bool {
    let value = capabilities.and_then(|raw| parse_with(raw.get().as_bytes(), Numbers::Any).ok());
    value.is_some_and(|value| value.pointer("/elicitation/url").is_some_and(Value::is_object))
}

/// What 2026-07-28 wants in every request. `headers` compares the transport's routing headers, given the
/// version, the method and the name in the body.
pub(super) fn check_envelope(
    request: &Request,
    headers: impl FnOnce(&str, &str, Option<&str>) -> Result<(), RpcError>,
) -> Result<(), RpcError> {
    let (params, meta) = Params::read(request)?;
    let bad = |place: &str, message: &str| Err(RpcError::bad(INVALID_PARAMS, place, message));
    let Some(version) = meta.version else {
        return bad("params._meta.io.modelcontextprotocol/protocolVersion", "a protocol version is expected");
    };
    if !meta.capabilities.is_some_and(message::is_object) {
        return bad("params._meta.io.modelcontextprotocol/clientCapabilities", "an object is expected");
    }
    let Some(version) = message::string(version) else {
        return bad("params._meta.io.modelcontextprotocol/protocolVersion", "a string is expected");
    };
    let name = params.name.filter(|_| request.method == "tools/call").and_then(message::string);
    headers(&version, &request.method, name.as_deref())?;
    if version != MODERN_VERSION {
        return Err(unsupported_version("params._meta.io.modelcontextprotocol/protocolVersion", &version));
    }
    Ok(())
}

/// The refusal of a version nobody here speaks, in the shape clients negotiate with.
pub(super) fn unsupported_version(place: &str, requested: &str) -> RpcError {
    let supported: Vec<&str> = HANDSHAKE_VERSIONS.iter().copied().chain([MODERN_VERSION]).collect();
    let refusal = Refusal::new(Code::BadInput, "unsupported protocol version")
        .at(place)
        .next(format!("use one of {}", supported.join(", ")));
    let mut requested = requested.to_owned();
    message::clip(&mut requested);
    let data = json!({ "supported": supported, "requested": requested });
    RpcError { data: Some(Box::new(data)), ..RpcError::new(UNSUPPORTED_VERSION, refusal) }
}

impl<D: Desk> Server<D> {
    pub(super) fn new(desk: Arc<D>, options: McpOptions) -> std::io::Result<Self> {
        Ok(Self {
            seal: Seal::new()?,
            in_flight: Room::new(options.max_in_flight),
            waiting: Room::new(options.max_waiting),
            tally: Arc::default(),
            closing: watch::Sender::new(false),
            desk,
            options,
        })
    }

    /// A place for one more request of `caller`, or why there is none.
    pub(super) fn admit(&self, caller: &Caller) -> Result<Place, RpcError> {
        self.in_flight.enter(&caller.agent).map_err(|full| {
            let most = self.options.max_in_flight;
            let (bound, message) = match full {
                Full::Room => (most, format!("too many calls are being worked on; the bound is {most}")),
                Full::Share => {
                    let share = Room::share(most);
                    (share, format!("agent `{}` has {share} calls at work; it may have no more at once", caller.agent))
                }
            };
            message::full("calls", bound, Refusal::new(Code::Overloaded, message).next("try again in a second"))
        })
    }

    /// Reports a message that was turned away; those there was no room for by their number when they are many.
    pub(super) fn turned(&self, door: &'static str, caller: Option<&Caller>, refusal: &Refusal) {
        // Everything else says something about the message and is recorded message by message.
        if refusal.code == Code::Overloaded {
            self.tally.note(&self.desk, door, caller, refusal);
        } else {
            self.desk.turned(door, caller.map(|caller| Actor::Agent(caller.agent.clone())), refusal);
        }
    }

    /// Answers one request. Must run in a task of its own: what a desk has begun is not dropped because
    /// a caller hung up.
    pub(super) async fn serve(&self, line: &Line, request: &Request, place: Place) -> Outcome {
        let outcome = self.dispatch(line, request, place).await;
        match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                self.turned(line.door, Some(&line.caller), &error.refusal);
                Outcome::Error(error)
            }
        }
    }

    async fn dispatch(&self, line: &Line, request: &Request, place: Place) -> Result<Outcome, RpcError> {
        let result = match request.method.as_str() {
            "initialize" if !line.modern => initialize(&line.peer, request)?,
            "server/discover" if line.modern => {
                let versions: Vec<&str> = HANDSHAKE_VERSIONS.iter().copied().chain([MODERN_VERSION]).collect();
                catalog::uncached(json!({
                    "supportedVersions": versions,
                    "capabilities": catalog::capabilities(),
                    "instructions": catalog::INSTRUCTIONS,
                }))
            }
            "ping" if line.modern => catalog::modern(json!({})),
            "ping" => json!({}),
            "tools/list" => {
                let mut tools: Vec<Value> = self.desk.tools(&line.caller).iter().map(catalog::tool).collect();
                if self.desk.plans() {
                    tools.extend(plans::tools());
                }
                let list = json!({ "tools": tools });
                if line.modern { catalog::uncached(list) } else { list }
            }
            "tools/call" => return self.call(line, request, place).await,
            other => {
                let refusal = Refusal::new(Code::Unsupported, "no such method").at(other);
                return Err(RpcError::new(METHOD_NOT_FOUND, refusal));
            }
        };
        Ok(Outcome::Result(result))
    }

    async fn call(&self, line: &Line, request: &Request, place: Place) -> Result<Outcome, RpcError> {
        let (params, meta) = Params::read(request)?;
        let tool = params
            .name
            .and_then(message::string)
            .ok_or_else(|| RpcError::bad(INVALID_PARAMS, "params.name", "the name of a tool is expected"))?;
        let arguments = params.arguments.map_or("{}", RawValue::get).as_bytes();
        let bound = Bound { caller: &line.caller, tool: &tool, arguments };
        if let Some(own) = plans::own(&tool).filter(|_| self.desk.plans()) {
            let answer = self.desk.plan(&line.caller, own, arguments.to_vec()).await;
            let result = match answer {
                Ok(reply) => plans::done(reply),
                Err(not) => catalog::refused(None, &not.refusal, &not.details),
            };
            return Ok(Outcome::Result(if line.modern { catalog::modern(result) } else { result }));
        }
        let resumed = match params.state.filter(|_| line.modern) {
            Some(sealed) => {
                let sealed = message::string(sealed);
                let pending = sealed.and_then(|sealed| self.seal.open(&bound, &sealed, self.desk.now()));
                Some(pending.ok_or_else(unsealed)?)
            }
            None => None,
        };
        let declined = resumed.is_some() && params.responses.is_some_and(declined);
        let statement = meta.turnback.map(statement).transpose()?;
        // As the recommendation says: whatever is not exactly of its form is no trace.
        let trace = meta.traceparent.and_then(message::string).and_then(|text| TraceId::of_traceparent(&text));

        let retries = resumed.is_some();
        let answer = match resumed {
            // The run is joined by its identity: even if it ended and was told to somebody else meanwhile,
            // this retry cannot start a second one.
            Some(pending) => Answer::Pending(pending),
            None => {
                let (caller, tool, arguments) = (line.caller.clone(), tool.clone(), arguments.to_vec());
                let call = Call { caller, tool, arguments, statement, trace };
                self.desk.call(call).await
            }
        };
        let answer = match answer {
            Answer::Pending(pending) => {
                let elicits = if line.modern { elicits(meta.capabilities) } else { line.peer.elicits() };
                if line.modern && elicits && !retries {
                    let until = self.desk.now().saturating_add(self.state_ttl()).unwrap_or(pending.expires);
                    if let Some(state) = self.seal.close(&bound, &pending, until) {
                        return Ok(Outcome::Result(catalog::modern(catalog::input_required(&pending, &state))));
                    }
                }
                let parked = Parked {
                    pending,
                    id: &request.id,
                    progress: meta.progress,
                    asks: elicits && !line.modern && line.streams,
                    declined,
                };
                match waiting::hold(self, line, parked, place).await {
                    Some(answer) => answer,
                    None => return Ok(Outcome::Cancelled),
                }
            }
            ended => ended,
        };
        let result = match answer {
            Answer::Done { run, reply, note, constrained } => catalog::done(run, reply, note.as_deref(), constrained),
            Answer::Refused { run, refusal, details } => catalog::refused(run, &refusal, &details),
            Answer::Pending(pending) => catalog::pending(&pending),
        };
        Ok(Outcome::Result(if line.modern { catalog::modern(result) } else { result }))
    }

    fn state_ttl(&self) -> jiff::SignedDuration {
        jiff::SignedDuration::try_from(self.options.state_ttl).unwrap_or(jiff::SignedDuration::ZERO)
    }
}

fn initialize(peer: &Peer, request: &Request) -> Result<Value, RpcError> {
    let (params, _) = Params::read(request)?;
    let requested = params
        .version
        .and_then(message::string)
        .ok_or_else(|| RpcError::bad(INVALID_PARAMS, "params.protocolVersion", "a protocol version is expected"))?;
    let version = HANDSHAKE_VERSIONS.iter().find(|known| **known == requested).unwrap_or(&LATEST_HANDSHAKE);
    // Elicitation by URL came with 2025-11-25; whoever speaks an older version cannot mean it.
    peer.declare(*version == LATEST_HANDSHAKE && elicits(params.capabilities));
    Ok(json!({
        "protocolVersion": version,
        "capabilities": catalog::capabilities(),
        "serverInfo": catalog::server_info(),
        "instructions": catalog::INSTRUCTIONS,
    }))
}

fn unsealed() -> RpcError {
    let refusal = Refusal::new(Code::BadInput, "invalid or expired")
        .at("params.requestState")
        .next("repeat the call without `requestState`; it joins the waiting run");
    RpcError::new(INVALID_PARAMS, refusal)
}

/// Whether the agent's user did not go to look.
fn declined(responses: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Responses<'a> {
        #[serde(borrow)]
        approval: Option<&'a RawValue>,
    }
    let answer = serde_json::from_str::<Responses<'_>>(responses.get()).ok().and_then(|r| r.approval);
    Elicited::read(answer) != Elicited::Accepted
}

/// What `_meta.turnback` says about the call.
fn statement(raw: &RawValue) -> Result<Statement, RpcError> {
    const PLACE: &str = "params._meta.turnback";
    let bad = |refusal: Refusal| {
        let place = refusal.place.as_deref().and_then(|p| p.strip_prefix("turnback")).unwrap_or_default().to_owned();
        RpcError::new(INVALID_PARAMS, refusal.at(format!("{PLACE}{place}")))
    };
    let value = parse(raw.get().as_bytes()).map_err(|e| bad(Refusal::new(Code::BadInput, e.to_string())))?;
    Statement::parse(value).map_err(bad)
}
