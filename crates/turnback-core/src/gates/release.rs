//! `release`: the mode of the action's environment.

use serde::{Deserialize, Serialize};

use super::Facts;
use crate::contract::Actor;
use crate::decision::{Obligation, Ruling, Verdict};

/// This gate's name.
pub const NAME: &str = "release";

/// How much an environment lets agents do. Ordered from nothing to everything the other gates allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing: every call is refused.
    Off,
    /// Reads run. Writes are staged, measured, judged and recorded, never committed.
    #[default]
    Observe,
    /// Reads run. Every write waits for a person.
    Draft,
    /// All gates decide.
    Enforce,
}

impl Mode {
    /// The word used in configuration and output.
    pub const fn word(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Observe => "observe",
            Mode::Draft => "draft",
            Mode::Enforce => "enforce",
        }
    }
}

/// Asks what the environment's mode allows.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let environment = &facts.contract.environment;
    if !matches!(facts.contract.actor, Actor::Agent(_)) {
        return Verdict::new(NAME, Ruling::Allow, "modes govern agents");
    }
    let verdict = |ruling, what: &str| {
        Verdict::new(NAME, ruling, format!("environment `{environment}` is in mode `{}`: {what}", facts.mode.word()))
    };
    match facts.mode {
        Mode::Off => verdict(Ruling::Deny, "nothing runs"),
        _ if !facts.contract.writes() => verdict(Ruling::Allow, "reads run"),
        Mode::Observe => verdict(Ruling::Allow, "writes are measured and recorded, never committed")
            .oblige(Obligation::MeasureOnly)
            .next(format!("an operator sets mode = \"draft\" or \"enforce\" for `{environment}`")),
        Mode::Draft if facts.approved => verdict(Ruling::Allow, "a person approved"),
        Mode::Draft => verdict(Ruling::Review, "every write waits for a person"),
        Mode::Enforce => verdict(Ruling::Allow, "all gates decide"),
    }
}
