//! Undo: one run, a set of runs, everything an agent did since a time.
//!
//! An undo is a run like any other: planned, judged, permitted, journaled, verified, undoable. This
//! file finds the runs, asks the pure planner whether and in which order they may be countered, and
//! starts one run for each resource. Invariant `NO-CLOBBER`: later work by others is never overwritten;
//! the domain checks the world itself when it stages, whatever the plan says.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use turnback_core::contract::{Actor, Contract};
use turnback_core::names::{ResourceName, RunId};
use turnback_core::record::{Body, Row};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::{Blocker, Conflict};
use turnback_core::run::{self, Event, Run, State};
use turnback_core::tool::Match;
use turnback_core::undo::{self, Node, Standing};
use turnback_effects::{UndoRefused, Undone};
use turnback_journal::{Entry, Projection, RowFilter};

use super::drive::Live;
use super::{Inner, blocking, view};
use crate::operator::protocol::{Happened, UndoPart, UndoPlan};

/// What an undo came to.
pub struct UndoEnd {
    /// What was planned, and what was in the way.
    pub plan: UndoPlan,
    /// The undo runs that were made, in order; empty after a dry run or when something was in the way.
    pub runs: Vec<RunId>,
}

/// Conflicts as one refusal that names every place.
pub(super) fn conflict_refusal(conflicts: &[Conflict]) -> Refusal {
    let places: Vec<String> =
        conflicts.iter().map(|c| format!("`{}` {}", turnback_core::text::visible(&c.place), c.why)).collect();
    let refusal = Refusal::new(Code::Moved, format!("undo refused: {}", places.join("; ")))
        .next("nothing was changed; keep the later work, or undo it first");
    match conflicts.first() {
        Some(first) => refusal.at(&first.place),
        None => refusal,
    }
}

impl Inner {
    /// Undoes a set of runs, all of them or none where the domains allow.
    pub(super) async fn undo_runs(
        self: &Arc<Self>,
        actor: Actor,
        wanted: Vec<RunId>,
        dry_run: bool,
    ) -> Result<UndoEnd, Refusal> {
        let wanted: BTreeSet<RunId> = wanted.into_iter().collect();
        if wanted.is_empty() {
            return Err(Refusal::new(Code::NotFound, "there is nothing to undo"));
        }
        let nodes = self.nodes(&wanted).await?;
        let mut readers = Vec::new();
        for id in undo::readers(&nodes, &wanted) {
            readers.push(self.row_of(id)?);
        }
        let order = match undo::plan(&nodes, &wanted) {
            Ok(order) => order,
            Err(blockers) => {
                return Ok(UndoEnd { plan: UndoPlan { parts: Vec::new(), blockers, readers }, runs: Vec::new() });
            }
        };
        // With several resources, or when only asked, every part is staged and discarded first: either
        // all of them can go ahead or none starts.
        let mut plan = UndoPlan { parts: Vec::new(), blockers: Vec::new(), readers };
        if dry_run || order.parts.len() > 1 {
            for (resource, runs) in &order.parts {
                self.rehearse(resource, runs, &nodes, &wanted, &mut plan).await?;
            }
            if dry_run || !plan.blockers.is_empty() {
                return Ok(UndoEnd { plan, runs: Vec::new() });
            }
        } else {
            plan.parts = order.parts.iter().map(|(resource, runs)| part(resource, runs)).collect();
        }
        let mut made = Vec::new();
        for (resource, runs) in order.parts {
            let live = self.start_undo(actor.clone(), &resource, runs).await?;
            made.push(live.run.id);
            if !live.conflicts.is_empty() {
                plan.blockers.extend(explain(live.conflicts, &nodes, &wanted));
                break;
            }
            if !matches!(live.run.state, State::Done(_)) {
                break;
            }
        }
        Ok(UndoEnd { plan, runs: made })
    }

    /// Everything an agent committed since a time and that still stands.
    pub(super) fn done_since(
        &self,
        agent: &turnback_core::names::AgentName,
        since: jiff::Timestamp,
    ) -> Result<Vec<RunId>, Refusal> {
        let filter = RowFilter { agent: Some(agent.clone()), committed_since: Some(since), ..RowFilter::default() };
        let rows = self.journal.rows(&filter)?;
        Ok(rows.into_iter().filter(|r| r.undone_by.is_none() && r.state != "in_doubt").map(|r| r.run).collect())
    }

    /// Rolls a diverged run back by itself when that is legal, and alerts when it is not. Says which.
    ///
    /// Boxed, because a rollback is driven by the loop that asks for it.
    pub(super) fn roll_back(self: &Arc<Self>, id: RunId) -> Pin<Box<dyn Future<Output = String> + Send>> {
        let inner = Arc::clone(self);
        Box::pin(async move { inner.rolled_back(id).await })
    }

    async fn rolled_back(self: &Arc<Self>, id: RunId) -> String {
        let why = match self.undo_runs(Actor::Turnback, vec![id], false).await {
            Ok(end) if end.plan.blockers.is_empty() => match end.runs.first() {
                Some(by) => match self.load(*by).await {
                    Ok(run) if matches!(run.state, State::Done(_)) => {
                        return format!("it was rolled back by run `{}`", by.short());
                    }
                    Ok(run) => format!("its rollback `{}` is {}", by.short(), run.state.word()),
                    Err(refusal) => refusal.to_string(),
                },
                None => "no rollback was made".to_owned(),
            },
            Ok(end) => {
                let conflicts: Vec<Conflict> = end.plan.blockers.into_iter().map(|b| b.conflict).collect();
                conflict_refusal(&conflicts).to_string()
            }
            Err(refusal) => refusal.to_string(),
        };
        let message = format!(
            "run `{id}` diverged and could not be rolled back: {why}; a person must look: turnback show {}",
            id.short()
        );
        tracing::error!(run = %id, "{message}");
        let alert = Body::Alert { run: Some(id), message: message.clone() };
        match self.append(vec![(alert, None)]).await {
            Ok(()) => message,
            Err(refusal) => format!("{message} (the alert could not be recorded: {refusal})"),
        }
    }

    async fn start_undo(
        self: &Arc<Self>,
        actor: Actor,
        resource: &ResourceName,
        runs: Vec<RunId>,
    ) -> Result<Live, Refusal> {
        let bound = self.bound(resource)?;
        let domain = &bound.resource.domain;
        let contract = Contract::undo(
            actor,
            resource.clone(),
            domain.kind(),
            bound.resource.environment.clone(),
            domain.identity(),
            runs,
        )
        .map_err(|e| Refusal::new(Code::BadInput, e.to_string()))?;
        let id = RunId::new(uuid::Uuid::now_v7());
        let first = Event::Proposed { contract: Box::new(contract.clone()) };
        let mut live = Live::new(run::open(id, contract, Match::Exact, self.now()));
        live.note(self.now(), first);
        // In a task of its own: whoever asked may hang up, the undo goes on.
        let inner = Arc::clone(self);
        let task = tokio::spawn(async move { inner.drive_to_end(live).await });
        task.await.map_err(|e| Refusal::new(Code::Failed, format!("internal failure: {e}")))?
    }

    /// Stages an undo and throws it away, to say what it would do or what is in the way.
    async fn rehearse(
        &self,
        resource: &ResourceName,
        runs: &[RunId],
        nodes: &[Node],
        wanted: &BTreeSet<RunId>,
        plan: &mut UndoPlan,
    ) -> Result<(), Refusal> {
        let bound = self.bound(resource)?;
        let wait = self.settings.bounds.lock_wait;
        let hold = tokio::time::timeout(wait, Arc::clone(&bound.lock).lock_owned()).await;
        let Ok(_hold) = hold else {
            return Err(Refusal::new(Code::Busy, "other writes hold it").at(resource.as_str()).next("ask again later"));
        };
        let undone = self.undone(runs).await?;
        let domain = Arc::clone(&bound.resource.domain);
        let (blobs, bounds) = (self.stored(), self.settings.bounds.clone());
        let id = RunId::new(uuid::Uuid::now_v7());
        let mut part = part(resource, runs);
        let rehearsed = blocking(move || {
            let staged = domain.undo(id, &undone, &blobs, &bounds)?;
            let measurement = staged.measurement();
            let own = Held(staged.artifacts.iter().map(|a| (a.hash, a.bytes.clone())).collect(), &blobs);
            let diff = domain.diff(&measurement, &own).ok();
            Ok::<_, UndoRefused>((measurement, diff))
        })
        .await?;
        match rehearsed {
            Ok((measurement, diff)) => {
                part.summary = Some(measurement.effect.summary.clone());
                part.level = Some(measurement.plan.level().number());
                part.residue.clone_from(&measurement.plan.residue);
                part.diff = diff;
            }
            Err(UndoRefused::Conflicts(conflicts)) => {
                plan.blockers.extend(explain(conflicts, nodes, wanted));
            }
            Err(UndoRefused::Refused(refusal)) => return Err(refusal),
        }
        plan.parts.push(part);
        Ok(())
    }

    /// What the domain needs to undo these runs.
    pub(super) async fn undone(&self, runs: &[RunId]) -> Result<Vec<Undone>, Refusal> {
        let mut undone = Vec::with_capacity(runs.len());
        for id in runs {
            let run = self.load(*id).await?;
            let Some(measurement) = run.state.measurement().cloned() else {
                return Err(Refusal::new(Code::NotFound, format!("run `{id}` did nothing that could be undone")));
            };
            undone.push(Undone { run: *id, measurement });
        }
        Ok(undone)
    }

    /// The part of the dependency graph an undo of `wanted` can meet: the runs themselves and every
    /// run committed later on the same resources.
    async fn nodes(&self, wanted: &BTreeSet<RunId>) -> Result<Vec<Node>, Refusal> {
        self.caught_up().await;
        let mut resources = BTreeSet::new();
        let mut since = u64::MAX;
        let mut rows: Vec<Row> = Vec::new();
        for id in wanted {
            let row = self.row_of(*id)?;
            if row.committed.is_none() || row.state == "in_doubt" || row.state == "stuck" {
                return Err(Refusal::new(Code::NotFound, format!("it is `{}`: there is nothing to undo", row.state))
                    .at(row.run.short()));
            }
            if let Some(by) = row.undone_by {
                return Err(Refusal::new(Code::Exists, format!("it is undone already, by run `{}`", by.short()))
                    .at(row.run.short())
                    .next(format!("to have it back, undo the undo: turnback undo {}", by.short())));
            }
            let (_, history) = self.load_with_history(*id).await?;
            since = since.min(place(&history));
            resources.insert(row.resource.clone());
        }
        for resource in resources {
            let later = RowFilter { resource: Some(resource), recorded_since: Some(since), ..RowFilter::default() };
            rows.extend(self.journal.rows(&later)?);
        }
        let mut nodes = Vec::with_capacity(rows.len());
        for row in rows.into_iter().filter(|row| row.committed.is_some() || !row.reads.is_empty()) {
            let node = self.node(row).await?;
            if node.order >= since {
                nodes.push(node);
            }
        }
        Ok(nodes)
    }

    async fn node(&self, row: Row) -> Result<Node, Refusal> {
        let (run, history) = self.load_with_history(row.run).await?;
        let resource = run.contract.resource.clone();
        let standing = match (row.committed, row.undone_by) {
            (None, _) => Standing::NoEffect,
            (Some(_), Some(by)) => Standing::Undone { by },
            (Some(_), None) => Standing::Live,
        };
        let touches = match (run.state.measurement().cloned(), self.bound(&resource)) {
            (Some(measurement), Ok(bound)) if standing != Standing::NoEffect => {
                let (domain, blobs) = (Arc::clone(&bound.resource.domain), self.stored());
                blocking(move || domain.touches(&measurement, &blobs)).await??
            }
            _ => Vec::new(),
        };
        Ok(Node {
            run: row.run,
            order: place(&history),
            resource,
            kind: run.contract.kind,
            standing,
            touches,
            reads: row.reads,
            undoes: row.undoes,
        })
    }

    /// Marks a run as undone (`dead`) or as standing again, and with it what it countered: undoing an
    /// undo brings its runs back, and so on down the chain. Written in the same batch as the outcome.
    pub(super) async fn flip(&self, live: &mut Live, id: RunId, dead: bool) -> Result<(), Refusal> {
        let by = live.run.id;
        let now = self.now();
        let mut todo = vec![(id, dead)];
        while let Some((id, dead)) = todo.pop() {
            let run: Run = self.load(id).await?;
            todo.extend(run.contract.undoes.iter().map(|below| (*below, !dead)));
            let event = if dead { Event::Undone { by } } else { Event::Redone { by } };
            let step = run::step(run, event.clone(), now).map_err(|e| Refusal::new(Code::Failed, e.to_string()))?;
            self.step_flipped(&step.run);
            live.also(Entry {
                at: now,
                body: Body::Run { run: id, event },
                project: vec![Projection::Run(Box::new(view::row(&step.run, step.run.contract.digest())))],
            });
        }
        Ok(())
    }
}

/// The place of a run in the journal's order, which no clock can change: of its intent, because writes on
/// one resource never interleave, or of its last record when it never intended anything.
fn place(history: &[Happened]) -> u64 {
    let intent = history.iter().find(|happened| matches!(happened.event, Event::Intended));
    intent.or(history.last()).map_or(0, |happened| happened.seq)
}

fn part(resource: &ResourceName, runs: &[RunId]) -> UndoPart {
    UndoPart {
        resource: resource.as_str().to_owned(),
        runs: runs.iter().map(ToString::to_string).collect(),
        summary: None,
        level: None,
        residue: Vec::new(),
        diff: None,
    }
}

/// Names the later run behind each conflict, where there is one.
fn explain(conflicts: Vec<Conflict>, nodes: &[Node], wanted: &BTreeSet<RunId>) -> Vec<Blocker> {
    let later: Vec<Node> = nodes.iter().filter(|node| !wanted.contains(&node.run)).cloned().collect();
    undo::attribute(conflicts, &later)
}

/// Blobs of work that is staged but not stored, before those that are.
struct Held<'a>(Vec<(turnback_core::digest::Sha256, Vec<u8>)>, &'a super::Stored);

impl turnback_effects::Artifacts for Held<'_> {
    fn get(&self, hash: &turnback_core::digest::Sha256) -> Result<Vec<u8>, Refusal> {
        match self.0.iter().find(|(own, _)| own == hash) {
            Some((_, bytes)) => Ok(bytes.clone()),
            None => self.1.get(hash),
        }
    }
}

/// The blockers of a plan as one refusal.
pub(super) fn blocked(blockers: &[Blocker]) -> Refusal {
    let conflicts: Vec<Conflict> = blockers
        .iter()
        .map(|b| {
            let mut conflict = b.conflict.clone();
            if let Some(by) = b.by {
                conflict.why = format!("{} (by run `{}`)", conflict.why, by.short());
            }
            conflict
        })
        .collect();
    conflict_refusal(&conflicts)
}
