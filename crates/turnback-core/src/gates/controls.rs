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
    let frozen = facts.controls.freezes.iter().find(|f| f.active(facts.contract, facts.now));
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
