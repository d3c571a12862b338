//! NEON of 64-bit ARM, with dot products or without: a vector is four registers.

use core::arch::aarch64::*;
use core::arch::asm;

use traflow_graph::quant::{QUAD, TABLE, Wide};

use super::super::neon::{Dotprod, Neon};
use super::{IntegerKernel, LANES, Lanes, Row, each, has_dots, interpolate};

/// An intrinsic that reads and writes no more than the arrays that its arguments point to.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: the token exists, so the processor has the instruction; pointers are those of whole arrays.
        unsafe { $call }
    };
}

/// Four lanes each.
type V = [int32x4_t; 4];

/// Widens halves.
#[inline(always)]
fn widen(low: int16x8_t, high: int16x8_t) -> V {
    intrinsic!([
        vmovl_s16(vget_low_s16(low)),
        vmovl_high_s16(low),
        vmovl_s16(vget_low_s16(high)),
        vmovl_high_s16(high),
    ])
}

/// The nearest numbers of 16 bits.
#[inline(always)]
fn pack(v: V) -> [int16x8_t; 2] {
    each!(i in [0, 2] => intrinsic!(vqmovn_high_s32(vqmovn_s32(v[i]), v[i + 1])))
}

/// Sums of the two products of each lane.
#[inline(always)]
fn products(a: int32x4_t, x: int32x4_t) -> int32x4_t {
    let (a, x) = intrinsic!((vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(x)));
    intrinsic!(vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(x)), vmull_high_s16(a, x)))
}

/// Pixels or tiles whose sums of a panel fit into the registers.
const PIXELS: usize = 4;

/// Adds the products of a register of weights with numbers of pixels, a lane of x: to one register of each pixel's sums those
/// of the lower half, to another one those of the upper half.
macro_rules! multiply {
    ($sums:expr, $register:expr, $weights:expr, $x:expr, $lower:literal, $upper:literal) => {
        for (sums, x) in $sums.iter_mut().zip(&$x) {
            let sum = &mut sums[$register[0]];
            *sum = intrinsic!(vmlal_laneq_s16::<$lower>(*sum, vget_low_s16($weights), *x));
        }
        for (sums, x) in $sums.iter_mut().zip(&$x) {
            let sum = &mut sums[$register[1]];
            *sum = intrinsic!(vmlal_high_laneq_s16::<$upper>(*sum, $weights, *x));
        }
    };
}

/// The same of a row of pairs of weights: the first of each pair with one number of a pixel, the second with another.
macro_rules! multiply_pairs {
    ($sums:expr, $row:expr, $x:expr, $first:literal, $second:literal) => {
        let row: V = $row;
        for i in [0, 2] {
            let pairs = intrinsic!([vreinterpretq_s16_s32(row[i]), vreinterpretq_s16_s32(row[i + 1])]);
            let (first, second) =
                intrinsic!((vuzp1q_s16(pairs[0], pairs[1]), vuzp2q_s16(pairs[0], pairs[1])));
            multiply!($sums, [i, i + 1], first, $x, $first, $first);
            multiply!($sums, [i, i + 1], second, $x, $second, $second);
        }
    };
}

/// Adds the products of each lane's four numbers, of x those of the same lane or of one lane for all. The intrinsic for it is
/// not stable.
macro_rules! sdot {
    ($sum:expr, $a:expr, $x:expr, $of:literal) => {{
        let mut sum: int32x4_t = $sum;
        // SAFETY: the token exists, so the processor has the instruction; registers are all that it touches.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                concat!("sdot {sum:v}.4s, {a:v}.16b, {x:v}.", $of),
                sum = inout(vreg) sum,
                a = in(vreg) $a,
                x = in(vreg) $x,
                options(pure, nomem, nostack, preserves_flags),
            )
        };
        sum
    }};
}

/// Adds the products of pixels with the first rows of a panel, two at once, and says how many rows they were. Products of
/// 16 bits are added to their sum by the same instruction where the other factor is one number for all: nothing is left to be
/// added up.
///
/// # Safety
/// Every pixel has four numbers of one or of two bytes for each row.
#[inline(always)]
unsafe fn dots_by_lane<X: bytemuck::Pod>(
    pixels: [&[X]; PIXELS],
    panel: &[Row],
    sums: &mut [V; PIXELS],
) -> usize {
    // Of four output channels those of the first number, of the second one, and so on.
    let order = intrinsic!(vld1q_u8([0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15].as_ptr()));
    for (index, rows) in panel.as_chunks::<2>().0.iter().enumerate() {
        let mut x = [intrinsic!(vdupq_n_s16(0)); PIXELS];
        for (x, pixel) in x.iter_mut().zip(pixels) {
            // SAFETY: the token, and the caller's promise: two quads of each pixel begin here.
            *x = unsafe {
                let pixel = pixel.as_ptr().add(2 * index * QUAD);
                if size_of::<X>() == 2 { vld1q_s16(pixel.cast()) } else { vmovl_s8(vld1_s8(pixel.cast())) }
            };
            // SAFETY: it does nothing, but the compiler no longer knows that the numbers have 8 bits: it would multiply those,
            // and then widen and add the products.
            unsafe { asm!("/* {0:v} */", inout(vreg) * x, options(pure, nomem, nostack, preserves_flags)) };
        }
        for i in 0..4 {
            let weights = each!(row in 2 => intrinsic!(vqtbl1q_s8(vld1q_s8(rows[row].as_ptr().add(4 * i).cast()), order)));
            let first = intrinsic!([vmovl_s8(vget_low_s8(weights[0])), vmovl_high_s8(weights[0])]);
            multiply!(sums, [i, i], first[0], x, 0, 1);
            multiply!(sums, [i, i], first[1], x, 2, 3);
            let second = intrinsic!([vmovl_s8(vget_low_s8(weights[1])), vmovl_high_s8(weights[1])]);
            multiply!(sums, [i, i], second[0], x, 4, 5);
            multiply!(sums, [i, i], second[1], x, 6, 7);
        }
    }
    panel.len() & !1
}

/// The same by dot products, four rows at once: a register then holds all that they need of a pixel, and need not be filled
/// with one quad of it.
///
/// # Safety
/// The processor has the instruction, and every pixel four numbers of one or of two bytes for each row.
#[inline(always)]
unsafe fn dots_by_quad<X: bytemuck::Pod>(
    pixels: [&[X]; PIXELS],
    panel: &[Row],
    sums: &mut [V; PIXELS],
) -> usize {
    if size_of::<X>() != 1 {
        // SAFETY: the caller's promise.
        return unsafe { dots_by_lane(pixels, panel, sums) };
    }
    for (index, rows) in panel.as_chunks::<4>().0.iter().enumerate() {
        let mut x = [intrinsic!(vdupq_n_s8(0)); PIXELS];
        for (x, pixel) in x.iter_mut().zip(pixels) {
            // SAFETY: the token, and the caller's promise: four quads of each pixel begin here.
            *x = unsafe { vld1q_s8(pixel.as_ptr().add(4 * index * QUAD).cast()) };
        }
        macro_rules! row {
            ($row:literal, $quad:literal) => {
                for i in 0..4 {
                    let weights = intrinsic!(vld1q_s8(rows[$row].as_ptr().add(4 * i).cast()));
                    for (sums, x) in sums.iter_mut().zip(&x) {
                        sums[i] = sdot!(sums[i], weights, *x, $quad);
                    }
                }
            };
        }
        row!(0, "4b[0]");
        row!(1, "4b[1]");
        row!(2, "4b[2]");
        row!(3, "4b[3]");
    }
    panel.len() & !3
}

/// What does not depend on dot products.
macro_rules! common {
    ($dots:path) => {
        type V = V;
        // Two lanes each.
        type Long = [int64x2_t; 8];
        type Table = [i16; TABLE];

        #[inline(always)]
        fn splat(self, x: i32) -> V {
            [intrinsic!(vdupq_n_s32(x)); 4]
        }

        #[inline(always)]
        fn load8(self, x: &[i8; LANES]) -> V {
            let x = intrinsic!(vld1q_s8(x.as_ptr()));
            widen(intrinsic!(vmovl_s8(vget_low_s8(x))), intrinsic!(vmovl_high_s8(x)))
        }

        #[inline(always)]
        fn load16(self, x: &[i16; LANES]) -> V {
            widen(intrinsic!(vld1q_s16(x.as_ptr())), intrinsic!(vld1q_s16(x.as_ptr().add(8))))
        }

        #[inline(always)]
        fn load(self, x: &[i32; LANES]) -> V {
            each!(i in 4 => intrinsic!(vld1q_s32(x.as_ptr().add(4 * i))))
        }

        #[inline(always)]
        fn row(self, row: &Row) -> V {
            each!(i in 4 => intrinsic!(vreinterpretq_s32_s8(vld1q_s8(row.as_ptr().add(4 * i).cast()))))
        }

        #[inline(always)]
        fn store8(self, v: V, y: &mut [i8; LANES]) {
            let [low, high] = pack(v);
            intrinsic!(vst1q_s8(y.as_mut_ptr(), vqmovn_high_s16(vqmovn_s16(low), high)));
        }

        #[inline(always)]
        fn store16(self, v: V, y: &mut [i16; LANES]) {
            for (i, v) in pack(v).into_iter().enumerate() {
                intrinsic!(vst1q_s16(y.as_mut_ptr().add(8 * i), v));
            }
        }

        #[inline(always)]
        fn store(self, v: V, y: &mut [i32; LANES]) {
            for (i, v) in v.into_iter().enumerate() {
                intrinsic!(vst1q_s32(y.as_mut_ptr().add(4 * i), v));
            }
        }

        #[inline(always)]
        fn add(self, a: V, b: V) -> V {
            each!(i in 4 => intrinsic!(vaddq_s32(a[i], b[i])))
        }

        #[inline(always)]
        fn sub(self, a: V, b: V) -> V {
            each!(i in 4 => intrinsic!(vsubq_s32(a[i], b[i])))
        }

        #[inline(always)]
        fn mul(self, a: V, b: V) -> V {
            each!(i in 4 => intrinsic!(vmulq_s32(a[i], b[i])))
        }

        #[inline(always)]
        fn max(self, a: V, b: V) -> V {
            each!(i in 4 => intrinsic!(vmaxq_s32(a[i], b[i])))
        }

        #[inline(always)]
        fn min(self, a: V, b: V) -> V {
            each!(i in 4 => intrinsic!(vminq_s32(a[i], b[i])))
        }

        #[inline(always)]
        fn and(self, a: V, b: V) -> V {
            each!(i in 4 => intrinsic!(vandq_s32(a[i], b[i])))
        }

        #[inline(always)]
        fn xor(self, a: V, b: V) -> V {
            each!(i in 4 => intrinsic!(veorq_s32(a[i], b[i])))
        }

        #[inline(always)]
        fn shift(self, a: V, b: V) -> V {
            each!(i in 4 => {
                let shifted = intrinsic!(vshlq_u32(vreinterpretq_u32_s32(a[i]), vnegq_s32(b[i])));
                intrinsic!(vreinterpretq_s32_u32(shifted))
            })
        }

        #[inline(always)]
        fn floor(self, a: V, places: u32) -> V {
            each!(i in 4 => intrinsic!(vshlq_s32(a[i], vdupq_n_s32(-(places as i32)))))
        }

        #[inline(always)]
        fn splat_long(self, x: i64) -> [int64x2_t; 8] {
            [intrinsic!(vdupq_n_s64(x)); 8]
        }

        #[inline(always)]
        fn load_long(self, x: &[Wide; LANES]) -> [int64x2_t; 8] {
            // The lower word comes first, as in the registers of these processors.
            let words = x.as_flattened().as_ptr();
            each!(i in 8 => intrinsic!(vreinterpretq_s64_u32(vld1q_u32(words.add(4 * i)))))
        }

        #[inline(always)]
        fn store_long(self, v: [int64x2_t; 8], y: &mut [i64; LANES]) {
            for (i, v) in v.into_iter().enumerate() {
                intrinsic!(vst1q_s64(y.as_mut_ptr().add(2 * i), v));
            }
        }

        #[inline(always)]
        fn add_long(self, a: [int64x2_t; 8], b: [int64x2_t; 8]) -> [int64x2_t; 8] {
            each!(i in 8 => intrinsic!(vaddq_s64(a[i], b[i])))
        }

        #[inline(always)]
        fn mul_long(self, a: V, b: V) -> [int64x2_t; 8] {
            each!(i in 8 => match i % 2 {
                0 => intrinsic!(vmull_s32(vget_low_s32(a[i / 2]), vget_low_s32(b[i / 2]))),
                _ => intrinsic!(vmull_high_s32(a[i / 2], b[i / 2])),
            })
        }

        #[inline(always)]
        fn narrow(self, a: [int64x2_t; 8], shift: u32) -> V {
            let a = each!(i in 8 => intrinsic!(vshlq_s64(a[i], vdupq_n_s64(-i64::from(shift)))));
            each!(i in [0, 2, 4, 6] => intrinsic!(vmovn_high_s64(vmovn_s64(a[i]), a[i + 1])))
        }

        #[inline(always)]
        fn widen(self, x: &[i8; 2 * LANES]) -> V {
            let x = each!(first in [0, 8, 16, 24] => intrinsic!(vmovl_s8(vld1_s8(x.as_ptr().add(first)))));
            each!(i in 4 => intrinsic!(vreinterpretq_s32_s16(x[i])))
        }

        #[inline(always)]
        fn add16(self, a: V, b: V) -> V {
            each!(i in 4 => {
                let (a, b) = intrinsic!((vreinterpretq_s16_s32(a[i]), vreinterpretq_s16_s32(b[i])));
                intrinsic!(vreinterpretq_s32_s16(vaddq_s16(a, b)))
            })
        }

        #[inline(always)]
        fn sub16(self, a: V, b: V) -> V {
            each!(i in 4 => {
                let (a, b) = intrinsic!((vreinterpretq_s16_s32(a[i]), vreinterpretq_s16_s32(b[i])));
                intrinsic!(vreinterpretq_s32_s16(vsubq_s16(a, b)))
            })
        }

        #[inline(always)]
        fn pair(self, a: V, b: V) -> V {
            // The lower halves of both, by turns.
            each!(i in 4 => {
                let (a, b) = intrinsic!((vreinterpretq_s16_s32(a[i]), vreinterpretq_s16_s32(b[i])));
                intrinsic!(vreinterpretq_s32_s16(vtrn1q_s16(a, b)))
            })
        }

        #[inline(always)]
        fn pairs(self, row: V) -> [V; 2] {
            let halves = each!(i in 4 => {
                let row = intrinsic!(vreinterpretq_s8_s32(row[i]));
                let low = intrinsic!(vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(row))));
                let high = intrinsic!(vreinterpretq_s32_s16(vmovl_high_s8(row)));
                intrinsic!([vuzp1q_s32(low, high), vuzp2q_s32(low, high)])
            });
            each!(half in 2 => each!(i in 4 => halves[i][half]))
        }

        #[inline(always)]
        fn dot_pairs(self, sum: V, a: V, x: V) -> V {
            each!(i in 4 => intrinsic!(vaddq_s32(sum[i], products(a[i], x[i]))))
        }

        #[inline(always)]
        fn dot_pairs_each<const N: usize>(self, sums: &mut [V; N], a: V, x: &[i32; N]) {
            const { assert!(N.is_multiple_of(PIXELS), "sums that fill no register of factors") };
            for (sums, x) in sums.as_chunks_mut::<PIXELS>().0.iter_mut().zip(x.as_chunks::<PIXELS>().0) {
                let x = intrinsic!(vreinterpretq_s16_s32(vld1q_s32(x.as_ptr())));
                macro_rules! sum {
                    ($m:literal, $first:literal, $second:literal) => {
                        multiply_pairs!(sums[$m..=$m], a, [x], $first, $second);
                    };
                }
                sum!(0, 0, 1);
                sum!(1, 2, 3);
                sum!(2, 4, 5);
                sum!(3, 6, 7);
            }
        }

        #[inline(always)]
        unsafe fn dots<X: bytemuck::Pod, const M: usize, const N: usize>(
            self,
            pixels: [&[X]; M],
            panels: [&[Row]; N],
            sums: &mut [[V; N]; M],
        ) -> usize {
            let mut rows = 0;
            if !M.is_multiple_of(PIXELS) {
                return rows;
            }
            for (pixels, sums) in pixels.as_chunks().0.iter().zip(sums.as_chunks_mut::<PIXELS>().0) {
                for (n, panel) in panels.into_iter().enumerate() {
                    let mut of_panel = each!(m in 4 => sums[m][n]);
                    // SAFETY: the token, and the caller's promise.
                    rows = unsafe { $dots(*pixels, panel, &mut of_panel) };
                    for (sums, sum) in sums.iter_mut().zip(of_panel) {
                        sums[n] = sum;
                    }
                }
            }
            rows
        }

        #[inline(always)]
        unsafe fn dot_rows<const M: usize>(
            self,
            tiles: [&[i16]; M],
            rows: &[[i32; LANES]],
            sums: &mut [V; M],
        ) -> usize {
            let (fours, _) = rows.as_chunks::<4>();
            for (index, rows) in fours.iter().enumerate() {
                let mut x = [intrinsic!(vdupq_n_s16(0)); M];
                for (x, tile) in x.iter_mut().zip(tiles) {
                    // SAFETY: the token, and the caller's promise: eight numbers of each tile begin here.
                    *x = unsafe { vld1q_s16(tile.as_ptr().add(8 * index)) };
                }
                multiply_pairs!(sums, self.load(&rows[0]), x, 0, 1);
                multiply_pairs!(sums, self.load(&rows[1]), x, 2, 3);
                multiply_pairs!(sums, self.load(&rows[2]), x, 4, 5);
                multiply_pairs!(sums, self.load(&rows[3]), x, 6, 7);
            }
            4 * fours.len()
        }

        #[inline(always)]
        fn table(self, table: &[i16; TABLE]) -> [i16; TABLE] {
            *table
        }

        #[inline(always)]
        fn interpolate(self, table: &[i16; TABLE], p: [V; 2]) -> [V; 2] {
            each!(k in 2 => interpolate(self, table, p[k]))
        }
    };
}

impl Lanes for Neon {
    common!(dots_by_lane);
    // 16 sums, four vectors of weights, one of numbers, and what their products need.
    const TILE: [usize; 2] = [4, 1];
    const BYTES: Option<u8> = Some(0);
    const DOTS: [u32; 2] = [4, 2];

    compiled!(fn run_integers(Neon, IntegerKernel, [u8]), "neon");

    #[inline(always)]
    fn dot(self, sum: V, a: V, x: V) -> V {
        each!(i in 4 => {
            let (a, x) = intrinsic!((vreinterpretq_s8_s32(a[i]), vreinterpretq_s8_s32(x[i])));
            let low = intrinsic!(vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(x))));
            let high = intrinsic!(vpaddlq_s16(vmull_high_s8(a, x)));
            intrinsic!(vaddq_s32(sum[i], vpaddq_s32(low, high)))
        })
    }
}

impl Lanes for Dotprod {
    common!(dots_by_quad);
    // 16 sums, four vectors of weights, and one of numbers for each pixel.
    const TILE: [usize; 2] = [4, 1];
    const BYTES: Option<u8> = Some(0);
    const DOTS: [u32; 2] = [1, 2];

    compiled!(fn run_integers(Dotprod, IntegerKernel, [u8]), "neon,dotprod", base 0);

    #[inline(always)]
    fn dot(self, sum: V, a: V, x: V) -> V {
        each!(i in 4 => sdot!(sum[i], a[i], x[i], "16b"))
    }
}
