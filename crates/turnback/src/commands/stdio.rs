//! `turnback stdio`: one agent over stdin and stdout, named by the configuration.

use turnback_core::refusal::{Code, Refusal};

use crate::context::{Context, Exit, Failure};

/// Serve the agent named in [stdio] over stdin and stdout
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 the client hung up, 1 error.")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: Args) -> Result<Exit, Failure> {
    let config = context.config()?;
    let missing = config.missing();
    if !missing.is_empty() {
        return Err(Failure::Config(missing));
    }
    let Some(_agent) = &config.stdio_agent else {
        return Err(Refusal::new(Code::BadInput, "the configuration names no agent for stdio")
            .at("stdio.agent")
            .next("add [stdio] with agent = \"...\" to turnback.toml")
            .into());
    };
    Err(Refusal::new(Code::Unavailable, "this build has no gateway to serve with yet").into())
}
