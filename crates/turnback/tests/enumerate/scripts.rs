//! What is recorded, by name: a script, whether the node is killed in it, and the journal mode of the governed
//! database.

use turnback_faults::{Call, Injector, Kind, Struck, Verdict};

use crate::common::fits::{Act, Do};
use crate::common::script;

/// Each is a test.
pub(crate) const NAMES: &[&str] = &[
    "rows_wal",
    "rows_delete",
    "rows_killed_delete",
    "files_wal",
    "files_killed_wal",
    "questions_wal",
    "questions_delete",
    "large_wal",
];

/// The acts of a script.
pub(crate) fn of(name: &str) -> Vec<Act> {
    match name.split_once('_').map(|(script, _)| script) {
        Some("rows") => script::rows(),
        Some("files") => script::files(),
        Some("large") => large(),
        _ => script::questions(),
    }
}

/// Where the node is killed in the last act, as by `kill -9`: the recording then goes on with the recovery.
pub(crate) fn kill(name: &str) -> Option<Injector> {
    let of_files = |call: &Call| call.path().to_string_lossy().contains("work");
    let of_rows = |call: &Call| call.path().ends_with("shop.db");
    let (kind, counts): (_, fn(&Call) -> bool) = match name {
        // Between the first and the second step of the undo of three runs.
        "files_killed_wal" => (Kind::Name, of_files),
        // Between the first and the second page of the undo of two runs.
        "rows_killed_delete" => (Kind::Write, of_rows),
        _ => return None,
    };
    Some(Injector { kind, counts, nth: 1, verdict: Verdict::Kill, struck: Struck::later() })
}

/// A pre-image too large for the journal lies in the vault.
fn large() -> Vec<Act> {
    let insert = "insert into ledger (what) values (hex(zeroblob(150000)))";
    vec![
        script::sql(insert, |w| w.rows.get_mut("ledger").unwrap().push("0".repeat(300_000))),
        script::sql("delete from ledger where id = 1", |w| w.rows.get_mut("ledger").unwrap().clear()),
        script::act(Do::Undo(vec![1])),
    ]
}
