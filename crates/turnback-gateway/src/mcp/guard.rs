//! Which `Host` and `Origin` may speak to this door.
//!
//! A web page in the user's browser can send requests to loopback addresses, and by rebinding its DNS
//! name even read the answers. It cannot choose `Host` and `Origin`: the first then holds the attacker's
//! name, the second the page's. So `Host` must name an address this door really listens on, and `Origin`,
//! when there is one, must be such an address too. Names are compared, never resolved.

use std::net::SocketAddr;

use hyper::HeaderMap;
use hyper::Uri;
use hyper::header::{HOST, HeaderName, ORIGIN};
use turnback_core::refusal::{Code, Refusal};

use super::McpOptions;
use super::message::{FORBIDDEN, RpcError};

/// The values accepted on one listener.
pub(super) struct Guard {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Guard {
    /// The guard of a listener bound to `local`.
    pub(super) fn new(options: &McpOptions, local: SocketAddr) -> Self {
        let mut hosts: Vec<String> = options.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        for address in [local, options.listen] {
            let ip = address.ip();
            if !ip.is_unspecified() {
                add(&mut hosts, &literal(address), address.port());
            }
            // The three spellings of this machine reach the same listener only through itself.
            if ip.is_loopback() || ip.is_unspecified() {
                for name in ["localhost", "127.0.0.1", "[::1]"] {
                    add(&mut hosts, name, address.port());
                }
            }
        }
        let mut origins: Vec<String> = options.allowed_origins.iter().map(|o| o.to_ascii_lowercase()).collect();
        for host in &hosts {
            origins.push(format!("http://{host}"));
            origins.push(format!("https://{host}"));
        }
        Self { hosts, origins }
    }

    /// Checks one request that came in at the address `at`.
    pub(super) fn check(&self, uri: &Uri, headers: &HeaderMap, at: SocketAddr) -> Result<(), RpcError> {
        let host = single(headers, &HOST)?.ok_or_else(|| forbidden("Host", "the header is missing", &self.hosts))?;
        self.host(host, at)?;
        // An absolute request target names a host as well, and some readers prefer it.
        if let Some(authority) = uri.authority() {
            self.host(authority.as_str(), at)?;
        }
        if let Some(origin) = single(headers, &ORIGIN)? {
            let lower = origin.to_ascii_lowercase();
            let own = lower.strip_prefix("http://").is_some_and(|host| self.host(host, at).is_ok());
            if !own && !self.origins.contains(&lower) {
                let message = format!("`{}` may not speak to this door", turnback_core::text::visible(origin));
                return Err(forbidden("Origin", &message, &self.origins));
            }
        }
        Ok(())
    }

    fn host(&self, host: &str, at: SocketAddr) -> Result<(), RpcError> {
        let lower = host.to_ascii_lowercase();
        // An address literal cannot be rebound: whoever sends the one it connected to meant this door.
        let connected = format!("{}:{}", literal(at), at.port());
        if self.hosts.contains(&lower) || lower == connected {
            return Ok(());
        }
        let message = format!("`{}` is not an address of this door", turnback_core::text::visible(host));
        Err(forbidden("Host", &message, &self.hosts))
    }
}

fn literal(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

fn add(hosts: &mut Vec<String>, name: &str, port: u16) {
    hosts.push(format!("{name}:{port}"));
    if port == 80 {
        hosts.push(name.to_owned());
    }
}

/// The one value of a header; two values mean two readers could see two requests.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, RpcError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        let refusal = Refusal::new(Code::BadInput, "the header stands there more than once").at(name.as_str());
        return Err(RpcError::new(FORBIDDEN, refusal));
    }
    first
        .map(|value| value.to_str())
        .transpose()
        .map_err(|_| RpcError::bad(FORBIDDEN, name.as_str(), "the header is not plain text"))
}

fn forbidden(place: &str, message: &str, accepted: &[String]) -> RpcError {
    let refusal = Refusal::new(Code::Denied, message).at(place);
    let next = match accepted.first() {
        Some(first) => format!("use `{first}`, or allow it in the configuration"),
        None => "allow it in the configuration".to_owned(),
    };
    RpcError::new(FORBIDDEN, refusal.next(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, host: &[&str], origin: &[&str]) -> bool {
        let at: SocketAddr = "127.0.0.1:7420".parse().unwrap();
        let guard = Guard::new(&McpOptions { allowed_hosts: vec!["turnback.lan".into()], ..McpOptions::default() }, at);
        let mut headers = HeaderMap::new();
        for host in host {
            headers.append(HOST, host.parse().unwrap());
        }
        for origin in origin {
            headers.append(ORIGIN, origin.parse().unwrap());
        }
        guard.check(&target.parse().unwrap(), &headers, at).is_ok()
    }

    #[test]
    fn only_addresses_of_the_door_are_accepted() {
        for host in ["127.0.0.1:7420", "localhost:7420", "LOCALHOST:7420", "[::1]:7420", "turnback.lan"] {
            assert!(check("/mcp", &[host], &[]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7420",
            "localhost",
            "localhost:80",
            "127.0.0.1:7421",
            "127.0.0.1:7420.evil",
            "localhost.evil:7420",
            "0.0.0.0:7420",
            "user@127.0.0.1:7420",
            "",
        ] {
            assert!(!check("/mcp", &[host], &[]), "{host}");
        }
        assert!(!check("/mcp", &[], &[]));
        assert!(!check("/mcp", &["127.0.0.1:7420", "evil.example"], &[]));
        assert!(!check("http://evil.example/mcp", &["127.0.0.1:7420"], &[]));
        assert!(check("http://127.0.0.1:7420/mcp", &["127.0.0.1:7420"], &[]));
    }

    #[test]
    fn only_own_origins_are_accepted() {
        let host = &["127.0.0.1:7420"];
        assert!(check("/mcp", host, &["http://127.0.0.1:7420"]));
        assert!(check("/mcp", host, &["https://turnback.lan"]));
        for origin in ["null", "https://evil.example", "http://127.0.0.1:7420.evil", "http://localhost", "file://", ""]
        {
            assert!(!check("/mcp", host, &[origin]), "{origin}");
        }
        assert!(!check("/mcp", host, &["http://127.0.0.1:7420", "http://127.0.0.1:7420"]));
    }
}
