//! The operations, one a file. A kernel is a struct of named slices; `run` computes it, and `reference` is its
//! definition: slow, obvious and the oracle of its tests.
//!
//! A value is `[height, width, channels]`: the channels of a pixel lie together, so that vectors are of channels in every
//! kernel, whatever the size of the picture. A kernel that uses [`Simd`](crate::simd::Simd) takes a [`Cpu`](crate::Cpu);
//! one that does not is plain Rust.
//!
//! Where an operation may write over its input, the kernel does: its `y` holds the input and becomes the output.
//! Slices are as long as their shapes say; the engine takes the shapes from a checked model.

mod add;
mod attention;
mod blur;
mod border;
mod concat;
mod conv2d;
mod group_norm;
pub mod int8;
mod multiply;
mod peak;
mod resample;
mod scale_shift;
mod silu;
mod start;
mod winograd;

pub use add::Add;
pub use attention::Attention;
pub use blur::Blur;
pub use border::Border;
pub use concat::Concat;
pub use conv2d::Conv2d;
pub use group_norm::GroupNorm;
pub use multiply::Multiply;
pub use peak::Peak;
pub use resample::{Downsample, Upsample};
pub use scale_shift::ScaleShift;
pub use silu::Silu;
pub use start::Start;

#[cfg(test)]
mod tests {
    use std::vec::Vec;
    use traflow_graph::noise::Noise;

    /// Normal numbers for a test.
    pub(super) fn random(stream: u32, len: usize) -> Vec<f32> {
        let mut x = std::vec![0.0; len];
        Noise::stream(11, stream).fill(&mut x);
        x
    }

    /// Compares two results; errors of f32 grow with the root of the number of `terms`.
    pub(super) fn close(y: &[f32], expected: &[f32], terms: usize, what: &str) {
        assert_eq!(y.len(), expected.len());
        let bound = 1e-6 * (1.0 + (terms as f32).sqrt());
        for (i, (y, expected)) in y.iter().zip(expected).enumerate() {
            assert!(
                (y - expected).abs() <= bound * (1.0 + expected.abs()),
                "{what}: {i} is {y}, not {expected}"
            );
        }
    }
}
