//! Release flags: how far agents may go, by whom, where and for how large a share.
//!
//! The format is flagd's (<https://flagd.dev/reference/flag-definitions>), read strictly and evaluated here: no clock,
//! no network, the time is an argument. What the flags mean is a convention of ours:
//!
//! | key | concerns |
//! |---|---|
//! | `release` | every action |
//! | `release.environment.<name>` | actions in that environment |
//! | `release.resource.<name>` | actions on that resource |
//! | `release.tool.<name>` | calls of that tool |
//! | `release.workflow.<name>` | actions of that workflow |
//! | `release.agent.<name>` | actions of that agent |
//!
//! Variants are texts, each the word of a [`Mode`]. All flags that concern an action are evaluated, in the order of
//! the table, and the gate `release` takes the strictest of them and of the environment's own mode (`ONLY-TIGHTEN`).
//! A flag that is `DISABLED`, or comes to no variant and has no default, says nothing; one that cannot be evaluated
//! is a deny that names it.
//!
//! Targeting may ask for [`CONTEXT`] and nothing else: a misspelled name would silently be null for ever.
//!
//! Services may be asked for the same keys and answer with the same words ([`remote`]); what they say is one flag
//! more.
//!
//! Rooms: `document` (reading, with line and column) · `logic` (JsonLogic) · `fractional` · `version` · `place`
//! (where in the text) · `edit` (changing one flag) · `lifecycle` (who answers for a flag until when) · `remote`
//! (flags a service answers for).

mod document;
mod edit;
mod fractional;
mod lifecycle;
mod logic;
mod place;
pub mod remote;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
mod version;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::contract::Contract;
use crate::digest::Sha256;
use crate::gates::ownership::Agent;
use crate::gates::release::Mode;
use crate::text::visible;
use crate::tool::Tool;

use document::{Document, Flag, complaint};

pub use document::{Reason, SIZE_LIMIT};
pub use edit::{Change, Edition, Source, State, edited};
pub use lifecycle::lint;

/// What targeting may ask for with `var`, besides `$flagd.flagKey` and `$flagd.timestamp`. What is not known of an
/// action is null.
///
/// `targetingKey` is the agent, or `agent/user` when it acts for somebody: shares are sticky per agent and user.
pub const CONTEXT: &[&str] = &[
    "targetingKey",
    "agent",
    "owner",
    "user",
    "account",
    "region",
    "workflow",
    "environment",
    "resource",
    "tool",
    "verb",
    "risk",
];

/// Something wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlagError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl fmt::Display for FlagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// What a flag is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Everything,
    Environment,
    Resource,
    Tool,
    Workflow,
    Agent,
}

impl Subject {
    /// The part of a key that says it.
    const fn word(self) -> &'static str {
        match self {
            Self::Everything => "",
            Self::Environment => "environment",
            Self::Resource => "resource",
            Self::Tool => "tool",
            Self::Workflow => "workflow",
            Self::Agent => "agent",
        }
    }

    /// The subject and name a key means.
    fn of_key(key: &str) -> Option<(Self, &str)> {
        if key == "release" {
            return Some((Self::Everything, ""));
        }
        let (word, name) = key.strip_prefix("release.")?.split_once('.')?;
        let subject = match word {
            "environment" => Self::Environment,
            "resource" => Self::Resource,
            "tool" => Self::Tool,
            "workflow" => Self::Workflow,
            "agent" => Self::Agent,
            _ => return None,
        };
        (!name.is_empty()).then_some((subject, name))
    }
}

/// A document that was read and checked. Immutable; a change makes a new one.
#[derive(Debug)]
pub struct Flags {
    text: String,
    digest: Sha256,
    document: Document,
    /// The keys by what they are about, so that a decision looks up six and no more.
    index: BTreeMap<Subject, BTreeMap<String, String>>,
}

/// What one flag said about one action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The flag's key.
    pub flag: String,
    /// Why it came to its variant.
    pub reason: Reason,
    /// The variant, when it came to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The mode the variant stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Why it could not be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The service that said it, and when; absent for flags evaluated here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<remote::Heard>,
}

/// What the flags said about one action: the facts of gate `release`, recorded with the decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flagged {
    /// SHA-256 of the document's text; `None` when only services were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<Sha256>,
    /// Every flag that concerns the action, in the order of evaluation; those of services after our own.
    pub said: Vec<Said>,
}

/// One flag as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Its key.
    pub flag: String,
    /// Whether it says anything.
    pub enabled: bool,
    /// Its variants and the modes they stand for.
    pub variants: BTreeMap<String, Value>,
    /// What holds when targeting names nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_variant: Option<String>,
    /// Whether targeting may name another variant.
    pub targeting: bool,
    /// Owner, reason, dates and whatever else is noted with it.
    pub metadata: Map<String, Value>,
}

impl Flags {
    /// Reads and checks a document whole, against the tools there are.
    ///
    /// # Errors
    /// Everything that is wrong, each with line and column, in no order that matters; at most about a hundred.
    pub fn read(text: &str, tools: &[Tool]) -> Result<Self, Vec<FlagError>> {
        let document = document::read(text, Some(CONTEXT))?;
        let mut errors = Vec::new();
        let mut index: BTreeMap<Subject, BTreeMap<String, String>> = BTreeMap::new();
        for (key, flag) in &document.flags {
            match Subject::of_key(key) {
                Some((subject, name)) => {
                    if let Some((message, next)) = nobody(subject, name, tools) {
                        errors.push(complaint(text, &["flags", key], message, &next));
                    }
                    index.entry(subject).or_default().insert(name.to_owned(), key.clone());
                }
                None => errors.push(complaint(
                    text,
                    &["flags", key],
                    format!("nobody asks for a flag `{}`", visible(key)),
                    "name it `release`, or `release.` with environment, resource, tool, workflow or agent, a dot and a name",
                )),
            }
            for (name, value) in &flag.variants {
                if value.as_str().and_then(Mode::from_word).is_none() {
                    errors.push(complaint(
                        text,
                        &["flags", key, "variants", name],
                        format!("variant `{}` is {}, which is no mode", visible(name), visible(&value.to_string())),
                        &format!("write one of {}", Mode::WORDS.join(", ")),
                    ));
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self { text: text.to_owned(), digest: Sha256::of(text.as_bytes()), document, index })
    }

    /// The text it was read from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the text.
    pub const fn digest(&self) -> Sha256 {
        self.digest
    }

    /// All flags by key.
    pub fn summaries(&self) -> Vec<Summary> {
        let summary = |(key, flag): (&String, &Flag)| Summary {
            flag: key.clone(),
            enabled: flag.enabled,
            variants: flag.variants.clone(),
            default_variant: flag.default.clone(),
            targeting: flag.targeting.is_some(),
            metadata: flag.metadata.clone(),
        };
        self.document.flags.iter().map(summary).collect()
    }

    /// Evaluates the flags that concern an action. Flags govern agents: for everybody else they say nothing.
    pub fn about(&self, contract: &Contract, agent: Option<&Agent>, now: Timestamp) -> Flagged {
        let mut flagged = Flagged { document: Some(self.digest), said: Vec::new() };
        // Made when the first flag asks for it.
        let mut context = None;
        for (subject, name) in subjects(contract) {
            let key = self.index.get(&subject).and_then(|index| index.get(name));
            let Some((key, flag)) = key.and_then(|key| self.document.flags.get_key_value(key)) else { continue };
            let context = context.get_or_insert_with(|| context_of(contract, agent));
            flagged.said.push(said(key, flag, context, now));
        }
        flagged
    }
}

/// What flags about an action are about, in the order of evaluation. Flags govern agents: nothing for everybody else.
fn subjects(contract: &Contract) -> impl Iterator<Item = (Subject, &str)> {
    let agent = contract.actor.agent();
    let subjects = [
        (Subject::Everything, Some("")),
        (Subject::Environment, Some(contract.environment.as_str())),
        (Subject::Resource, Some(contract.resource.as_str())),
        (Subject::Tool, Some(contract.tool.as_str())),
        (Subject::Workflow, contract.assignment.workflow.as_deref()),
        (Subject::Agent, agent.map(crate::names::AgentName::as_str)),
    ];
    subjects.into_iter().filter(move |_| agent.is_some()).filter_map(|(subject, name)| Some((subject, name?)))
}

fn said(key: &str, flag: &Flag, context: &Value, now: Timestamp) -> Said {
    let came = flag.evaluate(key, context, now);
    let mode = came.variant.and_then(|name| flag.variants.get(name)).and_then(Value::as_str).and_then(Mode::from_word);
    Said {
        flag: key.to_owned(),
        reason: came.reason,
        variant: came.variant.map(str::to_owned),
        mode,
        error: came.error,
        remote: None,
    }
}

fn context_of(contract: &Contract, agent: Option<&Agent>) -> Value {
    let name = contract.actor.agent().map_or("", |name| name.as_str());
    let user = contract.on_behalf_of.as_deref();
    let assignment = &contract.assignment;
    let known = [
        ("targetingKey", Some(user.map_or_else(|| name.to_owned(), |user| format!("{name}/{user}")))),
        ("agent", Some(name.to_owned())),
        ("owner", agent.map(|agent| agent.owner.clone())),
        ("user", user.map(str::to_owned)),
        ("account", assignment.account.clone()),
        ("region", assignment.region.clone()),
        ("workflow", assignment.workflow.clone()),
        ("environment", Some(contract.environment.as_str().to_owned())),
        ("resource", Some(contract.resource.as_str().to_owned())),
        ("tool", Some(contract.tool.as_str().to_owned())),
        ("verb", Some(contract.verb.word().to_owned())),
        ("risk", Some(contract.risk.word().to_owned())),
    ];
    let known = known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), Value::String(value?))));
    Value::Object(known.collect())
}

/// Why a flag about `name` would never concern anything. Agents come and go, and workflows are anybody's words.
fn nobody(subject: Subject, name: &str, tools: &[Tool]) -> Option<(String, String)> {
    let (what, mut known): (_, Vec<&str>) = match subject {
        Subject::Everything | Subject::Workflow => return None,
        Subject::Agent => {
            let why = crate::names::AgentName::new(name).err()?;
            return Some((why.to_string(), "write the agent's name".to_owned()));
        }
        Subject::Environment => ("environment", tools.iter().map(|tool| tool.environment.as_str()).collect()),
        Subject::Resource => ("resource", tools.iter().map(|tool| tool.resource.as_str()).collect()),
        Subject::Tool => ("tool", tools.iter().map(|tool| tool.name.as_str()).collect()),
    };
    if known.contains(&name) {
        return None;
    }
    known.sort_unstable();
    known.dedup();
    Some((format!("there is no {what} `{}`", visible(name)), format!("use one of {}", known.join(", "))))
}
