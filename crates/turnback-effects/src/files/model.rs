//! The two directories as they are, plus steps that are only imagined.
//!
//! Owns measuring: a [`Model`] reads the disk lazily and remembers, and steps can be applied to it
//! without touching anything. A fresh model with nothing applied is simply a look at the world. An
//! undo of several runs is checked on one model, so that each step sees what the earlier ones leave.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Component;
use std::time::{Duration, Instant};

use sha2::Digest as _;
use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};

use super::object::Object;
use super::world::{Spot, World, refused};
use crate::Bounds;
use crate::sys::{self, FileKind, Stat};

/// How long and how far one measurement may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) until: Option<Instant>,
    pub(crate) time: Duration,
    pub(crate) entries: u64,
}

impl Limits {
    pub(crate) fn of(bounds: &Bounds) -> Self {
        Self { until: Instant::now().checked_add(bounds.time), time: bounds.time, entries: bounds.proof_rows }
    }

    /// For looks that have to come to an end: commit, probe, observe.
    pub(crate) const fn none() -> Self {
        Self { until: None, time: Duration::MAX, entries: u64::MAX }
    }

    pub(crate) fn check(&self, place: &str) -> Result<(), Refusal> {
        match self.until {
            Some(until) if Instant::now() >= until => {
                Err(Refusal::new(Code::TooLarge, format!("measuring took longer than {:?}", self.time)).at(place))
            }
            _ => Ok(()),
        }
    }
}

struct Node {
    /// Where it is on disk, whatever was imagined.
    spot: Spot,
    stat: Stat,
    /// What is known of a directory; `None` is known to be absent.
    kids: BTreeMap<OsString, Option<Node>>,
    /// `kids` is all there is.
    whole: bool,
    /// An imagined step moved it or changed something in it.
    touched: bool,
}

impl Node {
    fn new(spot: Spot, stat: Stat) -> Self {
        Self { spot, stat, kids: BTreeMap::new(), whole: false, touched: false }
    }

    fn kid(&mut self, world: &World, name: &OsStr) -> Result<Option<&mut Node>, Refusal> {
        if self.stat.kind != FileKind::Directory {
            return Ok(None);
        }
        if !self.whole && !self.kids.contains_key(name) {
            let spot = self.spot.join(name);
            let kid = world.stat(&spot)?.map(|stat| Node::new(spot, stat));
            self.kids.insert(name.to_owned(), kid);
        }
        Ok(self.kids.get_mut(name).and_then(Option::as_mut))
    }

    fn load(&mut self, world: &World) -> Result<(), Refusal> {
        if self.whole {
            return Ok(());
        }
        let dir = world.dir(&self.spot)?;
        for name in sys::names(&dir).map_err(|e| refused(e, &self.spot.place()))? {
            if self.kids.contains_key(&name) {
                continue;
            }
            let spot = self.spot.join(&name);
            match sys::stat_at(&dir, &name) {
                Ok(stat) => {
                    world.same_mount(&stat, || spot.place())?;
                    self.kids.insert(name, Some(Node::new(spot, stat)));
                }
                Err(sys::Errno::NOENT) => {}
                Err(e) => return Err(refused(e, &spot.place())),
            }
        }
        self.whole = true;
        Ok(())
    }
}

/// One entry of a tree, for lists people read.
pub(crate) struct Listed {
    /// Path beneath the tree's own top; empty for the top.
    pub(crate) path: String,
    pub(crate) kind: FileKind,
    pub(crate) size: u64,
    /// Over what the manifest says of this entry.
    pub(crate) print: Sha256,
}

/// A look at the world, with imagined steps on top.
pub(crate) struct Model<'w> {
    world: &'w World,
    root: Node,
    slots: Node,
    limits: Limits,
}

impl<'w> Model<'w> {
    pub(crate) fn new(world: &'w World, limits: Limits) -> Result<Self, Refusal> {
        let node = |spot: Spot, fd| sys::stat(fd).map_err(|e| refused(e, &spot.place())).map(|s| Node::new(spot, s));
        let root = node(Spot::Root("".into()), &world.root)?;
        let slots = node(Spot::Slot("".into()), &world.slots)?;
        Ok(Self { world, root, slots, limits })
    }

    fn node(&mut self, spot: &Spot) -> Result<Option<&mut Node>, Refusal> {
        let mut node = match spot {
            Spot::Root(_) => &mut self.root,
            Spot::Slot(_) => &mut self.slots,
        };
        for part in spot.path().components() {
            let Component::Normal(name) = part else {
                return Err(Refusal::new(Code::Escapes, "only plain names may stand in a path").at(spot.place()));
            };
            match node.kid(self.world, name)? {
                Some(kid) => node = kid,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// What the kernel says of `spot`; `None` when nothing is there.
    pub(crate) fn stat(&mut self, spot: &Spot) -> Result<Option<Stat>, Refusal> {
        Ok(self.node(spot)?.map(|node| node.stat))
    }

    /// Kind, inode, mode and owner of `spot` without opening it.
    pub(crate) fn light(&mut self, spot: &Spot) -> Result<Option<Object>, Refusal> {
        Ok(self.node(spot)?.map(|node| light(&node.stat)))
    }

    /// Measures `spot` in full.
    pub(crate) fn object(&mut self, spot: &Spot) -> Result<Option<Object>, Refusal> {
        let (world, limits) = (self.world, self.limits);
        match self.node(spot)? {
            Some(node) => measure(world, limits, node).map(Some),
            None => Ok(None),
        }
    }

    /// Every entry of the tree at `spot`, the top first, sorted by path.
    pub(crate) fn list(&mut self, spot: &Spot) -> Result<Vec<Listed>, Refusal> {
        let (world, limits) = (self.world, self.limits);
        let mut listed = Vec::new();
        if let Some(node) = self.node(spot)? {
            walk(world, limits, node, &mut Vec::new(), &mut 0, &mut |path, node| {
                let mut line = Vec::new();
                plain_line(&node.stat, &mut line);
                listed.push(Listed {
                    path: String::from_utf8_lossy(path).into_owned(),
                    kind: node.stat.kind,
                    size: node.stat.size,
                    print: Sha256::of_parts("turnback tree entry v1", [line.as_slice()]),
                });
                Ok(())
            })?;
        }
        Ok(listed)
    }

    /// The content of the file at `spot`, when it has at most `most` bytes.
    pub(crate) fn bytes(&mut self, spot: &Spot, most: u64) -> Result<Option<Vec<u8>>, Refusal> {
        let world = self.world;
        match self.node(spot)? {
            Some(node) if node.stat.kind == FileKind::File && node.stat.size <= most => {
                read_all(world, &node.spot, &node.stat).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Imagines that `from` now stands at `to`, where nothing stands.
    pub(crate) fn rename(&mut self, from: &Spot, to: &Spot) -> Result<(), Refusal> {
        let mut node = self.detach(from)?;
        node.touched = true;
        self.attach(to, node)
    }

    /// Imagines that two places changed what stands at them.
    pub(crate) fn exchange(&mut self, a: &Spot, b: &Spot) -> Result<(), Refusal> {
        let (mut one, mut other) = (self.detach(a)?, self.detach(b)?);
        one.touched = true;
        other.touched = true;
        self.attach(a, other)?;
        self.attach(b, one)
    }

    /// Imagines other permission bits.
    pub(crate) fn set_mode(&mut self, spot: &Spot, mode: u32) -> Result<(), Refusal> {
        self.touch(spot)?;
        if let Some(node) = self.node(spot)? {
            node.stat.raw_mode = (node.stat.raw_mode & !0o7777) | mode;
        }
        Ok(())
    }

    fn touch(&mut self, spot: &Spot) -> Result<(), Refusal> {
        let mut at = Some(spot.clone());
        while let Some(here) = at {
            if let Some(node) = self.node(&here)? {
                node.touched = true;
            }
            at = (!here.path().as_os_str().is_empty()).then(|| here.parent());
        }
        Ok(())
    }

    fn detach(&mut self, spot: &Spot) -> Result<Node, Refusal> {
        self.touch(spot)?;
        let parent = self.node(&spot.parent())?;
        parent
            .and_then(|p| p.kids.insert(spot.name(), None).flatten())
            .ok_or_else(|| Refusal::new(Code::Moved, "is gone").at(spot.place()))
    }

    fn attach(&mut self, spot: &Spot, node: Node) -> Result<(), Refusal> {
        self.touch(&spot.parent())?;
        match self.node(&spot.parent())? {
            Some(parent) if parent.stat.kind == FileKind::Directory => {
                parent.kids.insert(spot.name(), Some(node));
                Ok(())
            }
            _ => Err(Refusal::new(Code::Moved, "its directory is gone").at(spot.place())),
        }
    }
}

fn light(stat: &Stat) -> Object {
    let nothing = Sha256::from_bytes([0; 32]);
    Object {
        kind: stat.kind,
        id: stat.id(),
        mode: stat.mode(),
        uid: stat.uid,
        gid: stat.gid,
        bytes: 0,
        entries: 1,
        mtime: None,
        xattrs: nothing,
        content: nothing,
        strong: None,
        shared: 0,
    }
}

fn hash_xattrs(fd: &sys::OwnedFd, place: &str) -> Result<Sha256, Refusal> {
    let list = sys::xattrs(fd).map_err(|e| refused(e, place))?;
    let parts = list.iter().flat_map(|(name, value)| [name.as_slice(), value.as_slice()]);
    Ok(Sha256::of_parts("turnback xattrs v1", parts))
}

fn measure(world: &World, limits: Limits, node: &mut Node) -> Result<Object, Refusal> {
    let place = node.spot.place();
    let mut object = light(&node.stat);
    match node.stat.kind {
        FileKind::Special => {
            return Err(Refusal::new(Code::SpecialFile, "is a FIFO, device or socket").at(place));
        }
        FileKind::Link => {
            object.content = Sha256::of(
                &sys::link_text(&world.parent(&node.spot)?, &node.spot.name()).map_err(|e| refused(e, &place))?,
            );
            object.xattrs = Sha256::of_parts("turnback xattrs v1", []);
            object.bytes = node.stat.size;
            object.mtime = Some(node.stat.mtime);
        }
        FileKind::File => {
            let fd = world.file(&node.spot, &node.stat)?;
            object.content = hash_file(&fd, limits, &place)?;
            object.xattrs = hash_xattrs(&fd, &place)?;
            object.bytes = node.stat.size;
            object.mtime = Some(node.stat.mtime);
            object.shared = u64::from(node.stat.nlink > 1);
            // A file that changes while it is read has no content yet that a way back could be held for.
            let after = sys::stat(&fd).map_err(|e| refused(e, &place))?;
            if (after.size, after.mtime) != (node.stat.size, node.stat.mtime) {
                return Err(Refusal::new(Code::Busy, "is being written while it is read")
                    .at(place)
                    .next("call again when its writer is done"));
            }
        }
        FileKind::Directory => {
            object.xattrs = hash_xattrs(&world.dir(&node.spot)?, &place)?;
            let mut plain = sha2::Sha256::new();
            let mut strong = sha2::Sha256::new();
            let (mut bytes, mut shared, mut touched) = (0_u64, 0, false);
            let mut entries = 0;
            let mut line = Vec::new();
            walk(world, limits, node, &mut Vec::new(), &mut entries, &mut |path, node| {
                touched |= node.touched;
                if path.is_empty() {
                    return Ok(());
                }
                line.clear();
                line.extend_from_slice(&(path.len() as u64).to_be_bytes());
                line.extend_from_slice(path);
                plain_line(&node.stat, &mut line);
                plain.update(&line);
                let s = &node.stat;
                for (seconds, nanos) in [s.mtime, s.ctime] {
                    line.extend_from_slice(&seconds.to_be_bytes());
                    line.extend_from_slice(&nanos.to_be_bytes());
                }
                strong.update(&line);
                if s.kind == FileKind::File {
                    bytes = bytes.saturating_add(s.size);
                    shared += u64::from(s.nlink > 1);
                }
                Ok(())
            })?;
            object.entries = entries;
            object.bytes = bytes;
            object.shared = shared;
            object.content = Sha256::from_bytes(plain.finalize().into());
            object.strong = (!touched).then(|| Sha256::from_bytes(strong.finalize().into()));
        }
    }
    Ok(object)
}

/// What the manifest says of one entry, as bytes of fixed length.
fn plain_line(s: &Stat, line: &mut Vec<u8>) {
    for n in [s.raw_mode, s.uid, s.gid] {
        line.extend_from_slice(&n.to_be_bytes());
    }
    line.extend_from_slice(&s.ino.to_be_bytes());
    line.extend_from_slice(&s.born.0.to_be_bytes());
    line.extend_from_slice(&s.born.1.to_be_bytes());
    // Size and mtime of a directory change with the names in it, which the manifest has anyway.
    let (size, mtime) = if s.kind == FileKind::Directory { (0, (0, 0)) } else { (s.size, s.mtime) };
    line.extend_from_slice(&size.to_be_bytes());
    line.extend_from_slice(&mtime.0.to_be_bytes());
    line.extend_from_slice(&mtime.1.to_be_bytes());
}

type Visit<'v> = &'v mut dyn FnMut(&[u8], &Node) -> Result<(), Refusal>;

fn walk(
    world: &World,
    limits: Limits,
    node: &mut Node,
    path: &mut Vec<u8>,
    entries: &mut u64,
    visit: Visit<'_>,
) -> Result<(), Refusal> {
    *entries += 1;
    if *entries > limits.entries {
        return Err(Refusal::new(Code::TooLarge, format!("has more than {} entries", limits.entries))
            .at(node.spot.place())
            .next("act on smaller parts of the tree"));
    }
    visit(path, node)?;
    if node.stat.kind != FileKind::Directory {
        return Ok(());
    }
    limits.check(&node.spot.place())?;
    node.load(world)?;
    let length = path.len();
    for (name, kid) in &mut node.kids {
        let Some(kid) = kid else { continue };
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        walk(world, limits, kid, path, entries, visit)?;
        path.truncate(length);
    }
    Ok(())
}

fn hash_file(fd: &sys::OwnedFd, limits: Limits, place: &str) -> Result<Sha256, Refusal> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        limits.check(place)?;
        match sys::read(fd, &mut buffer).map_err(|e| refused(e, place))? {
            0 => return Ok(Sha256::from_bytes(hasher.finalize().into())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// All bytes of a file that was looked at before.
pub(crate) fn read_all(world: &World, spot: &Spot, stat: &Stat) -> Result<Vec<u8>, Refusal> {
    let fd = world.file(spot, stat)?;
    let mut bytes = vec![0; usize::try_from(stat.size).unwrap_or(usize::MAX)];
    let filled = sys::read_at(&fd, &mut bytes, 0).map_err(|e| refused(e, &spot.place()))?;
    bytes.truncate(filled);
    Ok(bytes)
}
