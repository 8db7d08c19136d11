//! Tools as the operator sees them: what a domain offers, bound to one configured resource.
//!
//! Class, target and match rule come from here, never from the agent.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::form::Form;
use crate::names::{EnvironmentName, ResourceName, ToolName};
use crate::rollback::Bearer;

/// The kind of a resource, which is also the effect domain that serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A directory tree.
    Files,
    /// One SQLite database file.
    Sqlite,
}

impl Kind {
    /// The word used in configuration, policy and output.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Files => "files",
            Kind::Sqlite => "sqlite",
        }
    }

    /// The Cedar entity type of such a resource.
    pub const fn entity_type(self) -> &'static str {
        match self {
            Kind::Files => "Files",
            Kind::Sqlite => "Sqlite",
        }
    }
}

/// What an action is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Find things.
    Search,
    /// Look at things.
    Read,
    /// Create something new.
    Create,
    /// Change something.
    Update,
    /// Remove something.
    Delete,
    /// Change structure, permissions or schema.
    Administer,
    /// Counter earlier runs.
    Undo,
}

/// The class of risk of a tool, by the operator's contract. Ordered from harmless to final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Names and places only.
    Search,
    /// Content inside the resource.
    ScopedRead,
    /// Content that is sensitive.
    SensitiveRead,
    /// A write with a way back.
    ReversibleWrite,
    /// A write somebody outside sees.
    ExternalEffect,
    /// A change of structure or permissions.
    AdminAction,
    /// A write without a way back.
    Irreversible,
}

impl Risk {
    /// All classes, from harmless to final.
    pub const ALL: [Self; 7] = [
        Risk::Search,
        Risk::ScopedRead,
        Risk::SensitiveRead,
        Risk::ReversibleWrite,
        Risk::ExternalEffect,
        Risk::AdminAction,
        Risk::Irreversible,
    ];

    /// Whether actions of this class change anything.
    pub const fn writes(self) -> bool {
        !matches!(self, Risk::Search | Risk::ScopedRead | Risk::SensitiveRead)
    }

    /// The word used in policy and output.
    pub const fn word(self) -> &'static str {
        match self {
            Risk::Search => "search",
            Risk::ScopedRead => "scoped_read",
            Risk::SensitiveRead => "sensitive_read",
            Risk::ReversibleWrite => "reversible_write",
            Risk::ExternalEffect => "external_effect",
            Risk::AdminAction => "admin_action",
            Risk::Irreversible => "irreversible",
        }
    }
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 7] =
        [Verb::Search, Verb::Read, Verb::Create, Verb::Update, Verb::Delete, Verb::Administer, Verb::Undo];

    /// The word used in policy and output.
    pub const fn word(self) -> &'static str {
        match self {
            Verb::Search => "search",
            Verb::Read => "read",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Administer => "administer",
            Verb::Undo => "undo",
        }
    }
}

/// How a staged effect must agree with the one a person approved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Match {
    /// The same changes to the same values.
    #[default]
    Exact,
    /// The same places and kinds of change; values may differ. For statements that contain the time.
    SameRows,
}

/// One tool a domain offers, before it is bound to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSpec {
    /// Its name inside the resource: `write_file`.
    pub name: &'static str,
    /// What it does, for the model that chooses it.
    pub description: &'static str,
    /// What it is for.
    pub verb: Verb,
    /// Its class of risk.
    pub risk: Risk,
    /// JSON Schema of its arguments.
    pub schema: serde_json::Value,
}

/// A tool bound to a configured resource, with the operator's contract: what `tools/list` shows and
/// every decision rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// The name the agent calls: `shop__execute`.
    pub name: ToolName,
    /// The resource it acts on.
    pub resource: ResourceName,
    /// That resource's kind.
    pub kind: Kind,
    /// That resource's environment.
    pub environment: EnvironmentName,
    /// The domain's own name for it: `execute`.
    pub local: String,
    /// What it does, for the model that chooses it.
    pub description: String,
    /// What it is for.
    pub verb: Verb,
    /// Its class of risk.
    pub risk: Risk,
    /// JSON Schema of its arguments, without the optional `turnback` argument.
    pub schema: serde_json::Value,
    /// Hash of name, description and schema. A change voids approvals given for the old one.
    pub schema_hash: Sha256,
    /// How a re-staged effect must agree with the approved one.
    #[serde(default)]
    pub effect_match: Match,
    /// Who pays if the way back fails.
    #[serde(default)]
    pub bearer: Bearer,
    /// The safer forms calls of it may be made over into.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forms: Vec<Form>,
}

impl Tool {
    /// Binds `spec` to a resource, without safer forms.
    ///
    /// # Errors
    /// [`crate::names::BadName`] when resource and tool name together are too long.
    pub fn bind(
        spec: &ToolSpec,
        resource: &ResourceName,
        kind: Kind,
        environment: &EnvironmentName,
        effect_match: Match,
        bearer: Bearer,
    ) -> Result<Self, crate::names::BadName> {
        let schema_bytes = crate::json::canonical(&spec.schema);
        Ok(Self {
            name: ToolName::joined(resource, spec.name)?,
            resource: resource.clone(),
            kind,
            environment: environment.clone(),
            local: spec.name.to_owned(),
            description: spec.description.to_owned(),
            verb: spec.verb,
            risk: spec.risk,
            schema: spec.schema.clone(),
            schema_hash: Sha256::of_parts(
                "turnback tool v1",
                [spec.name.as_bytes(), spec.description.as_bytes(), schema_bytes.as_slice()],
            ),
            effect_match,
            bearer,
            forms: Vec::new(),
        })
    }
}
