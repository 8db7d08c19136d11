//! `[[safer]]`: the safer forms of tools, which rules ask for with `@outcome("constrain") @form("<name>")`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::form::{DRY_RUN, Form};
use turnback_core::names::ToolName;
use turnback_core::text::visible;
use turnback_core::tool::ToolSpec;
use turnback_effects::registry;

use super::error::ConfigError;
use super::read::{Known, Reader};

type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSafer {
    name: Text,
    tools: Vec<Spanned<ToolName>>,
    to: Option<Spanned<ToolName>>,
    #[serde(default)]
    set: BTreeMap<Text, Spanned<toml::Value>>,
    #[serde(default)]
    at_most: BTreeMap<Text, Spanned<i64>>,
    #[serde(default)]
    inside: BTreeMap<Text, Text>,
    #[serde(default)]
    remove: Vec<Text>,
    #[serde(default)]
    dry_run: bool,
}

impl Reader<'_> {
    /// Reads the forms, each with a tool it is a form of.
    pub(super) fn safer(&self, raw: Vec<RawSafer>, known: &Known<'_>) -> Result<Vec<(ToolName, Form)>, ConfigError> {
        let mut all: Vec<(ToolName, Form)> = Vec::new();
        for one in raw {
            let (name, tools) = (one.name.clone(), one.tools.clone());
            let form = self.form(one, known)?;
            for tool in tools {
                if all.iter().any(|(other, there)| other == tool.get_ref() && there.name == form.name) {
                    let message = format!("two forms of `{}` are named `{}`", tool.get_ref(), visible(&form.name));
                    return Err(self.error(&name, message, "give each form of a tool its own name"));
                }
                all.push((tool.into_inner(), form.clone()));
            }
        }
        Ok(all)
    }

    fn form(&self, raw: RawSafer, known: &Known<'_>) -> Result<Form, ConfigError> {
        let name = raw.name.get_ref();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(self.error(&raw.name, "this is no name of a form", "use letters, digits, `-` and `_`"));
        }
        if name == DRY_RUN {
            let next = "write @form(\"dry_run\") in the rule, without a form here, or choose another name";
            return Err(self.error(&raw.name, "every write has this form already", next));
        }
        if raw.tools.is_empty() {
            return Err(self.error(&raw.name, "it is a form of no tool", "tools = [\"<resource>__<tool>\"]"));
        }
        let argument_of = |spec: &ToolSpec, name: &Text| match spec.schema["properties"].get(name.get_ref()) {
            Some(_) => Ok(()),
            None => {
                let message = format!("`{}` has no argument `{}`", spec.name, visible(name.get_ref()));
                let known: Vec<&str> =
                    spec.schema["properties"].as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
                Err(self.error(name, message, format!("it has {}", known.join(", "))))
            }
        };
        let called = raw.to.as_ref().map(|to| self.spec(to, known)).transpose()?;
        for tool in &raw.tools {
            let spec = self.spec(tool, known)?;
            if let (Some(called), Some(to)) = (&called, &raw.to) {
                if to.get_ref() == tool.get_ref() {
                    return Err(self.error(to, "this is the tool itself", "name another tool, or remove `to`"));
                }
                // A form that may do worse would not be a safer one.
                if called.risk > spec.risk {
                    let message = format!("`{}` is of a higher class of risk than `{}`", to.get_ref(), tool.get_ref());
                    return Err(self.error(to, message, "name a tool of the same class or below"));
                }
            }
            let called = called.as_ref().unwrap_or(&spec);
            for name in raw.set.keys().chain(raw.at_most.keys()).chain(raw.inside.keys()) {
                argument_of(called, name)?;
            }
            for name in &raw.remove {
                argument_of(&spec, name)?;
            }
            if raw.dry_run && !called.risk.writes() {
                return Err(self.error(tool, "a read commits nothing anyway", "remove `dry_run`, or this tool"));
            }
        }
        let mut form =
            Form { name: name.clone(), to: raw.to.map(Spanned::into_inner), dry_run: raw.dry_run, ..Form::default() };
        for (argument, value) in raw.set {
            let json = serde_json::to_value(value.get_ref())
                .ok()
                .filter(|_| !matches!(value.get_ref(), toml::Value::Datetime(_)));
            let Some(json) = json else {
                return Err(self.error(
                    &value,
                    "this is no value an argument can have",
                    "use text, a number, true, false or a list",
                ));
            };
            form.set.insert(argument.into_inner(), json);
        }
        for (argument, most) in raw.at_most {
            let bound = self.count(Some(&most), "a bound")?.unwrap_or_default();
            form.at_most.insert(argument.into_inner(), bound);
        }
        for (argument, directory) in raw.inside {
            let text = directory.get_ref().trim_start_matches("./").trim_end_matches('/');
            if text.is_empty() || text.starts_with('/') || text.split('/').any(|part| matches!(part, "" | "." | "..")) {
                let next = "write a directory inside the resource, such as \"drafts\"";
                return Err(self.error(&directory, "this is no directory inside a resource", next));
            }
            form.inside.insert(argument.into_inner(), text.to_owned());
        }
        form.remove = raw.remove.into_iter().map(Spanned::into_inner).collect();
        if (Form { name: name.clone(), ..Form::default() }) == form {
            return Err(self.error(
                &raw.name,
                "this form changes nothing",
                "add to, set, at_most, inside, remove or dry_run",
            ));
        }
        Ok(form)
    }

    fn spec(&self, name: &Spanned<ToolName>, known: &Known<'_>) -> Result<ToolSpec, ConfigError> {
        self.known_tool(name, known)?;
        let (resource, tool) = name.get_ref().split().unwrap_or_default();
        let found = known.resources.iter().find(|(name, _)| name.as_str() == resource);
        found
            .and_then(|(_, found)| registry::specs(found.kind).into_iter().find(|spec| spec.name == tool))
            .ok_or_else(|| self.error(name, "unknown tool", "`turnback policy lint` knows them all"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::Config;
    use super::*;

    const HEAD: &str = "[environments.test]\nmode = \"enforce\"\n[resources.db]\nkind = \"sqlite\"\npath = \"shop.db\"\n\
        environment = \"test\"\n[resources.work]\nkind = \"files\"\nroot = \"work\"\nenvironment = \"test\"\n\
        [resources.drafts]\nkind = \"files\"\nroot = \"drafts\"\nenvironment = \"test\"\n[[safer]]\n";

    fn read(more: &str) -> Result<Config, ConfigError> {
        let file = Path::new("/srv/turnback.toml");
        Config::parse(&format!("{HEAD}{more}"), file, file)
    }

    #[test]
    fn everything_is_read_as_it_is_written() {
        let config = read(
            "name = \"draft\"\ntools = [\"work__write_file\"]\nto = \"drafts__write_file\"\nset = { content = \"x\" }\n\
             inside = { path = \"./from/work/\" }\n[[safer]]\nname = \"capped\"\ntools = [\"db__execute\", \"db__query\"]\n\
             at_most = { max_rows = 10 }\n[[safer]]\nname = \"look\"\ntools = [\"db__execute\"]\ndry_run = true\n",
        )
        .unwrap();
        let forms = |resource: &str| {
            config.resources.iter().find(|(name, _)| name.as_str() == resource).unwrap().1.forms.clone()
        };
        let work = forms("work");
        let draft = &work["write_file"][0];
        assert_eq!((draft.name.as_str(), draft.to.as_ref().unwrap().as_str()), ("draft", "drafts__write_file"));
        assert_eq!((&draft.set["content"], draft.inside["path"].as_str()), (&json!("x"), "from/work"));
        let db = forms("db");
        let names = |tool: &str| db[tool].iter().map(|form| form.name.as_str()).collect::<Vec<_>>();
        assert_eq!((names("execute"), names("query")), (vec!["capped", "look"], vec!["capped"]));
        assert_eq!((db["query"][0].at_most["max_rows"], db["execute"][1].dry_run), (10, true));
        assert!(forms("drafts").is_empty());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_to_write() {
        const DB: &str = "name = \"x\"\ntools = [\"db__execute\"]\n";
        let db = |rest: &str| format!("{DB}{rest}");
        for (text, says, next) in [
            ("name = \"a b\"\ntools = [\"db__execute\"]\n".to_owned(), "no name of a form", "letters"),
            ("name = \"dry_run\"\ntools = [\"db__execute\"]\ndry_run = true\n".to_owned(), "already", "@form"),
            ("name = \"x\"\ntools = []\n".to_owned(), "no tool", "tools ="),
            ("name = \"x\"\ntools = [\"db__drop\"]\ndry_run = true\n".to_owned(), "unknown tool", "db__execute"),
            ("name = \"x\"\ntools = [\"db__query\"]\ndry_run = true\n".to_owned(), "commits nothing", "remove"),
            ("name = \"x\"\ntools = [\"db__query\"]\nto = \"db__execute\"\n".to_owned(), "higher class", "same class"),
            (db(""), "changes nothing", "at_most"),
            (db("to = \"db__execute\"\n"), "the tool itself", "another tool"),
            (db("set = { rows = 1 }\n"), "no argument `rows`", "max_rows"),
            (db("at_most = { \"max_rows/minimum\" = 1 }\n"), "no argument `max_rows/minimum`", "max_rows"),
            (db("remove = [\"rows\"]\n"), "no argument `rows`", "max_rows"),
            (db("at_most = { max_rows = -1 }\n"), "cannot be negative", "0"),
            (db("set = { max_rows = 2026-01-01 }\n"), "no value", "number"),
            (
                db("dry_run = true\n[[safer]]\nname = \"x\"\ntools = [\"db__execute\"]\ndry_run = true\n"),
                "two forms",
                "own name",
            ),
            (
                "name = \"x\"\ntools = [\"work__write_file\"]\ninside = { path = \"../x\" }\n".to_owned(),
                "no directory",
                "drafts",
            ),
            (
                "name = \"x\"\ntools = [\"work__write_file\"]\ninside = { path = \"/\" }\n".to_owned(),
                "no directory",
                "drafts",
            ),
            (db("colour = 1\n"), "unknown field", "remove"),
        ] {
            let error = read(&text).expect_err(&text);
            assert!(error.message().contains(says), "{text}: {}", error.message());
            assert!(error.next().is_some_and(|n| n.contains(next)), "{text}: {:?}", error.next());
            assert!(error.location().to_string().contains(":1") || error.location().to_string().contains(":2"));
        }
    }
}
