//! Functions that `core` does not have, of single numbers; those of vectors are in `vector.rs`. All are plain arithmetic
//! without a branch, and give the same bits on every machine with IEEE 754 arithmetic.

/// 1 / √x for a positive number.
pub(crate) fn rsqrt(x: f32) -> f32 {
    // Four steps of Newton double the bits of a first guess four times, past those of f32.
    let x = f64::from(x);
    let mut y = f64::from_bits(0x5fe6_eb50_c7b5_37a9_u64.wrapping_sub(x.to_bits() >> 1));
    for _ in 0..4 {
        y *= 1.5 - 0.5 * x * y * y;
    }
    y as f32
}

/// The number of 16 bits, exactly.
#[cfg(any(scalar, feature = "std"))]
#[inline]
pub(crate) fn widen(half: u16) -> f32 {
    let half = u32::from(half);
    let exponent = half & 0x7c00;
    // The exponent's bias grows by 112, and by as much again where it means infinity.
    let rebias = if exponent == 0x7c00 { 224 << 23 } else { 112 << 23 };
    let normal = f32::from_bits(((half & 0x7fff) << 13) + rebias);
    // A subnormal m · 2⁻²⁴ is 2⁻¹⁴ (1 + m / 2¹⁰) - 2⁻¹⁴.
    let subnormal = f32::from_bits(((half & 0x03ff) << 13) | 113 << 23) - f32::from_bits(113 << 23);
    let magnitude = if exponent == 0 { subnormal } else { normal };
    f32::from_bits(magnitude.to_bits() | (half & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Kernel, Simd};
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn rsqrt_is_rounded_correctly_but_for_one_unit() {
        for i in 1..100_000 {
            let x = i as f32 * 1.7e-3;
            let exact = 1.0 / f64::from(x).sqrt();
            assert!((f64::from(rsqrt(x)) / exact - 1.0).abs() < 6.1e-8, "{x}");
        }
        for x in [f32::MIN_POSITIVE, 1e-30, 1e30, f32::MAX] {
            assert!((f64::from(rsqrt(x)) * f64::from(x).sqrt() - 1.0).abs() < 6.1e-8, "{x}");
        }
    }

    #[test]
    fn widen_is_exact_for_every_half() {
        for bits in 0..=u16::MAX {
            let (wide, expected) = (widen(bits), half::f16::from_bits(bits).to_f32());
            assert!(wide.to_bits() == expected.to_bits() || wide.is_nan() && expected.is_nan(), "{bits:x}");
        }
    }

    #[test]
    fn every_processor_widens_the_same() {
        struct Widen<'a>(&'a [u16], &'a mut [f32]);
        impl Kernel for Widen<'_> {
            fn run<S: Simd>(self, s: S, _: &mut [f32]) {
                for (x, y) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(S::LANES)) {
                    s.store(s.load_half(x), y);
                }
            }
        }
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        for isa in Isa::all() {
            let mut found = vec![0.0; halves.len()];
            isa.run(Widen(&halves, &mut found), &mut []);
            for (&half, found) in halves.iter().zip(found) {
                let expected = widen(half);
                let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(same, "{isa}: {half:x} gives {found}, not {expected}");
            }
        }
    }
}
