//! Undo: the steps of earlier runs, reversed, latest first, checked on one imagined world.

use std::sync::Arc;

use serde_json::json;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::Conflict;

use super::account::Account;
use super::model::{Limits, Model};
use super::object::Closely;
use super::stage::{Slots, StagedFiles};
use super::step::{Recipe, Snag, Step};
use super::world::World;
use crate::{Bounds, Staged, UndoRefused, Undone};

/// Stages the inverse of `undone`, or lists everything in its way. Changes nothing.
pub(crate) fn undo(world: &Arc<World>, undone: &[Undone], bounds: &Bounds) -> Result<Staged, UndoRefused> {
    let Some(latest) = undone.first() else {
        return Err(Refusal::new(Code::BadInput, "no run is named").at("runs").into());
    };
    let resource = latest.measurement.plan.footprint.resource.clone();
    let mut model = Model::new(world, Limits::of(bounds))?;
    let mut account = Account::default();
    let mut snags: Vec<Snag> = Vec::new();
    for run in undone {
        for step in Recipe::read(&run.measurement.recipe)?.steps.iter().rev() {
            let step = step.reversed();
            let place = step.act.place().place();
            // What follows from a place already in conflict is no further conflict.
            let follows = snags.iter().any(|s| {
                [&place, &step.act.goal().place()].into_iter().any(|p| {
                    std::path::Path::new(p).starts_with(&s.place) || std::path::Path::new(&s.place).starts_with(p)
                })
            });
            let found = step.check(&mut model, Closely::Content)?;
            if found.is_empty() {
                let step = fresh(&mut model, step)?;
                account.add(&mut model, step.clone())?;
                step.imagine(&mut model)?;
            } else {
                if !follows {
                    snags.extend(found);
                }
                // Later steps are judged as if this one were possible, where that can be imagined.
                let _ = step.imagine(&mut model);
            }
        }
    }
    if let Some(lost) = snags.iter().find(|s| s.lost) {
        let others = snags.len() - 1;
        let more = if others > 0 { format!("; {others} more place(s) are in the way") } else { String::new() };
        return Err(Refusal::new(Code::SnapshotLost, format!("{}{more}", lost.why))
            .at(&lost.place)
            .next("nothing was changed; restore the kept file, or repair the place by hand")
            .into());
    }
    if !snags.is_empty() {
        let conflict = |s: Snag| Conflict {
            place: s.place,
            fields: if s.mode { vec!["mode".into()] } else { Vec::new() },
            why: s.why,
        };
        return Err(UndoRefused::Conflicts(snags.into_iter().map(conflict).collect()));
    }
    let names: Vec<String> = undone.iter().map(|u| u.run.to_string()).collect();
    let words = match undone {
        [one] => format!("undoes `{}`", one.run.short()),
        many => format!("undoes {} runs", many.len()),
    };
    let (effect, plan, recipe, artifacts) = account.close(resource, Some(words), json!({ "undone": names }))?;
    let written = serde_json::to_value(&recipe).map_err(|e| Refusal::new(Code::Failed, e.to_string()))?;
    let held = Box::new(StagedFiles { slots: Slots::none(world), steps: recipe.steps });
    Ok(Staged { effect, plan, recipe: written, artifacts, held })
}

/// The step with what stands there now, measured anew: trees carry marks that only hold from here on.
fn fresh(model: &mut Model<'_>, mut step: Step) -> Result<Step, Refusal> {
    use super::step::Act;
    let (place, goal) = (step.act.place(), step.act.goal());
    step.made = None;
    match &step.act {
        Act::Install { slot, .. } => step.after = model.object(&super::world::Spot::Slot(slot.clone()))?,
        Act::Remove { .. } => step.before = model.object(&place)?,
        Act::Swap { slot, .. } => {
            step.before = model.object(&place)?;
            step.after = model.object(&super::world::Spot::Slot(slot.clone()))?;
        }
        Act::Rename { .. } => {
            step.before = model.object(&place)?;
            step.after = step.before.clone();
        }
        Act::Chmod { to, .. } => {
            step.before = model.light(&place)?;
            step.after = step.before.clone().map(|mut o| {
                o.mode = *to;
                o
            });
        }
    }
    let id = |model: &mut Model<'_>, spot: &super::world::Spot| {
        model.stat(&spot.parent()).map(|s| s.map_or_else(String::new, |s| s.id()))
    };
    step.dirs = (id(model, &place)?, id(model, &goal)?);
    Ok(step)
}
