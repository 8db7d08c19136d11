//! Sealed request state: what a 2026-07-28 client carries from an `input_required` answer to its retry.
//!
//! Invariant `SEALED`: whatever comes back was made here, by this process, for this caller, this tool and
//! these arguments, and has not expired; anything else is refused before the desk hears of it. The seal
//! is HMAC-SHA-256 (RFC 2104) under a key that lives as long as the process. What is sealed is readable
//! to the client, which was just told all of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use turnback_core::contract::Assignment;
use turnback_core::contract::STATEMENT_ARGUMENT;
use turnback_core::names::{AgentName, ApprovalId, RunId};

use crate::desk::{Caller, Pending};

/// Longest sealed state looked at, in bytes.
const LIMIT: usize = 16 * 1024;

/// What a retry may continue.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    agent: AgentName,
    on_behalf_of: Option<String>,
    assignment: Assignment,
    tool: String,
    arguments: turnback_core::digest::Sha256,
    until: Timestamp,
    run: RunId,
    approval: ApprovalId,
    message: String,
    url: String,
    expires: Timestamp,
}

/// The key.
pub(super) struct Seal {
    key: [u8; 32],
}

impl Seal {
    /// A seal nobody else can make.
    pub(super) fn new() -> std::io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| std::io::Error::other(e.to_string()))?;
        Ok(Self { key })
    }

    /// Seals a waiting run for the retry of the same call.
    pub(super) fn close(&self, bound: &Bound<'_>, pending: &Pending, until: Timestamp) -> Option<String> {
        let claims = Claims {
            agent: bound.caller.agent.clone(),
            on_behalf_of: bound.caller.on_behalf_of.clone(),
            assignment: bound.caller.assignment.clone(),
            tool: bound.tool.to_owned(),
            arguments: digest(bound.arguments)?,
            until: until.min(pending.expires),
            run: pending.run,
            approval: pending.approval,
            message: pending.message.clone(),
            url: pending.url.clone(),
            expires: pending.expires,
        };
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).ok()?);
        let mac = URL_SAFE_NO_PAD.encode(self.mac(&body));
        Some(format!("{body}.{mac}"))
    }

    /// Opens a sealed state for the call it was made for; `None` for everything else.
    pub(super) fn open(&self, bound: &Bound<'_>, sealed: &str, now: Timestamp) -> Option<Pending> {
        if sealed.len() > LIMIT {
            return None;
        }
        let (body, mac) = sealed.split_once('.')?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        // Nothing inside is read before the seal is known to be ours.
        if !same(&mac, &self.mac(body)) {
            return None;
        }
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
        let fits = claims.agent == bound.caller.agent
            && claims.on_behalf_of == bound.caller.on_behalf_of
            && claims.assignment == bound.caller.assignment
            && claims.tool == bound.tool
            && Some(claims.arguments) == digest(bound.arguments)
            && now < claims.until;
        fits.then_some(Pending {
            run: claims.run,
            approval: claims.approval,
            message: claims.message,
            url: claims.url,
            expires: claims.expires,
        })
    }

    fn mac(&self, body: &str) -> [u8; 32] {
        hmac(&self.key, format!("turnback request state v1\n{body}").as_bytes())
    }
}

/// The call a state is bound to.
#[derive(Clone, Copy)]
pub(super) struct Bound<'a> {
    pub(super) caller: &'a Caller,
    pub(super) tool: &'a str,
    /// Raw argument bytes.
    pub(super) arguments: &'a [u8],
}

/// The arguments as the contract sees them: strictly read, canonical, the agent's statement taken out.
/// `None` when they are not strict JSON.
fn digest(arguments: &[u8]) -> Option<turnback_core::digest::Sha256> {
    let mut value = turnback_core::json::parse(arguments).ok()?;
    value.as_object_mut()?.shift_remove(STATEMENT_ARGUMENT);
    Some(turnback_core::digest::Sha256::of(&turnback_core::json::canonical(&value)))
}

/// HMAC-SHA-256 (RFC 2104) with a key of at most one block.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut inner = [0x36_u8; 64];
    let mut outer = [0x5c_u8; 64];
    for ((i, o), k) in inner.iter_mut().zip(outer.iter_mut()).zip(key) {
        *i ^= k;
        *o ^= k;
    }
    let hash = Sha256::new().chain_update(inner).chain_update(text).finalize();
    Sha256::new().chain_update(outer).chain_update(hash).finalize().into()
}

/// Compares without stopping at the first difference, so time says nothing about where it is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(agent: &str) -> Caller {
        Caller { agent: AgentName::new(agent).unwrap(), on_behalf_of: None, assignment: Assignment::default() }
    }

    fn pending() -> Pending {
        Pending {
            run: RunId::new(uuid::Uuid::from_u128(1)),
            approval: ApprovalId::new(uuid::Uuid::from_u128(2)),
            message: "deletes 3 rows".into(),
            url: "http://127.0.0.1/approvals/x".into(),
            expires: Timestamp::from_second(2_000).unwrap(),
        }
    }

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        // Test cases 1 and 2.
        assert_eq!(
            hex::encode(hmac(&[0x0b; 20], b"Hi There")),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            hex::encode(hmac(b"Jefe", b"what do ya want for nothing?")),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_state_opens_only_for_the_call_it_was_made_for() {
        let seal = Seal::new().unwrap();
        let (alice, bob) = (caller("alice"), caller("bob"));
        let bound = Bound { caller: &alice, tool: "shop__execute", arguments: br#"{"sql":"x","n":1}"# };
        let at = |second| Timestamp::from_second(second).unwrap();
        let sealed = seal.close(&bound, &pending(), at(1_000)).unwrap();

        assert_eq!(seal.open(&bound, &sealed, at(500)).unwrap().run, pending().run);
        // Saying why differently, or spelling the same arguments differently, is the same call.
        let respelled = Bound { arguments: br#"{ "n":1.0, "turnback":{"intent":"y"}, "sql":"\u0078" }"#, ..bound };
        assert!(seal.open(&respelled, &sealed, at(500)).is_some());

        assert!(seal.open(&bound, &sealed, at(1_000)).is_none(), "expired");
        assert!(seal.open(&Bound { caller: &bob, ..bound }, &sealed, at(500)).is_none(), "another principal");
        assert!(seal.open(&Bound { tool: "shop__query", ..bound }, &sealed, at(500)).is_none(), "another tool");
        assert!(seal.open(&Bound { arguments: br#"{"sql":"y","n":1}"#, ..bound }, &sealed, at(500)).is_none());
        assert!(Seal::new().unwrap().open(&bound, &sealed, at(500)).is_none(), "another process");
        for i in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).unwrap();
            assert!(seal.open(&bound, &forged, at(500)).is_none(), "byte {i} changed");
        }
    }

    #[test]
    fn a_state_never_outlives_its_question() {
        let seal = Seal::new().unwrap();
        let alice = caller("alice");
        let bound = Bound { caller: &alice, tool: "t", arguments: b"{}" };
        let sealed = seal.close(&bound, &pending(), Timestamp::from_second(9_000).unwrap()).unwrap();
        assert!(seal.open(&bound, &sealed, Timestamp::from_second(2_000).unwrap()).is_none());
    }
}
