//! The loop every run goes through.
//!
//! What must be durable before what is decided here and in `commit.rs`, and only there:
//! * the intent before the commit (`INTENT-FIRST`);
//! * a read's record before its result is released – the sync overlaps the read itself;
//! * a question before anybody is told that it waits;
//! * the outcome before the caller hears it, unless the domain keeps its own durable mark.
//!
//! Fail points, with feature `failpoints`, in the order a run meets them; `return` crashes the process
//! there. Between them lie the journal's own.
//!
//! | point | what is durable, what is done |
//! |---|---|
//! | `before-question` | staged and discarded again; nothing written |
//! | `after-question` | the question is durable; nobody was told |
//! | `before-answer` | a person answered; not written |
//! | `after-constrained` | an action is over because a safer form goes on; that one is not proposed |
//! | `after-answer` | the answer is durable; nothing followed |
//! | `before-intent` | staged; the intent is not written |
//! | `after-intent` | the intent is durable; nothing is done |
//! | `between-steps` | some steps of several are done |
//! | `after-commit` | all of it is done; the outcome is not written |
//! | `in-undone-marks` | an undo is done and read back; not every run it counters is marked |
//! | `before-outcome` | it is read back; the end is not written |
//! | `after-abort` | no further step of a plan runs; nothing of it is taken back yet |
//! | `between-unwinds` | some steps of an aborted plan are taken back |
//! | `after-outcome` | the end is handed over, durable or marked; the caller was not told |

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;
use turnback_core::approval::Question;
use turnback_core::budget::Books;
use turnback_core::decision::{Phase, Ruling};
use turnback_core::digest::{ActionDigest, Sha256};
use turnback_core::flags::Flagged;
use turnback_core::gates::evidence::ReadDigest;
use turnback_core::gates::{self, Facts, Measured};
use turnback_core::names::ApprovalId;
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::Conflict;
use turnback_core::run::{self, Command, Ended, Event, Run, State, Step};
use turnback_core::tool::Verb;
use turnback_effects::{Reading, Staged, UndoRefused};
use turnback_journal::{Batch, Entry, Projection};

use super::context::Looked;
use super::{Inner, answer, blocking, durable, lock, started, view};
use crate::desk::{Answer, Pending};

/// Bytes of diff and pre-image kept of an action that was refused after staging, so that `show` can
/// say what it would have done. Larger ones are dropped and the diff is said to be gone.
const REFUSED_BLOBS: usize = 256 << 10;

/// A run under way: the pure state, what is still to do, and what only exists while it is under way.
pub(super) struct Live {
    pub(super) run: Run,
    /// The run's action, which never changes and costs a hash.
    action: ActionDigest,
    todo: VecDeque<Command>,
    /// Events that happened and are not handed to the journal yet.
    unwritten: Vec<Entry>,
    pub(super) blobs: Vec<(Sha256, Vec<u8>)>,
    pub(super) staged: Option<Staged>,
    hold: Option<OwnedMutexGuard<()>>,
    pub(super) claim: Option<super::collision::Claim>,
    /// While runs it counters are marked and the marks are not handed over yet.
    telling: Option<OwnedMutexGuard<()>>,
    reading: Option<Reading>,
    /// Of what was read, when a write may have to rest on it.
    digest: Option<ReadDigest>,
    /// Why an undo could not be staged, place by place.
    pub(super) conflicts: Vec<Conflict>,
    /// What the last decision looked at besides; its numbers are noted when it is committed.
    pub(super) evidence: Option<turnback_core::gates::evidence::Evidence>,
    /// The automatic rollback of this run, once it ran.
    rolled_back: Option<String>,
}

impl Live {
    pub(super) fn new(step: Step) -> Self {
        Self {
            action: step.run.contract.digest(),
            run: step.run,
            todo: step.commands.into(),
            unwritten: Vec::new(),
            blobs: Vec::new(),
            staged: None,
            hold: None,
            claim: None,
            telling: None,
            reading: None,
            digest: None,
            conflicts: Vec::new(),
            evidence: None,
            rolled_back: None,
        }
    }

    /// A run found in the journal, with what is left to do.
    pub(super) fn resumed(run: Run, todo: Vec<Command>) -> Self {
        Self::new(Step { run, commands: todo })
    }

    /// Writes down an event that already shaped `self.run`.
    pub(super) fn note(&mut self, at: Timestamp, event: Event) {
        self.unwritten.push(Entry { at, body: Body::Run { run: self.run.id, event }, project: Vec::new() });
    }

    /// Moves the run one event on.
    pub(super) fn happen(self, at: Timestamp, event: Event) -> Result<Self, Refusal> {
        let mut next = self;
        let written = event.clone();
        let step = run::step(next.run, event, at).map_err(|e| {
            Refusal::new(Code::Failed, e.to_string()).next("report it with the output of `turnback show`")
        })?;
        next.run = step.run;
        next.todo.extend(step.commands);
        next.note(at, written);
        Ok(next)
    }

    /// Adds an entry about another run to what is written next.
    pub(super) fn also(&mut self, entry: Entry) {
        self.unwritten.push(entry);
    }

    /// Everything unwritten as one batch, the run's line of the list with its last entry.
    fn batch(&mut self) -> Option<Batch> {
        let mut entries = std::mem::take(&mut self.unwritten);
        for entry in &mut entries {
            entry.project.extend(super::budgets::remembered(&self.run, &entry.body));
        }
        entries.last_mut()?.project.push(Projection::Run(Box::new(view::row(&self.run, self.action))));
        Some(Batch { entries, blobs: std::mem::take(&mut self.blobs) })
    }
}

/// A journal that accepts nothing says that nothing was written; of a run whose intent is written that is
/// not to be heard as `nothing was done`.
fn in_doubt(run: &Run, refusal: Refusal) -> Refusal {
    match run.state {
        State::Committing(_) | State::InDoubt(_) | State::Stuck(_) | State::Done(_) => {
            let message = format!("it was begun, and how it ended is unknown until a restart: {}", refusal.message);
            Refusal { message, ..refusal }
        }
        _ => refusal,
    }
}

impl Inner {
    /// Drives a run until nothing more happens by itself, and says how its caller is answered.
    pub(super) async fn drive(self: &Arc<Self>, live: Live) -> Answer {
        let id = live.run.id;
        match self.drive_to_end(live).await {
            Ok(mut live) => match (&live.run.state, live.rolled_back.take()) {
                (State::Parked(_), _) => self.pending(&live.run),
                (State::Ended { how: Ended::Constrained(decision), .. }, _) => {
                    self.constrained(&live.run, decision).await
                }
                (_, Some(how)) => answer::diverged(&live.run, &how),
                (State::Ended { how: Ended::Denied(_), .. }, _) => {
                    answer::of(&live.run, None).with_acceptable(&self.acceptable(&live.run).await)
                }
                _ => answer::of(&live.run, live.reading.take()),
            },
            Err(refusal) => {
                self.wake(id);
                answer::refused(Some(id), refusal)
            }
        }
    }

    /// The loop. An error means the journal failed or the run met an impossible event: nothing more is
    /// performed, staged work is discarded, and what was intended stays for recovery to probe.
    pub(super) async fn drive_to_end(self: &Arc<Self>, mut live: Live) -> Result<Live, Refusal> {
        while let Some(command) = live.todo.pop_front() {
            live = self.perform(live, command).await?;
        }
        fail::fail_point!("before-outcome", |_| turnback_journal::crash());
        self.write(&mut live).await.map_err(|refusal| in_doubt(&live.run, refusal))?;
        live.telling = None;
        self.note_unsettled(&live.run);
        self.step_noted(&live.run, live.action).await;
        self.ended(&live.run).await.map_err(|refusal| in_doubt(&live.run, refusal))?;
        fail::fail_point!("after-outcome", |_| turnback_journal::crash());
        if live.run.state.is_over() || matches!(live.run.state, State::Parked(_)) {
            self.wake(live.run.id);
        }
        Ok(live)
    }

    async fn perform(self: &Arc<Self>, mut live: Live, command: Command) -> Result<Live, Refusal> {
        match command {
            Command::Judge(phase) => {
                let mut looked = self.look_up(phase, &live.run).await;
                looked.remote_flags = self.hear(phase, &live.run.contract).await;
                looked.collision = match phase {
                    Phase::Before => self.in_the_way(&live.run),
                    Phase::After => live.claim.as_ref().map(super::collision::Claim::found),
                };
                let judged = self.judge_planned(phase, &live.run, &mut looked);
                live.evidence = looked.evidence;
                live.happen(self.now(), judged)
            }
            Command::Read => self.read(live).await,
            Command::Stage => self.stage(live).await,
            Command::Discard => {
                self.discard(&mut live);
                match live.run.state {
                    // After a restart nothing is staged any more; the run ends here.
                    State::Proposed(_) | State::Cleared(_) | State::Measured(_) => live
                        .happen(self.now(), Event::Abandoned { why: "the node stopped before it was intended".into() }),
                    _ => Ok(live),
                }
            }
            Command::MeasureOnly => live.happen(self.now(), Event::MeasuredOnly),
            Command::Ask { moved } => self.ask(live, moved).await,
            Command::Commit => self.commit(live).await,
            Command::Probe => self.probe(live).await,
            Command::Finish => self.finish(live).await,
            Command::Observe => self.observe(live).await,
            Command::RollBack => {
                self.write(&mut live).await?;
                // The rollback is a run of its own and takes the lock itself.
                live.hold = None;
                live.rolled_back = Some(self.roll_back(live.run.id).await);
                Ok(live)
            }
            Command::MarkUndone => {
                live.telling = Some(Arc::clone(&self.telling).lock_owned().await);
                for id in live.run.contract.undoes.clone() {
                    self.flip(&mut live, id, true).await?;
                    fail::fail_point!("in-undone-marks", |_| turnback_journal::crash());
                }
                Ok(live)
            }
            Command::Tell => Ok(live),
        }
    }

    /// Hands everything unwritten to the journal and waits until it is durable.
    pub(super) async fn write(&self, live: &mut Live) -> Result<(), Refusal> {
        let marked = matches!(live.run.state, State::Done(_))
            && self.bound(&live.run.contract.resource).is_ok_and(|b| b.resource.domain.marks_commits());
        match live.batch() {
            None => Ok(()),
            // The mark in the target already says that it happened; a probe reads it after a crash.
            Some(batch) if marked => {
                self.append_behind(batch, || {});
                Ok(())
            }
            Some(batch) if batch.blobs.is_empty() => self.append_batch(batch).await,
            Some(batch) => {
                let journal = self.journal.clone();
                blocking(move || journal.append_wait(batch)).await?.map(drop).map_err(Refusal::from)
            }
        }
    }

    /// Asks the gates of one phase. For the second phase the budgets are read and reserved under one
    /// lock, so that two hundred parallel calls never exceed one by one.
    pub(super) fn judge(&self, phase: Phase, run: &Run, looked: &Looked) -> Event {
        self.judge_by(phase, run, looked, None)
    }

    /// [`Inner::judge`] of a step that is only tried: what it would spend is counted in books of its own.
    pub(super) fn judge_by(&self, phase: Phase, run: &Run, looked: &Looked, trial: Option<&Mutex<Books>>) -> Event {
        let view = self.board.view();
        let contract = &run.contract;
        let agent = contract.actor.agent().and_then(|name| view.agents.get(name));
        let now = self.now();
        let wall = Some(self.time.wall()).filter(|wall| *wall < now);
        let held = self.policies.held();
        let measured = run.state.measurement().filter(|_| phase == Phase::After);
        let measured = measured.map(|m| Measured { effect: &m.effect, plan: &m.plan });
        let approval = run.approval();
        let flagged = Flagged::together(view.flagged(phase, contract, now), looked.remote_flags.clone());
        let facts = Facts {
            contract,
            now,
            wall,
            agent,
            controls: &view.controls,
            mode: self.settings.environments.get(&contract.environment).copied().unwrap_or_default(),
            flags: flagged.as_ref(),
            ceilings: &self.settings.ceilings,
            policy: held.active(),
            limits: &self.settings.limits,
            spent: &[],
            irreversible: 0,
            floor: &self.settings.floor,
            approved: approval.is_some_and(|approval| !approval.question.only_exceptions),
            excepted: approval.map_or(&[], |approval| &approval.question.exceptions),
            grants_required: self.settings.grants_required,
            flow: looked.flow.as_ref(),
            evidence: looked.evidence.as_ref(),
            collision: looked.collision.as_ref(),
            forms: self.tools.get(contract.tool.as_str()).map_or(&[], |tool| &tool.forms),
            plan: looked.plan.as_ref(),
            measured,
        };
        let books = trial.unwrap_or(&self.books);
        let (decision, spent, irreversible) =
            self.judge_within(books, run, agent, measured, now, |spent, irreversible| {
                let decision = gates::decide(phase, &Facts { spent, irreversible, ..facts });
                (decision.ruling == Ruling::Allow, (decision, spent.to_vec(), irreversible))
            });
        let facts = Facts { spent: &spent, irreversible, ..facts };
        if trial.is_none() {
            held.beside(phase, run.id, &facts, &decision);
        }
        Event::Judged { decision, circumstances: Box::new(facts.circumstances()) }
    }

    async fn read(self: &Arc<Self>, mut live: Live) -> Result<Live, Refusal> {
        let domain = Arc::clone(&self.bound(&live.run.contract.resource)?.resource.domain);
        // The record of the read is made durable while the read is under way.
        let recorded = live.batch().map(|batch| self.hand_over(batch));
        let patience = self.patience(&live.run.contract);
        let (inner, bounds) = (Arc::clone(self), self.settings.bounds.clone());
        let reading = started(move || {
            let read = domain.read(&live.run.contract, &bounds);
            inner.has_read(live, read)
        });
        // In this order the task is woken once: the read is usually done by then.
        if let Some(recorded) = recorded {
            durable(recorded).await?;
        }
        let mut live = self.ends(patience, reading).await??;
        if live.reading.is_some() {
            let digest = live.digest.take();
            self.remember(&live.run, digest).await?;
        }
        Ok(live)
    }

    /// Takes in what a read came to.
    fn has_read(&self, mut live: Live, read: Result<Reading, Refusal>) -> Result<Live, Refusal> {
        match read {
            Ok(reading) => {
                let places = reading.places.clone();
                let digest = self.context.digest(&live.run.contract, &reading);
                live.reading = Some(reading);
                let mut live = live.happen(self.now(), Event::Released { read: places, digest: digest.clone() })?;
                live.digest = digest;
                // What was read is written down behind the answer: the record of the read is durable by
                // then. It is handed over before that is known, so that both may share a group; when the
                // first is not written, neither is this.
                if let Some(batch) = live.batch() {
                    self.append_behind(batch, || {});
                }
                Ok(live)
            }
            Err(refusal) => live.happen(self.now(), Event::Refused { refusal }),
        }
    }

    async fn stage(self: &Arc<Self>, mut live: Live) -> Result<Live, Refusal> {
        live.claim = self.claim(&live.run);
        loop {
            if let Some(claim) = &mut live.claim {
                claim.wait().await;
            }
            live = self.stage_once(live).await?;
            let Some(staged) = &live.staged else { return Ok(live) };
            if live.claim.as_mut().is_none_or(|claim| claim.take(&live.run, staged.measured())) {
                let mut measurement = Box::new(staged.measurement());
                self.count_amounts(&live.run, &mut measurement);
                return live.happen(self.now(), Event::Staged { measurement });
            }
            // Nothing is held while somebody else is waited for.
            live.staged = None;
            live.hold = None;
        }
    }

    /// Stages under the resource's lock, or says why not.
    async fn stage_once(self: &Arc<Self>, mut live: Live) -> Result<Live, Refusal> {
        let bound = self.bound(&live.run.contract.resource)?;
        let domain = Arc::clone(&bound.resource.domain);
        let wait = self.settings.bounds.lock_wait;
        let Ok(hold) = tokio::time::timeout(wait, Arc::clone(&bound.lock).lock_owned()).await else {
            let refusal = Refusal::new(Code::Busy, format!("other writes held it for {} s", wait.as_secs()))
                .at(live.run.contract.resource.as_str())
                .next("call again later");
            return live.happen(self.now(), Event::Refused { refusal });
        };
        let id = live.run.id;
        let bounds = self.settings.bounds.clone();
        let staged = if live.run.contract.verb == Verb::Undo {
            let undone = self.undone(&live.run.contract.undoes).await?;
            let blobs = self.stored();
            blocking(move || domain.undo(id, &undone, &blobs, &bounds)).await?
        } else {
            let contract = live.run.contract.clone();
            let staging = move || domain.stage(id, &contract, &bounds);
            self.patiently(&live.run.contract, staging).await?.map_err(UndoRefused::Refused)
        };
        match staged {
            Ok(mut staged) => {
                staged.plan.bearer = staged.plan.bearer.max(bound.resource.bearer);
                live.staged = Some(staged);
                live.hold = Some(hold);
                Ok(live)
            }
            Err(UndoRefused::Refused(refusal)) => live.happen(self.now(), Event::Refused { refusal }),
            Err(UndoRefused::Conflicts(conflicts)) => {
                let refusal = super::undo::conflict_refusal(&conflicts);
                live.conflicts = conflicts;
                live.happen(self.now(), Event::Refused { refusal })
            }
        }
    }

    /// Throws staged work away, frees the lock and the budget, keeps what `show` needs.
    fn discard(&self, live: &mut Live) {
        self.budget(&live.run, false);
        if let Some(staged) = live.staged.take() {
            let size: usize = staged.artifacts.iter().map(|a| a.bytes.len()).sum();
            if matches!(live.run.state, State::Asking(_)) || size <= REFUSED_BLOBS {
                live.blobs.extend(staged.artifacts.into_iter().map(|a| (a.hash, a.bytes)));
            }
        }
        live.claim = None;
        live.hold = None;
    }

    /// Puts a run to people. Durable before anybody is told.
    async fn ask(self: &Arc<Self>, live: Live, moved: Option<String>) -> Result<Live, Refusal> {
        let State::Asking(asking) = &live.run.state else {
            return Err(Refusal::new(Code::Failed, "a question without a measured effect"));
        };
        let now = self.now();
        let action = live.action;
        let effect = &asking.measurement.effect;
        let question = Question {
            id: ApprovalId::new(uuid::Uuid::now_v7()),
            run: live.run.id,
            action,
            effect: effect.digest,
            places: effect.places,
            policy: asking.after.policy,
            asked: now,
            expires: now.saturating_add(self.settings.approvals_expire).unwrap_or(Timestamp::MAX),
            approvers: Vec::new(),
            exceptions: Vec::new(),
            only_exceptions: false,
        }
        .asking([&asking.before, &asking.after])
        .restricted(asking.before.obligations().chain(asking.after.obligations()));
        // Two equal calls at once: the second joins the first instead of asking people twice.
        let first = *lock(&self.joinable).entry(action).or_insert(live.run.id);
        if first != live.run.id {
            let mut live = live.happen(
                now,
                Event::Abandoned { why: format!("joined run `{first}`, which waits for the same action") },
            )?;
            self.write(&mut live).await?;
            let joined = self.joined(first, &action).await?;
            live.run = joined;
            return Ok(live);
        }
        let agent = live.run.contract.actor.agent().cloned();
        if let Some(agent) = &agent
            && let Err(refusal) = self.questions.open(agent, moved.is_some())
        {
            lock(&self.joinable).remove(&action);
            return live.happen(now, Event::Refused { refusal });
        }
        let mut live = live.happen(now, Event::Parked { question, moved })?;
        fail::fail_point!("before-question", |_| turnback_journal::crash());
        if let Err(refusal) = self.write(&mut live).await {
            lock(&self.joinable).remove(&action);
            agent.iter().for_each(|agent| self.questions.close(agent));
            return Err(refusal);
        }
        fail::fail_point!("after-question", |_| turnback_journal::crash());
        Ok(live)
    }

    /// What a caller of a parked run is told.
    pub(super) fn pending(&self, run: &Run) -> Answer {
        let State::Parked(parked) = &run.state else {
            return answer::of(run, None);
        };
        Answer::Pending(Pending {
            run: run.id,
            approval: parked.question.id,
            message: answer::question(run, parked),
            url: format!("{}/approvals/{}", self.settings.url, parked.question.id),
            expires: parked.question.expires,
        })
    }
}
