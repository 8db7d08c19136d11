//! `autonomy`: how much an agent does alone, for each class of action.
//!
//! | level | writes |
//! |---|---|
//! | 1 | are proposals: staged and measured, a person applies them or nobody does |
//! | 2 | each waits for a person |
//! | 3 | run alone while the gate `recoverability` is content with the way back; what somebody outside sees, or has no way back, waits for a person |
//! | 4 | run alone, within what the other gates allow |
//!
//! An agent has one level and may have others for single classes of risk; the configuration may set a ceiling for a
//! class whoever acts. The lower counts. At level 3 an administrative change runs like any other whose way back
//! reaches the floor; whoever wants to see each sets level 2 for that class.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Facts;
use crate::contract::Actor;
use crate::decision::{Ruling, Verdict};
use crate::tool::Risk;

/// This gate's name.
pub const NAME: &str = "autonomy";

/// How much is done alone. Ordered from nothing to everything the other gates allow; written as its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Level {
    /// 1: observe and recommend.
    Propose,
    /// 2: act with approval.
    Approved,
    /// 3: routine alone. What an agent gets that nobody said otherwise about.
    #[default]
    Routine,
    /// 4: alone within bounds.
    Bounded,
}

impl Level {
    /// Its number, 1 to 4.
    pub const fn number(self) -> u8 {
        match self {
            Level::Propose => 1,
            Level::Approved => 2,
            Level::Routine => 3,
            Level::Bounded => 4,
        }
    }

    /// The level with that number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Level::Propose),
            2 => Some(Level::Approved),
            3 => Some(Level::Routine),
            4 => Some(Level::Bounded),
            _ => None,
        }
    }
}

impl From<Level> for u8 {
    fn from(level: Level) -> Self {
        level.number()
    }
}

impl TryFrom<u8> for Level {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        Level::from_number(number).ok_or_else(|| format!("{number} is no level of autonomy: use 1, 2, 3 or 4"))
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().ok().and_then(Level::from_number).ok_or_else(|| "use 1, 2, 3 or 4".to_owned())
    }
}

/// The levels of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Levels {
    /// For every class of action not named.
    #[serde(default)]
    pub level: Level,
    /// For single classes of risk.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<Risk, Level>,
}

impl Levels {
    /// Nobody said anything.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The level for one class.
    pub fn of(&self, risk: Risk) -> Level {
        self.classes.get(&risk).copied().unwrap_or(self.level)
    }
}

/// The highest level of any agent, for each class of risk that has a ceiling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ceilings(pub BTreeMap<Risk, Level>);

impl Ceilings {
    /// No class has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Asks whether the agent may do this alone.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let contract = facts.contract;
    let Actor::Agent(name) = &contract.actor else {
        return Verdict::new(NAME, Ruling::Allow, "levels govern agents");
    };
    let Some(agent) = facts.agent else {
        return Verdict::new(NAME, Ruling::Deny, format!("agent `{name}` is not registered and has no level"));
    };
    if !contract.writes() {
        return Verdict::new(NAME, Ruling::Allow, "reads run at every level");
    }
    let (own, ceiling) = (agent.levels.of(contract.risk), facts.ceilings.0.get(&contract.risk).copied());
    let level = ceiling.map_or(own, |ceiling| ceiling.min(own));
    let class = contract.risk.word();
    let whose = if level < own { "the ceiling" } else { "the level of its agent" };
    let says = |what: &str| format!("{whose} for `{class}` is {}: {what}", level.number());
    let asks = |what: &str| {
        let raise = if level < own {
            format!("an operator raises {class} in [autonomy]")
        } else {
            format!("an operator raises it: turnback agents level {name} <level> --class {class} --reason <why>")
        };
        Verdict::new(NAME, Ruling::Review, says(what)).next(raise)
    };
    match level {
        _ if facts.approved => Verdict::new(NAME, Ruling::Allow, "a person approved"),
        Level::Propose => asks("it proposes, a person applies it or nobody does"),
        Level::Approved => asks("every write waits for a person"),
        Level::Routine if matches!(contract.risk, Risk::ExternalEffect | Risk::Irreversible) => {
            asks("only what can be taken back runs alone")
        }
        Level::Routine => Verdict::new(NAME, Ruling::Allow, says("what can be taken back runs alone")),
        Level::Bounded => Verdict::new(NAME, Ruling::Allow, says("it acts alone within bounds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::World;

    fn judged(levels: Levels, ceilings: &[(Risk, Level)], risk: Risk, approved: bool) -> Verdict {
        let mut world = World::new("", "shop__execute");
        world.contract.risk = risk;
        world.approved = approved;
        world.ceilings = Ceilings(ceilings.iter().copied().collect());
        if let Some(agent) = &mut world.agent {
            agent.levels = levels;
        }
        judge(&world.facts())
    }

    #[test]
    fn each_level_does_what_it_says() {
        use Level::{Approved, Bounded, Propose, Routine};
        use Risk::{AdminAction, ExternalEffect, Irreversible, ReversibleWrite, Search, SensitiveRead};
        use Ruling::{Allow, Review};
        for (level, rulings) in [
            (Propose, [Allow, Allow, Review, Review, Review, Review]),
            (Approved, [Allow, Allow, Review, Review, Review, Review]),
            (Routine, [Allow, Allow, Allow, Allow, Review, Review]),
            (Bounded, [Allow; 6]),
        ] {
            let risks = [Search, SensitiveRead, ReversibleWrite, AdminAction, ExternalEffect, Irreversible];
            for (risk, ruling) in risks.into_iter().zip(rulings) {
                let levels = Levels { level, classes: BTreeMap::new() };
                assert_eq!(judged(levels.clone(), &[], risk, false).ruling, ruling, "{level:?} {risk:?}");
                assert_eq!(judged(levels, &[], risk, true).ruling, Allow, "{level:?} {risk:?}");
            }
        }
        assert_eq!(Level::default(), Routine);
    }

    #[test]
    fn the_lower_of_level_and_ceiling_counts() {
        let risk = Risk::ReversibleWrite;
        let own = |own| Levels { level: Level::Bounded, classes: BTreeMap::from([(risk, own)]) };
        for (level, ceiling, ruling, says) in [
            (Level::Bounded, Level::Approved, Ruling::Review, "the ceiling for `reversible_write` is 2"),
            (Level::Approved, Level::Bounded, Ruling::Review, "the level of its agent for `reversible_write` is 2"),
            (Level::Bounded, Level::Bounded, Ruling::Allow, "is 4"),
        ] {
            let verdict = judged(own(level), &[(risk, ceiling)], risk, false);
            assert_eq!(verdict.ruling, ruling);
            assert!(verdict.reason.contains(says), "{}", verdict.reason);
            // Of another class, neither says anything.
            assert_eq!(judged(own(level), &[(risk, ceiling)], Risk::AdminAction, false).ruling, Ruling::Allow);
        }
    }

    #[test]
    fn nobody_has_no_level_and_people_need_none() {
        let mut world = World::new("", "shop__execute");
        world.agent = None;
        assert_eq!(judge(&world.facts()).ruling, Ruling::Deny);
        world.contract.actor = Actor::Operator("anna".into());
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    }

    #[test]
    fn a_level_is_written_as_its_number() {
        let levels = Levels { level: Level::Bounded, classes: BTreeMap::from([(Risk::AdminAction, Level::Approved)]) };
        let text = serde_json::to_string(&levels).unwrap();
        assert_eq!(text, r#"{"level":4,"classes":{"admin_action":2}}"#);
        assert_eq!(serde_json::from_str::<Levels>(&text).unwrap(), levels);
        serde_json::from_str::<Levels>(r#"{"level":5}"#).unwrap_err();
        serde_json::from_str::<Levels>(r#"{"level":0}"#).unwrap_err();
    }
}
