//! Plans: a graph of intended actions, verified whole before any of them runs.
//!
//! Owns what a plan is, what an agent may submit as one ([`Draft`]), the order of its steps ([`order`])
//! and what it promises never to do or to do at most ([`Never`], [`AtMost`]). Which run did which step is
//! not written here: a step is a run of the same agent with the same action digest, so the records of runs
//! say it, and a crash between a commit and its bookkeeping can neither lose nor double a step.

mod constraint;
mod draft;
mod order;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contract::{Actor, Contract};
use crate::digest::{ActionDigest, EffectDigest};
use crate::effect::Blast;
use crate::names::{AgentName, EnvironmentName, PlanId, ResourceName, RunId, ToolName};
use crate::rollback::Level;
use crate::select::Selector;
use crate::tool::Match;

pub use constraint::{Amounts, AtMost, Must, Never};
pub use draft::{Draft, DraftStep, GOAL_LIMIT, LIFETIME_DEFAULT, LIFETIME_LIMIT, SIZE_LIMIT, STEPS_LIMIT};
pub use order::{cycle, order, reaches};

/// What the tools about plans are called before their own name; no resource may be called so.
pub const RESERVED: &str = "turnback";

/// A verified plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Its identity.
    pub id: PlanId,
    /// Whose it is.
    pub agent: AgentName,
    /// The user the agent acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// What it is for, in the agent's words.
    pub goal: String,
    /// Its steps, each behind everything it waits for.
    pub steps: Vec<Step>,
    /// What none of its steps may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub never: Vec<Never>,
    /// What all of its steps together may do at most.
    #[serde(default, skip_serializing_if = "AtMost::is_empty")]
    pub at_most: AtMost,
    /// When it was verified.
    pub submitted: Timestamp,
    /// When no further step of it runs.
    pub expires: Timestamp,
}

/// One verified step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name in the plan.
    pub name: String,
    /// The tool.
    pub tool: ToolName,
    /// The resource it acts on.
    pub resource: ResourceName,
    /// That resource's environment.
    pub environment: EnvironmentName,
    /// The arguments.
    pub arguments: Value,
    /// What a call must be to be this step.
    pub action: ActionDigest,
    /// The steps it waits for, by name, those found by Turnback included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Of those, the ones the agent did not name: both touch the same place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inferred: Vec<String>,
    /// What it does, measured on top of the steps before it, in words.
    pub summary: String,
    /// The same in numbers.
    pub blast: Blast,
    /// Names exactly these changes.
    pub effect: EffectDigest,
    /// Names the same places whatever the values.
    pub places: EffectDigest,
    /// How the effect must agree when it runs.
    pub effect_match: Match,
    /// The level of its way back.
    pub level: Level,
    /// Why a person will be asked when it comes; empty when nobody will.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<Ask>,
}

/// One gate that will ask a person about a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The gate.
    pub gate: String,
    /// Why.
    pub reason: String,
}

/// How a plan ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum End {
    /// Every step is done and stands.
    Completed,
    /// Somebody stopped it.
    Aborted {
        /// Who.
        by: Actor,
        /// Why.
        reason: String,
    },
    /// Its time ran out.
    Expired,
}

impl End {
    /// The word for output and records.
    pub const fn word(&self) -> &'static str {
        match self {
            End::Completed => "completed",
            End::Aborted { .. } => "aborted",
            End::Expired => "expired",
        }
    }
}

/// When and how a plan ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    pub at: Timestamp,
    /// How.
    pub how: End,
}

/// A step an abort took back, or could not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unwound {
    /// The step.
    pub step: String,
    /// The run that did it.
    pub run: RunId,
    /// The run that took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<RunId>,
    /// Why it still stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A rule of the configuration about plans: `[[plan]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, or `plan <n>` by its place in the file.
    pub name: String,
    /// The writes it concerns.
    pub of: Selector,
    /// They run only as steps of a plan.
    pub required: bool,
    /// What a plan with such a step must state itself.
    pub must_state: Vec<Must>,
}

impl Rule {
    /// Whether it concerns an action: an agent's write on what it names.
    pub fn concerns(&self, contract: &Contract) -> bool {
        contract.writes() && contract.actor.agent().is_some() && self.of.may_concern(contract)
    }
}

impl Plan {
    /// The place of the step that is this action.
    pub fn step_of(&self, action: &ActionDigest) -> Option<usize> {
        self.steps.iter().position(|step| step.action == *action)
    }

    /// Whether one of its steps acts on that resource.
    pub fn touches(&self, resource: &ResourceName) -> bool {
        self.steps.iter().any(|step| step.resource == *resource)
    }

    /// Names in the order in which they are taken back: each before everything it waited for.
    pub fn unwinding(&self) -> impl Iterator<Item = (usize, &Step)> {
        // The steps stand in an order in which each is behind what it waits for.
        self.steps.iter().enumerate().rev()
    }
}

#[cfg(test)]
mod tests;
