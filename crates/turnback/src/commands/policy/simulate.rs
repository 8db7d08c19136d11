//! `turnback policy simulate`: recorded traffic decided again.
//!
//! Reads the journal itself, like `verify`, so that it works with a gateway and without one. One thread reads,
//! the others decide; nothing is kept but what changed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use jiff::Timestamp;
use serde::Serialize;
use turnback_core::contract::Actor;
use turnback_core::decision::Ruling;
use turnback_core::names::RunId;
use turnback_core::policy::simulate::{Again, Change, Said, Settings, Under, again};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::text::visible;
use turnback_gateway::config::Config;
use turnback_gateway::node;
use turnback_journal::Told;

use super::rules::Rules;
use crate::commands::undo::moment;
use crate::commands::verify::Progress;
use crate::context::{Context, Exit, Failure};
use crate::render::number;
use crate::render::runs::who;
use crate::render::style::{BAD, CARE, FAINT, GOOD, STRONG, paint};

/// Runs handed to a thread at once.
const BATCH: usize = 64;

/// Runs of a group that are named, and runs that cannot be decided again.
const NAMED: usize = 10;

/// What simulation leaves out, said every time.
const LIMITS: &str = "not simulated: staging is not repeated, so what was refused before it stays unmeasured; approvals \
                      and what was spent of budgets count as recorded, and so does what flag services said; switches thrown since do \
                      not count";

#[derive(clap::Args)]
pub(super) struct Args {
    /// Runs proposed since: a time, or how long ago, such as 7d or 12h
    #[arg(long)]
    since: String,
    /// The folder of the other policy's *.cedar files [default: the configured policy]
    #[arg(long, value_name = "DIR")]
    with: Option<PathBuf>,
    /// A turnback.toml whose limits, floor, freezes, modes, levels, flags, safer forms and resources count instead of those recorded
    #[arg(long, value_name = "FILE")]
    with_config: Option<PathBuf>,
    /// A file of release flags that count instead of those recorded
    #[arg(long, value_name = "FILE")]
    with_flags: Option<PathBuf>,
}

/// Decisions that come out otherwise in the same way.
#[derive(Serialize)]
struct Group {
    then: Ruling,
    now: Ruling,
    tool: String,
    environment: String,
    /// Both answers, as of the first run.
    was: Said,
    would_be: Said,
    /// Nothing is known of the effect of these.
    unmeasured: bool,
    count: u64,
    runs: Vec<Named>,
}

#[derive(Serialize)]
struct Named {
    run: RunId,
    actor: Actor,
}

#[derive(Serialize)]
struct Undecided {
    run: RunId,
    why: String,
}

#[derive(Default, Serialize)]
struct Answer {
    since: Option<Timestamp>,
    runs: u64,
    same: u64,
    not_judged: u64,
    changed: u64,
    groups: Vec<Group>,
    undecided: u64,
    undecided_runs: Vec<Undecided>,
    not_simulated: &'static str,
}

/// One run as the record has it, one line for each thing that differs.
type Key = (Ruling, Ruling, String, String, Vec<String>, Vec<String>, bool);

#[derive(Default)]
struct Tally {
    runs: u64,
    same: u64,
    not_judged: u64,
    groups: BTreeMap<Key, Group>,
    undecided: u64,
    undecided_runs: Vec<Undecided>,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<Exit, Failure> {
    let since = moment(&args.since, context.now)?;
    let present = context.config()?;
    let other = args.with_config.as_deref().map(Config::load).transpose()?;
    let config = other.as_ref().unwrap_or(&present);
    let tools = node::tools(config)?;
    let file = args.with_flags.as_ref().or(other.as_ref().and_then(|other| other.flags.as_ref()));
    let read = file.map(|file| node::flags_at(file, &tools)).transpose()?;
    let flags = (read.is_some() || other.is_some()).then_some(read.as_ref());
    let rules = Rules::at(args.with.as_deref().unwrap_or(&config.policy), tools)?;
    let policy = rules.compile()?;
    let settings = other.as_ref().map(|config| Settings {
        limits: config.limits.clone(),
        floor: config.floor.clone(),
        freezes: config.freezes.clone(),
        environments: config.environments.clone(),
        ceilings: config.ceilings.clone(),
    });
    let under = Under { policy: &policy, settings: settings.as_ref(), flags };
    let state = context.state()?;
    if !state.is_dir() {
        return Err(Refusal::new(Code::NotFound, "there is no state directory here, so nothing was recorded yet")
            .at(state.to_string_lossy())
            .next("turnback up")
            .into());
    }

    let tally = Mutex::new(Tally::default());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (send, receive) = mpsc::sync_channel::<Vec<Told>>(workers * 2);
    let receive = Mutex::new(receive);
    let read = thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    // Held only while waiting for the next batch.
                    let batch = receive.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(batch) = batch else { return };
                    for told in batch {
                        let came = decide(&told, &under);
                        tally.lock().unwrap_or_else(PoisonError::into_inner).add(told.run, came);
                    }
                }
            });
        }
        let mut progress = Progress::new("runs", Instant::now());
        let mut batch = Vec::with_capacity(BATCH);
        let mut done = 0;
        let gone = || Refusal::new(Code::Failed, "the threads that decide ended early");
        let read = turnback_journal::replay(&state, since, |told, all| {
            done += 1;
            progress.at(done, all);
            batch.push(told);
            if batch.len() == BATCH { send.send(std::mem::take(&mut batch)).map_err(|_| gone()) } else { Ok(()) }
        })
        .and_then(|()| send.send(std::mem::take(&mut batch)).map_err(|_| gone()));
        drop(send);
        progress.done();
        read
    });
    read?;
    let result = tally.into_inner().unwrap_or_else(PoisonError::into_inner).result(since);
    context.answer(&result, text)?;
    Ok(Exit::findings(result.changed > 0 || result.undecided > 0))
}

/// Opens what a decision rests on and decides it again.
fn decide(told: &Told, under: &Under<'_>) -> Again {
    let mut pieces = Vec::with_capacity(told.records.len());
    for sealed in &told.records {
        let read = sealed.record().and_then(|record| {
            let wanted = matches!(record.kind.as_str(), "run.proposed" | "run.judged" | "run.staged");
            Ok(if wanted { Some((sealed.payload(&record)?, record.kind)) } else { None })
        });
        match read {
            Ok(piece) => pieces.extend(piece),
            Err(why) => return Again::Cannot(why),
        }
    }
    again(pieces.iter().map(|(payload, kind)| (kind.as_str(), *payload)), under)
}

impl Tally {
    fn add(&mut self, run: RunId, came: Again) {
        self.runs += 1;
        match came {
            Again::Same(_) => self.same += 1,
            Again::NotJudged => self.not_judged += 1,
            Again::Cannot(why) => {
                self.undecided += 1;
                self.undecided_runs.push(Undecided { run, why });
            }
            Again::Changed(change) => {
                let Change { actor, tool, environment, then, now, unmeasured } = *change;
                let key = (
                    then.ruling,
                    now.ruling,
                    tool.clone(),
                    environment.clone(),
                    then.rules.clone(),
                    now.rules.clone(),
                    unmeasured,
                );
                let group = self.groups.entry(key).or_insert_with(|| Group {
                    then: then.ruling,
                    now: now.ruling,
                    tool,
                    environment,
                    was: then,
                    would_be: now,
                    unmeasured,
                    count: 0,
                    runs: Vec::new(),
                });
                group.count += 1;
                group.runs.push(Named { run, actor });
                if group.runs.len() > NAMED {
                    // The oldest are named, whichever thread was quicker.
                    group.runs.sort_unstable_by_key(|named| named.run);
                    group.runs.truncate(NAMED);
                }
            }
        }
    }

    fn result(self, since: Timestamp) -> Answer {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.iter_mut().for_each(|group| group.runs.sort_unstable_by_key(|named| named.run));
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        let mut undecided_runs = self.undecided_runs;
        undecided_runs.sort_unstable_by_key(|undecided| undecided.run);
        Answer {
            since: Some(since),
            runs: self.runs,
            same: self.same,
            not_judged: self.not_judged,
            changed: groups.iter().map(|group| group.count).sum(),
            groups,
            undecided: self.undecided,
            undecided_runs,
            not_simulated: LIMITS,
        }
    }
}

fn text(result: &Answer) -> String {
    let mut out = String::new();
    for group in &result.groups {
        out.push_str(&format!(
            "{} {} instead of {}  {} in `{}`\n",
            paint(STRONG, &number::of(group.count, "run:", "runs:")),
            paint(STRONG, group.now.word()),
            group.then.word(),
            visible(&group.tool),
            visible(&group.environment)
        ));
        for (when, said) in [("was", &group.was), ("now", &group.would_be)] {
            let reasons = match said.reasons.as_slice() {
                [] => format!("by {}", visible(&said.rules.join(", "))),
                reasons => reasons.iter().map(|reason| visible(reason)).collect::<Vec<_>>().join("; "),
            };
            out.push_str(&format!("  {when}  {}: {reasons}\n", said.ruling.word()));
            for obligation in &said.obligations {
                out.push_str(&format!("       {}\n", visible(obligation)));
            }
        }
        if group.unmeasured {
            out.push_str(&format!(
                "  {}\n",
                paint(FAINT, "never staged: what the gates would say to its effect is not known")
            ));
        }
        let named: Vec<String> =
            group.runs.iter().map(|named| format!("{} ({})", named.run.short(), visible(&who(&named.actor)))).collect();
        let more = group.count.saturating_sub(named.len() as u64);
        let more = if more > 0 { format!(" and {} more", number::count(more)) } else { String::new() };
        out.push_str(&format!("  {}{more}\n\n", named.join(", ")));
    }
    if result.undecided > 0 {
        out.push_str(&format!(
            "{} {}\n",
            paint(BAD, "cannot be decided again:"),
            number::of(result.undecided, "run", "runs")
        ));
        for undecided in &result.undecided_runs {
            out.push_str(&format!("  {}  {}\n", undecided.run.short(), visible(&undecided.why)));
        }
        out.push('\n');
    }
    let runs = number::of(result.runs, "run", "runs");
    out.push_str(&match result.changed {
        0 => format!("{} in {runs}", paint(GOOD, "no decision changes")),
        changed => format!("{} of {runs}", paint(CARE, &number::of(changed, "decision changes", "decisions change"))),
    });
    if result.not_judged > 0 {
        out.push_str(&format!("; {} never judged", number::of(result.not_judged, "was", "were")));
    }
    out.push_str(&format!("\n{}\n", paint(FAINT, result.not_simulated)));
    out
}
