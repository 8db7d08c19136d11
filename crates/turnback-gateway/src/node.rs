//! A node: configuration turned into a running runtime with its doors.
//!
//! The one place where configuration, policy, domains and journal meet. Owns start and orderly stop;
//! every command that needs a runtime gets it here.

use std::future::Future;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use turnback_core::flags::Flags;
use turnback_core::names::ResourceName;
use turnback_core::policy::{Policy, PolicyError, Source};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::tool::{Kind, Tool};
use turnback_effects::{Bounds, registry};

use crate::config::{self, Config};
use crate::mcp::{self, McpOptions};
use crate::operator;
use crate::runtime::{Access, Clock, Resource, Runtime, Settings, tools_of};

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// A policy does not compile; each error names file, line and column.
    #[error("the policy does not compile")]
    Policy(Vec<PolicyError>),
    /// Something else is wrong.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

fn refused(what: &str, e: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Failed, e.to_string()).at(what)
}

/// Reads the policy: one file, or every `*.cedar` and `*.rego` of a folder in the order of their names.
///
/// # Errors
/// A [`Refusal`] naming the file that cannot be read, or the folder that holds none.
pub fn policy_sources(path: &Path) -> Result<Vec<Source>, Refusal> {
    let place = path.display().to_string();
    let mut files: Vec<PathBuf> = if path.is_dir() {
        std::fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
            .map_err(|e| refused(&place, e).next("see that it can be read, then start again"))?
            .into_iter()
            .filter(|file| file.extension().is_some_and(|e| e == "cedar" || e == "rego"))
            .collect()
    } else {
        vec![path.to_owned()]
    };
    files.sort();
    if files.is_empty() {
        return Err(Refusal::new(Code::NotFound, "no policy: without one every action is denied")
            .at(&place)
            .next("write one: turnback init puts a starting policy there"));
    }
    files
        .into_iter()
        .map(|file| {
            let name = file.display().to_string();
            let text = std::fs::read_to_string(&file)
                .map_err(|e| refused(&name, e).next("see that it can be read, then start again"))?;
            Ok(Source { name, text })
        })
        .collect()
}

/// The tools a configuration registers, without opening what they act on. For checking policies.
///
/// # Errors
/// When a resource's and a tool's name together are too long.
pub fn tools(config: &Config) -> Result<Vec<Tool>, Refusal> {
    let mut tools = Vec::new();
    for (name, resource) in &config.resources {
        for spec in registry::specs(resource.kind) {
            let tool =
                Tool::bind(&spec, name, resource.kind, &resource.environment, resource.effect_match, resource.bearer);
            let mut tool = tool.map_err(|e| refused(name.as_str(), e))?;
            tool.forms = resource.forms.get(spec.name).cloned().unwrap_or_default();
            tools.push(tool);
        }
    }
    Ok(tools)
}

/// Reads the release flags a configuration names, checked against the tools it registers.
///
/// # Errors
/// A [`Refusal`] naming the file, with line and column where something in it is wrong.
pub fn flags(config: &Config, tools: &[Tool]) -> Result<Option<Flags>, Refusal> {
    config.flags.as_ref().map(|path| flags_at(path, tools)).transpose()
}

/// Reads a file of release flags, checked against `tools`.
///
/// # Errors
/// As [`flags`].
pub fn flags_at(path: &Path, tools: &[Tool]) -> Result<Flags, Refusal> {
    let place = path.display().to_string();
    let failed = |e: std::io::Error| refused(&place, e).next("see that it can be read, then start again");
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > turnback_core::flags::SIZE_LIMIT as u64 {
        let message = format!("is {size} bytes, more than {}", turnback_core::flags::SIZE_LIMIT);
        return Err(Refusal::new(Code::TooLarge, message).at(&place).next("split off what is not used any more"));
    }
    let text = String::from_utf8(std::fs::read(path).map_err(failed)?)
        .map_err(|_| Refusal::new(Code::BadInput, "is not UTF-8").at(&place).next("save it as UTF-8"))?;
    Flags::read(&text, tools).map_err(|errors| crate::runtime::wrong_flags(&place, &errors))
}

/// Where replaced and deleted files of a resource are kept.
pub fn slots(config: &Config, name: &ResourceName) -> PathBuf {
    let own = config.resources.get(name).and_then(|resource| resource.slots.clone());
    own.unwrap_or_else(|| turnback_journal::slots_dir(&config.state)).join(name.as_str())
}

/// Makes a directory and what is missing above it, for nobody but this user.
fn make_private(directory: &Path) -> Result<(), Refusal> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| {
        refused(&directory.display().to_string(), format!("cannot be made: {e}"))
            .next("see that its file system works, has room and can be written to, then start again")
    })
}

/// Opens every resource and compiles the policy.
///
/// # Errors
/// [`NotStarted`] with the file, line or resource at fault.
pub fn settings(config: &Config, url: String, clock: Clock) -> Result<Settings, NotStarted> {
    let mut resources = Vec::with_capacity(config.resources.len());
    for (name, resource) in &config.resources {
        let slots = slots(config, name);
        if resource.kind == Kind::Files {
            make_private(&slots)?;
        }
        let domain = registry::open(resource.kind, &resource.place, &slots)?;
        resources.push(Resource {
            name: name.clone(),
            environment: resource.environment.clone(),
            assignment: resource.assignment.clone(),
            domain,
            bearer: resource.bearer,
            effect_match: resource.effect_match,
            probes: resource.verify.clone(),
            forms: resource.forms.clone(),
        });
    }
    let tools = tools_of(&resources).map_err(|e| refused("resources", e))?;
    let policy_files = policy_sources(&config.policy)?;
    let policy = Policy::compile(&policy_files, &tools).map_err(NotStarted::Policy)?;
    Ok(Settings {
        state: config.state.clone(),
        url,
        environments: config.environments.clone(),
        resources,
        policy: Arc::new(policy),
        policy_files,
        policy_path: config.policy.clone(),
        access: config.access.as_ref().map(access).transpose()?,
        flags: flags(config, &tools)?,
        remote_flags: config.remote_flags.clone(),
        ceilings: config.ceilings.clone(),
        limits: config.limits.clone(),
        floor: config.floor.clone(),
        freezes: config.freezes.clone(),
        denies: config.denies.clone(),
        grants_required: config.grants_required,
        approvals_expire: config.approvals_expire,
        approvals_most: config.approvals_most,
        context: config.context.clone(),
        collisions: config.collisions.clone(),
        plans: config.plans.clone(),
        bounds: Bounds { time: config.time, ..Bounds::default() },
        checkpoint_every: config.checkpoint_every,
        stdio_agent: config.stdio_agent.clone(),
        config_digest: config.digest(),
        clock,
    })
}

/// Compiles what decisions others enforce are made by.
fn access(config: &config::Access) -> Result<Access, NotStarted> {
    let file = config.path.join("entities.json");
    let entities = file.exists().then(|| {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).map_err(|e| refused(&name, e))?;
        Ok::<_, Refusal>(Source { name, text })
    });
    let policy = turnback_core::access::Access::compile(&policy_sources(&config.path)?, entities.transpose()?.as_ref())
        .map_err(NotStarted::Policy)?;
    Ok(Access { policy, callers: config.callers.clone() })
}

/// The system's clock.
pub fn system_clock() -> Clock {
    Arc::new(Timestamp::now)
}

/// A node that serves.
pub struct Node {
    /// The runtime behind both doors.
    pub runtime: Runtime,
    /// Where agents connect: `http://127.0.0.1:7423/mcp`.
    pub url: String,
    /// The limits of the agents' door.
    pub options: McpOptions,
    agents: TcpListener,
    operators: tokio::net::UnixListener,
}

impl Node {
    /// Opens everything and listens on both doors; nothing is served before [`Node::serve`].
    ///
    /// The agents' port is taken first, the state directory is locked after it: a second node on either
    /// is refused before it changes anything.
    ///
    /// # Errors
    /// [`NotStarted`] with what is in the way.
    pub async fn start(config: &Config) -> Result<Self, NotStarted> {
        let address = config.listen.address;
        let agents = TcpListener::bind(address).await.map_err(|e| {
            refused(&format!("[listen] address = \"{address}\""), e)
                .next("stop what listens there, or choose another port")
        })?;
        let address = agents.local_addr().map_err(|e| refused("listen", e))?;
        let base = format!("http://{address}");
        let runtime = Runtime::open(settings(config, base.clone(), system_clock())?).await?;
        let operators = operator::listen(&config.state)
            .map_err(|e| refused("operator.sock", e).next("see that the state directory can be written to"))?;
        let options = McpOptions {
            listen: address,
            hold: config.listen.hold,
            allowed_hosts: config.listen.allowed_hosts.clone(),
            allowed_origins: config.listen.allowed_origins.clone(),
            ..McpOptions::default()
        };
        Ok(Self { runtime, url: format!("{base}/mcp"), agents, operators, options })
    }

    /// Serves until `shutdown` ends, then closes the journal with a signed checkpoint.
    ///
    /// # Errors
    /// When a listener fails or the journal cannot be closed in order.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), Refusal> {
        let (stop, stopped) = watch::channel(());
        let wait = |mut stopped: watch::Receiver<()>| async move {
            // The sender is dropped or speaks: either way it is time to stop.
            let _ = stopped.changed().await;
        };
        let agents =
            mcp::serve_http(self.agents, Arc::new(self.runtime.clone()), self.options.clone(), wait(stopped.clone()));
        // Dropped when everything is closed; what operators started may go on until then.
        let (open, closed) = oneshot::channel();
        let operators = apart(self.operators, self.runtime.clone(), self.options, wait(stopped), closed);
        let stopping = async {
            shutdown.await;
            drop(stop);
        };
        let (agents, operators, ()) = tokio::join!(agents, operators, stopping);
        let closed = self.runtime.close().await;
        drop(open);
        agents.map_err(|e| refused("agents' door", e))?;
        operators.map_err(|e| refused("operators' door", e))?;
        closed
    }
}

/// The operators' door on a scheduler of its own: however many calls wait for their turn behind the agents'
/// door, a kill switch is not among them.
async fn apart(
    listener: tokio::net::UnixListener,
    runtime: Runtime,
    options: McpOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
    closed: oneshot::Receiver<()>,
) -> std::io::Result<()> {
    let listener = listener.into_std()?;
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new().name("operators".into()).spawn(move || {
        let scheduler = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
            Ok(scheduler) => scheduler,
            // Nobody listens any more only when the node is gone.
            Err(error) => return drop(tell.send(Err(error))),
        };
        scheduler.block_on(async {
            let served = match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => operator::serve(listener, runtime, options, shutdown).await,
                Err(error) => Err(error),
            };
            let _ = tell.send(served);
            // Its sender never speaks; it is dropped.
            let _ = closed.await;
        });
        scheduler.shutdown_background();
    })?;
    ended.await.unwrap_or_else(|_| Err(std::io::Error::other("its thread panicked")))
}
