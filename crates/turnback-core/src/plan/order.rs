//! The order of a plan's steps, and the cycle when there is none.

use std::collections::BTreeSet;

/// An order in which each step is behind everything it waits for, by places in the list: of those that could
/// come next always the one listed first.
///
/// # Errors
/// A [`cycle`].
pub fn order(after: &[BTreeSet<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut ordered = Vec::with_capacity(after.len());
    let mut done = vec![false; after.len()];
    let free = |waits: &BTreeSet<usize>, done: &[bool]| waits.iter().all(|on| done.get(*on).copied().unwrap_or(false));
    while ordered.len() < after.len() {
        let next = after
            .iter()
            .enumerate()
            .find(|(at, waits)| !done.get(*at).copied().unwrap_or(true) && free(waits, &done))
            .map(|(at, _)| at);
        let Some(next) = next else { return Err(cycle(after, &done)) };
        if let Some(done) = done.get_mut(next) {
            *done = true;
        }
        ordered.push(next);
    }
    Ok(ordered)
}

/// Steps that wait for each other in a ring, the first one again at the end. Every step that is not `done`
/// waits for one that is not.
pub fn cycle(after: &[BTreeSet<usize>], done: &[bool]) -> Vec<usize> {
    let open = |at: usize| !done.get(at).copied().unwrap_or(true);
    let mut path: Vec<usize> = Vec::new();
    let mut at = (0..after.len()).find(|at| open(*at));
    while let Some(here) = at {
        if let Some(start) = path.iter().position(|seen| *seen == here) {
            let mut ring = path.split_off(start);
            ring.push(here);
            return ring;
        }
        path.push(here);
        at = after.get(here).into_iter().flatten().copied().find(|on| open(*on));
    }
    path
}

/// Whether `from` waits for `to`, directly or through others.
pub fn reaches(after: &[BTreeSet<usize>], from: usize, to: usize) -> bool {
    let mut todo = vec![from];
    let mut seen = BTreeSet::new();
    while let Some(at) = todo.pop() {
        for on in after.get(at).into_iter().flatten() {
            if *on == to {
                return true;
            }
            if seen.insert(*on) {
                todo.push(*on);
            }
        }
    }
    false
}
