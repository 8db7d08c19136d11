//! Who answers for a flag, why it is there, and when somebody looks at it again.
//!
//! Said in each flag's `metadata`: `owner`, `reason`, `created` and `review` (dates such as 2026-12-24), `cleanup` (the
//! condition under which it goes) and `lifetime` (`permanent` or `temporary`). A flag without them works – nobody must
//! look up an owner during an incident – and is complained about until it has them.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::document::complaint;
use super::{FlagError, Flags};
use crate::policy::lint::{Finding, LINTS, Severity};
use crate::text::visible;

/// What every flag must say about itself.
const REQUIRED: &[(&str, &str)] = &[
    ("owner", "who answers for it"),
    ("reason", "why it is there"),
    ("created", "the date it was made, such as \"2026-12-24\""),
    ("review", "the date somebody looks at it again, such as \"2026-12-24\""),
    ("cleanup", "the condition under which it can be removed"),
    ("lifetime", "\"permanent\" or \"temporary\""),
];

/// What is missing or overdue, each where it stands. Days are those of UTC.
///
/// Rules: `flag-metadata` (missing or misspelled, an error), `flag-review` (overdue, a warning).
pub fn lint(flags: &Flags, file: &str, now: Timestamp) -> Vec<Finding> {
    let today = TimeZone::UTC.to_datetime(now).date();
    let mut findings = Vec::new();
    for (key, flag) in &flags.document.flags {
        let mut found = |field: Option<&str>, severity, rule: &str, message: String| {
            let path = ["flags", key, "metadata", field.unwrap_or_default()];
            let path = if field.is_some() { &path[..] } else { &path[..2] };
            let FlagError { line, column, message, .. } = complaint(&flags.text, path, message, "");
            findings.push(Finding {
                file: file.to_owned(),
                line,
                column,
                severity,
                rule: rule.to_owned(),
                message,
                help: LINTS.iter().find(|lint| lint.id == rule).map_or_else(String::new, |lint| lint.help.to_owned()),
            });
        };
        let shown = visible(key);
        for (field, what) in REQUIRED {
            let text = flag.metadata.get(*field).and_then(Value::as_str).map(str::trim).filter(|t| !t.is_empty());
            let Some(text) = text else {
                let message = format!("flag `{shown}` does not say `{field}`: add {what} to its metadata");
                found(None, Severity::Error, "flag-metadata", message);
                continue;
            };
            let date = text.parse::<Date>();
            match (*field, date) {
                ("created" | "review", Err(_)) => {
                    let message = format!("`{}` is no date: write {what}", visible(text));
                    found(Some(field), Severity::Error, "flag-metadata", message);
                }
                ("created", Ok(date)) if date > today => {
                    let message = format!("flag `{shown}` was made on {date}, which is not yet");
                    found(Some(field), Severity::Error, "flag-metadata", message);
                }
                ("review", Ok(date)) if date < today => {
                    let message = format!(
                        "flag `{shown}` was to be reviewed by {date}: remove it or set a later date; its owner is {}",
                        visible(flag.metadata.get("owner").and_then(Value::as_str).unwrap_or("unknown"))
                    );
                    found(Some(field), Severity::Warning, "flag-review", message);
                }
                ("lifetime", _) if !["permanent", "temporary"].contains(&text) => {
                    let message = format!("`{}` is no lifetime: write {what}", visible(text));
                    found(Some(field), Severity::Error, "flag-metadata", message);
                }
                _ => {}
            }
        }
    }
    findings
}
