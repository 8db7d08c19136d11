//! What of a recording is on disk at a crash.
//!
//! Between them, two file systems, both harsher than those in use:
//!
//! * [`Names::Ordered`], as journaling file systems keep metadata (ext4, XFS, btrfs within a subvolume):
//!   changes of names and attributes survive as a prefix of their order. A sync of an object makes that prefix
//!   reach at least to the last change of that object – not to the moment of the sync.
//! * [`Names::Apart`], as POSIX leaves it open: each change of a name survives or not on its own, unless its
//!   directory was synced since; a move between two directories is certain when both were. Syncing a file says
//!   nothing about its name. A change that builds on another (writing into a directory that was made,
//!   moving what was created) never survives without it.
//!
//! In both a rename is atomic, as every journaling file system makes it and as everybody relies on.
//!
//! Content is independent of names in both: every sector of 512 bytes of a file holds what it held at the
//! last sync of that file or after any write since, each on its own, and the length is any it had since.
//! So writes are dropped, reordered and torn; a file may be longer than what was written into it, with zeros.
//! A cut is one step: a file that kept its length kept what a cut would have taken away. File systems with a
//! journal change the size in the first transaction of a truncation, and SQLite could not truncate a
//! write-ahead log on one that did not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use crate::disguise::Identity;
use crate::recording::{Attributes, Object, Op, Recording, What};

/// Smallest part of a write that a disk writes whole.
const SECTOR: usize = 512;

/// Which file system it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Names {
    Ordered,
    Apart,
}

/// Number of an object; the root is number 0.
pub(crate) type Number = usize;

type Entry = (Number, OsString);

/// Something that may or may not have reached the disk. Paths have become objects.
#[derive(Debug)]
enum Change {
    Enter { entry: Entry, object: Number },
    Leave { entry: Entry },
    Move { from: Entry, to: Entry, exchange: bool },
    Attributes { object: Number },
    Write { object: Number, at: usize, step: usize },
    Resize { object: Number, length: usize },
}

/// Never.
const NEVER: usize = usize::MAX;

#[derive(Debug)]
struct Atom {
    /// It is there from this many steps on.
    since: usize,
    change: Change,
    /// It is certain from this many steps on, with `Ordered` and with `Apart` names.
    certain: [usize; 2],
    /// Of a move between directories: which of the two were synced.
    half: [usize; 2],
    /// Earlier changes it builds on.
    needs: Vec<usize>,
    after: Vec<(Number, Attributes)>,
}

impl Atom {
    /// The file whose content it changes.
    fn content(&self) -> Option<Number> {
        match self.change {
            Change::Write { object, .. } | Change::Resize { object, .. } => Some(object),
            _ => None,
        }
    }
}

/// A disk that took part in a recording.
pub struct Disk<'r> {
    recording: &'r Recording,
    objects: Vec<(What, Identity)>,
    attributes: Vec<Attributes>,
    atoms: Vec<Atom>,
    base: BTreeMap<Entry, Number>,
    /// By which change an object lost its name for good.
    gone: HashMap<Number, usize>,
}

/// What is uncertain at a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Changes of names and attributes, in order.
    pub(crate) names: Vec<usize>,
    /// Changes of content by file, in order.
    pub(crate) content: BTreeMap<Number, Vec<usize>>,
}

/// What becomes of a file's uncertain content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// These changes, whole.
    These(BTreeSet<usize>),
    /// The first so many, and of the next one every sector before this one.
    Upto(usize, usize),
    /// Each sector and the length from any moment since the sync, chosen by this seed.
    Torn(u64),
}

/// One way a crash may turn out.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) names: Names,
    /// Uncertain changes of names that survive.
    pub(crate) kept: BTreeSet<usize>,
    /// What is not listed survives.
    pub(crate) content: BTreeMap<Number, Kept>,
}

/// A file, link or directory as it is found after the crash.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) what: What,
    pub(crate) identity: Identity,
    pub(crate) attributes: Attributes,
}

/// What the scan of a recording knows at each step.
struct Scan<'d, 'r> {
    disk: &'d mut Disk<'r>,
    names: BTreeMap<Entry, Number>,
    /// The last change of each entry, and of each object.
    last: HashMap<Entry, usize>,
    last_of: HashMap<Number, usize>,
}

impl<'r> Disk<'r> {
    /// A disk on which the syncs `swallowed` names do nothing. It hears the number of the operation, the path
    /// beneath the root and whether that is a directory.
    #[must_use]
    pub fn new(recording: &'r Recording, swallowed: impl Fn(usize, &Path, bool) -> bool) -> Self {
        let mut disk = Disk {
            recording,
            objects: Vec::new(),
            attributes: Vec::new(),
            atoms: Vec::new(),
            base: BTreeMap::new(),
            gone: HashMap::new(),
        };
        let nobody = Identity { device: (0, 0), inode: 0, born: (0, 0) };
        let nothing = Attributes { mode: 0o755, owner: (0, 0), modified: (0, 0), changed: (0, 0) };
        disk.objects.push((What::Directory, nobody));
        disk.attributes.push(nothing);
        // Two names of one file are one object; sorted by path, so directories come before what is in them.
        let mut known: HashMap<Identity, Number> = HashMap::new();
        for object in &recording.base {
            let number = *known.entry(object.identity.clone()).or_insert_with(|| disk.add(object));
            if let Some(entry) = entry(&disk.base, &object.path) {
                disk.base.insert(entry, number);
            }
        }
        let names = disk.base.clone();
        let mut scan = Scan { disk: &mut disk, names, last: HashMap::new(), last_of: HashMap::new() };
        for (step, done) in recording.steps.iter().enumerate() {
            scan.step(step, &done.op, &swallowed);
        }
        disk
    }

    fn add(&mut self, object: &Object) -> Number {
        self.objects.push((object.what.clone(), object.identity.clone()));
        self.attributes.push(object.attributes);
        self.objects.len() - 1
    }

    /// How many steps were recorded.
    pub(crate) fn steps(&self) -> usize {
        self.recording.len()
    }

    /// What is uncertain after `steps` steps.
    pub(crate) fn pending(&self, steps: usize, names: Names) -> Pending {
        let mut pending = Pending::default();
        for (i, atom) in self.atoms.iter().enumerate().filter(|(_, atom)| atom.since <= steps) {
            if atom.certain[names as usize] <= steps {
                continue;
            }
            match atom.content() {
                // Nobody finds the content of what has no name on any disk.
                Some(object)
                    if self.gone.get(&object).is_some_and(|by| self.atoms[*by].certain[names as usize] <= steps) => {}
                Some(object) => pending.content.entry(object).or_default().push(i),
                None => pending.names.push(i),
            }
        }
        pending
    }

    /// The content of a file as programs saw it after `steps` steps.
    #[must_use]
    pub fn seen(&self, steps: usize, path: &Path) -> Option<Vec<u8>> {
        let pending = self.pending(steps, Names::Ordered);
        let all =
            Outcome { names: Names::Ordered, kept: pending.names.into_iter().collect(), content: BTreeMap::new() };
        self.found(steps, &all).into_iter().find(|found| found.path == path).and_then(|found| match found.what {
            What::File(bytes) => Some(bytes),
            _ => None,
        })
    }

    /// What is on disk after a crash after `steps` steps that turned out like this.
    pub(crate) fn found(&self, steps: usize, outcome: &Outcome) -> Vec<Found> {
        let mut names = self.base.clone();
        let mut attributes = self.attributes.clone();
        let mut content: HashMap<Number, Vec<u8>> = HashMap::new();
        let mut uncertain: BTreeMap<Number, Vec<usize>> = BTreeMap::new();
        let mut absent: BTreeSet<usize> = BTreeSet::new();
        for (i, atom) in self.atoms.iter().enumerate().filter(|(_, atom)| atom.since <= steps) {
            let certain = atom.certain[outcome.names as usize] <= steps;
            if let Some(object) = atom.content() {
                // Content that is certain comes before all that is not: a sync covers everything before it.
                if certain || !outcome.content.contains_key(&object) {
                    self.apply(atom, content.entry(object).or_insert_with(|| self.first(object)));
                    atom.after.iter().for_each(|(n, a)| attributes[*n] = *a);
                } else {
                    uncertain.entry(object).or_default().push(i);
                }
                continue;
            }
            let stands = certain || outcome.kept.contains(&i);
            if !stands || atom.needs.iter().any(|need| absent.contains(need)) {
                absent.insert(i);
                continue;
            }
            rename(&mut names, &atom.change);
            atom.after.iter().for_each(|(n, a)| attributes[*n] = *a);
        }
        for (object, atoms) in uncertain {
            let bytes = content.entry(object).or_insert_with(|| self.first(object));
            let shown = self.uncertain(bytes, &atoms, &outcome.content[&object]);
            for atom in &atoms[..shown] {
                self.atoms[*atom].after.iter().for_each(|(n, a)| attributes[*n] = *a);
            }
        }
        let mut found = Vec::new();
        self.walk(0, Path::new(""), &names, &attributes, &content, &mut found);
        found
    }

    /// The content of an object before anything was done.
    fn first(&self, object: Number) -> Vec<u8> {
        match &self.objects[object].0 {
            What::File(bytes) => bytes.clone(),
            _ => Vec::new(),
        }
    }

    fn apply(&self, atom: &Atom, bytes: &mut Vec<u8>) {
        match &atom.change {
            Change::Write { at, step, .. } => {
                if let Op::Write { bytes: new, .. } = &self.recording.steps[*step].op {
                    put(bytes, *at, new);
                }
            }
            Change::Resize { length, .. } => bytes.resize(*length, 0),
            _ => {}
        }
    }

    /// Makes uncertain content what it turned out to be. Returns the number of changes whose times are shown.
    fn uncertain(&self, bytes: &mut Vec<u8>, atoms: &[usize], kept: &Kept) -> usize {
        match kept {
            Kept::These(these) => {
                for atom in atoms.iter().filter(|atom| these.contains(atom)) {
                    self.apply(&self.atoms[*atom], bytes);
                }
                atoms.iter().rposition(|atom| these.contains(atom)).map_or(0, |last| last + 1)
            }
            Kept::Upto(whole, sectors) => {
                for atom in atoms.iter().take(*whole) {
                    self.apply(&self.atoms[*atom], bytes);
                }
                if let Some(torn) = atoms.get(*whole) {
                    let mut after = bytes.clone();
                    self.apply(&self.atoms[*torn], &mut after);
                    if let Change::Write { at, .. } = self.atoms[*torn].change {
                        let end = ((at / SECTOR + sectors) * SECTOR).min(after.len());
                        if end > at {
                            put(bytes, at, &after[at..end]);
                        }
                    }
                }
                (*whole).min(atoms.len())
            }
            Kept::Torn(seed) => {
                let mut versions = vec![bytes.clone()];
                for atom in atoms {
                    let mut next = versions.last().cloned().unwrap_or_default();
                    self.apply(&self.atoms[*atom], &mut next);
                    versions.push(next);
                }
                let mut dice = Dice(*seed);
                let moment = dice.below(versions.len());
                let cut = versions.windows(2).skip(moment).position(|pair| pair[1].len() < pair[0].len());
                let moments = cut.map_or(versions.len(), |n| moment + n + 1);
                let mut torn = vec![0; versions[moment].len()];
                for (n, sector) in torn.chunks_mut(SECTOR).enumerate() {
                    let from = &versions[dice.below(moments)];
                    let part = from.get(n * SECTOR..).unwrap_or_default();
                    let part = &part[..part.len().min(sector.len())];
                    sector[..part.len()].copy_from_slice(part);
                }
                *bytes = torn;
                dice.below(atoms.len() + 1)
            }
        }
    }

    fn walk(
        &self,
        dir: Number,
        path: &Path,
        names: &BTreeMap<Entry, Number>,
        attributes: &[Attributes],
        content: &HashMap<Number, Vec<u8>>,
        found: &mut Vec<Found>,
    ) {
        for ((_, name), object) in names.range((dir, OsString::new())..).take_while(|((parent, _), _)| *parent == dir) {
            let path = path.join(name);
            let (what, identity) = &self.objects[*object];
            let what = match what {
                What::File(bytes) => What::File(content.get(object).unwrap_or(bytes).clone()),
                other => other.clone(),
            };
            let inside = what == What::Directory;
            let attributes_now = attributes[*object];
            found.push(Found { path: path.clone(), what, identity: identity.clone(), attributes: attributes_now });
            if inside {
                self.walk(*object, &path, names, attributes, content, found);
            }
        }
    }
}

impl Scan<'_, '_> {
    fn step(&mut self, step: usize, op: &Op, swallowed: &impl Fn(usize, &Path, bool) -> bool) {
        let change = match op {
            Op::Make(object) => {
                let number = self.disk.add(object);
                self.entry(&object.path).map(|entry| Change::Enter { entry, object: number })
            }
            Op::Link { from, to } => match (self.at(from), self.entry(to)) {
                (Some(object), Some(entry)) => Some(Change::Enter { entry, object }),
                _ => None,
            },
            Op::Unlink { path } => {
                self.entry(path).filter(|e| self.names.contains_key(e)).map(|entry| Change::Leave { entry })
            }
            Op::Rename { from, to, exchange } => match (self.entry(from), self.entry(to)) {
                (Some(from), Some(to)) => Some(Change::Move { from, to, exchange: *exchange }),
                _ => None,
            },
            Op::Write { path, at, .. } => {
                let at = usize::try_from(*at).unwrap_or(usize::MAX);
                self.at(path).map(|object| Change::Write { object, at, step })
            }
            Op::Resize { path, length } => {
                let length = usize::try_from(*length).unwrap_or(0);
                self.at(path).map(|object| Change::Resize { object, length })
            }
            Op::Attributes => {
                let first = self.disk.recording.steps[step].after.first();
                first.and_then(|(path, _)| self.at(path)).map(|object| Change::Attributes { object })
            }
            Op::Sync { path, whole } => {
                if let Some(object) = self.at(path) {
                    let directory = self.disk.objects[object].0 == What::Directory;
                    if !swallowed(step, path, directory) {
                        self.sync(object, *whole, step + 1);
                    }
                }
                None
            }
            Op::SyncAll => {
                if !swallowed(step, Path::new(""), true) {
                    self.disk.atoms.iter_mut().for_each(|atom| {
                        atom.certain.iter_mut().for_each(|certain| *certain = (*certain).min(step + 1));
                    });
                }
                None
            }
        };
        let Some(change) = change else { return };
        let number = self.disk.atoms.len();
        match &change {
            Change::Leave { entry } | Change::Move { to: entry, exchange: false, .. } => {
                self.disk.gone.extend(self.names.get(entry).map(|object| (*object, number)));
            }
            Change::Enter { object, .. } => {
                self.disk.gone.remove(object);
            }
            _ => {}
        }
        rename(&mut self.names, &change);
        let after = self.disk.recording.steps[step].after.iter();
        let after = after.filter_map(|(path, a)| self.at(path).map(|object| (object, *a))).collect();
        let mut needs: Vec<usize> = Vec::new();
        for entry in entries(&change) {
            needs.extend(self.last.insert(entry.clone(), number));
            // What happens in a directory needs the directory.
            needs.extend(
                self.disk
                    .atoms
                    .iter()
                    .position(|atom| matches!(&atom.change, Change::Enter { object, .. } if *object == entry.0)),
            );
        }
        let mut about: Vec<Number> = entries(&change).into_iter().map(|entry| entry.0).collect();
        match &change {
            Change::Enter { object, .. } | Change::Attributes { object } => {
                needs.extend(self.last_of.get(object).copied());
                about.push(*object);
            }
            Change::Move { from, to, .. } => {
                about.extend(self.names.get(to).copied());
                about.extend(self.names.get(from).copied());
            }
            _ => {}
        }
        if !matches!(change, Change::Write { .. } | Change::Resize { .. }) {
            self.last_of.extend(about.into_iter().map(|object| (object, number)));
        }
        let atom = Atom { since: step + 1, change, certain: [NEVER; 2], half: [NEVER; 2], needs, after };
        self.disk.atoms.push(atom);
    }

    /// After this many steps an object is synced.
    fn sync(&mut self, object: Number, whole: bool, now: usize) {
        let reaches = self.last_of.get(&object).copied();
        let mut certain = Vec::new();
        for (i, atom) in self.disk.atoms.iter_mut().enumerate() {
            if atom.content() == Some(object) {
                atom.certain.iter_mut().for_each(|c| *c = (*c).min(now));
                continue;
            }
            if atom.content().is_some() {
                continue;
            }
            if reaches.is_some_and(|reaches| i <= reaches) {
                atom.certain[Names::Ordered as usize] = atom.certain[Names::Ordered as usize].min(now);
            }
            let apart = match &atom.change {
                Change::Attributes { object: of } => whole && *of == object,
                change => {
                    let dirs = entries(change);
                    for (half, entry) in atom.half.iter_mut().zip(&dirs) {
                        if entry.0 == object {
                            *half = (*half).min(now);
                        }
                    }
                    dirs.iter().zip(&atom.half).all(|(_, half)| *half <= now)
                }
            };
            if apart {
                certain.push(i);
            }
        }
        // What is certain cannot rest on what is not.
        while let Some(i) = certain.pop() {
            let atom = &mut self.disk.atoms[i];
            if atom.certain[Names::Apart as usize] > now {
                atom.certain[Names::Apart as usize] = now;
                certain.extend(atom.needs.iter().copied());
            }
        }
    }

    fn entry(&self, path: &Path) -> Option<Entry> {
        entry(&self.names, path)
    }

    fn at(&self, path: &Path) -> Option<Number> {
        if path.as_os_str().is_empty() {
            return Some(0);
        }
        self.entry(path).and_then(|entry| self.names.get(&entry).copied())
    }
}

/// The directory and name of a path; `None` where that directory is not known.
fn entry(names: &BTreeMap<Entry, Number>, path: &Path) -> Option<Entry> {
    let name: &OsStr = path.file_name()?;
    let mut dir = 0;
    for part in path.parent()?.components() {
        let Component::Normal(part) = part else { return None };
        dir = *names.get(&(dir, part.to_owned()))?;
    }
    Some((dir, name.to_owned()))
}

/// Every entry a change of names concerns.
fn entries(change: &Change) -> Vec<Entry> {
    match change {
        Change::Enter { entry, .. } | Change::Leave { entry } => vec![entry.clone()],
        Change::Move { from, to, .. } => vec![from.clone(), to.clone()],
        _ => Vec::new(),
    }
}

fn rename(names: &mut BTreeMap<Entry, Number>, change: &Change) {
    match change {
        Change::Enter { entry, object } => {
            names.insert(entry.clone(), *object);
        }
        Change::Leave { entry } => {
            names.remove(entry);
        }
        Change::Move { from, to, exchange } => {
            let (one, other) = (names.remove(from), names.remove(to));
            names.extend(one.map(|object| (to.clone(), object)));
            if *exchange {
                names.extend(other.map(|object| (from.clone(), object)));
            }
        }
        Change::Attributes { .. } | Change::Write { .. } | Change::Resize { .. } => {}
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
    if bytes.len() < at + new.len() {
        bytes.resize(at + new.len(), 0);
    }
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// Numbers that look random and are the same every time (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..n`; 0 of none.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
