//! SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012), for keys that are whole.
//!
//! Owns the hash that places keys. Promises the values of the crate `siphasher`, which the tests hold it against. That
//! one takes a key in pieces and keeps what is left of each, which costs a look-up 65 instructions more; this one reads
//! words where they stand and is inlined.
#![forbid(unsafe_code)]

/// The hash of `key` under `seed`, both little-endian as in the paper.
#[inline]
pub(super) fn siphash_1_3(seed: &[u8; 16], key: &[u8]) -> u64 {
    let mut state = State::new(seed);
    let (words, rest) = key.as_chunks::<8>();
    for word in words {
        state.mix(u64::from_le_bytes(*word));
    }
    // The last word has what is left, and in its upper octet the length modulo 256.
    state.mix(last_octets(key, rest) | ((key.len() as u64) << 56));
    state.finish()
}

/// Fewer than eight octets as a number; they are the last of `key`.
#[inline]
fn last_octets(key: &[u8], rest: &[u8]) -> u64 {
    match key.last_chunk::<8>() {
        // One read and a shift: what stands before them falls out.
        Some(last) if !rest.is_empty() => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
        _ => rest.iter().rev().fold(0, |number, octet| (number << 8) | u64::from(*octet)),
    }
}

struct State([u64; 4]);

impl State {
    #[inline]
    fn new(seed: &[u8; 16]) -> Self {
        let (halves, _) = seed.as_chunks();
        let [low, high] = [0, 1].map(|n| u64::from_le_bytes(halves[n]));
        Self([
            low ^ 0x736f_6d65_7073_6575,
            high ^ 0x646f_7261_6e64_6f6d,
            low ^ 0x6c79_6765_6e65_7261,
            high ^ 0x7465_6462_7974_6573,
        ])
    }

    #[inline]
    fn mix(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    #[inline]
    fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        let [v0, v1, v2, v3] = self.0;
        v0 ^ v1 ^ v2 ^ v3
    }

    #[inline]
    fn round(&mut self) {
        let [mut v0, mut v1, mut v2, mut v3] = self.0;
        v0 = v0.wrapping_add(v1);
        v2 = v2.wrapping_add(v3);
        v1 = v1.rotate_left(13) ^ v0;
        v3 = v3.rotate_left(16) ^ v2;
        v0 = v0.rotate_left(32);
        v2 = v2.wrapping_add(v1);
        v0 = v0.wrapping_add(v3);
        v1 = v1.rotate_left(17) ^ v2;
        v3 = v3.rotate_left(21) ^ v0;
        v2 = v2.rotate_left(32);
        self.0 = [v0, v1, v2, v3];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    #[test]
    fn keys_of_all_lengths_hash_as_the_crate_hashes_them() {
        let octets: Vec<u8> = (0..=250).cycle().map(|n: u8| n.wrapping_mul(167)).take(600).collect();
        let seed: [u8; 16] = *b"posthaste's seed";
        for length in 0..octets.len() {
            let key = &octets[..length];
            assert_eq!(
                siphash_1_3(&seed, key),
                SipHasher13::new_with_key(&seed).hash(key),
                "{length} octets"
            );
        }
    }

    proptest! {
        #[test]
        fn any_key_hashes_as_the_crate_hashes_it(
            seed: [u8; 16],
            key in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            prop_assert_eq!(siphash_1_3(&seed, &key), SipHasher13::new_with_key(&seed).hash(&key));
        }
    }
}
