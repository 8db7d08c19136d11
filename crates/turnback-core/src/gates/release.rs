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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::World;

    #[test]
    fn each_mode_does_what_it_says() {
        use Ruling::{Allow, Deny, Review};
        for (mode, read, write, approved) in [
            (Mode::Off, Deny, Deny, Deny),
            (Mode::Observe, Allow, Allow, Allow),
            (Mode::Draft, Allow, Review, Allow),
            (Mode::Enforce, Allow, Allow, Allow),
        ] {
            let judged = |tool: &str, approved: bool| {
                let mut world = World::new("", tool);
                world.mode = mode;
                world.approved = approved;
                judge(&world.facts())
            };
            assert_eq!(judged("shop__query", false).ruling, read, "{mode:?}");
            assert_eq!(judged("shop__execute", false).ruling, write, "{mode:?}");
            assert_eq!(judged("shop__execute", true).ruling, approved, "{mode:?}");
            // Only observing measures, it measures only writes, and no approval changes that.
            for (tool, approved) in [("shop__execute", false), ("shop__execute", true), ("shop__query", false)] {
                assert_eq!(
                    judged(tool, approved).obligations.contains(&Obligation::MeasureOnly),
                    mode == Mode::Observe && tool == "shop__execute"
                );
            }
        }
    }

    #[test]
    fn what_nobody_configured_is_observed() {
        assert_eq!(Mode::default(), Mode::Observe);
    }

    #[test]
    fn modes_do_not_stop_people() {
        let mut world = World::new("", "shop__execute");
        world.mode = Mode::Off;
        world.contract.actor = Actor::Turnback;
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    }
}
