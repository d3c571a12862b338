//! AVX-512 F and BW, with VNNI or without: a vector is one register.

use core::arch::x86_64::*;

use traflow_graph::quant::{QUAD, TABLE, Wide};

use super::super::avx512::{Avx512, Vnni};
use super::super::matrix::{BLOCKS, Blocks, Sums};
use super::{IntegerKernel, LANES, Lanes, Row, each, has_dots};

/// An intrinsic that reads and writes no more than the arrays that its arguments point to.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: the token exists, so the processor has the instruction; pointers are those of whole arrays.
        unsafe { $call }
    };
}

/// Both ends of 256 pieces: the first ends, then the second.
#[derive(Clone, Copy, Debug)]
pub struct Table([[__m512i; 8]; 2]);

/// What does not depend on VNNI.
macro_rules! common {
    () => {
        type V = __m512i;
        type Long = [__m512i; 2];
        type Table = Table;
        // 24 sums, three or four vectors of weights, and four numbers.
        const TILE: [usize; 2] = [8, 4];

        #[inline(always)]
        fn splat(self, x: i32) -> __m512i {
            intrinsic!(_mm512_set1_epi32(x))
        }

        #[inline(always)]
        fn load8(self, x: &[i8; LANES]) -> __m512i {
            intrinsic!(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())))
        }

        #[inline(always)]
        fn load16(self, x: &[i16; LANES]) -> __m512i {
            intrinsic!(_mm512_cvtepi16_epi32(_mm256_loadu_si256(x.as_ptr().cast())))
        }

        #[inline(always)]
        fn load(self, x: &[i32; LANES]) -> __m512i {
            intrinsic!(_mm512_loadu_si512(x.as_ptr().cast()))
        }

        #[inline(always)]
        fn store8(self, v: __m512i, y: &mut [i8; LANES]) {
            intrinsic!(_mm_storeu_si128(y.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(v)))
        }

        #[inline(always)]
        fn store16(self, v: __m512i, y: &mut [i16; LANES]) {
            intrinsic!(_mm256_storeu_si256(y.as_mut_ptr().cast(), _mm512_cvtsepi32_epi16(v)))
        }

        #[inline(always)]
        fn store(self, v: __m512i, y: &mut [i32; LANES]) {
            intrinsic!(_mm512_storeu_si512(y.as_mut_ptr().cast(), v))
        }

        #[inline(always)]
        fn add(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_add_epi32(a, b))
        }

        #[inline(always)]
        fn sub(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_sub_epi32(a, b))
        }

        #[inline(always)]
        fn mul(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_mullo_epi32(a, b))
        }

        #[inline(always)]
        fn max(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_max_epi32(a, b))
        }

        #[inline(always)]
        fn min(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_min_epi32(a, b))
        }

        #[inline(always)]
        fn and(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_and_si512(a, b))
        }

        #[inline(always)]
        fn xor(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_xor_si512(a, b))
        }

        #[inline(always)]
        fn shift(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_srlv_epi32(a, b))
        }

        #[inline(always)]
        fn floor(self, a: __m512i, places: u32) -> __m512i {
            intrinsic!(_mm512_sra_epi32(a, _mm_cvtsi32_si128(places as i32)))
        }

        #[inline(always)]
        fn splat_long(self, x: i64) -> [__m512i; 2] {
            [intrinsic!(_mm512_set1_epi64(x)); 2]
        }

        #[inline(always)]
        fn load_long(self, x: &[Wide; LANES]) -> [__m512i; 2] {
            let low = intrinsic!(_mm512_loadu_si512(x.as_ptr().cast()));
            let high = intrinsic!(_mm512_loadu_si512(x.as_ptr().add(8).cast()));
            // The even lanes, then the odd ones, as products have them.
            let even = intrinsic!(_mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14));
            let odd = intrinsic!(_mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15));
            intrinsic!([
                _mm512_permutex2var_epi64(low, even, high),
                _mm512_permutex2var_epi64(low, odd, high)
            ])
        }

        #[inline(always)]
        fn store_long(self, [even, odd]: [__m512i; 2], y: &mut [i64; LANES]) {
            let low = intrinsic!(_mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11));
            let high = intrinsic!(_mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15));
            for (first, places) in [(0, low), (8, high)] {
                let v = intrinsic!(_mm512_permutex2var_epi64(even, places, odd));
                intrinsic!(_mm512_storeu_si512(y.as_mut_ptr().add(first).cast(), v));
            }
        }

        #[inline(always)]
        fn add_long(self, a: [__m512i; 2], b: [__m512i; 2]) -> [__m512i; 2] {
            each!(i in 2 => intrinsic!(_mm512_add_epi64(a[i], b[i])))
        }

        #[inline(always)]
        fn mul_long(self, a: __m512i, b: __m512i) -> [__m512i; 2] {
            let odd_a = intrinsic!(_mm512_srli_epi64::<32>(a));
            let odd_b = intrinsic!(_mm512_srli_epi64::<32>(b));
            [intrinsic!(_mm512_mul_epi32(a, b)), intrinsic!(_mm512_mul_epi32(odd_a, odd_b))]
        }

        #[inline(always)]
        fn narrow(self, a: [__m512i; 2], shift: u32) -> __m512i {
            let count = intrinsic!(_mm_cvtsi32_si128(shift as i32));
            let [even, odd] = each!(i in 2 => intrinsic!(_mm512_sra_epi64(a[i], count)));
            // The lower halves of the odd ones go into the upper halves.
            intrinsic!(_mm512_mask_shuffle_epi32::<0b10_10_00_00>(even, 0xaaaa, odd))
        }

        #[inline(always)]
        fn widen(self, x: &[i8; 2 * LANES]) -> __m512i {
            intrinsic!(_mm512_cvtepi8_epi16(_mm256_loadu_si256(x.as_ptr().cast())))
        }

        #[inline(always)]
        fn add16(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_add_epi16(a, b))
        }

        #[inline(always)]
        fn sub16(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_sub_epi16(a, b))
        }

        #[inline(always)]
        fn pair(self, a: __m512i, b: __m512i) -> __m512i {
            intrinsic!(_mm512_mask_blend_epi16(0xaaaa_aaaa, a, _mm512_slli_epi32::<16>(b)))
        }

        #[inline(always)]
        fn pairs(self, row: __m512i) -> [__m512i; 2] {
            // Into the upper bytes; a shift brings the sign down.
            let first = intrinsic!(_mm512_broadcast_i32x4(_mm_setr_epi32(
                0x0180_0080,
                0x0580_0480,
                0x0980_0880,
                0x0d80_0c80,
            )));
            let second = intrinsic!(_mm512_add_epi32(first, _mm512_set1_epi32(0x0200_0200)));
            intrinsic!([
                _mm512_srai_epi16::<8>(_mm512_shuffle_epi8(row, first)),
                _mm512_srai_epi16::<8>(_mm512_shuffle_epi8(row, second)),
            ])
        }

        #[inline(always)]
        fn transpose(self, x: [&[i8; LANES]; LANES]) -> [__m512i; 4] {
            // Four registers of every fourth vector, then squares of 4×4 quads.
            let x = each!(first in 4 => {
                let v = intrinsic!(_mm512_castsi128_si512(_mm_loadu_si128(x[first].as_ptr().cast())));
                let v = intrinsic!(_mm512_inserti32x4::<1>(v, _mm_loadu_si128(x[first + 4].as_ptr().cast())));
                let v = intrinsic!(_mm512_inserti32x4::<2>(v, _mm_loadu_si128(x[first + 8].as_ptr().cast())));
                intrinsic!(_mm512_inserti32x4::<3>(v, _mm_loadu_si128(x[first + 12].as_ptr().cast())))
            });
            let low = each!(i in [0, 2] => intrinsic!(_mm512_unpacklo_epi32(x[i], x[i + 1])));
            let high = each!(i in [0, 2] => intrinsic!(_mm512_unpackhi_epi32(x[i], x[i + 1])));
            intrinsic!([
                _mm512_unpacklo_epi64(low[0], low[1]),
                _mm512_unpackhi_epi64(low[0], low[1]),
                _mm512_unpacklo_epi64(high[0], high[1]),
                _mm512_unpackhi_epi64(high[0], high[1]),
            ])
        }

        #[inline(always)]
        fn row(self, row: &Row) -> __m512i {
            intrinsic!(_mm512_loadu_si512(row.as_ptr().cast()))
        }

        #[inline(always)]
        fn row_part(self, weights: &[[i8; QUAD]]) -> __m512i {
            assert!(weights.len() <= LANES, "a row of more than its lanes");
            // SAFETY: the token; the mask has a bit for each quad of the slice, which has at most 16.
            unsafe { _mm512_maskz_loadu_epi32(((1u32 << weights.len()) - 1) as u16, weights.as_ptr().cast()) }
        }

        #[inline(always)]
        fn table(self, table: &[i16; TABLE]) -> Table {
            Table(each!(end in 2 => each!(part in 8 => {
                let part: &[i16; 32] = table[32 * part + end..].first_chunk().expect("a table has 258 entries");
                intrinsic!(_mm512_loadu_si512(part.as_ptr().cast()))
            })))
        }

        #[inline(always)]
        fn interpolate(self, table: &Table, [a, b]: [__m512i; 2]) -> [__m512i; 2] {
            // In every 128 bits four of a, then four of b; unpacking takes them apart again.
            let p = intrinsic!(_mm512_packus_epi32(a, b));
            let piece = intrinsic!(_mm512_srli_epi16::<8>(p));
            let second = intrinsic!(_mm512_and_si512(p, _mm512_set1_epi16(255)));
            let first = intrinsic!(_mm512_sub_epi16(_mm512_set1_epi16(256), second));
            let bit6 = intrinsic!(_mm512_test_epi16_mask(piece, _mm512_set1_epi16(64)));
            let bit7 = intrinsic!(_mm512_test_epi16_mask(piece, _mm512_set1_epi16(128)));
            let [from, to] = each!(end in 2 => {
                let ends = &table.0[end];
                let [a, b, c, d] = each!(i in [0, 2, 4, 6] =>
                    intrinsic!(_mm512_permutex2var_epi16(ends[i], piece, ends[i + 1])));
                let low = intrinsic!(_mm512_mask_blend_epi16(bit6, a, b));
                let high = intrinsic!(_mm512_mask_blend_epi16(bit6, c, d));
                intrinsic!(_mm512_mask_blend_epi16(bit7, low, high))
            });
            [
                intrinsic!(_mm512_madd_epi16(
                    _mm512_unpacklo_epi16(from, to),
                    _mm512_unpacklo_epi16(first, second)
                )),
                intrinsic!(_mm512_madd_epi16(
                    _mm512_unpackhi_epi16(from, to),
                    _mm512_unpackhi_epi16(first, second)
                )),
            ]
        }
    };
}

impl Lanes for Avx512 {
    common!();
    const BYTES: Option<u8> = None;
    const DOTS: [u32; 2] = [4, 2];

    // Only the first processors with AVX-512 have no dot products: of what is made of those they run the kernels for AVX2,
    // rather than every program have more of them (65 KB).
    compiled!(fn run_integers(Avx512, IntegerKernel, [u8]), "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt", dots 0);

    #[inline(always)]
    fn dot_pairs(self, sum: __m512i, a: __m512i, x: __m512i) -> __m512i {
        self.add(sum, intrinsic!(_mm512_madd_epi16(a, x)))
    }
}

impl Lanes for Vnni {
    common!();
    // One factor has no sign.
    const BYTES: Option<u8> = Some(128);
    const DOTS: [u32; 2] = [1, 1];

    compiled!(fn run_integers(Vnni, IntegerKernel, [u8]), "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,avx512vnni", base avx512);

    #[inline(always)]
    fn dot_pairs(self, sum: __m512i, a: __m512i, x: __m512i) -> __m512i {
        intrinsic!(_mm512_dpwssd_epi32(sum, a, x))
    }

    #[inline(always)]
    fn dot(self, sum: __m512i, a: __m512i, x: __m512i) -> __m512i {
        intrinsic!(_mm512_dpbusd_epi32(sum, x, a))
    }

    #[inline(always)]
    fn has_matrices(self) -> bool {
        self.amx.is_some()
    }

    #[inline(always)]
    fn multiply(self, blocks: &Blocks<'_>, sums: &mut [Sums; BLOCKS]) {
        if let Some(amx) = self.amx {
            amx.multiply(blocks, sums);
        }
    }
}
