//! Versioned journal records: what a leaf of the log says, and what stays outside it.
//!
//! A record holds only identities, words and hashes. Everything that may contain somebody's data is in
//! a payload the record names by salted hash, so that a payload can be erased and the log still
//! verifies.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contract::Actor;
use crate::digest::Sha256;
use crate::flags::Edition;
use crate::gates::controls::{Deny, Freeze, Switch};
use crate::gates::ownership::Agent;
use crate::names::{AgentName, RunId, TokenId};
use crate::policy::Source;
use crate::refusal::Refusal;
use crate::run::Event;

/// Version of the record format.
pub const VERSION: u32 = 1;

/// One leaf of the log. Its fields stand in the order of their names, so that writing it is writing its
/// canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// When it was appended, by the node's clock. The order of records is their sequence, not this.
    pub at: Timestamp,
    /// What happened: `run.intended`, `agent.added`, ...
    pub kind: String,
    /// Salted hash of the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Sha256>,
    /// The run concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Format version.
    pub v: u32,
}

impl Record {
    /// The bytes that are the leaf: canonical JSON (RFC 8785).
    ///
    /// # Errors
    /// Only when a value inside cannot be written as JSON, which none of these can.
    pub fn canonical(&self) -> Result<Vec<u8>, serde_json::Error> {
        // Words, identities, hashes and a small number: nothing JCS writes in another way than serde does.
        serde_json::to_vec(self)
    }
}

/// What a record is about: serialised, this is the payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Body {
    /// Something happened to a run.
    Run {
        /// The run.
        run: RunId,
        /// What happened.
        event: Event,
    },
    /// A request that never became a run: it could not be read, or nobody could be held to it.
    Turned {
        /// The door it came through: `http`, `stdio`, `operator`.
        door: String,
        /// Who it claimed to be, when that was known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<Actor>,
        /// Why it was refused.
        refusal: Refusal,
    },
    /// Somebody else's enforcement point asked for a decision and got one.
    Evaluated {
        /// The agent whose credential it asked with.
        by: crate::names::AgentName,
        /// What it asked; what could not be read is not here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<Box<crate::access::Evaluation>>,
        /// The answer: yes when its ruling is `allow`, no otherwise.
        verdict: crate::decision::Verdict,
        /// Digest of what it was decided by.
        policy: Sha256,
    },
    /// An agent was registered, changed, suspended or reinstated.
    AgentSet {
        /// As it is now.
        agent: Agent,
        /// By whom.
        by: String,
        /// Why its level was changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A token was made.
    TokenMade {
        /// Its identity.
        token: TokenId,
        /// As it is now.
        details: Token,
        /// By whom.
        by: String,
    },
    /// A token was revoked.
    TokenRevoked {
        /// Its identity.
        token: TokenId,
        /// By whom.
        by: String,
    },
    /// A kill switch was thrown.
    SwitchThrown {
        /// The switch.
        switch: Switch,
    },
    /// A kill switch was lifted.
    SwitchLifted {
        /// The switch as it was.
        switch: Switch,
        /// By whom.
        by: String,
    },
    /// A deny was added to the denylist.
    DenyAdded {
        /// The deny.
        deny: Box<Deny>,
    },
    /// A deny was removed from the denylist.
    DenyRemoved {
        /// The deny as it was.
        deny: Box<Deny>,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
    },
    /// A freeze was declared.
    FreezeAdded {
        /// The freeze.
        freeze: Box<Freeze>,
    },
    /// A freeze was lifted.
    FreezeLifted {
        /// The freeze as it was.
        freeze: Box<Freeze>,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
    },
    /// A person refilled an agent's irreversibility budget.
    BudgetRefilled {
        /// The agent.
        agent: AgentName,
        /// The writes that count no more.
        forgiven: Vec<RunId>,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
    },
    /// A configuration and policy became active.
    ConfigActive {
        /// Digest of the configuration.
        config: Sha256,
        /// Digest of the policy.
        policy: Sha256,
    },
    /// An operator changed the policy, or the candidate beside it.
    PolicySet {
        /// How.
        change: PolicyChange,
        /// Digest of the policy concerned.
        policy: Sha256,
        /// Its sources, whole: what was judged under it can be judged again without the files.
        sources: Vec<Source>,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
    },
    /// Labelled content was read for the first time, or again after a while.
    Labelled {
        /// Who read it, or the trace it was read in.
        who: crate::gates::flow::Reader,
        /// The labels.
        labels: crate::gates::flow::Labels,
    },
    /// Labels were cleared.
    LabelsCleared {
        /// Whose.
        who: crate::gates::flow::Reader,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
    },
    /// An action is about to be intended under these leases, renewed.
    Leased {
        /// The run.
        run: RunId,
        /// The leases.
        leases: Vec<crate::lease::Lease>,
    },
    /// A run that was intended was not committed: it had lost a lease.
    LeasesLost {
        /// The run.
        run: RunId,
        /// The leases it was intended under.
        leases: Vec<crate::lease::Lease>,
    },
    /// An operator took leases from their holders.
    LeasesReleased {
        /// The leases.
        leases: Vec<crate::lease::Lease>,
        /// By whom.
        by: String,
        /// Why.
        reason: String,
    },
    /// A plan was verified and holds from here on.
    PlanVerified {
        /// The plan.
        plan: Box<crate::plan::Plan>,
    },
    /// No further step of a plan runs.
    PlanEnded {
        /// The plan.
        plan: crate::names::PlanId,
        /// Whose it is.
        agent: AgentName,
        /// How.
        how: crate::plan::End,
    },
    /// What an abort took back, and what still stands.
    PlanUnwound {
        /// The plan.
        plan: crate::names::PlanId,
        /// Every step that had been done, in the order in which it was tried.
        steps: Vec<crate::plan::Unwound>,
        /// Who asked.
        by: Actor,
    },
    /// Values a committed action rested on, for comparison with later ones.
    Noted {
        /// The run.
        run: RunId,
        /// The values by the name of their history.
        values: std::collections::BTreeMap<String, crate::robust::Number>,
    },
    /// The release flags changed.
    FlagsSet {
        /// When, by whom and why.
        edition: Edition,
        /// The whole document, exact; `None` when there are no flags from here on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        document: Option<String>,
    },
    /// The node opened the journal.
    Opened {
        /// Version of the program.
        program: String,
    },
    /// The node closed the journal in order.
    Closed,
    /// Something an operator must look at.
    Alert {
        /// The run concerned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        run: Option<RunId>,
        /// What, and what to do.
        message: String,
    },
}

/// What an operator did with a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyChange {
    /// It is judged beside the active one from now on.
    Staged,
    /// The candidate became the active one.
    Promoted,
    /// The candidate is gone.
    Dropped,
    /// The configured files were read again and are the active policy.
    Reloaded,
}

impl PolicyChange {
    /// The word for the record.
    pub const fn word(self) -> &'static str {
        match self {
            PolicyChange::Staged => "staged",
            PolicyChange::Promoted => "promoted",
            PolicyChange::Dropped => "dropped",
            PolicyChange::Reloaded => "reloaded",
        }
    }
}

impl Body {
    /// The word for the record.
    pub fn kind(&self) -> String {
        match self {
            Body::Run { event, .. } => format!("run.{}", event.word()),
            Body::Turned { .. } => "turned_away".into(),
            Body::Evaluated { .. } => "evaluated".into(),
            Body::AgentSet { .. } => "agent.set".into(),
            Body::TokenMade { .. } => "token.made".into(),
            Body::TokenRevoked { .. } => "token.revoked".into(),
            Body::SwitchThrown { .. } => "switch.thrown".into(),
            Body::SwitchLifted { .. } => "switch.lifted".into(),
            Body::DenyAdded { .. } => "deny.added".into(),
            Body::DenyRemoved { .. } => "deny.removed".into(),
            Body::FreezeAdded { .. } => "freeze.added".into(),
            Body::FreezeLifted { .. } => "freeze.lifted".into(),
            Body::BudgetRefilled { .. } => "budget.refilled".into(),
            Body::ConfigActive { .. } => "config.active".into(),
            Body::PolicySet { change, .. } => format!("policy.{}", change.word()),
            Body::Labelled { .. } => "labels.read".into(),
            Body::LabelsCleared { .. } => "labels.cleared".into(),
            Body::Leased { .. } => "leases.held".into(),
            Body::LeasesLost { .. } => "leases.lost".into(),
            Body::LeasesReleased { .. } => "leases.released".into(),
            Body::PlanVerified { .. } => "plan.verified".into(),
            Body::PlanEnded { how, .. } => format!("plan.{}", how.word()),
            Body::PlanUnwound { .. } => "plan.unwound".into(),
            Body::Noted { .. } => "values.noted".into(),
            Body::FlagsSet { .. } => "flags.set".into(),
            Body::Opened { .. } => "node.opened".into(),
            Body::Closed => "node.closed".into(),
            Body::Alert { .. } => "alert".into(),
        }
    }

    /// The run concerned.
    pub const fn run(&self) -> Option<RunId> {
        match self {
            Body::Run { run, .. }
            | Body::Noted { run, .. }
            | Body::Leased { run, .. }
            | Body::LeasesLost { run, .. } => Some(*run),
            Body::Alert { run, .. } => *run,
            _ => None,
        }
    }
}

/// An agent's token. The secret itself is shown once and never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of the secret, which has 256 bits of randomness, so that no slow hash is needed.
    pub secret: Sha256,
    /// Its agent.
    pub agent: crate::names::AgentName,
    /// The user the agent acts for with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The part of the organisation the agent works for with it.
    #[serde(default, skip_serializing_if = "crate::contract::Assignment::is_empty")]
    pub assignment: crate::contract::Assignment,
    /// When it was made.
    pub made: Timestamp,
    /// When it stops working.
    pub expires: Timestamp,
}

/// One line of the list of runs: the projection people query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The run.
    pub run: RunId,
    /// When it was proposed.
    pub proposed: Timestamp,
    /// When it last moved.
    pub updated: Timestamp,
    /// When its effect was committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Timestamp>,
    /// Who asked.
    pub actor: Actor,
    /// The tool.
    pub tool: String,
    /// The resource.
    pub resource: String,
    /// The environment.
    pub environment: String,
    /// Action digest, which a repeated call is recognised by.
    pub action: Sha256,
    /// The state's word.
    pub state: String,
    /// Whether nothing more happens by itself.
    pub over: bool,
    /// Whether its caller has still to hear the end.
    pub undelivered: bool,
    /// One line: what it does or why it was refused.
    pub summary: String,
    /// Number of the level of its way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// The question that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<crate::names::ApprovalId>,
    /// When silence on that question becomes a no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// What it cost of its agent's budget.
    #[serde(default)]
    pub spent: crate::gates::blast_radius::Spent,
    /// The runs it counters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undoes: Vec<RunId>,
    /// The undo that countered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone_by: Option<RunId>,
    /// Places it read, for listing who read data that is undone later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<String>,
}

/// A payload as JSON bytes, ready to be salted and stored.
///
/// # Errors
/// Only when a value inside cannot be written as JSON, which no value of this crate can.
pub fn encode(body: &Body) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(body)
}

/// A payload read back.
///
/// # Errors
/// When the bytes are not a payload of this version.
pub fn decode(bytes: &[u8]) -> Result<Body, serde_json::Error> {
    let value: Value = serde_json::from_slice(bytes)?;
    serde_json::from_value(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{at, run_id};

    #[test]
    fn a_record_is_written_in_canonical_form() {
        let kinds = [Body::Closed.kind(), "run.intended".to_owned(), "with \"quotes\" and \u{e9}".to_owned()];
        for kind in kinds {
            for full in [true, false] {
                let record = Record {
                    at: at(7),
                    kind: kind.clone(),
                    payload: full.then(|| Sha256::of(b"x")),
                    run: full.then(|| run_id(3)),
                    v: VERSION,
                };
                let value = serde_json::to_value(&record).unwrap();
                assert_eq!(record.canonical().unwrap(), crate::json::canonical(&value));
            }
        }
    }
}
