//! Undo among many: which runs may be taken back together, in which order, and what stands in the way.
//!
//! Owns the dependency graph between runs and the legality rule. Invariant `NO-CLOBBER`: a set `U` is
//! undone only when every place it touched was last touched from inside `U` and nothing that depends
//! on such a place lies outside; later work by others is never overwritten. Never looks at the world:
//! a place changed behind Turnback's back is found by the domain when it stages the undo, and comes
//! back here as a [`Conflict`] to be explained ([`attribute`]).
//!
//! Edges from a run to a later one:
//! * *write after write*: both touch the same place ([`Touch::meets`]);
//! * *structure*: one touches a place inside a place that the other made, removed or reshaped (a path
//!   under a directory, rows of a table);
//! * *read after write*: the later one read what the earlier one touched. It does not block; the
//!   readers are listed ([`readers`]).
//!
//! A run and the undo of it cancel out: to anybody before both, neither happened.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use crate::effect::Touch;
use crate::names::{ResourceName, RunId};
use crate::rollback::{Blocker, Conflict};
use crate::tool::Kind;

/// Whether a run's effect is in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Committed, and not undone.
    Live,
    /// Committed, and not in the world: that run took it away last, by undoing it, or by undoing an
    /// undo of an undo of it.
    Undone {
        /// The run that took it away.
        by: RunId,
    },
    /// Not committed: a read, a refusal, a run still under way or in doubt.
    NoEffect,
}

/// One run in the dependency graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The run.
    pub run: RunId,
    /// Its place in the journal's order: of its commit, or of its end when it committed nothing.
    pub order: u64,
    /// The resource it acted on.
    pub resource: ResourceName,
    /// That resource's kind.
    pub kind: Kind,
    /// Whether its effect is in the world.
    pub standing: Standing,
    /// Everything it touched.
    pub touches: Vec<Touch>,
    /// Everything it read: places, or prefixes of them that end before a space or slash; the empty
    /// text or `.` for all of the resource.
    pub reads: Vec<String>,
    /// The runs it counters, when it is an undo.
    pub undoes: Vec<RunId>,
}

/// A legal undo, in the order it must happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoOrder {
    /// One part for each resource, the one with the latest run first; inside it the latest run first.
    /// Latest first is reverse topological: every edge leads from an earlier run to a later one.
    pub parts: Vec<(ResourceName, Vec<RunId>)>,
}

/// The order in which to undo `wanted`.
///
/// # Errors
/// Every [`Blocker`], in journal order: runs that cannot be undone at all (unknown, without effect,
/// undone already; the place is the run's id then), and later runs outside `wanted` that touched the
/// same places or depend on them.
pub fn plan(runs: &[Node], wanted: &BTreeSet<RunId>) -> Result<UndoOrder, Vec<Blocker>> {
    let graph = Graph::new(runs, wanted);
    let members = graph.members()?;
    let blockers = graph.blockers(&members);
    if !blockers.is_empty() {
        return Err(blockers);
    }
    let mut parts: Vec<(ResourceName, Vec<RunId>)> = Vec::new();
    for node in members.into_iter().rev() {
        match parts.iter_mut().find(|(resource, _)| *resource == node.resource) {
            Some((_, runs)) => runs.push(node.run),
            None => parts.push((node.resource.clone(), vec![node.run])),
        }
    }
    Ok(UndoOrder { parts })
}

/// `wanted` widened by every run that stands in its way, until nothing does. For a person to agree to,
/// never to be done unasked.
///
/// # Errors
/// The [`Blocker`]s that no widening removes: runs that cannot be undone at all.
pub fn closure(runs: &[Node], wanted: &BTreeSet<RunId>) -> Result<BTreeSet<RunId>, Vec<Blocker>> {
    let mut wide = wanted.clone();
    loop {
        let graph = Graph::new(runs, &wide);
        let members = graph.members()?;
        let mut wider = wide.clone();
        for blocker in graph.blockers(&members) {
            // A run brought back by undoing its undo stands in the way of what lies before it and
            // cannot be in the set together with that undo.
            match blocker.by {
                Some(run) if graph.node(run).is_some_and(|node| node.standing == Standing::Live) => {
                    wider.insert(run);
                }
                _ => return Err(vec![blocker]),
            }
        }
        if wider.len() == wide.len() {
            return Ok(wide);
        }
        wide = wider;
    }
}

/// Later runs outside `undone` that read a place one of `undone` touched: whoever relied on them should
/// know. In journal order; runs that were undone themselves are left out.
pub fn readers(runs: &[Node], undone: &BTreeSet<RunId>) -> Vec<RunId> {
    // The first moment at which each place held what is taken back.
    let mut touched: HashMap<&ResourceName, HashMap<&str, u64>> = HashMap::new();
    for node in runs.iter().filter(|node| undone.contains(&node.run)) {
        for touch in &node.touches {
            let first = touched.entry(&node.resource).or_default().entry(&touch.place).or_insert(node.order);
            *first = node.order.min(*first);
        }
    }
    let mut found: Vec<&Node> = runs
        .iter()
        .filter(|node| !undone.contains(&node.run) && !matches!(node.standing, Standing::Undone { .. }))
        .filter(|node| {
            touched.get(&node.resource).is_some_and(|places| {
                places.iter().any(|(place, order)| {
                    node.order > *order && node.reads.iter().any(|read| covers(read, place) || covers(place, read))
                })
            })
        })
        .collect();
    found.sort_by_key(|node| node.order);
    found.into_iter().map(|node| node.run).collect()
}

/// Names the later run that explains each conflict, the latest one when there are several, or leaves
/// it foreign: somebody wrote who did not come through Turnback.
///
/// `later` are the runs on the same resource that committed after what is to be undone, without the
/// runs to be undone themselves.
pub fn attribute(conflicts: Vec<Conflict>, later: &[Node]) -> Vec<Blocker> {
    conflicts
        .into_iter()
        .map(|conflict| {
            let place =
                Touch { place: conflict.place.clone(), fields: conflict.fields.clone(), before: None, after: None };
            let by = later
                .iter()
                .filter(|node| node.standing == Standing::Live)
                .filter(|node| {
                    node.touches.iter().any(|touch| touch.meets(&place) || depends(node.kind, &place, touch))
                })
                .max_by_key(|node| node.order)
                .map(|node| node.run);
            Blocker { conflict, by }
        })
        .collect()
}

/// Whether `place` is what `read` names: equal, or `read` is a prefix that ends before a space or slash.
fn covers(read: &str, place: &str) -> bool {
    read.is_empty()
        || read == "."
        || place.strip_prefix(read).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ' ']))
}

/// Whether `inner` lies inside `outer`: a path under a directory, a row of a table.
fn inside(kind: Kind, outer: &str, inner: &str) -> bool {
    match kind {
        Kind::Files => inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/')),
        Kind::Sqlite => {
            table(outer).is_some_and(|table| inner.strip_prefix(table).is_some_and(|rest| rest.starts_with(' ')))
        }
    }
}

/// The table of the place ``table `orders` ``.
fn table(place: &str) -> Option<&str> {
    place.strip_prefix("table `")?.strip_suffix('`')
}

/// Whether a touch decides what can exist inside its place: it makes or removes a directory, or does
/// anything at all to a table's schema.
fn shapes(kind: Kind, touch: &Touch) -> bool {
    match kind {
        Kind::Files => touch.before.is_none() || touch.after.is_none(),
        Kind::Sqlite => table(&touch.place).is_some(),
    }
}

/// Whether there is a structural edge between two touches.
fn depends(kind: Kind, one: &Touch, other: &Touch) -> bool {
    (shapes(kind, one) && inside(kind, &one.place, &other.place))
        || (shapes(kind, other) && inside(kind, &other.place, &one.place))
}

/// Touches of one resource by place, so that the cost of a plan follows what it touches and not the
/// length of history.
type Places<'a> = BTreeMap<&'a str, Vec<(&'a Node, &'a Touch)>>;

struct Graph<'a> {
    nodes: HashMap<RunId, &'a Node>,
    places: HashMap<&'a ResourceName, Places<'a>>,
    wanted: &'a BTreeSet<RunId>,
    /// Everything that undos inside the wanted set counter.
    countered_within: BTreeSet<RunId>,
}

impl<'a> Graph<'a> {
    fn new(runs: &'a [Node], wanted: &'a BTreeSet<RunId>) -> Self {
        let mut places: HashMap<&ResourceName, Places<'_>> = HashMap::new();
        for node in runs.iter().filter(|node| node.standing != Standing::NoEffect) {
            let places = places.entry(&node.resource).or_default();
            for touch in &node.touches {
                places.entry(&touch.place).or_default().push((node, touch));
            }
        }
        let inside = runs.iter().filter(|node| wanted.contains(&node.run));
        let countered_within = inside.flat_map(|node| node.undoes.iter().copied()).collect();
        Self { nodes: runs.iter().map(|node| (node.run, node)).collect(), places, wanted, countered_within }
    }

    fn node(&self, run: RunId) -> Option<&'a Node> {
        self.nodes.get(&run).copied()
    }

    /// The wanted runs in journal order, when every one of them has an effect that can be undone.
    fn members(&self) -> Result<Vec<&'a Node>, Vec<Blocker>> {
        let mut members = Vec::new();
        let mut blockers = Vec::new();
        for run in self.wanted {
            let mut block = |why: String, by| {
                blockers.push(Blocker { conflict: Conflict { place: run.to_string(), fields: Vec::new(), why }, by });
            };
            match self.node(*run).map(|node| (node, node.standing)) {
                Some((node, Standing::Live)) => members.push(node),
                Some((_, Standing::Undone { by })) => block(format!("is already undone by {by}"), Some(by)),
                Some((_, Standing::NoEffect)) => block("did not commit anything".to_owned(), None),
                None => block("is not known".to_owned(), None),
            }
        }
        members.sort_by_key(|node| node.order);
        if blockers.is_empty() { Ok(members) } else { Err(blockers) }
    }

    /// Upholds `NO-CLOBBER`: every later touch outside the set that meets a touch inside it or depends
    /// on it, one blocker for each place and run.
    fn blockers(&self, members: &[&'a Node]) -> Vec<Blocker> {
        let mut seen = BTreeSet::new();
        let mut found: Vec<(u64, Blocker)> = Vec::new();
        for member in members {
            let Some(places) = self.places.get(&member.resource) else { continue };
            for touch in &member.touches {
                for (other, theirs) in near(member.kind, places, &touch.place) {
                    if other.order <= member.order || self.wanted.contains(&other.run) || self.cancelled(other, member)
                    {
                        continue;
                    }
                    let why = if touch.meets(theirs) {
                        "changed since"
                    } else if depends(member.kind, touch, theirs) {
                        "depends on what is undone"
                    } else {
                        continue;
                    };
                    if seen.insert((other.run, theirs.place.as_str())) {
                        let conflict = Conflict {
                            place: theirs.place.clone(),
                            fields: theirs.fields.clone(),
                            why: format!("{why}, by run {}", other.run),
                        };
                        found.push((other.order, Blocker { conflict, by: Some(other.run) }));
                    }
                }
            }
        }
        found.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.conflict.place.cmp(&y.conflict.place)));
        found.into_iter().map(|(_, blocker)| blocker).collect()
    }

    /// Whether `other` and what counters it both came after `member` and stay: then to `member`
    /// neither happened.
    fn cancelled(&self, other: &Node, member: &Node) -> bool {
        if let Standing::Undone { by } = other.standing {
            // Undoing the undo in this very set brings `other` back, on top of `member`. After a chain
            // of undos of undos, what took it away last need not be the run that counters it.
            return !self.wanted.contains(&by) && !self.countered_within.contains(&other.run);
        }
        !other.undoes.is_empty()
            && other.undoes.iter().all(|run| self.node(*run).is_some_and(|undone| undone.order > member.order))
    }
}

/// All touches at, inside and around a place.
fn near<'p, 'a>(
    kind: Kind,
    places: &'p Places<'a>,
    place: &str,
) -> impl Iterator<Item = (&'a Node, &'a Touch)> + use<'p, 'a> {
    let mut found: Vec<&'p Vec<(&'a Node, &'a Touch)>> = Vec::new();
    found.extend(places.get(place));
    let below = match kind {
        Kind::Files => Some(format!("{place}/")),
        Kind::Sqlite => table(place).map(|table| format!("{table} ")),
    };
    if let Some(below) = below {
        let range = places.range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded));
        found.extend(range.take_while(|(other, _)| other.starts_with(&below)).map(|(_, touches)| touches));
    }
    match kind {
        Kind::Files => {
            let parents = place.match_indices('/').filter_map(|(at, _)| place.get(..at));
            found.extend(parents.filter_map(|parent| places.get(parent)));
        }
        Kind::Sqlite => {
            // Table names may hold spaces, so every prefix that ends before one could be the table.
            let tables = place.match_indices(' ').filter_map(|(at, _)| place.get(..at));
            found.extend(tables.filter_map(|table| places.get(format!("table `{table}`").as_str())));
        }
    }
    found.into_iter().flatten().copied()
}

#[cfg(test)]
mod tests;
