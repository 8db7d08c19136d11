//! Runs of others that count although nobody holds a lease: what waits for a person, is in doubt or stuck, or
//! was settled a moment ago.
//!
//! Kept in memory by resource, read back after a restart; whether one still counts its line of the list says,
//! so that nothing has to be taken out when somebody answers or undoes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use turnback_core::gates::collision::{Met, Obstacle, Rule};
use turnback_core::gates::{Measured, collision};
use turnback_core::lease::{Holder, Spot};
use turnback_core::names::{ResourceName, RunId};
use turnback_core::record::Row;
use turnback_core::refusal::Refusal;
use turnback_core::run::{Run, State};
use turnback_journal::RowFilter;

use super::super::{Inner, lock};

/// By resource; what is settled for longer than any rule minds goes with the next that comes.
#[derive(Default)]
pub(super) struct Unsettled(HashMap<ResourceName, HashMap<RunId, Kept>>);

struct Kept {
    /// With its trace, whether a rule tells traces apart or not.
    holder: Holder,
    spots: BTreeSet<Spot>,
    updated: Timestamp,
    /// It stands and nothing more happens to it.
    settled: bool,
}

/// Since when a run counts and as what; `None` when it does not, any more.
fn counts(row: &Row, window: SignedDuration, now: Timestamp) -> Option<(String, Timestamp)> {
    let since = match row.state.as_str() {
        "denied" | "refused" | "rejected" | "expired" | "released" | "measured_only" | "abandoned" | "undone" => None,
        "settled" | "diverged" => row.committed.filter(|at| now.duration_since(*at) <= window),
        // It waits, is under way, in doubt or stuck.
        _ => Some(row.updated),
    };
    since.map(|since| (row.state.clone(), since))
}

impl Inner {
    fn longest(&self) -> Option<SignedDuration> {
        self.collisions.rules.iter().filter_map(|rule| rule.soft).max()
    }

    /// Takes note of where a run stands when nothing more happens to it by itself.
    pub(in super::super) fn note_unsettled(&self, run: &Run) {
        let Some(window) = self.longest() else { return };
        let (Some(holder), Some(m)) = (Holder::of(&run.contract, true), run.state.measurement()) else { return };
        let settled = matches!(run.state, State::Done(_));
        if !settled && !matches!(run.state, State::Parked(_) | State::InDoubt(_) | State::Stuck(_)) {
            // It waited, and came to nothing.
            lock(&self.collisions.unsettled).0.get_mut(&run.contract.resource).map(|there| there.remove(&run.id));
            return;
        }
        let spots = collision::touched(&run.contract, Measured { effect: &m.effect, plan: &m.plan });
        let now = self.now();
        let mut unsettled = lock(&self.collisions.unsettled);
        let there = unsettled.0.entry(run.contract.resource.clone()).or_default();
        there.retain(|_, kept| !kept.settled || now.duration_since(kept.updated) <= window);
        there.insert(run.id, Kept { holder, spots, updated: run.updated, settled });
    }

    /// What others began on these spots and is not settled.
    pub(super) fn unsettled(&self, own: RunId, rules: &[Rule], wanted: &[BTreeSet<Spot>], run: &Run) -> Vec<Met> {
        let now = self.now();
        let mut found = Vec::new();
        for (rule, spots) in rules.iter().zip(wanted) {
            let Some(window) = rule.soft else { continue };
            let Some(holder) = Holder::of(&run.contract, rule.by_trace) else { continue };
            let mut near: Vec<(RunId, Holder, Spot)> = Vec::new();
            {
                let unsettled = lock(&self.collisions.unsettled);
                let resources: BTreeSet<&ResourceName> = spots.iter().map(|spot| &spot.resource).collect();
                for (id, kept) in resources.into_iter().filter_map(|name| unsettled.0.get(name)).flatten() {
                    let theirs =
                        Holder { trace: kept.holder.trace.clone().filter(|_| rule.by_trace), ..kept.holder.clone() };
                    let spot = kept.spots.iter().find(|theirs| spots.iter().any(|spot| spot.meets(theirs)));
                    if let Some(spot) = spot.filter(|_| theirs != holder && *id != own) {
                        near.push((*id, theirs, spot.clone()));
                    }
                }
            }
            near.sort_by_key(|(id, ..)| *id);
            for (id, holder, spot) in near {
                // What cannot be read counts: nobody knows that it does not.
                let standing = match self.journal.row(id) {
                    Ok(Some(row)) => counts(&row, window, now),
                    Ok(None) | Err(_) => Some(("unknown".to_owned(), now)),
                };
                match standing {
                    Some((state, since)) => {
                        found.push(Met::new(rule, Obstacle::Run { run: id, holder, spot, state, since }));
                    }
                    None => self.forget_unsettled(&run.contract.resource, id, window),
                }
            }
        }
        found
    }

    fn forget_unsettled(&self, resource: &ResourceName, run: RunId, window: SignedDuration) {
        // Another rule may mind it for longer.
        if self.longest() == Some(window)
            && let Some(there) = lock(&self.collisions.unsettled).0.get_mut(resource)
        {
            there.remove(&run);
        }
    }

    /// Reads back what a restart took from memory.
    pub(in super::super) async fn restore_unsettled(self: &Arc<Self>) -> Result<(), Refusal> {
        let Some(window) = self.longest() else { return Ok(()) };
        let since = self.started.saturating_sub(window).unwrap_or(Timestamp::MIN);
        let mut rows = self.journal.rows(&RowFilter { committed_since: Some(since), ..RowFilter::default() })?;
        for state in ["parked", "in_doubt", "stuck"] {
            let filter = RowFilter { state: Some(state.into()), ..RowFilter::default() };
            rows.extend(self.journal.rows(&filter)?);
        }
        let runs: BTreeSet<RunId> = rows.iter().filter(|row| row.actor.agent().is_some()).map(|row| row.run).collect();
        for id in runs {
            self.note_unsettled(&self.load(id).await?);
        }
        Ok(())
    }
}
