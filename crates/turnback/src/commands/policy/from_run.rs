//! `turnback policy from-run`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;
use turnback_core::contract::Contract;
use turnback_core::decision::Ruling;
use turnback_core::policy::draft::{Shape, draft};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_gateway::operator::protocol::RunView;

use super::rules::{Rules, shown};
use crate::commands::show;
use crate::context::{Context, Exit, Failure};
use crate::render::style::next;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The run, in full or short
    run: String,
    /// What should come of it the next time
    #[arg(long, value_enum, default_value_t = Outcome::Deny)]
    outcome: Outcome,
    /// Why; what whoever is refused by the rule will read
    #[arg(short, long)]
    reason: Option<String>,
    /// The rule's @id, and the name of its files [default: from- and the run]
    #[arg(long)]
    id: Option<String>,
    /// Where to write them, for a configuration that names one file instead of a folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Outcome {
    /// It is refused
    Deny,
    /// A person decides
    Review,
}

pub(super) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let rules = Rules::read(context)?;
    let folder = match &args.out {
        Some(folder) => folder.clone(),
        None if rules.single => {
            return Err(Refusal::new(Code::BadInput, "the policy is one file, and the rule wants one of its own")
                .at("[policy] path")
                .next("name the folder there, or write it elsewhere with --out <dir>")
                .into());
        }
        None => rules.folder.clone(),
    };
    let view = show::fetch(&context.door()?, args.run)?;
    let contract: Contract = serde_json::from_value(view.contract.clone())
        .map_err(|e| Refusal::new(Code::Failed, format!("the gateway's answer cannot be read: {e}")))?;
    let reason = match args.reason {
        Some(reason) => reason,
        None => why(&view)?,
    };
    let id = args.id.unwrap_or_else(|| format!("from-{}", view.row.run.short()));
    if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        return Err(Refusal::new(Code::BadInput, "letters, digits, `-` and `_` are expected: files are called so")
            .at("--id")
            .into());
    }
    let shape = Shape {
        contract: &contract,
        owner: view.owner.as_deref(),
        measured: view.effect.as_ref().zip(view.plan.as_ref()),
        reason: &reason,
        id: &id,
        outcome: match args.outcome {
            Outcome::Deny => Ruling::Deny,
            Outcome::Review => Ruling::Review,
        },
    };
    let draft = draft(&shape, &rules.sources, &rules.tools)?;
    let (cedar, cases) = (folder.join(format!("{id}.cedar")), folder.join(format!("{id}.cases.json")));
    // The case first: a case without its rule fails loudly, a rule without its case is forgotten.
    write(&cases, &draft.cases)?;
    write(&cedar, &draft.cedar)?;
    let value = json!({ "id": id, "rule": shown(&cedar), "cases": shown(&cases), "cedar": draft.cedar });
    context.answer(&value, |_| {
        format!(
            "{}\nwrote {} and {}\n{}\n",
            visible_rule(&draft.cedar),
            visible(&shown(&cedar)),
            visible(&shown(&cases)),
            next("turnback policy test, then: turnback policy reload --reason <why>")
        )
    })?;
    Ok(Exit::Fine)
}

fn visible_rule(text: &str) -> String {
    turnback_core::text::visible_lines(text)
}

/// What the record says against the run.
fn why(view: &RunView) -> Result<String, Refusal> {
    let run = view.row.run.short();
    let rejected = view.history.iter().rev().find_map(|happened| match &happened.event {
        turnback_core::run::Event::Answered { answer: turnback_core::run::Answer::Rejected { by, reason } } => {
            Some(format!("{by} rejected the like in {run}: {reason}"))
        }
        _ => None,
    });
    match (view.row.state.as_str(), rejected) {
        ("rejected", Some(reason)) => Ok(reason),
        ("undone", _) => Ok(format!("the like was undone: {run}")),
        ("denied", _) => Ok(format!("the like was denied: {run}")),
        (state, _) => Err(Refusal::new(Code::BadInput, format!("it is `{state}`, not rejected, denied or undone"))
            .at(run)
            .next("say with --reason why it should not be again")),
    }
}

/// Writes a new file; one that is there stays as it is.
fn write(path: &Path, text: &str) -> Result<(), Refusal> {
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Refusal::new(Code::Exists, "is there already")
            .at(path.to_string_lossy())
            .next("look at it, or choose another --id"),
        _ => Refusal::new(Code::Failed, format!("cannot be written: {e}")).at(path.to_string_lossy()),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}
