//! Leases: who works on what over several calls, and the fencing token of each.
//!
//! A write holds its resource's lock from staging to its end; a lease is what outlives one call. All that one
//! action needs is taken at once or not at all, in the order of the resources' names, and whoever waits holds
//! nothing: there is no circle to wait in. Invariant `FENCE`: an action commits only under the very leases it
//! was judged with; one that ran out, was released or was taken over since has another token, or none.
//!
//! Holds no clock: what ran out is what `until` says at the time that is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::names::{AgentName, ResourceName, RunId};
use crate::select::within;
use crate::tool::Kind;
use crate::trace::TraceId;

/// Whose work a lease is: the credential's agent and user, and where a rule tells traces apart, the trace. A
/// trace the agent makes up only makes it a stranger to its own leases.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// The agent.
    pub agent: AgentName,
    /// The user it acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The trace, where a rule tells traces apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
}

impl Holder {
    /// Who asks for an action; `None` for people, who are not stopped by leases.
    pub fn of(contract: &Contract, by_trace: bool) -> Option<Self> {
        Some(Self {
            agent: contract.actor.agent()?.clone(),
            on_behalf_of: contract.on_behalf_of.clone(),
            trace: contract.trace.clone().filter(|_| by_trace),
        })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent `{}`", self.agent)?;
        match &self.trace {
            Some(trace) => write!(f, " in trace {trace}"),
            None => Ok(()),
        }
    }
}

/// A place inside a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// How its places are written.
    pub kind: Kind,
    /// As [`crate::effect::Touch::place`] names it.
    pub at: String,
}

/// What a lease is on. In the order leases are taken: by resource, then by place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Spot {
    /// The resource.
    pub resource: ResourceName,
    /// The place in it; `None` is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

impl Spot {
    /// Whether two concern the same thing: one is the other, or lies beneath it.
    pub fn meets(&self, other: &Self) -> bool {
        self.resource == other.resource
            && match (&self.place, &other.place) {
                (Some(a), Some(b)) => within(a.kind, &a.at, &b.at) || within(a.kind, &b.at, &a.at),
                _ => true,
            }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "`{}` of `{}`", crate::text::visible(&place.at), self.resource),
            None => write!(f, "`{}`", self.resource),
        }
    }
}

/// One lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What it is on.
    pub spot: Spot,
    /// Whose it is.
    pub holder: Holder,
    /// Grows with every taking, so that who held it before is told from who holds it now. Renewing keeps it.
    pub token: u64,
    /// Since when.
    pub since: Timestamp,
    /// When it runs out unless it is renewed.
    pub until: Timestamp,
    /// For how long it is taken and renewed.
    pub lasts: SignedDuration,
    /// The run that took or renewed it last.
    pub run: RunId,
}

impl Lease {
    /// Whether it still counts.
    pub fn stands(&self, now: Timestamp) -> bool {
        now < self.until
    }
}

/// What an action wants to hold, and for how long.
pub type Wants = BTreeMap<Spot, SignedDuration>;

/// A lease an action was judged with and that is not there any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its lease on {} (token {}) ran out, was released or was taken over since it was staged", .0.spot, .0.token)]
pub struct Lost(pub Box<Lease>);

#[derive(Clone, Debug)]
struct Kept {
    lease: Lease,
    /// A run under it was intended: it stays until it runs out.
    used: bool,
    /// Runs under way under it.
    runs: BTreeSet<RunId>,
}

/// All leases of a node.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    kept: BTreeMap<ResourceName, BTreeMap<Spot, Kept>>,
    last: u64,
}

impl Leases {
    /// Leases read back from a journal. Tokens begin above `last`, which must be no lower than any token
    /// given out before: the number of the journal's records is, because an action that takes a lease writes
    /// more than one.
    pub fn restore(last: u64, leases: impl IntoIterator<Item = Lease>) -> Self {
        let mut all = Self { last, ..Self::default() };
        for lease in leases {
            all.last = all.last.max(lease.token);
            let kept = Kept { lease: lease.clone(), used: true, runs: BTreeSet::new() };
            all.kept.entry(lease.spot.resource.clone()).or_default().insert(lease.spot, kept);
        }
        all
    }

    /// Leases of others on any of these spots.
    pub fn met<'a>(
        &'a self,
        spots: impl IntoIterator<Item = &'a Spot>,
        holder: &Holder,
        now: Timestamp,
    ) -> Vec<&'a Lease> {
        let mut found: Vec<&Lease> = Vec::new();
        for spot in spots {
            for kept in self.kept.get(&spot.resource).into_iter().flat_map(BTreeMap::values) {
                let lease = &kept.lease;
                if lease.stands(now)
                    && lease.holder != *holder
                    && lease.spot.meets(spot)
                    && !found.iter().any(|other| other.spot == lease.spot)
                {
                    found.push(lease);
                }
            }
        }
        found
    }

    /// Takes or renews everything an action wants, or nothing and says what is in the way. With `over` what
    /// others hold is taken from them: a person decided so.
    ///
    /// # Errors
    /// The leases of others that are in the way.
    pub fn take(
        &mut self,
        run: RunId,
        holder: &Holder,
        wants: &Wants,
        over: bool,
        now: Timestamp,
    ) -> Result<Vec<Lease>, Vec<Lease>> {
        let met: Vec<Lease> = self.met(wants.keys(), holder, now).into_iter().cloned().collect();
        if !met.is_empty() && !over {
            return Err(met);
        }
        for lease in met {
            self.drop_spot(&lease.spot);
        }
        self.last = self.last.saturating_add(1);
        let mut held = Vec::with_capacity(wants.len());
        for (spot, lasts) in wants {
            let until = now.saturating_add(*lasts).unwrap_or(Timestamp::MAX);
            let shelf = self.kept.entry(spot.resource.clone()).or_default();
            match shelf.get_mut(spot) {
                Some(kept) if kept.lease.stands(now) && kept.lease.holder == *holder => {
                    kept.runs.insert(run);
                    held.push(kept.lease.clone());
                }
                _ => {
                    let lease = Lease {
                        spot: spot.clone(),
                        holder: holder.clone(),
                        token: self.last,
                        since: now,
                        until,
                        lasts: *lasts,
                        run,
                    };
                    held.push(lease.clone());
                    shelf.insert(spot.clone(), Kept { lease, used: false, runs: BTreeSet::from([run]) });
                }
            }
        }
        Ok(held)
    }

    /// Renews the leases an action was judged with, just before it is intended; from now on they stay until
    /// they run out. Invariant `FENCE`.
    ///
    /// # Errors
    /// [`Lost`] names the first that is not there any more; none is renewed then.
    pub fn renew(&mut self, run: RunId, fence: &[Lease], now: Timestamp) -> Result<Vec<Lease>, Lost> {
        self.stand(fence, now)?;
        let mut renewed = Vec::with_capacity(fence.len());
        for held in fence {
            let kept = self.kept.get_mut(&held.spot.resource).and_then(|shelf| shelf.get_mut(&held.spot));
            if let Some(kept) = kept {
                kept.used = true;
                kept.lease.until = kept.lease.until.max(now.saturating_add(held.lasts).unwrap_or(Timestamp::MAX));
                kept.lease.run = run;
                renewed.push(kept.lease.clone());
            }
        }
        Ok(renewed)
    }

    /// Whether all of these leases are still there, each with its token.
    ///
    /// # Errors
    /// [`Lost`] names the first that is not.
    pub fn stand(&self, fence: &[Lease], now: Timestamp) -> Result<(), Lost> {
        for held in fence {
            let kept = self.kept.get(&held.spot.resource).and_then(|shelf| shelf.get(&held.spot));
            if !kept.is_some_and(|kept| kept.lease.token == held.token && kept.lease.stands(now)) {
                return Err(Lost(Box::new(held.clone())));
            }
        }
        Ok(())
    }

    /// A run is over. What it took and nothing was intended under is free again; says whether anything is.
    pub fn let_go(&mut self, run: RunId, fence: &[Lease]) -> bool {
        let mut freed = false;
        for held in fence {
            let Some(shelf) = self.kept.get_mut(&held.spot.resource) else { continue };
            let Some(kept) = shelf.get_mut(&held.spot).filter(|kept| kept.lease.token == held.token) else { continue };
            kept.runs.remove(&run);
            if !kept.used && kept.runs.is_empty() {
                shelf.remove(&held.spot);
                freed = true;
            }
        }
        freed
    }

    /// Removes what ran out, and names it.
    pub fn sweep(&mut self, now: Timestamp) -> Vec<Spot> {
        let mut over = Vec::new();
        for shelf in self.kept.values_mut() {
            shelf.retain(|spot, kept| {
                let stays = kept.lease.stands(now);
                if !stays {
                    over.push(spot.clone());
                }
                stays
            });
        }
        over
    }

    /// The leases on a resource, or on one place of it and beneath, that still count.
    pub fn on(&self, resource: Option<&ResourceName>, place: Option<&str>, now: Timestamp) -> Vec<Lease> {
        self.kept
            .iter()
            .filter(|(name, _)| resource.is_none_or(|wanted| *name == wanted))
            .flat_map(|(_, shelf)| shelf.values())
            .map(|kept| &kept.lease)
            .filter(|lease| lease.stands(now))
            .filter(|lease| match (place, &lease.spot.place) {
                (None, _) => true,
                (Some(wanted), Some(place)) => within(place.kind, wanted, &place.at),
                (Some(_), None) => false,
            })
            .cloned()
            .collect()
    }

    /// Takes these leases from their holders, unless they changed hands meanwhile.
    pub fn release(&mut self, leases: &[Lease]) {
        for lease in leases {
            let there = self.kept.get(&lease.spot.resource).and_then(|shelf| shelf.get(&lease.spot));
            if there.is_some_and(|kept| kept.lease.token == lease.token) {
                self.drop_spot(&lease.spot);
            }
        }
    }

    /// The lease on a spot under which something was intended.
    pub fn used(&self, spot: &Spot) -> Option<&Lease> {
        let kept = self.kept.get(&spot.resource)?.get(spot)?;
        kept.used.then_some(&kept.lease)
    }

    /// How many a holder has on one resource.
    pub fn count(&self, resource: &ResourceName, holder: &Holder) -> usize {
        let shelf = self.kept.get(resource).into_iter().flat_map(BTreeMap::values);
        shelf.filter(|kept| kept.lease.holder == *holder).count()
    }

    fn drop_spot(&mut self, spot: &Spot) {
        if let Some(shelf) = self.kept.get_mut(&spot.resource) {
            shelf.remove(spot);
        }
    }
}

#[cfg(test)]
mod tests;
