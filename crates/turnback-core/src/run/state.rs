//! Where a run can stand: one struct for each state, holding exactly what is known then.

use jiff::Timestamp;

use super::{Answer, Command, Measurement, Observation};
use crate::approval::{Approval, Question};
use crate::contract::Contract;
use crate::decision::{Decision, Phase};
use crate::names::RunId;
use crate::refusal::Refusal;
use crate::tool::Match;

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
    /// It became a safer form: a run of its own.
    Constrained(Decision),
    /// The domain said no, or a commit that failed cleanly.
    Refused(Refusal),
    /// A person said no, or nobody answered.
    Rejected(Answer),
    /// A read was released.
    Released,
    /// It was only measured.
    MeasuredOnly(Decision),
    /// The node stopped before anything was intended.
    Abandoned(String),
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is documented at the struct it holds")]
#[allow(clippy::large_enum_variant, reason = "one lives per run under way, and the large one is the one that matters")]
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
                Ended::Constrained(_) => "constrained",
                Ended::Refused(_) => "refused",
                Ended::Rejected(Answer::Expired) => "expired",
                Ended::Rejected(_) => "rejected",
                Ended::Released => "released",
                Ended::MeasuredOnly(_) => "measured_only",
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
            State::Ended { how: Ended::Denied(d) | Ended::Constrained(d), before, .. } => match d.phase {
                Phase::Before => (Some(d), None),
                Phase::After => (before.as_ref(), Some(d)),
            },
            State::Ended { how: Ended::MeasuredOnly(after), before, .. } => (before.as_ref(), Some(after)),
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
