//! Plain Rust: four lanes, as small processors have registers for, and as any vector unit can take them.

use core::array::from_fn;

use super::{Kernel, Simd};
use crate::math;

/// Every processor has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scalar;

impl Simd for Scalar {
    type V = [f32; 4];
    const LANES: usize = 4;
    // Eight vectors of sums, and four of weights.
    const TILE: [usize; 2] = [2, 1];

    #[inline(never)]
    fn run(self, kernel: impl Kernel, scratch: &mut [f32]) {
        kernel.run(self, scratch);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 4] {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn read(self, x: *const f32) -> [f32; 4] {
        // SAFETY: the caller's promise; an array of numbers needs no more alignment than one of them.
        unsafe { x.cast::<[f32; 4]>().read() }
    }

    #[inline(always)]
    unsafe fn widen(self, x: *const u16) -> [f32; 4] {
        // SAFETY: the caller's promise; an array of numbers needs no more alignment than one of them.
        let x = unsafe { x.cast::<[u16; 4]>().read() };
        x.map(math::widen)
    }

    #[inline(always)]
    unsafe fn write(self, v: [f32; 4], y: *mut f32) {
        // SAFETY: the caller's promise; an array of numbers needs no more alignment than one of them.
        unsafe { y.cast::<[f32; 4]>().write(v) }
    }

    #[inline(always)]
    fn add(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn exp2(self, x: [f32; 4]) -> [f32; 4] {
        x.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(127 << 23)))
    }
}
