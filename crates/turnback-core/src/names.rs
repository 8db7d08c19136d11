//! Names and identities: agents, resources, environments, tools, runs, approvals.
//!
//! A value of one of these types is already checked; a name that came in wrong never becomes one.
//! Identities are UUIDv7 handed in from outside, because this crate has neither clock nor randomness.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};
use uuid::Uuid;

/// Longest name accepted, in bytes.
pub const NAME_LIMIT: usize = 64;

/// A name that does not follow the rule for names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a valid {what} name: {why}", crate::text::visible(.name))]
pub struct BadName {
    /// Which kind of name was expected.
    pub what: &'static str,
    /// The text that was given.
    pub name: String,
    /// The part of the rule it breaks.
    pub why: &'static str,
}

fn check(what: &'static str, name: &str, underscores: bool) -> Result<(), BadName> {
    let bad = |why| Err(BadName { what, name: name.to_owned(), why });
    if name.is_empty() {
        return bad("it is empty");
    }
    if name.len() > NAME_LIMIT {
        return bad("it is longer than 64 bytes");
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_') {
        return bad("only a-z, 0-9, `-` and `_` are allowed");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return bad("it must start with a letter or digit");
    }
    // `__` separates resource and tool on the wire, so a name must not contain it.
    if !underscores && name.contains("__") {
        return bad("`__` separates a resource from its tool and cannot stand in a name");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $underscores:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// Checks `name` against the rule for names.
            ///
            /// # Errors
            /// [`BadName`] says which part of the rule is broken.
            pub fn new(name: &str) -> Result<Self, BadName> {
                check($what, name, $underscores)?;
                Ok(Self(name.to_owned()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = BadName;

            fn from_str(name: &str) -> Result<Self, BadName> {
                Self::new(name)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(&String::deserialize(deserializer)?).map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// A registered agent.
    AgentName, "agent", false
);
name!(
    /// A configured resource: one folder, one database.
    ResourceName, "resource", false
);
name!(
    /// An environment such as `production` or `staging`.
    EnvironmentName, "environment", false
);
name!(
    /// A tool as the agent sees it: `<resource>__<tool>`.
    ToolName, "tool", true
);

impl ToolName {
    /// The name under which `resource` exposes its tool `tool`.
    ///
    /// ```
    /// use turnback_core::names::{ResourceName, ToolName};
    ///
    /// let tool = ToolName::joined(&ResourceName::new("shop").unwrap(), "execute").unwrap();
    /// assert_eq!(tool.as_str(), "shop__execute");
    /// assert_eq!(tool.split(), Some(("shop", "execute")));
    /// ```
    ///
    /// # Errors
    /// [`BadName`] when the joined name would be too long.
    pub fn joined(resource: &ResourceName, tool: &str) -> Result<Self, BadName> {
        Self::new(&format!("{resource}__{tool}"))
    }

    /// The resource and the tool in this name, when it has both.
    pub fn split(&self) -> Option<(&str, &str)> {
        self.0.split_once("__")
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $type:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Uuid);

        impl $type {
            /// Wraps an identity made outside.
            pub const fn new(id: Uuid) -> Self {
                Self(id)
            }

            /// The UUID inside.
            pub const fn uuid(&self) -> Uuid {
                self.0
            }

            /// The prefix and the last eight digits: what people read and type. The random end of a
            /// UUIDv7 tells runs of one minute apart, its beginning does not.
            pub fn short(&self) -> String {
                let text = self.0.simple().to_string();
                format!(concat!($prefix, "{}"), &text[24..])
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $type {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                text.strip_prefix($prefix).and_then(|rest| Uuid::try_parse(rest).ok()).map(Self).ok_or(BadName {
                    what: stringify!($type),
                    name: text.to_owned(),
                    why: concat!("`", $prefix, "` and 32 hexadecimal digits are expected"),
                })
            }
        }

        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

identity!(
    /// One action's durable life.
    RunId, "r_"
);
identity!(
    /// One question put to people.
    ApprovalId, "ap_"
);
identity!(
    /// One plan of an agent.
    PlanId, "pl_"
);
identity!(
    /// One token of an agent. The token itself is never stored, only its hash.
    TokenId, "tk_"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_one_rule() {
        assert!(AgentName::new("coder-1").is_ok());
        for bad in ["", "Coder", "-x", "a b", "a__b", "caf\u{e9}", &"x".repeat(65)] {
            assert!(AgentName::new(bad).is_err(), "{bad} must be refused");
        }
        let tool = ToolName::joined(&ResourceName::new("shop").unwrap(), "execute").unwrap();
        assert_eq!(tool.split(), Some(("shop", "execute")));
    }

    #[test]
    fn identities_read_back() {
        let id = RunId::new(Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_1234_abcd));
        assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
        assert_eq!(id.short(), "r_1234abcd");
    }
}
