//! Approvals: who may answer which digest until when.
//!
//! Invariant `ONE-USE`: an approval answers exactly one question about one action digest and one
//! effect digest, is redeemed at most once, before it expires, by somebody who is not the requester.
//! Being used is a state of the run the journal holds; this module owns the other conditions.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::contract::{Actor, Contract};
use crate::decision::{Decision, Obligation, Ruling};
use crate::digest::{ActionDigest, EffectDigest, Sha256};
use crate::names::{ApprovalId, RunId};

/// A question put to people: everything an answer is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its identity; a nonce, because it is made new for every question.
    pub id: ApprovalId,
    /// The run that waits.
    pub run: RunId,
    /// The action shown.
    pub action: ActionDigest,
    /// The effect shown.
    pub effect: EffectDigest,
    /// Its places, for tools that match `same-rows`.
    pub places: EffectDigest,
    /// The policy it was asked under.
    pub policy: Sha256,
    /// When it was asked.
    pub asked: Timestamp,
    /// Silence until then is a no.
    pub expires: Timestamp,
    /// Who may answer; empty means any operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<String>,
    /// Freezes from which it asks for an exception. A yes to another question is none to these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<String>,
    /// It asks for those exceptions and nothing else: to whatever else needs a person its yes is none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_exceptions: bool,
}

/// A yes to exactly one question. Only [`Question::approve`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The question answered.
    pub question: Question,
    /// Who said yes.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

impl Approval {
    /// Whether it may still be used at `now`: after it was given and before its question expires. An
    /// answer in time does not last: what it was about may be staged again much later, after a restart.
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.at <= now && now < self.question.expires
    }
}

/// Why an answer does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnApproval {
    /// Too late.
    #[error("approval `{id}` expired at {expires}")]
    Expired {
        /// The question.
        id: ApprovalId,
        /// Its deadline.
        expires: Timestamp,
    },
    /// The requester cannot approve.
    #[error("`{by}` asked for this action and cannot approve it")]
    Requester {
        /// Who tried.
        by: String,
    },
    /// The policy names others.
    #[error("only {allowed} may approve this, not `{by}`")]
    NotNamed {
        /// Who tried.
        by: String,
        /// Who may.
        allowed: String,
    },
}

impl Question {
    /// Restricts who may answer to what the obligations of a decision say.
    #[must_use]
    pub fn restricted<'a>(mut self, obligations: impl Iterator<Item = &'a Obligation>) -> Self {
        for obligation in obligations {
            if let Obligation::Approvers { names } = obligation {
                // Two gates that both name people: only those both name.
                if self.approvers.is_empty() {
                    self.approvers.clone_from(names);
                } else {
                    self.approvers.retain(|name| names.contains(name));
                }
                // An empty list means anybody, so nobody left must not leave it empty. No user has a
                // name with spaces and parentheses.
                if self.approvers.is_empty() {
                    self.approvers.push("nobody (the rules leave no name)".to_owned());
                }
            }
        }
        self
    }

    /// Says what it asks: the reviews of these decisions.
    #[must_use]
    pub fn asking(mut self, decisions: [&Decision; 2]) -> Self {
        let reviews = || decisions.into_iter().flat_map(|d| &d.verdicts).filter(|v| v.ruling == Ruling::Review);
        let freezes = |v: &crate::decision::Verdict| -> Vec<String> {
            let exception = |o: &Obligation| match o {
                Obligation::FreezeException { freeze } => Some(freeze.clone()),
                _ => None,
            };
            v.obligations.iter().filter_map(exception).collect()
        };
        self.exceptions = reviews().flat_map(freezes).collect();
        // Both groups of gates name the same freeze.
        self.exceptions.sort_unstable();
        self.exceptions.dedup();
        self.only_exceptions = !self.exceptions.is_empty() && reviews().all(|v| !freezes(v).is_empty());
        self
    }

    /// A yes by `by`, when it counts.
    ///
    /// # Errors
    /// [`NotAnApproval`] says why it does not.
    pub fn approve(&self, contract: &Contract, by: &str, now: Timestamp) -> Result<Approval, NotAnApproval> {
        if now >= self.expires || now < self.asked {
            return Err(NotAnApproval::Expired { id: self.id, expires: self.expires });
        }
        // The user an agent acts for is the requester as much as the agent is.
        let asked = match &contract.actor {
            Actor::Agent(name) => name.as_str() == by || contract.on_behalf_of.as_deref() == Some(by),
            Actor::Operator(name) => name == by,
            Actor::Turnback => false,
        };
        if asked {
            return Err(NotAnApproval::Requester { by: by.to_owned() });
        }
        if !self.approvers.is_empty() && !self.approvers.iter().any(|name| name == by) {
            return Err(NotAnApproval::NotNamed { by: by.to_owned(), allowed: self.approvers.join(", ") });
        }
        Ok(Approval { question: self.clone(), by: by.to_owned(), at: now })
    }
}

#[cfg(test)]
mod tests;
