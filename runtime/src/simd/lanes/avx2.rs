//! AVX2, with AVX-VNNI or without: a vector is two registers.

use core::arch::x86_64::*;

use traflow_graph::quant::{TABLE, Wide};

use super::super::avx2::{Avx2, AvxVnni};
use super::{IntegerKernel, LANES, Lanes, Row, each, has_dots};

/// An intrinsic that reads and writes no more than the arrays that its arguments point to.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: the token exists, so the processor has the instruction; pointers are those of whole arrays.
        unsafe { $call }
    };
}

/// Lanes 0 to 7, and 8 to 15.
type V = [__m256i; 2];

/// What does not depend on VNNI.
macro_rules! common {
    () => {
        type V = V;
        // The even lanes of both, then the odd ones.
        type Long = [V; 2];
        type Table = [i16; TABLE];
        #[inline(always)]
        fn splat(self, x: i32) -> V {
            [intrinsic!(_mm256_set1_epi32(x)); 2]
        }

        #[inline(always)]
        fn load8(self, x: &[i8; LANES]) -> V {
            let x = intrinsic!(_mm_loadu_si128(x.as_ptr().cast()));
            [intrinsic!(_mm256_cvtepi8_epi32(x)), intrinsic!(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x)))]
        }

        #[inline(always)]
        fn load16(self, x: &[i16; LANES]) -> V {
            each!(first in [0, 8] =>
                intrinsic!(_mm256_cvtepi16_epi32(_mm_loadu_si128(x.as_ptr().add(first).cast()))))
        }

        #[inline(always)]
        fn load(self, x: &[i32; LANES]) -> V {
            each!(first in [0, 8] => intrinsic!(_mm256_loadu_si256(x.as_ptr().add(first).cast())))
        }

        #[inline(always)]
        fn row(self, row: &Row) -> V {
            each!(first in [0, 8] => intrinsic!(_mm256_loadu_si256(row.as_ptr().add(first).cast())))
        }

        #[inline(always)]
        fn store8(self, v: V, y: &mut [i8; LANES]) {
            let v = pack(v);
            let v = intrinsic!(_mm_packs_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v)));
            intrinsic!(_mm_storeu_si128(y.as_mut_ptr().cast(), v))
        }

        #[inline(always)]
        fn store16(self, v: V, y: &mut [i16; LANES]) {
            intrinsic!(_mm256_storeu_si256(y.as_mut_ptr().cast(), pack(v)))
        }

        #[inline(always)]
        fn store(self, v: V, y: &mut [i32; LANES]) {
            for (first, v) in [0, 8].into_iter().zip(v) {
                intrinsic!(_mm256_storeu_si256(y.as_mut_ptr().add(first).cast(), v));
            }
        }

        #[inline(always)]
        fn add(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_add_epi32(a[i], b[i])))
        }

        #[inline(always)]
        fn sub(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_sub_epi32(a[i], b[i])))
        }

        #[inline(always)]
        fn mul(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_mullo_epi32(a[i], b[i])))
        }

        #[inline(always)]
        fn max(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_max_epi32(a[i], b[i])))
        }

        #[inline(always)]
        fn min(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_min_epi32(a[i], b[i])))
        }

        #[inline(always)]
        fn and(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_and_si256(a[i], b[i])))
        }

        #[inline(always)]
        fn xor(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_xor_si256(a[i], b[i])))
        }

        #[inline(always)]
        fn shift(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_srlv_epi32(a[i], b[i])))
        }

        #[inline(always)]
        fn floor(self, a: V, places: u32) -> V {
            let count = intrinsic!(_mm_cvtsi32_si128(places as i32));
            each!(i in 2 => intrinsic!(_mm256_sra_epi32(a[i], count)))
        }

        #[inline(always)]
        fn splat_long(self, x: i64) -> [V; 2] {
            [[intrinsic!(_mm256_set1_epi64x(x)); 2]; 2]
        }

        #[inline(always)]
        fn load_long(self, x: &[Wide; LANES]) -> [V; 2] {
            let x = each!(first in [0, 4, 8, 12] =>
                intrinsic!(_mm256_loadu_si256(x.as_ptr().add(first).cast())));
            let even = each!(i in [0, 2] => intrinsic!(_mm256_unpacklo_epi64(x[i], x[i + 1])));
            let odd = each!(i in [0, 2] => intrinsic!(_mm256_unpackhi_epi64(x[i], x[i + 1])));
            [
                each!(i in 2 => intrinsic!(_mm256_permute4x64_epi64::<0b11_01_10_00>(even[i]))),
                each!(i in 2 => intrinsic!(_mm256_permute4x64_epi64::<0b11_01_10_00>(odd[i]))),
            ]
        }

        #[inline(always)]
        fn store_long(self, [even, odd]: [V; 2], y: &mut [i64; LANES]) {
            for half in 0..2 {
                let low = intrinsic!(_mm256_unpacklo_epi64(even[half], odd[half]));
                let high = intrinsic!(_mm256_unpackhi_epi64(even[half], odd[half]));
                let first = intrinsic!(_mm256_permute2x128_si256::<0x20>(low, high));
                let second = intrinsic!(_mm256_permute2x128_si256::<0x31>(low, high));
                intrinsic!(_mm256_storeu_si256(y.as_mut_ptr().add(8 * half).cast(), first));
                intrinsic!(_mm256_storeu_si256(y.as_mut_ptr().add(8 * half + 4).cast(), second));
            }
        }

        #[inline(always)]
        fn add_long(self, a: [V; 2], b: [V; 2]) -> [V; 2] {
            each!(k in 2 => each!(i in 2 => intrinsic!(_mm256_add_epi64(a[k][i], b[k][i]))))
        }

        #[inline(always)]
        fn mul_long(self, a: V, b: V) -> [V; 2] {
            let odd_a = each!(i in 2 => intrinsic!(_mm256_srli_epi64::<32>(a[i])));
            let odd_b = each!(i in 2 => intrinsic!(_mm256_srli_epi64::<32>(b[i])));
            [
                each!(i in 2 => intrinsic!(_mm256_mul_epi32(a[i], b[i]))),
                each!(i in 2 => intrinsic!(_mm256_mul_epi32(odd_a[i], odd_b[i]))),
            ]
        }

        #[inline(always)]
        fn narrow(self, a: [V; 2], shift: u32) -> V {
            // There is no arithmetic shift of 64 bits: 2⁶³ makes the numbers positive, and is taken away after the shift.
            let count = intrinsic!(_mm_cvtsi32_si128(shift as i32));
            let least = intrinsic!(_mm256_set1_epi64x(i64::MIN));
            let after = intrinsic!(_mm256_srl_epi64(least, count));
            let [even, odd] = each!(k in 2 => each!(i in 2 => {
                let shifted = intrinsic!(_mm256_srl_epi64(_mm256_xor_si256(a[k][i], least), count));
                intrinsic!(_mm256_sub_epi64(shifted, after))
            }));
            each!(i in 2 => {
                let odd = intrinsic!(_mm256_slli_epi64::<32>(odd[i]));
                intrinsic!(_mm256_blend_epi32::<0b1010_1010>(even[i], odd))
            })
        }

        #[inline(always)]
        fn widen(self, x: &[i8; 2 * LANES]) -> V {
            each!(first in [0, 16] =>
                intrinsic!(_mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().add(first).cast()))))
        }

        #[inline(always)]
        fn add16(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_add_epi16(a[i], b[i])))
        }

        #[inline(always)]
        fn sub16(self, a: V, b: V) -> V {
            each!(i in 2 => intrinsic!(_mm256_sub_epi16(a[i], b[i])))
        }

        #[inline(always)]
        fn pair(self, a: V, b: V) -> V {
            each!(i in 2 => {
                let b = intrinsic!(_mm256_slli_epi32::<16>(b[i]));
                intrinsic!(_mm256_blend_epi16::<0b1010_1010>(a[i], b))
            })
        }

        #[inline(always)]
        fn pairs(self, row: V) -> [V; 2] {
            // Into the upper bytes; a shift brings the sign down.
            let first = intrinsic!(_mm256_broadcastsi128_si256(_mm_setr_epi32(
                0x0180_0080,
                0x0580_0480,
                0x0980_0880,
                0x0d80_0c80,
            )));
            let second = intrinsic!(_mm256_add_epi32(first, _mm256_set1_epi32(0x0200_0200)));
            [
                each!(i in 2 => intrinsic!(_mm256_srai_epi16::<8>(_mm256_shuffle_epi8(row[i], first)))),
                each!(i in 2 => intrinsic!(_mm256_srai_epi16::<8>(_mm256_shuffle_epi8(row[i], second)))),
            ]
        }

        #[inline(always)]
        fn table(self, table: &[i16; TABLE]) -> [i16; TABLE] {
            *table
        }

        #[inline(always)]
        fn interpolate(self, table: &[i16; TABLE], p: [V; 2]) -> [V; 2] {
            each!(k in 2 => each!(i in 2 => {
                let p = intrinsic!(_mm256_min_epi32(p[k][i], _mm256_set1_epi32(65535)));
                let p = intrinsic!(_mm256_max_epi32(p, _mm256_setzero_si256()));
                let piece = intrinsic!(_mm256_srli_epi32::<8>(p));
                // SAFETY: the token; a piece is at most 255, and a table has two entries after that one's.
                let ends = unsafe { _mm256_i32gather_epi32::<2>(table.as_ptr().cast(), piece) };
                let second = intrinsic!(_mm256_and_si256(p, _mm256_set1_epi32(255)));
                let first = intrinsic!(_mm256_sub_epi32(_mm256_set1_epi32(256), second));
                let parts = intrinsic!(_mm256_or_si256(first, _mm256_slli_epi32::<16>(second)));
                intrinsic!(_mm256_madd_epi16(ends, parts))
            }))
        }
    };
}

/// The nearest numbers of 16 bits, in their order.
#[inline(always)]
fn pack(v: V) -> __m256i {
    intrinsic!(_mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(v[0], v[1])))
}

impl Lanes for Avx2 {
    common!();
    // Eight sums, four vectors of weights, and two of numbers.
    const TILE: [usize; 2] = [4, 1];
    const BYTES: Option<u8> = None;
    const DOTS: [u32; 2] = [4, 2];

    compiled!(fn run_integers(Avx2, IntegerKernel, [u8]), "avx2,fma,f16c,bmi1,bmi2,lzcnt");

    #[inline(always)]
    fn dot_pairs(self, sum: V, a: V, x: V) -> V {
        self.add(sum, each!(i in 2 => intrinsic!(_mm256_madd_epi16(a[i], x[i]))))
    }
}

impl Lanes for AvxVnni {
    common!();
    // Twelve sums, two vectors of weights, and one of numbers.
    const TILE: [usize; 2] = [6, 1];
    // One factor has no sign.
    const BYTES: Option<u8> = Some(128);
    const DOTS: [u32; 2] = [1, 1];

    compiled!(fn run_integers(AvxVnni, IntegerKernel, [u8]), "avx2,fma,f16c,bmi1,bmi2,lzcnt,avxvnni", base 0);

    #[inline(always)]
    fn dot_pairs(self, sum: V, a: V, x: V) -> V {
        each!(i in 2 => intrinsic!(_mm256_dpwssd_avx_epi32(sum[i], a[i], x[i])))
    }

    #[inline(always)]
    fn dot(self, sum: V, a: V, x: V) -> V {
        each!(i in 2 => intrinsic!(_mm256_dpbusd_avx_epi32(sum[i], x[i], a[i])))
    }
}
