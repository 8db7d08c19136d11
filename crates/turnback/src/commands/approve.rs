//! `turnback approve`.
//!
//! Invariant `SHOWN-IS-APPROVED`: the answer names the question that was shown, never the name that was
//! typed, so that a run parked again in between is not approved unseen.

use turnback_core::refusal::{Code, Refusal};
use turnback_core::rollback::Level;
use turnback_gateway::operator::protocol::{Reply, Request, RunView};

use super::show;
use crate::client::unexpected;
use crate::context::{Context, Exit, Failure};
use crate::render;
use crate::render::run::Detail;

/// Approve what a waiting run would do, after seeing it
#[derive(clap::Args)]
#[command(
    long_about = "Approve what a waiting run would do, after seeing it.\n\nThe whole effect is shown first. Without a \
                  terminal, --yes is needed, and --target too when the way back is below level 4.",
    after_help = "Exit codes: 0 approved and done, 1 error, 2 it did not end as approved: look at it."
)]
pub(crate) struct Args {
    /// The approval or its run, in full or short
    approval: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The name of the resource acted on; needed with --yes when the way back is below level 4
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    let door = context.door()?;
    let view = show::fetch(&door, args.approval)?;
    let Some(question) = &view.question else {
        return Err(Refusal::new(Code::NotFound, format!("run `{}` does not wait for a person", view.row.run.short()))
            .next(format!("turnback show {}", view.row.run.short()))
            .into());
    };
    if !context.json() {
        context.notice(&render::run::view(&view, Detail::default(), context.now));
    }
    if !agreed(context, &view, args.yes, args.target.as_deref())? {
        context.notice("nothing was approved; it still waits");
        return Ok(Exit::Fine);
    }
    match door.ask(&Request::Approve { approval: question.id.to_string() })? {
        Reply::Ended(views) => {
            let views = show::settle(&door, *views)?;
            context.answer(&views, |views: &Vec<RunView>| views.iter().map(render::run::ended).collect())?;
            Ok(Exit::findings(!views.iter().all(|view| matches!(view.row.state.as_str(), "settled" | "done"))))
        }
        other => Err(unexpected(&other).into()),
    }
}

/// Whether somebody agrees. Below level 4 the resource's name is the answer, so that no habit gives it.
fn agreed(context: &Context, view: &RunView, yes: bool, target: Option<&str>) -> Result<bool, Failure> {
    let resource = &view.row.resource;
    let typed = needs_target(view);
    if let Some(target) = target.filter(|target| target != resource) {
        let message = format!("this acts on `{resource}`, not on `{}`", turnback_core::text::visible(target));
        return Err(Refusal::new(Code::BadInput, message).at("--target").next("look again at what is shown").into());
    }
    if yes {
        if typed && target.is_none() {
            return Err(Refusal::new(Code::BadInput, "its way back is below level 4, so --yes alone is not enough")
                .at("--yes")
                .next(format!("say what it acts on as well: --target {resource}"))
                .into());
        }
        return Ok(true);
    }
    let question = if typed {
        format!("There may be no way back. Type `{resource}` to approve, anything else to leave it waiting:")
    } else {
        "Type `approve` to approve, anything else to leave it waiting:".to_owned()
    };
    let Some(answer) = context.question(&question) else {
        return Err(Refusal::new(Code::BadInput, "there is no terminal to ask on").next("add --yes").into());
    };
    Ok(if typed { answer == *resource } else { answer == "approve" })
}

/// An unknown level counts as none.
fn needs_target(view: &RunView) -> bool {
    view.level.and_then(Level::from_number).is_none_or(|level| level < Level::Snapshotted)
}
