//! One action's durable life: states, events, commands and the one pure function between them.
//!
//! ```text
//!            Judged(before)     Staged      Judged(after)     Intended      Committed     Observed
//! Proposed ───────────────► Cleared ──► Measured ──┬──► Allowed ──► Committing ──► Done ──► Settled
//!    │ deny                    ▲  │ refused        │ review          │ unknown      │         │
//!    ▼                         │  ▼                ▼                 ▼              ▼         ▼
//!  Ended                   Approved ◄── yes ── Parked            InDoubt ──► ...  Diverged  Undone
//! ```
//!
//! The shell appends the event to the journal, then performs the commands `step` returned. Recovery
//! folds the journaled events through the same `step` and asks [`Run::resume`] what is left to do.
//! Invariant `INTENT-FIRST`: [`Command::Commit`] is only ever answered by `Event::Intended`, which
//! must be durable before the domain's `commit` is called.

mod event;
mod state;

use jiff::Timestamp;

use crate::approval::Approval;
use crate::contract::Contract;
use crate::decision::{Decision, Phase, Ruling};
use crate::effect::Effect;
use crate::names::RunId;
use crate::permit::agrees;
use crate::refusal::{Code, Refusal};
use crate::tool::Match;

pub use event::{Answer, Event, Measurement, Observation, Outcome, ProbeResult, Standing};
pub use state::{
    Allowed, Approved, Asking, Cleared, Committing, Done, Ended, InDoubt, Measured, Parked, Proposed, Run, State,
};

/// What the shell must do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ask the gates of a phase; `approved` says whether a person already agreed.
    Judge(Phase),
    /// Perform the read and release it.
    Read,
    /// Stage it.
    Stage,
    /// Throw staged work away.
    Discard,
    /// Put it to a person, saying what moved since it was last shown.
    Ask {
        /// What moved.
        moved: Option<String>,
    },
    /// Throw staged work away and record that it was only measured.
    MeasureOnly,
    /// Mint the permit, make `Intended` durable, commit.
    Commit,
    /// Look how the world stands.
    Probe,
    /// Do the steps that are not done yet. Only after a probe said they can be.
    Finish,
    /// Read back and run the probes.
    Observe,
    /// Undo it automatically when that is legal, alert when it is not.
    RollBack,
    /// Mark the runs this one countered.
    MarkUndone,
    /// Tell whoever waits.
    Tell,
}
/// An event that cannot happen in the state it met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("run `{run}`: event `{event}` is impossible in state `{state}`")]
pub struct Illegal {
    /// The run.
    pub run: RunId,
    /// The event's word.
    pub event: &'static str,
    /// The state's word.
    pub state: &'static str,
}

/// A run moved one event on, and what to do now.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The run after the event.
    pub run: Run,
    /// What the shell must do, in order.
    pub commands: Vec<Command>,
}

/// Opens a run.
pub fn open(id: RunId, contract: Contract, effect_match: Match, now: Timestamp) -> Step {
    let run = Run {
        id,
        proposed: now,
        updated: now,
        contract,
        effect_match,
        undelivered: false,
        reads: Vec::new(),
        state: State::Proposed(Proposed),
    };
    Step { run, commands: vec![Command::Judge(Phase::Before)] }
}

/// Moves a run one event on.
///
/// # Errors
/// [`Illegal`] when the event cannot happen in this state; the run is lost only to the caller, nothing
/// was done.
pub fn step(mut run: Run, event: Event, now: Timestamp) -> Result<Step, Illegal> {
    let illegal = Illegal { run: run.id, event: event.word(), state: run.state.word() };
    let mut undelivered = run.undelivered;
    let writes = run.contract.writes();
    let (state, commands) = match (run.state, event) {
        (State::Proposed(_), Event::Judged { decision, .. }) if decision.phase == Phase::Before => {
            judged_before(decision, None, writes)
        }
        (State::Approved(approved), Event::Judged { decision, .. }) if decision.phase == Phase::Before => {
            judged_before(decision, Some(approved.approval), writes)
        }
        (State::Cleared(s), Event::Released { read, .. }) if !writes => {
            run.reads = read;
            (State::Ended { how: Ended::Released, before: Some(s.before), measurement: None }, vec![])
        }
        (State::Cleared(s), Event::Refused { refusal }) => (
            State::Ended { how: Ended::Refused(refusal), before: Some(s.before), measurement: None },
            vec![Command::Tell],
        ),
        (State::Cleared(s), Event::Staged { measurement }) if writes => (
            State::Measured(Measured { before: s.before, approval: s.approval, measurement: *measurement }),
            vec![Command::Judge(Phase::After)],
        ),
        // An approved run found after a restart, whose staged work is gone, is staged again.
        (State::Measured(Measured { before, approval: approval @ Some(_), .. }), Event::Staged { measurement }) => (
            State::Measured(Measured { before, approval, measurement: *measurement }),
            vec![Command::Judge(Phase::After)],
        ),
        (State::Allowed(s), Event::Staged { measurement }) if s.approval.is_some() => (
            State::Measured(Measured { before: s.before, approval: s.approval, measurement: *measurement }),
            vec![Command::Judge(Phase::After)],
        ),
        // Staged work that cannot be kept (no space for its pre-images) or staged again.
        (State::Measured(Measured { before, measurement, .. }), Event::Refused { refusal }) => {
            (refused(refusal, before, measurement), vec![Command::Discard, Command::Tell])
        }
        (State::Allowed(s), Event::Refused { refusal }) => {
            (refused(refusal, s.before, s.measurement), vec![Command::Discard, Command::Tell])
        }
        (State::Measured(s), Event::Judged { decision, .. }) if decision.phase == Phase::After => {
            judged_after(s, decision, run.effect_match, now)
        }
        (State::Allowed(s), Event::MeasuredOnly) if s.before.measure_only() || s.after.measure_only() => (
            State::Ended {
                how: Ended::MeasuredOnly(s.after),
                before: Some(s.before),
                measurement: Some(Box::new(s.measurement)),
            },
            vec![Command::Tell],
        ),
        // More questions of this agent wait than people are to be asked.
        (State::Asking(s), Event::Refused { refusal }) => {
            (refused(refusal, s.before, s.measurement), vec![Command::Discard, Command::Tell])
        }
        // Invariant `ONE-USE`: the question is about exactly this run, action and effect ...
        (State::Asking(s), Event::Parked { question, moved })
            if question.run == run.id
                && question.effect == s.measurement.effect.digest
                && question.places == s.measurement.effect.places
                && question.policy == s.after.policy
                && question.action == run.contract.digest() =>
        {
            undelivered = true;
            let parked = Parked { before: s.before, after: s.after, measurement: s.measurement, question, moved };
            (State::Parked(Box::new(parked)), vec![Command::Tell])
        }
        // ... and the answer to exactly this question.
        (State::Parked(s), Event::Answered { answer: Answer::Approved { approval } })
            if approval.question == s.question =>
        {
            (
                State::Approved(Box::new(Approved { approval: *approval, shown: s.measurement })),
                vec![Command::Judge(Phase::Before)],
            )
        }
        (State::Parked(s), Event::Answered { answer: answer @ (Answer::Rejected { .. } | Answer::Expired) }) => (
            State::Ended {
                how: Ended::Rejected(answer),
                before: Some(s.before),
                measurement: Some(Box::new(s.measurement)),
            },
            vec![Command::Tell],
        ),
        // A measured-only run rests here too, whatever its rulings, and must never get further.
        (State::Allowed(s), Event::Intended) if s.may_commit() => {
            (State::Committing(Box::new(Committing { allowed: *s, progress: Vec::new() })), vec![])
        }
        (State::Committing(mut s), Event::Progressed { step }) => {
            s.progress.push(step);
            (State::Committing(s), vec![])
        }
        (State::Committing(s), Event::Committed { outcome }) => match outcome {
            Outcome::Succeeded => done(s.allowed, now),
            Outcome::Failed { refusal } => {
                (refused(refusal, s.allowed.before, s.allowed.measurement), vec![Command::Tell])
            }
            Outcome::Unknown { why } => {
                (State::InDoubt(Box::new(InDoubt { allowed: s.allowed, why })), vec![Command::Probe])
            }
        },
        (State::Committing(s), Event::Probed { standing }) => {
            probed(InDoubt { allowed: s.allowed, why: "the node stopped during the commit".into() }, standing, now)
        }
        (State::InDoubt(s) | State::Stuck(s), Event::Probed { standing }) => probed(*s, standing, now),
        // Finishing a half-done commit reports steps, and its end, like the commit itself.
        (State::InDoubt(s), Event::Progressed { .. }) => (State::InDoubt(s), vec![]),
        (State::InDoubt(s), Event::Committed { outcome: Outcome::Succeeded }) => done(s.allowed, now),
        (State::InDoubt(mut s), Event::Committed { outcome: Outcome::Failed { refusal } }) => {
            s.why = refusal.to_string();
            (State::Stuck(s), vec![Command::Tell])
        }
        (State::InDoubt(mut s), Event::Committed { outcome: Outcome::Unknown { why } }) => {
            s.why = why;
            (State::InDoubt(s), vec![Command::Tell])
        }
        (State::Done(mut s), Event::Observed { observation }) if s.observation.is_none() => {
            let commands = match (observation.holds(), run.contract.undoes.is_empty()) {
                (true, true) => vec![Command::Tell],
                (true, false) => vec![Command::MarkUndone, Command::Tell],
                // An undo that diverged is never undone automatically: a person must look.
                (false, false) => vec![Command::Tell],
                // Somebody was quicker: what diverged is undone already.
                (false, true) if s.undone_by.is_some() => vec![Command::Tell],
                (false, true) => vec![Command::RollBack, Command::Tell],
            };
            s.observation = Some(observation);
            (State::Done(s), commands)
        }
        (State::Done(mut s), Event::Undone { by }) if s.undone_by.is_none() => {
            s.undone_by = Some(by);
            (State::Done(s), vec![])
        }
        (State::Done(mut s), Event::Redone { .. }) if s.undone_by.is_some() => {
            s.undone_by = None;
            (State::Done(s), vec![])
        }
        (state, Event::Delivered) if undelivered && state.is_over() => {
            undelivered = false;
            (state, vec![])
        }
        (
            State::Proposed(_) | State::Cleared(_) | State::Measured(_) | State::Asking(_) | State::Allowed(_),
            Event::Abandoned { why },
        ) => ended(Ended::Abandoned(why), vec![Command::Discard, Command::Tell]),
        _ => return Err(illegal),
    };
    run.state = state;
    run.updated = now;
    run.undelivered = undelivered;
    Ok(Step { run, commands })
}

fn ended(how: Ended, commands: Vec<Command>) -> (State, Vec<Command>) {
    (State::Ended { how, before: None, measurement: None }, commands)
}

fn refused(refusal: Refusal, before: Decision, measurement: Measurement) -> State {
    State::Ended { how: Ended::Refused(refusal), before: Some(before), measurement: Some(Box::new(measurement)) }
}

fn judged_before(decision: Decision, approval: Option<Approval>, writes: bool) -> (State, Vec<Command>) {
    if decision.rewriting.is_some() {
        return ended(Ended::Constrained(decision), vec![Command::Tell]);
    }
    match decision.ruling {
        // A person who must look needs the measured effect, so `review` goes on to staging. A read has
        // nothing to stage and runs only when it is allowed.
        Ruling::Allow if !writes => (State::Cleared(Cleared { before: decision, approval }), vec![Command::Read]),
        Ruling::Allow | Ruling::Review if writes => {
            (State::Cleared(Cleared { before: decision, approval }), vec![Command::Stage])
        }
        _ => ended(Ended::Denied(decision), vec![Command::Tell]),
    }
}

fn judged_after(s: Measured, after: Decision, rule: Match, now: Timestamp) -> (State, Vec<Command>) {
    let Measured { before, approval, measurement } = s;
    if after.rewriting.is_some() && before.ruling <= Ruling::Review {
        let (how, before) = (Ended::Constrained(after), Some(before));
        let state = State::Ended { how, before, measurement: Some(Box::new(measurement)) };
        return (state, vec![Command::Discard, Command::Tell]);
    }
    let ruling = before.ruling.max(after.ruling);
    match (ruling, &approval) {
        (Ruling::Allow | Ruling::Review, _) if before.measure_only() || after.measure_only() => (
            State::Allowed(Box::new(Allowed { before, after, approval, measurement })),
            vec![Command::Discard, Command::MeasureOnly],
        ),
        (Ruling::Allow, given) => {
            match given.as_ref().and_then(|approval| moved(approval, &measurement.effect, &after, rule, now)) {
                Some(moved) => (
                    State::Asking(Asking { before, after, measurement }),
                    vec![Command::Discard, Command::Ask { moved: Some(moved) }],
                ),
                None => {
                    (State::Allowed(Box::new(Allowed { before, after, approval, measurement })), vec![Command::Commit])
                }
            }
        }
        (Ruling::Review, approval) => {
            let moved = approval.as_ref().map(|_| "the gates ask again since it was approved".to_owned());
            (State::Asking(Asking { before, after, measurement }), vec![Command::Discard, Command::Ask { moved }])
        }
        (Ruling::Constrain | Ruling::Fallback | Ruling::Deny, _) => (
            State::Ended { how: Ended::Denied(after), before: Some(before), measurement: Some(Box::new(measurement)) },
            vec![Command::Discard, Command::Tell],
        ),
    }
}

/// Why an approval no longer fits what is about to happen: the conditions [`crate::permit::Permit::mint`]
/// would refuse, found here so that a person is asked again.
fn moved(approval: &Approval, effect: &Effect, after: &Decision, rule: Match, now: Timestamp) -> Option<String> {
    let shown = &approval.question;
    if !agrees(shown.effect, shown.places, effect, rule) {
        Some(format!("since it was approved the effect moved; it now {}", effect.summary))
    } else if shown.policy != after.policy {
        Some("since it was approved the policy changed".to_owned())
    } else if !approval.is_good(now) {
        Some(format!("the approval expired at {} before it could be used", shown.expires))
    } else {
        None
    }
}

impl Allowed {
    /// Whether a permit can be minted from it: both groups allow, and neither asks to measure only.
    fn may_commit(&self) -> bool {
        [&self.before, &self.after].iter().all(|d| d.ruling == Ruling::Allow && !d.measure_only())
    }
}

fn done(allowed: Allowed, now: Timestamp) -> (State, Vec<Command>) {
    (
        State::Done(Box::new(Done { allowed, committed: now, observation: None, undone_by: None })),
        vec![Command::Observe],
    )
}

fn probed(mut s: InDoubt, standing: Standing, now: Timestamp) -> (State, Vec<Command>) {
    match standing {
        Standing::After => done(s.allowed, now),
        Standing::Before => (
            State::Ended {
                how: Ended::Refused(
                    Refusal::new(Code::Failed, format!("{}; a probe found that nothing had happened", s.why))
                        .next("call again if it is still wanted"),
                ),
                before: Some(s.allowed.before),
                measurement: Some(Box::new(s.allowed.measurement)),
            },
            vec![Command::Tell],
        ),
        Standing::Between { done, of } => {
            s.why = format!("{done} of {of} steps are done");
            (State::InDoubt(Box::new(s)), vec![Command::Finish])
        }
        Standing::Neither { why } => {
            s.why = why;
            (State::Stuck(Box::new(s)), vec![Command::Tell])
        }
        Standing::Unreachable { why } => {
            s.why = why;
            (State::InDoubt(Box::new(s)), vec![Command::Tell])
        }
    }
}

#[cfg(test)]
mod tests;
