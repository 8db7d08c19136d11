//! Verification probes: what a resource's contract wants to see after every write.
//!
//! A probe that cannot be carried out has failed; nothing unverified counts as verified.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use turnback_core::contract::{Actor, Contract};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::run::ProbeResult;
use turnback_core::text::visible;
use turnback_core::tool::Tool;
use turnback_effects::{Bounds, Domain};

use crate::config::{Check, Probe};

/// Output of a failing command that is kept.
const OUTPUT_KEPT: u64 = 2_000;

/// Largest file a probe reads.
const FILE_LIMIT: u64 = 16 << 20;

/// Carries out one probe.
pub(super) fn check(probe: &Probe, domain: &dyn Domain, tools: &[Tool], bounds: &Bounds) -> ProbeResult {
    let bounds = Bounds { time: probe.timeout, ..bounds.clone() };
    let found = match &probe.check {
        Check::Query { sql, expect } => {
            read(domain, tools, "query", &json!({ "sql": sql }), &bounds).and_then(|reply| match first_value(&reply) {
                Some(found) if found == *expect => Ok(format!("found {found}")),
                Some(found) => failed(format!("expected {expect}, found {found}")),
                None => failed(format!("expected {expect}, found no row")),
            })
        }
        Check::File { path, exists, contains } => file(path, *exists, contains.as_deref()),
        Check::Command { argv } => command(argv, probe.timeout),
        Check::Http { url, status } => http(url, *status, probe.timeout),
    };
    match found {
        Ok(detail) => ProbeResult { name: probe.name.clone(), passed: true, detail },
        Err(refusal) => ProbeResult { name: probe.name.clone(), passed: false, detail: visible(&refusal.message) },
    }
}

fn failed<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::new(Code::Failed, what))
}

/// Reads through the domain, so that a probe is bounded and jailed exactly like an agent's read.
pub(super) fn read(
    domain: &dyn Domain,
    tools: &[Tool],
    local: &str,
    arguments: &Value,
    bounds: &Bounds,
) -> Result<Value, Refusal> {
    let Some(tool) = tools.iter().find(|t| t.local == local) else {
        return failed(format!("this resource has no tool `{local}`"));
    };
    let bytes = turnback_core::json::canonical(arguments);
    let contract = Contract::parse(tool, Actor::Turnback, None, &bytes, None, |l, a| domain.aim(l, a))?;
    Ok(domain.read(&contract, bounds)?.reply)
}

/// The first column of the first row of a query's reply.
fn first_value(reply: &Value) -> Option<Value> {
    match reply.get("rows")?.as_array()?.first()? {
        Value::Array(cells) => cells.first().cloned(),
        Value::Object(cells) => cells.values().next().cloned(),
        other => Some(other.clone()),
    }
}

/// A file is looked at directly: the path is the operator's, and may lie outside every resource.
fn file(path: &Path, exists: bool, contains: Option<&str>) -> Result<String, Refusal> {
    let shown = visible(&path.display().to_string());
    match (std::fs::metadata(path), exists) {
        (Err(e), false) if e.kind() == std::io::ErrorKind::NotFound => return Ok(format!("`{shown}` does not exist")),
        (Ok(_), false) => return failed(format!("`{shown}` exists")),
        (Err(e), _) => return failed(format!("`{shown}`: {e}")),
        (Ok(found), true) if contains.is_some() && found.len() > FILE_LIMIT => {
            return failed(format!("`{shown}` is larger than {FILE_LIMIT} bytes"));
        }
        (Ok(_), true) => {}
    }
    let Some(wanted) = contains else { return Ok(format!("`{shown}` exists")) };
    let content = std::fs::read(path).map_err(|e| Refusal::new(Code::Failed, format!("`{shown}`: {e}")))?;
    if content.windows(wanted.len().max(1)).any(|part| part == wanted.as_bytes()) {
        Ok(format!("`{shown}` contains the text"))
    } else {
        failed(format!("`{shown}` does not contain `{}`", visible(wanted)))
    }
}

fn command(argv: &[String], timeout: Duration) -> Result<String, Refusal> {
    let Some((program, arguments)) = argv.split_first() else { return failed("the command is empty") };
    let spawn = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawn {
        Ok(child) => child,
        Err(e) => return failed(format!("`{program}` could not be started: {e}")),
    };
    // A thread of its own drains the pipe, so that a chatty command cannot stall itself.
    let drain = child.stderr.take().map(|pipe| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut pipe = pipe;
            let kept = pipe.by_ref().take(OUTPUT_KEPT).read_to_end(&mut text);
            let rest = std::io::copy(&mut pipe, &mut std::io::sink());
            kept.and(rest).map(|_| text)
        })
    });
    let deadline = Instant::now() + timeout;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let killed = child.kill().and_then(|()| child.wait());
                return failed(format!(
                    "`{program}` took longer than {} s and was stopped ({killed:?})",
                    timeout.as_secs()
                ));
            }
            Err(e) => return failed(format!("`{program}`: {e}")),
        }
    };
    if status.success() {
        return Ok(format!("`{}` exited with 0", visible(program)));
    }
    let said = drain
        .and_then(|thread| thread.join().ok())
        .and_then(Result::ok)
        .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
        .unwrap_or_default();
    failed(format!("`{program}` ended with {status}: {said}"))
}

fn http(url: &str, status: u16, timeout: Duration) -> Result<String, Refusal> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .max_redirects(0)
        .http_status_as_error(false)
        .build()
        .into();
    match agent.get(url).call() {
        Ok(response) if response.status().as_u16() == status => Ok(format!("answered {status}")),
        Ok(response) => failed(format!("expected status {status}, got {}", response.status().as_u16())),
        Err(e) => failed(e.to_string()),
    }
}
