//! What is written, turned into what is meant. Every complaint names its place.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use jiff::SignedDuration;
use serde_spanned::Spanned;
use turnback_core::contract::Assignment;
use turnback_core::gates::recoverability::Floor;
use turnback_core::gates::release::Mode;
use turnback_core::names::{EnvironmentName, ResourceName, ToolName};
use turnback_core::plan::RESERVED;
use turnback_core::rollback::Level;
use turnback_core::text::visible;
use turnback_core::tool::Kind;
use turnback_effects::registry;

use super::error::{ConfigError, Source};
use super::{ADDRESS_DEFAULT, Check, Listen, Probe, Resource, raw};

/// A TOML error in our words where the parser's would puzzle.
pub(super) fn syntax(source: &Source, error: &toml::de::Error) -> ConfigError {
    let span = error.span().unwrap_or(0..0);
    let told = error.message();
    let (message, next) = if told.contains("duplicate key") {
        let key = source.text.get(span.clone()).unwrap_or_default();
        (format!("`{}` is named twice", visible(key)), "give one of the two another name, or remove it")
    } else if told.starts_with("unknown field") {
        (told.to_owned(), "remove it, or correct its spelling")
    } else if told.starts_with("missing field") {
        (told.to_owned(), "add it to this table")
    } else {
        (told.to_owned(), "correct this line; `turnback init` in an empty folder writes a commented example")
    };
    // Parser messages may run over several lines and quote the file.
    source.error(span, visible(message.lines().next().unwrap_or_default()), next)
}

/// One path a resource occupies, with where the file says so.
pub(super) struct Occupied {
    resource: ResourceName,
    what: &'static str,
    path: PathBuf,
    span: Range<usize>,
    /// Agents can name everything beneath it.
    reach: bool,
}

impl Occupied {
    /// The resource through which an agent can name `path`.
    pub(super) fn reaches(&self, path: &Path) -> Option<&ResourceName> {
        (self.reach && path.starts_with(&self.path)).then_some(&self.resource)
    }
}

/// What else the file names, for names that must be among it.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) environments: &'a BTreeMap<EnvironmentName, Mode>,
    pub(super) resources: &'a BTreeMap<ResourceName, Resource>,
}

/// Turns what is written into what is meant.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    pub(super) folder: &'a Path,
}

impl Reader<'_> {
    pub(super) fn error<T>(&self, at: &Spanned<T>, message: impl Into<String>, next: impl Into<String>) -> ConfigError {
        self.source.error(at.span(), message, next)
    }

    fn path(&self, text: &str) -> PathBuf {
        resolve(&self.folder.join(text))
    }

    pub(super) fn path_or(&self, text: Option<&Spanned<String>>, default: &str) -> PathBuf {
        self.path(text.map_or(default, |t| t.get_ref()))
    }

    pub(super) fn duration(&self, text: &Spanned<String>, what: &str) -> Result<SignedDuration, ConfigError> {
        let next = "write a positive duration with its unit, such as \"50s\", \"10m\" or \"24h\"";
        let length: SignedDuration = text
            .get_ref()
            .parse()
            .map_err(|_| self.error(text, format!("`{}` is not a duration: {what}", visible(text.get_ref())), next))?;
        if length <= SignedDuration::ZERO {
            return Err(self.error(text, format!("{what}: must be longer than nothing"), next));
        }
        Ok(length)
    }

    pub(super) fn duration_or(
        &self,
        text: Option<&Spanned<String>>,
        default: SignedDuration,
        what: &str,
    ) -> Result<SignedDuration, ConfigError> {
        text.map_or(Ok(default), |text| self.duration(text, what))
    }

    pub(super) fn count(&self, number: Option<&Spanned<i64>>, what: &str) -> Result<Option<u64>, ConfigError> {
        number
            .map(|n| {
                u64::try_from(*n.get_ref()).map_err(|_| {
                    self.error(
                        n,
                        format!("{what} cannot be negative"),
                        "write 0 to allow none, or remove the line for no limit",
                    )
                })
            })
            .transpose()
    }

    pub(super) fn listen(&self, raw: raw::Listen) -> Result<Listen, ConfigError> {
        let address = match &raw.address {
            None => SocketAddr::from(([127, 0, 0, 1], 7423)),
            Some(text) => text.get_ref().parse().map_err(|_| {
                let message = format!("`{}` is not an IP address with a port", visible(text.get_ref()));
                self.error(text, message, format!("write it like \"{ADDRESS_DEFAULT}\""))
            })?,
        };
        if let Some(text) = raw.address.as_ref().filter(|_| !address.ip().is_loopback() && raw.allowed_hosts.is_empty())
        {
            return Err(self.error(
                text,
                "this address can be reached from other machines and `allowed_hosts` is empty",
                "listen on 127.0.0.1, or list in `allowed_hosts` the names agents will use, and put TLS in front",
            ));
        }
        let hold =
            self.duration_or(raw.hold.as_ref(), SignedDuration::from_secs(50), "how long a waiting call is held")?;
        if let Some(text) = raw.hold.as_ref().filter(|_| hold > SignedDuration::from_mins(10)) {
            return Err(self.error(text, "no client waits longer than ten minutes", "write at most \"10m\""));
        }
        let texts = |list: Vec<Spanned<String>>, what: &str| -> Result<Vec<String>, ConfigError> {
            list.into_iter()
                .map(|text| {
                    let ok = !text.get_ref().is_empty() && text.get_ref().bytes().all(|b| b.is_ascii_graphic());
                    if ok && text.get_ref() != "*" {
                        return Ok(text.into_inner());
                    }
                    Err(self.error(&text, format!("this is not {what}"), "list each one exactly; there is no wildcard"))
                })
                .collect()
        };
        Ok(Listen {
            address,
            hold: hold.unsigned_abs(),
            allowed_hosts: texts(raw.allowed_hosts, "a host")?,
            allowed_origins: texts(raw.allowed_origins, "an origin")?,
        })
    }

    pub(super) fn resource(
        &self,
        name: &ResourceName,
        span: Range<usize>,
        raw: raw::Resource,
        environments: &BTreeMap<EnvironmentName, Mode>,
    ) -> Result<(Resource, Vec<Occupied>), ConfigError> {
        self.known_environment(&raw.environment, environments)?;
        if name.as_str() == RESERVED {
            let message = format!("`{RESERVED}` is what the tools about plans are called");
            return Err(self.source.error(span, message, "give the resource another name"));
        }
        let (written, other, wanted, unwanted) = match raw.kind {
            Kind::Files => (raw.root, raw.path, "root", "path"),
            Kind::Sqlite => (raw.path, raw.root, "path", "root"),
        };
        if let Some(other) = other {
            let message = format!("a resource of kind `{}` has no `{unwanted}`", raw.kind.word());
            return Err(self.error(&other, message, format!("call it `{wanted}`")));
        }
        let Some(written) = written else {
            let message = format!("resource `{name}` of kind `{}` does not say where it is", raw.kind.word());
            return Err(self.source.error(span, message, format!("add `{wanted} = \"...\"` to this table")));
        };
        let place = self.path(written.get_ref());
        let mut occupied = vec![Occupied {
            resource: name.clone(),
            what: wanted,
            path: place.clone(),
            span: written.span(),
            reach: raw.kind == Kind::Files,
        }];
        let slots = match raw.slots {
            None => None,
            Some(slots) if raw.kind == Kind::Sqlite => {
                return Err(self.error(
                    &slots,
                    "a database needs no slots: its way back is in the vault",
                    "remove this line",
                ));
            }
            Some(slots) => {
                let path = self.path(slots.get_ref());
                let span = slots.span();
                occupied.push(Occupied {
                    resource: name.clone(),
                    what: "slots",
                    path: path.clone(),
                    span,
                    reach: false,
                });
                Some(path)
            }
        };
        let mut verify = Vec::new();
        for (index, probe) in raw.verify.into_iter().enumerate() {
            let probe = self.probe(index + 1, probe, raw.kind, &place)?;
            if verify.iter().any(|earlier: &Probe| earlier.name == probe.1.name) {
                let message = format!("two probes of `{name}` are named `{}`", visible(&probe.1.name));
                return Err(self.source.error(probe.0, message, "give each probe its own name"));
            }
            verify.push(probe.1);
        }
        let resource = Resource {
            kind: raw.kind,
            place,
            environment: raw.environment.into_inner(),
            assignment: Assignment { account: raw.account, region: raw.region, workflow: raw.workflow },
            bearer: raw.bearer,
            effect_match: raw.effect_match,
            slots,
            verify,
            forms: BTreeMap::new(),
        };
        Ok((resource, occupied))
    }

    pub(super) fn known_environment(
        &self,
        name: &Spanned<EnvironmentName>,
        environments: &BTreeMap<EnvironmentName, Mode>,
    ) -> Result<(), ConfigError> {
        if environments.contains_key(name.get_ref()) {
            return Ok(());
        }
        let known: Vec<_> = environments.keys().map(|e| format!("`{e}`")).collect();
        let next = if known.is_empty() {
            format!("add [environments.{}] with mode = \"observe\"", name.get_ref())
        } else {
            format!("use {}, or add [environments.{}] with a mode", known.join(" or "), name.get_ref())
        };
        Err(self.error(name, format!("unknown environment `{}`", name.get_ref()), next))
    }

    /// A name that is misspelled would stop nothing.
    pub(super) fn known_resource(&self, name: &Spanned<ResourceName>, known: &Known<'_>) -> Result<(), ConfigError> {
        if known.resources.contains_key(name.get_ref()) {
            return Ok(());
        }
        let next = format!("correct it, or add [resources.{}]", name.get_ref());
        Err(self.error(name, format!("unknown resource `{}`", name.get_ref()), next))
    }

    /// As [`Self::known_resource`], for a tool by the name agents see.
    pub(super) fn known_tool(&self, name: &Spanned<ToolName>, known: &Known<'_>) -> Result<(), ConfigError> {
        let (resource, tool) = name.get_ref().split().unwrap_or_default();
        let found = known.resources.iter().find(|(name, _)| name.as_str() == resource);
        if found.is_some_and(|(_, found)| registry::specs(found.kind).iter().any(|spec| spec.name == tool)) {
            return Ok(());
        }
        let next = "write <resource>__<tool>, such as db__execute; `turnback policy lint` knows them all";
        Err(self.error(name, format!("unknown tool `{}`", name.get_ref()), next))
    }

    fn probe(
        &self,
        number: usize,
        raw: Spanned<raw::Verify>,
        kind: Kind,
        place: &Path,
    ) -> Result<(Range<usize>, Probe), ConfigError> {
        let whole = raw.span();
        let raw = raw.into_inner();
        let says = raw.kind.get_ref().as_str();
        let allowed: &[&str] = match says {
            "query" => &["sql", "expect"],
            "file" => &["path", "exists", "contains"],
            "command" => &["argv"],
            "http" => &["url", "status"],
            other => {
                let message = format!("there is no probe of kind `{}`", visible(other));
                return Err(self.error(&raw.kind, message, "use \"query\", \"file\", \"command\" or \"http\""));
            }
        };
        // A field of another kind would be ignored, and with it what its author wanted checked.
        for (field, span) in [
            ("sql", raw.sql.as_ref().map(Spanned::span)),
            ("expect", raw.expect.as_ref().map(Spanned::span)),
            ("path", raw.path.as_ref().map(Spanned::span)),
            ("exists", raw.exists.as_ref().map(Spanned::span)),
            ("contains", raw.contains.as_ref().map(Spanned::span)),
            ("argv", raw.argv.as_ref().map(Spanned::span)),
            ("url", raw.url.as_ref().map(Spanned::span)),
            ("status", raw.status.as_ref().map(Spanned::span)),
        ] {
            if let Some(span) = span.filter(|_| !allowed.contains(&field)) {
                let message = format!("a probe of kind `{says}` has no `{field}`");
                return Err(self.source.error(span, message, format!("it has {}", allowed.join(", "))));
            }
        }
        let lacks = |field: &str| {
            let message = format!("a probe of kind `{says}` needs `{field}`");
            self.error(&raw.kind, message, format!("add `{field}` to this table"))
        };
        let check = match says {
            "query" => {
                if kind != Kind::Sqlite {
                    let next = "use a \"file\" or \"command\" probe here";
                    return Err(self.error(&raw.kind, "only a database can be asked a query", next));
                }
                let sql = raw.sql.as_ref().ok_or_else(|| lacks("sql"))?.get_ref().clone();
                let expect = raw.expect.as_ref().ok_or_else(|| lacks("expect"))?;
                Check::Query { sql, expect: self.scalar(expect)? }
            }
            "file" => {
                let path = raw.path.as_ref().ok_or_else(|| lacks("path"))?;
                let base = if kind == Kind::Files { place } else { self.folder };
                let exists = raw.exists.as_ref().is_none_or(|e| *e.get_ref());
                if let Some(contains) = raw.contains.as_ref().filter(|_| !exists) {
                    let next = "remove `contains`, or `exists = false`";
                    return Err(self.error(contains, "a file that must not exist contains nothing", next));
                }
                let contains = raw.contains.as_ref().map(|c| c.get_ref().clone());
                Check::File { path: base.join(path.get_ref()), exists, contains }
            }
            "command" => {
                let argv = raw.argv.as_ref().ok_or_else(|| lacks("argv"))?;
                if argv.get_ref().first().is_none_or(String::is_empty) {
                    return Err(self.error(
                        argv,
                        "no program is named",
                        "write argv = [\"/usr/bin/program\", \"argument\"]",
                    ));
                }
                Check::Command { argv: argv.get_ref().clone() }
            }
            _ => {
                let url = raw.url.as_ref().ok_or_else(|| lacks("url"))?;
                if !["http://", "https://"].iter().any(|scheme| {
                    url.get_ref().strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
                }) {
                    return Err(self.error(
                        url,
                        "this is not an HTTP address",
                        "write it like \"http://127.0.0.1:8080/health\"",
                    ));
                }
                let status = match &raw.status {
                    None => 200,
                    Some(n) => u16::try_from(*n.get_ref())
                        .ok()
                        .filter(|s| (100..600).contains(s))
                        .ok_or_else(|| self.error(n, "this is not an HTTP status", "write a number from 100 to 599"))?,
                };
                Check::Http { url: url.get_ref().clone(), status }
            }
        };
        let writers: Vec<_> = registry::specs(kind).iter().filter(|s| s.risk.writes()).map(|s| s.name).collect();
        for tool in &raw.tools {
            if !writers.contains(&tool.get_ref().as_str()) {
                let message = format!("`{}` is no tool of kind `{}` that writes", visible(tool.get_ref()), kind.word());
                return Err(self.error(tool, message, format!("use {}", writers.join(", "))));
            }
        }
        let ten = SignedDuration::from_secs(10);
        let probe = Probe {
            name: raw.name.map_or_else(|| format!("{says} {number}"), Spanned::into_inner),
            tools: raw.tools.into_iter().map(Spanned::into_inner).collect(),
            timeout: self.duration_or(raw.timeout.as_ref(), ten, "how long a probe may take")?.unsigned_abs(),
            check,
        };
        Ok((whole, probe))
    }

    fn scalar(&self, value: &Spanned<toml::Value>) -> Result<serde_json::Value, ConfigError> {
        let json = match value.get_ref() {
            toml::Value::String(s) => Some(s.clone().into()),
            toml::Value::Integer(i) => Some((*i).into()),
            toml::Value::Float(f) => serde_json::Number::from_f64(*f).map(Into::into),
            // SQLite has no booleans; a comparison answers 1 or 0.
            toml::Value::Boolean(b) => Some(i64::from(*b).into()),
            _ => None,
        };
        json.ok_or_else(|| {
            let next = "ask for one value, such as `select count(*) from orders`, and write that value here";
            self.error(value, "a query probe compares one value", next)
        })
    }

    pub(super) fn floor(&self, raw: raw::Recoverability) -> Result<Floor, ConfigError> {
        let default = Floor::default();
        let level = match &raw.level {
            None => default.level,
            Some(n) => u8::try_from(*n.get_ref()).ok().and_then(Level::from_number).ok_or_else(|| {
                let next = "use 5 (proved), 4 (snapshotted), 3 (compensable), 2 (declared) or 0 (none)";
                self.error(n, format!("there is no level {}", n.get_ref()), next)
            })?,
        };
        let window = self.duration_or(raw.window.as_ref(), default.window, "the shortest window of a way back")?;
        let irreversible = self.count(raw.irreversible.as_ref(), "an irreversibility budget")?;
        Ok(Floor { level, window, irreversible })
    }

    /// Upholds `OUT-OF-REACH`.
    pub(super) fn out_of_reach(
        &self,
        places: &[Occupied],
        state: &Path,
        state_span: Option<Range<usize>>,
        policy: &Path,
        policy_span: Option<Range<usize>>,
        file: &Path,
    ) -> Result<(), ConfigError> {
        for (index, later) in places.iter().enumerate() {
            for earlier in &places[..index] {
                // Two resources may keep their slots in one folder: entries are named by run.
                if later.what == "slots" && earlier.what == "slots" {
                    continue;
                }
                if meets(&later.path, &earlier.path) {
                    let message = if later.resource == earlier.resource {
                        format!("`{}` and `{}` of resource `{}` overlap", earlier.what, later.what, later.resource)
                    } else if later.path == earlier.path {
                        format!("resources `{}` and `{}` are the same thing", earlier.resource, later.resource)
                    } else {
                        format!("resource `{}` overlaps resource `{}`", later.resource, earlier.resource)
                    };
                    let next = "let each resource stand in a place of its own, none inside another";
                    return Err(self.source.error(later.span.clone(), message, next));
                }
            }
        }
        let file = resolve(file);
        for place in places {
            // Slots may lie in the state directory; nothing an agent can name may.
            let nested = meets(state, &place.path);
            if nested && (place.what != "slots" || state.starts_with(&place.path)) {
                let message =
                    format!("the state directory and `{}` of resource `{}` overlap", place.what, place.resource);
                let next = "set `state = \"...\"` to a folder outside every resource, such as one beside it";
                return Err(self.source.error(state_span.clone().unwrap_or(place.span.clone()), message, next));
            }
            if place.reach && policy.starts_with(&place.path) {
                let message = format!("the policy lies inside resource `{}`: agents could write it", place.resource);
                let next = "set [policy] path to a place outside every resource";
                return Err(self.source.error(policy_span.clone().unwrap_or(place.span.clone()), message, next));
            }
            if place.reach && file.starts_with(&place.path) {
                let message =
                    format!("this configuration lies inside resource `{}`: agents could write it", place.resource);
                let next = "move turnback.toml out of the root, or give the resource a folder inside it";
                return Err(self.source.error(place.span.clone(), message, next));
            }
        }
        Ok(())
    }
}

/// Whether one path is the other or lies inside it. Compared component by component:
/// `/srv/work-evil` is not inside `/srv/work`.
fn meets(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// `path` with `.` and `..` and every symlink of its existing part resolved, so that two spellings of
/// one place are compared as one.
fn resolve(path: &Path) -> PathBuf {
    let mut existing = path.to_owned();
    let mut rest = Vec::new();
    loop {
        if let Ok(real) = std::fs::canonicalize(&existing) {
            existing = real;
            break;
        }
        match existing.components().next_back() {
            Some(last @ (Component::Normal(_) | Component::ParentDir | Component::CurDir)) => {
                rest.push(last.as_os_str().to_owned());
                existing.pop();
            }
            _ => break,
        }
    }
    for part in rest.into_iter().rev() {
        match part.to_str() {
            Some(".") => {}
            Some("..") => {
                existing.pop();
            }
            _ => existing.push(part),
        }
    }
    existing
}
