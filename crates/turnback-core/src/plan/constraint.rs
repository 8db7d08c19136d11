//! What a plan promises: what none of its steps does, and how much all of them do at most.

use serde::{Deserialize, Serialize};

use crate::contract::Contract;
use crate::effect::Blast;
use crate::gates::Measured;
use crate::select::{Selector, within};
use crate::text::visible;
use crate::tool::Kind;

/// What no step may do: everything said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Never {
    /// Tools, resources, environments, verbs, classes of risk.
    #[serde(flatten)]
    pub of: Selector,
    /// Classes of statements: `drop_table`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub statements: Vec<String>,
    /// Tables of databases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Paths of folders, and everything beneath.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

impl Never {
    /// Every field with its values, by the words they are submitted under.
    fn said(&self) -> [(&'static str, Vec<String>); 8] {
        fn words<T: ToString>(list: &[T]) -> Vec<String> {
            list.iter().map(ToString::to_string).collect()
        }
        [
            ("tool", words(&self.of.tools)),
            ("resource", words(&self.of.resources)),
            ("environment", words(&self.of.environments)),
            ("verb", self.of.verbs.iter().map(|v| v.word().to_owned()).collect()),
            ("risk", self.of.risks.iter().map(|r| r.word().to_owned()).collect()),
            ("statement", self.statements.clone()),
            ("table", self.tables.clone()),
            ("path", self.paths.clone()),
        ]
    }

    /// It in a few words: `never statement=drop_table`.
    pub fn words(&self) -> String {
        let said = self.said();
        let parts: Vec<String> = said
            .iter()
            .filter(|(_, values)| !values.is_empty())
            .map(|(field, values)| format!("{field}={}", visible(&values.join("|"))))
            .collect();
        format!("never {}", parts.join(" "))
    }

    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        self.said().iter().all(|(_, values)| values.is_empty())
    }

    /// Whether an action is what it forbids, as far as is known of it. What cannot be told counts as forbidden.
    pub fn forbids(&self, contract: &Contract, measured: Option<Measured<'_>>) -> bool {
        self.of.may_concern(contract)
            && (self.statements.is_empty()
                || self.statements.iter().any(|s| s.eq_ignore_ascii_case(&contract.target.statement)))
            && (self.tables.is_empty()
                || (contract.kind == Kind::Sqlite && self.tables.iter().any(|t| writes_table(t, contract, measured))))
            && (self.paths.is_empty()
                || (contract.kind == Kind::Files && self.paths.iter().any(|p| writes_path(p, contract, measured))))
    }
}

fn writes_table(table: &str, contract: &Contract, measured: Option<Measured<'_>>) -> bool {
    let same = |name: &str| name.eq_ignore_ascii_case(table);
    if same(&contract.target.place) {
        return true;
    }
    let Some(Measured { effect, plan }) = measured else { return false };
    if effect.blast.rows.keys().any(|name| same(name)) {
        return true;
    }
    if effect.blast.schema_objects == 0 {
        return false;
    }
    // An index, a view or a trigger does not say whose it is.
    let footprint = &plan.footprint;
    let shaped = |place: &str| place.strip_prefix("table `").and_then(|rest| rest.strip_suffix('`')).map(str::to_owned);
    let named: Vec<String> = footprint.places.iter().filter_map(|touch| shaped(&touch.place)).collect();
    footprint.more > 0 || named.is_empty() || named.iter().any(|name| same(name))
}

fn writes_path(path: &str, contract: &Contract, measured: Option<Measured<'_>>) -> bool {
    let path = path.trim_end_matches('/');
    // What happens to a directory above happens to it.
    let meets = |place: &str| within(Kind::Files, path, place) || within(Kind::Files, place, path);
    match measured {
        None => within(Kind::Files, path, &contract.target.place),
        Some(Measured { plan, .. }) => {
            plan.footprint.more > 0
                || within(Kind::Files, path, &contract.target.place)
                || plan.footprint.places.iter().any(|touch| meets(&touch.place))
        }
    }
}

/// How much several actions did together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Rows touched.
    pub rows: u64,
    /// Rows that disappeared.
    pub rows_deleted: u64,
    /// Files and directories touched.
    pub files: u64,
    /// Files and directories that disappeared.
    pub files_deleted: u64,
    /// Bytes touched.
    pub bytes: u64,
    /// Schema objects touched.
    pub schema_objects: u64,
}

impl Amounts {
    /// Of one action.
    pub fn of(blast: &Blast) -> Self {
        Self {
            rows: blast.rows_total(),
            rows_deleted: blast.rows_deleted(),
            files: blast.files_total(),
            files_deleted: blast.files_deleted,
            bytes: blast.bytes,
            schema_objects: blast.schema_objects,
        }
    }

    /// Both together; what does not fit stays at the end of the scale.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            rows: self.rows.saturating_add(other.rows),
            rows_deleted: self.rows_deleted.saturating_add(other.rows_deleted),
            files: self.files.saturating_add(other.files),
            files_deleted: self.files_deleted.saturating_add(other.files_deleted),
            bytes: self.bytes.saturating_add(other.bytes),
            schema_objects: self.schema_objects.saturating_add(other.schema_objects),
        }
    }
}

/// How much all steps together may do at most; absent is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtMost {
    /// Rows touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Rows that disappear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_deleted: Option<u64>,
    /// Files and directories touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Files and directories that disappear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_deleted: Option<u64>,
    /// Bytes touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Schema objects touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_objects: Option<u64>,
}

impl AtMost {
    /// The words amounts are submitted under.
    pub const WORDS: [&str; 6] = ["rows", "rows_deleted", "files", "files_deleted", "bytes", "schema_objects"];

    /// The limit with that word.
    pub fn field(&mut self, word: &str) -> Option<&mut Option<u64>> {
        Some(match word {
            "rows" => &mut self.rows,
            "rows_deleted" => &mut self.rows_deleted,
            "files" => &mut self.files,
            "files_deleted" => &mut self.files_deleted,
            "bytes" => &mut self.bytes,
            "schema_objects" => &mut self.schema_objects,
            _ => return None,
        })
    }

    /// Nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Every limit beside an amount: word, amount, limit.
    fn beside(&self, amounts: Amounts) -> [(&'static str, u64, Option<u64>); 6] {
        [
            ("rows", amounts.rows, self.rows),
            ("rows_deleted", amounts.rows_deleted, self.rows_deleted),
            ("files", amounts.files, self.files),
            ("files_deleted", amounts.files_deleted, self.files_deleted),
            ("bytes", amounts.bytes, self.bytes),
            ("schema_objects", amounts.schema_objects, self.schema_objects),
        ]
    }

    /// Every limit that is exceeded: word, amount, limit.
    pub fn exceeded(&self, amounts: Amounts) -> Vec<(&'static str, u64, u64)> {
        let beside = self.beside(amounts).into_iter();
        beside.filter_map(|(word, amount, limit)| limit.filter(|l| amount > *l).map(|l| (word, amount, l))).collect()
    }
}

/// A constraint a plan must state itself: `never statement=drop_table`, `at_most rows_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Must {
    /// That it never does something.
    Never {
        /// The field: `statement`.
        field: String,
        /// Its value: `drop_table`.
        value: String,
    },
    /// How much it does at most.
    AtMost {
        /// Of what: `rows_deleted`.
        what: String,
    },
}

impl std::fmt::Display for Must {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Must::Never { field, value } => write!(f, "never {field}={}", visible(value)),
            Must::AtMost { what } => write!(f, "at_most {what}"),
        }
    }
}

impl Must {
    /// Reads `never <field>=<value>` or `at_most <amount>`.
    ///
    /// # Errors
    /// What is wrong, and what may stand there.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("never ") {
            let fields = Never::default().said().map(|(field, _)| field);
            return match rest.split_once('=') {
                Some((field, value)) if fields.contains(&field) && !value.is_empty() => {
                    Ok(Must::Never { field: field.to_owned(), value: value.to_owned() })
                }
                _ => Err(format!("after `never` stands one of {} with `=` and a value", fields.join(", "))),
            };
        }
        match text.strip_prefix("at_most ") {
            Some(what) if AtMost::WORDS.contains(&what) => Ok(Must::AtMost { what: what.to_owned() }),
            Some(_) => Err(format!("after `at_most` stands one of {}", AtMost::WORDS.join(", "))),
            None => Err("a constraint begins with `never ` or `at_most `".to_owned()),
        }
    }

    /// Whether a plan states it: a limit of any size, or something it never does that says nothing narrower.
    pub fn is_stated(&self, never: &[Never], at_most: &AtMost) -> bool {
        match self {
            Must::AtMost { what } => {
                let mut at_most = *at_most;
                at_most.field(what).is_some_and(|limit| limit.is_some())
            }
            Must::Never { field, value } => never.iter().any(|never| {
                never.said().iter().all(|(said, values)| {
                    if said == field { values.iter().any(|v| v.eq_ignore_ascii_case(value)) } else { values.is_empty() }
                })
            }),
        }
    }
}
