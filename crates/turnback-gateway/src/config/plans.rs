//! `[[plan]]`: where agents need a plan, and what such a plan must state.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::gates::release::Mode;
use turnback_core::names::{EnvironmentName, ResourceName};
use turnback_core::plan::{Must, Rule};
use turnback_core::text::visible;

use super::Resource;
use super::error::ConfigError;
use super::read::{Known, Reader};
use super::select::Several;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPlan {
    name: Option<Spanned<String>>,
    tools: Option<Several>,
    verbs: Option<Several>,
    risks: Option<Several>,
    resources: Option<Several>,
    environments: Option<Several>,
    required: Option<Spanned<bool>>,
    must_state: Option<Several>,
}

impl Reader<'_> {
    /// Reads the rules.
    pub(super) fn plans(
        &self,
        raw: Vec<RawPlan>,
        resources: &BTreeMap<ResourceName, Resource>,
        environments: &BTreeMap<EnvironmentName, Mode>,
    ) -> Result<Vec<Rule>, ConfigError> {
        let known = Known { resources, environments };
        raw.into_iter().enumerate().map(|(index, rule)| self.plan(index + 1, rule, &known)).collect()
    }

    fn plan(&self, number: usize, raw: RawPlan, known: &Known<'_>) -> Result<Rule, ConfigError> {
        let of = self.selector([raw.tools, raw.verbs, raw.risks, raw.resources, raw.environments], known)?;
        let must_state = self
            .texts(raw.must_state)?
            .iter()
            .map(|text| {
                Must::parse(text.get_ref()).map_err(|why| {
                    let message = format!("`{}` is no constraint: {why}", visible(text.get_ref()));
                    let next = "write \"never statement=drop_table\", \"at_most rows_deleted\" and the like";
                    self.error(text, message, next)
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let required = raw.required.as_ref().is_some_and(|required| *required.get_ref());
        if let (false, true, Some(at)) = (required, must_state.is_empty(), &raw.required) {
            return Err(self.error(at, "the rule asks for nothing", "write required = true, or must_state = [...]"));
        }
        Ok(Rule {
            name: raw.name.map_or_else(|| format!("plan {number}"), Spanned::into_inner),
            of,
            required,
            must_state,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    const HEAD: &str = "[environments.test]\nmode = \"enforce\"\n[resources.db]\nkind = \"sqlite\"\npath = \"shop.db\"\n\
        environment = \"test\"\n[[plan]]\n";

    fn read(more: &str) -> Result<Vec<Rule>, ConfigError> {
        let file = Path::new("/srv/turnback.toml");
        Config::parse(&format!("{HEAD}{more}"), file, file).map(|config| config.plans)
    }

    #[test]
    fn everything_is_read_as_it_is_written() {
        let rules = read(
            "name = \"changes\"\nenvironments = \"test\"\nrisks = [\"reversible_write\"]\nrequired = true\n\
             must_state = [\"never statement=drop_table\", \"at_most rows_deleted\"]\n[[plan]]\nresources = \"db\"\nrequired = true\n",
        )
        .unwrap();
        assert_eq!((rules[0].name.as_str(), rules[0].required), ("changes", true));
        assert_eq!(rules[0].of.environments.len(), 1);
        let stated: Vec<String> = rules[0].must_state.iter().map(ToString::to_string).collect();
        assert_eq!(stated, ["never statement=drop_table", "at_most rows_deleted"]);
        assert_eq!((rules[1].name.as_str(), rules[1].must_state.len()), ("plan 2", 0));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_to_write() {
        for (text, says, next) in [
            ("environments = [\"prod\"]\n", "unknown environment `prod`", "`test`"),
            ("must_state = [\"never drop\"]\n", "`never drop` is no constraint", "never statement=drop_table"),
            ("must_state = [\"at_most cows\"]\n", "`at_most cows` is no constraint", "at_most rows_deleted"),
            ("must_state = [\"sometimes\"]\n", "begins with", "never statement"),
            ("required = false\n", "asks for nothing", "required = true"),
            ("colour = 1\n", "unknown field", "remove"),
        ] {
            let error = read(text).expect_err(text);
            let line = error.location().to_string();
            assert!(error.message().contains(says), "{text}: {}", error.message());
            assert!(error.next().is_some_and(|n| n.contains(next)), "{text}: {:?}", error.next());
            assert!(line.contains(":8"), "{text}: {line}");
        }
    }

    #[test]
    fn no_resource_is_called_like_the_tools_about_plans() {
        let text = "[environments.test]\nmode = \"enforce\"\n[resources.turnback]\nkind = \"sqlite\"\npath = \"shop.db\"\n\
            environment = \"test\"\n";
        let file = Path::new("/srv/turnback.toml");
        let error = Config::parse(text, file, file).expect_err("reserved");
        assert!(error.message().contains("`turnback`"), "{}", error.message());
        assert!(error.location().to_string().contains(":3"));
    }
}
