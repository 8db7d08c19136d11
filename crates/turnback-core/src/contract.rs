//! The action contract: a request made governable.
//!
//! Owns what an action is (`Contract`), who asks (`Actor`) and its digest. A `Contract` exists only
//! through [`Contract::parse`], so inside it is always valid. What the agent says about itself
//! (`Statement`) is kept beside the contract, outside the digest, and can only make a decision
//! stricter.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::{ActionDigest, Sha256};
use crate::form::Formed;
use crate::json;
use crate::names::{AgentName, EnvironmentName, ResourceName, RunId, ToolName};
use crate::refusal::{Code, Refusal};
use crate::tool::{Kind, Risk, Tool, Verb};
use crate::trace::TraceId;

/// The argument through which any model may say why. It is taken out before anything is hashed or done.
pub const STATEMENT_ARGUMENT: &str = "turnback";

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Actor {
    /// A registered agent.
    Agent(AgentName),
    /// A person at the operator's door, by system user name.
    Operator(String),
    /// Turnback itself: an automatic rollback.
    Turnback,
}

impl Actor {
    /// The agent, when it is one.
    pub const fn agent(&self) -> Option<&AgentName> {
        match self {
            Actor::Agent(name) => Some(name),
            _ => None,
        }
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Actor::Agent(name) => write!(f, "agent `{name}`"),
            Actor::Operator(name) => write!(f, "operator `{}`", crate::text::visible(name)),
            Actor::Turnback => f.write_str("turnback"),
        }
    }
}

/// Which part of the organisation an action belongs to. Account and region may be said of a resource in the
/// configuration, all three of a credential when it is made; the resource wins. Never taken from a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Whose account it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The workflow it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
}

impl Assignment {
    /// Nothing is said.
    pub const fn is_empty(&self) -> bool {
        self.account.is_none() && self.region.is_none() && self.workflow.is_none()
    }

    /// What `resource` says, and what it leaves open as the credential says it.
    #[must_use]
    pub fn of(credential: Self, resource: &Self) -> Self {
        let first = |a: &Option<String>, b| a.clone().or(b);
        Self {
            account: first(&resource.account, credential.account),
            region: first(&resource.region, credential.region),
            workflow: first(&resource.workflow, credential.workflow),
        }
    }
}

/// What an agent says about its own action: unverified, recorded, never a reason to be less strict.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The task this serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// What the decision rests on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<Value>,
    /// From 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f64>,
    /// The plan this is a step of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Value>,
    /// What else was considered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alternatives: Option<Value>,
    /// Why this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// What the agent expects to happen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expects: Option<Value>,
}

impl Statement {
    /// Reads a statement; unknown fields and a confidence outside 0..=1 are refused.
    ///
    /// # Errors
    /// A [`Refusal`] naming the `turnback` argument.
    pub fn parse(value: Value) -> Result<Self, Refusal> {
        let statement: Self = serde_json::from_value(value)
            .map_err(|e| Refusal::new(Code::BadInput, e.to_string()).at(STATEMENT_ARGUMENT))?;
        if statement.confidence.is_some_and(|c| !(0.0..=1.0).contains(&c)) {
            return Err(Refusal::new(Code::BadInput, "a number from 0 to 1 is expected").at("turnback.confidence"));
        }
        Ok(statement)
    }
}

/// What an action is aimed at, resolved by the effect domain from the text of the request alone.
///
/// Nothing of the target has been read or opened for data yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The identity of the resource: canonical root or file, with device and inode, so that another
    /// folder mounted under the same name is another target.
    pub identity: String,
    /// The place inside it, as far as the request names one: a path, or the statement's class.
    pub place: String,
    /// For SQL the class of the statement (`select`, `update`, `drop_table`, ...); empty elsewhere.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub statement: String,
}

/// One action, complete and valid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contract {
    /// Who asks.
    pub actor: Actor,
    /// The user the agent acts for, when it said so through its credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// Which part of the organisation it belongs to.
    #[serde(default, skip_serializing_if = "Assignment::is_empty")]
    pub assignment: Assignment,
    /// The trace the call says it belongs to. Not part of the digest: the same action in another trace is
    /// the same action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
    /// The tool as the agent called it.
    pub tool: ToolName,
    /// The domain's own name for the tool: `execute`.
    pub local: String,
    /// Hash of the tool's schema.
    pub schema_hash: Sha256,
    /// What it is for.
    pub verb: Verb,
    /// Its class of risk.
    pub risk: Risk,
    /// The resource acted on.
    pub resource: ResourceName,
    /// That resource's kind.
    pub kind: Kind,
    /// That resource's environment.
    pub environment: EnvironmentName,
    /// What it is aimed at.
    pub target: Target,
    /// The arguments, strictly read, `turnback` taken out. Hashed and handed on as this very value.
    pub arguments: Value,
    /// What it is a safer form of, when it was made over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Formed>,
    /// The runs this one counters; empty for everything but an undo.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undoes: Vec<RunId>,
    /// What the agent says about it.
    #[serde(default)]
    pub statement: Statement,
}

impl Contract {
    /// Makes a contract of a call to `tool` with raw argument bytes.
    ///
    /// `aim` resolves the target from the arguments without touching it; it is the effect domain's.
    ///
    /// # Errors
    /// A [`Refusal`] with [`Code::BadInput`] names the field or JSON Pointer at fault; `aim` may refuse too.
    pub fn parse(
        tool: &Tool,
        actor: Actor,
        on_behalf_of: Option<String>,
        arguments: &[u8],
        meta_statement: Option<Statement>,
        aim: impl FnOnce(&str, &Value) -> Result<Target, Refusal>,
    ) -> Result<Self, Refusal> {
        let value = json::parse(arguments).map_err(|e| {
            Refusal::new(Code::BadInput, e.to_string()).at(format!("arguments{}", e.path.trim_end_matches('/')))
        })?;
        let Value::Object(mut map) = value else {
            return Err(Refusal::new(Code::BadInput, "an object is expected").at("arguments"));
        };
        // `shift_remove` keeps the order of what is forwarded.
        let statement = match map.shift_remove(STATEMENT_ARGUMENT) {
            Some(said) => Statement::parse(said)?,
            None => meta_statement.unwrap_or_default(),
        };
        let arguments = Value::Object(map);
        let target = aim(&tool.local, &arguments)?;
        Ok(Self {
            actor,
            on_behalf_of,
            assignment: Assignment::default(),
            trace: None,
            tool: tool.name.clone(),
            local: tool.local.clone(),
            schema_hash: tool.schema_hash,
            verb: tool.verb,
            risk: tool.risk,
            resource: tool.resource.clone(),
            kind: tool.kind,
            environment: tool.environment.clone(),
            target,
            arguments,
            form: None,
            undoes: Vec::new(),
            statement,
        })
    }

    /// The contract of an undo of `runs`, all of them on one resource.
    pub fn undo(
        actor: Actor,
        resource: ResourceName,
        kind: Kind,
        environment: EnvironmentName,
        identity: String,
        runs: Vec<RunId>,
    ) -> Result<Self, crate::names::BadName> {
        let names: Vec<String> = runs.iter().map(ToString::to_string).collect();
        Ok(Self {
            actor,
            on_behalf_of: None,
            assignment: Assignment::default(),
            trace: None,
            tool: ToolName::joined(&resource, "undo")?,
            local: "undo".into(),
            schema_hash: Sha256::of(b"turnback undo v1"),
            verb: Verb::Undo,
            risk: Risk::ReversibleWrite,
            resource,
            kind,
            environment,
            target: Target { identity, place: names.join(" "), statement: String::new() },
            arguments: serde_json::json!({ "runs": names }),
            form: None,
            undoes: runs,
            statement: Statement::default(),
        })
    }

    /// Makes it a call of another tool. Target, arguments and what the resource belongs to are the caller's to follow.
    pub fn call_instead(&mut self, tool: &Tool) {
        self.tool = tool.name.clone();
        self.local.clone_from(&tool.local);
        self.schema_hash = tool.schema_hash;
        self.verb = tool.verb;
        self.risk = tool.risk;
        self.resource = tool.resource.clone();
        self.kind = tool.kind;
        self.environment = tool.environment.clone();
    }

    /// Whether this action changes anything.
    pub const fn writes(&self) -> bool {
        self.risk.writes()
    }

    /// The digest everything binds to: caller, tool and its schema, resolved target, arguments in
    /// canonical form, and what it is a safer form of. The agent's own statement is not part of it: saying it differently does not
    /// make it another action.
    pub fn digest(&self) -> ActionDigest {
        let mut actor = serde_json::json!({
            "actor": self.actor, "on_behalf_of": self.on_behalf_of, "assignment": self.assignment, "target": self.target, "undoes": self.undoes,
        });
        if let Some(form) = &self.form {
            actor["form"] = serde_json::json!({ "of": form.of, "forms": form.forms, "dry_run": form.dry_run });
        }
        let actor = json::canonical(&actor);
        let arguments = json::canonical(&self.arguments);
        ActionDigest(Sha256::of_parts(
            "turnback action v1",
            [
                actor.as_slice(),
                self.tool.as_str().as_bytes(),
                self.schema_hash.as_bytes().as_slice(),
                self.resource.as_str().as_bytes(),
                self.environment.as_str().as_bytes(),
                arguments.as_slice(),
            ],
        ))
    }
}
