//! Staging: one call becomes steps, with new content built in the slots where nobody sees it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use turnback_core::digest::Sha256;
use turnback_core::names::{ResourceName, RunId};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::Outcome;

use super::account::{Account, count};
use super::ask::{Ask, Edit};
use super::model::{Limits, Model, read_all};
use super::step::{self, Act, Step};
use super::world::{Spot, World, refused};
use crate::sys::{self, FileKind, OwnedFd, Stat};
use crate::{Bounds, Held, Progress, Staged};

/// Largest file `edit_file` takes.
const EDIT_LIMIT: u64 = 16 << 20;
/// Mode of a new file.
const FILE_MODE: u32 = 0o644;
/// Mode of a new directory.
const DIRECTORY_MODE: u32 = 0o755;

/// Mode of a slot directory once something may be kept in it.
const BEGUN: u32 = 0o1700;

/// The slot directory of one run. Dropping it removes it, unless something was kept there.
pub(crate) struct Slots {
    world: Arc<World>,
    name: Option<PathBuf>,
}

impl Slots {
    /// No slots of its own: an undo uses those of the runs it counters.
    pub(crate) fn none(world: &Arc<World>) -> Self {
        Self { world: Arc::clone(world), name: None }
    }

    fn make(world: &Arc<World>, run: RunId) -> Result<(Self, OwnedFd), Refusal> {
        let name = PathBuf::from(run.to_string());
        let place = format!("slot {run}");
        sys::make_dir(&world.slots, name.as_os_str()).map_err(|e| refused(e, &place))?;
        let slots = Self { world: Arc::clone(world), name: Some(name.clone()) };
        // The run's own directory must be found again after a crash, or a pre-image could be lost with it.
        sys::sync(&world.slots).map_err(|e| refused(e, &place))?;
        let dir = sys::open_dir(&world.slots, &name).map_err(|e| refused(e, &place))?;
        Ok((slots, dir))
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        if let Some(name) = self.name.take()
            && let Err(e) = sys::remove_tree(&self.world.slots, name.as_os_str())
        {
            tracing::warn!(slot = %name.display(), error = %sys::words(e), "staged leftovers stay until the next start");
        }
    }
}

/// Marks a slot directory before anything is moved into it: without its record nobody could tell a
/// pre-image from staged content. The mark is the sticky bit, which means nothing to the owner.
fn begin(world: &World, name: &std::path::Path) -> sys::Sys<()> {
    let dir = sys::open_dir(&world.slots, name)?;
    sys::set_mode(&dir, BEGUN)
}

/// Whether a commit was begun with this slot directory.
pub(crate) fn is_begun(slot: &sys::Stat) -> bool {
    slot.mode() & BEGUN == BEGUN
}

/// Staged steps.
pub(crate) struct StagedFiles {
    pub(crate) slots: Slots,
    pub(crate) steps: Vec<Step>,
}

impl Held for StagedFiles {
    fn commit(self: Box<Self>, progress: Progress<'_>) -> Outcome {
        let Self { mut slots, steps } = *self;
        if let Err(refusal) = slots.world.still() {
            return Outcome::Failed { refusal };
        }
        // From here on a slot may hold the only copy of something: nothing removes it by itself, not
        // even unwinding.
        let name = slots.name.take();
        if let Some(name) = &name
            && let Err(e) = begin(&slots.world, name)
        {
            let refusal = refused(e, &format!("slot {}", name.display()));
            slots.name = Some(name.clone());
            return Outcome::Failed { refusal };
        }
        let outcome = step::perform(&slots.world, &steps, 0, progress);
        if matches!(outcome, Outcome::Failed { .. }) {
            slots.name = name;
        }
        outcome
    }
}

/// What a call comes to.
struct Draft<'a> {
    /// What was looked at, so that it is not looked at again to be explained.
    model: Model<'a>,
    slots: Slots,
    steps: Vec<Step>,
    summary: Option<String>,
    reply: Value,
}

/// Stages one call.
pub(crate) fn stage(
    world: &Arc<World>,
    run: RunId,
    resource: &ResourceName,
    ask: &Ask,
    bounds: &Bounds,
) -> Result<Staged, Refusal> {
    let limits = Limits::of(bounds);
    let stage = Stage { world, run, limits, bounds };
    let draft = match ask {
        Ask::WriteFile { path, content } => stage.write(path, |_| Ok(content.clone().into_bytes()), true),
        Ask::EditFile { path, edits } => stage.write(path, |old| edit(old, edits), false),
        Ask::Move { from, to } => stage.rename(from, to),
        Ask::Delete { path, recursive } => stage.delete(path, *recursive),
        Ask::MakeDirectory { path, parents } => stage.make_directory(path, *parents),
        Ask::SetPermissions { path, mode } => stage.set_permissions(path, *mode),
        _ => Err(Refusal::new(Code::Unsupported, "a read has nothing to stage")),
    }?;
    let mut model = draft.model;
    let mut account = Account::default();
    for step in draft.steps {
        let next = step.clone();
        account.add(&mut model, step)?;
        next.imagine(&mut model)?;
    }
    let (effect, plan, recipe, artifacts) = account.close(resource.clone(), draft.summary, draft.reply)?;
    let written = serde_json::to_value(&recipe).map_err(|e| Refusal::new(Code::Failed, e.to_string()))?;
    let held = Box::new(StagedFiles { slots: draft.slots, steps: recipe.steps });
    Ok(Staged { effect, plan, recipe: written, artifacts, held })
}

/// Replaces texts one after the other; each must stand exactly once where it is replaced.
fn edit(old: &[u8], edits: &[Edit]) -> Result<Vec<u8>, Refusal> {
    let mut text = String::from_utf8(old.to_vec())
        .map_err(|_| Refusal::new(Code::Unsupported, "is not UTF-8 text; write it as a whole"))?;
    for (i, edit) in edits.iter().enumerate() {
        let field = format!("edits[{i}].old");
        let Some(at) = text.find(&edit.old) else {
            return Err(Refusal::new(Code::BadInput, "does not occur in the file").at(field));
        };
        // Overlapping occurrences count too: `aa` stands twice in `aaa`.
        let further = at + text[at..].chars().next().map_or(1, char::len_utf8);
        if text[further..].contains(&edit.old) {
            return Err(Refusal::new(Code::BadInput, "occurs more than once in the file")
                .at(field)
                .next("give more of the text around it"));
        }
        text.replace_range(at..at + edit.old.len(), &edit.new);
    }
    Ok(text.into_bytes())
}

struct Stage<'a> {
    world: &'a Arc<World>,
    run: RunId,
    limits: Limits,
    bounds: &'a Bounds,
}

impl<'a> Stage<'a> {
    /// The directory of `spot`: it must be there.
    fn dir_of(&self, spot: &Spot) -> Result<(OwnedFd, Stat), Refusal> {
        let dir = self.world.parent(spot).map_err(|r| match r.code {
            Code::NotFound => Refusal::new(Code::NotFound, "its directory does not exist")
                .at(spot.place())
                .next("make it first with make_directory"),
            _ => r,
        })?;
        let stat = sys::stat(&dir).map_err(|e| refused(e, &spot.place()))?;
        Ok((dir, stat))
    }

    fn existing(&self, spot: &Spot) -> Result<(Stat, Stat), Refusal> {
        let (_, dir) = self.dir_of(spot)?;
        let found = self.world.stat(spot)?.ok_or_else(|| refused(sys::Errno::NOENT, &spot.place()))?;
        if found.kind == FileKind::Special {
            return Err(Refusal::new(Code::SpecialFile, "is a FIFO, device or socket").at(spot.place()));
        }
        Ok((found, dir))
    }

    fn slot(&self) -> PathBuf {
        PathBuf::from(self.run.to_string()).join("0")
    }

    fn nothing(&self, model: Model<'a>, summary: String, reply: Value) -> Draft<'a> {
        Draft { model, slots: Slots::none(self.world), steps: Vec::new(), summary: Some(summary), reply }
    }

    fn write(
        &self,
        path: &Path,
        content: impl FnOnce(&[u8]) -> Result<Vec<u8>, Refusal>,
        may_create: bool,
    ) -> Result<Draft<'a>, Refusal> {
        let spot = Spot::Root(path.to_owned());
        let place = spot.place();
        let (dir, dir_stat) = self.dir_of(&spot)?;
        let old = self.world.stat(&spot)?;
        let old_bytes = match &old {
            None if !may_create => return Err(refused(sys::Errno::NOENT, &place)),
            None => Vec::new(),
            Some(stat) => {
                plain_file(stat, &place)?;
                if stat.mode() & 0o6000 != 0 {
                    return Err(Refusal::new(Code::Unsupported, "has setuid or setgid; its content is never changed")
                        .at(&place));
                }
                if stat.size > self.bounds.snapshot_bytes || (!may_create && stat.size > EDIT_LIMIT) {
                    return Err(Refusal::new(Code::TooLarge, "is larger than this tool changes").at(&place));
                }
                if may_create { Vec::new() } else { read_all(self.world, &spot, stat)? }
            }
        };
        let bytes = content(&old_bytes).map_err(|r| if r.place.is_none() { r.at(&place) } else { r })?;
        if bytes.len() as u64 > self.bounds.snapshot_bytes {
            return Err(Refusal::new(Code::TooLarge, "the new content is too large").at(&place));
        }
        let hash = Sha256::of(&bytes);
        let reply = json!({ "path": place, "bytes": bytes.len(), "sha256": hash, "created": old.is_none() });
        let mut model = Model::new(self.world, self.limits)?;
        let before = match &old {
            Some(_) => model.object(&spot)?,
            None => None,
        };
        if before.as_ref().is_some_and(|o| o.content == hash) {
            return Ok(self.nothing(model, format!("leaves `{place}` as it is: it has this content already"), reply));
        }
        let (slots, run_dir) = Slots::make(self.world, self.run)?;
        self.build_file(&run_dir, &bytes, &spot, old.as_ref(), (&dir, &dir_stat))?;
        let slot = self.slot();
        // Read back by hash: what is shown is what stands in the slot, not what was meant.
        let after = model.object(&Spot::Slot(slot.clone()))?;
        if after.as_ref().is_none_or(|o| o.content != hash) {
            return Err(Refusal::new(Code::Failed, "the staged content reads back differently").at(&place));
        }
        if let (Some(old), Some(new)) = (&before, &after)
            && (old.xattrs, old.mode, old.uid, old.gid) != (new.xattrs, new.mode, new.uid, new.gid)
        {
            return Err(
                Refusal::new(Code::Unsupported, "its mode, owner or attributes cannot be carried over").at(&place)
            );
        }
        let dir_id = dir_stat.id();
        let path = path.to_owned();
        let act = if before.is_some() { Act::Swap { path, slot } } else { Act::Install { slot, path } };
        let step = Step { act, before, after, dirs: (dir_id.clone(), dir_id), made: None };
        Ok(Draft { model, slots, steps: vec![step], summary: None, reply })
    }

    /// Builds the new file in the slot, durable, with the rights of the old one or of a new one.
    fn build_file(
        &self,
        run_dir: &OwnedFd,
        bytes: &[u8],
        spot: &Spot,
        old: Option<&Stat>,
        dir: (&OwnedFd, &Stat),
    ) -> Result<(), Refusal> {
        let place = spot.place();
        let fail = |e| refused(e, &place);
        let fd = sys::create(run_dir, &OsString::from("0")).map_err(fail)?;
        sys::write_all(&fd, bytes).map_err(fail)?;
        let now = sys::stat(&fd).map_err(fail)?;
        match old {
            Some(old) => {
                if (old.uid, old.gid) != (now.uid, now.gid) {
                    sys::set_owner(&fd, old.uid, old.gid).map_err(|e| {
                        Refusal::new(Code::Unsupported, format!("its owner cannot be kept: {}", sys::words(e)))
                            .at(&place)
                    })?;
                }
                sys::set_mode(&fd, old.mode()).map_err(fail)?;
                let old_fd = self.world.file(spot, old)?;
                for (name, value) in sys::xattrs(&old_fd).map_err(fail)? {
                    sys::set_xattr(&fd, &name, &value).map_err(|e| {
                        let name = String::from_utf8_lossy(&name);
                        Refusal::new(
                            Code::Unsupported,
                            format!("its attribute `{name}` cannot be kept: {}", sys::words(e)),
                        )
                        .at(&place)
                    })?;
                }
            }
            None => {
                inherit(&fd, dir, &place)?;
                sys::set_mode(&fd, FILE_MODE).map_err(fail)?;
            }
        }
        sys::sync(&fd).map_err(fail)?;
        sys::sync(run_dir).map_err(fail)
    }

    fn make_directory(&self, path: &Path, parents: bool) -> Result<Draft<'a>, Refusal> {
        let whole = Spot::Root(path.to_owned());
        let place = whole.place();
        let mut top = whole.clone();
        let mut below = Vec::new();
        let (dir, dir_stat) = loop {
            match self.dir_of(&top) {
                Ok(found) => break found,
                Err(r) if r.code == Code::NotFound && parents && top.path().components().count() > 1 => {
                    below.push(top.name());
                    top = top.parent();
                }
                Err(r) => return Err(r),
            }
        };
        if let Some(found) = self.world.stat(&top)? {
            let r =
                if below.is_empty() { refused(sys::Errno::EXIST, &place) } else { refused(sys::Errno::NOTDIR, &place) };
            return Err(match found.kind {
                FileKind::Link => refused(sys::Errno::LOOP, &top.place()),
                _ => r,
            });
        }
        let (slots, run_dir) = Slots::make(self.world, self.run)?;
        let fail = |e| refused(e, &place);
        let mut at = rustix::io::dup(&run_dir).map_err(fail)?;
        let mut name = OsString::from("0");
        let mut made = Vec::new();
        loop {
            sys::make_dir(&at, &name).map_err(fail)?;
            let inner = sys::open_dir(&at, Path::new(&name)).map_err(fail)?;
            inherit(&inner, (&dir, &dir_stat), &place)?;
            sys::set_mode(&inner, DIRECTORY_MODE | (dir_stat.mode() & 0o2000)).map_err(fail)?;
            made.push(at);
            at = inner;
            match below.pop() {
                Some(next) => name = next,
                None => break,
            }
        }
        made.push(at);
        for fd in made.iter().rev() {
            sys::sync(fd).map_err(fail)?;
        }
        let slot = self.slot();
        let mut model = Model::new(self.world, self.limits)?;
        let after = model.object(&Spot::Slot(slot.clone()))?;
        let dir_id = dir_stat.id();
        let act = Act::Install { slot, path: top.path().to_owned() };
        let step = Step { act, before: None, after, dirs: (dir_id.clone(), dir_id), made: Some(place.clone()) };
        let reply = json!({ "path": place, "created": made.len() - 1 });
        Ok(Draft { model, slots, steps: vec![step], summary: None, reply })
    }

    fn delete(&self, path: &Path, recursive: bool) -> Result<Draft<'a>, Refusal> {
        let spot = Spot::Root(path.to_owned());
        let place = spot.place();
        let (_, dir) = self.existing(&spot)?;
        let mut model = Model::new(self.world, self.limits)?;
        let before = model.object(&spot)?;
        let Some(old) = &before else { return Err(refused(sys::Errno::NOENT, &place)) };
        if old.entries > 1 && !recursive {
            return Err(Refusal::new(
                Code::BadInput,
                format!("`{place}` is not empty: {} entries", count(old.entries - 1)),
            )
            .at("recursive")
            .next("pass `recursive: true` to delete everything in it"));
        }
        if old.bytes > self.bounds.snapshot_bytes {
            return Err(Refusal::new(Code::TooLarge, "is more than one action may keep a way back for").at(&place));
        }
        let reply = json!({ "path": place, "deleted": old.entries, "bytes": old.bytes });
        let (slots, _) = Slots::make(self.world, self.run)?;
        let dir_id = dir.id();
        let act = Act::Remove { path: path.to_owned(), slot: self.slot() };
        let step = Step { act, before, after: None, dirs: (dir_id.clone(), dir_id), made: None };
        Ok(Draft { model, slots, steps: vec![step], summary: None, reply })
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<Draft<'a>, Refusal> {
        let (old, new) = (Spot::Root(from.to_owned()), Spot::Root(to.to_owned()));
        if to.starts_with(from) {
            return Err(Refusal::new(Code::BadInput, "nothing can be moved onto or into itself").at("to"));
        }
        let (_, from_dir) = self.existing(&old)?;
        let (_, to_dir) = self.dir_of(&new)?;
        if self.world.stat(&new)?.is_some() {
            return Err(refused(sys::Errno::EXIST, &new.place()).next("move never overwrites; delete it first"));
        }
        let mut model = Model::new(self.world, self.limits)?;
        let object = model.object(&old)?;
        let reply = json!({ "from": old.place(), "to": new.place() });
        let act = Act::Rename { from: from.to_owned(), to: to.to_owned() };
        let dirs = (from_dir.id(), to_dir.id());
        let step = Step { act, before: object.clone(), after: object, dirs, made: None };
        Ok(Draft { model, slots: Slots::none(self.world), steps: vec![step], summary: None, reply })
    }

    fn set_permissions(&self, path: &Path, mode: u32) -> Result<Draft<'a>, Refusal> {
        let spot = Spot::Root(path.to_owned());
        let place = spot.place();
        let (found, dir) = self.existing(&spot)?;
        let to = match found.kind {
            FileKind::Link => return Err(refused(sys::Errno::LOOP, &place)),
            // A directory keeps its setgid bit, as chmod(1) does; it cannot be asked for.
            FileKind::Directory => mode | (found.mode() & 0o2000),
            _ => {
                plain_file(&found, &place)?;
                mode
            }
        };
        if found.mode() & 0o6000 != to & 0o6000 {
            return Err(Refusal::new(
                Code::Unsupported,
                "has setuid or setgid, which the way back would have to grant",
            )
            .at(&place));
        }
        let reply = json!({ "path": place, "mode": format!("{to:04o}") });
        let mut model = Model::new(self.world, self.limits)?;
        if found.mode() == to {
            return Ok(self.nothing(model, format!("leaves `{place}` as it is: its mode is {to:04o} already"), reply));
        }
        let before = model.light(&spot)?;
        let after = before.clone().map(|mut o| {
            o.mode = to;
            o
        });
        let dir_id = dir.id();
        let act = Act::Chmod { path: path.to_owned(), from: found.mode(), to };
        let step = Step { act, before, after, dirs: (dir_id.clone(), dir_id), made: None };
        Ok(Draft { model, slots: Slots::none(self.world), steps: vec![step], summary: None, reply })
    }
}

/// Refuses everything but a regular file with one name.
pub(crate) fn plain_file(stat: &Stat, place: &str) -> Result<(), Refusal> {
    match stat.kind {
        FileKind::File if stat.nlink > 1 => Err(Refusal::new(
            Code::SpecialFile,
            format!("has {} names (hard links); one of them may be outside the resource", stat.nlink),
        )
        .at(place)),
        FileKind::File => Ok(()),
        FileKind::Directory => Err(Refusal::new(Code::Unsupported, "is a directory, not a file").at(place)),
        FileKind::Link => Err(refused(sys::Errno::LOOP, place)),
        FileKind::Special => Err(Refusal::new(Code::SpecialFile, "is a FIFO, device or socket").at(place)),
    }
}

/// Gives something made in the slots what it would have got in its directory.
fn inherit(fd: &OwnedFd, (dir, stat): (&OwnedFd, &Stat), place: &str) -> Result<(), Refusal> {
    let fail = |e| refused(e, place);
    if sys::xattrs(dir).map_err(fail)?.iter().any(|(name, _)| name == b"system.posix_acl_default") {
        return Err(Refusal::new(
            Code::Unsupported,
            "its directory has a default ACL, which something made elsewhere and moved in would not get",
        )
        .at(place));
    }
    let now = sys::stat(fd).map_err(fail)?;
    if stat.mode() & 0o2000 != 0 && now.gid != stat.gid {
        sys::set_owner(fd, now.uid, stat.gid).map_err(fail)?;
    }
    Ok(())
}
