//! `fractional`: sticky shares.
//!
//! MurmurHash3 x86 32-bit with seed 0 over the UTF-8 bytes of the bucketing value, spread over the sum of the
//! weights by `hash * total >> 32`: what flagd calls version 2 of its bucketing, pinned by its `@fractional-v2`
//! vectors. Growing a share from the front never moves anybody out of it.

use serde_json::Value;

/// Largest weight, and largest sum of weights.
pub(super) const WEIGHT_LIMIT: u64 = i32::MAX as u64;

/// MurmurHash3 x86 32-bit (Austin Appleby, public domain), seed 0.
fn murmur3(bytes: &[u8]) -> u32 {
    let scramble = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = 0u32;
    let mut blocks = bytes.chunks_exact(4);
    for block in &mut blocks {
        let k = block.iter().rev().fold(0u32, |k, byte| k << 8 | u32::from(*byte));
        hash = (hash ^ scramble(k)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let tail = blocks.remainder().iter().rev().fold(0u32, |k, byte| k << 8 | u32::from(*byte));
    // A tail of nothing scrambles to nothing.
    hash ^= scramble(tail);
    // The algorithm counts modulo 2^32.
    hash ^= (bytes.len() & 0xffff_ffff) as u32;
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// The weight a value stands for: negative ones count as 0.
///
/// # Errors
/// When it is no whole number, or too large.
pub(super) fn weight(value: &Value) -> Result<u64, String> {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|n| n < 0) => Ok(0),
        Value::Number(number) => number
            .as_u64()
            .filter(|weight| *weight <= WEIGHT_LIMIT)
            .ok_or_else(|| format!("a weight of `fractional` is a whole number up to {WEIGHT_LIMIT}, not {number}")),
        other => Err(format!("a weight of `fractional` is a whole number, not {other}")),
    }
}

/// Which of `weights` the key falls into. `None` when they come to nothing.
///
/// # Errors
/// When their sum is over [`WEIGHT_LIMIT`].
pub(super) fn bucket(key: &str, weights: &[u64]) -> Result<Option<usize>, String> {
    let total = weights.iter().fold(0u64, |sum, weight| sum.saturating_add(*weight));
    if total > WEIGHT_LIMIT {
        return Err(format!("the weights of `fractional` come to {total}, more than {WEIGHT_LIMIT}"));
    }
    let at = (u64::from(murmur3(key.as_bytes())) * total) >> 32;
    let mut end = 0;
    Ok(weights.iter().position(|weight| {
        end += weight;
        at < end
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys whose hashes lie at the edges, from flagd's testbed, and the reference vectors of the algorithm.
    #[test]
    fn the_hash_is_the_published_one() {
        for (key, hash) in [
            ("ejOoVL", 0),
            ("bY9fO-", 1),
            ("SI7p-", 0x7fff_ffff),
            ("6LvT0", 0x8000_0000),
            ("ceQdGm", 0xffff_ffff),
            ("", 0),
            ("test", 0xba6b_d213),
            ("Hello, world!", 0xc036_3e43),
            ("The quick brown fox jumps over the lazy dog", 0x2e4f_f723),
        ] {
            assert_eq!(murmur3(key.as_bytes()), hash, "{key}");
        }
    }

    #[test]
    fn weights_that_are_none_are_refused() {
        use serde_json::json;
        assert_eq!(weight(&json!(-50)), Ok(0));
        assert_eq!(weight(&json!(2_147_483_647)), Ok(WEIGHT_LIMIT));
        for wrong in [json!(2_147_483_648_u64), json!(0.5), json!("50"), json!(null)] {
            weight(&wrong).unwrap_err();
        }
        bucket("a", &[WEIGHT_LIMIT, 1]).unwrap_err();
        assert_eq!(bucket("a", &[0, 0]), Ok(None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Sticky: the same key falls into the same bucket, and a share that grows from the front keeps whom it has.
        #[test]
        fn a_share_that_grows_keeps_whom_it_has(key in ".{0,40}", share in 0u64..=100, more in 0u64..=100) {
            let larger = (share + more).min(100);
            let inside = |share| bucket(&key, &[share, 100 - share]).unwrap() == Some(0);
            prop_assert_eq!(inside(share), inside(share));
            prop_assert!(!inside(share) || inside(larger));
            prop_assert!(inside(100) && !inside(0));
        }
    }

    #[test]
    fn a_share_is_about_as_large_as_it_says() {
        let inside = (0..10_000).filter(|n| bucket(&format!("key {n}"), &[30, 70]).unwrap() == Some(0)).count();
        assert!((2_850..3_150).contains(&inside), "{inside}");
    }
}
