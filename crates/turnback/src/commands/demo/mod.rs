//! `turnback demo`: an agent tries to wreck a database, as an ordinary MCP client against a real
//! gateway on real files and a real SQLite database.
//!
//! Every line printed was checked; the first expectation that fails is named and the exit code is 1.

mod agent;
mod gateway;
mod story;
mod world;

use agent::Failure;
use story::Story;
use turnback_core::refusal::{Code, Refusal};
use world::World;

use crate::context::{self, Context, Exit};
use crate::render::style::next;

/// Watch an agent try to wreck a database, and what happens instead
///
/// Makes a folder and a database of its own, starts a gateway on them and plays documented incidents
/// through its MCP door.
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 everything was as it should be, 1 something was not.")]
pub(crate) struct Args {
    /// Leave everything running to play with, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, context::Failure> {
    let broken = |e: Failure| Refusal::new(Code::Failed, e.to_string()).at("demo");
    let mut folder = tempfile::Builder::new().prefix("turnback-demo-").tempdir()?;
    let world = World::make(folder.path()).map_err(broken)?;
    let mut story = Story::begin(&world).map_err(broken)?;
    if let Err(e) = story.play() {
        folder.disable_cleanup(true);
        return Err(broken(format!("not as promised: {e}").into())
            .next(format!("look around in {}", world.root.display()))
            .into());
    }
    context.notice("\nEvery line above was checked against the database, the files and the record.");
    if !args.keep {
        return Ok(Exit::Fine);
    }
    // The folder stays: it is what there is to play with.
    folder.disable_cleanup(true);
    let (gateway, token) = story.end().map_err(broken)?;
    context.notice(&format!(
        "\nStill running, in {}\n  agents connect to   {}\n  with the token      {token}\n{}\nCtrl-C ends it.",
        world.root.display(),
        gateway.url,
        next(&format!("turnback --config {} runs", world.config().display())),
    ));
    gateway.wait().map_err(broken)?;
    Ok(Exit::Fine)
}
