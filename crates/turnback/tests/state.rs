//! The state directory as it should not be: restored from an old copy while the world went on, moved, on
//! read-only media. (Opened twice, older than its checkpoint, damaged in the header: `doors.rs`; damaged
//! anywhere: the journal's `damage.rs`.)

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at the first surprise")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{CONFIG, Place, text};
use serde_json::json;

const ASKS: &str = "delete from stock where id > 3";

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// P8. A copy restored whole, checkpoint included, is whole in itself: what tells is the checkpoint kept
/// elsewhere. What a person had approved and what was done then is not done again on the old yes.
#[test]
fn an_old_copy_under_a_newer_world_is_told_by_the_checkpoint_kept_elsewhere() {
    let place = Place::new();
    let node = place.start();
    let token = node.register().unwrap();
    let waits = node.agent(&token).unwrap().call("shop__execute", &json!({ "sql": ASKS })).unwrap();
    let run = waits.run.unwrap();
    node.stop_in_order();
    copy(&place.path("state"), &place.path("older"));

    let node = place.start();
    let yes = json!({ "op": "approve", "approval": run });
    assert_eq!(node.ask(&yes).unwrap()["value"][0]["row"]["state"], "settled");
    let done = place.world();
    assert_eq!(done.rows["stock"].len(), 3);
    node.stop_in_order();
    let kept = place.path("kept");
    fs::copy(place.path("state/checkpoint"), &kept).unwrap();
    let verify = || place.run(&["verify", "--checkpoint", kept.to_str().unwrap()]);
    assert_eq!(verify().status.code(), Some(0), "{}", text(&verify()));

    // Only the journal is put back: the checkpoint beside it tells, and nothing starts.
    fs::rename(place.path("state/journal.db"), place.path("newer.db")).unwrap();
    fs::copy(place.path("older/journal.db"), place.path("state/journal.db")).unwrap();
    let ended = place.try_start("").err().unwrap();
    assert!(ended.said.contains("an old copy was restored"), "{}", ended.said);

    // All of it is put back: nothing in there can tell.
    fs::rename(place.path("state"), place.path("newer")).unwrap();
    copy(&place.path("older"), &place.path("state"));
    place.verify();
    let told = verify();
    assert!(told.status.code() != Some(0) && text(&told).contains("older checkpoint"), "{}", text(&told));
    let node = place.start();
    assert_eq!(node.show(&run)["row"]["state"], "parked", "the question waits again");
    // A new yes to the old question: the world is not as it was shown, so it is asked anew.
    let again = node.ask(&yes).unwrap();
    assert_eq!(again["value"][0]["row"]["state"], "parked", "{again}");
    assert_eq!(place.world(), done, "nothing was done twice");
    node.stop_in_order();
    // The restored log went its own way; that it is another one is told for good.
    let told = verify();
    assert!(told.status.code() != Some(0) && text(&told).contains("older checkpoint"), "{}", text(&told));
}

#[test]
fn a_state_directory_that_was_moved_works_where_it_is() {
    let place = Place::new();
    let node = place.start();
    let token = node.register().unwrap();
    let called = node.agent(&token).unwrap().call("work__delete", &json!({ "path": "a.txt" })).unwrap();
    node.stop_in_order();
    fs::create_dir(place.path("elsewhere")).unwrap();
    fs::rename(place.path("state"), place.path("elsewhere/moved")).unwrap();
    fs::write(place.path("turnback.toml"), CONFIG.replace("state = \"state\"", "state = \"elsewhere/moved\"")).unwrap();
    place.verify();
    let output = place.command(&["up"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    let mut child = output.unwrap();
    let socket = place.path("elsewhere/moved/operator.sock");
    let deadline = std::time::Instant::now() + common::PATIENCE;
    let undo = json!({ "op": "undo", "what": { "kind": "runs", "runs": [called.run.unwrap()] }, "dry_run": false });
    let undone = loop {
        match common::ask(&socket, &undo) {
            Ok(undone) => break undone,
            Err(e) => assert!(std::time::Instant::now() < deadline, "{e}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(undone["value"][0]["row"]["state"], "settled", "{undone}");
    assert_eq!(place.world().files["a.txt"], "one\n");
}

#[test]
fn read_only_media_are_refused_and_can_be_verified() {
    let config = CONFIG.split("[resources.work]").next().unwrap().to_owned() + "[policy]\npath = \"policies\"\n";
    let place = Place::with(&config);
    let state = place.path("state");
    fs::create_dir(&state).unwrap();
    let mount =
        |options: &str| Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&state).output();
    if !mount("size=16m,mode=700").is_ok_and(|output| output.status.success()) {
        eprintln!("mounting is not allowed here: read-only media cannot be played");
        return;
    }
    let node = place.start();
    node.register().unwrap();
    node.stop_in_order();
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&state).status();
    let (verified, ended) = (place.run(&["verify"]), place.try_start(""));
    // Before anything can fail, so that nothing stays mounted.
    assert!(Command::new("umount").arg("-l").arg(&state).status().unwrap().success());
    assert!(remounted.unwrap().success());
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified));
    let ended = ended.err().unwrap();
    assert!(ended.status.code() == Some(1) && ended.said.contains("ead-only"), "{}", ended.said);
    assert!(ended.said.contains("state"), "names the place: {}", ended.said);
}
