//! The five primitives every write comes down to.
//!
//! Each is one rename-like system call and has its inverse in the same set, so doing and undoing are
//! the same code. A [`Step`] is a primitive with what stands at its place before and after.
//!
//! Invariant `NO-CLOBBER`: nothing is ever replaced that was not looked at. `Install`, `Remove` and
//! `Rename` fail when their goal exists; `Swap` keeps what came out, looks at it, and swaps back when
//! it is not what was expected.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::Outcome;

use super::model::{Limits, Model};
use super::object::{Closely, Object};
use super::world::{Spot, World, refused};
use crate::Progress;
use crate::sys::{self, OwnedFd};

/// One primitive. Paths are beneath the root, slots beneath the slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do")]
pub(crate) enum Act {
    /// What is in the slot appears at the path, where nothing is.
    Install { slot: PathBuf, path: PathBuf },
    /// What is at the path goes to the slot, where nothing is.
    Remove { path: PathBuf, slot: PathBuf },
    /// Path and slot change what stands at them.
    Swap { path: PathBuf, slot: PathBuf },
    /// What is at one path goes to another, where nothing is.
    Rename { from: PathBuf, to: PathBuf },
    /// Permission bits change.
    Chmod { path: PathBuf, from: u32, to: u32 },
}

impl Act {
    fn reversed(&self) -> Self {
        match self.clone() {
            Act::Install { slot, path } => Act::Remove { path, slot },
            Act::Remove { path, slot } => Act::Install { slot, path },
            Act::Swap { path, slot } => Act::Swap { path, slot },
            Act::Rename { from, to } => Act::Rename { from: to, to: from },
            Act::Chmod { path, from, to } => Act::Chmod { path, from: to, to: from },
        }
    }

    /// Where something stands before, in the root or, for `Install`, where it will.
    pub(crate) fn place(&self) -> Spot {
        match self {
            Act::Install { path, .. }
            | Act::Remove { path, .. }
            | Act::Swap { path, .. }
            | Act::Chmod { path, .. }
            | Act::Rename { from: path, .. } => Spot::Root(path.clone()),
        }
    }

    /// Where something stands in the root afterwards, or, for `Remove`, stood.
    pub(crate) fn goal(&self) -> Spot {
        match self {
            Act::Rename { to, .. } => Spot::Root(to.clone()),
            _ => self.place(),
        }
    }

    /// The slot it uses, when it uses one.
    pub(crate) fn slot(&self) -> Option<Spot> {
        match self {
            Act::Install { slot, .. } | Act::Remove { slot, .. } | Act::Swap { slot, .. } => {
                Some(Spot::Slot(slot.clone()))
            }
            Act::Rename { .. } | Act::Chmod { .. } => None,
        }
    }

    /// One word.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Act::Install { .. } => "install",
            Act::Remove { .. } => "remove",
            Act::Swap { .. } => "swap",
            Act::Rename { .. } => "rename",
            Act::Chmod { .. } => "chmod",
        }
    }
}

/// A primitive with what it depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    #[serde(flatten)]
    pub(crate) act: Act,
    /// What stands at the place before; `None` is nothing.
    pub(crate) before: Option<Object>,
    /// What stands at the goal after.
    pub(crate) after: Option<Object>,
    /// Which directories place and goal are in.
    pub(crate) dirs: (String, String),
    /// Stands for the content digest of a tree made by staging, whose inodes differ each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<String>,
}

/// Something that is not as a step needs it.
#[derive(Clone, Debug)]
pub(crate) struct Snag {
    pub(crate) place: String,
    pub(crate) why: String,
    /// A pre-image is missing or altered.
    pub(crate) lost: bool,
    /// Only the mode is concerned.
    pub(crate) mode: bool,
}

impl Step {
    /// The step that takes this one back.
    pub(crate) fn reversed(&self) -> Self {
        Self {
            act: self.act.reversed(),
            before: self.after.clone(),
            after: self.before.clone(),
            dirs: (self.dirs.1.clone(), self.dirs.0.clone()),
            made: self.made.clone(),
        }
    }

    fn closely(&self, closely: Closely) -> Closely {
        if matches!(self.act, Act::Chmod { .. }) { Closely::Mode } else { closely }
    }

    /// Measures a spot as closely as this step depends on it.
    pub(crate) fn measure(&self, model: &mut Model<'_>, spot: &Spot) -> Result<Option<Object>, Refusal> {
        if matches!(self.act, Act::Chmod { .. }) { model.light(spot) } else { model.object(spot) }
    }

    /// Everything that is in the way of this step.
    ///
    /// # Errors
    /// Only when the world cannot be looked at.
    pub(crate) fn check(&self, model: &mut Model<'_>, closely: Closely) -> Result<Vec<Snag>, Refusal> {
        let mode = matches!(self.act, Act::Chmod { .. });
        let mut snags = Vec::new();
        let mut snag = |spot: &Spot, why: String, lost| {
            snags.push(Snag { place: spot.place(), why, lost, mode });
        };
        let (place, goal) = (self.act.place(), self.act.goal());
        for (spot, id) in [(&place, &self.dirs.0), (&goal, &self.dirs.1)] {
            let dir = spot.parent();
            match model.stat(&dir)? {
                None => snag(spot, format!("its directory `{}` is gone", dir.place()), false),
                Some(stat) if stat.id() != *id => {
                    snag(spot, format!("its directory `{}` was replaced", dir.place()), false);
                }
                Some(_) => {}
            }
            if place == goal {
                break;
            }
        }
        match (&self.before, self.measure(model, &place)?) {
            (None, None) => {}
            (None, Some(_)) => snag(&place, "exists again".into(), false),
            (Some(_), None) => snag(&place, "is gone".into(), false),
            (Some(expected), Some(found)) => {
                if let Some(why) = expected.differs(&found, self.closely(closely)) {
                    snag(&place, why, false);
                }
            }
        }
        match &self.act {
            Act::Rename { .. } => {
                if model.stat(&goal)?.is_some() {
                    snag(&goal, "exists again".into(), false);
                }
            }
            Act::Chmod { .. } => {}
            // Slots belong to Turnback alone, so nothing inside one may even have been touched.
            Act::Install { .. } | Act::Remove { .. } | Act::Swap { .. } => {
                if let Some(slot) = self.act.slot() {
                    let kept = if matches!(self.act, Act::Remove { .. }) { &None } else { &self.after };
                    match (kept, model.object(&slot)?) {
                        (None, None) => {}
                        (None, Some(_)) => snag(&place, format!("`{}` is taken", slot.place()), true),
                        (Some(_), None) => snag(&place, format!("what was kept in `{}` is gone", slot.place()), true),
                        (Some(expected), Some(found)) => {
                            if let Some(why) = expected.differs(&found, Closely::Untouched) {
                                snag(&place, format!("what was kept in `{}` was altered: {why}", slot.place()), true);
                            }
                        }
                    }
                }
            }
        }
        Ok(snags)
    }

    /// Imagines this step done.
    pub(crate) fn imagine(&self, model: &mut Model<'_>) -> Result<(), Refusal> {
        let (place, goal) = (self.act.place(), self.act.goal());
        match (&self.act, self.act.slot()) {
            (Act::Install { .. }, Some(slot)) => model.rename(&slot, &place),
            (Act::Remove { .. }, Some(slot)) => model.rename(&place, &slot),
            (Act::Swap { .. }, Some(slot)) => model.exchange(&place, &slot),
            (Act::Chmod { to, .. }, _) => model.set_mode(&place, *to),
            _ => model.rename(&place, &goal),
        }
    }

    /// Does it: check, one system call, look at what came out, sync.
    fn perform(&self, world: &World) -> Result<(), Trouble> {
        let mut model = Model::new(world, Limits::none()).map_err(Trouble::Nothing)?;
        if let Some(snag) = self.check(&mut model, Closely::Untouched).map_err(Trouble::Nothing)?.first() {
            let code = if snag.lost { Code::SnapshotLost } else { Code::Moved };
            return Err(Trouble::Nothing(Refusal::new(code, snag.why.clone()).at(&snag.place)));
        }
        let ends = Ends::open(world, self).map_err(Trouble::Nothing)?;
        ends.call(&self.act, false).map_err(Trouble::Nothing)?;
        let what = || format!("{} of {}", self.act.word(), self.act.place().place());
        match self.verify(world, &ends).map_err(|r| Trouble::Something(format!("{}: {r}", what())))? {
            Verdict::Done => {}
            Verdict::Stuck(why) => return Err(Trouble::Something(format!("{}: {why}", what()))),
            Verdict::Back(refusal) => {
                // The same descriptors, so that what was taken goes back where it was taken from.
                return Err(match ends.call(&self.act.reversed(), true) {
                    Ok(()) if self.is_staged_again(&ends) => Trouble::Nothing(refusal),
                    Ok(()) => Trouble::Something(format!(
                        "{}: {refusal}; while it was taken back somebody wrote there again, and that is in the slot now",
                        what()
                    )),
                    Err(stuck) => Trouble::Something(format!("{}: {refusal}; taking it back failed: {stuck}", what())),
                });
            }
        }
        ends.sync(&self.act)
            .map_err(|e| Trouble::Something(format!("{} of {}: {e}", self.act.word(), self.act.place().place())))
    }

    /// Looks at what came out, with fresh eyes from the root down.
    ///
    /// Something is taken back only where what would be taken is ours. Where somebody else wrote over it
    /// right after, the step is done and theirs is a later change, which observing will find.
    fn verify(&self, world: &World, ends: &Ends) -> Result<Verdict, Refusal> {
        let mut model = Model::new(world, Limits::none())?;
        let moved = |why: &str| Refusal::new(Code::Moved, why.to_owned()).at(self.act.place().place());
        let ours = |id: Option<String>| id.is_some() && id == self.after.as_ref().map(|o| o.id.clone());
        // In this order: who writes between the two looks is then out of hand too, and not taken for a
        // directory that was moved – taking back would put what they wrote into the slot.
        let in_sight = ours(model.stat(&self.act.place())?.map(|s| s.id()));
        let in_hand = ours(ends.at_place());
        let came_out = match &self.act {
            Act::Chmod { .. } => return Ok(Verdict::Done),
            Act::Install { .. } => None,
            Act::Remove { .. } | Act::Swap { .. } => match self.act.slot() {
                Some(slot) => Some(model.object(&slot)?),
                None => None,
            },
            Act::Rename { .. } => Some(model.object(&self.act.goal())?),
        };
        let wrong = match (&self.before, came_out) {
            (Some(expected), Some(Some(found))) => expected.differs(&found, Closely::Untouched),
            (_, Some(None)) => Some("it is gone".to_owned()),
            _ => None,
        };
        let appears = matches!(self.act, Act::Install { .. } | Act::Swap { .. });
        Ok(match wrong {
            Some(why) if appears && !in_hand => Verdict::Stuck(format!(
                "changed twice at the moment of the commit ({why}); the first change is in the slot"
            )),
            Some(why) => Verdict::Back(moved(&format!("changed at the moment of the commit: {why}"))),
            None if appears && in_hand && !in_sight => {
                Verdict::Back(moved("its directory was moved at the moment of the commit"))
            }
            None => Verdict::Done,
        })
    }

    /// After taking back: the slot holds again what was staged, so removing it removes nothing else.
    fn is_staged_again(&self, ends: &Ends) -> bool {
        match (&self.act, &ends.other) {
            (Act::Install { .. } | Act::Swap { .. }, Some((slot, number))) => {
                sys::stat_at(slot, number).is_ok_and(|s| self.after.as_ref().is_some_and(|o| o.id == s.id()))
            }
            _ => true,
        }
    }
}

/// What looking after a step found.
enum Verdict {
    /// It is done.
    Done,
    /// It took something it should not have; it can be taken back.
    Back(Refusal),
    /// It took something it should not have, and something else stands in the way of taking it back.
    Stuck(String),
}

/// How a step failed.
enum Trouble {
    /// Nothing of it happened.
    Nothing(Refusal),
    /// It may have happened.
    Something(String),
}

/// The open ends of one primitive.
struct Ends {
    place: (OwnedFd, OsString),
    other: Option<(OwnedFd, OsString)>,
    /// What stands at the place before.
    id: String,
}

impl Ends {
    fn open(world: &World, step: &Step) -> Result<Self, Refusal> {
        let open = |spot: &Spot| world.parent(spot).map(|dir| (dir, spot.name()));
        let is = |end: &(OwnedFd, OsString), id: &str, spot: &Spot| {
            let found = sys::stat(&end.0).map_err(|e| refused(e, &spot.place()))?;
            if found.id() == id {
                return Ok(());
            }
            Err(Refusal::new(Code::Moved, "its directory was replaced").at(spot.place()))
        };
        let (at, goal) = (step.act.place(), step.act.goal());
        let place = open(&at)?;
        is(&place, &step.dirs.0, &at)?;
        let other = match &step.act {
            Act::Rename { .. } => {
                let end = open(&goal)?;
                is(&end, &step.dirs.1, &goal)?;
                Some(end)
            }
            act => act.slot().map(|slot| open(&slot)).transpose()?,
        };
        Ok(Self { place, other, id: step.before.as_ref().map_or_else(String::new, |o| o.id.clone()) })
    }

    /// What stands at the place in this very directory, wherever that is now.
    fn at_place(&self) -> Option<String> {
        sys::stat_at(&self.place.0, &self.place.1).ok().map(|s| s.id())
    }

    /// The one system call. `act` is the step's own or, with `back`, its reverse.
    fn call(&self, act: &Act, back: bool) -> Result<(), Refusal> {
        let (dir, name) = &self.place;
        let done = match (act, &self.other) {
            (Act::Chmod { to, .. }, _) => sys::set_mode_at(dir, name, &self.id, *to),
            (Act::Install { .. }, Some((slot, number))) => sys::rename_free(slot, number, dir, name),
            (Act::Remove { .. }, Some((slot, number))) => sys::rename_free(dir, name, slot, number),
            (Act::Swap { .. }, Some((slot, number))) => sys::rename_exchange(dir, name, slot, number),
            (Act::Rename { .. }, Some((goal, new))) if back => sys::rename_free(goal, new, dir, name),
            (Act::Rename { .. }, Some((goal, new))) => sys::rename_free(dir, name, goal, new),
            _ => Err(sys::Errno::INVAL),
        };
        done.map_err(|e| {
            let code = match e {
                sys::Errno::NOENT | sys::Errno::EXIST | sys::Errno::STALE => Code::Moved,
                other => refused(other, "").code,
            };
            Refusal::new(code, format!("{} failed: {}", act.word(), sys::words(e)))
                .at(act.place().place())
                .next(super::world::NEXT)
        })
    }

    fn sync(&self, act: &Act) -> Result<(), Refusal> {
        if matches!(act, Act::Chmod { .. }) {
            let (dir, name) = &self.place;
            return sys::sync_at(dir, name).map_err(|e| refused(e, &act.place().place()));
        }
        let ends = [Some(&self.place), self.other.as_ref()];
        for (dir, name) in ends.into_iter().flatten() {
            sys::sync(dir).map_err(|e| {
                Refusal::new(Code::Failed, format!("it is not certain to survive a crash: {}", sys::words(e)))
                    .at(name.to_string_lossy())
            })?;
        }
        Ok(())
    }
}

/// Does `steps` from number `done` on, in order, all or nothing.
///
/// When one fails the ones done before it are taken back, `done` ones included; when that fails too
/// the outcome is unknown and names what stands where.
pub(crate) fn perform(world: &World, steps: &[Step], done: usize, progress: Progress<'_>) -> Outcome {
    let _alone = world.commits.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (i, step) in steps.iter().enumerate().skip(done) {
        match step.perform(world) {
            Ok(()) if steps.len() > 1 => {
                progress(&format!("{} of {}: {} {}", i + 1, steps.len(), step.act.word(), step.act.place().place()));
            }
            Ok(()) => {}
            Err(Trouble::Something(why)) => return Outcome::Unknown { why },
            Err(Trouble::Nothing(refusal)) => {
                for (back, done) in steps.iter().enumerate().take(i).rev() {
                    if let Err(Trouble::Nothing(stuck)) = done.reversed().perform(world).map_err(|t| match t {
                        Trouble::Something(why) => Trouble::Nothing(Refusal::new(Code::Failed, why)),
                        nothing => nothing,
                    }) {
                        let why = format!(
                            "step {} of {} failed: {refusal}; steps 1 to {} are done and taking back step {} failed: {stuck}",
                            i + 1,
                            steps.len(),
                            back + 1,
                            back + 1,
                        );
                        return Outcome::Unknown { why };
                    }
                }
                return Outcome::Failed { refusal };
            }
        }
    }
    Outcome::Succeeded
}

/// What is written down of staged work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    /// Shape of this document.
    pub(crate) version: u8,
    /// What commit does, in order.
    pub(crate) steps: Vec<Step>,
    /// The rendered diff.
    pub(crate) diff: Sha256,
    /// Every place touched, as JSON.
    pub(crate) touches: Sha256,
}

impl Recipe {
    pub(crate) fn read(value: &serde_json::Value) -> Result<Self, Refusal> {
        let recipe: Self = serde_json::from_value(value.clone())
            .map_err(|e| Refusal::new(Code::Failed, format!("the recipe cannot be read: {e}")))?;
        if recipe.version != 1 {
            return Err(Refusal::new(Code::Failed, format!("the recipe has the unknown version {}", recipe.version)));
        }
        Ok(recipe)
    }

    /// How many steps are done, when the world is exactly so; `None` when it is at no such point.
    pub(crate) fn done(&self, world: &World) -> Result<Option<usize>, Refusal> {
        // Most recipes are all done or not begun, so those are tried first.
        let n = self.steps.len();
        for k in std::iter::once(n).chain(0..n) {
            if self.is_at(world, k)? {
                return Ok(Some(k));
            }
        }
        Ok(None)
    }

    fn is_at(&self, world: &World, k: usize) -> Result<bool, Refusal> {
        for steps in [self.steps[..k].iter().rev().map(Step::reversed).collect::<Vec<_>>(), self.steps[k..].to_vec()] {
            let mut model = Model::new(world, Limits::none())?;
            for step in steps {
                if !step.check(&mut model, Closely::Content)?.is_empty() {
                    return Ok(false);
                }
                step.imagine(&mut model)?;
            }
        }
        Ok(true)
    }

    /// Whether the staged work was thrown away while at its place stands what stood there before: then
    /// nothing was done. So it is after a commit that failed, and after an intent of which nobody knows
    /// whether it was recorded. Only for recipes of one step.
    pub(crate) fn discarded(&self, world: &World) -> Result<bool, Refusal> {
        let [step] = self.steps.as_slice() else { return Ok(false) };
        let Some(slot) = step.act.slot() else { return Ok(false) };
        let mut model = Model::new(world, Limits::none())?;
        // What was done keeps its directory, empty or not.
        if model.stat(&slot.parent())?.is_some() {
            return Ok(false);
        }
        let stands = model.stat(&step.act.place())?.map(|stat| stat.id());
        Ok(stands == step.before.as_ref().map(|object| object.id.clone()))
    }

    /// Whether our own objects show that nothing, or everything, was done, whoever changed the places
    /// since. Only for recipes of one step.
    pub(crate) fn shows(&self, world: &World) -> Result<Option<usize>, Refusal> {
        let [step] = self.steps.as_slice() else { return Ok(None) };
        let mut model = Model::new(world, Limits::none())?;
        let mut id = |spot: &Spot| model.stat(spot).map(|s| s.map(|s| s.id()));
        let (before, after) = (step.before.as_ref().map(|o| o.id.clone()), step.after.as_ref().map(|o| o.id.clone()));
        let found = match step.act.slot() {
            Some(slot) => id(&slot)?,
            None => return Ok(None),
        };
        // Before, the slot holds what is to appear; after, what was there.
        Ok(if before == after {
            None
        } else if found == after {
            Some(0)
        } else if found == before {
            Some(1)
        } else {
            None
        })
    }
}
