//! Findings as SARIF 2.1.0 (OASIS), the form code scanning services read.

use serde_json::{Value, json};
use turnback_core::policy::lint::{Finding, LINTS, Severity};

/// One log with one run: every lint there is as a rule, every finding as a result.
pub(super) fn log(findings: &[Finding]) -> Value {
    let rules: Vec<Value> = LINTS
        .iter()
        .map(|lint| {
            json!({
                "id": lint.id,
                "shortDescription": { "text": lint.title },
                "help": { "text": lint.help },
                "defaultConfiguration": { "level": level(lint.severity) },
            })
        })
        .collect();
    let results: Vec<Value> = findings
        .iter()
        .map(|finding| {
            json!({
                "ruleId": finding.rule,
                "ruleIndex": LINTS.iter().position(|lint| lint.id == finding.rule),
                "level": level(finding.severity),
                "message": { "text": finding.message },
                "locations": [{
                    "physicalLocation": {
                        "artifactLocation": { "uri": uri(&finding.file) },
                        "region": { "startLine": finding.line, "startColumn": finding.column },
                    },
                }],
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "turnback policy lint", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// A path as a URI reference (RFC 3986): relative to where the command was run, or a `file` URI.
fn uri(path: &str) -> String {
    let mut out = if path.starts_with('/') { "file://".to_owned() } else { String::new() };
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_the_shape_the_schema_asks_for() {
        let findings: Vec<Finding> = LINTS
            .iter()
            .map(|lint| Finding {
                file: "policies/a b#1.cedar".into(),
                line: 3,
                column: 7,
                severity: lint.severity,
                rule: lint.id.into(),
                message: "what".into(),
                help: lint.help.into(),
            })
            .collect();
        let log = log(&findings);
        // What the schema requires: sarifLog.version and .runs, run.tool, toolComponent.name,
        // reportingDescriptor.id, result.message; ruleIndex at least -1, startLine and startColumn at least 1, level
        // one of a list, uri a URI reference; ids of rules each once.
        assert_eq!(log["version"], "2.1.0");
        let [run] = log["runs"].as_array().unwrap().as_slice() else { panic!() };
        let driver = &run["tool"]["driver"];
        assert!(driver["name"].as_str().is_some_and(|name| !name.is_empty()));
        assert!(["utf16CodeUnits", "unicodeCodePoints"].contains(&run["columnKind"].as_str().unwrap()));
        let rules = driver["rules"].as_array().unwrap();
        let mut ids: Vec<&str> = rules.iter().map(|rule| rule["id"].as_str().unwrap()).collect();
        for rule in rules {
            assert!(rule["shortDescription"]["text"].is_string() && rule["help"]["text"].is_string());
        }
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), LINTS.len());
        for result in results {
            assert!(result["message"]["text"].is_string());
            assert!(["none", "note", "warning", "error"].contains(&result["level"].as_str().unwrap()));
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(rules[index]["id"], result["ruleId"]);
            let place = &result["locations"][0]["physicalLocation"];
            assert_eq!(place["artifactLocation"]["uri"], "policies/a%20b%231.cedar");
            assert_eq!(
                (place["region"]["startLine"].as_u64(), place["region"]["startColumn"].as_u64()),
                (Some(3), Some(7))
            );
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), LINTS.len());
        assert_eq!(uri("/a/\u{e4}"), "file:///a/%C3%A4");
    }
}
