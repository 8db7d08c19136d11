//! Decisions for enforcement points of others: the AuthZEN Authorization API 1.0
//! (<https://openid.net/specs/authorization-api-1_0.html>), without its transport.
//!
//! `request.rs` reads what is asked, this file answers it from a set of Cedar policies of its own: subjects,
//! actions and resources are whatever the enforcement point calls them, so there is no schema to validate
//! against. What the request says of a subject or a resource (`properties`) counts only where the entities file
//! says nothing: nobody can ask himself into a role.
//!
//! Invariant `FAIL-CLOSED`: an error in any policy, a value Cedar has no type for, or a panic is a no that says which.

mod request;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr as _;

use cedar_policy::{
    Authorizer, Context, Decision as CedarDecision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet,
    Request, RestrictedExpression,
};
use serde_json::{Map, Value};

pub use request::{Action, Asked, Evaluation, Evaluations, Semantic, Thing};

use crate::decision::{Ruling, Verdict};
use crate::digest::Sha256;
use crate::policy::{PolicyError, Source, parse_bare};
use crate::text::visible;

/// This engine's name in verdicts.
pub const NAME: &str = "access";

/// Policies and entities for decisions others enforce.
#[derive(Debug)]
pub struct Access {
    policies: PolicySet,
    /// Rule names, by Cedar's.
    names: HashMap<String, String>,
    entities: Entities,
    digest: Sha256,
}

impl Access {
    /// Compiles policy files and, when there is one, a file of entities in Cedar's JSON format.
    ///
    /// # Errors
    /// Every [`PolicyError`] found.
    pub fn compile(sources: &[Source], entities: Option<&Source>) -> Result<Self, Vec<PolicyError>> {
        let (policies, names) = parse_bare(sources)?;
        let known = match entities {
            None => Entities::empty(),
            Some(source) => Entities::from_json_str(&source.text, None).map_err(|e| {
                vec![PolicyError {
                    file: source.name.clone(),
                    line: 1,
                    column: 1,
                    message: std::error::Error::source(&e).map_or_else(|| e.to_string(), |why| format!("{e}: {why}")),
                    next: Some("write it as Cedar's JSON: [{\"uid\": …, \"attrs\": …, \"parents\": …}]".into()),
                }]
            })?,
        };
        let parts = sources.iter().chain(entities).flat_map(|s| [s.name.as_bytes(), s.text.as_bytes()]);
        Ok(Self { digest: Sha256::of_parts("turnback access v1", parts), policies, names, entities: known })
    }

    /// Digest of everything compiled.
    pub const fn digest(&self) -> Sha256 {
        self.digest
    }

    /// Answers one question.
    pub fn judge(&self, asked: &Evaluation) -> Verdict {
        let judged = catch_unwind(AssertUnwindSafe(|| self.ask(asked)));
        judged.unwrap_or_else(|_| Err("evaluating the access policies panicked".to_owned())).unwrap_or_else(|why| {
            Verdict::new(NAME, Ruling::Deny, why).next("correct the question, or an operator corrects the policy")
        })
    }

    fn ask(&self, asked: &Evaluation) -> Result<Verdict, String> {
        let principal = uid(&asked.subject.kind, &asked.subject.id).map_err(|e| format!("subject: {e}"))?;
        let action = uid("Action", &asked.action.name).map_err(|e| format!("action: {e}"))?;
        let resource = uid(&asked.resource.kind, &asked.resource.id).map_err(|e| format!("resource: {e}"))?;
        let mut said = vec![self.entity(&principal, &asked.subject.properties, "subject")?];
        if resource != principal {
            said.push(self.entity(&resource, &asked.resource.properties, "resource")?);
        }
        let entities = self.with(said)?;
        let mut pairs = record(&asked.context, "context")?;
        if !asked.action.properties.is_empty() {
            let properties = record(&asked.action.properties, "action.properties")?;
            let value = RestrictedExpression::new_record(properties).map_err(|e| format!("action.properties: {e}"))?;
            if pairs.insert("action".to_owned(), value).is_some() {
                return Err("context.action: the name is taken by the action's own properties".to_owned());
            }
        }
        let context = Context::from_pairs(pairs).map_err(|e| format!("context: {e}"))?;
        let request = Request::new(principal, action, resource, context, None).map_err(|e| e.to_string())?;
        let response = Authorizer::new().is_authorized(&request, &self.policies, &entities);
        let name = |id: &str| self.names.get(id).cloned().unwrap_or_else(|| id.to_owned());
        let mut failed: Vec<String> = response
            .diagnostics()
            .errors()
            .map(|cedar_policy::AuthorizationError::PolicyEvaluationError(e)| {
                format!(
                    "policy `{}` failed to evaluate: {}",
                    visible(&name(e.policy_id().as_ref())),
                    visible(&e.inner().to_string())
                )
            })
            .collect();
        failed.sort();
        if let Some(first) = failed.into_iter().next() {
            return Err(first);
        }
        let mut rules: Vec<String> = response.diagnostics().reason().map(|id| name(id.as_ref())).collect();
        rules.sort();
        let listed = rules.iter().map(|rule| format!("`{}`", visible(rule))).collect::<Vec<_>>().join(", ");
        let mut verdict = match (response.decision(), rules.is_empty()) {
            (CedarDecision::Allow, _) => Verdict::new(NAME, Ruling::Allow, format!("permitted by {listed}")),
            (CedarDecision::Deny, true) => Verdict::new(NAME, Ruling::Deny, "no rule permits it"),
            (CedarDecision::Deny, false) => Verdict::new(NAME, Ruling::Deny, format!("forbidden by {listed}")),
        };
        verdict.rules = rules;
        Ok(verdict)
    }

    /// What is known of somebody or something: our own attributes and parents, and what the request adds.
    fn entity(&self, uid: &EntityUid, properties: &Map<String, Value>, place: &str) -> Result<Entity, String> {
        let mut attributes = record(properties, &format!("{place}.properties"))?;
        let mut parents = HashSet::new();
        if let Some(known) = self.entities.get(uid) {
            let (_, own, above) = known.clone().into_inner();
            parents = above;
            attributes.extend(own);
        }
        Entity::new(uid.clone(), attributes.into_iter().collect(), parents).map_err(|e| format!("{place}: {e}"))
    }

    /// All entities, with `said` in the place of those of the same name.
    fn with(&self, said: Vec<Entity>) -> Result<Entities, String> {
        self.entities.clone().upsert_entities(said, None).map_err(|e| e.to_string())
    }
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind = EntityTypeName::from_str(kind)
        .map_err(|_| format!("`{}` is not a type: letters, digits and `_`, with `::` between", visible(kind)))?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

type Pairs = BTreeMap<String, RestrictedExpression>;

/// Typed values, one by one: raw JSON given to Cedar could name entities and calls of functions.
fn record(map: &Map<String, Value>, place: &str) -> Result<Pairs, String> {
    map.iter().map(|(key, value)| Ok((key.clone(), expression(value, &format!("{place}.{}", visible(key)))?))).collect()
}

fn expression(value: &Value, place: &str) -> Result<RestrictedExpression, String> {
    match value {
        Value::Bool(bool) => Ok(RestrictedExpression::new_bool(*bool)),
        Value::String(text) => Ok(RestrictedExpression::new_string(text.clone())),
        Value::Number(number) => number
            .as_i64()
            .map(RestrictedExpression::new_long)
            .ok_or_else(|| format!("{place}: policies know whole numbers of 64 bits only, not {number}")),
        Value::Array(items) => {
            let items = items.iter().enumerate().map(|(i, item)| expression(item, &format!("{place}[{i}]")));
            Ok(RestrictedExpression::new_set(items.collect::<Result<Vec<_>, _>>()?))
        }
        Value::Object(map) => {
            RestrictedExpression::new_record(record(map, place)?).map_err(|e| format!("{place}: {e}"))
        }
        Value::Null => Err(format!("{place}: policies know no null; leave it out")),
    }
}

#[cfg(test)]
mod tests;
