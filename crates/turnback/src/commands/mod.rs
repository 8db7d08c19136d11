//! One file per command. To add one: write `commands/<name>.rs` with `Args` and `run`, add one line to
//! [`Command`] and one to [`Command::run`].

mod agents;
mod approve;
mod budget;
mod completion;
mod demo;
mod deny;
mod doctor;
mod flags;
mod freeze;
mod init;
mod kill;
mod labels;
mod leases;
mod plan;
mod policy;
mod reject;
mod runs;
mod serving;
mod show;
mod stdio;
mod token;
mod undo;
mod unkill;
mod up;
mod verify;

use clap::Subcommand;

use crate::context::{Context, Exit, Failure};

/// Everything `turnback` can be told to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    Init(init::Args),
    Up(up::Args),
    Demo(demo::Args),
    Stdio(stdio::Args),
    Runs(runs::Args),
    Show(show::Args),
    Approve(approve::Args),
    Reject(reject::Args),
    Undo(undo::Args),
    Kill(kill::Args),
    Unkill(unkill::Args),
    Labels(labels::Args),
    Deny(deny::Args),
    Freeze(freeze::Args),
    Budget(budget::Args),
    Leases(leases::Args),
    Plan(plan::Args),
    Agents(agents::Args),
    Token(token::Args),
    Verify(verify::Args),
    Doctor(doctor::Args),
    Policy(policy::Args),
    Flags(flags::Args),
    Completion(completion::Args),
}

impl Command {
    pub(crate) fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            Self::Init(args) => init::run(context, args),
            Self::Up(args) => up::run(context, args),
            Self::Demo(args) => demo::run(context, args),
            Self::Stdio(args) => stdio::run(context, args),
            Self::Runs(args) => runs::run(context, args),
            Self::Show(args) => show::run(context, args),
            Self::Approve(args) => approve::run(context, args),
            Self::Reject(args) => reject::run(context, args),
            Self::Undo(args) => undo::run(context, args),
            Self::Kill(args) => kill::run(context, args),
            Self::Unkill(args) => unkill::run(context, args),
            Self::Labels(args) => labels::run(context, args),
            Self::Deny(args) => deny::run(context, args),
            Self::Freeze(args) => freeze::run(context, args),
            Self::Budget(args) => budget::run(context, args),
            Self::Leases(args) => leases::run(context, args),
            Self::Plan(args) => plan::run(context, args),
            Self::Agents(args) => agents::run(context, args),
            Self::Token(args) => token::run(context, args),
            Self::Verify(args) => verify::run(context, args),
            Self::Doctor(args) => doctor::run(context, args),
            Self::Policy(args) => policy::run(context, args),
            Self::Flags(args) => flags::run(context, args),
            Self::Completion(args) => completion::run(context, args),
        }
    }
}
