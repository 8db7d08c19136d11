//! `turnback flags`: how far agents may go, changed while the gateway runs.

use std::io::Read as _;
use std::path::PathBuf;

use clap::ValueEnum;
use serde_json::Value;
use turnback_core::flags::{self, State};
use turnback_core::policy::lint::Finding;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible_lines;
use turnback_gateway::config::Config;
use turnback_gateway::node;
use turnback_gateway::operator::protocol::{FlagsView, Reply, Request};

use crate::client::{Door, unexpected};
use crate::context::{Context, Exit, Failure};
use crate::render;

/// List, show, change and check the release flags
#[derive(clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 error, 2 lint found something.")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the flags that hold
    List,
    /// Print the document that holds, or one flag of it
    Show {
        /// The flag's key
        flag: Option<String>,
    },
    /// Change one flag; the next call is decided by it
    Set {
        /// The flag's key
        flag: String,
        /// The variant that holds when targeting names none
        #[arg(long)]
        variant: Option<String>,
        /// Whether the flag says anything
        #[arg(long, value_enum)]
        state: Option<Word>,
        /// Why, for the record
        #[arg(short, long)]
        reason: String,
    },
    /// Replace all flags by a file; the next call is decided by them
    Apply {
        /// In flagd's format; `-` reads standard input
        file: PathBuf,
        /// Why, for the record
        #[arg(short, long)]
        reason: String,
    },
    /// Show who changed the flags, when and why, newest first
    History,
    /// Show the services that are asked for flags: whether they answer, and what of them is kept
    Remote,
    /// Find flags in the file that nobody answers for or that are overdue for review
    Lint,
}

#[derive(Clone, Copy, ValueEnum)]
enum Word {
    /// It is evaluated
    Enabled,
    /// It says nothing
    Disabled,
}

impl From<Word> for State {
    fn from(word: Word) -> Self {
        match word {
            Word::Enabled => Self::Enabled,
            Word::Disabled => Self::Disabled,
        }
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Result<Exit, Failure> {
    match args.what {
        What::Lint => return run_lint(context),
        What::List => list(context, &ask(&context.door()?, &Request::Flags)?)?,
        What::Show { flag } => show(context, &ask(&context.door()?, &Request::Flags)?, flag.as_deref())?,
        What::Set { flag, variant, state, reason } => {
            let door = context.door()?;
            let view =
                ask(&door, &Request::FlagsSet { flag: flag.clone(), variant, state: state.map(Into::into), reason })?;
            list(context, &view)?;
            if view.flags.iter().any(|f| f.flag == flag && f.targeting && f.enabled) {
                context.notice("its targeting still names variants of its own");
            }
        }
        What::Apply { file, reason } => {
            let document = text_of(&file)?;
            let view = ask(&context.door()?, &Request::FlagsApply { document, reason }).map_err(|refusal| {
                // The gateway was handed a text and no name.
                let place = refusal.place.as_ref().and_then(|place| place.strip_prefix("document:"));
                let place = place.map(|place| format!("{}:{place}", file.display()));
                Refusal { place: place.or(refusal.place.clone()), ..refusal }
            })?;
            list(context, &view)?;
        }
        What::History => match context.door()?.ask(&Request::FlagsHistory)? {
            Reply::FlagsHistory(editions) => {
                context.answer(&editions, |editions| render::flags::history(editions, context.now))?;
            }
            other => return Err(unexpected(&other).into()),
        },
        What::Remote => match context.door()?.ask(&Request::FlagsRemote)? {
            Reply::FlagsRemote(services) => {
                context.answer(&services, |services| render::flags::remote(services, context.now))?;
            }
            other => return Err(unexpected(&other).into()),
        },
    }
    Ok(Exit::Fine)
}

fn ask(door: &Door, request: &Request) -> Result<FlagsView, Refusal> {
    match door.ask(request)? {
        Reply::Flags(view) => Ok(*view),
        other => Err(unexpected(&other)),
    }
}

fn list(context: &Context, view: &FlagsView) -> Result<(), Failure> {
    context.answer(view, |view| render::flags::list(view, context.now))
}

fn show(context: &Context, view: &FlagsView, flag: Option<&str>) -> Result<(), Failure> {
    let Some(key) = flag else {
        return context.answer(view, |view| visible_lines(&view.document));
    };
    let document: Value = serde_json::from_str(&view.document)
        .map_err(|e| Refusal::new(Code::Failed, format!("the gateway's document cannot be read: {e}")))?;
    let Some(flag) = document.get("flags").and_then(|flags| flags.get(key)) else {
        return Err(Refusal::new(Code::NotFound, "there is no such flag").at(key).next("turnback flags list").into());
    };
    let text = render::json(flag)?;
    context.print(&visible_lines(&text))
}

fn text_of(file: &std::path::Path) -> Result<String, Refusal> {
    let mut text = String::new();
    let limit = flags::SIZE_LIMIT as u64 + 1;
    let read = if file == std::path::Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(limit).read_to_string(&mut text))
    };
    read.map_err(|e| Refusal::new(Code::NotFound, format!("cannot be read: {e}")).at(file.to_string_lossy()))?;
    Ok(text)
}

/// What lint says about the flags a configuration names. A file that cannot be read whole is an error, not a finding.
pub(super) fn findings(config: &Config, now: jiff::Timestamp) -> Result<Vec<Finding>, Refusal> {
    let flags = node::flags(config, &node::tools(config)?)?;
    let file = config.flags.as_ref().map(|path| super::policy::shown(path)).unwrap_or_default();
    Ok(flags.map(|flags| flags::lint(&flags, &file, now)).unwrap_or_default())
}

fn run_lint(context: &Context) -> Result<Exit, Failure> {
    let found = findings(&context.config()?, context.now)?;
    context.answer(&found, |found| render::flags::findings(found))?;
    Ok(Exit::findings(!found.is_empty()))
}
