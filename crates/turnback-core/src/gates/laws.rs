//! Laws of whole decisions: every gate, against a second evaluator that knows nothing of them, and the promise that
//! more restrictive facts never loosen an answer.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;

use super::blast_radius::{Budget, Caps, Limits, Per, Spent};
use super::controls::{Controls, Freeze, Scope, Switch};
use super::recoverability::Floor;
use super::release::Mode;
use super::{Facts, Measured, decide};
use crate::decision::{Decision, Phase, Ruling};
use crate::fixtures::{World, agent, at, blast, contract, measurement, policy, registered, run_id};
use crate::form::{Asked, Form, Formed};
use crate::policy::Policy;
use crate::rollback::{Completeness, Footprint, Level, RollbackPlan};

/// Each may be part of the policy or not.
const RULES: [&str; 6] = [
    "@id(\"reads\") permit(principal, action in Action::\"read\", resource);",
    "@id(\"writes\") permit(principal, action in Action::\"write\", resource);",
    "@id(\"never\") forbid(principal, action in Action::\"write\", resource) \
     when { context has effect && context.effect.rows_deleted > 3 };",
    "@id(\"ask\") @outcome(\"review\") forbid(principal, action in Action::\"write\", resource) \
     when { context has effect && context.effect.rows_deleted > 1 } unless { context.approved };",
    "@id(\"calm\") @outcome(\"fallback\") forbid(principal, action, resource) when { context.statement == \"drop\" };",
    "@id(\"small\") @outcome(\"constrain\") @form(\"small\") forbid(principal, action in Action::\"write\", resource);",
];

static POLICIES: LazyLock<Vec<Policy>> = LazyLock::new(|| {
    (0..1_u8 << RULES.len())
        .map(|mask| {
            let chosen = RULES.iter().enumerate().filter(|(i, _)| mask & (1 << i) != 0);
            policy(&chosen.map(|(_, rule)| *rule).collect::<Vec<_>>().join("\n"))
        })
        .collect()
});

/// Everything a decision rests on here, in plain values.
#[derive(Clone, Debug)]
struct Case {
    write: bool,
    drop: bool,
    /// Not registered, suspended, registered.
    agent: u8,
    switch: bool,
    /// None, on, on and measured first.
    freeze: u8,
    mode: Mode,
    rules: u8,
    approved: bool,
    deleted: u64,
    most: Option<u64>,
    budget: Option<u64>,
    spent: u64,
    level: Level,
    floor: Level,
    /// The form a rule asks for is not there, is there, is the action's.
    form: u8,
}

const LEVELS: [Level; 5] = [Level::None, Level::Declared, Level::Compensable, Level::Snapshotted, Level::Proved];

fn case() -> impl Strategy<Value = Case> {
    let who = (any::<bool>(), any::<bool>(), 0..8_u8, prop::bool::weighted(0.1), 0..9_u8);
    use Mode::{ApprovedExternal, Draft, Enforce, Fallback, Observe, Off, SearchOnly};
    // Most cases let something pass.
    let modes =
        vec![Off, SearchOnly, Fallback, Observe, Draft, ApprovedExternal, Enforce, Enforce, Enforce, Enforce, Enforce];
    let modes = prop::sample::select(modes);
    let small = || prop::option::of(0..6_u64);
    let levels = || prop::sample::select(LEVELS.to_vec());
    let rest = (modes, 0..64_u8, any::<bool>(), 0..6_u64, small(), small(), 0..4_u64, (levels(), levels(), 0..3_u8));
    (who, rest).prop_map(|((write, drop, agent, switch, freeze), rest)| {
        let (mode, rules, approved, deleted, most, budget, spent, (level, floor, form)) = rest;
        // Most cases have nothing that refuses outright, or the rest would never be seen.
        let (agent, freeze) = (agent.min(2), freeze.saturating_sub(6));
        // Both permits are usually there.
        let rules = if deleted % 3 == 0 { rules } else { rules | 3 };
        Case {
            write,
            drop,
            agent,
            switch,
            freeze,
            mode,
            rules,
            approved,
            deleted,
            most,
            budget,
            spent,
            level,
            floor,
            form,
        }
    })
}

impl Case {
    /// What the gates say.
    fn decide(&self, phase: Phase, world: &mut World) -> Decision {
        world.contract = contract(
            &registered(if self.write { "shop__execute" } else { "shop__query" }),
            "a.txt",
            if self.drop { "drop" } else { "delete" },
        );
        let small = Form {
            name: "small".into(),
            set: [("most".to_owned(), 1.into())].into_iter().collect(),
            ..Form::default()
        };
        world.forms = (self.form > 0).then_some(small).into_iter().collect();
        world.contract.form = (self.form == 2).then(|| Formed {
            from: run_id(1),
            of: world.contract.digest(),
            forms: vec!["small".into()],
            dry_run: false,
            changed: Vec::new(),
            why: "so".into(),
            asked: vec![Asked::of(&world.contract, vec!["small".into()])],
            reviews: Vec::new(),
        });
        world.agent = (self.agent > 0).then(|| {
            let suspended = (self.agent == 1).then(|| "looked odd".to_owned());
            crate::gates::ownership::Agent { suspended, ..agent() }
        });
        let switch = Switch { scope: Scope::Everything, reason: "stop".into(), by: "anna".into(), since: at(0) };
        let freeze = Freeze {
            name: "calm".into(),
            reason: "calm".into(),
            environments: Vec::new(),
            from: None,
            until: None,
            measure: self.freeze == 2,
            ..Freeze::default()
        };
        world.controls = Controls {
            switches: self.switch.then_some(switch).into_iter().collect(),
            freezes: (self.freeze > 0).then_some(freeze).into_iter().collect(),
            denies: Vec::new(),
        };
        world.mode = self.mode;
        world.approved = self.approved;
        let budget = self.budget.map(|deletions| Budget {
            per: Per::Agent,
            window: jiff::SignedDuration::from_hours(1),
            actions: None,
            most: Caps { deletions: Some(deletions), ..Caps::default() },
        });
        let action = Caps { deletions: self.most, ..Caps::default() };
        world.limits = Limits { action, budgets: budget.into_iter().collect(), ..Limits::default() };
        world.spent = vec![Spent { deletions: self.spent, ..Spent::default() }; world.limits.budgets.len()];
        world.floor = Floor { level: self.floor, ..Floor::default() };
        let mut found = measurement(blast(self.deleted), "x");
        let footprint = Footprint { completeness: Completeness::Closed, ..found.plan.footprint.clone() };
        found.plan = RollbackPlan::new(self.level, "so", footprint);
        let measured = Some(Measured { effect: &found.effect, plan: &found.plan }).filter(|_| phase == Phase::After);
        let facts = Facts { policy: &POLICIES[usize::from(self.rules)], measured, ..world.facts() };
        decide(phase, &facts)
    }

    /// What a decision must come to, without asking a gate.
    fn expected(&self, phase: Phase) -> Ruling {
        use Ruling::{Allow, Constrain, Deny, Fallback, Review};
        let after = phase == Phase::After;
        let has = |rule: u8| self.rules & (1 << rule) != 0;
        let mut worst = Allow;
        let mut say = |when: bool, ruling: Ruling| {
            if when {
                worst = worst.max(ruling);
            }
        };
        say(self.agent == 0 || (!after && self.agent == 1), Deny);
        say(self.switch, Deny);
        say(self.write && (self.freeze == 1 || (self.freeze == 2 && after)), Deny);
        if !after {
            say(self.mode == Mode::Off || self.mode == Mode::SearchOnly, Deny);
            say(self.mode == Mode::Fallback && self.write, Fallback);
            say(self.mode == Mode::Draft && self.write && !self.approved, Review);
        }
        say(!has(u8::from(self.write)), Deny);
        say(has(4) && self.drop, Fallback);
        if after {
            say(self.write && has(2) && self.deleted > 3, Deny);
            say(self.write && has(3) && self.deleted > 1 && !self.approved, Review);
            say(self.most.is_some_and(|most| self.deleted > most), Deny);
            say(self.budget.is_some_and(|budget| self.spent + self.deleted > budget), Deny);
            say(!self.approved && self.deleted > 0 && self.level < self.floor, Review);
        }
        let asked = has(5) && self.write && self.form < 2;
        say(asked, Constrain);
        // What may run only in a form that is not there does not run.
        if asked && self.form == 0 { Deny } else { worst }
    }

    /// The same with one fact more restrictive.
    fn tighter(&self) -> Vec<Case> {
        let mut all = Vec::new();
        let mut with = |change: &dyn Fn(&mut Case)| {
            let mut tighter = self.clone();
            change(&mut tighter);
            all.push(tighter);
        };
        for forbid in 2..6 {
            with(&|case| case.rules |= 1 << forbid);
        }
        for permit in 0..2 {
            with(&|case| case.rules &= !(1 << permit));
        }
        with(&|case| case.agent = 0);
        with(&|case| case.agent = case.agent.min(1));
        with(&|case| case.switch = true);
        with(&|case| case.freeze = 1);
        with(&|case| case.mode = Mode::Off);
        with(&|case| case.form = case.form.saturating_sub(1));
        if self.mode == Mode::Enforce {
            with(&|case| case.mode = Mode::Draft);
        }
        with(&|case| case.approved = false);
        with(&|case| case.deleted += 1);
        with(&|case| case.most = Some(case.most.map_or(2, |most| most.saturating_sub(1))));
        with(&|case| case.budget = Some(case.budget.map_or(2, |most| most.saturating_sub(1))));
        with(&|case| case.spent += 1);
        with(&|case| case.level = Level::None);
        with(&|case| case.floor = Level::Proved);
        all
    }

    fn phases(&self) -> &'static [Phase] {
        // A read has nothing to measure.
        if self.write { &[Phase::Before, Phase::After] } else { &[Phase::Before] }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_gates_together_decide_as_a_second_evaluator_does(case in case()) {
        let mut world = World::new("", "shop__execute");
        for phase in case.phases() {
            let decision = case.decide(*phase, &mut world);
            prop_assert_eq!(decision.ruling, case.expected(*phase), "{:?}: {:?}", phase, decision);
        }
    }

    #[test]
    fn more_restrictive_facts_never_loosen_an_answer(case in case()) {
        let mut world = World::new("", "shop__execute");
        for phase in case.phases() {
            let before = case.decide(*phase, &mut world).ruling;
            for tighter in case.tighter() {
                let after = tighter.decide(*phase, &mut world);
                prop_assert!(after.ruling >= before, "{:?} {:?}: {:?}", phase, tighter, after);
            }
        }
    }
}

/// Cases that are all refused would agree with anything that refuses.
#[test]
fn the_cases_reach_every_outcome() {
    let mut seen = std::collections::BTreeMap::new();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..2_000 {
        let case = case().new_tree(&mut runner).unwrap().current();
        for phase in case.phases() {
            *seen.entry(case.expected(*phase)).or_insert(0) += 1;
        }
    }
    for ruling in [Ruling::Allow, Ruling::Constrain, Ruling::Review, Ruling::Fallback, Ruling::Deny] {
        assert!(seen.get(&ruling).is_some_and(|count| *count > 30), "{seen:?}");
    }
}
