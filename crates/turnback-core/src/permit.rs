//! Permits: the only way to a commit.
//!
//! Invariant `PERMIT`: a [`Permit`] is minted here and nowhere else, from a decision that allows and,
//! where a person had to look, an approval of exactly this action and effect. It cannot be copied or
//! written down, names one action digest and one effect digest, expires, and is consumed by `commit`.

use jiff::{SignedDuration, Timestamp};

use crate::approval::Approval;
use crate::decision::{Decision, Phase, Ruling};
use crate::digest::{ActionDigest, EffectDigest};
use crate::effect::Effect;
use crate::names::RunId;
use crate::tool::Match;

/// How long a permit lives: long enough for one durable write, too short to be kept.
pub const LIFETIME: SignedDuration = SignedDuration::from_secs(30);

/// The right to commit one staged effect once.
#[derive(Debug)]
pub struct Permit {
    run: RunId,
    action: ActionDigest,
    effect: EffectDigest,
    minted: Timestamp,
    expires: Timestamp,
}

/// Why there is no permit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPermitted {
    /// A group of gates did not allow it.
    #[error("the {phase} decision is `{ruling}`, not `allow`")]
    NotAllowed {
        /// Which group.
        phase: &'static str,
        /// What it said.
        ruling: &'static str,
    },
    /// The environment is only observed.
    #[error("the environment is only observed")]
    MeasureOnly,
    /// The approval is for something else.
    #[error("the approval is for another {what}")]
    OtherApproval {
        /// What differs: `run`, `action`, `effect`.
        what: &'static str,
    },
    /// The approval was given under another policy.
    #[error("the policy changed since the approval")]
    OtherPolicy,
    /// The approval is no longer, or not yet, good. Not yet means that the clock went back, which must
    /// not make an approval last longer.
    #[error("the approval was given at {given} and expired at {expires}; it is {now}")]
    ApprovalExpired {
        /// When it was given.
        given: Timestamp,
        /// Its end.
        expires: Timestamp,
        /// The time of the attempt.
        now: Timestamp,
    },
}

/// Why a permit does not cover a commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCovered {
    /// It is too old, or the clock went back to before it was minted.
    #[error("the permit of run `{run}` expired at {expires}, or the clock went back")]
    Expired {
        /// Its run.
        run: RunId,
        /// Its end.
        expires: Timestamp,
    },
    /// It is for another effect.
    #[error("the permit of run `{run}` is for another effect")]
    OtherEffect {
        /// Its run.
        run: RunId,
    },
}

impl Permit {
    /// Mints the permit for one run.
    ///
    /// `approval` is required exactly when a person had to be asked: the decisions must then already
    /// have been made with `approved`, so both say `allow` here.
    ///
    /// # Errors
    /// [`NotPermitted`] says which condition failed.
    #[allow(clippy::too_many_arguments, reason = "every argument is one thing the permit is bound to")]
    pub fn mint(
        run: RunId,
        action: ActionDigest,
        effect: &Effect,
        before: &Decision,
        after: &Decision,
        approval: Option<&Approval>,
        effect_match: Match,
        now: Timestamp,
    ) -> Result<Self, NotPermitted> {
        for (decision, phase, word) in [(before, Phase::Before, "before"), (after, Phase::After, "after")] {
            if decision.ruling != Ruling::Allow || decision.phase != phase {
                return Err(NotPermitted::NotAllowed { phase: word, ruling: decision.ruling.word() });
            }
            if decision.measure_only() {
                return Err(NotPermitted::MeasureOnly);
            }
        }
        if let Some(approval) = approval {
            let shown = &approval.question;
            if shown.run != run {
                return Err(NotPermitted::OtherApproval { what: "run" });
            }
            if shown.action != action {
                return Err(NotPermitted::OtherApproval { what: "action" });
            }
            if !agrees(shown.effect, shown.places, effect, effect_match) {
                return Err(NotPermitted::OtherApproval { what: "effect" });
            }
            if shown.policy != after.policy {
                return Err(NotPermitted::OtherPolicy);
            }
            if !approval.is_good(now) {
                return Err(NotPermitted::ApprovalExpired { given: approval.at, expires: shown.expires, now });
            }
        }
        let expires = now.saturating_add(LIFETIME).unwrap_or(now);
        Ok(Self { run, action, effect: effect.digest, minted: now, expires })
    }

    /// The run it belongs to.
    pub const fn run(&self) -> RunId {
        self.run
    }

    /// The action it is for.
    pub const fn action(&self) -> ActionDigest {
        self.action
    }

    /// Whether it covers committing `effect` at `now`. Asked once, by the one function that commits.
    ///
    /// # Errors
    /// [`NotCovered`] says why not.
    pub fn covers(&self, effect: EffectDigest, now: Timestamp) -> Result<(), NotCovered> {
        if now >= self.expires || now < self.minted {
            return Err(NotCovered::Expired { run: self.run, expires: self.expires });
        }
        if effect != self.effect {
            return Err(NotCovered::OtherEffect { run: self.run });
        }
        Ok(())
    }
}

/// Whether a staged effect is what was shown, under the tool's rule.
pub fn agrees(shown: EffectDigest, places: EffectDigest, staged: &Effect, rule: Match) -> bool {
    shown == staged.digest || (rule == Match::SameRows && staged.volatile && places == staged.places)
}

#[cfg(test)]
mod tests;
