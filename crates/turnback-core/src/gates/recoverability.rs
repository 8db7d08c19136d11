//! `recoverability`: a write does not run until its way back is modeled, proved as far as its domain
//! allows, and available. Where it is missing, a person decides.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{Facts, Measured};
use crate::contract::{Actor, Contract};
use crate::decision::{Ruling, Verdict};
use crate::rollback::Level;
use crate::tool::Risk;

/// This gate's name.
pub const NAME: &str = "recoverability";

/// What the way back must at least be for a write to run without a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// The lowest level.
    pub level: Level,
    /// The shortest window: detection plus undo time.
    pub window: SignedDuration,
    /// How many writes without a way back ([`irreversible`]) one agent may do in all, approved or not.
    /// Only a person refills it. `None` means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irreversible: Option<u64>,
}

impl Default for Floor {
    /// Level 4 and one hour.
    fn default() -> Self {
        Self { level: Level::Snapshotted, window: SignedDuration::from_hours(1), irreversible: None }
    }
}

/// Whether Turnback could not take this write back by itself for sure: its way back is below level 4, or
/// its tool is of the irreversible class.
pub fn irreversible(contract: &Contract, measured: Measured<'_>) -> bool {
    let nothing = measured.effect.blast.is_empty() && measured.plan.residue.is_empty();
    contract.risk == Risk::Irreversible || (!nothing && measured.plan.level() < Level::Snapshotted)
}

/// Asks whether the way back is good enough to go without a person.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let Some(measured) = facts.measured else {
        return Verdict::new(NAME, Ruling::Deny, "no rollback plan");
    };
    let plan = measured.plan;
    let level = plan.level();
    let reached = format!("way back at level {} ({}): {}", level.number(), level.name(), plan.evidence);
    // Also after an approval: what a person was shown open may have closed since. A domain that never
    // had a way back claims none instead of one that is over.
    if let Some(closes) = plan.window.closes.filter(|closes| *closes <= facts.now) {
        return Verdict::new(NAME, Ruling::Deny, format!("the way back closed at {closes}"));
    }
    // Also after an approval: many small yeses must not add up to what nobody would have agreed to.
    if let (Some(limit), Some(agent)) = (facts.floor.irreversible, facts.contract.actor.agent())
        && irreversible(facts.contract, measured)
        && facts.irreversible >= limit
    {
        let spent = facts.irreversible;
        return Verdict::new(
            NAME,
            Ruling::Deny,
            format!(
                "irreversibility budget used up: {spent} writes without a way back, the budget is {limit}; {reached}"
            ),
        )
        .rule("budget irreversible")
        .next(format!("a person refills it: turnback budget refill {agent} --reason \"...\""));
    }
    if facts.approved {
        return Verdict::new(NAME, Ruling::Allow, format!("a person approved; {reached}"));
    }
    if let Actor::Operator(_) = facts.contract.actor {
        return Verdict::new(NAME, Ruling::Allow, format!("a person asks for it; {reached}"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Blast;
    use crate::fixtures::{World, at, blast, measurement};
    use crate::rollback::{Assumption, Bearer, Completeness, Holds, RollbackPlan};

    fn judged(approved: bool, change: impl FnOnce(&mut RollbackPlan)) -> Verdict {
        let mut world = World::new("", "shop__execute");
        let mut measured = measurement(blast(3), "x");
        change(&mut measured.plan);
        world.measurement = Some(measured);
        world.approved = approved;
        judge(&world.facts())
    }

    fn with_level(level: Level, completeness: Completeness) -> Verdict {
        judged(false, |plan| {
            let mut footprint = plan.footprint.clone();
            footprint.completeness = completeness;
            *plan = RollbackPlan::new(level, "evidence", footprint);
        })
    }

    #[test]
    fn nothing_measured_is_a_deny() {
        assert_eq!(judge(&World::new("", "shop__execute").facts()).ruling, Ruling::Deny);
    }

    #[test]
    fn below_the_floor_a_person_decides() {
        use Completeness::{Bounded, Closed, Unknown};
        for (level, completeness, ruling) in [
            (Level::Proved, Closed, Ruling::Allow),
            (Level::Snapshotted, Closed, Ruling::Allow),
            (Level::Proved, Bounded, Ruling::Allow),
            (Level::Compensable, Closed, Ruling::Review),
            (Level::Declared, Closed, Ruling::Review),
            (Level::None, Closed, Ruling::Review),
            // PROOF-NEEDS-CLOSED: what else changed has no pre-image.
            (Level::Proved, Unknown, Ruling::Review),
            (Level::Snapshotted, Unknown, Ruling::Review),
        ] {
            assert_eq!(with_level(level, completeness).ruling, ruling, "{level:?} {completeness:?}");
        }
    }

    #[test]
    fn writes_without_a_way_back_are_counted_whoever_approves_them() {
        let judged = |level, spent, limit, approved| {
            let mut world = World::new("", "shop__execute");
            let mut measured = measurement(blast(3), "x");
            measured.plan = RollbackPlan::new(level, "evidence", measured.plan.footprint);
            world.measurement = Some(measured);
            (world.irreversible, world.floor.irreversible, world.approved) = (spent, limit, approved);
            judge(&world.facts()).ruling
        };
        for level in [Level::None, Level::Declared, Level::Compensable] {
            assert_eq!(judged(level, 2, Some(3), true), Ruling::Allow);
            assert_eq!(judged(level, 3, Some(3), true), Ruling::Deny);
            assert_eq!(judged(level, 4, Some(3), false), Ruling::Deny);
            assert_eq!(judged(level, 0, Some(0), true), Ruling::Deny);
            assert_eq!(judged(level, u64::MAX, None, true), Ruling::Allow);
        }
        assert_eq!(judged(Level::Snapshotted, 3, Some(3), false), Ruling::Allow);
        let mut world = World::new("", "shop__execute");
        world.contract.risk = Risk::Irreversible;
        world.measurement = Some(measurement(Blast::default(), "x"));
        world.floor.irreversible = Some(0);
        assert_eq!(judge(&world.facts()).ruling, Ruling::Deny, "by its class, whatever was measured");
        world.contract.actor = Actor::Operator("anna".into());
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow, "people have no budget");
    }

    #[test]
    fn each_doubt_about_the_way_back_asks_a_person() {
        type Change = fn(&mut RollbackPlan);
        let assume = |holds| Assumption { claim: "the disk has space".into(), holds, ttl_seconds: 60 };
        let doubts: [(&str, Change); 3] = [
            ("closes at", |plan| plan.window.closes = Some(at(3599))),
            ("somebody outside", |plan| plan.exposure.push("subscribers".into())),
            ("third party", |plan| plan.bearer = Bearer::Customer),
        ];
        for (says, doubt) in doubts {
            let verdict = judged(false, doubt);
            assert_eq!(verdict.ruling, Ruling::Review);
            assert!(verdict.reason.contains(says), "{}", verdict.reason);
            assert_eq!(judged(true, doubt).ruling, Ruling::Allow, "{says}");
        }
        for (holds, ruling) in
            [(Holds::True, Ruling::Allow), (Holds::False, Ruling::Review), (Holds::Unknown, Ruling::Review)]
        {
            assert_eq!(judged(false, |plan| plan.assumptions.push(assume(holds))).ruling, ruling);
        }
        assert_eq!(judged(false, |plan| plan.window.closes = Some(at(3600))).ruling, Ruling::Allow);
        assert_eq!(judged(false, |plan| plan.bearer = Bearer::Organisation).ruling, Ruling::Allow);
    }

    #[test]
    fn a_way_back_that_has_closed_is_none_even_after_an_approval() {
        for approved in [false, true] {
            let verdict = judged(approved, |plan| plan.window.closes = Some(at(-1)));
            assert_eq!(verdict.ruling, Ruling::Deny);
            assert!(verdict.reason.contains("closed at"), "{}", verdict.reason);
        }
    }

    #[test]
    fn what_changes_nothing_needs_no_way_back() {
        let judged = |residue: Option<&str>| {
            let mut world = World::new("", "shop__execute");
            let mut measured = measurement(Blast::default(), "x");
            measured.plan = RollbackPlan::new(Level::None, "nothing", measured.plan.footprint);
            measured.plan.residue.extend(residue.map(str::to_owned));
            world.measurement = Some(measured);
            judge(&world.facts()).ruling
        };
        assert_eq!(judged(None), Ruling::Allow);
        assert_eq!(judged(Some("an e-mail was sent")), Ruling::Review);
    }
}
