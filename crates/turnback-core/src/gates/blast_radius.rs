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
            return Verdict::new(NAME, Ruling::Deny, format!("{size} {what} by one action, the limit is {limit}"))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::contract::Actor;
    use crate::effect::{Blast, Rows};
    use crate::fixtures::{World, blast, measurement};

    fn judged(blast: Blast, limits: Limits, spent: Spent) -> Verdict {
        let mut world = World::new("", "shop__execute");
        world.measurement = Some(measurement(blast, "x"));
        world.limits = limits;
        world.spent = spent;
        judge(&world.facts())
    }

    fn budget(actions: Option<u64>, deletions: Option<u64>, rows: Option<u64>) -> Limits {
        let window = SignedDuration::from_secs(600);
        Limits { budget: Some(Budget { window, actions, deletions, rows }), ..Limits::default() }
    }

    #[test]
    fn nothing_measured_is_a_deny() {
        assert_eq!(judge(&World::new("", "shop__execute").facts()).ruling, Ruling::Deny);
    }

    #[test]
    fn each_limit_counts_its_own_and_ends_exactly() {
        let mixed = Blast {
            rows: [("a".to_owned(), Rows { inserted: 1, updated: 2, deleted: 3 })].into(),
            schema_objects: 0,
            files_created: 4,
            files_changed: 5,
            files_deleted: 6,
            bytes: 7,
        };
        type Limit = fn(u64) -> Limits;
        let limits: [(&str, u64, Limit); 4] = [
            ("rows touched", 6, |n| Limits { rows: Some(n), ..Limits::default() }),
            ("deletions", 9, |n| Limits { deletions: Some(n), ..Limits::default() }),
            ("files touched", 15, |n| Limits { files: Some(n), ..Limits::default() }),
            ("bytes touched", 7, |n| Limits { bytes: Some(n), ..Limits::default() }),
        ];
        for (what, size, limit) in limits {
            assert_eq!(judged(mixed.clone(), limit(size), Spent::default()).ruling, Ruling::Allow, "{what}");
            let over = judged(mixed.clone(), limit(size - 1), Spent::default());
            assert_eq!(over.ruling, Ruling::Deny, "{what}");
            assert!(over.reason.contains(&format!("{size} {what}")), "{}", over.reason);
            assert_eq!(over.rules, [format!("limit {what}")]);
        }
        assert_eq!(judged(blast(u64::MAX), Limits::default(), Spent::default()).ruling, Ruling::Allow);
    }

    /// Incident 20: dozens of small deletes, each of them within every limit.
    #[test]
    fn together_too_much_is_a_deny() {
        let mut spent = Spent::default();
        let mut allowed = 0;
        for _ in 0..20 {
            let verdict = judged(blast(5), budget(None, Some(50), None), spent);
            if verdict.ruling == Ruling::Allow {
                allowed += 1;
                spent = spent.plus(Spent::of(&blast(5)));
            } else {
                assert!(
                    verdict.reason.contains("50 deletions in the last 600 s, this one would make 55"),
                    "{verdict:?}"
                );
            }
        }
        assert_eq!(allowed, 10);
    }

    #[test]
    fn each_budget_counts_its_own() {
        let spent = Spent { actions: 9, deletions: 9, rows: 9 };
        for (limits, ruling) in [
            (budget(Some(10), None, None), Ruling::Allow),
            (budget(Some(9), None, None), Ruling::Deny),
            (budget(None, Some(12), None), Ruling::Allow),
            (budget(None, Some(11), None), Ruling::Deny),
            (budget(None, None, Some(12)), Ruling::Allow),
            (budget(None, None, Some(11)), Ruling::Deny),
            (budget(None, None, None), Ruling::Allow),
        ] {
            assert_eq!(judged(blast(3), limits.clone(), spent).ruling, ruling, "{limits:?}");
        }
        // A sum over the end of the scale is over every budget.
        let full = Spent { actions: 0, deletions: u64::MAX, rows: 0 };
        assert_eq!(judged(blast(3), budget(None, Some(u64::MAX - 1), None), full).ruling, Ruling::Deny);
    }

    #[test]
    fn an_approval_does_not_lift_limits_and_people_have_none() {
        let mut world = World::new("", "shop__execute");
        world.measurement = Some(measurement(blast(3), "x"));
        world.limits = Limits { rows: Some(2), ..Limits::default() };
        world.approved = true;
        assert_eq!(judge(&world.facts()).ruling, Ruling::Deny);
        world.contract.actor = Actor::Turnback;
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// More done, or more done before, never turns a deny into an allow.
        #[test]
        fn more_never_allows_more(rows in 0..100u64, more in 0..100u64, before in 0..100u64, limit in 0..200u64) {
            let limits = Limits { rows: Some(limit), ..budget(None, Some(limit), None) };
            let spent = |n| Spent { actions: 1, deletions: n, rows: n };
            let base = judged(blast(rows), limits.clone(), spent(before)).ruling;
            let larger = judged(blast(rows + more), limits.clone(), spent(before)).ruling;
            prop_assert!(larger >= base);
            let later = judged(blast(rows), limits, spent(before + more)).ruling;
            prop_assert!(later >= base);
        }
    }
}
