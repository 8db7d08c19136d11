//! The board: who exists, whose credentials count, which switches are thrown, which release flags hold.
//!
//! A copy of journal tables in memory, because every decision reads it. Invariant
//! `DURABLE-FIRST`: the board changes only after the journal has the change on disk.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;
use turnback_core::digest::Sha256;
use turnback_core::gates::controls::{Controls, Deny, Freeze, Switch};
use turnback_core::gates::ownership::Agent;
use turnback_core::names::{AgentName, TokenId};
use turnback_core::record::Token;
use turnback_core::refusal::{Code, Refusal};
use turnback_journal::{Journal, JournalError, Table};

use super::flags::Active;

/// What the board shows at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) agents: BTreeMap<AgentName, Agent>,
    pub(crate) tokens: BTreeMap<TokenId, Token>,
    by_secret: BTreeMap<Sha256, TokenId>,
    pub(crate) controls: Controls,
    pub(crate) flags: Option<Arc<Active>>,
}

/// The shared board. Readers take a cheap copy of the current view and never wait for the journal.
#[derive(Debug)]
pub(crate) struct Board(RwLock<Arc<View>>);

impl Board {
    /// Reads the tables; `freezes` and `denies` come from the configuration.
    pub(crate) fn load(journal: &Journal, freezes: Vec<Freeze>, denies: Vec<Deny>) -> Result<Self, JournalError> {
        let mut view = View { controls: Controls { switches: Vec::new(), freezes, denies }, ..View::default() };
        for (_, value) in journal.table(Table::Agents)? {
            let agent: Agent = read(value)?;
            view.agents.insert(agent.name.clone(), agent);
        }
        for (key, value) in journal.table(Table::Tokens)? {
            let id: TokenId = key.parse().map_err(misread)?;
            let token: Token = read(value)?;
            view.by_secret.insert(token.secret, id);
            view.tokens.insert(id, token);
        }
        for (_, value) in journal.table(Table::Switches)? {
            view.controls.switches.push(read(value)?);
        }
        for (key, value) in journal.table(Table::Meta)? {
            if key.starts_with(super::rules::DENY) {
                view.controls.denies.push(read(value)?);
            } else if key.starts_with(super::rules::FREEZE) {
                view.controls.freezes.push(read(value)?);
            }
        }
        Ok(Self(RwLock::new(Arc::new(view))))
    }

    /// The current view.
    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change(&self, edit: impl FnOnce(&mut View)) {
        let mut shared = self.0.write().unwrap_or_else(PoisonError::into_inner);
        edit(Arc::make_mut(&mut shared));
    }

    pub(crate) fn set_agent(&self, agent: Agent) {
        self.change(|v| drop(v.agents.insert(agent.name.clone(), agent)));
    }

    pub(crate) fn set_token(&self, id: TokenId, token: Token) {
        self.change(|v| {
            v.by_secret.insert(token.secret, id);
            v.tokens.insert(id, token);
        });
    }

    pub(crate) fn drop_token(&self, id: TokenId) {
        self.change(|v| {
            if let Some(token) = v.tokens.remove(&id) {
                v.by_secret.remove(&token.secret);
            }
        });
    }

    pub(crate) fn throw(&self, switch: Switch) {
        self.change(|v| {
            v.controls.switches.retain(|s| s.scope != switch.scope);
            v.controls.switches.push(switch);
        });
    }

    /// Changes the denylist or the freezes.
    pub(crate) fn edit_controls(&self, edit: impl FnOnce(&mut Controls)) {
        self.change(|v| edit(&mut v.controls));
    }

    pub(crate) fn set_flags(&self, flags: Option<Active>) {
        self.change(|v| v.flags = flags.map(Arc::new));
    }

    pub(crate) fn lift(&self, switch: &Switch) {
        self.change(|v| v.controls.switches.retain(|s| s.scope != switch.scope));
    }
}

impl View {
    /// The token with this secret, while it is valid.
    pub(crate) fn token(&self, secret: &str, now: Timestamp) -> Result<&Token, Refusal> {
        // Looked up by hash: comparing hashes tells nothing about how close a guess was.
        self.by_secret
            .get(&Sha256::of(secret.as_bytes()))
            .and_then(|id| self.tokens.get(id))
            // Not yet made means that the clock went back, which must not make a token last longer.
            .filter(|token| token.made <= now && now < token.expires)
            .ok_or_else(|| {
                Refusal::new(Code::Unauthenticated, "the token is unknown, expired or revoked")
                    .at("Authorization")
                    .next("an operator makes one: turnback token new <agent>")
            })
    }
}

fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, JournalError> {
    serde_json::from_value(value).map_err(misread)
}

fn misread(e: impl std::fmt::Display) -> JournalError {
    JournalError::Storage { doing: "reading agents, tokens and switches", why: e.to_string() }
}
