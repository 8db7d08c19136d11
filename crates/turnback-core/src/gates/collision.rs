//! `collision`: somebody else is at work on the same thing.
//!
//! Another agent's lease on what the action touches, or on something that depends on it, is waited for, put to
//! a person, or refused, as the rule says. With `soft`, what another agent began there and is not settled – it
//! waits for a person, is in doubt, is stuck – or settled a moment ago counts as well.
//!
//! Taking leases and waiting is the gateway's; what it came to is judged here.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Facts, Measured};
use crate::contract::Contract;
use crate::decision::{Ruling, Verdict};
use crate::lease::{Holder, Lease, Place, Spot};
use crate::names::{ResourceName, RunId};
use crate::select::Selector;

/// This gate's name.
pub const NAME: &str = "collision";

/// What becomes of an action that meets somebody else's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// It waits for a while; too late is a no.
    Wait,
    /// A person decides; a yes takes the lease over.
    Review,
    /// It does not run.
    Deny,
}

/// One `[[collision]]` rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its name, or `collision <n>` by its place in the file.
    pub name: String,
    /// The writes it concerns; places are not part of it.
    pub of: Selector,
    /// Leases are on whole resources, not on the places an action touches.
    pub whole: bool,
    /// What becomes of an action that meets somebody else's lease.
    pub on_conflict: OnConflict,
    /// How long it waits, where it does.
    pub wait: SignedDuration,
    /// For how long a lease is taken and renewed.
    pub lease: SignedDuration,
    /// Two traces of one agent are two.
    pub by_trace: bool,
    /// Unsettled runs of others count, and those settled within this time.
    pub soft: Option<SignedDuration>,
    /// Resources that what it concerns depends on: each of its leases is on them as well.
    pub depends: Vec<ResourceName>,
}

impl Rule {
    /// Whether it concerns an action: an agent's write on what it names, or on what that depends on.
    pub fn concerns(&self, contract: &Contract) -> bool {
        contract.writes()
            && contract.actor.agent().is_some()
            && (self.of.may_concern(contract) || self.depends.contains(&contract.resource))
    }

    /// What it wants held for an action. Before anything is measured only whole resources are known.
    pub fn spots(&self, contract: &Contract, measured: Option<Measured<'_>>) -> BTreeSet<Spot> {
        let whole = |resource: &ResourceName| Spot { resource: resource.clone(), place: None };
        let mut spots = BTreeSet::new();
        if self.of.may_concern(contract) {
            spots.extend(self.depends.iter().map(whole));
        }
        match measured {
            _ if self.whole => drop(spots.insert(whole(&contract.resource))),
            None => {}
            Some(measured) => spots.extend(touched(contract, measured)),
        }
        spots
    }

    /// What an unsettled run of somebody else comes to: nobody can be waited for who waits for a person.
    const fn softly(&self) -> OnConflict {
        match self.on_conflict {
            OnConflict::Deny => OnConflict::Deny,
            OnConflict::Wait | OnConflict::Review => OnConflict::Review,
        }
    }
}

/// The places a measured action touches; the whole resource where they are not all known.
pub fn touched(contract: &Contract, measured: Measured<'_>) -> BTreeSet<Spot> {
    let footprint = &measured.plan.footprint;
    // Places that are not listed, or a change of structure, may be anywhere.
    if footprint.more > 0 || measured.effect.blast.schema_objects > 0 {
        return BTreeSet::from([Spot { resource: contract.resource.clone(), place: None }]);
    }
    let place = |at: &String| Some(Place { kind: contract.kind, at: at.clone() });
    let spot = |at| Spot { resource: contract.resource.clone(), place: place(at) };
    footprint.places.iter().map(|touch| spot(&touch.place)).collect()
}

/// What is in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Obstacle {
    /// Somebody holds it.
    Lease(Lease),
    /// Somebody's run there is not settled, or settled a moment ago.
    Run {
        /// The run.
        run: RunId,
        /// Whose.
        holder: Holder,
        /// Where.
        spot: Spot,
        /// Its state's word.
        state: String,
        /// Since when it is in it.
        since: Timestamp,
    },
}

/// One obstacle, by the rule that minds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// The rule.
    pub rule: String,
    /// What it says.
    pub on_conflict: OnConflict,
    /// What is in the way.
    pub obstacle: Obstacle,
}

impl Met {
    /// An obstacle as a rule minds it.
    pub fn new(rule: &Rule, obstacle: Obstacle) -> Self {
        let on_conflict = match obstacle {
            Obstacle::Lease(_) => rule.on_conflict,
            Obstacle::Run { .. } => rule.softly(),
        };
        Self { rule: rule.name.clone(), on_conflict, obstacle }
    }

    fn reason(&self) -> String {
        match &self.obstacle {
            Obstacle::Lease(lease) => format!(
                "{} is held by {} since {} until {} (token {})",
                lease.spot, lease.holder, lease.since, lease.until, lease.token
            ),
            Obstacle::Run { run, holder, spot, state, since } => {
                format!("run `{}` of {holder} on {spot} is {state} since {since}", run.short())
            }
        }
    }

    fn next(&self) -> String {
        match &self.obstacle {
            Obstacle::Lease(lease) => format!(
                "try again after {}, work elsewhere, or ask an operator: turnback leases release {} --reason \"...\"",
                lease.until, lease.spot.resource
            ),
            Obstacle::Run { run, .. } => format!("an operator looks at: turnback show {}", run.short()),
        }
    }
}

/// What taking leases for an action came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collision {
    /// The leases it holds; it commits only under these very tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fence: Vec<Lease>,
    /// What is in the way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub met: Vec<Met>,
    /// How long others were waited for, in milliseconds.
    #[serde(default)]
    pub waited_ms: u64,
}

/// Asks whether anybody else is at work on what the action touches.
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let Some(collision) = facts.collision else {
        return Verdict::new(NAME, Ruling::Allow, "no rule about others at work concerns it");
    };
    let ruling = |met: &Met| match met.on_conflict {
        OnConflict::Wait | OnConflict::Deny => Ruling::Deny,
        OnConflict::Review if facts.approved => Ruling::Allow,
        OnConflict::Review => Ruling::Review,
    };
    if let Some(worst) = collision.met.iter().rev().max_by_key(|met| ruling(met)) {
        let ruling = ruling(worst);
        let mut reason = worst.reason();
        match collision.met.len() {
            1 => {}
            many => reason.push_str(&format!("; {} more in the way", many - 1)),
        }
        if worst.on_conflict == OnConflict::Wait {
            reason.push_str(&format!("; waited {} ms for it", collision.waited_ms));
        }
        if ruling == Ruling::Allow {
            reason.push_str("; a person approved going on");
        } else {
            return Verdict::new(NAME, ruling, reason).rule(&worst.rule).next(worst.next());
        }
        if !collision.fence.is_empty() || facts.measured.is_none() {
            return Verdict::new(NAME, Ruling::Allow, reason).rule(&worst.rule);
        }
    }
    match (collision.fence.first(), facts.measured) {
        (Some(_), _) => {
            let latest = collision.fence.iter().map(|lease| lease.token).max().unwrap_or_default();
            let reason = format!("holds {} leases, the latest token is {latest}", collision.fence.len());
            Verdict::new(NAME, Ruling::Allow, reason)
        }
        (None, None) => Verdict::new(NAME, Ruling::Allow, "nobody is known to be in the way; leases are taken next"),
        // Nothing it could take from anybody.
        (None, Some(m))
            if m.effect.blast.is_empty() && m.plan.footprint.places.is_empty() && m.plan.footprint.more == 0 =>
        {
            Verdict::new(NAME, Ruling::Allow, "it changes nothing")
        }
        (None, Some(_)) => Verdict::new(NAME, Ruling::Deny, "a rule wants leases for it and none was taken"),
    }
}

#[cfg(test)]
mod tests;
