//! `[[collision]]`: who may work where somebody else is at work.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde::Deserialize;
use serde_spanned::Spanned;
use turnback_core::gates::collision::{OnConflict, Rule};
use turnback_core::gates::release::Mode;
use turnback_core::names::{EnvironmentName, ResourceName};
use turnback_core::text::visible;

use super::Resource;
use super::error::ConfigError;
use super::read::{Known, Reader};
use super::select::Several;

type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCollision {
    name: Option<Text>,
    tools: Option<Several>,
    verbs: Option<Several>,
    risks: Option<Several>,
    resources: Option<Several>,
    environments: Option<Several>,
    place: Option<Text>,
    on_conflict: Option<Text>,
    wait: Option<Text>,
    lease: Option<Text>,
    holder: Option<Text>,
    soft: Option<Spanned<bool>>,
    window: Option<Text>,
    depends: Option<Several>,
}

impl Reader<'_> {
    /// Reads the rules.
    pub(super) fn collisions(
        &self,
        raw: Vec<RawCollision>,
        resources: &BTreeMap<ResourceName, Resource>,
        environments: &BTreeMap<EnvironmentName, Mode>,
    ) -> Result<Vec<Rule>, ConfigError> {
        let known = Known { resources, environments };
        raw.into_iter().enumerate().map(|(index, rule)| self.collision(index + 1, rule, &known)).collect()
    }

    fn collision(&self, number: usize, raw: RawCollision, known: &Known<'_>) -> Result<Rule, ConfigError> {
        let of = self.selector([raw.tools, raw.verbs, raw.risks, raw.resources, raw.environments], known)?;
        let whole =
            self.choice(raw.place.as_ref(), false, &[("place", false), ("resource", true)], "no size of a lease")?;
        let ends = [("wait", OnConflict::Wait), ("review", OnConflict::Review), ("deny", OnConflict::Deny)];
        let on_conflict =
            self.choice(raw.on_conflict.as_ref(), OnConflict::Wait, &ends, "no way to meet somebody else")?;
        let by_trace =
            self.choice(raw.holder.as_ref(), false, &[("agent", false), ("trace", true)], "no holder of a lease")?;
        if let Some(wait) = raw.wait.as_ref().filter(|_| on_conflict != OnConflict::Wait) {
            let message = "nobody is waited for under this rule";
            return Err(self.error(wait, message, "remove this line, or write on_conflict = \"wait\""));
        }
        let wait =
            self.duration_or(raw.wait.as_ref(), SignedDuration::from_secs(5), "how long somebody is waited for")?;
        let minutes = SignedDuration::from_mins(10);
        // A caller is held open all the while.
        if let Some(at) = raw.wait.as_ref().filter(|_| wait > minutes) {
            return Err(self.error(at, "no caller waits for so long", "write at most \"10m\""));
        }
        let lease = self.duration_or(raw.lease.as_ref(), minutes, "how long a lease lasts")?;
        let soft = raw.soft.is_some_and(Spanned::into_inner);
        if let Some(window) = raw.window.as_ref().filter(|_| !soft) {
            let message = "runs that are settled do not count under this rule";
            return Err(self.error(window, message, "remove this line, or write soft = true"));
        }
        let window = self.duration_or(raw.window.as_ref(), lease, "how long a settled run counts")?;
        let mut depends = Vec::new();
        if let Some(at) = &raw.depends {
            let span = at.span();
            if of.resources.is_empty() {
                let message = "what depends on these is not said";
                return Err(self.source.error(span, message, "name the resources that do: resources = [\"...\"]"));
            }
            depends = self.resources(raw.depends, known)?;
            if let Some(name) = depends.iter().find(|name| of.resources.contains(name)) {
                let message = format!("resource `{name}` cannot depend on itself");
                return Err(self.source.error(span, message, "name other resources"));
            }
        }
        Ok(Rule {
            name: raw.name.map_or_else(|| format!("collision {number}"), Spanned::into_inner),
            of,
            whole,
            on_conflict,
            wait,
            lease,
            by_trace,
            soft: soft.then_some(window),
            depends,
        })
    }

    /// One of a few words.
    fn choice<T: Copy>(&self, word: Option<&Text>, default: T, of: &[(&str, T)], what: &str) -> Result<T, ConfigError> {
        let Some(word) = word else { return Ok(default) };
        of.iter().find(|(one, _)| one == word.get_ref()).map(|(_, found)| *found).ok_or_else(|| {
            let words: Vec<String> = of.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.error(
                word,
                format!("`{}` is {what}", visible(word.get_ref())),
                format!("write {}", words.join(" or ")),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;
    use super::*;

    const HEAD: &str = "[environments.test]\nmode = \"enforce\"\n[resources.db]\nkind = \"sqlite\"\npath = \"shop.db\"\n\
        environment = \"test\"\n[resources.work]\nkind = \"files\"\nroot = \"work\"\nenvironment = \"test\"\n[[collision]]\n";

    fn read(more: &str) -> Result<Vec<Rule>, ConfigError> {
        let file = Path::new("/srv/turnback.toml");
        Config::parse(&format!("{HEAD}{more}"), file, file).map(|config| config.collisions)
    }

    #[test]
    fn everything_is_read_as_it_is_written() {
        let rules = read(
            "name = \"rows\"\nresources = [\"db\"]\nplace = \"resource\"\non_conflict = \"review\"\nlease = \"2m\"\n\
             holder = \"trace\"\nsoft = true\nwindow = \"1h\"\ndepends = \"work\"\n[[collision]]\n",
        )
        .unwrap();
        let name = |name: &str| ResourceName::new(name).unwrap();
        assert_eq!(rules[0].name, "rows");
        assert_eq!((rules[0].whole, rules[0].by_trace, rules[0].on_conflict), (true, true, OnConflict::Review));
        assert_eq!(rules[0].lease, SignedDuration::from_mins(2));
        assert_eq!(rules[0].soft, Some(SignedDuration::from_hours(1)));
        assert_eq!((&rules[0].of.resources, &rules[0].depends), (&vec![name("db")], &vec![name("work")]));
        let plain = &rules[1];
        assert_eq!(plain.name, "collision 2");
        assert_eq!((plain.whole, plain.by_trace, plain.on_conflict), (false, false, OnConflict::Wait));
        assert_eq!((plain.wait, plain.lease), (SignedDuration::from_secs(5), SignedDuration::from_mins(10)));
        assert_eq!((plain.soft, plain.depends.is_empty()), (None, true));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place_and_what_to_write() {
        for (text, says, next) in [
            ("place = \"row\"\n", "`row` is no size", "\"place\" or \"resource\""),
            ("on_conflict = \"fight\"\n", "`fight` is no way", "\"wait\" or \"review\" or \"deny\""),
            ("holder = \"me\"\n", "`me` is no holder", "\"agent\" or \"trace\""),
            ("on_conflict = \"deny\"\nwait = \"1s\"\n", "nobody is waited for", "on_conflict = \"wait\""),
            ("wait = \"1h\"\n", "no caller waits", "\"10m\""),
            ("wait = \"-1s\"\n", "longer than nothing", "positive"),
            ("lease = \"soon\"\n", "not a duration", "positive"),
            ("window = \"1h\"\n", "do not count", "soft = true"),
            ("depends = [\"work\"]\n", "what depends", "resources = "),
            ("resources = [\"db\"]\ndepends = [\"db\"]\n", "itself", "other resources"),
            ("resources = [\"db\"]\ndepends = [\"dv\"]\n", "unknown resource `dv`", "`work`"),
            ("resources = [\"shop\"]\n", "unknown resource `shop`", "`db`"),
            ("colour = 1\n", "unknown field", "remove"),
        ] {
            let error = read(text).expect_err(text);
            let line = error.location().to_string();
            assert!(error.message().contains(says), "{text}: {}", error.message());
            assert!(error.next().is_some_and(|n| n.contains(next)), "{text}: {:?}", error.next());
            assert!(line.contains(":1"), "{text}: {line}");
        }
    }
}
