//! One bit flipped anywhere, one file cut anywhere: it is found and named by opening, by `verify` or by the
//! read that needs it, or it changes nothing – everything reads as it was written, and the log goes on.
//!
//! Played on two state directories: one closed in order, and one left by a kill, whose records are still
//! in SQLite's write-ahead log. A few thousand places, drawn from a seed; all of them with
//! `TURNBACK_SWEEP=long`. `TURNBACK_SEED=<n>` plays another draw.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{at, batch, entry, row, run};
use turnback_core::digest::Sha256;
use turnback_core::gates::controls::{Scope, Switch};
use turnback_core::gates::ownership::Agent;
use turnback_core::names::{AgentName, ApprovalId, TokenId};
use turnback_core::record::{Body, Token};
use turnback_journal::{
    Batch, Entry, Journal, JournalError, Options, Projection, RowFilter, SMALL, Table, VerifyError, verify,
};
use uuid::Uuid;

/// Runs in the journal, numbered from 1.
const RUNS: u128 = 24;

const SMALL_BLOBS: u8 = 3;

/// Where both kinds of draws start.
const SEED: u64 = 0x7475_726e_6261_636b;

fn large() -> Vec<u8> {
    (0..=SMALL).map(|i| (i % 251) as u8).collect()
}

fn small(n: u8) -> Vec<u8> {
    vec![n; 700 * usize::from(n)]
}

fn question(n: u128) -> ApprovalId {
    ApprovalId::new(Uuid::from_u128(0x0199_0000_0000_7000_9000_0000_0000_0000 | n))
}

fn put(table: Table, key: &str, value: &impl serde::Serialize) -> Projection {
    Projection::Put { table, key: key.into(), value: serde_json::to_value(value).unwrap() }
}

fn about_nobody(body: Body, project: Projection) -> Entry {
    Entry { at: at(3), body, project: vec![project] }
}

/// Everything people register: agents, tokens, a switch.
fn registered() -> Vec<Entry> {
    let name = |n: &str| AgentName::new(n).unwrap();
    let mut entries = Vec::new();
    for n in ["coder", "tester"] {
        let agent =
            Agent { name: name(n), owner: "anna".into(), suspended: None, grants: vec![], levels: Default::default() };
        let body = Body::AgentSet { agent: agent.clone(), by: "anna".into(), reason: None };
        entries.push(about_nobody(body, put(Table::Agents, n, &agent)));
        for t in 0..2_u8 {
            let id = TokenId::new(Uuid::from_u128(u128::from(t) + n.len() as u128 * 16));
            let details = Token {
                secret: Sha256::of(&[t, n.len() as u8]),
                agent: name(n),
                on_behalf_of: None,
                assignment: turnback_core::contract::Assignment::default(),
                made: at(0),
                expires: at(9_999),
            };
            let body = Body::TokenMade { token: id, details: details.clone(), by: "anna".into() };
            entries.push(about_nobody(body, put(Table::Tokens, &id.to_string(), &details)));
        }
    }
    let gone = TokenId::new(Uuid::from_u128(16 * 5));
    let delete = Projection::Delete { table: Table::Tokens, key: gone.to_string() };
    entries.push(about_nobody(Body::TokenRevoked { token: gone, by: "anna".into() }, delete));
    let switch =
        Switch { scope: Scope::Agent(name("tester")), reason: "drill".into(), by: "anna".into(), since: at(2) };
    let key = switch.scope.to_string();
    entries.push(about_nobody(Body::SwitchThrown { switch: switch.clone() }, put(Table::Switches, &key, &switch)));
    entries
}

/// Two records about run `n`, each run with something of its own.
fn about(n: u128) -> Batch {
    let mut line = row(n);
    match n % 6 {
        0 => (line.state, line.over, line.committed) = ("settled".into(), true, Some(at(20 + n as i64))),
        1 => (line.question, line.expires, line.state) = (Some(question(n)), Some(at(500)), "parked".into()),
        2 => (line.reads, line.over, line.state) = (vec![format!("work/{n}")], true, "settled".into()),
        3 => (line.undoes, line.over, line.committed) = (vec![run(n - 3)], true, Some(at(20 + n as i64))),
        4 => (line.over, line.undelivered, line.state) = (true, true, "denied".into()),
        _ => line.resource = "files".into(),
    }
    let mut second = entry(n, &format!("then, of {n}"));
    second.project = vec![Projection::Run(Box::new(line))];
    Batch { entries: vec![entry(n, &"x".repeat(n as usize * 40)), second], blobs: vec![] }
}

/// One state directory to be damaged, and what it must go on telling.
struct Base {
    dir: tempfile::TempDir,
    /// A checkpoint kept elsewhere, of the state as it is.
    kept: String,
    told: Vec<(String, Result<String, JournalError>)>,
    records: u64,
}

fn scratch() -> tempfile::TempDir {
    // In memory where that can be had: what is looked for is not whether the disk keeps its word.
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    dir.unwrap()
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            fs::set_permissions(&to, entry.metadata().unwrap().permissions()).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Base {
    /// `killed`: the last records only exist in the write-ahead log, and nothing was closed.
    fn new(killed: bool) -> Self {
        let work = scratch();
        let state = work.path().join("state");
        let journal = Journal::open(&state, Options::default()).unwrap().journal;
        let blobs = (1..=SMALL_BLOBS).map(small).chain([large()]).map(|b| (Sha256::of(&b), b)).collect();
        journal.append_wait(Batch { entries: registered(), blobs }).unwrap();
        let mut journal = journal;
        for n in 1..=RUNS {
            let seqs = journal.append_wait(about(n)).unwrap();
            if n == 5 {
                journal.erase(&seqs[..1]).unwrap();
            }
            if n == RUNS / 3 {
                journal.checkpoint().unwrap();
            }
            if n == RUNS - 6 {
                journal.close();
                journal = Journal::open(&state, Options::default()).unwrap().journal;
            }
        }
        let kept = if killed {
            // What a checkpoint of this moment says, without letting the state know of it.
            let aside = scratch();
            copy(&state, aside.path());
            fs::set_permissions(aside.path(), fs::metadata(&state).unwrap().permissions()).unwrap();
            let other = Journal::open(aside.path(), Options::default()).unwrap().journal;
            other.checkpoint().unwrap()
        } else {
            journal.checkpoint().unwrap()
        };
        let (records, told) = (journal.len(), told(&journal));
        let dir = scratch();
        if killed {
            copy(&state, dir.path());
            journal.close();
        } else {
            journal.close();
            copy(&state, dir.path());
        }
        fs::set_permissions(dir.path(), fs::metadata(&state).unwrap().permissions()).unwrap();
        let wal = fs::metadata(dir.path().join("journal.db-wal")).map_or(0, |meta| meta.len());
        assert_eq!(wal > 0, killed, "{wal} bytes of write-ahead log");
        Self { dir, kept, told, records }
    }

    /// Files by path below the state directory, with their length.
    fn files(&self) -> Vec<(PathBuf, usize)> {
        let mut files = Vec::new();
        let mut open = vec![self.dir.path().to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => open.push(entry.path()),
                    false => files.push((
                        entry.path().strip_prefix(self.dir.path()).unwrap().to_owned(),
                        entry.metadata().unwrap().len() as usize,
                    )),
                }
            }
        }
        files.sort();
        files
    }
}

/// Everything a journal can be asked, by name.
fn told(journal: &Journal) -> Vec<(String, Result<String, JournalError>)> {
    fn say<T: std::fmt::Debug>(told: Result<T, JournalError>) -> Result<String, JournalError> {
        told.map(|told| format!("{told:?}"))
    }
    let mut all = vec![("len".to_owned(), Ok(journal.len().to_string()))];
    for table in [Table::Agents, Table::Tokens, Table::Switches, Table::Meta] {
        all.push((format!("{table:?}"), say(journal.table(table))));
    }
    let none = RowFilter::default;
    let agent = AgentName::new("coder").unwrap();
    for filter in [
        none(),
        RowFilter { agent: Some(agent), ..none() },
        RowFilter { resource: Some("files".into()), ..none() },
        RowFilter { state: Some("parked".into()), ..none() },
        RowFilter { open: true, ..none() },
        RowFilter { unanswered: true, ..none() },
        RowFilter { committed_since: Some(at(30)), ..none() },
        RowFilter { read_since: Some(at(0)), ..none() },
        RowFilter { expired_by: Some(at(600)), ..none() },
    ] {
        all.push((format!("{filter:?}"), say(journal.rows(&filter))));
    }
    for n in 1..=RUNS {
        let run = run(n);
        all.push((format!("events of {n}"), say(journal.run_events(run))));
        all.push((format!("row of {n}"), say(journal.row(run))));
        let digits = &run.to_string()[run.to_string().len() - 6..];
        all.push((format!("run {n}"), say(journal.find_run(digits))));
        let filter = RowFilter { action: Some(row(n).action), ..none() };
        all.push((format!("action of {n}"), say(journal.rows(&filter))));
        match n % 6 {
            0 => {
                let filter = RowFilter { undoes: Some(run), ..none() };
                all.push((format!("undo of {n}"), say(journal.rows(&filter))));
            }
            1 => {
                let filter = RowFilter { question: Some(question(n)), ..none() };
                all.push((format!("question of {n}"), say(journal.rows(&filter))));
                all.push((format!("found by question {n}"), say(journal.find_run(&question(n).to_string()))));
            }
            _ => {}
        }
    }
    for blob in (1..=SMALL_BLOBS).map(small).chain([large()]) {
        let got = journal.blobs().get(&Sha256::of(&blob));
        let got = got.map_err(|e| JournalError::Storage { doing: "reading a blob", why: e.to_string() });
        all.push((format!("blob of {}", blob.len()), say(got.map(|bytes| Sha256::of(&bytes)))));
    }
    all
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip { offset: usize, bit: u8 },
    Cut { at: usize },
}

/// How a harm was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Met {
    /// `verify` names what does not fit.
    ByVerify,
    /// Nothing starts on it.
    ByOpening,
    /// The one read that needs it says so.
    ByReading,
    /// Nothing that is kept lies there.
    Harmless,
}

/// Plays one harm. An error is what nobody noticed.
fn meet(base: &Base, file: &Path, harm: Harm, dir: &Path) -> Result<Met, String> {
    let path = dir.join(file);
    let mut bytes = fs::read(&path).unwrap();
    match harm {
        Harm::Flip { offset, bit } => bytes[offset] ^= 1 << bit,
        Harm::Cut { at } => bytes.truncate(at),
    }
    fs::write(&path, bytes).unwrap();

    // With nothing from elsewhere: what lies in the directory has to be enough.
    let verified = match verify(dir, None, None) {
        Ok(report) if report.records == base.records => true,
        Ok(report) => return Err(format!("verified with {} of {} records", report.records, base.records)),
        Err(VerifyError::Misfit(_)) => false,
        Err(VerifyError::Unreadable(e)) if e.to_string().contains('`') => false,
        Err(other) => return Err(format!("no account of what does not fit: {other}")),
    };
    let journal = match Journal::open(dir, Options::default()) {
        Ok(opened) if opened.fresh => return Err("a new journal was made in its place".into()),
        Ok(opened) => opened.journal,
        Err(_) => return Ok(if verified { Met::ByOpening } else { Met::ByVerify }),
    };
    let mut named = false;
    for ((what, now), (_, then)) in told(&journal).iter().zip(&base.told) {
        match now {
            now if now == then => {}
            Err(_) => named = true,
            Ok(_) if !verified => {}
            Ok(now) => return Err(format!("{what} was\n{then:?}\nand is\n{now}")),
        }
    }
    if !verified {
        return Ok(Met::ByVerify);
    }
    // Whatever it was, the log goes on from where it was.
    let seqs = journal.append_wait(batch(RUNS + 1)).map_err(|e| format!("does not go on: {e}"))?;
    if seqs != [base.records] {
        return Err(format!("goes on at {seqs:?} instead of {}", base.records));
    }
    journal.close();
    match verify(dir, Some(&base.kept), None) {
        Ok(report) if report.records == base.records + 1 && report.vouched == report.records => {}
        other => return Err(format!("went on, and then: {other:?}")),
    }
    Ok(if named { Met::ByReading } else { Met::Harmless })
}

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// What is tried: in the long form a bit of every byte and every cut that is not like its neighbours,
/// in the short one `each` of both for every file.
fn harms(length: usize, each: usize, draw: &mut Draw) -> Vec<Harm> {
    let long = std::env::var("TURNBACK_SWEEP").is_ok_and(|how| how == "long");
    let mut harms = Vec::new();
    if long || length <= each {
        harms.extend((0..length).map(|offset| Harm::Flip { offset, bit: (draw.next() % 8) as u8 }));
        // SQLite reads whole pages and frames; small files are cut everywhere.
        let step = if length > 4_096 { 512 } else { 1 };
        let edges = (0..length).step_by(step).flat_map(|at| [at.saturating_sub(1), at, at + 1]);
        let mut cuts: Vec<usize> = edges.filter(|at| *at < length).collect();
        cuts.dedup();
        harms.extend(cuts.into_iter().map(|at| Harm::Cut { at }));
    } else {
        harms.extend((0..each).map(|_| Harm::Flip { offset: draw.below(length), bit: (draw.next() % 8) as u8 }));
        harms.extend((0..each / 4).map(|_| Harm::Cut { at: draw.below(length) }));
    }
    harms
}

/// How many places of a large file the short form looks at. Where a hash covers every byte, fewer do.
fn each(file: &Path) -> usize {
    match file.to_str().unwrap() {
        "journal.db" => 400,
        "journal.db-wal" => 250,
        "journal.db-shm" => 40,
        name if name.starts_with("vault/") => 20,
        _ => 80,
    }
}

fn sweep(killed: bool) -> BTreeMap<(PathBuf, Met), usize> {
    let base = Base::new(killed);
    let seed = std::env::var("TURNBACK_SEED").ok().map_or(SEED, |seed| seed.parse().unwrap());
    let mut draw = Draw(seed);
    let cases: Vec<(PathBuf, Harm)> = base
        .files()
        .into_iter()
        // Its content is for people; what holds is the kernel's lock on it.
        .filter(|(file, length)| *length > 0 && file != Path::new("lock"))
        .flat_map(|(file, length)| {
            let length_of_all = if file.starts_with("vault") { length.min(300_000) } else { length };
            let harms = match file.starts_with("vault") {
                // Hashed whole: a sample is as good as every byte.
                true => (0..each(&file))
                    .map(|_| Harm::Flip { offset: draw.below(length_of_all), bit: 1 })
                    .chain([Harm::Cut { at: 0 }, Harm::Cut { at: length - 1 }])
                    .collect(),
                false => harms(length, each(&file), &mut draw),
            };
            harms.into_iter().map(move |harm| (file.clone(), harm))
        })
        .collect();
    let (next, met, missed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let room = scratch();
                let dir = room.path().join("state");
                while let Some((file, harm)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _ = fs::remove_dir_all(&dir);
                    fs::create_dir(&dir).unwrap();
                    fs::set_permissions(&dir, fs::metadata(base.dir.path()).unwrap().permissions()).unwrap();
                    copy(base.dir.path(), &dir);
                    let outcome = catch_unwind(AssertUnwindSafe(|| meet(&base, file, *harm, &dir)));
                    match outcome.unwrap_or_else(|_| Err("it panicked".into())) {
                        Ok(how) => *met.lock().unwrap().entry((file.clone(), how)).or_default() += 1,
                        Err(why) => missed.lock().unwrap().push(format!("{} {harm:?}: {why}", file.display())),
                    }
                }
            });
        }
    });
    let (met, missed) = (met.into_inner().unwrap(), missed.into_inner().unwrap());
    for ((file, how), times) in &met {
        println!("{:>8} {how:?} {}", times, file.display());
    }
    let shown: Vec<&str> = missed.iter().take(12).map(|miss| &miss[..miss.len().min(1_500)]).collect();
    assert!(
        missed.is_empty(),
        "seed {seed}: {} of {} were not noticed:\n{}",
        missed.len(),
        cases.len(),
        shown.join("\n")
    );
    met
}

/// The sum over all files.
fn times(met: &BTreeMap<(PathBuf, Met), usize>, how: Met) -> usize {
    met.iter().filter(|((_, met), _)| *met == how).map(|(_, times)| times).sum()
}

#[test]
fn no_damage_to_a_closed_state_directory_passes_for_truth() {
    let met = sweep(false);
    // Every way of meeting it is there, or the sweep does not reach what it is for.
    for how in [Met::ByVerify, Met::ByOpening, Met::ByReading, Met::Harmless] {
        assert!(times(&met, how) > 0, "never {how:?}: {met:?}");
    }
}

#[test]
fn no_damage_to_what_a_kill_left_passes_for_truth() {
    let met = sweep(true);
    let wal = Path::new("journal.db-wal").to_owned();
    assert!(met.iter().any(|((file, how), _)| *file == wal && *how != Met::Harmless), "{met:?}");
}

/// Largest and smallest numbers where small ones belong: refused, never a panic, an overflow or a loop.
#[test]
fn absurd_numbers_are_refused() {
    for sql in [
        "UPDATE leaves SET seq = 9223372036854775807 WHERE seq = (SELECT max(seq) FROM leaves)",
        "UPDATE leaves SET seq = 9223372036854775806 WHERE seq = (SELECT max(seq) FROM leaves)",
        "UPDATE leaves SET seq = 4611686018427387904 WHERE seq = (SELECT max(seq) FROM leaves)",
        "UPDATE leaves SET seq = -9223372036854775808 WHERE seq = 0",
        "UPDATE hashes SET idx = 9223372036854775807 WHERE idx = (SELECT max(idx) FROM hashes)",
        "UPDATE checkpoints SET size = 9223372036854775807 WHERE size = (SELECT max(size) FROM checkpoints)",
        "UPDATE payloads SET seq = 9223372036854775807 WHERE seq = (SELECT max(seq) FROM payloads)",
        "UPDATE runs SET id = 9223372036854775807 WHERE id = (SELECT max(id) FROM runs)",
    ] {
        let dir = tempfile::tempdir().unwrap();
        common::filled(dir.path(), 9);
        assert_eq!(common::tamper(dir.path(), sql), 1, "{sql}");
        let verified = verify(dir.path(), None, None);
        match Journal::open(dir.path(), Options::default()) {
            Err(_) => assert!(verified.is_err(), "{sql}"),
            Ok(opened) => {
                let went_on = opened.journal.append_wait(batch(99));
                assert!(verified.is_err() || went_on.is_ok(), "{sql}: {went_on:?}");
            }
        }
    }
}
