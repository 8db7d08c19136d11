//! Undo: the inverses of recorded runs as one more action to be staged.

use std::collections::BTreeSet;

use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::{Conflict, Level};

use super::changeset::{Changeset, Op};
use super::connection::{failure, own};
use super::recipe::Recipe;
use super::slot::Lease;
use super::stage::{Action, Performed};
use super::way_back;
use crate::{Artifacts, UndoRefused, Undone};

/// Taking back several runs, latest first.
pub(super) struct Undo<'a> {
    recipes: Vec<Recipe>,
    artifacts: &'a dyn Artifacts,
}

impl<'a> Undo<'a> {
    pub(super) fn new(undone: &[Undone], artifacts: &'a dyn Artifacts) -> Result<Self, Refusal> {
        let mut recipes = Vec::new();
        for run in undone {
            let level = run.measurement.plan.level();
            if level < Level::Snapshotted {
                return Err(Refusal::new(
                    Code::Unsupported,
                    format!(
                        "run `{}` has no way back (level {}): {}",
                        run.run,
                        level.number(),
                        run.measurement.plan.evidence
                    ),
                ));
            }
            recipes.push(Recipe::parse(&run.measurement.recipe)?);
        }
        Ok(Self { recipes, artifacts })
    }

    fn load(&self, hash: &Sha256) -> Result<Vec<u8>, Refusal> {
        let bytes = self.artifacts.get(hash)?;
        if Sha256::of(&bytes) == *hash {
            return Ok(bytes);
        }
        Err(Refusal::new(Code::SnapshotLost, format!("the blob {hash} was altered")))
    }

    /// Takes every run back in turn. The flag says that foreign keys must be looked at.
    fn reverse_all(&self, lease: &Lease) -> Result<(Vec<Conflict>, bool), Refusal> {
        let mut conflicts = Vec::new();
        // Rebuilding tables runs without foreign key enforcement.
        let mut violated = self.changes_schema();
        for recipe in &self.recipes {
            let found = way_back::schema_conflicts(&lease.connection, recipe)?;
            if found.is_empty() {
                let reversed = way_back::reverse(lease, recipe, &|hash| self.load(hash))?;
                conflicts.extend(reversed.conflicts);
                violated |= reversed.foreign_keys;
            } else {
                conflicts.extend(found);
            }
        }
        Ok((conflicts, violated))
    }

    /// The rows these inverses remove: rows the runs inserted.
    fn removed(&self) -> Result<BTreeSet<String>, Refusal> {
        let mut removed = BTreeSet::new();
        for hash in self.recipes.iter().filter_map(|r| r.changeset.as_ref()) {
            Changeset::from_bytes(self.load(hash)?)
                .each(|change| {
                    if change.op == Op::Insert {
                        removed.insert(change.place());
                    }
                    Ok(())
                })
                .map_err(|e| failure(&e))?;
        }
        Ok(removed)
    }
}

impl Action for Undo<'_> {
    type Ready<'c> = ();

    fn changes_schema(&self) -> bool {
        self.recipes.iter().any(|r| r.schema.is_some())
    }

    fn ready(&self, _lease: &Lease) -> Result<(BTreeSet<String>, ()), Refusal> {
        Ok((self.recipes.iter().flat_map(|r| r.tables.keys().cloned()).collect(), ()))
    }

    fn perform(&self, lease: &Lease, (): ()) -> Result<Performed, UndoRefused> {
        let c = &lease.connection;
        own(c.execute_batch("SAVEPOINT turnback_undo"))?;
        let (mut conflicts, violated) = self.reverse_all(lease)?;
        if violated {
            // Which violations are new is only known by comparing with the state before.
            let removed = self.removed()?;
            let mut after = Vec::new();
            for violation in way_back::violations(c)? {
                after.push((way_back::violated(c, &violation, &removed)?, violation));
            }
            own(c.execute_batch("ROLLBACK TO turnback_undo"))?;
            let before = way_back::violations(c)?;
            conflicts.extend(after.into_iter().filter(|(_, v)| !before.contains(v)).map(|(conflict, _)| conflict));
            if conflicts.is_empty() {
                self.reverse_all(lease)?;
            }
        }
        own(c.execute_batch("RELEASE turnback_undo"))?;
        if conflicts.is_empty() {
            return Ok(Performed { reply: serde_json::json!({ "undone": self.recipes.len() }), reported: None });
        }
        conflicts.sort_by(|a, b| (&a.place, &a.why).cmp(&(&b.place, &b.why)));
        conflicts.dedup();
        Err(UndoRefused::Conflicts(conflicts))
    }

    fn prefix(&self) -> String {
        let runs = if self.recipes.len() == 1 { "run" } else { "runs" };
        format!("undoes {} {runs}: ", self.recipes.len())
    }
}
