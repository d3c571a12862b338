//! NEON of 64-bit ARM: a vector is four registers.

use core::arch::aarch64::*;

use traflow_graph::quant::{TABLE, Wide};

use super::super::neon::Neon;
use super::{IntegerKernel, LANES, Lanes, Row, each, ends};

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

impl Lanes for Neon {
    type V = V;
    // Two lanes each.
    type Long = [int64x2_t; 8];
    type Table = [i16; TABLE];
    // 16 sums, four vectors of weights, one of numbers, and what their products need.
    const TILE: [usize; 2] = [4, 1];
    const BYTES: Option<u8> = Some(0);
    const DOTS: [u32; 2] = [6, 4];

    compiled!(fn run_integers(Neon, IntegerKernel, [u8]), "neon");

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
    fn dot(self, sum: V, a: V, x: V) -> V {
        each!(i in 4 => {
            let (a, x) = intrinsic!((vreinterpretq_s8_s32(a[i]), vreinterpretq_s8_s32(x[i])));
            let low = intrinsic!(vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(x))));
            let high = intrinsic!(vpaddlq_s16(vmull_high_s8(a, x)));
            intrinsic!(vaddq_s32(sum[i], vpaddq_s32(low, high)))
        })
    }

    #[inline(always)]
    fn table(self, table: &[i16; TABLE]) -> [i16; TABLE] {
        *table
    }

    #[inline(always)]
    fn interpolate(self, table: &[i16; TABLE], p: [V; 2]) -> [V; 2] {
        each!(k in 2 => {
            let p = self.max(self.min(p[k], self.splat(0xffff)), self.splat(0));
            let mut places = [0; LANES];
            self.store(p, &mut places);
            let ends = self.load(&ends(table, &places));
            each!(i in 4 => {
                let second = intrinsic!(vandq_s32(p[i], vdupq_n_s32(255)));
                let first = intrinsic!(vsubq_s32(vdupq_n_s32(256), second));
                products(ends[i], intrinsic!(vorrq_s32(first, vshlq_n_s32::<16>(second))))
            })
        })
    }
}
