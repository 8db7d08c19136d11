//! The chain: which steps touch what earlier ones touched, and whether those stay undoable then.

use std::collections::{BTreeMap, BTreeSet};

use turnback_core::gates::recoverability::irreversible;
use turnback_core::plan::{Draft, reaches};
use turnback_core::rollback::Completeness;
use turnback_core::text::visible;
use turnback_core::tool::Kind;
use turnback_core::undo::{self, Node, Standing};

use super::{Faults, Inner, Trial};

impl Inner {
    /// Whether each step stays undoable after the later ones; and the order steps need that touch the same
    /// places, as the places of steps each waits for besides.
    pub(super) fn chain(&self, draft: &Draft, trials: &[Trial], faults: &mut Faults) -> Vec<BTreeSet<usize>> {
        let mut inferred = vec![BTreeSet::new(); trials.len()];
        let at_of: BTreeMap<usize, usize> = trials.iter().enumerate().map(|(at, trial)| (trial.index, at)).collect();
        let said = |trial: &Trial| {
            let after = draft.steps.get(trial.index).map(|step| step.after.clone()).unwrap_or_default();
            after.iter().filter_map(|index| at_of.get(index).copied()).collect::<BTreeSet<usize>>()
        };
        let mut after: Vec<BTreeSet<usize>> = trials.iter().map(said).collect();
        for (one, other, place) in overlaps(trials) {
            let (Some(first), Some(second)) = (trials.get(one), trials.get(other)) else { continue };
            let both = format!("step `{}` touches `{}` after step `{}`", second.name, visible(&place), first.name);
            let on_top =
                self.bound(&second.contract().resource).is_ok_and(|bound| bound.resource.domain.rehearses_on_top());
            if !on_top {
                let why = format!("{both}, and could only be measured once that one ran");
                faults.plan(&[first, second], why, "submit it as a second plan after the first");
                continue;
            }
            let level = second.measured().map(|m| m.plan.level());
            let floor = self.settings.floor.level;
            let back =
                second.measured().is_some_and(|m| m.plan.level() >= floor && !irreversible(second.contract(), m));
            if !back {
                let why = format!(
                    "{both} and has itself a way back at level {}, so that `{}` could not be undone after it; level {} is required",
                    level.map_or(0, turnback_core::rollback::Level::number),
                    first.name,
                    floor.number(),
                );
                faults.plan(
                    &[first, second],
                    why,
                    "leave one of the two out, or submit the later one as a plan of its own",
                );
            }
            if !reaches(&after, other, one) {
                // The steps stand in an order already: a later one waiting for an earlier one makes no ring.
                after.get_mut(other).map(|waits| waits.insert(one));
                inferred.get_mut(other).map(|waits| waits.insert(one));
            }
        }
        inferred
    }
}

/// Every two steps that touch the same place, the earlier first, and one such place: the later one would stand
/// in the way of undoing the earlier one.
fn overlaps(trials: &[Trial]) -> Vec<(usize, usize, String)> {
    let node = |(at, trial): (usize, &Trial)| Node {
        run: trial.run.id,
        order: at as u64,
        resource: trial.contract().resource.clone(),
        kind: trial.contract().kind,
        standing: Standing::Live,
        touches: trial.touches.clone(),
        reads: Vec::new(),
        undoes: Vec::new(),
    };
    let nodes: Vec<Node> = trials.iter().enumerate().map(node).collect();
    let mut found: BTreeMap<(usize, usize), String> = BTreeMap::new();
    for (at, trial) in trials.iter().enumerate() {
        let Err(blockers) = undo::plan(&nodes, &BTreeSet::from([trial.run.id])) else { continue };
        for blocker in blockers {
            let later = trials.iter().position(|other| Some(other.run.id) == blocker.by);
            if let Some(later) = later {
                found.entry((at, later)).or_insert(blocker.conflict.place);
            }
        }
    }
    // What may have changed unseen may have changed anything there.
    for (later, trial) in trials.iter().enumerate() {
        // An action on files does what its own steps name and nothing else; a statement may change rows that are not
        // listed until a witness says that it did not.
        let enough = match trial.contract().kind {
            Kind::Files => Completeness::Bounded,
            Kind::Sqlite => Completeness::Closed,
        };
        let seen = trial.measured().is_some_and(|m| m.plan.footprint.completeness >= enough);
        let earlier = trials.iter().enumerate().take(later);
        for (at, other) in earlier.filter(|_| !seen) {
            if other.contract().resource == trial.contract().resource {
                found.entry((at, later)).or_insert_with(|| trial.contract().resource.to_string());
            }
        }
    }
    found.into_iter().map(|((one, other), place)| (one, other, place)).collect()
}
