//! The file as it is written: field names and TOML types, nothing checked yet.
//!
//! Every value a later check may complain about keeps its span.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::gates::release::Mode;
use turnback_core::names::{AgentName, EnvironmentName, ResourceName};
use turnback_core::rollback::Bearer;
use turnback_core::tool::{Kind, Match};

use super::controls::{RawDeny, RawFreeze};
use super::limits::{RawBudget, RawGrants, RawLimits, RawMeasure};
use super::{collision, context};

type Text = Spanned<String>;
type Number = Spanned<i64>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) state: Option<Text>,
    #[serde(default)]
    pub(super) listen: Listen,
    #[serde(default)]
    pub(super) environments: BTreeMap<EnvironmentName, Environment>,
    #[serde(default)]
    pub(super) resources: BTreeMap<Spanned<ResourceName>, Resource>,
    #[serde(default)]
    pub(super) limits: RawLimits,
    #[serde(default)]
    pub(super) budget: Vec<Spanned<RawBudget>>,
    #[serde(default)]
    pub(super) measure: Vec<RawMeasure>,
    #[serde(default)]
    pub(super) grants: RawGrants,
    #[serde(default)]
    pub(super) deny: Vec<Spanned<RawDeny>>,
    #[serde(default)]
    pub(super) recoverability: Recoverability,
    #[serde(default)]
    pub(super) freeze: Vec<RawFreeze>,
    #[serde(default)]
    pub(super) policy: Policy,
    pub(super) access: Option<Access>,
    #[serde(default)]
    pub(super) flags: super::flags::Raw,
    #[serde(default)]
    pub(super) autonomy: super::autonomy::Raw,
    #[serde(default)]
    pub(super) approvals: Approvals,
    #[serde(default)]
    pub(super) context: context::RawContext,
    #[serde(default)]
    pub(super) evidence: Vec<context::evidence::RawEvidence>,
    #[serde(default)]
    pub(super) source: Vec<context::evidence::RawSource>,
    #[serde(default)]
    pub(super) label: Vec<context::RawLabel>,
    #[serde(default)]
    pub(super) flow: Vec<context::RawFlow>,
    #[serde(default)]
    pub(super) collision: Vec<collision::RawCollision>,
    #[serde(default)]
    pub(super) safer: Vec<super::safer::RawSafer>,
    #[serde(default)]
    pub(super) plan: Vec<super::plans::RawPlan>,
    #[serde(default)]
    pub(super) stdio: Stdio,
    #[serde(default)]
    pub(super) journal: Journal,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listen {
    pub(super) address: Option<Text>,
    pub(super) hold: Option<Text>,
    #[serde(default)]
    pub(super) allowed_hosts: Vec<Text>,
    #[serde(default)]
    pub(super) allowed_origins: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Environment {
    pub(super) mode: Mode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resource {
    pub(super) kind: Kind,
    pub(super) root: Option<Text>,
    pub(super) path: Option<Text>,
    pub(super) environment: Spanned<EnvironmentName>,
    pub(super) account: Option<String>,
    pub(super) region: Option<String>,
    pub(super) workflow: Option<String>,
    #[serde(default)]
    pub(super) bearer: Bearer,
    #[serde(default, rename = "match")]
    pub(super) effect_match: Match,
    pub(super) slots: Option<Text>,
    #[serde(default)]
    pub(super) labels: Vec<Text>,
    #[serde(default)]
    pub(super) verify: Vec<Spanned<Verify>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    pub(super) kind: Text,
    pub(super) name: Option<Text>,
    #[serde(default)]
    pub(super) tools: Vec<Text>,
    pub(super) timeout: Option<Text>,
    pub(super) sql: Option<Text>,
    pub(super) expect: Option<Spanned<toml::Value>>,
    pub(super) path: Option<Text>,
    pub(super) exists: Option<Spanned<bool>>,
    pub(super) contains: Option<Text>,
    pub(super) argv: Option<Spanned<Vec<String>>>,
    pub(super) url: Option<Text>,
    pub(super) status: Option<Number>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recoverability {
    pub(super) level: Option<Number>,
    pub(super) window: Option<Text>,
    pub(super) irreversible: Option<Number>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) path: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    pub(super) path: Option<Text>,
    #[serde(default)]
    pub(super) callers: Vec<AgentName>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Approvals {
    pub(super) expire: Option<Text>,
    pub(super) most: Option<Number>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stdio {
    pub(super) agent: Option<AgentName>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    pub(super) checkpoint_every: Option<Text>,
}
