//! What the door shows: tools, answers, refusals and questions in the shapes of MCP.
//!
//! Pure functions from the desk's words to wire values. Everything machine-readable stands in
//! `structuredContent`, the same in words in `content`, and the run in `_meta.turnback`.

use serde_json::{Map, Value, json};
use turnback_core::contract::STATEMENT_ARGUMENT;
use turnback_core::names::RunId;
use turnback_core::refusal::Refusal;
use turnback_core::text::visible_lines;
use turnback_core::tool::{Risk, Tool, Verb};

use super::message::sentence;
use crate::desk::Pending;

/// The key of the one question in an `input_required` answer.
pub(super) const QUESTION: &str = "approval";

/// What every client is told first.
pub(super) const INSTRUCTIONS: &str = "Every tool call passes through Turnback, which decides it, measures what it \
    really does and keeps the way back. Tools that change something take an optional argument `turnback` to say why. \
    A refusal says what would be acceptable; do not repeat a refused call unchanged. An answer that begins with \
    PENDING waits for a person: repeat the identical call later, it joins the waiting one and never runs twice. \
    Several changes that belong together can be submitted first with turnback__plan, where it is offered: they are \
    verified whole, and each then runs by calling its tool with exactly the arguments of the plan.";

/// Who answers.
pub(super) fn server_info() -> Value {
    json!({ "name": "turnback", "title": "Turnback", "version": env!("CARGO_PKG_VERSION") })
}

/// What this server can do.
pub(super) fn capabilities() -> Value {
    json!({ "tools": { "listChanged": false } })
}

/// A tool as `tools/list` shows it.
pub(super) fn tool(tool: &Tool) -> Value {
    let writes = tool.risk.writes();
    let mut schema = tool.schema.clone();
    if writes && let Some(root) = schema.as_object_mut() {
        root.entry("type").or_insert_with(|| json!("object"));
        if let Some(properties) = root.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
            properties.insert(STATEMENT_ARGUMENT.into(), statement_schema());
        }
    }
    json!({
        "name": tool.name,
        "description": tool.description,
        "inputSchema": schema,
        "annotations": {
            "readOnlyHint": !writes,
            // MCP calls a write destructive unless it only adds.
            "destructiveHint": writes && (tool.verb != Verb::Create || tool.risk == Risk::Irreversible),
            "openWorldHint": tool.risk == Risk::ExternalEffect,
        },
    })
}

/// JSON Schema of the optional argument through which a model says why.
fn statement_schema() -> Value {
    json!({
        "type": "object",
        "description": "Why this is called. Optional, recorded, never passed on to the tool.",
        "properties": {
            "intent": { "type": "string", "description": "The task this serves." },
            "evidence": { "type": "array", "description": "What the decision rests on.", "items": {} },
            "confidence": { "type": "number", "minimum": 0, "maximum": 1 },
            "plan": { "description": "The plan this is a step of." },
            "alternatives": { "description": "What else was considered." },
            "reasoning": { "type": "string", "description": "Why this." },
            "expects": { "description": "What is expected to happen." },
        },
        "additionalProperties": false,
    })
}

fn text(text: impl Into<String>) -> Value {
    json!({ "type": "text", "text": text.into() })
}

/// A call that ran.
pub(super) fn done(run: RunId, reply: Value, note: Option<&str>, constrained: Option<Value>) -> Value {
    let words = match &reply {
        Value::String(words) => words.clone(),
        other => other.to_string(),
    };
    let mut content = vec![text(words)];
    let mut about = Map::from_iter([("run".to_owned(), json!(run))]);
    if let Some(note) = note {
        content.push(text(note));
        about.insert("note".into(), json!(note));
    }
    if let Some(constrained) = constrained {
        about.insert("constrained".into(), constrained);
    }
    // Up to 2025-11-25 structured content is always an object.
    let structured = if reply.is_object() { reply } else { json!({ "result": reply }) };
    json!({ "content": content, "structuredContent": structured, "isError": false, "_meta": { "turnback": about } })
}

/// A call that did not run.
pub(super) fn refused(run: Option<RunId>, refusal: &Refusal, details: &Value) -> Value {
    let mut words = sentence(refusal);
    if let Some(run) = run {
        words = format!("{words} (run {run})");
    }
    json!({
        "content": [text(words)],
        "structuredContent": {
            "code": refusal.code, "place": refusal.place, "message": refusal.message, "next": refusal.next,
            "run": run, "details": details,
        },
        "isError": true,
        "_meta": { "turnback": { "run": run } },
    })
}

/// A call that still waits for a person when its caller cannot wait any longer.
pub(super) fn pending(pending: &Pending) -> Value {
    let next = "repeat the identical call after approval";
    let message = visible_lines(&pending.message);
    let words = format!("PENDING {}; {next}\n{message}\nA person decides it; see {}", pending.approval, pending.url);
    json!({
        "content": [text(words)],
        "structuredContent": {
            "code": "pending", "approval": pending.approval, "run": pending.run, "message": message,
            "url": pending.url, "expires": pending.expires.to_string(), "next": next,
        },
        "isError": true,
        "_meta": { "turnback": { "run": pending.run } },
    })
}

/// What the agent's own user is asked: to look where a person decides.
pub(super) fn elicitation(pending: &Pending) -> Value {
    json!({ "mode": "url", "message": visible_lines(&pending.message), "url": pending.url })
}

/// The 2026-07-28 answer that asks for a look and a retry.
pub(super) fn input_required(pending: &Pending, state: &str) -> Value {
    json!({
        "resultType": "input_required",
        "inputRequests": { QUESTION: { "method": "elicitation/create", "params": elicitation(pending) } },
        "requestState": state,
        "_meta": { "turnback": { "run": pending.run } },
    })
}

/// Adds what 2026-07-28 wants on every result.
pub(super) fn modern(mut result: Value) -> Value {
    if let Some(map) = result.as_object_mut() {
        map.entry("resultType").or_insert_with(|| json!("complete"));
        if let Some(meta) = map.entry("_meta").or_insert_with(|| json!({})).as_object_mut() {
            meta.insert("io.modelcontextprotocol/serverInfo".into(), server_info());
        }
    }
    result
}

/// Adds the caching fields 2026-07-28 wants on lists: what is visible depends on the caller and may change.
pub(super) fn uncached(mut result: Value) -> Value {
    if let Some(map) = result.as_object_mut() {
        map.insert("ttlMs".into(), json!(0));
        map.insert("cacheScope".into(), json!("private"));
    }
    modern(result)
}
