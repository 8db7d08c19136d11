//! Release flags.

use jiff::Timestamp;
use serde_json::Value;
use turnback_core::flags::{Edition, Source};
use turnback_core::policy::lint::{Finding, Severity};
use turnback_core::text::visible;
use turnback_gateway::operator::protocol::{FlagsView, RemoteFlagsState, RemoteFlagsView};

use super::style::{BAD, CARE, FAINT, GOOD, STRONG, next, paint};
use super::table::{Cell, table};
use super::time;

/// The flags that hold.
pub(crate) fn list(view: &FlagsView, now: Timestamp) -> String {
    let edition = &view.edition;
    let mut out = match view.flags.as_slice() {
        [] => "no flag: the modes of the environments hold\n".to_owned(),
        flags => {
            let rows = flags.iter().map(|flag| {
                let mode = match &flag.default_variant {
                    Some(name) => {
                        let mode = flag.variants.get(name).and_then(Value::as_str).unwrap_or("?");
                        format!("{} ({})", visible(name), visible(mode))
                    }
                    None => "-".to_owned(),
                };
                let says = match (flag.enabled, flag.targeting) {
                    (false, _) => Cell::styled(FAINT, "disabled"),
                    (true, true) => Cell::styled(GOOD, "by targeting"),
                    (true, false) => Cell::styled(GOOD, "everywhere"),
                };
                let said =
                    |field: &str| flag.metadata.get(field).and_then(Value::as_str).map_or_else(|| "-".into(), visible);
                vec![
                    Cell::styled(STRONG, visible(&flag.flag)),
                    says,
                    Cell::new(mode),
                    Cell::new(said("owner")),
                    Cell::new(said("review")),
                ]
            });
            table(&["FLAG", "APPLIES", "DEFAULT", "OWNER", "REVIEW"], rows.collect())
        }
    };
    let digest = edition.digest.map_or_else(String::new, |digest| digest.short());
    let since = time::relative(now, edition.at);
    out.push_str(&paint(
        FAINT,
        &format!("{digest}, set {since} by {}: {}", visible(&edition.by), visible(&edition.reason)),
    ));
    out.push('\n');
    out
}

/// Changes, newest first.
pub(crate) fn history(editions: &[Edition], now: Timestamp) -> String {
    if editions.is_empty() {
        return format!("no release flags were ever configured\n{}\n", next("turnback flags --help"));
    }
    let rows = editions.iter().map(|edition| {
        vec![
            Cell::new(time::relative(now, edition.at)),
            Cell::styled(STRONG, edition.digest.map_or_else(|| "none".into(), |digest| digest.short())),
            Cell::new(if edition.source == Source::File { "file" } else { "operator" }),
            Cell::new(visible(&edition.by)),
            Cell::new(visible(&edition.reason)),
        ]
    });
    table(&["WHEN", "DOCUMENT", "FROM", "BY", "WHY"], rows.collect())
}

/// The services that are asked.
pub(crate) fn remote(services: &[RemoteFlagsView], now: Timestamp) -> String {
    if services.is_empty() {
        return "no service is asked for release flags: [[flags.remote]] names them\n".to_owned();
    }
    let ago = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| time::relative(now, at));
    let rows = services.iter().map(|service| {
        let state = match service.state {
            RemoteFlagsState::Fresh => Cell::styled(GOOD, "fresh"),
            RemoteFlagsState::Stale => Cell::styled(CARE, "stale"),
            RemoteFlagsState::Down => Cell::styled(BAD, "down"),
            RemoteFlagsState::Unasked => Cell::styled(FAINT, "not asked yet"),
        };
        vec![
            Cell::styled(STRONG, visible(&service.url)),
            state,
            Cell::new(ago(service.answered)),
            Cell::new(ago(service.failed)),
            Cell::new(service.held.to_string()),
            Cell::new(ago(service.oldest)),
        ]
    });
    let mut out = table(&["SERVICE", "STATE", "ANSWERED", "FAILED", "HELD", "OLDEST"], rows.collect());
    for service in services {
        let keys = format!("{}: asked for {}", visible(&service.url), visible(&service.keys.join(", ")));
        out.push_str(&format!("{}\n", paint(FAINT, &keys)));
        if let Some(why) = &service.why {
            let why = format!("{}: last failure: {}", visible(&service.url), visible(why));
            let style = if service.state == RemoteFlagsState::Down { BAD } else { FAINT };
            out.push_str(&format!("{}\n", paint(style, &why)));
        }
    }
    out
}

/// What lint found.
pub(crate) fn findings(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return format!("{}\n", paint(GOOD, "nothing found"));
    }
    let line = |finding: &Finding| {
        let word = match finding.severity {
            Severity::Warning => paint(CARE, "warning"),
            Severity::Error => paint(BAD, "error"),
        };
        let place = format!("{}:{}:{}", visible(&finding.file), finding.line, finding.column);
        let (place, rule) = (paint(STRONG, &place), paint(FAINT, &visible(&finding.rule)));
        format!("{place} {word} {rule}\n  {}\n", visible(&finding.message))
    };
    findings.iter().map(line).collect()
}
