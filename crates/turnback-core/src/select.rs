//! Which actions a rule of the configuration concerns.

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::gates::Measured;
use crate::names::{EnvironmentName, ResourceName, ToolName};
use crate::tool::{Kind, Risk, Verb};

/// Which actions a rule concerns: everything said must hold, nothing said is every action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// One of these tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolName>,
    /// One of these verbs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<Verb>,
    /// One of these classes of risk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risks: Vec<Risk>,
    /// On one of these resources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceName>,
    /// In one of these environments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<EnvironmentName>,
    /// In or beneath one of these places: paths of files, names of tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<String>,
}

fn one_of<T: PartialEq>(list: &[T], value: &T) -> bool {
    list.is_empty() || list.contains(value)
}

impl Selector {
    /// Whether it may concern the action, places aside.
    pub fn may_concern(&self, contract: &Contract) -> bool {
        one_of(&self.tools, &contract.tool)
            && one_of(&self.verbs, &contract.verb)
            && one_of(&self.risks, &contract.risk)
            && one_of(&self.resources, &contract.resource)
            && one_of(&self.environments, &contract.environment)
    }

    /// Whether it concerns the action, as far as is known of its places: the one it names, and what staging
    /// found. Where more was touched than is listed, it does.
    pub fn concerns(&self, contract: &Contract, measured: Option<Measured<'_>>) -> bool {
        if !self.may_concern(contract) {
            return false;
        }
        let inside = |place: &str| self.places.iter().any(|prefix| within(contract.kind, prefix, place));
        self.places.is_empty()
            || inside(&contract.target.place)
            || measured.is_some_and(|m| {
                m.plan.footprint.more > 0 || m.plan.footprint.places.iter().any(|touch| inside(&touch.place))
            })
    }
}

/// Whether `place` is `prefix` or lies beneath it. A prefix ends where a name ends: `notes` is not above
/// `notes-old`. Names of tables are compared as SQLite compares them, without regard to case in ASCII.
pub fn within(kind: Kind, prefix: &str, place: &str) -> bool {
    let Some(head) = place.get(..prefix.len()) else { return false };
    let (same, ends) = match kind {
        Kind::Files => (head == prefix, '/'),
        Kind::Sqlite => (head.eq_ignore_ascii_case(prefix), ' '),
    };
    // The root of a folder is above everything in it.
    let root = kind == Kind::Files && (prefix.is_empty() || prefix == ".");
    root || (same && place.get(prefix.len()..).is_some_and(|rest| rest.is_empty() || rest.starts_with(ends)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{contract, registered};

    #[test]
    fn a_prefix_ends_where_a_name_ends() {
        for (kind, prefix, place, inside) in [
            (Kind::Files, "notes", "notes", true),
            (Kind::Files, "notes", "notes/1.txt", true),
            (Kind::Files, "notes", "notes-old/1.txt", false),
            (Kind::Files, "notes", "Notes/1.txt", false),
            (Kind::Files, "notes/1.txt", "notes", false),
            (Kind::Files, ".", "a.txt", true),
            (Kind::Sqlite, "secrets", "secrets", true),
            (Kind::Sqlite, "secrets", "SECRETS 17", true),
            (Kind::Sqlite, "secrets", "secrets_old", false),
            (Kind::Files, "né", "n", false),
        ] {
            assert_eq!(within(kind, prefix, place), inside, "{prefix} {place}");
        }
    }

    #[test]
    fn everything_said_must_hold() {
        let write = contract(&registered("notes__write_file"), "public/a.txt", "");
        let mut selector = Selector::default();
        assert!(selector.concerns(&write, None));
        selector.places = vec!["public".into()];
        assert!(selector.concerns(&write, None));
        selector.verbs = vec![Verb::Delete];
        assert!(!selector.concerns(&write, None));
        selector.verbs = vec![Verb::Delete, Verb::Update];
        assert!(selector.concerns(&write, None));
        selector.places = vec!["private".into()];
        assert!(!selector.concerns(&write, None));
        // What was touched and is not listed may have been anywhere.
        let mut measured = crate::fixtures::measurement(crate::fixtures::blast(3), "x");
        let found = |m: &crate::run::Measurement| {
            selector.concerns(&write, Some(Measured { effect: &m.effect, plan: &m.plan }))
        };
        assert!(!found(&measured));
        measured.plan.footprint.more = 1;
        assert!(found(&measured));
    }
}
