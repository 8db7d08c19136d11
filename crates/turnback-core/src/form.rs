//! Safer forms: what an action becomes when the answer is `constrain`.
//!
//! The operator's contract of a tool lists them ([`Form`]); a gate asks for one by name
//! ([`crate::decision::Obligation::SaferForm`]); [`rewritten`] makes the call over. What comes out is another
//! action with a digest of its own, judged from the beginning by every gate – the rule that asked for the form is
//! satisfied by it, nothing else is. Turnback rewrites; what an agent says never counts as a form.
//!
//! Invariant `ONLY-TIGHTEN`: what stands against an action stands against its safer forms. A switch, a deny, a freeze,
//! a grant that is missing or a rule against what was asked for stops what became of it ([`judge`]); a person who had to
//! be asked about it still is; what was only to be measured still is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::contract::{Assignment, Contract, Statement, Target};
use crate::decision::{Obligation, Ruling, Verdict};
use crate::digest::{ActionDigest, Sha256};
use crate::gates::{Facts, authorization, controls, grants};
use crate::names::{EnvironmentName, ResourceName, RunId, ToolName};
use crate::text::visible;
use crate::tool::{Kind, Risk, Verb};

/// Who speaks for safer forms: when one is asked for that the tool does not have, and when an action that has one
/// still owes a person's yes.
pub const NAME: &str = "form";

/// The form every write has without being listed: staged, measured, judged and recorded, never committed.
pub const DRY_RUN: &str = "dry_run";

/// One safer form of a tool. Arguments are named as the tool names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// What rules call it: `@form("draft")`.
    pub name: String,
    /// The tool called instead, with the same arguments; `None` for the same tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ToolName>,
    /// Arguments set to these values, whatever was asked.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub set: Map<String, Value>,
    /// Numbers lowered to this bound, lists cut to so many entries. What is not given is set to the bound.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub at_most: BTreeMap<String, u64>,
    /// Paths put below this directory of the resource; those that lie there already stay. A path that is not given is
    /// the directory: what a tool does without one, it does in the whole resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inside: BTreeMap<String, String>,
    /// Arguments left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub remove: BTreeSet<String>,
    /// It is measured and recorded, never committed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// One thing a form changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// `tool`, `commit`, or the argument.
    pub what: String,
    /// As it was asked; absent when it was not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// As it is done; absent when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

impl Changed {
    /// It in words. Long values are not repeated.
    fn words(&self) -> String {
        let word = |value: &Option<Value>| match value {
            None => "nothing".to_owned(),
            Some(value) => {
                let text = value.to_string();
                if text.len() > 100 { format!("{} bytes", text.len()) } else { visible(&text) }
            }
        };
        format!("{} {} instead of {}", visible(&self.what), word(&self.to), word(&self.from))
    }
}

/// What a decision makes of an action: the part of its record that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewriting {
    /// The forms it takes, in the order they are applied.
    pub forms: Vec<String>,
    /// The tool that is called.
    pub tool: ToolName,
    /// It is only measured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What differs from what was asked.
    pub changed: Vec<Changed>,
}

/// What a rewritten contract says about where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Formed {
    /// The run in which the action was asked for as the agent wanted it.
    pub from: RunId,
    /// That action. Part of the digest: what people approve is this form of that action.
    pub of: ActionDigest,
    /// Every form it has. Part of the digest.
    pub forms: Vec<String>,
    /// It is only measured. Part of the digest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What differs from what was asked.
    pub changed: Vec<Changed>,
    /// Why, as the gates that asked for it said.
    pub why: String,
    /// The actions it was, each made over into the next, the first as it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<Asked>,
    /// What a person had to be asked about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reviews: Vec<Verdict>,
}

/// An action that was made over, as far as gates look at it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The tool.
    pub tool: ToolName,
    /// The domain's own name for it.
    pub local: String,
    /// Hash of its schema.
    pub schema_hash: Sha256,
    /// What it is for.
    pub verb: Verb,
    /// Its class of risk.
    pub risk: Risk,
    /// The resource.
    pub resource: ResourceName,
    /// That resource's kind.
    pub kind: Kind,
    /// That resource's environment.
    pub environment: EnvironmentName,
    /// Which part of the organisation it belonged to.
    #[serde(default, skip_serializing_if = "Assignment::is_empty")]
    pub assignment: Assignment,
    /// What it was aimed at.
    pub target: Target,
    /// The forms of its tool it was made over into.
    pub forms: Vec<String>,
}

impl Asked {
    /// What is to be remembered of an action made over into `forms`.
    pub fn of(contract: &Contract, forms: Vec<String>) -> Self {
        Self {
            tool: contract.tool.clone(),
            local: contract.local.clone(),
            schema_hash: contract.schema_hash,
            verb: contract.verb,
            risk: contract.risk,
            resource: contract.resource.clone(),
            kind: contract.kind,
            environment: contract.environment.clone(),
            assignment: contract.assignment.clone(),
            target: contract.target.clone(),
            forms,
        }
    }

    /// That action, without its arguments.
    fn contract(&self, now: &Contract) -> Contract {
        Contract {
            actor: now.actor.clone(),
            on_behalf_of: now.on_behalf_of.clone(),
            assignment: self.assignment.clone(),
            trace: None,
            tool: self.tool.clone(),
            local: self.local.clone(),
            schema_hash: self.schema_hash,
            verb: self.verb,
            risk: self.risk,
            resource: self.resource.clone(),
            kind: self.kind,
            environment: self.environment.clone(),
            target: self.target.clone(),
            arguments: Value::Null,
            form: None,
            undoes: Vec::new(),
            statement: Statement { confidence: now.statement.confidence, ..Statement::default() },
        }
    }
}

/// Whether an action has the form a rule asks for: a form of the very tool it calls, or, where that tool has none of
/// that name, of one it was made over from.
pub fn is_met(facts: &Facts<'_>, name: &str) -> bool {
    let (contract, listed) = (facts.contract, facts.forms.iter().any(|form| form.name == name));
    contract.form.as_ref().is_some_and(|formed| {
        (name == DRY_RUN && formed.dry_run)
            || formed
                .asked
                .iter()
                .any(|asked| (asked.tool == contract.tool || !listed) && asked.forms.iter().any(|form| form == name))
    })
}

/// What the actions an action was made over from bring along: whatever stands against one of them by now, and the
/// person who had to be asked. Modes, flags and what else of the world is looked up for one action alone was judged when
/// it was made over.
pub fn judge(facts: &Facts<'_>) -> Vec<Verdict> {
    let Some(formed) = &facts.contract.form else { return Vec::new() };
    let mut said = Vec::new();
    for asked in &formed.asked {
        let contract = asked.contract(facts.contract);
        let facts = Facts { contract: &contract, forms: &[], measured: None, ..*facts };
        for mut verdict in [controls::judge, grants::judge, authorization::judge].map(|judge| judge(&facts)) {
            // What they ask for short of a refusal was settled when it was made over.
            if verdict.ruling > Ruling::Review {
                verdict.reason = format!("of `{}`, whose safer form it is: {}", asked.tool, verdict.reason);
                verdict.obligations.clear();
                said.push(verdict);
            }
        }
    }
    if let (false, [_, ..]) = (facts.approved, &*formed.reviews) {
        let why: Vec<&str> = formed.reviews.iter().map(|verdict| verdict.reason.as_str()).collect();
        let mut verdict = Verdict::new(NAME, Ruling::Review, format!("asked of what was called: {}", why.join("; ")))
            .next("a person looks at the measured effect and decides");
        verdict.rules = formed.reviews.iter().flat_map(|verdict| verdict.rules.iter().cloned()).collect();
        said.push(verdict);
    }
    // Who may say yes stays who had to, also once somebody did.
    let approvers = formed.reviews.iter().flat_map(|verdict| &verdict.obligations);
    let approvers: Vec<Obligation> =
        approvers.filter(|obligation| matches!(obligation, Obligation::Approvers { .. })).cloned().collect();
    if !approvers.is_empty() {
        let mut verdict = Verdict::new(NAME, Ruling::Allow, "who may approve was said of what was called");
        verdict.obligations = approvers;
        said.push(verdict);
    }
    said
}

impl Formed {
    /// What was changed and why, in one sentence.
    pub fn sentence(&self) -> String {
        let changed: Vec<String> = self.changed.iter().map(Changed::words).collect();
        let forms: Vec<String> = self.forms.iter().map(|form| format!("`{}`", visible(form))).collect();
        let changed = if changed.is_empty() { "nothing had to be changed".to_owned() } else { changed.join(", ") };
        format!("only as {}: {changed}. Why: {}", forms.join(" and "), self.why)
    }
}

/// Makes an action over into the wanted forms, in alphabetical order. `forms` are those of the action's tool; each wanted
/// one must be among them, or be [`DRY_RUN`] of a write.
///
/// # Errors
/// The reason there is no such form of this action, as a sentence.
pub fn rewritten<'f>(
    contract: &Contract,
    wanted: &BTreeSet<&str>,
    forms: &'f [Form],
) -> Result<(Rewriting, Value), String> {
    let Value::Object(asked) = &contract.arguments else {
        return Err("its arguments are no object".to_owned());
    };
    let (mut arguments, mut tool) = (asked.clone(), contract.tool.clone());
    let mut dry_run = contract.form.as_ref().is_some_and(|formed| formed.dry_run);
    let built_in = Form { name: DRY_RUN.to_owned(), dry_run: true, ..Form::default() };
    let mut applied: Vec<&Form> = Vec::new();
    for name in wanted {
        let listed: Option<&'f Form> = forms.iter().find(|form| form.name == *name);
        let form = match listed {
            Some(form) => form,
            None if *name == DRY_RUN && contract.writes() => &built_in,
            None => {
                return Err(format!(
                    "only a safer form may run, `{}`, and `{}` has none of that name",
                    visible(name),
                    contract.tool
                ));
            }
        };
        if let Some(to) = &form.to {
            if tool != contract.tool && tool != *to {
                return Err(format!("its safer forms call two tools, `{tool}` and `{to}`"));
            }
            tool = to.clone();
        }
        form.apply(&mut arguments)?;
        dry_run |= form.dry_run;
        applied.push(form);
    }
    let formers = contract.form.iter().flat_map(|formed| &formed.asked);
    if tool != contract.tool && formers.clone().any(|asked| asked.tool == tool) {
        return Err(format!("its safer forms lead back to `{tool}`"));
    }
    // What an earlier form of this tool asked for still holds, and of those asked for now none takes back another.
    let before = formers.filter(|asked| asked.tool == contract.tool).flat_map(|asked| &asked.forms);
    applied.extend(before.filter_map(|name| forms.iter().find(|form| form.name == *name)));
    if let Some(lost) = applied.iter().find(|form| !form.holds(&arguments)) {
        return Err(format!("its safer forms do not fit together: `{}` does not hold in the end", visible(&lost.name)));
    }
    let mut changed = Vec::new();
    if tool != contract.tool {
        let name = |tool: &ToolName| Some(Value::String(tool.to_string()));
        changed.push(Changed { what: "tool".into(), from: name(&contract.tool), to: name(&tool) });
    }
    let keys: BTreeSet<&String> = asked.keys().chain(arguments.keys()).collect();
    for key in keys {
        let (from, to) = (asked.get(key), arguments.get(key));
        if from != to {
            changed.push(Changed { what: key.clone(), from: from.cloned(), to: to.cloned() });
        }
    }
    if dry_run {
        changed.push(Changed { what: "commit".into(), from: Some(true.into()), to: Some(false.into()) });
    }
    let earlier = contract.form.iter().flat_map(|formed| formed.forms.iter().cloned());
    let forms = earlier.chain(wanted.iter().map(|name| (*name).to_owned())).collect();
    Ok((Rewriting { forms, tool, dry_run, changed }, Value::Object(arguments)))
}

impl Form {
    fn apply(&self, arguments: &mut Map<String, Value>) -> Result<(), String> {
        for name in &self.remove {
            // `shift_remove` keeps the order of what is handed on.
            arguments.shift_remove(name);
        }
        for (name, value) in &self.set {
            arguments.insert(name.clone(), value.clone());
        }
        for (name, most) in &self.at_most {
            match arguments.get_mut(name) {
                None => {
                    arguments.insert(name.clone(), Value::from(*most));
                }
                Some(Value::Array(list)) => list.truncate(usize::try_from(*most).unwrap_or(usize::MAX)),
                Some(Value::Number(number)) if number.as_u64().is_some_and(|given| given <= *most) => {}
                Some(given @ Value::Number(_)) => *given = Value::from(*most),
                Some(_) => return Err(format!("`{}` is neither a number nor a list to be bounded", visible(name))),
            }
        }
        for (name, directory) in &self.inside {
            match arguments.get_mut(name) {
                None => {
                    arguments.insert(name.clone(), Value::from(directory.as_str()));
                }
                Some(Value::String(path)) => {
                    // Whatever is not plainly below it is put there, and what then leaves it again is refused by
                    // the domain like any other path that does.
                    let below = path.strip_prefix(directory.as_str()).is_some_and(|rest| rest.starts_with('/'));
                    if !below || path.split('/').any(|part| part == "..") {
                        *path = format!("{directory}/{path}");
                    }
                }
                Some(_) => return Err(format!("`{}` is no path", visible(name))),
            }
        }
        Ok(())
    }

    /// Whether arguments are as it makes them.
    fn holds(&self, arguments: &Map<String, Value>) -> bool {
        let given = |name: &str| arguments.get(name);
        // Of one form the bounds come last.
        let bounded = |name: &String| self.at_most.contains_key(name) || self.inside.contains_key(name);
        self.remove.iter().all(|name| given(name).is_none() || bounded(name) || self.set.contains_key(name))
            && self.set.iter().all(|(name, value)| given(name) == Some(value) || bounded(name))
            && self.at_most.iter().all(|(name, most)| match given(name) {
                Some(Value::Number(number)) => number.as_u64().is_some_and(|number| number <= *most),
                Some(Value::Array(list)) => u64::try_from(list.len()).is_ok_and(|len| len <= *most),
                _ => false,
            })
            && self.inside.iter().all(|(name, directory)| {
                let rest = given(name).and_then(Value::as_str).and_then(|path| path.strip_prefix(directory.as_str()));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    }
}

#[cfg(test)]
mod tests;
