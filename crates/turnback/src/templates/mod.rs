//! What the program writes for people: the first configuration, the first policy, what to paste into a
//! client.

pub(crate) mod clients;

/// The commented configuration; `@RESOURCES@` and `@AGENT@` are filled in by `init`.
pub(crate) const CONFIG: &str = include_str!("turnback.toml");

/// The starting policy.
pub(crate) const POLICY: &str = include_str!("../../../../policies/starter.cedar");

/// Its tests.
pub(crate) const CASES: &str = include_str!("../../../../policies/starter.cases.json");
