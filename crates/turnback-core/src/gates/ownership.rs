//! `ownership`: the agent is registered, not suspended, and has exactly one human owner.

use serde::{Deserialize, Serialize};

use super::Facts;
use super::autonomy::Levels;
use super::grants::Grant;
use crate::contract::Actor;
use crate::decision::{Ruling, Verdict};
use crate::names::AgentName;

/// This gate's name.
pub const NAME: &str = "ownership";

/// A registered agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: AgentName,
    /// Its human owner's system user name. Exactly one: an agent nobody answers for does nothing.
    pub owner: String,
    /// Why it was suspended, while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended: Option<String>,
    /// What it was granted, run out or not. Asked where grants are required.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// How much it may do alone.
    #[serde(default, skip_serializing_if = "Levels::is_default")]
    pub levels: Levels,
}

/// Asks who answers for the actor.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let Actor::Agent(name) = &facts.contract.actor else {
        return Verdict::new(NAME, Ruling::Allow, format!("{} answers in person", facts.contract.actor));
    };
    match facts.agent {
        None => Verdict::new(NAME, Ruling::Deny, format!("agent `{name}` is not registered"))
            .next(format!("an operator registers it: turnback agents add {name} --owner <person>")),
        Some(agent) if agent.name != *name => {
            Verdict::new(NAME, Ruling::Deny, format!("facts are about `{}`, not `{name}`", agent.name))
        }
        Some(agent) => match &agent.suspended {
            Some(why) => {
                Verdict::new(NAME, Ruling::Deny, format!("agent `{name}` is suspended: {}", crate::text::visible(why)))
            }
            None if agent.owner.trim().is_empty() => {
                Verdict::new(NAME, Ruling::Deny, format!("agent `{name}` has no human owner"))
            }
            None if facts.contract.on_behalf_of.as_deref() == Some(name.as_str()) => {
                Verdict::new(NAME, Ruling::Deny, format!("agent `{name}` claims to act for a user of its own name"))
                    .next(format!("an operator makes a token for the person it acts for: turnback token new {name}"))
            }
            None => Verdict::new(NAME, Ruling::Allow, format!("owned by {}", crate::text::visible(&agent.owner))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{World, agent};

    #[test]
    fn only_a_registered_owned_and_active_agent_passes() {
        let judged = |agent: Option<Agent>| {
            let mut world = World::new("", "shop__query");
            world.agent = agent;
            judge(&world.facts())
        };
        assert_eq!(judged(Some(agent())).reason, "owned by anna");
        for (wrong, says) in [
            (None, "not registered"),
            (Some(Agent { name: AgentName::new("other").unwrap(), ..agent() }), "facts are about `other`"),
            (Some(Agent { suspended: Some("it looped".into()), ..agent() }), "suspended: it looped"),
            (Some(Agent { suspended: Some(String::new()), ..agent() }), "suspended"),
            (Some(Agent { owner: String::new(), ..agent() }), "no human owner"),
            (Some(Agent { owner: " \t".into(), ..agent() }), "no human owner"),
        ] {
            let verdict = judged(wrong);
            assert_eq!(verdict.ruling, Ruling::Deny);
            assert!(verdict.reason.contains(says), "{}", verdict.reason);
        }
    }

    #[test]
    fn an_agent_is_not_the_user_it_acts_for() {
        let mut world = World::new("", "shop__query");
        for (user, ruling) in [("coder", Ruling::Deny), ("anna", Ruling::Allow), ("ben", Ruling::Allow)] {
            world.contract.on_behalf_of = Some(user.into());
            assert_eq!(judge(&world.facts()).ruling, ruling, "{user}");
        }
    }

    #[test]
    fn people_answer_for_themselves() {
        let mut world = World::new("", "shop__query");
        world.agent = None;
        world.contract.actor = Actor::Operator("anna".into());
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    }
}
