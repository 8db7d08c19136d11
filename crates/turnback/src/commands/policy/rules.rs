//! The policy as files: what the configuration names, or any other folder.

use std::path::{Path, PathBuf};

use turnback_core::policy::lint::{Finding, lint};
use turnback_core::policy::{Policy, PolicyError, Source};
use turnback_core::refusal::{Code, Refusal};
use turnback_core::tool::Tool;
use turnback_gateway::config::Config;
use turnback_gateway::node;

use crate::context::{Context, Failure};
use crate::render::number;

/// Largest policy or case file read, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// The policy as the configuration names it, and the tools it speaks about.
pub(in crate::commands) struct Rules {
    /// The folder they are in.
    pub(super) folder: PathBuf,
    /// Whether the configuration names one file of it.
    pub(super) single: bool,
    pub(super) sources: Vec<Source>,
    pub(super) cases: Vec<Source>,
    pub(super) tools: Vec<Tool>,
}

impl Rules {
    pub(super) fn read(context: &Context) -> Result<Self, Failure> {
        Ok(Self::of(&context.config()?)?)
    }

    /// What lint says.
    pub(in crate::commands) fn findings(&self) -> Vec<Finding> {
        lint(&self.sources, &self.tools)
    }

    /// The policy a configuration names.
    pub(in crate::commands) fn of(config: &Config) -> Result<Self, Refusal> {
        Self::at(&config.policy, node::tools(config)?)
    }

    /// Compiled, or the first thing that is wrong with it.
    pub(super) fn compile(&self) -> Result<Policy, Refusal> {
        Policy::compile(&self.sources, &self.tools).map_err(|errors| wrong(errors.first()))
    }

    /// The files at a path, for these tools.
    pub(super) fn at(path: &Path, tools: Vec<Tool>) -> Result<Self, Refusal> {
        let failed = |path: &Path, e: &std::io::Error| {
            Refusal::new(Code::NotFound, format!("cannot be read: {e}"))
                .at(path.to_string_lossy())
                .next("write one with `turnback init`, or name it in [policy] path")
        };
        let single = path.metadata().map_err(|e| failed(path, &e))?.is_file();
        let folder = if single { path.parent().unwrap_or(Path::new("/")) } else { path }.to_owned();
        let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .map_err(|e| failed(&folder, &e))?;
        found.sort();
        let (mut sources, mut cases) = (Vec::new(), Vec::new());
        for file in found {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let list = if name.ends_with(".cases.json") {
                &mut cases
            } else if name.ends_with(".cedar") && (!single || file == path) {
                &mut sources
            } else {
                continue;
            };
            let size = file.metadata().map_err(|e| failed(&file, &e))?.len();
            if size > SIZE_LIMIT {
                let message = format!("is {}, more than {}", number::bytes(size), number::bytes(SIZE_LIMIT));
                return Err(Refusal::new(Code::TooLarge, message).at(file.to_string_lossy()));
            }
            let text = std::fs::read_to_string(&file).map_err(|e| failed(&file, &e))?;
            list.push(Source { name: shown(&file), text });
        }
        if sources.is_empty() {
            return Err(Refusal::new(Code::NotFound, "there is no *.cedar file here, so nothing is allowed")
                .at(folder.to_string_lossy())
                .next("write one with `turnback init`, or name it in [policy] path"));
        }
        Ok(Self { folder, single, sources, cases, tools })
    }
}

/// A path as it is clickable from here.
pub(in crate::commands) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).to_string_lossy().into_owned()
}

pub(super) fn wrong(error: Option<&PolicyError>) -> Refusal {
    let Some(error) = error else {
        return Refusal::new(Code::BadInput, "the policy does not load").next("turnback policy lint");
    };
    let mut refusal = Refusal::new(Code::BadInput, error.message.clone())
        .at(format!("{}:{}:{}", error.file, error.line, error.column))
        .next("see all of it: turnback policy lint");
    if let Some(next) = &error.next {
        refusal = refusal.next(next.clone());
    }
    refusal
}
