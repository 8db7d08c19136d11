//! `[[deny]]` and `[[freeze]]`: what agents may not do at all, and when nobody changes anything.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::gates::controls::{Calendar, Day, Deny, Freeze, Selector, Zone};
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use turnback_core::text::visible;

use super::error::ConfigError;
use super::read::{Known, Reader};

type Text = Spanned<String>;
type Names<T> = Vec<Spanned<T>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDeny {
    name: Option<Text>,
    reason: String,
    #[serde(default)]
    agents: Vec<AgentName>,
    #[serde(default)]
    owners: Vec<String>,
    #[serde(default)]
    tools: Names<ToolName>,
    #[serde(default)]
    resources: Names<ResourceName>,
    #[serde(default)]
    environments: Names<EnvironmentName>,
    #[serde(default)]
    workflows: Vec<String>,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    places: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFreeze {
    name: Text,
    reason: String,
    #[serde(default)]
    environments: Names<EnvironmentName>,
    timezone: Option<Text>,
    days: Option<Spanned<Vec<Day>>>,
    from: Option<Spanned<toml::Value>>,
    until: Option<Spanned<toml::Value>>,
    #[serde(default)]
    exceptions: Vec<Spanned<RawException>>,
    #[serde(default)]
    measure: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawException {
    #[serde(default)]
    agents: Vec<AgentName>,
    #[serde(default)]
    tools: Names<ToolName>,
    #[serde(default)]
    resources: Names<ResourceName>,
}

fn plain<T>(names: Names<T>) -> Vec<T> {
    names.into_iter().map(Spanned::into_inner).collect()
}

/// From when until when, and in which windows.
type Times = (Option<Timestamp>, Option<Timestamp>, Option<Calendar>);

/// A moment, or a time that comes every day.
enum When {
    Once(Timestamp),
    Daily(Time),
}

impl Reader<'_> {
    pub(super) fn denies(&self, raw: Vec<Spanned<RawDeny>>, known: &Known) -> Result<Vec<Deny>, ConfigError> {
        let mut denies: Vec<Deny> = Vec::new();
        for (index, deny) in raw.into_iter().enumerate() {
            let span = deny.span();
            let deny = deny.into_inner();
            deny.tools.iter().try_for_each(|name| self.known_tool(name, known))?;
            deny.resources.iter().try_for_each(|name| self.known_resource(name, known))?;
            deny.environments.iter().try_for_each(|name| self.known_environment(name, known.environments))?;
            for place in &deny.places {
                if place.get_ref().trim_end_matches('*').contains('*') {
                    let next = "write `*` only at the end, or list each place";
                    return Err(self.error(place, "`*` stands for any end and nothing else", next));
                }
            }
            let name = deny.name.as_ref().map_or_else(|| format!("deny {}", index + 1), |name| name.get_ref().clone());
            if name.trim().is_empty() || denies.iter().any(|earlier| earlier.name == name) {
                let span = deny.name.map_or(span, |name| name.span());
                let message = format!("a deny needs a name of its own, not `{}`", visible(&name));
                return Err(self.source.error(span, message, "give it another name"));
            }
            let what = Selector {
                agents: deny.agents,
                owners: deny.owners,
                tools: plain(deny.tools),
                resources: plain(deny.resources),
                environments: plain(deny.environments),
                workflows: deny.workflows,
                users: deny.users,
                places: plain(deny.places),
            };
            if what.is_empty() {
                let next = "add agents, owners, tools, resources, environments, workflows, users or places";
                return Err(self.source.error(span, "this deny does not say what it denies", next));
            }
            denies.push(Deny { name, what, reason: deny.reason, by: None, since: None });
        }
        Ok(denies)
    }

    pub(super) fn freezes(&self, raw: Vec<RawFreeze>, known: &Known) -> Result<Vec<Freeze>, ConfigError> {
        let mut names = BTreeSet::new();
        let mut freezes = Vec::new();
        for freeze in raw {
            if freeze.name.get_ref().trim().is_empty() {
                return Err(self.error(&freeze.name, "a freeze needs a name", "name it after its occasion"));
            }
            if !names.insert(freeze.name.get_ref().clone()) {
                let message = format!("two freezes are named `{}`", visible(freeze.name.get_ref()));
                return Err(self.error(&freeze.name, message, "give each freeze its own name"));
            }
            freeze.environments.iter().try_for_each(|name| self.known_environment(name, known.environments))?;
            let (from, until, calendar) = self.times(&freeze)?;
            let mut exceptions = Vec::new();
            for exception in freeze.exceptions {
                let span = exception.span();
                let RawException { agents, tools, resources } = exception.into_inner();
                tools.iter().try_for_each(|name| self.known_tool(name, known))?;
                resources.iter().try_for_each(|name| self.known_resource(name, known))?;
                let exception =
                    Selector { agents, tools: plain(tools), resources: plain(resources), ..Selector::default() };
                if exception.is_empty() {
                    let next = "add agents, tools or resources, or remove it";
                    return Err(self.source.error(span, "this exception does not say whom it excepts", next));
                }
                exceptions.push(exception);
            }
            freezes.push(Freeze {
                name: freeze.name.into_inner(),
                reason: freeze.reason,
                environments: plain(freeze.environments),
                from,
                until,
                calendar,
                exceptions,
                measure: freeze.measure,
                by: None,
            });
        }
        Ok(freezes)
    }

    /// From when until when, and in which windows.
    fn times(&self, freeze: &RawFreeze) -> Result<Times, ConfigError> {
        let zone = match &freeze.timezone {
            None => None,
            Some(name) => Some(Zone::new(name.get_ref()).map_err(|e| {
                self.error(name, e.to_string(), "write an IANA name, such as \"Europe/Berlin\" or \"UTC\"")
            })?),
        };
        let from = freeze.from.as_ref().map(|t| self.when(t, zone.as_ref(), false)).transpose()?;
        let until = freeze.until.as_ref().map(|t| self.when(t, zone.as_ref(), true)).transpose()?;
        let daily = |when: &Option<When>| matches!(when, Some(When::Daily(_)));
        if freeze.days.is_none() && !daily(&from) && !daily(&until) {
            let once = |when| match when {
                Some(When::Once(at)) => Some(at),
                _ => None,
            };
            let (from, until) = (once(from), once(until));
            if let (Some(from), Some(until), Some(at)) = (from, until, &freeze.until)
                && until <= from
            {
                return Err(self.error(at, "this freeze ends before it begins", "let `until` be later than `from`"));
            }
            return Ok((from, until, None));
        }
        for (when, written) in [(&from, &freeze.from), (&until, &freeze.until)] {
            if let (Some(When::Once(_)), Some(written)) = (when, written) {
                let next = "write a time of day, such as \"16:00\"; for a single date remove `days` and times of day";
                return Err(self.error(written, "a weekly window has times of day", next));
            }
        }
        let Some(zone) = zone else {
            let span = freeze.days.as_ref().map(Spanned::span);
            let span = span.or(freeze.from.as_ref().or(freeze.until.as_ref()).map(Spanned::span)).unwrap_or(0..0);
            let next = "add `timezone = \"Europe/Berlin\"` or another IANA name";
            return Err(self.source.error(span, "whose clocks this window goes by is not said", next));
        };
        let days = match &freeze.days {
            None => vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun],
            Some(days) if days.get_ref().is_empty() => {
                return Err(self.error(days, "this window opens on no day", "name days, such as [\"fri\"]"));
            }
            Some(days) => days.get_ref().clone(),
        };
        let time = |when, default| match when {
            Some(When::Daily(time)) => time,
            _ => default,
        };
        let last = Time::constant(23, 59, 0, 0);
        let calendar = Calendar { zone, days, from: time(from, Time::midnight()), until: time(until, last) };
        Ok((None, None, Some(calendar)))
    }

    /// Reads a time of day (`16:00`), a moment with its offset, or, by the clocks of `zone`, a date or a date
    /// with a time. A date that ends something still belongs to it. Of two readings the stricter one.
    fn when(&self, value: &Spanned<toml::Value>, zone: Option<&Zone>, ends: bool) -> Result<When, ConfigError> {
        let text = match value.get_ref() {
            toml::Value::String(s) => s.clone(),
            toml::Value::Datetime(d) => d.to_string(),
            _ => String::new(),
        };
        let moment = |date: Date, time| if ends { zone?.latest(date, time) } else { zone?.earliest(date, time) };
        let read = || {
            if let Some(time) = time_of_day(&text) {
                return Some(When::Daily(time));
            }
            if let Ok(at) = text.parse::<Timestamp>() {
                return Some(When::Once(at));
            }
            let at = if text.len() == "2026-12-24".len() {
                let date: Date = text.parse().ok()?;
                moment(if ends { date.tomorrow().ok()? } else { date }, Time::midnight())?
            } else {
                let at: DateTime = text.parse().ok()?;
                moment(at.date(), at.time())?
            };
            Some(When::Once(at))
        };
        read().ok_or_else(|| {
            let next = "write date, time and offset, such as 2026-12-24T18:00:00Z or 2026-12-24T18:00:00+01:00; \
                        with a `timezone` also a date or a time of day such as \"16:00\"";
            self.error(value, "this is not a moment in time", next)
        })
    }
}

/// `16:00`, or a TOML local time without seconds in use.
fn time_of_day(text: &str) -> Option<Time> {
    let text = text.strip_suffix(":00").filter(|rest| rest.len() == 5).unwrap_or(text);
    let (hour, minute) = text.split_once(':')?;
    let number =
        |s: &str| (s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<i8>().ok()).flatten();
    Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}
