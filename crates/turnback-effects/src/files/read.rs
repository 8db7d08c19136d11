//! Reads: bounded, never through links, never blocking on what is not a plain file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde_json::{Map, Value, json};
use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;

use super::ask::Ask;
use super::model::{Limits, read_all};
use super::stage::plain_file;
use super::world::{Spot, World, refused};
use crate::sys::{self, FileKind, Stat};
use crate::{Bounds, Reading};

/// Largest file `search` looks into, and `stat` hashes.
const SEARCH_LIMIT: u64 = 1 << 20;
/// Longest line shown with a match, in characters.
const LINE_SHOWN: usize = 200;

/// Performs a read.
pub(crate) fn read(world: &World, ask: &Ask, bounds: &Bounds) -> Result<Reading, Refusal> {
    match ask {
        Ask::ReadFile { path, offset, limit } => read_file(world, path, *offset, *limit, bounds),
        Ask::ListDirectory { path } => list(world, path, bounds),
        Ask::Search { path, text, names, contents } => {
            let mut search = Search {
                world,
                text,
                names: *names,
                contents: *contents,
                limits: Limits::of(bounds),
                most: bounds.read_rows,
                matches: Vec::new(),
                places: Vec::new(),
                skipped: BTreeMap::new(),
                truncated: false,
            };
            search.directory(&Spot::Root(path.clone()))?;
            let reply = json!({
                "matches": search.matches, "truncated": search.truncated, "skipped": search.skipped,
            });
            Ok(Reading { reply, places: search.places })
        }
        Ask::Stat { path } => stat(world, path),
        _ => Err(Refusal::new(Code::Unsupported, "this tool writes")),
    }
}

fn there(world: &World, spot: &Spot) -> Result<Stat, Refusal> {
    world.stat(spot)?.ok_or_else(|| refused(sys::Errno::NOENT, &spot.place()))
}

fn read_file(world: &World, path: &Path, offset: u64, limit: Option<u64>, bounds: &Bounds) -> Result<Reading, Refusal> {
    let spot = Spot::Root(path.to_owned());
    let place = spot.place();
    let found = there(world, &spot)?;
    plain_file(&found, &place)?;
    if offset > found.size {
        return Err(
            Refusal::new(Code::BadInput, format!("is beyond the end; the file has {} bytes", found.size)).at("offset")
        );
    }
    let rest = found.size - offset;
    let wanted = limit.unwrap_or(rest);
    if wanted.min(rest) > bounds.read_bytes {
        return Err(Refusal::new(
            Code::TooLarge,
            format!("has {} bytes; at most {} are read at once", found.size, bounds.read_bytes),
        )
        .at(&place)
        .next("read a part of it with `offset` and `limit`"));
    }
    let fd = world.file(&spot, &found)?;
    let mut bytes = vec![0; usize::try_from(wanted.min(rest)).unwrap_or(0)];
    let filled = sys::read_at(&fd, &mut bytes, offset).map_err(|e| refused(e, &place))?;
    bytes.truncate(filled);
    let cut = bytes.len() as u64 + offset < found.size;
    let content = match String::from_utf8(bytes) {
        Ok(text) => text,
        // A part may end inside a character; the next part then starts there.
        Err(e) if cut && e.utf8_error().error_len().is_none() => {
            let valid = e.utf8_error().valid_up_to();
            let mut bytes = e.into_bytes();
            bytes.truncate(valid);
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Err(e) => {
            let at = offset + e.utf8_error().valid_up_to() as u64;
            return Err(Refusal::new(Code::Unsupported, format!("is not UTF-8 text (byte {at})"))
                .at(&place)
                .next("`stat` gives its size and SHA-256"));
        }
    };
    let end = offset + content.len() as u64;
    let reply = json!({
        "path": place, "content": content, "offset": offset, "size": found.size, "complete": offset == 0 && end >= found.size,
    });
    Ok(Reading { reply, places: vec![place] })
}

/// A name as it is when that is text, made visible with its bytes when it is not.
fn named(name: &OsStr) -> Map<String, Value> {
    let mut map = Map::new();
    match name.to_str() {
        Some(text) => {
            map.insert("name".into(), text.into());
            let shown = visible(text);
            if shown != text {
                map.insert("shown".into(), shown.into());
            }
        }
        None => {
            map.insert("shown".into(), visible(&name.to_string_lossy()).into());
            map.insert("bytes".into(), hex::encode(name.as_bytes()).into());
        }
    }
    map
}

fn time(at: (i64, u32)) -> Option<String> {
    jiff::Timestamp::new(at.0, i32::try_from(at.1).ok()?).ok().map(|t| t.to_string())
}

fn list(world: &World, path: &Path, bounds: &Bounds) -> Result<Reading, Refusal> {
    let spot = Spot::Root(path.to_owned());
    let place = spot.place();
    let dir = world.dir(&spot)?;
    let mut names = sys::names(&dir).map_err(|e| refused(e, &place))?;
    names.sort();
    let total = names.len();
    names.truncate(usize::try_from(bounds.read_rows).unwrap_or(usize::MAX));
    let (mut entries, mut places) = (Vec::new(), vec![place.clone()]);
    for name in &names {
        let mut entry = named(name);
        match sys::stat_at(&dir, name) {
            Ok(stat) => {
                entry.insert("kind".into(), stat.kind.word().into());
                entry.insert("size".into(), stat.size.into());
                entry.insert("mode".into(), format!("{:04o}", stat.mode()).into());
                if stat.mount_root {
                    entry.insert("mount".into(), true.into());
                }
            }
            Err(sys::Errno::NOENT) => continue,
            Err(e) => return Err(refused(e, &spot.join(name).place())),
        }
        places.push(spot.join(name).place());
        entries.push(Value::Object(entry));
    }
    let reply = json!({ "path": place, "entries": entries, "total": total, "truncated": total > names.len() });
    Ok(Reading { reply, places })
}

fn stat(world: &World, path: &Path) -> Result<Reading, Refusal> {
    let spot = Spot::Root(path.to_owned());
    let place = spot.place();
    let found = there(world, &spot)?;
    let mut reply = json!({
        "path": place,
        "kind": found.kind.word(),
        "size": found.size,
        "mode": format!("{:04o}", found.mode()),
        "uid": found.uid,
        "gid": found.gid,
        "names": found.nlink,
        "modified": time(found.mtime),
    });
    match found.kind {
        FileKind::File if found.nlink == 1 && found.size <= SEARCH_LIMIT => {
            reply["sha256"] = Sha256::of(&read_all(world, &spot, &found)?).to_string().into();
        }
        FileKind::Link => {
            let text = sys::link_text(&world.parent(&spot)?, &spot.name()).map_err(|e| refused(e, &place))?;
            reply["target"] = visible(&String::from_utf8_lossy(&text)).into();
        }
        _ => {}
    }
    Ok(Reading { reply, places: vec![place] })
}

struct Search<'a> {
    world: &'a World,
    text: &'a str,
    names: bool,
    contents: bool,
    limits: Limits,
    most: u64,
    matches: Vec<Value>,
    places: Vec<String>,
    /// Why contents were not looked into, and how often.
    skipped: BTreeMap<&'static str, u64>,
    truncated: bool,
}

impl Search<'_> {
    fn full(&mut self) -> bool {
        self.truncated |= self.matches.len() as u64 >= self.most;
        self.truncated
    }

    fn skip(&mut self, why: &'static str) {
        *self.skipped.entry(why).or_default() += 1;
    }

    fn directory(&mut self, spot: &Spot) -> Result<(), Refusal> {
        self.limits.check(&spot.place())?;
        let dir = self.world.dir(spot)?;
        let mut names = sys::names(&dir).map_err(|e| refused(e, &spot.place()))?;
        names.sort();
        for name in names {
            if self.full() {
                return Ok(());
            }
            let Ok(stat) = sys::stat_at(&dir, &name) else { continue };
            let inner = spot.join(&name);
            if stat.mount_root {
                self.skip("mount");
                continue;
            }
            if self.names && name.to_string_lossy().contains(self.text) {
                self.matches.push(json!({ "path": inner.place(), "kind": stat.kind.word() }));
                self.places.push(inner.place());
            }
            match stat.kind {
                FileKind::Directory => match self.directory(&inner) {
                    // Gone or closed to us: what can be searched still is.
                    Err(r) if matches!(r.code, Code::NotFound | Code::Failed | Code::Escapes) => {
                        self.skip("unreadable")
                    }
                    other => other?,
                },
                FileKind::File if self.contents => self.file(&inner, &stat)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, spot: &Spot, stat: &Stat) -> Result<(), Refusal> {
        self.limits.check(&spot.place())?;
        if stat.nlink > 1 {
            self.skip("hard link");
            return Ok(());
        }
        if stat.size > SEARCH_LIMIT {
            self.skip("larger than 1 MiB");
            return Ok(());
        }
        let Ok(bytes) = read_all(self.world, spot, stat) else {
            self.skip("unreadable");
            return Ok(());
        };
        let Ok(text) = String::from_utf8(bytes) else {
            self.skip("not UTF-8 text");
            return Ok(());
        };
        let mut found = false;
        for (i, line) in text.lines().enumerate() {
            if line.contains(self.text) {
                if self.full() {
                    break;
                }
                found = true;
                let shown: String = line.chars().take(LINE_SHOWN).collect();
                self.matches.push(json!({ "path": spot.place(), "line": i + 1, "text": shown }));
            }
        }
        if found {
            self.places.push(spot.place());
        }
        Ok(())
    }
}
