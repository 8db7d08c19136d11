//! The outside world.
//!
//! One effect domain per folder, each with the same verbs side by side: *read*, *stage*, *commit*,
//! *observe*, *probe*, *undo*. This file owns the contract between them and the gateway, and the one
//! function that commits ([`commit`]). A domain never decides anything.
//!
//! The verbs block; the gateway runs them on threads made for that.
//!
//! To add a domain: write `src/<domain>/`, add one line to `registry.rs`; the conformance suite in
//! `tests/` finds it there.

pub mod files;
pub mod registry;
pub mod sqlite;
mod sys;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use turnback_core::contract::{Contract, Target};
use turnback_core::digest::Sha256;
use turnback_core::effect::Effect;
use turnback_core::names::RunId;
use turnback_core::permit::Permit;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::{Conflict, RollbackPlan};
use turnback_core::run::{Measurement, Observation, Outcome, Standing};
use turnback_core::tool::{Kind, ToolSpec};

/// Limits every domain keeps to while reading and staging.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Longest time one read or one staging may take; beyond it is a refusal, never a guess.
    pub time: Duration,
    /// How long to wait for somebody else's lock.
    pub lock_wait: Duration,
    /// Most bytes of content one read returns.
    pub read_bytes: u64,
    /// Most rows or entries one read returns.
    pub read_rows: u64,
    /// Most rows a proof may cover; beyond it the effect is capped below `proved` and says so.
    pub proof_rows: u64,
    /// Most bytes of pre-image one action may take.
    pub snapshot_bytes: u64,
}

impl Default for Bounds {
    /// 30 s, 5 s lock wait, 1 MiB, 1,000 rows, one million rows, 1 GiB.
    fn default() -> Self {
        Self {
            time: Duration::from_secs(30),
            lock_wait: Duration::from_secs(5),
            read_bytes: 1 << 20,
            read_rows: 1_000,
            proof_rows: 1_000_000,
            snapshot_bytes: 1 << 30,
        }
    }
}

/// What a read returned.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The answer, as the domain's own JSON.
    pub reply: Value,
    /// Places read: `customers`, `notes/a.txt`. Same words as [`turnback_core::effect::Touch::place`]
    /// or a prefix of them that ends before a space or slash.
    pub places: Vec<String>,
}

/// A blob a recipe refers to: a pre-image, a changeset, a rendered diff.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// SHA-256 of the bytes.
    pub hash: Sha256,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Artifact {
    /// A blob named by its content.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { hash: Sha256::of(&bytes), bytes }
    }
}

/// Where blobs are read back from. The store verifies every blob by its hash before returning it.
pub trait Artifacts: Send + Sync {
    /// The blob with that hash.
    ///
    /// # Errors
    /// [`Code::SnapshotLost`] when it is missing or altered.
    fn get(&self, hash: &Sha256) -> Result<Vec<u8>, Refusal>;
}

/// Blobs of staged work that nobody stored.
#[derive(Clone, Copy, Debug)]
pub struct Fresh<'a>(pub &'a [Artifact]);

impl Artifacts for Fresh<'_> {
    fn get(&self, hash: &Sha256) -> Result<Vec<u8>, Refusal> {
        let found = self.0.iter().find(|artifact| artifact.hash == *hash);
        found.map(|a| a.bytes.clone()).ok_or_else(|| Refusal::new(Code::SnapshotLost, format!("no blob {hash}")))
    }
}

/// Work staged and not yet visible to anybody. Dropping it discards it and leaves nothing.
pub struct Staged {
    /// What it does, measured.
    pub effect: Effect,
    /// The way back.
    pub plan: RollbackPlan,
    /// The domain's account of what commit does: enough to probe, observe and undo it after a restart.
    pub recipe: Value,
    /// Blobs the recipe refers to. The gateway stores them durably before the intent.
    pub artifacts: Vec<Artifact>,
    /// The staged work itself.
    pub held: Box<dyn Held>,
}

impl Staged {
    /// What of it is judged.
    pub fn measured(&self) -> turnback_core::gates::Measured<'_> {
        turnback_core::gates::Measured { effect: &self.effect, plan: &self.plan }
    }

    /// What is written down of it.
    pub fn measurement(&self) -> Measurement {
        Measurement {
            effect: self.effect.clone(),
            plan: self.plan.clone(),
            recipe: self.recipe.clone(),
            artifacts: self.artifacts.iter().map(|a| a.hash).collect(),
        }
    }
}

/// Told about each finished step of a commit that has several, so that the journal can hold one
/// compensation record for each.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// Staged work as its domain holds it. Only [`commit`] calls it.
pub trait Held: Send {
    /// Makes the staged effect real. Called at most once, with a permit already checked.
    fn commit(self: Box<Self>, progress: Progress<'_>) -> Outcome;
}

/// Commits staged work. The permit is consumed whatever happens.
///
/// Invariant `PERMIT`: this is the only caller of [`Held::commit`].
pub fn commit(permit: Permit, staged: Staged, now: Timestamp, progress: Progress<'_>) -> Outcome {
    match permit.covers(staged.effect.digest, now) {
        Ok(()) => staged.held.commit(progress),
        Err(e) => Outcome::Failed { refusal: Refusal::new(Code::Denied, e.to_string()) },
    }
}

/// One run to be undone, with what its staging wrote down.
#[derive(Clone, Debug)]
pub struct Undone {
    /// The run.
    pub run: RunId,
    /// Its measurement; the recipe and artifacts in it are this domain's own.
    pub measurement: Measurement,
}

/// Why an undo cannot be staged.
#[derive(Clone, Debug, PartialEq)]
pub enum UndoRefused {
    /// The world is not as these runs left it. Every conflict found is listed, not only the first.
    Conflicts(Vec<Conflict>),
    /// Something else is wrong.
    Refused(Refusal),
}

impl From<Refusal> for UndoRefused {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl UndoRefused {
    /// As the refusal of an action that is no undo.
    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Conflicts(_) => Refusal::new(Code::Moved, "the target changed meanwhile"),
        }
    }
}

/// One step of a rehearsal: measured, its way back tried, nothing left.
#[derive(Clone, Debug)]
pub struct Rehearsed {
    /// What staging it would write down. Its blobs are not kept.
    pub measurement: Measurement,
    /// Every place it touches.
    pub touches: Vec<turnback_core::effect::Touch>,
}

/// A step that could not be rehearsed, and with it none behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unrehearsed {
    /// Its place among the steps.
    pub step: usize,
    /// Why.
    pub refusal: Refusal,
}

/// An effect domain bound to one configured resource.
pub trait Domain: Send + Sync {
    /// Its kind.
    fn kind(&self) -> Kind;

    /// Whether a commit leaves a durable mark in the target, written in the same transaction, that
    /// [`Domain::probe`] reads. Then the outcome need not be on our disk before the caller hears it.
    fn marks_commits(&self) -> bool {
        false
    }

    /// The identity of the resource behind it: canonical path with device and inode. Part of every
    /// action digest, so that another folder under the same name is another target.
    fn identity(&self) -> String;

    /// The tools it offers.
    fn tools(&self) -> Vec<ToolSpec>;

    /// Checks the arguments of a tool and resolves what they are aimed at, from their text alone.
    ///
    /// # Errors
    /// [`Code::BadInput`] naming the field; [`Code::Unsupported`] for what this domain never does.
    fn aim(&self, tool: &str, arguments: &Value) -> Result<Target, Refusal>;

    /// Performs a read.
    ///
    /// # Errors
    /// A [`Refusal`] naming the place.
    fn read(&self, contract: &Contract, bounds: &Bounds) -> Result<Reading, Refusal>;

    /// Does as much of a write as nobody else can see, measures it, captures pre-images, proves the
    /// way back. `run` names the places where staged work is kept.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing is left behind.
    fn stage(&self, run: RunId, contract: &Contract, bounds: &Bounds) -> Result<Staged, Refusal>;

    /// Measures several writes that are to follow one another, in this order, and leaves nothing. Where
    /// [`Domain::rehearses_on_top`] says no, each is measured on what is there now: two that touch the same
    /// place were then not measured as they would follow one another.
    ///
    /// # Errors
    /// [`Unrehearsed`] names the first that cannot be measured.
    fn rehearse(&self, steps: &[(RunId, Contract)], bounds: &Bounds) -> Result<Vec<Rehearsed>, Unrehearsed> {
        let began = Instant::now();
        let rehearse = |(step, (run, contract)): (usize, &(RunId, Contract))| {
            // All of them together have the time of one.
            let bounds = Bounds { time: bounds.time.saturating_sub(began.elapsed()), ..bounds.clone() };
            let staged = self.stage(*run, contract, &bounds);
            let touched = staged.and_then(|staged| {
                let measurement = staged.measurement();
                let touches = self.touches(&measurement, &Fresh(&staged.artifacts))?;
                Ok(Rehearsed { measurement, touches })
            });
            touched.map_err(|refusal| Unrehearsed { step, refusal })
        };
        steps.iter().enumerate().map(rehearse).collect()
    }

    /// Whether [`Domain::rehearse`] measures each write on top of those before it.
    fn rehearses_on_top(&self) -> bool {
        false
    }

    /// Stages the inverse of `undone`, all of them or none, in the given order (latest first). The
    /// result is staged work like any other: judged, permitted, committed, undoable.
    ///
    /// # Errors
    /// [`UndoRefused::Conflicts`] lists every place that is not as the undo needs it.
    fn undo(
        &self,
        run: RunId,
        undone: &[Undone],
        artifacts: &dyn Artifacts,
        bounds: &Bounds,
    ) -> Result<Staged, UndoRefused>;

    /// Looks how the world stands towards a recipe, after a commit whose answer was lost. Never
    /// changes anything.
    fn probe(&self, run: RunId, measurement: &Measurement) -> Standing;

    /// Does the steps of a recipe that are not done yet. Only called after [`Domain::probe`] said
    /// [`Standing::Between`].
    fn finish(&self, run: RunId, measurement: &Measurement, progress: Progress<'_>) -> Outcome;

    /// Reads back what a commit touched and compares it with what staging predicted.
    ///
    /// # Errors
    /// A [`Refusal`] when it cannot be read back.
    fn observe(&self, run: RunId, measurement: &Measurement, artifacts: &dyn Artifacts)
    -> Result<Observation, Refusal>;

    /// The diff of a measured effect for people: unified diff for files, old and new values for rows.
    /// Never truncated; hostile characters are made visible by whoever prints it.
    ///
    /// # Errors
    /// [`Code::SnapshotLost`] when a blob is missing.
    fn diff(&self, measurement: &Measurement, artifacts: &dyn Artifacts) -> Result<String, Refusal>;

    /// Every place a measured effect touched, for attributing conflicts to later runs.
    ///
    /// # Errors
    /// [`Code::SnapshotLost`] when a blob is missing.
    fn touches(
        &self,
        measurement: &Measurement,
        artifacts: &dyn Artifacts,
    ) -> Result<Vec<turnback_core::effect::Touch>, Refusal>;

    /// Removes staged leftovers: of runs that came to nothing, and of runs nobody heard of unless a commit
    /// of them was begun – then the journal is older than this domain's work, and what lies there may be
    /// the only copy of something. Called at start-up, while nothing is staged.
    ///
    /// # Errors
    /// A [`Refusal`] when the staging area cannot be cleaned.
    fn sweep(&self, fate: &dyn Fn(RunId) -> Fate) -> Result<(), Refusal>;
}

/// What the journal says of a run whose leftovers are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has an effect, or may have.
    Alive,
    /// It is known to have none.
    Nothing,
    /// No record of it.
    Unheard,
}
