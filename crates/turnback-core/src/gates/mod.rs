//! The gates, in order.
//!
//! A gate is a pure function from facts to a verdict. To add one: write `gates/<name>.rs` with a
//! `judge`, add one line to [`GATES`], add a scenario. Everything a gate reads is in [`Facts`]; the
//! gateway fetches it, records it, and can replay the decision from the record.

pub mod authorization;
pub mod blast_radius;
pub mod controls;
pub mod ownership;
pub mod recoverability;
pub mod release;

use jiff::Timestamp;

use crate::contract::Contract;
use crate::decision::{Decision, Phase, Verdict};
use crate::effect::Effect;
use crate::gates::blast_radius::{Limits, Spent};
use crate::gates::controls::Controls;
use crate::gates::ownership::Agent;
use crate::gates::recoverability::Floor;
use crate::gates::release::Mode;
use crate::policy::Policy;
use crate::rollback::RollbackPlan;

/// What staging found, for the second group of gates.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// The measured effect.
    pub effect: &'a Effect,
    /// The way back.
    pub plan: &'a RollbackPlan,
}

/// Everything the gates may look at. Plain data: equal facts give equal decisions.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The action.
    pub contract: &'a Contract,
    /// The time of the decision.
    pub now: Timestamp,
    /// The registered agent, when the actor is an agent and is known.
    pub agent: Option<&'a Agent>,
    /// Switches and freezes.
    pub controls: &'a Controls,
    /// The mode of the action's environment.
    pub mode: Mode,
    /// The compiled policy.
    pub policy: &'a Policy,
    /// Limits per action and the agent's budget.
    pub limits: &'a Limits,
    /// What the agent spent of its budget inside the window, reservations of running actions included.
    pub spent: Spent,
    /// What the way back must at least be.
    pub floor: &'a Floor,
    /// A person approved exactly this action and effect.
    pub approved: bool,
    /// Present in the second phase.
    pub measured: Option<Measured<'a>>,
}

/// One gate of the list.
pub struct Gate {
    /// Its name in verdicts, records and documentation.
    pub name: &'static str,
    /// It speaks before the target is touched.
    pub before: bool,
    /// It speaks after staging.
    pub after: bool,
    /// Its judgement.
    pub judge: fn(&Facts<'_>) -> Verdict,
}

/// All gates in the order they are asked. The order is for the reader of a record; the combine rule
/// does not depend on it.
pub const GATES: &[Gate] = &[
    Gate { name: ownership::NAME, before: true, after: false, judge: ownership::judge },
    Gate { name: controls::NAME, before: true, after: true, judge: controls::judge },
    Gate { name: release::NAME, before: true, after: false, judge: release::judge },
    Gate { name: authorization::NAME, before: true, after: true, judge: authorization::judge },
    Gate { name: blast_radius::NAME, before: false, after: true, judge: blast_radius::judge },
    Gate { name: recoverability::NAME, before: false, after: true, judge: recoverability::judge },
];

/// Asks every gate of `phase`. All of them speak, so that the record names each that would have said
/// no, not only the first.
pub fn decide(phase: Phase, facts: &Facts<'_>) -> Decision {
    let verdicts = GATES
        .iter()
        .filter(|gate| match phase {
            Phase::Before => gate.before,
            Phase::After => gate.after,
        })
        .map(|gate| (gate.judge)(facts))
        .collect();
    Decision::combine(phase, facts.policy.digest(), verdicts)
}
