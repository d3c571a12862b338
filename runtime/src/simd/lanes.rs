//! Vectors of integers: 16 lanes, as many as a panel of weights has output channels, whatever registers they fill.

use traflow_graph::quant::{PANEL, QUAD, TABLE, Wide};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod tile;
#[cfg(target_feature = "simd128")]
mod wasm;

#[cfg(target_arch = "aarch64")]
use super::neon::{Dotprod, Neon};
#[cfg(target_feature = "simd128")]
use super::wasm::Wasm;
#[cfg(target_arch = "x86_64")]
use super::{
    avx2::{Avx2, AvxVnni},
    avx512::{Avx512, Vnni},
};

use super::matrix::{BLOCKS, Blocks, Sums};
pub(crate) use tile::{Factor, begin, dot_rows, dots, dots_part};

/// Lanes of every vector of integers.
pub const LANES: usize = PANEL;

/// A row of a panel: four weights of each lane.
pub type Row = [[i8; QUAD]; LANES];

/// An array of what an expression is for each index. Unlike the body of a closure, which is a function of its own and not
/// compiled for the instruction set, the expression is part of the function that it stands in. So closures may hold one
/// instruction at most wherever there are vectors.
macro_rules! each {
    ($i:ident in 2 => $expression:expr) => {
        each!($i in [0, 1] => $expression)
    };
    ($i:ident in 4 => $expression:expr) => {
        each!($i in [0, 1, 2, 3] => $expression)
    };
    ($i:ident in 8 => $expression:expr) => {
        each!($i in [0, 1, 2, 3, 4, 5, 6, 7] => $expression)
    };
    ($i:ident in [$($index:expr),+] => $expression:expr) => {
        [$({ let $i = $index; $expression }),+]
    };
}
pub(crate) use each;

/// Vectors of integers of an instruction set. Sums and products wrap around; what must not is held by the check of a
/// model.
pub trait Lanes: Copy + Send + Sync {
    /// In each lane a number of 32 bits, or two of 16 or four of 8, the first in the lowest bits.
    type V: Copy;
    /// A number of 64 bits in each lane, in an order of its own.
    type Long: Copy;
    /// Ends of 256 pieces, ready to be looked up.
    type Table;

    /// Pixels and panels of the largest tile of sums that fits into the registers.
    const TILE: [usize; 2];
    /// Where there is an instruction for [`dot`](Self::dot): what has to be added to numbers of 8 bits before they are
    /// its second factor.
    const BYTES: Option<u8>;
    /// Instructions that add the products of a register with weights of [`dot`](Self::dot), and of
    /// [`dot_pairs`](Self::dot_pairs), where there are many.
    const DOTS: [u32; 2];

    /// Runs a kernel. It is a function of its own, compiled once however many call it.
    fn run_integers(self, kernel: impl IntegerKernel, scratch: &mut [u8]);

    /// All lanes are x.
    fn splat(self, x: i32) -> Self::V;
    /// Widened from 8 bits.
    fn load8(self, x: &[i8; LANES]) -> Self::V;
    /// Widened from 16 bits.
    fn load16(self, x: &[i16; LANES]) -> Self::V;
    /// The lanes in their order.
    fn load(self, x: &[i32; LANES]) -> Self::V;
    /// A row of weights.
    fn row(self, row: &Row) -> Self::V;
    /// The first lanes of a row, and zeros.
    #[inline(always)]
    fn row_part(self, weights: &[[i8; QUAD]]) -> Self::V {
        if let Some(row) = weights.first_chunk() {
            return self.row(row);
        }
        let mut row = [[0; QUAD]; LANES];
        for (row, quad) in row.iter_mut().zip(weights) {
            *row = *quad;
        }
        self.row(&row)
    }
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
    /// The bits that one of them has.
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    /// Each lane of a shifted right by its lane of b, from 0 to 31; zeros come in.
    fn shift(self, a: Self::V, b: Self::V) -> Self::V;
    /// ⌊a / 2^places⌋, 0 to 31.
    fn floor(self, a: Self::V, places: u32) -> Self::V;
    /// Over 2^places, 1 to 31, rounded to the nearest, half up.
    #[inline(always)]
    fn round(self, a: Self::V, places: u32) -> Self::V {
        self.floor(self.add(a, self.splat(1 << (places - 1))), places)
    }

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

    /// Twice as many numbers of 16 bits in their order, widened from 8: the first two are in the first lane.
    fn widen(self, x: &[i8; 2 * LANES]) -> Self::V;
    /// a + b, of numbers of 16 bits.
    fn add16(self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b, of numbers of 16 bits.
    fn sub16(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lower halves of each lane of a and of b.
    fn pair(self, a: Self::V, b: Self::V) -> Self::V;
    /// Four numbers of 8 bits as two pairs of 16.
    fn pairs(self, row: Self::V) -> [Self::V; 2];
    /// sum + a₀ x₀ + a₁ x₁, of pairs.
    fn dot_pairs(self, sum: Self::V, a: Self::V, x: Self::V) -> Self::V;
    /// The same for several sums, each with one pair for all lanes.
    #[inline(always)]
    fn dot_pairs_each<const N: usize>(self, sums: &mut [Self::V; N], a: Self::V, x: &[i32; N]) {
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = self.dot_pairs(*sum, a, self.splat(*x));
        }
    }
    /// sum + Σ aᵢ xᵢ, of four numbers each. Those of a have a sign; those of x too unless [`BYTES`](Self::BYTES) adds
    /// something.
    #[inline(always)]
    fn dot(self, sum: Self::V, a: Self::V, x: Self::V) -> Self::V {
        let (a, x) = (self.pairs(a), self.pairs(x));
        self.dot_pairs(self.dot_pairs(sum, a[0], x[0]), a[1], x[1])
    }

    /// Adds the products of M pixels with the first rows of N panels, where several rows together are better than row by row.
    /// Says how many rows they were.
    ///
    /// # Safety
    /// Panels have one length, and every pixel four numbers for each of their rows.
    #[inline(always)]
    unsafe fn dots<X: bytemuck::Pod, const M: usize, const N: usize>(
        self,
        _pixels: [&[X]; M],
        _panels: [&[Row]; N],
        _sums: &mut [[Self::V; N]; M],
    ) -> usize {
        0
    }

    /// Adds the products of M tiles with the first rows of pairs of weights, as `dots` those of pixels. Says how many rows they
    /// were.
    ///
    /// # Safety
    /// Every tile has two numbers for each row.
    #[inline(always)]
    unsafe fn dot_rows<const M: usize>(
        self,
        _tiles: [&[i16]; M],
        _rows: &[[i32; LANES]],
        _sums: &mut [Self::V; M],
    ) -> usize {
        0
    }

    /// Whether there are registers that hold matrices, for [`multiply`](Self::multiply).
    #[inline(always)]
    fn has_matrices(self) -> bool {
        false
    }

    /// The sums of the products of blocks of pixels with two panels; nothing where there are no such registers.
    #[inline(always)]
    fn multiply(self, _blocks: &Blocks<'_>, _sums: &mut [Sums; BLOCKS]) {}

    /// The first 16 numbers of 16 vectors, of which each begins so much after the one before, as rows.
    #[inline(always)]
    fn transpose(self, x: [&[i8; LANES]; LANES]) -> [Self::V; 4] {
        let mut rows = [[[0; QUAD]; LANES]; 4];
        for (lane, x) in x.iter().enumerate() {
            for (quad, row) in x.as_chunks().0.iter().zip(&mut rows) {
                row[lane] = *quad;
            }
        }
        each!(i in 4 => self.row(&rows[i]))
    }

    /// Prepares a table.
    fn table(self, table: &[i16; TABLE]) -> Self::Table;
    /// T\[i\] · (256 - f) + T\[i + 1\] · f, where i is the upper and f the lower byte of p, clamped to 16 bits without sign.
    fn interpolate(self, table: &Self::Table, p: [Self::V; 2]) -> [Self::V; 2];
}

/// A vector of [`Lanes::interpolate`], for processors that cannot look up: both ends of the pieces one by one.
#[cfg(any(target_arch = "aarch64", target_feature = "simd128"))]
#[inline(always)]
fn interpolate<S: Lanes>(s: S, table: &[i16; TABLE], p: S::V) -> S::V {
    let p = s.max(s.min(p, s.splat(0xffff)), s.splat(0));
    let (mut places, mut ends) = ([0; LANES], [0; LANES]);
    s.store(p, &mut places);
    for (ends, p) in ends.iter_mut().zip(places) {
        let piece = (p >> 8 & 0xff) as usize;
        // The first one in the lower half.
        *ends = i32::from(table[piece] as u16) | i32::from(table[piece + 1]) << 16;
    }
    let second = s.and(p, s.splat(255));
    let parts = s.pair(s.sub(s.splat(256), second), second);
    s.dot_pairs(s.splat(0), s.load(&ends), parts)
}

/// Work on integers that is compiled for every instruction set with vector registers.
pub trait IntegerKernel {
    /// Whether most of it are dot products, for which some instruction sets have instructions.
    const DOTS: bool = false;

    /// Does it. The scratch memory is that of the thread.
    fn run<S: Lanes>(self, s: S, scratch: &mut [u8]);
}

/// Whether most of a kernel are dot products.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const fn has_dots<K: IntegerKernel>(_: &K) -> bool {
    K::DOTS
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
    /// With dot products.
    #[cfg(target_arch = "aarch64")]
    Dotprod(Dotprod),
    /// Of 4 lanes.
    #[cfg(target_feature = "simd128")]
    Wasm(Wasm),
}

impl Vectors {
    /// Runs a kernel, compiled for this instruction set.
    #[inline(never)]
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
            #[cfg(target_arch = "aarch64")]
            Self::Dotprod(s) => s.run_integers(kernel, scratch),
            #[cfg(target_feature = "simd128")]
            Self::Wasm(s) => s.run_integers(kernel, scratch),
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_feature = "simd128")))]
            #[allow(unreachable_patterns, reason = "processors without vectors have no variant")]
            _ => _ = (kernel, scratch),
        }
    }
}
