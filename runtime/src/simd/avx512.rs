//! AVX-512 F, BW and VL: 32 registers of 16 lanes.

use core::arch::x86_64::*;

use super::amx::Amx;
use super::avx2::Avx2;
use super::cpuid::Features;
use super::{Kernel, Simd};

/// The processor has AVX-512, and AVX2 with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(pub(super) Avx2);

impl Avx512 {
    pub(super) fn of(features: Features) -> Option<Self> {
        Avx2::of(features).filter(|_| features.avx512()).map(Self)
    }
}

/// The processor has VNNI beside AVX-512, which is for integers, and perhaps is to use AMX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vnni {
    pub(super) avx512: Avx512,
    pub(super) amx: Option<Amx>,
}

impl Vnni {
    pub(super) fn of(features: Features) -> Option<Self> {
        Some(Self { avx512: Avx512::of(features)?, amx: None }).filter(|_| features.avx512_vnni())
    }

    /// With AMX.
    pub(super) fn with_amx(features: Features) -> Option<Self> {
        Some(Self { amx: Some(Amx::of(features)?), ..Self::of(features)? })
    }
}

/// An intrinsic without memory operands.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: the token exists, so the processor has the instruction; registers are all that it touches.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    // 24 sums, three vectors of weights, and factors that are broadcast from memory.
    const TILE: [usize; 2] = [8, 2];

    compiled!(fn run(Avx512, Kernel, [f32]), "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt");

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        intrinsic!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn read(self, x: *const f32) -> __m512 {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_loadu_ps(x) }
    }

    #[inline(always)]
    unsafe fn widen(self, x: *const u16) -> __m512 {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.cast())) }
    }

    #[inline(always)]
    unsafe fn write(self, v: __m512, y: *mut f32) {
        // SAFETY: the token, and the caller's promise.
        unsafe { _mm512_storeu_ps(y, v) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        intrinsic!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        intrinsic!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        intrinsic!(_mm512_castsi512_ps(_mm512_add_epi32(
            _mm512_slli_epi32::<23>(_mm512_castps_si512(x)),
            _mm512_set1_epi32(127 << 23),
        )))
    }

    #[inline(always)]
    fn load_part(self, x: &[f32]) -> __m512 {
        // SAFETY: the token; the mask has a bit for each element of the slice, which has fewer than 16.
        unsafe { _mm512_maskz_loadu_ps((1 << x.len()) - 1, x.as_ptr()) }
    }

    #[inline(always)]
    fn load_half_part(self, x: &[u16]) -> __m512 {
        // SAFETY: the token; the mask has a bit for each element of the slice, which has fewer than 16.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((1 << x.len()) - 1, x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store_part(self, v: __m512, y: &mut [f32]) {
        // SAFETY: the token; the mask has a bit for each element of the slice, which has fewer than 16.
        unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), (1 << y.len()) - 1, v) }
    }
}
