//! From policy files to slices.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::ffi::DetailedError;
use cedar_policy::{
    ActionConstraint, Effect, Entities, EntityUid, Policy as CedarPolicy, PolicyId, PolicySet, ResourceConstraint,
    Schema, ValidationError, ValidationMode, Validator,
};

use super::program::translate;
use super::source::{Piece, position, split};
use super::{Entry, Policy, PolicyError, Program, Programs, Rule, RulePlace, Slice, Source, schema};
use crate::decision::{Obligation, Ruling};
use crate::digest::Sha256;
use crate::text::visible;
use crate::tool::Tool;

/// Annotations that mean something. Any other is refused: a misspelt `@approvers` would let anybody
/// approve.
const ANNOTATIONS: [&str; 6] = ["id", "reason", "next", "outcome", "approvers", "form"];

/// One parsed policy and where it stands.
pub(super) struct Parsed<'a> {
    pub(super) source: &'a Source,
    pub(super) piece: Piece<'a>,
    pub(super) policy: CedarPolicy,
    pub(super) rule: Arc<Rule>,
}

impl Parsed<'_> {
    /// Line and column of a place in this policy.
    pub(super) fn at(&self, offset: usize) -> (usize, usize) {
        position(&self.source.text, self.piece.start + offset)
    }

    fn error(&self, offset: usize, message: String, next: Option<String>) -> PolicyError {
        let (line, column) = self.at(offset);
        PolicyError { file: self.source.name.clone(), line, column, message, next }
    }
}

/// Everything known after parsing and validation, for compiling and for the linter.
pub(super) struct Checked<'a> {
    pub(super) parsed: Vec<Parsed<'a>>,
    pub(super) schema: Schema,
    pub(super) schema_text: String,
    /// Indexes of policies whose scope no registered tool can meet.
    pub(super) dead: Vec<usize>,
    /// Cedar's own warnings: index, offset in the policy, words.
    pub(super) warnings: Vec<(usize, usize, String)>,
    pub(super) errors: Vec<PolicyError>,
}

/// Longest text of one rule. Cedar reads and checks a rule recursively, so its length bounds the stack that
/// takes.
const RULE_BYTES: usize = 16 * 1024;

/// Stack for a rule of [`RULE_BYTES`] that is nothing but nesting: 8,000 levels of at most 60 KiB each in an
/// unoptimised build. Address space, not memory: only what is used is ever backed.
const ROOM: usize = 512 << 20;

/// Runs `work` on a stack with room for the deepest rule. On the caller's own, a few hundred parentheses
/// in a policy file would end the process instead of being an error.
///
/// # Errors
/// When no such thread can be had, or `work` panics.
pub(super) fn with_room<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, PolicyError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("policy".to_owned())
            .stack_size(ROOM)
            .spawn_scoped(scope, work)
            .map_err(|e| generated(format!("no thread to read the policy on: {e}")))?;
        thread.join().map_err(|_| generated("reading the policy panicked; report the rule at fault".to_owned()))
    })
}

pub(super) fn compile(sources: &[Source], registry: &[Tool]) -> Result<Policy, Vec<PolicyError>> {
    with_room(|| compile_here(sources, registry)).unwrap_or_else(|error| Err(vec![error]))
}

fn compile_here(sources: &[Source], registry: &[Tool]) -> Result<Policy, Vec<PolicyError>> {
    let Checked { parsed, schema, schema_text, errors, .. } = check(sources, registry)?;
    if !errors.is_empty() {
        return Err(errors);
    }
    let parts = std::iter::once(schema_text.as_bytes())
        .chain(sources.iter().flat_map(|source| [source.name.as_bytes(), source.text.as_bytes()]));
    let digest = Sha256::of_parts("turnback policy v1", parts);
    let mut policy = assemble(&parsed, schema, registry, digest)?;
    let rego: Vec<Source> = sources.iter().filter(|source| is_rego(source)).cloned().collect();
    if let Some(first) = rego.first() {
        policy.rego = Some(in_rego(&rego, first)?);
        policy.cedar = rego.len() < sources.len();
    }
    Ok(policy)
}

/// Whether a file is for the other engine.
pub(super) fn is_rego(source: &Source) -> bool {
    source.name.ends_with(".rego")
}

#[cfg(feature = "rego")]
fn in_rego(sources: &[Source], _: &Source) -> Result<super::Second, Vec<PolicyError>> {
    super::rego::Rego::compile(sources, super::rego::ENTRY)
}

#[cfg(not(feature = "rego"))]
fn in_rego(_: &[Source], first: &Source) -> Result<super::Second, Vec<PolicyError>> {
    Err(vec![PolicyError {
        file: first.name.clone(),
        line: 1,
        column: 1,
        message: "this build knows no Rego".to_owned(),
        next: Some("build it with `--features rego`, or write the rules in Cedar".to_owned()),
    }])
}

/// Sorts valid policies into slices.
pub(super) fn assemble(
    parsed: &[Parsed<'_>],
    schema: Schema,
    registry: &[Tool],
    digest: Sha256,
) -> Result<Policy, Vec<PolicyError>> {
    let programs: Vec<Option<Arc<Program>>> = parsed.iter().map(program).collect();
    let mut shared: HashMap<Vec<usize>, Arc<Slice>> = HashMap::new();
    let mut entries = HashMap::new();
    for tool in registry {
        let broken = |what: String| vec![generated(format!("tool `{}`: {what}", tool.name))];
        let (action, resource, base) = schema::tool_entities(tool).map_err(broken)?;
        let groups: Vec<EntityUid> =
            base.iter().map(cedar_policy::Entity::uid).filter(|uid| uid.type_name() == action.type_name()).collect();
        let entities = Entities::from_entities(base, None).map_err(|e| broken(e.to_string()))?;
        let members: Vec<usize> =
            (0..parsed.len()).filter(|i| matches(&parsed[*i].policy, &action, &groups, &resource)).collect();
        let slice = match shared.get(&members) {
            Some(slice) => Arc::clone(slice),
            None => {
                let slice = Arc::new(slice(parsed, &programs, &members).map_err(broken)?);
                shared.insert(members, Arc::clone(&slice));
                slice
            }
        };
        let groups = [schema::local_group(tool), schema::effect_group(tool).to_owned()];
        let entry = Entry { tool: tool.clone(), action, resource, groups, entities, slice };
        if entries.insert(tool.name.as_str().to_owned(), entry).is_some() {
            return Err(broken("it is registered twice".to_owned()));
        }
    }
    let rules = parsed.iter().map(|p| (p.policy.id().clone(), Arc::clone(&p.rule))).collect();
    Ok(Policy { digest, schema, entries, rules, cedar: true, rego: None })
}

/// Parses and validates. `Err` only when the generated schema itself is refused.
pub(super) fn check<'a>(sources: &'a [Source], registry: &[Tool]) -> Result<Checked<'a>, Vec<PolicyError>> {
    let schema_text = schema::text(registry);
    let schema = Schema::from_cedarschema_str(&schema_text)
        .map_err(|e| vec![generated(format!("the schema of the registered tools: {e}"))])?
        .0;
    let mut errors = Vec::new();
    let mut parsed: Vec<Parsed<'a>> = Vec::new();
    let mut names = HashSet::new();
    for source in sources.iter().filter(|source| !is_rego(source)) {
        for piece in split(&source.text) {
            match parse(source, piece, parsed.len()) {
                Ok(one) => {
                    if !names.insert(one.rule.name.clone()) {
                        errors.push(one.error(
                            0,
                            format!("another rule is called `{}`", visible(&one.rule.name)),
                            Some("give each rule its own @id".to_owned()),
                        ));
                    }
                    parsed.push(one);
                }
                Err(error) => errors.push(error),
            }
        }
    }
    let mut dead = Vec::new();
    let mut warnings = Vec::new();
    let index: BTreeMap<PolicyId, usize> = parsed.iter().enumerate().map(|(i, p)| (p.policy.id().clone(), i)).collect();
    match PolicySet::from_policies(parsed.iter().map(|p| p.policy.clone())) {
        Err(e) => errors.push(generated(e.to_string())),
        Ok(set) => {
            let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
            for error in result.validation_errors() {
                let Some(&i) = index.get(error.policy_id()) else {
                    errors.push(generated(error.to_string()));
                    continue;
                };
                // A rule about tools that are not here yet is no mistake: it can never match, and it
                // starts to count, validated again, when such a tool is registered.
                if matches!(error, ValidationError::InvalidActionApplication(_)) {
                    dead.push(i);
                    continue;
                }
                let details = DetailedError::from(error);
                let offset = details.source_locations.first().map_or(0, |label| label.loc.start);
                errors.push(parsed[i].error(offset, clause(&details.message), details.help));
            }
            for warning in result.validation_warnings() {
                if let Some(&i) = index.get(warning.policy_id()) {
                    let details = DetailedError::from(warning);
                    let offset = details.source_locations.first().map_or(0, |label| label.loc.start);
                    warnings.push((i, offset, clause(&details.message)));
                }
            }
        }
    }
    let order = |file: &str| sources.iter().position(|s| s.name == file);
    // Cedar repeats a mistake for every action it could concern; one message for a place is enough.
    errors.sort_by(|a, b| {
        let key = |e: &PolicyError| (order(&e.file), e.line, e.column);
        key(a).cmp(&key(b)).then_with(|| a.message.cmp(&b.message))
    });
    errors.dedup_by(|a, b| (&a.file, a.line, a.column) == (&b.file, b.line, b.column));
    Ok(Checked { parsed, schema, schema_text, dead, warnings, errors })
}

/// Parses policies that no schema describes, and says what each is called.
pub(crate) fn parse_bare(sources: &[Source]) -> Result<(PolicySet, HashMap<String, String>), Vec<PolicyError>> {
    with_room(|| {
        let (mut errors, mut policies, mut names) = (Vec::new(), Vec::new(), HashMap::new());
        for source in sources {
            for piece in split(&source.text) {
                match parse(source, piece, names.len()) {
                    Ok(one) if names.values().any(|name| *name == one.rule.name) => errors.push(one.error(
                        0,
                        format!("another rule is called `{}`", visible(&one.rule.name)),
                        Some("give each rule its own @id".to_owned()),
                    )),
                    Ok(one) => {
                        names.insert(AsRef::<str>::as_ref(one.policy.id()).to_owned(), one.rule.name.clone());
                        policies.push(one.policy);
                    }
                    Err(error) => errors.push(error),
                }
            }
        }
        let set = PolicySet::from_policies(policies).map_err(|e| vec![generated(e.to_string())])?;
        if errors.is_empty() { Ok((set, names)) } else { Err(errors) }
    })
    .unwrap_or_else(|error| Err(vec![error]))
}

/// Cedar starts its messages with ``for policy `x`, ``; the place says that already.
fn clause(message: &str) -> String {
    let text = match message.strip_prefix("for policy `") {
        Some(rest) => rest.split_once("`, ").map_or(message, |(_, clause)| clause),
        None => message,
    };
    visible(text)
}

fn generated(message: String) -> PolicyError {
    PolicyError { file: "registered tools".to_owned(), line: 1, column: 1, message, next: None }
}

pub(super) fn parse<'a>(source: &'a Source, piece: Piece<'a>, number: usize) -> Result<Parsed<'a>, PolicyError> {
    let at = |offset: usize, message: String, next: Option<String>| {
        let (line, column) = position(&source.text, piece.start + offset);
        PolicyError { file: source.name.clone(), line, column, message, next }
    };
    if piece.text.len() > RULE_BYTES {
        let message = format!("the rule has {} bytes, at most {RULE_BYTES} are read", piece.text.len());
        return Err(at(0, message, Some("write several rules instead of one".to_owned())));
    }
    // An id of our own, so that nothing an author writes can make two policies one.
    let id = PolicyId::new(format!("p{number}"));
    let policy = CedarPolicy::parse(Some(id), piece.text).map_err(|errors| {
        let details = DetailedError::from(&errors);
        let label = details.source_locations.first();
        let what = label.and_then(|l| l.label.as_deref()).map(|l| format!(": {l}")).unwrap_or_default();
        at(
            label.map_or(0, |l| l.loc.start),
            visible(&format!("{}{what}", details.message)),
            details.help.map(|help| visible(&help)),
        )
    })?;
    let rule = annotations(&policy, source, piece).map_err(|(key, message, next)| {
        let offset = piece.text.find(&format!("@{key}")).unwrap_or(0);
        at(offset, message, Some(next.to_owned()))
    })?;
    Ok(Parsed { source, piece, policy, rule: Arc::new(rule) })
}

type Misused = (String, String, &'static str);

fn annotations(policy: &CedarPolicy, source: &Source, piece: Piece<'_>) -> Result<Rule, Misused> {
    let misused = |key: &str, message: String, next: &'static str| Err((key.to_owned(), message, next));
    for (key, value) in policy.annotations() {
        if !ANNOTATIONS.contains(&key) {
            return misused(
                key,
                format!("unknown annotation `@{}`", visible(key)),
                "use @id, @reason, @next, @outcome, @approvers or @form",
            );
        }
        if value.trim().is_empty() {
            return misused(key, format!("`@{key}` is empty"), "write what it should say, or leave it out");
        }
    }
    let text = |key: &str| policy.annotation(key).map(str::to_owned);
    let outcome = match policy.annotation("outcome") {
        None => None,
        Some(_) if policy.effect() == Effect::Permit => {
            return misused(
                "outcome",
                "`@outcome` stands on a permit: a permit only widens, it cannot ask for anything".to_owned(),
                "permit it plainly and write a forbid with this @outcome beside it",
            );
        }
        Some(word) => match Ruling::from_word(word) {
            Some(ruling @ (Ruling::Review | Ruling::Constrain | Ruling::Fallback)) => Some(ruling),
            _ => {
                return misused(
                    "outcome",
                    format!("`{}` is not an outcome a forbid can ask for", visible(word)),
                    "use \"review\", \"constrain\" or \"fallback\"; a forbid without @outcome denies",
                );
            }
        },
    };
    let reason = text("reason");
    let mut obligations = Vec::new();
    if let Some(list) = policy.annotation("approvers") {
        if outcome != Some(Ruling::Review) {
            return misused(
                "approvers",
                "`@approvers` without `@outcome(\"review\")` asks nobody".to_owned(),
                "add @outcome(\"review\"), or leave @approvers out",
            );
        }
        let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
        if names.iter().any(String::is_empty) {
            return misused(
                "approvers",
                format!("`@approvers(\"{}\")` has an empty name", visible(list)),
                "list system user names separated by commas: @approvers(\"anna,ben\")",
            );
        }
        obligations.push(Obligation::Approvers { names });
    }
    match (policy.annotation("form"), outcome) {
        (form, Some(Ruling::Constrain)) => {
            let form = form.or(policy.annotation("next")).or(policy.annotation("reason"));
            obligations.push(Obligation::SaferForm { form: form.unwrap_or("a smaller or safer form").to_owned() });
        }
        (Some(_), _) => {
            return misused(
                "form",
                "`@form` without `@outcome(\"constrain\")` is never used".to_owned(),
                "add @outcome(\"constrain\"), or leave @form out",
            );
        }
        (None, _) => {}
    }
    let (line, _) = position(&source.text, piece.start);
    Ok(Rule {
        place: RulePlace { file: source.name.clone(), line },
        name: text("id").unwrap_or_else(|| format!("{}:{line}", source.name)),
        reason,
        next: text("next"),
        outcome,
        obligations,
    })
}

/// Whether a policy's scope matches an action (itself among its groups) on a resource: exactly when Cedar
/// says so. A policy too few in a slice would lose a forbid, and programs are not asked about the scope again.
pub(super) fn matches(
    policy: &CedarPolicy,
    action: &EntityUid,
    action_and_groups: &[EntityUid],
    resource: &EntityUid,
) -> bool {
    let acts = match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => uid == *action,
        ActionConstraint::In(uids) => uids.iter().any(|uid| action_and_groups.contains(uid)),
    };
    // A resource has no parents, so `in` is equality.
    let target = match policy.resource_constraint() {
        ResourceConstraint::Any => true,
        ResourceConstraint::Is(name) => name == *resource.type_name(),
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) => uid == *resource,
        ResourceConstraint::IsIn(name, uid) => name == *resource.type_name() && uid == *resource,
    };
    acts && target
}

/// `None` when the rule is for Cedar alone.
fn program(one: &Parsed<'_>) -> Option<Arc<Program>> {
    let test = translate(&one.policy)?;
    Some(Arc::new(Program { rule: Arc::clone(&one.rule), permit: one.policy.effect() == Effect::Permit, test }))
}

fn slice(parsed: &[Parsed<'_>], programs: &[Option<Arc<Program>>], members: &[usize]) -> Result<Slice, String> {
    let (mut hard, mut soft) = (PolicySet::new(), PolicySet::new());
    for one in members.iter().filter_map(|i| parsed.get(*i)) {
        let set = if one.rule.outcome.is_some() { &mut soft } else { &mut hard };
        set.add(one.policy.clone()).map_err(|e| e.to_string())?;
    }
    // One rule without a program leaves the whole slice to Cedar: two evaluators never share an answer.
    let programs = members.iter().map(|i| programs.get(*i)?.clone()).collect::<Option<Vec<_>>>().map(|mut all| {
        // As Cedar's answer is sorted: a record must read the same every time.
        all.sort_by(|a, b| a.rule.name.cmp(&b.rule.name));
        let (soft, hard) = all.into_iter().partition(|program| program.rule.outcome.is_some());
        Programs { hard, soft }
    });
    Ok(Slice { hard, soft, programs })
}
