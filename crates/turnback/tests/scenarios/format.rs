//! A story as it is written. Unknown fields are errors, so that nothing expected is silently not looked at.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Story {
    /// What happens, in one sentence.
    pub(crate) title: String,
    /// The promise, case or incident it re-enacts.
    pub(crate) about: String,
    #[serde(default)]
    pub(crate) setup: Setup,
    /// Added to the standard world before the node starts.
    #[serde(default)]
    pub(crate) world: Hand,
    pub(crate) steps: Vec<Step>,
    pub(crate) after: After,
    pub(crate) record: Record,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Setup {
    /// The mode of the environment both resources are in.
    pub(crate) mode: String,
    /// Agents that are registered, each with a token.
    pub(crate) agents: Vec<String>,
    /// Lines added to `[resources.db]`.
    pub(crate) db: String,
    /// Lines added to `[resources.work]`.
    pub(crate) work: String,
    /// Lines added to the end of the configuration.
    pub(crate) config: String,
    /// Cedar policies besides the one that permits everything.
    pub(crate) policy: String,
    /// Mebibytes of a file system of its own on which everything agents act on stands. Needs the right to
    /// mount; where that is missing the story is reported as ignored.
    pub(crate) small_disk: Option<u32>,
}

impl Default for Setup {
    fn default() -> Self {
        let text = String::new;
        let agents = vec!["coder".into()];
        Self {
            mode: "enforce".into(),
            agents,
            db: text(),
            work: text(),
            config: text(),
            policy: text(),
            small_disk: None,
        }
    }
}

/// What somebody does around Turnback. Done in the order of the fields.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Hand {
    pub(crate) remove: Vec<String>,
    pub(crate) rename: BTreeMap<String, String>,
    pub(crate) directories: Vec<String>,
    pub(crate) files: BTreeMap<String, String>,
    /// Folders filled with so many numbered files.
    pub(crate) fill: BTreeMap<String, u32>,
    pub(crate) modes: BTreeMap<String, String>,
    /// Link and what it says.
    pub(crate) symlinks: BTreeMap<String, String>,
    /// New name and existing file.
    pub(crate) hardlinks: BTreeMap<String, String>,
    pub(crate) fifos: Vec<String>,
    pub(crate) sockets: Vec<String>,
    /// Character devices (`/dev/null`'s numbers); only root can make them, for others nothing is there.
    pub(crate) devices: Vec<String>,
    pub(crate) sql: String,
    /// Files that take all space that is left on their disk, to the last byte.
    pub(crate) fill_disk: Vec<String>,
    /// What happens to everything Turnback keeps for its ways back: `delete` or `alter`.
    pub(crate) pre_images: Option<Harm>,
    /// Puts a copy of the journal aside under a name. Only while the node is stopped, like all of these.
    pub(crate) keep_journal: Option<String>,
    /// Puts a copy back, as somebody does who restores a backup.
    pub(crate) put_journal: Option<String>,
    /// A statement run in the journal's database.
    pub(crate) journal_sql: String,
    /// The journal's file is cut to half its length.
    pub(crate) cut_journal: bool,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Harm {
    Delete,
    Alter,
}

/// One step: exactly one of `call`, `http`, `raw`, `hear_kept`, `operator`, `cli`, `by_hand` alone, `restart`,
/// `start_another`, `flag_service`, `wait`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Step {
    /// The tool an agent calls.
    pub(crate) call: Option<String>,
    pub(crate) arguments: Option<Value>,
    /// The arguments' exact text.
    pub(crate) arguments_text: Option<String>,
    /// The `traceparent` the call carries.
    pub(crate) trace: Option<String>,
    /// A request line without version: `POST /mcp`.
    pub(crate) http: Option<String>,
    pub(crate) body: Option<String>,
    /// A body that is not text, in hexadecimal digits.
    pub(crate) body_hex: Option<String>,

    /// Bytes sent to the agents' door as they are, in pieces.
    pub(crate) raw: OneOrMore,
    /// Milliseconds between two pieces, and between two drops of `drip`.
    pub(crate) pause: Option<u64>,
    /// Sent over and over after the pieces until the door answers or closes.
    pub(crate) drip: Option<String>,
    /// How many such connections are opened at once.
    pub(crate) connections: Option<u32>,
    /// The connections stay open, with nothing read from them.
    pub(crate) keep: bool,
    /// Everything that came on the connections kept open, until the door closed them.
    pub(crate) hear_kept: bool,

    /// The command line of the real program, on this configuration.
    pub(crate) cli: Option<Vec<String>>,
    /// What is written to that command's standard input.
    pub(crate) input: Option<String>,

    /// The agent who asks; the first one when it is not said.
    pub(crate) agent: Option<String>,
    /// The token sent instead of the agent's own; empty for none.
    pub(crate) token: Option<String>,
    /// Headers sent besides, or instead of, the usual ones; empty for none.
    pub(crate) headers: BTreeMap<String, String>,

    /// A request to the operators' door, as its JSON object, or its exact text.
    pub(crate) operator: Option<Value>,
    pub(crate) by_hand: Option<Hand>,
    /// Stops the node in order and starts it again. `by_hand` happens in between.
    pub(crate) restart: bool,
    /// Starts a second node on the same configuration beside the first.
    pub(crate) start_another: bool,
    /// With `restart`: new lines at the end of the configuration instead of the old ones.
    pub(crate) config: Option<String>,
    /// What the flag service does from now on.
    pub(crate) flag_service: Option<FlagService>,
    /// Milliseconds.
    pub(crate) wait: Option<u64>,

    /// How often the step is made; every time must end as expected.
    pub(crate) times: Option<u32>,
    /// How often the request is made at the same moment, each on a connection of its own.
    pub(crate) at_once: Option<u32>,
    /// Two paths somebody exchanges over and over while the step is made.
    pub(crate) swapping: Option<[String; 2]>,
    /// The name later steps use for what came out of it: `{{name}}`.
    pub(crate) save: Option<String>,
    pub(crate) expect: Expect,
    /// How the world must look right after.
    pub(crate) after: Option<After>,
}

/// What a flag service does with every question, and with those about some keys.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub(crate) enum FlagService {
    /// Answers with a mode.
    Mode(String),
    /// Answers with a mode for some keys, whatever it does otherwise.
    Keys(BTreeMap<String, String>),
    /// Answers with a status and a body, in which `{{key}}` is the key.
    Answer { status: u16, body: String },
    /// Answers so many bytes.
    Long(usize),
    /// Has no flags.
    Empty,
    /// Never answers.
    Hang,
    /// Answers without end, a byte at a time.
    Drip,
    /// Nobody listens any more.
    Gone,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expect {
    /// `done`, `refused`, `pending`, `error` for agents; the reply's word for operators; `not_started` for
    /// a node that must not start.
    pub(crate) outcome: String,
    /// Instead of `outcome`: how many of the requests made at once ended how.
    pub(crate) tally: BTreeMap<String, u32>,
    /// Instead of `outcome`, where requests race something: how each of them may end.
    pub(crate) any_of: Vec<String>,
    /// How many HTTP answers came on one raw connection; 1 when it is not said.
    pub(crate) answers: Option<usize>,
    /// HTTP status; 200 when it is not said.
    pub(crate) status: Option<u16>,
    /// Number of a JSON-RPC error.
    pub(crate) rpc: Option<i64>,
    /// The word of a refusal.
    pub(crate) code: Option<String>,
    /// The field, path, table or row a refusal names.
    pub(crate) place: Option<String>,
    /// The gate that said no.
    pub(crate) gate: Option<String>,
    /// A refused action changed the world all the same; without this that is never accepted.
    pub(crate) changes: bool,
    /// Texts the answer contains.
    pub(crate) text: OneOrMore,
    /// Texts it does not contain.
    pub(crate) not_text: OneOrMore,
    /// What the answer's JSON contains: objects are compared by the keys named here.
    pub(crate) json: Option<Value>,

    /// The state of the run, afterwards.
    pub(crate) state: Option<String>,
    /// The level of its way back.
    pub(crate) level: Option<u8>,
    /// Its measured effect in words.
    pub(crate) effect: Option<String>,
    /// Its measured numbers: compared by the keys named here.
    pub(crate) blast: Option<Value>,
    /// Texts its diff contains.
    pub(crate) diff: OneOrMore,
}

#[derive(Clone, Default, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMore {
    #[default]
    None,
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    pub(crate) const fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    pub(crate) fn all(&self) -> Vec<&str> {
        match self {
            Self::None => Vec::new(),
            Self::One(text) => vec![text],
            Self::More(texts) => texts.iter().map(String::as_str).collect(),
        }
    }
}

/// How the world must look.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct After {
    /// Every file, link, mode, time and row is as before the first step.
    pub(crate) unchanged: bool,
    /// As before the first step, but for these paths and `table <name>`s.
    pub(crate) unchanged_but: Option<Vec<String>>,
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) modes: BTreeMap<String, String>,
    pub(crate) gone: Vec<String>,
    /// A query, and the one value it must answer.
    pub(crate) sql: BTreeMap<String, Value>,
}

impl Record {
    /// Whether these are the states of all runs.
    pub(crate) fn fits(&self, found: &[&str]) -> bool {
        let mut rest = found;
        for text in &self.runs {
            let (count, states) = text.split_once('*').unwrap_or(("1", text));
            let is = |state: &&&str| states.split('|').any(|s| s == **state);
            let there = rest.iter().take_while(is).count();
            let take = if count == "?" { there } else { count.parse().unwrap_or(usize::MAX) };
            if take > there {
                return false;
            }
            rest = rest.get(take..).unwrap_or_default();
        }
        rest.is_empty()
    }
}

impl After {
    pub(crate) fn says_something(&self) -> bool {
        self.unchanged
            || self.unchanged_but.is_some()
            || !(self.files.is_empty() && self.modes.is_empty() && self.gone.is_empty() && self.sql.is_empty())
    }
}

/// What the record must say at the end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// The states of all runs, oldest first; `settled|refused` is either, `30*settled` thirty of
    /// them, `?*settled` as many as there are.
    pub(crate) runs: Vec<String>,
    /// How many records of a kind there are.
    #[serde(default)]
    pub(crate) kinds: BTreeMap<String, usize>,
    /// Texts some alert contains.
    #[serde(default)]
    pub(crate) alerts: OneOrMore,
}
