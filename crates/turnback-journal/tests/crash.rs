//! Killed at every boundary, failing where it hurts, on a disk that fills up: nothing acknowledged is
//! lost, nothing half-written is there. `cargo nextest run -p turnback-journal --features failpoints`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{batch, entry, open};
use turnback_core::digest::Sha256;
use turnback_core::refusal::{Code, Refusal};
use turnback_journal::{Batch, Journal, JournalError, Options, SMALL, verify};

/// Runs the ignored test `name` of this program in a process of its own, on `dir`.
fn child(name: &str, dir: &Path, point: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture"])
        .env("JOURNAL_DIR", dir)
        .env("JOURNAL_POINT", point)
        .output()
        .unwrap()
}

fn told(output: &Output) -> u64 {
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains("acknowledged ")).count() as u64
}

/// Appends batches of two until something happens.
#[test]
#[ignore = "only as a child of the tests below"]
fn append_until_killed() {
    let dir = PathBuf::from(std::env::var("JOURNAL_DIR").unwrap());
    let point = std::env::var("JOURNAL_POINT").unwrap();
    let (point, action) = point.split_once('=').unwrap();
    fail::cfg(point, action).unwrap();
    let journal = open(&dir);
    for n in 0..20 {
        let seqs =
            journal.append_wait(Batch { entries: vec![entry(n, "one"), entry(n, "two")], blobs: vec![] }).unwrap();
        println!("acknowledged {seqs:?}");
        if n % 2 == 1 {
            journal.checkpoint().unwrap();
        }
    }
}

#[test]
fn a_kill_at_any_boundary_loses_nothing_acknowledged() {
    for (point, more) in
        [("journal-before-commit", 0), ("journal-after-commit", 2), ("journal-before-checkpoint-file", 0)]
    {
        let dir = tempfile::tempdir().unwrap();
        let output = child("append_until_killed", dir.path(), &format!("{point}=5*off->return"));
        assert_eq!(output.status.signal(), Some(9), "{point}: {output:?}");
        let acknowledged = told(&output) * 2;
        assert!(acknowledged >= 10, "{point}: {acknowledged}");

        let report = verify(dir.path(), None, None).unwrap_or_else(|e| panic!("{point}: {e}"));
        assert_eq!(report.records, acknowledged + more, "{point}: batches are whole");
        let journal = open(dir.path());
        assert_eq!(journal.len(), acknowledged + more, "{point}");
        assert_eq!(journal.append_wait(batch(99)).unwrap(), [acknowledged + more], "{point}");
        journal.close();
        let report = verify(dir.path(), None, None).unwrap();
        assert_eq!(report.vouched, report.records, "{point}");
    }
}

/// A power cut tears the first page of a journal that is being made. SQLite's rollback journal beside it says
/// that the file was empty before (<https://www.sqlite.org/fileformat2.html#the_rollback_journal>).
#[test]
fn a_first_page_torn_while_it_is_made_leaves_nothing_in_the_way() {
    let mut hot = vec![0; 512];
    hot[..8].copy_from_slice(&[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]);
    hot[22..24].copy_from_slice(&512u16.to_be_bytes());
    hot[26..28].copy_from_slice(&4096u16.to_be_bytes());
    let torn = |beside: bool| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("journal.db"), [0; 4096]).unwrap();
        if beside {
            std::fs::write(dir.path().join("journal.db-journal"), &hot).unwrap();
        }
        for file in std::fs::read_dir(dir.path()).unwrap() {
            std::fs::set_permissions(file.unwrap().path(), Permissions::from_mode(0o600)).unwrap();
        }
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        dir
    };
    let dir = torn(true);
    let journal = open(dir.path());
    assert_eq!(journal.append_wait(batch(1)).unwrap(), [0]);
    journal.close();
    // Without it, it is somebody else's file.
    let dir = torn(false);
    let refused = Journal::open(dir.path(), Options::default()).map(drop).unwrap_err();
    assert!(refused.to_string().contains("is not an SQLite database"), "{refused}");
    assert_eq!(std::fs::read(dir.path().join("journal.db")).unwrap(), [0; 4096]);
}

#[test]
fn a_kill_while_it_is_made_leaves_nothing_in_the_way() {
    for point in ["journal-before-made", "journal-before-first-checkpoint"] {
        let dir = tempfile::tempdir().unwrap();
        let output = child("append_until_killed", dir.path(), &format!("{point}=return"));
        assert_eq!((output.status.signal(), told(&output)), (Some(9), 0), "{point}: {output:?}");
        let journal = open(dir.path());
        assert_eq!(journal.append_wait(batch(1)).unwrap(), [0], "{point}");
        journal.close();
        assert_eq!(verify(dir.path(), None, None).unwrap().vouched, 1, "{point}");
    }
}

#[test]
fn a_commit_that_reports_an_error_is_unknown_even_when_it_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.append_wait(batch(1)).unwrap();
    fail::cfg("journal-after-commit", "return(error)").unwrap();
    let failed = journal.append_wait(batch(2)).unwrap_err();
    fail::remove("journal-after-commit");
    assert!(matches!(failed, JournalError::Unknown { .. }), "{failed:?}");
    assert!(matches!(journal.append_wait(batch(3)), Err(JournalError::Poisoned { .. })), "until it is reopened");
    journal.close();
    // The fate that was unknown: it is there. Only reopening could tell.
    assert_eq!(open(dir.path()).len(), 2);
}

/// Fills a disk of 2 MiB; exits cleanly when everything held.
#[test]
#[ignore = "only as a child of the test below"]
fn append_until_full() {
    let dir = PathBuf::from(std::env::var("JOURNAL_DIR").unwrap()).join("state");
    let journal = Journal::open(&dir, Options::default()).unwrap().journal;
    // A pre-image that does not fit is refused by name, and harms nothing else.
    let huge = vec![3; 4 * 1024 * 1024];
    let refused = journal
        .append_wait(Batch { entries: vec![entry(0, "x")], blobs: vec![(Sha256::of(&huge), huge)] })
        .unwrap_err();
    assert!(matches!(refused, JournalError::Vault { full: true, .. }), "{refused:?}");
    assert_eq!(Refusal::from(refused).code, Code::DiskFull);
    assert_eq!((journal.poisoned(), journal.len()), (None, 0));

    let mut kept = 0;
    let failed = loop {
        let bytes = vec![u8::try_from(kept).unwrap(); SMALL / 4];
        match journal.append_wait(Batch { entries: vec![entry(kept, "x")], blobs: vec![(Sha256::of(&bytes), bytes)] }) {
            Ok(_) => kept += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(failed, JournalError::Unknown { .. }), "{failed:?}");
    assert!(kept > 2 && journal.poisoned().is_some());
    assert!(matches!(journal.append_wait(batch(1)), Err(JournalError::Poisoned { .. })));
    journal.close();
    let report = verify(&dir, None, None).unwrap();
    assert!(u128::from(report.records) >= kept, "{} of {kept}", report.records);
    println!("acknowledged {kept}");
}

/// Runs a child test in a mount namespace of its own (needs user namespaces or root), after `mount`.
fn child_after(mount: &str, name: &str, dir: &Path) -> Output {
    let script = format!("{mount} && exec \"$0\" {name} --exact --ignored --nocapture");
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("JOURNAL_DIR", dir)
        .output()
        .unwrap()
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=2m,mode=0700 tmpfs \"$JOURNAL_DIR\"";
    let output = child_after(mount, "append_until_full", dir.path());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(told(&output), 1, "{output:?}");
}

#[test]
#[ignore = "only as a child of the test below"]
fn verify_there() {
    let dir = PathBuf::from(std::env::var("JOURNAL_DIR").unwrap());
    assert!(std::fs::write(dir.join("x"), "x").is_err(), "read-only");
    println!("acknowledged {}", verify(&dir, None, None).unwrap().records);
}

#[test]
fn a_copy_on_read_only_media_verifies() {
    let dir = tempfile::tempdir().unwrap();
    common::filled(dir.path(), 3);
    for beside in ["journal.db-wal", "journal.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(beside));
    }
    let mount = "mount --bind \"$JOURNAL_DIR\" \"$JOURNAL_DIR\" && mount -o remount,bind,ro \"$JOURNAL_DIR\"";
    let output = child_after(mount, "verify_there", dir.path());
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("acknowledged 3"), "{output:?}");
}
