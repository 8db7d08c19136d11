//! The release flags of a running node.
//!
//! Which document holds:
//! * at the first start, the file `[flags] path` names;
//! * from then on the journaled one: what operators changed while the node ran survives a restart;
//! * until the file changes. A start that finds a file with another digest than the one last read from it takes the
//!   file, and what operators changed before is over – it stays in the record;
//! * a configuration that names no file any more ends them.
//!
//! Each of these is journaled with who and why before it counts (`DURABLE-FIRST`). The file is read at start only;
//! `turnback flags apply <file>` is how it is read again.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use turnback_core::contract::Contract;
use turnback_core::decision::Phase;
use turnback_core::digest::Sha256;
use turnback_core::flags::{Change, Edition, FlagError, Flagged, Flags, Source, edited};
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_core::tool::Tool;
use turnback_journal::{Batch, Entry, JournalError, Projection, Table};

use super::Inner;
use super::board::View;
use crate::operator::protocol::{FlagsView, Reply};

/// Under which the document that holds is kept in [`Table::Meta`].
const CURRENT: &str = "flags";

/// Under which the last changes are kept there.
const HISTORY: &str = "flags.history";

/// Changes kept for `turnback flags history`. The journal keeps all of them.
const HISTORY_LIMIT: usize = 100;

/// What a document is called that did not come from a file of the node's.
const DOCUMENT: &str = "document";

/// The flags that hold.
#[derive(Debug)]
pub(crate) struct Active {
    flags: Flags,
    edition: Edition,
    /// Digest of the file as it was last read.
    file: Sha256,
}

/// [`Active`] as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    document: String,
    edition: Edition,
    file: Sha256,
}

/// The refusal of a document: the first mistake with its place, and the others.
pub fn wrong_flags(file: &str, errors: &[FlagError]) -> Refusal {
    let Some((first, more)) = errors.split_first() else {
        return Refusal::new(Code::BadInput, "the flags are wrong").at(file);
    };
    let mut message = first.message.clone();
    for error in more.iter().take(9) {
        message.push_str(&format!("; {error}"));
    }
    if more.len() > 9 {
        message.push_str(&format!("; and {} more", more.len() - 9));
    }
    let refusal = Refusal::new(Code::BadInput, message).at(format!("{file}:{}:{}", first.line, first.column));
    match &first.next {
        Some(next) => refusal.next(next.clone()),
        None => refusal,
    }
}

impl View {
    /// What the flags say about an action. Only the gate of the first phase asks.
    pub(super) fn flagged(&self, phase: Phase, contract: &Contract, now: Timestamp) -> Option<Flagged> {
        let active = self.flags.as_ref().filter(|_| phase == Phase::Before)?;
        let agent = contract.actor.agent().and_then(|name| self.agents.get(name));
        Some(active.flags.about(contract, agent, now))
    }
}

fn misread(e: &serde_json::Error) -> Refusal {
    let why = e.to_string();
    Refusal::from(JournalError::Storage { doing: "reading the release flags", why })
}

impl Inner {
    /// At start, before anybody is served: finds out which document holds.
    pub(super) async fn adopt_flags(&self, file: Option<Flags>) -> Result<(), Refusal> {
        let kept = self.journal.get(Table::Meta, CURRENT).map_err(Refusal::from)?;
        let kept: Option<Kept> = kept.map(serde_json::from_value).transpose().map_err(|e| misread(&e))?;
        let edition = |reason: &str, digest| Edition {
            at: self.now(),
            by: "turnback.toml".to_owned(),
            reason: reason.to_owned(),
            source: Source::File,
            digest,
        };
        match (file, kept) {
            (None, None) => Ok(()),
            (None, Some(_)) => {
                let body = Body::FlagsSet { edition: edition("[flags] is gone", None), document: None };
                let delete = Projection::Delete { table: Table::Meta, key: CURRENT.to_owned() };
                self.record_flags(body, delete).await
            }
            (Some(flags), Some(kept)) if flags.digest() == kept.file => {
                let flags = self.read_flags(&kept.document).map_err(|refusal| {
                    let next =
                        "change the file named by [flags] path: it then replaces what was set while the node ran";
                    Refusal { message: format!("set while the node ran: {}", refusal.message), ..refusal }.next(next)
                })?;
                self.board.set_flags(Some(Active { flags, edition: kept.edition, file: kept.file }));
                Ok(())
            }
            (Some(flags), kept) => {
                let reason = if kept.is_some() { "the file changed" } else { "the first start with this file" };
                let (edition, file) = (edition(reason, Some(flags.digest())), flags.digest());
                self.make_active(Active { flags, edition, file }).await
            }
        }
    }

    fn read_flags(&self, document: &str) -> Result<Flags, Refusal> {
        let tools: Vec<Tool> = self.tools.values().cloned().collect();
        Flags::read(document, &tools).map_err(|errors| wrong_flags(DOCUMENT, &errors))
    }

    fn active_flags(&self) -> Result<Arc<Active>, Refusal> {
        self.board.view().flags.clone().ok_or_else(|| {
            let refusal = Refusal::new(Code::NotFound, "no release flags are configured");
            if self.services.is_empty() {
                return refusal.next("write { \"flags\": {} } into a file, name it in [flags] path, and start again");
            }
            Refusal { message: "no release flags are configured but those of services".to_owned(), ..refusal }
                .next("turnback flags remote")
        })
    }

    /// The flags that hold, for operators.
    pub(super) fn flags(&self) -> Result<Reply, Refusal> {
        let active = self.active_flags()?;
        Ok(Reply::Flags(Box::new(FlagsView {
            edition: active.edition.clone(),
            flags: active.flags.summaries(),
            document: active.flags.text().to_owned(),
        })))
    }

    /// The last changes, newest first.
    pub(super) fn flags_history(&self) -> Result<Reply, Refusal> {
        let mut history = self.history()?;
        history.reverse();
        Ok(Reply::FlagsHistory(history))
    }

    fn history(&self) -> Result<Vec<Edition>, Refusal> {
        let kept = self.journal.get(Table::Meta, HISTORY).map_err(Refusal::from)?;
        Ok(kept.map(serde_json::from_value).transpose().map_err(|e| misread(&e))?.unwrap_or_default())
    }

    /// Changes one flag.
    pub(super) async fn set_flag(
        &self,
        key: &str,
        change: &Change,
        reason: String,
        by: &str,
    ) -> Result<Reply, Refusal> {
        if change.variant.is_none() && change.state.is_none() {
            return Err(
                Refusal::new(Code::BadInput, "say what to change").next("--variant <variant> or --state <state>")
            );
        }
        let _one_at_a_time = self.flagging.lock().await;
        let active = self.active_flags()?;
        let document = edited(&active.flags, key, change)
            .map_err(|why| Refusal::new(Code::NotFound, why).at(key).next("see: turnback flags list"))?;
        self.replace_flags(&active, &document, reason, by).await
    }

    /// Replaces all flags.
    pub(super) async fn apply_flags(&self, document: String, reason: String, by: &str) -> Result<Reply, Refusal> {
        let _one_at_a_time = self.flagging.lock().await;
        let active = self.active_flags()?;
        self.replace_flags(&active, &document, reason, by).await
    }

    /// Under the lock of `flagging`. What is wrong is refused and the flags before stay.
    async fn replace_flags(&self, before: &Active, document: &str, reason: String, by: &str) -> Result<Reply, Refusal> {
        if reason.trim().is_empty() {
            return Err(Refusal::new(Code::BadInput, "say why").at("reason").next("--reason <why>"));
        }
        let flags = self.read_flags(document)?;
        let digest = Some(flags.digest());
        let edition = Edition { at: self.now(), by: by.to_owned(), reason, source: Source::Operator, digest };
        self.make_active(Active { flags, edition, file: before.file }).await?;
        self.flags()
    }

    /// Upholds `DURABLE-FIRST`: journaled, then seen by the next decision.
    async fn make_active(&self, active: Active) -> Result<(), Refusal> {
        let (edition, document) = (active.edition.clone(), active.flags.text().to_owned());
        let kept = Kept { document: document.clone(), edition: edition.clone(), file: active.file };
        let put = super::admin::put(Table::Meta, CURRENT, &kept)?;
        self.record_flags(Body::FlagsSet { edition, document: Some(document) }, put).await?;
        self.board.set_flags(Some(active));
        Ok(())
    }

    async fn record_flags(&self, body: Body, current: Projection) -> Result<(), Refusal> {
        let mut history = self.history()?;
        if let Body::FlagsSet { edition, .. } = &body {
            history.push(edition.clone());
        }
        let history = history.split_off(history.len().saturating_sub(HISTORY_LIMIT));
        let history = super::admin::put(Table::Meta, HISTORY, &history)?;
        let entry = Entry { at: self.now(), body, project: vec![current, history] };
        self.append_batch(Batch { entries: vec![entry], blobs: Vec::new() }).await
    }
}
