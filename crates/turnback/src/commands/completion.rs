//! `turnback completion`.

use std::io::Write as _;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::context::{Context, Exit, Failure};

/// Print the completion script of a shell
#[derive(clap::Args)]
#[command(after_help = "Example: turnback completion bash > ~/.local/share/bash-completion/completions/turnback")]
pub(crate) struct Args {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(_context: &Context, args: Args) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "turnback", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(Exit::Fine)
}
