//! The world of a story: a folder, a database, somebody who edits both by hand, and pictures of it all.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};

use super::Wrong;
use super::format::{After, FlagService, Hand, Harm, Setup};
use super::service::{Act, Service};

/// The standard world: ten customers with two orders each.
const SCHEMA: &str = "
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, tier TEXT NOT NULL DEFAULT 'basic');
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customers ON DELETE CASCADE, amount INTEGER NOT NULL);
INSERT INTO customers (id, name) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT i, 'c' || i FROM n;
INSERT INTO orders SELECT id * 2 - 1, id, id * 10 FROM customers UNION ALL SELECT id * 2, id, id * 10 + 5 FROM customers;
";

/// Where the flag service listens, in a configuration.
const FLAG_SERVICE: &str = "{{flag service}}";

/// Inside the resource, beside it, and beside it with a name that begins alike.
const FILES: [(&str, &str); 5] = [
    ("work/a.txt", "one\n"),
    ("work/notes/1.txt", "first\n"),
    ("work/notes/2.txt", "second\n"),
    ("outside/secret.txt", "a secret\n"),
    ("work-evil/secret.txt", "another secret\n"),
];

pub(crate) struct Place {
    dir: tempfile::TempDir,
    /// Where everything agents act on stands: the folder itself, or a file system of its own.
    base: PathBuf,
    mounted: bool,
    /// Answers for flags, when the configuration names it; `None` once it is gone.
    flag_service: Mutex<Option<Service>>,
    flag_service_url: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.mounted {
            // Left mounted it only costs memory; the folder then stays as well.
            let _ = Command::new("umount").arg("-l").arg(&self.base).status();
        }
    }
}

/// Whether this process may mount a file system.
pub(crate) fn may_mount() -> bool {
    let Ok(dir) = tempfile::tempdir() else { return false };
    let may = mount(dir.path(), 1).is_ok();
    if may {
        let _ = Command::new("umount").arg(dir.path()).status();
    }
    may
}

fn mount(at: &Path, mebibytes: u32) -> Result<(), Wrong> {
    let size = format!("size={mebibytes}m");
    let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
    match done {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(format!("mount: {}", String::from_utf8_lossy(&out.stderr))),
        Err(e) => Err(format!("mount: {e}")),
    }
}

/// Everything there is, by path and table: what it looks like in one line each.
pub(crate) type Picture = BTreeMap<String, String>;

impl Place {
    pub(crate) fn make(setup: &Setup, more: &Hand) -> Result<Self, Wrong> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let service = setup.config.contains(FLAG_SERVICE).then(|| Service::start(Act::NotFound));
        let flag_service_url = service.as_ref().map(|service| service.url.clone()).unwrap_or_default();
        let flag_service = Mutex::new(service);
        let mut place = Self { base: dir.path().to_owned(), dir, mounted: false, flag_service, flag_service_url };
        if let Some(mebibytes) = setup.small_disk {
            place.base = place.own("disk");
            fs::create_dir(&place.base).map_err(|e| named(&place.base, &e))?;
            mount(&place.base, mebibytes)?;
            place.mounted = true;
        }
        place.db()?.execute_batch(SCHEMA).map_err(|e| e.to_string())?;
        for (path, content) in FILES {
            write(&place.path(path), content.as_bytes())?;
        }
        place.by_hand(more).map_err(|e| format!("the world before: {e}"))?;
        write(&place.own("policies/a.cedar"), b"@id(\"all\") permit (principal, action, resource);\n")?;
        write(&place.own("policies/b.cedar"), setup.policy.as_bytes())?;
        place.configure(setup, &setup.config)?;
        Ok(place)
    }

    pub(crate) fn configure(&self, setup: &Setup, more: &str) -> Result<(), Wrong> {
        let Setup { mode, db, work, .. } = setup;
        // Pre-images are kept by rename, so they stand on the same file system.
        let (base, slots) = if self.mounted { ("disk/", "slots = \"disk/slots\"") } else { ("", "") };
        let text = format!(
            r#"state = "state"
[environments.test]
mode = "{mode}"
[policy]
path = "policies"
[listen]
address = "127.0.0.1:0"
hold = "50ms"
[resources.db]
kind = "sqlite"
path = "{base}shop.db"
environment = "test"
{db}
[resources.work]
kind = "files"
root = "{base}work"
environment = "test"
{work}
{slots}
{more}
"#
        );
        let text = text.replace(FLAG_SERVICE, &self.flag_service_url);
        let text = text.replace("{{folder}}", &self.base.display().to_string());
        write(&self.own("turnback.toml"), text.as_bytes())
    }

    /// Tells the flag service what it does from now on.
    pub(crate) fn flag_service(&self, does: &FlagService) -> Result<(), Wrong> {
        let mut held = self.flag_service.lock().map_err(|e| e.to_string())?;
        if matches!(does, FlagService::Gone) {
            return held.take().map(Service::stop).ok_or_else(|| "there is no flag service".into());
        }
        let service = held.as_ref().ok_or("there is no flag service: the configuration names {{flag service}}")?;
        match does {
            FlagService::Keys(keys) => {
                keys.iter().for_each(|(key, mode)| service.does_with(key, Act::Mode(mode.clone())));
            }
            FlagService::Mode(mode) => service.does(Act::Mode(mode.clone())),
            FlagService::Answer { status, body } => service.does(Act::Json(*status, body.clone())),
            FlagService::Long(size) => service.does(Act::Long(*size)),
            FlagService::Empty => service.does(Act::NotFound),
            FlagService::Hang => service.does(Act::Hang),
            FlagService::Drip | FlagService::Gone => service.does(Act::Drip),
        }
        Ok(())
    }

    /// A path in the world agents act on.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.base.join(below)
    }

    /// A path of the operator's: configuration, policy, state.
    pub(crate) fn own(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The database as somebody else opens it.
    fn db(&self) -> Result<Connection, Wrong> {
        let open = || {
            let db = Connection::open(self.path("shop.db"))?;
            db.busy_timeout(std::time::Duration::from_secs(10))?;
            db.pragma_update(None, "foreign_keys", "ON")?;
            Ok(db)
        };
        open().map_err(|e: rusqlite::Error| format!("shop.db: {e}"))
    }

    pub(crate) fn by_hand(&self, hand: &Hand) -> Result<(), Wrong> {
        self.edit(hand).map_err(|(path, e)| named(&path, &e))?;
        if !hand.sql.is_empty() {
            self.db()?.execute_batch(&hand.sql).map_err(|e| format!("sql: {e}"))?;
        }
        for path in &hand.fill_disk {
            self.fill_disk(&self.path(path))?;
        }
        hand.pre_images.map_or(Ok(()), |harm| self.harm(harm))?;
        self.journal(hand)
    }

    fn journal(&self, hand: &Hand) -> Result<(), Wrong> {
        let path = self.own("state/journal.db");
        let copy = |from: &Path, to: &Path| fs::copy(from, to).map(drop).map_err(|e| named(from, &e));
        let kept = |name: &String| self.own(&format!("kept {name}"));
        if let Some(name) = &hand.keep_journal {
            copy(&path, &kept(name))?;
        }
        if let Some(name) = &hand.put_journal {
            copy(&kept(name), &path)?;
        }
        if !hand.journal_sql.is_empty() {
            let journal = Connection::open(&path).map_err(|e| e.to_string())?;
            journal.execute_batch(&hand.journal_sql).map_err(|e| format!("journal.db: {e}"))?;
        }
        if hand.cut_journal {
            let cut = || {
                let file = fs::OpenOptions::new().write(true).open(&path)?;
                file.set_len(file.metadata()?.len() / 2)
            };
            cut().map_err(|e| named(&path, &e))?;
        }
        Ok(())
    }

    /// Writes until nothing more fits.
    fn fill_disk(&self, path: &Path) -> Result<(), Wrong> {
        if !self.mounted {
            return Err("only a disk of the story's own is filled: small_disk".into());
        }
        let mut file = fs::File::create(path).map_err(|e| named(path, &e))?;
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    fn edit(&self, hand: &Hand) -> Result<(), (PathBuf, std::io::Error)> {
        let at = |path: &str| self.path(path);
        let err = |path: &Path| {
            let path = path.to_owned();
            move |e: std::io::Error| (path, e)
        };
        for path in hand.remove.iter().map(|p| at(p)) {
            let dir = path.symlink_metadata().map_err(err(&path))?.is_dir();
            if dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.map_err(err(&path))?;
        }
        for (from, to) in &hand.rename {
            fs::rename(at(from), at(to)).map_err(err(&at(from)))?;
        }
        for path in hand.directories.iter().map(|p| at(p)) {
            fs::create_dir_all(&path).map_err(err(&path))?;
        }
        for (path, content) in &hand.files {
            let path = at(path);
            fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(err(&path))?;
            fs::write(&path, content).map_err(err(&path))?;
        }
        for (folder, count) in &hand.fill {
            let folder = at(folder);
            fs::create_dir_all(&folder).map_err(err(&folder))?;
            for n in 1..=*count {
                fs::write(folder.join(format!("{n:03}.txt")), format!("{n}\n")).map_err(err(&folder))?;
            }
        }
        for (path, mode) in &hand.modes {
            let bits = u32::from_str_radix(mode, 8).map_err(|e| (at(path), std::io::Error::other(e)))?;
            fs::set_permissions(at(path), fs::Permissions::from_mode(bits)).map_err(err(&at(path)))?;
        }
        for (path, to) in &hand.symlinks {
            symlink(to, at(path)).map_err(err(&at(path)))?;
        }
        for (path, to) in &hand.hardlinks {
            fs::hard_link(at(to), at(path)).map_err(err(&at(path)))?;
        }
        let all = Mode::from_raw_mode(0o666);
        for path in hand.fifos.iter().map(|p| at(p)) {
            mknodat(CWD, &path, FileType::Fifo, all, 0).map_err(|e| (path, e.into()))?;
        }
        for path in hand.sockets.iter().map(|p| at(p)) {
            mknodat(CWD, &path, FileType::Socket, all, 0).map_err(|e| (path, e.into()))?;
        }
        if rustix::process::geteuid().is_root() {
            for path in hand.devices.iter().map(|p| at(p)) {
                mknodat(CWD, &path, FileType::CharacterDevice, all, makedev(1, 3)).map_err(|e| (path, e.into()))?;
            }
        }
        Ok(())
    }

    /// Harms every pre-image: files in the slots, blobs in the journal and the vault.
    fn harm(&self, harm: Harm) -> Result<(), Wrong> {
        let mut harmed = 0;
        let mut kept = Vec::new();
        for folder in ["state/slots", "state/vault"] {
            regular_files(&self.own(folder), &mut kept);
        }
        for file in kept {
            let done = match harm {
                Harm::Delete => fs::remove_file(&file),
                Harm::Alter => fs::write(&file, "altered\n"),
            };
            done.map_err(|e| named(&file, &e))?;
            harmed += 1;
        }
        let sql = match harm {
            Harm::Delete => "DELETE FROM blobs",
            Harm::Alter => "UPDATE blobs SET body = CAST(x'00' || body AS BLOB)",
        };
        let journal = Connection::open(self.own("state/journal.db")).map_err(|e| e.to_string())?;
        harmed += journal.execute(sql, []).map_err(|e| format!("journal.db: {e}"))?;
        if harmed == 0 { Err("there was no pre-image to harm".into()) } else { Ok(()) }
    }

    /// What everything looks like: kind, mode, time and content of files, text of links, rows of tables.
    pub(crate) fn picture(&self) -> Result<Picture, Wrong> {
        let mut picture = Picture::new();
        for name in ["work", "work-evil", "outside"] {
            self.look(&self.path(name), &mut picture).map_err(|e| format!("{name}: {e}"))?;
        }
        let rows = |db: &Connection, picture: &mut Picture| -> rusqlite::Result<()> {
            let mut schema = db.prepare(
                "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE '\\_turnback%' ESCAPE '\\' ORDER BY name",
            )?;
            let objects: Vec<(String, String, Option<String>)> =
                schema.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?.collect::<Result<_, _>>()?;
            for (kind, name, sql) in objects {
                let mut text = sql.unwrap_or_default();
                if kind == "table" {
                    let mut all = db.prepare(&format!("SELECT * FROM \"{}\"", name.replace('"', "\"\"")))?;
                    let columns = all.column_count();
                    let mut found = all.query([])?;
                    let mut lines = Vec::new();
                    while let Some(row) = found.next()? {
                        let cells = (0..columns).map(|i| row.get_ref(i).map(|v| value(v).to_string()));
                        lines.push(cells.collect::<Result<Vec<_>, _>>()?.join(" | "));
                    }
                    lines.sort();
                    text = format!("{text}\n{}", lines.join("\n"));
                }
                picture.insert(format!("{kind} {name}"), text);
            }
            Ok(())
        };
        rows(&self.db()?, &mut picture).map_err(|e| format!("shop.db: {e}"))?;
        Ok(picture)
    }

    fn look(&self, path: &Path, picture: &mut Picture) -> std::io::Result<()> {
        let found = path.symlink_metadata()?;
        let mode = found.mode();
        let line = if found.is_file() {
            let content = fs::read(path)?;
            format!("{mode:o} {}.{} {}", found.mtime(), found.mtime_nsec(), content.escape_ascii())
        } else if found.is_symlink() {
            format!("{mode:o} -> {}", fs::read_link(path)?.display())
        } else {
            format!("{mode:o}")
        };
        let name = path.strip_prefix(&self.base).unwrap_or(path).to_string_lossy().into_owned();
        picture.insert(name, line);
        if found.is_dir() {
            for entry in fs::read_dir(path)? {
                self.look(&entry?.path(), picture)?;
            }
        }
        Ok(())
    }

    /// The first thing that is not as it must be.
    pub(crate) fn check(&self, after: &After, before: &Picture) -> Result<(), Wrong> {
        if after.unchanged || after.unchanged_but.is_some() {
            let but = after.unchanged_but.as_deref().unwrap_or_default();
            let keep = |picture: &Picture| -> Picture {
                let spared = |name: &String| but.iter().any(|b| name == b || name.starts_with(&format!("{b}/")));
                picture.iter().filter(|(name, _)| !spared(name)).map(|(n, l)| (n.clone(), l.clone())).collect()
            };
            same(&keep(before), &keep(&self.picture()?))?;
        }
        for (path, content) in &after.files {
            let found = fs::read_to_string(self.path(path)).map_err(|e| format!("{path}: {e}"))?;
            if found != *content {
                return Err(format!("{path}: should contain {content:?}, contains {found:?}"));
            }
        }
        for (path, mode) in &after.modes {
            let found = fs::symlink_metadata(self.path(path)).map_err(|e| format!("{path}: {e}"))?.mode() & 0o7777;
            if format!("{found:04o}") != *mode {
                return Err(format!("{path}: should have mode {mode}, has {found:04o}"));
            }
        }
        for path in &after.gone {
            if self.path(path).symlink_metadata().is_ok() {
                return Err(format!("{path}: should be gone"));
            }
        }
        for (query, wanted) in &after.sql {
            let found = self
                .db()?
                .query_row(query, [], |row| row.get_ref(0).map(value))
                .map_err(|e| format!("`{query}`: {e}"))?;
            if found != *wanted {
                return Err(format!("`{query}`: should be {wanted}, is {found}"));
            }
        }
        Ok(())
    }
}

/// Compares two pictures; names everything that differs.
pub(crate) fn same(before: &Picture, now: &Picture) -> Result<(), Wrong> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let mut differences = Vec::new();
    for name in names {
        let (was, is) = (before.get(name), now.get(name));
        if was != is {
            let show = |line: Option<&String>| line.map_or("nothing", String::as_str).to_owned();
            differences.push(format!("{name}\n    was {}\n    is  {}", show(was), show(is)));
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(format!("the world changed:\n  {}", differences.join("\n  "))) }
}

fn named(path: &Path, e: &std::io::Error) -> Wrong {
    format!("{}: {e}", path.display())
}

fn write(path: &Path, content: &[u8]) -> Result<(), Wrong> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).and_then(|()| fs::write(path, content)).map_err(|e| named(path, &e))
}

fn regular_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => regular_files(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

fn value(cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(n) => json!(n),
        ValueRef::Real(n) => json!(n),
        ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
        ValueRef::Blob(bytes) => json!(format!("x'{}'", bytes.escape_ascii())),
    }
}
