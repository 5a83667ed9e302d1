//! Maglev's lookup table, written from the published algorithm: D. E. Eisenbud and others, "Maglev: a fast and reliable
//! software network load balancer", NSDI 2016, section 3.4.
//!
//! Each backend prefers the slots in an order of its own (a first slot and a stride, both from a hash of its name); the
//! backends take turns, in the order of their names, and each takes the first slot of its order that is still free.
//! What the paper leaves open is filled in as Cilium 1.16 does it: the hash is MurmurHash3 of `address:port`, seeded
//! with the first four bytes of a 12-byte seed; where the mean weight is above one, a backend whose share is used up
//! lets the next one have its turn.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::murmur3::hash128;

/// The table sizes that Cilium documents: primes, since every stride must reach every slot.
pub const DOCUMENTED_SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071];

/// Cilium's size unless told otherwise.
pub const DEFAULT_SIZE: u32 = 16381;

/// Weight of a backend whose weight nobody set.
pub const DEFAULT_WEIGHT: u16 = 100;

/// Cilium's seed unless told otherwise.
pub const DEFAULT_SEED: &str = "JLfvgnHc2kaSUFaI";

/// The seed of a cluster's tables: 12 bytes, base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HashSeed([u8; 12]);

impl HashSeed {
    /// From its bytes.
    pub const fn new(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The part that places backends; the other eight bytes hash packets.
    fn for_names(self) -> u32 {
        u32::from_be_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl fmt::Display for HashSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl FromStr for HashSeed {
    type Err = TableError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = BASE64_STANDARD.decode(text).map_err(|e| TableError::Seed(text.to_owned(), e.to_string()))?;
        let length = bytes.len();
        let bytes = bytes.try_into().map_err(|_| TableError::Seed(text.to_owned(), format!("{length} bytes")))?;
        Ok(Self(bytes))
    }
}

impl Serialize for HashSeed {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HashSeed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// No table can be made of this.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TableError {
    /// Without backends there is nothing to choose.
    #[error("a table needs a backend")]
    NoBackend,
    /// A stride must reach every slot.
    #[error("table size {0} is no prime above 2: some backends would never reach some slots")]
    Size(u32),
    /// Each backend must be able to have a slot.
    #[error("{0} backends do not fit into {1} slots")]
    TooMany(usize, u32),
    /// A weight of zero has no turn.
    #[error("backend {0} has weight 0")]
    Weightless(String),
    /// Not 12 bytes in base64.
    #[error("hash seed `{0}` is not 12 bytes in base64: {1}")]
    Seed(String, String),
}

/// A lookup table: for each slot the place of its backend in the sorted list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Names, sorted.
    pub backends: Vec<String>,
    /// One entry a slot.
    pub slots: Vec<u16>,
}

/// Where a backend begins and how far it steps.
pub fn offset_and_stride(name: &str, seed: HashSeed, size: u32) -> (u32, u32) {
    let (h1, h2) = hash128(name.as_bytes(), seed.for_names());
    // Both remainders are below `size`, so they fit.
    ((h1 % u64::from(size)) as u32, (h2 % u64::from(size - 1)) as u32 + 1)
}

impl Table {
    /// The table of these backends and their weights.
    ///
    /// # Errors
    /// [`TableError`] where no table exists.
    pub fn new(weights: &BTreeMap<String, u16>, size: u32, seed: HashSeed) -> Result<Self, TableError> {
        check(weights, size)?;
        let orders: Vec<_> = weights.keys().map(|name| offset_and_stride(name, seed, size)).collect();
        let turns = Turns::new(weights.values().copied().collect());
        Ok(Self { backends: weights.keys().cloned().collect(), slots: fill(&orders, turns, size) })
    }

    /// The table of backends of equal weight.
    ///
    /// # Errors
    /// [`TableError`] where no table exists.
    pub fn of_equals<N: Into<String>>(
        names: impl IntoIterator<Item = N>,
        size: u32,
        seed: HashSeed,
    ) -> Result<Self, TableError> {
        Self::new(&names.into_iter().map(|name| (name.into(), DEFAULT_WEIGHT)).collect(), size, seed)
    }

    /// How many slots each backend has.
    pub fn shares(&self) -> BTreeMap<&str, usize> {
        let mut shares: BTreeMap<&str, usize> = self.backends.iter().map(|name| (name.as_str(), 0)).collect();
        for name in self.slots.iter().filter_map(|slot| self.backends.get(usize::from(*slot))) {
            *shares.entry(name).or_default() += 1;
        }
        shares
    }

    /// The backend of a slot.
    pub fn backend(&self, slot: usize) -> Option<&str> {
        self.slots.get(slot).and_then(|at| self.backends.get(usize::from(*at))).map(String::as_str)
    }

    /// Slots that changed from one backend to another although both tables have both: what Maglev keeps small.
    pub fn moved_between_survivors(&self, after: &Table) -> usize {
        (0..self.slots.len().max(after.slots.len()))
            .filter(|slot| match (self.backend(*slot), after.backend(*slot)) {
                (Some(old), Some(new)) => old != new && after.has(old) && self.has(new),
                _ => true,
            })
            .count()
    }

    /// Slots of a backend that is in both tables.
    pub fn held_by_survivors(&self, after: &Table) -> usize {
        (0..self.slots.len()).filter(|slot| self.backend(*slot).is_some_and(|name| after.has(name))).count()
    }

    fn has(&self, name: &str) -> bool {
        self.backends.binary_search_by(|have| have.as_str().cmp(name)).is_ok()
    }
}

fn check(weights: &BTreeMap<String, u16>, size: u32) -> Result<(), TableError> {
    if weights.is_empty() {
        return Err(TableError::NoBackend);
    }
    if size < 3 || (2..).take_while(|d| d * d <= size).any(|d| size.is_multiple_of(d)) {
        return Err(TableError::Size(size));
    }
    if weights.len() > size as usize || weights.len() > usize::from(u16::MAX) {
        return Err(TableError::TooMany(weights.len(), size));
    }
    match weights.iter().find(|(_, weight)| **weight == 0) {
        Some((name, _)) => Err(TableError::Weightless(name.clone())),
        None => Ok(()),
    }
}

/// Fills the slots: whose turn it is takes its next free slot, until none is free.
fn fill(orders: &[(u32, u32)], mut turns: Turns, size: u32) -> Vec<u16> {
    let mut slots: Vec<Option<u16>> = vec![None; size as usize];
    let mut next: Vec<u32> = orders.iter().map(|(offset, _)| *offset).collect();
    for turn in 0..u64::from(size) {
        let who = turns.next(turn);
        let stride = orders[who].1;
        let slot = loop {
            let slot = next[who] as usize;
            next[who] = ((u64::from(next[who]) + u64::from(stride)) % u64::from(size)) as u32;
            if slots[slot].is_none() {
                break slot;
            }
        };
        slots[slot] = Some(who as u16);
    }
    slots.into_iter().flatten().collect()
}

/// Whose turn it is.
struct Turns {
    weights: Vec<u16>,
    sum: u64,
    /// What a backend has used of its share; `None` where weights play no part.
    used: Option<Vec<f64>>,
}

impl Turns {
    fn new(weights: Vec<u16>) -> Self {
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let count = weights.len();
        let weighted = sum / count as u64 > 1;
        let used = weighted.then(|| weights.iter().map(|w| f64::from(*w) / count as f64).collect());
        Self { weights, sum, used }
    }

    fn next(&mut self, turn: u64) -> usize {
        let count = self.weights.len();
        let mut who = (turn % count as u64) as usize;
        let Some(used) = &mut self.used else { return who };
        // The comparison is made in whole numbers, as Cilium makes it; the fraction stays in the account.
        while (turn + 1) * u64::from(self.weights[who]) < used[who] as u64 {
            who = (who + 1) % count;
        }
        used[who] += self.sum as f64;
        who
    }
}

/// What one backend's coming or going costs the others.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Disruption {
    /// Slots that went from one surviving backend to another.
    pub moved: usize,
    /// Slots that surviving backends held before.
    pub held: usize,
}

impl Disruption {
    /// Between two tables of one size.
    pub fn between(before: &Table, after: &Table) -> Self {
        Self { moved: before.moved_between_survivors(after), held: before.held_by_survivors(after) }
    }

    /// Share of the survivors' slots that moved, 0 to 1.
    pub fn share(self) -> f64 {
        if self.held == 0 { 0.0 } else { self.moved as f64 / self.held as f64 }
    }
}

/// The largest disruption that `seeds` see when one of `names` is missing, and when it comes back.
///
/// # Errors
/// [`TableError`] where no table exists, such as with a single name.
pub fn worst_disruption(
    names: &[String],
    missing: usize,
    size: u32,
    seeds: impl IntoIterator<Item = HashSeed>,
) -> Result<f64, TableError> {
    let mut worst = 0.0_f64;
    for seed in seeds {
        let whole = Table::of_equals(names.iter().cloned(), size, seed)?;
        let rest = names.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, name)| name.clone());
        let part = Table::of_equals(rest, size, seed)?;
        worst = worst.max(Disruption::between(&whole, &part).share()).max(Disruption::between(&part, &whole).share());
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of the paper (its table 1): seven slots, three backends, then the second one goes.
    #[test]
    fn the_papers_own_example() {
        let turns = |count| Turns::new(vec![1; count]);
        assert_eq!(fill(&[(3, 4), (0, 2), (3, 1)], turns(3), 7), [1, 0, 1, 0, 2, 2, 0]);
        assert_eq!(fill(&[(3, 4), (3, 1)], turns(2), 7), [0, 0, 0, 0, 1, 1, 1]);
    }
}
