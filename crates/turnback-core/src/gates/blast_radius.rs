//! `blast_radius`: the measured effect against limits per action and against the agent's budget.
//!
//! Individually authorised, collectively catastrophic is a deny: the budget counts what an agent did
//! inside a sliding window, what it is doing at this moment included.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::decision::{Ruling, Verdict};

/// This gate's name.
pub const NAME: &str = "blast_radius";

/// The most one action may do, and the budget of one agent. `None` means no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Rows inserted, updated and deleted by one action.
    pub rows: Option<u64>,
    /// Rows, files and directories deleted by one action.
    pub deletions: Option<u64>,
    /// Files and directories created, changed and deleted by one action.
    pub files: Option<u64>,
    /// Bytes of content touched by one action.
    pub bytes: Option<u64>,
    /// The sliding budget of one agent.
    pub budget: Option<Budget>,
}

/// How much one agent may do inside a sliding window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// Length of the window.
    pub window: SignedDuration,
    /// Write actions inside it.
    pub actions: Option<u64>,
    /// Rows, files and directories deleted inside it.
    pub deletions: Option<u64>,
    /// Rows touched inside it.
    pub rows: Option<u64>,
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
}

impl Spent {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            actions: self.actions.saturating_add(other.actions),
            deletions: self.deletions.saturating_add(other.deletions),
            rows: self.rows.saturating_add(other.rows),
        }
    }

    /// What one action with this measured size costs.
    pub fn of(blast: &crate::effect::Blast) -> Self {
        Self { actions: 1, deletions: blast.deletions(), rows: blast.rows_total() }
    }
}

/// Asks whether the effect is small enough, alone and together with what went before.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let Some(measured) = facts.measured else {
        return Verdict::new(NAME, Ruling::Deny, "nothing was measured");
    };
    // An undo is as large as what it counters, and people ask for it when something went wrong.
    if facts.contract.actor.agent().is_none() {
        return Verdict::new(NAME, Ruling::Allow, "limits govern agents");
    }
    let blast = &measured.effect.blast;
    let limits = facts.limits;
    for (what, size, limit) in [
        ("rows touched", blast.rows_total(), limits.rows),
        ("deletions", blast.deletions(), limits.deletions),
        ("files touched", blast.files_total(), limits.files),
        ("bytes touched", blast.bytes, limits.bytes),
    ] {
        if let Some(limit) = limit.filter(|limit| size > *limit) {
            return Verdict::new(
                NAME,
                Ruling::Deny,
                format!("it {}: {size} {what}, the limit for one action is {limit}", measured.effect.summary),
            )
            .rule(format!("limit {what}"))
            .next(format!("narrow it to at most {limit} {what}"));
        }
    }
    let Some(budget) = &limits.budget else {
        return Verdict::new(NAME, Ruling::Allow, "within the limits of one action; no budget is set");
    };
    let total = facts.spent.plus(Spent::of(blast));
    for (what, spent, total, limit) in [
        ("write actions", facts.spent.actions, total.actions, budget.actions),
        ("deletions", facts.spent.deletions, total.deletions, budget.deletions),
        ("rows touched", facts.spent.rows, total.rows, budget.rows),
    ] {
        if let Some(limit) = limit.filter(|limit| total > *limit) {
            let seconds = budget.window.as_secs();
            return Verdict::new(
                NAME,
                Ruling::Deny,
                format!("budget used up: {spent} {what} in the last {seconds} s, this one would make {total}, the budget is {limit}"),
            )
            .rule(format!("budget {what}"))
            .next(format!("wait until older actions leave the window of {seconds} s, or ask an operator"));
        }
    }
    Verdict::new(NAME, Ruling::Allow, "within the limits of one action and the agent's budget")
}
