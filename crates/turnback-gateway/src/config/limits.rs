//! `[limits]`, `[[budget]]` and `[[measure]]`: how much one action may do, and many together.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::gates::blast_radius::{
    Budget, Caps, Counted, DECIMALS, DECIMALS_MOST, Limits, Measure, Per, Scoped,
};
use turnback_core::gates::controls::Scope;
use turnback_core::names::{AgentName, EnvironmentName, ResourceName, ToolName};
use turnback_core::text::visible;

use super::error::ConfigError;
use super::read::{Known, Reader};

type Text = Spanned<String>;
type Number = Spanned<i64>;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    rows: Option<Number>,
    deletions: Option<Number>,
    files: Option<Number>,
    bytes: Option<Number>,
    recipients: Option<Number>,
    money: Option<Number>,
    #[serde(default)]
    tables: BTreeMap<String, Number>,
    pub(super) time: Option<Text>,
    budget: Option<Spanned<RawBudget>>,
    #[serde(default)]
    agents: BTreeMap<AgentName, RawCaps>,
    #[serde(default)]
    owners: BTreeMap<String, RawCaps>,
    #[serde(default)]
    resources: BTreeMap<Spanned<ResourceName>, RawCaps>,
    #[serde(default)]
    tools: BTreeMap<Spanned<ToolName>, RawCaps>,
    #[serde(default)]
    environments: BTreeMap<Spanned<EnvironmentName>, RawCaps>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCaps {
    rows: Option<Number>,
    deletions: Option<Number>,
    files: Option<Number>,
    bytes: Option<Number>,
    recipients: Option<Number>,
    money: Option<Number>,
    #[serde(default)]
    tables: BTreeMap<String, Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBudget {
    per: Option<Spanned<Per>>,
    window: Text,
    actions: Option<Number>,
    deletions: Option<Number>,
    rows: Option<Number>,
    files: Option<Number>,
    bytes: Option<Number>,
    recipients: Option<Number>,
    money: Option<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMeasure {
    tool: Spanned<ToolName>,
    kind: Text,
    field: Text,
    decimals: Option<Number>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGrants {
    #[serde(default)]
    pub(super) required: bool,
}

impl Reader<'_> {
    pub(super) fn limits(
        &self,
        raw: RawLimits,
        budgets: Vec<Spanned<RawBudget>>,
        measures: Vec<RawMeasure>,
        known: &Known,
    ) -> Result<Limits, ConfigError> {
        let budget = |budget: Spanned<RawBudget>| self.budget(budget);
        if let Some(per) = raw.budget.as_ref().and_then(|b| b.get_ref().per.as_ref()) {
            let next = "remove `per`, or write it as [[budget]]";
            return Err(self.error(per, "[limits.budget] is each agent's", next));
        }
        let budgets = raw.budget.into_iter().chain(budgets).map(budget).collect::<Result<_, _>>()?;
        raw.resources.keys().try_for_each(|name| self.known_resource(name, known))?;
        raw.tools.keys().try_for_each(|name| self.known_tool(name, known))?;
        raw.environments.keys().try_for_each(|name| self.known_environment(name, known.environments))?;
        let of = |scope: Scope, caps: RawCaps| Ok(Scoped { of: scope, caps: self.caps(caps, "a limit")? });
        let scoped = (raw.agents.into_iter().map(|(name, caps)| (Scope::Agent(name), caps)))
            .chain(raw.owners.into_iter().map(|(name, caps)| (Scope::Owner(name), caps)))
            .chain(raw.resources.into_iter().map(|(name, caps)| (Scope::Resource(name.into_inner()), caps)))
            .chain(raw.tools.into_iter().map(|(name, caps)| (Scope::Tool(name.into_inner()), caps)))
            .chain(raw.environments.into_iter().map(|(name, caps)| (Scope::Environment(name.into_inner()), caps)))
            .map(|(scope, caps)| of(scope, caps))
            .collect::<Result<_, ConfigError>>()?;
        let action = RawCaps {
            rows: raw.rows,
            deletions: raw.deletions,
            files: raw.files,
            bytes: raw.bytes,
            recipients: raw.recipients,
            money: raw.money,
            tables: raw.tables,
        };
        let measures = measures.into_iter().map(|measure| self.measure(measure, known)).collect::<Result<_, _>>()?;
        Ok(Limits { action: self.caps(action, "a limit")?, scoped, budgets, measures })
    }

    fn caps(&self, raw: RawCaps, what: &str) -> Result<Caps, ConfigError> {
        let table = |(name, limit): (String, Number)| Ok((name, self.count(Some(&limit), what)?.unwrap_or_default()));
        Ok(Caps {
            rows: self.count(raw.rows.as_ref(), what)?,
            deletions: self.count(raw.deletions.as_ref(), what)?,
            files: self.count(raw.files.as_ref(), what)?,
            bytes: self.count(raw.bytes.as_ref(), what)?,
            recipients: self.count(raw.recipients.as_ref(), what)?,
            money: self.count(raw.money.as_ref(), what)?,
            tables: raw.tables.into_iter().map(table).collect::<Result<_, ConfigError>>()?,
        })
    }

    fn budget(&self, raw: Spanned<RawBudget>) -> Result<Budget, ConfigError> {
        let span = raw.span();
        let raw = raw.into_inner();
        let most = RawCaps {
            rows: raw.rows,
            deletions: raw.deletions,
            files: raw.files,
            bytes: raw.bytes,
            recipients: raw.recipients,
            money: raw.money,
            tables: BTreeMap::new(),
        };
        let budget = Budget {
            per: raw.per.map(Spanned::into_inner).unwrap_or_default(),
            window: self.duration(&raw.window, "the window of the budget")?,
            actions: self.count(raw.actions.as_ref(), "a budget")?,
            most: self.caps(most, "a budget")?,
        };
        if budget.actions.is_none() && budget.most.is_empty() {
            let next =
                "add `actions`, `deletions`, `rows`, `files`, `bytes`, `recipients` or `money`, or remove the table";
            return Err(self.source.error(span, "this budget limits nothing", next));
        }
        Ok(budget)
    }

    fn measure(&self, raw: RawMeasure, known: &Known) -> Result<Measure, ConfigError> {
        self.known_tool(&raw.tool, known)?;
        let field = raw.field.get_ref();
        let escapes = field.match_indices('~').all(|(at, _)| matches!(field.as_bytes().get(at + 1), Some(b'0' | b'1')));
        if !field.starts_with('/') || !escapes {
            let message = format!("`{}` is not a JSON Pointer", visible(field));
            return Err(self.error(&raw.field, message, "write the path inside the arguments, such as \"/amount\""));
        }
        let decimals = match &raw.decimals {
            None => DECIMALS,
            Some(n) => u8::try_from(*n.get_ref()).ok().filter(|n| *n <= DECIMALS_MOST).ok_or_else(|| {
                let message = format!("decimal places are a number from 0 to {DECIMALS_MOST}");
                self.error(n, message, "write 2 for most currencies, 0 when the field is in minor units already")
            })?,
        };
        let kind = match raw.kind.get_ref().as_str() {
            "money" => Counted::Money { decimals },
            "recipients" => match &raw.decimals {
                Some(n) => return Err(self.error(n, "recipients have no decimal places", "remove `decimals`")),
                None => Counted::Recipients,
            },
            other => {
                let message = format!("`{}` cannot be measured", visible(other));
                return Err(self.error(&raw.kind, message, "use \"money\" or \"recipients\""));
            }
        };
        Ok(Measure { tool: raw.tool.into_inner(), kind, field: field.clone() })
    }
}
