//! The account of staged steps: effect, numbers, diff, way back. Only words and sums; changes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use turnback_core::digest::{EffectDigest, Sha256};
use turnback_core::effect::{Blast, Effect, Fingerprint, Touch};
use turnback_core::names::ResourceName;
use turnback_core::refusal::Refusal;
use turnback_core::rollback::{Assumption, Completeness, Footprint, Holds, InverseStep, Level, RollbackPlan, Snapshot};
use turnback_core::text::visible;

use super::model::{Listed, Model};
use super::object::Object;
use super::step::{Act, Recipe, Step};
use super::world::Spot;
use crate::Artifact;
use crate::sys::FileKind;

/// Largest text shown as a line by line diff; beyond it sizes and hashes are shown.
const DIFF_LIMIT: u64 = 1 << 20;

/// Collects what steps do, one after the other, in the order they are done.
#[derive(Default)]
pub(crate) struct Account {
    steps: Vec<Step>,
    blast: Blast,
    phrases: Vec<String>,
    diff: String,
    touches: BTreeMap<String, (Option<Fingerprint>, Option<Fingerprint>, bool)>,
    shared: u64,
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A number of bytes with its unit.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

fn thing(object: &Object) -> &'static str {
    match object.kind {
        FileKind::Directory => "directory ",
        FileKind::Link => "link ",
        _ => "",
    }
}

fn extent(object: &Object) -> String {
    match object.kind {
        FileKind::Directory if object.entries > 1 => {
            let entries = object.entries - 1;
            format!(
                " with {} {} ({})",
                count(entries),
                if entries == 1 { "entry" } else { "entries" },
                size(object.bytes)
            )
        }
        FileKind::File => format!(" ({})", size(object.bytes)),
        _ => String::new(),
    }
}

impl Account {
    /// Takes in one step; `model` still is as before it.
    pub(crate) fn add(&mut self, model: &mut Model<'_>, step: Step) -> Result<(), Refusal> {
        let (place, goal) = (step.act.place(), step.act.goal());
        let (from, to) = (visible(&place.place()), visible(&goal.place()));
        let (before, after) = (step.before.as_ref(), step.after.as_ref());
        let made = step.made.as_deref();
        let blast = &mut self.blast;
        match (&step.act, before, after) {
            (Act::Install { .. }, _, Some(new)) => {
                blast.files_created += new.entries;
                blast.bytes += new.bytes;
                self.phrases.push(format!("creates {}`{to}`{}", thing(new), extent(new)));
            }
            (Act::Remove { .. }, Some(old), _) => {
                blast.files_deleted += old.entries;
                blast.bytes += old.bytes;
                self.shared += old.shared;
                self.phrases.push(format!("deletes {}`{from}`{}", thing(old), extent(old)));
            }
            (Act::Swap { .. }, Some(old), Some(new)) => {
                blast.files_changed += 1;
                blast.bytes += old.bytes.max(new.bytes);
                self.phrases.push(format!("overwrites `{from}` ({} → {})", size(old.bytes), size(new.bytes)));
            }
            (Act::Rename { .. }, Some(old), _) => {
                blast.files_changed += old.entries;
                self.shared += old.shared;
                self.phrases.push(format!("moves {}`{from}` to `{to}`{}", thing(old), extent(old)));
            }
            (Act::Chmod { from: old, to: new, .. }, ..) => {
                blast.files_changed += 1;
                self.phrases.push(format!("changes the mode of `{from}` from {old:04o} to {new:04o}"));
            }
            _ => {}
        }
        let mode = matches!(step.act, Act::Chmod { .. });
        let source = if matches!(step.act, Act::Install { .. }) { step.act.slot() } else { Some(place.clone()) };
        let tree = !mode && before.or(after).is_some_and(|o| o.kind == FileKind::Directory);
        let listed = match source.filter(|_| tree) {
            Some(source) => model.list(&source)?,
            None => Vec::new(),
        };
        self.draw(model, &step, &listed)?;
        let print = |o: Option<&Object>| o.map(|o| o.fingerprint(made));
        if place == goal {
            self.touch(place.place(), print(before), print(after), mode);
        } else {
            self.touch(place.place(), print(before), None, false);
            self.touch(goal.place(), None, print(after), false);
        }
        for entry in listed.iter().skip(1) {
            // Inodes of what staging made differ each time; its paths say all.
            let print = Some(Fingerprint(made.map_or(entry.print, |text| Sha256::of(text.as_bytes()))));
            if before.is_some() {
                self.touch(format!("{}/{}", place.place(), entry.path), print, None, false);
            }
            if after.is_some() {
                self.touch(format!("{}/{}", goal.place(), entry.path), None, print, false);
            }
        }
        self.steps.push(step);
        Ok(())
    }

    fn touch(&mut self, place: String, before: Option<Fingerprint>, after: Option<Fingerprint>, mode: bool) {
        self.touches
            .entry(place)
            .and_modify(|t| {
                t.1 = after;
                t.2 &= mode;
            })
            .or_insert((before, after, mode));
    }

    fn draw(&mut self, model: &mut Model<'_>, step: &Step, listed: &[Listed]) -> Result<(), Refusal> {
        let (place, goal) = (step.act.place(), step.act.goal());
        let name = place.place();
        let out = &mut self.diff;
        // Writing to a String cannot fail.
        match &step.act {
            Act::Chmod { from, to, .. } => {
                let _ = writeln!(out, "mode of {name}\n-{from:04o}\n+{to:04o}");
            }
            Act::Rename { .. } => {
                let _ = writeln!(out, "rename from {name}\nrename to {}", goal.place());
            }
            Act::Install { .. } | Act::Remove { .. } | Act::Swap { .. } => {
                let slot = step.act.slot().unwrap_or(Spot::Slot("".into()));
                let (old, new) = match &step.act {
                    Act::Install { .. } => (None, Some(&slot)),
                    Act::Remove { .. } => (Some(&place), None),
                    _ => (Some(&place), Some(&slot)),
                };
                if !listed.is_empty() {
                    let sign = if matches!(step.act, Act::Install { .. }) { '+' } else { '-' };
                    for entry in listed {
                        let path = if entry.path.is_empty() { name.clone() } else { format!("{name}/{}", entry.path) };
                        let tail = match entry.kind {
                            FileKind::Directory => "/".to_owned(),
                            FileKind::File => format!(" ({})", size(entry.size)),
                            other => format!(" ({})", other.word()),
                        };
                        let _ = writeln!(out, "{sign} {path}{tail}");
                    }
                    return Ok(());
                }
                let mut text = |spot: Option<&Spot>| -> Result<Option<String>, Refusal> {
                    let Some(spot) = spot else { return Ok(Some(String::new())) };
                    Ok(model
                        .bytes(spot, DIFF_LIMIT)?
                        .and_then(|b| String::from_utf8(b).ok())
                        .filter(|t| !t.contains('\0')))
                };
                match (text(old)?, text(new)?) {
                    (Some(a), Some(b)) => {
                        let left = if old.is_some() { format!("a/{name}") } else { "/dev/null".into() };
                        let right = if new.is_some() { format!("b/{name}") } else { "/dev/null".into() };
                        let mut diff = similar::TextDiff::configure();
                        diff.timeout(Duration::from_secs(2));
                        let diff = diff.diff_lines(a.as_str(), b.as_str());
                        let drawn = diff.unified_diff().header(&left, &right).to_string();
                        // An empty file has no line to draw.
                        if drawn.is_empty() {
                            let _ = writeln!(out, "--- {left}\n+++ {right}");
                        }
                        out.push_str(&drawn);
                    }
                    _ => {
                        let _ = writeln!(out, "--- a/{name}\n+++ b/{name}");
                        for (sign, object) in [('-', &step.before), ('+', &step.after)] {
                            if let Some(o) = object {
                                let _ =
                                    writeln!(out, "{sign} {}, {}, sha256 {}", o.kind.word(), size(o.bytes), o.content);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn digests(&self) -> (EffectDigest, EffectDigest) {
        let (mut exact, mut places) = (Vec::new(), Vec::new());
        for step in &self.steps {
            let value = |o: &Option<Object>| {
                o.as_ref().map_or_else(Vec::new, |o| o.value(step.made.as_deref()).as_bytes().to_vec())
            };
            let words = [
                step.act.word().as_bytes().to_vec(),
                step.act.place().place().into_bytes(),
                step.act.goal().place().into_bytes(),
            ];
            places.extend(words.clone());
            exact.extend(words);
            exact.extend([value(&step.before), value(&step.after)]);
        }
        let of = |purpose, parts: &[Vec<u8>]| EffectDigest(Sha256::of_parts(purpose, parts.iter().map(Vec::as_slice)));
        (of("turnback files effect v1", &exact), of("turnback files places v1", &places))
    }

    fn touches(&self) -> Vec<Touch> {
        self.touches
            .iter()
            // Written twice and back to what it was: not touched after all.
            .filter(|(_, (before, after, _))| before != after)
            .map(|(place, (before, after, mode))| Touch {
                place: place.clone(),
                fields: if *mode { vec!["mode".to_owned()] } else { Vec::new() },
                before: *before,
                after: *after,
            })
            .collect()
    }

    fn plan(&self, resource: ResourceName, touches: &[Touch]) -> RollbackPlan {
        let footprint = Footprint {
            resource,
            completeness: Completeness::Bounded,
            places: touches.iter().take(Footprint::LISTED).cloned().collect(),
            more: touches.len().saturating_sub(Footprint::LISTED) as u64,
        };
        let mut snapshots = Vec::new();
        let (mut files, mut trees) = (0_u64, 0_u64);
        for step in &self.steps {
            if let (Some(old), Some(slot)) = (&step.before, step.act.slot()) {
                snapshots.push(Snapshot { hash: old.content, place: slot.place(), bytes: old.bytes });
                if old.kind == FileKind::Directory { trees += 1 } else { files += 1 }
            }
        }
        let evidence = match (files, trees) {
            (0, 0) => {
                "nothing old is lost: every place was looked at and the inverse is one rename or mode change each"
                    .to_owned()
            }
            (files, 0) => format!(
                "{files} old file(s) were read and hashed; the very files are kept, hashed again as they come out, and put back when they differ"
            ),
            (0, trees) => format!(
                "{trees} old tree(s) were listed entry by entry (inode, mode, owner, size, times, not content); the very trees are kept and listed again as they come out"
            ),
            (files, trees) => format!(
                "{files} old file(s) were read and hashed, {trees} old tree(s) listed entry by entry; the very objects are kept and checked again as they come out"
            ),
        };
        let mut plan = RollbackPlan::new(Level::Snapshotted, evidence, footprint);
        plan.steps = self.steps.iter().rev().map(inverse).collect();
        plan.snapshots = snapshots;
        plan.dependencies = vec!["the slots stay on the file system of the root".into()];
        if self.shared > 0 {
            plan.assumptions.push(Assumption {
                claim: format!("nobody changes {} file(s) through another name (hard link)", count(self.shared)),
                holds: Holds::Unknown,
                ttl_seconds: 0,
            });
        }
        plan.window.closed_by = vec![
            "a later change of the same places".into(),
            "a write to an old file by a program that still has it open".into(),
            "removal of the kept files from the slots".into(),
        ];
        plan.residue = vec!["ctime".into(), "mtime of the directories around the places touched".into()];
        plan
    }

    /// The effect, the way back, the recipe and its blobs. `summary` replaces the steps' own words.
    pub(crate) fn close(
        self,
        resource: ResourceName,
        summary: Option<String>,
        reply: Value,
    ) -> Result<(Effect, RollbackPlan, Recipe, Vec<Artifact>), Refusal> {
        let touches = self.touches();
        let plan = self.plan(resource, &touches);
        let (digest, places) = self.digests();
        let shown = self.phrases.iter().take(3).cloned().collect::<Vec<_>>().join("; ");
        let rest = self.phrases.len().saturating_sub(3);
        let phrases = if rest > 0 { format!("{shown}; and {rest} more") } else { shown };
        let summary = match summary {
            Some(text) if phrases.is_empty() => text,
            Some(text) => format!("{text}: {phrases}"),
            None => phrases,
        };
        let diff = if self.diff.is_empty() { "no change\n".to_owned() } else { self.diff };
        let listed = serde_json::to_vec(&touches)
            .map_err(|e| Refusal::new(turnback_core::refusal::Code::Failed, e.to_string()))?;
        let artifacts = vec![Artifact::new(diff.into_bytes()), Artifact::new(listed)];
        let recipe = Recipe { version: 1, steps: self.steps, diff: artifacts[0].hash, touches: artifacts[1].hash };
        let effect = Effect { summary, blast: self.blast, digest, places, volatile: false, reply };
        Ok((effect, plan, recipe, artifacts))
    }
}

/// The inverse of a step in words.
fn inverse(step: &Step) -> InverseStep {
    let (place, goal) = (visible(&step.act.place().place()), visible(&step.act.goal().place()));
    let slot = step.act.slot().map(|s| s.place()).unwrap_or_default();
    let (precondition, operation, postcondition, done_when) = match &step.act {
        Act::Install { .. } => (
            format!("`{place}` is what was made"),
            format!("move `{place}` to {slot}"),
            format!("nothing is at `{place}`"),
            format!("it is in {slot}"),
        ),
        Act::Remove { .. } => (
            format!("nothing is at `{place}` and {slot} is unaltered"),
            format!("move {slot} to `{place}`"),
            format!("`{place}` is the very object that was deleted"),
            format!("{slot} is empty"),
        ),
        Act::Swap { .. } => (
            format!("`{place}` is what was written and {slot} is unaltered"),
            format!("exchange `{place}` and {slot}"),
            format!("`{place}` is the very file that was overwritten"),
            format!("{slot} holds what was written"),
        ),
        Act::Rename { .. } => (
            format!("`{goal}` is what was moved and nothing is at `{place}`"),
            format!("move `{goal}` to `{place}`"),
            format!("`{place}` is back"),
            format!("nothing is at `{goal}`"),
        ),
        Act::Chmod { from, to, .. } => (
            format!("the mode of `{place}` is {to:04o}"),
            format!("set the mode of `{place}` to {from:04o}"),
            format!("the mode of `{place}` is {from:04o}"),
            format!("the mode of `{place}` is {from:04o}"),
        ),
    };
    InverseStep { precondition, operation, postcondition, done_when }
}
