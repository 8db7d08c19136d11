//! The tools each kind of resource offers, as far as the configuration and the policy must know them
//! without opening a resource.
//!
//! The effect domains say the same with descriptions and schemas; a disagreement is a mistake in one of
//! the two places.

use turnback_core::digest::Sha256;
use turnback_core::names::{BadName, ToolName};
use turnback_core::tool::{Kind, Risk, Tool, Verb};

use super::Config;

/// Local name, what it is for, and its class of risk, of every tool of a kind.
pub const fn of_kind(kind: Kind) -> &'static [(&'static str, Verb, Risk)] {
    match kind {
        Kind::Files => &[
            ("read_file", Verb::Read, Risk::ScopedRead),
            ("list_directory", Verb::Search, Risk::Search),
            ("search", Verb::Search, Risk::ScopedRead),
            ("stat", Verb::Read, Risk::Search),
            ("write_file", Verb::Update, Risk::ReversibleWrite),
            ("edit_file", Verb::Update, Risk::ReversibleWrite),
            ("move", Verb::Update, Risk::ReversibleWrite),
            ("delete", Verb::Delete, Risk::ReversibleWrite),
            ("make_directory", Verb::Create, Risk::ReversibleWrite),
            ("set_permissions", Verb::Administer, Risk::AdminAction),
        ],
        Kind::Sqlite => &[
            ("schema", Verb::Search, Risk::Search),
            ("query", Verb::Read, Risk::ScopedRead),
            ("execute", Verb::Update, Risk::ReversibleWrite),
        ],
    }
}

/// The local names of the tools of a kind that write.
pub(super) fn writing(kind: Kind) -> Vec<&'static str> {
    of_kind(kind).iter().filter(|(_, _, risk)| risk.writes()).map(|(name, _, _)| *name).collect()
}

impl Config {
    /// Every tool of every resource, for checking a policy: with the names, verbs and classes a policy
    /// can speak about, without descriptions and schemas. Never for serving.
    ///
    /// # Errors
    /// [`BadName`] when the name of a resource and a tool together are too long.
    pub fn tools_for_policy(&self) -> Result<Vec<Tool>, BadName> {
        let mut tools = Vec::new();
        for (name, resource) in &self.resources {
            for (local, verb, risk) in of_kind(resource.kind) {
                tools.push(Tool {
                    name: ToolName::joined(name, local)?,
                    resource: name.clone(),
                    kind: resource.kind,
                    environment: resource.environment.clone(),
                    local: (*local).to_owned(),
                    description: String::new(),
                    verb: *verb,
                    risk: *risk,
                    schema: serde_json::Value::Null,
                    schema_hash: Sha256::of(b""),
                    effect_match: resource.effect_match,
                    bearer: resource.bearer,
                });
            }
        }
        Ok(tools)
    }
}
