//! Safer forms: what an action becomes when the answer is `constrain`.
//!
//! The operator's contract of a tool lists them ([`Form`]); a gate asks for one by name
//! ([`crate::decision::Obligation::SaferForm`]); [`rewritten`] makes the call over. What comes out is another
//! action with a digest of its own, judged from the beginning by every gate – the rule that asked for the form is
//! satisfied by it, nothing else is. Turnback rewrites; what an agent says never counts as a form.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::contract::Contract;
use crate::digest::ActionDigest;
use crate::names::{RunId, ToolName};
use crate::text::visible;

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
    /// Paths put below this directory of the resource; those that lie there already stay.
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

/// Makes an action over into the wanted forms, in alphabetical order, each of which the tool it is applied to must
/// be among `forms`, those of the action's tool.
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
                None => {}
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
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{World, run_id};

    fn call(arguments: Value) -> Contract {
        let mut contract = World::new("", "notes__write_file").contract;
        contract.arguments = arguments;
        contract
    }

    fn form(name: &str) -> Form {
        Form { name: name.into(), ..Form::default() }
    }

    fn of(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn to(form: Form, arguments: Value) -> Result<Value, String> {
        let name = form.name.clone();
        rewritten(&call(arguments), &BTreeSet::from([name.as_str()]), &[form]).map(|(_, arguments)| arguments)
    }

    #[test]
    fn every_kind_of_change_is_made_and_named() {
        let draft = Form {
            to: Some("drafts__write_file".parse().unwrap()),
            set: of(json!({ "mode": "draft" })),
            at_most: BTreeMap::from([("copies".to_owned(), 2), ("to".to_owned(), 1), ("lines".to_owned(), 9)]),
            inside: BTreeMap::from([("path".to_owned(), "drafts".to_owned())]),
            remove: BTreeSet::from(["overwrite".to_owned()]),
            ..form("draft")
        };
        let asked = json!({ "path": "a", "overwrite": true, "copies": 5, "to": ["x", "y"], "text": "t" });
        let (rewriting, arguments) = rewritten(&call(asked), &BTreeSet::from(["draft"]), &[draft]).unwrap();
        let done = json!({ "path": "drafts/a", "copies": 2, "to": ["x"], "text": "t", "mode": "draft", "lines": 9 });
        assert_eq!(arguments, done);
        assert_eq!(rewriting.tool.as_str(), "drafts__write_file");
        let changed: Vec<&str> = rewriting.changed.iter().map(|changed| changed.what.as_str()).collect();
        assert_eq!(changed, ["tool", "copies", "lines", "mode", "overwrite", "path", "to"]);
        assert!(!rewriting.dry_run);
    }

    #[test]
    fn a_bound_only_lowers() {
        let capped = |given: Value| {
            let form = Form { at_most: BTreeMap::from([("n".to_owned(), 10)]), ..form("capped") };
            to(form, given)
        };
        for (given, n) in [
            (json!({ "n": 3 }), json!(3)),
            (json!({ "n": 30 }), json!(10)),
            (json!({}), json!(10)),
            (json!({ "n": 3.5 }), json!(10)),
            (json!({ "n": -1 }), json!(10)),
            (json!({ "n": 1e300 }), json!(10)),
        ] {
            assert_eq!(capped(given.clone()).unwrap()["n"], n, "{given}");
        }
        for odd in [json!("3"), json!(null), json!({}), json!(true)] {
            assert!(capped(json!({ "n": odd })).unwrap_err().contains("neither a number nor a list"));
        }
    }

    #[test]
    fn no_path_is_taken_for_one_inside_that_is_not() {
        let boxed = |path: &str| {
            let form = Form { inside: BTreeMap::from([("path".to_owned(), "box".to_owned())]), ..form("boxed") };
            to(form, json!({ "path": path })).unwrap()["path"].as_str().unwrap().to_owned()
        };
        assert_eq!(boxed("box/a"), "box/a");
        for (asked, done) in [("a", "box/a"), ("box", "box/box"), ("boxes/a", "box/boxes/a")] {
            assert_eq!(boxed(asked), done);
        }
        // These leave it again, and the domain refuses them for what they are.
        assert_eq!(boxed("box/../a"), "box/box/../a");
        assert_eq!(boxed("../a"), "box/../a");
        assert_eq!(boxed("/a"), "box//a");
    }

    #[test]
    fn forms_that_are_not_there_or_do_not_fit_together_are_none() {
        let contract = call(json!({}));
        let why = rewritten(&contract, &BTreeSet::from(["draft"]), &[]).unwrap_err();
        assert!(why.contains("`draft`") && why.contains("notes__write_file"), "{why}");
        let calls = |name: &str, tool: &str| Form { to: Some(tool.parse().unwrap()), ..form(name) };
        let forms = [calls("a", "x__a"), calls("b", "x__b")];
        let why = rewritten(&contract, &BTreeSet::from(["a", "b"]), &forms).unwrap_err();
        assert!(why.contains("two tools"), "{why}");
    }

    #[test]
    fn every_write_can_be_a_dry_run_and_no_read() {
        let (rewriting, arguments) = rewritten(&call(json!({ "a": 1 })), &BTreeSet::from([DRY_RUN]), &[]).unwrap();
        assert!(rewriting.dry_run);
        assert_eq!(arguments, json!({ "a": 1 }));
        let mut read = World::new("", "notes__read_file").contract;
        read.arguments = json!({});
        assert!(rewritten(&read, &BTreeSet::from([DRY_RUN]), &[]).is_err());
    }

    #[test]
    fn the_form_and_what_it_is_a_form_of_are_part_of_the_digest_and_reasons_are_not() {
        let plain = call(json!({ "a": 1 }));
        let formed = |change: &dyn Fn(&mut Formed)| {
            let mut formed = Formed {
                from: run_id(1),
                of: plain.digest(),
                forms: vec!["draft".into()],
                dry_run: false,
                changed: vec![],
                why: "x".into(),
            };
            change(&mut formed);
            let mut contract = plain.clone();
            contract.form = Some(formed);
            contract.digest()
        };
        let first = formed(&|_| {});
        assert_ne!(first, plain.digest());
        assert_ne!(formed(&|formed| formed.forms = vec!["other".into()]), first);
        assert_ne!(formed(&|formed| formed.dry_run = true), first);
        assert_ne!(formed(&|formed| formed.of = call(json!({ "a": 2 })).digest()), first);
        // The same call asked for again is the same action, and joins the one that waits.
        assert_eq!(formed(&|formed| formed.from = run_id(2)), first);
        assert_eq!(formed(&|formed| formed.why = "y".into()), first);
    }
}
