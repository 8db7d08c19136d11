use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::*;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(mode: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        place.human(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (id INTEGER PRIMARY KEY, n)"));
        place
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.dir.path().join(format!("a.db{suffix}"))
    }

    fn human(&self, sql: &str) {
        Connection::open(self.path("")).unwrap().execute_batch(sql).unwrap();
    }

    fn count(&self) -> i64 {
        Connection::open(self.path("")).unwrap().query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap()
    }

    fn slot(&self) -> Arc<Slot> {
        Slot::new(File::at(&self.path("")).unwrap())
    }

    /// Locks of this process on the file, as the kernel lists them.
    fn locks(&self) -> usize {
        let own = format!(" {} ", std::process::id());
        let inode = format!(":{} ", fs::metadata(self.path("")).unwrap().ino());
        let all = fs::read_to_string("/proc/locks").unwrap();
        all.lines().filter(|line| line.contains(&own) && line.contains(&inode)).count()
    }
}

fn lease(slot: &Arc<Slot>) -> Lease {
    slot.lease(Duration::ZERO).unwrap()
}

/// Inserts a row and keeps the connection; says whether it was a kept one already.
fn insert(slot: &Arc<Slot>) -> bool {
    let lease = lease(slot);
    let used = lease.used;
    lease.connection.execute_batch("INSERT INTO t (n) VALUES (1); COMMIT").unwrap();
    lease.keep();
    used
}

/// Reads through a connection that is kept; says whether it was a kept one already, and the count.
fn read(slot: &Arc<Slot>) -> (bool, i64) {
    let reader = slot.reader(Duration::ZERO).unwrap();
    let seen = (reader.used, reader.connection.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap());
    reader.keep();
    seen
}

#[test]
fn looking_at_the_file_again_gives_up_no_lock() {
    for mode in ["wal", "delete"] {
        let place = Place::new(mode);
        let slot = place.slot();
        let lease = lease(&slot);
        let held = place.locks();
        assert!(held > 0, "an open transaction locks the file");
        slot.file.still().unwrap();
        drop(slot.reader(Duration::ZERO).unwrap());
        place.slot();
        assert_eq!(place.locks(), held, "{mode}: another process could write into the staged transaction");
        drop(lease);
    }
}

#[test]
fn connections_are_kept_and_own_writes_do_not_close_them() {
    for mode in ["wal", "delete"] {
        let place = Place::new(mode);
        let slot = place.slot();
        assert!(!insert(&slot));
        assert_eq!(read(&slot), (false, 1));
        assert!(insert(&slot), "{mode}");
        assert_eq!(read(&slot), (true, 2), "{mode}");
        drop(lease(&slot));
        assert!(!insert(&slot), "{mode}: what was rolled back is not used again");
    }
}

#[test]
fn a_read_that_went_wrong_closes_its_connection() {
    let place = Place::new("wal");
    let slot = place.slot();
    assert_eq!(read(&slot), (false, 0));
    drop(slot.reader(Duration::ZERO).unwrap());
    assert_eq!(read(&slot), (false, 0));
    assert_eq!(read(&slot), (true, 0));
}

#[test]
fn idle_connections_hold_no_lock_on_writers_and_are_closed() {
    let place = Place::new("wal");
    let slot = place.slot();
    insert(&slot);
    read(&slot);
    place.human("INSERT INTO t (n) VALUES (2); PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(fs::metadata(place.path("-wal")).unwrap().len(), 0, "nothing stood against the checkpoint");
    assert!(!slot.retire(Instant::now()), "used a moment ago");
    assert!(place.path("-wal").exists());
    assert!(slot.retire(Instant::now() + IDLE));
    assert!(!place.path("-wal").exists(), "the last connection folded the log in");
    assert_eq!(read(&slot), (false, 2));
}

#[test]
fn a_log_that_was_taken_away_is_noticed_and_not_written_back() {
    let place = Place::new("wal");
    let slot = place.slot();
    insert(&slot);
    read(&slot);
    // What was not checkpointed is lost with the log; what another process does next must not be.
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(place.path(suffix)).unwrap();
    }
    let elsewhere = Place { dir: tempfile::tempdir().unwrap() };
    fs::copy(place.path(""), elsewhere.path("")).unwrap();
    elsewhere.human("INSERT INTO t (n) VALUES (7), (8), (9)");
    fs::write(place.path(""), fs::read(elsewhere.path("")).unwrap()).unwrap();
    assert!(!insert(&slot));
    drop(slot);
    assert_eq!(place.count(), 4);
}

#[test]
fn nothing_is_written_into_a_log_that_is_no_longer_there() {
    let place = Place::new("wal");
    let slot = place.slot();
    insert(&slot);
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(place.path(suffix)).unwrap();
    }
    assert!(!insert(&slot));
    drop(slot);
    assert_eq!(place.count(), 1, "the second row; the first went with the log");
}

#[test]
fn a_log_taken_away_while_staged_is_not_committed_into() {
    let place = Place::new("wal");
    let lease = lease(&place.slot());
    fs::remove_file(place.path("-wal")).unwrap();
    assert_eq!(lease.still().unwrap_err().code, Code::Moved);
}

#[test]
fn a_backup_restored_in_place_is_read_anew() {
    for mode in ["wal", "delete"] {
        let place = Place::new(mode);
        let slot = place.slot();
        let backup = fs::read(place.path("")).unwrap();
        insert(&slot);
        read(&slot);
        place.human("PRAGMA wal_checkpoint(TRUNCATE)");
        insert(&slot);
        place.human("PRAGMA wal_checkpoint(TRUNCATE)");
        fs::write(place.path(""), &backup).unwrap();
        assert_eq!(read(&slot), (false, 0), "{mode}");
        assert!(!insert(&slot), "{mode}");
        assert_eq!(place.count(), 1, "{mode}");
    }
}

#[test]
fn another_journal_mode_opens_another_connection() {
    let place = Place::new("delete");
    let slot = place.slot();
    insert(&slot);
    place.human("PRAGMA journal_mode = wal; INSERT INTO t (n) VALUES (2)");
    insert(&slot);
    assert_eq!(read(&slot), (false, 3));
    assert!(place.path("-wal").exists());
    slot.retire(Instant::now() + IDLE);
    place.human("PRAGMA journal_mode = delete; INSERT INTO t (n) VALUES (3)");
    assert_eq!((insert(&slot), read(&slot)), (false, (false, 5)));
    assert!(!place.path("-wal").exists());
}

#[test]
fn a_changed_schema_is_read_again() {
    let place = Place::new("wal");
    let slot = place.slot();
    insert(&slot);
    place.human("CREATE TABLE u (x)");
    let lease = lease(&slot);
    assert!(lease.used && lease.catalog().unwrap().tables.contains_key("u"));
    lease.connection.execute_batch("DROP TABLE u").unwrap();
    assert!(!lease.catalog().unwrap().tables.contains_key("u"));
}

#[test]
fn nothing_of_the_action_before_is_left() {
    let place = Place::new("wal");
    let slot = place.slot();
    insert(&slot);
    let ask = |lease: &Lease, what: &str| -> i64 {
        lease.connection.query_row(&format!("SELECT {what}()"), [], |r| r.get(0)).unwrap()
    };
    let lease = lease(&slot);
    assert_eq!((lease.used, ask(&lease, "last_insert_rowid"), ask(&lease, "total_changes")), (true, 0, 1));
    let lease = lease.without_past(Duration::ZERO).unwrap();
    assert_eq!((ask(&lease, "changes"), ask(&lease, "total_changes")), (0, 0));
}
