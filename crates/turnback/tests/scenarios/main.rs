//! Runs every story in `scenarios/`: one test for each file, each with a node of its own, driven through
//! its real doors. The format is described in `scenarios/README.md`.

mod cli;
mod crowd;
mod doors;
mod format;
mod place;
mod raw;
mod record;
#[path = "../../../turnback-gateway/tests/support/service.rs"]
mod service;
mod story;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// What is wrong, in words for whoever reads the failed test.
type Wrong = String;

/// A flood needs both ends of as many connections as the door takes: more descriptors than is usual.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Where it is not permitted the story that needs them says so itself.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn main() -> ExitCode {
    more_descriptors();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut files = Vec::new();
    let read = stories(&folder, &mut files);
    if read.is_err() || files.is_empty() {
        eprintln!("no scenarios in {}: {read:?}", folder.display());
        return ExitCode::FAILURE;
    }
    files.sort();
    let trials = files.into_iter().map(|file| {
        let name = file.strip_prefix(&folder).unwrap_or(&file).with_extension("").display().to_string();
        let read = story::read(&file);
        let ignored = read.as_ref().is_ok_and(|s| s.setup.small_disk.is_some()) && !place::may_mount();
        let test = Trial::test(name.clone(), move || {
            let played = read.and_then(|story| story::play(&story));
            played.map_err(|wrong| Failed::from(format!("scenarios/{name}.toml: {wrong}")))
        });
        test.with_ignored_flag(ignored)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn stories(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            stories(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "toml") {
            found.push(path);
        }
    }
    Ok(())
}
