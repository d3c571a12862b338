//! How good pictures are.

pub mod frechet;
pub mod samples;

#[cfg(test)]
mod tests {
    /// Numbers in [0, 1), the same as those of other implementations of the metrics.
    pub(super) fn random(count: usize, mut state: u64) -> Vec<f64> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        (0..count).map(|_| next()).collect()
    }
}
