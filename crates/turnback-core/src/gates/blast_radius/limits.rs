//! What is limited: one action, and the sums of many.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::Measure;
use crate::contract::Contract;
use crate::effect::Blast;
use crate::gates::controls::Scope;
use crate::gates::ownership::Agent;

/// The most of each thing. `None` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Rows inserted, updated and deleted.
    pub rows: Option<u64>,
    /// Rows, files and directories deleted.
    pub deletions: Option<u64>,
    /// Files and directories created, changed and deleted.
    pub files: Option<u64>,
    /// Bytes of content touched.
    pub bytes: Option<u64>,
    /// Recipients, as far as a [`Measure`] counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipients: Option<u64>,
    /// Money in minor units, as far as a [`Measure`] counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<u64>,
    /// Rows of single tables. Capitals are not told apart, as SQLite does not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<String, u64>,
}

/// What one action may do, and what all of them together may. The strictest counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Of every action.
    #[serde(flatten)]
    pub action: Caps,
    /// Of the actions of some agent, owner, resource, tool or environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scoped: Vec<Scoped>,
    /// Of many actions together.
    #[serde(default, alias = "budget", deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<Budget>,
    /// Where arguments say how much money and how many recipients there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<Measure>,
}

/// Limits of some actions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scoped {
    /// Of which.
    pub of: Scope,
    /// The most of each thing one of them may do.
    pub caps: Caps,
}

/// Whose actions a budget adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Each agent's.
    #[default]
    Agent,
    /// Those of all agents of one owner.
    Owner,
    /// Those on each resource.
    Resource,
    /// Those with each tool.
    Tool,
    /// All agents' together.
    Everything,
}

impl Per {
    /// The word used in configuration and output.
    pub const fn word(self) -> &'static str {
        match self {
            Per::Agent => "agent",
            Per::Owner => "owner",
            Per::Resource => "resource",
            Per::Tool => "tool",
            Per::Everything => "everything",
        }
    }

    /// Who of that kind an action of `agent` counts for. Empty for everything.
    pub fn of(self, contract: &Contract, agent: Option<&Agent>) -> String {
        match self {
            Per::Agent => contract.actor.agent().map_or_else(String::new, ToString::to_string),
            Per::Owner => agent.map_or_else(String::new, |agent| agent.owner.clone()),
            Per::Resource => contract.resource.to_string(),
            Per::Tool => contract.tool.to_string(),
            Per::Everything => String::new(),
        }
    }
}

/// How much may be done inside a sliding window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Whose actions it adds up.
    #[serde(default)]
    pub per: Per,
    /// Length of the window.
    pub window: SignedDuration,
    /// Write actions inside it.
    #[serde(default)]
    pub actions: Option<u64>,
    /// The rest of what it limits.
    #[serde(flatten)]
    pub most: Caps,
}

/// What counts against a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// Write actions.
    pub actions: u64,
    /// Rows, files and directories deleted.
    pub deletions: u64,
    /// Rows touched.
    pub rows: u64,
    /// Files and directories touched.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub files: u64,
    /// Bytes of content touched.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
    /// Recipients.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recipients: u64,
    /// Money in minor units.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub money: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Spent {
    /// Both together; what does not fit is as much as there can be.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            actions: self.actions.saturating_add(other.actions),
            deletions: self.deletions.saturating_add(other.deletions),
            rows: self.rows.saturating_add(other.rows),
            files: self.files.saturating_add(other.files),
            bytes: self.bytes.saturating_add(other.bytes),
            recipients: self.recipients.saturating_add(other.recipients),
            money: self.money.saturating_add(other.money),
        }
    }

    /// What one action with this measured size costs.
    pub fn of(blast: &Blast) -> Self {
        Self {
            actions: 1,
            deletions: blast.deletions(),
            rows: blast.rows_total(),
            files: blast.files_total(),
            bytes: blast.bytes,
            recipients: blast.recipients,
            money: blast.money,
        }
    }
}

impl std::fmt::Display for Spent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} actions, {} deletions, {} rows", self.actions, self.deletions, self.rows)?;
        let others =
            [(self.files, "files"), (self.bytes, "bytes"), (self.recipients, "recipients"), (self.money, "of money")];
        others.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, what)| write!(f, ", {n} {what}"))
    }
}

impl Caps {
    /// Nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Each amount in `spent` beside its limit.
    pub const fn beside(&self, spent: Spent) -> [(&'static str, u64, Option<u64>); 6] {
        [
            ("rows touched", spent.rows, self.rows),
            ("deletions", spent.deletions, self.deletions),
            ("files touched", spent.files, self.files),
            ("bytes touched", spent.bytes, self.bytes),
            ("recipients", spent.recipients, self.recipients),
            ("of money (minor units)", spent.money, self.money),
        ]
    }
}

impl Budget {
    /// Each amount in `spent` beside its limit.
    pub fn beside(&self, spent: Spent) -> impl Iterator<Item = (&'static str, u64, Option<u64>)> {
        std::iter::once(("write actions", spent.actions, self.actions)).chain(self.most.beside(spent))
    }
}

/// A list; one entry by itself and nothing, as records of earlier versions have them, are lists too.
pub(in crate::gates) fn one_or_many<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written<T> {
        Many(Vec<T>),
        One(T),
        Nothing(()),
    }
    Ok(match Written::deserialize(deserializer).map_err(de::Error::custom)? {
        Written::Many(list) => list,
        Written::One(one) => vec![one],
        Written::Nothing(()) => Vec::new(),
    })
}
