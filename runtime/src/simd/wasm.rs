//! simd128 of WebAssembly: vectors of 4 lanes, and no fused multiply-add.

use core::arch::wasm32::*;

use super::{Kernel, Simd};

/// The program was compiled for simd128: WebAssembly has no choice at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wasm;

impl Simd for Wasm {
    type V = v128;
    const LANES: usize = 4;
    // Eight sums, four vectors of weights and a factor, for the sixteen registers that most machines below have.
    const TILE: [usize; 2] = [2, 1];

    #[inline(never)]
    fn run(self, kernel: impl Kernel, scratch: &mut [f32]) {
        kernel.run(self, scratch);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> v128 {
        f32x4_splat(x)
    }

    #[inline(always)]
    unsafe fn read(self, x: *const f32) -> v128 {
        // SAFETY: the caller's promise.
        unsafe { v128_load(x.cast()) }
    }

    #[inline(always)]
    unsafe fn widen(self, x: *const u16) -> v128 {
        // SAFETY: the caller's promise; any address will do.
        let half = unsafe { u32x4_load_extend_u16x4(x) };
        // Read as f32 it is 2⁻¹¹² times the number, also where that is subnormal: the exponents differ in their bias.
        let magnitude = u32x4_shl(v128_and(half, u32x4_splat(0x7fff)), 13);
        let number = f32x4_mul(magnitude, f32x4_splat(f32::from_bits((127 + 112) << 23)));
        // The largest exponent means infinity.
        let infinite = v128_and(i32x4_gt(magnitude, i32x4_splat(0x0f7f_ffff)), i32x4_splat(0x7f80_0000));
        let sign = u32x4_shl(v128_and(half, u32x4_splat(0x8000)), 16);
        v128_or(v128_or(number, infinite), sign)
    }

    #[inline(always)]
    unsafe fn write(self, v: v128, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { v128_store(y.cast(), v) }
    }

    #[inline(always)]
    fn add(self, a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }

    #[inline(always)]
    fn sub(self, a: v128, b: v128) -> v128 {
        f32x4_sub(a, b)
    }

    #[inline(always)]
    fn mul(self, a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }

    #[inline(always)]
    fn div(self, a: v128, b: v128) -> v128 {
        f32x4_div(a, b)
    }

    #[inline(always)]
    fn mul_add(self, a: v128, b: v128, c: v128) -> v128 {
        f32x4_add(f32x4_mul(a, b), c)
    }

    #[inline(always)]
    fn max(self, a: v128, b: v128) -> v128 {
        // The other order: it takes its first operand where the second is NaN.
        f32x4_pmax(b, a)
    }

    #[inline(always)]
    fn min(self, a: v128, b: v128) -> v128 {
        // The other order: it takes its first operand where the second is NaN.
        f32x4_pmin(b, a)
    }

    #[inline(always)]
    fn exp2(self, x: v128) -> v128 {
        i32x4_add(i32x4_shl(x, 23), i32x4_splat(127 << 23))
    }
}
