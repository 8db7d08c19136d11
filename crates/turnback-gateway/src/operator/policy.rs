//! What an operator may ask about the policy, and how it is answered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use turnback_core::contract::Actor;
use turnback_core::decision::{Phase, Ruling};
use turnback_core::digest::Sha256;
use turnback_core::names::RunId;
use turnback_core::policy::{PolicyError, Source};

/// One request about the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum PolicyRequest {
    /// Why a run was decided as it was.
    Explain {
        /// Full identity, short form, or the identity of its approval.
        run: String,
    },
    /// Judge this policy beside the active one, in place of the candidate there may be.
    Stage {
        /// Its files; together with the rest of the request at most 1 MiB.
        sources: Vec<Source>,
        /// Why.
        reason: String,
    },
    /// How the active policy and the candidate stand.
    Staged,
    /// Make the candidate the active policy.
    Promote {
        /// Why.
        reason: String,
    },
    /// Forget the candidate.
    Drop {
        /// Why.
        reason: String,
    },
    /// Read the configured files again and make them the active policy.
    Reload {
        /// Why.
        reason: String,
    },
}

/// How the policy stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PolicyState {
    /// Digest of the active policy.
    pub active: Sha256,
    /// Who promoted it, when it was a candidate once. Absent while the configured files are active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Origin>,
    /// How the configured files differ from the promoted policy, as they were when the node started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_differ: Option<String>,
    /// The candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
}

/// Who brought a policy, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// By whom.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub since: Timestamp,
}

/// The candidate, and how it differed so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Staged {
    /// Its digest; of the files alone when it does not load.
    pub policy: Sha256,
    /// Who brought it.
    pub origin: Origin,
    /// Why it does not load with the tools there are now. It judges nothing then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<PolicyError>,
    /// Since when decisions are counted: since it was staged, or since the node started.
    pub counting_since: Timestamp,
    /// Decisions it was asked beside the active policy.
    pub decisions: u64,
    /// Of those, the ones it failed at. The active policy's answer stood, as always.
    pub failed: u64,
    /// Decisions that would have come out otherwise, by kind.
    pub changed: Vec<Changed>,
    /// The latest of them.
    pub examples: Vec<Example>,
}

/// Decisions that would have come out otherwise in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Which group of gates.
    pub phase: Phase,
    /// As it was decided.
    pub then: Ruling,
    /// As the candidate would have it.
    pub now: Ruling,
    /// How many.
    pub count: u64,
}

/// One decision that would have come out otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The run.
    pub run: RunId,
    /// Who asked.
    pub actor: Actor,
    /// The tool.
    pub tool: String,
    /// Which group of gates.
    pub phase: Phase,
    /// As it was decided.
    pub then: Ruling,
    /// As the candidate would have it.
    pub now: Ruling,
    /// Why, in the candidate's words.
    pub reason: String,
}
