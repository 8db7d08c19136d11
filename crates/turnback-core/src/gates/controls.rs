//! `controls`: kill switches and change freezes.
//!
//! A switch stops everything an agent does, reads included. A freeze stops writes, whoever asks; an
//! undo is never frozen, because taking back is how people get out of trouble.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::contract::Contract;
use crate::decision::{Ruling, Verdict};
use crate::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use crate::text::visible;
use crate::tool::Verb;

/// This gate's name.
pub const NAME: &str = "controls";

/// What a kill switch stops.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "name")]
pub enum Scope {
    /// Everything.
    Everything,
    /// One agent.
    Agent(AgentName),
    /// One tool.
    Tool(ToolName),
    /// One resource.
    Resource(ResourceName),
}

impl Scope {
    /// Whether the switch concerns this action. People are not stopped: undo must stay possible when
    /// all else is off.
    fn covers(&self, contract: &Contract) -> bool {
        if contract.actor.agent().is_none() {
            return false;
        }
        match self {
            Scope::Everything => true,
            Scope::Agent(name) => contract.actor.agent() == Some(name),
            Scope::Tool(name) => contract.tool == *name,
            Scope::Resource(name) => contract.resource == *name,
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Scope::Everything => f.write_str("everything"),
            Scope::Agent(name) => write!(f, "agent `{name}`"),
            Scope::Tool(name) => write!(f, "tool `{name}`"),
            Scope::Resource(name) => write!(f, "resource `{name}`"),
        }
    }
}

/// A kill switch that is thrown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// What it stops.
    pub scope: Scope,
    /// Why, in the words of whoever threw it.
    pub reason: String,
    /// Who threw it.
    pub by: String,
    /// When.
    pub since: Timestamp,
}

/// A change freeze.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Its name.
    pub name: String,
    /// Why, for whoever is refused.
    pub reason: String,
    /// The environments concerned; empty for all.
    pub environments: Vec<EnvironmentName>,
    /// First moment; `None` for always.
    pub from: Option<Timestamp>,
    /// First moment after it; `None` for open end.
    pub until: Option<Timestamp>,
    /// Stage refused writes anyway, so that the refusal and the record say how much it would have
    /// been. Off, a frozen write never touches the target.
    pub measure: bool,
}

impl Freeze {
    fn active(&self, contract: &Contract, now: Timestamp) -> bool {
        contract.writes()
            && contract.verb != Verb::Undo
            && (self.environments.is_empty() || self.environments.contains(&contract.environment))
            && self.from.is_none_or(|from| from <= now)
            && self.until.is_none_or(|until| now < until)
    }
}

/// All switches thrown and freezes configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controls {
    /// Kill switches that are thrown.
    pub switches: Vec<Switch>,
    /// Freezes, active or not.
    pub freezes: Vec<Freeze>,
}

/// Asks whether a switch or a freeze stops the action.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    if let Some(switch) = facts.controls.switches.iter().find(|s| s.scope.covers(facts.contract)) {
        return Verdict::new(
            NAME,
            Ruling::Deny,
            format!("kill switch on {} by {}: {}", switch.scope, visible(&switch.by), visible(&switch.reason)),
        )
        .rule(format!("kill {}", switch.scope))
        .next("wait until an operator lifts the switch");
    }
    let frozen = facts.controls.freezes.iter().find(|f| {
        // Which of two times is right nobody can tell: either is enough to refuse.
        f.active(facts.contract, facts.now) || facts.wall.is_some_and(|wall| f.active(facts.contract, wall))
    });
    match (frozen, facts.measured) {
        (None, _) => Verdict::new(NAME, Ruling::Allow, "no switch is thrown and no freeze is on"),
        // The freeze refuses in the second phase, with the numbers.
        (Some(freeze), None) if freeze.measure => {
            Verdict::new(NAME, Ruling::Allow, format!("freeze `{}` is on; measured first, then refused", freeze.name))
                .rule(format!("freeze {}", freeze.name))
        }
        (Some(freeze), measured) => {
            let until = freeze.until.map_or_else(|| "until it is lifted".to_owned(), |t| format!("until {t}"));
            let size = measured.map_or_else(String::new, |m| format!("; it {}", m.effect.summary));
            Verdict::new(
                NAME,
                Ruling::Deny,
                format!(
                    "change freeze `{}` on `{}` {until}: {}{size}",
                    freeze.name,
                    facts.contract.environment,
                    visible(&freeze.reason)
                ),
            )
            .rule(format!("freeze {}", freeze.name))
            .next("reads are answered; ask again after the freeze")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Actor;
    use crate::fixtures::{World, at, blast, measurement};

    fn switch(scope: Scope) -> Switch {
        Switch { scope, reason: "it runs wild\u{202e}".into(), by: "anna".into(), since: at(0) }
    }

    fn freeze(measure: bool) -> Freeze {
        Freeze {
            name: "release".into(),
            reason: "we ship on Friday".into(),
            environments: vec![],
            from: Some(at(10)),
            until: Some(at(20)),
            measure,
        }
    }

    fn ruling(world: &World) -> Ruling {
        judge(&world.facts()).ruling
    }

    #[test]
    fn a_switch_stops_what_it_names_and_reads_too() {
        let agent = |name| Scope::Agent(AgentName::new(name).unwrap());
        let tool = |name| Scope::Tool(ToolName::new(name).unwrap());
        let resource = |name| Scope::Resource(ResourceName::new(name).unwrap());
        for (scope, stops) in [
            (Scope::Everything, true),
            (agent("coder"), true),
            (agent("other"), false),
            (tool("shop__query"), true),
            (tool("shop__execute"), false),
            (resource("shop"), true),
            (resource("notes"), false),
        ] {
            let mut world = World::new("", "shop__query");
            world.controls.switches = vec![switch(scope.clone())];
            assert_eq!(ruling(&world), if stops { Ruling::Deny } else { Ruling::Allow }, "{scope}");
            // People can still undo.
            world.contract.actor = Actor::Operator("anna".into());
            assert_eq!(ruling(&world), Ruling::Allow, "{scope}");
        }
        let mut world = World::new("", "shop__query");
        world.controls.switches = vec![switch(Scope::Everything)];
        let verdict = judge(&world.facts());
        assert_eq!(verdict.reason, "kill switch on everything by anna: it runs wild<U+202E>");
        assert_eq!(verdict.rules, ["kill everything"]);
    }

    #[test]
    fn a_freeze_stops_writes_from_its_first_moment_until_its_last() {
        for (second, frozen) in [(9, false), (10, true), (19, true), (20, false)] {
            let mut world = World::new("", "shop__execute");
            world.controls.freezes = vec![freeze(false)];
            world.now = at(second);
            assert_eq!(ruling(&world), if frozen { Ruling::Deny } else { Ruling::Allow }, "{second}");
            world.approved = true;
            assert_eq!(ruling(&world) == Ruling::Deny, frozen, "no approval lifts a freeze");
            world.contract.verb = Verb::Undo;
            assert_eq!(ruling(&world), Ruling::Allow, "an undo is never frozen");
        }
        let mut world = World::new("", "shop__query");
        world.controls.freezes = vec![Freeze { from: None, until: None, ..freeze(false) }];
        assert_eq!(ruling(&world), Ruling::Allow, "reads are answered");
    }

    #[test]
    fn a_clock_set_back_neither_ends_a_freeze_nor_hides_one() {
        for (now, wall, frozen) in [(15, -99, true), (99, 15, true), (99, -99, false)] {
            let mut world = World::new("", "shop__execute");
            world.controls.freezes = vec![freeze(false)];
            (world.now, world.wall) = (at(now), Some(at(wall)));
            assert_eq!(ruling(&world) == Ruling::Deny, frozen, "{now} {wall}");
        }
    }

    #[test]
    fn a_freeze_holds_in_its_environments() {
        for (environment, frozen) in [("production", true), ("staging", false)] {
            let mut world = World::new("", "shop__execute");
            let environments = vec![EnvironmentName::new(environment).unwrap()];
            world.controls.freezes = vec![Freeze { environments, from: None, until: None, ..freeze(false) }];
            assert_eq!(ruling(&world) == Ruling::Deny, frozen);
        }
    }

    #[test]
    fn a_measuring_freeze_refuses_with_the_numbers() {
        let mut world = World::new("", "shop__execute");
        world.controls.freezes = vec![freeze(true)];
        world.now = at(15);
        assert_eq!(ruling(&world), Ruling::Allow);
        world.measurement = Some(measurement(blast(1206), "x"));
        let verdict = judge(&world.facts());
        assert_eq!(verdict.ruling, Ruling::Deny);
        assert!(verdict.reason.ends_with("we ship on Friday; it deletes 1206 rows"), "{}", verdict.reason);
    }
}
