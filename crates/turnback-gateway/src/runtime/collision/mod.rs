//! Others at work: the facts of the gate `collision`.
//!
//! Owns the leases of the node, what is waited for, and which unsettled runs count. A run's leases live in its
//! [`Claim`]; dropped before the run is intended, it gives back what it took. While a run waits it holds
//! neither its resource's lock nor a lease, and what it needs it takes at once, in the order of the resources'
//! names: nobody waits for anybody who waits.

mod operate;
mod unsettled;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use turnback_core::gates::Measured;
use turnback_core::gates::collision::{Collision, Met, Obstacle, OnConflict, Rule};
use turnback_core::lease::{Holder, Lease, Leases, Lost, Spot, Wants};
use turnback_core::names::RunId;
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::Run;
use turnback_journal::{Batch, Entry, Journal, Projection, Table};

use super::{Inner, lock};

/// What the keys of projected leases begin with.
const PREFIX: &str = "lease ";

/// How often whoever waits looks whether a lease ran out by the node's time, which may be set forward.
const LOOK: Duration = Duration::from_millis(250);

/// Places of one resource a holder has apart; beyond it, it wants all of the resource.
const MOST: usize = 1_000;

/// Leases, and who waits for them.
pub(super) struct Collisions {
    rules: Vec<Rule>,
    leases: Mutex<Leases>,
    /// Told whenever something may have become free.
    freed: watch::Sender<()>,
    unsettled: Mutex<unsettled::Unsettled>,
}

impl Collisions {
    /// Restores the leases that were held.
    pub(super) fn load(journal: &Journal, rules: Vec<Rule>) -> Result<Self, Refusal> {
        let mut held = Vec::new();
        for (key, value) in journal.table(Table::Meta).map_err(Refusal::from)? {
            if key.starts_with(PREFIX) {
                let lease: Lease = serde_json::from_value(value).map_err(|e| {
                    Refusal::new(Code::Failed, format!("a lease cannot be read back: {e}")).next("turnback verify")
                })?;
                held.push(lease);
            }
        }
        Ok(Self {
            rules,
            leases: Mutex::new(Leases::restore(journal.len(), held)),
            freed: watch::Sender::new(()),
            unsettled: Mutex::default(),
        })
    }
}

fn key(spot: &Spot) -> String {
    match &spot.place {
        Some(place) => format!("{PREFIX}{} {}", spot.resource, place.at),
        None => format!("{PREFIX}{}", spot.resource),
    }
}

fn kept(lease: &Lease) -> Projection {
    Projection::Put { table: Table::Meta, key: key(&lease.spot), value: serde_json::json!(lease) }
}

fn gone(spot: &Spot) -> Projection {
    Projection::Delete { table: Table::Meta, key: key(spot) }
}

/// A run's leases, and what stands in their way.
pub(super) struct Claim {
    inner: Arc<Inner>,
    run: RunId,
    holder: Holder,
    rules: Vec<Rule>,
    wants: Wants,
    began: Instant,
    /// Until then it waits.
    until: Instant,
    /// What the gate is told.
    found: Collision,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Inner {
    /// What the first group of gates is told: who is in the way on whole resources, where nobody is waited for.
    pub(super) fn in_the_way(&self, run: &Run) -> Option<Collision> {
        let (holder, rules) = self.minding(run)?;
        let leases = lock(&self.collisions.leases);
        let now = self.now();
        let mut found = Collision::default();
        for rule in rules.iter().filter(|rule| rule.on_conflict != OnConflict::Wait) {
            let spots = rule.spots(&run.contract, None);
            let met = leases.met(&spots, &holder, now);
            found.met.extend(met.into_iter().map(|lease| Met::new(rule, Obstacle::Lease(lease.clone()))));
        }
        Some(found)
    }

    /// The rules that concern a run, and whose its leases are.
    fn minding(&self, run: &Run) -> Option<(Holder, Vec<Rule>)> {
        let rules: Vec<Rule> =
            self.collisions.rules.iter().filter(|rule| rule.concerns(&run.contract)).cloned().collect();
        let holder = Holder::of(&run.contract, rules.iter().any(|rule| rule.by_trace))?;
        (!rules.is_empty()).then_some((holder, rules))
    }

    /// A claim for a run some rule concerns. Nothing is taken yet.
    pub(super) fn claim(self: &Arc<Self>, run: &Run) -> Option<Claim> {
        let (holder, rules) = self.minding(run)?;
        // Several rules: nobody waits longer than the most impatient one says.
        let waits = rules.iter().filter(|rule| rule.on_conflict == OnConflict::Wait).map(|rule| rule.wait);
        let wait = waits.min().map_or(Duration::ZERO, |wait| wait.unsigned_abs());
        let began = Instant::now();
        let mut claim = Claim {
            inner: Arc::clone(self),
            run: run.id,
            holder,
            rules,
            wants: Wants::new(),
            began,
            until: began + wait,
            found: Collision::default(),
        };
        claim.want(run, None);
        Some(claim)
    }

    /// Renews a run's leases just before it is intended. Invariant `FENCE`.
    ///
    /// # Errors
    /// [`Lost`], and the run must not be intended.
    pub(super) fn renew(&self, claim: Option<&Claim>) -> Result<Option<Entry>, Lost> {
        let Some(claim) = claim else { return Ok(None) };
        let now = self.now();
        let mut leases = lock(&self.collisions.leases);
        let renewed = leases.renew(claim.run, &claim.found.fence, now)?;
        let over = leases.sweep(now);
        // What ran out first: it may have been taken again by this very run.
        let project = over.iter().map(gone).chain(renewed.iter().map(kept)).collect();
        Ok(Some(Entry { at: now, body: Body::Leased { run: claim.run, leases: renewed }, project }))
    }

    /// Whether a run's leases still stand: the last thing asked before the commit. Invariant `FENCE`.
    ///
    /// # Errors
    /// A refusal that names the lease.
    pub(super) fn fenced(&self, fence: &[Lease]) -> Result<(), Refusal> {
        let lost = match lock(&self.collisions.leases).stand(fence, self.now()) {
            Ok(()) => return Ok(()),
            Err(lost) => lost,
        };
        Err(Refusal::new(Code::Moved, lost.to_string()).next("look at what is there now, and call again"))
    }
}

impl Claim {
    /// What the gate is told of it.
    pub(super) fn found(&self) -> Collision {
        self.found.clone()
    }

    /// The leases it holds.
    pub(super) fn fence(&self) -> Vec<Lease> {
        self.found.fence.clone()
    }

    fn want(&mut self, run: &Run, measured: Option<Measured<'_>>) {
        let mut wants = Wants::new();
        for rule in &self.rules {
            for spot in rule.spots(&run.contract, measured) {
                let lasts = wants.entry(spot).or_insert(rule.lease);
                *lasts = rule.lease.max(*lasts);
            }
        }
        let crowded = lock(&self.inner.collisions.leases).count(&run.contract.resource, &self.holder) + wants.len();
        if crowded > MOST
            && let Some(lasts) = wants.values().max().copied()
        {
            wants.retain(|spot, _| spot.resource != run.contract.resource);
            wants.insert(Spot { resource: run.contract.resource.clone(), place: None }, lasts);
        }
        self.wants = wants;
    }

    /// Waits until nobody else holds what is wanted, or it is too late. Nothing may be held meanwhile.
    pub(super) async fn wait(&mut self) {
        let mut freed = self.inner.collisions.freed.subscribe();
        loop {
            let until = {
                let leases = lock(&self.inner.collisions.leases);
                let now = self.inner.now();
                let met = leases.met(self.wants.keys(), &self.holder, now);
                match met.iter().map(|lease| lease.until).min() {
                    None => return,
                    Some(until) => until.duration_since(now).unsigned_abs(),
                }
            };
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            // Whichever comes first; a sender that is gone took the node along.
            let _ = tokio::time::timeout(until.min(left).min(LOOK), freed.changed()).await;
        }
    }

    /// Takes what a staged write touches. `false`: somebody else was quicker and may be waited for; what is
    /// staged must go and come again.
    pub(super) fn take(&mut self, run: &Run, measured: Measured<'_>) -> bool {
        self.give_back();
        self.want(run, Some(measured));
        let wanted: Vec<BTreeSet<Spot>> =
            self.rules.iter().map(|rule| rule.spots(&run.contract, Some(measured))).collect();
        let minds = |lease: &Lease| {
            let rules = self.rules.iter().zip(&wanted);
            let minding = rules.filter(|(_, spots)| spots.iter().any(|spot| spot.meets(&lease.spot)));
            let mut met: Vec<Met> = minding.map(|(rule, _)| Met::new(rule, Obstacle::Lease(lease.clone()))).collect();
            // Wanted in place of its many places: then every rule minds.
            if met.is_empty() {
                met = self.rules.iter().map(|rule| Met::new(rule, Obstacle::Lease(lease.clone()))).collect();
            }
            met
        };
        let mut found = Collision::default();
        {
            let now = self.inner.now();
            let mut leases = lock(&self.inner.collisions.leases);
            match leases.take(self.run, &self.holder, &self.wants, false, now) {
                Ok(fence) => found.fence = fence,
                Err(met) => {
                    found.met = met.iter().flat_map(minds).collect();
                    let all = |wanted| found.met.iter().all(|met| met.on_conflict == wanted);
                    if all(OnConflict::Wait) && Instant::now() < self.until {
                        return false;
                    }
                    // A person was asked about it and said yes: it changes hands.
                    if run.approval().is_some_and(|approval| !approval.question.only_exceptions)
                        && all(OnConflict::Review)
                        && let Ok(fence) = leases.take(self.run, &self.holder, &self.wants, true, now)
                    {
                        found.fence = fence;
                    }
                }
            }
        }
        found.met.extend(self.inner.unsettled(run.id, &self.rules, &wanted, run));
        found.waited_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.found = found;
        true
    }

    fn give_back(&mut self) {
        let fence = std::mem::take(&mut self.found.fence);
        if !fence.is_empty() && lock(&self.inner.collisions.leases).let_go(self.run, &fence) {
            self.inner.collisions.freed.send_replace(());
        }
    }
}

impl Inner {
    /// Records what an operator took, in the order in which it takes effect: whoever takes it next is behind it
    /// in the journal.
    fn released(&self, body: Body, leases: &[Lease]) -> super::Written {
        let mut all = lock(&self.collisions.leases);
        let entry = Entry { at: self.now(), body, project: leases.iter().map(|lease| gone(&lease.spot)).collect() };
        let written = self.hand_over(Batch { entries: vec![entry], blobs: Vec::new() });
        all.release(leases);
        drop(all);
        self.collisions.freed.send_replace(());
        written
    }

    /// Records that a run was intended under leases it no longer has, and how they stand now: its intent may
    /// have been written down after they were released.
    pub(super) fn lost(&self, run: RunId, fence: Vec<Lease>) -> super::Written {
        let leases = lock(&self.collisions.leases);
        let project = fence.iter().map(|lease| leases.used(&lease.spot).map_or_else(|| gone(&lease.spot), kept));
        let project = project.collect();
        let entry = Entry { at: self.now(), body: Body::LeasesLost { run, leases: fence }, project };
        self.hand_over(Batch { entries: vec![entry], blobs: Vec::new() })
    }
}
