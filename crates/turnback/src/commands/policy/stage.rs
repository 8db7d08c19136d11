//! `turnback policy stage`.

use std::path::PathBuf;

use turnback_core::policy::Source;
use turnback_gateway::operator::policy::PolicyRequest;

use super::rules::Rules;
use super::staged;
use crate::context::{Context, Exit, Failure};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The folder of its *.cedar files, or one such file
    dir: PathBuf,
    /// Why; it stands in the record with who you are
    #[arg(short, long)]
    reason: String,
}

pub(super) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let rules = Rules::at(&args.dir, Vec::new())?;
    // Kept without their folder: they are the node's from now on, wherever they came from.
    let bare = |source: Source| Source {
        name: source.name.rsplit('/').next().unwrap_or_default().to_owned(),
        text: source.text,
    };
    let sources = rules.sources.into_iter().map(bare).collect();
    let state = staged::ask(context, PolicyRequest::Stage { sources, reason: args.reason })?;
    context.answer(state.as_ref(), staged::text)?;
    Ok(Exit::Fine)
}
