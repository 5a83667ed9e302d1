//! Our Maglev table against tables that Cilium 1.16.5's own package computed, and against the properties that the
//! documents promise.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use shakedown_core::Seed;
use shakedown_words::maglev_table::{
    DEFAULT_SEED, DEFAULT_SIZE, DOCUMENTED_SIZES, Disruption, HashSeed, Table, TableError, worst_disruption,
};

/// A table as Cilium 1.16.5 computed it: its first slots, its shares, and the hash over all slots as 32 bit
/// little-endian places in the sorted list of names.
#[derive(Deserialize)]
struct Golden {
    seed: String,
    size: u32,
    backends: BTreeMap<String, u16>,
    first: Vec<u16>,
    counts: BTreeMap<String, usize>,
    sha256: String,
}

fn golden() -> Vec<Golden> {
    serde_json::from_str(include_str!("../../../fixtures/recorded/maglev/cilium-1.16.5-tables.json")).unwrap()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("10.0.{}.{}:8080", n / 200, n % 200 + 1)).collect()
}

fn seeds(count: u64) -> impl Iterator<Item = HashSeed> {
    use rand_core::RngCore;
    (0..count).map(|n| {
        let mut bytes = [0; 12];
        Seed(n).stream("maglev").fill_bytes(&mut bytes);
        HashSeed::new(bytes)
    })
}

#[test]
fn agrees_with_cilium_slot_by_slot() {
    let all = golden();
    assert!(all.len() >= 40);
    for want in all {
        let seed: HashSeed = want.seed.parse().unwrap();
        let table = Table::new(&want.backends, want.size, seed).unwrap();
        let what = format!("{:?} at {} with {seed}", want.backends.keys(), want.size);
        assert_eq!(table.slots[..want.first.len()], want.first, "{what}");
        let shares: BTreeMap<String, usize> =
            table.shares().into_iter().filter(|(_, n)| *n > 0).map(|(k, v)| (k.to_owned(), v)).collect();
        assert_eq!(shares, want.counts, "{what}");
        let bytes: Vec<u8> = table.slots.iter().flat_map(|slot| u32::from(*slot).to_le_bytes()).collect();
        let hash: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hash, want.sha256, "{what}");
    }
}

#[test]
fn another_seed_is_another_table() {
    let default: HashSeed = DEFAULT_SEED.parse().unwrap();
    let one = Table::of_equals(names(4), 1021, default).unwrap();
    let other = Table::of_equals(names(4), 1021, HashSeed::new([1; 12])).unwrap();
    let same = (0..1021).filter(|slot| one.backend(*slot) == other.backend(*slot)).count();
    assert!(same < 400, "{same} of 1021 slots are equal by chance only");
}

/// The bound of the documents: at most 5 % of the surviving backends' slots move, over 150 seeds at the default size.
#[test]
fn one_backend_more_or_less_disturbs_few_slots() {
    for count in [4, 10] {
        let worst = worst_disruption(&names(count), count / 2, DEFAULT_SIZE, seeds(150)).unwrap();
        assert!(worst <= 0.05, "{count} backends: {worst}");
    }
}

#[test]
fn what_is_no_table_is_refused() {
    let seed = HashSeed::new([0; 12]);
    assert_eq!(Table::of_equals(Vec::<String>::new(), 251, seed), Err(TableError::NoBackend));
    assert_eq!(Table::of_equals(names(2), 250, seed), Err(TableError::Size(250)));
    assert_eq!(Table::of_equals(names(2), 0, seed), Err(TableError::Size(0)));
    assert_eq!(Table::of_equals(names(252), 251, seed), Err(TableError::TooMany(252, 251)));
    let weightless = BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), 1)]);
    assert_eq!(Table::new(&weightless, 251, seed), Err(TableError::Weightless("a".to_owned())));
    assert!("JLfvgnHc2kaSUFa".parse::<HashSeed>().is_err());
    assert!("AAAA".parse::<HashSeed>().is_err());
}

#[test]
fn the_documented_sizes_are_all_possible() {
    for size in DOCUMENTED_SIZES {
        let table = Table::of_equals(names(3), size, DEFAULT_SEED.parse().unwrap()).unwrap();
        assert_eq!(table.slots.len(), size as usize);
    }
}

proptest! {
    /// Equal weights: turns alternate strictly, so no two shares differ by more than one slot.
    #[test]
    fn equals_share_equally(count in 1_usize..40, seed: [u8; 12]) {
        let table = Table::of_equals(names(count), 1021, HashSeed::new(seed)).unwrap();
        let shares = table.shares();
        let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
        prop_assert!(most - least <= 1);
        prop_assert_eq!(shares.values().sum::<usize>(), 1021);
    }

    /// The order in which backends are told does not matter: every node must come to the same table.
    #[test]
    fn the_order_does_not_matter(count in 1_usize..20, seed: [u8; 12], turn in 0_usize..20) {
        let mut told = names(count);
        let one = Table::of_equals(told.clone(), 251, HashSeed::new(seed)).unwrap();
        told.rotate_left(turn % count);
        told.reverse();
        prop_assert_eq!(one, Table::of_equals(told, 251, HashSeed::new(seed)).unwrap());
    }

    /// A weight decides the share, to within one slot a backend and turn.
    #[test]
    fn weights_decide_shares(weights in proptest::collection::vec(50_u16..150, 2..6), seed: [u8; 12]) {
        let named: BTreeMap<String, u16> = names(weights.len()).into_iter().zip(weights.iter().copied()).collect();
        let table = Table::new(&named, 4093, HashSeed::new(seed)).unwrap();
        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        for (name, share) in table.shares() {
            let fair = f64::from(named[name]) / sum * 4093.0;
            prop_assert!((share as f64 - fair).abs() <= weights.len() as f64 + 1.0, "{name}: {share} for {fair}");
        }
    }

    /// Going away and coming back leads to the table of before, and what moves is counted the same in both directions.
    #[test]
    fn a_disruption_is_symmetric(count in 2_usize..8, gone in 0_usize..8, seed: [u8; 12]) {
        let all = names(count);
        let rest: Vec<String> = all.iter().enumerate().filter(|(n, _)| *n != gone % count).map(|(_, b)| b.clone()).collect();
        let whole = Table::of_equals(all, 251, HashSeed::new(seed)).unwrap();
        let part = Table::of_equals(rest, 251, HashSeed::new(seed)).unwrap();
        prop_assert_eq!(Disruption::between(&whole, &part).moved, Disruption::between(&part, &whole).moved);
        prop_assert_eq!(Disruption::between(&whole, &whole).moved, 0);
    }
}
