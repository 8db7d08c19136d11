//! `authorization`: policy as code, the outer bound of what may ever happen.

use super::Facts;
use crate::contract::Actor;
use crate::decision::{Ruling, Verdict};

/// This gate's name.
pub const NAME: &str = "authorization";

/// Asks the policy.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    match facts.contract.actor {
        Actor::Agent(_) => facts.policy.judge(facts),
        // Who may stand at the operator's door is decided by the socket's owner, not by policy.
        Actor::Operator(_) | Actor::Turnback => Verdict::new(NAME, Ruling::Allow, "policy governs agents"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::World;

    #[test]
    fn policy_governs_agents_and_nobody_else() {
        let mut world = World::new("", "shop__execute");
        assert_eq!(judge(&world.facts()).ruling, Ruling::Deny);
        world.contract.actor = Actor::Operator("anna".into());
        assert_eq!(judge(&world.facts()).ruling, Ruling::Allow);
    }
}
