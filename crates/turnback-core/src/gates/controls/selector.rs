//! Which actions a deny or an exception is about.

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::gates::Measured;
use crate::gates::ownership::Agent;
use crate::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use crate::text::visible;
use crate::tool::Verb;

/// Everything that is said must hold; within one list any entry is enough. What says nothing selects nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selector {
    /// The acting agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentName>,
    /// The agent's owner.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<String>,
    /// The tool, as agents see it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolName>,
    /// The resource.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceName>,
    /// The resource's environment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<EnvironmentName>,
    /// The workflow the action belongs to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workflows: Vec<String>,
    /// The user the agent acts for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// A path or a table, exactly or, with `*` at its end, everything that begins so. Capitals are not
    /// told apart. Of a write every place it touches counts, of a read the place the request names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
}

impl Selector {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is about this action.
    pub fn selects(&self, contract: &Contract, agent: Option<&Agent>, measured: Option<Measured<'_>>) -> bool {
        fn any<T: PartialEq>(list: &[T], found: Option<&T>) -> bool {
            list.is_empty() || found.is_some_and(|found| list.contains(found))
        }
        !self.is_empty()
            && any(&self.agents, contract.actor.agent())
            && any(&self.owners, agent.map(|a| &a.owner))
            && any(&self.tools, Some(&contract.tool))
            && any(&self.resources, Some(&contract.resource))
            && any(&self.environments, Some(&contract.environment))
            && any(&self.workflows, contract.assignment.workflow.as_ref())
            && any(&self.users, contract.on_behalf_of.as_ref())
            && (self.places.is_empty() || self.places.iter().any(|place| touches(place, contract, measured)))
    }
}

fn touches(place: &str, contract: &Contract, measured: Option<Measured<'_>>) -> bool {
    let named = &contract.target.place;
    if matches(place, named) || (contract.verb == Verb::Search && above(named, place)) {
        return true;
    }
    measured.is_some_and(|m| {
        let footprint = &m.plan.footprint;
        // A touched row is `customers 17`; the table is what people name. What is touched and not listed
        // may be the place.
        footprint.more > 0
            || footprint.places.iter().any(|touch| matches(place, &touch.place) || matches(place, table(&touch.place)))
            || m.effect.blast.rows.keys().any(|table| matches(place, table))
    })
}

/// The name in ``table `orders` ``, as a change of schema is listed.
fn table(place: &str) -> &str {
    place.split_once('`').and_then(|(_, rest)| rest.strip_suffix('`')).unwrap_or(place)
}

fn matches(place: &str, found: &str) -> bool {
    match place.strip_suffix('*') {
        Some(start) => found.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
        None => found.eq_ignore_ascii_case(place),
    }
}

/// Whether a search at `named` goes through `place`.
fn above(named: &str, place: &str) -> bool {
    let named = named.trim_end_matches('/');
    named.is_empty() || named == "." || matches(&format!("{named}/*"), place)
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names =
            |names: &[String]| names.iter().map(|n| format!("`{}`", visible(n))).collect::<Vec<_>>().join(" or ");
        let texts = |list: &[&str]| names(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let parts = [
            ("agent", texts(&self.agents.iter().map(AgentName::as_str).collect::<Vec<_>>())),
            ("owner", names(&self.owners)),
            ("tool", texts(&self.tools.iter().map(ToolName::as_str).collect::<Vec<_>>())),
            ("resource", texts(&self.resources.iter().map(ResourceName::as_str).collect::<Vec<_>>())),
            ("environment", texts(&self.environments.iter().map(EnvironmentName::as_str).collect::<Vec<_>>())),
            ("workflow", names(&self.workflows)),
            ("user", names(&self.users)),
            ("place", names(&self.places)),
        ];
        let said: Vec<_> = parts
            .iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} {names}"))
            .collect();
        f.write_str(&said.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Actor;
    use crate::fixtures::{World, agent, blast, measurement};

    fn selects(selector: &Selector, world: &World) -> bool {
        let facts = world.facts();
        selector.selects(facts.contract, facts.agent, facts.measured)
    }

    fn places(place: &str) -> Selector {
        Selector { places: vec![place.into()], ..Selector::default() }
    }

    #[test]
    fn everything_said_must_hold_and_nothing_said_selects_nothing() {
        let mut world = World::new("", "notes__write_file");
        world.contract.on_behalf_of = Some("ben".into());
        world.contract.assignment.workflow = Some("billing".into());
        assert!(!selects(&Selector::default(), &world));
        let all = Selector {
            agents: vec![agent().name],
            owners: vec!["anna".into()],
            tools: vec![ToolName::new("notes__write_file").unwrap()],
            resources: vec![ResourceName::new("notes").unwrap()],
            environments: vec![EnvironmentName::new("production").unwrap()],
            workflows: vec!["billing".into()],
            users: vec!["ben".into()],
            places: vec!["a.txt".into()],
        };
        assert!(selects(&all, &world));
        let other = "other".to_owned();
        let misses = [
            Selector { agents: vec![AgentName::new("other").unwrap()], ..all.clone() },
            Selector { owners: vec![other.clone()], ..all.clone() },
            Selector { tools: vec![ToolName::new("notes__move").unwrap()], ..all.clone() },
            Selector { resources: vec![ResourceName::new("shop").unwrap()], ..all.clone() },
            Selector { environments: vec![EnvironmentName::new("test").unwrap()], ..all.clone() },
            Selector { workflows: vec![other.clone()], ..all.clone() },
            Selector { users: vec![other.clone()], ..all.clone() },
            Selector { places: vec![other], ..all.clone() },
        ];
        for miss in misses {
            assert!(!selects(&miss, &world), "{miss}");
        }
        world.contract.actor = Actor::Turnback;
        assert!(!selects(&all, &world));
    }

    #[test]
    fn a_place_is_meant_exactly_or_by_its_beginning_however_it_is_spelled() {
        let mut world = World::new("", "notes__write_file");
        for (named, place, meant) in [
            ("secrets/key", "secrets/key", true),
            ("Secrets/KEY", "secrets/key", true),
            ("secrets/key2", "secrets/key", false),
            ("secrets/key2", "secrets/*", true),
            ("secrets", "secrets/*", false),
            ("sécrets", "séc*", true),
            ("a", "sé*", false),
        ] {
            world.contract.target.place = named.into();
            assert_eq!(selects(&places(place), &world), meant, "{named} {place}");
        }
        // A search goes through everything below where it begins.
        world.contract.verb = Verb::Search;
        for (named, place, meant) in [
            (".", "secrets/key", true),
            ("secrets", "secrets/key", true),
            ("secrets/", "secrets/*", true),
            ("secret", "secrets/key", false),
        ] {
            world.contract.target.place = named.into();
            assert_eq!(selects(&places(place), &world), meant, "{named} {place}");
        }
    }

    #[test]
    fn what_a_write_touches_counts_whatever_it_names() {
        let mut world = World::new("", "shop__execute");
        let mut measured = measurement(blast(3), "x");
        measured.plan.footprint.places[0].place = "orders 17".into();
        world.measurement = Some(measured.clone());
        assert!(selects(&places("customers"), &world), "by its table");
        assert!(selects(&places("orders *"), &world), "by its row");
        assert!(!selects(&places("invoices"), &world));
        measured.plan.footprint.more = 1;
        world.measurement = Some(measured);
        assert!(selects(&places("invoices"), &world), "not all of what it touches is listed");
    }
}
