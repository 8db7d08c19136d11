//! Files: a directory tree agents may read and change.
//!
//! ```text
//!   read    read.rs                         looks, never through links
//!   stage   ask.rs → stage.rs → account.rs  new content is built in the slots; measured; explained
//!   commit  step.rs                         five primitives, one rename-like call each
//!   observe, probe, finish  step.rs         the same checks again, on what is there now
//!   undo    undo.rs → step.rs               the same primitives, reversed
//! ```
//!
//! `world.rs` resolves places, `object.rs` knows things again, `model.rs` measures and imagines.
//!
//! Invariants: `BENEATH` – the kernel resolves every path beneath an open directory, without links,
//! mounts or `..`. `NO-CLOBBER` – nothing is replaced that was not looked at; what comes out of a swap
//! is checked and put back when it is not what was expected.
//!
//! Kept by this domain: pre-images, in `<slots>/<run>/<number>`, as the very objects they were. Never
//! kept: anything inside the root. Never promised: ctime, mtime of directories around a change.
//!
//! Policy on links: a symbolic link is listed, looked at, moved and deleted as itself, never followed.
//! A file with several names (hard links) is never read or written; it can be moved and deleted.

mod account;
mod ask;
mod model;
mod object;
mod read;
mod stage;
mod step;
mod undo;
mod world;

pub use ask::tools;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use turnback_core::contract::{Contract, Target};
use turnback_core::effect::Touch;
use turnback_core::names::RunId;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{Measurement, Observation, Outcome, Standing};
use turnback_core::text::visible;
use turnback_core::tool::{Kind, ToolSpec};

use crate::{Artifacts, Bounds, Domain, Fate, Progress, Reading, Staged, UndoRefused, Undone, sys};
use ask::Ask;
use model::{Limits, Model};
use object::Closely;
use step::{Recipe, Step};
use world::{World, refused};

/// A directory tree as an effect domain.
pub struct Files {
    world: Arc<World>,
}

impl Files {
    /// Opens the tree at `root`, with pre-images kept in `slots`.
    ///
    /// `slots` is made when it is missing (its parent must exist), must be a directory of this process's
    /// own user with mode 0700, on the same mount as `root`, neither inside the other.
    ///
    /// # Errors
    /// A [`Refusal`] says which of this does not hold and what to configure instead.
    pub fn open(root: &Path, slots: &Path) -> Result<Self, Refusal> {
        Ok(Self { world: Arc::new(World::open(root, slots)?) })
    }
}

impl Domain for Files {
    fn kind(&self) -> Kind {
        Kind::Files
    }

    fn identity(&self) -> String {
        let stat = &self.world.root_stat;
        let path = visible(&self.world.root_path.to_string_lossy());
        format!("{path} (device {}:{}, inode {})", stat.dev.0, stat.dev.1, stat.ino)
    }

    fn tools(&self) -> Vec<ToolSpec> {
        ask::tools()
    }

    fn aim(&self, tool: &str, arguments: &Value) -> Result<Target, Refusal> {
        let ask = Ask::read(tool, arguments)?;
        Ok(Target { identity: self.identity(), place: ask.place(), statement: String::new() })
    }

    fn read(&self, contract: &Contract, bounds: &Bounds) -> Result<Reading, Refusal> {
        self.world.still()?;
        read::read(&self.world, &Ask::read(&contract.local, &contract.arguments)?, bounds)
    }

    fn stage(&self, run: RunId, contract: &Contract, bounds: &Bounds) -> Result<Staged, Refusal> {
        let ask = Ask::read(&contract.local, &contract.arguments)?;
        self.world.still()?;
        stage::stage(&self.world, run, &contract.resource, &ask, bounds)
    }

    fn undo(
        &self,
        _run: RunId,
        undone: &[Undone],
        _artifacts: &dyn Artifacts,
        bounds: &Bounds,
    ) -> Result<Staged, UndoRefused> {
        self.world.still()?;
        undo::undo(&self.world, undone, bounds)
    }

    fn probe(&self, _run: RunId, measurement: &Measurement) -> Standing {
        let stands = || -> Result<Standing, Refusal> {
            let recipe = Recipe::read(&measurement.recipe)?;
            if recipe.discarded(&self.world)? {
                return Ok(Standing::Before);
            }
            let of = recipe.steps.len();
            let done = match recipe.done(&self.world)? {
                Some(done) => done,
                None => match recipe.shows(&self.world)? {
                    Some(done) => done,
                    None => return Ok(Standing::Neither { why: self.stuck(&recipe)? }),
                },
            };
            Ok(match done {
                done if done == of => Standing::After,
                0 => Standing::Before,
                done => Standing::Between { done: done as u64, of: of as u64 },
            })
        };
        stands().unwrap_or_else(|refusal| Standing::Unreachable { why: refusal.to_string() })
    }

    fn finish(&self, _run: RunId, measurement: &Measurement, progress: Progress<'_>) -> Outcome {
        let recipe = match Recipe::read(&measurement.recipe) {
            Ok(recipe) => recipe,
            Err(refusal) => return Outcome::Failed { refusal },
        };
        match recipe.done(&self.world) {
            Ok(Some(done)) => step::perform(&self.world, &recipe.steps, done, progress),
            Ok(None) => Outcome::Unknown { why: self.stuck(&recipe).unwrap_or_else(|r| r.to_string()) },
            Err(refusal) => Outcome::Unknown { why: refusal.to_string() },
        }
    }

    fn observe(
        &self,
        _run: RunId,
        measurement: &Measurement,
        _artifacts: &dyn Artifacts,
    ) -> Result<Observation, Refusal> {
        let recipe = Recipe::read(&measurement.recipe)?;
        let differences = self.differences(&recipe)?;
        Ok(Observation { compared: measurement.effect.blast.files_total(), differences, probes: Vec::new() })
    }

    fn diff(&self, measurement: &Measurement, artifacts: &dyn Artifacts) -> Result<String, Refusal> {
        let bytes = artifacts.get(&Recipe::read(&measurement.recipe)?.diff)?;
        String::from_utf8(bytes).map_err(|_| Refusal::new(Code::SnapshotLost, "the stored diff is not text"))
    }

    fn touches(&self, measurement: &Measurement, artifacts: &dyn Artifacts) -> Result<Vec<Touch>, Refusal> {
        let bytes = artifacts.get(&Recipe::read(&measurement.recipe)?.touches)?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Refusal::new(Code::SnapshotLost, format!("the stored list of places cannot be read: {e}")))
    }

    /// Removes slots named after a run that is not alive. A run that is done, undone or in doubt is
    /// alive: its slots hold pre-images, and an undo uses the slots of the runs it counters.
    fn sweep(&self, fate: &dyn Fn(RunId) -> Fate) -> Result<(), Refusal> {
        let names = sys::names(&self.world.slots).map_err(|e| refused(e, "slots"))?;
        for name in names {
            // Anything else in there is not ours to remove.
            let run = name.to_str().and_then(|n| n.parse::<RunId>().ok().filter(|r| r.to_string() == n));
            let Some(run) = run else { continue };
            let fate = fate(run);
            if fate == Fate::Unheard && sys::stat_at(&self.world.slots, &name).is_ok_and(|slot| stage::is_begun(&slot))
            {
                tracing::warn!(%run, "its slots are kept: no record of it, but its commit was begun");
            } else if fate != Fate::Alive {
                sys::remove_tree(&self.world.slots, &name)
                    .map_err(|e| refused(e, &format!("slot {}", name.to_string_lossy())))?;
            }
        }
        Ok(())
    }
}

impl Files {
    /// What is not as it would be right after the recipe.
    fn differences(&self, recipe: &Recipe) -> Result<Vec<String>, Refusal> {
        let mut model = Model::new(&self.world, Limits::none())?;
        let mut differences = Vec::new();
        for step in recipe.steps.iter().rev().map(Step::reversed) {
            let snags = step.check(&mut model, Closely::Content)?;
            differences.extend(snags.iter().map(|s| format!("{}: {}", visible(&s.place), s.why)));
            if step.imagine(&mut model).is_err() {
                break;
            }
        }
        Ok(differences)
    }

    fn stuck(&self, recipe: &Recipe) -> Result<String, Refusal> {
        let differences = self.differences(recipe)?;
        Ok(format!("neither as before nor as after: {}", differences.join("; ")))
    }
}
