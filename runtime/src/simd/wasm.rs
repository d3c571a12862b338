//! simd128 of WebAssembly: vectors of 4 lanes, and no fused multiply-add.

use core::arch::wasm32::*;

use super::Simd;
use crate::math;

/// The program was compiled for simd128: WebAssembly has no choice at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wasm;

impl Simd for Wasm {
    type V = v128;
    const LANES: usize = 4;
    // Eight sums, four vectors of weights and a factor, for the sixteen registers that most machines below have.
    const TILE: [usize; 2] = [2, 1];

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
        // SAFETY: the caller's promise; an array of numbers needs no more alignment than one of them.
        let x = unsafe { x.cast::<[u16; 4]>().read() }.map(math::widen);
        f32x4(x[0], x[1], x[2], x[3])
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
