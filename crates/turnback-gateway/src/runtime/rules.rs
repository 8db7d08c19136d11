//! The denylist and freezes while the node runs: durable before they are told, with who and why.

use turnback_core::gates::controls::{Deny, Freeze};
use turnback_core::record::Body;
use turnback_core::refusal::{Code, Refusal};
use turnback_journal::{Projection, Table};

use super::Inner;
use super::admin::put;
use crate::operator::protocol::Reply;

/// Before the name of a deny an operator added.
pub(super) const DENY: &str = "deny ";
/// Before the name of a freeze an operator declared.
pub(super) const FREEZE: &str = "freeze ";

/// Longest name, in bytes.
const NAME_LIMIT: usize = 256;

fn name_fits(name: &str) -> Result<(), Refusal> {
    let fits = !name.trim().is_empty() && name.len() <= NAME_LIMIT && !name.contains('\0');
    let refusal = || Refusal::new(Code::BadInput, format!("a name of 1 to {NAME_LIMIT} bytes is expected")).at("name");
    if fits { Ok(()) } else { Err(refusal()) }
}

fn taken(what: &str, name: &str) -> Refusal {
    Refusal::new(Code::Exists, format!("there is a {what} of that name"))
        .at(name)
        .next(format!("choose another name, or look at it: turnback {what} list"))
}

/// What is in the file is changed in the file.
fn configured(what: &str, name: &str) -> Refusal {
    Refusal::new(Code::Denied, format!("this {what} is in turnback.toml"))
        .at(name)
        .next("remove it there and restart the gateway")
}

fn missing(what: &str, name: &str) -> Refusal {
    Refusal::new(Code::NotFound, format!("no {what} has that name")).at(name).next(format!("see: turnback {what} list"))
}

impl Inner {
    pub(super) async fn add_deny(&self, deny: Deny, by: &str) -> Result<Reply, Refusal> {
        name_fits(&deny.name)?;
        if deny.what.is_empty() {
            let next = "name an agent, owner, tool, resource, environment, workflow, user or place";
            return Err(Refusal::new(Code::BadInput, "it does not say what it denies").at("what").next(next));
        }
        let _one_at_a_time = self.editing.lock().await;
        if self.board.view().controls.denies.iter().any(|d| d.name == deny.name) {
            return Err(taken("deny", &deny.name));
        }
        let deny = Deny { by: Some(by.to_owned()), since: Some(self.now()), ..deny };
        let put = put(Table::Meta, &format!("{DENY}{}", deny.name), &deny)?;
        self.append(vec![(Body::DenyAdded { deny: Box::new(deny.clone()) }, Some(put))]).await?;
        self.board.edit_controls(|controls| controls.denies.push(deny));
        Ok(self.denies())
    }

    pub(super) async fn remove_deny(&self, name: &str, reason: String, by: &str) -> Result<Reply, Refusal> {
        let _one_at_a_time = self.editing.lock().await;
        let view = self.board.view();
        let Some(deny) = view.controls.denies.iter().find(|d| d.name == name).cloned() else {
            return Err(missing("deny", name));
        };
        if deny.by.is_none() {
            return Err(configured("deny", name));
        }
        let delete = Projection::Delete { table: Table::Meta, key: format!("{DENY}{name}") };
        self.append(vec![(Body::DenyRemoved { deny: Box::new(deny), by: by.to_owned(), reason }, Some(delete))])
            .await?;
        self.board.edit_controls(|controls| controls.denies.retain(|d| d.name != name));
        Ok(self.denies())
    }

    pub(super) fn denies(&self) -> Reply {
        Reply::Denies(self.board.view().controls.denies.clone())
    }

    pub(super) async fn add_freeze(&self, freeze: Freeze, by: &str) -> Result<Reply, Refusal> {
        name_fits(&freeze.name)?;
        if freeze.exceptions.iter().any(turnback_core::gates::controls::Selector::is_empty) {
            return Err(Refusal::new(Code::BadInput, "it does not say whom it excepts").at("exceptions"));
        }
        if freeze.until.is_some_and(|until| until <= freeze.from.unwrap_or_else(|| self.now())) {
            return Err(Refusal::new(Code::BadInput, "this freeze is over before it begins").at("until"));
        }
        let _one_at_a_time = self.editing.lock().await;
        if self.board.view().controls.freezes.iter().any(|f| f.name == freeze.name) {
            return Err(taken("freeze", &freeze.name));
        }
        let freeze = Freeze { by: Some(by.to_owned()), ..freeze };
        let put = put(Table::Meta, &format!("{FREEZE}{}", freeze.name), &freeze)?;
        self.append(vec![(Body::FreezeAdded { freeze: Box::new(freeze.clone()) }, Some(put))]).await?;
        self.board.edit_controls(|controls| controls.freezes.push(freeze));
        Ok(self.freezes())
    }

    pub(super) async fn lift_freeze(&self, name: &str, reason: String, by: &str) -> Result<Reply, Refusal> {
        let _one_at_a_time = self.editing.lock().await;
        let view = self.board.view();
        let Some(freeze) = view.controls.freezes.iter().find(|f| f.name == name).cloned() else {
            return Err(missing("freeze", name));
        };
        if freeze.by.is_none() {
            return Err(configured("freeze", name));
        }
        let delete = Projection::Delete { table: Table::Meta, key: format!("{FREEZE}{name}") };
        self.append(vec![(Body::FreezeLifted { freeze: Box::new(freeze), by: by.to_owned(), reason }, Some(delete))])
            .await?;
        self.board.edit_controls(|controls| controls.freezes.retain(|f| f.name != name));
        Ok(self.freezes())
    }

    pub(super) fn freezes(&self) -> Reply {
        Reply::Freezes(self.board.view().controls.freezes.clone())
    }
}
