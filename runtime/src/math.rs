//! The few functions that `core` does not have. All are plain arithmetic without a branch, which vectorises, and give
//! the same bits on every machine with IEEE 754 arithmetic.

/// e^x within 2 units in the last place; outside [-87.3, 88.3] that of the nearer bound, so never 0 and never infinite.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    // x = n ln 2 + r with n an integer and |r| ≤ ½ ln 2; ln 2 in two parts, the first with few bits, so that n times
    // it is exact. Adding 1.5 · 2²³ rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    // The polynomial of Cephes' expf.
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

/// x · sigmoid(x).
#[inline]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

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

/// Sum of `f(x)` over a slice, in lanes, since one running sum would neither vectorise nor keep its accuracy.
#[inline]
pub(crate) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (eights, rest) = x.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for eight in eights {
        for (lane, &x) in lanes.iter_mut().zip(eight) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    lanes.iter().sum()
}

/// Sum of products of two slices of one length, in lanes.
#[inline]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut lanes = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += a * b;
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            let unit = exact.log2().floor().exp2() * f64::from(f32::EPSILON);
            worst = worst.max((f64::from(exp(x)) - exact).abs() / unit);
        }
        assert!(worst < 2.0, "{worst} units");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn silu_has_its_limits() {
        assert_eq!(silu(0.0), 0.0);
        assert_eq!(silu(100.0), 100.0);
        assert!(silu(-100.0).abs() < 1e-30);
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6);
    }

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
    fn sums_cover_every_element() {
        let x: [f32; 21] = core::array::from_fn(|i| i as f32);
        for len in 0..x.len() {
            let expected: f32 = x[..len].iter().sum();
            assert_eq!(sum(&x[..len], |x| x), expected);
            assert_eq!(dot(&x[..len], &[2.0; 21][..len]), 2.0 * expected);
        }
    }
}
