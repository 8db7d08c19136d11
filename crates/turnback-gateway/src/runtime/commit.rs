//! From the decision to the end: intent, commit, and looking how the world stands.
//!
//! Upholds `INTENT-FIRST` and `FENCE`; the order of what is durable is written down in `drive.rs`.

use std::sync::Arc;

use jiff::Timestamp;
use turnback_core::names::RunId;
use turnback_core::permit::Permit;
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{self, Event, Outcome, State};
use turnback_journal::{Batch, Entry};

use super::drive::Live;
use super::{Inner, blocking, durable};

impl Inner {
    pub(super) async fn commit(self: &Arc<Self>, live: Live) -> Result<Live, Refusal> {
        let State::Allowed(allowed) = &live.run.state else {
            return Err(Refusal::new(Code::Failed, "a commit without a decision"));
        };
        let minted = Permit::mint(
            live.run.id,
            live.run.contract.digest(),
            &allowed.measurement.effect,
            &allowed.before,
            &allowed.after,
            allowed.approval.as_ref(),
            live.run.effect_match,
            self.now(),
        );
        let permit = match minted {
            Ok(permit) => permit,
            Err(e) => {
                self.budget(&live.run, false);
                return live.happen(self.now(), Event::Abandoned { why: e.to_string() });
            }
        };
        let mut live = live;
        match self.renew(live.claim.as_ref()) {
            Ok(leased) => leased.into_iter().for_each(|leased| live.also(leased)),
            Err(lost) => {
                self.budget(&live.run, false);
                return live.happen(self.now(), Event::Abandoned { why: lost.to_string() });
            }
        }
        let mut live = live.happen(self.now(), Event::Intended)?;
        let Some(mut staged) = live.staged.take() else {
            return Err(Refusal::new(Code::Failed, "a commit without staged work"));
        };
        // The domain needs them no more: its recipe names them by hash.
        live.blobs.extend(std::mem::take(&mut staged.artifacts).into_iter().map(|a| (a.hash, a.bytes)));
        fail::fail_point!("before-intent", |_| turnback_journal::crash());
        // INTENT-FIRST: nothing leaves before this returns.
        if let Err(refusal) = self.write(&mut live).await {
            self.budget(&live.run, false);
            return Err(refusal);
        }
        fail::fail_point!("after-intent", |_| turnback_journal::crash());
        let fence = live.claim.as_ref().map(super::collision::Claim::fence).unwrap_or_default();
        if let Err(refusal) = self.fenced(&fence) {
            durable(self.lost(live.run.id, fence)).await?;
            return self.committed(live, Outcome::Failed { refusal }, Vec::new());
        }
        let now = self.now();
        let (inner, id) = (Arc::clone(self), live.run.id);
        let committed = blocking(move || {
            let mut steps = Vec::new();
            let mut progress = reporter(&inner, id, now, &mut steps);
            let outcome = turnback_effects::commit(permit, staged, now, &mut progress);
            drop(progress);
            (outcome, steps)
        })
        .await;
        fail::fail_point!("after-commit", |_| turnback_journal::crash());
        let (outcome, steps) = committed.unwrap_or_else(|e| (Outcome::Unknown { why: e.to_string() }, Vec::new()));
        self.committed(live, outcome, steps)
    }

    /// Takes in what a commit came to. Its steps are in the journal already.
    fn committed(&self, mut live: Live, outcome: Outcome, steps: Vec<String>) -> Result<Live, Refusal> {
        for step in steps {
            let moved = run::step(live.run, Event::Progressed { step }, self.now())
                .map_err(|e| Refusal::new(Code::Failed, e.to_string()))?;
            live.run = moved.run;
        }
        // An unknown outcome counts as spent: budgets err on the strict side.
        self.budget(&live.run, !matches!(outcome, Outcome::Failed { .. }));
        self.note_values(&mut live, &outcome);
        live.happen(self.now(), Event::Committed { outcome })
    }

    pub(super) async fn probe(self: &Arc<Self>, live: Live) -> Result<Live, Refusal> {
        let domain = Arc::clone(&self.bound(&live.run.contract.resource)?.resource.domain);
        let Some(measurement) = live.run.state.measurement().cloned() else {
            return Err(Refusal::new(Code::Failed, "a probe without a measurement"));
        };
        let id = live.run.id;
        let standing = blocking(move || domain.probe(id, &measurement)).await?;
        live.happen(self.now(), Event::Probed { standing })
    }

    pub(super) async fn finish(self: &Arc<Self>, mut live: Live) -> Result<Live, Refusal> {
        // That the rest is about to be done is durable before it is done.
        self.write(&mut live).await?;
        let domain = Arc::clone(&self.bound(&live.run.contract.resource)?.resource.domain);
        let Some(measurement) = live.run.state.measurement().cloned() else {
            return Err(Refusal::new(Code::Failed, "nothing to finish"));
        };
        let (id, now, inner) = (live.run.id, self.now(), Arc::clone(self));
        let (outcome, steps) = blocking(move || {
            let mut steps = Vec::new();
            let mut progress = reporter(&inner, id, now, &mut steps);
            let outcome = domain.finish(id, &measurement, &mut progress);
            drop(progress);
            (outcome, steps)
        })
        .await?;
        self.committed(live, outcome, steps)
    }

    pub(super) async fn observe(self: &Arc<Self>, mut live: Live) -> Result<Live, Refusal> {
        let bound = self.bound(&live.run.contract.resource)?;
        let Some(measurement) = live.run.state.measurement().cloned() else {
            return Err(Refusal::new(Code::Failed, "nothing to observe"));
        };
        let probes: Vec<_> =
            bound.resource.probes.iter().filter(|p| p.follows(&live.run.contract.local)).cloned().collect();
        if !probes.is_empty() {
            // Probes may be slow; the outcome does not wait for them.
            self.write(&mut live).await?;
        }
        let domain = Arc::clone(&bound.resource.domain);
        let blobs = self.stored();
        let id = live.run.id;
        let contract = live.run.contract.clone();
        let bounds = self.settings.bounds.clone();
        let tools: Vec<_> = self.tools.values().filter(|t| t.resource == contract.resource).cloned().collect();
        let observation = blocking(move || {
            let mut seen = domain.observe(id, &measurement, &blobs).unwrap_or_else(|refusal| run::Observation {
                differences: vec![format!("could not be read back: {refusal}")],
                ..run::Observation::default()
            });
            seen.probes = probes.iter().map(|p| super::probes::check(p, domain.as_ref(), &tools, &bounds)).collect();
            seen
        })
        .await?;
        live.happen(self.now(), Event::Observed { observation })
    }
}

/// Journals each finished step of a commit that has several, without waiting: after a crash every step
/// is classified by looking at the world, the record is for people.
fn reporter<'a>(inner: &'a Inner, run: RunId, at: Timestamp, steps: &'a mut Vec<String>) -> impl FnMut(&str) + 'a {
    move |step| {
        steps.push(step.to_owned());
        let event = Event::Progressed { step: step.to_owned() };
        let entry = Entry { at, body: Body::Run { run, event }, project: Vec::new() };
        inner.append_behind(Batch { entries: vec![entry], blobs: Vec::new() }, || {});
        fail::fail_point!("between-steps", |_| turnback_journal::crash());
    }
}
