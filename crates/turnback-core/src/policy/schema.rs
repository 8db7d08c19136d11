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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use cedar_policy::{
    Context, Entity, EntityAttrEvaluationError, EntityId, EntityTypeName, EntityUid, RestrictedExpression,
};

use crate::contract::Contract;
use crate::gates::ownership::Agent;
use crate::gates::{Facts, Measured};
use crate::text::folded;
use crate::tool::{Kind, Risk, Tool, Verb};

/// The group of all tools that only read.
pub const READ: &str = "read";
/// The group of all tools that change something.
pub const WRITE: &str = "write";

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
         type Facts = { verb: String, risk: String, environment: String, place: String, statement: String, \
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

/// The agent as Cedar sees it.
pub(super) fn principal(agent: &Agent, contract: &Contract) -> Result<Entity, String> {
    let mut attributes =
        std::collections::HashMap::from([("owner".to_owned(), RestrictedExpression::new_string(agent.owner.clone()))]);
    if let Some(user) = &contract.on_behalf_of {
        attributes.insert("on_behalf_of".to_owned(), RestrictedExpression::new_string(user.clone()));
    }
    Entity::new(uid("Agent", agent.name.as_str())?, attributes, [].into())
        .map_err(|e: EntityAttrEvaluationError| e.to_string())
}

/// The typed context of one request.
pub(super) fn context(facts: &Facts<'_>) -> Result<Context, String> {
    let contract = facts.contract;
    let string = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let mut names = BTreeSet::new();
    add_names(&mut names, contract.kind, &contract.target.place);
    let mut pairs = vec![
        ("verb", string(contract.verb.word())),
        ("risk", string(contract.risk.word())),
        ("environment", string(contract.environment.as_str())),
        ("place", string(&contract.target.place)),
        ("folded_place", string(&folded(&contract.target.place))),
        ("statement", string(&contract.target.statement)),
        ("approved", RestrictedExpression::new_bool(facts.approved)),
    ];
    if let Some(confidence) = contract.statement.confidence {
        pairs.push(("confidence", RestrictedExpression::new_long(per_mille(confidence))));
    }
    if let Some(measured) = facts.measured {
        for touch in &measured.plan.footprint.places {
            add_names(&mut names, contract.kind, &touch.place);
        }
        names.extend(measured.effect.blast.rows.keys().cloned());
        pairs.push(("effect", effect(measured)?));
    }
    let folded_names: BTreeSet<String> = names.iter().map(|name| folded(name)).collect();
    pairs.push(("folded_names", RestrictedExpression::new_set(folded_names.iter().map(|name| string(name)))));
    pairs.push(("names", RestrictedExpression::new_set(names.iter().map(|name| string(name)))));
    Context::from_pairs(pairs.into_iter().map(|(name, value)| (name.to_owned(), value))).map_err(|e| e.to_string())
}

fn effect(measured: Measured<'_>) -> Result<RestrictedExpression, String> {
    let blast = &measured.effect.blast;
    let fields = [
        ("rows", blast.rows_total()),
        ("rows_deleted", blast.rows_deleted()),
        ("files", blast.files_total()),
        ("files_deleted", blast.files_deleted),
        ("deletions", blast.deletions()),
        ("bytes", blast.bytes),
        ("schema_objects", blast.schema_objects),
        ("level", u64::from(measured.plan.level().number())),
        ("unlisted", measured.plan.footprint.more),
    ];
    RestrictedExpression::new_record(fields.into_iter().map(|(name, value)| (name.to_owned(), long(value))))
        .map_err(|e| e.to_string())
}

/// Cedar counts to 2^63-1. A larger count stays larger than every limit that can be written.
fn long(value: u64) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Rounded down: a claim of confidence never counts for more than it says.
fn per_mille(confidence: f64) -> i64 {
    // A `Statement` holds 0..=1, so this is 0..=1000; anything else would saturate, NaN become 0.
    #[allow(clippy::cast_possible_truncation, reason = "the value is between 0 and 1000")]
    let thousandths = (confidence * 1000.0).floor() as i64;
    thousandths.clamp(0, 1000)
}

/// The words of a place that rules protect: path components, or the table of ``customers 17``.
fn add_names(names: &mut BTreeSet<String>, kind: Kind, place: &str) {
    match kind {
        Kind::Files => {
            names.extend(place.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned));
        }
        Kind::Sqlite => names.extend(place.split_whitespace().next().map(|word| word.trim_matches('`').to_owned())),
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
