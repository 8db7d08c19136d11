//! Change freezes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Calendar, Selector};
use crate::contract::Contract;
use crate::names::EnvironmentName;
use crate::tool::Verb;

/// A change freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// Its name.
    pub name: String,
    /// Why, for whoever is refused.
    pub reason: String,
    /// The environments concerned; empty for all.
    #[serde(default)]
    pub environments: Vec<EnvironmentName>,
    /// First moment; `None` for always.
    pub from: Option<Timestamp>,
    /// First moment after it; `None` for open end.
    pub until: Option<Timestamp>,
    /// Only in these windows of it; `None` for all the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<Calendar>,
    /// Actions about which a person may decide. Each needs an approval of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<Selector>,
    /// Stage refused writes anyway, so that the refusal and the record say how much it would have
    /// been. Off, a frozen write never touches the target.
    #[serde(default)]
    pub measure: bool,
    /// The operator who declared it; `None` when it is in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

impl Freeze {
    /// Whether it stops this action at `now`, and then in words until when.
    pub(super) fn active(&self, contract: &Contract, now: Timestamp) -> Option<String> {
        let concerned = contract.writes()
            && contract.verb != Verb::Undo
            && (self.environments.is_empty() || self.environments.contains(&contract.environment));
        concerned.then(|| self.on(now)).flatten()
    }

    /// Whether it is on at `now`, and then in words until when.
    pub fn on(&self, now: Timestamp) -> Option<String> {
        if self.from.is_some_and(|from| now < from) || self.until.is_some_and(|until| until <= now) {
            return None;
        }
        let window = match &self.calendar {
            None => None,
            Some(calendar) => Some(calendar.open(now)?),
        };
        let end = window.into_iter().chain(self.until).min();
        Some(end.map_or_else(|| "until it is lifted".to_owned(), |end| format!("until {end}")))
    }
}
