//! `grants`: where grants are required, an agent does only what a grant names that has not run out.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Facts;
use crate::contract::{Actor, Contract};
use crate::decision::{Ruling, Verdict};
use crate::names::{EnvironmentName, ResourceName, ToolName};
use crate::tool::Verb;

/// This gate's name.
pub const NAME: &str = "grants";

/// What an agent may do until when. Everything that is said must hold; a list that is empty says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What it is called among the agent's grants: `g1`.
    pub id: String,
    /// The tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolName>,
    /// The resources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceName>,
    /// The environments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<EnvironmentName>,
    /// What for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<Verb>,
    /// From when.
    pub made: Timestamp,
    /// First moment after it.
    pub expires: Timestamp,
    /// It ran out and stays so, whatever a clock says later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over: bool,
    /// Why.
    pub reason: String,
    /// The operator who gave it.
    pub by: String,
}

impl Grant {
    /// Whether it names this action.
    fn names(&self, contract: &Contract) -> bool {
        fn any<T: PartialEq>(list: &[T], found: &T) -> bool {
            list.is_empty() || list.contains(found)
        }
        any(&self.tools, &contract.tool)
            && any(&self.resources, &contract.resource)
            && any(&self.environments, &contract.environment)
            && any(&self.verbs, &contract.verb)
    }

    /// Whether it holds at `now`. Not yet made means that the clock went back.
    pub fn holds(&self, now: Timestamp) -> bool {
        !self.over && self.made <= now && now < self.expires
    }
}

/// Asks whether a grant names the action.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let Actor::Agent(name) = &facts.contract.actor else {
        return Verdict::new(NAME, Ruling::Allow, "people need no grant");
    };
    if !facts.grants_required {
        return Verdict::new(NAME, Ruling::Allow, "no grant is required");
    }
    let grants = facts.agent.map_or(&[][..], |agent| &agent.grants);
    let naming = || grants.iter().filter(|grant| grant.names(facts.contract));
    if let Some(grant) = naming().find(|grant| grant.holds(facts.now)) {
        return Verdict::new(NAME, Ruling::Allow, format!("grant `{}` until {}", grant.id, grant.expires))
            .rule(format!("grant {}", grant.id));
    }
    let Contract { verb, tool, resource, environment, .. } = facts.contract;
    let wanted = format!("to {} with `{tool}` on `{resource}` in `{environment}`", verb.word());
    let why = match naming().max_by_key(|grant| grant.expires) {
        Some(grant) => format!("grant `{}` of `{name}` {wanted} ran out at {}", grant.id, grant.expires),
        None => format!("`{name}` has no grant {wanted}"),
    };
    Verdict::new(NAME, Ruling::Deny, why)
        .next(format!("an operator gives one: turnback agents grant {name} --tools {tool} --for 8h --reason \"...\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{World, agent, at};

    fn grant(change: impl FnOnce(&mut Grant)) -> Grant {
        let mut grant = Grant {
            id: "g1".into(),
            tools: vec![],
            resources: vec![],
            environments: vec![],
            verbs: vec![],
            made: at(-10),
            expires: at(10),
            over: false,
            reason: "migration".into(),
            by: "anna".into(),
        };
        change(&mut grant);
        grant
    }

    fn judged(grants: Vec<Grant>) -> Verdict {
        let mut world = World::new("", "shop__execute");
        world.grants_required = true;
        world.agent = Some(super::super::ownership::Agent { grants, ..agent() });
        judge(&world.facts())
    }

    #[test]
    fn only_what_a_grant_names_while_it_holds() {
        let tool = |name| ToolName::new(name).unwrap();
        type Change = fn(&mut Grant);
        let cases: [(Change, bool); 10] = [
            (|_| {}, true),
            (|g| g.verbs = vec![Verb::Read], false),
            (|g| g.verbs = vec![Verb::Read, Verb::Update], true),
            (|g| g.resources = vec![ResourceName::new("notes").unwrap()], false),
            (|g| g.environments = vec![EnvironmentName::new("test").unwrap()], false),
            (|g| g.environments = vec![EnvironmentName::new("production").unwrap()], true),
            (|g| g.expires = at(0), false),
            (|g| g.expires = at(1), true),
            (|g| g.made = at(1), false),
            (|g| g.over = true, false),
        ];
        for (n, (change, allowed)) in cases.into_iter().enumerate() {
            assert_eq!(judged(vec![grant(change)]).ruling == Ruling::Allow, allowed, "{n}");
        }
        let other = grant(|g| g.tools = vec![tool("shop__query")]);
        let this = grant(|g| g.tools = vec![tool("shop__execute")]);
        assert_eq!(judged(vec![other.clone(), this]).ruling, Ruling::Allow);
        // Two grants are never put together to one that neither is.
        assert_eq!(judged(vec![other, grant(|g| g.verbs = vec![Verb::Read])]).ruling, Ruling::Deny);
    }

    #[test]
    fn the_refusal_says_what_is_missing_or_when_it_ran_out() {
        let missing = "`coder` has no grant to update with `shop__execute` on `shop` in `production`";
        assert_eq!(judged(vec![]).reason, missing);
        let over = judged(vec![grant(|g| g.expires = at(-1))]);
        assert!(
            over.reason.contains("grant `g1` of `coder`") && over.reason.ends_with(&format!("ran out at {}", at(-1)))
        );
    }

    #[test]
    fn without_the_requirement_and_for_people_nothing_is_asked() {
        let mut world = World::new("", "shop__execute");
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
        world.grants_required = true;
        assert_eq!(judge(&world.facts()).ruling, Ruling::Deny);
        world.contract.actor = Actor::Operator("anna".into());
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    }
}
