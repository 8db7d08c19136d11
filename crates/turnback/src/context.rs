//! What every command is given: where things are, how to print, how to fail.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;
use turnback_core::refusal::{Code, Refusal};
use turnback_gateway::config::{self, Config, ConfigError};

use crate::client::Door;
use crate::render;

/// Where `up` writes a first configuration.
const FIRST_FOLDER: &str = "turnback";

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs. Fields are only ever added.
    Json,
}

/// How a command ended when nothing went wrong with the command itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0.
    Fine,
    /// 2: there is something to look at.
    Findings,
}

impl Exit {
    /// [`Exit::Findings`] when there are any.
    pub(crate) const fn findings(any: bool) -> Self {
        if any { Self::Findings } else { Self::Fine }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Fine => Self::SUCCESS,
            Exit::Findings => Self::from(2),
        }
    }
}

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was refused.
    Refused(Box<Refusal>),
    /// The configuration is wrong.
    Config(Vec<ConfigError>),
    /// Whoever read our output stopped reading. Not an error: `turnback runs | head`.
    PipeClosed,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(vec![error])
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::PipeClosed;
        }
        Refusal::new(Code::Failed, format!("cannot write the answer: {error}")).into()
    }
}

/// What every command is given.
pub(crate) struct Context {
    file: PathBuf,
    state: Option<PathBuf>,
    output: Output,
    /// The time of the command, for relative times.
    pub(crate) now: Timestamp,
}

impl Context {
    pub(crate) fn new(file: PathBuf, state: Option<PathBuf>, output: Output) -> Self {
        Self { file, state, output, now: Timestamp::now() }
    }

    /// The configuration, checked. Unless another is named, the one in this folder, else the one `up`
    /// wrote into the folder `turnback`.
    pub(crate) fn config(&self) -> Result<Config, ConfigError> {
        let below = Path::new(FIRST_FOLDER).join(&self.file);
        let first = self.file == Path::new(config::FILE_NAME) && !self.file.exists() && below.exists();
        Config::load(if first { &below } else { &self.file })
    }

    /// The folder a first configuration is written into, when there is none yet.
    pub(crate) fn first_folder(&self) -> Result<PathBuf, Refusal> {
        if self.file != Path::new(config::FILE_NAME) || self.file.exists() {
            return Err(Refusal::new(Code::Exists, "what agents may work in stands in the configuration already")
                .at(self.file.to_string_lossy())
                .next("add it there as another resource"));
        }
        Ok(PathBuf::from(FIRST_FOLDER))
    }

    /// The way to the gateway. `--state-dir` finds it even when the configuration cannot be read: the kill
    /// switch must work then too.
    pub(crate) fn door(&self) -> Result<Door, Failure> {
        let socket = match &self.state {
            Some(state) => config::socket_in(state),
            None => self.config()?.socket(),
        };
        Ok(Door::open(socket))
    }

    /// The state directory.
    pub(crate) fn state(&self) -> Result<PathBuf, Failure> {
        match &self.state {
            Some(state) => Ok(state.clone()),
            None => Ok(self.config()?.state),
        }
    }

    pub(crate) const fn json(&self) -> bool {
        matches!(self.output, Output::Json)
    }

    /// Prints a result: `value` for programs, what `text` makes of it for people.
    pub(crate) fn answer<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let text = if self.json() { render::json(value)? } else { text(value) };
        self.print(&text)
    }

    /// Prints a result that has one shape only.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{}", text.trim_end_matches('\n'))?;
        out.flush()?;
        Ok(())
    }

    /// Prints a notice beside the result.
    pub(crate) fn notice(&self, text: &str) {
        // Nowhere is left to report that stderr is gone.
        let _ = writeln!(anstream::stderr().lock(), "{}", text.trim_end_matches('\n'));
    }

    /// Prints why it failed.
    pub(crate) fn complain(&self, failure: &Failure) {
        let refusals: Vec<Refusal> = match failure {
            Failure::PipeClosed => return,
            Failure::Refused(refusal) => vec![(**refusal).clone()],
            Failure::Config(errors) => errors.iter().map(Refusal::from).collect(),
        };
        if self.json() {
            for refusal in &refusals {
                if let Ok(line) = render::json(refusal) {
                    self.notice(&line);
                }
            }
            return;
        }
        match failure {
            Failure::Config(errors) => errors.iter().for_each(|e| self.notice(&render::error::config(e))),
            _ => refusals.iter().for_each(|r| self.notice(&render::error::refusal(r))),
        }
    }

    /// Asks a question on the terminal and returns the line typed. `None` when nobody is there to ask.
    pub(crate) fn question(&self, question: &str) -> Option<String> {
        if self.json() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        {
            let mut err = anstream::stderr().lock();
            write!(err, "{question} ").and_then(|()| err.flush()).ok()?;
        }
        let mut line = String::new();
        io::stdin().read_line(&mut line).ok()?;
        Some(line.trim().to_owned())
    }
}
