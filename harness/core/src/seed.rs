//! One seed a run. Every random choice draws from a stream that the seed and the choice's name fix, so that adding
//! a choice does not disturb the others.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The seed of a run. Printed with the command that repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seed(pub u64);

impl Seed {
    /// A random stream for one purpose.
    pub fn stream(self, purpose: &str) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(self.0.to_le_bytes());
        hash.update(purpose.as_bytes());
        ChaCha8Rng::from_seed(hash.finalize().into())
    }

    /// A seed for a part of the run.
    #[must_use]
    pub fn derive(self, purpose: &str) -> Seed {
        Seed(self.stream(purpose).next_u64())
    }

    /// Puts the items in an order that the seed and the purpose fix (Fisher-Yates).
    pub fn shuffle<T>(self, purpose: &str, items: &mut [T]) {
        let mut stream = self.stream(purpose);
        for last in (1..items.len()).rev() {
            let bound = last as u64 + 1;
            // The bias of the remainder is below 2^-40 for any list of ours, and the order stays reproducible.
            let at = (stream.next_u64() % bound) as usize;
            items.swap(last, at);
        }
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Seed {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Seed)
    }
}
