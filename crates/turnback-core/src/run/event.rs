//! What can happen to a run. Every event is one journal record.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::approval::{Approval, Question};
use crate::contract::Contract;
use crate::decision::Decision;
use crate::digest::Sha256;
use crate::effect::Effect;
use crate::gates::Circumstances;
use crate::names::RunId;
use crate::refusal::Refusal;
use crate::rollback::RollbackPlan;

/// What staging produced, as far as it is written down. The staged work itself stays with the domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The measured effect.
    pub effect: Effect,
    /// The way back.
    pub plan: RollbackPlan,
    /// The domain's own account of what commit does, enough to probe, observe and undo it later.
    pub recipe: Value,
    /// Blobs the recipe refers to, by hash.
    pub artifacts: Vec<Sha256>,
}

/// What a commit came to. The author of a domain must say which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// All of it happened.
    Succeeded,
    /// None of it happened.
    Failed {
        /// Why.
        refusal: Refusal,
    },
    /// It may have happened. Resolved by a probe, never by trying again.
    Unknown {
        /// Why nobody knows.
        why: String,
    },
}

/// How the world stands towards a recipe, by looking at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Standing {
    /// Every step is still to be done.
    Before,
    /// Every step is done.
    After,
    /// Some steps are done, the rest can be.
    Between {
        /// Steps done.
        done: u64,
        /// Steps in all.
        of: u64,
    },
    /// A step is neither done nor can it be: somebody must look.
    Neither {
        /// The step, and what was found.
        why: String,
    },
    /// The world could not be looked at.
    Unreachable {
        /// Why.
        why: String,
    },
}

/// One verification probe's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The probe's name in the tool's contract.
    pub name: String,
    /// It found what it expects.
    pub passed: bool,
    /// What it found.
    pub detail: String,
}

/// What reading back after a commit found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// How many places were read back.
    pub compared: u64,
    /// Places that are not as staging predicted.
    pub differences: Vec<String>,
    /// Results of the contract's verification probes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeResult>,
}

impl Observation {
    /// Everything is as predicted and every probe passed.
    pub fn holds(&self) -> bool {
        self.differences.is_empty() && self.probes.iter().all(|p| p.passed)
    }
}

/// An answer to a question put to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Answer {
    /// Yes.
    Approved {
        /// The approval.
        approval: Box<Approval>,
    },
    /// No.
    Rejected {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// Nobody answered in time.
    Expired,
}

/// What happened to a run. Every event is one journal record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A contract entered.
    Proposed {
        /// The contract.
        contract: Box<Contract>,
    },
    /// A group of gates spoke.
    Judged {
        /// Their decision; its phase says which group.
        decision: Decision,
        /// What they looked at besides contract, policy and measurement, so that the decision can be
        /// made again from the record.
        circumstances: Box<Circumstances>,
    },
    /// It was staged and measured.
    Staged {
        /// What staging found.
        measurement: Box<Measurement>,
    },
    /// The domain refused to stage or to read.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// A read was released to the caller.
    Released {
        /// Places read, for listing who read data that is undone later.
        read: Vec<String>,
        /// What it answered, where a write may have to rest on it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<crate::gates::evidence::ReadDigest>,
    },
    /// It waits for a person; everything staged was discarded.
    Parked {
        /// What was asked.
        question: Question,
        /// What moved since it was last shown, when it was shown before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        moved: Option<String>,
    },
    /// A person answered, or nobody did.
    Answered {
        /// The answer.
        answer: Answer,
    },
    /// The permit is minted; the commit follows once this is durable.
    Intended,
    /// The environment is only observed: everything was measured and discarded.
    MeasuredOnly,
    /// The domain's commit returned.
    Committed {
        /// What it came to.
        outcome: Outcome,
    },
    /// One step of several was done.
    Progressed {
        /// Which, in the domain's words.
        step: String,
    },
    /// Somebody looked how the world stands after a commit without answer.
    Probed {
        /// How it stands.
        standing: Standing,
    },
    /// It was read back.
    Observed {
        /// What was found.
        observation: Observation,
    },
    /// An undo of this run settled.
    Undone {
        /// The undo.
        by: RunId,
    },
    /// The undo of this run was itself undone.
    Redone {
        /// The undo of the undo.
        by: RunId,
    },
    /// The caller of a parked run heard how it ended.
    Delivered,
    /// The node stopped before anything was intended.
    Abandoned {
        /// Why.
        why: String,
    },
}

impl Event {
    /// The word that names the event in records.
    pub const fn word(&self) -> &'static str {
        match self {
            Event::Proposed { .. } => "proposed",
            Event::Judged { .. } => "judged",
            Event::Staged { .. } => "staged",
            Event::Refused { .. } => "refused",
            Event::Released { .. } => "released",
            Event::Parked { .. } => "parked",
            Event::Answered { .. } => "answered",
            Event::Intended => "intended",
            Event::MeasuredOnly => "measured_only",
            Event::Committed { .. } => "committed",
            Event::Progressed { .. } => "progressed",
            Event::Probed { .. } => "probed",
            Event::Observed { .. } => "observed",
            Event::Undone { .. } => "undone",
            Event::Redone { .. } => "redone",
            Event::Delivered => "delivered",
            Event::Abandoned { .. } => "abandoned",
        }
    }
}
