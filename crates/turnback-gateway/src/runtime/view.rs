//! Runs read back from the journal, and how people see them.
//!
//! A run is never kept in memory while it waits: it is folded from its records through the same
//! `step` that made them.

use turnback_core::digest::ActionDigest;
use turnback_core::gates::blast_radius::Spent;
use turnback_core::names::RunId;
use turnback_core::record::{Body, Row};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{self, Ended, Event, Run, State};
use turnback_core::tool::Match;

use super::{Inner, answer, blocking};
use crate::operator::protocol::{Happened, RunView};

/// The line of the list for a run, given the digest of its contract.
pub(super) fn row(run: &Run, action: ActionDigest) -> Row {
    let measurement = run.state.measurement();
    let mut row = Row {
        run: run.id,
        proposed: run.proposed,
        updated: run.updated,
        committed: None,
        actor: run.contract.actor.clone(),
        tool: run.contract.tool.as_str().to_owned(),
        resource: run.contract.resource.as_str().to_owned(),
        environment: run.contract.environment.as_str().to_owned(),
        action: action.0,
        state: run.state.word().to_owned(),
        over: run.state.is_over(),
        undelivered: run.undelivered,
        summary: summary(run),
        level: measurement.map(|m| m.plan.level().number()),
        question: None,
        expires: None,
        spent: Spent::default(),
        undoes: run.contract.undoes.clone(),
        undone_by: None,
        reads: run.reads.clone(),
    };
    match &run.state {
        State::Parked(parked) => {
            row.question = Some(parked.question.id);
            row.expires = Some(parked.question.expires);
        }
        State::Done(done) => {
            row.committed = Some(done.committed);
            row.undone_by = done.undone_by;
            row.question = done.allowed.approval.as_ref().map(|a| a.question.id);
            row.spent = Spent::of(&done.allowed.measurement.effect.blast);
        }
        // Nobody knows whether it happened: it counts as if it had.
        State::Committing(_) | State::InDoubt(_) | State::Stuck(_) => {
            row.committed = Some(run.updated);
            row.spent = measurement.map_or_else(Spent::default, |m| Spent::of(&m.effect.blast));
        }
        _ => {}
    }
    row
}

fn summary(run: &Run) -> String {
    let effect = run.state.measurement().map(|m| m.effect.summary.clone());
    match &run.state {
        State::Ended { how: Ended::Denied(decision), .. } => answer::denial(decision, run.state.measurement()).message,
        State::Ended { how: Ended::Constrained(decision), .. } => answer::only_as(decision),
        State::Ended { how: Ended::Refused(refusal), .. } => refusal.to_string(),
        State::Ended { how: Ended::Abandoned(why), .. } => why.clone(),
        State::InDoubt(s) | State::Stuck(s) => s.why.clone(),
        _ => effect.unwrap_or_else(|| match run.contract.target.place.as_str() {
            "" => run.contract.target.statement.clone(),
            place => place.to_owned(),
        }),
    }
}

impl Inner {
    /// The run with that identity, folded from its records.
    pub(super) async fn load(&self, id: RunId) -> Result<Run, Refusal> {
        let (run, _) = self.load_with_history(id).await?;
        Ok(run)
    }

    pub(super) async fn load_with_history(&self, id: RunId) -> Result<(Run, Vec<Happened>), Refusal> {
        self.caught_up().await;
        let journal = self.journal.clone();
        let records = blocking(move || journal.run_events(id)).await?.map_err(Refusal::from)?;
        let mut run: Option<Run> = None;
        let mut history = Vec::with_capacity(records.len());
        for (seq, at, body) in records {
            let Body::Run { event, .. } = body else { continue };
            history.push(Happened { seq, at, event: event.clone() });
            run = Some(match (run, event) {
                (None, Event::Proposed { contract }) => {
                    let effect_match =
                        self.tools.get(contract.tool.as_str()).map_or(Match::Exact, |tool| tool.effect_match);
                    run::open(id, *contract, effect_match, at).run
                }
                (Some(run), event) => {
                    run::step(run, event, at)
                        .map_err(|e| Refusal::new(Code::Failed, format!("record {seq}: {e}")).next("turnback verify"))?
                        .run
                }
                (None, _) => {
                    return Err(Refusal::new(
                        Code::Failed,
                        format!("record {seq}: run `{id}` does not begin with a proposal"),
                    )
                    .next("turnback verify"));
                }
            });
        }
        run.map(|run| (run, history)).ok_or_else(|| Refusal::new(Code::NotFound, format!("no run `{id}`")))
    }

    /// Finds one run by full identity, short form or approval.
    pub(super) async fn find(&self, text: &str) -> Result<RunId, Refusal> {
        let journal = self.journal.clone();
        let wanted = text.to_owned();
        let rows = blocking(move || journal.find_run(&wanted)).await?.map_err(Refusal::from)?;
        match rows.as_slice() {
            [] => Err(Refusal::new(Code::NotFound, "no run or approval has that identity")
                .at(text)
                .next("see: turnback runs")),
            [row] => Ok(row.run),
            many => {
                let names: Vec<String> = many.iter().map(|r| r.run.to_string()).collect();
                Err(Refusal::new(Code::BadInput, format!("it names more than one run: {}", names.join(", ")))
                    .at(text)
                    .next("give the whole identity"))
            }
        }
    }

    /// Everything about one run.
    pub(super) async fn view(&self, id: RunId) -> Result<RunView, Refusal> {
        let (run, history) = self.load_with_history(id).await?;
        let owner = run
            .contract
            .actor
            .agent()
            .and_then(|name| self.board.view().agents.get(name).map(|agent| agent.owner.clone()));
        let (before, after) = run.state.decisions();
        let (before, after) = (before.cloned(), after.cloned());
        let measurement = run.state.measurement().cloned();
        let diff = match (&measurement, self.bound(&run.contract.resource)) {
            (Some(measurement), Ok(bound)) => {
                let domain = std::sync::Arc::clone(&bound.resource.domain);
                let (blobs, measurement) = (self.stored(), measurement.clone());
                match blocking(move || domain.diff(&measurement, &blobs)).await? {
                    Ok(diff) => Some(diff),
                    Err(refusal) => Some(format!("(the diff is not kept: {refusal})\n")),
                }
            }
            _ => None,
        };
        let (question, moved) = match &run.state {
            State::Parked(parked) => (Some(parked.question.clone()), parked.moved.clone()),
            _ => (run.approval().map(|a| a.question.clone()), None),
        };
        let refusal = match &run.state {
            State::Ended { how: Ended::Refused(refusal), .. } => Some(refusal.clone()),
            State::Ended { how: Ended::Denied(decision), .. } => {
                Some(answer::denial(decision, run.state.measurement()))
            }
            _ => None,
        };
        let observation = match &run.state {
            State::Done(done) => done.observation.clone(),
            _ => None,
        };
        let contract = serde_json::to_value(&run.contract)
            .map_err(|e| Refusal::new(Code::Failed, format!("the contract cannot be shown: {e}")))?;
        Ok(RunView {
            row: row(&run, run.contract.digest()),
            owner,
            contract,
            before,
            after,
            level: measurement.as_ref().map(|m| m.plan.level().number()),
            effect: measurement.as_ref().map(|m| m.effect.clone()),
            plan: measurement.map(|m| m.plan),
            diff,
            question,
            moved,
            refusal,
            observation,
            history,
        })
    }
}
