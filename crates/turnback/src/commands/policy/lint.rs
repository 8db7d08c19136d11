//! `turnback policy lint`.

use clap::ValueEnum;
use turnback_core::policy::lint::{Finding, Severity};
use turnback_core::text::{visible, visible_lines};

use super::rules::Rules;
use super::sarif;
use crate::context::{Context, Exit, Failure};
use crate::render::number;
use crate::render::style::{BAD, CARE, FAINT, GOOD, STRONG, paint};

#[derive(clap::Args)]
pub(super) struct Args {
    /// How to print what is found
    #[arg(long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Pretty,
    /// For programs; the same as -o json
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// Annotations of GitHub Actions
    Github,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let rules = Rules::read(context)?;
    let mut findings = rules.findings();
    findings.extend(crate::commands::flags::findings(&context.config()?, context.now)?);
    match args.format {
        Format::Json => context.print(&crate::render::json(&findings)?)?,
        Format::Sarif => context.print(&crate::render::json(&sarif::log(&findings))?)?,
        Format::Github => context.print(&findings.iter().map(github).collect::<String>())?,
        Format::Pretty => context.answer(&findings, |findings| pretty(findings, &rules))?,
    }
    Ok(Exit::findings(!findings.is_empty()))
}

fn pretty(findings: &[Finding], rules: &Rules) -> String {
    let mut out = String::new();
    for finding in findings {
        let word = match finding.severity {
            Severity::Warning => paint(CARE, "warning"),
            Severity::Error => paint(BAD, "error"),
        };
        let place = format!("{}:{}:{}", visible(&finding.file), finding.line, finding.column);
        out.push_str(&format!("{} {word} {}\n", paint(STRONG, &place), paint(FAINT, &visible(&finding.rule))));
        let line = rules
            .sources
            .iter()
            .find(|source| source.name == finding.file)
            .and_then(|source| source.text.lines().nth(finding.line.saturating_sub(1)));
        if let Some(line) = line {
            out.push_str(&format!("  {} {}\n", paint(FAINT, "│"), visible(&line.replace('\t', " "))));
        }
        out.push_str(&format!("  {}\n", visible_lines(&finding.message).trim_end().replace('\n', "\n  ")));
        out.push_str(&format!("  {}\n", paint(FAINT, &visible(&finding.help))));
    }
    let files = number::of(rules.sources.len() as u64, "file", "files");
    out.push_str(&match findings.len() as u64 {
        0 => format!("{} in {files}\n", paint(GOOD, "nothing found")),
        found => format!("{} in {files}\n", number::of(found, "finding", "findings")),
    });
    out
}

fn github(finding: &Finding) -> String {
    // Percent signs and line ends would end the annotation, commas and colons a property.
    let message = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| message(text).replace(':', "%3A").replace(',', "%2C");
    let level = match finding.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    format!(
        "::{level} file={},line={},col={},title={}::{}\n",
        property(&finding.file),
        finding.line,
        finding.column,
        property(&finding.rule),
        message(&finding.message)
    )
}
