//! AVX2 with FMA and F16C: 16 registers of 8 lanes.

use core::arch::x86_64::*;

use super::cpuid::Features;
use super::{Kernel, Simd};

/// The processor has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    pub(super) fn of(features: Features) -> Option<Self> {
        features.avx2().then_some(Self(()))
    }
}

/// The processor has AVX-VNNI beside AVX2, which is for integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvxVnni(pub(super) Avx2);

impl AvxVnni {
    pub(super) fn of(features: Features) -> Option<Self> {
        features.avx_vnni().then_some(Self(Avx2(())))
    }
}

/// An intrinsic without memory operands.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: the token exists, so the processor has the instruction; registers are all that it touches.
        unsafe { $call }
    };
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    // Twelve sums, two vectors of weights and a factor.
    const TILE: [usize; 2] = [6, 1];

    compiled!(fn run(Avx2, Kernel, [f32]), "avx2,fma,f16c,bmi1,bmi2,lzcnt");

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        intrinsic!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn read(self, x: *const f32) -> __m256 {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm256_loadu_ps(x) }
    }

    #[inline(always)]
    unsafe fn widen(self, x: *const u16) -> __m256 {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(x.cast())) }
    }

    #[inline(always)]
    unsafe fn write(self, v: __m256, y: *mut f32) {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm256_storeu_ps(y, v) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        intrinsic!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        intrinsic!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn exp2(self, x: __m256) -> __m256 {
        intrinsic!(_mm256_castsi256_ps(_mm256_add_epi32(
            _mm256_slli_epi32::<23>(_mm256_castps_si256(x)),
            _mm256_set1_epi32(127 << 23),
        )))
    }
}
