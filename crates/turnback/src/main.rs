//! `turnback`: the command line.
//!
//! One file per command in `commands/`; what they print is made in `render/`; what they write is in
//! `templates/`. Nothing is decided here: operator commands ask the gateway through its socket
//! (`client.rs`).
//!
//! Data goes to stdout, notices, questions and errors to stderr. Exit codes: 0 fine or unchanged,
//! 1 error, 2 there is something to look at; each command says in its help what that is.

mod client;
mod commands;
mod context;
mod render;
mod templates;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use context::{Context, Failure, Output};

/// The heading of the options every command has.
const EVERYWHERE: &str = "Everywhere";

/// The execution boundary between AI agents and production.
///
/// An agent proposes an action; Turnback measures what it would really do, proves the way back, gets a
/// person where there is none, performs it, and can undo it later.
#[derive(Parser)]
#[command(name = "turnback", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 fine or unchanged, 1 error, 2 there is something to look at.")]
struct Cli {
    /// The configuration file
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "FILE", default_value = turnback_gateway::config::FILE_NAME)]
    config: PathBuf,
    /// The state directory, for when the configuration cannot be read
    #[arg(long, global = true, help_heading = EVERYWHERE, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// How to print results: for people, or for programs; fields are only ever added
    #[arg(short, long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t = Output::Text)]
    #[arg(value_name = "text|json", hide_possible_values = true, hide_default_value = true)]
    output: Output,
    /// When to use colours; NO_COLOR turns them off too
    #[arg(long, global = true, help_heading = EVERYWHERE, value_enum, default_value_t = Color::Auto)]
    #[arg(value_name = "auto|always|never", hide_possible_values = true, hide_default_value = true)]
    color: Color,
    #[command(subcommand)]
    command: commands::Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

fn main() -> ExitCode {
    // Points named in FAILPOINTS are live as long as this is held.
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Wrong usage is an error like any other: 1. clap would say 2, which here means findings.
            let code = ExitCode::from(u8::from(e.use_stderr()));
            // Nowhere is left to report that stderr is gone.
            let _ = e.print();
            return code;
        }
    };
    match cli.color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
    let context = Context::new(cli.config, cli.state_dir, cli.output);
    match cli.command.run(&context) {
        Ok(exit) => exit.into(),
        Err(Failure::PipeClosed) => ExitCode::SUCCESS,
        Err(failure) => {
            context.complain(&failure);
            ExitCode::from(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn no_option_hides_another() {
        // An argument of a command with the name of a global one would replace it unseen.
        let mut command = super::Cli::command();
        command.build();
        let global: Vec<String> =
            command.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().to_string()).collect();
        assert!(global.contains(&"state_dir".to_owned()));
        let mut open: Vec<clap::Command> = command.get_subcommands().cloned().collect();
        while let Some(command) = open.pop() {
            for argument in command.get_arguments().filter(|a| !a.is_global_set()) {
                assert!(!global.contains(&argument.get_id().to_string()), "{} {argument}", command.get_name());
            }
            open.extend(command.get_subcommands().cloned());
        }
        super::Cli::command().debug_assert();
    }
}
