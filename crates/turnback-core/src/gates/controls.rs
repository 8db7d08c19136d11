//! `controls`: kill switches, denylists and change freezes.
//!
//! A switch or a deny stops everything it names an agent does, reads included. A freeze stops writes,
//! whoever asks; an undo is never frozen, because taking back is how people get out of trouble. Who a
//! freeze excepts is not let through: a person decides, and that yes counts for this freeze alone.

mod calendar;
mod freeze;
mod selector;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ownership::Agent;
use super::{Facts, Measured};
use crate::contract::Contract;
use crate::decision::{Obligation, Ruling, Verdict};
use crate::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use crate::text::visible;
use crate::tool::Risk;

pub use calendar::{Calendar, Day, UnknownZone, Zone};
pub use freeze::Freeze;
pub use selector::Selector;

/// This gate's name.
pub const NAME: &str = "controls";

/// Which agents' actions something is about: what a kill switch stops, whom a limit concerns.
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
    /// Every agent of one owner.
    Owner(String),
    /// One workflow.
    Workflow(String),
    /// One class of risk.
    Risk(Risk),
    /// One environment.
    Environment(EnvironmentName),
}

impl Scope {
    /// Whether it concerns this action of `agent`. People are never concerned: undo must stay possible
    /// when all else is off.
    pub fn covers(&self, contract: &Contract, agent: Option<&Agent>) -> bool {
        if contract.actor.agent().is_none() {
            return false;
        }
        match self {
            Scope::Everything => true,
            Scope::Agent(name) => contract.actor.agent() == Some(name),
            Scope::Tool(name) => contract.tool == *name,
            Scope::Resource(name) => contract.resource == *name,
            // Nobody registered it: who owns it cannot be told.
            Scope::Owner(name) => agent.is_none_or(|agent| agent.owner == *name),
            Scope::Workflow(name) => contract.assignment.workflow.as_ref() == Some(name),
            Scope::Risk(risk) => contract.risk == *risk,
            Scope::Environment(name) => contract.environment == *name,
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
            Scope::Owner(name) => write!(f, "owner `{}`", visible(name)),
            Scope::Workflow(name) => write!(f, "workflow `{}`", visible(name)),
            Scope::Risk(risk) => write!(f, "risk `{}`", risk.word()),
            Scope::Environment(name) => write!(f, "environment `{name}`"),
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

/// An entry of the denylist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deny {
    /// Its name.
    pub name: String,
    /// What it denies agents.
    pub what: Selector,
    /// Why, for whoever is refused.
    pub reason: String,
    /// The operator who added it; `None` when it is in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// All switches thrown, denylists and freezes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Controls {
    /// Kill switches that are thrown.
    pub switches: Vec<Switch>,
    /// Freezes, active or not.
    pub freezes: Vec<Freeze>,
    /// The denylist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denies: Vec<Deny>,
}

/// What some of the controls say, before it is one verdict.
#[derive(Default)]
struct Said {
    reasons: Vec<String>,
    rules: Vec<String>,
}

impl Said {
    fn add(&mut self, rule: String, reason: String) {
        self.reasons.push(reason);
        self.rules.push(rule);
    }

    fn verdict(self, ruling: Ruling, next: &str) -> Verdict {
        let verdict = Verdict::new(NAME, ruling, self.reasons.join("; ")).next(next);
        self.rules.into_iter().fold(verdict, Verdict::rule)
    }
}

/// Asks whether a switch, a deny or a freeze stops the action.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    stopped(facts.contract, facts.agent, facts.controls, facts.measured).unwrap_or_else(|| frozen(facts))
}

/// Why an agent may have nothing to do with such an action, its being taken back included: a switch or a deny.
pub fn stopped(
    contract: &Contract,
    agent: Option<&Agent>,
    controls: &Controls,
    measured: Option<Measured<'_>>,
) -> Option<Verdict> {
    let mut stopped = Said::default();
    for switch in controls.switches.iter().filter(|s| s.scope.covers(contract, agent)) {
        let reason = format!("kill switch on {} by {}: {}", switch.scope, visible(&switch.by), visible(&switch.reason));
        stopped.add(format!("kill {}", switch.scope), reason);
    }
    if !stopped.rules.is_empty() {
        return Some(stopped.verdict(Ruling::Deny, "wait until an operator lifts the switch"));
    }
    if contract.actor.agent().is_some() {
        for deny in controls.denies.iter().filter(|d| d.what.selects(contract, agent, measured)) {
            let name = visible(&deny.name);
            stopped
                .add(format!("deny {name}"), format!("denylist `{name}` ({}): {}", deny.what, visible(&deny.reason)));
        }
    }
    (!stopped.rules.is_empty())
        .then(|| stopped.verdict(Ruling::Deny, "do something else; an operator decides what is on the denylist"))
}

fn frozen(facts: &Facts<'_>) -> Verdict {
    let contract = facts.contract;
    let mut refused = Said::default();
    let mut later = Said::default();
    let mut asked = Said::default();
    let mut exceptions = Vec::new();
    for freeze in &facts.controls.freezes {
        // Which of two times is right nobody can tell: either is enough to refuse.
        let times = [Some(facts.now), facts.wall];
        let Some(until) = times.into_iter().flatten().find_map(|now| freeze.active(contract, now)) else { continue };
        let name = visible(&freeze.name);
        let rule = format!("freeze {name}");
        let on = format!("change freeze `{name}` on `{}` {until}: {}", contract.environment, visible(&freeze.reason));
        let exception = freeze.exceptions.iter().find(|e| e.selects(contract, facts.agent, None));
        match (exception, facts.measured) {
            (Some(_), _) if facts.excepted.contains(&freeze.name) => {}
            (Some(exception), _) => {
                asked.add(rule, format!("{on}; {exception} is excepted when a person agrees"));
                exceptions.push(freeze.name.clone());
            }
            // The freeze refuses in the second phase, with the numbers.
            (None, None) if freeze.measure => {
                later.add(rule, format!("freeze `{name}` is on; measured first, then refused"));
            }
            (None, measured) => {
                refused.add(rule, on + &measured.map_or_else(String::new, |m| format!("; it {}", m.effect.summary)));
            }
        }
    }
    if !refused.rules.is_empty() {
        return refused.verdict(Ruling::Deny, "reads are answered; ask again after the freeze");
    }
    if !asked.rules.is_empty() {
        let verdict = asked.verdict(Ruling::Review, "a person decides whether the exception holds for this action");
        return exceptions.into_iter().fold(verdict, |v, freeze| v.oblige(Obligation::FreezeException { freeze }));
    }
    if !later.rules.is_empty() {
        return Verdict { next: None, ..later.verdict(Ruling::Allow, "") };
    }
    let says = if facts.excepted.is_empty() {
        "no switch is thrown and no freeze is on"
    } else {
        "a person agreed to the exception from the freeze"
    };
    Verdict::new(NAME, Ruling::Allow, says)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Actor;
    use crate::fixtures::{World, at, blast, measurement};
    use crate::tool::Verb;

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
            ..Freeze::default()
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
            (Scope::Owner("anna".into()), true),
            (Scope::Owner("ben".into()), false),
            (Scope::Workflow("billing".into()), true),
            (Scope::Workflow("support".into()), false),
            (Scope::Risk(Risk::ScopedRead), true),
            (Scope::Risk(Risk::SensitiveRead), false),
            (Scope::Environment(EnvironmentName::new("production").unwrap()), true),
            (Scope::Environment(EnvironmentName::new("test").unwrap()), false),
        ] {
            let mut world = World::new("", "shop__query");
            world.contract.assignment.workflow = Some("billing".into());
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

    fn excepted() -> Freeze {
        let exception = Selector { agents: vec![AgentName::new("coder").unwrap()], ..Selector::default() };
        Freeze { exceptions: vec![exception], from: None, until: None, ..freeze(false) }
    }

    #[test]
    fn an_exception_asks_a_person_and_only_the_answer_to_that_lets_through() {
        let mut world = World::new("", "shop__execute");
        world.controls.freezes = vec![excepted()];
        let asked = judge(&world.facts());
        assert_eq!(asked.ruling, Ruling::Review);
        assert_eq!(asked.obligations, [Obligation::FreezeException { freeze: "release".into() }]);
        world.approved = true;
        assert_eq!(ruling(&world), Ruling::Review, "an approval of something else");
        world.excepted = vec!["another".into()];
        assert_eq!(ruling(&world), Ruling::Review, "an exception from another freeze");
        (world.approved, world.excepted) = (false, vec!["release".into()]);
        assert_eq!(ruling(&world), Ruling::Allow);
        // Who is not excepted is not asked about, and a freeze without exception holds beside one with.
        world.controls.freezes.push(Freeze { name: "books".into(), exceptions: vec![], ..excepted() });
        assert_eq!(ruling(&world), Ruling::Deny);
        world.controls.freezes.remove(1);
        world.contract.actor = Actor::Agent(AgentName::new("other").unwrap());
        world.excepted.clear();
        assert_eq!(ruling(&world), Ruling::Deny);
    }

    #[test]
    fn everything_that_stops_an_action_is_named() {
        let mut world = World::new("", "shop__query");
        let deny =
            |name: &str, what| Deny { name: name.into(), what, reason: "no\u{202e}".into(), by: None, since: None };
        let tools = |name| Selector { tools: vec![ToolName::new(name).unwrap()], ..Selector::default() };
        let owners = Selector { owners: vec!["anna".into()], ..Selector::default() };
        world.controls.denies =
            vec![deny("a", tools("shop__query")), deny("b", tools("shop__execute")), deny("c", owners)];
        let verdict = judge(&world.facts());
        assert_eq!(verdict.ruling, Ruling::Deny);
        assert_eq!(verdict.rules, ["deny a", "deny c"]);
        assert_eq!(
            verdict.reason,
            "denylist `a` (tool `shop__query`): no<U+202E>; denylist `c` (owner `anna`): no<U+202E>"
        );
        world.contract.actor = Actor::Operator("anna".into());
        assert_eq!(ruling(&world), Ruling::Allow);
    }
}
