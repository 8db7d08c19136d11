//! `[[flags.remote]]`: services that are asked for release flags over the network.
//!
//! | field | default | |
//! |---|---|---|
//! | `url` | | base of an OFREP service; `https`, or `http` to this machine. It is the service's name |
//! | `keys` | all | keys of the convention it is asked for; `release.tool.*` stands for every tool |
//! | `token_file` | none | a bearer token, in a file nobody else can read, outside every resource; read at every request |
//! | `timeout` | `300ms` | how long one request may take, from its beginning to the last byte of the answer; at most `10s` |
//! | `refresh` | `10s` | how long an answer is used without asking again |
//! | `stale_after` | `5m` | how old an answer may become that cannot be asked for again; at most `24h` |

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::flags::remote::Wanted;
use turnback_core::gates::release::Mode;
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use turnback_core::text::visible;

use super::error::ConfigError;
use super::read::{Known, Occupied, Reader};
use super::{Config, Resource};

type Text = Spanned<String>;

/// Longest token, in bytes.
const TOKEN_LIMIT: u64 = 4 << 10;

/// Services that may be asked. Each is asked before every action of an agent.
const SERVICES_LIMIT: usize = 8;

/// A service that is asked for release flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFlags {
    /// Its address, without credentials and without a slash at the end.
    pub url: String,
    /// The keys it is asked for.
    pub keys: Vec<Wanted>,
    /// Where its bearer token is. Absolute; outside every resource.
    pub token_file: Option<PathBuf>,
    /// How long one request may take. Default: 300 ms.
    pub timeout: Duration,
    /// How long an answer is used without asking again. Default: ten seconds.
    pub refresh: SignedDuration,
    /// How old an answer may become that cannot be asked for again. Default: five minutes.
    pub stale_after: SignedDuration,
    span: Range<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    url: Text,
    keys: Option<Vec<Text>>,
    token_file: Option<Text>,
    timeout: Option<Text>,
    refresh: Option<Text>,
    stale_after: Option<Text>,
}

/// Reads the services. Upholds `OUT-OF-REACH`.
pub(super) fn read(
    reader: &Reader<'_>,
    raw: Vec<Raw>,
    places: &[Occupied],
    environments: &BTreeMap<EnvironmentName, Mode>,
    resources: &BTreeMap<ResourceName, Resource>,
) -> Result<Vec<RemoteFlags>, ConfigError> {
    let known = Known { environments, resources };
    let mut services: Vec<RemoteFlags> = Vec::new();
    for raw in raw {
        let at = raw.url.clone();
        let service = service(reader, raw, places, &known)?;
        if services.iter().any(|earlier| earlier.url == service.url) {
            return Err(reader.error(&at, "this service is named twice", "list all its keys once"));
        }
        if services.len() == SERVICES_LIMIT {
            let message = format!("more than {SERVICES_LIMIT} services would be asked before every action");
            return Err(reader.error(&at, message, "remove some"));
        }
        services.push(service);
    }
    Ok(services)
}

fn service(reader: &Reader<'_>, raw: Raw, places: &[Occupied], known: &Known<'_>) -> Result<RemoteFlags, ConfigError> {
    let timeout = short(reader, raw.timeout.as_ref(), 300, 10_000, "how long one request may take")?;
    let refresh = short(reader, raw.refresh.as_ref(), 10_000, 3_600_000, "how long an answer is fresh")?;
    let day = 24 * 3_600_000;
    let stale_after = short(reader, raw.stale_after.as_ref(), 300_000, day, "how long an old answer is used")?;
    if stale_after < refresh {
        let at = raw.stale_after.as_ref().or(raw.refresh.as_ref()).unwrap_or(&raw.url);
        let message = format!("an answer would be too old after {stale_after:#} while it is fresh for {refresh:#}");
        return Err(reader.error(at, message, "let `stale_after` be at least as long as `refresh`"));
    }
    let keys = match raw.keys {
        None => Wanted::ALL.iter().filter_map(|key| Wanted::parse(key)).collect(),
        Some(keys) if keys.is_empty() => {
            return Err(reader.error(&raw.url, "this service is asked for nothing", "name keys, or remove `keys`"));
        }
        Some(keys) => keys.iter().map(|key| wanted(reader, key, known)).collect::<Result<_, _>>()?,
    };
    let token_file = raw.token_file.as_ref().map(|file| token_file(reader, file, places)).transpose()?;
    Ok(RemoteFlags {
        url: url(reader, &raw.url)?,
        keys,
        token_file,
        timeout: timeout.unsigned_abs(),
        refresh,
        stale_after,
        span: raw.token_file.as_ref().map_or(0..0, Spanned::span),
    })
}

/// A duration in milliseconds, with its default and the longest one accepted.
fn short(
    reader: &Reader<'_>,
    text: Option<&Text>,
    default: i64,
    most: i64,
    what: &str,
) -> Result<SignedDuration, ConfigError> {
    let length = reader.duration_or(text, SignedDuration::from_millis(default), what)?;
    let most = SignedDuration::from_millis(most);
    match text.filter(|_| length > most) {
        Some(text) => {
            Err(reader.error(text, format!("{what}: longer than {most:#}"), format!("write at most \"{most:#}\"")))
        }
        None => Ok(length),
    }
}

/// The address. Whatever is sent there says who works on what, and the answer decides: it is encrypted, or it stays
/// on this machine. What is wrong is not quoted: it may hold a secret.
fn url(reader: &Reader<'_>, text: &Text) -> Result<String, ConfigError> {
    let wrong = |message: &str, next: &str| Err(reader.source.hidden(text.span(), message, next));
    let example = "write it like \"https://flags.example.com\"";
    let written = text.get_ref().trim_end_matches('/');
    if written.contains('@') {
        let next = "write a token into a file only you can read, and name it in `token_file`";
        return wrong("this address contains credentials", next);
    }
    if written.contains(['?', '#']) {
        return wrong("a service's address has no query and no fragment", example);
    }
    let uri = written.parse::<hyper::Uri>().ok().filter(|_| written.bytes().all(|byte| byte.is_ascii_graphic()));
    let Some((uri, host)) = uri.as_ref().and_then(|uri| Some((uri, uri.host().filter(|host| !host.is_empty())?)))
    else {
        return wrong("this is not an address", example);
    };
    let here = host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(written.to_owned()),
        Some("http") if here => Ok(written.to_owned()),
        Some("http") => wrong(
            "what is asked and answered there could be read and changed on its way",
            "write https://, or let something on this machine forward it",
        ),
        _ => wrong("this is not an HTTP address", example),
    }
}

/// A key nobody would ask for is a mistake of spelling.
fn wanted(reader: &Reader<'_>, text: &Text, known: &Known<'_>) -> Result<Wanted, ConfigError> {
    let Some(wanted) = Wanted::parse(text.get_ref()) else {
        let message = format!("nobody asks for a flag `{}`", visible(text.get_ref()));
        let next = "name it `release`, or `release.` with environment, resource, tool, workflow or agent, a dot and a name or `*`";
        return Err(reader.error(text, message, next));
    };
    let (subject, name) = wanted.parts();
    let Some(name) = name else { return Ok(wanted) };
    let bad = |e: turnback_core::names::BadName| reader.error(text, e.to_string(), "correct the name");
    let at = text.span();
    match subject {
        "environment" => {
            reader
                .known_environment(&Spanned::new(at, EnvironmentName::new(name).map_err(bad)?), known.environments)?;
        }
        "resource" => reader.known_resource(&Spanned::new(at, ResourceName::new(name).map_err(bad)?), known)?,
        "tool" => reader.known_tool(&Spanned::new(at, ToolName::new(name).map_err(bad)?), known)?,
        // Agents come and go.
        "agent" => drop(AgentName::new(name).map_err(bad)?),
        _ => {}
    }
    Ok(wanted)
}

fn token_file(reader: &Reader<'_>, text: &Text, places: &[Occupied]) -> Result<PathBuf, ConfigError> {
    let file = reader.path_or(Some(text), "");
    match places.iter().find_map(|place| place.reaches(&file)) {
        Some(resource) => Err(reader.error(
            text,
            format!("the token lies inside resource `{resource}`: agents could read it"),
            "set token_file to a place outside every resource",
        )),
        None => Ok(file),
    }
}

/// Token files that are not there, or that others can read.
pub(super) fn missing(config: &Config) -> impl Iterator<Item = ConfigError> {
    config.remote_flags.iter().filter_map(|service| {
        let file = service.token_file.as_ref()?;
        let why = token(file).err()?;
        let next = format!("write the token there, alone, and: chmod 600 {}", visible(&file.to_string_lossy()));
        Some(config.source.error(service.span.clone(), why, next))
    })
}

/// Reads a bearer token: one line of printable ASCII, in a plain file nobody else can open.
///
/// # Errors
/// Why not, without a word of what is in it.
pub fn token(file: &Path) -> Result<String, String> {
    let shown = visible(&file.to_string_lossy());
    let failed = |e: std::io::Error| format!("token file `{shown}` cannot be read: {e}");
    // Opening a pipe would wait for whoever writes to it.
    if !std::fs::metadata(file).map_err(failed)?.is_file() {
        return Err(format!("token file `{shown}` is not a plain file"));
    }
    let opened = std::fs::File::open(file).map_err(failed)?;
    let found = opened.metadata().map_err(failed)?;
    if found.mode() & 0o077 != 0 {
        return Err(format!("token file `{shown}` can be opened by others (mode {:o})", found.mode() & 0o7777));
    }
    let mut text = String::new();
    opened.take(TOKEN_LIMIT + 1).read_to_string(&mut text).map_err(failed)?;
    let token = text.trim_end_matches(['\n', '\r']);
    if token.is_empty() || text.len() as u64 > TOKEN_LIMIT || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("token file `{shown}` does not hold one line of printable characters"));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests;
