//! Decisions: the five outcomes, one gate's verdict, and how verdicts combine.
//!
//! Invariant `ONLY-TIGHTEN`: combining can only make an answer stricter; the most restrictive verdict
//! wins, obligations add up, and every gate that spoke stays in the record.

use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::form::Rewriting;

/// What may happen to an action, from least to most restrictive. The order is the combine rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// It may run.
    Allow,
    /// Only a smaller or safer form of it may run.
    Constrain,
    /// A person decides.
    Review,
    /// The system is in a safe degraded mode; the action does not run.
    Fallback,
    /// It does not run.
    Deny,
}

impl Ruling {
    /// The word used in policy and output.
    pub const fn word(self) -> &'static str {
        match self {
            Ruling::Allow => "allow",
            Ruling::Constrain => "constrain",
            Ruling::Review => "review",
            Ruling::Fallback => "fallback",
            Ruling::Deny => "deny",
        }
    }

    /// The ruling with that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Ruling::Allow, Ruling::Constrain, Ruling::Review, Ruling::Fallback, Ruling::Deny]
            .into_iter()
            .find(|r| r.word() == word)
    }
}

/// Something that must be done if the action runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Obligation {
    /// Only people with one of these names may approve.
    Approvers {
        /// System user names.
        names: Vec<String>,
    },
    /// Run only in this smaller or safer form.
    SaferForm {
        /// Its name in the tool's contract.
        form: String,
    },
    /// Stage and measure, but never commit: the environment is only observed.
    MeasureOnly,
    /// A person is asked for an exception from this freeze. Their yes counts for nothing else.
    FreezeException {
        /// Its name.
        freeze: String,
    },
}

impl Obligation {
    /// The safer form it asks for.
    pub fn form(&self) -> Option<&str> {
        match self {
            Obligation::SaferForm { form } => Some(form),
            _ => None,
        }
    }

    /// The obligation in a few words.
    pub fn words(&self) -> String {
        match self {
            Obligation::Approvers { names } => format!("only {} may approve", names.join(", ")),
            Obligation::SaferForm { form } => format!("only as: {form}"),
            Obligation::MeasureOnly => "measured, never committed".to_owned(),
            Obligation::FreezeException { freeze } => format!("an exception from freeze `{freeze}`"),
        }
    }
}

/// What one gate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The gate.
    pub gate: String,
    /// Its ruling.
    pub ruling: Ruling,
    /// Why, as one sentence with the facts and numbers it rests on.
    pub reason: String,
    /// What its agent is told instead of the reason, where that says what others did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
    /// What would be acceptable instead, when the gate knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Rules or switches it rests on, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// What must be done if the action runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub obligations: Vec<Obligation>,
}

impl Verdict {
    /// A verdict with a reason and nothing else.
    pub fn new(gate: &str, ruling: Ruling, reason: impl Into<String>) -> Self {
        Self {
            gate: gate.to_owned(),
            ruling,
            reason: reason.into(),
            told: None,
            next: None,
            rules: Vec::new(),
            obligations: Vec::new(),
        }
    }

    /// Why, as its agent is told.
    pub fn told(&self) -> &str {
        self.told.as_deref().unwrap_or(&self.reason)
    }

    /// Says what would be acceptable instead.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Names the rule or switch it rests on.
    #[must_use]
    pub fn rule(mut self, rule: impl Into<String>) -> Self {
        self.rules.push(rule.into());
        self
    }

    /// Adds an obligation.
    #[must_use]
    pub fn oblige(mut self, obligation: Obligation) -> Self {
        self.obligations.push(obligation);
        self
    }
}

/// Which of the two groups of gates spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before anything of the target was touched.
    Before,
    /// After staging, on the measured effect and the plan.
    After,
}

/// All gates of one phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The phase.
    pub phase: Phase,
    /// The most restrictive ruling of all verdicts.
    pub ruling: Ruling,
    /// Every gate that spoke, in the order of the list.
    pub verdicts: Vec<Verdict>,
    /// Digest of the policy the decision was made under.
    pub policy: Sha256,
    /// The safer form it becomes instead: this action is over, that one is judged from the beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewriting: Option<Rewriting>,
}

impl Decision {
    /// Combines verdicts. No verdict at all is a deny: a decision nobody made allows nothing.
    ///
    /// ```
    /// use turnback_core::decision::{Decision, Phase, Ruling, Verdict};
    /// use turnback_core::digest::Sha256;
    ///
    /// let verdicts = vec![Verdict::new("release", Ruling::Allow, ""), Verdict::new("controls", Ruling::Deny, "freeze")];
    /// let decision = Decision::combine(Phase::Before, Sha256::of(b"policy"), verdicts);
    /// assert_eq!(decision.ruling, Ruling::Deny);
    /// assert_eq!(decision.decisive().next().unwrap().gate, "controls");
    /// ```
    pub fn combine(phase: Phase, policy: Sha256, verdicts: Vec<Verdict>) -> Self {
        let ruling = verdicts.iter().map(|v| v.ruling).max().unwrap_or(Ruling::Deny);
        Self { phase, ruling, verdicts, policy, rewriting: None }
    }

    /// The verdicts that made the ruling what it is.
    pub fn decisive(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|v| v.ruling == self.ruling)
    }

    /// All obligations of all gates.
    pub fn obligations(&self) -> impl Iterator<Item = &Obligation> {
        self.verdicts.iter().flat_map(|v| &v.obligations)
    }

    /// Whether any gate asks that nothing be committed.
    pub fn measure_only(&self) -> bool {
        self.obligations().any(|o| *o == Obligation::MeasureOnly)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(rulings: &[Ruling]) -> Ruling {
        let verdicts = rulings.iter().map(|r| Verdict::new("test", *r, "")).collect();
        Decision::combine(Phase::Before, Sha256::of(b""), verdicts).ruling
    }

    #[test]
    fn the_most_restrictive_wins() {
        use Ruling::{Allow, Constrain, Deny, Fallback, Review};
        assert_eq!(decide(&[Allow, Allow]), Allow);
        assert_eq!(decide(&[Allow, Constrain]), Constrain);
        assert_eq!(decide(&[Review, Constrain, Allow]), Review);
        assert_eq!(decide(&[Review, Fallback]), Fallback);
        assert_eq!(decide(&[Deny, Fallback, Allow]), Deny);
        assert_eq!(decide(&[]), Deny);
    }
}
