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

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::approval::{Approval, Question};
use crate::contract::Contract;
use crate::decision::{Decision, Phase, Ruling};
use crate::digest::Sha256;
use crate::effect::Effect;
use crate::names::RunId;
use crate::permit::agrees;
use crate::refusal::{Code, Refusal};
use crate::rollback::RollbackPlan;
use crate::tool::Match;

/// What staging produced, as far as it is written down. The staged work itself stays with the domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The measured effect.
    pub effect: Effect,
    /// The way back.
    pub plan: RollbackPlan,
    /// The domain's own account of what commit does, enough to probe, observe and undo it later.
    pub recipe: Value,
    /// Blobs the recipe refers to, by hash.
    pub artifacts: Vec<Sha256>,
}

/// What a commit came to. The author of a domain must say which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// All of it happened.
    Succeeded,
    /// None of it happened.
    Failed {
        /// Why.
        refusal: Refusal,
    },
    /// It may have happened. Resolved by a probe, never by trying again.
    Unknown {
        /// Why nobody knows.
        why: String,
    },
}

/// How the world stands towards a recipe, by looking at it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Standing {
    /// Every step is still to be done.
    Before,
    /// Every step is done.
    After,
    /// Some steps are done, the rest can be.
    Between {
        /// Steps done.
        done: u64,
        /// Steps in all.
        of: u64,
    },
    /// A step is neither done nor can it be: somebody must look.
    Neither {
        /// The step, and what was found.
        why: String,
    },
    /// The world could not be looked at.
    Unreachable {
        /// Why.
        why: String,
    },
}

/// One verification probe's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// The probe's name in the tool's contract.
    pub name: String,
    /// It found what it expects.
    pub passed: bool,
    /// What it found.
    pub detail: String,
}

/// What reading back after a commit found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// How many places were read back.
    pub compared: u64,
    /// Places that are not as staging predicted.
    pub differences: Vec<String>,
    /// Results of the contract's verification probes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeResult>,
}

impl Observation {
    /// Everything is as predicted and every probe passed.
    pub fn holds(&self) -> bool {
        self.differences.is_empty() && self.probes.iter().all(|p| p.passed)
    }
}

/// An answer to a question put to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Answer {
    /// Yes.
    Approved {
        /// The approval.
        approval: Box<Approval>,
    },
    /// No.
    Rejected {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// Nobody answered in time.
    Expired,
}

/// What happened to a run. Every event is one journal record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// A contract entered.
    Proposed {
        /// The contract.
        contract: Box<Contract>,
    },
    /// A group of gates spoke.
    Judged {
        /// Their decision; its phase says which group.
        decision: Decision,
    },
    /// It was staged and measured.
    Staged {
        /// What staging found.
        measurement: Box<Measurement>,
    },
    /// The domain refused to stage or to read.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// A read was released to the caller.
    Released {
        /// Places read, for listing who read data that is undone later.
        read: Vec<String>,
    },
    /// It waits for a person; everything staged was discarded.
    Parked {
        /// What was asked.
        question: Question,
        /// What moved since it was last shown, when it was shown before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        moved: Option<String>,
    },
    /// A person answered, or nobody did.
    Answered {
        /// The answer.
        answer: Answer,
    },
    /// The permit is minted; the commit follows once this is durable.
    Intended,
    /// The environment is only observed: everything was measured and discarded.
    MeasuredOnly,
    /// The domain's commit returned.
    Committed {
        /// What it came to.
        outcome: Outcome,
    },
    /// One step of several was done.
    Progressed {
        /// Which, in the domain's words.
        step: String,
    },
    /// Somebody looked how the world stands after a commit without answer.
    Probed {
        /// How it stands.
        standing: Standing,
    },
    /// It was read back.
    Observed {
        /// What was found.
        observation: Observation,
    },
    /// An undo of this run settled.
    Undone {
        /// The undo.
        by: RunId,
    },
    /// The undo of this run was itself undone.
    Redone {
        /// The undo of the undo.
        by: RunId,
    },
    /// The caller of a parked run heard how it ended.
    Delivered,
    /// The node stopped before anything was intended.
    Abandoned {
        /// Why.
        why: String,
    },
}

impl Event {
    /// The word that names the event in records.
    pub const fn word(&self) -> &'static str {
        match self {
            Event::Proposed { .. } => "proposed",
            Event::Judged { .. } => "judged",
            Event::Staged { .. } => "staged",
            Event::Refused { .. } => "refused",
            Event::Released { .. } => "released",
            Event::Parked { .. } => "parked",
            Event::Answered { .. } => "answered",
            Event::Intended => "intended",
            Event::MeasuredOnly => "measured_only",
            Event::Committed { .. } => "committed",
            Event::Progressed { .. } => "progressed",
            Event::Probed { .. } => "probed",
            Event::Observed { .. } => "observed",
            Event::Undone { .. } => "undone",
            Event::Redone { .. } => "redone",
            Event::Delivered => "delivered",
            Event::Abandoned { .. } => "abandoned",
        }
    }
}

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

/// It entered and nobody judged it yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposed;

/// The first group of gates let it pass, perhaps to a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Cleared {
    /// What they said.
    pub before: Decision,
    /// The approval it resumes with.
    pub approval: Option<Approval>,
}

/// It is staged and measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What the first group said.
    pub before: Decision,
    /// The approval it resumes with.
    pub approval: Option<Approval>,
    /// What staging found.
    pub measurement: Measurement,
}

/// Both groups allow it: what a permit is minted from.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowed {
    /// What the first group said.
    pub before: Decision,
    /// What the second group said.
    pub after: Decision,
    /// The approval, when a person had to look.
    pub approval: Option<Approval>,
    /// What staging found.
    pub measurement: Measurement,
}

/// A person must look and is about to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Asking {
    /// What the first group said.
    pub before: Decision,
    /// What the second group said.
    pub after: Decision,
    /// What staging found.
    pub measurement: Measurement,
}

/// It waits for a person. Nothing is staged or locked.
#[derive(Clone, Debug, PartialEq)]
pub struct Parked {
    /// What the first group said.
    pub before: Decision,
    /// What the second group said.
    pub after: Decision,
    /// What was shown.
    pub measurement: Measurement,
    /// What was asked.
    pub question: Question,
    /// What moved since it was shown the time before.
    pub moved: Option<String>,
}

/// A person agreed; it is judged and staged again.
#[derive(Clone, Debug, PartialEq)]
pub struct Approved {
    /// The approval.
    pub approval: Approval,
    /// What was shown.
    pub shown: Measurement,
}

/// The intent is durable and the commit may be under way.
#[derive(Clone, Debug, PartialEq)]
pub struct Committing {
    /// What was intended.
    pub allowed: Allowed,
    /// Steps reported done.
    pub progress: Vec<String>,
}

/// The commit's answer was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct InDoubt {
    /// What was intended.
    pub allowed: Allowed,
    /// Why nobody knows.
    pub why: String,
}

/// It happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// What was done.
    pub allowed: Allowed,
    /// When the commit was recorded.
    pub committed: Timestamp,
    /// What reading back found, once it was read back.
    pub observation: Option<Observation>,
    /// The undo that countered it, while it is countered.
    pub undone_by: Option<RunId>,
}

/// How a run ended without an effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Gates said no.
    Denied(Decision),
    /// The domain said no, or a commit that failed cleanly.
    Refused(Refusal),
    /// A person said no, or nobody answered.
    Rejected(Answer),
    /// A read was released.
    Released,
    /// It was only measured.
    MeasuredOnly,
    /// The node stopped before anything was intended.
    Abandoned(String),
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is documented at the struct it holds")]
pub enum State {
    Proposed(Proposed),
    Cleared(Cleared),
    Measured(Measured),
    Asking(Asking),
    Parked(Box<Parked>),
    Approved(Box<Approved>),
    Allowed(Box<Allowed>),
    Committing(Box<Committing>),
    InDoubt(Box<InDoubt>),
    /// A multi-step commit or undo stopped where nothing can go on by itself.
    Stuck(Box<InDoubt>),
    Done(Box<Done>),
    Ended {
        how: Ended,
        before: Option<Decision>,
        measurement: Option<Box<Measurement>>,
    },
}

/// A run: its contract and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its identity.
    pub id: RunId,
    /// When it was proposed.
    pub proposed: Timestamp,
    /// When the last event happened.
    pub updated: Timestamp,
    /// What it is about.
    pub contract: Contract,
    /// How a re-staged effect must agree with the approved one.
    pub effect_match: Match,
    /// A parked run's caller has not heard the end yet.
    pub undelivered: bool,
    /// Places a read returned.
    pub reads: Vec<String>,
    /// Where it stands.
    pub state: State,
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
        (State::Proposed(_), Event::Judged { decision }) if decision.phase == Phase::Before => {
            judged_before(decision, None, writes)
        }
        (State::Approved(approved), Event::Judged { decision }) if decision.phase == Phase::Before => {
            judged_before(decision, Some(approved.approval), writes)
        }
        (State::Cleared(s), Event::Released { read }) if !writes => {
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
        (State::Measured(s), Event::Judged { decision }) if decision.phase == Phase::After => {
            judged_after(s, decision, run.effect_match, now)
        }
        (State::Measured(s), Event::MeasuredOnly) if s.before.measure_only() => (
            State::Ended {
                how: Ended::MeasuredOnly,
                before: Some(s.before),
                measurement: Some(Box::new(s.measurement)),
            },
            vec![Command::Tell],
        ),
        (State::Allowed(s), Event::MeasuredOnly) if s.before.measure_only() || s.after.measure_only() => (
            State::Ended {
                how: Ended::MeasuredOnly,
                before: Some(s.before),
                measurement: Some(Box::new(s.measurement)),
            },
            vec![Command::Tell],
        ),
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

impl State {
    /// The word for this state in output, records and queries.
    pub fn word(&self) -> &'static str {
        match self {
            State::Proposed(_) => "proposed",
            State::Cleared(_) => "cleared",
            State::Measured(_) => "measured",
            State::Asking(_) => "asking",
            State::Parked(_) => "parked",
            State::Approved(_) => "approved",
            State::Allowed(_) => "allowed",
            State::Committing(_) => "committing",
            State::InDoubt(_) => "in_doubt",
            State::Stuck(_) => "stuck",
            State::Done(done) => match (&done.undone_by, &done.observation) {
                (Some(_), _) => "undone",
                (None, None) => "done",
                (None, Some(o)) if o.holds() => "settled",
                (None, Some(_)) => "diverged",
            },
            State::Ended { how, .. } => match how {
                Ended::Denied(_) => "denied",
                Ended::Refused(_) => "refused",
                Ended::Rejected(Answer::Expired) => "expired",
                Ended::Rejected(_) => "rejected",
                Ended::Released => "released",
                Ended::MeasuredOnly => "measured_only",
                Ended::Abandoned(_) => "abandoned",
            },
        }
    }

    /// Whether nothing more happens by itself.
    pub const fn is_over(&self) -> bool {
        match self {
            State::Ended { .. } | State::Stuck(_) => true,
            State::Done(done) => done.observation.is_some(),
            _ => false,
        }
    }

    /// What staging found, in every state that knows it.
    pub fn measurement(&self) -> Option<&Measurement> {
        match self {
            State::Measured(s) => Some(&s.measurement),
            State::Asking(s) => Some(&s.measurement),
            State::Parked(s) => Some(&s.measurement),
            State::Approved(s) => Some(&s.shown),
            State::Allowed(s) => Some(&s.measurement),
            State::Committing(s) => Some(&s.allowed.measurement),
            State::InDoubt(s) | State::Stuck(s) => Some(&s.allowed.measurement),
            State::Done(s) => Some(&s.allowed.measurement),
            State::Ended { measurement, .. } => measurement.as_deref(),
            State::Proposed(_) | State::Cleared(_) => None,
        }
    }

    /// The decisions made so far: before, after.
    pub fn decisions(&self) -> (Option<&Decision>, Option<&Decision>) {
        match self {
            State::Proposed(_) | State::Approved(_) => (None, None),
            State::Cleared(s) => (Some(&s.before), None),
            State::Measured(s) => (Some(&s.before), None),
            State::Asking(s) => (Some(&s.before), Some(&s.after)),
            State::Parked(s) => (Some(&s.before), Some(&s.after)),
            State::Allowed(s) => (Some(&s.before), Some(&s.after)),
            State::Committing(s) => (Some(&s.allowed.before), Some(&s.allowed.after)),
            State::InDoubt(s) | State::Stuck(s) => (Some(&s.allowed.before), Some(&s.allowed.after)),
            State::Done(s) => (Some(&s.allowed.before), Some(&s.allowed.after)),
            State::Ended { how: Ended::Denied(d), before, .. } => match d.phase {
                Phase::Before => (Some(d), None),
                Phase::After => (before.as_ref(), Some(d)),
            },
            State::Ended { before, .. } => (before.as_ref(), None),
        }
    }
}

impl Run {
    /// Whether a person approved it and it is on its way with that approval.
    pub const fn approval(&self) -> Option<&Approval> {
        match &self.state {
            State::Approved(s) => Some(&s.approval),
            State::Cleared(s) => s.approval.as_ref(),
            State::Measured(s) => s.approval.as_ref(),
            State::Allowed(s) => s.approval.as_ref(),
            State::Committing(s) => s.allowed.approval.as_ref(),
            State::InDoubt(s) | State::Stuck(s) => s.allowed.approval.as_ref(),
            State::Done(s) => s.allowed.approval.as_ref(),
            _ => None,
        }
    }

    /// What is left to do for a run found in the journal after a restart. Staged work is gone then, so
    /// whatever was not intended is either abandoned (its caller is gone too) or, when a person
    /// approved it, staged again; whatever was intended is probed, never repeated.
    pub fn resume(&self) -> Vec<Command> {
        match &self.state {
            State::Parked(_) | State::Ended { .. } | State::Stuck(_) => vec![],
            State::Approved(_) => vec![Command::Judge(Phase::Before)],
            State::Committing(_) | State::InDoubt(_) => vec![Command::Probe],
            State::Done(done) if done.observation.is_none() => vec![Command::Observe],
            State::Done(_) => vec![],
            State::Cleared(Cleared { approval: Some(_), .. }) | State::Measured(Measured { approval: Some(_), .. }) => {
                vec![Command::Stage]
            }
            State::Allowed(s) if s.approval.is_some() => vec![Command::Stage],
            // Parked once already, so its caller was told to wait and a person has seen it.
            State::Asking(_) if self.undelivered => vec![Command::Ask { moved: None }],
            State::Proposed(_) | State::Cleared(_) | State::Measured(_) | State::Asking(_) | State::Allowed(_) => {
                vec![Command::Discard]
            }
        }
    }
}

#[cfg(test)]
mod tests;
