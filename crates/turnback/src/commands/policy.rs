//! `turnback policy`: check, test and explain the rules.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;
use turnback_core::policy::cases::{Came, CaseResult, run_cases};
use turnback_core::policy::lint::{Finding, Severity, lint};
use turnback_core::policy::{Policy, PolicyError, Source, explain};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::{visible, visible_lines};
use turnback_core::tool::Tool;
use turnback_gateway::config::Config;
use turnback_gateway::node;

use super::show;
use crate::context::{Context, Exit, Failure};
use crate::render::number;
use crate::render::style::{BAD, CARE, FAINT, GOOD, STRONG, paint};

/// Largest policy or case file read, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// Check, test and explain the rules
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Find rules that do not load, cannot match, or do what they seem not to
    #[command(after_help = "Exit codes: 0 nothing found, 1 error, 2 something found.")]
    Lint {
        /// How to print what is found
        #[arg(long, value_enum, default_value_t = Format::Pretty)]
        format: Format,
    },
    /// Ask the rules every case in the *.cases.json files beside them
    #[command(after_help = "Exit codes: 0 every case is as expected, 1 error, 2 at least one is not.")]
    Test,
    /// Say why a run was decided as it was
    #[command(after_help = "Exit codes: 0 explained, 1 error.")]
    Explain {
        /// The run or its approval, in full or short
        run: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Pretty,
    /// For programs; the same as -o json
    Json,
    /// Annotations of GitHub Actions
    Github,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    match args.what {
        What::Lint { format } => run_lint(context, format),
        What::Test => run_test(context),
        What::Explain { run } => run_explain(context, run),
    }
}

fn run_lint(context: &Context, format: Format) -> Result<Exit, Failure> {
    let rules = Rules::read(context)?;
    let findings = rules.findings();
    match format {
        Format::Json => context.print(&crate::render::json(&findings)?)?,
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

fn run_test(context: &Context) -> Result<Exit, Failure> {
    let rules = Rules::read(context)?;
    let policy = Policy::compile(&rules.sources, &rules.tools).map_err(|errors| wrong(errors.first()))?;
    if rules.cases.is_empty() {
        return Err(Refusal::new(Code::NotFound, "there is no *.cases.json file beside the policy")
            .at(rules.folder.to_string_lossy())
            .next("write one; `turnback init` in an empty folder shows how")
            .into());
    }
    let mut results: Vec<(String, Vec<CaseResult>)> = Vec::new();
    for source in &rules.cases {
        let came = run_cases(&policy, &rules.tools, &source.text)
            .map_err(|e| wrong(Some(&PolicyError { file: source.name.clone(), ..e })))?;
        results.push((source.name.clone(), came));
    }
    let failed = results.iter().flat_map(|(_, came)| came).filter(|case| case.came == Came::Failed).count();
    let value: Vec<_> = results.iter().map(|(file, cases)| json!({ "file": file, "cases": cases })).collect();
    context.answer(&value, |_| results.iter().map(|(file, cases)| tested(file, cases)).collect())?;
    Ok(Exit::findings(failed > 0))
}

fn tested(file: &str, cases: &[CaseResult]) -> String {
    let mut out = format!("{}\n", paint(STRONG, &visible(file)));
    for case in cases {
        let name = visible(&case.name);
        let reason = visible(&case.reason);
        out.push_str(&match case.came {
            Came::Passed => format!("  {}  {name}: {}\n", paint(GOOD, "ok  "), case.expected.word()),
            Came::Skipped => format!("  {}  {name}: {reason}\n", paint(FAINT, "skip")),
            Came::Failed => {
                let said = case.said.map_or("nothing", |ruling| ruling.word());
                let rules = match case.rules.as_slice() {
                    [] => String::new(),
                    rules => format!(" (by {})", visible(&rules.join(", "))),
                };
                let expected = case.expected.word();
                format!("  {}  {name}: expected {expected}, it says {said}: {reason}{rules}\n", paint(BAD, "fail"))
            }
        });
    }
    let number_of = |came| cases.iter().filter(|case| case.came == came).count() as u64;
    out.push_str(&format!(
        "  {}, {} failed, {} skipped\n",
        number::of(number_of(Came::Passed), "case passed", "cases passed"),
        number_of(Came::Failed),
        number_of(Came::Skipped)
    ));
    out
}

fn run_explain(context: &Context, run: String) -> Result<Exit, Failure> {
    let view = show::fetch(&context.door()?, run)?;
    let Some(before) = view.before.as_ref().or(view.after.as_ref()) else {
        return Err(Refusal::new(Code::NotFound, "this run was not judged")
            .at(view.row.run.short())
            .next(format!("turnback show {}", view.row.run.short()))
            .into());
    };
    let value = json!({ "before": view.before, "after": view.after });
    context.answer(&value, |_| explain::explain(before, view.after.as_ref()))?;
    Ok(Exit::Fine)
}

/// The policy as the configuration names it, and the tools it speaks about.
pub(super) struct Rules {
    folder: PathBuf,
    sources: Vec<Source>,
    cases: Vec<Source>,
    tools: Vec<Tool>,
}

impl Rules {
    fn read(context: &Context) -> Result<Self, Failure> {
        Ok(Self::of(&context.config()?)?)
    }

    /// What lint says.
    pub(super) fn findings(&self) -> Vec<Finding> {
        lint(&self.sources, &self.tools)
    }

    /// The policy a configuration names.
    pub(super) fn of(config: &Config) -> Result<Self, Refusal> {
        let tools = node::tools(config)?;
        let path = &config.policy;
        let failed = |path: &Path, e: &std::io::Error| {
            Refusal::new(Code::NotFound, format!("cannot be read: {e}"))
                .at(path.to_string_lossy())
                .next("write one with `turnback init`, or name it in [policy] path")
        };
        let single = path.metadata().map_err(|e| failed(path, &e))?.is_file();
        let folder = if single { path.parent().unwrap_or(Path::new("/")) } else { path }.to_owned();
        let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .map_err(|e| failed(&folder, &e))?;
        found.sort();
        let (mut sources, mut cases) = (Vec::new(), Vec::new());
        for file in found {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let list = if name.ends_with(".cases.json") {
                &mut cases
            } else if name.ends_with(".cedar") && (!single || file == *path) {
                &mut sources
            } else {
                continue;
            };
            let size = file.metadata().map_err(|e| failed(&file, &e))?.len();
            if size > SIZE_LIMIT {
                let message = format!("is {}, more than {}", number::bytes(size), number::bytes(SIZE_LIMIT));
                return Err(Refusal::new(Code::TooLarge, message).at(file.to_string_lossy()));
            }
            let text = std::fs::read_to_string(&file).map_err(|e| failed(&file, &e))?;
            list.push(Source { name: shown(&file), text });
        }
        if sources.is_empty() {
            return Err(Refusal::new(Code::NotFound, "there is no *.cedar file here, so nothing is allowed")
                .at(folder.to_string_lossy())
                .next("write one with `turnback init`, or name it in [policy] path"));
        }
        Ok(Self { folder, sources, cases, tools })
    }
}

/// A path as it is clickable from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_string_lossy().into_owned()
}

fn wrong(error: Option<&PolicyError>) -> Refusal {
    let Some(error) = error else {
        return Refusal::new(Code::BadInput, "the policy does not load").next("turnback policy lint");
    };
    let mut refusal = Refusal::new(Code::BadInput, error.message.clone())
        .at(format!("{}:{}:{}", error.file, error.line, error.column))
        .next("see all of it: turnback policy lint");
    if let Some(next) = &error.next {
        refusal = refusal.next(next.clone());
    }
    refusal
}
