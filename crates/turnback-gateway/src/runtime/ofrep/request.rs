//! One request to a service, and everything that may be wrong with what comes back.
//!
//! No redirect is followed, no proxy is taken from the environment, nothing is unpacked; at most
//! [`ANSWER_LIMIT`] bytes are read, within the time there is, whatever the service does in between.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use turnback_core::flags::remote::{self, ANSWER_LIMIT, Answer};
use turnback_core::text::visible;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};

use super::answers::Failed;
use crate::config::{self, RemoteFlags};

/// Bytes of header accepted.
const HEADER_LIMIT: usize = 16 << 10;

/// What every request to one service shares: its connections.
pub(super) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .max_response_header_size(HEADER_LIMIT)
        .user_agent("turnback")
        .build()
        .into()
}

pub(super) fn late(settings: &RemoteFlags) -> Failed {
    Failed::Down(format!("it did not answer within {} ms", settings.timeout.as_millis()), None)
}

/// Asks for one flag. Blocks at most for `time`.
///
/// # Errors
/// What happened, for an operator and for the record: never the token, nor more of the answer than a value's
/// beginning.
pub(super) fn evaluate(
    agent: &ureq::Agent,
    settings: &RemoteFlags,
    key: &str,
    body: &[u8],
    time: Duration,
) -> Result<Answer, Failed> {
    let token = settings.token_file.as_deref().map(config::token).transpose().map_err(|why| Failed::Down(why, None))?;
    let answer = ask(agent, settings, key, body, token.as_deref(), time);
    // What is said here is recorded and shown, and a service may send back what it was sent.
    let shown = match &answer {
        Ok(answer) => answer.variant.as_deref().unwrap_or_default(),
        Err(failed) => failed.why(),
    };
    match token {
        Some(token) if repeats(shown, &token) => Err(Failed::Wrong("its answer repeats the token".to_owned())),
        _ => answer,
    }
}

fn ask(
    agent: &ureq::Agent,
    settings: &RemoteFlags,
    key: &str,
    body: &[u8],
    token: Option<&str>,
    time: Duration,
) -> Result<Answer, Failed> {
    let down = |why: String| Failed::Down(why, None);
    let mut request = agent
        .post(format!("{}{}", settings.url, remote::path(key)))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.config().timeout_global(Some(time)).build();
    let mut response = request.send(body).map_err(|e| failed(&e, settings))?;
    let status = response.status().as_u16();
    match status {
        200 | 400 | 404 => {}
        401 | 403 if token.is_none() => return Err(down(format!("it answers {status}, and no `token_file` is named"))),
        401 | 403 => return Err(down(format!("it answers {status}: it does not accept the token"))),
        300..400 => return Err(down(format!("it answers {status}: redirects are not followed"))),
        429 => {
            let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            return Err(Failed::Down("it answers 429: too many requests".to_owned(), after.and_then(rest)));
        }
        _ => return Err(down(format!("it answers {status}"))),
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let plain = kind.split(';').next().unwrap_or_default().trim();
    if !plain.eq_ignore_ascii_case("application/json") {
        let kind = visible(&kind.chars().take(40).collect::<String>());
        return Err(Failed::Wrong(format!("its answer ({status}) is of type `{kind}`, not application/json")));
    }
    let answer = match response.body_mut().with_config().limit(ANSWER_LIMIT as u64).read_to_vec() {
        Ok(answer) => answer,
        Err(ureq::Error::BodyExceedsLimit(_)) => {
            return Err(Failed::Wrong(format!("its answer is larger than {ANSWER_LIMIT} bytes")));
        }
        Err(e) => return Err(failed(&e, settings)),
    };
    Answer::read(key, status, &answer).map_err(Failed::Wrong)
}

/// Whether a text quotes a token or its beginning: quotations are cut.
fn repeats(text: &str, token: &str) -> bool {
    token.get(..token.len().min(8)).is_some_and(|beginning| text.contains(beginning))
}

/// A failure of the transport in words that say what to look at.
fn failed(e: &ureq::Error, settings: &RemoteFlags) -> Failed {
    let why = match e {
        ureq::Error::Timeout(_) => return late(settings),
        ureq::Error::HostNotFound => "its name is not known".to_owned(),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::TimedOut => return late(settings),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => "nobody listens there".to_owned(),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData && settings.url.starts_with("https:") => {
            format!("no TLS connection: {e}")
        }
        ureq::Error::Io(e) => format!("the connection failed: {e}"),
        ureq::Error::Rustls(e) => format!("no TLS connection: {e}"),
        ureq::Error::Tls(e) => format!("no TLS connection: {e}"),
        ureq::Error::ConnectionFailed => "it cannot be connected to".to_owned(),
        other => format!("the request failed: {other}"),
    };
    Failed::Down(visible(&why.chars().take(200).collect::<String>()), None)
}

/// How long a service asks to be left alone: seconds, or a moment as HTTP or as RFC 3339 writes it.
fn rest(after: &str) -> Option<SignedDuration> {
    let after = after.trim();
    if let Ok(seconds) = after.parse::<u32>() {
        return Some(SignedDuration::from_secs(i64::from(seconds)));
    }
    let at: Timestamp = after.parse().ok().or_else(|| Some(jiff::fmt::rfc2822::parse(after).ok()?.timestamp()))?;
    Some(at.duration_since(Timestamp::now()).max(SignedDuration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_may_say_how_long_it_wants_to_be_left_alone() {
        assert_eq!(rest("7"), Some(SignedDuration::from_secs(7)));
        assert_eq!(rest("Wed, 21 Oct 2015 07:28:00 GMT"), Some(SignedDuration::ZERO));
        assert_eq!(rest("2024-02-07T12:00:00Z"), Some(SignedDuration::ZERO));
        assert!(rest("2999-02-07T12:00:00Z") > Some(SignedDuration::from_hours(24)));
        for word in ["", "-1", "soon", "1e9"] {
            assert_eq!(rest(word), None, "{word}");
        }
    }
}
