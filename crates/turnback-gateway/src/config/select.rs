//! Words that choose: which tools, verbs, risks, resources and environments a rule is about.

use serde_spanned::Spanned;
use turnback_core::names::{ResourceName, ToolName};
use turnback_core::select::Selector;
use turnback_core::text::visible;
use turnback_core::tool::{Risk, Verb};
use turnback_effects::registry;

use super::error::ConfigError;
use super::read::{Known, Reader};

type Text = Spanned<String>;

/// One word, or a list of them.
pub(super) type Several = Spanned<toml::Value>;

impl Reader<'_> {
    pub(super) fn unknown<T, N: std::fmt::Display>(
        &self,
        at: &Spanned<T>,
        name: &str,
        what: &str,
        known: impl Iterator<Item = N>,
    ) -> ConfigError {
        let known: Vec<String> = known.map(|name| format!("`{name}`")).collect();
        let next =
            if known.is_empty() { format!("there is no {what} yet") } else { format!("use {}", known.join(" or ")) };
        self.error(at, format!("unknown {what} `{}`", visible(name)), next)
    }

    /// The words of one, or of a list; each complaint about one then points at the list.
    pub(super) fn texts(&self, several: Option<Several>) -> Result<Vec<Text>, ConfigError> {
        let Some(several) = several else { return Ok(Vec::new()) };
        let words: Option<Vec<String>> = match several.get_ref() {
            toml::Value::String(word) => Some(vec![word.clone()]),
            toml::Value::Array(words) => words.iter().map(|word| word.as_str().map(str::to_owned)).collect(),
            _ => None,
        };
        match words {
            Some(words) if !words.is_empty() => {
                Ok(words.into_iter().map(|word| Spanned::new(several.span(), word)).collect())
            }
            // A list of none would concern nothing, or everything.
            _ => Err(self.error(
                &several,
                "a word or a list of words is expected",
                "write \"one\" or [\"one\", \"other\"]",
            )),
        }
    }

    fn words<T: serde::de::DeserializeOwned>(&self, words: Option<Several>, what: &str) -> Result<Vec<T>, ConfigError> {
        self.texts(words)?
            .into_iter()
            .map(|word| {
                serde_json::from_value(serde_json::Value::String(word.get_ref().clone())).map_err(|e| {
                    let message = format!("`{}` is not {what}", visible(word.get_ref()));
                    let told = e.to_string();
                    let next =
                        told.split_once("expected").map_or_else(|| told.clone(), |(_, rest)| format!("write{rest}"));
                    self.error(&word, message, visible(&next))
                })
            })
            .collect()
    }

    pub(super) fn selector(
        &self,
        [tools, verbs, risks, resources, environments]: [Option<Several>; 5],
        known: &Known<'_>,
    ) -> Result<Selector, ConfigError> {
        let mut selector = Selector {
            verbs: self.words::<Verb>(verbs, "a verb")?,
            risks: self.words::<Risk>(risks, "a class of risk")?,
            ..Selector::default()
        };
        for name in self.texts(tools)? {
            let there = known.resources.iter().flat_map(|(resource, r)| {
                registry::specs(r.kind).into_iter().filter_map(|spec| ToolName::joined(resource, spec.name).ok())
            });
            match there.clone().find(|tool| tool.as_str() == name.get_ref()) {
                Some(tool) => selector.tools.push(tool),
                None => return Err(self.unknown(&name, name.get_ref(), "tool", there)),
            }
        }
        selector.resources = self.resources(resources, known)?;
        for name in self.texts(environments)? {
            match known.environments.keys().find(|e| e.as_str() == name.get_ref()) {
                Some(environment) => selector.environments.push(environment.clone()),
                None => return Err(self.unknown(&name, name.get_ref(), "environment", known.environments.keys())),
            }
        }
        Ok(selector)
    }

    /// Names of configured resources.
    pub(super) fn resources(
        &self,
        names: Option<Several>,
        known: &Known<'_>,
    ) -> Result<Vec<ResourceName>, ConfigError> {
        self.texts(names)?
            .into_iter()
            .map(|name| match known.resources.keys().find(|r| r.as_str() == name.get_ref()) {
                Some(resource) => Ok(resource.clone()),
                None => Err(self.unknown(&name, name.get_ref(), "resource", known.resources.keys())),
            })
            .collect()
    }
}
