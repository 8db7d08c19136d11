//! How a plan is shown: to its agent, and to operators. The fields are a promise like those of the protocol.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use turnback_core::effect::Blast;
use turnback_core::names::{AgentName, PlanId, RunId};
use turnback_core::plan::{Amounts, Ask, AtMost, Never, Unwound};

/// One plan as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// Its identity.
    pub plan: PlanId,
    /// Whose it is.
    pub agent: AgentName,
    /// The user the agent acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// What it is for.
    pub goal: String,
    /// `active`, `completed`, `aborted`, `expired`.
    pub state: String,
    /// When it was verified.
    pub submitted: Timestamp,
    /// When no further step of it runs.
    pub expires: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Who aborted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What none of its steps may do; not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub never: Vec<Never>,
    /// What all of them may do at most.
    #[serde(default, skip_serializing_if = "AtMost::is_empty")]
    pub at_most: AtMost,
    /// What they did so far.
    pub spent: Amounts,
    /// Its steps, each behind everything it waits for.
    pub steps: Vec<StepView>,
    /// What an abort took back, and what still stands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unwound: Vec<Unwound>,
}

/// One step as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// The tool.
    pub tool: String,
    /// The arguments; not in lists.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub arguments: Value,
    /// `waiting` for another step, `ready`, `running`, or the state of the run that did it.
    pub state: String,
    /// That run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The steps it waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Of those, the ones Turnback found: both touch the same place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inferred: Vec<String>,
    /// What it does, as verified.
    pub effect: String,
    /// The same in numbers.
    pub blast: Blast,
    /// Number of the level of its way back.
    pub level: u8,
    /// `allow`, or `review` when a person will be asked.
    pub ruling: String,
    /// Why a person will be asked when it comes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Ask>,
}
