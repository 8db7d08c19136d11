//! What the runtime needs to know before it starts: resources opened, rules compiled.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use turnback_core::contract::Assignment;
use turnback_core::digest::Sha256;
use turnback_core::flags::Flags;
use turnback_core::form::Form;
use turnback_core::gates::autonomy::Ceilings;
use turnback_core::gates::blast_radius::Limits;
use turnback_core::gates::controls::{Deny, Freeze};
use turnback_core::gates::recoverability::Floor;
use turnback_core::gates::release::Mode;
use turnback_core::names::{AgentName, EnvironmentName, ResourceName};
use turnback_core::policy::{Policy, Source};
use turnback_core::rollback::Bearer;
use turnback_core::tool::{Match, Tool};
use turnback_effects::{Bounds, Domain};

use crate::config::Probe;

/// The clock. Handed in so that tests can move it.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A configured resource, opened.
pub struct Resource {
    /// Its name.
    pub name: ResourceName,
    /// Its environment.
    pub environment: EnvironmentName,
    /// The part of the organisation it belongs to.
    pub assignment: Assignment,
    /// The domain that serves it.
    pub domain: Arc<dyn Domain>,
    /// Who pays if the way back fails.
    pub bearer: Bearer,
    /// How a re-staged effect must agree with the approved one.
    pub effect_match: Match,
    /// What is checked after every write on it.
    pub probes: Vec<Probe>,
    /// The safer forms of its tools, by the tools' own names.
    pub forms: BTreeMap<String, Vec<Form>>,
}

/// Decisions others enforce.
pub struct Access {
    /// What they are made by.
    pub policy: turnback_core::access::Access,
    /// Agents whose credentials may ask about anybody.
    pub callers: Vec<AgentName>,
}

/// Everything the runtime is started with.
pub struct Settings {
    /// The state directory.
    pub state: PathBuf,
    /// Base of the address people are pointed to: `http://127.0.0.1:7423`.
    pub url: String,
    /// Modes of the environments.
    pub environments: BTreeMap<EnvironmentName, Mode>,
    /// The resources.
    pub resources: Vec<Resource>,
    /// The policy, compiled against [`tools_of`] these resources.
    pub policy: Arc<Policy>,
    /// The files it was compiled from.
    pub policy_files: Vec<Source>,
    /// Where they are read again.
    pub policy_path: PathBuf,
    /// Who may ask for decisions others enforce, and what those are made by.
    pub access: Option<Access>,
    /// The release flags as the file has them, checked against the same tools; `None` when there are none.
    pub flags: Option<Flags>,
    /// Services that are asked for more of them.
    pub remote_flags: Vec<crate::config::RemoteFlags>,
    /// How autonomous any agent may be, by class of action.
    pub ceilings: Ceilings,
    /// Limits per action, and budgets.
    pub limits: Limits,
    /// The floor of the way back.
    pub floor: Floor,
    /// Change freezes.
    pub freezes: Vec<Freeze>,
    /// The denylist.
    pub denies: Vec<Deny>,
    /// Agents do only what they were granted.
    pub grants_required: bool,
    /// How long a question waits before silence is a no. Default 24 h.
    pub approvals_expire: SignedDuration,
    /// Questions of one agent that may wait at once. Over it a call that needs a person is refused. Default 1,000.
    pub approvals_most: usize,
    /// What is remembered of reads and refusals, and what it is held against.
    pub context: crate::config::Context,
    /// Who may work where somebody else is at work.
    pub collisions: Vec<turnback_core::gates::collision::Rule>,
    /// Where agents need plans, and what those must state.
    pub plans: Vec<turnback_core::plan::Rule>,
    /// Limits of the domains.
    pub bounds: Bounds,
    /// How often a checkpoint is signed while the journal grows.
    pub checkpoint_every: Duration,
    /// The agent that speaks over stdio.
    pub stdio_agent: Option<AgentName>,
    /// Digest of the configuration file, for the record.
    pub config_digest: Sha256,
    /// The clock.
    pub clock: Clock,
}

/// The tools of some resources, as agents see them.
///
/// # Errors
/// When a resource's and a tool's name together are too long.
pub fn tools_of(resources: &[Resource]) -> Result<Vec<Tool>, turnback_core::names::BadName> {
    let mut tools = Vec::new();
    for resource in resources {
        for spec in resource.domain.tools() {
            let mut tool = Tool::bind(
                &spec,
                &resource.name,
                resource.domain.kind(),
                &resource.environment,
                resource.effect_match,
                resource.bearer,
            )?;
            tool.forms = resource.forms.get(spec.name).cloned().unwrap_or_default();
            tools.push(tool);
        }
    }
    Ok(tools)
}
