//! What a policy may talk about: a Cedar schema generated from the registered tools, and the typed
//! values of one request.
//!
//! Nothing here reads raw argument JSON: Cedar would turn `{"__entity": ...}` into an entity and
//! refuses null, floats and large integers. Every value is built from a checked field of the contract
//! or a measured number.
//!
//! | name | type | meaning |
//! |---|---|---|
//! | `principal.owner` | String | the agent's human owner |
//! | `principal.on_behalf_of` | String, optional | the user it acts for |
//! | `resource.environment`, `context.environment` | String | the resource's environment |
//! | `context.verb`, `context.risk` | String | the tool's, by the operator's contract |
//! | `context.account`, `context.region`, `context.workflow` | String, optional | the part of the organisation, as resource and credential say |
//! | `context.place` | String | what the request names: a path, a statement's class |
//! | `context.statement` | String | class of an SQL statement; empty elsewhere |
//! | `context.names` | Set of String | path components and table names in `place`; after staging also of every listed place and table touched |
//! | `context.folded_place`, `context.folded_names` | String, Set of String | `place` and `names` in lower case: what a rule that protects a name compares, because `.GIT` is `.git` on many file systems |
//! | `context.approved` | Bool | a person approved exactly this action and effect |
//! | `context.confidence` | Long, optional | the agent's own confidence in thousandths, rounded down |
//! | `context.effect` | record, optional | present after staging: see below |
//!
//! `context.effect` holds `rows`, `rows_deleted`, `files`, `files_deleted`, `deletions`, `bytes`,
//! `schema_objects`, `level` (0, 2, 3, 4, 5) and `unlisted` (touched places not in `names`), all Long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use cedar_policy::{
    Context, Entity, EntityAttrEvaluationError, EntityId, EntityTypeName, EntityUid, RestrictedExpression,
};

use crate::gates::ownership::Agent;
use crate::gates::{Facts, Measured};
use crate::text::folded;
use crate::tool::{Kind, Risk, Tool, Verb};

/// The group of all tools that only read.
pub const READ: &str = "read";
/// The group of all tools that change something.
pub const WRITE: &str = "write";

/// The entity type of an agent.
pub(super) const AGENT: &str = "Agent";

const KINDS: [Kind; 2] = [Kind::Files, Kind::Sqlite];

/// The group of one domain's tool over all resources of its kind: `sqlite.execute`.
pub fn local_group(tool: &Tool) -> String {
    format!("{}.{}", tool.kind.word(), tool.local)
}

/// `read` or `write`.
pub const fn effect_group(tool: &Tool) -> &'static str {
    if tool.risk.writes() { WRITE } else { READ }
}

/// The schema in Cedar's own syntax.
pub fn text(registry: &[Tool]) -> String {
    let mut out = String::from(
        "entity Agent { owner: String, on_behalf_of?: String };\n\
         type Effect = { rows: Long, rows_deleted: Long, files: Long, files_deleted: Long, deletions: Long, \
         bytes: Long, schema_objects: Long, level: Long, unlisted: Long };\n\
         type Facts = { verb: String, risk: String, environment: String, account?: String, region?: String, workflow?: String, \
         place: String, statement: String, \
         names: Set<String>, folded_place: String, folded_names: Set<String>, approved: Bool, confidence?: Long, effect?: Effect };\n",
    );
    // Writing to a String cannot fail.
    for kind in KINDS {
        let _ = writeln!(out, "entity {} {{ environment: String }};", kind.entity_type());
    }
    let _ = writeln!(out, "action \"{READ}\";\naction \"{WRITE}\";");
    let groups: BTreeSet<String> = registry.iter().map(local_group).collect();
    for group in groups {
        let _ = writeln!(out, "action {};", quoted(&group));
    }
    let tools: BTreeMap<&str, &Tool> = registry.iter().map(|tool| (tool.name.as_str(), tool)).collect();
    for (name, tool) in tools {
        let _ = writeln!(
            out,
            "action {} in [{}, {}] appliesTo {{ principal: Agent, resource: {}, context: Facts }};",
            quoted(name),
            quoted(&local_group(tool)),
            quoted(effect_group(tool)),
            tool.kind.entity_type()
        );
    }
    out
}

/// A Cedar string literal. Tool names hold nothing that needs escaping; local names are a domain's.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}

fn uid(entity_type: &str, id: &str) -> Result<EntityUid, String> {
    let name: EntityTypeName = entity_type.parse().map_err(|e| format!("entity type `{entity_type}`: {e}"))?;
    Ok(EntityUid::from_type_name_and_id(name, EntityId::new(id)))
}

/// The action of a tool and its groups, and its resource: everything about a tool that is the same
/// for every decision.
pub(super) fn tool_entities(tool: &Tool) -> Result<(EntityUid, EntityUid, Vec<Entity>), String> {
    let action = uid("Action", tool.name.as_str())?;
    let groups = [uid("Action", &local_group(tool))?, uid("Action", effect_group(tool))?];
    let resource = uid(tool.kind.entity_type(), tool.resource.as_str())?;
    let environment = RestrictedExpression::new_string(tool.environment.as_str().to_owned());
    let mut entities: Vec<Entity> = groups.iter().cloned().map(Entity::with_uid).collect();
    entities.push(Entity::new_no_attrs(action.clone(), groups.into_iter().collect()));
    entities.push(
        Entity::new(resource.clone(), [("environment".to_owned(), environment)].into(), [].into())
            .map_err(|e| e.to_string())?,
    );
    Ok((action, resource, entities))
}

/// The fields of `context.effect`, in the order of [`Question::effect`].
pub(super) const EFFECT: [&str; 9] =
    ["rows", "rows_deleted", "files", "files_deleted", "deletions", "bytes", "schema_objects", "level", "unlisted"];

/// The typed values of one request. Cedar's entities and context are built from them and our own programs
/// read them, so that both answer the same question.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) agent: &'a str,
    pub(super) owner: &'a str,
    /// `on_behalf_of`.
    pub(super) user: Option<&'a str>,
    pub(super) tool: &'a str,
    /// The groups the tool's action is in.
    pub(super) groups: &'a [String; 2],
    /// The resource's entity type.
    pub(super) kind: &'static str,
    pub(super) resource: &'a str,
    pub(super) verb: &'static str,
    pub(super) risk: &'static str,
    pub(super) environment: &'a str,
    pub(super) account: Option<&'a str>,
    pub(super) region: Option<&'a str>,
    pub(super) workflow: Option<&'a str>,
    pub(super) place: &'a str,
    pub(super) folded_place: String,
    pub(super) statement: &'a str,
    /// Sorted, each once.
    pub(super) names: Vec<&'a str>,
    /// Sorted, each once.
    pub(super) folded_names: Vec<String>,
    pub(super) approved: bool,
    pub(super) confidence: Option<i64>,
    /// The values of [`EFFECT`].
    pub(super) effect: Option<[i64; EFFECT.len()]>,
}

impl<'a> Question<'a> {
    /// What is asked about `agent` doing what the facts say with a tool of these groups.
    pub(super) fn new(facts: &Facts<'a>, agent: &'a Agent, groups: &'a [String; 2]) -> Self {
        let contract = facts.contract;
        let mut names = Vec::new();
        add_names(&mut names, contract.kind, &contract.target.place);
        if let Some(measured) = facts.measured {
            for touch in &measured.plan.footprint.places {
                add_names(&mut names, contract.kind, &touch.place);
            }
            names.extend(measured.effect.blast.rows.keys().map(String::as_str));
        }
        names.sort_unstable();
        names.dedup();
        let mut folded_names: Vec<String> = names.iter().map(|name| folded(name)).collect();
        folded_names.sort_unstable();
        folded_names.dedup();
        Self {
            agent: agent.name.as_str(),
            owner: &agent.owner,
            user: contract.on_behalf_of.as_deref(),
            tool: contract.tool.as_str(),
            groups,
            kind: contract.kind.entity_type(),
            resource: contract.resource.as_str(),
            verb: contract.verb.word(),
            risk: contract.risk.word(),
            environment: contract.environment.as_str(),
            account: contract.assignment.account.as_deref(),
            region: contract.assignment.region.as_deref(),
            workflow: contract.assignment.workflow.as_deref(),
            place: &contract.target.place,
            folded_place: folded(&contract.target.place),
            statement: &contract.target.statement,
            names,
            folded_names,
            approved: facts.approved,
            confidence: contract.statement.confidence.map(per_mille),
            effect: facts.measured.map(effect),
        }
    }

    /// The agent as Cedar sees it.
    pub(super) fn principal(&self) -> Result<Entity, String> {
        let mut attributes = HashMap::from([("owner".to_owned(), string(self.owner))]);
        if let Some(user) = self.user {
            attributes.insert("on_behalf_of".to_owned(), string(user));
        }
        Entity::new(uid(AGENT, self.agent)?, attributes, [].into())
            .map_err(|e: EntityAttrEvaluationError| e.to_string())
    }

    /// The context as Cedar sees it.
    pub(super) fn context(&self) -> Result<Context, String> {
        let mut pairs = vec![
            ("verb", string(self.verb)),
            ("risk", string(self.risk)),
            ("environment", string(self.environment)),
            ("place", string(self.place)),
            ("folded_place", string(&self.folded_place)),
            ("statement", string(self.statement)),
            ("approved", RestrictedExpression::new_bool(self.approved)),
            ("names", RestrictedExpression::new_set(self.names.iter().map(|name| string(name)))),
            ("folded_names", RestrictedExpression::new_set(self.folded_names.iter().map(|name| string(name)))),
        ];
        for (name, value) in [("account", self.account), ("region", self.region), ("workflow", self.workflow)] {
            pairs.extend(value.map(|value| (name, string(value))));
        }
        if let Some(confidence) = self.confidence {
            pairs.push(("confidence", RestrictedExpression::new_long(confidence)));
        }
        if let Some(effect) = self.effect {
            let fields = EFFECT.into_iter().zip(effect);
            let fields = fields.map(|(name, value)| (name.to_owned(), RestrictedExpression::new_long(value)));
            pairs.push(("effect", RestrictedExpression::new_record(fields).map_err(|e| e.to_string())?));
        }
        Context::from_pairs(pairs.into_iter().map(|(name, value)| (name.to_owned(), value))).map_err(|e| e.to_string())
    }
}

fn string(text: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(text.to_owned())
}

fn effect(measured: Measured<'_>) -> [i64; EFFECT.len()] {
    let blast = &measured.effect.blast;
    [
        blast.rows_total(),
        blast.rows_deleted(),
        blast.files_total(),
        blast.files_deleted,
        blast.deletions(),
        blast.bytes,
        blast.schema_objects,
        u64::from(measured.plan.level().number()),
        measured.plan.footprint.more,
    ]
    .map(long)
}

/// Cedar counts to 2^63-1. A larger count stays larger than every limit that can be written.
fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Rounded down: a claim of confidence never counts for more than it says.
fn per_mille(confidence: f64) -> i64 {
    // A `Statement` holds 0..=1, so this is 0..=1000; anything else would saturate, NaN become 0.
    #[allow(clippy::cast_possible_truncation, reason = "the value is between 0 and 1000")]
    let thousandths = (confidence * 1000.0).floor() as i64;
    thousandths.clamp(0, 1000)
}

/// The words of a place that rules protect: path components, or the table of ``customers 17``.
fn add_names<'a>(names: &mut Vec<&'a str>, kind: Kind, place: &'a str) {
    match kind {
        Kind::Files => names.extend(place.split('/').filter(|part| !part.is_empty() && *part != ".")),
        Kind::Sqlite => names.extend(place.split_whitespace().next().map(|word| word.trim_matches('`'))),
    }
}

/// The words of verbs and risks a condition can compare with, for messages.
pub(super) fn words() -> (Vec<&'static str>, Vec<&'static str>) {
    let verbs = [Verb::Search, Verb::Read, Verb::Create, Verb::Update, Verb::Delete, Verb::Administer, Verb::Undo]
        .map(Verb::word);
    let risks = [
        Risk::Search,
        Risk::ScopedRead,
        Risk::SensitiveRead,
        Risk::ReversibleWrite,
        Risk::ExternalEffect,
        Risk::AdminAction,
        Risk::Irreversible,
    ]
    .map(Risk::word);
    (verbs.to_vec(), risks.to_vec())
}
