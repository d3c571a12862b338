//! Vectors of integers: 16 lanes, as many as a panel of weights has output channels, whatever registers they fill.

use traflow_graph::quant::{PANEL, QUAD, TABLE, Wide};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod tile;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
use super::wasm::Wasm;
#[cfg(target_arch = "x86_64")]
use super::{
    avx2::{Avx2, AvxVnni},
    avx512::{Avx512, Vnni},
};

pub(crate) use tile::{Element, dots, dots_part};

/// Lanes of every vector of integers.
pub const LANES: usize = PANEL;

/// A row of a panel: four weights of each lane.
pub type Row = [i8; LANES * QUAD];

/// Vectors of integers of an instruction set. Sums and products wrap around; what must not is held by the check of a
/// model.
pub trait Lanes: Copy + Send + Sync {
    /// A number of 32 bits in each lane.
    type V: Copy;
    /// A number of 64 bits in each lane, in an order of its own.
    type Long: Copy;
    /// Two numbers of 16 bits in each lane.
    type Pairs: Copy;
    /// A row of weights, ready to be multiplied by numbers of 8 bits.
    type Row: Copy;
    /// Four numbers of 8 bits, ready to be multiplied by a row.
    type Quad: Copy;
    /// Ends of 256 pieces, ready to be looked up.
    type Table;

    /// Pixels and panels of the largest tile of sums that fits into the registers.
    const TILE: [usize; 2];
    /// What [`dot`](Self::dot) adds to each weight, since its products need a factor without sign.
    const OFFSET: i32;

    /// All lanes are x.
    fn splat(self, x: i32) -> Self::V;
    /// Widened from 8 bits.
    fn load8(self, x: &[i8; LANES]) -> Self::V;
    /// Widened from 16 bits.
    fn load16(self, x: &[i16; LANES]) -> Self::V;
    /// The lanes in their order.
    fn load(self, x: &[i32; LANES]) -> Self::V;
    /// The nearest numbers of 8 bits.
    fn store8(self, v: Self::V, y: &mut [i8; LANES]);
    /// The nearest numbers of 16 bits.
    fn store16(self, v: Self::V, y: &mut [i16; LANES]);
    /// The lanes in their order.
    fn store(self, v: Self::V, y: &mut [i32; LANES]);
    /// a + b.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lower half of a · b.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger of each pair.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each pair.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The bits that both have.
    fn and(self, a: Self::V, b: Self::V) -> Self::V;
    /// Each lane of a shifted right by its lane of b, from 0 to 31; zeros come in.
    fn shift(self, a: Self::V, b: Self::V) -> Self::V;
    /// Over 2^places, 1 to 31, rounded to the nearest, half up.
    fn round(self, a: Self::V, places: u32) -> Self::V;

    /// All lanes are x.
    fn splat_long(self, x: i64) -> Self::Long;
    /// Numbers of two words.
    fn load_long(self, x: &[Wide; LANES]) -> Self::Long;
    /// The lanes in their order.
    fn store_long(self, v: Self::Long, y: &mut [i64; LANES]);
    /// a + b.
    fn add_long(self, a: Self::Long, b: Self::Long) -> Self::Long;
    /// a · b.
    fn mul_long(self, a: Self::V, b: Self::V) -> Self::Long;
    /// The lower half of a >> shift, 0 to 62.
    fn narrow(self, a: Self::Long, shift: u32) -> Self::V;

    /// Pairs of two vectors' lanes.
    fn pair8(self, a: &[i8; LANES], b: &[i8; LANES]) -> Self::Pairs;
    /// Weights of a row, the first two of each lane and the others.
    fn pairs(self, row: &Row) -> [Self::Pairs; 2];
    /// sum + a₀ x₀ + a₁ x₁.
    fn dot_pairs(self, sum: Self::V, a: Self::Pairs, x: [i16; 2]) -> Self::V;

    /// A row of weights.
    fn row(self, row: &Row) -> Self::Row;
    /// Four numbers.
    fn quad(self, x: &[i8; QUAD]) -> Self::Quad;
    /// sum + Σ (aᵢ + [`OFFSET`](Self::OFFSET)) xᵢ.
    fn dot(self, sum: Self::V, a: Self::Row, x: Self::Quad) -> Self::V;
    /// The sum of numbers.
    #[inline(always)]
    fn total(self, x: &[i8]) -> i32 {
        x.iter().map(|&x| i32::from(x)).sum()
    }

    /// The first 16 numbers of 16 vectors, of which each begins so much after the one before, as rows.
    #[inline(always)]
    fn transpose(self, x: &[i8], next: usize) -> [Self::Row; 4] {
        core::array::from_fn(|quad| {
            let mut row = [0; LANES * QUAD];
            for (lane, row) in row.as_chunks_mut::<QUAD>().0.iter_mut().enumerate() {
                row.copy_from_slice(&x[lane * next + quad * QUAD..][..QUAD]);
            }
            self.row(&row)
        })
    }

    /// Prepares a table.
    fn table(self, table: &[i16; TABLE]) -> Self::Table;
    /// T\[i\] · (256 - f) + T\[i + 1\] · f, where i is the upper and f the lower byte of p, clamped to 16 bits without sign.
    fn interpolate(self, table: &Self::Table, p: [Self::V; 2]) -> [Self::V; 2];
}

/// Work on integers that is compiled for every instruction set with vector registers.
pub trait IntegerKernel {
    /// Does it. The scratch memory is that of the thread.
    fn run<S: Lanes>(self, s: S, scratch: &mut [u8]);
}

/// An instruction set with vectors of integers.
#[derive(Clone, Copy, Debug)]
pub enum Vectors {
    /// 16 registers of 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// With dot products.
    #[cfg(target_arch = "x86_64")]
    AvxVnni(AvxVnni),
    /// 32 registers of 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// With dot products.
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni),
    /// 32 registers of 4 lanes.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// Of 4 lanes.
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    Wasm(Wasm),
}

impl Vectors {
    /// Runs a kernel, compiled for this instruction set.
    pub fn run(self, kernel: impl IntegerKernel, scratch: &mut [u8]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(s) => s.run_integers(kernel, scratch),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni(s) => s.run_integers(kernel, scratch),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(s) => s.run_integers(kernel, scratch),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(s) => s.run_integers(kernel, scratch),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(s) => s.run_integers(kernel, scratch),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Wasm(s) => kernel.run(s, scratch),
            #[cfg(not(any(
                target_arch = "x86_64",
                target_arch = "aarch64",
                all(target_arch = "wasm32", target_feature = "simd128")
            )))]
            #[allow(unreachable_patterns, reason = "processors without vectors have no variant")]
            _ => _ = (kernel, scratch),
        }
    }
}
