//! JSON-RPC 2.0 envelopes over raw JSON.
//!
//! Owns reading and writing the envelope. The whole text is read strictly once (duplicate keys, UTF-8,
//! depth); then only the fields of the envelope are looked at, and everything inside them stays the bytes
//! that came in: an `id` of thirty digits goes back as thirty digits, arguments reach the desk unread,
//! fields nobody here knows are left alone.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use turnback_core::json::{Numbers, parse_with};
use turnback_core::refusal::{Code, Refusal};

/// Longest `id` echoed, in bytes of its JSON text.
const ID_LIMIT: usize = 256;
/// Longest sentence or place in an error, in bytes.
const TEXT_LIMIT: usize = 512;

// JSON-RPC 2.0, section 5.1.
pub(super) const PARSE_ERROR: i64 = -32700;
pub(super) const INVALID_REQUEST: i64 = -32600;
pub(super) const METHOD_NOT_FOUND: i64 = -32601;
pub(super) const INVALID_PARAMS: i64 = -32602;
pub(super) const INTERNAL_ERROR: i64 = -32603;
// MCP 2026-07-28.
pub(super) const HEADER_MISMATCH: i64 = -32020;
pub(super) const UNSUPPORTED_VERSION: i64 = -32022;
// Answers a cancelled request of the handshake era, whose stream ends only with a response.
pub(super) const CANCELLED: i64 = -32800;
// Ours, in the band MCP leaves to implementations (-32000..-32019).
pub(super) const UNAUTHENTICATED: i64 = -32010;
pub(super) const OVERLOADED: i64 = -32011;
pub(super) const FORBIDDEN: i64 = -32012;
pub(super) const TOO_LARGE: i64 = -32013;
pub(super) const TOO_SLOW: i64 = -32014;

/// One message from the peer.
#[derive(Debug)]
pub(super) enum Message {
    Request(Request),
    /// A method without an `id`.
    Notification {
        method: String,
        params: Option<Box<RawValue>>,
    },
    /// The peer's answer to a request of ours.
    Response {
        id: Box<RawValue>,
        /// Absent when the peer answered with an error.
        result: Option<Box<RawValue>>,
    },
}

/// One request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: Box<RawValue>,
    pub(super) method: String,
    pub(super) params: Option<Box<RawValue>>,
}

/// Why a message is answered with a JSON-RPC error.
#[derive(Debug)]
pub(super) struct RpcError {
    pub(super) code: i64,
    pub(super) refusal: Box<Refusal>,
    /// Further members of `error.data`.
    pub(super) data: Option<Box<Value>>,
}

impl RpcError {
    pub(super) fn new(code: i64, mut refusal: Refusal) -> Self {
        // What a stranger sent comes back and is recorded, but never all of a mebibyte of it.
        for text in [Some(&mut refusal.message), refusal.place.as_mut()].into_iter().flatten() {
            clip(text);
        }
        Self { code, refusal: Box::new(refusal), data: None }
    }

    pub(super) fn bad(code: i64, place: &str, message: impl Into<String>) -> Self {
        Self::new(code, Refusal::new(Code::BadInput, message).at(place))
    }
}

/// Seconds after which a refusal for want of room is worth another try; what `Retry-After` says, too.
pub(super) const RETRY_AFTER: u64 = 1;

/// The refusal of one more of something of which there may be `bound`: `calls`, `sessions`, `connections`.
pub(super) fn full(what: &'static str, bound: usize, refusal: Refusal) -> RpcError {
    let data = json!({ "full": what, "bound": bound, "retry_after_seconds": RETRY_AFTER });
    RpcError { data: Some(Box::new(data)), ..RpcError::new(OVERLOADED, refusal) }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// Tells a field that is `null` from one that is absent.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The text of a JSON string, when `raw` is one.
pub(super) fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// Whether `raw` is a JSON object.
pub(super) fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

/// Cuts `text` to [`TEXT_LIMIT`], and says so.
pub(super) fn clip(text: &mut String) {
    if text.len() > TEXT_LIMIT {
        text.truncate(text.floor_char_boundary(TEXT_LIMIT));
        text.push('…');
    }
}

/// Reads one message strictly. On failure also the `id` to answer under, when it could be read.
pub(super) fn read(bytes: &[u8]) -> Result<Message, (Option<Box<RawValue>>, RpcError)> {
    let unread = |error| (None, error);
    let value = parse_with(bytes, Numbers::Any)
        .map_err(|e| unread(RpcError::bad(PARSE_ERROR, e.path.as_str(), e.to_string())))?;
    match value {
        Value::Object(_) => {}
        Value::Array(_) => {
            let refusal = Refusal::new(Code::BadInput, "batches are not accepted")
                .at("message")
                .next("send each message on its own");
            return Err(unread(RpcError::new(INVALID_REQUEST, refusal)));
        }
        _ => return Err(unread(RpcError::bad(INVALID_REQUEST, "message", "an object is expected"))),
    }
    drop(value);
    let envelope: Envelope<'_> =
        serde_json::from_slice(bytes).map_err(|e| unread(RpcError::bad(PARSE_ERROR, "message", e.to_string())))?;

    let id = match envelope.id {
        None => None,
        Some(raw) if !raw.get().starts_with(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) => {
            return Err(unread(RpcError::bad(INVALID_REQUEST, "id", "a string or a number is expected")));
        }
        Some(raw) if raw.get().len() > ID_LIMIT => {
            let message = format!("at most {ID_LIMIT} bytes are expected");
            return Err(unread(RpcError::bad(INVALID_REQUEST, "id", message)));
        }
        Some(raw) => Some(raw.to_owned()),
    };
    let fail = |place: &str, message: &str| (id.clone(), RpcError::bad(INVALID_REQUEST, place, message));
    if envelope.jsonrpc.and_then(string).as_deref() != Some("2.0") {
        return Err(fail("jsonrpc", "`2.0` is expected"));
    }
    let Some(method) = envelope.method else {
        return match (id.clone(), envelope.result, envelope.error) {
            (Some(id), Some(result), None) => Ok(Message::Response { id, result: Some(result.to_owned()) }),
            (Some(id), None, Some(_)) => Ok(Message::Response { id, result: None }),
            _ => Err(fail("method", "a string is expected")),
        };
    };
    let method = string(method).ok_or_else(|| fail("method", "a string is expected"))?;
    if envelope.params.is_some_and(|raw| !is_object(raw)) {
        return Err((id.clone(), RpcError::bad(INVALID_PARAMS, "params", "an object is expected")));
    }
    let params = envelope.params.map(ToOwned::to_owned);
    Ok(match id {
        Some(id) => Message::Request(Request { id, method, params }),
        None => Message::Notification { method, params },
    })
}

/// The text of a successful response.
pub(super) fn response(id: &RawValue, result: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.get())
}

/// The text of an error response; `id` is `null` when it could not be read.
pub(super) fn error(id: Option<&RawValue>, error: &RpcError) -> String {
    let mut data = json!({ "code": error.refusal.code, "message": error.refusal.message });
    if let Some(place) = &error.refusal.place {
        data["place"] = json!(place);
    }
    if let Some(next) = &error.refusal.next {
        data["next"] = json!(next);
    }
    if let (Some(Value::Object(more)), Value::Object(data)) = (error.data.as_deref(), &mut data) {
        data.extend(more.clone());
    }
    let body = json!({ "code": error.code, "message": sentence(&error.refusal), "data": data });
    format!(r#"{{"jsonrpc":"2.0","id":{},"error":{body}}}"#, id.map_or("null", RawValue::get))
}

/// The text of a notification.
pub(super) fn notification(method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "method": method, "params": params }).to_string()
}

/// The text of a request to the peer.
pub(super) fn request(id: &str, method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string()
}

/// A refusal as one line for a model or a person.
pub(super) fn sentence(refusal: &Refusal) -> String {
    match &refusal.next {
        Some(next) => format!("{refusal}; next: {next}"),
        None => refusal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &[u8]) -> (Option<String>, i64, String) {
        let (id, error) = read(bytes).unwrap_err();
        (id.map(|id| id.get().to_owned()), error.code, error.refusal.to_string())
    }

    #[test]
    fn what_is_not_looked_at_stays_the_bytes_it_was() {
        let text = r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"tools/call",
            "params":{"arguments":{"n": 1e400, "x":0.10},"new":[]},"extra":1}"#;
        let Message::Request(request) = read(text.as_bytes()).unwrap() else { panic!("a request is expected") };
        assert_eq!(request.id.get(), "123456789012345678901234567890");
        assert!(request.params.unwrap().get().contains(r#"{"n": 1e400, "x":0.10}"#));
        assert_eq!(
            response(&request.id, &json!({})),
            r#"{"jsonrpc":"2.0","id":123456789012345678901234567890,"result":{}}"#
        );
    }

    #[test]
    fn an_error_does_not_repeat_everything_that_was_sent() {
        let key = "k".repeat(1 << 19);
        let (_, error) = read(format!(r#"{{"{key}":{{"{key}":1,"{key}":1}}}}"#).as_bytes()).unwrap_err();
        assert!(super::error(None, &error).len() < 4096);
    }

    proptest::proptest! {
        // Whatever comes in, it is answered; and whatever is taken is strict JSON with what it needs.
        #[test]
        fn any_bytes_are_read_or_refused(
            edits in proptest::collection::vec((0_usize..120, proptest::prelude::any::<u8>()), 0..6),
            cut in 0_usize..140,
        ) {
            let text = br#"{"jsonrpc":"2.0","id":"a\u00e9","method":"tools/call","params":{"name":"x","arguments":{"a":[1,2.5e3,null]}}}"#;
            let mut bytes = text.to_vec();
            for (at, byte) in edits {
                if let Some(slot) = bytes.get_mut(at) {
                    *slot = byte;
                }
            }
            bytes.truncate(cut);
            match read(&bytes) {
                Ok(_) => proptest::prop_assert!(parse_with(&bytes, Numbers::Any).is_ok_and(|v| v["jsonrpc"] == "2.0")),
                Err((id, error)) => {
                    let answer = super::error(id.as_deref(), &error);
                    proptest::prop_assert!(parse_with(answer.as_bytes(), Numbers::Any).is_ok(), "{}", answer);
                }
            }
        }
    }

    #[test]
    fn malformed_envelopes_are_refused_by_name() {
        for (text, id, code, place) in [
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, None, PARSE_ERROR, "duplicate key `id`"),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","\u006dethod":"x"}"#,
                None,
                PARSE_ERROR,
                "duplicate key `method`",
            ),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, None, INVALID_REQUEST, "id: "),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, None, INVALID_REQUEST, "id: "),
            (r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#, Some("7"), INVALID_REQUEST, "jsonrpc: "),
            (r#"{"id":"a","method":"ping"}"#, Some("\"a\""), INVALID_REQUEST, "jsonrpc: "),
            (r#"{"jsonrpc":"2.0","id":7,"method":5}"#, Some("7"), INVALID_REQUEST, "method: "),
            (r#"{"jsonrpc":"2.0","id":7}"#, Some("7"), INVALID_REQUEST, "method: "),
            (r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#, Some("7"), INVALID_REQUEST, "method: "),
            (r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":[1]}"#, Some("7"), INVALID_PARAMS, "params: "),
            (r#"[{"jsonrpc":"2.0","id":7,"method":"ping"}]"#, None, INVALID_REQUEST, "batches"),
            (r#""ping""#, None, INVALID_REQUEST, "an object is expected"),
            ("", None, PARSE_ERROR, "ends"),
        ] {
            let (found, found_code, message) = refused(text.as_bytes());
            assert_eq!((found.as_deref(), found_code), (id, code), "{text}");
            assert!(message.contains(place), "{text}: {message}");
        }
        assert_eq!(refused(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}").1, PARSE_ERROR);
        let deep =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":{}{}}}}}"#, "[".repeat(64), "]".repeat(64));
        assert!(refused(deep.as_bytes()).2.contains("deeper than 64"));
    }
}
