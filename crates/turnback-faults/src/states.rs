//! The crashes that are tried, by number.
//!
//! A state is a crash after so many steps and a way it turned out. The first ways of each crash are made up:
//! everything lost, everything kept, names without content, content without names, each uncertain change alone
//! lost or alone kept, each write torn. All further ones are thrown with dice that are seeded with
//! the state's own number, so a number and a recording are enough to make a state again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::str::FromStr;

use crate::disk::{Dice, Disk, Kept, Names, Outcome, Pending};
use crate::image::Image;
use crate::recording::What;

/// Number of a state: steps before the crash, and the way it turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Steps before the crash.
    pub steps: usize,
    /// Which of the ways.
    pub way: usize,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.steps, self.way)
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (steps, way) = text.split_once('.').ok_or_else(|| format!("`{text}` is not steps.way"))?;
        let number = |part: &str| part.parse().map_err(|e| format!("`{text}`: {e}"));
        Ok(Self { steps: number(steps)?, way: number(way)? })
    }
}

/// All states of a disk, different ones only.
pub struct States<'d, 'r> {
    disk: &'d Disk<'r>,
    /// After how many steps it may crash.
    crashes: Vec<usize>,
    seed: u64,
    /// Which way is next, of each crash.
    ways: Vec<usize>,
    /// So many states were met; nothing new since so many of them.
    met: usize,
    barren: usize,
    dice: Dice,
    seen: HashSet<u64>,
    /// What counts as part of a state besides what is on disk: how much was promised by then.
    promised: Box<dyn Fn(usize) -> u64 + 'd>,
}

/// Ways in which every crash is met before any is met at random.
const FIRST: usize = 4;

/// After so many states of each crash without anything new there is nothing more to be found.
const BARREN: usize = 64;

impl<'d, 'r> States<'d, 'r> {
    /// Every crash of a disk; `promised` numbers what must hold after so many steps.
    pub fn of(disk: &'d Disk<'r>, seed: u64, promised: impl Fn(usize) -> u64 + 'd) -> Self {
        let (crashes, promised) = ((0..=disk.steps()).collect(), Box::new(promised));
        let ways = vec![0; disk.steps() + 1];
        Self { disk, crashes, seed, ways, met: 0, barren: 0, dice: Dice(seed), seen: HashSet::new(), promised }
    }

    /// Only crashes at which more is uncertain than on another disk.
    #[must_use]
    pub fn beyond(mut self, other: &Disk<'_>) -> Self {
        self.crashes.retain(|steps| {
            [Names::Ordered, Names::Apart].iter().any(|n| self.disk.pending(*steps, *n) != other.pending(*steps, *n))
        });
        self
    }

    /// The state of that number.
    #[must_use]
    pub fn image(&self, state: State) -> Image {
        Image(self.disk.found(state.steps, &self.outcome(state)))
    }

    fn outcome(&self, state: State) -> Outcome {
        let ordered = self.disk.pending(state.steps, Names::Ordered);
        let apart = self.disk.pending(state.steps, Names::Apart);
        let mut number = DefaultHasher::new();
        (self.seed, state.steps, state.way).hash(&mut number);
        let mut dice = Dice(number.finish());
        made_up(&ordered, &apart, state.way).unwrap_or_else(|| thrown(&ordered, &apart, &mut dice))
    }
}

impl Iterator for States<'_, '_> {
    type Item = (State, Image);

    /// First every crash in its plainest forms, then any crash in its next one: whoever stops early has met
    /// something of everything.
    fn next(&mut self) -> Option<Self::Item> {
        while !self.crashes.is_empty() && self.barren < BARREN * self.crashes.len() {
            let crash = match self.met < FIRST * self.crashes.len() {
                true => self.met % self.crashes.len(),
                false => self.dice.below(self.crashes.len()),
            };
            let steps = self.crashes[crash];
            let state = State { steps, way: self.ways[steps] };
            self.ways[steps] += 1;
            self.met += 1;
            self.barren += 1;
            let image = self.image(state);
            let mut hash = DefaultHasher::new();
            (self.promised)(state.steps).hash(&mut hash);
            for found in &image.0 {
                (&found.path, &found.identity, found.attributes.mode, found.attributes.modified).hash(&mut hash);
                match &found.what {
                    What::File(bytes) => bytes.hash(&mut hash),
                    What::Link(text) => text.hash(&mut hash),
                    What::Directory => {}
                }
            }
            if self.seen.insert(hash.finish()) {
                self.barren = 0;
                return Some((state, image));
            }
        }
        None
    }
}

fn all(pending: &Pending) -> BTreeSet<usize> {
    pending.names.iter().copied().collect()
}

fn content(pending: &Pending, keep: bool) -> BTreeMap<usize, Kept> {
    match keep {
        true => BTreeMap::new(),
        false => pending.content.keys().map(|file| (*file, Kept::These(BTreeSet::new()))).collect(),
    }
}

/// The ways everybody would think of.
fn made_up(ordered: &Pending, apart: &Pending, way: usize) -> Option<Outcome> {
    let none = BTreeSet::new;
    let plain = [
        (Names::Ordered, none(), false),
        (Names::Apart, none(), false),
        (Names::Ordered, none(), true),
        (Names::Apart, none(), true),
        (Names::Ordered, all(ordered), false),
        (Names::Ordered, all(ordered), true),
    ];
    if let Some((names, kept, keep)) = plain.get(way).cloned() {
        return Some(Outcome { names, kept, content: content(ordered, keep) });
    }
    let mut way = way - plain.len();
    // One change of names alone lost, and alone kept; a prefix of them.
    for keep in [true, false] {
        for (i, one) in apart.names.iter().enumerate() {
            for which in 0..3 {
                if way > 0 {
                    way -= 1;
                    continue;
                }
                let (names, kept) = match which {
                    0 => (Names::Apart, all(apart).into_iter().filter(|other| other != one).collect()),
                    1 => (Names::Apart, BTreeSet::from([*one])),
                    _ => (Names::Ordered, apart.names[..i].iter().copied().collect()),
                };
                return Some(Outcome { names, kept, content: content(ordered, keep) });
            }
        }
    }
    // One write alone lost, alone kept, torn in the middle.
    for (file, changes) in &ordered.content {
        for (i, one) in changes.iter().enumerate() {
            for which in 0..3 {
                if way > 0 {
                    way -= 1;
                    continue;
                }
                let others = changes.iter().copied().filter(|other| other != one).collect();
                let kept = match which {
                    0 => Kept::These(others),
                    1 => Kept::These(BTreeSet::from([*one])),
                    _ => Kept::Upto(i, 1),
                };
                let content = BTreeMap::from([(*file, kept)]);
                return Some(Outcome { names: Names::Ordered, kept: all(ordered), content });
            }
        }
    }
    None
}

/// Any way at all.
fn thrown(ordered: &Pending, apart: &Pending, dice: &mut Dice) -> Outcome {
    let (names, kept) = match dice.coin() {
        true => {
            let most = dice.below(ordered.names.len() + 1);
            (Names::Ordered, ordered.names[..most].iter().copied().collect())
        }
        false => (Names::Apart, apart.names.iter().copied().filter(|_| dice.coin()).collect()),
    };
    let mut content = BTreeMap::new();
    for (file, changes) in &ordered.content {
        let kept = match dice.below(5) {
            0 => continue,
            1 => Kept::These(changes.iter().copied().filter(|_| dice.coin()).collect()),
            2 => Kept::Upto(dice.below(changes.len()), dice.below(9)),
            _ => Kept::Torn(dice.next()),
        };
        content.insert(*file, kept);
    }
    Outcome { names, kept, content }
}
