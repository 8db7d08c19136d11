//! `turnback demo`: an agent tries to wreck a database, as an ordinary MCP client against a real
//! gateway on real files and a real SQLite database.
//!
//! Every line printed was checked; the first expectation that fails is named and the exit code is 1.

mod agent;
mod gateway;
mod story;
mod world;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use agent::Failure;
use gateway::Gateway;
use story::Story;
use world::World;

/// Watch an agent try to wreck a database
///
/// Makes a folder and a database of its own, starts a gateway on them and plays documented incidents
/// through its MCP door. Takes a few seconds. Exit code 1 when anything is not as promised.
#[derive(Args)]
pub(crate) struct Demo {
    /// Leave everything running to play with, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(crate) fn run(&self) -> Result<ExitCode, Failure> {
        let folder = tempfile::Builder::new().prefix("turnback-demo-").tempdir()?;
        let world = World::make(folder.path())?;
        let mut story = Story::begin(&world)?;
        let played = story.play();
        let kept = match (&played, self.keep) {
            (Ok(()), true) => Some(story.end()?),
            _ => None,
        };
        match &played {
            Ok(()) => {
                anstream::println!("\nEvery line above was checked against the database, the files and the record.")
            }
            Err(e) => anstream::eprintln!(
                "\nnot as promised: {e}\nthe gateway's log is {}",
                world.root.join("gateway.log").display()
            ),
        }
        if let Some((gateway, token)) = kept {
            // The folder stays: it is what there is to play with.
            let folder = folder.keep();
            let mut text = String::new();
            writeln!(text, "\nStill running. Everything is in {}", folder.display())?;
            writeln!(text, "  agents connect to   {}", gateway.url)?;
            writeln!(text, "  with the token      {token}")?;
            writeln!(text, "  and you look with   turnback --config {} runs", world.config().display())?;
            writeln!(text, "Ctrl-C ends it.")?;
            anstream::print!("{text}");
            gateway.wait()?;
        } else if played.is_err() {
            let _ = folder.keep();
        }
        Ok(if played.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}
