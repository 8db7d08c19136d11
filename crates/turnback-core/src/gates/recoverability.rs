//! `recoverability`: a write does not run until its way back is modeled, proved as far as its domain
//! allows, and available. Where it is missing, a person decides.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::decision::{Ruling, Verdict};
use crate::rollback::Level;

/// This gate's name.
pub const NAME: &str = "recoverability";

/// What the way back must at least be for a write to run without a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The lowest level.
    pub level: Level,
    /// The shortest window: detection plus undo time.
    pub window: SignedDuration,
}

impl Default for Floor {
    /// Level 4 and one hour.
    fn default() -> Self {
        Self { level: Level::Snapshotted, window: SignedDuration::from_hours(1) }
    }
}

/// Asks whether the way back is good enough to go without a person.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let Some(measured) = facts.measured else {
        return Verdict::new(NAME, Ruling::Deny, "no rollback plan");
    };
    let plan = measured.plan;
    let level = plan.level();
    let reached = format!("way back at level {} ({}): {}", level.number(), level.name(), plan.evidence);
    if facts.approved {
        return Verdict::new(NAME, Ruling::Allow, format!("a person approved; {reached}"));
    }
    let review =
        |why: String| Verdict::new(NAME, Ruling::Review, why).next("a person looks at the effect and the way back");
    // An effect that changes nothing needs no way back.
    if measured.effect.blast.is_empty() && plan.residue.is_empty() {
        return Verdict::new(NAME, Ruling::Allow, "it changes nothing");
    }
    if level < facts.floor.level {
        return review(format!(
            "{reached}; level {} ({}) is required to run without a person",
            facts.floor.level.number(),
            facts.floor.level.name()
        ));
    }
    if let Some(assumption) = plan.broken_assumption() {
        return review(format!("the way back assumes that {}, which does not hold for sure", assumption.claim));
    }
    if let Some(closes) = plan.window.closes
        && closes.duration_since(facts.now) < facts.floor.window
    {
        return review(format!(
            "the way back closes at {closes}, sooner than {} s from now",
            facts.floor.window.as_secs()
        ));
    }
    if let Some(exposure) = plan.exposure.first() {
        return review(format!("somebody outside may see it before it can be undone: {exposure}"));
    }
    if plan.bearer.is_third_party() {
        return review(format!("if the way back fails, a third party pays ({:?})", plan.bearer).to_lowercase());
    }
    Verdict::new(NAME, Ruling::Allow, reached)
}
