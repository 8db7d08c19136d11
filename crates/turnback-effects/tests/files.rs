//! The file domain against the laws, against every bad path, and against races.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test stops at the first surprise")]

mod laws;

use std::cell::Cell;
use std::fs;
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use laws::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::{Outcome, Standing};
use turnback_effects::files::Files;
use turnback_effects::{Bounds, Domain, Fate, UndoRefused, Undone};

/// A folder, slots beside it, and something outside.
struct Folder {
    home: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("root")).unwrap();
        fs::create_dir(home.path().join("outside")).unwrap();
        fs::write(home.path().join("outside/secret"), "secret").unwrap();
        Self { home }
    }

    /// A folder with some of everything.
    fn furnished() -> Self {
        let folder = Self::new();
        folder.put("a.txt", "one\ntwo\nthree\n");
        folder.put("b.txt", "b");
        fs::create_dir_all(folder.path("d/e")).unwrap();
        folder.put("d/x", "x");
        folder.put("d/e/y", "y");
        symlink("a.txt", folder.path("link")).unwrap();
        let (mode, attributes) = (0o640, folder.path("a.txt"));
        fs::set_permissions(&attributes, fs::Permissions::from_mode(mode)).unwrap();
        let file = fs::File::open(&attributes).unwrap();
        rustix::fs::fsetxattr(&file, "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
        folder
    }

    fn root(&self) -> PathBuf {
        self.home.path().join("root")
    }

    fn slots(&self) -> PathBuf {
        self.home.path().join("slots")
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.root().join(inside)
    }

    fn put(&self, inside: &str, content: &str) {
        fs::write(self.path(inside), content).unwrap();
    }

    fn get(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap()
    }

    fn files(&self) -> Files {
        Files::open(&self.root(), &self.slots()).unwrap()
    }

    /// The one file kept in the slots of a run.
    fn slot(&self, run: &Undone) -> PathBuf {
        self.slots().join(run.run.to_string()).join("0")
    }
}

fn see(top: &Path, look: &mut Look) {
    for entry in fs::read_dir(top).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let rights = format!("{:o} {} {}", meta.mode(), meta.uid(), meta.gid());
        let what = if meta.is_dir() {
            see(&path, look);
            "directory".to_owned()
        } else if meta.is_symlink() {
            format!("link to {:?}", fs::read_link(&path).unwrap())
        } else if meta.is_file() {
            let file = fs::File::open(&path).unwrap();
            let mut note = [0; 100];
            let note = match rustix::fs::fgetxattr(&file, "user.note", &mut note[..]) {
                Ok(n) => String::from_utf8_lossy(&note[..n]).into_owned(),
                Err(_) => String::new(),
            };
            let content = fs::read(&path).unwrap();
            let content = String::from_utf8_lossy(&content);
            format!("{content:?} at {}.{} note {note:?}", meta.mtime(), meta.mtime_nsec())
        } else {
            "special".to_owned()
        };
        look.insert(path.to_string_lossy().into_owned(), format!("{rights} {what}"));
    }
}

impl World for Folder {
    fn open(&self) -> Box<dyn Domain> {
        Box::new(self.files())
    }

    fn look(&self) -> Look {
        let mut look = Look::new();
        see(&self.root(), &mut look);
        see(&self.home.path().join("outside"), &mut look);
        look
    }

    fn kept(&self) -> Vec<String> {
        let mut look = Look::new();
        if self.slots().exists() {
            see(&self.slots(), &mut look);
        }
        look.into_keys().collect()
    }
}

fn write(path: &str, content: &str) -> Call {
    call("write_file", json!({ "path": path, "content": content }))
}

fn edit(path: &str, old: &str, new: &str) -> Call {
    call("edit_file", json!({ "path": path, "edits": [{ "old": old, "new": new }] }))
}

fn delete(path: &str) -> Call {
    call("delete", json!({ "path": path, "recursive": true }))
}

fn rename(from: &str, to: &str) -> Call {
    call("move", json!({ "from": from, "to": to }))
}

fn mkdir(path: &str) -> Call {
    call("make_directory", json!({ "path": path, "parents": true }))
}

fn chmod(path: &str, mode: &str) -> Call {
    call("set_permissions", json!({ "path": path, "mode": mode }))
}

/// One call of every kind, each possible in a furnished folder.
fn every_call() -> Vec<Call> {
    vec![
        write("new.txt", "new\n"),
        write("a.txt", "other\n"),
        write("a.txt", ""),
        edit("a.txt", "two", "2"),
        delete("a.txt"),
        delete("link"),
        delete("d"),
        rename("a.txt", "d/a.txt"),
        rename("link", "d/link"),
        rename("d", "f"),
        mkdir("g"),
        mkdir("g/h/i"),
        chmod("a.txt", "0755"),
        chmod("d", "0700"),
        // Nothing to do is done, and says so.
        chmod("a.txt", "0640"),
        write("b.txt", "b"),
    ]
}

fn refusal(folder: &Folder, call: &Call) -> Refusal {
    let before = folder.look();
    let domain = folder.files();
    let found = match contract(&domain, call) {
        Err(refusal) => refusal,
        Ok(contract) if contract.writes() => match domain.stage(new_run(), &contract, &Bounds::default()) {
            Err(refusal) => refusal,
            Ok(staged) => panic!("{call:?} was staged: {}", staged.effect.summary),
        },
        Ok(contract) => match domain.read(&contract, &Bounds::default()) {
            Err(refusal) => refusal,
            Ok(reading) => panic!("{call:?} was read: {}", reading.reply),
        },
    };
    assert_same(&folder.look(), &before, "a refusal changes nothing");
    assert_eq!(folder.kept(), Vec::<String>::new(), "a refusal leaves nothing");
    found
}

#[test]
fn every_call_keeps_the_laws() {
    for call in every_call() {
        let world = Folder::furnished();
        staging_is_invisible(&world, &call);
        staging_twice_is_the_same(&world, &call);
        late_permit_commits_nothing(&world, &call);
        undo_restores(&world, &Blobs::default(), std::slice::from_ref(&call));
        commit_is_what_was_staged(&Folder::furnished(), &Blobs::default(), &call);
    }
}

#[test]
fn a_crash_before_the_commit_leaves_nothing() {
    for call in every_call().into_iter().take(14) {
        crash_before_commit(&Folder::furnished(), &call);
    }
}

fn story() -> Vec<Call> {
    vec![
        mkdir("g"),
        write("g/a", "1"),
        write("g/a", "2"),
        rename("g", "h"),
        chmod("h/a", "0600"),
        delete("d/x"),
        rename("d", "h/d"),
        write("d", "a file where a directory was"),
        delete("h"),
        mkdir("h"),
    ]
}

#[test]
fn undoing_many_restores_through_moved_directories() {
    undo_restores(&Folder::furnished(), &Blobs::default(), &story());
}

#[test]
fn a_crash_at_every_step_of_an_undo_is_finished() {
    crash_at_every_step(|| {
        let world = Folder::furnished();
        let blobs = Blobs::default();
        let domain = world.files();
        let runs: Vec<Undone> = story().iter().map(|c| done(&domain, &blobs, c)).collect();
        let run = new_run();
        let staged = stage_undo(&domain, &blobs, run, &runs).unwrap();
        (Box::new(world) as Box<dyn World>, blobs, run, staged)
    });
}

#[test]
fn an_undo_that_fails_midway_is_taken_back() {
    let world = Folder::furnished();
    let (domain, blobs) = (world.files(), Blobs::default());
    let runs = vec![done(&domain, &blobs, &write("a.txt", "1")), done(&domain, &blobs, &write("b.txt", "2"))];
    let run = new_run();
    let staged = stage_undo(&domain, &blobs, run, &runs).unwrap();
    blobs.keep(&staged);
    let measurement = staged.measurement();
    // `b.txt` is undone first; then `a.txt` is found changed.
    world.put("a.txt", "a person was here");
    let moved = world.look();
    match perform(run, staged).0 {
        Outcome::Failed { refusal } => {
            assert_eq!((refusal.code, refusal.place.as_deref()), (Code::Moved, Some("a.txt")), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
    assert_same(&world.look(), &moved, "all or nothing");
    assert!(matches!(domain.probe(run, &measurement), Standing::Neither { .. }));
}

#[test]
fn undo_refuses_when_the_world_moved() {
    type Meddle = fn(&Folder);
    let cases: Vec<(Vec<Call>, Meddle, &str)> = vec![
        (vec![write("a.txt", "n")], |f| f.put("a.txt", "person"), "a.txt"),
        (vec![write("a.txt", "n")], |f| fs::remove_file(f.path("a.txt")).unwrap(), "a.txt"),
        (
            vec![write("a.txt", "n")],
            |f| fs::set_permissions(f.path("a.txt"), fs::Permissions::from_mode(0o600)).unwrap(),
            "a.txt",
        ),
        (
            vec![write("a.txt", "n")],
            |f| {
                let file = fs::File::open(f.path("a.txt")).unwrap();
                rustix::fs::fsetxattr(&file, "user.note", b"new", rustix::fs::XattrFlags::empty()).unwrap();
            },
            "a.txt",
        ),
        (
            vec![write("a.txt", "n")],
            |f| {
                // The same bytes, but another file.
                fs::remove_file(f.path("a.txt")).unwrap();
                f.put("a.txt", "n");
            },
            "a.txt",
        ),
        (vec![write("new", "n")], |f| f.put("new", "person"), "new"),
        (vec![delete("a.txt")], |f| f.put("a.txt", "person"), "a.txt"),
        (vec![delete("d/x")], |f| fs::remove_dir_all(f.path("d")).unwrap(), "d/x"),
        (
            vec![delete("d/x")],
            |f| {
                fs::remove_dir_all(f.path("d")).unwrap();
                fs::create_dir(f.path("d")).unwrap();
            },
            "d/x",
        ),
        (
            vec![delete("d/x")],
            |f| {
                fs::rename(f.path("d"), f.home.path().join("outside/d")).unwrap();
                symlink(f.home.path().join("outside/d"), f.path("d")).unwrap();
            },
            "d/x",
        ),
        (vec![mkdir("g")], |f| f.put("g/later", "person"), "g"),
        (vec![rename("a.txt", "c.txt")], |f| f.put("a.txt", "person"), "a.txt"),
        (vec![rename("a.txt", "c.txt")], |f| f.put("c.txt", "person"), "c.txt"),
        (vec![rename("d", "f")], |f| f.put("f/e/later", "person"), "f"),
        (
            vec![chmod("a.txt", "0600")],
            |f| fs::set_permissions(f.path("a.txt"), fs::Permissions::from_mode(0o644)).unwrap(),
            "a.txt",
        ),
        (story(), |f| f.put("h/later", "person"), "h"),
    ];
    for (calls, meddle, place) in cases {
        let world = Folder::furnished();
        undo_refuses_when_moved(&world, &Blobs::default(), &calls, &|| meddle(&world), place);
    }
}

#[test]
fn every_conflict_is_listed() {
    let world = Folder::furnished();
    let (domain, blobs) = (world.files(), Blobs::default());
    let runs: Vec<Undone> =
        [write("a.txt", "1"), write("b.txt", "2"), delete("d")].iter().map(|c| done(&domain, &blobs, c)).collect();
    world.put("a.txt", "person");
    world.put("d", "person");
    let found = conflicts(&domain, &blobs, &runs);
    let places: Vec<&str> = found.iter().map(|c| c.place.as_str()).collect();
    assert_eq!(places, ["d", "a.txt"]);
    assert_eq!(found[0].why, "exists again");
}

#[test]
fn an_edit_of_the_content_does_not_hinder_undoing_a_mode() {
    let world = Folder::furnished();
    let (domain, blobs) = (world.files(), Blobs::default());
    let run = done(&domain, &blobs, &chmod("a.txt", "0600"));
    world.put("a.txt", "person");
    undo(&domain, &blobs, &[run]);
    assert_eq!(world.get("a.txt"), "person");
    assert_eq!(fs::metadata(world.path("a.txt")).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn commit_refuses_when_the_world_moved() {
    type Meddle = fn(&Folder);
    let outside_for_d: Meddle = |f| {
        fs::rename(f.path("d"), f.path("d-away")).unwrap();
        symlink(f.home.path().join("outside"), f.path("d")).unwrap();
    };
    let cases: Vec<(Call, Meddle)> = vec![
        (write("new", "n"), |f| f.put("new", "person")),
        (write("a.txt", "n"), |f| f.put("a.txt", "person")),
        // The file becomes a link to something outside.
        (write("a.txt", "n"), |f| {
            fs::remove_file(f.path("a.txt")).unwrap();
            symlink(f.home.path().join("outside/secret"), f.path("a.txt")).unwrap();
        }),
        (write("new", "n"), |f| symlink(f.home.path().join("outside/new"), f.path("new")).unwrap()),
        // The directory becomes a link to one outside.
        (write("d/x", "n"), outside_for_d),
        (write("d/secret", "n"), outside_for_d),
        (delete("d/x"), outside_for_d),
        (rename("a.txt", "d/a.txt"), outside_for_d),
        (mkdir("d/g"), outside_for_d),
        // The directory becomes another one.
        (write("d/x", "n"), |f| {
            fs::rename(f.path("d"), f.path("d-away")).unwrap();
            fs::create_dir(f.path("d")).unwrap();
        }),
        (delete("d"), |f| f.put("d/e/later", "person")),
        (delete("d"), |f| f.put("d/e/y", "z")),
        (delete("d"), |f| {
            let file = fs::File::open(f.path("d/e/y")).unwrap();
            rustix::fs::fsetxattr(&file, "user.note", b"new", rustix::fs::XattrFlags::empty()).unwrap();
        }),
        (rename("a.txt", "c.txt"), |f| f.put("c.txt", "person")),
        (chmod("a.txt", "0600"), |f| fs::set_permissions(f.path("a.txt"), fs::Permissions::from_mode(0o644)).unwrap()),
    ];
    for (call, meddle) in cases {
        let world = Folder::furnished();
        let refusal = commit_refuses_when_moved(&world, &call, &|| meddle(&world));
        assert!(matches!(refusal.code, Code::Moved | Code::NotFound | Code::Escapes), "{call:?}: {refusal:?}");
    }
}

#[test]
fn a_root_that_was_moved_away_is_not_written_to() {
    let world = Folder::furnished();
    let (domain, blobs) = (world.files(), Blobs::default());
    let undone = done(&domain, &blobs, &write("b.txt", "agent"));
    let run = new_run();
    let staged = stage(&domain, run, &write("a.txt", "agent")).unwrap();
    let away = world.home.path().join("away");
    fs::rename(world.root(), &away).unwrap();
    fs::create_dir(world.root()).unwrap();
    let moved = |refusal: Refusal| assert_eq!(refusal.code, Code::Moved, "{refusal:?}");
    match perform(run, staged).0 {
        Outcome::Failed { refusal } => moved(refusal),
        other => panic!("{other:?}"),
    }
    moved(stage(&domain, new_run(), &write("c.txt", "agent")).err().unwrap());
    moved(read(&domain, &call("stat", json!({ "path": "a.txt" }))).err().unwrap());
    match stage_undo(&domain, &blobs, new_run(), &[undone]) {
        Err(UndoRefused::Refused(refusal)) => moved(refusal),
        other => panic!("{:?}", other.map(|s| s.effect)),
    }
    assert_ne!(fs::read_to_string(away.join("a.txt")).unwrap(), "agent");
    assert_eq!(fs::read_dir(world.root()).unwrap().count(), 0);
}

/// Somebody writes at the very moment of a commit: what they wrote always stands in the end, whether
/// they came before it, into it or after it. Many rounds, because the moment is short.
#[test]
fn who_writes_during_a_commit_is_never_overwritten() {
    let world = Folder::furnished();
    let domain = world.files();
    let (mut first, mut last) = (0, 0);
    for round in 0..300_u32 {
        world.put("a.txt", "before");
        let call = if round % 2 == 0 { write("a.txt", "agent") } else { delete("a.txt") };
        let run = new_run();
        let staged = stage(&domain, run, &call).unwrap();
        let (theirs, target) = (world.home.path().join("theirs"), world.path("a.txt"));
        fs::write(&theirs, format!("person {round}")).unwrap();
        let start = std::sync::Barrier::new(2);
        let outcome = std::thread::scope(|scope| {
            let person = scope.spawn(|| {
                start.wait();
                for _ in 0..round * 40 {
                    std::hint::spin_loop();
                }
                fs::rename(&theirs, &target).unwrap();
            });
            start.wait();
            let (outcome, _) = perform(run, staged);
            person.join().unwrap();
            outcome
        });
        match outcome {
            Outcome::Succeeded => last += 1,
            Outcome::Failed { .. } => first += 1,
            // A delete taken back onto a place that was written meanwhile: said, and theirs stands.
            Outcome::Unknown { .. } => {}
        }
        assert_eq!(world.get("a.txt"), format!("person {round}"), "round {round}");
    }
    println!("the person came first {first} times, last {last} times");
}

#[test]
fn a_lost_or_altered_pre_image_is_said() {
    for meddle in [
        (|slot: &Path| fs::remove_file(slot).unwrap()) as fn(&Path),
        |slot| fs::write(slot, "corrupted").unwrap(),
        |slot| fs::set_permissions(slot, fs::Permissions::from_mode(0o777)).unwrap(),
    ] {
        let world = Folder::furnished();
        let (domain, blobs) = (world.files(), Blobs::default());
        let run = done(&domain, &blobs, &write("a.txt", "new"));
        meddle(&world.slot(&run));
        let before = world.look();
        match stage_undo(&domain, &blobs, new_run(), &[run]) {
            Err(UndoRefused::Refused(r)) => {
                assert_eq!((r.code, r.place.as_deref()), (Code::SnapshotLost, Some("a.txt")))
            }
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("an altered pre-image was to be restored"),
        }
        assert_same(&world.look(), &before, "nothing changes");
    }
}

#[test]
fn a_writer_with_the_old_file_open_is_noticed() {
    let world = Folder::furnished();
    let (domain, blobs) = (world.files(), Blobs::default());
    let mut writer = fs::OpenOptions::new().write(true).open(world.path("a.txt")).unwrap();
    let run = done(&domain, &blobs, &write("a.txt", "new"));
    writer.rewind().unwrap();
    writer.write_all(b"ONE").unwrap();
    match stage_undo(&domain, &blobs, new_run(), &[run]) {
        Err(UndoRefused::Refused(r)) => assert_eq!(r.code, Code::SnapshotLost),
        _ => panic!("the pre-image was altered through an old descriptor"),
    }
    assert_eq!(world.get("a.txt"), "new");
}

#[test]
fn bad_paths_are_refused_by_name() {
    let world = Folder::furnished();
    let outside = world.home.path().join("outside");
    symlink(&outside, world.path("out")).unwrap();
    symlink("d", world.path("in")).unwrap();
    symlink("/proc/self/root", world.path("magic")).unwrap();
    fs::hard_link(outside.join("secret"), world.path("hard")).unwrap();
    fs::create_dir(world.home.path().join("root-evil")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, world.path("fifo"), rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap();
    let absolute = outside.join("secret").to_string_lossy().into_owned();
    let sibling = world.home.path().join("root-evil/x").to_string_lossy().into_owned();
    let cases = [
        ("../outside/secret", Code::Escapes),
        ("d/../../outside/secret", Code::Escapes),
        ("..", Code::Escapes),
        ("../root-evil/x", Code::Escapes),
        (absolute.as_str(), Code::Escapes),
        (sibling.as_str(), Code::Escapes),
        ("/proc/self/root/etc/passwd", Code::Escapes),
        ("magic/etc/passwd", Code::Escapes),
        ("out/secret", Code::Escapes),
        ("in/x", Code::Escapes),
        ("nul\0name", Code::BadInput),
        ("b.txt/inside", Code::NotFound),
    ];
    for (path, code) in cases {
        let both = [
            call("read_file", json!({ "path": path })),
            call("stat", json!({ "path": path })),
            write(path, "x"),
            edit(path, "x", "y"),
            delete(path),
            rename(path, "free"),
            rename("a.txt", path),
            chmod(path, "0600"),
            mkdir(path),
        ];
        for call in both {
            let found = refusal(&world, &call);
            assert_eq!(found.code, code, "{call:?}: {found}");
            assert!(found.place.is_some(), "{call:?}: {found}");
        }
    }
    for (path, code) in [
        ("link", Code::Escapes),
        ("out", Code::Escapes),
        ("hard", Code::SpecialFile),
        ("fifo", Code::SpecialFile),
        ("socket", Code::SpecialFile),
    ] {
        for call in
            [call("read_file", json!({ "path": path })), write(path, "x"), edit(path, "x", "y"), chmod(path, "0600")]
        {
            let found = refusal(&world, &call);
            assert_eq!((found.code, found.place.as_deref()), (code, Some(path)), "{call:?}: {found}");
        }
    }
    for path in ["fifo", "socket"] {
        assert_eq!(refusal(&world, &delete(path)).code, Code::SpecialFile);
        assert_eq!(refusal(&world, &rename(path, "free")).code, Code::SpecialFile);
    }
    assert_eq!(refusal(&world, &call("list_directory", json!({ "path": "out" }))).code, Code::Escapes);
    assert_eq!(refusal(&world, &call("read_file", json!({ "path": "d" }))).code, Code::Unsupported);
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
}

#[test]
fn misleading_names_are_shown_and_not_made() {
    let world = Folder::furnished();
    for name in ["a\u{202e}txt", "z\u{200b}w", "bell\u{7}", "line\nbreak"] {
        for call in [write(name, "x"), mkdir(name), rename("a.txt", name)] {
            let found = refusal(&world, &call);
            assert_eq!(found.code, Code::BadInput);
            assert!(found.message.contains("<U+"), "{found}");
            assert!(!found.to_string().contains(name));
        }
        // Found there by somebody else, it can be cleaned up.
        world.put(name, "x");
        let domain = world.files();
        let staged = stage(&domain, new_run(), &delete(name)).unwrap();
        assert!(staged.effect.summary.contains("<U+"), "{}", staged.effect.summary);
        drop(staged);
        fs::remove_file(world.path(name)).unwrap();
    }
}

#[test]
fn bad_arguments_are_refused_by_field() {
    let world = Folder::furnished();
    let cases = [
        ("read_file", json!({}), "path"),
        ("read_file", json!({ "path": 1 }), "path"),
        ("read_file", json!({ "path": "" }), "path"),
        ("read_file", json!({ "path": "a.txt", "encoding": "utf8" }), "encoding"),
        ("read_file", json!({ "path": "a.txt", "offset": -1 }), "offset"),
        ("read_file", json!({ "path": "a.txt", "offset": 1000 }), "offset"),
        ("search", json!({ "text": "" }), "text"),
        ("search", json!({ "text": "a", "in": "everywhere" }), "in"),
        ("write_file", json!({ "path": "a.txt" }), "content"),
        ("write_file", json!({ "path": "./", "content": "" }), "path"),
        ("write_file", json!({ "path": "x".repeat(256), "content": "" }), "path"),
        ("edit_file", json!({ "path": "a.txt", "edits": [] }), "edits"),
        ("edit_file", json!({ "path": "a.txt", "edits": [{ "old": "one" }] }), "edits[0].new"),
        ("edit_file", json!({ "path": "a.txt", "edits": [{ "old": "", "new": "" }] }), "edits[0].old"),
        ("edit_file", json!({ "path": "a.txt", "edits": [{ "old": "t", "new": "" }] }), "edits[0].old"),
        ("edit_file", json!({ "path": "a.txt", "edits": [{ "old": "nine", "new": "" }] }), "edits[0].old"),
        (
            "edit_file",
            json!({ "path": "a.txt", "edits": [{ "old": "one", "new": "1" }, { "old": "one", "new": "2" }] }),
            "edits[1].old",
        ),
        ("delete", json!({ "path": "d" }), "recursive"),
        ("delete", json!({ "path": "d", "recursive": "yes" }), "recursive"),
        ("delete", json!({ "path": "." }), "path"),
        ("move", json!({ "from": "d", "to": "d/e/d" }), "to"),
        ("move", json!({ "from": "a.txt", "to": "b.txt" }), "b.txt"),
        ("make_directory", json!({ "path": "d" }), "d"),
        ("make_directory", json!({ "path": "g/h" }), "g/h"),
        ("set_permissions", json!({ "path": "a.txt", "mode": "4755" }), "mode"),
        ("set_permissions", json!({ "path": "a.txt", "mode": "2755" }), "mode"),
        ("set_permissions", json!({ "path": "a.txt", "mode": "u+x" }), "mode"),
        ("set_permissions", json!({ "path": "a.txt", "mode": "888" }), "mode"),
    ];
    for (tool, arguments, field) in cases {
        let found = refusal(&world, &call(tool, arguments.clone()));
        assert_eq!(found.place.as_deref(), Some(field), "{tool} {arguments}: {found}");
    }
    world.put("triple", "aaa");
    assert_eq!(refusal(&world, &edit("triple", "aa", "b")).place.as_deref(), Some("edits[0].old"));
}

#[test]
fn every_schema_is_closed() {
    for spec in Folder::new().files().tools() {
        assert_eq!(spec.schema["additionalProperties"], Value::Bool(false), "{}", spec.name);
    }
}

#[test]
fn reads_say_what_they_read() {
    let world = Folder::furnished();
    let domain = world.files();
    let get = |tool, arguments| read(&domain, &call(tool, arguments)).unwrap();
    let whole = get("read_file", json!({ "path": "a.txt" }));
    assert_eq!((&whole.reply["content"], &whole.reply["complete"]), (&json!("one\ntwo\nthree\n"), &json!(true)));
    assert_eq!(whole.places, ["a.txt"]);
    let part = get("read_file", json!({ "path": "a.txt", "offset": 4, "limit": 3 }));
    assert_eq!((&part.reply["content"], &part.reply["complete"]), (&json!("two"), &json!(false)));
    world.put("wide", "aé");
    assert_eq!(get("read_file", json!({ "path": "wide", "limit": 2 })).reply["content"], "a");
    fs::write(world.path("binary"), [0xff, 0xfe]).unwrap();
    assert_eq!(refusal(&world, &call("read_file", json!({ "path": "binary" }))).code, Code::Unsupported);
    use std::os::unix::ffi::OsStrExt as _;
    fs::write(world.root().join(std::ffi::OsStr::from_bytes(b"bad\xffname")), "").unwrap();
    let listed = get("list_directory", json!({}));
    let entries = listed.reply["entries"].as_array().unwrap();
    assert!(entries.iter().any(|e| e["name"] == "a.txt" && e["kind"] == "file" && e["mode"] == "0640"));
    assert!(entries.iter().any(|e| e["bytes"] == "626164ff6e616d65" && e.get("name").is_none()));
    assert!(listed.places.iter().any(|p| p == "d"));
    let stat = get("stat", json!({ "path": "link" }));
    assert_eq!((&stat.reply["kind"], &stat.reply["target"]), (&json!("symbolic link"), &json!("a.txt")));
    let found = get("search", json!({ "text": "y", "path": "d" }));
    let matches = found.reply["matches"].as_array().unwrap();
    assert_eq!(matches.len(), 2, "by name and by content: {matches:?}");
    assert_eq!(matches[1], json!({ "path": "d/e/y", "line": 1, "text": "y" }));
    assert_eq!(get("search", json!({ "text": "y" })).reply["skipped"], json!({ "not UTF-8 text": 1 }));
    let bounds = Bounds { read_bytes: 4, read_rows: 1, ..Bounds::default() };
    let ask = |tool, arguments| domain.read(&contract(&domain, &call(tool, arguments)).unwrap(), &bounds);
    assert_eq!(ask("read_file", json!({ "path": "a.txt" })).unwrap_err().code, Code::TooLarge);
    assert_eq!(ask("list_directory", json!({})).unwrap().reply["truncated"], true);
    assert_eq!(ask("search", json!({ "text": "y" })).unwrap().reply["truncated"], true);
}

#[test]
fn effects_are_told_with_numbers() {
    let world = Folder::furnished();
    let (domain, blobs) = (world.files(), Blobs::default());
    let told = |call: &Call| {
        let staged = stage(&domain, new_run(), call).unwrap();
        blobs.keep(&staged);
        let diff = domain.diff(&staged.measurement(), &blobs).unwrap();
        (staged.effect.summary.clone(), staged.effect.blast.clone(), diff)
    };
    let (summary, blast, diff) = told(&edit("a.txt", "two", "2"));
    assert_eq!(summary, "overwrites `a.txt` (14 B → 12 B)");
    assert_eq!((blast.files_changed, blast.bytes), (1, 14));
    assert_eq!(diff, "--- a/a.txt\n+++ b/a.txt\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n");
    let (summary, blast, diff) = told(&delete("d"));
    assert_eq!(summary, "deletes directory `d` with 3 entries (2 B)");
    assert_eq!((blast.files_deleted, blast.deletions(), blast.bytes), (4, 4, 2));
    assert_eq!(diff, "- d/\n- d/e/\n- d/e/y (1 B)\n- d/x (1 B)\n");
    assert_eq!(told(&write("new", "n")).0, "creates `new` (1 B)");
    assert_eq!(told(&rename("d", "f")).0, "moves directory `d` to `f` with 3 entries (2 B)");
    assert_eq!(told(&chmod("a.txt", "600")).0, "changes the mode of `a.txt` from 0640 to 0600");
}

#[test]
fn a_hard_link_inside_a_deleted_tree_is_an_open_assumption() {
    let world = Folder::furnished();
    fs::hard_link(world.home.path().join("outside/secret"), world.path("d/hard")).unwrap();
    let domain = world.files();
    let staged = stage(&domain, new_run(), &delete("d")).unwrap();
    assert!(staged.plan.broken_assumption().is_some());
    drop(staged);
    undo_restores(&world, &Blobs::default(), &[delete("d")]);
}

#[test]
fn overwriting_keeps_mode_owner_and_attributes() {
    let world = Folder::furnished();
    let (domain, blobs) = (world.files(), Blobs::default());
    done(&domain, &blobs, &write("a.txt", "new"));
    let see = world.look();
    let line = &see[&world.path("a.txt").to_string_lossy().into_owned()];
    assert!(line.starts_with("100640 ") && line.contains("\"new\"") && line.ends_with("note \"kept\""), "{line}");
    fs::set_permissions(world.path("b.txt"), fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(stage(&domain, new_run(), &write("b.txt", "evil")).err().unwrap().code, Code::Unsupported);
    assert_eq!(stage(&domain, new_run(), &chmod("b.txt", "0755")).err().unwrap().code, Code::Unsupported);
}

#[test]
fn five_thousand_files_go_and_come_back_quickly() {
    let world = Folder::new();
    for d in 0..50 {
        let dir = world.path(&format!("build/{d}"));
        fs::create_dir_all(&dir).unwrap();
        for f in 0..100 {
            fs::write(dir.join(f.to_string()), "x").unwrap();
        }
    }
    let (domain, blobs) = (world.files(), Blobs::default());
    let before = world.look();
    let started = std::time::Instant::now();
    let run = done(&domain, &blobs, &delete("build"));
    let gone = started.elapsed();
    assert!(!world.path("build").exists());
    assert_eq!(run.measurement.effect.blast.files_deleted, 5_051);
    assert!(run.measurement.effect.summary.contains("5,050 entries (4.9 KiB)"), "{}", run.measurement.effect.summary);
    assert_eq!(domain.touches(&run.measurement, &blobs).unwrap().len(), 5_051);
    let started = std::time::Instant::now();
    undo(&domain, &blobs, &[run]);
    println!("5,000 files: deleted in {gone:?}, restored and observed in {:?}", started.elapsed());
    assert_same(&world.look(), &before, "every file is back");
}

#[test]
fn slots_must_be_private_near_and_outside() {
    let world = Folder::new();
    let open = |root: &Path, slots: &Path| Files::open(root, slots).err().unwrap();
    let inside = open(&world.root(), &world.path("slots"));
    assert_eq!(inside.code, Code::Unsupported);
    assert!(inside.next.unwrap().contains(".turnback-slots"));
    fs::remove_dir(world.path("slots")).unwrap();
    assert!(open(&world.root(), &world.root()).place.is_some());
    let deep = world.home.path().join("s");
    fs::create_dir_all(deep.join("root")).unwrap();
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(open(&deep.join("root"), &deep).message.contains("inside the slots"));
    let wide = world.home.path().join("wide");
    fs::create_dir(&wide).unwrap();
    fs::set_permissions(&wide, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(open(&world.root(), &wide).next.unwrap().contains("0700"));
    let elsewhere = Path::new("/dev/shm");
    if elsewhere.is_dir() && fs::metadata(elsewhere).unwrap().dev() != fs::metadata(world.root()).unwrap().dev() {
        let far = tempfile::tempdir_in(elsewhere).unwrap();
        let refusal = open(&world.root(), &far.path().join("slots"));
        assert_eq!(refusal.code, Code::Unsupported);
        assert!(refusal.message.contains("file system") && refusal.next.unwrap().contains(".turnback-slots"));
    }
    assert_eq!(open(&world.path("none"), &world.slots()).code, Code::NotFound);
}

#[test]
fn sweeping_spares_the_living_and_the_foreign() {
    let world = Folder::furnished();
    let (domain, blobs) = (world.files(), Blobs::default());
    let run = done(&domain, &blobs, &write("a.txt", "new"));
    fs::create_dir(world.slots().join("somebody-else")).unwrap();
    let stale = new_run();
    std::mem::forget(stage(&domain, stale, &delete("d")).unwrap().held);
    assert!(world.slots().join(stale.to_string()).exists());
    domain.sweep(&|r| if r == run.run { Fate::Alive } else { Fate::Unheard }).unwrap();
    assert!(!world.slots().join(stale.to_string()).exists());
    // Without its record it is kept all the same: what it replaced is nowhere else.
    domain.sweep(&|_| Fate::Unheard).unwrap();
    assert!(!world.slots().join(stale.to_string()).exists());
    assert!(world.slots().join("somebody-else").exists());
    undo(&domain, &blobs, &[run]);
}

#[test]
fn a_probe_after_later_changes_still_knows_what_happened() {
    let world = Folder::furnished();
    let (domain, blobs) = (world.files(), Blobs::default());
    let run = done(&domain, &blobs, &write("a.txt", "new"));
    world.put("a.txt", "person");
    assert_eq!(domain.probe(run.run, &run.measurement), Standing::After);
    assert_eq!(
        domain.observe(run.run, &run.measurement, &blobs).unwrap().differences,
        ["a.txt: its content changed since"]
    );
    let staged = stage(&domain, new_run(), &write("b.txt", "new")).unwrap();
    let measurement = staged.measurement();
    world.put("b.txt", "person");
    assert_eq!(domain.probe(new_run(), &measurement), Standing::Before);
}

#[test]
fn a_full_disk_refuses_and_leaves_nothing() {
    let Some(mount) = Tmpfs::mount() else { return };
    let folder = Folder { home: tempfile::tempdir_in(&mount.at).unwrap() };
    fs::create_dir(folder.path("")).unwrap();
    fs::create_dir(folder.home.path().join("outside")).unwrap();
    folder.put("a.txt", "kept");
    let found = refusal(&folder, &write("a.txt", &"x".repeat(900_000)));
    assert_eq!(found.code, Code::DiskFull, "{found}");
}

#[test]
fn another_mount_is_never_entered() {
    let Some(mount) = Tmpfs::mount() else { return };
    // Seen from inside a folder whose own file system is the outer one.
    let home = mount.at.parent().unwrap();
    fs::write(mount.at.join("inside"), "mounted").unwrap();
    let domain = Files::open(home, &home.with_extension("slots")).unwrap();
    let name = mount.at.file_name().unwrap().to_str().unwrap();
    for call in [
        call("read_file", json!({ "path": format!("{name}/inside") })),
        call("list_directory", json!({ "path": name })),
    ] {
        assert_eq!(read(&domain, &call).unwrap_err().code, Code::Escapes);
    }
    for call in [delete(name), rename(name, "m"), write(&format!("{name}/new"), "x"), chmod(name, "0700")] {
        assert_eq!(stage(&domain, new_run(), &call).err().unwrap().code, Code::Escapes, "{call:?}");
    }
    let outer = Files::open(home.parent().unwrap(), &home.parent().unwrap().with_extension("slots")).unwrap();
    let tree = home.file_name().unwrap().to_str().unwrap();
    // The same delete as in a build directory, with a volume mounted inside.
    assert_eq!(stage(&outer, new_run(), &delete(tree)).err().unwrap().code, Code::Escapes);
    assert!(mount.at.join("inside").exists());
}

/// A small file system of its own, where the test may mount one.
struct Tmpfs {
    at: PathBuf,
    _home: tempfile::TempDir,
}

impl Tmpfs {
    fn mount() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().join("home/tree/mnt");
        fs::create_dir_all(&at).unwrap();
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
            .arg(&at)
            .stderr(std::process::Stdio::null())
            .status();
        if status.is_ok_and(|s| s.success()) {
            return Some(Self { at, _home: home });
        }
        eprintln!("mounting is not permitted here; this case is not tested");
        None
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

/// A call whose arguments come from few names, so that calls meet.
fn some_call() -> impl Strategy<Value = Call> {
    let path = prop::sample::select(vec!["a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "f", "f/a"]);
    let content = prop::sample::select(vec!["", "1", "22", "333\n"]);
    let mode = prop::sample::select(vec!["0600", "0644", "0755"]);
    prop_oneof![
        4 => (path.clone(), content).prop_map(|(p, c)| write(p, c)),
        2 => path.clone().prop_map(delete),
        2 => path.clone().prop_map(mkdir),
        3 => (path.clone(), path.clone()).prop_map(|(p, q)| rename(p, q)),
        1 => (path, mode).prop_map(|(p, m)| chmod(p, m)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever was done, undoing all of it is as if nothing had been.
    #[test]
    fn undoing_everything_is_the_identity(calls in prop::collection::vec(some_call(), 1..14)) {
        let world = Folder::new();
        let (domain, blobs) = (world.files(), Blobs::default());
        world.put("a", "first");
        let before = world.look();
        let runs: Vec<Undone> = calls.iter().filter_map(|c| try_done(&domain, &blobs, c).ok()).collect();
        let after = world.look();
        if !runs.is_empty() {
            let undone = undo(&domain, &blobs, &runs);
            assert_same(&world.look(), &before, "undoing everything");
            undo(&domain, &blobs, &[undone]);
            assert_same(&world.look(), &after, "undoing the undo");
        }
    }

    /// Undoing some of it either restores what those runs touched, or is refused and changes nothing.
    #[test]
    fn undoing_some_restores_or_refuses(
        calls in prop::collection::vec((some_call(), any::<bool>()), 1..10),
    ) {
        let world = Folder::new();
        let (domain, blobs) = (world.files(), Blobs::default());
        let mut looks = Vec::new();
        let mut chosen = Vec::new();
        for (call, choose) in &calls {
            let look = world.look();
            if let Ok(run) = try_done(&domain, &blobs, call) && *choose {
                chosen.push(run);
                looks.push(look);
            }
        }
        prop_assume!(!chosen.is_empty());
        let (moved, kept) = (world.look(), world.kept());
        let run = new_run();
        match stage_undo(&domain, &blobs, run, &chosen) {
            Err(UndoRefused::Conflicts(conflicts)) => {
                prop_assert!(!conflicts.is_empty());
                assert_same(&world.look(), &moved, "a refused undo changes nothing");
                prop_assert_eq!(world.kept(), kept);
            }
            Err(UndoRefused::Refused(refusal)) => prop_assert!(false, "{}", refusal),
            Ok(staged) => {
                blobs.keep(&staged);
                let effect = staged.measurement();
                prop_assert_eq!(perform(run, staged).0, Outcome::Succeeded);
                let now = world.look();
                let mut seen = std::collections::HashSet::new();
                for (run, before) in chosen.iter().zip(&looks) {
                    for touch in domain.touches(&run.measurement, &blobs).unwrap() {
                        if seen.insert(touch.place.clone()) {
                            let place = world.path(&touch.place).to_string_lossy().into_owned();
                            prop_assert_eq!(now.get(&place), before.get(&place), "{}", place);
                        }
                    }
                }
                undo(&domain, &blobs, &[Undone { run, measurement: effect }]);
                assert_same(&world.look(), &moved, "undoing the undo of some");
            }
        }
    }
}

#[test]
fn the_conformance_counts_something() {
    // A guard for the laws themselves: a law that passes on a broken domain guards nothing.
    let world = Folder::furnished();
    let calls = Cell::new(0);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        undo_refuses_when_moved(
            &world,
            &Blobs::default(),
            &[write("a.txt", "n")],
            &|| calls.set(calls.get() + 1),
            "a.txt",
        );
    }));
    assert!(refused.is_err(), "an undo that is possible must not count as refused");
    assert_eq!(calls.get(), 1);
}
