//! `turnback policy`: the life cycle of the rules. One file for each subcommand; `rules` reads the files.

mod drop;
mod explain;
mod from_run;
mod lint;
mod promote;
mod reload;
mod rules;
mod sarif;
mod simulate;
mod stage;
mod staged;
mod test;

pub(super) use self::rules::{Rules, shown};
use crate::context::{Context, Exit, Failure};

/// Check, test, explain, try and change the rules
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Find rules that do not load, cannot match, or do what they seem not to
    #[command(after_help = "Exit codes: 0 nothing found, 1 error, 2 something found.")]
    Lint(lint::Args),
    /// Ask the rules every case in the *.cases.json files beside them
    #[command(
        after_help = "Exit codes: 0 every case is as expected, 1 error, 2 at least one is not, or a rule decided none and \
                            --require-coverage asks for that."
    )]
    Test(test::Args),
    /// Say why a run was decided as it was, and what would have been acceptable
    #[command(after_help = "Exit codes: 0 explained, 1 error.")]
    Explain(explain::Args),
    /// Decide recorded runs again under another policy, and show what changes
    #[command(
        after_help = "Exit codes: 0 no decision changes, 1 error, 2 at least one changes or cannot be made again.\n\n\
                            Example: turnback policy simulate --since 7d --with new/"
    )]
    Simulate(simulate::Args),
    /// Write a rule and its case from a run that should not have been
    #[command(after_help = "Exit codes: 0 written, 1 error.")]
    FromRun(from_run::Args),
    /// Judge every decision by another policy too, without effect, and count the differences
    #[command(after_help = "Exit codes: 0 staged, 1 error.")]
    Stage(stage::Args),
    /// Show the active and the staged policy and how they differed so far
    #[command(after_help = "Exit codes: 0 they agree or nothing is staged, 1 error, 2 they differ.")]
    Staged,
    /// Make the staged policy the active one
    #[command(
        long_about = "Make the staged policy the active one.\n\nIt stays active over restarts, whatever the configured files \
                      say; a difference is named at every start. `turnback policy reload` makes the files active again.",
        after_help = "Exit codes: 0 active, 1 error: the policy before it stays."
    )]
    Promote(promote::Args),
    /// Forget the staged policy
    #[command(after_help = "Exit codes: 0 forgotten, 1 error.")]
    Drop(drop::Args),
    /// Read the configured policy files again and make them the active policy
    #[command(after_help = "Exit codes: 0 active, 1 error: the policy before it stays.")]
    Reload(reload::Args),
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    match args.what {
        What::Lint(args) => lint::run(context, &args),
        What::Test(args) => test::run(context, &args),
        What::Explain(args) => explain::run(context, args),
        What::Simulate(args) => simulate::run(context, &args),
        What::FromRun(args) => from_run::run(context, args),
        What::Stage(args) => stage::run(context, args),
        What::Staged => staged::run(context),
        What::Promote(args) => promote::run(context, args),
        What::Drop(args) => drop::run(context, args),
        What::Reload(args) => reload::run(context, args),
    }
}
