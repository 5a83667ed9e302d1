//! MurmurHash3, the 128 bit variant for 64 bit machines, from its published description: the hash that places the
//! backends of a Maglev table.
//!
//! Not for anything that an attacker may choose.

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

/// Both halves of the hash of `data`.
pub fn hash128(data: &[u8], seed: u32) -> (u64, u64) {
    let mut h1 = u64::from(seed);
    let mut h2 = u64::from(seed);
    let mut blocks = data.chunks_exact(16);
    for block in &mut blocks {
        let (low, high) = block.split_at(8);
        h1 ^= mix_low(little_endian(low));
        h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
        h2 ^= mix_high(little_endian(high));
        h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    // Zero mixes to zero, so a tail that is absent needs no case of its own.
    let tail = blocks.remainder();
    let (low, high) = tail.split_at(tail.len().min(8));
    h2 ^= mix_high(little_endian(high));
    h1 ^= mix_low(little_endian(low));

    let length = data.len() as u64;
    h1 ^= length;
    h2 ^= length;
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    h1 = finish(h1);
    h2 = finish(h2);
    h1 = h1.wrapping_add(h2);
    h2 = h2.wrapping_add(h1);
    (h1, h2)
}

/// Up to eight bytes as a number, the first byte lowest.
fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

fn mix_low(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_high(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn finish(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that implementations of the hash publish for these texts.
    #[test]
    fn known_answers() {
        let cases: &[(&str, u32, (u64, u64))] = &[
            ("", 0, (0, 0)),
            ("hello world", 1234, (0x1629_cce7_05a7_069c, 0x316c_1fbd_953a_aecd)),
            ("lorem ipsum dolor sit amet", 500, (0x188f_69f0_abbd_67de, 0x1b0e_eb31_b4c0_0cb6)),
            ("The quick brown fox jumps over the lazy dog", 0, (0xe34b_bc7b_bc07_1b6c, 0x7a43_3ca9_c49a_9347)),
            ("The quick brown fox jumps over the lazy dog.", 0xd09, (0x5e0f_d714_b316_9ae6, 0x2f36_e811_c153_5dc7)),
        ];
        for (text, seed, hash) in cases {
            assert_eq!(hash128(text.as_bytes(), *seed), *hash, "{text:?} with seed {seed}");
        }
    }

    /// Every length of tail takes part in the hash with every one of its bytes.
    #[test]
    fn each_byte_counts() {
        for length in 1..=33_usize {
            let data: Vec<u8> = (0..length as u8).collect();
            let whole = hash128(&data, 7);
            for at in 0..length {
                let mut other = data.clone();
                other[at] ^= 0x80;
                assert_ne!(hash128(&other, 7), whole, "byte {at} of {length}");
            }
        }
    }
}
