//! NEON of 64-bit ARM: 32 registers of 4 lanes.

use core::arch::aarch64::*;

use super::{Kernel, Simd};

/// The processor has NEON, as every 64-bit ARM that this is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neon(());

impl Neon {
    pub(super) fn detect() -> Option<Self> {
        cfg!(target_feature = "neon").then_some(Self(()))
    }
}

/// The processor has dot products beside NEON, which are for integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dotprod(pub(super) Neon);

impl Dotprod {
    /// Programs cannot ask the processor itself, only its operating system.
    pub(super) fn detect() -> Option<Self> {
        #[cfg(feature = "std")]
        let has = std::arch::is_aarch64_feature_detected!("dotprod");
        #[cfg(not(feature = "std"))]
        let has = cfg!(target_feature = "dotprod");
        has.then(Neon::detect).flatten().map(Self)
    }
}

/// An intrinsic without memory operands.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: the token exists, so the processor has the instruction; registers are all that it touches.
        unsafe { $call }
    };
}

impl Simd for Neon {
    type V = float32x4_t;
    const LANES: usize = 4;
    // 16 sums, four vectors of weights, and a factor.
    const TILE: [usize; 2] = [4, 1];

    compiled!(fn run(Neon, Kernel, [f32]), "neon");

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        intrinsic!(vdupq_n_f32(x))
    }

    #[inline(always)]
    unsafe fn read(self, x: *const f32) -> float32x4_t {
        // SAFETY: the token, and the caller's promise.
        unsafe { vld1q_f32(x) }
    }

    #[inline(always)]
    unsafe fn widen(self, x: *const u16) -> float32x4_t {
        // SAFETY: the token, and the caller's promise.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x))) }
    }

    #[inline(always)]
    unsafe fn write(self, v: float32x4_t, y: *mut f32) {
        // SAFETY: the token, and the caller's promise.
        unsafe { vst1q_f32(y, v) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vaddq_f32(a, b))
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vmulq_f32(a, b))
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        intrinsic!(vdivq_f32(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        intrinsic!(vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // A comparison with NaN is false, which takes b.
        intrinsic!(vbslq_f32(vcgtq_f32(a, b), a, b))
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // A comparison with NaN is false, which takes b.
        intrinsic!(vbslq_f32(vcltq_f32(a, b), a, b))
    }

    #[inline(always)]
    fn exp2(self, x: float32x4_t) -> float32x4_t {
        intrinsic!(vreinterpretq_f32_s32(vaddq_s32(
            vshlq_n_s32::<23>(vreinterpretq_s32_f32(x)),
            vdupq_n_s32(127 << 23),
        )))
    }
}
