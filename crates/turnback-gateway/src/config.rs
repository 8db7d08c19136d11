//! `turnback.toml`: what the operator decides, read once and checked whole.
//!
//! Owns the file's format and everything that can be known to be wrong from the file and the paths it
//! names; every complaint is a [`ConfigError`] that points at file, line and column and says what to
//! write instead. Reads no resource and no policy: whether a database is there is asked by
//! [`Config::missing`], so that commands which only need the state directory work while it is not.
//!
//! Relative paths are relative to the folder of the file. Invariant `OUT-OF-REACH`: state, slots,
//! policy and the configuration itself lie outside every root an agent can name, and no two resources
//! overlap, because the way back of one would be inside the other.

mod autonomy;
mod collision;
mod context;
mod controls;
mod error;
mod flags;
mod limits;
mod ofrep;
mod plans;
mod raw;
mod read;
mod safer;
mod select;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use serde_spanned::Spanned;
use turnback_core::contract::Assignment;
use turnback_core::digest::Sha256;
use turnback_core::form::Form;
use turnback_core::gates::autonomy::Ceilings;
use turnback_core::gates::blast_radius::Limits;
use turnback_core::gates::controls::{Deny, Freeze};
use turnback_core::gates::recoverability::Floor;
use turnback_core::gates::release::Mode;
use turnback_core::names::{AgentName, EnvironmentName, ResourceName};
use turnback_core::rollback::Bearer;
use turnback_core::text::visible;
use turnback_core::tool::{Kind, Match};

pub use context::{Context, Labelled, Source, SourceFrom};
pub use error::ConfigError;
pub use ofrep::{RemoteFlags, token};
use read::{Reader, syntax};

/// The name of the file.
pub const FILE_NAME: &str = "turnback.toml";

/// Largest configuration file accepted, in bytes.
pub const SIZE_LIMIT: u64 = 1 << 20;

/// Where state lives when the file does not say: a folder beside the file.
pub const STATE_DEFAULT: &str = ".turnback";

/// Where agents connect when the file does not say.
pub const ADDRESS_DEFAULT: &str = "127.0.0.1:7423";

/// Everything the operator decided. A value of this type is already checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file, absolute.
    pub file: PathBuf,
    /// Journal, vault, keys and the operator's socket. Absolute; outside every resource.
    pub state: PathBuf,
    /// The agents' door.
    pub listen: Listen,
    /// The mode of each environment.
    pub environments: BTreeMap<EnvironmentName, Mode>,
    /// Everything agents can act on, by name.
    pub resources: BTreeMap<ResourceName, Resource>,
    /// Limits of one action, and budgets of many. Absent in the file means no limit.
    pub limits: Limits,
    /// How long one read or one staging may take. Longer is refused. Default: 30 seconds.
    pub time: Duration,
    /// What the way back must at least be to go without a person. Default: level 4, one hour.
    pub floor: Floor,
    /// Change freezes, active or not.
    pub freezes: Vec<Freeze>,
    /// The denylist.
    pub denies: Vec<Deny>,
    /// Agents do only what they were granted. Default: they need no grant.
    pub grants_required: bool,
    /// A Cedar file, or a folder of them. Default: `policies` beside the file.
    pub policy: PathBuf,
    /// Decisions others enforce; absent means that nobody may ask for any but about itself.
    pub access: Option<Access>,
    /// The release flags, in flagd's format. Absolute; none when the file names none.
    pub flags: Option<PathBuf>,
    /// Services that are asked for more of them, in the order of the file.
    pub remote_flags: Vec<RemoteFlags>,
    /// How autonomous any agent may be, by class of action. Default: as its own levels say.
    pub ceilings: Ceilings,
    /// How long a question waits before silence is a no. Default: 24 hours.
    pub approvals_expire: SignedDuration,
    /// Questions of one agent that may wait at once. Default 1,000.
    pub approvals_most: usize,
    /// What is remembered of reads and refusals, and what it is held against.
    pub context: Context,
    /// Who may work where somebody else is at work, in the order of the file.
    pub collisions: Vec<turnback_core::gates::collision::Rule>,
    /// Where agents need plans, and what those must state, in the order of the file.
    pub plans: Vec<turnback_core::plan::Rule>,
    /// The agent behind `turnback stdio`.
    pub stdio_agent: Option<AgentName>,
    /// How often a checkpoint is signed while records arrive. Default: one minute.
    pub checkpoint_every: Duration,
    digest: Sha256,
    source: error::Source,
    spans: Spans,
}

/// Where later complaints point.
#[derive(Clone, Debug)]
struct Spans {
    policy: Range<usize>,
    flags: Range<usize>,
    resources: BTreeMap<ResourceName, Range<usize>>,
}

/// The agents' door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where to listen. Default: [`ADDRESS_DEFAULT`].
    pub address: SocketAddr,
    /// How long a call that waits for a person is held before it is answered `PENDING`. Default: 50
    /// seconds, below every client's own timeout; at most ten minutes.
    pub hold: Duration,
    /// `Host` values accepted besides the loopback ones.
    pub allowed_hosts: Vec<String>,
    /// `Origin` values accepted besides the loopback ones.
    pub allowed_origins: Vec<String>,
}

/// Decisions others enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// A folder with Cedar files and, when there is one, `entities.json`. Default: `access` beside the file.
    pub path: PathBuf,
    /// Agents whose credentials may ask about anybody.
    pub callers: Vec<AgentName>,
}

/// One thing agents can act on.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// Its kind.
    pub kind: Kind,
    /// The folder or database file. Absolute; symlinks resolved as far as it exists.
    pub place: PathBuf,
    /// Its environment.
    pub environment: EnvironmentName,
    /// The part of the organisation it belongs to.
    pub assignment: Assignment,
    /// Who pays if the way back fails. Default: the operator.
    pub bearer: Bearer,
    /// How a re-staged effect must agree with the approved one. Default: exactly.
    pub effect_match: Match,
    /// Where deleted and replaced files are kept: a folder on the same filesystem as `place`. Default:
    /// inside the state directory.
    pub slots: Option<PathBuf>,
    /// What must be true after a commit, in the order of the file.
    pub verify: Vec<Probe>,
    /// The safer forms of its tools, by the tools' own names.
    pub forms: BTreeMap<String, Vec<Form>>,
}

/// A verification probe: run after a commit; when it does not pass, the commit is rolled back if that
/// is legal, and somebody is alerted if it is not.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Its name in observations. Default: its kind and its number.
    pub name: String,
    /// The tools it follows, by the domain's own names; empty for every tool that writes.
    pub tools: Vec<String>,
    /// How long it may take; longer is a failure. Default: ten seconds.
    pub timeout: Duration,
    /// What it looks at.
    pub check: Check,
}

impl Probe {
    /// Whether it follows the tool with that local name.
    pub fn follows(&self, local: &str) -> bool {
        self.tools.is_empty() || self.tools.iter().any(|tool| tool == local)
    }
}

/// What a probe looks at.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// A query on the resource itself that answers one row with one column.
    Query {
        /// One read-only statement.
        sql: String,
        /// The value of that column.
        expect: serde_json::Value,
    },
    /// A file.
    File {
        /// Absolute; written relative, it was inside the resource's root, or beside the configuration
        /// file for a database.
        path: PathBuf,
        /// Whether it must be there or must not.
        exists: bool,
        /// Text it must contain.
        contains: Option<String>,
    },
    /// A command that must exit with 0. An argument vector, never a shell string; run with an empty
    /// environment.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
    },
    /// An HTTP address that must answer a `GET` with a status.
    Http {
        /// The address.
        url: String,
        /// The status. Default: 200.
        status: u16,
    },
}

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let whole = |message: String, next: &str| ConfigError::whole(path, message, next);
        let found = match std::fs::metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(whole(
                    "there is no such file".into(),
                    "write one with `turnback init`, or name another with --config",
                ));
            }
            other => other.map_err(|e| whole(format!("cannot be read: {e}"), "make it readable for you"))?,
        };
        if !found.is_file() {
            return Err(whole("is not a file".into(), "name a file with --config"));
        }
        if found.len() > SIZE_LIMIT {
            return Err(whole(format!("is {} bytes, more than {SIZE_LIMIT}", found.len()), "make it smaller"));
        }
        let bytes =
            std::fs::read(path).map_err(|e| whole(format!("cannot be read: {e}"), "make it readable for you"))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            whole(format!("is not UTF-8: byte {} is wrong", e.utf8_error().valid_up_to()), "save it as UTF-8")
        })?;
        let file = std::path::absolute(path)
            .map_err(|e| whole(format!("has no absolute path: {e}"), "name it by its absolute path"))?;
        Self::parse(&text, path, &file)
    }

    /// Checks `text`. `shown` is the file's name in errors, `file` its absolute path.
    fn parse(text: &str, shown: &Path, file: &Path) -> Result<Self, ConfigError> {
        let source = error::Source { file: shown.to_owned(), text: Arc::from(text) };
        let raw: raw::File = toml::from_str(text).map_err(|e| syntax(&source, &e))?;
        let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
        let reader = Reader { source: &source, folder: &folder };

        let environments: BTreeMap<_, _> = raw.environments.into_iter().map(|(name, e)| (name, e.mode)).collect();
        let mut spans = Spans { policy: 0..0, flags: 0..0, resources: BTreeMap::new() };
        let mut resources = BTreeMap::new();
        let mut places = Vec::new();
        let mut labelled = Vec::new();
        for (name, resource) in raw.resources {
            let (span, name) = (name.span(), name.into_inner());
            let mut resource = resource;
            labelled.push((name.clone(), std::mem::take(&mut resource.labels)));
            let (resource, resource_places) = reader.resource(&name, span.clone(), resource, &environments)?;
            places.extend(resource_places);
            spans.resources.insert(name.clone(), span);
            resources.insert(name, resource);
        }
        let of_context = context::Raw {
            context: raw.context,
            evidence: raw.evidence,
            source: raw.source,
            label: raw.label,
            flow: raw.flow,
            labelled,
        };
        let context = reader.context(of_context, &resources, &environments)?;
        let collisions = reader.collisions(raw.collision, &resources, &environments)?;
        let plans = reader.plans(raw.plan, &resources, &environments)?;
        let state = reader.path_or(raw.state.as_ref(), STATE_DEFAULT);
        let policy = reader.path_or(raw.policy.path.as_ref(), "policies");
        spans.policy = raw.policy.path.as_ref().map_or(0..0, Spanned::span);
        let state_span = raw.state.as_ref().map(Spanned::span);
        reader.out_of_reach(&places, &state, state_span, &policy, raw.policy.path.as_ref().map(Spanned::span), file)?;

        let flags = flags::read(&reader, &raw.flags, &places)?;
        spans.flags = raw.flags.span();
        let remote_flags = ofrep::read(&reader, raw.flags.remote, &places, &environments, &resources)?;
        let ceilings = autonomy::read(&reader, &raw.autonomy)?;

        let listen = reader.listen(raw.listen)?;
        let half_a_minute = SignedDuration::from_secs(30);
        let time = reader.duration_or(raw.limits.time.as_ref(), half_a_minute, "how long one action may take")?;
        let known = read::Known { environments: &environments, resources: &resources };
        let safer = reader.safer(raw.safer, &known)?;
        let limits = reader.limits(raw.limits, raw.budget, raw.measure, &known)?;
        let floor = reader.floor(raw.recoverability)?;
        let freezes = reader.freezes(raw.freeze, &known)?;
        let denies = reader.denies(raw.deny, &known)?;
        let access = raw
            .access
            .map(|access| Access { path: reader.path_or(access.path.as_ref(), "access"), callers: access.callers });
        let day = SignedDuration::from_hours(24);
        let approvals_expire = reader.duration_or(raw.approvals.expire.as_ref(), day, "how long a question waits")?;
        let approvals_most = reader.count(raw.approvals.most.as_ref(), "the number of questions that wait")?;
        let minute = SignedDuration::from_secs(60);
        let checkpoint_every =
            reader.duration_or(raw.journal.checkpoint_every.as_ref(), minute, "how often a checkpoint is signed")?;
        for (tool, form) in safer {
            let (resource, local) = tool.split().unwrap_or_default();
            if let Some(resource) =
                resources.iter_mut().find_map(|(name, it)| (name.as_str() == resource).then_some(it))
            {
                resource.forms.entry(local.to_owned()).or_default().push(form);
            }
        }
        Ok(Self {
            file: file.to_owned(),
            state,
            listen,
            environments,
            resources,
            limits,
            time: time.unsigned_abs(),
            floor,
            freezes,
            denies,
            grants_required: raw.grants.required,
            policy,
            access,
            flags,
            remote_flags,
            ceilings,
            approvals_expire,
            approvals_most: approvals_most.map_or(1000, |most| usize::try_from(most).unwrap_or(usize::MAX)),
            context,
            collisions,
            plans,
            stdio_agent: raw.stdio.agent,
            checkpoint_every: checkpoint_every.unsigned_abs(),
            digest: Sha256::of(text.as_bytes()),
            source,
            spans,
        })
    }

    /// The SHA-256 of the file's exact bytes: what `sha256sum turnback.toml` prints, and what the
    /// journal names when a configuration becomes active.
    pub fn digest(&self) -> Sha256 {
        self.digest
    }

    /// The operator's socket.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.state)
    }

    /// Everything the file names that is not there or is of another kind. Empty means a gateway can
    /// be started.
    pub fn missing(&self) -> Vec<ConfigError> {
        let mut found = Vec::new();
        if self.resources.is_empty() {
            found.push(ConfigError::whole(
                &self.source.file,
                "names no resource: agents would have nothing to act on",
                "add a [resources.<name>] table; `turnback init` shows how",
            ));
        }
        for (name, resource) in &self.resources {
            let span = self.spans.resources.get(name).cloned().unwrap_or(0..0);
            let shown = visible(&resource.place.to_string_lossy());
            let (is, expected) = match resource.kind {
                Kind::Files => (resource.place.is_dir(), "a folder"),
                Kind::Sqlite => (resource.place.is_file(), "a SQLite database file"),
            };
            if !is {
                let why = if resource.place.exists() { format!("is not {expected}") } else { "does not exist".into() };
                let next = format!("create it, or let the resource name {expected} that exists");
                found.push(self.source.error(span, format!("`{shown}` of resource `{name}` {why}"), next));
            }
        }
        found.extend(flags::missing(self));
        found.extend(ofrep::missing(self));
        if !self.policy.exists() {
            found.push(self.source.error(
                self.spans.policy.clone(),
                format!(
                    "there is no policy at `{}`; without one nothing is allowed",
                    visible(&self.policy.to_string_lossy())
                ),
                "write one with `turnback init`, or name it in [policy] path",
            ));
        }
        found
    }
}

/// The operator's socket inside a state directory.
pub fn socket_in(state: &Path) -> PathBuf {
    state.join("operator.sock")
}
