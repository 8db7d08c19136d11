//! The way back: rollback plans, their levels, and when an undo is legal.
//!
//! Owns the promise *later work by others is never overwritten* (`NO-CLOBBER`). Never performs
//! anything; a plan is data that a domain produced by staging.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::effect::Touch;
use crate::names::{ResourceName, RunId};

/// What was actually checked about the way back. Ordered from nothing to proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// 0: no way back.
    None,
    /// 2: somebody says so; nothing was tested.
    Declared,
    /// 3: a declared inverse, arguments resolved, credential and window checked, recently drilled.
    Compensable,
    /// 4: every pre-image captured and read back by hash.
    Snapshotted,
    /// 5: the inverse ran against the real post-state of this instance and restored the footprint.
    Proved,
}

impl Level {
    /// The number people use for this level.
    pub const fn number(self) -> u8 {
        match self {
            Level::None => 0,
            Level::Declared => 2,
            Level::Compensable => 3,
            Level::Snapshotted => 4,
            Level::Proved => 5,
        }
    }

    /// The level with that number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Level::None),
            2 => Some(Level::Declared),
            3 => Some(Level::Compensable),
            4 => Some(Level::Snapshotted),
            5 => Some(Level::Proved),
            _ => None,
        }
    }

    /// The level's name.
    pub const fn name(self) -> &'static str {
        match self {
            Level::None => "none",
            Level::Declared => "declared",
            Level::Compensable => "compensable",
            Level::Snapshotted => "snapshotted",
            Level::Proved => "proved",
        }
    }
}

/// How sure it is that nothing outside the footprint changed. Ordered from nothing to certainty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completeness {
    /// Something else may have changed.
    Unknown,
    /// Only things inside a known set can have changed.
    Bounded,
    /// Nothing else can have changed, and an independent witness says so.
    Closed,
}

/// Who pays if the reversal fails. Ordered from inside to outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bearer {
    /// Whoever operates the agent.
    #[default]
    Operator,
    /// The organisation.
    Organisation,
    /// A supplier.
    Vendor,
    /// Somebody whose work is sold or shown.
    Creator,
    /// A customer.
    Customer,
    /// A borrower.
    Borrower,
    /// A patient.
    Patient,
}

impl Bearer {
    /// A third party never agreed to carry the cost, so a person always decides.
    pub const fn is_third_party(self) -> bool {
        !matches!(self, Bearer::Operator | Bearer::Organisation)
    }
}

/// A predicate the way back rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assumption {
    /// What is assumed, as a sentence.
    pub claim: String,
    /// What evaluating it gave.
    pub holds: Holds,
    /// For how many seconds that answer may be relied on.
    pub ttl_seconds: u64,
}

/// The answer of an assumption's evaluator. `Unknown` counts as `False`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holds {
    /// Checked, and so.
    True,
    /// Checked, and not so.
    False,
    /// Could not be checked.
    Unknown,
}

/// One inverse step, in words a person can follow by hand if everything else fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InverseStep {
    /// What must be true before.
    pub precondition: String,
    /// What is done.
    pub operation: String,
    /// What is true after.
    pub postcondition: String,
    /// How to tell that it was done already.
    pub done_when: String,
}

/// A pre-image kept where the agent's authority does not reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Hash of the content, verified by reading it back.
    pub hash: Sha256,
    /// Where it is: `vault`, or a slot beside the vault.
    pub place: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// Until when the way back stays open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The deadline; `None` when only events close it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closes: Option<Timestamp>,
    /// Events that close it early.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed_by: Vec<String>,
}

/// What may have changed, and how sure that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// The resource all places are in.
    pub resource: ResourceName,
    /// How sure it is that nothing else changed.
    pub completeness: Completeness,
    /// At most [`Footprint::LISTED`] places; the domain can list them all from the recipe.
    pub places: Vec<Touch>,
    /// How many places are not listed here.
    #[serde(default)]
    pub more: u64,
}

impl Footprint {
    /// How many places a plan lists before it only counts.
    pub const LISTED: usize = 100;
}

/// The way back of one action instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackPlan {
    claimed: Level,
    /// What was done to earn the level, in one sentence.
    pub evidence: String,
    /// What is touched.
    pub footprint: Footprint,
    /// Ordered inverse steps.
    pub steps: Vec<InverseStep>,
    /// Pre-images held.
    pub snapshots: Vec<Snapshot>,
    /// What the inverse needs besides the snapshots: schema version, a mount, a credential.
    pub dependencies: Vec<String>,
    /// What the way back rests on.
    pub assumptions: Vec<Assumption>,
    /// Until when it stays open.
    pub window: Window,
    /// Who outside may already have seen the effect.
    pub exposure: Vec<String>,
    /// Who pays if it fails.
    pub bearer: Bearer,
    /// What undo does not restore even when it succeeds.
    pub residue: Vec<String>,
}

impl RollbackPlan {
    /// A plan over `footprint` that claims `level` on `evidence`; everything else empty.
    pub fn new(level: Level, evidence: impl Into<String>, footprint: Footprint) -> Self {
        Self {
            claimed: level,
            evidence: evidence.into(),
            footprint,
            steps: Vec::new(),
            snapshots: Vec::new(),
            dependencies: Vec::new(),
            assumptions: Vec::new(),
            window: Window::default(),
            exposure: Vec::new(),
            bearer: Bearer::default(),
            residue: Vec::new(),
        }
    }

    /// The level that may be claimed. Invariant `PROOF-NEEDS-CLOSED`: without a closed footprint
    /// nothing is proved, with an unknown one nothing is even snapshotted, because what else changed
    /// has no pre-image.
    pub fn level(&self) -> Level {
        match self.footprint.completeness {
            Completeness::Closed => self.claimed,
            Completeness::Bounded => self.claimed.min(Level::Snapshotted),
            Completeness::Unknown => self.claimed.min(Level::Declared),
        }
    }

    /// The same plan as it would be had `level` been reached, for asking what would have been acceptable.
    #[must_use]
    pub(crate) fn supposing(&self, level: Level) -> Self {
        let mut plan = Self { claimed: level, ..self.clone() };
        plan.footprint.completeness = Completeness::Closed;
        plan
    }

    /// The first assumption that does not hold for sure.
    pub fn broken_assumption(&self) -> Option<&Assumption> {
        self.assumptions.iter().find(|a| a.holds != Holds::True)
    }
}

/// A place that is not as the undo needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The place: ``customers 17``, `notes/a.txt`.
    pub place: String,
    /// The fields concerned; empty for the whole place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// What is in the way, as a clause: `changed since`, `exists again`, `is referenced by ...`.
    pub why: String,
}

/// Why a set of runs cannot be undone as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// The place in the way.
    pub conflict: Conflict,
    /// The later run that explains it; `None` when somebody else wrote (a foreign node).
    pub by: Option<RunId>,
}
