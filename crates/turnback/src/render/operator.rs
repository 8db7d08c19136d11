//! Agents, tokens, labels, leases, switches.

use jiff::Timestamp;
use turnback_core::gates::controls::Switch;
use turnback_core::gates::grants::Grant;
use turnback_core::gates::ownership::Agent;
use turnback_core::text::visible;
use turnback_gateway::operator::protocol::{LabelView, LeaseView, TokenView};

use super::style::{BAD, GOOD, STRONG, next};
use super::table::{Cell, table};
use super::time;

/// All agents.
pub(crate) fn agents(agents: &[Agent], now: Timestamp) -> String {
    if agents.is_empty() {
        return format!("no agents\n{}\n", next("turnback agents add <name> --owner <person>"));
    }
    let rows = agents
        .iter()
        .map(|agent| {
            let standing = match &agent.suspended {
                Some(why) => Cell::styled(BAD, format!("suspended: {}", visible(why))),
                None => Cell::styled(GOOD, "active"),
            };
            let mut level = agent.levels.level.number().to_string();
            for (class, own) in &agent.levels.classes {
                level.push_str(&format!(", {} {}", class.word(), own.number()));
            }
            let name = Cell::styled(STRONG, agent.name.as_str());
            vec![name, Cell::new(visible(&agent.owner)), Cell::new(level), standing]
        })
        .collect();
    let mut text = table(&["AGENT", "OWNER", "LEVEL", "STANDING"], rows);
    if agents.iter().any(|agent| !agent.grants.is_empty()) {
        text.push('\n');
        text.push_str(&grants(agents, now));
    }
    text
}

fn grants(agents: &[Agent], now: Timestamp) -> String {
    let names = |what: &str, names: Vec<String>| (!names.is_empty()).then(|| format!("{what} {}", names.join(", ")));
    fn words<T: ToString>(list: &[T]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }
    let row = |agent: &Agent, grant: &Grant| {
        let what = [
            names("verbs", grant.verbs.iter().map(|verb| verb.word().to_owned()).collect()),
            names("tools", words(&grant.tools)),
            names("resources", words(&grant.resources)),
            names("environments", words(&grant.environments)),
        ];
        let expiry = time::relative(now, grant.expires);
        vec![
            Cell::styled(STRONG, grant.id.clone()),
            Cell::new(agent.name.as_str()),
            Cell::new(what.into_iter().flatten().collect::<Vec<_>>().join("; ")),
            if grant.holds(now) { Cell::new(expiry) } else { Cell::styled(BAD, format!("expired {expiry}")) },
            Cell::new(visible(&grant.by)),
            Cell::new(visible(&grant.reason)),
        ]
    };
    let rows = agents.iter().flat_map(|agent| agent.grants.iter().map(move |grant| row(agent, grant))).collect();
    table(&["GRANT", "AGENT", "WHAT", "EXPIRES", "BY", "WHY"], rows)
}

/// All tokens, without secrets.
pub(crate) fn tokens(tokens: &[TokenView], now: Timestamp) -> String {
    if tokens.is_empty() {
        return format!("no tokens\n{}\n", next("turnback token new <agent>"));
    }
    let rows = tokens
        .iter()
        .map(|token| {
            let expiry = time::relative(now, token.expires);
            vec![
                Cell::styled(STRONG, token.id.short()),
                Cell::new(token.agent.as_str()),
                Cell::new(token.on_behalf_of.as_deref().map_or_else(|| "-".into(), visible)),
                if token.expires <= now { Cell::styled(BAD, format!("expired {expiry}")) } else { Cell::new(expiry) },
            ]
        })
        .collect();
    table(&["TOKEN", "AGENT", "FOR", "EXPIRES"], rows)
}

/// Labels that count against whoever read them.
pub(crate) fn labels(labels: &[LabelView], now: Timestamp) -> String {
    if labels.is_empty() {
        return "nobody has read anything that is labelled\n".into();
    }
    let rows = labels
        .iter()
        .map(|label| {
            vec![
                Cell::new(label.who.to_string()),
                Cell::styled(BAD, label.label.word()),
                Cell::new(time::relative(now, label.read)),
                Cell::new(label.run.short()),
                Cell::new(label.until.to_string()),
            ]
        })
        .collect();
    table(&["WHO", "HAS READ", "WHEN", "RUN", "COUNTS UNTIL"], rows)
}

/// Leases that stand.
pub(crate) fn leases(leases: &[LeaseView], now: Timestamp) -> String {
    let Some(first) = leases.first() else { return "nobody holds a lease\n".into() };
    let rows = leases
        .iter()
        .map(|lease| {
            vec![
                Cell::styled(STRONG, lease.resource.as_str()),
                Cell::new(lease.place.as_deref().map_or_else(|| "all of it".into(), visible)),
                Cell::new(lease.agent.as_str()),
                Cell::new(time::relative(now, lease.since)),
                Cell::new(lease.until.to_string()),
                Cell::new(lease.token.to_string()),
                Cell::new(lease.run.short()),
            ]
        })
        .collect();
    let told = table(&["RESOURCE", "PLACE", "HELD BY", "SINCE", "UNTIL", "TOKEN", "RUN"], rows);
    format!("{told}{}\n", next(&format!("turnback leases release {} --reason \"...\"", first.resource)))
}

/// All switches thrown.
pub(crate) fn switches(switches: &[Switch], now: Timestamp) -> String {
    if switches.is_empty() {
        return "no kill switch is thrown\n".into();
    }
    let rows = switches
        .iter()
        .map(|switch| {
            vec![
                Cell::styled(BAD, switch.scope.to_string()),
                Cell::new(time::relative(now, switch.since)),
                Cell::new(visible(&switch.by)),
                Cell::new(visible(&switch.reason)),
            ]
        })
        .collect();
    table(&["STOPPED", "SINCE", "BY", "WHY"], rows)
}
