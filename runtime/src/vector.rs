//! Functions on vectors that processors do not have.

use crate::simd::Simd;

/// e^x within 2 units in the last place; outside [-87.3, 88.3] that of the nearer bound, so never 0 and never infinite.
/// NaN counts as the lower bound.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // x = n ln 2 + r with n an integer and |r| ≤ ½ ln 2; ln 2 in two parts, the first with few bits, so that n times
    // it is exact. Adding 1.5 · 2²³ rounds to an integer, which then stands in the low bits.
    let round = s.splat(12_582_912.0);
    let x = s.min(s.max(x, s.splat(-87.3)), s.splat(88.3));
    let shifted = s.mul_add(x, s.splat(core::f32::consts::LOG2_E), round);
    let n = s.sub(shifted, round);
    let r = s.mul_add(n, s.splat(-0.693_359_4), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    // Of the polynomials 1 + r + … of degree 6 the one whose largest relative error is least, 3.1e-9.
    let mut p = s.splat(1.381_454e-3);
    for c in [8.368_745e-3, 4.166_839e-2, 1.666_652_1e-1, 4.999_999_4e-1, 1.0, 1.0] {
        p = s.mul_add(p, r, s.splat(c));
    }
    s.mul(p, s.exp2(shifted))
}

/// x · sigmoid(x).
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(x, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::Kernel;
    use std::vec::Vec;

    struct Map<'a, F>(&'a mut [f32], F);

    /// A function that is applied to vectors.
    trait Function {
        fn apply<S: Simd>(s: S, x: S::V) -> S::V;
    }

    struct Exp;
    struct Silu;

    impl Function for Exp {
        fn apply<S: Simd>(s: S, x: S::V) -> S::V {
            exp(s, x)
        }
    }

    impl Function for Silu {
        fn apply<S: Simd>(s: S, x: S::V) -> S::V {
            silu(s, x)
        }
    }

    impl<F: Function> Kernel for Map<'_, F> {
        fn run<S: Simd>(self, s: S, _: &mut [f32]) {
            for x in self.0.chunks_mut(S::LANES) {
                s.store(F::apply(s, s.load(x)), x);
            }
        }
    }

    fn map<F: Function>(isa: Isa, function: F, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        isa.run(Map(&mut y, function), &mut []);
        y
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let x: Vec<f32> = (-870_000..=880_000).map(|i| i as f32 * 1e-4).collect();
        for isa in Isa::all() {
            let mut worst = 0.0f64;
            for (x, y) in x.iter().zip(map(isa, Exp, &x)) {
                let exact = f64::from(*x).exp();
                let unit = exact.log2().floor().exp2() * f64::from(f32::EPSILON);
                worst = worst.max((f64::from(y) - exact).abs() / unit);
            }
            assert!(worst < 2.0, "{isa}: {worst} units");
            let y = map(isa, Exp, &[0.0, f32::NEG_INFINITY, f32::INFINITY]);
            assert!(y[0] == 1.0 && y[1] < 2e-38 && y[2].is_finite(), "{isa}: {y:?}");
        }
    }

    #[test]
    fn silu_is_near_and_has_its_limits() {
        for isa in Isa::all() {
            let y = map(isa, Silu, &[0.0, 100.0, -100.0, 1.0, f32::NAN]);
            assert!(y[0] == 0.0 && y[1] == 100.0 && y[2].abs() < 1e-30 && y[4].is_nan(), "{isa}: {y:?}");
            let x: Vec<f32> = (-20_000..=20_000).map(|i| i as f32 * 1e-3).collect();
            for (x, y) in x.iter().zip(map(isa, Silu, &x)) {
                let exact = f64::from(*x) / (1.0 + f64::from(-x).exp());
                let error = (f64::from(y) - exact).abs();
                assert!(
                    error <= 4.0 * f64::from(f32::EPSILON) * exact.abs(),
                    "{isa}: {x} gives {y}, not {exact}"
                );
            }
        }
    }
}
