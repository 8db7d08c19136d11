//! Appending, reopening, reading back, and every way a write is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::mpsc;

use common::{at, batch, copy, entry, filled, open, row, run, tamper};
use turnback_core::digest::Sha256;
use turnback_core::names::{AgentName, ApprovalId};
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::Event;
use turnback_journal::{Batch, Journal, JournalError, Options, Projection, RowFilter, SMALL, Table, slots_dir, verify};
use uuid::Uuid;

#[test]
fn what_is_appended_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Journal::open(dir.path(), Options::default()).unwrap();
    assert!(opened.fresh && opened.journal.is_empty());
    let seqs = opened
        .journal
        .append_wait(Batch { entries: vec![entry(1, "first"), entry(2, "other"), entry(1, "second")], blobs: vec![] })
        .unwrap();
    assert_eq!(seqs, [0, 1, 2]);
    opened.journal.close();

    let opened = Journal::open(dir.path(), Options::default()).unwrap();
    assert!(!opened.fresh);
    assert_eq!(opened.journal.len(), 3);
    let events = opened.journal.run_events(run(1)).unwrap();
    let why = |why: &str| Body::Run { run: run(1), event: Event::Abandoned { why: why.into() } };
    assert_eq!(events, [(0, at(1), why("first")), (2, at(1), why("second"))]);
    assert_eq!(opened.journal.append_wait(batch(3)).unwrap(), [3]);
    assert_eq!(verify(dir.path(), None, None).unwrap().records, 4, "verified beside the open journal");
}

#[test]
fn sixty_four_callers_share_commits_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let seqs: BTreeSet<u64> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..64_u128)
            .map(|caller| {
                let journal = &journal;
                scope.spawn(move || {
                    (0..20).flat_map(|i| journal.append_wait(batch(caller * 100 + i)).unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        callers.into_iter().flat_map(|c| c.join().unwrap()).collect()
    });
    assert_eq!(seqs, (0..64 * 20).collect());
    // Dropped, not closed: what was acknowledged is there all the same.
    drop(journal);
    assert_eq!(open(dir.path()).len(), 64 * 20);
    let report = verify(dir.path(), None, None).unwrap();
    assert_eq!((report.records, report.runs, report.vouched), (64 * 20, 64 * 20, 64 * 20));
}

#[test]
fn runs_are_found_by_every_property() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let question = ApprovalId::new(Uuid::from_u128(0xfeed_beef));
    let put = |change: &dyn Fn(&mut turnback_core::record::Row), n| {
        let mut row = row(n);
        change(&mut row);
        let mut entry = entry(n, "moved");
        entry.project = vec![Projection::Run(Box::new(row))];
        journal.append_wait(Batch { entries: vec![entry], blobs: vec![] }).unwrap();
    };
    put(&|_| (), 0xaaaa_0001);
    put(&|r| (r.resource, r.reads, r.updated) = ("files".into(), vec!["a.txt".into()], at(7)), 0xaaaa_0002);
    put(&|r| (r.over, r.undelivered, r.state) = (true, true, "denied".into()), 0xbbbb_0003);
    put(&|r| (r.over, r.committed, r.undoes) = (true, Some(at(50)), vec![run(0xaaaa_0001)]), 0xbbbb_0004);
    put(&|r| (r.question, r.expires) = (Some(question), Some(at(90))), 0xbbbb_0005);
    put(&|r| r.actor = turnback_core::contract::Actor::Operator("mia".into()), 0xbbbb_0006);
    let expired = |now| journal.rows(&RowFilter { expired_by: Some(at(now)), ..RowFilter::default() }).unwrap().len();
    assert_eq!((expired(89), expired(90)), (0, 1));
    // Moved on: the question no longer waits, and the run keeps its place in the list.
    put(&|_| (), 0xbbbb_0005);

    let list = |filter: RowFilter| -> Vec<u128> {
        journal.rows(&filter).unwrap().iter().map(|r| r.run.uuid().as_u128() & 0xffff).collect()
    };
    let all = RowFilter::default;
    assert_eq!(list(all()), [6, 5, 4, 3, 2, 1], "newest first");
    assert_eq!(list(RowFilter { limit: Some(2), ..all() }), [6, 5]);
    assert_eq!(list(RowFilter { agent: Some(AgentName::new("coder").unwrap()), ..all() }), [5, 4, 3, 2, 1]);
    assert_eq!(list(RowFilter { resource: Some("files".into()), ..all() }), [2]);
    assert_eq!(list(RowFilter { state: Some("denied".into()), ..all() }), [3]);
    assert_eq!(list(RowFilter { open: true, ..all() }), [6, 5, 2, 1]);
    assert_eq!(list(RowFilter { committed_since: Some(at(50)), ..all() }), [4]);
    assert_eq!(list(RowFilter { committed_since: Some(at(51)), ..all() }), [0_u128; 0]);
    assert_eq!(list(RowFilter { read_since: Some(at(7)), ..all() }), [2]);
    assert_eq!(list(RowFilter { read_since: Some(at(8)), ..all() }), [0_u128; 0]);
    assert_eq!(expired(90), 0, "an answered question no longer expires");
    let denied = Some(row(0xbbbb_0003).action);
    assert_eq!(list(RowFilter { action: denied, unanswered: true, ..all() }), [3]);
    let undo = Some(row(0xbbbb_0004).action);
    assert_eq!(list(RowFilter { action: undo, unanswered: true, ..all() }), [0_u128; 0]);
    assert_eq!(list(RowFilter { question: Some(question), ..all() }), [5]);
    assert_eq!(list(RowFilter { undoes: Some(run(0xaaaa_0001)), ..all() }), [4]);

    let find = |text: &str| journal.find_run(text).unwrap().len();
    assert_eq!((find("r_aaaa0001"), find("aaaa0001"), find("0001"), find(&run(0xaaaa_0001).to_string())), (1, 1, 1, 1));
    assert_eq!((find("ap_feedbeef"), find(&question.to_string())), (1, 1));
    assert_eq!((find("0009"), find("1"), find(""), find("r_%%%%"), find("ap_00000001")), (0, 0, 0, 0, 0));
    put(&|_| (), 0xcccc_0001);
    assert_eq!((find("0001"), find("r_cccc0001")), (2, 1), "more than one is told as more than one");
    assert_eq!(journal.row(run(0xbbbb_0005)).unwrap().unwrap().question, None);
    assert_eq!(journal.row(run(0x9999)).unwrap(), None);
}

#[test]
fn small_tables_keep_the_last_value() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let append = |project| {
        let mut entry = entry(1, "x");
        entry.project.extend(project);
        journal.append_wait(Batch { entries: vec![entry], blobs: vec![] }).unwrap();
    };
    let put = |key: &str, value: u64| Projection::Put { table: Table::Switches, key: key.into(), value: value.into() };
    append(vec![put("b", 1), put("a", 2), put("b", 3)]);
    assert_eq!(journal.table(Table::Switches).unwrap(), [("a".into(), 2.into()), ("b".into(), 3.into())]);
    append(vec![Projection::Delete { table: Table::Switches, key: "b".into() }]);
    assert_eq!(journal.table(Table::Switches).unwrap(), [("a".into(), 2.into())]);
    assert_eq!(journal.get(Table::Switches, "a").unwrap(), Some(2.into()));
    assert_eq!(journal.get(Table::Agents, "a").unwrap(), None);
}

#[test]
fn blobs_come_back_or_are_told_lost() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let small = b"a pre-image".to_vec();
    let large = vec![7; SMALL + 1];
    let (s, l) = (Sha256::of(&small), Sha256::of(&large));
    let put = || Batch { entries: vec![entry(1, "x")], blobs: vec![(s, small.clone()), (l, large.clone())] };
    journal.append_wait(put()).unwrap();
    let blobs = journal.blobs();
    assert_eq!(blobs.get(&s).unwrap(), small);
    assert_eq!(blobs.get(&l).unwrap(), large);
    let file = dir.path().join(format!("vault/blobs/{}/{l}", &l.to_string()[..2]));
    assert_eq!(std::fs::metadata(&file).unwrap().len(), large.len() as u64);

    let lost = |hash: &Sha256| blobs.get(hash).unwrap_err();
    assert_eq!(lost(&Sha256::of(b"never stored")).code, Code::SnapshotLost);
    std::fs::write(&file, b"altered").unwrap();
    assert!(lost(&l).message.contains("altered"));
    tamper(dir.path(), "UPDATE blobs SET body = x'00'");
    assert!(lost(&s).message.contains("altered"));
    std::fs::remove_file(&file).unwrap();
    assert!(lost(&l).message.contains("missing"));

    journal.append_wait(put()).unwrap();
    assert_eq!((blobs.get(&s).unwrap(), blobs.get(&l).unwrap()), (small.clone(), large), "storing again heals");

    let len = journal.len();
    let wrong = Batch { entries: vec![entry(1, "x")], blobs: vec![(l, small)] };
    assert!(matches!(journal.append_wait(wrong), Err(JournalError::BadBatch { .. })));
    assert_eq!((journal.len(), journal.poisoned()), (len, None));
}

#[test]
fn a_failed_write_poisons_until_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_pages: Some(120), ..Options::default() };
    let journal = Journal::open(dir.path(), options).unwrap().journal;
    let mut kept = Vec::new();
    let failed = loop {
        let mut batch = batch(kept.len() as u128);
        let bytes = vec![u8::try_from(kept.len()).unwrap(); 20_000];
        batch.blobs.push((Sha256::of(&bytes), bytes));
        match journal.append_wait(batch) {
            Ok(seqs) => kept.extend(seqs),
            Err(e) => break e,
        }
    };
    assert!(kept.len() > 3, "it filled up only after a while");
    let JournalError::Unknown { why } = failed else { panic!("the batch that failed is unknown, not {failed:?}") };
    assert!(why.contains("full"), "{why}");
    assert_eq!(journal.poisoned(), Some(why.clone()));
    // A tiny batch would fit; it is refused all the same, and so is a checkpoint.
    let refused = journal.append_wait(batch(1)).unwrap_err();
    assert_eq!(refused, JournalError::Poisoned { why: why.clone() });
    assert_eq!(Refusal::from(refused).code, Code::Unavailable);
    assert_eq!(journal.checkpoint(), Err(JournalError::Poisoned { why }));
    assert_eq!(journal.run_events(run(1)).unwrap().len(), 1, "reading still works");
    journal.close();

    let journal = open(dir.path());
    assert_eq!(journal.len(), kept.len() as u64);
    journal.append_wait(batch(1)).unwrap();
    drop(journal);
    verify(dir.path(), None, None).unwrap();
}

#[test]
fn the_queue_is_bounded_and_never_waits() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), Options { queue: 4, ..Options::default() }).unwrap().journal;
    let (stopped, wait_stopped) = mpsc::channel();
    let (go, wait_go) = mpsc::channel::<()>();
    journal.append(batch(1), move |_| {
        stopped.send(()).unwrap();
        wait_go.recv().unwrap();
    });
    wait_stopped.recv().unwrap();
    let (tell, hear) = mpsc::channel();
    for n in 0..6 {
        let tell = tell.clone();
        journal.append(batch(n), move |answer| tell.send(answer).unwrap());
    }
    for _ in 0..2 {
        let overloaded = hear.recv().unwrap().unwrap_err();
        assert!(matches!(overloaded, JournalError::Overloaded { waiting: 4, .. }), "{overloaded}");
        assert_eq!(Refusal::from(overloaded).code, Code::Overloaded);
    }
    go.send(()).unwrap();
    let kept: Vec<u64> = (0..4).flat_map(|_| hear.recv().unwrap().unwrap()).collect();
    assert_eq!(kept, [1, 2, 3, 4], "what was queued is kept, in order");
    assert_eq!(journal.poisoned(), None);
}

#[test]
fn bytes_in_the_queue_are_bounded_too() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), Options { queue_bytes: 1, ..Options::default() }).unwrap().journal;
    let (stopped, wait_stopped) = mpsc::channel();
    let (go, wait_go) = mpsc::channel::<()>();
    journal.append(batch(1), move |_| {
        stopped.send(()).unwrap();
        wait_go.recv().unwrap();
    });
    wait_stopped.recv().unwrap();
    let (tell, hear) = mpsc::channel();
    for n in 0..2 {
        let tell = tell.clone();
        journal.append(batch(n), move |answer| tell.send(answer).unwrap());
    }
    assert!(matches!(hear.recv().unwrap(), Err(JournalError::Overloaded { .. })));
    go.send(()).unwrap();
    assert_eq!(hear.recv().unwrap().unwrap(), [1], "one batch goes in whatever its size");
}

#[test]
fn a_callers_panic_stops_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.append(batch(1), |_| panic!("a caller's own trouble"));
    assert_eq!(journal.append_wait(batch(2)).unwrap(), [1]);
    // The last clone may also go away on the writer's own thread.
    let (tell, hear) = mpsc::channel();
    let last = journal.clone();
    journal.append(batch(3), move |answer| {
        drop(last);
        tell.send(answer).unwrap();
    });
    drop(journal);
    assert_eq!(hear.recv().unwrap().unwrap(), [2]);
}

#[test]
fn one_gateway_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let refused = Journal::open(dir.path(), Options::default()).unwrap_err();
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    assert_eq!(Refusal::from(refused).code, Code::Busy);
    let reader = journal.clone();
    journal.close();
    assert_eq!(reader.append_wait(batch(1)), Err(JournalError::Closed));
    assert_eq!(reader.checkpoint(), Err(JournalError::Closed));
    open(dir.path()).append_wait(batch(1)).unwrap();
    assert_eq!(reader.run_events(run(1)).unwrap().len(), 1);
}

#[test]
fn nobody_else_can_look_in() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    let journal = open(&dir);
    let large = vec![1; SMALL + 1];
    journal.append_wait(Batch { entries: vec![entry(1, "x")], blobs: vec![(Sha256::of(&large), large)] }).unwrap();
    journal.checkpoint().unwrap();
    assert!(slots_dir(&dir).is_dir());
    let mut seen = 0;
    let mut left = vec![dir.clone()];
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let expected = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.mode() & 0o7777, expected, "{}", path.display());
        if meta.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        seen += 1;
    }
    assert!(seen >= 13, "lock, journal and its two files, key pair, checkpoint, five directories, a blob: {seen}");
    journal.close();

    for (path, mode) in [(dir.clone(), 0o750), (dir.join("log.key"), 0o640), (dir.join("journal.db"), 0o604)] {
        let right = std::fs::metadata(&path).unwrap().permissions();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let refused = Journal::open(&dir, Options::default()).unwrap_err().to_string();
        assert!(refused.contains("open to other users"), "{refused}");
        std::fs::set_permissions(&path, right).unwrap();
    }
    open(&dir);
}

/// What opening says about a state directory, after something happened to it.
fn refused_after(n: u128, harm: impl FnOnce(&std::path::Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), n);
    harm(dir.path());
    let before = std::fs::read(dir.path().join("journal.db")).ok();
    let refused = Journal::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(refused, JournalError::Unfit { .. }), "{refused:?}");
    assert_eq!(std::fs::read(dir.path().join("journal.db")).ok(), before, "nothing is changed");
    refused.to_string()
}

#[test]
fn a_damaged_or_foreign_state_directory_is_refused() {
    let remove = |name: &'static str| move |dir: &std::path::Path| std::fs::remove_file(dir.join(name)).unwrap();
    let sql = |sql: &'static str| {
        move |dir: &std::path::Path| {
            let _ = tamper(dir, sql);
        }
    };
    assert!(refused_after(3, remove("journal.db")).contains("missing or empty"));
    assert!(refused_after(3, remove("log.key")).contains("own key"));
    assert!(refused_after(3, remove("checkpoint")).contains("nothing vouches"));
    assert!(refused_after(3, |dir| std::fs::write(dir.join("checkpoint"), "x").unwrap()).contains("signed note"));
    let junk = |dir: &std::path::Path| std::fs::write(dir.join("journal.db"), [7; 8192]).unwrap();
    assert!(refused_after(3, junk).contains("not an SQLite database"));
    assert!(refused_after(3, sql("PRAGMA user_version = 1")).contains("has format 1"));
    assert!(refused_after(3, sql("PRAGMA application_id = 9")).contains("no journal"));
    assert!(refused_after(3, sql("DELETE FROM leaves WHERE seq = 2")).contains("its tree does not have their hashes"));
    assert!(refused_after(3, sql("UPDATE hashes SET hash = zeroblob(32) WHERE idx = 2")).contains("differs from"));
    assert!(refused_after(3, sql("UPDATE journal SET value = 'turnback/0'")).contains("not the journal of"));
    let other_key = |dir: &std::path::Path| {
        let other = tempfile::tempdir().unwrap();
        filled(other.path(), 1);
        for name in ["log.key", "log.pub"] {
            std::fs::copy(other.path().join(name), dir.join(name)).unwrap();
        }
    };
    assert!(refused_after(3, other_key).contains("not the journal of"));
    let cut = |dir: &std::path::Path| {
        let file = std::fs::OpenOptions::new().write(true).open(dir.join("journal.db")).unwrap();
        file.set_len(4096 * 3).unwrap();
    };
    assert!(!refused_after(3, cut).is_empty());
}

#[test]
fn an_older_copy_of_the_journal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 3);
    let old = tempfile::tempdir().unwrap();
    copy(&dir.path().join("journal.db"), &old.path().join("journal.db"));
    let journal = open(dir.path());
    journal.append_wait(batch(9)).unwrap();
    journal.close();
    copy(&old.path().join("journal.db"), &dir.path().join("journal.db"));
    let refused = Journal::open(dir.path(), Options::default()).unwrap_err().to_string();
    assert!(refused.contains("has 3 records, but its saved checkpoint vouches for 4"), "{refused}");
    assert!(verify(dir.path(), None, None).unwrap_err().to_string().contains("record 3: is missing"));
}

#[test]
fn the_log_is_signed_on_an_interval_only_while_it_grows() {
    let dir = tempfile::tempdir().unwrap();
    let every = std::time::Duration::from_millis(50);
    let journal = Journal::open(dir.path(), Options { checkpoint_every: every, ..Options::default() }).unwrap().journal;
    let checkpoint = || std::fs::read_to_string(dir.path().join("checkpoint")).unwrap();
    let empty = checkpoint();
    std::thread::sleep(every * 4);
    assert_eq!(checkpoint(), empty);
    journal.append_wait(batch(1)).unwrap();
    let patience = std::time::Instant::now();
    while checkpoint() == empty {
        assert!(patience.elapsed().as_secs() < 10, "no checkpoint was saved");
        std::thread::sleep(every);
    }
    assert_eq!(checkpoint().lines().nth(1), Some("1"));
    assert_eq!(journal.checkpoint().unwrap(), checkpoint(), "a tree that did not grow is not signed again");
    assert!(checkpoint().starts_with(journal.verifier_key().split('+').next().unwrap()));
}

/// Options under which only somebody who waits, or closing, makes the writer write.
fn patient() -> Options {
    Options { linger: std::time::Duration::from_secs(3600), ..Options::default() }
}

#[test]
fn what_nobody_waits_for_is_written_with_the_next_that_somebody_does() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), patient()).unwrap().journal;
    journal.append_wait(batch(0)).unwrap();
    let (told, heard) = mpsc::channel();
    let tell = |name: &'static str| {
        let told = told.clone();
        move |answer: Result<Vec<u64>, JournalError>| told.send((name, answer.unwrap())).unwrap()
    };
    journal.append_behind(batch(1), tell("behind"));
    journal.append_behind(batch(2), tell("behind too"));
    assert_eq!((journal.len(), heard.try_recv().ok()), (1, None), "it waits for company");
    journal.append(batch(3), tell("waited for"));
    let order: Vec<_> = (0..3).map(|_| heard.recv().unwrap()).collect();
    assert_eq!(order, [("behind", vec![1]), ("behind too", vec![2]), ("waited for", vec![3])]);

    // Whoever wants to see everything has it written.
    journal.append_behind(batch(4), tell("seen"));
    let (done, settled) = mpsc::channel();
    let tell_settled = |done: &mpsc::Sender<u64>, journal: &Journal| {
        let (done, journal) = (done.clone(), journal.clone());
        move || done.send(journal.len()).unwrap()
    };
    journal.settled(tell_settled(&done, &journal));
    assert_eq!((settled.recv().unwrap(), heard.recv().unwrap()), (5, ("seen", vec![4])));
    // Nothing waits: there is nothing to wait for.
    journal.settled(tell_settled(&done, &journal));
    assert_eq!(settled.recv().unwrap(), 5);

    // And closing writes what is left.
    journal.append_behind(batch(5), tell("left"));
    journal.close();
    assert_eq!(heard.recv().unwrap(), ("left", vec![5]));
    assert_eq!(open(dir.path()).len(), 6);
}

#[test]
fn what_lingers_is_written_when_nobody_comes() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    let (told, heard) = mpsc::channel();
    journal.append_behind(batch(0), move |answer| told.send(answer).unwrap());
    assert_eq!(heard.recv().unwrap().unwrap(), [0]);
}

#[test]
fn a_run_that_moves_twice_in_one_group_has_its_last_line_and_keeps_what_it_asked() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), patient()).unwrap().journal;
    let question = ApprovalId::new(Uuid::from_u128(0xfeed_beef));
    let put = |change: &dyn Fn(&mut turnback_core::record::Row)| {
        let mut row = row(1);
        change(&mut row);
        let mut entry = entry(1, "moved");
        entry.project = vec![Projection::Run(Box::new(row))];
        Batch { entries: vec![entry], blobs: vec![] }
    };
    journal.append_behind(put(&|r| (r.question, r.expires) = (Some(question), Some(at(90)))), |_| ());
    journal.append_behind(batch(2), |_| ());
    journal.append_wait(put(&|r| (r.state, r.over) = ("released".into(), true))).unwrap();
    let rows = journal.rows(&RowFilter::default()).unwrap();
    assert_eq!(
        rows.iter().map(|r| (r.run, r.state.as_str())).collect::<Vec<_>>(),
        [(run(2), "proposed"), (run(1), "released")]
    );
    assert_eq!(journal.rows(&RowFilter { question: Some(question), ..RowFilter::default() }).unwrap().len(), 1);
    assert!(journal.rows(&RowFilter { expired_by: Some(at(99)), ..RowFilter::default() }).unwrap().is_empty());
    journal.close();
    assert_eq!(verify(dir.path(), None, None).unwrap().records, 3);
}

#[test]
fn identities_are_found_by_any_number_of_their_last_digits() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    for n in [0x00ab_cdef_u128, 0xf0ab_cdef, 0xffff_ffff_ffff] {
        journal.append_wait(batch(n)).unwrap();
    }
    let all = run(0x00ab_cdef).uuid().simple().to_string();
    for digits in 4..=32 {
        let typed = &all[32 - digits..];
        let found = journal.find_run(typed).unwrap().len();
        assert_eq!(found, if digits <= 7 { 2 } else { 1 }, "{typed}");
    }
    // Digits beyond those in the index count too.
    assert!(journal.find_run(&format!("1{}", &all[1..])).unwrap().is_empty());
    assert_eq!(journal.find_run("ffff").unwrap().len(), 1);
}
