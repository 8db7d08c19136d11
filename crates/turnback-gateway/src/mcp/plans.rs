//! The tools about plans as clients see them. They are no tools of a resource: their name begins with a word
//! no resource may have.

use serde_json::{Value, json};
use turnback_core::plan::{GOAL_LIMIT, LIFETIME_DEFAULT, LIFETIME_LIMIT, RESERVED, STEPS_LIMIT};

/// The own name of a tool about plans.
pub(super) fn own(tool: &str) -> Option<&str> {
    tool.strip_prefix(RESERVED)?.strip_prefix("__")
}

fn tool(name: &str, description: &str, reads: bool, destroys: bool, schema: Value) -> Value {
    json!({
        "name": format!("{RESERVED}__{name}"),
        "description": description,
        "inputSchema": schema,
        "annotations": { "readOnlyHint": reads, "destructiveHint": destroys, "openWorldHint": false },
    })
}

/// All of them.
pub(super) fn tools() -> Vec<Value> {
    let words = |what: &str| json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }], "description": what });
    let amount = json!({ "type": "integer", "minimum": 0 });
    let plan = json!({ "type": "string", "description": "The plan's identity: pl_ and 32 hexadecimal digits." });
    vec![
        tool(
            "plan",
            "Submits several changes that belong together before any of them runs. All are measured one on top of the \
             other and judged; nothing is changed. Afterwards each step runs by calling its tool with exactly these \
             arguments, after the steps it waits for, once.",
            false,
            false,
            json!({
                "type": "object",
                "properties": {
                    "goal": { "type": "string", "maxLength": GOAL_LIMIT, "description": "What the plan is for." },
                    "steps": {
                        "type": "array", "minItems": 1, "maxItems": STEPS_LIMIT,
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": { "type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$" },
                                "tool": { "type": "string", "description": "A tool that changes something." },
                                "arguments": { "type": "object" },
                                "after": {
                                    "type": "array", "items": { "type": "string" },
                                    "description": "Names of the steps that must be done before."
                                }
                            },
                            "required": ["name", "tool", "arguments"],
                            "additionalProperties": false
                        }
                    },
                    "never": {
                        "type": "array",
                        "description": "What no step may do; in one entry everything said must hold.",
                        "items": {
                            "type": "object",
                            "properties": {
                                "tool": words("Tools."), "resource": words("Resources."),
                                "environment": words("Environments."), "verb": words("Verbs: delete, update, ..."),
                                "risk": words("Classes of risk."), "statement": words("Statements: drop_table, delete, ..."),
                                "table": words("Tables."), "path": words("Paths, and everything beneath.")
                            },
                            "additionalProperties": false
                        }
                    },
                    "at_most": {
                        "type": "object",
                        "description": "What all steps together may touch at most.",
                        "properties": {
                            "rows": amount, "rows_deleted": amount, "files": amount, "files_deleted": amount,
                            "bytes": amount, "schema_objects": amount
                        },
                        "additionalProperties": false
                    },
                    "expires_in": {
                        "type": "integer", "minimum": 1, "maximum": LIFETIME_LIMIT,
                        "description": format!("Seconds the plan lasts; {LIFETIME_DEFAULT} when not said.")
                    }
                },
                "required": ["goal", "steps"],
                "additionalProperties": false
            }),
        ),
        tool(
            "plan_status",
            "Says how a plan of yours stands, step by step; without an identity, how all of them stand.",
            true,
            false,
            json!({ "type": "object", "properties": { "plan": plan }, "additionalProperties": false }),
        ),
        tool(
            "plan_abort",
            "Stops a plan of yours and takes back what it did, the last step first. What others changed since is left \
             as it is and named.",
            false,
            true,
            json!({
                "type": "object",
                "properties": {
                    "plan": plan,
                    "reason": { "type": "string", "maxLength": GOAL_LIMIT, "description": "Why." }
                },
                "required": ["plan"],
                "additionalProperties": false
            }),
        ),
    ]
}

/// The answer to one of them.
pub(super) fn done(reply: Value) -> Value {
    let words = reply.to_string();
    json!({
        "content": [{ "type": "text", "text": words }], "structuredContent": reply, "isError": false,
        "_meta": { "turnback": {} },
    })
}
