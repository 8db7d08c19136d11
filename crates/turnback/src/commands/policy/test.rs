//! `turnback policy test`.

use serde_json::json;
use turnback_core::policy::PolicyError;
use turnback_core::policy::cases::{Came, CaseResult, run_cases};
use turnback_core::policy::coverage::{Coverage, coverage};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;

use super::rules::{Rules, wrong};
use crate::context::{Context, Exit, Failure};
use crate::render::number;
use crate::render::style::{BAD, CARE, FAINT, GOOD, STRONG, paint};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Exit with 2 when a rule decided no case
    #[arg(long)]
    require_coverage: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let rules = Rules::read(context)?;
    let policy = rules.compile()?;
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
    let covered = coverage(&policy, results.iter().flat_map(|(_, cases)| cases));
    // An entry for each file, and one for the rules.
    let mut value: Vec<_> = results.iter().map(|(file, cases)| json!({ "file": file, "cases": cases })).collect();
    value.push(json!({ "coverage": covered }));
    context.answer(&value, |_| {
        let files = results.iter().map(|(file, cases)| tested(file, cases));
        files.chain([reach(&covered)]).collect()
    })?;
    Ok(Exit::findings(failed > 0 || (args.require_coverage && !covered.untested.is_empty())))
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

fn reach(covered: &Coverage) -> String {
    if covered.untested.is_empty() {
        return format!(
            "{} {} decided a case\n",
            paint(GOOD, "covered:"),
            number::of(covered.rules as u64, "rule", "rules")
        );
    }
    let untested = covered.untested.len() as u64;
    let mut out = format!(
        "{} {} of {} decided no case:\n",
        paint(CARE, "not covered:"),
        number::count(untested),
        number::of(covered.rules as u64, "rule", "rules")
    );
    for one in &covered.untested {
        out.push_str(&format!("  {}  {}:{}\n", visible(&one.rule), visible(&one.place.file), one.place.line));
    }
    out
}
