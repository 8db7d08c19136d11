//! `turnback doctor`: what would go wrong, found before it does.
//!
//! Only looks; changes nothing.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use turnback_core::policy::lint::Severity;
use turnback_core::text::visible;
use turnback_core::tool::Kind;
use turnback_gateway::config::{Config, Resource};
use turnback_gateway::operator::protocol::{RemoteFlagsState, Reply, Request};

use crate::client::Door;
use crate::context::{Context, Exit, Failure};
use crate::render::number;
use crate::render::style::{BAD, CARE, FAINT, GOOD, STRONG, paint};

/// Check the configuration, the state directory, the resources and the gateway
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 all is well, 1 error, 2 at least one warning or failure.")]
pub(crate) struct Args {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Found {
    Ok,
    Warn,
    Fail,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    check: String,
    found: Found,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Default)]
struct Report(Vec<Line>);

impl Report {
    fn add(&mut self, check: &str, found: Found, detail: impl Into<String>, next: Option<String>) {
        self.0.push(Line { check: check.to_owned(), found, detail: visible(&detail.into()), next });
    }

    fn ok(&mut self, check: &str, detail: impl Into<String>) {
        self.add(check, Found::Ok, detail, None);
    }

    fn warn(&mut self, check: &str, detail: impl Into<String>, next: impl Into<String>) {
        self.add(check, Found::Warn, detail, Some(next.into()));
    }

    fn fail(&mut self, check: &str, detail: impl Into<String>, next: impl Into<String>) {
        self.add(check, Found::Fail, detail, Some(next.into()));
    }
}

pub(crate) fn run(context: &Context, _args: Args) -> Result<Exit, Failure> {
    let mut report = Report::default();
    match context.config() {
        Err(e) => {
            let next = e.next().unwrap_or("correct it").to_owned();
            report.fail("configuration", format!("{}: {}", e.location(), e.message()), next);
        }
        Ok(config) => {
            configuration(&mut report, &config);
            policy(&mut report, &config);
            for (name, resource) in &config.resources {
                check_resource(&mut report, &config, name.as_str(), resource);
            }
        }
    }
    // `--state-dir` finds the gateway even when the configuration cannot be read.
    if let Ok(state) = context.state() {
        state_directory(&mut report, &state);
    }
    if let Ok(door) = context.door() {
        gateway(&mut report, &door);
        remote_flags(&mut report, &door);
    }
    context.answer(&report.0, |lines| text(lines))?;
    Ok(Exit::findings(report.0.iter().any(|line| line.found != Found::Ok)))
}

fn text(lines: &[Line]) -> String {
    let mut out = String::new();
    let width = lines.iter().map(|line| line.check.chars().count()).max().unwrap_or_default();
    for line in lines {
        let mark = match line.found {
            Found::Ok => paint(GOOD, "ok  "),
            Found::Warn => paint(CARE, "warn"),
            Found::Fail => paint(BAD, "fail"),
        };
        let check = paint(STRONG, &format!("{:<width$}", line.check));
        out.push_str(&format!("{mark}  {check}  {}\n", line.detail));
        if let Some(next) = &line.next {
            out.push_str(&format!("      {}  {} {next}\n", " ".repeat(width), paint(FAINT, "next:")));
        }
    }
    out
}

fn policy(report: &mut Report, config: &Config) {
    let check = "policy";
    match super::policy::Rules::of(config).map(|rules| rules.findings()) {
        Err(e) => report.fail(check, e.to_string(), e.next.clone().unwrap_or_else(|| "correct it".into())),
        Ok(findings) if findings.is_empty() => report.ok(check, config.policy.to_string_lossy()),
        Ok(findings) => {
            let broken = findings.iter().any(|finding| finding.severity == Severity::Error);
            let found = number::of(findings.len() as u64, "finding", "findings");
            report.add(
                check,
                if broken { Found::Fail } else { Found::Warn },
                found,
                Some("turnback policy lint".into()),
            );
        }
    }
}

fn configuration(report: &mut Report, config: &Config) {
    let shown = config.file.to_string_lossy();
    let missing = config.missing();
    for error in &missing {
        let next = error.next().unwrap_or("correct it").to_owned();
        report.fail("configuration", format!("{}: {}", error.location(), error.message()), next);
    }
    if missing.is_empty() {
        let resources = number::of(config.resources.len() as u64, "resource", "resources");
        report.ok("configuration", format!("{shown}: {resources}"));
    }
    for path in [&config.file, &config.policy] {
        if let Some(found) = path.metadata().ok().filter(writable_by_others) {
            let path = path.to_string_lossy();
            report.fail(
                "configuration",
                format!("{path} can be written by others (mode {:o})", found.mode() & 0o7777),
                format!("chmod go-w {}", visible(&path)),
            );
        }
    }
}

fn check_resource(report: &mut Report, config: &Config, name: &str, resource: &Resource) {
    let check = format!("resource {name}");
    let Ok(found) = resource.place.metadata() else {
        // Reported with its place in the file already.
        return;
    };
    let mut clean = true;
    let mut exposed: Vec<(PathBuf, Metadata)> = vec![(resource.place.clone(), found.clone())];
    if resource.kind == Kind::Sqlite {
        // Whoever can write the folder can replace the database, or its journal.
        let folder = resource.place.parent().map(Path::to_owned);
        let beside = ["-wal", "-shm", "-journal"].map(|suffix| {
            let mut path = resource.place.clone().into_os_string();
            path.push(suffix);
            PathBuf::from(path)
        });
        exposed.extend(folder.into_iter().chain(beside).filter_map(|p| p.metadata().ok().map(|m| (p, m))));
    }
    for (path, found) in exposed.iter().filter(|(_, found)| writable_by_others(found)) {
        clean = false;
        let path = path.to_string_lossy();
        report.warn(
            &check,
            format!(
                "{path} can be written by others (mode {:o}): what they do there is not governed",
                found.mode() & 0o7777
            ),
            format!("chmod go-w {}", visible(&path)),
        );
    }
    if resource.kind == Kind::Files {
        let slots = resource.slots.clone().unwrap_or_else(|| config.state.clone());
        if let Some(there) = nearest(&slots)
            && there.dev() != found.dev()
        {
            clean = false;
            report.fail(
                &check,
                format!(
                    "deleted and replaced files would be kept in {}, on another filesystem",
                    slots.to_string_lossy()
                ),
                format!("set `slots = \"...\"` in [resources.{name}] to a folder outside the root, on its filesystem"),
            );
        }
    }
    if clean {
        report.ok(&check, format!("{} {}", resource.kind.word(), resource.place.to_string_lossy()));
    }
}

/// The path, or its nearest parent that exists.
fn nearest(path: &Path) -> Option<Metadata> {
    path.ancestors().find_map(|p| p.metadata().ok())
}

fn writable_by_others(found: &Metadata) -> bool {
    let sticky = found.is_dir() && found.mode() & 0o1000 != 0;
    // In a sticky folder others can add, but not replace.
    found.mode() & 0o022 != 0 && !sticky
}

fn state_directory(report: &mut Report, state: &Path) {
    let check = "state";
    let shown = state.to_string_lossy();
    let Ok(found) = state.symlink_metadata() else {
        report.ok(check, format!("{shown} is not there yet; `turnback up` makes it"));
        return;
    };
    if !found.is_dir() {
        report.fail(check, format!("{shown} is not a folder"), "remove it, or set another `state`");
        return;
    }
    let me = rustix::process::geteuid().as_raw();
    if found.uid() != me {
        report.fail(
            check,
            format!("{shown} belongs to user {}, you are user {me}", found.uid()),
            "run this as the user who runs the gateway",
        );
        return;
    }
    let mut clean = true;
    if found.mode() & 0o077 != 0 {
        clean = false;
        report.fail(
            check,
            format!("{shown} can be opened by others (mode {:o})", found.mode() & 0o7777),
            format!("chmod 700 {}", visible(&shown)),
        );
    }
    for entry in std::fs::read_dir(state).into_iter().flatten().flatten() {
        let Ok(inner) = entry.metadata() else { continue };
        // `log.pub` is for everybody to verify with.
        if inner.is_file() && inner.mode() & 0o077 != 0 && entry.file_name() != "log.pub" {
            clean = false;
            let path = entry.path();
            report.fail(
                check,
                format!("{} can be read by others (mode {:o})", path.to_string_lossy(), inner.mode() & 0o7777),
                format!("chmod 600 {}", visible(&path.to_string_lossy())),
            );
        }
    }
    if clean {
        report.ok(check, format!("{shown}, yours alone"));
    }
}

fn gateway(report: &mut Report, door: &Door) {
    let check = "gateway";
    let socket = match door {
        Door::Nobody(socket) => {
            // A socket file left behind says nothing: it stays when a gateway is killed, and is replaced.
            report.warn(check, format!("nobody answers at {}", socket.to_string_lossy()), "turnback up");
            return;
        }
        Door::Socket(socket) => socket,
    };
    match door.ask(&Request::Status) {
        Err(e) => {
            let next = e.next.clone().unwrap_or_else(|| "look at its log".into());
            report.fail(check, format!("{}: {}", socket.to_string_lossy(), e.message), next);
        }
        Ok(Reply::Status(status)) => {
            if let Some(why) = &status.poisoned {
                report.fail(
                    check,
                    format!("refuses everything: {why}"),
                    "free or repair the disk, then restart it; it looks what was under way",
                );
                return;
            }
            let url = status.url.as_deref().unwrap_or("no agents' door");
            let records = number::of(status.records, "record", "records");
            report.ok(check, format!("version {}, process {}, {url}, {records}", status.version, status.pid));
            if status.version != env!("CARGO_PKG_VERSION") {
                report.warn(check, "it is another version than this command", "restart it with this version");
            }
            if status.in_doubt > 0 {
                let runs = number::of(status.in_doubt, "run has", "runs have");
                report.fail(check, format!("{runs} no known end"), "turnback runs --state in_doubt");
            }
            if status.waiting > 0 {
                let runs = number::of(status.waiting, "run waits", "runs wait");
                report.warn(check, format!("{runs} for a person"), "turnback runs --waiting");
            }
            if status.switches > 0 {
                let thrown = number::of(status.switches, "kill switch is", "kill switches are");
                report.warn(check, format!("{thrown} thrown"), "turnback unkill <what>, when it is over");
            }
        }
        Ok(_) => report.fail(check, "answers something else", "run the same version on both sides"),
    }
}

/// The gateway knows whether a service answers; asking it from here would ask with another's words.
fn remote_flags(report: &mut Report, door: &Door) {
    if !matches!(door, Door::Socket(_)) {
        return;
    }
    // A gateway that does not answer was reported already.
    let Ok(Reply::FlagsRemote(services)) = door.ask(&Request::FlagsRemote) else { return };
    for service in services {
        let check = "remote flags";
        let url = &service.url;
        match (service.state, service.why) {
            (RemoteFlagsState::Down, why) => report.fail(
                check,
                format!("{url} is down: {}", why.unwrap_or_default()),
                "see to it: what it said is used until it is too old, then its keys deny",
            ),
            (RemoteFlagsState::Unasked, _) => report.ok(check, format!("{url} was not asked yet")),
            // What failed before it answered again is over.
            (_, Some(why)) if service.failed > service.answered => report.warn(
                check,
                format!("{url} answers what cannot be used: {why}"),
                "turnback flags remote; correct the flag there",
            ),
            (..) => report.ok(check, format!("{url} answers")),
        }
    }
}
