//! `turnback verify`: the whole log, and against a checkpoint saved elsewhere.
//!
//! Reads the journal itself, so that it works without a gateway and on a copy; only `--save` asks the
//! running gateway, which holds the key.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_gateway::operator::protocol::{Reply, Request};
use turnback_journal::{Report, VerifyError};

use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render::number;
use crate::render::style::{BAD, GOOD, next, paint};

/// Largest checkpoint file accepted, in bytes.
const CHECKPOINT_LIMIT: u64 = 1 << 16;

/// Longer than this, and a person wants to see that something happens.
const QUIET: Duration = Duration::from_secs(2);

/// Check that no record was altered, dropped, reordered or cut off
#[derive(clap::Args)]
#[command(
    long_about = "Check that no record was altered, dropped, reordered or cut off.\n\nWithout --checkpoint this finds damage \
                  and careless edits. Only a checkpoint kept where this machine cannot write it also finds that the whole \
                  log was replaced or an old copy restored: save one now and then with --save.",
    after_help = "Exit codes: 0 everything fits, 1 it could not be checked, 2 something does not fit."
)]
pub(crate) struct Args {
    /// A checkpoint saved earlier, which the log must continue
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Save a fresh checkpoint here once everything fits; may only replace the file given with
    /// --checkpoint
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let older = args.checkpoint.as_deref().map(read).transpose()?;
    let state = context.state()?;
    if !state.is_dir() {
        return Err(Refusal::new(Code::NotFound, "there is no state directory here, so nothing was recorded yet")
            .at(state.to_string_lossy())
            .next("turnback up")
            .into());
    }
    // Asked first: a checkpoint is only worth saving when the log verified is the one it signs.
    let report = match verify(&state, older.as_deref()) {
        Ok(report) => report,
        Err(VerifyError::Misfit(misfit)) => {
            let value = json!({ "fits": false, "seq": misfit.seq, "what": misfit.what });
            context.answer(&value, |_| {
                let place = misfit.seq.map_or_else(String::new, |seq| format!("record #{}: ", number::count(seq)));
                format!(
                    "{} {place}{}\n next: keep this state directory as it is for inquiry; compare it with a backup\n",
                    paint(BAD, "does not fit:"),
                    visible(&misfit.what)
                )
            })?;
            return Ok(Exit::Findings);
        }
        Err(unreadable) => return Err(Refusal::from(unreadable).into()),
    };
    let saved = args.save.as_deref().map(|path| save(context, path, args.checkpoint.as_deref())).transpose()?;
    let value = json!({
        "fits": true,
        "origin": report.origin,
        "records": report.records,
        "erased": report.erased,
        "runs": report.runs,
        "checkpoints": report.checkpoints,
        "vouched": report.vouched,
        "older": report.older,
        "root": report.root,
        "saved": saved,
    });
    context.answer(&value, |_| text(&report, saved.as_deref()))?;
    Ok(Exit::Fine)
}

fn text(report: &Report, saved: Option<&str>) -> String {
    let mut out = format!(
        "{} {} about {}, {}\n",
        paint(GOOD, "everything fits:"),
        number::of(report.records, "record", "records"),
        number::of(report.runs, "run", "runs"),
        number::of(report.checkpoints, "signed checkpoint", "signed checkpoints"),
    );
    out.push_str(&format!("  log   {}\n  root  {}\n", visible(&report.origin), visible(&report.root)));
    if report.erased > 0 {
        out.push_str(&format!("  {} erased, their records stand\n", number::of(report.erased, "payload", "payloads")));
    }
    let beyond = report.records.saturating_sub(report.vouched);
    if beyond > 0 {
        out.push_str(&format!("  the last {} not signed yet\n", number::of(beyond, "record is", "records are")));
    }
    match report.older {
        Some(older) => {
            let records = number::of(older, "record", "records");
            out.push_str(&format!("  it continues the older checkpoint over {records}\n"));
        }
        None => out.push_str("  not compared with a checkpoint kept elsewhere: a replaced log would look the same\n"),
    }
    match saved {
        Some(path) => out.push_str(&format!("next: keep {} where this machine cannot write it\n", visible(path))),
        None if report.older.is_none() => {
            out.push_str(&format!("{}\n", next("turnback verify --save checkpoint.txt")));
        }
        None => {}
    }
    out
}

fn verify(state: &Path, older: Option<&str>) -> Result<Report, VerifyError> {
    let mut shown = Progress::new("records", Instant::now());
    let result = turnback_journal::verify(state, older, Some(&mut |done, all| shown.at(done, all)));
    shown.done();
    result
}

/// A bar for what takes longer than a person waits without a sign.
pub(super) struct Progress {
    what: &'static str,
    started: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) const fn new(what: &'static str, started: Instant) -> Self {
        Self { what, started, bar: None }
    }

    pub(super) fn at(&mut self, done: u64, all: u64) {
        if self.bar.is_none() && self.started.elapsed() > QUIET {
            let new = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
            let template = format!("{{bar:30}} {{human_pos}} of {{human_len}} {}, {{eta}} left", self.what);
            if let Ok(style) = ProgressStyle::with_template(&template) {
                new.set_style(style);
            }
            self.bar = Some(new);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    pub(super) fn done(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Refusal {
    Refusal::new(Code::Failed, format!("{what}: {error}")).at(path.to_string_lossy())
}

fn read(path: &Path) -> Result<String, Refusal> {
    let size = path.metadata().map_err(|e| failed(path, "cannot be read", &e))?.len();
    if size > CHECKPOINT_LIMIT {
        return Err(Refusal::new(Code::BadInput, "is too large to be a checkpoint").at(path.to_string_lossy()));
    }
    fs::read_to_string(path).map_err(|e| failed(path, "cannot be read", &e))
}

/// Asks for a signed checkpoint and saves it durably. An existing file is replaced only when it is the
/// one the log was just compared with, so that no evidence is lost.
fn save(context: &Context, path: &Path, compared: Option<&Path>) -> Result<String, Failure> {
    let replaces = compared.is_some_and(|c| c.canonicalize().ok().is_some_and(|c| path.canonicalize().ok() == Some(c)));
    if path.symlink_metadata().is_ok() && !replaces {
        return Err(Refusal::new(Code::Exists, "is there already, and the log was not compared with it")
            .at(path.to_string_lossy())
            .next(format!("add --checkpoint {0}, or save to another file", visible(&path.to_string_lossy())))
            .into());
    }
    let checkpoint = match context.door()?.ask(&Request::Checkpoint)? {
        Reply::Checkpoint(text) => text,
        other => return Err(unexpected(&other).into()),
    };
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // The old checkpoint stays until the new one is on the disk.
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&fresh)
        .and_then(|mut file| file.write_all(checkpoint.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| File::open(folder)?.sync_all());
    written.map_err(|e| failed(path, "cannot be saved", &e))?;
    Ok(path.to_string_lossy().into_owned())
}
